"""What the master gathers of a subparticles run, and how a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import CheckpointError
from centralslice.jobs.subparticles.gain import GroupGain
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.runtime.checkpoint import AnyArray, StoredShard

#: Arrays with a row for each parent, sub-particle or stored image, and those that may be empty.
_SIZED = ("scale", "clipped", "blank", "moves_px", "correlation", "statistics", "invariant_statistics")
_UNSIZED = ("hand_scores", "rotations", "shifts_angst")
_GAIN = ("curve", "sigma", "noise")
_GAIN_NUMBERS = ("cutoff", "median", "spread", "count")
#: Parents' numbers, rotations and shifts in Å of a block.
Poses: TypeAlias = tuple[IntArray, FloatArray, FloatArray]


@dataclass
class Results:
    """Numbers of parents and sub-particles, filled in as blocks are reported.

    Attributes
    ----------
    scale, clipped, blank
        (n,) b_p of each parent (NaN where there is none), whether it was clipped, whether its image is flat.
    moves_px, correlation
        (m, 2) and (m,) of each sub-particle.
    statistics, invariant_statistics
        (m, 4) of each stored image, for headers.
    gains
        Gain group to its gain.
    strips
        Place in the stack to (5, n, n) pictures of how it was made.
    done
        Stages that are complete, with their numbers of blocks.
    hand
        Sign of the defocus change; None: not found yet.
    hand_scores
        What it was judged by, or empty.
    rotations, shifts_angst
        Refined poses, or empty.
    """

    scale: FloatArray
    clipped: AnyArray
    blank: AnyArray
    moves_px: IntArray
    correlation: FloatArray
    statistics: FloatArray
    invariant_statistics: FloatArray
    gains: dict[int, GroupGain] = field(default_factory=dict)
    strips: dict[int, FloatArray] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    hand: float | None = None
    hand_scores: FloatArray = field(default_factory=lambda: np.empty(0))
    rotations: FloatArray = field(default_factory=lambda: np.empty((0, 3, 3)))
    shifts_angst: FloatArray = field(default_factory=lambda: np.empty((0, 2)))

    @classmethod
    def empty(cls, plan: SubparticlePlan) -> Results:
        """Nothing yet."""
        parents, total = len(plan.particles), plan.layout.total
        invariants = total if plan.files.invariants is not None else 0
        return cls(
            np.full(parents, np.nan), np.zeros(parents, np.bool_), np.zeros(parents, np.bool_),
            np.zeros((total, 2), np.int32), np.full(total, np.nan, np.float32), np.zeros((total, 4)),
            np.zeros((invariants, 4)),
        )  # fmt: skip

    def take_poses(self, plan: SubparticlePlan, half: int, found: Iterable[Poses]) -> None:
        """Note the refined poses of a half set: parents' numbers, rotations and shifts (Å) of each block."""
        if not len(self.rotations):
            self.rotations = plan.particles.rotations.copy()
            self.shifts_angst = plan.particles.shifts_angst.copy()
        for numbers, rotations, shifts in found:
            self.rotations[numbers], self.shifts_angst[numbers] = rotations, shifts
        self.done[f"poses.{half}"] = 0

    def resized(self, plan: SubparticlePlan) -> Results:
        """For the sub-particles of a plan whose poses are these; no image has been made yet."""
        return replace(
            Results.empty(plan), rotations=self.rotations, shifts_angst=self.shifts_angst, done=self.done
        )

    def take(self, facts: Mapping[str, Any]) -> None:
        """Note what a block's report says."""
        for piece in facts["pieces"]:
            self.scale[piece["parents"]] = piece["scale"]
            self.clipped[piece["parents"]] = piece["clipped"]
            numbers = piece["numbers"]
            self.moves_px[numbers] = piece["moves"]
            self.correlation[numbers] = piece["correlation"]
            self.statistics[numbers] = piece["statistics"]
            if len(self.invariant_statistics):
                self.invariant_statistics[numbers] = piece["invariant_statistics"]
        self.blank[facts["flat"]] = True

    def state(self) -> dict[str, AnyArray]:
        """As arrays, for a checkpoint."""
        arrays = {name: np.asarray(getattr(self, name)) for name in (*_SIZED, *_UNSIZED)}
        for group, gain in self.gains.items():
            arrays |= {f"gain.{group}.{name}": np.asarray(getattr(gain, name)) for name in _GAIN}
            arrays[f"gain.{group}.numbers"] = np.array([float(getattr(gain, name)) for name in _GAIN_NUMBERS])
        return arrays | {f"strip.{number}": strip for number, strip in self.strips.items()}

    def facts(self) -> dict[str, Any]:
        """The rest, for a checkpoint."""
        modes = {str(group): gain.mode for group, gain in self.gains.items()}
        return {"done": self.done, "hand": self.hand, "modes": modes}

    @classmethod
    def of(cls, plan: SubparticlePlan, shard: StoredShard) -> Results:
        """As a checkpoint holds them; where all poses were refined, for the sub-particles that these give.

        Raises
        ------
        CheckpointError
            If they are not of this run's size.
        """
        state, facts = shard.state(), shard.facts()
        if all(f"poses.{half}" in facts["done"] for half in plan.halves):
            plan = plan.posed(state["rotations"], state["shifts_angst"])
        found = cls.empty(plan)
        for name in _UNSIZED:
            setattr(found, name, state[name])
        for name in _SIZED:
            if state[name].shape != getattr(found, name).shape:
                raise CheckpointError(
                    f"{shard.path}: {name} has the shape {state[name].shape}, which is not this run's"
                )
            setattr(found, name, state[name])
        for group, mode in facts["modes"].items():
            numbers = state[f"gain.{group}.numbers"]
            curve, sigma, noise = (state[f"gain.{group}.{name}"] for name in _GAIN)
            cutoff, median, spread, count = numbers.tolist()
            found.gains[int(group)] = GroupGain(
                mode, curve, sigma, noise, int(cutoff), median, spread, int(count)
            )
        for name, array in state.items():
            if name.startswith("strip."):
                found.strips[int(name.removeprefix("strip."))] = array
        found.done, found.hand = dict(facts["done"]), facts["hand"]
        return found
