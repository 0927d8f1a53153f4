"""Slices read from maps against exact transforms of Gaussians: windows, paddings, radii, caps of the Ewald sphere."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.abc.reconstructor import serial_map
from centralslice.errors import ParameterError
from centralslice.fourier.slice_reading import reader_bytes, slice_reader
from centralslice.geometry.gaussians import random_phantom
from centralslice.geometry.rotations import random_rotations
from centralslice.runtime.threads import Threads

# sigma 1.3 … 2 pixels, filling 0.4 of the box
PHANTOM = random_phantom(30, (2.6, 4.0), 38.0, 3)
PIXEL = 2.0


def plane(box, curvature=0.0):
    kx, ky = np.meshgrid(np.arange(box // 2 + 1), np.fft.fftfreq(box, 1 / box))
    return kx, ky, np.stack([kx, ky, curvature * (kx**2 + ky**2)], -1) / (box * PIXEL)


def rms_error(found, exact, inside):
    return np.sqrt((np.abs(found - exact)[:, inside] ** 2).sum() / (np.abs(exact)[:, inside] ** 2).sum())


@pytest.mark.parametrize("box", [95, 96])
@pytest.mark.parametrize(
    ("width", "oversampling", "limit"),
    [
        (4, 2.0, 1e-3),
        (4, 3.0, 3e-4),
        (4, 1.5, 3e-3),
        (5, 2.0, 1e-4),
        (6, 2.0, 2e-5),
        (8, 1.25, 1e-3),
    ],
)
def test_slices_have_the_accuracy_of_their_window(box, width, oversampling, limit):
    data = PHANTOM.volume(box, PIXEL).astype(np.float32)
    rotations = random_rotations(4, 2)
    found = slice_reader(data, serial_map, width, oversampling).read(rotations, box)
    kx, ky, points = plane(box)
    exact = np.stack([PHANTOM.transform(points @ pose, PIXEL) for pose in rotations])
    inside = np.hypot(kx, ky) <= box / 2 - 1
    assert rms_error(found, exact, inside) < limit


@pytest.mark.parametrize("box", [47, 48])
def test_a_reader_of_limited_radius_reads_the_same_within_it_and_nothing_beyond(box):
    data = PHANTOM.volume(box, 2 * PIXEL).astype(np.float32)
    rotations = random_rotations(3, 5)
    whole = slice_reader(data, serial_map, 4).read(rotations, box)
    small = slice_reader(data, serial_map, 4, max_radius=10.0)
    kx, ky, _ = plane(box)
    radius = np.hypot(kx, ky)
    found = small.read(rotations, box)
    assert np.array_equal(found[:, radius < 9.99], whole[:, radius < 9.99])
    assert not found[:, radius > 10.01].any()
    assert not small.read(rotations, box, 5.0)[:, radius > 5.01].any()
    assert small.nbytes == reader_bytes(box, 2.0, 4, 10.0) < 0.2 * reader_bytes(box, 2.0, 4)


@pytest.mark.parametrize("curvature", [0.01, -0.01])
def test_caps_of_the_ewald_sphere_are_read_off_the_plane(curvature):
    data = PHANTOM.volume(64, PIXEL).astype(np.float32)
    rotations = random_rotations(3, 6)
    found = slice_reader(data, serial_map, 4).read(rotations, 64, curvature=curvature)
    _, _, points = plane(64, curvature)
    exact = np.stack([PHANTOM.transform(points @ pose, PIXEL) for pose in rotations])
    inside = np.linalg.norm(points, axis=-1) * 64 * PIXEL < 30
    assert rms_error(found, exact, inside) < 3e-3
    assert not found[:, np.linalg.norm(points, axis=-1) * 64 * PIXEL > 32].any()


def test_slices_that_lie_in_the_planes_of_the_grid_reach_the_rim_of_it():
    # every axis swap and sign: the first and last voxels of the grid are used, none beyond
    data = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    found = slice_reader(data, serial_map, 6)
    centred = np.fft.fftn(np.fft.ifftshift(data))
    swaps = [
        np.eye(3)[list(order)] * signs for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)) for signs in (1, -1)
    ]
    kx, ky, _ = plane(16)
    for pose in swaps:
        one = found.read(pose[None], 16)[0]
        x, y, z = np.rint(np.stack([kx, ky, 0 * kx], -1) @ pose).astype(int).transpose(2, 0, 1)
        inside = np.hypot(kx, ky) < 7.7
        expected = centred[z, y, x]
        assert np.abs(one - expected)[inside].max() < 2e-3 * np.abs(expected).max()


def test_slices_of_double_precision_maps_are_complex128():
    data = PHANTOM.volume(32, 4.0)
    rotations = random_rotations(2, 1)
    found = slice_reader(data, serial_map, 8).read(rotations, 32)
    single = slice_reader(data.astype(np.float32), serial_map, 8).read(rotations, 32)
    assert found.dtype == np.complex128
    assert np.abs(found - single).max() < 1e-5 * np.abs(found).max()


def test_threads_make_the_same_grid():
    data = PHANTOM.volume(32, 4.0).astype(np.float32)
    with Threads(3) as threads:
        assert np.array_equal(slice_reader(data, threads.map, 4).grid, slice_reader(data, serial_map, 4).grid)


@pytest.mark.parametrize(("width", "oversampling"), [(1, 2.0), (9, 2.0), (4, 1.0)])
def test_windows_that_cannot_be_read_are_refused(width, oversampling):
    with pytest.raises(ParameterError, match="slice reader"):
        slice_reader(np.zeros((8, 8, 8), np.float32), serial_map, width, oversampling)
