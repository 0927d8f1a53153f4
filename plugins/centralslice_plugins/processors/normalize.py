"""Normalisations ``(v − mean) / sigma`` that differ in where mean and sigma come from, and others.

Where the divisor is 0 the data are left as they are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import BoolArray, FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor, mean_and_sigma, mean_of, radius_grid
from .side_files import side_map


@dataclass(frozen=True, kw_only=True)
class Normalisation(BuiltinProcessor):
    """``(v − subtracted) / divisor``."""

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        subtracted, divisor = self._offset_and_divisor(data)
        if divisor == 0.0:
            return data
        return (data - data.dtype.type(subtracted)) / data.dtype.type(divisor)

    @abstractmethod
    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        """What to subtract and what to divide by."""


@dataclass(frozen=True, kw_only=True)
class NormalizeStd(Normalisation):
    """Mean 0 and standard deviation 1."""

    plugin_name: ClassVar[str] = "normalize"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        return mean_and_sigma(data)


def edge_mean(data: FloatArray) -> float:
    """Mean over the four edges of an image or six faces of a map; what two share counts for both."""
    total, count = 0.0, 0
    for axis in range(data.ndim):
        for index in (0, -1):
            face = np.take(data, index, axis=axis)
            total += float(face.sum(dtype=np.float64))
            count += face.size
    return total / count


@dataclass(frozen=True, kw_only=True)
class NormalizeEdgemean(Normalisation):
    """Mean of the edges 0 and standard deviation 1."""

    plugin_name: ClassVar[str] = "normalize.edgemean"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        return edge_mean(data), mean_and_sigma(data)[1]


@dataclass(frozen=True, kw_only=True)
class NormalizeCirclemean(Normalisation):
    """Mean in a ring (in 3D a shell) 0 and standard deviation 1."""

    plugin_name: ClassVar[str] = "normalize.circlemean"
    radius: float | None = parameter(
        None, "pixels", "inner radius; ny/2 − 2 if not given, < 0 counts from ny/2"
    )
    width: float = parameter(2.0, "pixels", "width of the ring")

    def _check_parameters(self) -> None:
        self._require(self.radius is None or math.isfinite(self.radius), "radius", "a finite number")
        self._require(0 < self.width < math.inf, "width", "a finite number > 0")

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        half = data.shape[-2] // 2
        radius = half - 2.0 if self.radius is None else self.radius
        if radius < 0:
            radius += half
        distance = radius_grid(data.shape)
        ring = (distance >= radius) & (distance < radius + self.width)
        if not ring.any():
            raise InputError(f"{self.plugin_name}: no pixel at radius {radius:g} … {radius + self.width:g}")
        return mean_of(data[ring]), mean_and_sigma(data)[1]


@dataclass(frozen=True, kw_only=True)
class NormalizeLredge(Normalisation):
    """Mean of the two outermost columns on the left and right 0, standard deviation 1."""

    plugin_name: ClassVar[str] = "normalize.lredge"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        if data.shape[-1] < 4:
            raise InputError(f"{self.plugin_name}: expected at least 4 columns, got {data.shape[-1]}")
        mean = 0.5 * (mean_of(data[..., :2]) + mean_of(data[..., -2:]))
        return mean, mean_and_sigma(data)[1]


@dataclass(frozen=True, kw_only=True)
class NormalizeUnitlen(Normalisation):
    """Root of the sum of squares 1."""

    plugin_name: ClassVar[str] = "normalize.unitlen"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        return 0.0, float(np.linalg.norm(data.astype(np.float64).ravel()))


@dataclass(frozen=True, kw_only=True)
class NormalizeUnitsum(Normalisation):
    """Sum 1."""

    plugin_name: ClassVar[str] = "normalize.unitsum"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        return 0.0, float(data.sum(dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class NormalizeMaxmin(Normalisation):
    """Smallest value −1, largest 1.

    EMAN2 2.99 swaps the terms: it subtracts (max − min)/2 and divides by (max + min)/2.
    """

    plugin_name: ClassVar[str] = "normalize.maxmin"

    def _offset_and_divisor(self, data: FloatArray) -> tuple[float, float]:
        low, high = float(data.min()), float(data.max())
        return 0.5 * (high + low), 0.5 * (high - low)


@dataclass(frozen=True, kw_only=True)
class NormalizeMask(BuiltinProcessor):
    """Mean 0 and standard deviation (divisor n) 1 where a mask is not 0."""

    plugin_name: ClassVar[str] = "normalize.mask"
    mask: str = parameter(doc="mask file of the same size")
    no_sigma: bool = parameter(False, "", "subtract the mean only")
    apply_mask: bool = parameter(False, "", "multiply the result by the mask")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        mask = side_map(self.mask, data.shape, self.plugin_name)
        inside = data[mask != 0].astype(np.float64)
        if inside.size == 0:
            raise InputError(f"{self.plugin_name}: {self.mask}: expected some values other than 0")
        sigma = 1.0 if self.no_sigma else float(inside.std())
        if sigma == 0.0:
            return data
        result: FloatArray = (data - inside.mean()) / sigma
        return result * mask if self.apply_mask else result


@dataclass(frozen=True, kw_only=True)
class NormalizeBymass(BuiltinProcessor):
    """Scales a map so that the threshold ``thr`` encloses a molecular mass.

    Protein has 0.81 Da/Å³. The level t with ``count(v ≥ t) · apix³ · 0.81 / 1000 = mass`` is found exactly
    (EMAN2 sweeps in four steps); the map is multiplied by thr / t.
    """

    plugin_name: ClassVar[str] = "normalize.bymass"
    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    mass: float = parameter(unit="kDa", doc="molecular mass")
    thr: float | None = parameter(None, "", "threshold to enclose it; mean + sigma if not given")
    apix: float | None = parameter(None, "Å", "voxel size in place of the file's")

    def _check_parameters(self) -> None:
        self._require(0 < self.mass < math.inf, "mass", "a finite number > 0")
        self._require(self.thr is None or 0 < self.thr < math.inf, "thr", "a finite number > 0")
        self._require(self.apix is None or 0 < self.apix < math.inf, "apix", "a finite number > 0")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        apix = voxel_size_angst if self.apix is None else self.apix
        count = max(1, round(self.mass * 1000.0 / (0.81 * apix**3)))
        if count > data.size:
            raise InputError(
                f"{self.plugin_name}: {self.mass:g} kDa fill {count} voxels of {apix:g} Å, "
                f"but the map has {data.size}"
            )
        level = float(np.partition(data.ravel(), data.size - count)[data.size - count])
        if level <= 0:
            raise InputError(
                f"{self.plugin_name}: the level that encloses {self.mass:g} kDa is {level:g}, not above 0; "
                "give a smaller mass or check the sign of the map"
            )
        mean, sigma = mean_and_sigma(data)
        wanted = mean + sigma if self.thr is None else self.thr
        return data * data.dtype.type(wanted / level)


@dataclass(frozen=True, kw_only=True)
class NormalizeToimage(BuiltinProcessor):
    """Linear least-squares fit ``a v + b`` to another map or image."""

    plugin_name: ClassVar[str] = "normalize.toimage"
    to: str = parameter(doc="map or image of the same size to fit to")
    ignore_zero: bool = parameter(True, "", "leave out pixels that are 0 in either")
    low_threshold: float = parameter(-math.inf, "", "leave out pixels below this in `to`")
    high_threshold: float = parameter(math.inf, "", "leave out pixels above this in `to`")
    ignore_lowsig: float = parameter(-1.0, "sigma", "if > 0: leave out pixels this close to either mean")

    def _check_parameters(self) -> None:
        self._require(self.high_threshold > self.low_threshold, "high_threshold", f"> {self.low_threshold}")
        self._require(math.isfinite(self.ignore_lowsig), "ignore_lowsig", "a finite number")

    def _used(self, data: FloatArray, target: FloatArray) -> BoolArray:
        used: BoolArray = (target >= self.low_threshold) & (target <= self.high_threshold)
        if self.ignore_zero:
            used &= (data != 0) & (target != 0)
        if self.ignore_lowsig > 0:
            for values in (data, target):
                mean, sigma = mean_and_sigma(values)
                used &= np.abs(values - mean) >= self.ignore_lowsig * sigma
        return used

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        target = side_map(self.to, data.shape, self.plugin_name)
        used = self._used(data, target)
        own, wanted = data[used].astype(np.float64), target[used]
        if own.size < 2:
            raise InputError(
                f"{self.plugin_name}: {self.to}: expected at least 2 pixels to fit, got {own.size}"
            )
        spread = float(own.var())
        if spread == 0.0:
            return data
        slope = float(((own - own.mean()) * (wanted - wanted.mean())).mean()) / spread
        return slope * data + (float(wanted.mean()) - slope * float(own.mean()))


def without_plane(image: FloatArray) -> FloatArray:
    """An image minus its least-squares plane, float64."""
    rows, columns = (np.arange(size) - (size - 1) / 2.0 for size in image.shape)
    values = image.astype(np.float64)
    # on a full grid the centred coordinates are orthogonal to each other and to the constant
    slope_y = float((values.mean(axis=1) * rows).sum()) / max(float((rows**2).sum()), 1e-300)
    slope_x = float((values.mean(axis=0) * columns).sum()) / max(float((columns**2).sum()), 1e-300)
    flat: FloatArray = values - values.mean() - slope_y * rows[:, None] - slope_x * columns
    return flat


@dataclass(frozen=True, kw_only=True)
class Ramp(BuiltinProcessor):
    """Subtracts the least-squares plane of an image."""

    plugin_name: ClassVar[str] = "filter.ramp"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return without_plane(data)


@dataclass(frozen=True, kw_only=True)
class NormalizeRampNormvar(BuiltinProcessor):
    """Subtracts the least-squares plane, then mean 0 and sigma 1 inside a disc of radius nx/2 − 2."""

    plugin_name: ClassVar[str] = "normalize.ramp.normvar"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        flat = without_plane(data)
        inside = flat[radius_grid(data.shape) < data.shape[-1] // 2 - 2]
        if inside.size < 2:
            raise InputError(
                f"{self.plugin_name}: an image of {data.shape[-1]} columns has no disc of nx/2 − 2"
            )
        mean, sigma = mean_and_sigma(inside)
        # a plane leaves rounding errors only
        return flat if sigma <= 1e-12 * float(np.abs(data).max()) else (flat - mean) / sigma
