"""How the ranks of a run talk: one narrow protocol, in serial and in-process forms.

The MPI form is in ``centralslice_mpi``; nothing else knows of MPI. Rank 0 is the master.
"""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from numpy.typing import NDArray

from centralslice.data.slices import add_exactly
from centralslice.errors import CentralsliceError

MASTER = 0
#: Arrays are summed in pieces of this many bytes.
PIECE_BYTES = 32 * 2**20


class RankFailure(CentralsliceError):
    """Another rank failed; its message says which and why."""


class AnnouncedFailure(RankFailure):
    """The master's work failed and every rank was told; on the master, the error is the cause."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the master failed with exit code {code}")
        self.code = code


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


#: Seconds between two looks of a waiting in-process rank at whether the others are still there.
_LOOK_S = 0.2


class _World:
    """What the ranks of an in-process world share.

    ``meeting`` holds what each rank came to the barrier for; ranks that meet for different things would wait for
    each other for ever, as they would for one in ``ended``.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.inboxes: list[queue.Queue[tuple[int, bytes]]] = [queue.Queue() for _ in range(size)]
        self.meeting: list[str] = [""] * size
        self.ended: set[int] = set()
        self.announced = b""
        self.arrays: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, action=self._check)

    def _check(self) -> None:
        if len(set(self.meeting)) > 1:
            raise RankFailure(f"the ranks met for different things: {', '.join(self.meeting)}")

    def meet(self, rank: int, purpose: str) -> None:
        """Wait for all ranks."""
        self.meeting[rank] = purpose
        if purpose == _ENDED:
            self.ended.add(rank)
        try:
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankFailure("another rank failed") from None

    def left(self, rank: int) -> bool:
        """Whether a rank has failed or ended that this one needs, so that it may wait for ever.

        The master needs all, the others the master: a worker may have ended in good order while the master
        has still to say to another that it may.
        """
        gone = bool(self.ended) if rank == MASTER else MASTER in self.ended
        return gone or self.barrier.broken or self.size == 1


#: What a rank that has returned came to the barrier for.
_ENDED = "end"


class InProcess:
    """One of n ranks that are threads of this process; every message is pickled, as MPI would."""

    def __init__(self, rank: int, world: _World) -> None:
        self.rank, self.size, self._world = rank, world.size, world

    def send(self, message: Any, to: int) -> None:
        """Put the pickled message into the inbox of a rank."""
        self._world.inboxes[to].put((self.rank, pickle.dumps(message)))

    def receive(self) -> tuple[int, Any]:
        """Take the next message; RankFailure if there is none and another rank has ended."""
        inbox = self._world.inboxes[self.rank]
        while True:
            left = self._world.left(self.rank)  # before the look: what was sent before leaving is found
            try:
                source, message = inbox.get(timeout=0 if left else _LOOK_S)
            except queue.Empty:
                if left:
                    raise RankFailure("another rank failed or ended while its message was awaited") from None
                continue
            return source, pickle.loads(message)  # noqa: S301 - our own message from this process

    def waiting(self) -> bool:
        """Whether the inbox holds a message; RankFailure if another rank failed."""
        if self._world.barrier.broken:
            raise RankFailure("another rank failed")
        return not self._world.inboxes[self.rank].empty()

    def broadcast(self, value: Any) -> Any:
        """The master's value, pickled once."""
        self._world.meet(self.rank, "broadcast")
        if self.rank == MASTER:
            self._world.announced = pickle.dumps(value)
        self._world.meet(self.rank, "broadcast")
        # nobody can come to the next broadcast's first meeting before this was read
        return value if self.rank == MASTER else pickle.loads(self._world.announced)  # noqa: S301 - as above

    def sum_to_master(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Piecewise sums in the order of the ranks."""
        arrays = self._world.arrays
        arrays[self.rank] = array
        self._world.meet(self.rank, "sum")
        total = None
        if self.rank == MASTER:
            total = array
            for other in range(1, self.size):
                total = add_exactly(total, arrays[other])
        self._world.meet(self.rank, "sum")
        arrays[self.rank] = None
        return total

    def abort(self, code: int) -> NoReturn:
        """Break the world: every rank that waits gets RankFailure."""
        self._world.barrier.abort()
        raise SystemExit(code)


def run_in_process(size: int, work: Callable[[Communicator], Any]) -> list[Any]:
    """Run ``work`` on n ranks as threads; their results in the order of the ranks.

    Raises
    ------
    BaseException
        The first error of any rank, when all have ended.
    """
    world = _World(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def rank_work(rank: int) -> None:
        try:
            try:
                results[rank] = work(InProcess(rank, world))
            except (
                AnnouncedFailure
            ) as failure:  # every rank knows: the others must not be cut off while they are told
                errors.append(failure)
            world.meet(rank, _ENDED)
        except BaseException as error:
            errors.append(error)
            world.barrier.abort()

    threads = [threading.Thread(target=rank_work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [error.__cause__ for error in errors if isinstance(error, AnnouncedFailure) and error.__cause__]
    causes = [*told, *(error for error in errors if not isinstance(error, RankFailure)), *errors]
    if causes:
        raise causes[0]
    return results
