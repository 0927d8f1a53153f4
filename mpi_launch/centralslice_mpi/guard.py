"""The console entry of a rank: whatever goes wrong on one rank ends them all, within seconds.

A plain script that raises on one rank hangs under MPICH and Open MPI: the failing rank waits in
MPI_Finalize for the others, and they wait for its messages.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable

from centralslice.errors import (
    EXIT_BAD_INPUT,
    EXIT_UNEXPECTED,
    CentralsliceError,
    exit_code,
)
from centralslice.runtime.communicator import MASTER, AnnouncedFailure, Communicator, RankFailure
from centralslice_mpi.communicator import Mpi
from centralslice_mpi.environment import world_of
from centralslice_mpi.launch import open_communicator

#: What fails on all ranks is told by the first: each waits so much longer than the one before, up to a fourth.
_STAGGER_S, _STAGGERED_RANKS = 0.3, 4
#: A rank that may not speak waits so long for the one that speaks: launchers kill all when one ends.
_AFTER_SPEAKER_S = 1.0


def guarded(main: Callable[[Communicator], int]) -> int:
    """Run ``main`` on this rank and leave the world together with the others.

    Parameters
    ----------
    main
        The work of every rank; its result is the rank's exit code.

    Returns
    -------
        On the master the run's exit code, the first that is not 0 in the order of the ranks; 0 elsewhere. An error
        that only this rank knows of ends all ranks here and now, with traceback (or one line, for errors that
        centralslice raises on purpose), rank and host on stderr.
    """
    try:
        communicator = open_communicator()
    except CentralsliceError as error:
        return _refuse(error)
    try:
        code = main(communicator)
    except AnnouncedFailure as failure:  # every rank knows; only the master has the cause
        cause = failure.__cause__
        if cause is not None and not isinstance(cause, SystemExit):  # --help ends this way
            _tell(cause, communicator)
        code = failure.code
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too: the other ranks know nothing
        time.sleep(_STAGGER_S * min(communicator.rank, _STAGGERED_RANKS))
        if not isinstance(error, KeyboardInterrupt) or communicator.rank == MASTER:
            _tell(error, communicator)
        communicator.abort(_abort_code(error))
    return communicator.close(code)


def _refuse(error: CentralsliceError) -> int:
    """One line from one rank; the exit code."""
    world = world_of()
    if world is None or world.rank in (None, MASTER):
        _write(f"centralslice: error: {_one_line(error)}\n")
    else:
        time.sleep(_AFTER_SPEAKER_S)
    return EXIT_BAD_INPUT


def _tell(error: BaseException, communicator: Mpi) -> None:
    """What went wrong, and where."""
    where = f"rank {communicator.rank} of {communicator.size} on {socket.gethostname()}"
    if isinstance(error, CentralsliceError):
        place = "" if communicator.rank == MASTER else f"{where}: "
        _write(f"centralslice: error: {place}{_one_line(error)}\n")
    elif isinstance(error, KeyboardInterrupt):
        text = _one_line(error)
        _write(f"centralslice: interrupted{'; ' if text else ''}{text}\n")
    else:
        trace = "".join(traceback.format_exception(error))
        _write(
            f"{trace}centralslice: unexpected error on {where}: {type(error).__name__}: {_one_line(error)}\n"
        )


def _abort_code(error: BaseException) -> int:
    """Never 0: a rank that ended alone did not do its work."""
    if isinstance(error, SystemExit):
        return error.code & 0xFF or EXIT_UNEXPECTED if isinstance(error.code, int) else EXIT_UNEXPECTED
    return EXIT_UNEXPECTED if isinstance(error, RankFailure) else exit_code(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _write(text: str) -> None:
    """In one piece, so that the lines of several ranks do not mix."""
    if sys.stderr is not None:
        sys.stderr.flush()
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(sys.stderr.fileno(), data) :]
