"""Options about how a job runs, the same for all commands that share work among ranks."""

from __future__ import annotations

import argparse
from pathlib import Path

from centralslice import __version__
from centralslice.errors import ParameterError


def add_running(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add them; the group, for those of one command."""
    group = parser.add_argument_group("running")
    add = group.add_argument
    add("--threads", type=int, metavar="N", help="threads [all cores this process may use]")
    add("--parallel", metavar="HOW", help="mpi[:N] inside mpirun -n N, or thread:N, the same as --threads N")
    add("--sums", choices=("exact", "fast"), default="exact",
        help="exact: the same bits on any number of ranks and threads, interrupted or not [exact]")  # fmt: skip
    add("--quanta-of", type=Path, metavar="FOLDER",
        help="exact sums in the units of this kept checkpoint, to merge to the same bits")  # fmt: skip
    add("--checkpoint-every", metavar="TIME", default="10m",
        help="write a checkpoint this often (90s, 10m, 2h; 0: never), and on USR1, TERM and Ctrl-C [10m]")  # fmt: skip
    add("--resume", nargs="?", const="yes", default="no", choices=("yes", "auto", "no"),
        help="continue from the checkpoint; auto: the one before if the last is damaged, or start anew")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="keep the checkpoint folder after the run")
    add("--master-works", action=argparse.BooleanOptionalAction, default=True,
        help="whether rank 0 works on particles too [yes]")  # fmt: skip
    add("--log-json", action="store_true", help="progress as JSON lines on stderr")
    add("--dry-run", action="store_true", help="print the plan (particles, memory, outputs) and stop")
    add("--verbose", "-v", type=int, nargs="?", const=2, default=1, metavar="N",
        help="0 errors only, 1 result and progress, 2 the plan too [1]")  # fmt: skip
    add("--version", action="version", version=f"centralslice {__version__}")
    return group


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
