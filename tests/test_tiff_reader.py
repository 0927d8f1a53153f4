"""TIFF images: any type a camera writes, checked against the file first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from centralslice.errors import FormatError
from centralslice.plugin.registry import shared_registry
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.readers.tiff import TiffReader


class TestTiffReader(ReaderContract):
    count = 4

    def make(self) -> TiffReader:
        return TiffReader()

    def write_example(self, folder: Path) -> Path:
        path = folder / "stack.tif"
        images = np.arange(self.count * 30, dtype=np.int16).reshape(self.count, 5, 6)
        tifffile.imwrite(path, images, photometric="minisblack")
        return path


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "float32", "float16", "uint32"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_of_any_type_and_byte_order_arrive_with_the_last_row_first(tmp_path, kind, big, order):
    images = np.arange(2 * 7 * 5).reshape(2, 7, 5).astype(kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, images, bigtiff=big, byteorder=order, photometric="minisblack")
    with TiffReader().open_images(path) as stack:
        assert (stack.header.count, stack.header.shape) == (2, (7, 5))
        found = stack.read(np.array([1, 0]))
    np.testing.assert_array_equal(found, images[::-1, ::-1].astype(np.float32))


def test_deflated_pages_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 9, (3, 16, 16)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", images, compression="zlib", photometric="minisblack")
    with TiffReader().open_images(tmp_path / "a.tif") as stack:
        np.testing.assert_array_equal(stack.read(np.arange(3)), images[:, ::-1])


def test_colour_and_pages_of_two_sizes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    with pytest.raises(FormatError, match="expected one real number a pixel"):
        TiffReader().open_images(tmp_path / "rgb.tif")
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((4, 4), np.uint8))
        file.write(np.zeros((4, 5), np.uint8))
    with pytest.raises(FormatError, match=r"expected images of one size and type, got 4 x 4 .*, 5 x 4"):
        TiffReader().open_images(tmp_path / "two.tif")


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(FormatError, match=r"a\.tif"):
        TiffReader().open_images(path)


def test_the_registry_finds_the_reader_by_content(tmp_path):
    tifffile.imwrite(tmp_path / "tilt.mrc", np.zeros((8, 8), np.float32))
    assert shared_registry().reader_for(tmp_path / "tilt.mrc", "images").plugin_name == "tiff"
