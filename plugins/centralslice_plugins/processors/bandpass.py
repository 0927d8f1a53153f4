"""Fourier filters with their own parameters: bands, homomorphic and inverse Gaussians, shift, tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor, numbers_in
from .fourier_base import CutoffFilter, FourierFilter, half_frequency, multiplied, phase_ramp, reaches
from .lowpass import tanh_lowpass


@dataclass(frozen=True, kw_only=True)
class BandpassGauss(CutoffFilter):
    """Gaussian band-pass filter about a centre frequency; the cutoff is its standard deviation."""

    plugin_name: ClassVar[str] = "filter.bandpass.gauss"
    center: float = parameter(unit="cycles/pixel", doc="centre of the band")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 <= self.center < math.inf, "center", "a finite number >= 0")

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        cutoff = self._cutoff(size_x, voxel_size_angst)
        band: FloatArray = np.exp(-((frequency - self.center) ** 2) / (2.0 * cutoff**2))
        return band


@dataclass(frozen=True, kw_only=True)
class Band(FourierFilter):
    """A band between two frequencies."""

    low_cutoff_frequency: float = parameter(unit="cycles/pixel", doc="lower end of the band; Nyquist is 0.5")
    high_cutoff_frequency: float = parameter(unit="cycles/pixel", doc="upper end of the band")

    def _check_parameters(self) -> None:
        self._require(
            0 <= self.low_cutoff_frequency < math.inf, "low_cutoff_frequency", "a finite number >= 0"
        )
        above = self.low_cutoff_frequency < self.high_cutoff_frequency < math.inf
        self._require(above, "high_cutoff_frequency", f"a finite number > {self.low_cutoff_frequency}")


@dataclass(frozen=True, kw_only=True)
class BandpassTophat(Band):
    """Sharp band-pass filter: keeps low ≤ f < high."""

    plugin_name: ClassVar[str] = "filter.bandpass.tophat"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        inside = reaches(frequency, self.low_cutoff_frequency) & ~reaches(
            frequency, self.high_cutoff_frequency
        )
        band: FloatArray = inside.astype(np.float64)
        return band


@dataclass(frozen=True, kw_only=True)
class BandpassTanh(Band):
    """Band-pass filter with hyperbolic tangent edges: the difference of two low-pass filters."""

    plugin_name: ClassVar[str] = "filter.bandpass.tanh"
    Low_fall_off: float = parameter(0.5, "", "width of the lower edge relative to its frequency")
    high_fall_off: float = parameter(0.5, "", "width of the upper edge relative to its frequency")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name in ("Low_fall_off", "high_fall_off"):
            self._require(0 < getattr(self, name) < math.inf, name, "a finite number > 0")

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        upper = tanh_lowpass(frequency, self.high_cutoff_frequency, self.high_fall_off)
        if self.low_cutoff_frequency == 0:
            return upper
        return upper - tanh_lowpass(frequency, self.low_cutoff_frequency, self.Low_fall_off)


@dataclass(frozen=True, kw_only=True)
class HomomorphicGauss(CutoffFilter):
    """Homomorphic filter ``1 − (1 − v0) exp(−f²/(2c²))``: damps low frequencies down to v0."""

    plugin_name: ClassVar[str] = "filter.homomorphic.gauss"
    value_at_zero_frequency: float = parameter(0.0, "", "v0, transfer at f = 0")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(
            math.isfinite(self.value_at_zero_frequency), "value_at_zero_frequency", "a finite number"
        )

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        cutoff = self._cutoff(size_x, voxel_size_angst)
        drop: FloatArray = (1.0 - self.value_at_zero_frequency) * np.exp(-(frequency**2) / (2.0 * cutoff**2))
        return 1.0 - drop


@dataclass(frozen=True, kw_only=True)
class GaussInverse(CutoffFilter):
    """Inverse Gaussian ``exp(+f²/(2c²))``: undoes a Gaussian blur."""

    plugin_name: ClassVar[str] = "filter.gaussinverse"

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        exponent: FloatArray = frequency**2 / (2.0 * self._cutoff(size_x, voxel_size_angst) ** 2)
        if exponent.max() > 60.0:
            raise InputError(
                f"{self.plugin_name}: the corner of the transform would be amplified by more than e^60; "
                "give a larger cutoff or low-pass filter first"
            )
        gain: FloatArray = np.exp(exponent)
        return gain


@dataclass(frozen=True, kw_only=True)
class FourierShift(BuiltinProcessor):
    """Shift by any number of pixels as a phase ramp; what leaves on one side enters on the other."""

    plugin_name: ClassVar[str] = "filter.shift"
    x_shift: float = parameter(0.0, "pixels", "shift along x")
    y_shift: float = parameter(0.0, "pixels", "shift along y")
    z_shift: float = parameter(0.0, "pixels", "shift along z; 0 for images")

    def _check_parameters(self) -> None:
        for name in ("x_shift", "y_shift", "z_shift"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        if data.ndim == 2 and self.z_shift != 0:
            raise InputError(f"{self.plugin_name}: z_shift is {self.z_shift:g}, but the data are 2D")
        return multiplied(data, phase_ramp(data.shape, (self.x_shift, self.y_shift, self.z_shift)))


@dataclass(frozen=True, kw_only=True)
class RadialTable(FourierFilter):
    """Filter given as a table, one value a Fourier pixel, linear in between and zero beyond its end."""

    plugin_name: ClassVar[str] = "filter.radialtable"
    table: str = parameter(doc="values at f·nx = 0, 1, 2, …, separated by commas")

    def _check_parameters(self) -> None:
        numbers_in(self.table, self.plugin_name, "table")

    def _transfer(self, frequency: FloatArray, size_x: int, voxel_size_angst: float) -> FloatArray:
        values = numbers_in(self.table, self.plugin_name, "table")
        radius = frequency * size_x
        # a radius of 3 + 4e-16 is not beyond a table that ends at 3
        inside = radius <= len(values) - 1 + 1e-9
        found: FloatArray = np.interp(radius, np.arange(len(values)), values) * inside
        return found


@dataclass(frozen=True, kw_only=True)
class CtfCorrSimple(BuiltinProcessor):
    """Rough CTF correction of one radial curve: 1/CTF up to its first maximum, constant beyond.

    Model: ``CTF = cos(γ − acos(ac/100)) exp(−B s²/4)`` with B = 200 Å² and
    ``γ = π λ 10⁴ Δf s² − (π/2) Cs 10⁷ λ³ s⁴``, ``λ = 12.2639/√(1000 V + 0.97845 V²)``.
    The mean keeps its value.
    """

    plugin_name: ClassVar[str] = "filter.ctfcorr.simple"
    defocus: float = parameter(3.0, "µm", "underfocus, positive")
    ac: float = parameter(10.0, "%", "amplitude contrast")
    cs: float = parameter(2.7, "mm", "spherical aberration")
    voltage: float = parameter(300.0, "kV", "accelerating voltage")
    apix: float | None = parameter(None, "Å", "voxel size in place of the file's")
    phaseflip: bool = parameter(False, "", "beyond the first maximum multiply by the sign of the CTF")
    hppix: float = parameter(-1.0, "Fourier pixels", "if > 0, also multiply by tanh(radius / hppix)")

    def _check_parameters(self) -> None:
        self._require(0 < self.defocus < math.inf, "defocus", "a finite number > 0")
        self._require(0 < self.ac <= 100, "ac", "more than 0 and at most 100")
        self._require(0 <= self.cs < math.inf, "cs", "a finite number >= 0")
        self._require(0 < self.voltage < math.inf, "voltage", "a finite number > 0")
        self._require(self.apix is None or 0 < self.apix < math.inf, "apix", "a finite number > 0")
        self._require(math.isfinite(self.hppix), "hppix", "a finite number")

    def _ctf(self, per_angst: FloatArray) -> FloatArray:
        wave = 12.2639 / math.sqrt(1000.0 * self.voltage + 0.97845 * self.voltage**2)
        squared = per_angst**2
        gamma = math.pi * wave * squared * (self.defocus * 1e4 - 0.5e7 * self.cs * wave**2 * squared)
        found: FloatArray = np.cos(gamma - math.acos(self.ac / 100.0)) * np.exp(-50.0 * squared)
        return found

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        frequency = half_frequency(data.shape)
        per_angst = frequency / (voxel_size_angst if self.apix is None else self.apix)
        fine = np.linspace(0.0, float(per_angst.max()), 8 * max(data.shape) + 2)
        curve = self._ctf(fine)
        falling = np.flatnonzero(np.diff(curve) < 0)
        peak = int(falling[0]) if falling.size else fine.size - 1
        ctf = self._ctf(per_angst)
        before = per_angst <= fine[peak]
        gain = np.full_like(ctf, 1.0 / curve[peak])
        gain[before] = 1.0 / ctf[before]
        if self.phaseflip:
            gain[ctf < 0] *= -1.0
        if self.hppix > 0:
            gain *= np.tanh(frequency * data.shape[-2] / self.hppix)
        gain[(0,) * data.ndim] = 1.0
        return multiplied(data, gain.astype(data.dtype))
