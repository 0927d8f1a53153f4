"""Selection, weights, tilt series, --fillangle, --altedgemask, --iterative and --noradcor."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice.geometry.rotations import rotation_y


@pytest.fixture(scope="module")
def peer(reference):
    """The EMAN2 stack of the reference data with what its headers say."""
    records = json.loads((reference / "eman2/proj_c1.json").read_text())
    columns = {
        key: np.array([record[key] for record in records]) for key in ("class_qual", "ptcl_repr", "model_id")
    }
    return reference / "eman2/proj_c1.hdf", columns


SIGN = ("--shift-convention", "recentre")


def test_keep_takes_the_best_by_quality(peer, make3d):
    source, columns = peer
    quality = columns["class_qual"]
    rules = {
        ("--keep", "0.3"): 90,
        ("--keep", "1"): 300,
        ("--keepsig", "--keep", "0.5"): np.sum(quality <= quality.mean() + 0.5 * quality.std()),
        ("--keepsig", "--keep", "0"): np.sum(quality <= quality.mean()),
        ("--keepabs", "--keep", str(np.median(quality))): np.sum(quality <= np.median(quality)),
        ("--input_model", "1"): np.sum(columns["model_id"] == 1),
        ("--keep", "0.8", "--compat", "eman2", "--mode", "gauss_2"): 241,
    }
    for options, count in rules.items():
        run = make3d(source, *SIGN, *options)
        assert run.manifest["particles"]["used"] == count
        assert sum(run.manifest["particles"]["dropped"].values()) == 300 - count


def test_weights_of_images_are_used_rooted_or_left(peer, make3d, read, tmp_path):
    source, columns = peer
    weights = columns["ptcl_repr"]
    sums = []
    for options in ((), ("--sqrt-wt",), ("--no_wt",)):
        make3d(source, *SIGN, *options, "--savenorm", tmp_path / "norm.mrc", "--force")
        sums.append(read(tmp_path / "norm.mrc")[20:28, 30:40, 2:10].sum())
    expected = [weights.sum(), np.sqrt(weights).sum(), 300]
    np.testing.assert_allclose(np.array(sums) / sums[2], np.array(expected) / 300, rtol=0.1)
    run = make3d(source, *SIGN, "--sqrt-wt", output="map.hdf")
    with h5py.File(run.output) as file:
        facts = file["MDF/images/0"].attrs
        assert np.isclose(facts["EMAN.ptcl_repr"][0], np.sqrt(weights).sum(), rtol=1e-5)
        assert facts["EMAN.threed_ptcl_idxs"].tolist() == list(range(300))
        assert "EMAN.threed_excl_ptcl_idxs" not in facts


def test_particles_kept_and_left_out_are_listed_in_the_map(peer, make3d):
    source, columns = peer
    run = make3d(source, *SIGN, "--input_model", "1", output="map.hdf")
    with h5py.File(run.output) as file:
        facts = file["MDF/images/0"].attrs
        assert facts["EMAN.threed_ptcl_idxs"].tolist() == np.flatnonzero(columns["model_id"] == 1).tolist()
        assert (
            facts["EMAN.threed_excl_ptcl_idxs"].tolist() == np.flatnonzero(columns["model_id"] != 1).tolist()
        )
        assert facts["EMAN.threed_ptcl_src"].decode().endswith("proj_c1.hdf")
        assert np.isclose(facts["EMAN.apix_x"][0], 2.0)


def test_ssnr_curves_weigh_the_frequencies(reference, make3d, refused, deviation, read, tmp_path):
    norm = tmp_path / "norm.mrc"
    run = make3d(reference / "eman2/proj_c1_ssnr.hdf", *SIGN, "--usessnr", "--savenorm", norm)
    weights = read(norm)
    plain = make3d(reference / "eman2/proj_c1.hdf", *SIGN, "--no-wt", "--savenorm", tmp_path / "plain.mrc")
    ratio = weights / np.maximum(read(tmp_path / "plain.mrc"), 1e-9)
    low, high = ratio[24, 24, 4:6].mean(), ratio[24, 24, 18:22].mean()
    assert low > 2 * high  # SSNR falls with frequency
    truth = read(reference / "eman2/phantom.mrc")
    assert np.corrcoef(run.data.ravel(), truth.ravel())[0, 1] > 0.9
    assert plain.code == 0
    assert "class_ssnr" in refused(reference / "eman2/proj_c1.hdf", *SIGN, "--usessnr")


@pytest.fixture
def tilt_series(simulate, tmp_path):
    """Exact projections of a tilt series, and its angles."""
    data = simulate()
    angles = np.arange(-60.0, 61.0, 3.0)
    images = data.phantom.project(rotation_y(-angles), np.zeros((len(angles), 2)), 32, 2.0).astype(np.float32)
    with mrcfile.new(tmp_path / "tilts.mrc") as file:
        file.set_data(images)
        file.voxel_size = 2.0
    np.savetxt(tmp_path / "tilts.tlt", angles, "%.2f")
    return data, tmp_path / "tilts.mrc", tmp_path / "tilts.tlt", angles, images


def test_a_tilt_series_with_its_angles_gives_the_map(tilt_series, make3d):
    data, stack, tlt, _, _ = tilt_series
    run = make3d(stack, "--tlt", tlt, "--ctf", "none")
    measured = np.fft.fftn(data.truth)
    axis = np.fft.fftfreq(32, 1 / 32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    # away from the missing wedge, whose axis is z, and where slices are less than a voxel apart
    inside = (np.abs(z) < 1.2 * np.abs(x)) & (np.sqrt(x**2 + z**2) < 12) & (np.abs(y) < 12)
    found = np.fft.fftn(run.data)
    assert np.linalg.norm((found - measured)[inside]) < 0.1 * np.linalg.norm(measured[inside])


def test_edges_that_a_tilt_brings_in_are_masked(tilt_series, make3d, deviation, tmp_path):
    _, stack, tlt, angles, images = tilt_series
    rng = np.random.default_rng(0)
    images = rng.normal(size=images.shape).astype(np.float32)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0  # so that border means are 0
    masked = images.copy()
    for image, angle in zip(masked, angles, strict=True):
        columns = int(32 * (1 - np.cos(np.deg2rad(angle))) / 2)
        image[:, :columns] = 0
        image[:, 32 - columns :] = 0
    found = []
    for name, content in (("plain", images), ("masked", masked)):
        with mrcfile.new(tmp_path / f"{name}.mrc") as file:
            file.set_data(content)
        more = ("--altedgemask",) if name == "plain" else ()
        found.append(make3d(tmp_path / f"{name}.mrc", "--tlt", tlt, *more))
        assert found[-1].left() == ["map.mrc", "map_manifest.json"]
    assert deviation(found[0].data, found[1].data) < 1e-5
    unmasked = make3d(tmp_path / "plain.mrc", "--tlt", tlt)
    assert deviation(unmasked.data, found[1].data) > 0.05
    assert stack.is_file()


def test_fillangle_keeps_the_in_plane_angle(simulate, make3d, deviation):
    data = simulate()
    plain = make3d(data.table)
    filled = make3d(data.table, "--fillangle", "10")
    assert plain.manifest["map_sha256"] != filled.manifest["map_sha256"]
    # a fan of ± 5° blurs; with the in-plane angle lost nothing would be left of the map
    assert deviation(filled.data, data.truth, 14) < 0.2
    assert deviation(make3d(data.table, "--fillangle", "3").data, plain.data) < 1e-6  # less than a voxel


def test_fillangle_fills_gaps_between_few_views(simulate, make3d, deviation):
    data = simulate(count=25)
    plain, filled = make3d(data.table), make3d(data.table, "--fillangle", "9")
    assert deviation(filled.data, data.truth, 14) < deviation(plain.data, data.truth, 14)


def test_iterative_is_a_mode_and_takes_a_mask(simulate, make3d, deviation, tmp_path):
    data = simulate(count=60)
    option, mode = make3d(data.table, "--iterative"), make3d(data.table, "--mode", "iterative")
    assert option.manifest["map_sha256"] == mode.manifest["map_sha256"]
    axis = np.arange(32) - 16
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 13**2).astype(np.float32)
    with mrcfile.new(tmp_path / "mask.mrc") as file:
        file.set_data(ball)
    masked = make3d(data.table, "--iterative", "--itermask", tmp_path / "mask.mrc")
    assert np.abs(masked.data[ball == 0]).max() == 0
    assert deviation(masked.data, data.truth) < deviation(option.data, data.truth)
    compat = make3d(data.table, "--iterative", "--compat", "eman2", "--itermask", tmp_path / "mask.mrc")
    assert compat.code == 0


def test_iterative_works_with_savenorm_seed_and_threads(simulate, make3d, read, tmp_path, deviation):
    data = simulate()
    norm = tmp_path / "norm.hdf"
    make3d(data.table, "--iterative", "--savenorm", norm, "--parallel", "thread:2")
    assert read(norm).shape == (32, 32, 17)
    assert read(norm).max() > 0
    seeded = make3d(data.table, "--iterative", "--seedmap", data.table.with_name("truth.mrc"))
    assert deviation(seeded.data, data.truth) < 0.01


@pytest.mark.parametrize(
    "mode", ["gauss_2", "gauss_3", "gauss_5", "gauss_var", "trilinear", "nearest_neighbor"]
)
def test_without_radial_correction_the_rim_is_attenuated(mode, simulate, make3d, refused):
    data = simulate()
    raw, corrected = (make3d(data.table, "--mode", mode, *more).data for more in (("--noradcor",), ()))
    axis = np.arange(32) - 16
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    gain = [
        np.sum((raw * corrected)[part]) / np.sum((corrected**2)[part])
        for part in (radius < 4, (radius > 7) & (radius < 10))
    ]
    assert gain[0] > 0.9
    assert gain[1] < gain[0]
    assert "--noradcor" in refused(data.table, "--noradcor", "--mode", "kaiser_bessel")


@pytest.mark.parametrize(
    ("mode", "limit"),
    [
        ("kaiser_bessel", 0.006), ("iterative", 0.003), ("gauss_2", 0.03), ("gauss_3", 0.03), ("gauss_5", 0.04),
        ("gauss_var", 0.04), ("trilinear", 0.03), ("nearest_neighbor", 0.05), ("gridding_5", 0.01),
        ("gridding_7", 0.01), ("kaiser_bessel:width=5:oversampling=1.5:refinements=3:relaxation=1", 0.004),
    ],
)  # fmt: skip
def test_every_mode_gives_the_true_map_at_the_true_scale(mode, limit, simulate, make3d, deviation):
    data = simulate()
    for precision in ("float32", "float64"):
        run = make3d(data.table, "--mode", mode, "--precision", precision)
        assert deviation(run.data, data.truth, 14) < limit
        assert abs((run.data * data.truth).sum() / (data.truth**2).sum() - 1) < 0.02


def test_double_precision_is_the_same_map_to_the_rounding_of_single(simulate, make3d, deviation):
    data = simulate(defocus_range_angst=(8000.0, 12000.0), snr=0.5)
    single, double = make3d(data.table), make3d(data.table, "--precision", "float64")
    assert 0 < deviation(single.data, double.data) < 1e-4


@pytest.mark.parametrize("box", [31, 32, 33])
def test_odd_and_even_boxes_are_equally_right(box, simulate, make3d, deviation):
    data = simulate(box_size=box)
    assert deviation(make3d(data.table).data, data.truth, 14) < 0.01
    assert deviation(make3d(data.table, "--pad", "47").data, data.truth, 14) < 0.01
    assert deviation(make3d(data.table, "--pad", "48").data, data.truth, 14) < 0.01


def test_particles_from_several_stacks_in_any_order(simulate, make3d, write_set, deviation):
    data = simulate(count=60)
    tables = {}
    for name, rows in (("a", np.arange(0, 60, 2)), ("b", np.arange(1, 60, 2))):
        part = replace(data.particles.take(rows), image_number=np.arange(30))
        tables[name] = (write_set(data.images[rows], part).with_name("images.mrcs"), rows)

    def interleave(found):
        names = np.empty(60, object)
        for stack, rows in tables.values():
            for number, row in enumerate(rows):
                names[row] = f"{number + 1}@{stack}"
        found["particles"]["rlnImageName"] = names.astype(str)

    both = write_set(data.images, data.particles, interleave)
    both.with_name("images.mrcs").unlink()
    assert make3d(both).manifest["map_sha256"] == make3d(data.table).manifest["map_sha256"]


def test_blocks_of_any_size_give_the_same_map(simulate, make3d, deviation, monkeypatch):
    data = simulate(
        count=100, half_sets=True, optics_groups=3, snr=0.5, defocus_range_angst=(8000.0, 12000.0)
    )  # blocks end inside half sets and hold parts of optics groups
    expected = make3d(data.table)
    for images in (1, 7, 50):
        monkeypatch.setattr("centralslice.jobs.budget.BATCH_BYTES", images * 4 * 4 * 32 * 17)
        found = make3d(data.table, threads=2)
        assert deviation(found.data, expected.data) < 1e-5


def test_more_stacks_than_may_be_open_at_a_time(simulate, make3d, write_set, deviation, monkeypatch):
    data = simulate(count=40)
    paths = []
    for number in range(40):
        one = replace(data.particles.take(np.array([number])), image_number=np.zeros(1, np.int64))
        paths.append(write_set(data.images[[number]], one).with_name("images.mrcs"))

    def single(tables):
        tables["particles"]["rlnImageName"] = np.array([f"1@{path}" for path in paths])

    monkeypatch.setattr("centralslice.jobs.particle_images.OPEN_STACKS", 3)
    run = make3d(write_set(data.images, data.particles, single))
    assert run.manifest["map_sha256"] == make3d(data.table).manifest["map_sha256"]


def test_several_passes_make_half_maps_and_a_merged_map_too(simulate, make3d, read, deviation):
    data = simulate(count=60, half_sets=True, snr=1.0)
    options = ("--iterative", "--compat", "eman2", "--mode", "iterative:passes=2")
    run = make3d(data.table, *options)
    whole = make3d(data.table, *options, "--half-maps", "no")
    half = make3d(data.table, *options, "--subset", "2")
    assert deviation(run.data, whole.data) < 1e-6
    assert np.array_equal(read(run.beside("_half2.mrc")), half.data)
    assert deviation(half.data, whole.data) > 0.05
