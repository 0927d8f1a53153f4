"""CTF, aberrations and dose against formulas written out by hand, one sample at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates, spline_filter

from centralslice.abc.reader import ReadRequest
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.errors import ParameterError
from centralslice.optics.aberrations import (
    even_index,
    even_phase,
    group_phases,
    odd_index,
    odd_phase,
    with_beam_tilt,
    zernike,
)
from centralslice.optics.ctf import ctf, ctf_constants, electron_wavelength, slice_frequencies
from centralslice.optics.dose import bfactor_filter, critical_exposure, dose_filter, exposure_filter
from centralslice_plugins.readers.star import StarReader

GROUP = OpticsGroup(
    name="g", pixel_size_angst=1.3, voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1
)


def parameters(**changed: float) -> ContrastTransfer:
    """CTF parameters of one particle."""
    values = {
        "defocus_u_angst": 15000.0, "defocus_v_angst": 14000.0, "defocus_angle_deg": 35.0,
        "phase_shift_deg": 0.0, "bfactor_angst2": 0.0, "scale": 1.0,
    } | changed  # fmt: skip
    return ContrastTransfer(**{name: np.array([value]) for name, value in values.items()})


def relion_ctf(x: float, y: float, group: OpticsGroup, p: ContrastTransfer) -> float:
    """RELION's CTF of one frequency, term by term."""
    volts = group.voltage_kv * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    u, v, alpha = p.defocus_u_angst[0], p.defocus_v_angst[0], math.radians(p.defocus_angle_deg[0])
    c, s = math.cos(alpha), math.sin(alpha)
    d = (u * c * c + v * s * s) * x * x + 2 * (u - v) * s * c * x * y + (u * s * s + v * c * c) * y * y
    q0 = group.amplitude_contrast
    gamma = (
        -math.pi * wavelength * d
        + math.pi / 2 * group.spherical_aberration_mm * 1e7 * wavelength**3 * (x * x + y * y) ** 2
        - math.radians(p.phase_shift_deg[0])
        - math.atan(q0 / math.sqrt(1 - q0 * q0))
    )
    return -math.sin(gamma) * math.exp(-p.bfactor_angst2[0] / 4 * (x * x + y * y)) * p.scale[0]


@pytest.mark.parametrize(("voltage", "wavelength"), [(300, 0.0196875), (200, 0.0250793), (100, 0.0370144)])
def test_the_wavelength_is_relativistic(voltage, wavelength):
    assert_allclose(electron_wavelength(voltage), wavelength, rtol=1e-5)


@given(
    x=st.floats(-0.4, 0.4), y=st.floats(-0.4, 0.4), u=st.floats(-5e3, 4e4), v=st.floats(-5e3, 4e4),
    angle=st.floats(-360, 360), shift=st.floats(0, 180), bfactor=st.floats(0, 200),
    contrast=st.floats(0, 0.99),
)  # fmt: skip
def test_the_ctf_is_relions_formula(x, y, u, v, angle, shift, bfactor, contrast):
    group = replace(GROUP, amplitude_contrast=contrast)
    given_parameters = parameters(
        defocus_u_angst=u, defocus_v_angst=v, defocus_angle_deg=angle, phase_shift_deg=shift,
        bfactor_angst2=bfactor, scale=0.7,
    )  # fmt: skip
    assert_allclose(
        ctf(x, y, group, given_parameters)[0], relion_ctf(x, y, group, given_parameters), atol=1e-11
    )


def test_the_ctf_is_plus_q0_at_zero_and_positive_on_the_first_peak_of_underfocus():
    values = ctf([0.0, 0.03], [0.0, 0.0], GROUP, parameters())[0]
    assert_allclose(values[0], 0.1, atol=1e-15)
    assert values[1] > 0.5


def test_the_defocus_angle_is_that_of_the_u_axis_to_x():
    stretched = parameters(defocus_u_angst=20000.0, defocus_v_angst=10000.0, defocus_angle_deg=90.0)
    round_u, round_v = (parameters(defocus_u_angst=d, defocus_v_angst=d) for d in (20000.0, 10000.0))
    assert_allclose(ctf(0.0, 0.1, GROUP, stretched), ctf(0.0, 0.1, GROUP, round_u), atol=1e-12)
    assert_allclose(ctf(0.1, 0.0, GROUP, stretched), ctf(0.1, 0.0, GROUP, round_v), atol=1e-12)


def test_particles_come_first_and_frequencies_after():
    many = ContrastTransfer(*(np.full(3, value) for value in (15000.0, 14000.0, 20.0, 0.0, 50.0, 1.0)))
    many.defocus_u_angst[1] += 500
    k_x, k_y = slice_frequencies(9, GROUP)
    values = ctf(k_x, k_y, GROUP, many)
    assert values.shape == (3, 9, 5)
    assert_array_equal(values[0], values[2])
    assert np.abs(values[0] - values[1]).max() > 0.1


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"voltage_kv": 0.0}, "voltage"), ({"amplitude_contrast": 1.2}, "amplitude contrast"),
     ({"amplitude_contrast": -0.1}, "amplitude contrast"), ({"voltage_kv": math.nan}, "voltage")],
)  # fmt: skip
def test_a_group_without_usable_optics_is_refused_by_name(changed, message):
    with pytest.raises(ParameterError, match=f"optics group g: {message}"):
        ctf_constants(replace(GROUP, **changed))


@pytest.mark.parametrize("size", [8, 9])
def test_slice_frequencies_are_in_reciprocal_angstroms_with_a_negative_nyquist_row(size):
    k_x, k_y = slice_frequencies(size, GROUP)
    assert k_x.shape == k_y.shape == (size, size // 2 + 1)
    assert_allclose(k_x[0] * size * 1.3, np.arange(size // 2 + 1), atol=1e-15)
    assert_allclose(k_y[:, 0], np.fft.fftfreq(size, 1.3), atol=1e-15)
    with pytest.raises(ParameterError, match="pixel size"):
        slice_frequencies(size, replace(GROUP, pixel_size_angst=0.0))


def test_the_magnification_matrix_acts_on_frequencies():
    matrix = (1.02, 0.01, -0.03, 0.98)
    k_x, k_y = slice_frequencies(8, replace(GROUP, magnification=matrix))
    plain_x, plain_y = slice_frequencies(8, GROUP)
    assert_allclose(
        np.stack([k_x, k_y]), np.einsum("ab,byx->ayx", np.reshape(matrix, (2, 2)), [plain_x, plain_y])
    )


def test_zernike_numbers_are_ordered_as_relion_orders_them():
    assert [even_index(i) for i in range(9)] == [
        (0, 0), (2, -2), (2, 0), (2, 2), (4, -4), (4, -2), (4, 0), (4, 2), (4, 4),
    ]  # fmt: skip
    assert [odd_index(i) for i in range(7)] == [
        (1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3), (5, -5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("n", "m"), [(0, 0), (1, -1), (1, 1), (2, 0), (3, -1), (3, 3), (4, -2), (6, 4), (5, 1)]
)
def test_zernike_functions_are_the_standard_ones_in_polar_coordinates(n, m):
    x, y = np.random.default_rng(n).uniform(-0.9, 0.9, (2, 20))
    rho, phi, order = np.hypot(x, y), np.arctan2(y, x), abs(m)
    radial = sum(
        (-1) ** j * math.factorial(n - j) * rho ** (n - 2 * j)
        / (math.factorial(j) * math.factorial((n + order) // 2 - j) * math.factorial((n - order) // 2 - j))
        for j in range((n - order) // 2 + 1)
    )  # fmt: skip
    assert_allclose(
        zernike(n, m, x, y), radial * (np.cos(m * phi) if m >= 0 else np.sin(order * phi)), atol=1e-13
    )


def test_a_zernike_function_that_does_not_exist_is_refused():
    with pytest.raises(ParameterError, match="n 3, m 2"):
        zernike(3, 2, 0.1, 0.1)


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_odd_phases_change_sign_with_the_frequency_and_even_ones_do_not(x, y):
    coefficients = tuple(np.linspace(-1, 1, 12))
    assert_allclose(odd_phase(coefficients, -x, -y), -odd_phase(coefficients, x, y), atol=1e-13)
    assert_allclose(even_phase(coefficients, -x, -y), even_phase(coefficients, x, y), atol=1e-13)


def test_beam_tilt_is_minus_sigma_times_tilt_dot_k_times_k_squared():
    tilted = replace(GROUP, beam_tilt_mrad=(0.3, -0.7))
    sigma = 2e4 * math.pi * 2.7 * electron_wavelength(300) ** 2
    k_x, k_y = slice_frequencies(10, GROUP)
    expected = -sigma * (0.3 * k_x - 0.7 * k_y) * (k_x**2 + k_y**2)
    assert_allclose(odd_phase(with_beam_tilt(tilted), k_x, k_y), expected, atol=1e-12)
    assert with_beam_tilt(GROUP) == ()


def test_beam_tilt_is_added_to_the_odd_coefficients_there_are():
    both = replace(GROUP, beam_tilt_mrad=(0.3, 0.1), odd_zernike=(0.5, 0, 0, 0, 0, 0, 2.0))
    apart = odd_phase((0.5, 0, 0, 0, 0, 0, 2.0), 0.2, 0.1) + odd_phase(
        with_beam_tilt(replace(both, odd_zernike=())), 0.2, 0.1
    )
    assert_allclose(odd_phase(with_beam_tilt(both), 0.2, 0.1), apart, atol=1e-14)


@pytest.mark.parametrize("size", [8, 11])
def test_group_phases_are_taken_at_the_magnified_frequencies(size):
    group = replace(
        GROUP, even_zernike=(0, 1.0, 0.5, -2.0, 3.0), odd_zernike=(0.1, 0.2), beam_tilt_mrad=(0.1, 0.2),
        magnification=(1.01, 0.02, 0.0, 0.99),
    )  # fmt: skip
    gamma, theta = group_phases(group, size)
    k_x, k_y = slice_frequencies(size, group)
    assert gamma.shape == theta.shape == (size, size // 2 + 1)
    assert gamma.dtype == theta.dtype == np.float64
    assert_allclose(gamma, even_phase(group.even_zernike, k_x, k_y))
    assert_allclose(theta, odd_phase(with_beam_tilt(group), k_x, k_y))


def test_an_absurd_number_of_coefficients_is_refused():
    with pytest.raises(ParameterError, match="at most 400"):
        even_phase((0.0,) * 401, 0.1, 0.1)


def test_even_aberrations_add_to_gamma():
    with_phase = ctf(0.1, 0.05, GROUP, parameters(), even_phase=0.4)
    shifted = ctf(0.1, 0.05, GROUP, parameters(phase_shift_deg=-math.degrees(0.4)))
    assert_allclose(with_phase, shifted, atol=1e-12)


def test_the_exposure_filter_is_exp_minus_half_at_the_critical_exposure_and_one_at_zero():
    k = np.array([0.05, 0.1, 0.3])
    assert_allclose(critical_exposure(k), 0.245 * k**-1.665 + 2.81)
    assert_allclose(exposure_filter(k, critical_exposure(k)), np.exp(-0.5))
    assert exposure_filter(0.0, 100.0) == 1.0
    assert exposure_filter(0.2, [[0.0], [3.0]]).shape == (2, 1)


def test_the_b_factor_form_is_used_where_one_is_given():
    assert_allclose(bfactor_filter(0.2, 30.0, 4.0), np.exp(-4.0 * 30 * 0.04 / 4))
    assert dose_filter(0.2, 30.0, 4.0) == bfactor_filter(0.2, 30.0, 4.0)
    assert dose_filter(0.2, 30.0) == exposure_filter(0.2, 30.0)


@pytest.mark.parametrize("dose", [-1.0, math.nan, math.inf])
def test_an_impossible_dose_is_refused(dose):
    with pytest.raises(ParameterError, match="dose"):
        exposure_filter(0.1, dose)


def test_particles_made_for_relion_are_our_projections_times_our_ctf(reference):
    folder = reference / "relion_spa"
    particles = StarReader().read_particles(ReadRequest(folder / "particles.star"))
    group = particles.optics[0]
    with (
        mrcfile.open(folder / "particles_true.mrc") as truth,
        mrcfile.open(folder / "particles.mrcs") as stack,
    ):
        volume, images = spline_filter(np.array(truth.data, np.float64)), np.array(stack.data[:6])
    axis = np.arange(64) - 32
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    values = ctf(*slice_frequencies(64, group), group, particles.ctf.take(np.arange(6)))
    for number, image in enumerate(images):
        shift = particles.shifts_angst[number] / group.pixel_size_angst
        points = np.stack([x - shift[0], y - shift[1], z]).reshape(3, -1)
        sources = (particles.rotations[number].T @ points)[::-1] + 32
        projection = map_coordinates(volume, sources, prefilter=False).reshape(64, 64, 64).sum(axis=0)
        expected = np.fft.irfft2(np.fft.rfft2(projection) * values[number])
        assert np.corrcoef(expected.ravel(), image.ravel())[0, 1] > 0.95
