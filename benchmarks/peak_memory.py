"""Largest resident memory of whole runs: one map and two half sets, one and two threads.

The figure is the kernel's own for the child process (ru_maxrss). Twice the particles in a second run show
that it does not grow with the number of images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure import first_rows, machine, make3d, relion, run, simulate, table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--count", type=int, default=1200, help="particles; the short runs use half of them")
    parser.add_argument("--folder", type=Path, help="where to put the stack (default: a temporary folder)")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        print(
            table(
                ["program", "maps", "threads", "particles", "peak GB", "wall s"], rows_of(options, Path(name))
            )
        )


def rows_of(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    """One row a run."""
    full = simulate(folder, options.box, options.count)
    half = first_rows(full, options.count // 2)
    runs = [
        (
            "centralslice",
            what,
            str(threads),
            particles,
            make3d(stack, "--half-maps", maps, "--threads", str(threads)),
        )
        for what, maps in (("one", "no"), ("two halves and merged", "auto"))
        for threads, stack, particles in (
            (1, half, options.count // 2),
            (2, half, options.count // 2),
            (2, full, options.count),
        )
    ]
    peer = relion(half)
    if peer is not None:
        runs.append(("relion_reconstruct --pad 2 --ctf", "one", "1", options.count // 2, peer))
    run(make3d(half, "--threads", "2"), folder)  # compiles whatever is not yet compiled
    rows = []
    for program, what, threads, particles, command in runs:
        cost = run(command, folder)
        rows.append([program, what, threads, f"{particles:,}", f"{cost.peak_gb:.2f}", f"{cost.wall_s:.1f}"])
    return rows


if __name__ == "__main__":
    main()
