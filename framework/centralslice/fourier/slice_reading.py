"""Slices of a map's transform, read from an oversampled grid: projections by the Fourier slice theorem.

The map is divided by the window's transform, padded and transformed once; each sample of a slice is then a
weighted sum of the width³ voxels about it. Voxels are stored with a margin about the sphere that is read, so
that reading needs no wrap-around, and x neighbours of a row are added up as one vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.errors import ParameterError
from centralslice.fourier.grid import fast_even_size
from centralslice.fourier.kernels import Window, fit_window, kaiser_bessel, kaiser_bessel_beta
from centralslice.fourier.simd import lanes_of, weighted_block, window_values
from centralslice.fourier.transforms import PaddedTransform

#: Window and grid for reading slices; relative error about 1e-4.
READ_WIDTH, READ_OVERSAMPLING = 6, 2.0


@dataclass(frozen=True, slots=True)
class SliceReader:
    """A map's transform on an oversampled grid, the window divided out beforehand.

    Attributes
    ----------
    grid
        (2m + 1, 2m + 1, c) complex; frequency 0 at [m, m, margin], phase origin at the box centre.
    box
        Unpadded box N.
    scale
        Grid voxels per cycle a box, G / N.
    max_radius
        Largest |k| that is read, cycles per box.
    margin
        Voxels that the window reaches beyond that radius, and columns of negative kx.
    window
        Interpolation window.
    """

    grid: ComplexArray
    box: int
    scale: float
    max_radius: float
    margin: int
    window: Window

    @property
    def nbytes(self) -> int:
        """Memory of the grid."""
        return self.grid.nbytes

    def read(
        self, matrices: FloatArray, size: int, max_radius: float | None = None, curvature: float = 0.0
    ) -> ComplexArray:
        """Slices at poses: (b, size, size // 2 + 1) complex, origin at the box centre.

        Parameters
        ----------
        matrices
            (b, 3, 3); sample (kx, ky) is read at ``Mᵀ (kx, ky, kz)`` cycles per box, 0 beyond the radius.
        size
            Slice size in pixels.
        max_radius
            Cycles per box, at most the reader's own; None for that.
        curvature
            ``kz = curvature · (kx² + ky²)``: 0 for a central slice, else a cap of the Ewald sphere.
        """
        slices = np.zeros((len(matrices), size, size // 2 + 1), self.grid.dtype)
        radius = self.max_radius if max_radius is None else min(max_radius, self.max_radius)
        kind = self.grid.real.dtype
        lanes = lanes_of(self.window.width)
        _read_slices(
            slices, self.grid.view(kind), np.ascontiguousarray(matrices * self.scale, np.float64),
            self.window.table(kind), np.zeros(4 * lanes, kind), (0,) * self.window.width, self.margin,
            radius * self.scale, curvature,
        )  # fmt: skip
        return slices


def slice_reader(
    data: FloatArray,
    parallel: ParallelMap,
    width: int = READ_WIDTH,
    oversampling: float = READ_OVERSAMPLING,
    max_radius: float | None = None,
) -> SliceReader:
    """Prepare a cubic map for reading slices.

    Parameters
    ----------
    data
        (n, n, n) float32 or float64.
    parallel
        Threads.
    width
        Voxels of the Kaiser–Bessel window, 2 … 8.
    oversampling
        Size of the padded box over the box, >= 1.25.
    max_radius
        Largest frequency that will be read, cycles per box; None for N / 2 less half a grid voxel.

    Raises
    ------
    ParameterError
        For another width or oversampling.
    """
    box = data.shape[0]
    size, radius, margin = _layout(box, width, oversampling, max_radius)
    window = fit_window(width, kaiser_bessel(width, kaiser_bessel_beta(width, size / box)))
    inverse = (1 / window.transform(np.arange(box) - box // 2, size)).astype(data.dtype)
    shaped = data * inverse[:, None, None] * np.multiply.outer(inverse, inverse)
    middle, half = math.ceil(radius) + margin, size // 2
    grid = np.zeros(_shape(radius, margin), np.result_type(data.dtype, np.complex64))
    columns = min(grid.shape[2] - margin, half + 1)
    planes = np.arange(-middle, middle + 1) % size

    def keep(block: ComplexArray, first: int) -> None:
        grid[:, first + middle : first + middle + block.shape[1], margin : margin + columns] = block[
            planes, :, :columns
        ]

    PaddedTransform(box, size, middle, data.dtype, parallel).visit_grid(shaped, keep)
    mirrored = grid[::-1, ::-1]
    for column in range(columns, grid.shape[2] - margin):  # beyond Nyquist: x − G is the same frequency
        grid[:, :, margin + column] = mirrored[:, :, margin + size - column].conj()
    for column in range(1, margin + 1):
        grid[:, :, margin - column] = mirrored[:, :, margin + column].conj()
    return SliceReader(grid, box, size / box, radius * box / size, margin, window)


def reader_bytes(
    box: int,
    oversampling: float = READ_OVERSAMPLING,
    width: int = READ_WIDTH,
    max_radius: float | None = None,
) -> int:
    """Memory of the grid that :func:`slice_reader` makes of a float32 map."""
    _, radius, margin = _layout(box, width, oversampling, max_radius)
    return math.prod(_shape(radius, margin)) * np.dtype(np.complex64).itemsize


def _layout(box: int, width: int, oversampling: float, max_radius: float | None) -> tuple[int, float, int]:
    """Padded size, radius in grid voxels, margin."""
    if not 2 <= width <= 8 or not oversampling >= 1.25:
        raise ParameterError(
            f"slice reader: expected a window of 2 … 8 voxels on a grid of at least 1.25 boxes, got {width} and "
            f"{oversampling}"
        )
    size = fast_even_size(math.ceil(oversampling * box))
    radius = 0.5 * size - 0.5
    if max_radius is not None:
        radius = min(radius, max_radius * size / box)
    return size, radius, width // 2 + 1


def _shape(radius: float, margin: int) -> tuple[int, int, int]:
    reach = math.ceil(radius) + margin
    return 2 * reach + 1, 2 * reach + 1, reach + 1 + margin


@njit(nogil=True, cache=True)
def _read_slices(  # noqa: PLR0913 - one numeric kernel, called from one place
    slices: Any, voxels: Any, matrices: Any, coefficients: Any, windows: Any, width: Any, margin: int,
    limit: float, curvature: float,
) -> None:  # fmt: skip
    count, size, half = slices.shape
    planes, rows, stride = voxels.shape
    middle = planes // 2
    reach = 0.5 * len(width)
    for n in range(count):
        m = matrices[n]
        for row in range(size):
            ky = float(row if row <= (size - 1) // 2 else row - size)
            for column in range(half):
                kx = float(column)
                kz = curvature * (kx * kx + ky * ky)
                x = kx * m[0, 0] + ky * m[1, 0] + kz * m[2, 0]
                y = kx * m[0, 1] + ky * m[1, 1] + kz * m[2, 1]
                z = kx * m[0, 2] + ky * m[1, 2] + kz * m[2, 2]
                if x * x + y * y + z * z > limit * limit:
                    continue
                sign = 1.0
                if x < 0:
                    x, y, z, sign = -x, -y, -z, -1.0
                first_x, first_y, first_z = math.ceil(x - reach), math.ceil(y - reach), math.ceil(z - reach)
                window_values(
                    coefficients,
                    first_x - (x - reach),
                    first_y - (y - reach),
                    first_z - (z - reach),
                    windows,
                    width,
                )
                start = ((first_z + middle) * rows + first_y + middle) * stride + 2 * (first_x + margin)
                real, imaginary = weighted_block(voxels, start, stride, rows * stride, windows, width)
                slices[n, row, column] = complex(real, sign * imaginary)
