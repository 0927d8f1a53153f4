"""``centralslice launch``: a job script for a batch system, written and, if wanted, submitted."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from centralslice.cli.job_script import (
    SYSTEMS,
    JobRequest,
    Layout,
    Limits,
    gigabytes_of,
    job_script,
    seconds_of,
)
from centralslice.cli.options import Subparsers, normalise
from centralslice.errors import OutputExistsError, ParameterError, ResourceError

SUMMARY = "write, or submit, a job script that runs a command on a cluster"
#: Memory asked for, over what the plan says of all ranks of a node.
MEMORY_MARGIN = 1.15

_ABOUT = (
    "The ranks are told some time before the limit; they write a checkpoint and the job goes back into the queue to "
    "continue. Without --memory it is taken from the command's plan."
)


def add_parser(subparsers: Subparsers) -> None:
    """Add ``launch`` and its options."""
    parser = subparsers.add_parser("launch", help=SUMMARY, description=f"{SUMMARY.capitalize()}. {_ABOUT}")
    add = parser.add_argument
    add("system", choices=tuple(SYSTEMS), help="batch system; local: mpiexec on this machine")
    add("--nodes", type=int, default=1, metavar="N", help="nodes [1]")
    add(
        "--ranks-per-node",
        type=int,
        default=1,
        metavar="N",
        help="ranks on each node; each holds sums of its own [1]",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads, and cores, of each rank [local: all cores, shared out]",
    )
    add("--memory", metavar="SIZE", help="of a node, 64G or 1.5T [from the plan]")
    add("--time", metavar="TIME", help="time limit: 90m, 12h, 12:00:00, 1-12:00:00 [local: none]")
    add(
        "--signal-before",
        default="5m",
        metavar="TIME",
        help="checkpoint and end so long before the limit [5m]",
    )
    add("--requeue", action=argparse.BooleanOptionalAction, default=True,
        help="whether the job then goes back into the queue [yes]")  # fmt: skip
    add("--name", default="centralslice", metavar="NAME", help="of the job [centralslice]")
    add("--queue", metavar="NAME", help="queue or partition")
    add("--account", metavar="NAME", help="account or project")
    add("--pe", metavar="NAME", help="sge: parallel environment [mpi]")
    add("--directive", action="append", default=[], metavar="TEXT",
        help="one more directive, without its mark (--directive=--exclusive), repeatable")  # fmt: skip
    add("--setup", action="append", default=[], metavar="LINE",
        help="shell line before the command ('module load openmpi'), repeatable")  # fmt: skip
    add("--mpiexec", metavar="WORDS", help="launcher with all its options, in place of srun or mpiexec")
    add("--script", type=Path, metavar="FILE", help="where to write the script [NAME.sh]")
    add("--force", action="store_true", help="replace a script that is there")
    add("--submit", action="store_true", help="submit the script; local: run it")
    add("words", nargs="+", metavar="COMMAND", help="after --: the command, such as make3d --input …")


def run(arguments: argparse.Namespace) -> int:
    """Write the script, and submit it if asked to."""
    request = request_from(arguments)
    text = job_script(request)
    _write(request.script, text, arguments.force)
    submit = [*SYSTEMS[request.system][0], str(request.script)]
    if not arguments.submit:
        print(f"script     {request.script}")
        print(f"submit     {_typed(request.system, submit)}")
        return 0
    return _submit(request.system, submit, text)


def request_from(arguments: argparse.Namespace) -> JobRequest:
    """The request of parsed options.

    Raises
    ------
    ParameterError
        For options that are missing or out of range, in the command, too.
    """
    given = arguments
    for name in ("nodes", "ranks_per_node", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ParameterError(
                f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(given, name)}"
            )
    if given.system == "local" and given.nodes != 1:
        raise ParameterError(f"--nodes: local is one node, got {given.nodes}; give --ranks-per-node")
    _check_meant(given)
    ranks = given.nodes * given.ranks_per_node
    threads, limits = _threads(given), _limits(given)
    words = given.words[1:] if given.words[0] == "centralslice" else given.words
    command, parsed = _checked(normalise(words), ranks, threads)
    memory = _memory(given, parsed)
    name = given.name
    return JobRequest(
        system=given.system, name=name, command=(sys.executable, "-m", "centralslice.cli", *command),
        directory=Path.cwd(), script=(given.script or Path(f"{name.replace('/', '_')}.sh")).absolute(),
        layout=Layout(given.nodes, given.ranks_per_node, threads, memory), limits=limits,
        queue=given.queue, account=given.account, environment=given.pe or "mpi", directives=tuple(given.directive),
        setup=tuple(given.setup), launcher=_words("--mpiexec", given.mpiexec), mpiexec=_mpiexec(),
    )  # fmt: skip


def _check_meant(given: argparse.Namespace) -> None:
    """Refuse what the batch system has no use for."""
    if given.system == "local":
        for name in ("queue", "account", "memory", "directive"):
            if getattr(given, name):
                raise ParameterError(
                    f"--{name}: this machine has no batch system to give it to; leave it out"
                )
    if given.pe is not None and given.system != "sge":
        raise ParameterError(f"--pe: parallel environments are SGE's, not for {given.system}; leave it out")


def _threads(given: argparse.Namespace) -> int:
    if given.threads is not None:
        return int(given.threads)
    if given.system != "local":
        raise ParameterError(
            "--threads: expected the cores of each rank; a node's cores over --ranks-per-node"
        )
    from centralslice.runtime.threads import available_cores

    return max(1, available_cores() // int(given.ranks_per_node))


def _limits(given: argparse.Namespace) -> Limits:
    if given.time is None:
        if given.system != "local":
            raise ParameterError("--time: expected the job's time limit, such as 12h")
        return Limits(None, requeue=False)
    limits = Limits(
        seconds_of("--time", given.time), seconds_of("--signal-before", given.signal_before), given.requeue
    )
    if limits.time_s is not None and limits.warning_s >= limits.time_s:
        raise ParameterError(
            f"--signal-before: expected less than --time, got {given.signal_before} of {given.time}"
        )
    return limits


def _checked(words: list[str], ranks: int, threads: int) -> tuple[list[str], argparse.Namespace]:
    """The command with what a job needs added, parsed as the job will parse it."""
    from centralslice.cli import PARALLEL_COMMANDS, commands, parser_for

    name = words[0]
    known = [command for command in commands() if command != "launch"]
    if name not in known:
        raise ParameterError(f"launch: no command '{name}' to run (known: {', '.join(known)})")
    if ranks > 1 and name not in PARALLEL_COMMANDS:
        raise ParameterError(
            f"launch: {name} works on one rank, got {ranks}; leave out --nodes and --ranks-per-node"
        )
    parser = parser_for((name,))
    parsed = parser.parse_args(words)
    added = []
    if _lacks(words, parsed, "threads") and getattr(parsed, "parallel", None) is None:
        added += ["--threads", str(threads)]
    if _lacks(words, parsed, "resume"):
        added += ["--resume=auto"]
    return [*words, *added], parsed


def _lacks(words: list[str], parsed: argparse.Namespace, name: str) -> bool:
    """Whether the command knows an option that was not given."""
    return hasattr(parsed, name) and not any(word.split("=")[0] == f"--{name}" for word in words)


def _memory(given: argparse.Namespace, parsed: argparse.Namespace) -> int | None:
    """Gigabytes of a node."""
    if given.memory is not None:
        return gigabytes_of("--memory", given.memory)
    if parsed.command != "make3d" or given.system == "local":
        return None
    from centralslice.cli.make3d import settings_from
    from centralslice.cli.options import open_registry
    from centralslice.jobs.make3d.plan import plan_make3d, read_particles
    from centralslice.jobs.make3d.shift_convention import resolve_shift_convention

    settings, registry = settings_from(parsed), open_registry()
    try:
        convention, _ = resolve_shift_convention(settings, registry)
        plan = plan_make3d(settings, registry, read_particles(settings, registry, convention))
    except ResourceError as error:
        raise ResourceError(
            f"{error}; or give --memory of the nodes to write the script without a plan"
        ) from error
    ranks = int(given.ranks_per_node)
    return math.ceil(MEMORY_MARGIN * plan.memory_bytes * ranks / 2**30)


def _words(option: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ParameterError(f"{option}: {error}: {text}") from error


def _mpiexec() -> str:
    """The mpiexec beside this Python, else whichever the job finds."""
    beside = Path(sys.prefix, "bin", "mpiexec")
    return str(beside) if beside.is_file() else "mpiexec"


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
        path.chmod(0o755)
    except FileExistsError:
        raise OutputExistsError(f"{path}: is there already; --force replaces it") from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error


def _typed(system: str, submit: list[str]) -> str:
    if system == "lsf":  # reads the script, directives and all, from its standard input
        return f"bsub < {shlex.quote(submit[-1])}"
    return shlex.join(submit)


def _submit(system: str, submit: list[str], text: str) -> int:
    """Run the submitting program; its exit code."""
    program = shutil.which(submit[0])
    if program is None:
        raise ResourceError(
            f"--submit: {submit[0]} is not on the PATH; submit on a login node: {_typed(system, submit)}"
        )
    sys.stdout.flush()
    if system == "lsf":
        return subprocess.run([program], input=text, text=True, check=False).returncode  # noqa: S603 - bsub, as asked
    if system == "local":
        os.execv(program, [program, submit[-1]])  # noqa: S606 - signals must reach the script itself
    return subprocess.run([program, submit[-1]], check=False).returncode  # noqa: S603 - sbatch or qsub, as asked
