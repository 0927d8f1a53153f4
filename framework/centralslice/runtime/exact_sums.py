"""Sums whose bits do not depend on order: how a rank accumulates a stage.

Four kinds. *Integer*: the reconstructor adds whole multiples of a quantum itself, into integers of the size of
the floats they replace. *Block*: for any other reconstructor, a block is inserted into a float scratch array,
in fixed order, and rounded once to a quantum into int64 totals. *Wide*: the same with further int64 for what the
first rounds off, down to the smallest float32, because EMAN2's modes divide the faintest tails of their windows to
full strength.
*Fast*: plain floats, equal to rounding only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from centralslice.abc.reconstructor import MapGeometry, PassContext, Reconstructor, SumsPlan
from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.errors import ResourceError

SumsKind = Literal["integer", "block", "wide", "fast"]

#: Block totals are expected to stay below 2 to this power, and must stay below 2 to the 62.
EXPECTED_BITS = 50
#: Integers a number of wide sums is made of, and the bits by which each is finer than the one before; all but the
#: first would overflow after 2 to the 24 blocks.
LIMBS, LIMB_BITS = 4, 40


class RankSums(ABC):
    """What one rank has accumulated of one stage."""

    @abstractmethod
    def before(self, batch: SliceBatch, context: PassContext) -> Sums:
        """The sums to insert this batch into, with room for it."""

    def end_block(self) -> None:  # noqa: B027 - only block sums have something to do
        """A block is complete."""

    @property
    @abstractmethod
    def totals(self) -> Sums:
        """The exact totals: what is reduced, checkpointed and merged."""

    def include_piece(self, name: str, where: Any, values: NDArray[Any]) -> None:
        """Add some planes of totals of the same kind, from a checkpoint."""
        add_piece(self.totals, name, where, values)


def add_piece(totals: Sums, name: str, where: Any, values: NDArray[Any]) -> None:
    """``totals[name][where] += values``; int32 that would overflow become int64."""
    here = totals.arrays[name]
    if here.dtype == np.int32:
        wide = here[where].astype(np.int64) + values
        if wide.size and max(-int(wide.min()), int(wide.max())) > np.iinfo(np.int32).max:
            totals.arrays[name] = here = here.astype(np.int64)
    here[where] += values.astype(here.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class SumsScheme:
    """How a run sums, decided once on the master and the same on every rank.

    Attributes
    ----------
    kind
        Which of the four.
    quanta
        Integer: the reconstructor's units (value, weight, plain weight). Not used otherwise.
    block_quanta
        Block: name to quantum, one a channel of the last axis (or one for all). Wide: to one an integer.
    """

    kind: SumsKind
    quanta: tuple[float, float, float] = (1.0, 1.0, 1.0)
    block_quanta: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def start(self, plan: SumsPlan, reconstructor: Reconstructor) -> RankSums:
        """Sums of nothing."""
        if self.kind == "integer":
            return IntegerSums(plan.zeros(), reconstructor)
        if self.kind == "block":
            return BlockSums(plan.zeros(), dict(self.block_quanta))
        if self.kind == "wide":
            return WideSums(plan.zeros(), dict(self.block_quanta))
        return FastSums(plan.zeros())

    def units(self, plan: SumsPlan) -> dict[str, tuple[float, ...]]:
        """Array name to the quantum of each channel; empty for floats."""
        if self.kind == "integer":
            value, weight, plain = self.quanta
            return dict.fromkeys(plan.shapes, (value, value, weight, plain))
        return dict(self.block_quanta)

    @classmethod
    def of_units(cls, kind: SumsKind, units: Mapping[str, Sequence[float]], plan: SumsPlan) -> SumsScheme:
        """The scheme whose :meth:`units` these are, for finishing sums that were kept."""
        if kind != "integer":
            return cls(kind, block_quanta=tuple((name, tuple(each)) for name, each in units.items()))
        value, _, weight, plain = units[next(iter(plan.shapes))]
        return cls(kind, (value, weight, plain))

    def finishable(self, totals: Sums, plan: SumsPlan) -> Sums:
        """Totals as the reconstructor's finish reads them."""
        if self.kind not in ("block", "wide"):
            return totals
        quanta = dict(self.block_quanta)
        floats = _limbs_as_floats if self.kind == "wide" else _as_floats
        return Sums({name: floats(array, quanta[name], plan.dtype) for name, array in totals.arrays.items()})


def choose_kind(reconstructor: Reconstructor, exact: bool) -> SumsKind:
    """Integer sums where the reconstructor offers them, else blocks; floats if exactness is not wanted."""
    if not exact:
        return "fast"
    if reconstructor.offers_integer_sums:
        return "integer"
    return "wide" if reconstructor.eman2_slices else "block"


def calibrate(
    kind: SumsKind, reconstructor: Reconstructor, context: PassContext, sample: Sequence[SliceBatch],
    shares: tuple[float, float],
) -> SumsScheme:  # fmt: skip
    """Choose the quanta from a deterministic sample of the run's batches.

    Parameters
    ----------
    kind
        What to calibrate.
    reconstructor, context
        As in the run.
    sample
        Batches spread over the particles.
    shares
        Slices of the sample, and of one block, over slices of the run.
    """
    if kind == "fast":
        return SumsScheme(kind)
    if kind == "integer":
        return SumsScheme(kind, reconstructor.quanta(sample, *shares, context.geometry))
    scratch = context.plan.zeros()
    for batch in sample:
        reconstructor.insert(batch, scratch, context, (0, context.plan.planes))
    quanta_of = _limb_quanta_of if kind == "wide" else _quanta_of
    quanta = tuple((name, quanta_of(array, shares[0])) for name, array in scratch.arrays.items())
    return SumsScheme(kind, block_quanta=quanta)


def integer_geometry(geometry: MapGeometry, kind: SumsKind) -> MapGeometry:
    """The geometry as the reconstructor must plan for this kind of sums."""
    return replace(geometry, integer_sums=kind == "integer")


def scheme_bytes(kind: SumsKind, plan: SumsPlan) -> int:
    """Memory of one rank's sums of a stage."""
    totals = {"integer": 0, "fast": 0, "block": 1, "wide": LIMBS}[kind]
    numbers = plan.nbytes // np.dtype(plan.dtype.type(0).real.dtype).itemsize
    return int(plan.nbytes + totals * 8 * numbers)


class FastSums(RankSums):
    """Floats."""

    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def before(self, batch: SliceBatch, context: PassContext) -> Sums:
        """Always the same arrays."""
        return self._sums

    @property
    def totals(self) -> Sums:
        """The floats."""
        return self._sums


class IntegerSums(RankSums):
    """Integers that the reconstructor adds into; they become wider before they could overflow."""

    def __init__(self, sums: Sums, reconstructor: Reconstructor) -> None:
        self._sums, self._reconstructor = sums, reconstructor
        self._largest = 0.0  # no number was larger when they were last looked at,
        self._changed = 0.0  # and none can have changed by more since

    def before(self, batch: SliceBatch, context: PassContext) -> Sums:
        """The integers, looked at or widened if this batch might overflow one."""
        change = self._reconstructor.largest_change(batch, context)
        if self._largest + self._changed + change >= self._limit:
            self._largest, self._changed = self._look(context), 0.0
            if self._largest + change >= self._limit:
                self._widen()
        self._changed += change
        return self._sums

    @property
    def totals(self) -> Sums:
        """The integers."""
        return self._sums

    def include_piece(self, name: str, where: Any, values: NDArray[Any]) -> None:
        """Add integers, and look at all of them before the next batch."""
        super().include_piece(name, where, values)
        self._changed = self._limit

    @property
    def _limit(self) -> float:
        return float(2 ** (8 * next(iter(self._sums.arrays.values())).itemsize - 1) - 1)

    def _look(self, context: PassContext) -> float:
        largest = 0.0
        for array in self._sums.arrays.values():
            planes = [array[z] for z in range(len(array))]
            largest = max(largest, *context.parallel(_largest, planes))
        return largest

    def _widen(self) -> None:
        for name, array in self._sums.arrays.items():
            if array.dtype == np.int64:
                raise ResourceError("sums: beyond the range of 64-bit integers; give --sums fast")
            try:
                self._sums.arrays[name] = array.astype(np.int64)
            except MemoryError as error:
                raise ResourceError(
                    f"sums: outgrew 32 bits, and {2 * array.nbytes / 1e9:,.2f} GB more memory cannot be had for 64; "
                    "give the job more, or --sums fast"
                ) from error


class BlockSums(RankSums):
    """Float scratch for one block, int64 totals."""

    def __init__(self, scratch: Sums, quanta: dict[str, tuple[float, ...]]) -> None:
        self._scratch, self._quanta = scratch, quanta
        self._totals = Sums({name: self._zeros(_real(array).shape) for name, array in scratch.arrays.items()})
        self._dirty = False

    def _zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Totals of an array of this shape, of nothing."""
        return np.zeros(shape, np.int64)

    def before(self, batch: SliceBatch, context: PassContext) -> Sums:
        """The scratch."""
        self._dirty = True
        return self._scratch

    def end_block(self) -> None:
        """Round the block to the quanta, add it exactly, clear the scratch."""
        if not self._dirty:
            return
        self._dirty = False
        for name, array in self._scratch.arrays.items():
            if self._flush(self._totals.arrays[name], _real(array), np.array(self._quanta[name])) >= 2.0**62:
                raise ResourceError("sums: a total is beyond the range of 64-bit integers; give --sums fast")

    def _flush(self, totals: NDArray[Any], block: FloatArray, quanta: FloatArray) -> float:
        """Move an array's block to its totals; the largest magnitude met."""
        lines = block.reshape(-1, block.shape[-1])
        scale = 1.0 / np.resize(quanta, block.shape[-1])
        return float(_flush(totals.reshape(lines.shape), lines, scale))

    @property
    def totals(self) -> Sums:
        """The totals in quanta."""
        return self._totals


class WideSums(BlockSums):
    """Float scratch for one block, each total several int64 (last axis), from coarse to fine."""

    def _zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros((*shape, LIMBS), np.int64)

    def _flush(self, totals: NDArray[Any], block: FloatArray, quanta: FloatArray) -> float:
        return float(_flush_limbs(totals.reshape(-1, LIMBS), block.reshape(-1), 1.0 / quanta[0]))


def _real(array: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers as pairs of reals."""
    return array.view(array.real.dtype) if np.iscomplexobj(array) else array


def _quanta_of(array: NDArray[Any], share: float) -> tuple[float, ...]:
    """Powers of two, one a channel if the last axis is short."""
    real = np.abs(_real(array))
    channels = real.shape[-1] if real.ndim > 3 and real.shape[-1] <= 8 else 1
    peaks = real.reshape(-1, channels).max(axis=0) if channels > 1 else np.array([real.max()])
    peaks = np.where(peaks > 0, peaks, max(float(peaks.max()), 1e-30))
    quanta = 2.0 ** (np.ceil(np.log2(peaks / share)) - EXPECTED_BITS)
    return tuple(float(value) for value in quanta)


def _limb_quanta_of(array: NDArray[Any], share: float) -> tuple[float, ...]:
    """Powers of two, one an integer of wide sums."""
    coarse = max(_quanta_of(array, share))
    return tuple(coarse * 2.0 ** (-LIMB_BITS * limb) for limb in range(LIMBS))


def _limbs_as_floats(array: NDArray[Any], quanta: tuple[float, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Wide totals as the float or complex dtype of the plan."""
    floats = np.empty(array.shape[:-1], np.dtype(dtype.type(0).real.dtype))
    for plane, limbs in zip(floats, array, strict=True):
        plane[...] = sum(limbs[..., number] * quanta[number] for number in reversed(range(LIMBS)))
    return floats.view(dtype)


def _as_floats(array: NDArray[Any], quanta: tuple[float, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Totals times quanta, plane by plane, as the float or complex dtype of the plan."""
    kind = np.dtype(dtype.type(0).real.dtype)
    floats = np.empty(array.shape, kind)
    scale = np.resize(np.array(quanta), array.shape[-1])
    for plane, values in zip(floats, array, strict=True):
        plane[...] = values * scale
    return floats.view(dtype)


@njit(nogil=True, cache=True)
def _largest(plane: Any) -> float:
    """Largest magnitude in a plane of integers."""
    largest = 0
    for value in plane.ravel():
        largest = max(largest, abs(value))
    return float(largest)


@njit(nogil=True, cache=True)
def _flush_limbs(totals: Any, block: Any, scale: float) -> float:
    """``totals += block · scale``, what one integer rounds off into the next; the largest magnitude met."""
    largest = 0.0
    for number in range(len(block)):
        rest = float(block[number]) * scale
        for limb in range(totals.shape[1]):
            part = np.rint(rest)
            rest = (rest - part) * 2.0**LIMB_BITS  # exact
            largest = max(largest, abs(part))
            totals[number, limb] += np.int64(part)
            largest = max(largest, abs(float(totals[number, limb])))
        block[number] = 0
    return largest


@njit(nogil=True, cache=True)
def _flush(totals: Any, block: Any, scale: Any) -> float:
    """``totals += rint(block · scale)``, ``block = 0``; the largest magnitude met."""
    largest = 0.0
    for line in range(block.shape[0]):
        for channel in range(block.shape[1]):
            part = np.rint(float(block[line, channel]) * scale[channel])
            largest = max(largest, abs(part))
            totals[line, channel] += np.int64(part)
            largest = max(largest, abs(float(totals[line, channel])))
            block[line, channel] = 0
    return largest
