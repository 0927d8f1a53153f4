"""What one more particle costs: (T(many) − T(few)) / (many − few) of whole runs, CTF, one map.

Start-up, reading of the metadata and the finish are the same in both runs and cancel; they are the column
"start-up and finish", T(few) − few × marginal. Kernels are compiled and files are in the page cache before
anything is timed. Where relion_reconstruct is on the PATH it is measured on the same particles in the same
minutes; only ratios within one output mean something. EMAN2's e2make3dpar.py --mode gauss_var costs about
23 ms a particle and core at box 128 on a comparable machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from measure import best, first_rows, machine, make3d, relion, run, simulate, table

COUNTS = {128: (2_000, 10_000), 256: (400, 2_000)}


def rows_of(box: int, folder: Path, repeats: int, with_peer: bool) -> list[list[str]]:
    """Table rows of a box size."""
    few, many = COUNTS[box]
    everything = simulate(folder, box, many)
    tables = {count: first_rows(everything, count) for count in (few, many)}
    commands = {
        f"centralslice, {n} thread{'s' * (n > 1)}": {
            count: make3d(tables[count], "--half-maps", "no", "--threads", str(n)) for count in tables
        }
        for n in (1, 2)
    }
    peer = {count: relion(tables[count]) for count in tables}
    if with_peer and peer[few] is not None:
        commands["relion_reconstruct --pad 2 --ctf"] = {n: c for n, c in peer.items() if c is not None}
    rows = []
    for name, pair in commands.items():
        run(pair[few], folder)
        low, high = (best(pair[count], folder, repeats) for count in (few, many))
        cpu, wall = ((b - a) / (many - few) for a, b in ((low.cpu_s, high.cpu_s), (low.wall_s, high.wall_s)))
        rest = (low.cpu_s - few * cpu, low.wall_s - few * wall)
        rows.append(
            [str(box), name, f"{1e3 * cpu:.3f}", f"{1e3 * wall:.3f}", f"{rest[0]:.1f}", f"{rest[1]:.1f}",
             f"{low.wall_s:.1f}", f"{high.wall_s:.1f}"]
        )  # fmt: skip
        print("  " + "  ".join(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, nargs="+", choices=COUNTS, default=[128, 256])
    parser.add_argument("--repeats", type=int, default=2, help="the fastest of so many runs counts")
    parser.add_argument("--no-peer", action="store_true", help="leave relion_reconstruct out")
    parser.add_argument(
        "--folder", type=Path, help="where to put 1.3 GB for a while (default: a temporary one)"
    )
    options = parser.parse_args()
    print(machine())
    rows = []
    for box in options.box:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += rows_of(box, Path(folder), options.repeats, not options.no_peer)
    header = [
        "box",
        "program",
        "CPU ms a particle",
        "wall ms a particle",
        "start-up and finish CPU s",
        "wall s",
    ]
    print(table([*header, "T(few) wall s", "T(many) wall s"], rows))
    print(
        "counts: " + ", ".join(f"box {box}: {COUNTS[box][0]:,} and {COUNTS[box][1]:,}" for box in options.box)
    )
    print("EMAN2 gauss_var at box 128, for comparison: about 23 ms a particle and core")


if __name__ == "__main__":
    main()
