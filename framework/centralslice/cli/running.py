"""What all commands share whose work is done by all ranks: their options about running, and the run itself."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from centralslice import __version__
from centralslice.cli.options import open_registry
from centralslice.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, ParameterError

if TYPE_CHECKING:
    from centralslice.jobs.run_tools import Launch
    from centralslice.plugin.registry import Registry
    from centralslice.runtime.communicator import Communicator
    from centralslice.runtime.hosts import Host


def add_running(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of every such command; the group, for those of one command."""
    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--threads", type=int, metavar="N", help="threads [all cores this process may use]")
    add("--parallel", metavar="HOW", help="mpi[:N] inside mpirun -n N, or thread:N, the same as --threads N")
    add("--checkpoint-every", metavar="TIME", default="10m",
        help="write a checkpoint this often (90s, 10m, 2h; 0: never), and on USR1, TERM and Ctrl-C [10m]")  # fmt: skip
    add("--resume", nargs="?", const="yes", default="no", choices=("yes", "auto", "no"),
        help="continue from the checkpoint; auto: the one before if the last is damaged, or start anew")  # fmt: skip
    add("--master-works", action=argparse.BooleanOptionalAction, default=True,
        help="whether rank 0 works on particles too [yes]")  # fmt: skip
    add("--log-json", action="store_true", help="progress as JSON lines on stderr")
    add("--dry-run", action="store_true", help="print the plan (particles, memory, outputs) and stop")
    add("--verbose", "-v", type=int, nargs="?", const=2, default=1, metavar="N",
        help="0 errors only, 1 result and progress, 2 the plan too [1]")  # fmt: skip
    add("--version", action="version", version=f"centralslice {__version__}")
    return group


def add_sums(group: argparse._ArgumentGroup) -> None:
    """Add the options of jobs that sum."""
    add = group.add_argument
    add("--sums", choices=("exact", "fast"), default="exact",
        help="exact: the same bits on any number of ranks and threads, interrupted or not [exact]")  # fmt: skip
    add("--quanta-of", type=Path, metavar="FOLDER",
        help="exact sums in the units of this kept checkpoint, to merge to the same bits")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="keep the checkpoint folder after the run")


def add_ppid(group: argparse._ArgumentGroup) -> None:
    """Add the option that EMAN2's programs have."""
    group.add_argument(
        "--ppid", type=int, default=-1, metavar="PID",
        help="accepted for EMAN2's project manager; only recorded",
    )  # fmt: skip


def thread_count(threads: int | None, parallel: str | None) -> int:
    """Threads of a rank from --threads and --parallel; all cores if neither says it."""
    from centralslice.runtime.threads import available_cores
    from centralslice.runtime.world import ranks_asked

    asked = ranks_asked(parallel).threads
    if threads is not None and asked is not None and threads != asked:
        raise ParameterError("--parallel and --threads give different numbers of threads; give one")
    count = asked if threads is None else threads
    if count is None:
        return available_cores()
    if count < 1:
        raise ParameterError(f"--threads: expected 1 or more, got {count}")
    return int(count)


def checkpoint_seconds(text: str) -> float:
    """``90s``, ``10m``, ``2h`` or plain seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ParameterError(
            f"--checkpoint-every: expected a time such as 90s, 10m or 2h, or 0, got '{text}'"
        )
    return seconds


class JobPlan(Protocol):
    """What the plan of a job says of itself."""

    def lines(self) -> list[str]:
        """What ``--dry-run`` prints."""


Plan = TypeVar("Plan", bound=JobPlan)


@dataclass(frozen=True, slots=True)
class Job(Generic[Plan]):
    """A job that shares its work among ranks.

    Attributes
    ----------
    plan
        Made by the master alone, from the registry and the hosts of the ranks.
    compute
        Does the work, on every rank; the lines to print of the result on the master, None elsewhere.
    """

    plan: Callable[[Registry, Sequence[Host]], Plan]
    compute: Callable[[Plan, Registry, Launch], list[str] | None]


def run_job(arguments: argparse.Namespace, job: Job[Plan]) -> int:
    """Plan, and unless it is a dry run, compute; on every rank of the world this process belongs to."""
    from centralslice.runtime.world import run_in_world

    return run_in_world(arguments.parallel, lambda communicator: _run_on_rank(arguments, job, communicator))


def _run_on_rank(arguments: argparse.Namespace, job: Job[Plan], communicator: Communicator) -> int:
    from centralslice.jobs.run_tools import Launch, StoppedRun
    from centralslice.runtime.compilation import announce_compilation
    from centralslice.runtime.hosts import gather_hosts
    from centralslice.runtime.world import on_master

    registry = open_registry()
    hosts = gather_hosts(communicator)
    master, verbose = communicator.rank == 0, arguments.verbose
    plan = on_master(communicator, lambda: job.plan(registry, hosts))
    lines = plan.lines()
    if master and (arguments.dry_run or verbose >= 2):
        print("\n".join(lines))
    elif master and verbose >= 1:
        print("\n".join(line for line in lines if line.startswith("note")))
    if arguments.dry_run:
        return 0
    announce_compilation(quiet=verbose < 1 or not master)
    command = shlex.join(["centralslice", *arguments.command_line])
    try:
        told = job.compute(plan, registry, Launch(command, communicator))
    except StoppedRun as stopped:
        name = stopped.args[0]
        if master:
            print(
                f"centralslice: stopped by {name}; a checkpoint was written, --resume continues",
                file=sys.stderr,
            )
        return EXIT_INTERRUPTED if name == "SIGINT" else EXIT_REQUEUE
    if told is not None and master and verbose >= 1:
        print("\n".join(told))
    return 0
