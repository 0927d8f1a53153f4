"""Stages of a subparticles run on one rank: blocks of parents through the schedule, and what a checkpoint keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from centralslice.conventions import IntArray
from centralslice.jobs.run_tools import RankTools
from centralslice.jobs.subparticles.results import Results
from centralslice.jobs.subparticles.stack import SharedStack
from centralslice.runtime.checkpoint import MASTER as MASTER_SHARD
from centralslice.runtime.checkpoint import Shard, ShardRecord
from centralslice.runtime.schedule import BlockReport, run_stage

#: What one block's work gives the master, and what the master does with it.
BlockFunction: TypeAlias = Callable[[IntArray], dict[str, Any]]
TakeFunction: TypeAlias = Callable[[int, dict[str, Any]], None]


class Stages:
    """Drives stages; the same object on every rank.

    Parameters
    ----------
    tools
        Of this rank.
    read_ahead
        Starts reading some parents.
    results
        On the master what is known so far, elsewhere None.
    master_works
        Whether rank 0 works on blocks too.

    Attributes
    ----------
    results
        May be exchanged between stages.
    stacks
        Outputs that must be on disk before a checkpoint says so.
    seconds
        Stage to time.
    """

    def __init__(
        self, tools: RankTools, read_ahead: Callable[[IntArray], None], results: Results | None,
        master_works: bool,
    ) -> None:  # fmt: skip
        self._tools, self.read_ahead, self.results = tools, read_ahead, results
        self._master_works = master_works
        self._resumed = {} if tools.checkpoint is None else tools.checkpoint.blocks()
        done = {} if results is None else results.done
        self._planned = {label: count for label, count in done.items() if count}
        self.stacks: list[SharedStack] = []
        self.seconds: dict[str, float] = {}

    @property
    def rank(self) -> int:
        """Of this process."""
        return self._tools.communicator.rank

    def master_says(self, answer: Callable[[Results], bool]) -> bool:
        """What the master's results say, on every rank. Collective."""
        return bool(self._tools.communicator.broadcast(self.results is not None and answer(self.results)))

    def run(
        self, label: str, parents: IntArray, size: int, work: BlockFunction, take: TakeFunction | None = None
    ) -> None:
        """All blocks of some parents. Collective.

        Parameters
        ----------
        label
            Of the stage.
        parents, size
            Their numbers, and how many make a block.
        work
            What is done with a block.
        take
            What the master does with its outcome; such a stage is done again if it is interrupted. None: the
            results take it, and blocks that a checkpoint holds are left out.
        """
        tools, lasting = self._tools, take is None
        blocks = [parents[at : at + size] for at in range(0, len(parents), size)]
        done = [int(number) for number in self._resumed.get(label, ())] if tools.is_master and lasting else []
        before = tools.overseer.observe
        if tools.is_master:
            if lasting:
                self._planned[label] = len(blocks)
            tools.overseer.observe = _Collector(before, take or self._take)
            tools.overseer.planned = lambda: dict(self._planned)
        todo = sorted(set(range(len(blocks))) - set(done))
        begun = time.perf_counter()
        stage = _Stage(self, label if lasting else "", blocks, work, done)
        run_stage(tools.communicator, todo, stage, tools.overseer, self._master_works)
        self.seconds[label] = time.perf_counter() - begun
        tools.overseer.observe = before
        if self.results is not None and lasting:
            self.results.done[label] = len(blocks)

    def _take(self, _: int, facts: dict[str, Any]) -> None:
        if self.results is not None:
            self.results.take(facts)

    def save(self, epoch: int, label: str, done: Sequence[int]) -> list[ShardRecord]:
        """Write this rank's shard, and on the master that of the run; images first."""
        store = self._tools.store
        if store is None:
            return []
        for stack in self.stacks:
            stack.sync()
        own = Shard({}, {label: np.array(sorted(done), np.int64)} if label else {})
        records = [store.write_shard(epoch, self.rank, own)]
        if self.results is not None:
            blocks = {
                name: np.arange(count, dtype=np.int64) for name, count in self.results.done.items() if count
            }
            mine = Shard({}, blocks, self.results.facts(), self.results.state())
            records.append(store.write_shard(epoch, MASTER_SHARD, mine))
        return records


class _Collector:
    """Hands reports to the run before those who only watch."""

    def __init__(self, before: Callable[[BlockReport], None], take: TakeFunction) -> None:
        self._before, self._take = before, take

    def __call__(self, report: BlockReport) -> None:
        self._take(report.block, report.facts)
        self._before(report)


class _Stage:
    """One rank's part of one stage, as the schedule drives it."""

    def __init__(
        self, stages: Stages, label: str, blocks: Sequence[IntArray], work: BlockFunction, done: list[int]
    ) -> None:
        self._stages, self._label, self._blocks, self._work, self._done = stages, label, blocks, work, done

    def do_block(self, block: int) -> BlockReport:
        """Work on a block."""
        begun = time.perf_counter()
        numbers = self._blocks[block]
        facts = self._work(numbers)
        self._done.append(block)
        return BlockReport(block, self._stages.rank, len(numbers), time.perf_counter() - begun, facts)

    def read_ahead(self, block: int) -> None:
        """Start reading a block."""
        self._stages.read_ahead(self._blocks[block])

    def save(self, epoch: int) -> list[ShardRecord]:
        """Write this rank's shard."""
        return self._stages.save(epoch, self._label, self._done)
