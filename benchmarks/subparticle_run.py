"""What a sub-particle costs the whole command: start-up, masks, gains, subtraction, writing, tables.

Particles with D7 are simulated, and their rows repeated, for reading and subtracting cost the same each time. The cost
of one more is (T(many) − T(few)) / (sub-particles(many) − sub-particles(few)); all in, it is T(many) / sub-particles.
Kernels are compiled and files are in the page cache before anything is timed. For comparison: projecting one class of
images takes e2extractsubparticles.py 752 ms CPU at box 256, once for every copy.

python benchmarks/subparticle_run.py [--box 256] [--images 60] [--times 5] [--newbox 128] [--repeats 2] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
from measure import CENTRALSLICE, best, machine, run, table

from centralslice.cli import main as command_line


def repeated(rows: Path, times: int) -> Path:
    """A STAR file whose particles come so many times, images still in the same stack."""
    lines = rows.read_text().splitlines(keepends=True)
    block = next(number for number, line in enumerate(lines) if line.startswith("data_particles"))
    first = next(number for number in range(block, len(lines)) if "@" in lines[number])
    particles = [line for line in lines[first:] if "@" in line]
    made = rows.with_name(f"{rows.stem}_times{times}.star")
    made.write_text("".join([*lines[:first], *particles * times]))
    return made


def keep_mask(folder: Path) -> Path:
    """A soft ball about the map's highest voxel."""
    with mrcfile.open(folder / "p_truth.mrc") as file:
        data, pixel = file.data, float(file.voxel_size.x)
    box = len(data)
    centre = np.unravel_index(int(np.argmax(data)), data.shape)
    square = [(np.arange(box) - place) ** 2 for place in centre]
    distance = np.sqrt(square[0][:, None, None] + square[1][:, None] + square[2])
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 0.08 * box) / (0.03 * box), 0, 1))
    with mrcfile.new(folder / "keep.mrc") as file:
        file.set_data(mask.astype(np.float32))
        file.voxel_size = pixel
    return folder / "keep.mrc"


def command_of(rows: Path, newbox: int, threads: int) -> list[str | Path]:
    """A run with half maps, as a user would start it."""
    folder = rows.parent
    truth = folder / "p_truth.mrc"
    return [
        *CENTRALSLICE, "subparticles", "--particles", rows, "--half1", truth, "--half2", folder / "truth2.mrc",
        "--subunitmask", folder / "keep.mrc", "--sym", "d7", "--newbox", str(newbox), "--output",
        folder / "sub.mrcs", "--force", "--verbose", "0", "--threads", str(threads),
    ]  # fmt: skip


def simulate(folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """Particles, few and many of them."""
    run(
        [*CENTRALSLICE, "simulate", "--output", folder / "p.star", "--box", str(options.box), "--count",
         str(options.images), "--sym", "d7", "--gaussians", "4", "--snr", "0.1", "--apix", "1.2"],
        folder,
    )  # fmt: skip
    (folder / "truth2.mrc").hardlink_to(folder / "p_truth.mrc")
    keep_mask(folder)
    return repeated(folder / "p.star", 1), repeated(folder / "p.star", options.times)


def rows_of(few: Path, many: Path, folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """One row a number of threads."""
    rows = []
    run(command_of(few, options.newbox, 2), folder)
    copies = 14 * options.images
    for threads in (1, 2):
        start = best(command_of(few, options.newbox, threads), folder, options.repeats)
        whole = best(command_of(many, options.newbox, threads), folder, options.repeats)
        times = json.loads((folder / "sub_manifest.json").read_text())["timings_s"]
        total = copies * options.times
        marginal = (whole.cpu_s - start.cpu_s) / (total - copies)
        rows.append([
            str(threads), f"{total:,}", f"{1e3 * whole.cpu_s / total:.2f}", f"{1e3 * marginal:.2f}",
            f"{1e3 * whole.wall_s / total:.2f}", f"{start.cpu_s - marginal * copies:.1f}", f"{whole.peak_gb:.2f}",
        ])  # fmt: skip
        print("  " + "  ".join(rows[-1]), {name: round(each, 1) for name, each in times.items()}, flush=True)
    return rows


def profile(rows: Path, newbox: int) -> None:
    """Where a run on one thread spends its time."""
    words = [str(word) for word in command_of(rows, newbox, 1)[len(CENTRALSLICE) :]]
    with cProfile.Profile() as found:
        if command_line(words):
            raise SystemExit("the run failed")
    pstats.Stats(found).sort_stats("cumulative").print_stats(60)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--newbox", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = simulate(folder, options)
        if options.profile:
            profile(few, options.newbox)
            return
        rows = rows_of(few, many, folder, options)
        print(machine())
        print(f"box {options.box} to {options.newbox}, D7, CTF, half maps")
        header = ["threads", "sub-particles", "CPU ms each, all in", "CPU ms one more", "wall ms each",
                  "start-up, CPU s", "peak GB"]  # fmt: skip
        print(table(header, rows))


if __name__ == "__main__":
    main()
