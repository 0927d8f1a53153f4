"""Stages of a sum job on all ranks: blocks handed out, sums reduced, checkpoints written and read again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import PassContext
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.slices import Sums
from centralslice.jobs.accumulation import Accumulation
from centralslice.runtime.checkpoint import MASTER as MASTER_SHARD
from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore, Shard, ShardRecord
from centralslice.runtime.checkpoint_merge import LISTS
from centralslice.runtime.communicator import MASTER, Communicator
from centralslice.runtime.exact_sums import RankSums, SumsScheme
from centralslice.runtime.schedule import BlockReport, Overseer, run_stage


@dataclass
class RunMemory:
    """What the master knows of the run so far, beside the sums: saved with every checkpoint.

    Attributes
    ----------
    arrays
        Finished maps (``map.LABEL``) and reference maps of passes (``reference.LABEL``).
    blank
        Rows of images of zero variance met so far.
    passes
        Label to the pass that its reference map is for.
    """

    arrays: dict[str, FloatArray] = field(default_factory=dict)
    blank: set[int] = field(default_factory=set)
    passes: dict[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The JSON-able part."""
        return {"blank": sorted(self.blank), "passes": self.passes}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> RunMemory:
        """As a checkpoint holds it."""
        master = checkpoint.master
        if master is None:
            return cls()
        facts = master.facts()
        arrays = {name: array for name, array in master.state().items() if not name.startswith(LISTS)}
        return cls(arrays, set(facts["blank"]), dict(facts["passes"]))


class Stages:
    """Runs the stages of a job; the same object on every rank.

    Parameters
    ----------
    communicator
        The ranks.
    accumulation
        This rank's way of inserting.
    scheme
        How sums are kept, the same everywhere.
    store
        Where checkpoints go, or None for none.
    overseer
        On the master: progress, and when a checkpoint is due.
    checkpoint
        What to resume from (the master's), or None.
    master_works
        Whether the master works on blocks too.
    """

    def __init__(
        self, communicator: Communicator, accumulation: Accumulation, scheme: SumsScheme, *,
        store: CheckpointStore | None, overseer: Overseer, checkpoint: Checkpoint | None, master_works: bool,
    ) -> None:  # fmt: skip
        self._communicator, self._accumulation, self._scheme = communicator, accumulation, scheme
        self._store, self._overseer, self._checkpoint = store, overseer, checkpoint
        self._master_works = master_works
        self._resumed = {} if checkpoint is None else checkpoint.blocks()
        self.memory = RunMemory() if checkpoint is None else RunMemory.of(checkpoint)
        self.resumed_particles = 0
        #: Seconds of adding up the sums of all ranks.
        self.reduce_s = 0.0
        #: Totals of completed stages that are still needed, on the master.
        self.completed: dict[str, Sums] = {}
        self._planned: dict[str, int] = {}

    def totals(self, label: str, rows: IntArray, context: PassContext) -> Sums | None:
        """The totals of a stage: on the master; None elsewhere. Collective.

        Parameters
        ----------
        label
            Name of the stage, unique in the run.
        rows
            The stage's particles, in order.
        context
            Of the pass.
        """
        blocks = self._accumulation.source.blocks(rows)
        self._planned[label] = len(blocks)
        sums = self._scheme.start(context.plan, self._accumulation.reconstructor)
        done = self._take_up(label, sums, blocks) if self._communicator.rank == MASTER else []
        work = _Work(self, label, blocks, sums, context, done)
        todo = sorted(set(range(len(blocks))) - set(done)) if self._communicator.rank == MASTER else []
        run_stage(self._communicator, todo, work, self._overseer, self._master_works)
        begun = time.perf_counter()
        reduced = {
            name: self._communicator.sum_to_master(array) for name, array in sums.totals.arrays.items()
        }
        self.reduce_s += time.perf_counter() - begun
        if self._communicator.rank != MASTER:
            return None
        result = Sums({name: array for name, array in reduced.items() if array is not None})
        self.completed[label] = result
        return result

    def finishable(self, totals: Sums, context: PassContext) -> Sums:
        """Totals as the reconstructor reads them."""
        return self._scheme.finishable(totals, context.plan)

    def _take_up(self, label: str, sums: RankSums, blocks: Sequence[IntArray]) -> list[int]:
        """Add what a checkpoint holds of this stage; the blocks in it.

        Stages that have any come before those that have none, which may begin when later checkpoints have
        replaced this one.
        """
        if self._checkpoint is None or not len(self._resumed.get(label, ())):
            return []
        for shard in self._checkpoint.shards():
            for piece in shard.pieces([label]):
                sums.include_piece(piece.name, piece.where, piece.values)
        done = [int(number) for number in self._resumed[label]]
        self.resumed_particles += sum(len(blocks[number]) for number in done)
        return done

    def save(self, epoch: int, label: str, sums: RankSums, done: Sequence[int]) -> list[ShardRecord]:
        """Write this rank's shard, and on the master that of the run."""
        if self._store is None:
            return []
        own = Shard({label: sums.totals.arrays}, {label: np.array(sorted(done), np.int64)})
        records = [self._store.write_shard(epoch, self._communicator.rank, own)]
        if self._communicator.rank == MASTER:
            records.append(self._store.write_shard(epoch, MASTER_SHARD, self.completed_shard()))
        return records

    def completed_shard(self) -> Shard:
        """The totals of completed stages and what else the master knows."""
        finished = {name: totals.arrays for name, totals in self.completed.items()}
        all_blocks = {name: np.arange(self._planned[name], dtype=np.int64) for name in finished}
        return Shard(finished, all_blocks, self.memory.facts(), self.memory.arrays)

    @property
    def planned(self) -> Mapping[str, int]:
        """Label to number of blocks of every stage begun so far."""
        return dict(self._planned)


class _Work:
    """One rank's part of one stage, as the schedule drives it."""

    def __init__(
        self, stages: Stages, label: str, blocks: Sequence[IntArray], sums: RankSums, context: PassContext,
        done: Sequence[int],
    ) -> None:  # fmt: skip
        self._stages, self._label, self._blocks = stages, label, blocks
        self._sums, self._context, self._done = sums, context, list(done)

    def do_block(self, block: int) -> BlockReport:
        """Insert a block."""
        begun = time.perf_counter()
        rows = self._blocks[block]
        blank = self._stages._accumulation.add(rows, self._sums, self._context)
        self._done.append(block)
        return BlockReport(
            block, self._stages._communicator.rank, len(rows), time.perf_counter() - begun, {"blank": blank}
        )

    def read_ahead(self, block: int) -> None:
        """Start reading a block."""
        self._stages._accumulation.read_ahead(self._blocks[block])

    def save(self, epoch: int) -> list[ShardRecord]:
        """Write this rank's shard."""
        return self._stages.save(epoch, self._label, self._sums, self._done)
