"""Slices for --compat eman2: every oddity of the peer, against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.abc.reconstructor import Seed
from centralslice.errors import ParameterError
from centralslice.fourier.eman2_compat import (
    RADIUS_MARGIN,
    mask_tilted_edges,
    pad_or_crop,
    prepare_eman2,
    resample_bilinear,
    subtract_edge_mean,
)
from centralslice_plugins.reconstructors.eman2_finish import (
    add_seed,
    centred_transform,
    crop_as_eman2,
    divide,
    fit_box,
    paired_weights,
    to_map,
)
from centralslice_plugins.reconstructors.eman2_kernels import table_exp

NOISE = np.random.default_rng(11).normal(size=(3, 12, 12)).astype(np.float32)


def test_the_edge_mean_counts_corners_twice() -> None:
    image = np.zeros((1, 4, 6))
    image[0, 0, 0] = 20.0
    assert subtract_edge_mean(image)[0, 1, 1] == pytest.approx(-40.0 / (2 * 4 + 2 * 6))


@given(old=st.integers(3, 12), new=st.integers(3, 12))
def test_padding_keeps_the_centre_except_from_even_to_odd(old: int, new: int) -> None:
    image = np.zeros((1, old, old))
    image[0, old // 2, old // 2] = 1.0
    off = 1 if old % 2 == 0 and new % 2 == 1 else 0
    padded = pad_or_crop(image, new)[0]
    assert padded[new // 2 + off, new // 2 + off] == 1.0
    assert padded.sum() == 1.0


def test_a_whole_pixel_shift_moves_the_content_along() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 4, 4] = 1.0
    moved = resample_bilinear(image, np.eye(2)[None], np.array([[2.0, -1.0]]))
    assert moved[0, 3, 6] == 1.0
    assert moved.sum() == 1.0


def test_half_a_pixel_of_shift_halves_between_neighbours() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 4, 4] = 1.0
    moved = resample_bilinear(image, np.eye(2)[None], np.array([[0.5, 0.0]]))
    assert moved[0, 4, 4] == moved[0, 4, 5] == 0.5


def test_scale_and_mirror_act_about_the_centre_pixel() -> None:
    image = np.zeros((1, 9, 9))
    image[0, 4, 5] = 1.0
    moved = resample_bilinear(image, np.array([[[-2.0, 0.0], [0.0, 2.0]]]), np.zeros((1, 2)))
    assert moved[0, 4, 2] == 1.0
    assert moved[0, 4, 6] == 0.0


def test_samples_are_the_transform_about_the_centre_times_the_peers_factor() -> None:
    samples = prepare_eman2(NOISE, np.zeros((3, 2)), 12, np.array([1.0, 2.0, 0.5]))
    expected = np.fft.rfft2(np.fft.ifftshift(NOISE, axes=(1, 2))) * np.sqrt(14 / 12)
    kept = samples[0, ..., 2] > 0
    values = (samples[..., 0] + 1j * samples[..., 1]) / samples[..., 2].clip(1e-9)
    assert np.allclose(values[:, kept], expected[:, kept], atol=1e-4)
    assert np.array_equal(samples[:, 0, 0, 2], [1.0, 2.0, 0.5])
    assert samples[0, -3, 0, 2] == 1.0


def test_samples_reach_a_little_beyond_nyquist() -> None:
    samples = prepare_eman2(NOISE, np.zeros((3, 2)), 20, np.ones(3))
    ky, kx = np.fft.fftfreq(20, 1 / 20)[:, None], np.arange(11)
    radius = np.floor(np.hypot(kx, ky) + 0.5)
    assert np.array_equal(samples[0, ..., 2] > 0, radius <= 10 + RADIUS_MARGIN)


def test_an_image_without_contrast_has_no_weight() -> None:
    samples = prepare_eman2(np.zeros((1, 12, 12), np.float32), np.zeros((1, 2)), 12, np.ones(1))
    assert not samples.any()


def test_spectral_snr_takes_the_place_of_the_weight() -> None:
    ssnr = np.array([[5.0, 4.0, -3.0, 2.0, 1.0, 0.5, 0.25]])
    plane = prepare_eman2(NOISE[:1], np.zeros((1, 2)), 12, np.array([9.0]), ssnr)[0, ..., 2]
    assert [float(plane[0, x]) for x in (0, 1, 2, 3, 6)] == [5.0, 4.0, 0.0, 2.0, 0.25]


def test_tilted_edges_are_zeroed_by_the_padded_width() -> None:
    images = np.ones((2, 12, 12))
    mask_tilted_edges(images, np.array([61.0, 0.0]))
    assert np.array_equal(images[0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    assert images[1].all()


@pytest.mark.parametrize("pad", [0, 13])
def test_odd_slices_are_refused(pad: int) -> None:
    with pytest.raises(ParameterError, match=r"--pad: .* even"):
        prepare_eman2(NOISE, np.zeros((3, 2)), pad, np.ones(3))


@given(u=st.floats(-19.9, 0.0))
def test_the_table_exponential_is_within_one_percent(u: float) -> None:
    assert table_exp(u) == pytest.approx(np.exp(u), rel=0.0101)


def test_beyond_its_table_the_exponential_is_exact() -> None:
    assert table_exp(-25.0) == pytest.approx(np.exp(-25.0), rel=1e-12)
    assert table_exp(0.5) == pytest.approx(np.exp(0.5), rel=1e-12)


def test_paired_weights_are_sums_over_mates() -> None:
    weights = np.random.default_rng(0).random((6, 6, 4))
    paired = paired_weights(weights)
    assert np.array_equal(paired[:, :, 1:3], weights[:, :, 1:3])
    assert paired[1, 2, 0] == paired[5, 4, 0] == weights[1, 2, 0] + weights[5, 4, 0]
    assert paired[0, 0, 0] == weights[0, 0, 0]
    assert paired[3, 3, 0] == 2 * weights[3, 3, 0]
    assert paired[3, 3, 3] == weights[3, 3, 3]


def test_a_lone_seed_comes_back_but_for_its_self_mates() -> None:
    data = np.random.default_rng(1).normal(size=(8, 8, 8))
    values, weights = np.zeros((8, 8, 5), np.complex128), np.zeros((8, 8, 5))
    add_seed(values, weights, Seed(data, 3.0))
    found = divide(values, weights) / centred_transform(data, 8)
    assert found[0, 0, 0] == pytest.approx(2.0)
    assert found[4, 4, 0] == pytest.approx(0.5)
    assert found[2, 3, 0] == pytest.approx(1.0)
    values, weights = np.zeros((8, 8, 5), np.complex128), np.zeros((8, 8, 5))
    add_seed(values, weights, Seed(data, np.full((8, 8, 5), 2.0)))
    assert np.allclose(to_map(divide(values, weights)), data)
    with pytest.raises(ParameterError, match="seed weight map"):
        add_seed(values, weights, Seed(data, np.ones((6, 6, 4))))


@given(old=st.integers(3, 9), new=st.integers(3, 9))
def test_boxes_are_fitted_centre_on_centre(old: int, new: int) -> None:
    data = np.zeros((old,) * 3)
    data[old // 2, old // 2, old // 2] = 1.0
    assert fit_box(data, new)[new // 2, new // 2, new // 2] == 1.0
    off = 1 if old % 2 == 0 and new % 2 == 1 else 0
    assert crop_as_eman2(data, new)[new // 2 + off, new // 2 + off, new // 2 + off] == 1.0
