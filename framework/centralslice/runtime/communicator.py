"""How the ranks of a run talk: one narrow protocol, in serial and in-process forms.

The MPI form is in ``centralslice_mpi``; nothing else knows of MPI. Rank 0 is the master.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from centralslice.errors import CentralsliceError

MASTER = 0
#: Arrays are summed in pieces of this many bytes.
PIECE_BYTES = 32 * 2**20


class RankFailure(CentralsliceError):
    """Another rank failed; its message says which and why."""


class Communicator(Protocol):
    """Messages between the ranks of a run.

    Messages are pickled; arrays of sums travel only through :meth:`sum_to_master`.
    """

    @property
    def rank(self) -> int:
        """This rank, 0 is the master."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def send(self, message: Any, to: int) -> None:
        """Send without waiting for the receiver."""

    def receive(self) -> tuple[int, Any]:
        """Wait for the next message from any rank: ``(source, message)``."""

    def waiting(self) -> bool:
        """Whether a message can be received without waiting."""

    def broadcast(self, value: Any) -> Any:
        """The master's value on every rank; collective."""

    def sum_to_master(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Element-wise sum over the ranks, on the master; None elsewhere; collective.

        Integer sums are exact: they come back as int64 where int32 would not hold them. Floats are
        added in the order of the ranks. The array may be overwritten.
        """

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once with this exit code."""


class Serial:
    """One rank."""

    rank = MASTER
    size = 1

    def send(self, message: Any, to: int) -> None:
        """There is nobody to send to."""
        raise RuntimeError(f"a single rank cannot send to rank {to}")

    def receive(self) -> tuple[int, Any]:
        """There is nobody to receive from."""
        raise RuntimeError("a single rank cannot receive")

    def waiting(self) -> bool:
        """Never."""
        return False

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value

    def sum_to_master(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """The array itself."""
        return array

    def abort(self, code: int) -> NoReturn:
        """End the process."""
        raise SystemExit(code)


@dataclass
class _World:
    """What the ranks of an in-process world share."""

    size: int
    inboxes: list[queue.Queue[tuple[int, bytes]]]
    barrier: threading.Barrier
    board: list[Any] = field(default_factory=list)


class InProcess:
    """One of n ranks that are threads of this process; every message is pickled, as MPI would."""

    def __init__(self, rank: int, world: _World) -> None:
        self.rank, self.size, self._world = rank, world.size, world

    def send(self, message: Any, to: int) -> None:
        """Put the pickled message into the inbox of a rank."""
        self._world.inboxes[to].put((self.rank, pickle.dumps(message)))

    def receive(self) -> tuple[int, Any]:
        """Take the next message; RankFailure if the world broke meanwhile."""
        while True:
            try:
                source, message = self._world.inboxes[self.rank].get(timeout=0.2)
            except queue.Empty:
                if self._world.barrier.broken:
                    raise RankFailure("another rank failed") from None
                continue
            return source, pickle.loads(message)  # noqa: S301 - our own message from this process

    def waiting(self) -> bool:
        """Whether the inbox holds a message."""
        return not self._world.inboxes[self.rank].empty()

    def broadcast(self, value: Any) -> Any:
        """The master's value, pickled once."""
        self._meet()
        if self.rank == MASTER:
            self._world.board[0] = pickle.dumps(value)
        self._meet()
        return value if self.rank == MASTER else pickle.loads(self._world.board[0])  # noqa: S301 - as above

    def sum_to_master(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Piecewise sums in the order of the ranks."""
        self._world.board[self.rank] = array
        self._meet()
        total = None
        if self.rank == MASTER:
            total = array
            for other in range(1, self.size):
                total = add_exactly(total, self._world.board[other])
        self._meet()
        return total

    def abort(self, code: int) -> NoReturn:
        """Break the world: every rank that waits gets RankFailure."""
        self._world.barrier.abort()
        raise SystemExit(code)

    def _meet(self) -> None:
        try:
            self._world.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankFailure("another rank failed") from None


def run_in_process(size: int, work: Callable[[Communicator], Any]) -> list[Any]:
    """Run ``work`` on n ranks as threads; their results in the order of the ranks.

    Raises
    ------
    BaseException
        The first error of any rank, when all have ended.
    """
    world = _World(size, [queue.Queue() for _ in range(size)], threading.Barrier(size), [None] * size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def rank_work(rank: int) -> None:
        try:
            results[rank] = work(InProcess(rank, world))
        except BaseException as error:
            errors.append(error)
            world.barrier.abort()

    threads = [threading.Thread(target=rank_work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    causes = [error for error in errors if not isinstance(error, RankFailure)] or errors
    if causes:
        raise causes[0]
    return results


def add_exactly(total: NDArray[Any], part: NDArray[Any]) -> NDArray[Any]:
    """``total + part``, in place where it fits; int32 sums that would overflow come back as int64."""
    if total.dtype != np.int32:
        total += part
        return total
    flat, other = total.reshape(-1), part.reshape(-1)
    piece = PIECE_BYTES // 8
    for start in range(0, len(flat), piece):
        here = slice(start, start + piece)
        summed = flat[here].astype(np.int64) + other[here]
        if summed.size and max(-int(summed.min()), int(summed.max())) > np.iinfo(np.int32).max:
            wide = total.astype(np.int64)
            # pieces before this one hold the part already
            wide.reshape(-1)[start:] += other[start:]
            return wide
        flat[here] = summed
    return total
