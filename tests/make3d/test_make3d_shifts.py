"""Shift conventions of EMAN2 headers, found by trying or told; shifts of STAR files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest


@pytest.fixture
def folder(reference):
    return reference / "eman2"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("proj_c1.hdf", "recentre", "projection"), ("proj_c1_projconv.hdf", "projection", "recentre")],
)
def test_auto_takes_the_sign_that_agrees_and_says_so(name, right, wrong, folder, make3d, read, deviation):
    truth = read(folder / "phantom.mrc")
    auto = make3d(folder / name, "--shift_convention", "auto", threads=2)
    assert f"header shifts are read as '{right}'" in auto.out
    by_hand = make3d(folder / name, "--shift-convention", right, threads=2)
    assert "header shifts" not in by_hand.out
    assert auto.manifest["map_sha256"] == by_hand.manifest["map_sha256"]
    other = make3d(folder / name, "--shift-convention", wrong, threads=2)
    assert auto.manifest["settings"]["shift_convention"] == right
    assert np.corrcoef(auto.data.ravel(), truth.ravel())[0, 1] > 0.95
    assert np.corrcoef(other.data.ravel(), truth.ravel())[0, 1] < 0.9


def test_auto_is_the_default_and_is_recorded(folder, make3d):
    run = make3d(folder / "proj_c1.hdf", "--dry-run", threads=2)
    assert "header shifts are read as 'recentre'" in run.out
    assert run.left() == []
    manifest = make3d(folder / "proj_c1.hdf", "--keep", "0.5", "--no-wt", threads=2).manifest
    assert any("read as 'recentre'" in note for note in manifest["notes"])


def test_the_two_signs_of_the_same_images_give_one_map(folder, make3d, deviation):
    recentre = make3d(folder / "proj_c1.hdf", "--shift-convention", "recentre")
    projection = make3d(folder / "proj_c1_projconv.hdf", "--shift-convention", "projection")
    assert deviation(recentre.data, projection.data) < 1e-5


def test_a_list_is_always_in_projection_convention(folder, make3d, deviation):
    listed = make3d(folder / "proj_c1_projconv.lst")
    assert "header shifts" not in listed.out
    direct = make3d(folder / "proj_c1_projconv.hdf", "--shift-convention", "projection")
    assert deviation(listed.data, direct.data) < 1e-5


def write_stack(path, images, shifts):
    """An EMAN2 stack with random orientations."""
    rng = np.random.default_rng(4)
    kind = np.dtype([(f"{row}{column}", "<f4") for row in range(3) for column in range(4)])
    with h5py.File(path, "w") as file:
        group = file.create_group("MDF/images")
        group.attrs["imageid_max"] = np.array([len(images) - 1], np.int32)
        for number, (image, shift) in enumerate(zip(images, shifts, strict=True)):
            entry = group.create_group(str(number))
            entry.create_dataset("image", data=image.astype(np.float32))
            turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
            turn *= np.linalg.det(turn)
            rows = np.column_stack([turn, [*shift, 0.0]]).ravel()
            entry.attrs["EMAN.xform.projection"] = np.array([tuple(rows)], kind)
            entry.attrs["EMAN.apix_x"] = np.array([2.0])


def test_noise_decides_nothing_and_is_refused(tmp_path, refused, make3d):
    rng = np.random.default_rng(2)
    noise, shifts = rng.normal(size=(120, 32, 32)), rng.uniform(-3, 3, (120, 2))
    path = tmp_path / "noise.hdf"
    write_stack(path, noise, shifts)
    line = refused(path)
    for word in ("noise.hdf", "--shift-convention auto cannot tell", "projection", "recentre"):
        assert word in line
    assert make3d(path, "--shift-convention", "recentre").code == 0
    write_stack(tmp_path / "still.hdf", noise, 0 * shifts)
    assert "header shifts" not in make3d(tmp_path / "still.hdf").out  # nothing to decide


def test_shifts_of_a_fraction_of_a_pixel_are_exact(simulate, make3d, deviation):
    data = simulate(max_shift_angst=3.0)
    assert deviation(make3d(data.table).data, data.truth, 14) < 0.01
    assert "header shifts" not in make3d(data.table).out
