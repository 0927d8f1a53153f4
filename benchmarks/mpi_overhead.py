"""What ranks cost: mpiexec -n 2 with one thread each against one process with two threads, on the same particles.

A stack is simulated once and its rows are repeated in the STAR file, with other poses, until the work takes long
enough. An environment with the PyPI wheels of an MPI library and mpi4py is made in a temporary folder, or one is
given. Runs alternate, and the fastest of each kind counts; every map must have the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from measure import machine, simulate, table

SIMULATED = 2_000


@dataclass(frozen=True)
class Timing:
    """One run: seconds on the clock and of all processes, of its parts, each rank's share, the map's hash."""

    wall_s: float
    cpu_s: float
    parts_s: dict[str, float]
    shares: str
    sha256: str


def mpi_python(folder: Path, library: str) -> Path:
    """The Python of a new environment with an MPI library, which sees this one's packages."""
    python = folder / "mpi" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "mpi"], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "mpi4py>=4",
    ]
    subprocess.run([*map(str, install), library], check=True)
    where = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    site = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    # so that the .pth files there count, too: an editable installation is one
    lines = [f"import site; site.addsitedir({path!r})\n" for path in borrowed]
    Path(site, "borrowed.pth").write_text("".join(lines))
    return python


def repeated(source: Path, count: int) -> Path:
    """A STAR file of so many particles: the images of another over and over, at new in-plane angles."""
    lines = source.read_text().splitlines(keepends=True)
    block = next(number for number, line in enumerate(lines) if line.startswith("data_particles"))
    first = next(number for number in range(block, len(lines)) if "@" in lines[number])
    rows = [line for line in lines[first:] if "@" in line]
    labels = [line.split()[0] for line in lines[block:first] if line.startswith("_rln")]
    psi = labels.index("_rlnAnglePsi")
    made = []
    for number in range(count):
        words = rows[number % len(rows)].split()
        words[psi] = f"{(float(words[psi]) + 7.0 * (number // len(rows))) % 360.0:.4f}"
        made.append(" ".join(words) + "\n")
    target = source.with_name(f"repeated_{count}.star")
    target.write_text("".join(lines[:first]) + "".join(made))
    return target


def timed(command: list[str | Path], output: Path) -> Timing:
    """Run, and read what the run says of itself."""
    words = [str(word) for word in command]
    for old in output.parent.glob(f"{output.stem}*"):
        old.unlink()
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **os.environ}
    begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    wall, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    facts = json.loads(output.with_name(f"{output.stem}_manifest.json").read_text())
    last = json.loads([line for line in done.stderr.splitlines() if line.startswith("{")][-1])
    shares = "; ".join(f"{n}: {last['ranks'][n]:,} in {last['busy_s'][n]:.1f} s" for n in last["ranks"])
    return Timing(wall, cpu, facts["timings_s"], shares, facts["map_sha256"])


def row(name: str, runs: list[Timing]) -> list[str]:
    """A row of the table: the fastest run."""
    fastest = min(runs, key=lambda run: run.wall_s)
    parts = fastest.parts_s
    others = parts["compute"] - parts["insert"] - parts["reduce"] - parts["finish"]
    rest = fastest.wall_s - parts["compute"] - parts["write"]
    seconds = [
        f"{fastest.wall_s:.1f}", f"{fastest.cpu_s:.1f}", f"{parts['insert']:.1f}", f"{parts['reduce']:.2f}",
        f"{parts['finish']:.1f}", f"{others:.1f}", f"{parts['write']:.1f}", f"{rest:.1f}",
    ]  # fmt: skip
    return [name, *seconds, fastest.shares, ", ".join(f"{run.wall_s:.1f}" for run in runs)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--count", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--library", choices=("mpich", "openmpi"), default="mpich")
    parser.add_argument("--python", type=Path, help="of an environment with mpi4py and that library")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        python = options.python or mpi_python(folder, options.library)
        simulated = simulate(folder, options.box, SIMULATED)
        particles, warm = repeated(simulated, options.count), repeated(simulated, 200)
        output = folder / "map.mrc"
        job = ["-m", "centralslice.cli", "make3d", "--input", particles, "--output", output, "--force"]
        job += ["--checkpoint-every", "0", "--log-json", "--half-maps", "no"]
        mpiexec = python.with_name("mpiexec")
        commands: dict[str, list[str | Path]] = {
            "1 process × 2 threads": [python, *job, "--threads", "2"],
            "mpiexec -n 2 × 1 thread": [mpiexec, "-n", "2", python, *job, "--threads", "1"],
        }
        for command in commands.values():
            timed([warm if word == particles else word for word in command], output)
        runs: dict[str, list[Timing]] = {kind: [] for kind in commands}
        for _ in range(options.repeats):
            for kind, command in commands.items():
                runs[kind].append(timed(command, output))
                print(f"  {kind}: {runs[kind][-1]}", flush=True)
    if len({run.sha256 for kind in runs.values() for run in kind}) != 1:
        raise SystemExit("the maps differ")
    header = ["", "wall s", "CPU s", "insert s", "reduce s", "finish s", "plan's sample s", "write s"]
    header += ["start and metadata s", "each rank: particles, busy", "wall s of all runs"]
    print(table(header, [row(kind, found) for kind, found in runs.items()]))
    alone, ranks = (min(run.wall_s for run in found) for found in runs.values())
    cpu = [min(run.cpu_s for run in found) for found in runs.values()]
    print(
        f"two ranks over two threads: {100 * (ranks / alone - 1):+.1f} % on the clock, "
        f"{100 * (cpu[1] / cpu[0] - 1):+.1f} % of CPU time; load at the end {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
