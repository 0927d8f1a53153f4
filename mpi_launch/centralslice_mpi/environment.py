"""Which launcher started this process, read from the environment before MPI starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from centralslice.errors import ParameterError
from centralslice.runtime.launched import LaunchedWorld

#: Words of an MPI library's version string, and the family it belongs to.
_LIBRARIES = (
    ("Open MPI", "openmpi"),
    ("Spectrum MPI", "openmpi"),
    ("MPICH", "mpich"),  # CRAY MPICH too
    ("Intel(R) MPI", "mpich"),
    ("MVAPICH", "mpich"),
)


def world_of(environment: Mapping[str, str] | None = None) -> LaunchedWorld | None:
    """The world that the environment describes, None for a process that was simply started.

    Parameters
    ----------
    environment
        Instead of the process's own.

    Notes
    -----
    Open MPI's and hydra's own variables come before Slurm's: inside a Slurm job they start their daemons as a
    step, whose task count is the number of nodes. ``SLURM_NTASKS`` says nothing: a batch script has it, too.
    """
    given = os.environ if environment is None else environment
    if "OMPI_COMM_WORLD_SIZE" in given:
        return _world(given, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI's mpirun", "openmpi")
    if "MPI_LOCALNRANKS" in given and "PMI_SIZE" in given:
        return _world(given, "PMI_SIZE", "PMI_RANK", "MPICH's mpiexec", "mpich")
    step = _number(given, "SLURM_STEP_NUM_TASKS")
    if step is not None and "SLURM_PROCID" in given and step > 1:
        return _world(given, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun", None)
    if "PMI_SIZE" in given:
        return _world(given, "PMI_SIZE", "PMI_RANK", "a PMI launcher", None if step else "mpich")
    if "MV2_COMM_WORLD_SIZE" in given:
        return _world(given, "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MVAPICH's mpirun_rsh", "mpich")
    if "PMIX_RANK" in given and step is None:
        return LaunchedWorld(None, _number(given, "PMIX_RANK"), "a PMIx launcher", None)
    return None


def _world(
    given: Mapping[str, str], size: str, rank: str, launcher: str, family: str | None
) -> LaunchedWorld:
    return LaunchedWorld(_number(given, size), _number(given, rank), launcher, family)


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ParameterError(f"{name}: expected a number from the MPI launcher, got '{text}'; unset it")
    return int(text)


def library_family(version: str) -> str | None:
    """``mpich`` or ``openmpi`` from an MPI library's version string; None for one we do not know."""
    return next((family for word, family in _LIBRARIES if word in version), None)


def library_name(version: str) -> str:
    """The short name in an MPI library's version string: ``MPICH 5.0.2``."""
    line = version.strip("\0\n ").splitlines()[0] if version.strip("\0\n ") else "an unnamed MPI library"
    return " ".join(line.split(",")[0].replace("Version:", "").split())


def check_library(world: LaunchedWorld, version: str) -> None:
    """Refuse a launcher that the MPI library cannot work with: it would fail, or run n worlds of one rank.

    Raises
    ------
    ParameterError
        The message names both and what to type.
    """
    family = library_family(version)
    if world.family is None or family is None or world.family == family:
        return
    raise ParameterError(
        f"{world.launcher} started {world.size or 'several'} ranks, but mpi4py uses {library_name(version)}, "
        f"which cannot join them; start with {own_launcher()}, or install mpi4py for the other MPI library"
    )


def check_size(world: LaunchedWorld, size: int, version: str) -> None:
    """Refuse a world whose ranks do not find each other.

    Raises
    ------
    ParameterError
        The message says how many were started, how many found each other, and what to do.
    """
    if world.size is None or world.size == size:
        return
    if world.launcher == "srun":
        cure = "see srun --mpi=list and add --mpi=pmix or --mpi=pmi2, or start with mpirun inside the job"
    else:
        cure = f"start with {own_launcher()}"
    raise ParameterError(
        f"{world.launcher} started {world.size} ranks, but {library_name(version)} sees a world of {size}; {cure}"
    )


def own_launcher() -> str:
    """The mpiexec that belongs to this Python's environment, else words for it."""
    beside = Path(sys.prefix, "bin", "mpiexec")
    return str(beside) if beside.is_file() else "the mpiexec of that library"
