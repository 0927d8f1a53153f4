"""Movements of pixels: general transforms, scaling, symmetry averages, flips, centring, origins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy.ndimage

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError, ParameterError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.plugin.registry import shared_registry

from .base import BuiltinProcessor, centred_grid, numbers_in
from .fourier_base import multiplied, phase_ramp

_AXES_FROM_LAST = {"x": -1, "y": -2, "z": -3}


def transformed(
    data: FloatArray, matrix: FloatArray, shift_xyz: FloatArray, output_shape: tuple[int, ...] | None = None
) -> FloatArray:
    """``dest(x) = src(A⁻¹ (x − t))`` about n // 2, linear interpolation, 0 outside; A and t in x, y(, z)."""
    shape = data.shape if output_shape is None else output_shape
    inverse = np.linalg.inv(matrix)[::-1, ::-1]
    centre_out = np.array([size // 2 for size in shape], dtype=np.float64)
    centre_in = np.array([size // 2 for size in data.shape], dtype=np.float64)
    offset = centre_in - inverse @ (centre_out + shift_xyz[::-1])
    # exact whole pixels must not fall out of the box by a rounding error
    inverse, offset = (np.where(np.abs(a - np.rint(a)) < 1e-12, np.rint(a), a) for a in (inverse, offset))
    found: FloatArray = scipy.ndimage.affine_transform(
        data, inverse, offset, output_shape=shape, order=1, mode="constant", cval=0.0, prefilter=False
    )
    return found


@dataclass(frozen=True, kw_only=True)
class Xform(BuiltinProcessor):
    """Rotates, scales and shifts by a Transform, ``dest(x) = src(T⁻¹ x)`` about n // 2.

    Linear interpolation, 0 outside. T is ``scale · Rz(phi) Rx(alt) Rz(az)`` with EMAN2's elementary
    matrices, then the shift. Images take ``alpha`` (or phi) only.
    """

    plugin_name: ClassVar[str] = "xform"
    az: float = parameter(0.0, "°", "first Euler angle, about z")
    alt: float = parameter(0.0, "°", "second Euler angle, about x")
    phi: float = parameter(0.0, "°", "third Euler angle, about z")
    alpha: float | None = parameter(None, "°", "another name of phi")
    tx: float = parameter(0.0, "pixels", "shift along x after the rotation")
    ty: float = parameter(0.0, "pixels", "shift along y after the rotation")
    tz: float = parameter(0.0, "pixels", "shift along z after the rotation")
    scale: float = parameter(1.0, "", "enlargement; the voxel size is divided by it")
    transform: str | None = parameter(
        None,
        "",
        "12 numbers of the 3 × 4 matrix, row by row, commas between, in place of the angles and shifts",
    )

    def _check_parameters(self) -> None:
        for name in ("az", "alt", "phi", "tx", "ty", "tz"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")
        self._require(self.alpha is None or math.isfinite(self.alpha), "alpha", "a finite number")
        self._require(0 < self.scale < math.inf, "scale", "a finite number > 0")
        if self.alpha is not None and self.phi != 0:
            raise ParameterError(f"{self.plugin_name}: give alpha or phi, not both")
        if self.transform is not None:
            self._check_transform(self.transform)

    def _check_transform(self, text: str) -> None:
        numbers = numbers_in(text, self.plugin_name, "transform")
        self._require(len(numbers) == 12, "transform", "12 numbers")
        scale = abs(float(np.linalg.det(np.reshape(numbers, (3, 4))[:, :3])))
        self._require(scale > 1e-9, "transform", "an invertible matrix")
        given = (self.az, self.alt, self.phi, self.alpha or 0.0, self.tx, self.ty, self.tz, self.scale - 1.0)
        if any(given):
            raise ParameterError(f"{self.plugin_name}: give transform or angles, shifts and scale, not both")

    def _matrix_and_shift(self) -> tuple[FloatArray, FloatArray]:
        if self.transform is not None:
            rows = np.reshape(numbers_in(self.transform, self.plugin_name, "transform"), (3, 4))
            return rows[:, :3], rows[:, 3]
        phi = self.phi if self.alpha is None else self.alpha
        return self.scale * eman2_to_matrices(self.az, self.alt, phi)[0], np.array(
            [self.tx, self.ty, self.tz]
        )

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size divided by the scale of the transform."""
        matrix, _ = self._matrix_and_shift()
        scale = abs(float(np.linalg.det(matrix))) ** (1.0 / 3.0)
        # EMAN2 matrices are float32: a rotation must not change the voxel size by its rounding
        return voxel_size_angst if abs(scale - 1.0) < 1e-6 else voxel_size_angst / scale

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        matrix, shift = self._matrix_and_shift()
        if data.ndim == 3:
            return transformed(data, matrix, shift)
        mixing = np.abs([matrix[0, 2], matrix[1, 2], matrix[2, 0], matrix[2, 1], shift[2]])
        if mixing.max() > 1e-6 or matrix[2, 2] < 0:
            raise InputError(f"{self.plugin_name}: images turn in their plane only; give alpha, tx, ty")
        return transformed(data, matrix[:2, :2], shift[:2])


@dataclass(frozen=True, kw_only=True)
class Scale(BuiltinProcessor):
    """Enlarges about the centre by linear interpolation and clips to `clip` voxels a side."""

    plugin_name: ClassVar[str] = "xform.scale"
    scale: float = parameter(unit="", doc="enlargement; the voxel size is divided by it")
    clip: int | None = parameter(None, "pixels", "new size; scale · nx rounded down if not given")

    def _check_parameters(self) -> None:
        self._require(0 < self.scale <= 100, "scale", "more than 0 and at most 100")
        self._require(self.clip is None or 0 < self.clip <= 32768, "clip", "1 … 32768")

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size divided by the scale."""
        return voxel_size_angst / self.scale

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        if len(set(data.shape)) != 1:
            raise InputError(f"{self.plugin_name}: expected equal sizes, got {data.shape[::-1]} (x, y, z)")
        # 1e-9: a product such as 1.1 · 10 must not lose a pixel to rounding
        size = math.floor(self.scale * data.shape[0] + 1e-9) if self.clip is None else self.clip
        if size < 1:
            raise InputError(f"{self.plugin_name}: nothing is left of {data.shape[0]} pixels; give clip")
        return transformed(data, np.eye(data.ndim) * self.scale, np.zeros(data.ndim), (size,) * data.ndim)


@dataclass(frozen=True, kw_only=True)
class ApplySym(BuiltinProcessor):
    """Mean over all rotations of a symmetry, linearly interpolated; images take Cn only."""

    plugin_name: ClassVar[str] = "xform.applysym"
    sym: str = parameter(unit="", doc="symmetry, e.g. c4, d7, icos")
    averager: Literal["mean"] = parameter("mean", "", "how the copies are combined")

    def _check_parameters(self) -> None:
        symmetry = shared_registry().create("symmetry", self.sym)  # refuses an unknown name
        self._require(symmetry.is_group, "sym", "a point group")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        rotations = shared_registry().create("symmetry", self.sym).rotations()
        if data.ndim == 2:
            if np.abs(rotations[:, 2, 2] - 1.0).max() > 1e-9:
                raise InputError(f"{self.plugin_name}: images take cN symmetries only, got {self.sym}")
            rotations = rotations[:, :2, :2]
        total = np.zeros(data.shape, dtype=np.float64)
        for rotation in rotations:
            total += transformed(data, rotation, np.zeros(data.ndim))
        found: FloatArray = total / len(rotations)
        return found


@dataclass(frozen=True, kw_only=True)
class AxisProcessor(BuiltinProcessor):
    """Acts along one axis."""

    axis: Literal["x", "y", "z"] = parameter(unit="", doc="x, y or z")

    def _axis_of(self, data: FloatArray) -> int:
        if self.axis == "z" and data.ndim == 2:
            raise InputError(f"{self.plugin_name}: images have no z axis")
        return _AXES_FROM_LAST[self.axis]


def flipped(data: FloatArray, axis: int) -> FloatArray:
    """Data mirrored about n // 2; for even sizes plane 0, whose mate would be plane n, stays where it is."""
    turned = np.flip(data, axis)
    return np.roll(turned, 1, axis) if data.shape[axis] % 2 == 0 else turned


@dataclass(frozen=True, kw_only=True)
class Flip(AxisProcessor):
    """Mirrors about n // 2 along an axis; changes the hand.

    For even sizes plane 0 stays where it is; EMAN2 2.99 sets it to 0.
    """

    plugin_name: ClassVar[str] = "xform.flip"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return flipped(data, self._axis_of(data))


@dataclass(frozen=True, kw_only=True)
class Reverse(AxisProcessor):
    """Mirrors about n // 2 along an axis; plane 0 of even sizes stays where it is."""

    plugin_name: ClassVar[str] = "xform.reverse"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return flipped(data, self._axis_of(data))


@dataclass(frozen=True, kw_only=True)
class Mirror(AxisProcessor):
    """Reverses the order of pixels along an axis; for even sizes this moves the centre by one pixel."""

    plugin_name: ClassVar[str] = "xform.mirror"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return np.flip(data, self._axis_of(data))


@dataclass(frozen=True, kw_only=True)
class Rotate180(BuiltinProcessor):
    """Turns an image by 180° about n // 2."""

    plugin_name: ClassVar[str] = "math.rotate.180"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return flipped(flipped(data, -1), -2)


@dataclass(frozen=True, kw_only=True)
class Transpose(BuiltinProcessor):
    """Exchanges x and y of an image."""

    plugin_name: ClassVar[str] = "xform.transpose"
    dimensions: ClassVar[frozenset[int]] = frozenset({2})

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return data.T


def translated(data: FloatArray, shift: tuple[int, ...]) -> FloatArray:
    """Data moved by whole pixels (array order), 0 where nothing comes from."""
    result: FloatArray = np.zeros_like(data)
    target, source = [], []
    for step, size in zip(shift, data.shape, strict=True):
        moved = max(-size, min(size, step))
        target.append(slice(max(moved, 0), size + min(moved, 0)))
        source.append(slice(max(-moved, 0), size - max(moved, 0)))
    result[tuple(target)] = data[tuple(source)]
    return result


@dataclass(frozen=True, kw_only=True)
class TranslateInt(BuiltinProcessor):
    """Shift by whole pixels, 0 where nothing comes from."""

    plugin_name: ClassVar[str] = "xform.translate.int"
    trans: str = parameter(unit="pixels", doc="dx,dy or dx,dy,dz")

    def _check_parameters(self) -> None:
        values = numbers_in(self.trans, self.plugin_name, "trans")
        whole = all(value.is_integer() for value in values)
        self._require(whole and len(values) in (2, 3), "trans", "two or three whole numbers")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        steps = [int(value) for value in numbers_in(self.trans, self.plugin_name, "trans")]
        if any(steps[data.ndim :]):
            raise InputError(f"{self.plugin_name}: trans={self.trans} has a z shift, but the data are 2D")
        steps = [*steps, 0][: data.ndim]
        return translated(data, tuple(reversed(steps)))


@dataclass(frozen=True, kw_only=True)
class CenterOfMass(BuiltinProcessor):
    """Moves the centre of mass to n // 2.

    Whole-pixel shifts leave 0 behind; others are phase ramps (what leaves enters on the other side), where
    EMAN2 interpolates. Data without mass above the threshold stay as they are.
    """

    plugin_name: ClassVar[str] = "xform.centerofmass"
    threshold: float = parameter(0.0, "", "only values above it have mass")
    int_shift_only: bool = parameter(True, "", "round the shift to whole pixels")
    powercenter: bool = parameter(False, "", "mass is the squared value")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        mass = np.where(data > self.threshold, data, 0.0).astype(np.float64)
        if self.powercenter:
            mass = mass**2
        total = float(mass.sum())
        if total <= 0.0:
            return data
        shift = [-float((mass * axis).sum()) / total for axis in centred_grid(data.shape)]
        if self.int_shift_only:
            return translated(data, tuple(math.floor(abs(s) + 0.5) * (1 if s > 0 else -1) for s in shift))
        x, y, z = ([*reversed(shift), 0.0])[:3]
        return multiplied(data, phase_ramp(data.shape, (x, y, z)))


@dataclass(frozen=True, kw_only=True)
class PhaseoriginTocorner(BuiltinProcessor):
    """Moves the centre n // 2 to pixel 0, cyclically."""

    plugin_name: ClassVar[str] = "xform.phaseorigin.tocorner"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return np.fft.ifftshift(data)


@dataclass(frozen=True, kw_only=True)
class PhaseoriginTocenter(BuiltinProcessor):
    """Moves pixel 0 to the centre n // 2, cyclically."""

    plugin_name: ClassVar[str] = "xform.phaseorigin.tocenter"

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return np.fft.fftshift(data)
