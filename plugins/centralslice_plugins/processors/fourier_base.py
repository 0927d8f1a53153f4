"""Fourier filters: half transforms over the true size of the data, and EMAN2's frequency parameters.

Frequencies ``f`` are cycles per pixel, |k| / n axis by axis, so a non-cubic map is filtered isotropically;
Nyquist is 0.5. Nothing is padded. Even and odd sizes are exact.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import scipy.fft

from centralslice.abc.parameters import parameter
from centralslice.conventions import BoolArray, ComplexArray, FloatArray
from centralslice.errors import ParameterError

from .base import BuiltinProcessor


def half_frequencies(shape: tuple[int, ...]) -> list[FloatArray]:
    """Open grid of cycles per pixel along each axis of a half transform, in array order."""
    axes = [np.fft.fftfreq(size) for size in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    return list(np.ix_(*axes))


def half_frequency(shape: tuple[int, ...]) -> FloatArray:
    """|f| of each sample of a half transform, cycles per pixel, float64."""
    total: FloatArray = np.sqrt(sum(axis**2 for axis in half_frequencies(shape)))
    return total


def half_transform(data: FloatArray) -> ComplexArray:
    """Unnormalised transform with kx = 0 … n // 2, in the precision of the data."""
    found: ComplexArray = scipy.fft.rfftn(data)
    return found


def back_transform(values: ComplexArray, shape: tuple[int, ...]) -> FloatArray:
    """Inverse of :func:`half_transform`."""
    found: FloatArray = scipy.fft.irfftn(values, s=shape, overwrite_x=True)
    return found


def multiplied(data: FloatArray, factor: FloatArray | ComplexArray) -> FloatArray:
    """Data with their half transform multiplied by ``factor`` (broadcast)."""
    values = half_transform(data)
    values *= factor
    return back_transform(values, data.shape)


def phase_ramp(shape: tuple[int, ...], shift_xyz: tuple[float, float, float]) -> ComplexArray:
    """``exp(−2πi k·t/n)`` on a half transform for a shift by ``t`` pixels (x, y, z).

    At the Nyquist frequency of an even axis, which has no mate of other sign, the factor is cos(π t).
    """
    ramp: ComplexArray = np.ones((1,) * len(shape), dtype=np.complex128)
    axes = half_frequencies(shape)
    for axis, shift in zip(axes, shift_xyz[: len(shape)][::-1], strict=True):
        factor = np.exp(-2j * np.pi * axis * shift)
        factor[np.abs(axis) == 0.5] = math.cos(math.pi * shift)
        ramp = ramp * factor
    return ramp


def reaches(frequency: FloatArray, limit: float) -> BoolArray:
    """Where ``frequency >= limit``; a sample that lies on the limit but for rounding counts as on it."""
    found: BoolArray = frequency >= limit * (1.0 - 1e-9)
    return found


def exceeds(frequency: FloatArray, limit: float) -> BoolArray:
    """Where ``frequency > limit``; a sample that lies on the limit but for rounding does not exceed it."""
    found: BoolArray = frequency > limit * (1.0 + 1e-9)
    return found


@dataclass(frozen=True, kw_only=True)
class FourierFilter(BuiltinProcessor):
    """Multiplies the transform by a function of f."""

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        frequency = half_frequency(data.shape)
        transfer = self._transfer(frequency, data.shape[-1], voxel_size_angst)
        return multiplied(data, transfer.astype(data.dtype))

    @abstractmethod
    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        """Transfer at each frequency (cycles per pixel)."""


@dataclass(frozen=True, kw_only=True)
class CutoffProcessor(BuiltinProcessor):
    """A processor with EMAN2's frequency parameters.

    The first that is given counts: ``sigma``, ``cutoff_abs``, ``cutoff_freq``, ``cutoff_pixels``.
    """

    cutoff_abs: float | None = parameter(None, "cycles/pixel", "cutoff frequency; Nyquist is 0.5")
    cutoff_freq: float | None = parameter(None, "1/Å", "cutoff frequency; uses the voxel size")
    cutoff_pixels: float | None = parameter(None, "Fourier pixels", "cutoff frequency as a radius along x")
    sigma: float | None = parameter(None, "cycles/pixel", "width of the filter in place of a cutoff")
    apix: float | None = parameter(None, "Å", "voxel size in place of the file's")

    def _check_parameters(self) -> None:
        given = ("sigma", "cutoff_abs", "cutoff_freq", "cutoff_pixels")
        for name in (*given, "apix"):
            value = getattr(self, name)
            self._require(value is None or 0 < value < math.inf, name, "a finite number > 0")
        if not self._has_other_cutoff() and all(getattr(self, name) is None for name in given):
            raise ParameterError(
                f"{self.plugin_name}: no cutoff; give {self.plugin_name}:cutoff_freq=… (1/Å), "
                "cutoff_abs=…, cutoff_pixels=… or sigma=…"
            )

    def _has_other_cutoff(self) -> bool:
        """Whether a parameter of the subclass stands in for the cutoff."""
        return False

    def _voxel_size_used(self, voxel_size_angst: float) -> float:
        return voxel_size_angst if self.apix is None else self.apix

    def _cutoff(self, size_x: int, voxel_size_angst: float) -> float:
        """The cutoff c, cycles per pixel."""
        if self.sigma is not None:
            return self.sigma
        if self.cutoff_abs is not None:
            return self.cutoff_abs
        if self.cutoff_freq is not None:
            return self.cutoff_freq * self._voxel_size_used(voxel_size_angst)
        if self.cutoff_pixels is None:  # only where a subclass has another cutoff and asks all the same
            raise ParameterError(f"{self.plugin_name}: no cutoff is given")
        return self.cutoff_pixels / size_x


@dataclass(frozen=True, kw_only=True)
class CutoffFilter(CutoffProcessor, FourierFilter):
    """A Fourier filter with EMAN2's frequency parameters."""


def gaussian_decay(frequency: FloatArray, cutoff: float) -> FloatArray:
    """``exp(−f²/c²)``: 1/e at the cutoff."""
    decay: FloatArray = np.exp(-((frequency / cutoff) ** 2))
    return decay
