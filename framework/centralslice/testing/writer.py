"""Laws that every writer keeps: inherit, make the writer and say how to read back what it wrote.

.. code-block:: python

    class TestMyWriter(WriterContract):
        def make(self) -> Writer:
            return MyWriter()

        def read_volume(self, path: Path) -> Volume: ...
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.conventions import FloatArray
from centralslice.data.images import ImageStack, StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import CentralsliceError, ParameterError, ResourceError

Tables = Mapping[str, Mapping[str, NDArray[Any]]]

#: Maps of odd and even boxes, and one that is no cube.
SHAPES = ((8, 8, 8), (7, 7, 7), (4, 6, 9))


def example_map(shape: tuple[int, ...]) -> FloatArray:
    """A float32 map without any symmetry."""
    return np.random.default_rng(3).normal(1.0, 2.0, shape).astype(np.float32)


def example_tables() -> Tables:
    """Two tables with whole numbers, decimals and texts, and an empty one."""
    return {
        "fsc": {
            "shell": np.arange(5),
            "fsc": np.array([1.0, 0.99999999999, 0.1 + 0.2, -1e-300, 5e300]),
            "label": np.array(["a", "two words", "", "it's", 'say "x"'], object),
        },
        "summary": {"count": np.array([2**53 + 1]), "name": np.array(["map 1.mrc"], object)},
        "empty": {"a": np.empty(0), "b": np.empty(0)},
    }


class WriterContract(ABC):
    """Tests of one writer; those of what it does not claim to write are skipped."""

    @abstractmethod
    def make(self) -> Writer:
        """A new instance of the writer under test."""

    def read_volume(self, path: Path) -> Volume:
        """Read a map back."""
        raise NotImplementedError("a writer of maps needs read_volume in its test class")

    def open_images(self, path: Path) -> ImageStack:
        """Open a stack that was written."""
        raise NotImplementedError("a writer of stacks needs open_images in its test class")

    def read_tables(self, path: Path) -> Tables:
        """Read tables back."""
        raise NotImplementedError("a writer of tables needs read_tables in its test class")

    def able(self, capability: str) -> None:
        """Skip a test of what the writer does not claim to write."""
        if capability not in self.make().capabilities:
            pytest.skip(f"the {self.make().plugin_name} writer writes no {capability}")

    def output(self, folder: Path) -> Path:
        """A name of the writer's own."""
        return folder / f"written{self.make().suffixes[0]}"

    def write(self, capability: str, path: Path) -> None:
        """Write an example of what a capability is about."""
        writer = self.make()
        if capability == "volume":
            writer.write_volume(path, Volume(example_map((6, 6, 6)), 1.5), VolumeOptions())
        elif capability == "images":
            with writer.create_stack(path, StackPlan(3, (4, 4), 1.5)) as sink:
                sink.write(0, example_map((3, 4, 4)))
        else:
            writer.write_tables(path, example_tables())

    def test_it_says_its_name_its_suffixes_and_what_it_writes(self) -> None:
        writer = self.make()
        assert writer.plugin_name
        assert writer.suffixes
        assert all(suffix.startswith(".") for suffix in writer.suffixes)
        assert writer.capabilities
        assert writer.capabilities <= {"volume", "images", "table"}

    def test_what_it_cannot_write_is_an_error_that_names_the_file(self, tmp_path: Path) -> None:
        path = self.output(tmp_path)
        for capability in {"volume", "images", "table"} - self.make().capabilities:
            with pytest.raises(ParameterError, match=path.name):
                self.write(capability, path)
        assert not list(tmp_path.iterdir())

    def test_an_output_that_was_there_is_replaced_whole(self, tmp_path: Path) -> None:
        fresh, there = self.output(tmp_path), tmp_path / f"there{self.make().suffixes[0]}"
        for capability in sorted(self.make().capabilities):
            there.write_bytes(b"something older and longer" * 10000)
            self.write(capability, there)
            self.write(capability, fresh)
            assert there.stat().st_size == fresh.stat().st_size
            assert {entry.name for entry in tmp_path.iterdir()} == {fresh.name, there.name}

    def test_a_full_disk_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        path = self.output(tmp_path)
        for capability in sorted(self.make().capabilities):
            self.check_nothing_changes(path, capability, ResourceError)

    def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(self, tmp_path: Path) -> None:
        path = self.output(tmp_path / "absent")
        for capability in sorted(self.make().capabilities):
            with pytest.raises(ResourceError, match=path.name):
                self.write(capability, path)

    def check_nothing_changes(self, path: Path, capability: str, wanted: type[CentralsliceError]) -> None:
        """Writing fails, with no file before and with one."""
        with pytest.raises(wanted):
            self.write(capability, path)
        assert not list(path.parent.iterdir())
        path.write_bytes(b"precious")
        with pytest.raises(wanted):
            self.write(capability, path)
        assert path.read_bytes() == b"precious"
        assert list(path.parent.iterdir()) == [path]
        path.unlink()

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_a_map_reads_back_as_it_was_written(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        self.able("volume")
        path, data = self.output(tmp_path), example_map(shape)
        self.make().write_volume(path, Volume(data, 2.5), VolumeOptions(bits=self.lossless_bits()))
        again = self.read_volume(path)
        assert_array_equal(again.data, data)
        assert again.voxel_size_angst == pytest.approx(2.5)

    def lossless_bits(self) -> int | None:
        """The ``--compressbits`` for which the writer keeps float32 exactly."""
        return None

    def test_images_are_found_at_the_places_they_were_written_to(self, tmp_path: Path) -> None:
        self.able("images")
        for shape in ((4, 4), (5, 5)):
            path, images = self.output(tmp_path), example_map((7, *shape))
            with self.make().create_stack(path, StackPlan(7, shape, 2.5)) as sink:
                for first, stop in ((4, 7), (0, 1), (1, 4)):
                    sink.write(first, images[first:stop])
                assert not path.exists()
            with self.open_images(path) as stack:
                assert (stack.header.count, stack.header.shape) == (7, shape)
                assert stack.header.pixel_size_angst == pytest.approx(2.5)
                assert_array_equal(stack.read(np.arange(7)), images)
            path.unlink()

    def test_an_interrupted_stack_leaves_what_was_there(self, tmp_path: Path) -> None:
        self.able("images")
        path = self.output(tmp_path)
        path.write_bytes(b"precious")

        def interrupted() -> None:
            with self.make().create_stack(path, StackPlan(3, (4, 4), 1.0)) as sink:
                sink.write(1, example_map((1, 4, 4)))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert path.read_bytes() == b"precious"
        assert list(tmp_path.iterdir()) == [path]

    def test_tables_read_back_as_they_were_written(self, tmp_path: Path) -> None:
        self.able("table")
        path, tables = self.output(tmp_path), example_tables()
        self.make().write_tables(path, tables)
        again = self.read_tables(path)
        assert list(again) == list(tables)
        for name, table in tables.items():
            assert list(again[name]) == list(table)
            for label, column in table.items():
                self.same_column(again[name][label], column)

    def same_column(self, got: NDArray[Any], wanted: NDArray[Any]) -> None:
        """Texts and whole numbers are the same, decimals to the last bit."""
        kind = np.float64 if np.issubdtype(wanted.dtype, np.floating) else wanted.dtype
        assert_array_equal(np.asarray(got, kind), wanted)

    def test_columns_of_different_length_are_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        self.able("table")
        path = self.output(tmp_path)
        with pytest.raises(ParameterError, match=path.name):
            self.make().write_tables(path, {"t": {"a": np.arange(3), "b": np.arange(4)}})
        assert not list(tmp_path.iterdir())
