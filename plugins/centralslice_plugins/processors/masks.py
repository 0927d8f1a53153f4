"""Masks of given shape: spheres with hard, soft or Gaussian edges, cylinders, edges, and masks from files."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor, mean_of, radius_grid
from .side_files import side_map


@dataclass(frozen=True, kw_only=True)
class RadialMask(BuiltinProcessor):
    """A mask that depends on the distance r from a centre; EMAN2's parameters of all its radial masks."""

    inner_radius: float = parameter(0.0, "pixels", "radius where the kept shell begins")
    outer_radius: float = parameter(
        math.inf, "pixels", "radius where it ends; < 0 means nx/2 + outer_radius + 1"
    )
    dx: float = parameter(0.0, "pixels", "centre relative to nx // 2")
    dy: float = parameter(0.0, "pixels", "centre relative to ny // 2")
    dz: float = parameter(0.0, "pixels", "centre relative to nz // 2; not used for images")

    def _check_parameters(self) -> None:
        self._require(0 <= self.inner_radius < math.inf, "inner_radius", "a finite number >= 0")
        self._require(self.outer_radius > -math.inf, "outer_radius", "a number")
        for name in ("dx", "dy", "dz"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        outer = self.outer_radius
        if outer < 0:
            outer += data.shape[-1] // 2 + 1
        if outer <= self.inner_radius:
            raise InputError(
                f"{self.plugin_name}: outer_radius {self.outer_radius:g} of {data.shape[-1]} columns leaves "
                f"{outer:g} pixels, not more than inner_radius {self.inner_radius:g}"
            )
        return self._masked(data, radius_grid(data.shape, (self.dx, self.dy, self.dz)), outer)

    def _outside(self, radius: FloatArray, outer: float) -> FloatArray:
        """How far each pixel is outside the kept shell, pixels; 0 inside."""
        beyond: FloatArray = np.maximum(radius - outer, 0.0)
        away: FloatArray = np.maximum(beyond, self.inner_radius - radius)
        return away

    @abstractmethod
    def _masked(self, data: FloatArray, radius: FloatArray, outer: float) -> FloatArray:
        """The masked data."""


@dataclass(frozen=True, kw_only=True)
class SharpMask(RadialMask):
    """Replaces what is outside inner_radius ≤ r < outer_radius by a value."""

    plugin_name: ClassVar[str] = "mask.sharp"
    value: float = parameter(0.0, "", "value outside")

    def _masked(self, data: FloatArray, radius: FloatArray, outer: float) -> FloatArray:
        return np.where((radius >= self.inner_radius) & (radius < outer), data, self.value)


@dataclass(frozen=True, kw_only=True)
class SoftMask(RadialMask):
    """Spherical mask with a Gaussian edge.

    ``value + (v − value) exp(−(d/width)²)`` at a distance d outside the kept shell.
    """

    plugin_name: ClassVar[str] = "mask.soft"
    value: float = parameter(0.0, "", "value outside")
    width: float = parameter(4.0, "pixels", "1/e width of the edge")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 < self.width < math.inf, "width", "a finite number > 0")

    def _masked(self, data: FloatArray, radius: FloatArray, outer: float) -> FloatArray:
        factor = np.exp(-((self._outside(radius, outer) / self.width) ** 2))
        result: FloatArray = self.value + (data - self.value) * factor
        return result


@dataclass(frozen=True, kw_only=True)
class GaussianMask(RadialMask):
    """Multiplies by ``exp(−(r/outer)^exponent)``.

    With an inner radius r counts from there, and inside the factor is 1.
    """

    plugin_name: ClassVar[str] = "mask.gaussian"
    exponent: float = parameter(2.0, "", "exponent of the fall-off")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 < self.exponent < math.inf, "exponent", "a finite number > 0")

    def _masked(self, data: FloatArray, radius: FloatArray, outer: float) -> FloatArray:
        beyond = np.maximum(radius - self.inner_radius, 0.0)
        result: FloatArray = data * np.exp(-((beyond / outer) ** self.exponent))
        return result


@dataclass(frozen=True, kw_only=True)
class RingmeanMask(RadialMask):
    """As mask.sharp, with the mean of a ring about outer_radius as the value outside."""

    plugin_name: ClassVar[str] = "mask.ringmean"
    ring_width: float = parameter(1.0, "pixels", "half width of the ring")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 < self.ring_width < math.inf, "ring_width", "a finite number > 0")
        self._require(self.outer_radius < math.inf, "outer_radius", "a finite number")

    def _masked(self, data: FloatArray, radius: FloatArray, outer: float) -> FloatArray:
        ring = np.abs(radius - outer) <= self.ring_width
        if not ring.any():
            raise InputError(f"{self.plugin_name}: no pixel lies at radius {outer:g} ± {self.ring_width:g}")
        return np.where((radius >= self.inner_radius) & (radius < outer), data, mean_of(data[ring]))


@dataclass(frozen=True, kw_only=True)
class CylinderMask(BuiltinProcessor):
    """Multiplies a map by a cylinder sector about z, with optional linear edges.

    Kept are ``inner_radius ≤ ρ < outer_radius``, ``|φ − phicen| ≤ phirange`` and ``zmin ≤ z ≤ zmax``.
    With ``phitriangle`` the weight falls linearly to 0 over ``phitrirange`` more degrees; ``ztriangle`` is
    the part of the half height over which it rises from the ends (1: a triangle).
    """

    plugin_name: ClassVar[str] = "mask.cylinder"
    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    phicen: float = parameter(0.0, "°", "middle of the kept angles, from x towards y")
    phirange: float = parameter(180.0, "°", "half width of the kept angles")
    phitriangle: bool = parameter(False, "", "linear edge in angle")
    phitrirange: float = parameter(0.0, "°", "width of the edge in angle")
    cx: float | None = parameter(None, "pixels", "x of the axis; nx // 2 if not given")
    cy: float | None = parameter(None, "pixels", "y of the axis; ny // 2 if not given")
    zmin: float = parameter(0.0, "pixels", "lowest plane kept")
    zmax: float = parameter(math.inf, "pixels", "highest plane kept")
    ztriangle: float = parameter(0.0, "", "0 … 1, part of the half height with a linear edge")
    inner_radius: float = parameter(0.0, "pixels", "radius where the kept wall begins")
    outer_radius: float = parameter(math.inf, "pixels", "radius where it ends")

    def _check_parameters(self) -> None:
        self._require(0 <= self.phirange <= 180, "phirange", "0 … 180")
        self._require(0 <= self.phitrirange <= 180, "phitrirange", "0 … 180")
        self._require(
            self.phitriangle == (self.phitrirange > 0), "phitrirange", "> 0 with, 0 without phitriangle"
        )
        self._require(self.zmax > self.zmin, "zmax", f"more than zmin ({self.zmin:g})")
        self._require(0 <= self.ztriangle <= 1, "ztriangle", "0 … 1")
        self._require(self.outer_radius > self.inner_radius, "outer_radius", "more than inner_radius")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        _, ny, nx = data.shape
        y, x = np.ogrid[:ny, :nx]
        across = x - (nx // 2 if self.cx is None else self.cx)
        along = y - (ny // 2 if self.cy is None else self.cy)
        radius = np.hypot(across, along)
        wall = (radius >= self.inner_radius) & (radius < self.outer_radius)
        section = wall * self._angle_weight(np.rad2deg(np.arctan2(along, across)))
        heights = self._height_weight(data.shape[0])
        result: FloatArray = data * section * heights[:, None, None]
        return result

    def _angle_weight(self, angle: FloatArray) -> FloatArray:
        away = np.abs((angle - self.phicen + 180.0) % 360.0 - 180.0) - self.phirange
        if self.phitriangle:
            slope: FloatArray = np.clip(1.0 - away / self.phitrirange, 0.0, 1.0)
            return slope
        inside: FloatArray = (away <= 1e-9).astype(np.float64)
        return inside

    def _height_weight(self, planes: int) -> FloatArray:
        z = np.arange(planes, dtype=np.float64)
        top = min(self.zmax, planes - 1.0)
        weight: FloatArray = ((z >= self.zmin) & (z <= top)).astype(np.float64)
        if self.ztriangle > 0:
            edge = self.ztriangle * max(0.5 * (top - self.zmin), 1e-9)
            weight *= np.clip(np.minimum(z - self.zmin, top - z) / edge, 0.0, 1.0)
        return weight


@dataclass(frozen=True, kw_only=True)
class MaskFromFile(BuiltinProcessor):
    """Multiplies by a mask file, or keeps one level of it."""

    plugin_name: ClassVar[str] = "mask.fromfile"
    filename: str = parameter(doc="mask file of the same size")
    maskset: float | None = parameter(
        None, "", "keep what has this value in the mask, instead of multiplying"
    )

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        mask = side_map(self.filename, data.shape, self.plugin_name)
        if self.maskset is not None:
            return np.where(mask == self.maskset, data, 0.0)
        result: FloatArray = data * mask
        return result


def edge_weights(size: int, first: int, last: int, apodize: bool) -> FloatArray:
    """0 in the outer ``first`` and ``last`` pixels of an axis, 1 further in; optionally a smooth rise."""
    weights = np.ones(size)
    weights[:first] = 0.0
    weights[size - last :] = 0.0
    if apodize:
        for margin, order in ((first, slice(None)), (last, slice(None, None, -1))):
            length = max(min(margin, size - margin), 0)
            rise = np.sin(0.5 * np.pi * np.arange(1, length + 1) / (margin + 1)) ** 2
            weights[order][margin : margin + length] *= rise
    return weights


@dataclass(frozen=True, kw_only=True)
class ZeroEdge2d(BuiltinProcessor):
    """Zeroes margins of an image.

    With ``apodize`` the values inside rise from each margin over its width as a raised cosine (EMAN2 2.99
    declares that and raises).
    """

    plugin_name: ClassVar[str] = "mask.zeroedge2d"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})
    x0: int = parameter(0, "pixels", "columns zeroed on the left")
    x1: int | None = parameter(None, "pixels", "columns zeroed on the right; x0 if not given")
    y0: int = parameter(0, "pixels", "rows zeroed at the begin")
    y1: int | None = parameter(None, "pixels", "rows zeroed at the end; y0 if not given")
    apodize: bool = parameter(False, "", "raised-cosine rise inside the margins")

    _axes: ClassVar[str] = "xy"

    def _check_parameters(self) -> None:
        for axis in self._axes:
            for name in (f"{axis}0", f"{axis}1"):
                value = getattr(self, name)
                self._require(value is None or value >= 0, name, "a number >= 0")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        result = data
        for number, (axis, size) in enumerate(zip(self._axes, reversed(data.shape), strict=True)):
            first, last = getattr(self, f"{axis}0"), getattr(self, f"{axis}1")
            last = first if last is None else last
            if first + last >= size:
                raise InputError(
                    f"{self.plugin_name}: {axis}0 + {axis}1 = {first + last} leave nothing of {size} pixels"
                )
            weights = edge_weights(size, first, last, self.apodize)
            shape = (size,) + (1,) * number
            result = result * weights.reshape(shape).astype(data.dtype)
        return result


@dataclass(frozen=True, kw_only=True)
class ZeroEdge3d(ZeroEdge2d):
    """Zeroes margins of a map."""

    plugin_name: ClassVar[str] = "mask.zeroedge3d"
    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    z0: int = parameter(0, "pixels", "planes zeroed at the begin")
    z1: int | None = parameter(None, "pixels", "planes zeroed at the end; z0 if not given")

    _axes: ClassVar[str] = "xyz"


@dataclass(frozen=True, kw_only=True)
class DecayEdge2d(BuiltinProcessor):
    """Multiplies an image by a linear ramp that rises from 0 at its edges over a width."""

    plugin_name: ClassVar[str] = "mask.decayedge2d"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})
    width: int = parameter(4, "pixels", "width of the ramp")

    def _check_parameters(self) -> None:
        self._require(self.width >= 1, "width", "a number >= 1")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        result = data
        for number, size in enumerate(reversed(data.shape)):
            position = np.arange(size)
            ramp = np.minimum(np.minimum(position, size - 1 - position) / self.width, 1.0)
            result = result * ramp.reshape((size,) + (1,) * number).astype(data.dtype)
        return result
