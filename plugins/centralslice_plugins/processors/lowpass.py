"""Low-pass and high-pass filters of f: Gaussian, top-hat, tanh and Butterworth, each with its complement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError

from .fourier_base import (
    CutoffFilter,
    CutoffProcessor,
    back_transform,
    exceeds,
    gaussian_decay,
    half_frequency,
    half_transform,
    reaches,
)


def tanh_lowpass(frequency: FloatArray, cutoff: float, fall_off: float) -> FloatArray:
    """``½ [tanh(k (f + c)) − tanh(k (f − c))]`` with ``k = π / (2 · fall_off · c)``."""
    slope = math.pi / (2.0 * fall_off * cutoff)
    found: FloatArray = 0.5 * (np.tanh(slope * (frequency + cutoff)) - np.tanh(slope * (frequency - cutoff)))
    return found


@dataclass(frozen=True, kw_only=True)
class GaussCutoff(CutoffFilter):
    """``exp(−f²/c²)``; a ``sigma`` is the standard deviation, so that c = √2 · sigma."""

    def _decay(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        cutoff = self._cutoff(size_x, voxel_size_angst)
        return gaussian_decay(frequency, cutoff * (math.sqrt(2.0) if self.sigma is not None else 1.0))


@dataclass(frozen=True, kw_only=True)
class LowpassGauss(GaussCutoff):
    """Gaussian low-pass filter, 1/e at the cutoff frequency."""

    plugin_name: ClassVar[str] = "filter.lowpass.gauss"
    cutoff_resolv: float | None = parameter(
        None, "1/Å", "cutoff q = 1/resolution; c = 2 √(−ln 0.36) q apix / π, used if no other cutoff is given"
    )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        value = self.cutoff_resolv
        self._require(value is None or 0 < value < math.inf, "cutoff_resolv", "a finite number > 0")

    def _has_other_cutoff(self) -> bool:
        return self.cutoff_resolv is not None

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        given = (self.sigma, self.cutoff_abs, self.cutoff_freq, self.cutoff_pixels)
        if self.cutoff_resolv is None or any(value is not None for value in given):
            return self._decay(frequency, size_x, voxel_size_angst)
        per_pixel = self.cutoff_resolv * self._voxel_size_used(voxel_size_angst)
        return gaussian_decay(frequency, 2.0 * math.sqrt(-math.log(0.36)) / math.pi * per_pixel)


@dataclass(frozen=True, kw_only=True)
class HighpassGauss(GaussCutoff):
    """Gaussian high-pass filter, 1 − 1/e at the cutoff frequency."""

    plugin_name: ClassVar[str] = "filter.highpass.gauss"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return 1.0 - self._decay(frequency, size_x, voxel_size_angst)


@dataclass(frozen=True, kw_only=True)
class LowpassTophat(CutoffFilter):
    """Sharp low-pass filter: keeps f ≤ cutoff."""

    plugin_name: ClassVar[str] = "filter.lowpass.tophat"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        kept: FloatArray = (~exceeds(frequency, self._cutoff(size_x, voxel_size_angst))).astype(np.float64)
        return kept


@dataclass(frozen=True, kw_only=True)
class HighpassTophat(CutoffFilter):
    """Sharp high-pass filter: keeps f > cutoff."""

    plugin_name: ClassVar[str] = "filter.highpass.tophat"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        kept: FloatArray = exceeds(frequency, self._cutoff(size_x, voxel_size_angst)).astype(np.float64)
        return kept


@dataclass(frozen=True, kw_only=True)
class TanhCutoff(CutoffFilter):
    """A hyperbolic tangent edge at the cutoff."""

    fall_off: float = parameter(0.5, "", "width of the edge relative to the cutoff")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 < self.fall_off < math.inf, "fall_off", "a finite number > 0")

    def _lowpass(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return tanh_lowpass(frequency, self._cutoff(size_x, voxel_size_angst), self.fall_off)


@dataclass(frozen=True, kw_only=True)
class LowpassTanh(TanhCutoff):
    """Low-pass filter with a hyperbolic tangent edge, ½ at the cutoff frequency."""

    plugin_name: ClassVar[str] = "filter.lowpass.tanh"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return self._lowpass(frequency, size_x, voxel_size_angst)


@dataclass(frozen=True, kw_only=True)
class HighpassTanh(TanhCutoff):
    """High-pass filter with a hyperbolic tangent edge: 1 − the low-pass filter.

    EMAN2 2.99 evaluates it at f² instead of f; this one is the complement of ``filter.lowpass.tanh``.
    """

    plugin_name: ClassVar[str] = "filter.highpass.tanh"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return 1.0 - self._lowpass(frequency, size_x, voxel_size_angst)


def butterworth_lowpass(frequency: FloatArray, low: float, high: float) -> FloatArray:
    """``(1 + (f/L′)^o)^−½``, ``o = 2 log10(0.882/√(10.624² − 1)) / log10(L/H)``, ``L′ = L / 0.882^(2/o)``."""
    order = 2.0 * math.log10(0.882 / math.sqrt(10.624**2 - 1.0)) / math.log10(low / high)
    moved = low / 0.882 ** (2.0 / order)
    found: FloatArray = 1.0 / np.sqrt(1.0 + (frequency / moved) ** order)
    return found


@dataclass(frozen=True, kw_only=True)
class ButterworthCutoff(CutoffFilter):
    """A Butterworth edge between a pass-band and a stop-band frequency."""

    low_cutoff_frequency: float | None = parameter(
        None, "cycles/pixel", "end of the pass band; or the cutoff"
    )
    high_cutoff_frequency: float | None = parameter(
        None,
        "cycles/pixel",
        "begin of the stop band; L + 0.15 log10(1/L) for a pass band up to L if not given",
    )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("low_cutoff_frequency", "high_cutoff_frequency"):
            value = getattr(self, name)
            self._require(value is None or 0 < value < math.inf, name, "a finite number > 0")
        low, high = self.low_cutoff_frequency, self.high_cutoff_frequency
        if low is not None:
            self._require(high is None or high > low, "high_cutoff_frequency", f"more than {low}")

    def _has_other_cutoff(self) -> bool:
        return self.low_cutoff_frequency is not None

    def _lowpass(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        low = self.low_cutoff_frequency
        if low is None:
            low = self._cutoff(size_x, voxel_size_angst)
        high = self.high_cutoff_frequency
        if high is None:
            high = low + 0.15 * math.log10(1.0 / low)
        if high <= low:
            raise ParameterError(
                f"{self.plugin_name}: expected a stop band above the pass band, got {high:g} for a pass band "
                f"up to {low:g} cycles/pixel; give high_cutoff_frequency"
            )
        return butterworth_lowpass(frequency, low, high)


@dataclass(frozen=True, kw_only=True)
class LowpassButterworth(ButterworthCutoff):
    """Butterworth low-pass filter, 0.75 at the end of the pass band."""

    plugin_name: ClassVar[str] = "filter.lowpass.butterworth"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return self._lowpass(frequency, size_x, voxel_size_angst)


@dataclass(frozen=True, kw_only=True)
class HighpassButterworth(ButterworthCutoff):
    """Butterworth high-pass filter: 1 − the low-pass filter."""

    plugin_name: ClassVar[str] = "filter.highpass.butterworth"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        return 1.0 - self._lowpass(frequency, size_x, voxel_size_angst)


@dataclass(frozen=True, kw_only=True)
class LowpassRandomphase(CutoffProcessor):
    """Random phases at and beyond the cutoff frequency, amplitudes kept.

    The phases are those of white noise from ``seed``, so the result is real and repeatable. EMAN2 2.99
    divides kx by the padded row length and never repeats its phases.
    """

    plugin_name: ClassVar[str] = "filter.lowpass.randomphase"
    seed: int = parameter(0, "", "seed of the random numbers")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(self.seed >= 0, "seed", "a number >= 0")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        noise = np.random.default_rng(self.seed).standard_normal(data.shape, dtype=np.float32)
        phases = half_transform(noise.astype(data.dtype))
        phases /= np.maximum(np.abs(phases), np.finfo(np.float32).tiny)
        values = half_transform(data)
        beyond = reaches(half_frequency(data.shape), self._cutoff(data.shape[-1], voxel_size_angst))
        values[beyond] = np.abs(values[beyond]) * phases[beyond]
        return back_transform(values, data.shape)
