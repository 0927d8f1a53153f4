"""Slices of tilt images, against their formulas written out in plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.errors import ParameterError
from centralslice.fourier.tilt_slices import (
    TiltSettings,
    dose_frequency,
    prepare_tilt_slices,
    prepare_tilts,
    tilt_ctf,
)
from centralslice.fourier.windows import window_size
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf as plain_ctf
from centralslice.optics.ctf import slice_frequencies
from centralslice.optics.dose import dose_filter

DOUBLE = np.dtype(np.float64)
PIXEL = 2.1
OPTICS = OpticsGroup(
    "one", PIXEL, 24, 300.0, 2.7, 0.08, beam_tilt_mrad=(0.2, -0.1), odd_zernike=(0.4, -0.3, 2.0),
    even_zernike=(0.1, 0.5, -0.2, 0.3), magnification=(1.01, 0.02, -0.01, 0.98),
)  # fmt: skip


def parameters(count: int) -> ContrastTransfer:
    rng = np.random.default_rng(count)
    low = rng.uniform(15000, 25000, count)
    return ContrastTransfer(
        low + rng.uniform(0, 900, count), low, rng.uniform(0, 180, count), rng.uniform(0, 90, count),
        rng.uniform(0, 30, count), rng.uniform(0.5, 1.5, count),
    )  # fmt: skip


def series_of(doses: list[float], bfactor_per_dose: float = 0.0, pixel: float = PIXEL) -> TiltSeries:
    count = len(doses)
    whole, zeros = np.zeros(count, np.int64), np.zeros(count)
    return TiltSeries(
        "A", Path("a.star"), (), whole, whole, (100, 100), pixel, (100, 100, 50), np.tile(np.eye(4), (count, 1, 1)),
        zeros, -1.0, 1.0, parameters(count), np.array(doses), bfactor_per_dose, OPTICS,
    )  # fmt: skip


def prepared(windows, series, wanted, tilt=None, origins=None, curves=None, optics=OPTICS, **more):
    preparation = prepare_tilts(series, optics, wanted, curves)
    count, side = len(windows), preparation.window_size
    tilt = np.arange(count) % len(series) if tilt is None else tilt
    origins = np.full((count, 2), float(side // 2)) if origins is None else origins
    ctf = tilt_ctf(series, tilt, np.zeros(count))
    return prepare_tilt_slices(windows, preparation, tilt, origins, ctf, **more), preparation


def complex_of(samples: np.ndarray) -> np.ndarray:
    return samples[..., 0] + 1j * samples[..., 1]


def axes_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(size // 2 + 1)[None, :], np.fft.fftfreq(size, 1 / size)[:, None]


def transform_about(windows: np.ndarray, origins: np.ndarray, size: int) -> np.ndarray:
    """Transform with the particle at the origin, at the frequencies of a slice, by direct summation."""
    side = windows.shape[1]
    kx, ky = (axis.ravel() for axis in axes_of(size))
    result = []
    for window, (x, y) in zip(windows, origins, strict=True):
        along = np.exp(-2j * np.pi * np.outer(np.arange(side) - x, kx) / side)
        down = np.exp(-2j * np.pi * np.outer(ky, np.arange(side) - y) / side)
        result.append(down @ window @ along)
    return np.stack(result)


def counted(size: int, radius: float) -> np.ndarray:
    """Samples of a disc without Nyquist, and one of each pair on kx = 0."""
    kx, ky = axes_of(size)
    inside = (np.hypot(kx, ky) <= radius) & (2 * np.abs(ky) < size) & (2 * kx < size)
    return inside & ((kx > 0) | (ky >= 0))


@settings(max_examples=20, deadline=None)
@given(
    box=st.sampled_from([15, 16, 24]), binning=st.sampled_from([1.0, 1.3, 2.0, 2.5]), seed=st.integers(0, 99)
)
def test_without_ctf_slices_are_the_negative_transform_about_the_particle(box, binning, seed):
    side, rng = window_size(box, binning), np.random.default_rng(seed)
    windows, origins = rng.normal(size=(3, side, side)), side // 2 + rng.uniform(-0.5, 0.5, (3, 2))
    wanted = TiltSettings(
        box, PIXEL * side / box, binning, ctf_mode="none", dose_cutoff=0.0, precision=DOUBLE
    )
    plain = OpticsGroup("plain")
    samples, preparation = prepared(windows, series_of([0.0] * 3), wanted, origins=origins, optics=plain)
    mask = counted(box, box / 2)
    expected = -transform_about(windows, origins, box) * (box / side) ** 3 * mask
    assert_allclose(complex_of(samples), expected, atol=1e-8)
    assert_array_equal(samples[..., 2], np.broadcast_to(mask, samples.shape[:-1]))
    assert not samples[..., 3].any()
    assert preparation.pixel_size_angst == pytest.approx(PIXEL * side / box)


@pytest.mark.parametrize("box", [23, 24])
@pytest.mark.parametrize("binning", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("bfactor", [0.0, 4.0])
def test_value_over_weight_is_the_object_that_was_imaged(box, binning, bfactor):
    """Gaussians at the particle's place, imaged with CTF, aberrations and dose, come back exactly."""
    side, doses = window_size(box, binning), [0.0, 3.0, 20.0, 9.0]
    series, origins = (
        series_of(doses, bfactor),
        side // 2 + np.array([[0.3, -0.4], [0, 0], [-0.1, 0.2], [0.45, 0.5]]),
    )
    group = replace(OPTICS, pixel_size_angst=PIXEL)
    kx, ky = axes_of(side)
    object_ = 30 * np.exp(
        -2 * (np.pi * 1.6 / side) ** 2 * (kx**2 + ky**2) - 2j * np.pi * (2.2 * kx - 1.3 * ky) / side
    )
    gamma, theta = group_phases(group, side)
    x, y = slice_frequencies(side, group)
    transfer = plain_ctf(x, y, OPTICS, series.ctf, gamma)
    transfer = transfer * dose_filter(np.hypot(x, y), np.array(doses)[:, None, None], bfactor)
    ramp = np.exp(-2j * np.pi * (kx * origins[:, 0, None, None] + ky * origins[:, 1, None, None]) / side)
    imaged = -np.fft.irfft2(object_ * transfer * np.exp(1j * theta) * ramp, s=(side, side))
    wanted = TiltSettings(box, PIXEL * side / box, binning, precision=DOUBLE)
    samples, preparation = prepared(imaged, series, wanted, origins=origins)
    rows = axes_of(box)[1].ravel().round().astype(int) % side
    truth = object_[rows, : box // 2 + 1] * (box / side) ** 3
    got, weight = complex_of(samples), samples[..., 2]
    used = weight > 1e-6
    assert used.mean() > 0.1
    expected = np.broadcast_to(truth, got.shape)[used]
    assert_allclose(got[used] / weight[used], expected, atol=1e-4 * np.abs(truth).max())
    assert_array_equal(weight > 0, [counted(box, radius) for radius in preparation.radii])


def test_each_tilt_ends_where_its_dose_has_left_too_little_signal():
    series = series_of([0.0, 10.0, 60.0])
    limits = dose_frequency(series, 0.1)
    assert np.isinf(limits[:2]).all()
    assert dose_filter(limits[2], 60.0) == pytest.approx(0.1)
    other = series_of([0.0, 30.0], 2.0)
    assert dose_filter(dose_frequency(other, 0.05)[1], 30.0, 2.0) == pytest.approx(0.05)
    samples, preparation = prepared(
        np.random.default_rng(0).normal(size=(3, 32, 32)), series, TiltSettings(32, PIXEL, dose_cutoff=0.1),
        optics=replace(OPTICS, magnification=(1.0, 0.0, 0.0, 1.0)),
    )  # fmt: skip
    assert preparation.radii[2] == pytest.approx(limits[2] * 32 * PIXEL)
    assert_array_equal(samples[2, ..., 2] != 0, counted(32, preparation.radii[2]))
    assert preparation.max_radius == preparation.radii.max() == 16


def test_a_coarser_map_and_a_wanted_resolution_limit_the_radius():
    plain, series = OpticsGroup("plain"), series_of([0.0])
    none = TiltSettings(32, 2 * PIXEL, ctf_mode="none")
    assert prepare_tilts(series, plain, none).max_radius == pytest.approx(8)
    finer = replace(none, voxel_size_angst=PIXEL / 2)
    assert prepare_tilts(series, plain, finer).max_radius == 16
    assert prepare_tilts(
        series, plain, replace(finer, max_frequency=5 / 32 / PIXEL)
    ).max_radius == pytest.approx(5)


@pytest.mark.parametrize("box", [15, 16])
@pytest.mark.parametrize("flavour", ["default", "relion"])
def test_extracted_images_are_not_multiplied_again(box, flavour):
    images = np.random.default_rng(2).normal(size=(2, box, box))
    full = TiltSettings(box, PIXEL, extracted=True, flavour=flavour, precision=DOUBLE)
    once = replace(full, ctf_mode="premultiplied", sign=1.0)
    (first, _), (second, _) = (prepared(images, series_of([1.0, 8.0]), wanted) for wanted in (full, once))
    assert_array_equal(second[..., 2], first[..., 2])
    used = (first[..., 2] > 1e-8) & counted(box, box / 2)
    amplitude = np.abs(complex_of(first)[used]) / np.sqrt(first[..., 2][used])
    assert_allclose(np.abs(complex_of(second)[used]), amplitude, rtol=1e-6)


def test_maps_of_binned_extracted_images_have_the_density_of_those_of_windows():
    side, box = 32, 16
    kx, ky = axes_of(side)
    band = np.exp(-((kx**2 + ky**2) / 2.5)) * np.exp(2j * np.pi * (kx + ky) * 0.5)
    windows = np.fft.irfft2(band, s=(side, side))[None]
    extracted = windows[:, ::2, ::2]
    wanted = TiltSettings(box, 2 * PIXEL, 2.0, ctf_mode="none", precision=DOUBLE)
    optics = OpticsGroup("plain", 2 * PIXEL)
    first, _ = prepared(windows, series_of([0.0]), wanted, optics=optics)
    second, _ = prepared(
        extracted, series_of([0.0]), replace(wanted, extracted=True, binning=1.0), optics=optics
    )
    assert_allclose(second, first, atol=1e-9)


def test_factors_multiply_value_and_weight():
    windows = np.random.default_rng(3).normal(size=(11, 20, 20)).astype(np.float32)
    factors = np.linspace(0, 2, 11)
    plain, _ = prepared(windows, series_of([0.0, 4.0]), TiltSettings(20, PIXEL))
    weighed, _ = prepared(windows, series_of([0.0, 4.0]), TiltSettings(20, PIXEL), factors=factors)
    assert plain.dtype == np.float32
    assert_allclose(weighed, plain * factors[:, None, None, None], rtol=1e-5, atol=1e-5)
    assert not weighed[0].any()


@pytest.mark.parametrize("binning", [1.0, 2.0])
@pytest.mark.parametrize("mode", ["full", "none"])
def test_whitening_multiplies_value_and_weight_once_at_the_right_frequency(binning, mode):
    box, side = 16, window_size(16, binning)
    windows = np.random.default_rng(4).normal(size=(2, side, side))
    curves = np.stack([np.linspace(0.2, 1.7, side // 2 + 1), np.linspace(3.0, 0.1, side // 2 + 1)])
    wanted = TiltSettings(box, PIXEL * binning, binning, ctf_mode=mode, precision=DOUBLE)
    plain, _ = prepared(windows, series_of([0.0, 4.0]), wanted)
    white, _ = prepared(windows, series_of([0.0, 4.0]), wanted, curves=curves)
    kx, ky = axes_of(box)
    factor = np.stack([np.interp(np.hypot(kx, ky), np.arange(side // 2 + 1), curve) for curve in curves])
    assert_allclose(white, plain * factor[..., None], rtol=1e-6, atol=1e-12)


def relion_slice(window, origin, row, series, box, binning, wanted, curve):
    """Value, weight and row limits of one window as section 3 of RELION's description has them."""
    side = window.shape[0]
    offset = side // 2
    rolled = np.roll(window.astype(float), (-offset, -offset), (0, 1))
    spectrum = np.fft.rfft2(rolled) / side
    keep = [y if y < box // 2 else y - box + side for y in range(box)]
    spectrum = spectrum[keep, : box // 2 + 1] / (binning if binning != 1 else 1)
    x, y = axes_of(box)
    t = origin / binning - box // 2
    spectrum = spectrum * np.exp(2j * np.pi * (t[0] * x + t[1] * y) / box)
    kx, ky = x / (box * PIXEL * binning), y / (box * PIXEL * binning)
    u, v = series.ctf.defocus_u_angst[row], series.ctf.defocus_v_angst[row]
    a = np.deg2rad(series.ctf.defocus_angle_deg[row])
    volts = OPTICS.voltage_kv * 1e3
    wave = 12.2643247 / np.sqrt(volts * (1 + volts * 0.978466e-6))
    d = (u * np.cos(a) ** 2 + v * np.sin(a) ** 2) * kx**2 + 2 * (u - v) * np.sin(a) * np.cos(a) * kx * ky
    d = d + (u * np.sin(a) ** 2 + v * np.cos(a) ** 2) * ky**2
    q0 = OPTICS.amplitude_contrast
    first = wanted.aberration_pixel_angst * binning * box
    r, phi = np.hypot(x, y) / first, np.arctan2(y, x)
    e, o = OPTICS.even_zernike, OPTICS.odd_zernike
    even = e[0] + e[1] * r**2 * np.sin(2 * phi) + e[2] * (2 * r**2 - 1) + e[3] * r**2 * np.cos(2 * phi)
    odd = o[0] * r * np.sin(phi) + o[1] * r * np.cos(phi) + o[2] * r**3 * np.sin(3 * phi)
    k2 = kx**2 + ky**2
    gamma = -np.pi * wave * d + np.pi / 2 * OPTICS.spherical_aberration_mm * 1e7 * wave**3 * k2**2
    gamma = gamma - np.deg2rad(series.ctf.phase_shift_deg[row]) - np.arctan(q0 / np.sqrt(1 - q0 * q0)) + even
    contrast = -np.sin(gamma) * np.exp(-series.ctf.bfactor_angst2[row] / 4 * k2) * series.ctf.scale[row]
    with np.errstate(divide="ignore"):
        damage = np.exp(-0.5 * series.dose[row] / (0.245 * np.sqrt(k2) ** -1.665 + 2.81))
    if series.bfactor_per_dose > 0:
        damage = np.exp(-series.bfactor_per_dose * series.dose[row] * k2 / 4)
    limits = np.zeros(box, int)
    for j in range(box):
        for i in range(box // 2 + 1):
            if i * i + y[j, 0] ** 2 <= box * box // 4 and damage[j, i] > wanted.dose_cutoff:
                limits[j] = i + 1
    spectrum = spectrum * np.exp(-1j * odd)
    if wanted.ctf_mode == "none":
        value, weight = -spectrum, np.ones(spectrum.shape)
    else:
        c = -contrast * damage * (x < limits[:, None])
        value, weight = c * spectrum, c * c
    if curve is not None:
        noise = np.interp(binning * np.hypot(x, y), np.arange(len(curve)), curve)
        value, weight = value * noise, weight * noise
    return value, weight, limits


@pytest.mark.parametrize("binning", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("bfactor", [0.0, 3.0])
@pytest.mark.parametrize("mode", ["full", "none"])
@pytest.mark.parametrize("white", [False, True])
def test_the_relion_flavour_is_its_formulas(binning, bfactor, mode, white):
    box, rng = 24, np.random.default_rng(7)
    side, series = window_size(box, binning), series_of([0.0, 6.0, 40.0], bfactor)
    windows, origins = rng.normal(size=(6, side, side)), side // 2 + rng.uniform(-0.5, 0.5, (6, 2))
    tilt = np.array([2, 0, 1, 1, 2, 0])
    curves = rng.uniform(0.5, 2, (3, side // 2 + 1)) if white else None
    wanted = TiltSettings(
        box, 1.0, binning, flavour="relion", ctf_mode=mode, dose_cutoff=0.05, aberration_pixel_angst=2.4,
        precision=DOUBLE,
    )  # fmt: skip
    samples, preparation = prepared(windows, series, wanted, tilt, origins, curves)
    for n, row in enumerate(tilt):
        curve = None if curves is None else curves[row]
        value, weight, limits = relion_slice(windows[n], origins[n], row, series, box, binning, wanted, curve)
        assert_allclose(complex_of(samples[n]), value, atol=1e-6 * np.abs(value).max())
        assert_allclose(samples[n, ..., 2], weight, atol=1e-6 * weight.max())
        assert preparation.radii[row] == limits[0]


def test_the_relion_flavour_keeps_its_ctf_off_zero():
    series = series_of([0.0])
    series = replace(series, ctf=replace(series.ctf, scale=np.zeros(1)))
    window = np.random.default_rng(1).normal(size=(1, 16, 16))
    samples, _ = prepared(window, series, TiltSettings(16, 1.0, flavour="relion", precision=DOUBLE))
    used = samples[..., 2] > 0
    assert used.any()
    assert_allclose(samples[..., 2][used], 1e-16)


def test_what_cannot_be_prepared_is_said():
    series = series_of([0.0])
    with pytest.raises(ParameterError, match="binning"):
        prepare_tilts(series, OPTICS, TiltSettings(16, 1.0, 0.5))
    with pytest.raises(ParameterError, match="dose cut-off"):
        prepare_tilts(series, OPTICS, TiltSettings(16, 1.0, dose_cutoff=1.0))
    with pytest.raises(ParameterError, match="voltage"):
        prepare_tilts(series, replace(OPTICS, voltage_kv=0.0), TiltSettings(16, 1.0))
    with pytest.raises(ParameterError, match="amplitude contrast"):
        prepare_tilts(series, replace(OPTICS, amplitude_contrast=1.5), TiltSettings(16, 1.0))
    with pytest.raises(ParameterError, match="box"):
        prepare_tilts(series, OPTICS, TiltSettings(0, 1.0))
    with pytest.raises(ParameterError, match="whitening curves"):
        prepare_tilts(series, OPTICS, TiltSettings(16, 1.0), np.ones((1, 7)))
    preparation, one = prepare_tilts(series, OPTICS, TiltSettings(16, 1.0)), np.zeros(1, np.int64)
    with pytest.raises(ParameterError, match="windows"):
        prepare_tilt_slices(np.zeros((1, 8, 8), np.float32), preparation, one, np.zeros((1, 2)))
    with pytest.raises(ParameterError, match="CTF"):
        prepare_tilt_slices(np.zeros((1, 16, 16), np.float32), preparation, one, np.zeros((1, 2)))
