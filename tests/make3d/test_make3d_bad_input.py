"""Bad input: one clear line with file and row, exit code 2, and no file left behind."""

from __future__ import annotations

from dataclasses import replace

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice_plugins.processors.math_ops import Linear


@pytest.fixture
def data(simulate):
    return simulate(count=40)


def test_a_missing_image_file_is_named_with_what_was_tried(data, refused, write_set):
    table = write_set(data.images, data.particles)
    table.with_name("images.mrcs").unlink()
    line = refused(table)
    assert "images.mrcs" in line
    assert "tried" in line or "looked" in line
    assert "does not exist" in refused(table.with_name("nothing.star"))


def test_image_dir_is_where_image_files_are_looked_for(data, make3d, refused, write_set, tmp_path):
    table = write_set(data.images, data.particles)
    expected = make3d(table).manifest["map_sha256"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    table.with_name("images.mrcs").rename(elsewhere / "images.mrcs")
    assert make3d(table, "--image_dir", elsewhere).manifest["map_sha256"] == expected
    assert "nowhere: is not a folder" in refused(table, "--image-dir", tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    assert "images.mrcs" in refused(table, "--image-dir", tmp_path / "bare")


def test_a_stack_shorter_than_the_table_says(data, refused, write_set):
    def change(tables):
        names = tables["particles"]["rlnImageName"].tolist()
        names[16] = names[16].replace("000017@", "000055@")
        tables["particles"]["rlnImageName"] = np.array(names)

    line = refused(write_set(data.images, data.particles, change))
    for word in ("images.mrcs", "holds 40 images", "particle 17", "particles.star", "image 55"):
        assert word in line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_numbers(value, data, refused, write_set):
    table = write_set(data.images, data.particles)
    np.memmap(table.with_name("images.mrcs"), np.float32, "r+", 1024, (40, 32, 32))[23, 4, 5] = value
    line = refused(table)
    for word in ("images.mrcs, image 24", "not finite", "particle 24", "particles.star"):
        assert word in line
    for threads in (2, 3):
        assert "image 24" in refused(table, threads=threads)


def test_images_of_zero_variance_are_left_out_counted_and_listed(data, make3d, refused, write_set, deviation):
    images = data.images
    images[[3, 20]] = 0.0
    images[31] = 7.5
    run = make3d(write_set(images, data.particles))
    assert "3 images of zero variance: particles 4, 21, 32" in run.out
    assert run.manifest["particles"]["zero_variance_rows"] == [3, 20, 31]
    assert run.manifest["particles"]["used"] == 37
    kept = np.setdiff1d(np.arange(40), [3, 20, 31])
    rest = replace(data.particles.take(kept), image_number=np.arange(37))
    assert deviation(run.data, make3d(write_set(data.images[kept], rest)).data) < 1e-6
    assert "zero everywhere" in refused(write_set(np.ones_like(images), data.particles))


def test_blank_images_are_listed_by_their_row_also_with_half_sets_and_selections(make3d, simulate, write_set):
    both = simulate(count=40, half_sets=True)
    images = both.images
    images[[0, 39]] = 1.0
    run = make3d(write_set(images, both.particles))
    assert run.manifest["particles"]["zero_variance_rows"] == [0, 39]
    assert run.manifest["particles"]["used"] == 38


def test_images_that_are_not_square(data, refused, write_set):
    line = refused(write_set(data.images[:, 2:], data.particles))
    for word in ("images.mrcs", "32×30", "square", "particle 1"):
        assert word in line


def test_boxes_of_two_sizes(data, refused, write_set, tmp_path):
    small = write_set(data.images[:, 4:-4, 4:-4], data.particles).with_name("images.mrcs")

    def change(tables):
        names = tables["particles"]["rlnImageName"].tolist()
        tables["particles"]["rlnImageName"] = np.array(
            [*names[:30], *(f"{n + 1}@{small}" for n in range(30, 40))]
        )

    line = refused(write_set(data.images, data.particles, change))
    for word in (str(small), "24 pixels", "32", "particle 31"):
        assert word in line


def test_missing_angles(data, refused, write_set):
    def drop(tables):
        del tables["particles"]["rlnAngleTilt"]

    assert "rlnAngleTilt" in refused(write_set(data.images, data.particles, drop))

    def spoil(tables):
        angles = tables["particles"]["rlnAngleTilt"].astype(object)
        angles[11] = "left"
        tables["particles"]["rlnAngleTilt"] = angles.astype(str)

    line = refused(write_set(data.images, data.particles, spoil))
    assert "rlnAngleTilt" in line
    assert "left" in line
    assert "12" in line


def test_an_unreadable_hdf_file(refused, tmp_path):
    path = tmp_path / "bad.hdf"
    path.write_bytes(b"not an HDF5 file at all" * 50)
    assert "bad.hdf" in refused(path)
    with h5py.File(tmp_path / "empty.hdf", "w"):
        pass
    assert "empty.hdf" in refused(tmp_path / "empty.hdf")


def test_hdf_images_without_angles(refused, tmp_path):
    with h5py.File(tmp_path / "plain.hdf", "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.array([2], np.int32)
        for number in range(3):
            group.create_dataset(f"{number}/image", data=np.ones((8, 8), np.float32))
    line = refused(tmp_path / "plain.hdf")
    assert "plain.hdf" in line
    assert "xform.projection" in line


def test_a_truncated_stack(data, refused, write_set):
    table = write_set(data.images, data.particles)
    stack = table.with_name("images.mrcs")
    stack.write_bytes(stack.read_bytes()[: 1024 + 35 * 32 * 32 * 4 + 17])
    line = refused(table)
    assert "images.mrcs" in line
    stack.write_bytes(stack.read_bytes()[:600])
    assert "images.mrcs" in refused(table)
    stack.write_bytes(b"")
    assert "images.mrcs" in refused(table)


def test_a_header_that_claims_terabytes(data, refused, write_set):
    table = write_set(data.images, data.particles)
    stack = table.with_name("images.mrcs")
    content = bytearray(stack.read_bytes())
    content[0:12] = np.array([60000, 60000, 2000000], "<i4").tobytes()
    stack.write_bytes(content)
    assert "images.mrcs" in refused(table)


def test_an_empty_table_and_one_that_is_none(refused, tmp_path):
    (tmp_path / "empty.star").write_text("")
    (tmp_path / "text.star").write_text("data_particles\n\nloop_\n_rlnImageName #1\n_rlnAngleRot #2\n")
    (tmp_path / "noise.star").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "letter.txt").write_text("dear all")
    (tmp_path / "folder.star").mkdir()
    for name in ("empty.star", "text.star", "noise.star", "letter.txt", "folder.star"):
        assert name in refused(tmp_path / name)


def test_nothing_left_after_selection(data, refused):
    assert "no particle is left after: quality" in refused(data.table, "--keep", "0")
    assert "(--input-model)" in refused(data.table, "--input_model", "7")
    assert "no particle is left" in refused(data.table, "--keepabs", "--keep=-5")


def test_a_map_as_input_without_angles(data, refused):
    line = refused(data.table.with_name("truth.mrc"))
    assert "--tlt" in line


def test_wrong_numbers_of_tilt_angles(data, refused, tmp_path):
    angles = tmp_path / "angles.tlt"
    for text, word in (
        ("1\n2\n", "40"),
        ("", "angles.tlt"),
        ("a\n" * 40, "angles.tlt"),
        ("1\n\n" * 20, "angles.tlt"),
    ):
        angles.write_text(text)
        assert word in refused(data.stack, "--tlt", angles)
    assert "does not exist" in refused(data.stack, "--tlt", tmp_path / "none.tlt")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--preprocess", "filter.lowpas.gauss"), "filter.lowpass.gauss"),
        (("--postprocess", "no.such.thing"), "no.such.thing"),
        (("--preprocess", "normalize:width=2"), "width"),
        (("--preprocess", "mask.soft:width=wide"), "width"),
        (("--preprocess", "mask.soft:width"), "width"),
        (("--sym", "d0"), "d0"), (("--sym", "ico"), "ico"), (("--mode", "gauss_4"), "gauss_4"),
        (("--mode", "gauss_2:size=4"), "size"), (("--mode", "kaiser_bessel:width=wide"), "width"),
        (("--mode", "kaiser_bessel:width=99"), "width"), (("--mode", "relion_tomo"), "centralslice tomo"),
        (("--ctf", "half"), "half"),
        (("--setsf", "missing.txt"), "missing.txt"),
    ],
)  # fmt: skip
def test_names_that_do_not_exist_are_refused_before_any_image_is_read(
    options, word, data, refused, monkeypatch
):
    def work(*arguments):
        raise AssertionError("work was done")

    monkeypatch.setattr("centralslice.jobs.make3d.job.run_make3d", work)
    monkeypatch.setattr("centralslice.jobs.make3d.job.run_halves", work)
    assert word in refused(data.table, *options)


def test_bad_options_are_refused_before_the_trial_of_shift_conventions(reference, refused, monkeypatch):
    def work(*arguments):
        raise AssertionError("work was done")

    monkeypatch.setattr("centralslice.jobs.make3d.job.run_halves", work)
    source = reference / "eman2/proj_c1.hdf"
    for options in (("--mode", "gauss_4"), ("--postprocess", "nothing"), ("--keep", "0"), ("--outsize", "x")):
        assert refused(source, *options)


def test_a_folder_that_does_not_exist_or_cannot_be_written(data, attempt, tmp_path):
    run = attempt(data.table, "--output", tmp_path / "none" / "map.mrc")
    assert run.code == 2
    assert "does not exist" in run.err
    run = attempt(data.table, "--savenorm", tmp_path / "none" / "norm.mrc")
    assert run.code == 2
    assert run.left() == []


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_is_no_output(name, data, attempt):
    run = attempt(data.table, "--output", name)
    assert run.code == 2
    assert len(run.err.splitlines()) == 1


def test_a_processor_that_fails_on_an_image_ends_the_run(data, refused):
    # the mask file has another size than the images
    line = refused(
        data.table, "--preprocess", f'mask.fromfile:filename="{data.table.with_name("truth.mrc")}"'
    )
    assert "mask.fromfile" in line or "truth.mrc" in line


def test_real_files_that_are_broken_give_one_line_each(reference, refused):
    folder = reference / "third_party"
    broken = sorted(
        path for path in folder.rglob("*broken*") if path.suffix in {".star", ".cs", ".mrc", ".mrcs"}
    )
    for path in broken:
        assert refused(path)


def test_a_seed_or_mask_that_is_no_map(data, refused, tmp_path):
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((32, 32, 32), np.float32))
    np.memmap(path, np.float32, "r+", 1024, (32, 32, 32))[3, 4, 5] = np.nan
    for options in (("--seedmap", path), ("--iterative", "--itermask", path)):
        line = refused(data.table, *options)
        assert "map.mrc" in line
        assert "not finite" in line
    assert "particles.star" in refused(data.table, "--seedmap", data.table)


def test_processors_that_spoil_images_or_maps_are_named(data, refused, monkeypatch):
    assert "changes the size" in refused(data.table, "--preprocess", "math.meanshrink:n=2")
    monkeypatch.setattr(Linear, "apply", lambda self, image, voxel: np.full_like(image, np.nan))
    line = refused(data.table, "--preprocess", "math.linear:scale=2")
    for word in ("--preprocess math.linear", "not finite", "particle 1 of"):
        assert word in line
    line = refused(data.table, "--postprocess", "math.linear:scale=2")
    assert "merged map has values that are not finite" in line


def test_images_that_preprocessing_leaves_flat_are_skipped_too(data, refused):
    assert "zero everywhere" in refused(data.table, "--preprocess", "math.linear:scale=0:shift=1")
