"""What a sub-particle costs: CPU milliseconds of each step on one thread, as a table.

python benchmarks/subparticle_cost.py [--box 256] [--copies 14]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import serial_map
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.fourier.slice_reading import slice_reader
from centralslice.geometry.rotations import random_rotations
from centralslice.jobs.subparticles.blocks import Copies, ModelMaps, OutputSettings, ParentBlock
from centralslice.jobs.subparticles.gain import GroupGain, fit_gain, unit_gain
from centralslice.jobs.subparticles.optics import ModelSettings, group_tables, transfer
from centralslice.jobs.subparticles.subtract import ring_statistics, subtract_block


def cpu_ms(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least CPU time of some runs after one that compiles."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return 1e3 * min(found)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--box", type=int, default=256)
    options.add_argument("--copies", type=int, default=14)
    options.add_argument("--parents", type=int, default=3)
    given = options.parse_args()
    box, copies, parents = given.box, given.copies, given.parents
    rng = np.random.default_rng(0)
    density = rng.normal(size=(box,) * 3).astype(np.float32)
    optics = OpticsGroup(
        pixel_size_angst=1.0,
        box_size=box,
        voltage_kv=300,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    defocus = rng.uniform(8e3, 2e4, parents)
    ctf = ContrastTransfer(defocus, defocus - 500, defocus * 0, defocus * 0, defocus * 0, defocus * 0 + 1)
    poses = random_rotations(parents, 1)
    block = ParentBlock(
        np.arange(parents), rng.normal(size=(parents, box, box)).astype(np.float32), poses,
        np.zeros((parents, 2)), ctf,
    )  # fmt: skip
    parent = np.repeat(np.arange(parents), copies)
    reading = (poses[:, None] @ random_rotations(copies, 2)).reshape(-1, 3, 3)
    moves = rng.integers(-box // 5, box // 5, (len(parent), 2))
    made = Copies(parent, reading, np.zeros((len(parent), 2)), moves, np.full((len(parent), 2), 0.2), parent)

    print(f"box {box}, {copies} copies of each parent, CPU ms on one thread")
    tables = group_tables(optics, box, ModelSettings(box, 1.0, "full"))
    start = time.process_time()
    reader = slice_reader(density, serial_map, 4)
    print(f"{'map to grid (once), s':44s}{time.process_time() - start:10.2f}   {reader.nbytes / 1e6:.0f} MB")
    maps = ModelMaps(reader, reader)
    image = block.images[0]
    spectrum = scipy.fft.rfft2(image)
    for width in (4, 5, 6):
        one = reader if width == 4 else slice_reader(density, serial_map, width)
        print(
            f"{f'slice, window {width}':44s}{cpu_ms(lambda one=one: one.read(reading, box)) / len(reading):10.2f}"
        )
    for part in (0.75, 0.5):
        cost = cpu_ms(lambda part=part: reader.read(reading, box, part * box / 2)) / len(reading)
        print(f"{f'slice, window 4, to {part} of Nyquist':44s}{cost:10.2f}")
    print(f"{'CTF of a parent':44s}{cpu_ms(lambda: transfer(tables, ctf, 0, 1.0)):10.2f}")
    print(f"{'transform of an image':44s}{cpu_ms(lambda: scipy.fft.rfft2(image)):10.2f}")
    print(f"{'inverse transform':44s}{cpu_ms(lambda: scipy.fft.irfft2(spectrum, s=(box, box))):10.2f}")
    found = cpu_ms(lambda: ring_statistics(block, tables, reader, serial_map)) / parents
    print(f"{'first pass, a parent':44s}{found:10.2f}")
    fitted = fit_gain(ring_statistics(block, tables, reader, serial_map), "group", box)
    whole = GroupGain("group", fitted.curve * 0 + 1, fitted.sigma, fitted.noise, box // 2 + 1, 1.0, 0.1, 3)

    def extract(gain: GroupGain, used: ModelMaps, settings: Any = tables, **how: Any) -> float:
        output = OutputSettings(box // 2, **how)
        return cpu_ms(lambda: subtract_block(block, made, settings, used, gain, output, serial_map)) / len(
            parent
        )

    print(f"{'sub-particle, all in, scale-mode none':44s}{extract(unit_gain(box), ModelMaps(reader)):10.2f}")
    print(f"{'sub-particle, all in, scale-mode group':44s}{extract(whole, maps):10.2f}")
    print(f"{'  and moved by part of a pixel':44s}{extract(whole, maps, subpixel=True):10.2f}")
    curved = group_tables(optics, box, ModelSettings(box, 1.0, "full", curved=True))
    print(f"{'  a defocus for every depth':44s}{extract(whole, maps, curved):10.2f}")
    print(f"{'  no subtraction, recentred only':44s}{extract(whole, maps, subtract=False):10.2f}")


if __name__ == "__main__":
    main()
