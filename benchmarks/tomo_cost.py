"""What one more window of a tilt image costs, and how much memory a tomo run takes.

A simulated project is reconstructed whole and with every fifth particle; the cost of a window is
(T(many) − T(few)) / (windows(many) − windows(few)), so that start-up and finish cancel. Peak memory is the kernel's
figure for the process. Kernels are compiled and files are in the page cache before anything is timed. For
comparison: relion_tomo_reconstruct_particle 5.0.1 needs 1.3 ms CPU a window at box 128.

python benchmarks/tomo_cost.py [--box 128] [--particles 125] [--tomograms 5] [--repeats 2] [--profile]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import CENTRALSLICE, Cost, best, machine, run, table

#: The shorter run has every so-many-th particle.
FEW = 5
#: What a run may take beside its sums (200 MB), and how much more than its sums.
FREE_GB, SUMS_FACTOR = 0.2, 1.5
PEER_MS = 1.3


def simulate(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """A project, and tables of all its particles and of few."""
    project = folder / "project"
    size = str(options.image_size)
    inner = str(options.image_size - 2 * options.box)
    command = [
        *CENTRALSLICE, "simulate", "--tomo", "--output", project, "--box", str(options.box), "--gaussians", "4",
        "--tomograms", str(options.tomograms), "--particles", str(options.particles), "--snr", "0.1",
        "--image-size", size, size, "--tomogram-size", inner, inner, "200",
    ]  # fmt: skip
    run(command, folder)
    many = project / "particles.star"
    lines = many.read_text().splitlines(keepends=True)
    block = next(number for number, line in enumerate(lines) if line.startswith("data_particles"))
    first = next(n for n in range(block, len(lines)) if lines[n].startswith("TS_"))
    rows = [line for line in lines[first:] if line.strip()]
    few = project / "few.star"
    few.write_text("".join([*lines[:first], *rows[::FEW]]))
    return {"few": few, "many": many}


def command_of(particles: Path, output: Path, box: int, *options: str) -> list[str | Path]:
    """A run with half maps."""
    return [
        *CENTRALSLICE, "tomo", "--p", particles, "--t", particles.with_name("tomograms.star"), "--b", str(box),
        "--o", output, "--force", "--verbose", "0", "--checkpoint-every", "0", *options,
    ]  # fmt: skip


def measured(
    tables: dict[str, Path], folder: Path, options: argparse.Namespace, threads: int
) -> tuple[dict[str, Cost], dict[str, dict[str, Any]]]:
    """Cost and manifest of both runs."""
    costs, manifests = {}, {}
    for name, particles in tables.items():
        output = folder / f"map_{name}"
        command = command_of(particles, output, options.box, "--threads", str(threads))
        costs[name] = best(command, folder, options.repeats)
        manifests[name] = json.loads((output / "manifest.json").read_text())
        shutil.rmtree(output)
    return costs, manifests


def rows_of(tables: dict[str, Path], folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """One row a number of threads."""
    rows, walls = [], []
    run(command_of(tables["few"], folder / "map", options.box, "--threads", "2"), folder)
    for threads in (1, 2):
        costs, manifests = measured(tables, folder, options, threads)
        few, many = costs["few"], costs["many"]
        windows = [manifests[name]["windows"]["used"] for name in ("few", "many")]
        more = windows[1] - windows[0]
        cpu, wall = 1e3 * (many.cpu_s - few.cpu_s) / more, 1e3 * (many.wall_s - few.wall_s) / more
        walls.append(wall)
        sums = 2 * manifests["many"]["planned_sums_bytes"] / 1e9  # of two half sets
        planned = manifests["many"]["planned_memory_bytes"] / 1e9
        rows.append(
            [str(threads), f"{windows[1]:,}", f"{cpu:.3f}", f"{wall:.3f}", f"{walls[0] / wall:.2f}",
             f"{few.cpu_s - 1e-3 * cpu * windows[0]:.1f}", f"{many.peak_gb:.2f}", f"{sums:.2f}",
             f"{FREE_GB + SUMS_FACTOR * sums:.2f}", f"{planned:.2f}"]
        )  # fmt: skip
        print("  " + "  ".join(rows[-1]), flush=True)
    return rows


class Stopwatch:
    """CPU seconds of functions, of whatever thread calls them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Replace a function by one that is timed."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - start

        setattr(owner, attribute, timed)


def profile(particles: Path, folder: Path, box: int) -> list[list[str]]:
    """Shares of the parts of a run on one thread, in this process."""
    from centralslice.cli import main as command_line
    from centralslice.jobs import accumulation, finish_maps
    from centralslice.jobs.tomo import job as tomo
    from centralslice.jobs.tomo import slices as tomo_slices

    watch = Stopwatch()
    watch.watch(tomo_slices.WindowReader, "read", "cutting")
    watch.watch(tomo_slices, "prepare_tilt_slices", "preparation")
    watch.watch(accumulation, "insert_threaded", "insertion")
    watch.watch(finish_maps.MapFinisher, "map", "finish, with weights and numerators")
    watch.watch(tomo, "half_map_fsc", "FSC")
    watch.watch(tomo, "_write", "writing")
    words = command_of(particles, folder / "profile", box, "--threads", "1")[len(CENTRALSLICE) :]
    begun = time.process_time()
    if command_line([str(word) for word in words]):
        raise SystemExit("the run failed")
    total = time.process_time() - begun
    manifest = json.loads((folder / "profile" / "manifest.json").read_text())
    windows = manifest["windows"]["used"]
    parts = {**watch.seconds, "everything else": total - sum(watch.seconds.values())}
    return [
        [name, f"{s:.2f}", f"{100 * s / total:.0f} %", f"{1e3 * s / windows:.3f}"]
        for name, s in parts.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--particles", type=int, default=125, help="in each tomogram, with 41 tilts")
    parser.add_argument("--tomograms", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many runs counts")
    parser.add_argument("--profile", action="store_true", help="also where the time goes, on one thread")
    parser.add_argument(
        "--folder", type=Path, help="where to put 0.9 GB for a while (default: a temporary one)"
    )
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tables = simulate(folder, options)
        rows = rows_of(tables, folder, options)
        parts = profile(tables["many"], folder, options.box) if options.profile else []
    header = [
        "threads", "windows", "CPU ms a window", "wall ms a window", "speed-up", "start-up and finish CPU s",
        "peak GB", "sums GB", f"{FREE_GB} + {SUMS_FACTOR} × sums GB", "planned GB",
    ]  # fmt: skip
    print(table(header, rows))
    print(f"relion_tomo_reconstruct_particle 5.0.1 at box 128, for comparison: {PEER_MS} ms CPU a window")
    if parts:
        print(table(["part, one thread", "CPU s", "share", "ms a window"], parts))


if __name__ == "__main__":
    main()
