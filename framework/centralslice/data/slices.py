"""Prepared slices: what a reconstructor is given to insert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import ComplexArray, FloatArray, IntArray
from centralslice.data.mapped import release_pages


@dataclass(frozen=True, slots=True)
class Views:
    """Where each slice goes; at least one view a slice (symmetry, helical and fill-angle copies are more).

    Attributes
    ----------
    slice_number
        (v,) int64, which slice of the batch.
    matrices
        (v, 3, 3) float64. The slice sample (kx, ky) sits at ``k = Mᵀ (kx, ky, 0)``, in units of one
        cycle per box of the unpadded map; scale, magnification and pixel size are in the matrix.
    shifts
        (v, 2) float64, extra shift in slice pixels, applied as ``exp(-2πi k·t/n)``: the translation
        of a helical copy. Zero for point groups.
    factors
        (v,) float64, multiplies value and weight (fill-angle copies).
    """

    slice_number: IntArray
    matrices: FloatArray
    shifts: FloatArray
    factors: FloatArray

    def __len__(self) -> int:
        return len(self.slice_number)


@dataclass(frozen=True, slots=True)
class SliceBatch:
    """Slices of one half set, shifted, CTF-multiplied and weighted.

    Attributes
    ----------
    samples
        (b, ny, nx // 2 + 1, 4), float32 or float64: real part, imaginary part, weight ``Σ CTF²``, 0.
        Value and weight are both zero for samples that must not be inserted: beyond ``max_radius``
        and the Friedel mates ``ky < 0`` of column ``kx = 0``, so that each measured frequency
        counts once. Values carry the weight already: the mean is value / weight.
    size
        Slice size n in pixels (ny = nx = n), even or odd.
    max_radius
        Largest ``|(kx, ky)|`` with a non-zero weight, in slice index units.
    views
        Where the slices go.
    radii
        (b,) float64, the largest radius of each slice by itself, or None: ``max_radius`` for all.
    """

    samples: FloatArray
    size: int
    max_radius: float
    views: Views
    radii: FloatArray | None = None

    @property
    def values(self) -> ComplexArray:
        """(b, ny, nx // 2 + 1) complex view of the samples."""
        kind = np.complex64 if self.samples.dtype == np.float32 else np.complex128
        pairs: ComplexArray = self.samples.view(kind)  # (re, im), (weight, 0)
        return pairs[..., 0]

    @property
    def weights(self) -> FloatArray:
        """(b, ny, nx // 2 + 1) view of the weights."""
        return self.samples[..., 2]

    def __len__(self) -> int:
        return len(self.samples)


class Sums:
    """What a reconstruction accumulates: named arrays whose sum over any split is the sum of the whole.

    Parameters
    ----------
    arrays
        Name to array; the framework makes them as zeros from the reconstructor's plan.
    """

    __slots__ = ("arrays",)

    def __init__(self, arrays: Mapping[str, FloatArray]) -> None:
        self.arrays = dict(arrays)

    def __getitem__(self, name: str) -> FloatArray:
        return self.arrays[name]

    def add(self, other: Sums) -> None:
        """Add another part of the same reconstruction; integers that would overflow become wider."""
        for name, array in self.arrays.items():
            self.arrays[name] = add_exactly(array, other.arrays[name])

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(array.nbytes for array in self.arrays.values())


#: Integer sums are added in pieces of this many numbers.
PIECE_NUMBERS = 2**19


def add_exactly(total: NDArray[Any], part: NDArray[Any]) -> NDArray[Any]:
    """``total + part``, in place where it fits; int32 sums that would overflow come back as int64.

    Of a part that is a mapped file only a piece at a time is in memory.
    """
    if not total.flags.c_contiguous:
        total = np.ascontiguousarray(total)  # flat pieces of another layout would be copies
    if total.dtype != np.int32:
        for plane in range(len(total)):
            total[plane] += part[plane]
            release_pages(part)
        return total
    flat, other = total.reshape(-1), part.reshape(-1)
    for start in range(0, len(flat), PIECE_NUMBERS):
        here = slice(start, start + PIECE_NUMBERS)
        summed = flat[here].astype(np.int64) + other[here]
        if summed.size and max(-int(summed.min()), int(summed.max())) > np.iinfo(np.int32).max:
            wide = total.astype(np.int64)
            # pieces before this one hold the part already
            for at in range(start, len(flat), PIECE_NUMBERS):
                wide.reshape(-1)[at : at + PIECE_NUMBERS] += other[at : at + PIECE_NUMBERS]
                release_pages(part)
            return wide
        flat[here] = summed
        release_pages(part)
    return total
