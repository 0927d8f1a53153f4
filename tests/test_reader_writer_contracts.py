"""The laws of readers and writers, for the built-in formats of maps and image stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import ImageStack, StackPlan
from centralslice.data.volume import Volume
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.testing.reader import ReaderContract
from centralslice.testing.writer import WriterContract, example_map
from centralslice_plugins.formats.eman2_attributes import Transform
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.readers.lst import LstReader
from centralslice_plugins.readers.mrc import MrcReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter
from centralslice_plugins.writers.mrc import MrcWriter


def oriented_stack(path: Path, count: int) -> Path:
    """HDF images with EMAN2's orientations in their headers."""
    with Eman2HdfWriter().create_stack(path, StackPlan(count, (6, 6), 2.0)) as sink:
        sink.write(0, example_map((count, 6, 6)))
        for number in range(count):
            matrix = np.column_stack([eman2_to_matrices(10 * number, 20, 30)[0], [number, -1, 0]])
            sink.write_attributes(number, {"xform.projection": Transform(matrix), "ptcl_repr": number + 1})
    return path


class TestMrcReader(ReaderContract):
    count = 5

    def make(self) -> MrcReader:
        return MrcReader()

    def write_example(self, folder: Path) -> Path:
        path = folder / "map.mrc"
        MrcWriter().write_volume(path, Volume(example_map((5, 5, 5)), 1.5), VolumeOptions())
        return path


class TestEman2HdfReader(ReaderContract):
    count = 4

    def make(self) -> Eman2HdfReader:
        return Eman2HdfReader()

    def write_example(self, folder: Path) -> Path:
        return oriented_stack(folder / "stack.hdf", self.count)

    def write_map(self, folder: Path) -> Path:
        path = folder / "map.hdf"
        Eman2HdfWriter().write_volume(path, Volume(example_map((5, 6, 7)), 1.5), VolumeOptions())
        return path


class TestLstReader(ReaderContract):
    count = 4

    def make(self) -> LstReader:
        return LstReader()

    def write_example(self, folder: Path) -> Path:
        oriented_stack(folder / "stack.hdf", self.count)
        path = folder / "particles.lst"
        rows = [f"{number}\tstack.hdf" for number in range(self.count)]
        length = max(map(len, rows)) + 1
        lines = ["#LSX", "# remark", f"# {length}", *(row.ljust(length - 1) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path


class TestMrcWriter(WriterContract):
    def make(self) -> MrcWriter:
        return MrcWriter()

    def read_volume(self, path: Path) -> Volume:
        return MrcReader().read_volume(path)

    def open_images(self, path: Path) -> ImageStack:
        return MrcReader().open_images(path)


class TestEman2HdfWriter(WriterContract):
    def make(self) -> Eman2HdfWriter:
        return Eman2HdfWriter()

    def lossless_bits(self) -> int:
        return 0

    def read_volume(self, path: Path) -> Volume:
        return Eman2HdfReader().read_volume(path)

    def open_images(self, path: Path) -> ImageStack:
        return Eman2HdfReader().open_images(path)
