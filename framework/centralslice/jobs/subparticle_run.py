"""One rank's part of a subparticles run: blocks of parents, gains first, then images at their places."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import SelectionError
from centralslice.fourier.invariants import InvariantKind, invariants
from centralslice.jobs.particle_images import ReadAhead
from centralslice.jobs.run_tools import RankTools
from centralslice.jobs.subparticle_compat import Eman2Engine
from centralslice.jobs.subparticle_engine import HalfEngine, ParentImages
from centralslice.jobs.subparticle_gain import GroupGain, RingStatistics, fit_gain, sample_rows, unit_gain
from centralslice.jobs.subparticle_plan import SubparticlePlan
from centralslice.jobs.subparticle_results import Results
from centralslice.jobs.subparticle_settings import PASS_ONE_PARENTS
from centralslice.jobs.subparticle_stack import SharedStack
from centralslice.runtime.checkpoint import MASTER as MASTER_SHARD
from centralslice.runtime.checkpoint import Shard, ShardRecord
from centralslice.runtime.schedule import BlockReport, run_stage

#: Parents of a block of the first pass.
SAMPLE_BLOCK = 16
#: Sub-particles the sign of the defocus change is judged by.
HAND_SUBPARTICLES = 500
#: In the order of their scores.
HANDS = (1.0, -1.0, 0.0)
#: Sub-particles whose making is shown in the report.
EXAMPLES = 4

#: What one block's work gives the master.
BlockFunction = Callable[[IntArray], dict[str, Any]]


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
    stack, invariant_stack
        The shared outputs, open on this rank.
    results
        On the master what is known so far, elsewhere None.
    """

    def __init__(
        self, plan: SubparticlePlan, tools: RankTools, images: ReadAhead[ParentImages], stack: SharedStack | None,
        invariant_stack: SharedStack | None, results: Results | None,
    ) -> None:  # fmt: skip
        self.plan, self._tools, self._images = plan, tools, images
        self._stack, self._invariants, self.results = stack, invariant_stack, results
        self._resumed = {} if tools.checkpoint is None else tools.checkpoint.blocks()
        done = {} if results is None else results.done
        if results is not None and len(results.rotations):
            self._pose(results.rotations, results.shifts_angst)
        self.planned = {label: count for label, count in done.items() if count}
        self.seconds: dict[str, float] = {}

    def extract_all(self) -> None:
        """Every sub-particle of every half set. Collective."""
        with self._tools.signals or nullcontext():  # between stages too: they may be short
            for half in self.plan.halves:
                self._extract_half(half)

    def _extract_half(self, half: int) -> None:
        """One half set: its map is read, and forgotten before the next."""
        parents: IntArray = np.flatnonzero(self.plan.particles.half_set == half)
        if self._is_done(half):
            return
        engine: HalfEngine | Eman2Engine
        if self.plan.settings.compat_eman2:
            engine = Eman2Engine(self.plan, half, self._tools.registry)
            parents = engine.order(parents)
        else:
            engine = HalfEngine(self.plan, half, self._tools.registry, self._tools.threads.map, self._hand())
            if self.plan.settings.subtraction.local_refine_deg > 0:
                self._refine(engine, parents)
            engine.gains = self._gains(engine, parents)
            if self._wants_hand(half):
                self._find_hand(engine, parents)
                engine = self._with_hand(engine)
            self._examples(engine)
        for part in range(len(engine.parts())):
            work = self._extraction(engine, part)
            self.stage(f"extract.{half}.{part}", parents, self.plan.block_parents, work)
        if self.results is not None:
            self.results.done[f"half.{half}"] = 0

    def _refine(self, engine: HalfEngine, parents: IntArray) -> None:
        """Poses of a half set against its own map; from here on they stand for the metadata's."""
        particles, results = self.plan.particles, self.results
        known = results is not None and f"poses.{engine.half}" in results.done
        if not self._tools.communicator.broadcast(known):

            def work(numbers: IntArray) -> dict[str, Any]:
                return {"poses": (numbers, *engine.refined(numbers, self._images.take(numbers)))}

            found: dict[int, Any] = {}
            self.stage(
                f"poses.{engine.half}", parents, self.plan.block_parents, work,
                lambda block, facts: found.update({block: facts["poses"]}), lasting=False,
            )  # fmt: skip
            if results is not None:
                if not len(results.rotations):
                    results.rotations = particles.rotations.copy()
                    results.shifts_angst = particles.shifts_angst.copy()
                for numbers, rotations, shifts in found.values():
                    results.rotations[numbers], results.shifts_angst[numbers] = rotations, shifts
                results.done[f"poses.{engine.half}"] = 0
        mine = None if results is None else (results.rotations, results.shifts_angst)
        rotations, shifts = self._tools.communicator.broadcast(mine)
        self._pose(rotations, shifts)
        engine.plan = self.plan

    def _pose(self, rotations: FloatArray, shifts_angst: FloatArray) -> None:
        """Other poses than the metadata's."""
        particles = replace(self.plan.particles, rotations=rotations, shifts_angst=shifts_angst)
        self.plan = replace(self.plan, particles=particles)

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

            self.stage(f"ssnr.{half}", parents, self.plan.block_parents, work, take, lasting=False)
            for block in sorted(parts):
                total += parts[block]
        return (total, field) if self._tools.is_master else None

    def _is_done(self, half: int) -> bool:
        """Whether a checkpoint holds all of a half set."""
        done = self.results is not None and f"half.{half}" in self.results.done
        return bool(self._tools.communicator.broadcast(done))

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
        known = self._tools.communicator.broadcast(
            self.results is not None and all(group in self.results.gains for group in groups)
        )
        if known:
            return {} if self.results is None else {group: self.results.gains[group] for group in groups}
        sample = parents[
            sample_rows(engine.groups[parents], PASS_ONE_PARENTS, self.plan.settings.copies.seed)
        ]
        parts: dict[int, dict[int, RingStatistics]] = {}

        def work(numbers: IntArray) -> dict[str, Any]:
            return {"statistics": engine.statistics(numbers, self._images.take(numbers))}

        self.stage(
            f"gains.{engine.half}", sample, SAMPLE_BLOCK, work, lambda block, facts: parts.update(
                {block: facts["statistics"]}
            ), lasting=False,
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
        return bool(
            self._tools.communicator.broadcast(self.results is not None and self.results.hand is None)
        )

    def _find_hand(self, engine: HalfEngine, parents: IntArray) -> None:
        each = max(1, self.plan.design.candidates_a_parent(self.plan.settings))
        wanted = max(1, HAND_SUBPARTICLES // each)
        sample = parents[:: max(1, len(parents) // wanted)][:wanted]
        scores: dict[int, FloatArray] = {}

        def work(numbers: IntArray) -> dict[str, Any]:
            return {"scores": engine.hand_scores(numbers, self._images.take(numbers))}

        self.stage(
            "hand", sample, SAMPLE_BLOCK, work, lambda block, facts: scores.update({block: facts["scores"]}),
            lasting=False,
        )  # fmt: skip
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

    def _extraction(self, engine: HalfEngine | Eman2Engine, part: int) -> BlockFunction:
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

    def stage(
        self, label: str, parents: IntArray, size: int, work: BlockFunction,
        take: Callable[[int, dict[str, Any]], None] | None = None, lasting: bool = True,
    ) -> None:  # fmt: skip
        """All blocks of some parents, whatever a checkpoint does not hold; collective."""
        tools = self._tools
        blocks = [parents[at : at + size] for at in range(0, len(parents), size)]
        done: list[int] = []
        if tools.is_master and lasting:
            done = [int(number) for number in self._resumed.get(label, ())]
            self.planned[label] = len(blocks)
        if tools.is_master:
            results = self.results
            tools.overseer.observe = _Collector(
                tools.overseer.observe, take or (lambda _, facts: results.take(facts) if results else None)
            )
            tools.overseer.planned = lambda: dict(self.planned)
        todo = sorted(set(range(len(blocks))) - set(done))
        stage = _Stage(self, label if lasting else "", blocks, work, done)
        begun = time.perf_counter()
        run_stage(tools.communicator, todo, stage, tools.overseer, self.plan.settings.master_works)
        self.seconds[label] = time.perf_counter() - begun
        if tools.is_master and isinstance(tools.overseer.observe, _Collector):
            tools.overseer.observe = tools.overseer.observe.before
        if self.results is not None and lasting:
            self.results.done[label] = len(blocks)

    def save(self, epoch: int, label: str, done: Sequence[int]) -> list[ShardRecord]:
        """Write this rank's shard, and on the master that of the run; images first."""
        store = self._tools.store
        if store is None:
            return []
        for stack in (self._stack, self._invariants):
            if stack is not None:
                stack.sync()
        own = Shard({}, {label: np.array(sorted(done), np.int64)} if label else {})
        records = [store.write_shard(epoch, self._tools.communicator.rank, own)]
        if self.results is not None:
            blocks = {
                name: np.arange(count, dtype=np.int64) for name, count in self.results.done.items() if count
            }
            mine = Shard({}, blocks, self.results.facts(), self.results.state())
            records.append(store.write_shard(epoch, MASTER_SHARD, mine))
        return records

    def read_ahead(self, numbers: IntArray) -> None:
        """Start reading these parents."""
        self._images.start(numbers)

    @property
    def rank(self) -> int:
        """Of this process."""
        return self._tools.communicator.rank


class _Collector:
    """Hands reports to the run before those who only watch."""

    def __init__(
        self, before: Callable[[BlockReport], None], take: Callable[[int, dict[str, Any]], None]
    ) -> None:
        self.before, self._take = before, take

    def __call__(self, report: BlockReport) -> None:
        self._take(report.block, report.facts)
        self.before(report)


class _Stage:
    """One rank's part of one stage, as the schedule drives it."""

    def __init__(
        self,
        run: SubparticleRun,
        label: str,
        blocks: Sequence[IntArray],
        work: BlockFunction,
        done: list[int],
    ) -> None:
        self._run, self._label, self._blocks, self._work, self._done = run, label, blocks, work, done

    def do_block(self, block: int) -> BlockReport:
        """Work on a block."""
        begun = time.perf_counter()
        numbers = self._blocks[block]
        facts = self._work(numbers)
        self._done.append(block)
        return BlockReport(block, self._run.rank, len(numbers), time.perf_counter() - begun, facts)

    def read_ahead(self, block: int) -> None:
        """Start reading a block."""
        self._run.read_ahead(self._blocks[block])

    def save(self, epoch: int) -> list[ShardRecord]:
        """Write this rank's shard."""
        return self._run.save(epoch, self._label, self._done)


def invariant_kind(plan: SubparticlePlan) -> InvariantKind | None:
    """The invariant that is written, or None."""
    kind: Literal["none", "bispec", "harmonic", "auto"] | None = plan.settings.invariant
    return kind if kind in ("bispec", "harmonic") else None
