"""Processors that change the sampling: block means, medians and extremes, and Fourier resampling."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.fft
import scipy.signal

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor


def blocks_of(data: FloatArray, side: int) -> FloatArray:
    """The values of each block of ``side`` pixels along a new last axis; sizes are rounded down."""
    sizes = [size // side for size in data.shape]
    cut = data[tuple(slice(0, size * side) for size in sizes)]
    split = cut.reshape([length for size in sizes for length in (size, side)])
    order = (*range(0, 2 * data.ndim, 2), *range(1, 2 * data.ndim, 2))
    return split.transpose(order).reshape((*sizes, -1))


@dataclass(frozen=True, kw_only=True)
class BlockShrink(BuiltinProcessor):
    """Each block of n pixels a side becomes one; sizes are rounded down."""

    n: int = parameter(unit="pixels", doc="side of a block, > 1")

    def _check_parameters(self) -> None:
        self._require(1 < self.n < math.inf, "n", "a number > 1")

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size times n."""
        return voxel_size_angst * self.n

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        if min(data.shape) < self.n:
            raise InputError(f"{self.plugin_name}: blocks of {self.n} do not fit in {min(data.shape)} pixels")
        return self._reduced(blocks_of(data, self.n))

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
        if self.n == 1.5:  # blocks of 3 half pixels: a mean weighted by area
            data = data.repeat(2, axis=0).repeat(2, axis=1)
        found: FloatArray = blocks_of(data, 3 if self.n == 1.5 else int(self.n)).mean(
            axis=-1, dtype=np.float64
        )
        return found


def resampled(data: FloatArray, axis: int, factor: float) -> FloatArray:
    """Data at ``floor(size / factor + ½)`` points of spacing ``factor`` along an axis, as a Fourier series.

    The centre n // 2 stays the centre. Frequencies beyond the Nyquist frequency of the coarser grid are left
    out, so that for whole ratios this is cropping or padding the Fourier transform. The series is summed by
    a chirp transform: unlike a matrix product it gives the same bits on any number of threads.
    """
    size = data.shape[axis]
    count = math.floor(size / factor + 0.5)
    kept = min(size, count)
    frequency = np.arange(kept // 2 + 1)
    weight = np.where((frequency == 0) | (2 * frequency == kept), 1.0, 2.0) / size
    step = 2.0 * np.pi / size
    weight = weight * np.exp(1j * step * frequency * (size // 2))
    series = np.moveaxis(scipy.fft.rfft(data, axis=axis), axis, -1)[..., : len(frequency)] * weight
    chirp = scipy.signal.CZT(
        len(frequency), count, w=np.exp(1j * step * factor), a=np.exp(1j * step * factor * (count // 2))
    )
    return np.moveaxis(chirp(series).real, -1, axis)


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
        result: FloatArray = data.astype(np.float64)
        for axis in range(data.ndim):
            result = resampled(result, axis, self.n)
        return result
