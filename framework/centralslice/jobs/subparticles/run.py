"""One rank's part of a subparticles run: blocks of parents, gains first, then images at their places."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import SelectionError
from centralslice.fourier.invariants import InvariantKind, invariants
from centralslice.jobs.particle_images import ReadAhead
from centralslice.jobs.run_tools import RankTools
from centralslice.jobs.subparticles.compat import Eman2Engine
from centralslice.jobs.subparticles.engine import Engine, HalfEngine, ParentImages
from centralslice.jobs.subparticles.gain import GroupGain, RingStatistics, fit_gain, sample_rows, unit_gain
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.results import Results
from centralslice.jobs.subparticles.settings import PASS_ONE_PARENTS
from centralslice.jobs.subparticles.stack import SharedStack
from centralslice.jobs.subparticles.stages import BlockFunction, Stages

#: Parents of a block of the first pass.
SAMPLE_BLOCK = 16
#: Sub-particles the sign of the defocus change is judged by.
HAND_SUBPARTICLES = 500
#: In the order of their scores.
HANDS = (1.0, -1.0, 0.0)
#: Sub-particles whose making is shown in the report.
EXAMPLES = 4


class SubparticleRun:
    """Does all stages on one rank; the same object on every rank.

    Parameters
    ----------
    plan
        Of the run, the same everywhere.
    tools
        Of this rank.
    images
        Reads parents ahead.
    results
        On the master what is known so far, elsewhere None.
    """

    def __init__(
        self,
        plan: SubparticlePlan,
        tools: RankTools,
        images: ReadAhead[ParentImages],
        results: Results | None,
    ) -> None:
        self.plan, self._tools, self._images = plan, tools, images
        self._stages = Stages(tools, images.start, results, plan.settings.master_works)
        self._stack: SharedStack | None = None
        self._invariants: SharedStack | None = None
        #: Whether a checkpoint's images are to be gone on with; it has none if poses are refined first.
        self.resumes_images = tools.checkpoint is not None

    @property
    def results(self) -> Results | None:
        """On the master what is known so far, elsewhere None."""
        return self._stages.results

    @property
    def seconds(self) -> dict[str, float]:
        """Stage to time."""
        return self._stages.seconds

    def refine_poses(self) -> None:
        """Poses of all half sets against their own maps (``--localrefine``); which sub-particles there are follows.

        Collective; before there are stacks.
        """
        if not self.plan.settings.subtraction.local_refine_deg > 0:
            return
        halves = self._unrefined()
        with self._tools.signals or nullcontext():
            for half in halves:
                self._refine_half(half)
        self._pose()
        if halves:
            self.resumes_images = False
            if self.results is not None:
                self._stages.results = self.results.resized(self.plan)

    def _unrefined(self) -> list[int]:
        """Half sets whose poses are still to be refined, as the master knows. Collective."""
        done = self._tools.communicator.broadcast(None if self.results is None else list(self.results.done))
        return [half for half in self.plan.halves if f"poses.{half}" not in done]

    def _refine_half(self, half: int) -> None:
        engine = HalfEngine(self.plan, half, self._tools.registry, self._tools.threads.map, self._hand())
        parents: IntArray = np.flatnonzero(self.plan.particles.half_set == half)

        def work(numbers: IntArray) -> dict[str, Any]:
            return {"poses": (numbers, *engine.refined(numbers, self._images.take(numbers)))}

        found: dict[int, Any] = {}
        self._stages.run(
            f"poses.{half}", parents, self.plan.block_parents, work,
            lambda block, facts: found.update({block: facts["poses"]}),
        )  # fmt: skip
        if self.results is not None:
            self.results.take_poses(self.plan, half, found.values())

    def _pose(self) -> None:
        """The refined poses in place of the metadata's, on every rank. Collective."""
        results = self.results
        mine = None if results is None else (results.rotations, results.shifts_angst)
        self.plan = self.plan.posed(*self._tools.communicator.broadcast(mine))

    def extract_all(self, stacks: Sequence[SharedStack]) -> None:
        """Every sub-particle of every half set. Collective.

        Parameters
        ----------
        stacks
            The shared outputs, open on this rank: images, and invariants where they are asked for.
        """
        self._stack, self._invariants = stacks[0], stacks[1] if len(stacks) > 1 else None
        self._stages.stacks = list(stacks)
        with self._tools.signals or nullcontext():  # between stages too: they may be short
            for half in self.plan.halves:
                self._extract_half(half)

    def _extract_half(self, half: int) -> None:
        """One half set: its map is read, and forgotten before the next."""
        parents: IntArray = np.flatnonzero(self.plan.particles.half_set == half)
        if self._is_done(half):
            return
        engine: Engine
        if self.plan.settings.compat_eman2:
            engine = Eman2Engine(self.plan, half, self._tools.registry)
            parents = engine.order(parents)
        else:
            engine = HalfEngine(self.plan, half, self._tools.registry, self._tools.threads.map, self._hand())
            engine.gains = self._gains(engine, parents)
            if self._wants_hand(half):
                self._find_hand(engine, parents)
                engine = self._with_hand(engine)
            self._examples(engine)
        for part in range(len(engine.parts())):
            work = self._extraction(engine, part)
            self._stages.run(f"extract.{half}.{part}", parents, self.plan.block_parents, work)
        if self.results is not None:
            self.results.done[f"half.{half}"] = 0

    def statistics(self) -> tuple[FloatArray, float] | None:
        """Sums of --ssnr over all particles, in the order of the blocks, and the field of view; None on workers."""
        first = self.plan.particles.optics[0]
        field = self.plan.parent_box * first.pixel_size_angst
        total = np.zeros((3, self.plan.parent_box // 2 + 1))
        for half in self.plan.halves:
            parents = np.flatnonzero(self.plan.particles.half_set == half)
            engine = HalfEngine(self.plan, half, self._tools.registry, self._tools.threads.map, 0.0)
            parts: dict[int, FloatArray] = {}

            def work(numbers: IntArray, engine: HalfEngine = engine) -> dict[str, Any]:
                return {"powers": engine.powers(numbers, self._images.take(numbers), field)}

            def take(block: int, facts: dict[str, Any], parts: dict[int, FloatArray] = parts) -> None:
                parts[block] = facts["powers"]

            self._stages.run(f"ssnr.{half}", parents, self.plan.block_parents, work, take)
            for block in sorted(parts):
                total += parts[block]
        return (total, field) if self._tools.is_master else None

    def _is_done(self, half: int) -> bool:
        """Whether a checkpoint holds all of a half set."""
        return self._stages.master_says(lambda results: f"half.{half}" in results.done)

    def _gains(self, engine: HalfEngine, parents: IntArray) -> dict[int, GroupGain]:
        """The gain of every group of a half set, the same on every rank."""
        mode, size = self.plan.settings.subtraction.scale_mode, self.plan.parent_box
        groups = [int(group) for group in np.unique(engine.groups[parents])]
        if not self.plan.settings.subtraction.enabled or mode in ("none", "eman"):
            fitted = {group: unit_gain(size, "none" if mode != "eman" else mode) for group in groups}
        else:
            fitted = self._fitted(engine, parents, groups)
        if self.results is not None:
            self.results.gains |= fitted
        common: dict[int, GroupGain] = self._tools.communicator.broadcast(fitted)
        return common

    def _fitted(self, engine: HalfEngine, parents: IntArray, groups: list[int]) -> dict[int, GroupGain]:
        """Pass one: gains from some parents of each group, the sums in the order of the parents."""
        if self._stages.master_says(lambda results: all(group in results.gains for group in groups)):
            return {} if self.results is None else {group: self.results.gains[group] for group in groups}
        sample = parents[
            sample_rows(engine.groups[parents], PASS_ONE_PARENTS, self.plan.settings.copies.seed)
        ]
        parts: dict[int, dict[int, RingStatistics]] = {}

        def work(numbers: IntArray) -> dict[str, Any]:
            return {"statistics": engine.statistics(numbers, self._images.take(numbers))}

        self._stages.run(
            f"gains.{engine.half}", sample, SAMPLE_BLOCK, work,
            lambda block, facts: parts.update({block: facts["statistics"]}),
        )  # fmt: skip
        if self.results is None:
            return {}
        mode, size = self.plan.settings.subtraction.scale_mode, self.plan.parent_box
        flat = [group for group in groups if not any(group in part for part in parts.values())]
        if flat:
            raise SelectionError(
                f"{self.plan.particles.source}: all images of gain group {flat[0] + 1} are flat"
            )
        return {
            group: fit_gain(
                RingStatistics.join([parts[block][group] for block in sorted(parts) if group in parts[block]]),
                mode, size,
            )
            for group in groups
        }  # fmt: skip

    def _hand(self) -> float:
        """Sign of the defocus change as far as it is known."""
        crop = self.plan.settings.crop
        if not crop.adjust_defocus:
            return 0.0
        if crop.hand != "auto":
            return float(crop.hand)
        found = None if self.results is None else self.results.hand
        known = self._tools.communicator.broadcast(found)
        return 1.0 if known is None else float(known)

    def _wants_hand(self, half: int) -> bool:
        """Whether the sign is still to be found: from the first half set alone, for the second must not matter."""
        crop = self.plan.settings.crop
        if crop.hand != "auto" or not crop.adjust_defocus or half != self.plan.halves[0]:
            return False
        return self._stages.master_says(lambda results: results.hand is None)

    def _find_hand(self, engine: HalfEngine, parents: IntArray) -> None:
        each = max(1, self.plan.design.candidates_a_parent(self.plan.settings))
        wanted = max(1, HAND_SUBPARTICLES // each)
        sample = parents[:: max(1, len(parents) // wanted)][:wanted]
        scores: dict[int, FloatArray] = {}

        def work(numbers: IntArray) -> dict[str, Any]:
            return {"scores": engine.hand_scores(numbers, self._images.take(numbers))}

        self._stages.run(
            "hand", sample, SAMPLE_BLOCK, work, lambda block, facts: scores.update({block: facts["scores"]})
        )
        if self.results is not None:
            total = np.sum([scores[block] for block in sorted(scores)], axis=0)
            self.results.hand_scores = total
            self.results.hand = HANDS[int(np.argmax(total))]

    def _with_hand(self, engine: HalfEngine) -> HalfEngine:
        """The engine again, if the sign that was found changes it."""
        hand = self._hand()
        if self.plan.settings.subtraction.depth_slabs < 2 or hand == 1.0:
            return engine
        other = HalfEngine(self.plan, engine.half, self._tools.registry, self._tools.threads.map, hand)
        other.gains = engine.gains
        return other

    def _examples(self, engine: HalfEngine) -> None:
        """How the first sub-particles were made, on the master."""
        if self.results is None or engine.full is None:
            return
        wanted = max(EXAMPLES, self.plan.settings.debug_strips)
        kept = np.flatnonzero(self.plan.layout.kept.any(axis=1))[:wanted]
        mine = kept[self.plan.particles.half_set[kept] == engine.half]
        for number in mine:
            at = np.array([number])
            self.results.strips |= engine.strips(at, self._images.take(at))

    def _extraction(self, engine: Engine, part: int) -> BlockFunction:
        kind, pixel = invariant_kind(self.plan), self.plan.particles.optics[0].pixel_size_angst
        stack = self._stack
        if stack is None:
            raise RuntimeError("extraction needs a stack")

        def work(numbers: IntArray) -> dict[str, Any]:
            parents = self._images.take(numbers)
            pieces = []
            for done in engine.extract(numbers, parents, part):
                piece = {
                    "numbers": done.numbers, "moves": done.moves_px, "correlation": done.correlation,
                    "parents": done.parents, "scale": done.scale, "clipped": done.clipped,
                    "statistics": stack.write(done.numbers, done.images),
                }  # fmt: skip
                if kind is not None and self._invariants is not None:
                    few = np.array_split(done.images, max(1, len(done.images) // 8))
                    found = self._tools.threads.map(lambda some: invariants(some, kind, pixel), few)
                    piece["invariant_statistics"] = self._invariants.write(
                        done.numbers, np.concatenate(found)
                    )
                pieces.append(piece)
            return {"pieces": pieces, "flat": numbers[parents.blank]}

        return work


def invariant_kind(plan: SubparticlePlan) -> InvariantKind | None:
    """The invariant that is written, or None."""
    kind: Literal["none", "bispec", "harmonic", "auto"] | None = plan.settings.invariant
    return kind if kind in ("bispec", "harmonic") else None
