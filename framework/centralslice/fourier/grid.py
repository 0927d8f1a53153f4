"""Layout of the Fourier grid that slices are inserted into."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from centralslice.conventions import FloatArray


@dataclass(frozen=True, slots=True)
class FourierGrid:
    """A cubic grid of ``size``³ frequencies of which the half kx >= 0 within a sphere is stored.

    Plane and row ``middle`` are frequency 0, column ``margin`` is kx = 0; ``margin`` more planes, rows and columns
    on each side take what the window spreads beyond the sphere and across kx = 0, so that insertion
    needs no wrap-around and no branches. The negative columns are folded back at finish.

    Attributes
    ----------
    size
        Real-space size G of the padded box, even.
    box
        Unpadded box N that frequencies are counted in: one cycle a box is G / N voxels.
    radius
        Radius of the sphere in grid voxels, <= G / 2.
    margin
        Extra voxels on each side.
    """

    size: int
    box: int
    radius: int
    margin: int

    @property
    def oversampling(self) -> float:
        """G / N."""
        return self.size / self.box

    @property
    def middle(self) -> int:
        """Index of frequency 0 on the z and y axes."""
        return self.radius + self.margin

    @property
    def max_radius(self) -> float:
        """Radius of the sphere in cycles per unpadded box."""
        return self.radius / self.oversampling

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(planes, rows, columns, channels) of the stored voxels."""
        side = 2 * self.middle + 1
        return side, side, self.radius + 2 * self.margin + 1, 4

    @property
    def nbytes_float32(self) -> int:
        """Memory of the stored voxels as float32, bytes."""
        return 4 * math.prod(self.shape)


def make_grid(
    box: int, oversampling: float, width: int, padded_size: int | None, max_radius: float | None
) -> FourierGrid:
    """The grid for a box: size max(``padded_size``, oversampling × box) rounded up to an even fast FFT size.

    Parameters
    ----------
    box
        Unpadded box N.
    oversampling
        Smallest G / N.
    width
        Window width in grid voxels.
    padded_size
        Size the user asked for (``--padvol``), or None.
    max_radius
        Largest frequency wanted in cycles per unpadded box, or None for N / 2.
    """
    wanted = max(math.ceil(oversampling * box - 1e-9), padded_size or 0)
    size = fast_even_size(wanted)
    limit = box / 2 if max_radius is None else min(max_radius, box / 2)
    radius = min(math.ceil(limit * size / box - 1e-9), size // 2)
    return FourierGrid(size, box, radius, width // 2 + 1)


def fast_even_size(wanted: int) -> int:
    """Smallest even size >= wanted whose FFT is fast."""
    size = wanted + wanted % 2
    while size != next_fast_len(size, real=False) or size % 2:
        size += 2
    return size


def radius_of(shape: tuple[int, ...]) -> FloatArray:
    """Distance of each voxel of a (z, y, x) box from its centre voxel n // 2, float64."""
    axes = [np.arange(n) - n // 2 for n in shape]
    squares = sum(
        np.square(a, dtype=np.float64).reshape([-1 if i == j else 1 for j in range(len(shape))])
        for i, a in enumerate(axes)
    )
    return np.sqrt(squares)
