"""MRC files: everybody's headers read, broken files give one clear line."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.readers.mrc import MrcReader

READER = MrcReader()


def plain_file(path: Path, values: np.ndarray, mode: int, order: str = "<", extended: bytes = b"") -> Path:
    """An MRC file as an old program writes it: no 'MAP ' stamp, no machine stamp."""
    nz, ny, nx = values.shape
    header = bytearray(1024)
    header[:28] = struct.pack(order + "7i", nx, ny, nz, mode, 0, 0, 0)
    header[28:40] = struct.pack(order + "3i", nx, ny, nz)
    header[40:52] = struct.pack(order + "3f", 2.5 * nx, 2.5 * ny, 2.5 * nz)
    header[92:96] = struct.pack(order + "i", len(extended))
    path.write_bytes(bytes(header) + extended + values.astype(values.dtype.newbyteorder(order)).tobytes())
    return path


@pytest.fixture
def numbers() -> np.ndarray:
    return np.random.default_rng(4).integers(-100, 100, (5, 7, 6))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "kind"), [(0, "i1"), (1, "i2"), (2, "f4"), (12, "f2")])
def test_every_mode_reads_in_both_byte_orders(tmp_path, numbers, order, mode, kind):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype(kind), mode, order, extended=b"x" * 36)
    with READER.open_images(path) as stack:
        assert stack.header.count == 5
        assert stack.header.shape == (7, 6)
        assert stack.header.pixel_size_angst == 2.5
        read = stack.read(np.array([4, 0, 1, 2, 2]))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, numbers[[4, 0, 1, 2, 2]])


def test_unsigned_shorts_keep_their_large_values(tmp_path):
    values = np.array([[[0, 40000, 65535]]], np.uint16)
    path = plain_file(tmp_path / "a.mrc", values, 6)
    np.testing.assert_array_equal(READER.read_volume(path).data, values)


def test_bytes_are_signed_unless_imod_says_otherwise(tmp_path):
    values = np.array([[[0, 127, 128, 255]]], np.uint8)
    path = plain_file(tmp_path / "a.mrc", values, 0)
    np.testing.assert_array_equal(READER.read_volume(path).data.ravel(), [0, 127, -128, -1])
    raw = bytearray(path.read_bytes())
    raw[152:160] = struct.pack("<2i", 1146047817, 0)
    path.write_bytes(raw)
    np.testing.assert_array_equal(READER.read_volume(path).data.ravel(), [0, 127, 128, 255])
    raw[156:160] = struct.pack("<i", 1)
    path.write_bytes(raw)
    np.testing.assert_array_equal(READER.read_volume(path).data.ravel(), [0, 127, -128, -1])


@pytest.mark.parametrize("nx", [6, 7])
def test_four_bit_values_are_unpacked_row_by_row(tmp_path, nx):
    values = np.random.default_rng(1).integers(0, 16, (2, 3, nx), np.uint8)
    padded = np.zeros((2, 3, nx + nx % 2), np.uint8)
    padded[..., :nx] = values
    path = plain_file(tmp_path / "a.mrc", values, 101)
    path.write_bytes(path.read_bytes()[:1024] + (padded[..., 0::2] | padded[..., 1::2] << 4).tobytes())
    np.testing.assert_array_equal(READER.read_volume(path).data, values)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 1, 3), (3, 2, 1), (2, 3, 1), (1, 3, 2)])
def test_any_axis_order_becomes_zyx(tmp_path, order):
    truth = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)  # z y x
    zyx_axes = [3 - axis for axis in order[::-1]]  # axis of truth that sections, rows, columns are
    stored = truth.transpose(zyx_axes)
    path = plain_file(tmp_path / "a.map", stored, 2)
    raw = bytearray(path.read_bytes())
    raw[64:76] = struct.pack("<3i", *order)
    sizes = (4, 3, 2)
    raw[28:40] = struct.pack("<3i", *sizes)
    raw[40:52] = struct.pack("<3f", *(1.5 * size for size in sizes))
    starts_xyz = (10, 20, 30)
    raw[16:28] = struct.pack("<3i", *(starts_xyz[axis - 1] for axis in order))
    path.write_bytes(raw)
    volume = READER.read_volume(path)
    np.testing.assert_array_equal(volume.data, truth)
    assert volume.data.flags.c_contiguous
    assert volume.voxel_size_angst == 1.5
    assert volume.origin_angst == (15.0, 30.0, 45.0)


def test_a_stack_with_axes_in_another_order_is_refused(tmp_path):
    path = plain_file(tmp_path / "a.mrcs", np.zeros((2, 3, 4), np.float32), 2)
    raw = bytearray(path.read_bytes())
    raw[64:76] = struct.pack("<3i", 3, 1, 2)
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"columns, rows, sections are z, x, y"):
        READER.open_images(path)


def test_a_voxel_size_that_is_not_in_the_header_is_1(tmp_path):
    path = plain_file(tmp_path / "a.mrc", np.zeros((2, 3, 4), np.float32), 2)
    raw = bytearray(path.read_bytes())
    raw[40:52] = bytes(12)
    path.write_bytes(raw)
    assert READER.read_volume(path).voxel_size_angst == 1.0
    with READER.open_images(path) as stack:
        assert stack.header.pixel_size_angst == 0.0


def test_a_file_longer_than_its_header_says_is_read(tmp_path, numbers):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype("f4"), 2)
    path.write_bytes(path.read_bytes() + b"more")
    np.testing.assert_array_equal(READER.read_volume(path).data, numbers)


@pytest.mark.parametrize("length", [1, 512, 1023, 1024, 1025, 1024 + 5 * 7 * 6 * 4 - 1])
def test_a_truncated_file_gives_one_line_with_its_size(tmp_path, numbers, length):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype("f4"), 2)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FormatError, match=f"a.mrcs.*{length}") as caught:
        READER.open_images(path)
    assert "\n" not in str(caught.value)
    if length >= 1024:
        assert str(1024 + 840) in str(caught.value)


def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(tmp_path):
    path = plain_file(tmp_path / "a.mrc", np.zeros((1, 1, 1), np.float32), 2)
    raw = bytearray(path.read_bytes())
    raw[:12] = struct.pack("<3i", 1 << 20, 1 << 20, 1 << 20)
    path.write_bytes(raw)
    needed = 4 * (1 << 60) + 1024
    with pytest.raises(FormatError, match=f"{needed} bytes with header, but the file has 1028 bytes"):
        READER.read_volume(path)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (12, 3, "mode 3, complex int16"),
        (12, 4, "mode 4, complex float32"),
        (12, 77, "not an MRC file"),
        (0, 0, "not an MRC file"),
        (8, -4, "not an MRC file"),
        (92, -16, "extended header has -16 bytes"),
        (92, 1 << 30, "truncated"),
        (64, 2, r"mapc, mapr, maps = \(2, 0, 0\)"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, position, value, message):
    path = plain_file(tmp_path / "a.mrc", np.zeros((4, 4, 4), np.float32), 2)
    raw = bytearray(path.read_bytes())
    raw[position : position + 4] = struct.pack("<i", value)
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=message) as caught:
        READER.read_volume(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileMissingError, match=r"absent\.mrc: no such file"):
        READER.read_volume(tmp_path / "absent.mrc")


def test_a_folder_is_not_a_map(tmp_path):
    (tmp_path / "folder.mrc").mkdir()
    with pytest.raises(FormatError, match=r"folder\.mrc: cannot be read"):
        READER.read_volume(tmp_path / "folder.mrc")


@pytest.mark.parametrize("number", [-1, 5])
def test_an_image_beyond_the_stack_is_named(tmp_path, numbers, number):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype("f4"), 2)
    with (
        READER.open_images(path) as stack,
        pytest.raises(FormatError, match=f"5 images, image {number + 1} was"),
    ):
        stack.read(np.array([0, number]))


def test_a_file_shortened_while_open_is_an_error(tmp_path, numbers):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype("f4"), 2)
    with READER.open_images(path) as stack:
        os.truncate(path, 1500)
        with pytest.raises(FormatError, match="shortened while in use"):
            stack.read(np.arange(5))


def test_no_images_are_an_empty_array(tmp_path, numbers):
    path = plain_file(tmp_path / "a.mrcs", numbers.astype("f4"), 2)
    with READER.open_images(path) as stack:
        assert stack.read(np.empty(0, np.int64)).shape == (0, 7, 6)


def test_threads_read_the_same_images(tmp_path):
    values = np.random.default_rng(0).normal(size=(60, 16, 16)).astype(np.float32)
    path = plain_file(tmp_path / "a.mrcs", values, 2)
    wrong = []
    with READER.open_images(path) as stack:

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(50):
                chosen = rng.integers(0, 60, 7)
                if not np.array_equal(stack.read(chosen), values[chosen]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_files_are_recognised_by_content_then_by_suffix(tmp_path, numbers):
    unnamed = plain_file(tmp_path / "data.bin", numbers.astype("f4"), 2)
    assert READER.recognises(unnamed)
    empty = tmp_path / "a.mrc"
    empty.write_bytes(b"")
    assert READER.recognises(empty)
    hdf = tmp_path / "b.mrc"
    hdf.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    assert not READER.recognises(hdf)
    text = tmp_path / "c.star"
    text.write_text("data_\nloop_\n" * 200)
    assert not READER.recognises(text)


BROKEN = {
    "empty1.map", "empty2.map", "empty3.map", "test_data_corrupt_header.map", "header_only.mrc",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # of mrcfile about missing stamps
def test_every_valid_reference_file_reads_as_mrcfile_reads_it(reference):
    suffixes = {".mrc", ".mrcs", ".map", ".st"}
    files = [path for path in sorted(reference.rglob("*")) if path.suffix in suffixes and path.is_file()]
    assert len(files) > 100
    for path in files:
        if path.name in BROKEN or path.name == "vp6-96o.mrc":
            continue
        with mrcfile.open(path, permissive=True) as other:
            expected = other.data.reshape((-1, *other.data.shape[-2:])).astype(np.float32)
        volume = READER.read_volume(path)
        if path.name == "EMD-3001.map":
            continue
        np.testing.assert_array_equal(volume.data, expected, err_msg=str(path))


def test_broken_reference_files_give_one_clear_error(reference):
    found = [path for path in reference.rglob("*") if path.name in BROKEN]
    assert len(found) == len(BROKEN)
    for path in found:
        with pytest.raises(FormatError) as caught:
            READER.read_volume(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "bytes" in str(caught.value)


def test_what_is_odd_about_the_odd_files_is_handled(reference):
    odd = reference / "third_party" / "odd_files"
    swapped_stamp = READER.read_volume(odd / "vp6-96o.mrc")
    assert swapped_stamp.data.shape == (96, 96, 96)
    assert swapped_stamp.data.min() == pytest.approx(-0.526, abs=1e-3)
    assert swapped_stamp.voxel_size_angst == pytest.approx(1.23)
    anisotropic = READER.read_volume(odd / "EMD-3001.map")
    assert anisotropic.data.shape == (73, 25, 43)  # columns z, rows x, sections y
    assert anisotropic.attributes["apix_z"] == pytest.approx(33.03 / 72, rel=1e-3)
    assert anisotropic.origin_angst[0] == pytest.approx(-21 * anisotropic.voxel_size_angst)
    with mrcfile.open(odd / "EMD-3001.map") as other:
        np.testing.assert_array_equal(anisotropic.data, other.data.transpose(2, 0, 1))
    odd_box = READER.read_volume(odd / "ispg_0.mrc")
    assert odd_box.data.shape == (97, 97, 97)
    assert odd_box.voxel_size_angst == pytest.approx(3.0)
    assert READER.read_volume(odd / "EMD-3197.map").origin_angst == pytest.approx((-22.8, 0, 0))
    with READER.open_images(odd / "HAADF.mrc") as stack:
        assert (stack.header.count, stack.header.shape) == (77, (256, 256))
        assert stack.header.dtype == np.int16


def test_peers_maps_with_m_of_1_have_their_true_voxel_size(reference):
    volume = READER.read_volume(reference / "relion_spa" / "relion_pad1.mrc")
    assert volume.voxel_size_angst == 2.0
    assert not volume.attributes
