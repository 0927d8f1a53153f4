"""Filters with a radial curve from the data: structure factor, matching, B-factor, optimal subtraction."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.errors import InputError, ParameterError

from .base import BuiltinProcessor
from .fourier_base import CutoffProcessor, back_transform, half_frequency, half_transform
from .shells import Shells, half_radius, looked_up, lookup_radius, ratio
from .side_files import side_curve, side_map

_COMPAT_DOC = "eman2: as EMAN2 2.99 has it, kx divided by n + 2 and its own weights in the shell means"


@dataclass(frozen=True, kw_only=True)
class CurveFilter(BuiltinProcessor):
    """Multiplies the transform by a gain per shell that depends on the data."""

    compat: Literal["none", "eman2"] = parameter("none", "", _COMPAT_DOC)

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        values = half_transform(data)
        shells = Shells(data.shape, self.compat)
        gains = self._gains(values, shells, data.shape, voxel_size_angst)
        factor = self._at_radius(gains, lookup_radius(data.shape, self.compat))
        values *= factor.astype(data.dtype)
        return back_transform(values, data.shape)

    def _at_radius(self, gains: FloatArray, radius: FloatArray) -> FloatArray:
        return looked_up(gains, radius)

    @abstractmethod
    def _gains(
        self, values: ComplexArray, shells: Shells, shape: tuple[int, ...], voxel_size_angst: float
    ) -> FloatArray:
        """Gain of each shell, (shells.count,)."""


@dataclass(frozen=True, kw_only=True)
class SetStrucFac(CurveFilter):
    """Gives the map the radial power spectrum of a structure factor file.

    ``g_0 = 1``, ``g_i = √(ny³ · scale · SF(i/(apix·ny)) / I_i)`` with I_i the mean |F|² of shell i; shells
    beyond the end of the curve have the last gain. With ``compat=eman2`` shell means, last shell and radii
    are EMAN2's.
    """

    plugin_name: ClassVar[str] = "filter.setstrucfac"
    strucfac: str | None = parameter(None, "", "text file with two columns: s (1/Å) and structure factor")
    filename: str | None = parameter(None, "", "another name of strucfac")
    apix: float | None = parameter(None, "Å", "voxel size in place of the file's")
    scale: float = parameter(1.0, "", "factor of the structure factor")
    interpolate: bool = parameter(
        True, "", "interpolate the gain over the radius instead of the nearest shell"
    )

    def _check_parameters(self) -> None:
        self._require(0 < self.scale < math.inf, "scale", "a finite number > 0")
        self._require(self.apix is None or 0 < self.apix < math.inf, "apix", "a finite number > 0")
        if (self.strucfac is None) == (self.filename is None):
            raise ParameterError(f"{self.plugin_name}: give one file as {self.plugin_name}:strucfac=…")

    def _at_radius(self, gains: FloatArray, radius: FloatArray) -> FloatArray:
        return looked_up(gains, radius if self.interpolate else np.rint(radius))

    def _gains(
        self, values: ComplexArray, shells: Shells, shape: tuple[int, ...], voxel_size_angst: float
    ) -> FloatArray:
        path = self.strucfac or self.filename or ""
        abscissae, factors = side_curve(path, self.plugin_name)
        if (factors < 0).any():
            raise InputError(f"{self.plugin_name}: {path}: expected structure factors >= 0")
        apix = voxel_size_angst if self.apix is None else self.apix
        per_angst = np.arange(shells.count) / (apix * shape[-2])
        step = per_angst[1]
        # EMAN2 asks for a whole further shell below the end of the curve
        last_end = abscissae[-1] + 1e-3 * step if self.compat == "none" else abscissae[-1] - step
        wanted = shape[-2] ** 3 * self.scale * np.interp(per_angst, abscissae, factors)
        gains: FloatArray = np.sqrt(ratio(wanted, shells.power(values)))
        gains[0] = 1.0
        beyond = np.flatnonzero(per_angst > last_end)
        if beyond.size and beyond[0] > 0:
            gains[beyond] = gains[beyond[0] - 1]
        return gains


@dataclass(frozen=True, kw_only=True)
class MatchTo(CurveFilter):
    """Gives the data the radial power spectrum of another map or image.

    ``g_i = √(I_to / I)``; with ``bydot`` ``g_i = Re⟨F F_to*⟩ / ⟨|F_to|²⟩``, negative values 0.
    """

    plugin_name: ClassVar[str] = "filter.matchto"
    to: str = parameter(doc="map or image of the same size")
    keephires: bool = parameter(False, "", "keep the gain at or above 1 % of its mean")
    bydot: bool = parameter(False, "", "gains from the dot product in each ring instead of the power")

    def _gains(
        self, values: ComplexArray, shells: Shells, shape: tuple[int, ...], voxel_size_angst: float
    ) -> FloatArray:
        target = half_transform(side_map(self.to, shape, self.plugin_name))
        if self.bydot:
            dot = shells.mean((values * target.conj()).real)
            return np.maximum(ratio(dot, shells.power(target)), 0.0)
        gains: FloatArray = np.sqrt(ratio(shells.power(target), shells.power(values)))
        return np.maximum(gains, 0.01 * gains.mean()) if self.keephires else gains


@dataclass(frozen=True, kw_only=True)
class LowpassAutoB(CutoffProcessor):
    """Flattens the power spectrum's fall-off (B-factor) and low-pass filters.

    The slope b of ln I against s² is fitted from 1/15 1/Å to ``noisecutoff``. The transfer is
    ``exp(−B s²/4)``, ``B = bfactor + 2b``, up to ``noisecutoff`` and goes on with ``exp(−bfactor s²/4)``.
    """

    plugin_name: ClassVar[str] = "filter.lowpass.autob"
    bfactor: float = parameter(
        0.0, "Å²", "fall-off left in the map; (apix / cutoff)² where a cutoff is given"
    )
    noisecutoff: float = parameter(1.0 / 6.0, "1/Å", "frequency beyond which there is only noise")
    compat: Literal["none", "eman2"] = parameter("none", "", _COMPAT_DOC)

    def _has_other_cutoff(self) -> bool:
        return True

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(math.isfinite(self.bfactor), "bfactor", "a finite number")
        self._require(1.0 / 15.0 < self.noisecutoff < math.inf, "noisecutoff", "more than 1/15 1/Å")

    def _bfactor(self, size_x: int, voxel_size_angst: float) -> float:
        given = (self.sigma, self.cutoff_abs, self.cutoff_freq, self.cutoff_pixels)
        if all(value is None for value in given):
            return self.bfactor
        return (self._voxel_size_used(voxel_size_angst) / self._cutoff(size_x, voxel_size_angst)) ** 2

    def _slope(self, power: FloatArray, per_angst: FloatArray) -> float:
        """Slope of ln I against s², Å²."""
        used = (per_angst >= 1.0 / 15.0) & (per_angst <= self.noisecutoff) & (power > 0)
        if int(used.sum()) < 3:
            raise InputError(
                f"{self.plugin_name}: {int(used.sum())} shells between 1/15 and {self.noisecutoff:g} 1/Å, "
                "but a fit needs 3; give a larger noisecutoff"
            )
        return float(np.polyfit(per_angst[used] ** 2, np.log(power[used]), 1)[0])

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        apix = self._voxel_size_used(voxel_size_angst)
        values = half_transform(data)
        shells = Shells(data.shape, self.compat)
        inside = min(shells.count, data.shape[-2] // 2 + 1)
        per_angst = np.arange(inside) / (apix * data.shape[-2])
        slope = self._slope(shells.power(values)[:inside], per_angst)
        plain = self._bfactor(data.shape[-1], voxel_size_angst)
        squared = (lookup_radius(data.shape, self.compat) / (apix * data.shape[-2])) ** 2
        exponent = plain * squared + 2.0 * slope * np.minimum(squared, self.noisecutoff**2)
        values *= np.exp(-exponent / 4.0).astype(data.dtype)
        return back_transform(values, data.shape)


@dataclass(frozen=True, kw_only=True)
class SubOptimal(BuiltinProcessor):
    """Subtracts a reference with the best gain in each ring, ``g = Re⟨F F_ref*⟩ / ⟨|F_ref|²⟩``."""

    plugin_name: ClassVar[str] = "math.sub.optimal"
    ref: str = parameter(doc="reference map or image of the same size, from which the gains come")
    actual: str | None = parameter(None, "", "map or image to subtract in place of ref, with the same gains")
    low_cutoff_frequency: float = parameter(0.0, "cycles/pixel", "subtract nothing below this frequency")
    high_cutoff_frequency: float = parameter(1.0, "cycles/pixel", "subtract nothing above this frequency")
    return_subim: bool = parameter(False, "", "give what would be subtracted instead of the difference")

    def _check_parameters(self) -> None:
        self._require(0 <= self.low_cutoff_frequency < math.inf, "low_cutoff_frequency", "a number >= 0")
        above = self.low_cutoff_frequency < self.high_cutoff_frequency < math.inf
        self._require(above, "high_cutoff_frequency", f"a number > {self.low_cutoff_frequency}")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        values = half_transform(data.astype(np.float64))
        reference = half_transform(side_map(self.ref, data.shape, self.plugin_name))
        shells = Shells(data.shape)
        gains = ratio(shells.mean((values * reference.conj()).real), shells.power(reference))
        frequency = half_frequency(data.shape)
        inside = (frequency >= self.low_cutoff_frequency) & (frequency <= self.high_cutoff_frequency)
        factor = looked_up(gains, half_radius(data.shape)) * inside
        if self.actual is not None:
            reference = half_transform(side_map(self.actual, data.shape, self.plugin_name))
        subtracted = back_transform(reference * factor, data.shape)
        return subtracted if self.return_subim else data - subtracted
