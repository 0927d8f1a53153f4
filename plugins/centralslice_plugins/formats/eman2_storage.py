"""What EMAN2's HDF5 files hold beside the voxels: bit reduction, attribute types, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from centralslice.errors import ParameterError
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform, eman2_object
from centralslice_plugins.formats.eman2_hdf import PREFIX


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A range and the number of bits it is divided into."""

    low: float
    high: float
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 up to 8 bits, uint16 beyond."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """The nearest levels; nothing is clipped, since the range holds all values."""
        levels = 2**self.bits - 1
        span = self.high - self.low
        steps = (values.astype(np.float64) - self.low) * (levels / span if span > 0 else 0.0)
        return np.clip(np.rint(steps), 0, levels).astype(self.dtype)


def quantisation_of(minimum: float, maximum: float, all_integers: bool, bits: int) -> Quantisation:
    """The range for bit reduction: all values from smallest to largest, and 0 among the levels.

    Limits and levels are exact in float32, as they are stored. Integers keep a step of a power of two.
    With one bit the two levels are the limits.

    Raises
    ------
    ParameterError
        If the limits are not finite.
    """
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        raise ParameterError("values that are not finite cannot be quantised; use --compressbits -1")
    levels = 2**bits - 1
    if bits > 1 and all_integers and max(abs(minimum), abs(maximum)) + levels < 2**24:
        step, low = 1.0, minimum
        while low + step * levels < maximum:
            step *= 2
            low = float(np.floor(minimum / step)) * step if minimum < 0 < maximum else minimum
        return Quantisation(low, low + step * levels, bits)
    if minimum < 0 < maximum and bits > 1:
        step = _short_above((maximum - minimum) / (levels - 1), 24 - bits)
        low = np.floor(minimum / step) * step
        return Quantisation(float(low), float(low + step * levels), bits)
    return Quantisation(float(np.float32(minimum)), float(np.float32(maximum)), bits)


def _short_above(value: float, digits: int) -> float:
    """The smallest number of at most ``digits`` binary digits that is not below ``value``."""
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.ceil(mantissa * 2.0**digits), int(exponent) - digits))


def attribute_value(name: str, value: Any) -> tuple[NDArray[Any], tuple[int, ...]] | None:
    """An attribute as EMAN2 reads it: array and HDF5 shape; None for an empty list, which is left out.

    int32, float64, float32 lists, NUL-terminated fixed strings, compound Transforms; never int64 or
    variable-length strings, on which the peer fails.

    Raises
    ------
    ParameterError
        If the type has no place in the format or an integer is beyond 32 bits.

    Notes
    -----
    Transforms and CTFs may be given as plain numbers; see :func:`eman2_object`.
    """
    try:
        value = eman2_object(name, value)
    except ValueError as error:
        raise ParameterError(f"attribute {name}: {error}") from error
    if isinstance(value, Transform):
        return value.as_compound(), (1,)
    if isinstance(value, Eman2Ctf):
        value = value.as_text()
    if isinstance(value, (str, Path)):
        text = str(value).encode()
        return np.array(text, f"S{len(text) + 1}"), ()
    array = np.asarray(value)
    if not array.size:
        return None
    if array.dtype.kind not in "biuf" or array.ndim > 1:
        raise ParameterError(
            f"attribute {name}: a {type(value).__name__} cannot be stored in EMAN2 HDF files"
        )
    if array.dtype.kind in "biu":
        if array.dtype.kind != "b" and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
            raise ParameterError(f"attribute {name}: {array.max()} is beyond the 32 bits of EMAN2's integers")
        return np.atleast_1d(array.astype(np.int32)), (array.size,)
    if array.dtype == np.float32 or array.ndim:
        return np.atleast_1d(array.astype(np.float32)), (array.size,)
    return np.atleast_1d(array.astype(np.float64)), (1,)


def write_attributes(group: h5py.Group, attributes: Mapping[str, Any]) -> None:
    """Store attributes under EMAN2's names and types; see :func:`attribute_value`."""
    for name, value in attributes.items():
        found = attribute_value(name, value)
        if found is not None:
            array, shape = found
            group.attrs.create(f"{PREFIX}{name}", array.reshape(shape), shape=shape, dtype=array.dtype)


def statistics_of(data: NDArray[Any]) -> dict[str, Any]:
    """EMAN2's statistics block of a 2D or 3D image; sigmas divide by n − 1, figures are float32.

    Summed section by section in float64, so that no float64 copy of a large map is made.
    """
    sections = data if data.ndim == 3 else data[np.newaxis]
    sums = np.array([_sums(section.astype(np.float64)) for section in sections])
    count, nonzero = data.size, int(sums[:, 2].sum())
    total, squares = float(sums[:, 0].sum()), float(sums[:, 1].sum())
    mean = total / count
    mean_nonzero = total / nonzero if nonzero else 0.0
    deviation = sum(float(np.square(section.astype(np.float64) - mean).sum()) for section in sections)
    spread = max(0.0, squares - nonzero * mean_nonzero**2)
    figures = {
        "minimum": sums[:, 3].min(),
        "maximum": sums[:, 4].max(),
        "mean": mean,
        "sigma": np.sqrt(deviation / max(1, count - 1)),
        "square_sum": squares,
        "mean_nonzero": mean_nonzero,
        "sigma_nonzero": np.sqrt(spread / max(1, nonzero - 1)),
    }
    nz, ny, nx = sections.shape
    facts = {
        "all_int": int(sums[:, 5].all()), "is_complex": 0, "is_complex_x": 0, "is_complex_ri": 1,
        "changecount": 1, "nx": nx, "ny": ny, "nz": nz,
    }  # fmt: skip
    return {name: np.float32(figure) for name, figure in figures.items()} | facts


def _sums(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Sum, sum of squares, number of values that are not 0, minimum, maximum, whether all are integers."""
    return (
        float(values.sum()), float(np.square(values).sum()), float(np.count_nonzero(values)),
        float(values.min()), float(values.max()), float(np.array_equal(values, np.rint(values))),
    )  # fmt: skip
