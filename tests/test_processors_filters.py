"""Fourier filters against a discrete Fourier transform written out, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.errors import InputError
from centralslice.plugin.registry import shared_registry

VOXEL = 2.0
SHAPES = [(8, 9), (9, 8), (7, 7), (6, 5, 8), (5, 6, 7)]
RANDOM = np.random.default_rng(0)


def processor(text):
    return shared_registry().create("processor", text)


def apply(text, data, voxel=VOXEL):
    return processor(text).apply(data, voxel)


def dft_matrix(size):
    index = np.arange(size)
    return np.exp(-2j * np.pi * np.outer(index, index) / size)


def frequency_grid(shape):
    axes = [np.where(np.arange(n) <= n // 2, np.arange(n), np.arange(n) - n) / n for n in shape]
    return np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))


def filtered(data, transfer):
    """Transform, multiply and transform back by sums over all samples."""
    values = data.astype(np.complex128)
    for axis, size in enumerate(data.shape):
        values = np.moveaxis(np.tensordot(dft_matrix(size), values, (1, axis)), 0, axis)
    values = values * transfer
    for axis, size in enumerate(data.shape):
        values = np.moveaxis(np.tensordot(dft_matrix(size).conj() / size, values, (1, axis)), 0, axis)
    assert np.abs(values.imag).max() < 1e-9
    return values.real


def tanh_low(f, c, fall):
    k = math.pi / (2 * fall * c)
    return 0.5 * (np.tanh(k * (f + c)) - np.tanh(k * (f - c)))


def butterworth(f, low, high):
    order = 2 * math.log10(0.882 / math.sqrt(10.624**2 - 1)) / math.log10(low / high)
    return (1 + (f / (low / 0.882 ** (2 / order))) ** order) ** -0.5


TRANSFERS = {
    "filter.lowpass.gauss:cutoff_freq=0.1": lambda f: np.exp(-(f**2) / 0.2**2),
    "filter.lowpass.gauss:cutoff_abs=0.15": lambda f: np.exp(-(f**2) / 0.15**2),
    "filter.lowpass.gauss:sigma=0.15": lambda f: np.exp(-(f**2) / (2 * 0.15**2)),
    "filter.lowpass.gauss:cutoff_freq=0.1:apix=3": lambda f: np.exp(-(f**2) / 0.3**2),
    "filter.lowpass.gauss:cutoff_resolv=0.1": lambda f: np.exp(
        -(f**2) / (2 * math.sqrt(-math.log(0.36)) / math.pi * 0.2) ** 2
    ),
    "filter.highpass.gauss:cutoff_abs=0.15": lambda f: 1 - np.exp(-(f**2) / 0.15**2),
    "filter.highpass.gauss:sigma=0.15": lambda f: 1 - np.exp(-(f**2) / (2 * 0.15**2)),
    "filter.lowpass.tophat:cutoff_abs=0.25": lambda f: f <= 0.25,
    "filter.highpass.tophat:cutoff_abs=0.25": lambda f: f > 0.25,
    "filter.lowpass.tanh:cutoff_abs=0.2": lambda f: tanh_low(f, 0.2, 0.5),
    "filter.lowpass.tanh:cutoff_abs=0.2:fall_off=0.1": lambda f: tanh_low(f, 0.2, 0.1),
    "filter.highpass.tanh:cutoff_abs=0.2": lambda f: 1 - tanh_low(f, 0.2, 0.5),
    "filter.lowpass.butterworth:low_cutoff_frequency=0.1:high_cutoff_frequency=0.3": lambda f: butterworth(
        f, 0.1, 0.3
    ),
    "filter.lowpass.butterworth:cutoff_abs=0.1": lambda f: butterworth(f, 0.1, 0.25),
    "filter.highpass.butterworth:low_cutoff_frequency=0.1": lambda f: 1 - butterworth(f, 0.1, 0.25),
    "filter.bandpass.gauss:center=0.2:cutoff_abs=0.1": lambda f: np.exp(-((f - 0.2) ** 2) / 0.02),
    "filter.bandpass.gauss:center=0.2:sigma=0.1": lambda f: np.exp(-((f - 0.2) ** 2) / 0.02),
    "filter.bandpass.tophat:low_cutoff_frequency=0.125:high_cutoff_frequency=0.25": lambda f: (
        (f >= 0.125) & (f < 0.25)
    ),
    "filter.bandpass.tanh:low_cutoff_frequency=0.1:high_cutoff_frequency=0.3:low_fall_off=0.2": lambda f: (
        tanh_low(f, 0.3, 0.5) - tanh_low(f, 0.1, 0.2)
    ),
    "filter.homomorphic.gauss:cutoff_abs=0.2:value_at_zero_frequency=0.3": lambda f: (
        1 - 0.7 * np.exp(-(f**2) / 0.08)
    ),
    "filter.gaussinverse:cutoff_abs=0.4": lambda f: np.exp(f**2 / 0.32),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", TRANSFERS)
def test_filters_multiply_the_transform_by_their_formula(text, shape):
    data = RANDOM.normal(size=shape)
    np.testing.assert_allclose(
        apply(text, data), filtered(data, TRANSFERS[text](frequency_grid(shape))), atol=1e-11
    )


@pytest.mark.parametrize("text", TRANSFERS)
def test_single_precision_stays_close_to_double(text):
    data = RANDOM.normal(size=(15, 16))
    wanted = apply(text, data)
    found = apply(text, data.astype(np.float32))
    np.testing.assert_allclose(found, wanted, atol=2e-6 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("kind", ["gauss", "tanh", "butterworth", "tophat"])
def test_high_pass_and_low_pass_add_up_to_the_data(kind):
    data = RANDOM.normal(size=(9, 10, 11))
    total = apply(f"filter.lowpass.{kind}:cutoff_abs=0.17", data)
    total = total + apply(f"filter.highpass.{kind}:cutoff_abs=0.17", data)
    np.testing.assert_allclose(total, data, atol=1e-12)


@pytest.mark.parametrize("pixel", range(1, 15))
def test_sharp_edges_take_a_sample_on_the_cutoff_for_what_it_is(pixel):
    """k/n in floating point may come out above or below the cutoff that the user wrote."""
    index = np.arange(30)
    wave = np.cos(2 * np.pi * pixel * index / 30) * np.ones((30, 1))
    cutoff = f"{pixel / 60:.17g}"  # 1/Å at 2 Å
    for data in (wave, wave.T):
        np.testing.assert_allclose(
            apply(f"filter.lowpass.tophat:cutoff_freq={cutoff}", data), data, atol=1e-9
        )
        np.testing.assert_allclose(apply(f"filter.highpass.tophat:cutoff_freq={cutoff}", data), 0, atol=1e-9)
        ends = (pixel / 30, 0.6)
        text = "filter.bandpass.tophat:low_cutoff_frequency={}:high_cutoff_frequency={}"
        np.testing.assert_allclose(apply(text.format(*ends), data), data, atol=1e-9)
        np.testing.assert_allclose(apply(text.format(0, pixel / 30), data), 0, atol=1e-9)


@pytest.mark.parametrize("size", [16, 17])
def test_cutoff_pixels_counts_fourier_pixels_along_x(size):
    data = RANDOM.normal(size=(12, size))
    np.testing.assert_allclose(
        apply("filter.lowpass.gauss:cutoff_pixels=3", data),
        apply(f"filter.lowpass.gauss:cutoff_abs={3 / size!r}", data),
        atol=1e-12,
    )


def test_sigma_wins_over_cutoffs_and_cutoffs_win_in_order():
    data = RANDOM.normal(size=(10, 10))
    everything = ["sigma=0.2", "cutoff_abs=0.1", "cutoff_freq=0.15", "cutoff_pixels=1"]
    for number in range(4):
        text = ":".join(["filter.lowpass.gauss", *reversed(everything[number:])])
        wanted = apply(f"filter.lowpass.gauss:{everything[number]}", data)
        np.testing.assert_array_equal(apply(text, data), wanted)


def test_a_gaussian_blob_widens_as_the_convolution_theorem_says():
    n, sigma, cutoff = 32, 2.0, 0.1
    squared = sum((axis - n // 2) ** 2 for axis in np.ogrid[:n, :n, :n])
    blob = np.exp(-squared / (2 * sigma**2))
    blur = 1 / (math.pi * cutoff * math.sqrt(2))  # real-space sigma of exp(-f²/c²)
    total = sigma**2 + blur**2
    wanted = (sigma**2 / total) ** 1.5 * np.exp(-squared / (2 * total))
    np.testing.assert_allclose(apply(f"filter.lowpass.gauss:cutoff_abs={cutoff}", blob), wanted, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_shift_moves_pixels_round(shape):
    data = RANDOM.normal(size=shape)
    shift = (2, -3, 1)[: len(shape)]
    text = "filter.shift:" + ":".join(f"{axis}_shift={s}" for axis, s in zip("xyz", shift, strict=False))
    np.testing.assert_allclose(
        apply(text, data), np.roll(data, shift[::-1], tuple(range(len(shape)))), atol=1e-12
    )


@given(dx=st.floats(-3, 3), dy=st.floats(-3, 3), size=st.integers(7, 10))
def test_a_wave_below_nyquist_is_shifted_exactly(dx, dy, size):
    y, x = np.mgrid[:size, :size]

    def wave(x, y):
        return np.cos(2 * np.pi * (2 * x - y) / size + 0.3) + 0.5 * np.sin(2 * np.pi * (x + 3 * y) / size)

    text = f"filter.shift:x_shift={dx!r}:y_shift={dy!r}"
    np.testing.assert_allclose(apply(text, wave(x, y)), wave(x - dx, y - dy), atol=1e-9)


def test_images_have_no_z_shift():
    with pytest.raises(InputError, match="z_shift"):
        apply("filter.shift:z_shift=1", np.zeros((4, 4)))


def test_a_radial_table_is_linear_between_pixels_and_zero_beyond_its_end():
    data = RANDOM.normal(size=(10, 10))
    table = [1.0, 0.7, 0.2, 0.4]
    radius = frequency_grid(data.shape) * 10
    wanted = filtered(data, np.where(radius < 3.001, np.interp(radius, range(4), table), 0.0))
    np.testing.assert_allclose(apply("filter.radialtable:table=1,0.7,0.2,0.4", data), wanted, atol=1e-11)


@pytest.mark.parametrize("shape", [(64, 64), (15, 15, 15)])
def test_random_phases_keep_amplitudes_and_everything_below_the_cutoff(shape):
    data = np.random.default_rng(1).normal(size=shape)
    found = apply("filter.lowpass.randomphase:cutoff_abs=0.2", data)
    before, after = np.fft.fftn(data), np.fft.fftn(found)
    beyond = frequency_grid(shape) >= 0.2
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-9)
    np.testing.assert_allclose(after[~beyond], before[~beyond], atol=1e-9)
    turned = np.angle(after[beyond] / before[beyond])
    assert abs(np.exp(1j * turned).mean()) < 0.1
    again = apply("filter.lowpass.randomphase:cutoff_abs=0.2:seed=0", data)
    np.testing.assert_array_equal(found, again)
    assert np.abs(apply("filter.lowpass.randomphase:cutoff_abs=0.2:seed=1", data) - found).max() > 0.01


def test_an_inverse_gaussian_that_would_overflow_is_refused():
    with pytest.raises(InputError, match="amplified"):
        apply("filter.gaussinverse:cutoff_abs=0.05", np.zeros((8, 8)))


def ctf_curve(s, defocus=3.0, ac=10.0, cs=2.7, voltage=300.0):
    wave = 12.2639 / math.sqrt(1000 * voltage + 0.97845 * voltage**2)
    gamma = math.pi * wave * 1e4 * defocus * s**2 - math.pi / 2 * cs * 1e7 * wave**3 * s**4
    return np.cos(gamma - math.acos(ac / 100)) * np.exp(-200 * s**2 / 4)


@pytest.mark.parametrize("flip", [0, 1])
def test_simple_ctf_correction_inverts_up_to_the_first_maximum_and_is_constant_beyond(flip):
    shape = (64, 64)
    data = RANDOM.normal(size=shape)
    s = frequency_grid(shape) / VOXEL
    fine = np.linspace(0, 0.03, 30001)
    peak = int(np.argmax(ctf_curve(fine)))  # at 3 µm the first maximum is near 1/80 Å
    gain = np.where(s <= fine[peak], 1 / ctf_curve(s), 1 / ctf_curve(fine)[peak])
    if flip:
        gain = np.where(ctf_curve(s) < 0, -gain, gain)
    gain[0, 0] = 1
    found = np.fft.fft2(apply(f"filter.ctfcorr.simple:phaseflip={flip}", data)) / np.fft.fft2(data)
    np.testing.assert_allclose(found, gain, rtol=1e-3)


def test_simple_ctf_correction_takes_a_high_pass():
    data = RANDOM.normal(size=(32, 32))
    plain = np.fft.fft2(apply("filter.ctfcorr.simple", data))
    damped = np.fft.fft2(apply("filter.ctfcorr.simple:hppix=4", data))
    factor = np.tanh(frequency_grid(data.shape) * 32 / 4)
    factor[0, 0] = 1
    np.testing.assert_allclose(damped, plain * factor, atol=1e-9)
