"""What all built-in processors share: checks of parameters and data, and the one-line pointwise kind."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.conventions import FloatArray
from centralslice.errors import InputError, ParameterError


@dataclass(frozen=True, kw_only=True)
class BuiltinProcessor(Processor):
    """A processor whose fields are checked against their annotations and whose data are checked first.

    Subclasses give ``_process``; its result gets the input's dtype and never shares the input's memory.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):
            self._check_type(entry.name, hints[entry.name])
        self._check_parameters()

    def _check_parameters(self) -> None:
        """Check ranges; raises ParameterError. Subclasses extend it."""

    def _require(self, good: bool, name: str, expected: str) -> None:
        """Refuse parameter ``name`` unless ``good``."""
        if not good:
            value = getattr(self, name)
            raise ParameterError(
                f"{self.plugin_name}: parameter '{name}': expected {expected}, got {value!r}"
            )

    def _check_type(self, name: str, hint: Any) -> None:
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        options = typing.get_args(hint) if union else (hint,)
        value = getattr(self, name)
        self._require(any(_is_a(value, option) for option in options), name, _kinds(options))

    def apply(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        """The processed data; see :meth:`centralslice.abc.processor.Processor.apply`.

        Raises
        ------
        InputError
            If the data have other dimensions than the processor takes, are empty or are not
            float32 or float64.
        """
        self._check_data(data)
        if not voxel_size_angst > 0 or not math.isfinite(voxel_size_angst):
            raise ParameterError(f"{self.plugin_name}: expected a voxel size > 0 Å, got {voxel_size_angst}")
        result: FloatArray = np.ascontiguousarray(self._process(data, voxel_size_angst), dtype=data.dtype)
        return result.copy() if np.may_share_memory(result, data) else result

    def _check_data(self, data: FloatArray) -> None:
        if data.ndim not in self.dimensions:
            takes = " or ".join(f"{number}D" for number in sorted(self.dimensions))
            raise InputError(f"{self.plugin_name}: takes {takes} data, got {data.ndim}D")
        if data.size == 0:
            raise InputError(f"{self.plugin_name}: expected data, got an empty array of shape {data.shape}")
        if data.dtype not in (np.float32, np.float64):
            raise InputError(f"{self.plugin_name}: expected float32 or float64 data, got {data.dtype}")

    @abstractmethod
    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        """The result in any float dtype; may be a view of ``data``."""


@dataclass(frozen=True, kw_only=True)
class PointwiseMap(BuiltinProcessor):
    """A function of each value alone."""

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        return self._value(data)

    @abstractmethod
    def _value(self, data: FloatArray) -> FloatArray:
        """The new values."""


def _is_a(value: Any, option: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers pass as floats, bools only as bools."""
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option)
    if option is float:
        return (
            isinstance(value, int | float | np.integer | np.floating)
            and not isinstance(value, bool)
            and not math.isnan(value)
        )
    if option is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    return isinstance(value, option)


def _kinds(options: tuple[Any, ...]) -> str:
    """The annotated types in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "none"}
    names = [
        "one of " + ", ".join(map(str, typing.get_args(option)))
        if typing.get_origin(option) is typing.Literal
        else words.get(option, str(option))
        for option in options
    ]
    return " or ".join(names)


def mean_of(data: FloatArray) -> float:
    """Mean, summed in double precision."""
    return float(data.mean(dtype=np.float64))


def mean_and_sigma(data: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation with divisor n − 1 (as EMAN2's ``sigma``); 0 for a single value."""
    values = data.astype(np.float64)
    sigma = float(values.std(ddof=1)) if data.size > 1 else 0.0
    return float(values.mean()), sigma


def centred_grid(shape: tuple[int, ...], shift_xyz: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[FloatArray]:
    """Open grid of pixel offsets from the centre ``n // 2 + shift`` of each axis, in array order."""
    moved = shift_xyz[: len(shape)][::-1]
    axes = [np.arange(size) - (size // 2 + offset) for size, offset in zip(shape, moved, strict=True)]
    return list(np.ix_(*axes))


def radius_grid(shape: tuple[int, ...], shift_xyz: tuple[float, ...] = (0.0, 0.0, 0.0)) -> FloatArray:
    """Distance of each pixel from the centre ``n // 2 + shift``, pixels, float64."""
    total: FloatArray = np.sqrt(sum(axis**2 for axis in centred_grid(shape, shift_xyz)))
    return total


def numbers_in(text: str, plugin_name: str, name: str) -> tuple[float, ...]:
    """Numbers of a comma-separated text parameter; raises ParameterError."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise ParameterError(
            f"{plugin_name}: parameter '{name}': expected numbers separated by commas, got '{text}'"
        )
    return values
