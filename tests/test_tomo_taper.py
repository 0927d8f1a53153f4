"""Cropping and tapering of tomographic maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.jobs.tomo.taper import crop_centre, taper


def cube(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(3.0, 1.0, (size,) * 3)


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize("width", [0.0, 3.0, 5.5, 20.0])
def test_the_taper_is_the_raised_cosine_of_the_definition(size: int, width: float) -> None:
    volume, middle = cube(size), size // 2
    axis = np.arange(size) - middle
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    cosine = 0.5 - 0.5 * np.cos(np.pi * (middle - radius) / width) if width else 1.0
    factors = np.where(radius < middle - width, 1.0, np.where(radius < middle, cosine, 0.0))
    mean = (factors * volume).sum() / factors.sum()
    assert_allclose(taper(volume, width), factors * (volume - mean), atol=1e-12)


@pytest.mark.parametrize("size", [16, 17])
def test_a_constant_becomes_nothing_and_the_type_stays(size: int) -> None:
    tapered = taper(np.full((size,) * 3, 7, np.float32), 4.0)
    assert tapered.dtype == np.float32
    assert not tapered.any()


def test_the_map_given_is_not_changed() -> None:
    volume = cube(12)
    before = volume.copy()
    crop_centre(taper(volume, 3.0), 6)[...] = 0
    crop_centre(volume, 12)[...] = 0
    assert_array_equal(volume, before)


@pytest.mark.parametrize("width", [-1.0, np.nan, np.inf])
def test_a_width_that_is_none_is_refused(width: float) -> None:
    with pytest.raises(ParameterError, match="--taper"):
        taper(cube(8), width)


@given(st.integers(1, 20), st.data())
def test_a_crop_has_the_size_wanted_and_keeps_the_centre_voxel(size: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, size))
    volume = np.zeros((size,) * 3)
    volume[(size // 2,) * 3] = 1
    cropped = crop_centre(volume, wanted)
    assert cropped.shape == (wanted,) * 3
    assert cropped[(wanted // 2,) * 3] == 1


@given(st.integers(1, 20), st.data())
def test_with_compat_as_many_voxels_go_from_each_side(size: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, size))
    volume, off = cube(size), (size - wanted) // 2
    expected = volume[(slice(off, size - off),) * 3]
    assert_array_equal(crop_centre(volume, wanted, compat=True), expected)


@pytest.mark.parametrize("wanted", [0, -4, 9])
def test_a_crop_that_does_not_fit_is_refused(wanted: int) -> None:
    with pytest.raises(ParameterError, match="--crop"):
        crop_centre(cube(8), wanted)
