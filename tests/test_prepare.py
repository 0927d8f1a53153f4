"""Slices prepared for insertion, against the transform written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.fourier.ctf_kernels import sine_of_turns
from centralslice.fourier.prepare import prepare_group, prepare_slices
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf, slice_frequencies

DOUBLE = np.dtype(np.float64)
OPTICS = OpticsGroup(
    "one", 1.7, 24, 200.0, 1.4, 0.09, beam_tilt_mrad=(0.5, -0.3), odd_zernike=(0.0, 0.0, 3.0),
    even_zernike=(0.0, 0.0, 0.7), magnification=(1.02, 0.01, -0.015, 0.97),
)  # fmt: skip


def images_of(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(count, size, size))


def parameters(count: int) -> ContrastTransfer:
    rng = np.random.default_rng(1)
    low = rng.uniform(5000, 15000, count)
    return ContrastTransfer(
        low + rng.uniform(0, 800, count), low, rng.uniform(0, 180, count), rng.uniform(0, 90, count),
        rng.uniform(0, 90, count), rng.uniform(0.5, 1.5, count),
    )  # fmt: skip


def group_of(mode="none", size=24, radius=99.0, optics=OPTICS, voxel=1.7):
    return prepare_group(optics, size, voxel, radius, mode, DOUBLE)


def complex_of(samples: np.ndarray) -> np.ndarray:
    return samples[..., 0] + 1j * samples[..., 1]


def used(size: int, radius: float) -> np.ndarray:
    """(n, n // 2 + 1) samples that may count: in the disc, Nyquist left out, one of each pair on kx = 0."""
    kx, ky = np.arange(size // 2 + 1)[None, :], np.fft.fftfreq(size, 1 / size)[:, None]
    inside = (np.hypot(kx, ky) <= radius) & (2 * np.abs(ky) < size) & (2 * kx < size)
    return inside & ((kx > 0) | (ky >= 0))


def exact(images: np.ndarray, shifts: np.ndarray, size: int) -> np.ndarray:
    """The transform about the centre pixel with the shift undone, by direct summation."""
    old = images.shape[1]
    at = np.arange(old) - old // 2
    kx, ky = np.arange(size // 2 + 1), np.fft.fftfreq(size, 1 / size)
    along = np.exp(-2j * np.pi * np.outer(at, kx) / size)
    down = np.exp(-2j * np.pi * np.outer(ky, at) / size)
    spectra = np.stack([down @ image @ along for image in images])
    ramp = kx[None, :] * shifts[:, 0, None, None] + ky[:, None] * shifts[:, 1, None, None]
    return spectra * np.exp(2j * np.pi * ramp / size)


@settings(max_examples=15, deadline=None)
@given(size=st.sampled_from([15, 16, 24]), pad=st.sampled_from([0, 1, 5, 8]), seed=st.integers(0, 99))
def test_slices_are_the_transform_about_the_shifted_centre(size, pad, seed):
    images, target = images_of(3, size), size + pad
    shifts = np.random.default_rng(seed).uniform(-4, 4, (3, 2))
    weights = np.array([1.0, 0.25, 3.0])
    samples = prepare_slices(images, group_of(size=target), shifts, weights)
    mask = used(target, target / 2)
    expected = exact(images, shifts, target) * weights[:, None, None] * mask
    assert_allclose(complex_of(samples), expected, atol=1e-9)
    assert_allclose(samples[..., 2], weights[:, None, None] * mask)
    assert not samples[..., 3].any()


@pytest.mark.parametrize("size", [23, 24])
def test_each_measured_frequency_counts_once(size):
    samples = prepare_slices(images_of(1, size), group_of(size=size), np.zeros((1, 2)), np.ones(1))[0]
    weights = samples[..., 2]
    assert weights[0, 0] == 1
    for ky in range(1, size // 2):
        assert weights[ky, 0] == 1
        assert weights[-ky, 0] == 0  # its mate
        assert weights[ky, 3] == weights[-ky, 3]
    if size % 2 == 0:
        assert not weights[size // 2].any()  # Nyquist is ambiguous
        assert not weights[:, size // 2].any()
    assert not np.any(samples[weights == 0])


@pytest.mark.parametrize("mode", ["full", "flipped", "premultiplied"])
@pytest.mark.parametrize("size", [23, 24])
def test_ctf_modes_multiply_value_and_weight_as_they_say(mode, size):
    images, astigmatic = images_of(4, size), parameters(4)
    group = group_of(mode, size)
    samples = prepare_slices(images, group, np.zeros((4, 2)), np.ones(4), astigmatic)
    gamma, theta = group_phases(OPTICS, size)
    factor = ctf(*slice_frequencies(size, OPTICS), OPTICS, astigmatic, gamma)
    mask = used(size, size / 2)
    value = {"full": factor, "flipped": np.abs(factor), "premultiplied": np.ones_like(factor)}[mode]
    expected = exact(images, np.zeros((4, 2)), size) * value * np.exp(-1j * theta) * mask
    assert_allclose(complex_of(samples), expected, atol=1e-5 * np.abs(expected).max())
    assert_allclose(samples[..., 2], factor**2 * mask, atol=1e-7)


def test_samples_beyond_the_radius_are_left_out():
    samples = prepare_slices(images_of(1, 24), group_of(radius=7.3), np.zeros((1, 2)), np.ones(1))[0]
    assert_array_equal(samples[..., 2] > 0, used(24, 7.3))


def test_density_stays_what_it_is_for_another_pixel_size():
    plain, scaled = group_of(), group_of(voxel=3.4)
    images = images_of(2, 24)
    first, second = (prepare_slices(images, group, np.zeros((2, 2)), np.ones(2)) for group in (plain, scaled))
    assert_allclose(second[..., :2], first[..., :2] / 8)
    assert_allclose(second[..., 2], first[..., 2])


def test_ssnr_curves_multiply_value_and_weight_by_radius():
    images = images_of(2, 24)
    curves = np.array([np.linspace(2, 0.5, 13), np.full(13, -1.0)], np.float32)
    plain = prepare_slices(images, group_of(), np.zeros((2, 2)), np.ones(2))
    weighed = prepare_slices(images, group_of(), np.zeros((2, 2)), np.ones(2), ssnr=curves)
    kx, ky = np.meshgrid(np.arange(13), np.fft.fftfreq(24, 1 / 24))
    expected = curves[0][np.minimum(np.hypot(kx, ky).astype(int), 12)]
    assert_allclose(weighed[0], plain[0] * expected[..., None], atol=1e-6)
    assert not weighed[1].any()  # negative SSNR counts as none


def test_single_precision_is_as_good_as_it_can_be():
    images, shifts = images_of(3, 24), np.full((3, 2), 1.3)
    double = prepare_slices(images, group_of("full"), shifts, np.ones(3), parameters(3))
    group = prepare_group(OPTICS, 24, 1.7, 99.0, "full", np.dtype(np.float32))
    single = prepare_slices(images.astype(np.float32), group, shifts, np.ones(3), parameters(3))
    assert single.dtype == np.float32
    assert_allclose(single, double, atol=2e-5 * np.abs(double).max())


@settings(deadline=None)  # the first call compiles
@given(st.floats(-1e4, 1e4))
def test_the_fast_sine_is_a_sine(turns):
    assert abs(sine_of_turns(turns) - np.sin(2 * np.pi * (turns - np.rint(turns)))) < 2e-9
