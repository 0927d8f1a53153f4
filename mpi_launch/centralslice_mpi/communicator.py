"""The communicator of ranks that an MPI launcher started.

Everything is point to point and every wait looks now and then and sleeps in between: a rank that waits for
the master's last computation leaves the cores to it, and a rank that has ended is noticed where MPI's own
collectives would wait for ever.
"""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from centralslice.data.slices import add_exactly
from centralslice.errors import ResourceError
from centralslice.runtime.communicator import MASTER, PIECE_BYTES, RankFailure
from centralslice.runtime.launched import LaunchedWorld
from centralslice_mpi.environment import check_library, check_size

if TYPE_CHECKING:
    from mpi4py import MPI as MpiModule

#: Kinds of messages, as MPI tags.
_MESSAGE, _BROADCAST, _SUM, _LEAVING, _VERDICT = range(1, 6)
#: A wait looks this often without sleeping, then sleeps, longer and longer.
_LOOKS, _SHORTEST_S, _LONGEST_S = 200, 20e-6, 2e-3
#: A rank with an error waits so long for the others to leave, too; then it ends them.
_PATIENCE_S = 10.0
#: Time for a launcher to pass on what was printed before it kills everybody.
_DRAIN_S = 0.2


class Mpi:
    """The ranks of ``MPI_COMM_WORLD``; all calls from the main thread.

    Parameters
    ----------
    world
        What the environment says; None: whatever MPI finds.

    Raises
    ------
    ResourceError
        If mpi4py or its MPI library is missing.
    ParameterError
        If the ranks that were started do not find each other.
    """

    def __init__(self, world: LaunchedWorld | None = None) -> None:
        mpi = _import_mpi()
        version = mpi.Get_library_version()
        if world is not None:
            check_library(world, version)  # before MPI starts: with another's launcher it may end the process
        if not mpi.Is_initialized():
            mpi.Init_thread(mpi.THREAD_FUNNELED)
        self._mpi, self._world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        if world is not None:
            check_size(world, self.size, version)
        self._posted: list[tuple[MpiModule.Request, int, Any]] = []
        self._left: dict[int, int] = {}

    def send(self, message: Any, to: int) -> None:
        """Send the pickled message; it travels on during later calls if it is large."""
        self._posted = [entry for entry in self._posted if not entry[0].Test()]
        self._post(pickle.dumps(message), to, _MESSAGE)

    def receive(self) -> tuple[int, Any]:
        """Wait for the next message; RankFailure if another rank ended instead."""
        source, message = self._receive_bytes(None, _MESSAGE)
        return source, pickle.loads(message)  # noqa: S301 - our own message from a rank of this run

    def waiting(self) -> bool:
        """Whether a message has come; RankFailure if another rank ended badly."""
        self._check_left(None, _MESSAGE)
        return bool(self._world.Iprobe(self._mpi.ANY_SOURCE, _MESSAGE))

    def broadcast(self, value: Any) -> Any:
        """The master's value, along a tree of ranks."""
        parent, children = relatives(self.rank, self.size)
        message = pickle.dumps(value) if parent is None else self._receive_bytes(parent, _BROADCAST)[1]
        for child in reversed(children):  # the one with most ranks below it first
            self._post(message, child, _BROADCAST)
        self._finish_sending()
        return value if parent is None else pickle.loads(message)  # noqa: S301 - as above

    def sum_to_master(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Sums in pieces: integers along a tree, anything else at the master in the order of the ranks.

        Integer pieces travel as int32 where they fit and as int64 where they do not.
        """
        flat = np.ascontiguousarray(array).reshape(-1)
        if array.dtype.kind == "i":
            parent, children = relatives(self.rank, self.size)
            step = PIECE_BYTES // 8  # some ranks may have int32 where others have int64
        else:
            parent = None if self.rank == MASTER else MASTER
            children = list(range(1, self.size)) if self.rank == MASTER else []
            step = PIECE_BYTES // array.itemsize
        for start in range(0, len(flat), step):
            piece = flat[start : start + step]
            for child in children:
                piece = add_exactly(piece, self._receive_piece(child, piece))
            if parent is not None:
                self._finish_sending()  # the piece before: one is on its way at a time
                self._posted.append((self._world.Isend(_octets(piece), parent, _SUM), parent, piece))
            else:
                if piece.dtype != flat.dtype:
                    flat = flat.astype(piece.dtype)
                flat[start : start + step] = piece
        self._finish_sending()
        return flat.reshape(array.shape) if self.rank == MASTER else None

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        time.sleep(_DRAIN_S)
        self._world.Abort(code)
        raise SystemExit(code)  # not reached: Abort ends the process

    def close(self, code: int = 0) -> int:
        """Leave the world together with all other ranks.

        Parameters
        ----------
        code
            This rank's exit code.

        Returns
        -------
            On the master the exit code of the run: the first that is not 0, in the order of the ranks. Elsewhere 0,
            for launchers kill all that still run when one ends with another code.
        """
        others = [rank for rank in range(self.size) if rank != self.rank]
        for other in others if self.rank == MASTER else [MASTER]:
            self._post(bytes([code & 0xFF]), other, _LEAVING)
        self._await_leaving(code, len(others) if self.rank == MASTER else 1)
        if self.rank == MASTER:
            codes = [code & 0xFF, *(self._left[other] for other in others)]
            verdict = next((found for found in codes if found), 0)
            for other in others:
                self._post(bytes([verdict]), other, _VERDICT)
        else:
            self._wait(lambda: self._arrived(MASTER, _VERDICT))
            self._receive_now(MASTER, _VERDICT)
            verdict = 0
        for request, _, _ in self._posted:
            self._wait(request.Test)
        self._mpi.Finalize()
        if verdict:
            time.sleep(_DRAIN_S)  # the others end first
        return verdict

    def _await_leaving(self, code: int, number: int) -> None:
        """Wait until so many others have left; with an error, not longer than they need to notice."""
        patience = time.monotonic() + _PATIENCE_S if code and number else math.inf
        self._wait(lambda: self._look_for_left() or len(self._left) == number or time.monotonic() > patience)
        if len(self._left) < number:
            self.abort(code)

    def _post(self, message: bytes | bytearray, to: int, tag: int) -> None:
        """Start sending in pieces; a piece that is not full is the last."""
        view = memoryview(message)
        for start in range(0, len(view) + 1, PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            self._posted.append((self._world.Isend([piece, self._mpi.BYTE], to, tag), to, piece))

    def _finish_sending(self) -> None:
        """Wait until everything that was posted is gone; RankFailure if the receiver has left."""
        for request, to, _ in self._posted:
            self._wait(lambda: request.Test() or self._check_left(to))  # noqa: B023 - used within the turn
        self._posted.clear()

    def _receive_bytes(self, source: int | None, tag: int) -> tuple[int, bytearray]:
        """The next message of a rank, or of any, put together from its pieces."""
        sender, message = self._next_piece(source, tag)
        last = len(message)
        while last == PIECE_BYTES:
            _, piece = self._next_piece(sender, tag)
            last = len(piece)
            message += piece
        return sender, message

    def _next_piece(self, source: int | None, tag: int) -> tuple[int, bytearray]:
        wanted = self._source(source)
        self._wait(lambda: self._arrived(wanted, tag) or self._check_left(source, tag))
        return self._receive_now(wanted, tag)

    def _arrived(self, source: int, tag: int) -> bool:
        return bool(self._world.Iprobe(source, tag))

    def _receive_now(self, source: int, tag: int) -> tuple[int, bytearray]:
        """Receive a piece that has been announced."""
        status = self._mpi.Status()
        message = self._world.Mprobe(source, tag, status)
        buffer = bytearray(status.Get_count(self._mpi.BYTE))
        self._wait(message.Irecv([buffer, self._mpi.BYTE]).Test)
        return status.Get_source(), buffer

    def _receive_piece(self, source: int, like: NDArray[Any]) -> NDArray[Any]:
        """A rank's part of a sum, int32 or int64 if integer."""
        _, octets = self._next_piece(source, _SUM)
        narrow, wide = like.size * like.itemsize, like.size * 8
        if like.dtype.kind == "i" and len(octets) in (like.size * 4, wide):
            return np.frombuffer(octets, np.int64 if len(octets) == wide else np.int32)
        if len(octets) != narrow:
            raise RankFailure(f"rank {source} sent {len(octets)} bytes of sums where {narrow} were expected")
        return np.frombuffer(octets, like.dtype)

    def _look_for_left(self) -> bool:
        """Note ranks that have left; always False, for use in conditions."""
        while self._arrived(self._mpi.ANY_SOURCE, _LEAVING):
            source, code = self._receive_now(self._mpi.ANY_SOURCE, _LEAVING)
            self._left[source] = code[0]
        return False

    def _check_left(self, awaited: int | None, tag: int | None = None) -> bool:
        """RankFailure if the awaited rank (None: any) has left and nothing of it with this tag is there; else False.

        A rank that left with an error is a failure whoever is awaited.
        """
        self._look_for_left()
        gone = [rank for rank, code in self._left.items() if code or awaited in (None, rank)]
        # what it sent before it left is still to be had
        if not gone or (tag is not None and self._arrived(self._source(awaited), tag)):
            return False
        raise RankFailure(f"rank {gone[0]} ended with exit code {self._left[gone[0]]} while others needed it")

    def _source(self, awaited: int | None) -> int:
        return int(self._mpi.ANY_SOURCE) if awaited is None else awaited

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Until ready: look often at first, then sleep between looks."""
        pause = _SHORTEST_S
        for _ in range(_LOOKS):
            if ready():
                return
        while not ready():
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_S)


def relatives(rank: int, size: int) -> tuple[int | None, list[int]]:
    """Parent and children of a rank in the binomial tree of n ranks with the master at its root."""
    children = []
    bit = 1
    while rank & bit == 0 and rank + bit < size:
        children.append(rank + bit)
        bit *= 2
    return (None if rank == MASTER else rank & (rank - 1)), children


def _octets(piece: NDArray[Any]) -> NDArray[np.uint8]:
    return piece.view(np.uint8)


def _import_mpi() -> Any:
    """The module mpi4py.MPI, not started."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False  # at an exit that nobody guards, the others would be waited for
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"several ranks were started, but mpi4py is not installed for {sys.executable}; "
            "pip install 'centralslice[mpi]' (and pip install mpich, or load the cluster's MPI module)"
        ) from error
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ResourceError(
            f"mpi4py finds no MPI library ({reason}); load the cluster's MPI module, or pip install mpich"
        ) from error
    return MPI
