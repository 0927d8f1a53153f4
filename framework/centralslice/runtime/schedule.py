"""Blocks handed out on demand: the master keeps the ledger, everybody works, nobody waits for long.

A stage is a list of block numbers. Each worker has blocks in reserve, so that it never waits for the master,
which works on blocks itself between messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from centralslice.runtime.communicator import MASTER, Communicator

#: Blocks a worker holds: the one it works on, the next, which it reads meanwhile, and one more, for when it turns
#: to the next, the master may be busy with a block of its own.
BLOCKS_AHEAD = 3
#: Towards the end of a stage, when fewer blocks than this a rank are left, it holds one less: all should end together.
BLOCKS_OF_THE_END = 4
#: Among the facts of a report: the stop signal that came to the rank that sends it.
STOP = "stop"


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What a rank says of a block it did."""

    block: int
    rank: int
    particles: int
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)


class StageWork(Protocol):
    """What the schedule drives on every rank."""

    def do_block(self, block: int) -> BlockReport:
        """Add one block to this rank's sums."""

    def read_ahead(self, block: int) -> None:
        """This block very probably comes next: start reading it; cheap to ignore."""

    def save(self, epoch: int) -> Any:
        """Write this rank's shard of a checkpoint; the record goes to the master."""


class Overseer(Protocol):
    """What only the master does beside the work; every rank has one, for its signals."""

    def stop_asked(self) -> str | None:
        """Name of the stop signal that came to this rank, or None; on workers it goes into the next report."""

    def block_done(self, report: BlockReport) -> None:
        """A block was reported by some rank."""

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint should be written now."""

    def begin_checkpoint(self) -> int:
        """Get ready for a checkpoint; its epoch."""

    def checkpoint_saved(self, epoch: int, records: Sequence[Any]) -> bool:
        """All shards are written: make the epoch valid. True if the run must stop now."""


class StopRun(Exception):
    """The run was asked to stop and a checkpoint was written."""


def run_stage(
    communicator: Communicator, blocks: Sequence[int], work: StageWork, overseer: Overseer,
    master_works: bool = True,
) -> None:  # fmt: skip
    """Do all blocks of a stage; collective.

    Raises
    ------
    StopRun
        On every rank, if the overseer said so after a checkpoint.
    """
    if communicator.rank == MASTER:
        _Master(communicator, blocks, work, overseer, master_works or communicator.size == 1).run()
    else:
        _serve(communicator, work, overseer)


def _serve(communicator: Communicator, work: StageWork, overseer: Overseer) -> None:
    """The worker's loop: obey until the stage ends."""
    orders: deque[tuple[str, int]] = deque()
    while True:
        # nothing is taken beyond an order to save, stop or end: it may belong to the next stage
        while not orders or (orders[-1][0] == "block" and communicator.waiting()):
            orders.append(communicator.receive()[1])
        order, value = orders.popleft()
        if order == "block":
            if orders and orders[0][0] == "block":
                work.read_ahead(orders[0][1])
            report, stop = work.do_block(value), overseer.stop_asked()
            if stop is not None:
                report = replace(report, facts={**report.facts, STOP: stop})
            communicator.send(("report", report), MASTER)
        elif order == "save":
            communicator.send(("saved", work.save(value)), MASTER)
        elif order == "stop":
            raise StopRun
        else:
            return


class _Master:
    """Hands out blocks, listens, works, and now and then has a checkpoint written."""

    def __init__(
        self, communicator: Communicator, blocks: Sequence[int], work: StageWork, overseer: Overseer,
        works: bool,
    ) -> None:  # fmt: skip
        self._communicator, self._work, self._overseer, self._works = communicator, work, overseer, works
        self._todo = deque(blocks)
        self._held = dict.fromkeys(range(1, communicator.size), 0)
        self._out = 0  # what all workers hold together
        self._own: deque[int] = deque()  # the master's next block

    def run(self) -> None:
        """Until every block is reported."""
        self._hand_out_all()
        while self._todo or self._own or self._out:
            can_work = self._works and (self._todo or self._own)
            if self._communicator.waiting() or not can_work:
                self._listen()
            else:
                self._work_on_one()
            if self._overseer.checkpoint_due():
                self._checkpoint()
        for worker in self._held:
            self._communicator.send(("end", None), worker)

    def _work_on_one(self) -> None:
        """The master's own block; the one it will take next is set aside and read meanwhile."""
        block = self._own.popleft() if self._own else self._todo.popleft()
        if self._todo:
            self._own.append(self._todo.popleft())
            self._work.read_ahead(self._own[0])
        self._overseer.block_done(self._work.do_block(block))

    def _hand_out_all(self) -> None:
        """Blocks for all workers, one each, then the next one each."""
        for level in range(BLOCKS_AHEAD):
            for worker in self._held:
                self._hand_out(worker, level + 1)

    def _hand_out(self, worker: int, most: int = BLOCKS_AHEAD) -> None:
        """Blocks for a worker until it holds so many, or one less near the end."""
        while self._todo:
            near_end = len(self._todo) < BLOCKS_OF_THE_END * self._communicator.size
            if self._held[worker] >= (min(most, BLOCKS_AHEAD - 1) if near_end else most):
                return
            self._communicator.send(("block", self._todo.popleft()), worker)
            self._held[worker] += 1
            self._out += 1

    def _listen(self) -> None:
        source, report = self._next_report()
        self._hand_out(source)
        self._overseer.block_done(report)

    def _next_report(self) -> tuple[int, BlockReport]:
        source, (kind, report) = self._communicator.receive()
        if kind != "report":
            raise RuntimeError(f"rank {source} sent '{kind}' where a report was expected")
        self._held[source] -= 1
        self._out -= 1
        return source, report

    def _checkpoint(self) -> None:
        """Every rank finishes what it holds in hand, saves its sums, and goes on."""
        while self._out:
            self._overseer.block_done(self._next_report()[1])
        epoch = self._overseer.begin_checkpoint()
        for worker in self._held:
            self._communicator.send(("save", epoch), worker)
        records = [self._work.save(epoch)]
        for _ in self._held:
            source, (kind, record) = self._communicator.receive()
            if kind != "saved":
                raise RuntimeError(f"rank {source} sent '{kind}' where a checkpoint record was expected")
            records.append(record)
        if self._overseer.checkpoint_saved(epoch, records):
            for worker in self._held:
                self._communicator.send(("stop", None), worker)
            raise StopRun
        self._hand_out_all()
