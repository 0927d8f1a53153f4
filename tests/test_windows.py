"""Windows of tilt images, against indices written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.fourier.windows import (
    BLANK,
    GOOD,
    NOT_FINITE,
    circle,
    cut_windows,
    window_corners,
    window_size,
)

KINDS = ["i1", "u1", "<i2", ">i2", "<u2", ">u2", "<f2", ">f2", "<f4", ">f4", "<f8", "<i4"]


def stack(kind: str = "<f4", shape=(3, 30, 37)) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, shape).astype(kind)


def plain_window(image: np.ndarray, corner, size: int) -> np.ndarray:
    height, width = image.shape
    rows = np.clip(np.arange(size) + corner[1], 0, height - 1)
    columns = np.clip(np.arange(size) + corner[0], 0, width - 1)
    return image[rows][:, columns].astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS), size=st.integers(2, 45), x=st.integers(-60, 60), y=st.integers(-60, 60),
    tilt=st.integers(0, 2),
)  # fmt: skip
def test_a_window_is_its_pixels_with_the_edge_repeated_outside(kind, size, x, y, tilt):
    images = stack(kind)
    windows, _ = cut_windows(images, [tilt], [[x, y]], size, "none")
    assert windows.dtype == np.float32
    assert_array_equal(windows[0], plain_window(images[tilt], (x, y), size).astype(np.float32))


@pytest.mark.parametrize("size", [9, 16, 31])
def test_the_circle_takes_the_mean_of_the_corners_off_and_ends_softly(size):
    images, corners = stack() + 1000, np.array([[3, 2], [-4, 20], [30, -8]])
    windows, flags = cut_windows(images, [0, 1, 2], corners, size)
    offset = np.arange(size) - size // 2
    r, reach = np.hypot(*np.meshgrid(offset, offset)), size // 2
    mask = np.where(r < reach - 5, 1, np.where(r < reach, 0.5 - 0.5 * np.cos(np.pi * (reach - r) / 5), 0))
    for n in range(3):
        window = plain_window(images[n], corners[n], size)
        assert_allclose(windows[n], mask * (window - window[r > reach].mean()), atol=2e-3)
    assert_array_equal(flags, GOOD)


def test_the_mask_is_one_inside_and_zero_from_its_radius_on():
    mask, rim = circle(32)
    assert mask[16, 16] == mask[16, 26] == 1
    assert mask[16, 0] == mask[0, 16] == 0
    assert not rim[16, 0]  # exactly at the radius
    assert rim[0, 0]
    assert not np.any(mask[rim])


def test_without_the_circle_the_background_is_taken_off_still():
    images = stack() + 500
    windows, _ = cut_windows(images, [1], [[2, 3]], 12, "corners")
    window, (_, rim) = plain_window(images[1], (2, 3), 12), circle(12)
    assert_allclose(windows[0], window - window[rim].mean(), atol=1e-4)


def test_memory_maps_files_apart_and_strided_images_give_the_same(tmp_path):
    images = stack("<i2")
    (tmp_path / "a").write_bytes(b"x" * 1024 + images.tobytes())
    mapped = np.memmap(tmp_path / "a", "<i2", "r", 1024, images.shape)
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1001 + images.tobytes())
    unaligned = np.memmap(odd, "<i2", "r", 1001, images.shape)
    strided = np.repeat(images, 2, axis=2)[:, :, ::2]
    corners, tilt = np.array([[-3, 4], [20, 25], [5, 5]]), np.array([2, 0, 1])
    expected, _ = cut_windows(images, tilt, corners, 14)
    for given_ in (mapped, unaligned, strided, list(images), [image.astype(">f4") for image in images]):
        assert_array_equal(cut_windows(given_, tilt, corners, 14)[0], expected)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_windows_with_pixels_that_are_not_finite_are_flagged_and_empty(kind, value):
    images = stack(kind)
    images[1, 10, 12] = value
    windows, flags = cut_windows(images, [0, 1, 1], [[5, 5], [5, 5], [20, 20]], 10)
    assert_array_equal(flags, [GOOD, NOT_FINITE, GOOD])
    assert not windows[1].any()
    assert windows[2].any()


def test_blank_windows_are_flagged():
    images = stack()
    images[0] = 7
    images[1, :, :20] = 7
    windows, flags = cut_windows(images, [0, 1, 1, 2], [[3, 3], [0, 0], [12, 3], [1, 1]], 10)
    assert_array_equal(flags, [BLANK, BLANK, GOOD, GOOD])
    assert not windows[:2].any()


def test_windows_are_written_where_they_are_wanted():
    buffer = np.full((2, 8, 8), np.nan, np.float32)
    windows, _ = cut_windows(stack(), [0, 1], [[0, 0], [5, 5]], 8, out=buffer)
    assert windows is buffer
    assert np.isfinite(buffer).all()
    empty, flags = cut_windows(stack(), [], np.empty((0, 2)), 8)
    assert empty.shape == (0, 8, 8)
    assert flags.shape == (0,)


def test_tilts_that_are_not_there_are_refused():
    for tilt in (3, -1):
        with pytest.raises(ParameterError, match="tilts of 0 … 2"):
            cut_windows(stack(), [tilt], [[0, 0]], 8)
    with pytest.raises(ParameterError, match="at least 2"):
        cut_windows(stack(), [0], [[0, 0]], 1)


@given(x=st.floats(-50, 50), y=st.floats(-50, 50), size=st.integers(2, 40))
def test_the_particle_is_within_half_a_pixel_of_the_middle_of_its_window(x, y, size):
    corners, origins = window_corners(np.array([[x, y]]), size)
    assert_allclose(corners + origins, [[x, y]], atol=1e-12)
    assert np.all(np.abs(origins - size // 2) <= 0.5)


def test_halves_are_rounded_away_from_zero():
    corners, _ = window_corners(np.array([[0.5, -0.5], [2.5, -2.5], [1.49, -1.49]]), 4)
    assert_array_equal(corners + 2, [[1, -1], [3, -3], [1, -1]])


def test_window_sizes_are_rounded_products():
    assert [window_size(64, 1.0), window_size(64, 1.33), window_size(48, 1.5), window_size(15, 1.5)] == [
        64,
        85,
        72,
        23,
    ]
