"""Orientations, weights and CTFs from EMAN2 headers mean what EMAN2 means by them."""

from __future__ import annotations

import json
import threading

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.abc.reader import ReadRequest
from centralslice.data.images import StackPlan
from centralslice.errors import FormatError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.geometry.rotations import random_rotations
from centralslice.optics.ctf import ctf
from centralslice_plugins.formats.eman2_attributes import (
    Eman2Ctf,
    Transform,
    ctf_from_text,
    poses_from_transforms,
)
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter

READER = Eman2HdfReader()


def oriented_stack(path, headers, shape=(8, 8), pixel=1.5):
    """A stack of empty images with these attributes."""
    with Eman2HdfWriter().create_stack(path, StackPlan(len(headers), shape, pixel)) as sink:
        for number, attributes in enumerate(headers):
            sink.write(number, np.full((1, *shape), number, np.float32))
            sink.write_attributes(number, attributes)
    return path


def pose(tx=0.0, ty=0.0):
    matrix = np.column_stack([eman2_to_matrices(10, 20, 30)[0], [tx, ty, 0]])
    return {"xform.projection": Transform(matrix)}


def test_the_peers_angles_and_shifts_are_read_to_float32_accuracy(reference):
    folder = reference / "eman2"
    truth = json.loads((folder / "proj_c1.json").read_text())
    particles = READER.read_particles(ReadRequest(folder / "proj_c1.hdf", shift_convention="recentre"))
    angles = [np.array([row[key] for row in truth]) for key in ("az", "alt", "phi")]
    assert np.abs(particles.rotations - eman2_to_matrices(*angles)).max() < 1e-6
    expected = 2.0 * np.array([[row["tx"], row["ty"]] for row in truth])
    np.testing.assert_allclose(particles.shifts_angst, expected, atol=1e-5)
    np.testing.assert_array_equal(particles.weight, [row["ptcl_repr"] for row in truth])
    np.testing.assert_array_equal(particles.quality, [row["class_qual"] for row in truth])
    np.testing.assert_array_equal(particles.model_number, [row["model_id"] for row in truth])
    assert len(particles.optics) == 1
    assert (particles.optics[0].pixel_size_angst, particles.optics[0].box_size) == (2.0, 48)
    products = np.swapaxes(particles.rotations, 1, 2) @ particles.rotations
    assert np.abs(products - np.eye(3)).max() < 1e-14


def test_the_two_shift_conventions_describe_the_peers_same_images(reference):
    folder = reference / "eman2"
    first = READER.read_particles(ReadRequest(folder / "proj_c1.hdf", shift_convention="recentre"))
    second = READER.read_particles(
        ReadRequest(folder / "proj_c1_projconv.hdf", shift_convention="projection")
    )
    np.testing.assert_array_equal(first.shifts_angst, second.shifts_angst)
    np.testing.assert_array_equal(first.rotations, second.rotations)


def test_ssnr_curves_of_the_peer_are_read(reference):
    particles = READER.read_particles(ReadRequest(reference / "eman2" / "proj_c1_ssnr.hdf"))
    assert particles.ssnr is not None
    assert particles.ssnr.shape == (300, 25)
    assert particles.ssnr[0, 0] == pytest.approx(28.14, abs=1e-4)


def transforms(seed: int, scale: float, mirror: bool) -> np.ndarray:
    """(5, 3, 4) Transforms composed from the definition x' = Mx (s R x + t)."""
    rng = np.random.default_rng(seed)
    matrices = np.concatenate(
        [scale * random_rotations(5, seed), rng.normal(scale=4, size=(5, 3, 1))], axis=2
    )
    if mirror:
        matrices[:, 0] *= -1
    return matrices


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1.0, 0.5, 1.7]), mirror=st.booleans())
def test_projection_poses_send_every_point_where_the_transform_sends_it(seed, scale, mirror):
    matrices = transforms(seed, scale, mirror)
    rotations, shifts = poses_from_transforms(matrices, "projection")
    points = np.random.default_rng(seed).normal(size=(3, 7))
    ours = (rotations @ points)[:, :2] + shifts[:, :, None]
    peers = (matrices[..., :3] @ points + matrices[..., 3:])[:, :2]
    np.testing.assert_allclose(ours, peers, atol=1e-12)
    assert (np.linalg.det(rotations) > 0).all()


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1.0, 0.5, 1.7]), mirror=st.booleans())
def test_recentring_an_image_by_its_header_gives_the_plain_projection(seed, scale, mirror):
    matrices = transforms(seed, scale, mirror)
    rotations, shifts = poses_from_transforms(matrices, "recentre")
    flip = np.diag([-1.0 if mirror else 1.0, 1.0, 1.0])
    pure = flip @ matrices[..., :3] / scale
    translation = (flip @ matrices[..., 3:])[:, :2]
    points = np.random.default_rng(seed).normal(size=(3, 7))
    on_image = (rotations @ points)[:, :2] + shifts[:, :, None]
    moved = flip[:2, :2] @ (scale * on_image + translation)
    np.testing.assert_allclose(moved, (pure @ points)[:, :2], atol=1e-12)


def test_without_scale_and_mirror_recentring_negates_the_shift():
    matrices = transforms(3, 1.0, False)
    forward, plus = poses_from_transforms(matrices, "projection")
    backward, minus = poses_from_transforms(matrices, "recentre")
    np.testing.assert_array_equal(plus, -minus)
    np.testing.assert_array_equal(forward, backward)


def test_missing_attributes_have_the_stated_defaults(tmp_path):
    path = oriented_stack(tmp_path / "a.hdf", [pose(1, 2), pose() | {"ptcl_repr": 4, "model_id": 2}])
    particles = READER.read_particles(ReadRequest(path))
    np.testing.assert_array_equal(particles.weight, [1, 4])
    np.testing.assert_allclose(particles.quality, [1 / 1.00001, 1 / 4.00001], rtol=1e-15)
    np.testing.assert_array_equal(particles.model_number, [-1, 2])
    np.testing.assert_allclose(particles.shifts_angst, [[1.5, 3], [0, 0]])
    assert particles.ctf is None
    assert particles.ssnr is None
    assert np.isnan(particles.columns["ptcl_repr"][0])
    assert particles.columns["xform.projection"].shape == (2, 12)


def test_images_without_orientation_are_counted_and_named(tmp_path):
    headers = [pose() if number % 3 else {} for number in range(24)]
    path = oriented_stack(tmp_path / "a.hdf", headers)
    with pytest.raises(
        FormatError, match=r"8 of 24 images have no xform.projection.*image 1, 4, 7, 10, 13, …"
    ):
        READER.read_particles(ReadRequest(path))


@pytest.mark.parametrize("wrong", [np.zeros((3, 4)), np.ones((3, 4)), np.diag([1, 1, 1.1]) @ np.eye(3, 4)])
def test_matrices_that_are_no_rotation_are_named(tmp_path, wrong):
    path = oriented_stack(tmp_path / "a.hdf", [pose(), {"xform.projection": Transform(wrong)}])
    with pytest.raises(
        FormatError, match=r"1 of 2 images have an xform.projection that is no rotation.*image 2"
    ):
        READER.read_particles(ReadRequest(path))


def test_a_map_is_not_taken_for_particles(reference):
    with pytest.raises(FormatError, match="3D image"):
        READER.read_particles(ReadRequest(reference / "eman2" / "mask48.hdf"))


def test_ssnr_curves_of_two_lengths_are_refused_and_absent_ones_count_for_nothing(tmp_path):
    curve = np.arange(5, dtype=np.float32)
    path = oriented_stack(tmp_path / "a.hdf", [pose() | {"class_ssnr": curve}, pose()])
    particles = READER.read_particles(ReadRequest(path))
    np.testing.assert_array_equal(particles.ssnr, [curve, np.zeros(5)])
    assert "1 of 2 images have no class_ssnr" in particles.notes[0]
    path = oriented_stack(
        tmp_path / "b.hdf", [pose() | {"class_ssnr": curve}, pose() | {"class_ssnr": curve[:3]}]
    )
    with pytest.raises(FormatError, match="class_ssnr has 3 values in some images and 5 in others"):
        READER.read_particles(ReadRequest(path))


def test_a_missing_pixel_size_is_1_and_said_so(tmp_path):
    path = oriented_stack(tmp_path / "a.hdf", [pose(1, 0)], pixel=0.0)
    particles = READER.read_particles(ReadRequest(path))
    assert particles.optics[0].pixel_size_angst == 1.0
    np.testing.assert_array_equal(particles.shifts_angst, [[1, 0]])
    assert "no pixel size" in particles.notes[0]


def eman2_formula(params: Eman2Ctf, k_x: np.ndarray, k_y: np.ndarray) -> np.ndarray:
    """EMAN2's CTF as its formula says, independent of ours."""
    volts = params.voltage_kv * 1000
    wavelength = 12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2)
    angle, squared = np.arctan2(k_y, k_x), k_x**2 + k_y**2
    defocus = params.defocus_um + params.dfdiff_um / 2 * np.cos(2 * angle - 2 * np.deg2rad(params.dfang_deg))
    gamma = np.pi * wavelength * 1e4 * defocus * squared
    gamma -= np.pi / 2 * params.cs_mm * 1e7 * wavelength**3 * squared**2
    contrast = params.ampcont_percent / 100
    if contrast > 1:
        phase = np.pi / 2 - (np.pi - np.arcsin(2 - contrast))
    elif contrast < -1:
        phase = np.pi / 2 - (-np.pi - np.arcsin(-2 - contrast))
    else:
        phase = np.arccos(contrast)
    return np.cos(gamma - phase) * np.exp(-params.bfactor_angst2 * squared / 4)


@pytest.mark.parametrize(
    "contrasts", [(10.0, 10.0), (10.0, 7.0), (100.0, 100.0), (150.0, 60.0), (-30.0, -150.0)]
)
def test_the_ctf_is_eman2s_with_the_same_sign(tmp_path, contrasts):
    first = Eman2Ctf(1.8, 0.3, 25.0, 60.0, contrasts[0], 300.0, 2.7, 1.5)
    second = Eman2Ctf(0.9, 0.1, 110.0, 0.0, contrasts[1], 300.0, 2.7, 1.5)
    path = oriented_stack(tmp_path / "a.hdf", [pose() | {"ctf": first}, pose() | {"ctf": second}])
    particles = READER.read_particles(ReadRequest(path))
    assert particles.ctf is not None
    assert len(particles.optics) == 1
    k_x, k_y = np.meshgrid(np.linspace(0, 0.25, 40), np.linspace(-0.25, 0.25, 41))
    ours = ctf(k_x, k_y, particles.optics[0], particles.ctf)
    # the wavelengths of the two programs differ by 4e-5
    np.testing.assert_allclose(ours, [eman2_formula(entry, k_x, k_y) for entry in (first, second)], atol=4e-3)


def test_eman1_strings_mean_the_same(tmp_path):
    old = ctf_from_text("O-1.8 15 1 0.1 0 0 0 0 300 2.7 1.5")
    assert old == Eman2Ctf(1.8, 0.0, 0.0, 60.0, 10.0, 300.0, 2.7, 1.5)


@given(
    numbers=st.lists(st.floats(-1e4, 1e4), min_size=9, max_size=9),
    curves=st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.5, -3.0]), max_size=4), min_size=2, max_size=2),
)
def test_ctf_strings_read_back(numbers, curves):
    numbers = [float(f"{number:.10g}") for number in numbers]
    params = Eman2Ctf(*numbers, tuple(curves[0]), tuple(curves[1]))
    assert ctf_from_text(params.as_text()) == params


@pytest.mark.parametrize(
    "text", ["", "E", "E1 2 3", "E1 2 3 4 5 6 7 x 0 0 0", "E1 2 3 4 5 6 7 nan 0 0 0", "Q1 2"]
)
def test_broken_ctf_strings_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        ctf_from_text(text)


def test_a_broken_ctf_in_a_header_names_the_image(tmp_path):
    path = oriented_stack(tmp_path / "a.hdf", [pose(), pose() | {"ctf": "E1 2 3"}])
    with pytest.raises(FormatError, match=r"header of image 2 cannot be read.*no CTF string"):
        READER.read_particles(ReadRequest(path))


def test_ctfs_of_some_images_only_are_not_used_and_that_is_said(tmp_path):
    params = Eman2Ctf(1.8, 0.3, 25.0, 60.0, 10.0, 300.0, 2.7, 1.5)
    path = oriented_stack(tmp_path / "a.hdf", [pose(), pose() | {"ctf": params}])
    particles = READER.read_particles(ReadRequest(path))
    assert particles.ctf is None
    assert particles.notes == ("only 1 of 2 images have CTF parameters; they are not used",)


def test_variable_length_strings_and_float_arrays_of_other_programs_are_read(tmp_path):
    path = oriented_stack(tmp_path / "a.hdf", [pose()])
    with h5py.File(path, "a") as file:
        attributes = file["MDF/images/0"].attrs
        attributes["EMAN.ctf"] = Eman2Ctf(1.8, 0.3, 25.0, 60.0, 10.0, 300.0, 2.7, 1.5).as_text()
        del attributes["EMAN.xform.projection"]
        attributes["EMAN.xform.projection"] = np.eye(3, 4, dtype=np.float32).ravel()
    particles = READER.read_particles(ReadRequest(path))
    assert particles.ctf is not None
    np.testing.assert_array_equal(particles.rotations, [np.eye(3)])


def test_threads_read_images_and_headers_at_once(tmp_path):
    path = oriented_stack(tmp_path / "a.hdf", [pose(number, 0) for number in range(30)])
    wrong = []
    with READER.open_images(path) as stack:

        def work(seed: int) -> None:
            for number in np.random.default_rng(seed).integers(0, 30, 60):
                matrix = stack.attributes(number)["xform.projection"].matrix
                if stack.read(np.array([number]))[0, 0, 0] != number or matrix[0, 3] != number:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
