"""What the benchmark scripts share: simulated particles, and child processes whose time and memory are measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

CENTRALSLICE = (sys.executable, "-m", "centralslice.cli")


@dataclass(frozen=True)
class Cost:
    """One run of a command: seconds on the clock, seconds of all its threads, largest resident memory."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def run(command: Sequence[str | Path], folder: Path) -> Cost:
    """Run a command to its end; its output is shown only if it fails."""
    words = [str(word) for word in command]
    log = folder / "log.txt"
    with log.open("w") as output:
        started = perf_counter()
        child = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode}:\n{log.read_text()}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, KiB elsewhere
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9)


def best(command: Sequence[str | Path], folder: Path, repeats: int) -> Cost:
    """The smallest of each figure over some runs: what else goes on in the machine only ever adds."""
    costs = [run(command, folder) for _ in range(repeats)]
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs), min(c.peak_gb for c in costs))


def simulate(folder: Path, box: int, count: int) -> Path:
    """Particles with CTF, noise and half sets: a STAR file beside its stack."""
    table = folder / f"particles_{box}.star"
    run(
        [
            *CENTRALSLICE,
            "simulate",
            "--output",
            table,
            "--box",
            str(box),
            "--count",
            str(count),
            "--snr",
            "0.1",
        ],
        folder,
    )
    return table


def first_rows(table: Path, count: int) -> Path:
    """A STAR file of the first particles of another, images still in the same stack."""
    lines = table.read_text().splitlines(keepends=True)
    block = next(number for number, line in enumerate(lines) if line.startswith("data_particles"))
    first = next(number for number in range(block, len(lines)) if "@" in lines[number])
    part = table.with_name(f"{table.stem}_first{count}.star")
    part.write_text("".join(lines[: first + count]))
    return part


def make3d(table: Path, *options: str) -> list[str | Path]:
    """The command of a run; CTF weighting is the default for these particles."""
    output = table.with_name("map.mrc")
    return [
        *CENTRALSLICE,
        "make3d",
        "--input",
        table,
        "--output",
        output,
        "--force",
        "--verbose",
        "0",
        *options,
    ]


def relion(table: Path) -> list[str | Path] | None:
    """The peer's command, or None where it is not installed; it has no threads."""
    program = shutil.which("relion_reconstruct")
    if program is None:
        return None
    return [program, "--i", table.name, "--o", "relion.mrc", "--ctf", "--pad", "2"]


def machine() -> str:
    """One line on what was measured."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    model = names[0].split(":", 1)[1].strip() if names else "unknown processor"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.2f} at the start"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
