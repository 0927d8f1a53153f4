"""Thresholds: functions of each value alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError

from .base import PointwiseMap, mean_and_sigma, mean_of


@dataclass(frozen=True, kw_only=True)
class BelowToZero(PointwiseMap):
    """Values below minval become 0."""

    plugin_name: ClassVar[str] = "threshold.belowtozero"
    minval: float = parameter(0.0, "", "smallest value that is kept")

    def _value(self, data: FloatArray) -> FloatArray:
        return np.where(data < self.minval, 0.0, data)


@dataclass(frozen=True, kw_only=True)
class AboveToZero(PointwiseMap):
    """Values above maxval become 0."""

    plugin_name: ClassVar[str] = "threshold.abovetozero"
    maxval: float = parameter(0.0, "", "largest value that is kept")

    def _value(self, data: FloatArray) -> FloatArray:
        return np.where(data > self.maxval, 0.0, data)


@dataclass(frozen=True, kw_only=True)
class BelowToZeroCut(PointwiseMap):
    """Subtracts minval; what falls below 0 becomes 0."""

    plugin_name: ClassVar[str] = "threshold.belowtozero_cut"
    minval: float = parameter(0.0, "", "value that becomes 0")

    def _value(self, data: FloatArray) -> FloatArray:
        cut: FloatArray = np.maximum(data - self.minval, 0.0)
        return cut


@dataclass(frozen=True, kw_only=True)
class BelowToMinval(PointwiseMap):
    """Values below minval become minval, or newval where that is given."""

    plugin_name: ClassVar[str] = "threshold.belowtominval"
    minval: float = parameter(0.0, "", "smallest value that is kept")
    newval: float | None = parameter(None, "", "what smaller values become; minval if not given")

    def _value(self, data: FloatArray) -> FloatArray:
        return np.where(data < self.minval, self.minval if self.newval is None else self.newval, data)


@dataclass(frozen=True, kw_only=True)
class Binary(PointwiseMap):
    """1 where the value reaches a threshold, 0 elsewhere."""

    plugin_name: ClassVar[str] = "threshold.binary"
    value: float = parameter(0.0, "", "smallest value that becomes 1")

    def _value(self, data: FloatArray) -> FloatArray:
        return (data >= self.value).astype(data.dtype)


@dataclass(frozen=True, kw_only=True)
class Interval(PointwiseMap):
    """A function of whether a value is within two bounds."""

    low: float = parameter(unit="", doc="smallest value inside")
    high: float = parameter(unit="", doc="largest value inside")

    def _check_parameters(self) -> None:
        self._require(self.high >= self.low, "high", f"a number >= low ({self.low:g})")


@dataclass(frozen=True, kw_only=True)
class BinaryRange(Interval):
    """1 where low ≤ value ≤ high, 0 elsewhere."""

    plugin_name: ClassVar[str] = "threshold.binaryrange"

    def _value(self, data: FloatArray) -> FloatArray:
        return ((data >= self.low) & (data <= self.high)).astype(data.dtype)


@dataclass(frozen=True, kw_only=True)
class Bounds(PointwiseMap):
    """A function of whether a value is within minval and maxval."""

    minval: float = parameter(unit="", doc="lower bound")
    maxval: float = parameter(unit="", doc="upper bound")

    def _check_parameters(self) -> None:
        self._require(self.maxval >= self.minval, "maxval", f"a number >= minval ({self.minval:g})")


@dataclass(frozen=True, kw_only=True)
class RangeToZero(Bounds):
    """Values with minval ≤ value ≤ maxval become 0."""

    plugin_name: ClassVar[str] = "threshold.rangetozero"

    def _value(self, data: FloatArray) -> FloatArray:
        return np.where((data >= self.minval) & (data <= self.maxval), 0.0, data)


@dataclass(frozen=True, kw_only=True)
class NotZero(PointwiseMap):
    """1 where the value is not 0."""

    plugin_name: ClassVar[str] = "threshold.notzero"

    def _value(self, data: FloatArray) -> FloatArray:
        found: FloatArray = (data != 0).astype(data.dtype)
        return found


def clamped(data: FloatArray, low: float, high: float, outlier: float | None) -> FloatArray:
    """Values outside low … high set to the nearer bound, or all to ``outlier``."""
    if outlier is None:
        kept: FloatArray = np.clip(data, low, high)
        return kept
    replaced: FloatArray = np.where((data < low) | (data > high), outlier, data)
    return replaced


@dataclass(frozen=True, kw_only=True)
class ClampMinMax(Bounds):
    """Values beyond minval and maxval become the nearer of them, the mean or 0."""

    plugin_name: ClassVar[str] = "threshold.clampminmax"
    tomean: bool = parameter(False, "", "replace values beyond the bounds by the mean")
    tozero: bool = parameter(False, "", "replace values beyond the bounds by 0")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _refuse_both(self.plugin_name, self.tomean, self.tozero)

    def _value(self, data: FloatArray) -> FloatArray:
        outlier = mean_of(data) if self.tomean else 0.0 if self.tozero else None
        return clamped(data, self.minval, self.maxval, outlier)


@dataclass(frozen=True, kw_only=True)
class ClampNsigma(PointwiseMap):
    """Values further than nsigma·σ from the mean become that bound, the mean or 0."""

    plugin_name: ClassVar[str] = "threshold.clampminmax.nsigma"
    nsigma: float = parameter(2.0, "sigma", "half width of the kept range")
    tomean: bool = parameter(False, "", "replace values beyond the bounds by the mean")
    tozero: bool = parameter(False, "", "replace values beyond the bounds by 0")

    def _check_parameters(self) -> None:
        self._require(0 < self.nsigma < math.inf, "nsigma", "a finite number > 0")
        _refuse_both(self.plugin_name, self.tomean, self.tozero)

    def _value(self, data: FloatArray) -> FloatArray:
        mean, sigma = mean_and_sigma(data)
        outlier = mean if self.tomean else 0.0 if self.tozero else None
        return clamped(data, mean - self.nsigma * sigma, mean + self.nsigma * sigma, outlier)


def _refuse_both(plugin_name: str, tomean: bool, tozero: bool) -> None:
    if tomean and tozero:
        raise ParameterError(f"{plugin_name}: give tomean or tozero, not both")


@dataclass(frozen=True, kw_only=True)
class Compress(PointwiseMap):
    """Soft threshold: shrinks values towards `value` by `range`; closer ones become `value`.

    ``v > m + s → v − s``, ``v < m − s → v + s``, else m. With ``clamponly`` only the last: values further
    away are kept as they are (EMAN2 2.99 declares that flag and ignores it).
    """

    plugin_name: ClassVar[str] = "threshold.compress"
    range: float = parameter(unit="", doc="s, half width of the range that becomes `value`")
    value: float = parameter(0.0, "", "m, centre of the range")
    clamponly: bool = parameter(False, "", "keep values outside the range as they are")

    def _check_parameters(self) -> None:
        self._require(0 <= self.range < math.inf, "range", "a finite number >= 0")
        self._require(math.isfinite(self.value), "value", "a finite number")

    def _value(self, data: FloatArray) -> FloatArray:
        distance = data - data.dtype.type(self.value)
        inside = np.abs(distance) <= self.range
        if self.clamponly:
            return np.where(inside, self.value, data)
        return np.where(inside, self.value, data - np.sign(distance) * self.range)
