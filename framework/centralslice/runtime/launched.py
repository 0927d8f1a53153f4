"""What a launcher such as mpiexec started this process as part of; nothing heavy is imported to find out."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from centralslice.runtime.communicator import Communicator

#: The shipped runner: a module with what :class:`Runner` asks for.
RUNNER = "centralslice_mpi.launch"


@dataclass(frozen=True, slots=True)
class LaunchedWorld:
    """What the environment says of the ranks that were started together.

    Attributes
    ----------
    size
        Number of ranks; None where the launcher does not say.
    rank
        This process's rank; None where the launcher does not say.
    launcher
        Who started them, in words: ``Open MPI's mpirun``.
    family
        MPI libraries that can join this world, ``mpich`` or ``openmpi``; None: cannot be told.
    """

    size: int | None
    rank: int | None
    launcher: str
    family: str | None


class Runner(Protocol):
    """What a module that runs ranks offers."""

    def world_from_environment(self) -> LaunchedWorld | None:
        """The world this process was started in, or None; MPI is not started."""

    def open_communicator(self) -> Communicator:
        """Start MPI, once a process."""

    def guarded(self, main: Callable[[Communicator], int]) -> int:
        """Run ``main`` on this rank; whatever goes wrong anywhere ends all ranks."""


def shared_runner() -> Runner:
    """The runner's module."""
    return cast(Runner, importlib.import_module(RUNNER))


def launched_world() -> LaunchedWorld | None:
    """The world of several ranks that this process was started in, else None."""
    world = shared_runner().world_from_environment()
    return None if world is None or world.size == 1 else world
