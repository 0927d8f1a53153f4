"""Processors that change the sampling: block means, medians and extremes, and Fourier resampling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor


def along_axes(data: FloatArray, matrices: Sequence[FloatArray]) -> FloatArray:
    """Data with one matrix (new size, old size) applied along each axis, float64."""
    result = data.astype(np.float64)
    for axis, matrix in enumerate(matrices):
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result


@dataclass(frozen=True, kw_only=True)
class BlockShrink(BuiltinProcessor):
    """Each block of n pixels a side becomes one; sizes are rounded down."""

    n: int = parameter(unit="pixels", doc="side of a block, > 1")

    def _check_parameters(self) -> None:
        self._require(1 < self.n < math.inf, "n", "a number > 1")

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size times n."""
        return voxel_size_angst * self.n

    def _check_size(self, data: FloatArray) -> None:
        if min(data.shape) < self.n:
            raise InputError(f"{self.plugin_name}: blocks of {self.n} do not fit in {min(data.shape)} pixels")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        self._check_size(data)
        sizes = [size // self.n for size in data.shape]
        cut = data[tuple(slice(0, size * self.n) for size in sizes)]
        blocks = cut.reshape([side for size in sizes for side in (size, self.n)])
        order = (*range(0, 2 * data.ndim, 2), *range(1, 2 * data.ndim, 2))
        return self._reduced(blocks.transpose(order).reshape((*sizes, -1)))

    @abstractmethod
    def _reduced(self, blocks: FloatArray) -> FloatArray:
        """One value for each block; the blocks' values are along the last axis."""


@dataclass(frozen=True, kw_only=True)
class MedianShrink(BlockShrink):
    """Reduces the size n-fold by the median of each block."""

    plugin_name: ClassVar[str] = "math.medianshrink"

    def _reduced(self, blocks: FloatArray) -> FloatArray:
        found: FloatArray = np.median(blocks, axis=-1)
        return found


@dataclass(frozen=True, kw_only=True)
class MaxShrink(BlockShrink):
    """Reduces the size n-fold by the largest value of each block."""

    plugin_name: ClassVar[str] = "math.maxshrink"

    def _reduced(self, blocks: FloatArray) -> FloatArray:
        found: FloatArray = blocks.max(axis=-1)
        return found


@dataclass(frozen=True, kw_only=True)
class MinShrink(BlockShrink):
    """Reduces the size n-fold by the smallest value of each block."""

    plugin_name: ClassVar[str] = "math.minshrink"

    def _reduced(self, blocks: FloatArray) -> FloatArray:
        found: FloatArray = blocks.min(axis=-1)
        return found


def overlap_matrix(size: int, factor: float) -> FloatArray:
    """(floor(size / factor), size) matrix of means over intervals of ``factor`` pixels."""
    count = math.floor(size / factor)
    begin = np.arange(count)[:, None] * factor
    pixel = np.arange(size)
    overlap: FloatArray = np.minimum(begin + factor, pixel + 1.0) - np.maximum(begin, pixel)
    return np.maximum(overlap, 0.0) / factor


@dataclass(frozen=True, kw_only=True)
class MeanShrink(BuiltinProcessor):
    """Reduces the size n-fold by the mean of each block; images also 1.5-fold."""

    plugin_name: ClassVar[str] = "math.meanshrink"
    n: float = parameter(unit="pixels", doc="side of a block: a whole number > 1, or 1.5 for images")

    def _check_parameters(self) -> None:
        whole = 1 < self.n < math.inf and float(self.n).is_integer()
        self._require(whole or self.n == 1.5, "n", "a whole number > 1, or 1.5")

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size times n."""
        return voxel_size_angst * self.n

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        if self.n == 1.5 and data.ndim != 2:
            raise InputError(f"{self.plugin_name}: n=1.5 takes images, got {data.ndim}D data")
        if min(data.shape) < self.n:
            raise InputError(
                f"{self.plugin_name}: blocks of {self.n:g} do not fit in {min(data.shape)} pixels"
            )
        return along_axes(data, [overlap_matrix(size, self.n) for size in data.shape])


def resampling_matrix(size: int, factor: float) -> FloatArray:
    """(floor(size / factor + ½), size) matrix of trigonometric interpolation at a spacing of ``factor``.

    The centre n // 2 stays the centre. Frequencies beyond the Nyquist frequency of the coarser grid are left
    out, so that for whole ratios this is cropping or padding the Fourier transform.
    """
    count = math.floor(size / factor + 0.5)
    kept = min(size, count)
    position = (np.arange(count) - count // 2) * factor + size // 2
    phase = 2.0 * np.pi / size * (position[:, None] - np.arange(size))
    matrix: FloatArray = np.ones((count, size))
    for frequency in range(1, (kept + 1) // 2):
        matrix += 2.0 * np.cos(frequency * phase)
    if kept % 2 == 0:
        matrix += np.cos(kept // 2 * phase)
    return matrix / size


@dataclass(frozen=True, kw_only=True)
class FftResample(BuiltinProcessor):
    """Fourier resampling to n times the voxel size; n < 1 makes the grid finer.

    The new size is ``floor(size / n + ½)``, the new voxel size n times the old one exactly, the centre voxel
    stays the centre (EMAN2 rounds the sampling to the new size and keeps voxel 0). The mean keeps its value.
    """

    plugin_name: ClassVar[str] = "math.fft.resample"
    n: float = parameter(unit="", doc="factor of the voxel size, > 0")

    def _check_parameters(self) -> None:
        self._require(0.05 <= self.n <= 1000, "n", "0.05 … 1000")

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size times n."""
        return voxel_size_angst * self.n

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        if math.floor(min(data.shape) / self.n + 0.5) < 1:
            raise InputError(
                f"{self.plugin_name}: nothing is left of {min(data.shape)} pixels at n={self.n:g}"
            )
        return along_axes(data, [resampling_matrix(size, self.n) for size in data.shape])
