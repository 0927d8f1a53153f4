"""Arithmetic on values: pointwise functions, products with a field, radial means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import FormatError, InputError

from .base import BuiltinProcessor, PointwiseMap, mean_of, radius_grid
from .fourier_base import multiplied
from .side_files import side_array, size_text


@dataclass(frozen=True, kw_only=True)
class Linear(PointwiseMap):
    """Linear function ``v · scale + shift``.

    ``scale`` has to be given: where it is not, EMAN2 2.99 multiplies by 0.
    """

    plugin_name: ClassVar[str] = "math.linear"
    scale: float = parameter(unit="", doc="factor")
    shift: float = parameter(0.0, "", "what is added")

    def _check_parameters(self) -> None:
        for name in ("scale", "shift"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")

    def _value(self, data: FloatArray) -> FloatArray:
        return data * data.dtype.type(self.scale) + data.dtype.type(self.shift)


@dataclass(frozen=True, kw_only=True)
class Reciprocal(PointwiseMap):
    """``1 / v``; 0 becomes zero_to."""

    plugin_name: ClassVar[str] = "math.reciprocal"
    zero_to: float = parameter(0.0, "", "what 0 becomes")

    def _value(self, data: FloatArray) -> FloatArray:
        filled: FloatArray = np.full_like(data, self.zero_to)
        return np.divide(1.0, data, out=filled, where=data != 0)


@dataclass(frozen=True, kw_only=True)
class AbsValue(PointwiseMap):
    """Absolute value."""

    plugin_name: ClassVar[str] = "math.absvalue"

    def _value(self, data: FloatArray) -> FloatArray:
        return np.abs(data)


@dataclass(frozen=True, kw_only=True)
class Squared(PointwiseMap):
    """Square."""

    plugin_name: ClassVar[str] = "math.squared"

    def _value(self, data: FloatArray) -> FloatArray:
        return data * data


@dataclass(frozen=True, kw_only=True)
class SquareRoot(PointwiseMap):
    """Square root; values below 0, which have none, become 0."""

    plugin_name: ClassVar[str] = "math.sqrt"

    def _value(self, data: FloatArray) -> FloatArray:
        return np.sqrt(np.maximum(data, 0.0))


@dataclass(frozen=True, kw_only=True)
class Logarithm(PointwiseMap):
    """Decimal logarithm; values not above 0, which have none, become 0."""

    plugin_name: ClassVar[str] = "math.log"

    def _value(self, data: FloatArray) -> FloatArray:
        return np.log10(data, out=np.zeros_like(data), where=data > 0)


@dataclass(frozen=True, kw_only=True)
class Floor(PointwiseMap):
    """Largest whole number not above the value."""

    plugin_name: ClassVar[str] = "math.floor"

    def _value(self, data: FloatArray) -> FloatArray:
        return np.floor(data)


@dataclass(frozen=True, kw_only=True)
class Finite(PointwiseMap):
    """Values that are not finite become `to`, or the mean of the finite ones."""

    plugin_name: ClassVar[str] = "math.finite"
    to: float | None = parameter(None, "", "what infinities and NaN become; the mean if not given")

    def _value(self, data: FloatArray) -> FloatArray:
        good = np.isfinite(data)
        if good.all():
            return data
        if self.to is None and not good.any():
            raise InputError(f"{self.plugin_name}: no value is finite; give {self.plugin_name}:to=…")
        return np.where(good, data, mean_of(data[good]) if self.to is None else self.to)


@dataclass(frozen=True, kw_only=True)
class TiltAngleWeight(PointwiseMap):
    """Multiplies by 1/cos of the tilt angle."""

    plugin_name: ClassVar[str] = "tomo.tiltangleweight"
    angle: float = parameter(unit="°", doc="tilt angle, within −90 … 90 (exclusive)")

    def _check_parameters(self) -> None:
        self._require(abs(self.angle) < 90, "angle", "an angle between −90 and 90")

    def _value(self, data: FloatArray) -> FloatArray:
        return data * data.dtype.type(1.0 / math.cos(math.radians(self.angle)))


@dataclass(frozen=True, kw_only=True)
class MultAmplitude(BuiltinProcessor):
    """Multiplies the Fourier transform by a real field from a file.

    The field has the layout of a half transform: (z), y in FFT order, kx = 0 … n // 2.
    """

    plugin_name: ClassVar[str] = "math.multamplitude"
    amp: str = parameter(doc="file of nx // 2 + 1 × ny (× nz) factors")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        field = side_array(self.amp, self.plugin_name)
        half = (*data.shape[:-1], data.shape[-1] // 2 + 1)
        if field.shape == (1, *half):
            field = field[0]
        if field.shape != half:
            raise FormatError(
                f"{self.plugin_name}: {self.amp}: expected the size of the half transform {size_text(half)}, "
                f"got {size_text(field.shape)} (x × y × z)"
            )
        return multiplied(data, field)


def radial_mean(data: FloatArray) -> FloatArray:
    """Mean at each radius about n // 2, each value split between two whole radii, read back linearly."""
    radius = radius_grid(data.shape).ravel()
    low = np.floor(radius).astype(np.int64)
    part = radius - low
    values = data.astype(np.float64).ravel()
    count = int(low.max()) + 2
    total = np.bincount(low, 1.0 - part, count) + np.bincount(low + 1, part, count)
    sums = np.bincount(low, (1.0 - part) * values, count) + np.bincount(low + 1, part * values, count)
    curve = np.divide(sums, total, out=np.zeros(count), where=total > 0)
    found: FloatArray = np.interp(radius, np.arange(count), curve).reshape(data.shape)
    return found


@dataclass(frozen=True, kw_only=True)
class RotationalAverage(BuiltinProcessor):
    """Each value becomes the mean at its radius about the centre."""

    plugin_name: ClassVar[str] = "math.rotationalaverage"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return radial_mean(data)


@dataclass(frozen=True, kw_only=True)
class RotationalSubtract(BuiltinProcessor):
    """Subtracts the mean at each radius about the centre."""

    plugin_name: ClassVar[str] = "math.rotationalsubtract"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return data - radial_mean(data)
