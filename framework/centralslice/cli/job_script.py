"""Job scripts for batch systems, filled into templates that ship with the MPI runner.

Everything a user gives is quoted for bash; what stands in directives, where nothing can be quoted, may hold
harmless characters only.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from centralslice.errors import ParameterError

#: Batch system to the program that submits a script, and the mark of its directives.
SYSTEMS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "local": (("bash",), "#"),
    "slurm": (("sbatch",), "#SBATCH"),
    "pbs": (("qsub",), "#PBS"),
    "lsf": (("bsub",), "#BSUB"),
    "sge": (("qsub",), "#$"),
}
#: The package that ships the templates; named, not imported.
TEMPLATE_PACKAGE = "centralslice_mpi"
#: How often a job that reaches its time limit is put back into the queue.
MOST_RESTARTS = 100
#: What a directive may hold: no blanks, quotes, or line ends.
_HARMLESS = re.compile(r"[\w.,:+@%/=-]+", re.ASCII)
_DURATION = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?|(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([GT])B?", re.IGNORECASE)
#: The name in the directive that asks for a queue, and for an account.
_QUEUE = {"slurm": "--partition={}", "pbs": "-q {}", "lsf": "-q {}", "sge": "-q {}", "local": ""}
_ACCOUNT = {"slurm": "--account={}", "pbs": "-A {}", "lsf": "-P {}", "sge": "-P {}", "local": ""}


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes, ranks and cores of a job.

    Attributes
    ----------
    nodes, ranks_per_node, threads
        Of the job, of a node, of a rank.
    memory_gb
        Of a node; None: the batch system's default.
    """

    nodes: int
    ranks_per_node: int
    threads: int
    memory_gb: int | None = None

    @property
    def ranks(self) -> int:
        """Of the job."""
        return self.nodes * self.ranks_per_node

    @property
    def cores_per_node(self) -> int:
        """Cores that the job asks for on each node."""
        return self.ranks_per_node * self.threads


@dataclass(frozen=True, slots=True)
class Limits:
    """Time of a job.

    Attributes
    ----------
    time_s
        Time limit; None, on this machine only: no limit.
    warning_s
        The ranks are told to write a checkpoint and end so long before it.
    requeue
        Whether the job then goes back into the queue.
    """

    time_s: int | None
    warning_s: int = 300
    requeue: bool = True


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job script is made from.

    Attributes
    ----------
    system
        A key of ``SYSTEMS``.
    name
        Of the job.
    command
        Words of the command, the program first.
    directory
        Where it runs.
    script
        Where the script will be, for systems where a job submits itself again.
    layout, limits
        What it gets.
    queue, account, environment
        Queue or partition, account or project, SGE's parallel environment.
    directives
        More directives, without the mark.
    setup
        Shell lines before the command, such as ``module load``.
    launcher
        Words of the launcher in place of our own choice.
    mpiexec
        The mpiexec used unless the launcher is given.
    """

    system: str
    name: str
    command: tuple[str, ...]
    directory: Path
    script: Path
    layout: Layout
    limits: Limits
    queue: str | None = None
    account: str | None = None
    environment: str = "mpi"
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    mpiexec: str = "mpiexec"


def job_script(request: JobRequest) -> str:
    """The text of the script.

    Raises
    ------
    ParameterError
        For a name, queue or directive that a script cannot hold.
    """
    for option, text in (("--name", request.name), ("--queue", request.queue), ("--account", request.account),
                         ("--pe", request.environment)):  # fmt: skip
        if text is not None and not _HARMLESS.fullmatch(text):
            raise ParameterError(
                f"{option}: expected letters, digits and . , : + @ % / = - only, got {text!r}"
            )
    for option, lines in (("--directive", request.directives), ("--setup", request.setup)):
        broken = [line for line in lines if "\n" in line or "\r" in line or "\0" in line]
        if broken:
            raise ParameterError(f"{option}: expected one line, got {broken[0]!r}; give it several times")
    body = _filled(
        "body",
        directory=shlex.quote(str(request.directory)),
        setup="\n".join(request.setup),
        ranks=request.layout.ranks,
        ranks_per_node=request.layout.ranks_per_node,
        threads=request.layout.threads,
        command=shlex.join(request.command),
        launcher=_launcher(request),
        requeue=_requeue(request),
    )
    text = _filled(request.system, **_values(request), body=body.rstrip("\n"))
    return re.sub(r"\n{3,}", "\n\n", text)


def _values(request: JobRequest) -> dict[str, object]:
    layout, limits = request.layout, request.limits
    time_s = limits.time_s or 0
    work_s = max(time_s - limits.warning_s, 1)
    return {
        "name": request.name,
        "nodes": layout.nodes,
        "ranks_per_node": layout.ranks_per_node,
        "threads": layout.threads,
        "cores_per_node": layout.cores_per_node,
        "cores": layout.nodes * layout.cores_per_node,
        "memory": "" if layout.memory_gb is None else f":mem={layout.memory_gb}gb",
        "environment": request.environment,
        "time": clock(time_s),
        "time_hm": clock(60 * math.ceil(time_s / 60))[:-3],
        "warning_s": limits.warning_s,
        "warning_min": math.ceil(limits.warning_s / 60),
        "work_s": work_s,
        "local_timer": f"timeout --preserve-status --signal=USR1 {work_s}" if time_s else "",
        "directives": "\n".join(_directives(request)),
    }


def _directives(request: JobRequest) -> list[str]:
    """Lines for what not every job asks for."""
    system, layout, restart = request.system, request.layout, request.limits.requeue
    mark = SYSTEMS[system][1]
    lines = []
    if request.queue is not None:
        lines.append(_QUEUE[system].format(request.queue))
    if request.account is not None:
        lines.append(_ACCOUNT[system].format(request.account))
    if layout.memory_gb is not None:
        per_slot = max(1, math.ceil(1024 * layout.memory_gb / layout.cores_per_node))
        lines += {
            "slurm": [f"--mem={layout.memory_gb}G"],
            "lsf": [f'-R "rusage[mem={layout.memory_gb}GB/host]"'],
            "sge": [f"-l h_vmem={per_slot}M"],
        }.get(system, [])
    lines += {
        "slurm": ["--requeue" if restart else "--no-requeue"],
        "pbs": ["-r y" if restart else "-r n"],
        "lsf": ["-r", '-Q "75"'] if restart else ["-rn"],
        "sge": ["-r y" if restart else "-r n"],
    }.get(system, [])
    return [f"{mark} {line}" for line in [*lines, *request.directives]]


def _launcher(request: JobRequest) -> str:
    """Bash that sets ``launcher``."""
    if request.launcher:
        return f"launcher=({shlex.join(request.launcher)})"
    if request.system == "slurm":
        return (
            'launcher=(srun --kill-on-bad-exit=1 --ntasks="$ranks" --ntasks-per-node="$ranks_per_node" '
            '--cpus-per-task="$threads")'
        )
    overload = ":OVERSUBSCRIBE" if request.system == "local" else ""
    return _filled("mpiexec", mpiexec=shlex.quote(request.mpiexec), overload=overload)


def _requeue(request: JobRequest) -> str:
    """Bash for a job that was stopped by its time limit."""
    again = f"submit {request.script.name} again to continue"
    if request.system == "local" or not request.limits.requeue:
        return f"echo {shlex.quote(f'stopped before its end; {again}')}"
    if request.system == "slurm":
        return f'[ "${{SLURM_RESTART_COUNT:-0}}" -ge {MOST_RESTARTS} ] || scontrol requeue "$SLURM_JOB_ID"'
    if request.system == "pbs":
        return (
            "restarts=$((${CENTRALSLICE_RESTARTS:-0} + 1))\n"
            f'    [ "$restarts" -gt {MOST_RESTARTS} ] || '
            f'qsub -v CENTRALSLICE_RESTARTS="$restarts" {shlex.quote(str(request.script))}'
        )
    # LSF requeues by exit code (-Q), SGE for code 99
    return "exit 99" if request.system == "sge" else ": # requeued for this code"


def _filled(template: str, /, **values: object) -> str:
    """A template with its ``{{name}}`` replaced; bash has no such thing."""
    text = (resources.files(TEMPLATE_PACKAGE) / "templates" / f"{template}.sh").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(values[found[1]]), text)


def seconds_of(option: str, text: str) -> int:
    """Seconds from ``90s``, ``30m``, ``12h``, ``2d``, ``HH:MM``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises
    ------
    ParameterError
        For another form, or nothing.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ParameterError(
            f"{option}: expected a time such as 90s, 30m, 12h, 12:00:00 or 1-12:00:00, got '{text}'"
        )
    days, hours, minutes, seconds, number, unit = found.groups()
    if unit is not None:
        total = math.ceil(float(number) * _UNITS[unit])
    else:
        total = 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes) + int(seconds or 0)
    if total < 1:
        raise ParameterError(f"{option}: expected more than no time, got '{text}'")
    return total


def gigabytes_of(option: str, text: str) -> int:
    """Whole gigabytes, rounded up, from ``64G`` or ``1.5T``.

    Raises
    ------
    ParameterError
        For another form.
    """
    found = _MEMORY.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise ParameterError(f"{option}: expected memory of a node such as 64G or 1.5T, got '{text}'")
    return math.ceil(float(found[1]) * (1024 if found[2].upper() == "T" else 1))


def clock(seconds: int) -> str:
    """``HH:MM:SS``, hours as many as it takes."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
