"""One rank's part of a sum job: its slices, its sums, and on the master the maps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import NextPass, PassContext, Seed
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.errors import CheckpointError, ParameterError, ResourceError
from centralslice.jobs.accumulation import Accumulation, SliceSource
from centralslice.jobs.finish_maps import FinishWatch, MapFinisher, kept_scheme
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.jobs.run_tools import RankTools
from centralslice.jobs.stages import Stages
from centralslice.runtime.checkpoint import CheckpointStore
from centralslice.runtime.exact_sums import SumsScheme, calibrate, scheme_bytes

#: Slices from which the quanta of exact sums are found; more only if all of these are blank.
SAMPLE_SLICES = (64, 1024)
#: Before the name and label of side maps in the memory of a run of several passes.
SIDE = "side."
HALVES = ("half1", "half2")


@dataclass(frozen=True, slots=True)
class SumsJob:
    """What is summed and how it is finished.

    Attributes
    ----------
    finishing
        How the sums become maps.
    half_set
        (n,) 0, 1 or 2 for every particle.
    seed, iteration_mask
        Maps that the finishing plan names, read.
    watch
        What is wanted beside the maps.
    master_works
        Whether the master works on blocks too.
    quanta_of
        Folder of a checkpoint whose quanta are taken, or None.
    spill_folder
        Where the sums of a finished half wait, so that one set of sums is in memory; None: they stay in memory.
    """

    finishing: FinishPlan
    half_set: IntArray
    seed: Seed | None = None
    iteration_mask: FloatArray | None = None
    watch: FinishWatch = field(default_factory=FinishWatch)
    master_works: bool = True
    quanta_of: Path | None = None
    spill_folder: Path | None = None


class SumsRun:
    """Computes the maps of a job; every rank makes one and calls the same methods."""

    def __init__(self, job: SumsJob, source: SliceSource, tools: RankTools) -> None:
        self.job, self._tools, self._source = job, tools, source
        #: How the sums are finished.
        self.finishing = job.finishing
        #: Called on the master when every particle is in the totals, or all maps of several passes are made.
        self.when_complete: Callable[[], None] = lambda: None
        self._insert_seconds = 0.0
        self._scheme = self._common_scheme()
        self._finisher = MapFinisher(job.finishing, self._scheme, job.watch)
        self.stages = Stages(
            tools.communicator, Accumulation(source, job.finishing.reconstructor), self._scheme,
            store=tools.store, overseer=tools.overseer, checkpoint=tools.checkpoint,
            master_works=job.master_works,
        )  # fmt: skip
        overseer = tools.overseer
        overseer.memory, overseer.planned = self.stages.memory, self.planned_blocks
        overseer.quanta, overseer.generation_bytes = self.stage_quanta(), self._generation_bytes
        if tools.is_master:
            self._check_quanta()

    @property
    def is_master(self) -> bool:
        """Whether this rank makes the maps."""
        return self._tools.is_master

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of inserting, of adding up the sums of all ranks, and of finishing."""
        reduce_s = self.stages.reduce_s
        return {
            "insert": self._insert_seconds - reduce_s,
            "reduce": reduce_s,
            "finish": self._finisher.seconds,
        }

    def maps(self) -> dict[str, FloatArray]:
        """``merged``, and ``half1`` and ``half2`` if there are half sets; empty on workers. Collective."""
        finishing, everyone = self.finishing, np.arange(len(self.job.half_set))
        if finishing.halves and finishing.sums.passes == 1:
            return self._one_pass_halves()
        parts = {**(self._halves() if finishing.halves else {}), "merged": everyone}
        maps = {label: self._map_of(label, rows) for label, rows in parts.items()}
        if self.is_master and finishing.sums.passes > 1:
            self.when_complete()
        return self._present(maps)

    def sums_only(self) -> dict[str, FloatArray]:
        """Sum everything and tell who waits for it; no maps. Collective.

        Raises
        ------
        ParameterError
            If the reconstructor needs its map for a second pass.
        """
        if self.finishing.sums.passes > 1:
            name = self.finishing.reconstructor.plugin_name
            raise ParameterError(f"--no-recon: mode {name} needs its map for the next pass; leave it out")
        context = self._context()
        for label, rows in self._stage_rows().items():
            self._insert(label, rows, context)
        if self.is_master:
            self.when_complete()
        return {}

    def planned_blocks(self) -> dict[str, int]:
        """Label of every stage to its number of blocks; of a reconstructor with several passes, those begun."""
        if self.finishing.sums.passes > 1:
            return dict(self.stages.planned)
        return {label: len(self._source.blocks(rows)) for label, rows in self._stage_rows().items()}

    def stage_quanta(self) -> dict[str, dict[str, Any]]:
        """Label of every stage to the units of its integer sums, one a channel."""
        units = self._scheme.units(self.finishing.sums)
        return {label: dict(units) for label in self._stage_rows()} if units else {}

    def _stage_rows(self) -> dict[str, IntArray]:
        """The stages of a run of one pass, and their particles."""
        if not self.finishing.halves:
            return {"merged": np.arange(len(self.job.half_set))}
        rest = np.flatnonzero(self.job.half_set == 0)
        return {**self._halves(), **({"none": rest} if len(rest) else {})}

    def half_maps(self) -> tuple[FloatArray, FloatArray]:
        """The two half maps alone; one rank only."""
        made = self._present({label: self._map_of(label, rows) for label, rows in self._halves().items()})
        return made["half1"], made["half2"]

    def _halves(self) -> dict[str, IntArray]:
        return {label: np.flatnonzero(self.job.half_set == half) for half, label in enumerate(HALVES, 1)}

    def _present(self, maps: dict[str, FloatArray | None]) -> dict[str, FloatArray]:
        return {label: data for label, data in maps.items() if data is not None}

    def _one_pass_halves(self) -> dict[str, FloatArray]:
        """Every particle is inserted once: merged = half 1 + half 2 + those of neither."""
        context = self._context()
        finished: dict[str, FloatArray] = {}
        totals: dict[str, Sums] = {}
        stages = self._stage_rows()
        for label, rows in stages.items():
            part = self._insert(label, rows, context)
            if part is None:
                continue
            if self.job.spill_folder is not None and label != list(stages)[-1]:
                finished[label] = self._finisher.map(label, part, context)
                part = self.stages.completed[label] = spilled(part, self.job.spill_folder)
            totals[label] = part
        if not self.is_master:
            return {}
        self.when_complete()
        self.stages.completed.clear()
        del part  # each set of sums is given up when it is added to the others
        for label in HALVES:
            if label not in finished:
                finished[label] = self._finisher.map(label, totals[label], context)
        return {**finished, "merged": self._finisher.merged(totals, context)}

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
            self.job.watch.keep(label, sides_of(memory.arrays, label))
            return memory.arrays.get(f"map.{label}")
        if start[1]:
            context = replace(context, pass_number=start[1], reference=start[2])
        while True:
            stage = f"{label}.{context.pass_number}" if self.finishing.sums.passes > 1 else label
            totals = self._insert(stage, rows, context)
            if self.is_master and self.finishing.sums.passes == 1:
                self.when_complete()
            result = None if totals is None else self._finisher.result(label, totals, context)
            self.stages.completed.pop(stage, None)
            reference = self._tools.communicator.broadcast(
                result.reference if isinstance(result, NextPass) else None
            )
            if reference is None:
                if isinstance(result, np.ndarray):
                    memory.arrays.pop(f"reference.{label}", None)
                    memory.arrays[f"map.{label}"] = result
                    memory.arrays |= {
                        f"{SIDE}{name}.{label}": array for name, array in self._finisher.sides.items()
                    }
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

    def _common_scheme(self) -> SumsScheme:
        """Quanta found by the master from some of the slices, the same on every rank."""
        scheme = None
        if self.is_master:
            scheme = self._given_scheme()
        if self.is_master and scheme is None:
            kind = self.finishing.sums_kind
            sample: list[SliceBatch] = []
            share = 1.0
            for wanted in SAMPLE_SLICES if kind != "fast" else ():
                rows = self._source.sample(wanted)
                share = self._source.share(rows)
                batches = self._source.take(rows).batches(self._tools.threads.map)
                sample = [replace(batch, samples=batch.samples.copy()) for batch in batches]
                if any(len(batch) for batch in sample):
                    break
            shares = (share, self._source.largest_share)
            scheme = calibrate(kind, self.finishing.reconstructor, self._context(), sample, shares)
        common: SumsScheme = self._tools.communicator.broadcast(scheme)
        return common

    def _given_scheme(self) -> SumsScheme | None:
        """The quanta of another job, if they were asked for."""
        folder = self.job.quanta_of
        if folder is None:
            return None
        found = CheckpointStore(folder).latest(None, contents=False)
        if found is None:
            raise CheckpointError(f"--quanta-of: {folder} holds no checkpoint")
        return kept_scheme(found, self.finishing)

    def _check_quanta(self) -> None:
        """Refuse to add to sums in other units."""
        checkpoint, quanta = self._tools.checkpoint, self._tools.overseer.quanta
        for label, units in ({} if checkpoint is None else checkpoint.state.quanta).items():
            if label in quanta and dict(quanta[label]) != dict(units):
                raise CheckpointError(
                    f"--resume: the sums of {label} in the checkpoint have quanta {dict(units)}, this run's are "
                    f"{dict(quanta[label])}; give --quanta-of as before"
                )

    def _generation_bytes(self) -> int:
        """Disk of one checkpoint: the sums of every rank, and what the master keeps of stages that are done."""
        ranks = self._tools.communicator.size
        kept = sum(sums.nbytes for sums in self.stages.completed.values())
        kept += sum(array.nbytes for array in self.stages.memory.arrays.values())
        return ranks * scheme_bytes(self.finishing.sums_kind, self.finishing.sums) + kept

    def _context(self, scheme: SumsScheme | None = None) -> PassContext:
        job = self.job
        return self.finishing.context(
            job.seed, job.iteration_mask, self._tools.threads.map, scheme or getattr(self, "_scheme", None)
        )


def sides_of(arrays: Mapping[str, FloatArray], label: str) -> dict[str, FloatArray]:
    """The side maps of a label in the memory of a run of several passes."""
    ending = f".{label}"
    return {
        name.removeprefix(SIDE).removesuffix(ending): array
        for name, array in arrays.items()
        if name.startswith(SIDE) and name.endswith(ending)
    }


def spilled(sums: Sums, folder: Path) -> Sums:
    """The same sums in a file without a name: it is gone when nobody reads it any more.

    Raises
    ------
    ResourceError
        If the disk is full.
    """
    arrays: dict[str, FloatArray] = {}
    try:
        for name, array in sums.arrays.items():
            with tempfile.TemporaryFile(dir=folder) as file:
                array.tofile(file)
                file.flush()
                arrays[name] = np.memmap(file, array.dtype, "r", shape=array.shape)
    except OSError as error:
        raise ResourceError(
            f"{folder}: the sums of a half, {sums.nbytes:,} bytes, cannot be written there for the time being: "
            f"{error.strerror or error}; free the disk, or give more --mem"
        ) from error
    return Sums(arrays)
