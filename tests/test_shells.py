"""Fourier shell correlation and soft spheres, against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.fourier.shells import (
    ShellCorrelation,
    fourier_shell_correlation,
    shell_numbers,
    soft_sphere,
)


def volume(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size,) * 3)


def plain_fsc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Over the whole transform, sample by sample."""
    size = len(first)
    axis = np.fft.fftfreq(size, 1 / size)
    shells = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)).astype(int)
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    result = []
    for shell in range(size // 2 + 1):
        here = shells == shell
        cross = np.sum(a[here] * b[here].conj()).real
        result.append(cross / np.sqrt(np.sum(np.abs(a[here]) ** 2) * np.sum(np.abs(b[here]) ** 2)))
    return np.array(result)


@pytest.mark.parametrize("size", [15, 16])
def test_fsc_is_the_correlation_of_each_shell_of_the_whole_transform(size):
    first = volume(size, 0)
    second = first + volume(size, 1)
    curve = fourier_shell_correlation(first, second, 2.5)
    assert_allclose(curve.values, plain_fsc(first, second), atol=1e-12)
    assert_allclose(curve.frequency, np.arange(size // 2 + 1) / (size * 2.5))
    mask = soft_sphere(size, 4, 2)
    masked = fourier_shell_correlation(first, second, 2.5, mask)
    assert_allclose(masked.values, plain_fsc(first * mask, second * mask), atol=1e-12)


@pytest.mark.parametrize("size", [15, 16])
def test_a_map_agrees_with_itself_at_any_scale_and_disagrees_with_its_negative(size):
    map_ = volume(size, 2)
    assert_allclose(fourier_shell_correlation(map_, 3 * map_, 1.0).values, 1)
    assert_allclose(fourier_shell_correlation(map_, -map_, 1.0).values, -1)


def test_single_precision_does_not_lose_the_curve():
    first, second = (1e-3 * volume(24, seed) for seed in (3, 4))
    double = fourier_shell_correlation(first, first + second, 1.0).values
    single = fourier_shell_correlation(
        first.astype(np.float32), (first + second).astype(np.float32), 1.0
    ).values
    assert_allclose(single, double, atol=1e-5)


def test_empty_shells_are_zero():
    zeros = np.zeros((8, 8, 8))
    values = fourier_shell_correlation(zeros, zeros, 1.0).values
    assert_array_equal(values, [1, 0, 0, 0, 0])


def test_the_resolution_is_where_the_curve_first_falls_below():
    curve = ShellCorrelation(np.arange(6) / 60.0, np.array([1, 0.9, 0.7, 0.3, 0.1, 0.6]))
    assert_allclose(curve.resolution(0.5), 60 / 2.5)
    assert_allclose(curve.resolution(0.143), 60 / (3 + (0.3 - 0.143) / 0.2))
    assert_allclose(ShellCorrelation(curve.frequency, np.ones(6)).resolution(0.5), 12)
    assert ShellCorrelation(curve.frequency, np.zeros(6)).resolution(0.5) == np.inf


@pytest.mark.parametrize("size", [7, 8])
def test_shell_numbers_are_rounded_radii(size):
    full = np.fft.fftfreq(size, 1 / size)
    for z, y, x in ((0, 0, 0), (1, 2, 3), (size - 1, 2, 1), (size // 2, size // 2, size // 2)):
        expected = round(float(np.sqrt(full[z] ** 2 + full[y] ** 2 + x**2)))
        assert shell_numbers(size)[z, y, x] == expected


@pytest.mark.parametrize("size", [20, 21])
def test_the_soft_sphere_is_one_then_half_a_cosine_then_zero(size):
    mask = soft_sphere(size, 5, 4)
    centre = size // 2
    line = mask[centre, centre, centre:]
    assert_allclose(line[:6], 1)
    assert_allclose(line[5:10], 0.5 + 0.5 * np.cos(np.pi * np.arange(5) / 4), atol=1e-12)
    assert_array_equal(np.unique(soft_sphere(size, 5, 0)), [0, 1])
