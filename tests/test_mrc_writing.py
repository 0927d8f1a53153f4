"""MRC output: other programs' readers agree, scale is kept, a failure leaves the old file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice import __version__
from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import CentralsliceError, ParameterError, ResourceError
from centralslice_plugins.readers.mrc import MrcReader
from centralslice_plugins.writers.mrc import MrcWriter

WRITER, READER = MrcWriter(), MrcReader()


def a_map(shape: tuple[int, int, int] = (7, 6, 5)) -> Volume:
    return Volume(np.random.default_rng(3).normal(size=shape).astype(np.float32), 1.25, (3.0, -4.5, 6.0))


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 7, 7), (3, 4, 5)])
def test_a_map_reads_back_bit_for_bit(tmp_path, shape):
    volume = a_map(shape)
    WRITER.write_volume(tmp_path / "a.mrc", volume, VolumeOptions())
    back = READER.read_volume(tmp_path / "a.mrc")
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.voxel_size_angst == volume.voxel_size_angst
    assert back.origin_angst == volume.origin_angst


def test_another_programs_library_finds_the_map_valid(tmp_path):
    volume = a_map()
    path = tmp_path / "a.mrc"
    WRITER.write_volume(path, volume, VolumeOptions())
    report = io.StringIO()
    assert mrcfile.validate(path, print_file=report), report.getvalue()
    with mrcfile.open(path) as other:
        np.testing.assert_array_equal(other.data, volume.data)
        assert other.is_volume()
        header = other.header
        assert (int(header.ispg), int(header.mz), int(header.mode)) == (1, 7, 2)
        assert float(header.dmean) == pytest.approx(volume.data.mean(), abs=1e-6)
        assert float(header.rms) == pytest.approx(volume.data.std(), rel=1e-6)
        assert (float(header.dmin), float(header.dmax)) == (volume.data.min(), volume.data.max())
        assert other.get_labels() == [f"centralslice {__version__} map"]


def test_the_same_map_writes_the_same_bytes(tmp_path):
    for name in ("a.mrc", "b.mrc"):
        WRITER.write_volume(tmp_path / name, a_map(), VolumeOptions())
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()


def test_half_precision_is_mode_12(tmp_path):
    volume = a_map()
    path = tmp_path / "a.mrc"
    WRITER.write_volume(path, volume, VolumeOptions(float16=True))
    assert path.stat().st_size == 1024 + 2 * volume.data.size
    assert mrcfile.validate(path, print_file=io.StringIO())
    np.testing.assert_array_equal(READER.read_volume(path).data, volume.data.astype(np.float16))


def test_half_precision_that_would_overflow_is_refused(tmp_path):
    volume = Volume(np.full((2, 2, 2), -70000.0, np.float32))
    with pytest.raises(ParameterError, match=r"-70000 does not fit into float16.*65504; store float32"):
        WRITER.write_volume(tmp_path / "a.mrc", volume, VolumeOptions(float16=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [None, 0, -1])
def test_plain_float_satisfies_these_compressbits(tmp_path, bits):
    WRITER.write_volume(tmp_path / "a.mrc", a_map(), VolumeOptions(bits=bits))
    np.testing.assert_array_equal(READER.read_volume(tmp_path / "a.mrc").data, a_map().data)


@pytest.mark.parametrize("bits", [1, 10, 16])
def test_quantised_mrc_is_refused_since_it_would_lose_the_scale(tmp_path, bits):
    with pytest.raises(ParameterError, match=f"--compressbits {bits} does not apply to MRC"):
        WRITER.write_volume(tmp_path / "a.mrc", a_map(), VolumeOptions(bits=bits))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["f4", "f2", "i1"])
def test_a_stack_written_in_pieces_reads_back(tmp_path, dtype):
    images = np.random.default_rng(5).integers(-10, 10, (9, 5, 6)).astype(np.float32)
    path = tmp_path / "a.mrcs"
    with WRITER.create_stack(path, StackPlan(9, (5, 6), 3.5, np.dtype(dtype))) as sink:
        for first in (6, 0, 3):
            sink.write(first, images[first : first + 3])
        assert not path.exists()
    with READER.open_images(path) as stack:
        assert stack.header.pixel_size_angst == 3.5
        assert stack.header.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(stack.read(np.arange(9)), images)
    assert mrcfile.validate(path, print_file=io.StringIO())
    with mrcfile.open(path) as other:
        assert other.is_image_stack()
        assert (int(other.header.ispg), int(other.header.mz)) == (0, 1)
        assert float(other.header.rms) == pytest.approx(images.std(), rel=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrcs"]


def test_the_order_of_writing_does_not_change_the_file(tmp_path):
    images = np.random.default_rng(6).normal(size=(6, 4, 4)).astype(np.float32)
    for name, order in (("a.mrcs", range(6)), ("b.mrcs", (5, 2, 2, 4, 0, 1, 3))):
        with WRITER.create_stack(tmp_path / name, StackPlan(6, (4, 4), 1.0)) as sink:
            for number in order:
                sink.write(number, images[number : number + 1])
    assert (tmp_path / "a.mrcs").read_bytes() == (tmp_path / "b.mrcs").read_bytes()


def test_a_stack_with_a_missing_image_is_not_published(tmp_path):
    sink = WRITER.create_stack(tmp_path / "a.mrcs", StackPlan(3, (4, 4), 1.0))
    sink.write(0, np.zeros((1, 4, 4)))
    with pytest.raises(CentralsliceError, match="2 of 3 images were never written, the first is image 2"):
        sink.commit()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("first", "shape"), [(2, (2, 4, 4)), (-1, (1, 4, 4)), (0, (1, 4, 5))])
def test_images_that_do_not_fit_are_refused(tmp_path, first, shape):
    with WRITER.create_stack(tmp_path / "a.mrcs", StackPlan(3, (4, 4), 1.0)) as sink:
        with pytest.raises(ParameterError, match="do not fit into a stack of 3"):
            sink.write(first, np.zeros(shape))
        sink.write(0, np.zeros((3, 4, 4)))


@pytest.mark.parametrize("value", [128.0, -129.0, np.nan])
def test_bytes_that_would_wrap_are_refused(tmp_path, value):
    sink = WRITER.create_stack(tmp_path / "a.mrcs", StackPlan(1, (4, 4), 1.0, np.int8))
    with pytest.raises(ParameterError, match="int8"):
        sink.write(0, np.full((1, 4, 4), value))
    sink.discard()
    assert not list(tmp_path.iterdir())


def test_an_error_while_writing_keeps_the_old_stack(tmp_path):
    path = tmp_path / "a.mrcs"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), WRITER.create_stack(path, StackPlan(2, (4, 4), 1.0)):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrcs"]


def test_a_dtype_without_a_mode_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="cannot store float64"):
        WRITER.create_stack(tmp_path / "a.mrcs", StackPlan(2, (4, 4), 1.0, np.float64))


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import ResourceError
from centralslice_plugins.writers.{module} import {name}
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
path, writer = Path(sys.argv[1]), {name}()
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
    path = tmp_path / "a.mrc"
    path.write_bytes(b"old")
    program = FULL_DISK.format(module="mrc", name="MrcWriter")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"{path}: cannot be written: File too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrc"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ResourceError, match=r"absent/a\.mrc: cannot be written: No such file"):
        WRITER.write_volume(tmp_path / "absent" / "a.mrc", a_map(), VolumeOptions())
    with pytest.raises(ResourceError, match=r"absent/a\.mrc: cannot be written: No such file"):
        WRITER.create_stack(tmp_path / "absent" / "a.mrc", StackPlan(2, (4, 4), 1.0))


def test_writes_that_the_system_cuts_short_are_continued(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, bytes(data)[:7], offset))
    images = np.random.default_rng(6).normal(size=(2, 4, 4)).astype(np.float32)
    with WRITER.create_stack(tmp_path / "a.mrcs", StackPlan(2, (4, 4), 1.0)) as sink:
        sink.write(0, images)
    np.testing.assert_array_equal(READER.read_volume(Path(tmp_path / "a.mrcs")).data, images)
