"""Fourier transforms between a box and its padded grid, slab by slab, keeping only what is needed.

A map of box N in the middle of a grid of size G is transformed one axis at a time, padded or cropped as soon
as an axis is done, so that the largest array is (N, G, G // 2 + 1) and not G³.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray

#: Rows of y that one task transforms along z.
SLAB = 4

#: Changes a slab of the grid's transform in place: ``slab`` is (G, rows, G // 2 + 1), z and x in FFT order,
#: and belongs to the signed frequencies y = first_row … first_row + rows − 1.
SlabFunction = Callable[[ComplexArray, int], None]


@dataclass(frozen=True, slots=True)
class PaddedTransform:
    """Transforms of a box inside a larger grid; zero frequency and box centre are the origin.

    Attributes
    ----------
    box, grid_size
        N and G, G even and >= N.
    reach
        Largest |frequency| per axis that any slab function fills, < G / 2.
    kind
        float32 or float64, dtype of maps.
    parallel
        Threads.
    """

    box: int
    grid_size: int
    reach: int
    kind: np.dtype[Any]
    parallel: ParallelMap

    @property
    def working_bytes(self) -> int:
        """Memory of the largest intermediate array."""
        return self.box * self.grid_size * (self.grid_size // 2 + 1) * 2 * self.kind.itemsize

    def to_map(self, fill: SlabFunction) -> FloatArray:
        """Inverse transform of a grid that ``fill`` writes: (N, N, N), cropped from the grid."""
        planes = np.zeros((self.box, self.grid_size, self.grid_size // 2 + 1), self._complex)

        def slab(first: int, rows: int) -> None:
            block = np.zeros((self.grid_size, rows, self.grid_size // 2 + 1), self._complex)
            fill(block, first)
            self._store(planes, block, first)

        self._over_slabs(slab)
        return self._planes_to_map(planes)

    def filter_map(self, data: FloatArray, change: SlabFunction) -> FloatArray:
        """Pad the map to the grid, transform, let ``change`` work on every slab, transform back, crop."""
        planes = np.zeros((self.box, self.grid_size, self.grid_size // 2 + 1), self._complex)
        self._map_to_planes(data, planes)

        def slab(first: int, rows: int) -> None:
            block = np.zeros((self.grid_size, rows, self.grid_size // 2 + 1), self._complex)
            block[self._kept] = planes[:, np.arange(first, first + rows) % self.grid_size]
            block = scipy.fft.fft(block, axis=0, overwrite_x=True)
            change(block, first)
            self._store(planes, block, first)

        self._over_slabs(slab)
        planes[:, self.reach + 1 : self.grid_size - self.reach] = 0
        return self._planes_to_map(planes)

    def to_grid(self, data: FloatArray) -> ComplexArray:
        """Transform of the padded map: (G, G, G // 2 + 1), frequencies in FFT order; zero beyond ``reach`` in y."""
        grid = np.zeros((self.grid_size, self.grid_size, self.grid_size // 2 + 1), self._complex)

        def keep(block: ComplexArray, first: int) -> None:
            grid[:, np.arange(first, first + block.shape[1]) % self.grid_size] = block

        self.visit_grid(data, keep)
        return grid

    def visit_grid(self, data: FloatArray, take: SlabFunction) -> None:
        """Show every slab of the padded map's transform to ``take``; here ``reach`` may be beyond G / 2."""
        planes = np.zeros((self.box, self.grid_size, self.grid_size // 2 + 1), self._complex)
        self._map_to_planes(data, planes)

        def slab(first: int, rows: int) -> None:
            block = np.zeros((self.grid_size, rows, self.grid_size // 2 + 1), self._complex)
            block[self._kept] = planes[:, np.arange(first, first + rows) % self.grid_size]
            take(scipy.fft.fft(block, axis=0, overwrite_x=True), first)

        self._over_slabs(slab)

    @property
    def _complex(self) -> Any:
        return np.complex64 if self.kind == np.float32 else np.complex128

    @property
    def _kept(self) -> Any:
        """Grid indices of the box's voxels; the box centre is index 0."""
        return (np.arange(self.box) - self.box // 2) % self.grid_size

    def _over_slabs(self, slab: Callable[[int, int], None]) -> None:
        stop = self.reach + 1
        self.parallel(lambda first: slab(first, min(SLAB, stop - first)), range(-self.reach, stop, SLAB))

    def _store(self, planes: ComplexArray, block: ComplexArray, first: int) -> None:
        rows = np.arange(first, first + block.shape[1]) % self.grid_size
        planes[:, rows] = scipy.fft.ifft(block, axis=0, overwrite_x=True)[self._kept]

    def _map_to_planes(self, data: FloatArray, planes: ComplexArray) -> None:
        kept = self._kept

        def plane(number: int) -> None:
            padded = np.zeros((self.box, self.grid_size), self.kind)
            padded[:, kept] = data[number]
            lines = np.zeros((self.grid_size, self.grid_size // 2 + 1), self._complex)
            lines[kept] = scipy.fft.rfft(padded, axis=1)
            planes[number] = scipy.fft.fft(lines, axis=0, overwrite_x=True)

        self.parallel(plane, range(self.box))

    def _planes_to_map(self, planes: ComplexArray) -> FloatArray:
        kept = self._kept
        result = np.empty((self.box,) * 3, self.kind)

        def plane(number: int) -> None:
            lines = scipy.fft.ifft(planes[number], axis=0)[kept]
            result[number] = scipy.fft.irfft(lines, n=self.grid_size, axis=1)[:, kept]

        self.parallel(plane, range(self.box))
        return result


def crop_or_pad(data: FloatArray, shape: tuple[int, ...], fill: float = 0.0) -> FloatArray:
    """Clip or pad every axis so that voxel ``n // 2`` stays the centre; a new array.

    Parameters
    ----------
    data
        Image or map; leading axes beyond ``len(shape)`` are kept.
    shape
        New sizes of the last axes.
    fill
        Value of new voxels.
    """
    result = np.full((*data.shape[: data.ndim - len(shape)], *shape), fill, data.dtype)
    kept = (slice(None),) * (data.ndim - len(shape))
    source, target = zip(
        *(_overlap(old, new) for old, new in zip(data.shape[-len(shape) :], shape, strict=True)), strict=True
    )
    result[kept + target] = data[kept + source]
    return result


def _overlap(old: int, new: int) -> tuple[slice, slice]:
    """Where to take from and where to put along an axis whose centre voxel n // 2 stays the centre."""
    offset = old // 2 - new // 2
    first, put = max(offset, 0), max(-offset, 0)
    length = min(old - first, new - put)
    return slice(first, first + length), slice(put, put + length)
