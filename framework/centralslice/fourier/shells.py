"""Fourier shell correlation and what goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from centralslice.conventions import FloatArray, IntArray, signed_frequencies
from centralslice.fourier.grid import radius_of


@dataclass(frozen=True, slots=True)
class ShellCorrelation:
    """FSC of two maps.

    Attributes
    ----------
    frequency
        (n // 2 + 1,) 1/Å of each shell.
    values
        (n // 2 + 1,) correlation of each shell; shell 0 and shells of no power are 1 and 0.
    """

    frequency: FloatArray
    values: FloatArray

    def resolution(self, threshold: float) -> float:
        """Å at which the curve first falls below the threshold, linearly between shells; inf if at once.

        If it never does, the resolution of the last shell.
        """
        below = np.flatnonzero(self.values[1:] < threshold)
        if len(below) == 0:
            return 1.0 / float(self.frequency[-1])
        shell = int(below[0]) + 1
        if shell == 1:
            return math.inf
        high, low = self.values[shell - 1], self.values[shell]
        part = (high - threshold) / (high - low)
        at = self.frequency[shell - 1] + part * (self.frequency[shell] - self.frequency[shell - 1])
        return 1.0 / float(at)


def shell_numbers(size: int) -> IntArray:
    """(n, n, n // 2 + 1) int64: nearest shell of each frequency of a half transform."""
    full = signed_frequencies(size)
    half = np.arange(size // 2 + 1)
    squares = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2
    shells: IntArray = np.rint(np.sqrt(squares)).astype(np.int64)
    return shells


def fourier_shell_correlation(
    first: FloatArray, second: FloatArray, voxel_size_angst: float, mask: FloatArray | None = None
) -> ShellCorrelation:
    """FSC of two cubic maps (Harauz & van Heel 1986), shells of one Fourier voxel, optionally under a mask.

    Parameters
    ----------
    first, second
        (n, n, n).
    voxel_size_angst
        Å.
    mask
        (n, n, n) multiplied on both, or None.
    """
    size = first.shape[0]
    shells = shell_numbers(size)
    count = size // 2 + 1
    a = scipy.fft.rfftn(first if mask is None else first * mask)
    b = scipy.fft.rfftn(second if mask is None else second * mask)
    # columns 1 … of the half stand for their mates too
    pairs = np.full(size // 2 + 1, 2.0)
    pairs[0] = 1.0
    if size % 2 == 0:
        pairs[-1] = 1.0

    def over_shells(values: FloatArray) -> FloatArray:
        weighted = (values * pairs).ravel()
        return np.asarray(np.bincount(shells.ravel(), weighted, minlength=count)[:count], np.float64)

    cross = over_shells((a * b.conj()).real.astype(np.float64))
    power = np.sqrt(
        over_shells(np.abs(a).astype(np.float64) ** 2) * over_shells(np.abs(b).astype(np.float64) ** 2)
    )
    values = np.divide(cross, power, out=np.zeros(count), where=power > 0)
    if power[0] == 0:
        values[0] = 1.0
    return ShellCorrelation(np.arange(count) / (size * voxel_size_angst), values)


def soft_sphere(size: int, radius: float, width: float) -> FloatArray:
    """(n, n, n) mask: 1 to ``radius`` voxels from voxel n // 2, cosine to 0 over ``width`` voxels."""
    distance = radius_of((size,) * 3)
    ramp = np.clip((distance - radius) / width, 0.0, 1.0) if width > 0 else (distance > radius).astype(float)
    mask: FloatArray = 0.5 + 0.5 * np.cos(np.pi * ramp)
    return mask
