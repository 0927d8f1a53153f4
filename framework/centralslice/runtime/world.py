"""Which ranks this process belongs to: none but itself, or those a launcher such as mpiexec started.

The framework knows no MPI. The runner is a module that ``launched`` names and imports on demand; it recognises the
launcher from the environment, before MPI starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from centralslice.errors import EXIT_DONE, EXIT_UNEXPECTED, ParameterError, exit_code
from centralslice.runtime.communicator import MASTER, AnnouncedFailure, Communicator, Serial
from centralslice.runtime.launched import LaunchedWorld, launched_world, shared_runner

T = TypeVar("T")


def open_world(parallel: str | None = None) -> Communicator:
    """The communicator of this process.

    Parameters
    ----------
    parallel
        The user's ``--parallel``: None, ``thread:N``, ``mpi`` or ``mpi:N``.

    Raises
    ------
    ParameterError
        If the text has another form, or asks for ranks that nobody started, or for another number.
    """
    world = launched_world()
    check_parallel(parallel, world)
    return Serial() if world is None else shared_runner().open_communicator()


def run_in_world(parallel: str | None, main: Callable[[Communicator], int]) -> int:
    """Run ``main`` on this rank: alone, or guarded in the world that a launcher started; its exit code.

    Raises
    ------
    ParameterError
        As :func:`open_world`, outside a launched world; inside, the master says so and all ranks end.
    """
    world = launched_world()
    if world is None:
        return main(open_world(parallel))

    def guarded_main(communicator: Communicator) -> int:
        on_master(communicator, lambda: check_parallel(parallel, world))
        return main(communicator)

    return shared_runner().guarded(guarded_main)


def check_parallel(parallel: str | None, world: LaunchedWorld | None) -> None:
    """Compare ``--parallel`` with what was started.

    Raises
    ------
    ParameterError
        As :func:`open_world`.
    """
    asked = ranks_asked(parallel)
    if world is None:
        if asked.mpi and asked.ranks != 1:
            number = "N" if asked.ranks is None else str(asked.ranks)
            raise ParameterError(
                f"--parallel {parallel}: this process was not started as one of several ranks; "
                f"type: mpirun -n {number} centralslice …"
            )
    elif asked.threads is not None:
        raise ParameterError(
            f"--parallel {parallel}: {world.launcher} started {world.size or 'several'} ranks; "
            f"for threads of each rank give --threads {asked.threads}"
        )
    elif asked.ranks is not None and world.size is not None and asked.ranks != world.size:
        raise ParameterError(
            f"--parallel {parallel}: {world.launcher} started {world.size} ranks; "
            f"start {asked.ranks} or leave out :{asked.ranks}"
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A parsed ``--parallel``: MPI or not, ranks and threads where a number was given."""

    mpi: bool = False
    ranks: int | None = None
    threads: int | None = None


def ranks_asked(parallel: str | None) -> Asked:
    """Parse ``--parallel``.

    Raises
    ------
    ParameterError
        Unless it is ``mpi``, ``mpi:N`` or ``thread:N`` with N from 1.
    """
    if parallel is None:
        return Asked()
    scheme, colon, number = parallel.partition(":")
    count = int(number) if number.isascii() and number.isdigit() else 0
    if scheme == "mpi" and (count or not colon):
        return Asked(mpi=True, ranks=count or None)
    if scheme == "thread" and count:
        return Asked(threads=count)
    raise ParameterError(f"--parallel: expected mpi, mpi:N or thread:N with N from 1, got '{parallel}'")


def on_master(communicator: Communicator, work: Callable[[], T]) -> T:
    """``work()`` done by the master alone, its value on every rank; collective.

    An error of the master is broadcast, so that all ranks end together and it is told once.

    Raises
    ------
    AnnouncedFailure
        On every rank, if the master's work raised; there it is the cause.
    BaseException
        With a single rank, what the work raised.
    """
    if communicator.size == 1:
        return work()
    if communicator.rank != MASTER:
        code, value = communicator.broadcast(None)
        if code is not None:
            raise AnnouncedFailure(code)
        return cast(T, value)
    try:
        value = work()
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        code = _code_of(error)
        communicator.broadcast((code, None))
        raise AnnouncedFailure(code) from error
    communicator.broadcast((None, value))
    return value


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):  # argparse's --help ends with 0
        if error.code is None:
            return EXIT_DONE
        return error.code if isinstance(error.code, int) else EXIT_UNEXPECTED
    return exit_code(error)
