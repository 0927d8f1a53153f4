"""Weights as a full cube."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.fourier.weight_cube import weight_cube


def half_of(cube: np.ndarray) -> np.ndarray:
    """WeightMap layout of a full array in FFT order."""
    half = len(cube) // 2
    return np.roll(cube[:, :, : half + 1], (half, half), axis=(0, 1))


@pytest.mark.parametrize("size", [2, 7, 8, 9, 10])
def test_power_spectra_of_real_maps_have_their_mates_beside_them(size: int) -> None:
    power = np.abs(np.fft.fftn(np.random.default_rng(size).normal(size=(size,) * 3))) ** 2
    assert_allclose(weight_cube(half_of(power)), np.fft.fftshift(power), rtol=1e-9)


@pytest.mark.parametrize("size", [6, 7, 8])
def test_written_in_fft_order_to_itself_and_its_mate_the_last_stays(size: int) -> None:
    half = size // 2
    weights = np.random.default_rng(size).random((size, size, half + 1)).astype(np.float32)
    for z, y in np.ndindex(size, size):  # both mates of column 0 are measured alike
        weights[-z % size, -y % size, 0] = weights[z, y, 0]
    expected = np.empty((size,) * 3, np.float32)
    for z, y, x in np.ndindex(weights.shape):
        for sign in (1, -1):
            place = tuple((sign * k + half) % size for k in (z, y, x))
            expected[place] = weights[z, y, x]
    rolled = np.roll(weights, (half, half), axis=(0, 1))
    assert_array_equal(weight_cube(rolled), expected)


@pytest.mark.parametrize("size", [6, 7])
def test_every_voxel_is_written_and_the_input_is_left_alone(size: int) -> None:
    weights = np.ones((size, size, size // 2 + 1), np.float32)
    cube = weight_cube(weights)
    assert cube.dtype == np.float32
    assert_array_equal(cube, np.ones((size,) * 3))
    cube[...] = 5
    assert weights.max() == 1
