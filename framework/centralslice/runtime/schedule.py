"""Blocks handed out on demand: the master keeps the ledger, everybody works, nobody waits for long.

A stage is a list of block numbers. Each worker has one block in reserve, so that it never waits for the
master, which works on blocks itself between messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from centralslice.runtime.communicator import MASTER, Communicator

#: Blocks a worker holds: the one it works on and one in reserve.
BLOCKS_AHEAD = 2


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
    """What only the master does beside the work."""

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
        _serve(communicator, work)


def _serve(communicator: Communicator, work: StageWork) -> None:
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
            communicator.send(("report", work.do_block(value)), MASTER)
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
        self._out = 0

    def run(self) -> None:
        """Until every block is reported."""
        workers = range(1, self._communicator.size)
        for _ in range(BLOCKS_AHEAD):
            for worker in workers:
                self._hand_out(worker)
        while self._todo or self._out:
            while self._communicator.waiting() or (self._out and not (self._works and self._todo)):
                self._listen()
                if self._overseer.checkpoint_due():
                    self._checkpoint()
            if self._works and self._todo:
                block = self._todo.popleft()
                if self._todo:
                    self._work.read_ahead(self._todo[0])
                self._overseer.block_done(self._work.do_block(block))
                if self._overseer.checkpoint_due():
                    self._checkpoint()
        for worker in workers:
            self._communicator.send(("end", None), worker)

    def _hand_out(self, worker: int) -> None:
        if self._todo:
            self._communicator.send(("block", self._todo.popleft()), worker)
            self._out += 1

    def _listen(self) -> None:
        source, (kind, report) = self._communicator.receive()
        if kind != "report":
            raise RuntimeError(f"rank {source} sent '{kind}' where a report was expected")
        self._out -= 1
        self._hand_out(source)
        self._overseer.block_done(report)

    def _checkpoint(self) -> None:
        """Every rank finishes what it holds in hand, saves its sums, and goes on."""
        while self._out:
            source, (_, report) = self._communicator.receive()
            self._out -= 1
            self._overseer.block_done(report)
        epoch = self._overseer.begin_checkpoint()
        workers = range(1, self._communicator.size)
        for worker in workers:
            self._communicator.send(("save", epoch), worker)
        records = [self._work.save(epoch)]
        for _ in workers:
            source, (kind, record) = self._communicator.receive()
            if kind != "saved":
                raise RuntimeError(f"rank {source} sent '{kind}' where a checkpoint record was expected")
            records.append(record)
        if self._overseer.checkpoint_saved(epoch, records):
            for worker in workers:
                self._communicator.send(("stop", None), worker)
            raise StopRun
        for _ in range(BLOCKS_AHEAD):
            for worker in workers:
                self._hand_out(worker)
