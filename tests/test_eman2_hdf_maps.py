"""EMAN2 HDF5 maps and stacks: what is written reads back, nothing is clipped, failures leave the old file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import (
    CentralsliceError,
    FileMissingError,
    FormatError,
    ParameterError,
    ResourceError,
)
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform
from centralslice_plugins.formats.eman2_storage import quantisation_of
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter

READER, WRITER = Eman2HdfReader(), Eman2HdfWriter()


def a_map(shape: tuple[int, int, int] = (9, 10, 11), **attributes: object) -> Volume:
    return Volume(
        np.random.default_rng(3).normal(size=shape).astype(np.float32), 1.25, (3.0, 0.0, -6.5), attributes
    )


@pytest.mark.parametrize("bits", [-1, 0])
@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 7, 7), (3, 5, 1), (1, 1, 1), (40, 3, 2)])
def test_lossless_storage_reads_back_bit_for_bit(tmp_path, bits, shape):
    volume = a_map(shape)
    WRITER.write_volume(tmp_path / "a.hdf", volume, VolumeOptions(bits=bits))
    back = READER.read_volume(tmp_path / "a.hdf")
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.data.dtype == np.float32
    assert back.voxel_size_angst == 1.25
    assert back.origin_angst == volume.origin_angst


@pytest.mark.parametrize("bits", [None, *range(1, 17)])
def test_quantised_maps_are_within_half_a_step_and_keep_their_extremes(tmp_path, bits):
    volume = a_map()
    volume.data[0, 0, 0] = 50.0
    volume.data[4, 4, :4] = 0.0
    WRITER.write_volume(tmp_path / "a.hdf", volume, VolumeOptions(bits=bits))
    back = READER.read_volume(tmp_path / "a.hdf")
    attributes = back.attributes
    step = (attributes["stored_rendermax"] - attributes["stored_rendermin"]) / (2 ** (bits or 10) - 1)
    assert attributes["stored_renderbits"] == (bits or 10)
    assert np.abs(back.data - volume.data).max() <= 0.5001 * step
    assert back.data.max() >= 50 - 0.5001 * step
    if bits != 1:
        assert (back.data[volume.data == 0] == 0).all()


@given(
    low=st.floats(-1e6, 1e6, width=32),
    high=st.floats(-1e6, 1e6, width=32),
    bits=st.integers(1, 16),
    whole=st.booleans(),
)
def test_a_quantised_range_holds_all_values_and_zero_exactly(low, high, bits, whole):
    if whole:
        low, high = round(low), round(high)
    low, high = min(low, high), max(low, high)
    if high - low < 1e-30:
        high = low
    found = quantisation_of(low, high, whole, bits)
    levels = 2**bits - 1
    assert found.low <= low
    assert found.high >= high
    assert np.float32(found.low) == found.low
    assert np.float32(found.high) == found.high
    assert found.high - found.low <= max(3 * (high - low), levels if whole else 0)
    values = np.array([low, high, 0.0] if low <= 0 <= high else [low, high])
    stored = found.stored(values)
    back = stored * np.float32((found.high - found.low) / levels) + np.float32(found.low)
    assert np.abs(back - values).max() <= 0.501 * (found.high - found.low) / levels + 1e-6 * max(
        abs(low), abs(high)
    )
    if low < 0 < high and bits > 1:
        assert back[2] == 0


@pytest.mark.parametrize("bits", [8, 12])
def test_integers_that_fit_are_stored_exactly(tmp_path, bits):
    data = np.random.default_rng(0).integers(-100, 2**bits - 101, (6, 6, 6)).astype(np.float32)
    data[0, 0, :2] = -100, 2**bits - 101
    WRITER.write_volume(tmp_path / "a.hdf", Volume(data), VolumeOptions(bits=bits))
    np.testing.assert_array_equal(READER.read_volume(tmp_path / "a.hdf").data, data)


@pytest.mark.parametrize("value", [0.0, 7.0, -1.7])
def test_a_constant_map_stays_constant(tmp_path, value):
    WRITER.write_volume(tmp_path / "a.hdf", Volume(np.full((4, 4, 4), value, np.float32)), VolumeOptions())
    np.testing.assert_array_equal(READER.read_volume(tmp_path / "a.hdf").data, np.float32(value))


def test_the_layout_is_the_one_eman2_reads(tmp_path):
    WRITER.write_volume(
        tmp_path / "a.hdf", a_map(ptcl_repr=3181.0, threed_ptcl_src="in.hdf"), VolumeOptions()
    )
    with h5py.File(tmp_path / "a.hdf") as file:
        images = file["MDF/images"]
        assert images.attrs["imageid_max"].tolist() == [0]
        dataset = images["0/image"]
        assert (dataset.dtype, dataset.shape, dataset.chunks) == (np.uint16, (9, 10, 11), (1, 8, 11))
        assert (dataset.compression, dataset.compression_opts, dataset.shuffle) == ("gzip", 1, False)
        attributes = images["0"].attrs
        kinds = {name: h5py.h5a.open(images["0"].id, name.encode()) for name in attributes}
        for name in (
            "nx",
            "ny",
            "nz",
            "datatype",
            "all_int",
            "is_complex",
            "stored_renderbits",
            "changecount",
        ):
            assert kinds[f"EMAN.{name}"].dtype == np.int32
            assert kinds[f"EMAN.{name}"].shape == (1,)
        for name in ("minimum", "maximum", "mean", "sigma", "square_sum", "mean_nonzero", "sigma_nonzero"):
            assert kinds[f"EMAN.{name}"].dtype == np.float32
        for name in ("apix_x", "apix_y", "apix_z", "ptcl_repr"):
            assert kinds[f"EMAN.{name}"].dtype == np.float64
        source = kinds["EMAN.threed_ptcl_src"]
        assert (source.dtype, source.shape) == (np.dtype("S7"), ())  # with its NUL
        assert not source.get_type().is_variable_str()
        assert attributes["EMAN.datatype"][0] == 4


def test_attributes_of_every_kind_read_back(tmp_path):
    ctf = Eman2Ctf(1.5, 0.1, 30.0, 100.0, 10.0, 300.0, 2.7, 1.25, 0.01, (0.5, 0.25), (1.0, 2.0, 3.0))
    pose = Transform(np.arange(12.0).reshape(3, 4))
    given_attributes = {
        "an_int": -7, "a_float": 0.1, "a_bool": True, "text": "Ångström E1.hdf", "E_text": "E1/particles.hdf",
        "ints": np.arange(5), "floats": np.linspace(0, 1, 4, dtype=np.float32), "xform.align3d": pose,
        "ctf": ctf, "nothing": [],
    }  # fmt: skip
    WRITER.write_volume(tmp_path / "a.hdf", a_map(**given_attributes), VolumeOptions(bits=-1))
    back = READER.read_volume(tmp_path / "a.hdf").attributes
    for name in ("an_int", "a_float", "a_bool", "text", "E_text", "ctf"):
        assert back[name] == given_attributes[name]
    for name in ("ints", "floats"):
        np.testing.assert_array_equal(back[name], given_attributes[name])
    np.testing.assert_array_equal(back["xform.align3d"].matrix, pose.matrix)
    assert "nothing" not in back


def test_unprefixed_attributes_and_letters_for_bools_are_read(tmp_path):
    WRITER.write_volume(tmp_path / "a.hdf", a_map(), VolumeOptions())
    with h5py.File(tmp_path / "a.hdf", "a") as file:
        attributes = file["MDF/images/0"].attrs
        attributes["plain"] = np.array([5], np.int32)
        attributes["maximum"] = np.array([5], np.int32)
        attributes["EMAN.yes"] = np.array([ord("T")], np.int8)
        attributes["EMAN.no"] = np.array([ord("F")], np.int8)
        attributes["EMAN.minus"] = np.array([-3], np.int8)
    back = READER.read_volume(tmp_path / "a.hdf").attributes
    assert (back["plain"], back["yes"], back["no"], back["minus"]) == (5, True, False, -3)
    assert back["maximum"] != 5


@pytest.mark.parametrize("count", [300, 16100, 20000, 200000])
def test_long_lists_of_particles_are_kept(tmp_path, count):
    numbers = np.arange(count, dtype=np.int64) * 3
    WRITER.write_volume(tmp_path / "a.hdf", a_map(threed_ptcl_idxs=numbers), VolumeOptions())
    np.testing.assert_array_equal(
        READER.read_volume(tmp_path / "a.hdf").attributes["threed_ptcl_idxs"], numbers
    )
    superblock = (tmp_path / "a.hdf").read_bytes()[8]
    assert superblock == (0 if count == 300 else 2)  # HDF5's oldest format, or that of 1.8


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1j, ["a", "b"], np.zeros((2, 2)), None])
def test_attributes_without_a_place_in_the_format_are_refused(tmp_path, value):
    with pytest.raises(ParameterError, match="attribute wrong"):
        WRITER.write_volume(tmp_path / "a.hdf", a_map(wrong=value), VolumeOptions())
    assert not list(tmp_path.iterdir())


def test_the_same_map_writes_the_same_bytes(tmp_path):
    for name in ("a.hdf", "b.hdf"):
        WRITER.write_volume(tmp_path / name, a_map(threed_ptcl_idxs=np.arange(20000)), VolumeOptions())
    assert (tmp_path / "a.hdf").read_bytes() == (tmp_path / "b.hdf").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [(VolumeOptions(bits=17), "--compressbits 17"), (VolumeOptions(float16=True), "half-precision")],
)
def test_options_the_format_cannot_meet_are_refused(tmp_path, options, message):
    with pytest.raises(ParameterError, match=message):
        WRITER.write_volume(tmp_path / "a.hdf", a_map(), options)


def test_maps_that_are_not_finite_are_not_quantised(tmp_path):
    volume = a_map()
    volume.data[1, 1, 1] = np.nan
    with pytest.raises(ParameterError, match="not finite cannot be quantised"):
        WRITER.write_volume(tmp_path / "a.hdf", volume, VolumeOptions())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (7, 5), (8, 8), (33, 20)])
@pytest.mark.parametrize("dtype", ["f4", "i1", "u1", "i2", "u2"])
def test_stacks_of_any_size_read_back(tmp_path, shape, dtype):
    images = np.random.default_rng(5).integers(0, 100, (6, *shape)).astype(np.float32)
    path = tmp_path / "a.hdf"
    with WRITER.create_stack(path, StackPlan(6, shape, 3.5, np.dtype(dtype))) as sink:
        sink.write(3, images[3:])
        sink.write(0, images[:4])
        sink.write_attributes(2, {"xform.projection": Transform(np.eye(3, 4)), "source_n": 9})
    with READER.open_images(path) as stack:
        assert stack.header.pixel_size_angst == 3.5
        assert (stack.header.count, stack.header.shape) == (6, shape)
        np.testing.assert_array_equal(
            stack.read(np.array([5, 0, 1, 2, 2, 3, 4])), images[[5, 0, 1, 2, 2, 3, 4]]
        )
        assert stack.attributes(2)["source_n"] == 9
        assert "source_n" not in stack.attributes(3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.hdf"]


def test_a_map_is_a_stack_of_its_sections(tmp_path):
    volume = a_map()
    WRITER.write_volume(tmp_path / "a.hdf", volume, VolumeOptions(bits=12))
    quantised = READER.read_volume(tmp_path / "a.hdf").data
    with READER.open_images(tmp_path / "a.hdf") as stack:
        assert (stack.header.count, stack.header.shape) == (9, (10, 11))
        np.testing.assert_array_equal(stack.read(np.array([8, 0, 3])), quantised[[8, 0, 3]])


def test_a_stack_with_a_missing_image_is_not_published(tmp_path):
    sink = WRITER.create_stack(tmp_path / "a.hdf", StackPlan(3, (4, 4), 1.0))
    sink.write(0, np.zeros((1, 4, 4)))
    with pytest.raises(CentralsliceError, match="2 of 3 images were never written, the first is image 2"):
        sink.commit()
    assert not list(tmp_path.iterdir())


def test_an_error_while_writing_keeps_the_old_stack(tmp_path):
    path = tmp_path / "a.hdf"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), WRITER.create_stack(path, StackPlan(2, (4, 4), 1.0)):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.hdf"]


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import ResourceError
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
path, writer = Path(sys.argv[1]), Eman2HdfWriter()
try:
    if sys.argv[2] == "map":
        writer.write_volume(path, Volume(np.random.default_rng(0).normal(size=(32, 32, 32))), VolumeOptions())
    else:
        with writer.create_stack(path, StackPlan(32, (32, 32), 1.0)) as sink:
            for number in range(32):
                sink.write(number, np.random.default_rng(0).normal(size=(1, 32, 32)))
except ResourceError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("what", ["map", "stack"])
def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path, what):
    path = tmp_path / "a.hdf"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert not done.stderr
    assert f"{path}: cannot be written: File too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.hdf"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ResourceError, match=r"absent/a\.hdf: cannot be written: No such file"):
        WRITER.write_volume(tmp_path / "absent" / "a.hdf", a_map(), VolumeOptions())
    with pytest.raises(ResourceError, match=r"absent/a\.hdf: cannot be written: No such file"):
        WRITER.create_stack(tmp_path / "absent" / "a.hdf", StackPlan(2, (4, 4), 1.0))


def one_line_error(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        READER.read_volume(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_truncated_file_gives_one_line(tmp_path):
    path = tmp_path / "a.hdf"
    WRITER.write_volume(path, a_map((16, 16, 16)), VolumeOptions(bits=-1))
    whole = path.read_bytes()
    for length in (0, 5, 8, 90, 500, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        one_line_error(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
    path = tmp_path / "a.hdf"
    path.write_text("not HDF5 at all" * 200)
    assert "is not an HDF5 file" in one_line_error(path)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    assert "there is no group /MDF/images" in one_line_error(path)
    with h5py.File(path, "w") as file:
        file.attrs["num_dataset"] = 3
    assert "obsolete layout" in one_line_error(path)
    with pytest.raises(FileMissingError):
        READER.read_volume(tmp_path / "absent.hdf")


def altered(path: Path, change: str) -> Path:
    WRITER.write_volume(path, a_map(), VolumeOptions())
    with h5py.File(path, "a") as file:
        images = file["MDF/images"]
        if change == "count":
            images.attrs["imageid_max"] = np.array([2**31 - 1], np.int32)
        elif change == "empty":
            images.attrs["imageid_max"] = np.array([-1], np.int32)
        elif change == "no image":
            del images["0/image"]
        elif change == "huge":
            del images["0/image"]
            images["0"].create_dataset(
                "image", (100000, 100000, 100000), "f4", chunks=(1, 8, 8), compression=1
            )
        elif change == "complex":
            images["0"].attrs["EMAN.is_complex"] = np.array([1], np.int32)
        elif change == "text":
            del images["0/image"]
            images["0"].create_dataset("image", data=np.array([[b"x"]]))
        else:
            images["0"].attrs["EMAN.stored_renderbits"] = np.array([99], np.int32)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("count", "imageid_max says 2147483648 images, the file has 1"),
        ("empty", "holds 0 images"),
        ("no image", "image 1 cannot be read"),
        ("huge", "claims 4000000000000000 bytes, the file holds 0"),
        ("complex", "image 1 is complex"),
        ("text", "expected 2 or 3 axes of real numbers"),
        ("bits", "99 stored_renderbits"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, change, message):
    assert message in one_line_error(altered(tmp_path / "a.hdf", change))


def test_images_of_different_shapes_are_refused(tmp_path):
    path = tmp_path / "a.hdf"
    with WRITER.create_stack(path, StackPlan(3, (4, 4), 1.0)) as sink:
        sink.write(0, np.zeros((3, 4, 4)))
    with h5py.File(path, "a") as file:
        del file["MDF/images/2/image"]
        file["MDF/images/2"]["image"] = np.zeros((5, 4), np.float32)
    with READER.open_images(path) as stack:
        stack.read(np.array([0, 1]))
        with pytest.raises(FormatError, match=r"image 3 is of shape \(5, 4\), the first one of \(4, 4\)"):
            stack.read(np.array([2]))
        with pytest.raises(FormatError, match="has 3 images, image 4 was asked for"):
            stack.read(np.array([3]))


def test_files_are_recognised_by_content_then_by_suffix(tmp_path):
    WRITER.write_volume(tmp_path / "a.dat", a_map(), VolumeOptions())
    assert READER.recognises(tmp_path / "a.dat")
    (tmp_path / "b.hdf").write_bytes(b"")
    assert READER.recognises(tmp_path / "b.hdf")
    with h5py.File(tmp_path / "c.ckpt", "w") as file:
        file["sums"] = 1
    assert not READER.recognises(tmp_path / "c.ckpt")


def test_the_peers_bit_reduced_map_is_its_float_map_within_half_a_step(reference):
    out = reference / "eman2" / "out"
    reduced, plain = READER.read_volume(out / "compress10.hdf"), READER.read_volume(out / "mode_gauss_5.hdf")
    low, high = (reduced.attributes[f"stored_render{end}"] for end in ("min", "max"))
    clipped = np.clip(plain.data, low, high)
    assert np.abs(reduced.data - clipped).max() <= 0.5001 * (high - low) / 1023
    assert np.count_nonzero(plain.data != clipped) == reduced.attributes["stored_truncated"] == 15
    assert reduced.voxel_size_angst == 2.0
    assert reduced.attributes["threed_ptcl_idxs"].tolist() == list(range(300))


def test_our_statistics_are_the_peers(reference, tmp_path):
    for name in ("out/mode_gauss_5.hdf", "mask48.hdf", "out/mode_gauss_5_norm.hdf"):
        volume = READER.read_volume(reference / "eman2" / name)
        WRITER.write_volume(tmp_path / "a.hdf", Volume(volume.data), VolumeOptions(bits=-1))
        ours = READER.read_volume(tmp_path / "a.hdf").attributes
        for figure in ("minimum", "maximum", "mean", "sigma", "square_sum", "nx", "ny", "nz", "all_int"):
            assert ours[figure] == pytest.approx(volume.attributes[figure], rel=2e-5), (name, figure)


def test_every_reference_file_reads(reference):
    files = sorted(reference.rglob("*.hdf"))
    assert len(files) > 30
    for path in files:
        with READER.open_images(path) as stack:
            images = stack.read(np.arange(min(3, stack.header.count)))
            assert np.isfinite(images).all()
            assert stack.attributes(0)["nx"] == stack.header.shape[1]
