"""Gains and scales from ring statistics of made-up Fourier coefficients."""

from __future__ import annotations

import json

import numpy as np
import pytest

from centralslice.jobs.subparticles.gain import (
    RingStatistics,
    fit_gain,
    grouping,
    image_curve,
    modes_of_rings,
    particle_scales,
    sample_rows,
    unit_gain,
)

SIZE = 64


def statistics_of(count, gain, scales, noise, seed=0, envelope=8.0):
    """Ring sums of images ``b g M + noise``, M with an envelope, with as many modes in a ring as images have."""
    rng = np.random.default_rng(seed)
    modes = modes_of_rings(SIZE)
    strength = np.exp(-0.5 * (np.arange(len(modes)) / envelope) ** 2)
    values = np.zeros((count, 3, len(modes)))
    for row in range(count):
        for ring, number in enumerate(np.maximum(modes.round().astype(int), 1)):
            found = strength[ring] * (rng.normal(size=number) + 1j * rng.normal(size=number))
            image = scales[row] * gain[ring] * found
            image = image + noise * (rng.normal(size=number) + 1j * rng.normal(size=number)) / np.sqrt(2)
            values[row, :, ring] = (
                (image * found.conj()).real.sum(),
                (abs(found) ** 2).sum(),
                (abs(image) ** 2).sum(),
            )
    return RingStatistics(np.arange(count), values)


RINGS = np.arange(SIZE // 2 + 1)
CURVE = 0.5 + 0.03 * RINGS


@pytest.mark.parametrize("size", [16, 17, 64])
def test_every_independent_mode_is_counted_once(size):
    kx, ky = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size))
    rings = np.hypot(kx, ky).astype(int)
    whole = np.bincount(rings.ravel(), minlength=size)[: size // 2]
    assert np.allclose(modes_of_rings(size)[: size // 2], whole / 2)


def test_the_gain_is_found_and_is_zero_beyond_what_is_significant():
    gain = fit_gain(statistics_of(40, CURVE, np.ones(40), 2.0), "group", SIZE)
    assert 12 < gain.cutoff < 30
    assert np.allclose(gain.curve[2:10], CURVE[2:10], rtol=0.1)
    assert gain.curve[0] == gain.curve[1]
    assert not gain.curve[gain.cutoff :].any()
    assert np.allclose(gain.noise[3:30], 4.0, rtol=0.2)
    assert gain.resolution_angst(SIZE, 2.0) == SIZE * 2.0 / gain.cutoff


def test_the_standard_deviation_of_the_gain_is_what_repeats_show():
    # of single rings before smoothing over three: σ of the mean of three is smaller by √3
    curves = np.array(
        [
            fit_gain(statistics_of(10, CURVE, np.ones(10), 1.0, seed), "group", SIZE).curve
            for seed in range(40)
        ]
    )
    one = fit_gain(statistics_of(10, CURVE, np.ones(10), 1.0, 99), "group", SIZE)
    assert np.allclose(curves[:, 4:10].std(axis=0).mean(), one.sigma[4:10].mean(), rtol=0.25)


def test_nothing_is_subtracted_where_the_map_is_not_in_the_images():
    statistics = statistics_of(30, 0 * CURVE, np.ones(30), 1.0)
    gain = fit_gain(statistics, "group", SIZE)
    assert gain.cutoff <= 4
    assert not gain.curve[gain.cutoff :].any()
    assert np.isfinite(particle_scales(statistics, gain).scale).all()


def test_different_scales_do_not_pass_for_noise():
    scales = np.random.default_rng(2).uniform(0.3, 3.0, 60)
    statistics = statistics_of(60, CURVE, scales, 0.5)
    gain = fit_gain(statistics, "group", SIZE)
    found = particle_scales(statistics, gain)
    assert np.allclose(gain.noise[3:30], 0.25, rtol=0.2)
    product = found.scale * gain.curve[5] / CURVE[5]
    assert np.allclose(product, scales, rtol=0.15)
    assert np.corrcoef(product, scales)[0, 1] > 0.998
    assert not found.clipped.any()


def test_scales_that_differ_by_noise_alone_shrink_to_the_median():
    statistics = statistics_of(100, CURVE, np.ones(100), 6.0)
    gain = fit_gain(statistics, "group", SIZE)
    raw = statistics.values[:, 0, 1 : gain.cutoff] @ gain.curve[1 : gain.cutoff]
    raw = raw / (statistics.values[:, 1, 1 : gain.cutoff] @ gain.curve[1 : gain.cutoff] ** 2)
    shrunk = particle_scales(statistics, gain).scale
    assert shrunk.std() < 0.6 * raw.std()
    assert abs(np.median(shrunk) - 1) < 0.1


def test_the_combination_beats_plain_means_and_plain_scales():
    scales = np.random.default_rng(4).normal(1.0, 0.15, 200).clip(0.4)
    statistics = statistics_of(200, CURVE, scales, 3.0)
    gain = fit_gain(statistics, "group", SIZE)
    estimate = particle_scales(statistics, gain).scale / gain.median
    raw = statistics.values[:, 0, 1 : gain.cutoff] @ gain.curve[1 : gain.cutoff]
    raw = raw / (statistics.values[:, 1, 1 : gain.cutoff] @ gain.curve[1 : gain.cutoff] ** 2)
    error = np.mean((estimate - scales) ** 2)
    assert error < 0.5 * np.mean((raw / gain.median - scales) ** 2)
    assert error < 0.7 * np.var(scales)


def test_outliers_are_clipped_and_flagged():
    scales = np.random.default_rng(2).uniform(0.8, 1.2, 50)
    scales[7], scales[11] = -3.0, 40.0
    statistics = statistics_of(50, CURVE, scales, 0.1)
    found = particle_scales(statistics, fit_gain(statistics, "group", SIZE))
    assert np.flatnonzero(found.clipped).tolist() == [7, 11]
    assert found.scale[7] == pytest.approx(0.2 * np.median(found.scale), rel=0.05)


def test_the_mode_particle_has_a_flat_gain_and_scales():
    statistics = statistics_of(40, np.full(33, 0.1), np.ones(40), 0.1)
    gain = fit_gain(statistics, "particle", SIZE)
    assert np.array_equal(np.unique(gain.curve), [0.0, 1.0])
    assert np.allclose(particle_scales(statistics, gain).scale, 0.1, rtol=0.02)


def test_the_modes_without_a_fit_are_one():
    statistics = statistics_of(3, CURVE, np.ones(3), 0.1)
    for mode in ("none", "eman"):
        gain = fit_gain(statistics, mode, SIZE)
        assert np.array_equal(gain.curve, np.ones(33))
        assert np.array_equal(particle_scales(statistics, gain).scale, np.ones(3))
    curve = image_curve(statistics, 1)
    assert curve[0] == 0
    assert np.allclose(curve[3:20], CURVE[3:20], rtol=0.3)
    assert unit_gain(SIZE).cutoff == 33


def test_parts_in_any_order_join_to_the_same_bits():
    whole = statistics_of(30, CURVE, np.ones(30), 1.0)
    parts = [whole.take(np.arange(first, 30, 4)) for first in (2, 0, 3, 1)]
    joined = RingStatistics.join(parts)
    assert np.array_equal(joined.rows, np.arange(30))
    assert fit_gain(joined, "group", SIZE).curve.tobytes() == fit_gain(whole, "group", SIZE).curve.tobytes()


def test_a_gain_can_be_written_as_json():
    gain = fit_gain(statistics_of(10, CURVE, np.ones(10), 1.0), "group", SIZE)
    assert json.loads(json.dumps(gain.as_dict()))["cutoff_ring"] == gain.cutoff


def test_the_sample_of_the_first_pass_is_bounded_for_each_group_and_repeatable():
    groups = np.repeat([0, 1, 2], [5000, 30, 2001])
    rows = sample_rows(groups, 2000, 3)
    assert np.bincount(groups[rows]).tolist() == [2000, 30, 2000]
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(rows, sample_rows(groups, 2000, 3))
    assert not np.array_equal(rows, sample_rows(groups, 2000, 4))
    assert len(sample_rows(np.zeros(0, np.int64))) == 0


def test_groups_are_optics_and_half_and_large_micrographs():
    optics = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    half = np.array([1, 1, 2, 1, 1, 1, 1, 1])
    assert grouping(optics, half).tolist() == [0, 0, 1, 2, 2, 2, 2, 2]
    names = np.array(["a", "b", "a", "c", "c", "c", "a", "b"])
    found = grouping(optics, half, names, least=3)
    assert len(set(found[3:6])) == 1
    assert len({found[0], found[2], found[3], found[6]}) == 4
    assert found[6] == found[7]
    assert found[0] == found[1]
