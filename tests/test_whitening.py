"""Noise spectra of tilt images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from centralslice.errors import ParameterError
from centralslice.optics.whitening import shell_average, whitening_curve, whitening_table


def plain_curve(image: np.ndarray, size: int) -> np.ndarray:
    """Blocks and shells one by one."""
    power, blocks = np.zeros((size, size // 2 + 1)), 0
    for top in range(0, image.shape[0] - size + 1, size // 2):
        for left in range(0, image.shape[1] - size + 1, size // 2):
            power += np.abs(np.fft.rfft2(image[top : top + size, left : left + size]) / size) ** 2
            blocks += 1
    sums, counts = np.zeros(size + 2), np.zeros(size + 2)
    for row, ky in enumerate(np.fft.fftfreq(size, 1 / size)):
        for kx in range(size // 2 + 1):
            r = np.hypot(kx, ky)
            low, share = int(r), r - int(r)
            for place, weight in ((low, 1 - share), (low + 1, share)):
                sums[place] += weight * power[row, kx] / blocks
                counts[place] += weight
    return 1 / np.sqrt((sums / np.maximum(counts, 1e-300))[: size // 2 + 1])


@pytest.mark.parametrize("size", [8, 9, 12])
@pytest.mark.parametrize("kind", ["<f4", ">i2", "<f2"])
def test_the_curve_is_one_over_the_root_of_the_shells_of_mean_power(size, kind):
    image = (np.random.default_rng(size).normal(size=(31, 40)) * 50 + 20).astype(kind)
    assert_allclose(whitening_curve(image, size), plain_curve(image.astype(np.float64), size), rtol=2e-6)


def test_white_noise_of_variance_one_gives_one():
    image = np.random.default_rng(1).normal(size=(256, 256))
    assert_allclose(whitening_curve(image, 32)[1:], 1, atol=0.1)


def test_an_image_of_nothing_has_a_curve_of_zeros():
    assert not whitening_curve(np.zeros((20, 20)), 8).any()


def test_shells_share_each_sample_between_the_nearest_two():
    assert_allclose(shell_average(np.ones((9, 5)), 9), 1)
    power = np.zeros((8, 5))
    power[1, 1] = 1.0  # radius √2
    average = shell_average(power, 8)
    assert average[1] > average[2] > 0
    assert not average[[0, 3, 4]].any()


def test_tables_are_linear_between_bins_and_level_beyond_the_last():
    table = whitening_table(np.array([1.0, 3.0, 2.0]), np.array([[0.0, 0.5], [1.25, 7.0]]))
    assert table.dtype == np.float32
    assert_allclose(table, [[1, 2], [2.75, 2]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(value):
    image = np.ones((20, 20), np.float32)
    image[3, 4] = value
    with pytest.raises(ParameterError, match="finite"):
        whitening_curve(image, 8)


def test_an_image_smaller_than_a_window_is_refused():
    with pytest.raises(ParameterError, match="at least 16"):
        whitening_curve(np.ones((20, 12)), 16)
