"""centralslice process: stacks image by image, maps as a whole, nothing done where something is wrong."""

from __future__ import annotations

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice.cli import main
from centralslice.errors import InputError, ParameterError
from centralslice.jobs import process
from centralslice.jobs.process import ProcessSettings, dimension_of, run_process
from centralslice.plugin.registry import shared_registry

RANDOM = np.random.default_rng(11)
IMAGES = RANDOM.normal(5.0, 2.0, (7, 16, 18)).astype(np.float32)
MAP = RANDOM.normal(0.0, 1.0, (12, 12, 12)).astype(np.float32)


def write(path, data, voxel=1.5, stack=False):
    with mrcfile.new(path, data=data) as out:
        if stack:
            out.set_image_stack()
        elif data.ndim == 3:
            out.set_volume()
        out.voxel_size = voxel
    return path


def read(path):
    with mrcfile.open(path) as file:
        return file.data.copy(), float(file.voxel_size.x)


def normalised(images):
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    return centred / images.std(axis=(1, 2), ddof=1, keepdims=True)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 16 * 18 * 4, 1 << 30])
def test_each_image_of_a_stack_is_processed_on_its_own_whatever_the_chunks(
    tmp_path, monkeypatch, chunk_bytes
):
    monkeypatch.setattr(process, "_CHUNK_BYTES", chunk_bytes)
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    assert main(["process", str(source), str(tmp_path / "out.mrcs"), "--process", "normalize"]) == 0
    found, voxel = read(tmp_path / "out.mrcs")
    np.testing.assert_allclose(found, normalised(IMAGES), rtol=1e-5, atol=1e-5)
    assert voxel == pytest.approx(1.5)


def test_processors_are_applied_in_the_order_given(tmp_path):
    source = write(tmp_path / "in.mrc", MAP)
    order = ["--process", "math.linear:scale=2", "--process", "math.linear:scale=1:shift=1"]
    assert main(["process", str(source), str(tmp_path / "out.mrc"), *order]) == 0
    np.testing.assert_allclose(read(tmp_path / "out.mrc")[0], 2 * MAP + 1, rtol=1e-6)


def test_a_map_keeps_its_origin_and_takes_the_given_pixel_size(tmp_path):
    source = write(tmp_path / "in.mrc", MAP)
    with mrcfile.open(source, mode="r+") as file:
        file.header.origin = (3.0, -4.0, 5.0)
    arguments = [str(source), str(tmp_path / "out.mrc"), "--process", "math.absvalue", "--apix", "2.25"]
    assert main(["process", *arguments]) == 0
    with mrcfile.open(tmp_path / "out.mrc") as out:
        assert float(out.voxel_size.x) == pytest.approx(2.25)
        assert tuple(out.header.origin.tolist()) == (3.0, -4.0, 5.0)
        np.testing.assert_array_equal(out.data, np.abs(MAP))


def test_resampling_changes_size_and_pixel_size_of_maps_and_keeps_the_centre_in_place(tmp_path):
    source = write(tmp_path / "in.mrc", MAP)
    assert (
        main(["process", str(source), str(tmp_path / "out.mrc"), "--process", "math.fft.resample:n=2"]) == 0
    )
    with mrcfile.open(tmp_path / "out.mrc") as out:
        assert out.data.shape == (6, 6, 6)
        assert float(out.voxel_size.x) == pytest.approx(3.0)
        np.testing.assert_allclose(out.header.origin.tolist(), (6 * 1.5 - 3 * 3.0,) * 3, atol=1e-6)


def test_resampling_changes_size_and_pixel_size_of_stacks(tmp_path):
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    steps = ["--process", "math.meanshrink:n=2", "--process", "math.linear:scale=3"]
    assert main(["process", str(source), str(tmp_path / "out.mrcs"), *steps]) == 0
    found, voxel = read(tmp_path / "out.mrcs")
    blocks = IMAGES.reshape(7, 8, 2, 9, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(found, 3 * blocks, rtol=1e-5)
    assert voxel == pytest.approx(3.0)


def test_the_voxel_size_after_resampling_is_what_the_next_processor_gets(tmp_path):
    source = write(tmp_path / "in.mrc", MAP, voxel=1.0)
    registry = shared_registry()
    steps = ("math.fft.resample:n=2", "filter.lowpass.gauss:cutoff_freq=0.1")
    run_process(ProcessSettings(source, tmp_path / "out.mrc", steps), registry)
    small = registry.create("processor", steps[0]).apply(MAP, 1.0)
    wanted = registry.create("processor", "filter.lowpass.gauss:cutoff_abs=0.2").apply(small, 1.0)
    np.testing.assert_allclose(read(tmp_path / "out.mrc")[0], wanted, atol=1e-6)


def test_first_and_last_choose_images(tmp_path):
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    arguments = [str(source), str(tmp_path / "out.mrcs"), "--process", "math.linear:scale=1"]
    assert main(["process", *arguments, "--first", "2", "--last", "4"]) == 0
    np.testing.assert_array_equal(read(tmp_path / "out.mrcs")[0], IMAGES[2:5])


def test_hdf_stacks_and_maps_go_in_and_out(tmp_path, capsys):
    stack = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    step = ["--process", "math.linear:scale=2"]
    assert main(["process", str(stack), str(tmp_path / "a.hdf"), *step]) == 0
    assert main(["process", str(tmp_path / "a.hdf"), str(tmp_path / "b.mrcs"), *step]) == 0
    found, voxel = read(tmp_path / "b.mrcs")
    np.testing.assert_allclose(found, 4 * IMAGES, rtol=1e-6)
    assert voxel == pytest.approx(1.5)
    source = write(tmp_path / "in.mrc", MAP)
    bits = ["--compressbits", "0"]
    assert main(["process", str(source), str(tmp_path / "m.hdf"), *step, *bits]) == 0
    with h5py.File(tmp_path / "m.hdf") as file:
        np.testing.assert_allclose(file["/MDF/images/0/image"][:], 2 * MAP, rtol=1e-6)
    assert main(["process", str(tmp_path / "m.hdf"), str(tmp_path / "m.mrc"), *step]) == 0
    np.testing.assert_allclose(read(tmp_path / "m.mrc")[0], 4 * MAP, rtol=1e-6)
    assert "map of 12 × 12 × 12 at 1.5 Å" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shape", "stack", "dimension"),
    [
        ("a.mrcs", (8, 8, 8), False, 2),
        ("a.st", (5, 8, 8), False, 2),
        ("a.mrc", (8, 8, 8), True, 3),
        ("a.mrc", (8, 8, 8), False, 3),
        ("a.mrc", (5, 8, 8), True, 2),
        ("a.mrc", (5, 8, 8), False, 3),
        ("a.mrc", (1, 8, 8), False, 2),
        ("a.map", (5, 8, 8), True, 3),
    ],
)
def test_stack_or_map_is_told_by_name_then_shape_then_space_group(tmp_path, name, shape, stack, dimension):
    path = write(tmp_path / name, np.zeros(shape, np.float32), stack=stack)
    assert dimension_of(path, shared_registry().reader_for(path, "images")) == dimension


def test_dimension_overrules_the_file(tmp_path, capsys):
    source = write(tmp_path / "in.mrc", IMAGES)
    arguments = ["process", str(source), str(tmp_path / "out.mrcs"), "--process", "normalize"]
    assert main([*arguments, "--dimension", "2"]) == 0
    np.testing.assert_allclose(read(tmp_path / "out.mrcs")[0], normalised(IMAGES), rtol=1e-5, atol=1e-5)
    assert "7 images of 18 × 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "--process"),
        (["--process", "no.such.processor"], "no processor named"),
        (["--process", "filter.lowpass.gauss:cutof=1"], "unknown parameter"),
        (["--process", "filter.lowpass.gauss"], "no cutoff"),
        (["--process", "normalize", "--process", "mask.soft:width=0"], "width"),
        (["--process", "filter.ramp"], "takes 2D data"),
        (["--process", "normalize", "--apix", "0"], "--apix"),
        (["--process", "normalize", "--apix", "nan"], "--apix"),
        (["--process", "normalize", "--first", "1"], "--first"),
        (["--process", "normalize", "--first", "-1"], "--first"),
        (["--process", "normalize", "--dimension", "4"], "dimension"),
        (["--process", "normalize", "--compressbits", "10"], "--compressbits"),
    ],
)
def test_mistakes_are_refused_in_one_line_and_leave_nothing_behind(tmp_path, capsys, steps, words):
    source = write(tmp_path / "in.mrc", MAP)
    assert main(["process", str(source), str(tmp_path / "out.mrc"), *steps]) == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mrc"]


def test_a_processor_for_maps_on_a_stack_is_refused(tmp_path, capsys):
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    arguments = ["process", str(source), str(tmp_path / "out.mrcs"), "--process", "mask.dust3d"]
    assert main(arguments) == 2
    assert "--dimension 3" in capsys.readouterr().err
    assert main([*arguments[:3], "--process", "normalize", "--compressbits", "8"]) == 2
    assert "maps" in capsys.readouterr().err
    assert main([*arguments[:3], "--process", "normalize", "--last", "7"]) == 2
    assert "has 7 images" in capsys.readouterr().err


def test_an_existing_output_is_replaced_only_with_force(tmp_path, capsys):
    source = write(tmp_path / "in.mrc", MAP)
    output = tmp_path / "out.mrc"
    output.write_bytes(b"precious")
    arguments = ["process", str(source), str(output), "--process", "math.linear:scale=1"]
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_bytes() == b"precious"
    assert main([*arguments, "--force"]) == 0
    np.testing.assert_array_equal(read(output)[0], MAP)


@pytest.mark.parametrize("name", ["same.mrcs", "same.hdf"])
def test_a_stack_may_be_replaced_by_its_own_result(tmp_path, name):
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    same = str(tmp_path / name)
    assert main(["process", str(source), same, "--process", "math.linear:scale=1"]) == 0
    assert main(["process", same, same, "--process", "math.linear:scale=2", "--force"]) == 0
    assert main(["process", same, str(tmp_path / "out.mrcs"), "--process", "math.linear:scale=1"]) == 0
    np.testing.assert_array_equal(read(tmp_path / "out.mrcs")[0], 2 * IMAGES)


def test_a_missing_input_and_an_unknown_output_format_are_refused(tmp_path, capsys):
    steps = ["--process", "normalize"]
    assert main(["process", str(tmp_path / "no.mrc"), str(tmp_path / "out.mrc"), *steps]) == 2
    assert "no.mrc" in capsys.readouterr().err
    source = write(tmp_path / "in.mrc", MAP)
    assert main(["process", str(source), str(tmp_path / "out.png"), *steps]) == 2
    assert "out.png" in capsys.readouterr().err


def test_a_result_that_is_not_finite_names_the_image_and_leaves_nothing_behind(tmp_path):
    source = write(tmp_path / "in.mrcs", IMAGES, stack=True)
    np.memmap(source, np.float32, "r+", 1024, IMAGES.shape)[3, 2, 2] = np.nan
    with pytest.raises(InputError, match="image 3"):
        run_process(ProcessSettings(source, tmp_path / "out.mrcs", ("normalize",)), shared_registry())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mrcs"]
    fixed = ("math.finite:to=0", "normalize")
    run_process(ProcessSettings(source, tmp_path / "out.mrcs", fixed), shared_registry())
    images = IMAGES.copy()
    images[3, 2, 2] = 0
    np.testing.assert_allclose(read(tmp_path / "out.mrcs")[0], normalised(images), rtol=1e-4, atol=1e-4)


def test_an_unknown_pixel_size_is_said(tmp_path, capsys):
    source = write(tmp_path / "in.mrcs", IMAGES, voxel=0.0, stack=True)
    step = ["--process", "math.absvalue"]
    assert main(["process", str(source), str(tmp_path / "out.mrcs"), *step]) == 0
    assert "pixel size unknown" in capsys.readouterr().err


def test_lost_orientations_are_said(tmp_path, capsys, reference):
    source = reference / "eman2" / "proj_c1.hdf"
    step = ["--process", "normalize.edgemean", "--last", "3"]
    assert main(["process", str(source), str(tmp_path / "out.hdf"), *step]) == 0
    captured = capsys.readouterr()
    assert "orientations" in captured.err
    assert "4 images of 48 × 48 at 2 Å" in captured.out


def test_a_run_needs_a_processor():
    with pytest.raises(ParameterError, match="at least one"):
        ProcessSettings("a", "b", ())
