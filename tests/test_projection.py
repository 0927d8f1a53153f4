"""Slices read from maps, against the transforms of Gaussians."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.abc.reconstructor import serial_map
from centralslice.fourier.projection import agreement_curves
from centralslice.fourier.slice_reading import slice_reader
from centralslice.geometry.gaussians import random_phantom
from centralslice.geometry.rotations import random_rotations

PHANTOM = random_phantom(10, (3.0, 5.0), 10.0, 3)


def exact_slices(rotations: np.ndarray, size: int, pixel: float) -> np.ndarray:
    kx, ky = np.meshgrid(np.arange(size // 2 + 1), np.fft.fftfreq(size, 1 / size))
    plane = np.stack([kx, ky, 0 * kx], -1) / (size * pixel)
    return np.stack([PHANTOM.transform(plane @ pose, pixel) for pose in rotations])


@pytest.mark.parametrize("box", [31, 32])
@pytest.mark.parametrize("slice_size", [31, 32, 48])
def test_slices_of_a_map_are_those_of_the_object(box, slice_size):
    data = PHANTOM.volume(box, 2.0).astype(np.float32)
    rotations = random_rotations(5, 2)
    reader = slice_reader(data, serial_map)
    found = reader.read(rotations * (box / slice_size), slice_size)
    kx, ky = np.meshgrid(np.arange(slice_size // 2 + 1), np.fft.fftfreq(slice_size, 1 / slice_size))
    radius = np.hypot(kx, ky) * box / slice_size
    inside = radius < box / 2 - 1
    expected = exact_slices(rotations, slice_size, 2.0)
    error = np.abs(found - expected)[:, inside].max() / np.abs(expected).max()
    assert error < 5e-4
    assert not found[:, radius > box / 2].any()


def test_rings_that_agree_weigh_one_and_rings_that_do_not_a_hundredth():
    rng = np.random.default_rng(0)
    model = rng.normal(size=(1, 32, 17)) + 1j * rng.normal(size=(1, 32, 17))
    kx, ky = np.meshgrid(np.arange(17), np.fft.fftfreq(32, 1 / 32))
    rings = np.rint(np.hypot(kx, ky))
    values = np.where(rings < 8, 2 * model, -model)
    samples = np.zeros((1, 32, 17, 4))
    samples[..., 0], samples[..., 1], samples[..., 2] = values.real, values.imag, 1.0
    curves = agreement_curves(samples, model)[0]
    assert np.allclose(curves[rings < 8], 1)
    assert np.allclose(curves[(rings >= 8)], 0.01)
    # half agreement: the correlation plus a tenth
    noise = rng.normal(size=model.shape) + 1j * rng.normal(size=model.shape)
    mixed = model + noise
    samples[..., 0], samples[..., 1] = mixed.real, mixed.imag
    half = agreement_curves(samples, model)[0]
    for ring in (10, 13):
        here = rings == ring
        cross = np.sum(mixed[0][here] * model[0][here].conj()).real
        power = np.sqrt(np.sum(np.abs(mixed[0][here]) ** 2) * np.sum(np.abs(model[0][here]) ** 2))
        assert np.allclose(half[here], cross / power + 0.1)
    assert np.allclose(half[rings < 4], 1)


def test_samples_without_weight_do_not_count_for_the_agreement():
    rng = np.random.default_rng(1)
    model = rng.normal(size=(1, 16, 9)) + 1j * rng.normal(size=(1, 16, 9))
    samples = np.zeros((1, 16, 9, 4))
    samples[..., 0], samples[..., 1] = model[0].real, model[0].imag
    samples[..., 2] = 1.0
    spoilt = samples.copy()
    spoilt[:, 8:, :, :] = 0.0
    assert np.allclose(agreement_curves(spoilt, model), 1)
