"""Phantoms: map, projection and transform against each other and against direct sums."""

from __future__ import annotations

import json
import time
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.geometry.rotations import random_rotations, rotation_z
from centralslice.testing.phantoms import GaussianPhantom, random_phantom
from centralslice_plugins.symmetries.helical import Helical
from centralslice_plugins.symmetries.point_groups import Icosahedral

PHANTOM = random_phantom(7, (2.5, 4.0), 10.0, 3)
SIZES = pytest.mark.parametrize("size", [40, 41])


def density(phantom: GaussianPhantom, points: np.ndarray) -> np.ndarray:
    """V at (…, 3) points in Å, straight from the definition."""
    squared = ((points[..., None, :] - phantom.centres_angst) ** 2).sum(-1)
    return (phantom.heights * np.exp(-squared / (2 * phantom.sigmas_angst**2))).sum(-1)


def voxel_positions(size: int, voxel: float) -> np.ndarray:
    """(z, y, x, 3) positions x, y, z in Å."""
    axis = (np.arange(size) - size // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], -1)


@SIZES
def test_the_volume_is_the_density_at_voxel_centres(size):
    points = voxel_positions(size, 1.7)
    assert_allclose(PHANTOM.volume(size, 1.7), density(PHANTOM, points), atol=1e-13)


@SIZES
def test_a_projection_is_the_rotated_and_shifted_map_summed_along_z(size):
    pose, shift = random_rotations(1, 5)[0], np.array([2.3, -4.1])
    points = voxel_positions(size, 1.7)
    points[..., :2] -= shift
    rotated = density(PHANTOM, points @ pose)  # V(R⁻¹ (r − t)), row vectors times R
    image = PHANTOM.project(pose, shift, size, 1.7)[0]
    assert_allclose(image, rotated.sum(axis=0), rtol=1e-9, atol=1e-7)


@SIZES
def test_the_transform_is_the_fft_of_the_volume(size):
    voxel = 1.6
    origin_at_corner = np.fft.ifftshift(PHANTOM.volume(size, voxel))
    k = np.fft.fftfreq(size, voxel)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    exact = PHANTOM.transform(np.stack([kx, ky, kz], -1), voxel)
    assert_allclose(np.fft.fftn(origin_at_corner), exact, atol=2e-5 * np.abs(exact).max())


@SIZES
def test_slices_of_the_transform_are_the_ffts_of_the_projections(size):
    pixel, pose, shift = 1.6, random_rotations(1, 9)[0], np.array([1.3, -0.4])
    image = np.fft.ifftshift(PHANTOM.project(pose, shift, size, pixel)[0])
    ky, kx = np.meshgrid(np.fft.fftfreq(size, pixel), np.fft.fftfreq(size, pixel), indexing="ij")
    samples = np.stack([kx, ky, np.zeros_like(kx)], -1)
    exact = PHANTOM.transform(samples @ pose, pixel) * np.exp(-2j * np.pi * samples[..., :2] @ shift)
    assert_allclose(np.fft.fft2(image), exact, atol=2e-5 * np.abs(exact).max())


def test_a_symmetric_phantom_keeps_its_density_under_every_operator():
    symmetry = Icosahedral("i4")
    phantom = random_phantom(2, (2.0, 3.0), 20.0, 1).symmetrised(symmetry)
    points = np.random.default_rng(0).uniform(-20, 20, (30, 3))
    for operator in symmetry.rotations():
        assert_allclose(density(phantom, points @ operator.T), density(phantom, points), atol=1e-12)


def test_the_copies_of_a_helical_phantom_follow_the_helix():
    single = GaussianPhantom(np.array([[5.0, 0, 0]]), np.array([2.0]), np.array([1.0]))
    phantom = single.symmetrised(Helical(3, 1, 90.0, 4.0))
    assert_allclose(phantom.centres_angst, [[5, 0, 0], [0, 5, 4], [0, -5, -4]], atol=1e-14)


def test_a_random_phantom_is_repeatable_and_inside_its_limits():
    phantom = random_phantom(500, (2.0, 3.0), 30.0, 7)
    assert_array_equal(phantom.centres_angst, random_phantom(500, (2.0, 3.0), 30.0, 7).centres_angst)
    assert np.linalg.norm(phantom.centres_angst, axis=1).max() <= 30
    assert phantom.sigmas_angst.min() >= 2
    assert phantom.sigmas_angst.max() <= 3
    assert phantom.radius_angst <= 39


@pytest.mark.parametrize(
    "made",
    [
        lambda: random_phantom(0, (1.0, 2.0), 3.0),
        lambda: random_phantom(3, (0.0, 2.0), 3.0),
        lambda: random_phantom(3, (3.0, 2.0), 3.0),
        lambda: GaussianPhantom(np.zeros((2, 3)), np.ones(3), np.ones(2)),
        lambda: GaussianPhantom(np.zeros((1, 3)), np.zeros(1), np.ones(1)),
        lambda: PHANTOM.project(2 * np.eye(3), [0, 0], 8, 1.0),
        lambda: PHANTOM.project(np.eye(3), np.zeros((2, 2)), 8, 1.0),
    ],
)
def test_impossible_phantoms_and_poses_are_refused(made):
    with pytest.raises(ParameterError, match="phantom"):
        made()


def test_a_hundred_projections_of_two_hundred_gaussians_take_less_than_a_second():
    phantom = random_phantom(200, (3.0, 6.0), 80.0, 0)
    phantom.project(np.eye(3), [0, 0], 8, 1.5)  # compile
    start = time.process_time()
    phantom.project(random_rotations(100, 0), np.zeros((100, 2)), 128, 1.5)
    assert time.process_time() - start < 1.0


def eman2_phantom(reference: Path) -> GaussianPhantom:
    """The truth of the EMAN2 cases: px from the centre voxel, 2 Å a pixel."""
    x, y, z, sigma, height = np.array(
        json.loads((reference / "eman2" / "phantom_gaussians.json").read_text())
    ).T
    return GaussianPhantom(2 * np.stack([x, y, z], -1), 2 * sigma, height)


def test_our_map_of_the_reference_phantom_is_the_reference_map(reference):
    with mrcfile.open(reference / "eman2" / "phantom.mrc") as file:
        assert_allclose(eman2_phantom(reference).volume(48, 2.0), file.data, atol=1e-6)


def test_our_projections_of_the_reference_phantom_are_the_images_eman2_was_given(reference):
    records = json.loads((reference / "eman2" / "proj_c1.json").read_text())[:20]
    angles = np.array([[record["az"], record["alt"], record["phi"]] for record in records])
    shifts = 2 * np.array([[record["tx"], record["ty"]] for record in records])
    ours = eman2_phantom(reference).project(eman2_to_matrices(*angles.T), shifts, 48, 2.0)
    with h5py.File(reference / "eman2" / "proj_c1.hdf") as file:
        theirs = np.array([file[f"MDF/images/{number}/image"][()] for number in range(20)])
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ours, theirs, strict=True)]
    assert min(correlations) > 0.999


def test_in_plane_rotation_turns_the_image_the_right_way():
    single = GaussianPhantom(np.array([[6.0, 0, 0]]), np.array([1.5]), np.array([1.0]))
    image = single.project(rotation_z(90.0), [1.0, 2.0], 33, 1.0)[0]
    assert np.unravel_index(image.argmax(), image.shape) == (16 + 6 + 2, 16 + 1)
