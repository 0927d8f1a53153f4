"""The runner that ``centralslice.runtime.launched`` names: the launched world, its communicator, its guard."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from centralslice.runtime.launched import LaunchedWorld
from centralslice_mpi.environment import world_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from centralslice.runtime.communicator import Communicator
    from centralslice_mpi.communicator import Mpi


def world_from_environment() -> LaunchedWorld | None:
    """The world this process was started in, or None; MPI is not started.

    Raises
    ------
    ParameterError
        If a launcher's variable is no number.
    """
    return world_of()


@cache  # MPI starts once a process
def open_communicator() -> Mpi:
    """Start MPI and check that the ranks found each other.

    Raises
    ------
    ResourceError
        If mpi4py or its MPI library is missing.
    ParameterError
        If launcher and MPI library do not belong together.
    """
    from centralslice_mpi.communicator import Mpi

    return Mpi(world_of())


def guarded(main: Callable[[Communicator], int]) -> int:
    """Run ``main`` on this rank; see :func:`centralslice_mpi.guard.guarded`."""
    from centralslice_mpi import guard

    return guard.guarded(main)
