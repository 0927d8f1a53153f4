"""The block schedule: every block exactly once, whatever the ranks do, and no rank waits for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centralslice.runtime.communicator import Communicator, RankFailure, Serial, run_in_process
from centralslice.runtime.schedule import BlockReport, StopRun, run_stage


class Work:
    """Blocks that take a moment; notes what it was asked."""

    def __init__(self, rank: int, seed: int = 0, longest_s: float = 0.0, fail_at: int | None = None) -> None:
        self.rank, self.fail_at, self._longest_s = rank, fail_at, longest_s
        self._random = random.Random(1000 * seed + rank)
        self.blocks: list[int] = []
        self.saved: list[tuple[int, int]] = []
        self.ahead: list[int] = []

    def do_block(self, block: int) -> BlockReport:
        if block == self.fail_at:
            raise ZeroDivisionError(f"block {block}")
        if self._longest_s:
            time.sleep(self._random.random() * self._longest_s)
        self.blocks.append(block)
        return BlockReport(block, self.rank, block + 1, 0.0, {"block": block})

    def read_ahead(self, block: int) -> None:
        self.ahead.append(block)

    def save(self, epoch: int) -> Any:
        self.saved.append((epoch, len(self.blocks)))
        return (epoch, self.rank, tuple(self.blocks))


@dataclass
class Overseer:
    """A checkpoint after every so many blocks; stops after so many checkpoints."""

    every: int = 10**9
    stop_after: int = 10**9
    reports: list[BlockReport] = field(default_factory=list)
    checkpoints: list[Sequence[Any]] = field(default_factory=list)
    seen: int = 0
    epoch: int = 0

    def stop_asked(self) -> str | None:
        return None

    def block_done(self, report: BlockReport) -> None:
        self.reports.append(report)

    def checkpoint_due(self) -> bool:
        return len(self.reports) - self.seen >= self.every

    def begin_checkpoint(self) -> int:
        self.epoch += 1
        return self.epoch

    def checkpoint_saved(self, epoch: int, records: Sequence[Any]) -> bool:
        assert epoch == self.epoch
        self.seen = len(self.reports)
        self.checkpoints.append(records)
        return len(self.checkpoints) >= self.stop_after


@dataclass
class Outcome:
    """What came of a stage."""

    works: list[Work]
    overseer: Overseer
    stopped: list[bool]


def run(
    size: int, blocks: Sequence[int], overseer: Overseer | None = None, *, master_works: bool = True,
    seed: int = 0, longest_s: float = 0.0, fail_at: int | None = None,
) -> Outcome:  # fmt: skip
    overseer = overseer or Overseer()
    works = [Work(rank, seed, longest_s, fail_at) for rank in range(size)]
    outcome = Outcome(works, overseer, [False] * size)

    def rank_work(communicator: Communicator) -> None:
        try:
            run_stage(communicator, blocks, works[communicator.rank], overseer, master_works)
        except StopRun:
            outcome.stopped[communicator.rank] = True

    run_in_process(size, rank_work)
    return outcome


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 6),
    blocks=st.lists(st.integers(0, 10**6), max_size=60, unique=True),
    every=st.sampled_from([1, 2, 3, 7, 1000]),
    master_works=st.booleans(),
    seed=st.integers(0, 1000),
    longest_s=st.sampled_from([0.0, 0.001]),
)
def test_every_block_is_done_and_reported_exactly_once(
    size: int, blocks: list[int], every: int, master_works: bool, seed: int, longest_s: float
) -> None:
    outcome = run(size, blocks, Overseer(every), master_works=master_works, seed=seed, longest_s=longest_s)
    assert sorted(block for work in outcome.works for block in work.blocks) == sorted(blocks)
    assert sorted(report.block for report in outcome.overseer.reports) == sorted(blocks)
    for work in outcome.works:
        reported = [report.block for report in outcome.overseer.reports if report.rank == work.rank]
        assert reported == work.blocks
    if not master_works and size > 1:
        assert not outcome.works[0].blocks
    assert not any(outcome.stopped)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 6),
    number=st.integers(0, 50),
    every=st.integers(1, 20),
    stop_after=st.integers(1, 5),
    master_works=st.booleans(),
    longest_s=st.sampled_from([0.0, 0.001]),
)
def test_a_checkpoint_holds_exactly_the_blocks_reported_before_it(
    size: int, number: int, every: int, stop_after: int, master_works: bool, longest_s: float
) -> None:
    overseer = Overseer(every, stop_after)
    outcome = run(size, range(number), overseer, master_works=master_works, longest_s=longest_s)
    for epoch, records in enumerate(overseer.checkpoints, start=1):
        assert {record[0] for record in records} == {epoch}
        assert sorted(record[1] for record in records) == list(range(size))
        held = sorted(block for record in records for block in record[2])
        assert held == sorted(report.block for report in overseer.reports[: len(held)])
        assert len(held) >= every * epoch
    stopped = len(overseer.checkpoints) == stop_after
    assert outcome.stopped == [stopped] * size
    done = sorted(block for work in outcome.works for block in work.blocks)
    if stopped:
        # nothing was begun that the last checkpoint does not hold
        assert done == sorted(block for record in overseer.checkpoints[-1] for block in record[2])
    else:
        assert done == list(range(number))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("fail_at", [0, 1, 7, 39])
@pytest.mark.parametrize("master_works", [True, False])
def test_a_block_that_fails_on_any_rank_ends_all_ranks(size: int, fail_at: int, master_works: bool) -> None:
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError, match=f"block {fail_at}"):
        run(size, range(40), master_works=master_works, longest_s=0.002, fail_at=fail_at)
    assert time.monotonic() - begun < 5


def test_the_master_notices_a_failed_worker_before_its_own_work_is_done() -> None:
    done: list[int] = []

    class Slow(Work):
        def do_block(self, block: int) -> BlockReport:
            if self.rank:
                raise ZeroDivisionError
            time.sleep(0.01)
            done.append(block)
            return super().do_block(block)

    def rank_work(communicator: Communicator) -> None:
        run_stage(communicator, range(1000), Slow(communicator.rank), Overseer())

    with pytest.raises(ZeroDivisionError):
        run_in_process(2, rank_work)
    assert len(done) < 100


@pytest.mark.parametrize("where", ["save", "saved", "due", "done", "begin"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_checkpoint_that_fails_ends_all_ranks(size: int, where: str) -> None:
    class FailingWork(Work):
        def save(self, epoch: int) -> Any:
            if where == "save" and self.rank == size - 1:
                raise OSError("disk full")
            return super().save(epoch)

    class FailingOverseer(Overseer):
        def block_done(self, report: BlockReport) -> None:
            super().block_done(report)
            if where == "done" and len(self.reports) == 5:
                raise OSError("disk full")

        def checkpoint_due(self) -> bool:
            if where == "due" and len(self.reports) == 5:
                raise OSError("disk full")
            return super().checkpoint_due()

        def begin_checkpoint(self) -> int:
            if where == "begin":
                raise OSError("disk full")
            return super().begin_checkpoint()

        def checkpoint_saved(self, epoch: int, records: Sequence[Any]) -> bool:
            raise OSError("disk full")

    def rank_work(communicator: Communicator) -> None:
        run_stage(communicator, range(20), FailingWork(communicator.rank), FailingOverseer(every=7))

    with pytest.raises(OSError, match="disk full"):
        run_in_process(size, rank_work)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 5),
    stages=st.lists(st.integers(0, 12), max_size=6),
    longest_s=st.sampled_from([0.0, 0.001]),
)
def test_stages_that_follow_each_other_at_once_do_not_mix(
    size: int, stages: list[int], longest_s: float
) -> None:
    done: list[list[list[int]]] = [[] for _ in range(size)]

    def rank_work(communicator: Communicator) -> None:
        for blocks in stages:
            work = Work(communicator.rank, longest_s=longest_s)
            run_stage(communicator, range(blocks), work, Overseer(every=3))
            done[communicator.rank].append(work.blocks)

    run_in_process(size, rank_work)
    for stage, blocks in enumerate(stages):
        assert sorted(block for rank in done for block in rank[stage]) == list(range(blocks))


def test_every_rank_takes_part_and_is_told_what_comes_next() -> None:
    outcome = run(4, range(200), longest_s=0.004)
    for work in outcome.works:
        assert len(work.blocks) > 20
        assert len(work.ahead) > len(work.blocks) // 2
        assert set(work.ahead) <= set(work.blocks)
    assert outcome.works[0].ahead == outcome.works[0].blocks[1:]


def test_one_rank_works_even_if_the_master_should_not() -> None:
    work, overseer = Work(0), Overseer()
    run_stage(Serial(), range(5), work, overseer, master_works=False)
    assert work.blocks == [0, 1, 2, 3, 4]


def test_a_message_of_another_kind_is_an_error_not_a_report() -> None:
    def rank_work(communicator: Communicator) -> None:
        if communicator.rank == 0:
            run_stage(communicator, range(4), Work(0), Overseer(), master_works=False)
        else:
            communicator.send(("nonsense", None), 0)
            communicator.receive()

    with pytest.raises((RuntimeError, RankFailure), match=r"nonsense|another"):
        run_in_process(2, rank_work)


def test_no_thread_of_the_ranks_is_left_behind() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        run(4, range(20), fail_at=3)
    assert threading.active_count() == before
