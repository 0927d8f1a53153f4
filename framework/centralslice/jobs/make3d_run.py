"""One rank's part of make3d: its images, its sums, and on the master the maps."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import NextPass, PassContext, WeightMap
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.errors import CheckpointError
from centralslice.fourier.prepare import GroupPreparation, prepare_group
from centralslice.fourier.projection import slice_reader
from centralslice.jobs.accumulation import Accumulation
from centralslice.jobs.finish_maps import MapFinisher, kept_scheme, read_iteration_mask, read_seed
from centralslice.jobs.finish_plan import finish_plan
from centralslice.jobs.make3d_plan import Make3dPlan
from centralslice.jobs.particle_images import ReadAhead, StackPool
from centralslice.jobs.slice_batches import BatchMaker
from centralslice.jobs.stages import Stages
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore
from centralslice.runtime.communicator import MASTER, Communicator
from centralslice.runtime.exact_sums import SumsScheme, calibrate
from centralslice.runtime.schedule import Overseer
from centralslice.runtime.signals import SignalFlags
from centralslice.runtime.threads import Threads

#: Images from which the quanta of exact sums are found; more only if all of these are blank.
SAMPLE_IMAGES = (64, 1024)
#: Under this name the memory of a run of several passes has the weights of the merged map.
NORM = "weights.merged"


@dataclass(frozen=True, slots=True)
class RankTools:
    """What a rank works with, opened by the caller.

    Attributes
    ----------
    registry, pool, threads
        Plugins, image files, threads of this rank.
    communicator
        The ranks.
    store
        Where checkpoints go, or None.
    overseer
        Of the stages; only the master's is used.
    checkpoint
        What the master resumes from, or None.
    signals
        Stop signals to be noted while particles are inserted, or None.
    """

    registry: Registry
    pool: StackPool
    threads: Threads
    communicator: Communicator
    store: CheckpointStore | None
    overseer: Overseer
    checkpoint: Checkpoint | None = None
    signals: SignalFlags | None = None


class Make3dRun:
    """Computes the maps of a plan; every rank makes one and calls the same methods."""

    def __init__(
        self, plan: Make3dPlan, tools: RankTools, images: ReadAhead, before_finish: Callable[[str], None]
    ) -> None:
        self.plan, self._tools = plan, tools
        #: How the sums are finished.
        self.finishing = finish_plan(plan, tools.registry)
        #: Called on the master when every particle is in the totals, or all maps of several passes are made.
        self.when_complete: Callable[[], None] = lambda: None
        self._insert_seconds = 0.0
        self._seed = read_seed(self.finishing, tools.registry)
        self._mask = read_iteration_mask(self.finishing, tools.registry)
        self._batches = self._batch_maker()
        accumulation = Accumulation(images, self._batches, plan.reconstructor, plan.piece_images)
        self._scheme = self._common_scheme(images)
        self._finisher = MapFinisher(
            self.finishing, self._scheme, plan.outputs.norm is not None, before_finish
        )
        self.stages = Stages(
            tools.communicator, accumulation, self._scheme, store=tools.store, overseer=tools.overseer,
            checkpoint=tools.checkpoint, master_works=plan.settings.master_works, block_images=plan.block_images,
        )  # fmt: skip

    @property
    def is_master(self) -> bool:
        """Whether this rank makes the maps."""
        return self._tools.communicator.rank == MASTER

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of inserting, of adding up the sums of all ranks, and of finishing."""
        reduce_s = self.stages.reduce_s
        return {
            "insert": self._insert_seconds - reduce_s,
            "reduce": reduce_s,
            "finish": self._finisher.seconds,
        }

    @property
    def norm(self) -> WeightMap | None:
        """Weights of the merged map, if they are wanted and it is finished."""
        stored = self.stages.memory.arrays.get(NORM)
        return self._finisher.norm if stored is None else WeightMap(stored)

    def maps(self) -> dict[str, FloatArray]:
        """``merged``, and ``half1`` and ``half2`` if there are half sets; empty on workers. Collective."""
        everyone = np.arange(len(self.plan.particles))
        if self.plan.has_halves and self.plan.sums.passes == 1:
            return self._one_pass_halves()
        parts = {**(self._halves() if self.plan.has_halves else {}), "merged": everyone}
        maps = {label: self._map_of(label, rows) for label, rows in parts.items()}
        if self.is_master and self.plan.sums.passes > 1:
            self.when_complete()
        return self._present(maps)

    def planned_blocks(self) -> dict[str, int]:
        """Label of every stage to its number of blocks; of a reconstructor with several passes, those begun."""
        if self.plan.sums.passes > 1:
            return dict(self.stages.planned)
        return {label: -(-len(rows) // self.plan.block_images) for label, rows in self._stage_rows().items()}

    def stage_quanta(self) -> dict[str, dict[str, Any]]:
        """Label of every stage to the units of its integer sums, one a channel."""
        units = self._scheme.units(self.plan.sums)
        return {label: dict(units) for label in self._stage_rows()} if units else {}

    def _stage_rows(self) -> dict[str, IntArray]:
        """The stages of a run of one pass, and their particles."""
        if not self.plan.has_halves:
            return {"merged": np.arange(len(self.plan.particles))}
        rest = np.flatnonzero(self.plan.particles.half_set == 0)
        return {**self._halves(), **({"none": rest} if len(rest) else {})}

    def half_maps(self) -> tuple[FloatArray, FloatArray]:
        """The two half maps alone; one rank only."""
        made = self._present({label: self._map_of(label, rows) for label, rows in self._halves().items()})
        return made["half1"], made["half2"]

    def _halves(self) -> dict[str, IntArray]:
        halves = self.plan.particles.half_set
        return {"half1": np.flatnonzero(halves == 1), "half2": np.flatnonzero(halves == 2)}

    def _present(self, maps: dict[str, FloatArray | None]) -> dict[str, FloatArray]:
        return {label: data for label, data in maps.items() if data is not None}

    def _one_pass_halves(self) -> dict[str, FloatArray]:
        """Every particle is inserted once: merged = half 1 + half 2 + those of neither."""
        context = self._context()
        totals = {label: self._insert(label, rows, context) for label, rows in self._stage_rows().items()}
        if not self.is_master:
            return {}
        self.when_complete()
        self.stages.completed.clear()
        sums = {label: part for label, part in totals.items() if part is not None}
        del totals
        return self._finisher.maps(sums, context)

    def _map_of(self, label: str, rows: IntArray) -> FloatArray | None:
        """The map of some particles, in as many passes as the reconstructor wants; None on workers."""
        memory, context = self.stages.memory, self._context()
        start = self._tools.communicator.broadcast(
            (
                f"map.{label}" in memory.arrays,
                memory.passes.get(label, 0),
                memory.arrays.get(f"reference.{label}"),
            )
        )
        if start[0]:
            return memory.arrays.get(f"map.{label}")
        if start[1]:
            context = replace(context, pass_number=start[1], reference=start[2])
        while True:
            stage = f"{label}.{context.pass_number}" if self.plan.sums.passes > 1 else label
            totals = self._insert(stage, rows, context)
            if self.is_master and self.plan.sums.passes == 1:
                self.when_complete()
            result = None if totals is None else self._result(label, totals, context)
            self.stages.completed.pop(stage, None)
            reference = self._tools.communicator.broadcast(
                result.reference if isinstance(result, NextPass) else None
            )
            if reference is None:
                if isinstance(result, np.ndarray):
                    memory.arrays.pop(f"reference.{label}", None)
                    memory.arrays[f"map.{label}"] = result
                    return result
                return None
            context = replace(context, reference=reference, pass_number=context.pass_number + 1)
            memory.arrays[f"reference.{label}"], memory.passes[label] = reference, context.pass_number

    def _insert(self, stage: str, rows: IntArray, context: PassContext) -> Sums | None:
        begun = time.perf_counter()
        with self._tools.signals or nullcontext():
            totals = self.stages.totals(stage, rows, context)
        self._insert_seconds += time.perf_counter() - begun
        return totals

    def _result(self, label: str, totals: Sums, context: PassContext) -> FloatArray | NextPass:
        """Finish totals: the map, or the wish for another pass."""
        result = self._finisher.result(label, totals, context)
        if self.plan.sums.passes > 1 and self._finisher.norm is not None:
            self.stages.memory.arrays[NORM] = self._finisher.norm.data
        return result

    def _common_scheme(self, images: ReadAhead) -> SumsScheme:
        """Quanta found by the master from some of the images, the same on every rank."""
        scheme = None
        if self.is_master:
            scheme = self._given_scheme()
        if self.is_master and scheme is None:
            kind = self.plan.sums_kind
            sample: list[SliceBatch] = []
            share = 1.0
            for wanted in SAMPLE_IMAGES if kind != "fast" else ():
                step = max(1, len(self.plan.particles) // wanted)
                rows = np.arange(0, len(self.plan.particles), step)[:wanted]
                chunk = images.take(rows)
                share = len(rows) / len(self.plan.particles)
                batches = self._batches.batches(chunk, self._tools.threads.map)
                sample = [replace(batch, samples=batch.samples.copy()) for batch in batches]
                if not chunk.blank.all():
                    break
            shares = (share, min(1.0, self.plan.piece_images / len(self.plan.particles)))
            scheme = calibrate(kind, self.plan.reconstructor, self._context(), sample, shares)
        common: SumsScheme = self._tools.communicator.broadcast(scheme)
        return common

    def _given_scheme(self) -> SumsScheme | None:
        """The quanta of another job, if they were asked for."""
        folder = self.plan.settings.quanta_of
        if folder is None:
            return None
        found = CheckpointStore(folder).latest(None, contents=False)
        if found is None:
            raise CheckpointError(f"--quanta-of: {folder} holds no checkpoint")
        return kept_scheme(found, self.finishing)

    def _context(self, scheme: SumsScheme | None = None) -> PassContext:
        return self.finishing.context(
            self._seed, self._mask, self._tools.threads.map, scheme or getattr(self, "_scheme", None)
        )

    @property
    def _as_reference(self) -> bool:
        return self.plan.settings.seed is not None and self.plan.settings.seed.as_reference

    def _batch_maker(self) -> BatchMaker:
        plan, settings = self.plan, self.plan.settings
        return BatchMaker(
            particles=plan.particles,
            geometry=plan.geometry,
            copies=plan.copies,
            groups=prepare_groups(plan),
            use_ssnr=settings.use_ssnr,
            as_eman2=plan.reconstructor.eman2_slices,
            mask_tilted_edges=settings.tilted_edge_mask,
            seed_slices=slice_reader(self._seed.data, self._tools.threads.map)
            if self._seed is not None and self._as_reference
            else None,
        )


def prepare_groups(plan: Make3dPlan) -> tuple[GroupPreparation, ...]:
    """Tables of every optics group, with the frequency limit of --maxres and of the map."""
    voxel = plan.geometry.voxel_size_angst
    prepared = []
    for group, mode in zip(plan.particles.optics, plan.ctf_modes, strict=True):
        per_index = plan.slice_size * group.pixel_size_angst
        limit = per_index / (2 * voxel)
        if plan.settings.maxres is not None:
            limit = min(limit, per_index / plan.settings.maxres)
        prepared.append(prepare_group(group, plan.slice_size, voxel, limit, mode, plan.geometry.precision))
    return tuple(prepared)
