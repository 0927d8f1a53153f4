"""What the ranks of the tests do: ``mpiexec -n N python programs.py NAME [ARGUMENT …]``."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from centralslice.errors import ParameterError
from centralslice.runtime.communicator import PIECE_BYTES, Communicator
from centralslice.runtime.launched import shared_runner
from centralslice.runtime.schedule import BlockReport, StopRun, run_stage
from centralslice.runtime.signals import SignalFlags
from centralslice.runtime.world import on_master, open_world

#: One more than a piece, so that the last piece holds a single element.
MANY = PIECE_BYTES // 4 + 1


def say(**facts: Any) -> None:
    """A line of JSON on stdout."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def laws(communicator: Communicator) -> int:
    """Broadcast, messages and sums give what a single rank would compute."""
    rank, size = communicator.rank, communicator.size
    assert size == 1 or communicator is open_world()
    value = {"array": np.arange(5), "text": "Å"} if rank == 0 else None
    got = communicator.broadcast(value)
    assert got["text"] == "Å"
    assert got["array"].tolist() == [0, 1, 2, 3, 4]
    large = communicator.broadcast(bytes(2 * PIECE_BYTES) if rank == 0 else None)
    assert large == bytes(2 * PIECE_BYTES)
    _messages(communicator)
    _sums(communicator)
    say(rank=rank, size=size)
    return 0


def _messages(communicator: Communicator) -> None:
    rank, size = communicator.rank, communicator.size
    if rank == 0:
        assert not communicator.waiting()
        for other in range(1, size):
            for number in range(3):
                communicator.send((number, b"x" * (number * 300_000)), other)
        seen: dict[int, list[int]] = {other: [] for other in range(1, size)}
        for _ in range(3 * (size - 1)):
            source, (number, filling) = communicator.receive()
            assert filling == b"y" * (number * 300_000)
            seen[source].append(number)
        assert all(numbers == [0, 1, 2] for numbers in seen.values())
        assert not communicator.waiting()
        return
    for number in range(3):
        source, message = communicator.receive()
        assert source == 0
        assert message == (number, b"x" * (number * 300_000))
        communicator.send((number, b"y" * (number * 300_000)), 0)


def _sums(communicator: Communicator) -> None:
    rank, size = communicator.rank, communicator.size
    everyone = sum(range(1, size + 1))
    mine = np.full((MANY,), rank + 1, np.int32)
    _expect(communicator.sum_to_master(mine), rank, np.int32, everyone)
    over = np.full((2, 3), 2**31 - 1, np.int32)
    _expect(communicator.sum_to_master(over), rank, np.int32 if size == 1 else np.int64, size * (2**31 - 1))
    under = np.full((2, 3), -(2**31) + 1, np.int32)
    _expect(communicator.sum_to_master(under), rank, np.int32 if size == 1 else np.int64, -size * (2**31 - 1))
    only_last = np.zeros(MANY, np.int32)
    only_last[-1] = 2**31 - 1
    total = communicator.sum_to_master(only_last)
    if rank == 0:
        assert total is not None
        assert not total[:-1].any()
        assert int(total[-1]) == size * (2**31 - 1)
    mixed = np.full(9, rank + 1, np.int32 if rank % 2 else np.int64)
    _expect(communicator.sum_to_master(mixed), rank, np.int64, everyone)
    mixed = np.full(MANY, (rank + 1) << (31 * (rank % 2)), np.int64 if rank % 2 else np.int32)
    expected = sum((other + 1) << (31 * (other % 2)) for other in range(size))
    _expect(communicator.sum_to_master(mixed), rank, np.int32 if size == 1 else np.int64, expected)
    long = communicator.sum_to_master(np.full((3, 5), (rank + 1) << 40, np.int64))
    _expect(long, rank, np.int64, everyone << 40)
    turned = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))
    total = communicator.sum_to_master(turned)
    if rank == 0:
        assert total is not None
        assert total.tolist() == (size * np.arange(6).reshape(2, 3)).tolist()
    assert (communicator.sum_to_master(np.zeros((0, 4), np.int32)) is None) == (rank > 0)
    for kind in (np.float32, np.complex64):
        parts = [np.random.default_rng(other).normal(size=(7, 11)).astype(kind) for other in range(size)]
        expected = parts[0].copy()
        for part in parts[1:]:
            expected += part
        total = communicator.sum_to_master(parts[rank].copy())
        if rank == 0:
            assert total is not None
            assert total.tobytes() == expected.tobytes()


def _expect(total: Any, rank: int, kind: type, value: int) -> None:
    if rank == 0:
        assert total.dtype == kind
        assert total.min() == total.max() == value
    else:
        assert total is None


class Work:
    """Blocks that add known numbers."""

    def __init__(self, communicator: Communicator, seconds: float) -> None:
        self._rank, self._seconds = communicator.rank, seconds
        self.sums = np.zeros(1000, np.int32)
        self.saves = 0

    def do_block(self, block: int) -> BlockReport:
        time.sleep(self._seconds)
        self.sums += np.random.default_rng(block).integers(-1000, 1000, 1000, dtype=np.int32)
        return BlockReport(block, self._rank, 10, self._seconds)

    def read_ahead(self, block: int) -> None:
        pass

    def save(self, epoch: int) -> Any:
        self.saves += 1
        return (epoch, self._rank, hashlib.sha256(self.sums.tobytes()).hexdigest())


class Overseer:
    """Has a checkpoint written after every so many blocks, and stops at the last if asked to or told by a signal."""

    def __init__(self, every: int, stop_after: int, flags: SignalFlags) -> None:
        self.done: list[BlockReport] = []
        self._every, self._stop_after, self._flags = every, stop_after, flags
        self._saved = self._epoch = 0
        self.records: list[Any] = []

    def stop_asked(self) -> str | None:
        return self._flags.requested()

    def block_done(self, report: BlockReport) -> None:
        self.done.append(report)

    def checkpoint_due(self) -> bool:
        return len(self.done) - self._saved >= self._every or self._flags.requested() is not None

    def begin_checkpoint(self) -> int:
        self._epoch += 1
        return self._epoch

    def checkpoint_saved(self, epoch: int, records: Any) -> bool:
        self._saved = len(self.done)
        assert sorted(record[1] for record in records) == list(range(len(records)))
        assert {record[0] for record in records} == {epoch}
        return len(self.done) >= self._stop_after or self._flags.requested() is not None


def schedule(communicator: Communicator, blocks: str, every: str, stop_after: str, seconds: str) -> int:
    """All blocks through the schedule; prints the sums' hash and who did what."""
    with SignalFlags() as flags:
        work = Work(communicator, float(seconds))
        overseer = Overseer(int(every), int(stop_after), flags)
        try:
            run_stage(communicator, range(int(blocks)), work, overseer)
        except StopRun:
            if communicator.rank == 0:
                say(stopped=len(overseer.done), signal=flags.requested())
            return 75
    total = communicator.sum_to_master(work.sums)
    if communicator.rank == 0:
        assert total is not None
        ranks = sorted({report.rank for report in overseer.done})
        say(blocks=sorted(report.block for report in overseer.done), ranks=ranks,
            sha256=hashlib.sha256(total.astype(np.int64).tobytes()).hexdigest())  # fmt: skip
    return 0


def die(communicator: Communicator, how: str, who: str, where: str) -> int:
    """One rank ends badly while the others wait, send, or sum."""
    if communicator.rank == int(who):
        time.sleep(0.3)
        _die(how)
        if how.startswith("return"):
            return int(how[6:])
    if where == "receive":
        communicator.receive()
    elif where == "broadcast":
        communicator.broadcast(1)
        communicator.broadcast(2)
        communicator.sum_to_master(np.ones(MANY, np.int32))
    elif where == "sum":
        communicator.sum_to_master(np.ones(MANY, np.int32))
        communicator.sum_to_master(np.ones(MANY, np.float32))
        communicator.broadcast(1)
    elif where == "work":
        time.sleep(600)
    return 0


def _die(how: str) -> None:
    if how == "raise":
        raise ZeroDivisionError("as asked")
    if how == "input":
        raise ParameterError("--option: expected this, got that")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how.startswith("sys.exit"):
        sys.exit(int(how[8:]))
    if how.startswith("os._exit"):
        os._exit(int(how[8:]))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def verdict(communicator: Communicator, how: str) -> int:
    """The master finds something wrong before the work."""
    on_master(communicator, lambda: _die(how))
    communicator.sum_to_master(np.ones(3, np.int32))
    if communicator.rank == 0:
        say(done=True)
    return 0


def code(communicator: Communicator, *codes: str) -> int:
    """Every rank returns its own code."""
    return int(codes[communicator.rank])


PROGRAMS: dict[str, Callable[..., int]] = {
    "laws": laws, "schedule": schedule, "die": die, "verdict": verdict, "code": code,
}  # fmt: skip

if __name__ == "__main__":
    program, arguments = PROGRAMS[sys.argv[1]], sys.argv[2:]
    sys.exit(shared_runner().guarded(lambda communicator: program(communicator, *arguments)))
