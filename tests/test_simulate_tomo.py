"""Simulated tilt images against formulas: where particles are, what CTF, dose, depth and motion do to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.geometry.gaussians import random_phantom
from centralslice.jobs.simulate import tomo_images as simulate_tomo_images
from centralslice.jobs.simulate.tomo_images import (
    clean_tilt_image,
    imaging_of,
    levels_of,
    odd_fft_size,
    patch_of,
    patch_size,
    tilt_image,
    transfer,
)
from centralslice.jobs.simulate.tomo_scene import acquisition_order, tomo_scene
from centralslice.jobs.simulate.tomo_settings import (
    TiltScheme,
    TomoContent,
    TomoImages,
    TomoOptics,
    TomoSettings,
)
from centralslice.runtime.threads import Threads

PIXEL = 4.0
PHANTOM = random_phantom(15, (7.0, 11.0), 40.0, 2)
SETTINGS = TomoSettings(
    content=TomoContent(
        tomograms=1, particles=3, image_size=(150, 141), tomogram_size=(97, 102, 45), box_size=40,
        max_origin_angst=6.0, subtomogram_angles=True,
    ),
    scheme=TiltScheme(
        step_deg=20.0, x_tilt_deg=1.5, axis_deg=84.0, jitter_deg=2.0, max_shift_angst=30.0, hand=-1
    ),
    optics=TomoOptics(
        defocus_range_angst=(15000.0, 20000.0), astigmatism_angst=900.0, phase_shift_deg=20.0,
        bfactor_angst2=60.0, defocus_slope=0.8,
    ),
    seed=5,
)  # fmt: skip
ONE = replace(SETTINGS, content=replace(SETTINGS.content, particles=1))
WITHOUT_CTF = TomoOptics(defocus_range_angst=None, dose_per_tilt=0.0)
SERIAL = Threads(1)


def scene_of(settings: TomoSettings, phantom=PHANTOM):
    return tomo_scene(settings, phantom.radius_angst, Path("project"))


def clean(settings: TomoSettings, tilt: int, number: int = 0, phantom=PHANTOM) -> np.ndarray:
    imaging = imaging_of(scene_of(settings), phantom, number)
    return clean_tilt_image(phantom, imaging, tilt, settings.content.pixel_size_angst, SERIAL)


def exact_projection(settings: TomoSettings, tilt: int, number: int = 0) -> np.ndarray:
    """Σ over particles of the line integral of the density, evaluated at every pixel centre."""
    scene = scene_of(settings)
    series = scene.particles.series[number]
    nx, ny = series.image_size
    x, y = np.arange(nx)[None, :], np.arange(ny)[:, None]
    total = np.zeros((ny, nx))
    for row in scene.rows_of(number):
        matrix = series.projections[tilt]
        centre = matrix @ [*scene.particles.positions[row], 1.0]
        at = (matrix[:3, :3] @ scene.particles.rotations[row] @ PHANTOM.centres_angst.T).T
        for place, sigma, height in zip(at, PHANTOM.sigmas_angst, PHANTOM.heights, strict=True):
            u, v = centre[:2] + place[:2] / series.pixel_size_angst
            width = sigma / series.pixel_size_angst
            integral = height * np.sqrt(2 * np.pi) * sigma / settings.content.pixel_size_angst
            total += integral * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * width**2))
    return total


@pytest.mark.parametrize("image_size", [(150, 141), (129, 160)])
@pytest.mark.parametrize("tomogram_size", [(97, 102, 45), (100, 99, 44)])
def test_without_ctf_an_image_is_minus_the_exact_projection_at_the_exact_place(image_size, tomogram_size):
    content = replace(SETTINGS.content, image_size=image_size, tomogram_size=tomogram_size)
    settings = replace(SETTINGS, content=content, optics=WITHOUT_CTF)
    for tilt in (0, 3, 5):
        exact = exact_projection(settings, tilt)
        assert_allclose(clean(settings, tilt), -exact, atol=1e-5 * exact.max())


def test_a_particle_at_the_border_is_cut_not_wrapped():
    scheme = replace(SETTINGS.scheme, max_shift_angst=400.0)
    settings = replace(SETTINGS, scheme=scheme, optics=WITHOUT_CTF)
    exact = [exact_projection(settings, tilt) for tilt in range(7)]
    edges = [max(image[0].max(), image[:, 0].max(), image[-1].max(), image[:, -1].max()) for image in exact]
    assert max(edges) > 1  # there is one at the border
    for tilt, image in enumerate(exact):
        assert_allclose(clean(settings, tilt), -image, atol=1e-5 * max(1.0, image.max()))


def test_random_directions_are_images_of_the_same_kind():
    scheme = TiltScheme(random_directions=6, max_shift_angst=8.0)
    settings = replace(SETTINGS, scheme=scheme, optics=WITHOUT_CTF)
    series = scene_of(settings).particles.series[0]
    assert np.ptp(series.projections[:, 2, 2]) > 0.7  # not all from near one side
    for tilt in range(6):
        exact = exact_projection(settings, tilt)
        assert_allclose(clean(settings, tilt), -exact, atol=1e-5 * exact.max())


def depth(scene, tilt: int) -> np.ndarray:
    """(n,) Å of each particle below the centre, along the beam of a tilt."""
    series = scene.particles.series[0]
    offset = scene.particles.positions - np.array(series.size) / 2
    return offset @ series.projections[tilt, 2, :3] * series.pixel_size_angst


def expected_transform(settings: TomoSettings, particle: int, tilt: int, size: int, corner) -> np.ndarray:
    """−CTF · dose · transform of the density, from the formulas, on the samples of a patch of odd size."""
    scene, optics = scene_of(settings), settings.optics
    series = scene.particles.series[0]
    x = np.arange(size // 2 + 1)[None, :] / (size * PIXEL)
    y = np.fft.fftfreq(size, PIXEL)[:, None]
    extra = settings.scheme.hand * optics.defocus_slope * depth(scene, tilt)[particle]
    u, v = series.ctf.defocus_u_angst[tilt] + extra, series.ctf.defocus_v_angst[tilt] + extra
    angle = np.deg2rad(series.ctf.defocus_angle_deg[tilt])
    volts = optics.voltages_kv[0] * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + volts * 0.978466e-6))
    squared = x**2 + y**2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    contrast = optics.amplitude_contrast
    gamma = -np.pi * wavelength * (u * along**2 + v * across**2)
    gamma += np.pi / 2 * optics.spherical_aberration_mm * 1e7 * wavelength**3 * squared**2
    gamma -= np.deg2rad(optics.phase_shift_deg) + np.arctan(contrast / np.sqrt(1 - contrast**2))
    transfer = -np.sin(gamma) * np.exp(-optics.bfactor_angst2 / 4 * squared) * series.ctf.scale[tilt]
    with np.errstate(divide="ignore"):
        transfer *= np.exp(-0.5 * series.dose[tilt] / (0.245 * squared ** (-1.665 / 2) + 2.81))
    pose = series.projections[tilt, :3, :3] @ scene.particles.rotations[particle]
    k = np.stack(np.broadcast_arrays(x, y, 0.0), -1) @ pose  # k = Rᵀ (kx, ky, 0)
    place = (series.projections[tilt] @ [*scene.particles.positions[particle], 1.0])[:2] - corner
    shift = np.exp(-2j * np.pi * (x * place[0] + y * place[1]) * PIXEL)
    return -PHANTOM.transform(k, PIXEL) * transfer * shift


@pytest.mark.parametrize("hand", [1, -1])
def test_the_transform_of_a_particle_is_minus_ctf_times_damage_times_its_slice(hand):
    settings = replace(SETTINGS, scheme=replace(SETTINGS.scheme, hand=hand))
    imaging = imaging_of(scene_of(settings), PHANTOM, 0)
    for particle, tilt in ((0, 0), (1, 2), (2, 6)):
        corner, patch = patch_of(PHANTOM, imaging, (particle, tilt), transfer(imaging, tilt), PIXEL)
        expected = expected_transform(settings, particle, tilt, len(patch), corner)
        assert_allclose(np.fft.rfft2(patch), expected, atol=1e-7 * np.abs(expected).max())


def test_the_hand_is_the_sign_of_the_defocus_change_with_depth():
    below, above = (
        imaging_of(scene_of(replace(SETTINGS, scheme=replace(SETTINGS.scheme, hand=hand))), PHANTOM, 0)
        for hand in (1, -1)
    )
    deep = depth(scene_of(SETTINGS), 4)
    assert np.abs(deep).max() > 20
    assert_allclose(below.extra_defocus[:, 4], 0.8 * deep)
    assert_allclose(above.extra_defocus, -below.extra_defocus)


def test_patches_hold_what_the_ctf_spreads(monkeypatch):
    normal = clean(ONE, 3)
    size = imaging_of(scene_of(ONE), PHANTOM, 0).patch
    monkeypatch.setattr(simulate_tomo_images, "patch_size", lambda *_: odd_fft_size(2 * size))
    assert_allclose(normal, clean(ONE, 3), atol=1e-4 * np.abs(normal).max())
    scene = scene_of(ONE)
    far = np.full((1, 7), 60000.0)
    assert patch_size(PHANTOM, scene.particles.series[0], far, True) > size
    assert patch_size(PHANTOM, scene.particles.series[0], far, False) < size


def test_patch_sizes_are_odd_and_quick_to_transform():
    assert [odd_fft_size(least) for least in (1, 2, 12, 76, 129, 1000)] == [1, 3, 15, 77, 135, 1029]


def test_damage_can_be_a_bfactor():
    optics = TomoOptics(defocus_range_angst=None, dose_per_tilt=4.0, bfactor_per_dose=9.0)
    imaging = imaging_of(scene_of(replace(ONE, optics=optics)), PHANTOM, 0)
    k = np.hypot(
        np.arange(imaging.patch // 2 + 1)[None, :], imaging.patch * np.fft.fftfreq(imaging.patch)[:, None]
    ) / (imaging.patch * PIXEL)
    last = int(imaging.series.dose.argmax())
    assert imaging.series.dose[last] == 24.0
    assert_allclose(transfer(imaging, last), -np.exp(-9.0 * 24.0 * k**2 / 4), atol=1e-12)


def test_odd_aberrations_turn_phases_and_even_ones_change_the_ctf():
    plain = replace(ONE, optics=replace(ONE.optics, voltages_kv=(200.0,)))
    odd = replace(plain, optics=replace(plain.optics, odd_zernike=(0.0, 9.0), beam_tilt_mrad=(0.3, 0.0)))
    even = replace(plain, optics=replace(plain.optics, even_zernike=(0.4,)))
    base, turned, changed = (imaging_of(scene_of(settings), PHANTOM, 0) for settings in (plain, odd, even))
    size = base.patch
    x = np.arange(size // 2 + 1)[None, :] / (size * PIXEL)
    y = np.fft.fftfreq(size, PIXEL)[:, None]
    wavelength = 12.2643247 / np.sqrt(2e5 * (1 + 2e5 * 0.978466e-6))
    # Z of coefficient 1 is kx; a tilt t adds −2·10⁴ π Cs λ² t kx |k|²
    theta = 9.0 * x - 2e4 * np.pi * 2.7 * wavelength**2 * 0.3 * x * (x**2 + y**2)
    assert_allclose(transfer(turned, 2), transfer(base, 2) * np.exp(1j * theta), atol=1e-12)
    common = transfer(base, 2)
    phase = replace(plain, optics=replace(plain.optics, phase_shift_deg=20.0 - np.rad2deg(0.4)))
    shifted = imaging_of(scene_of(phase), PHANTOM, 0)
    assert_allclose(
        patch_of(PHANTOM, changed, (0, 2), common, PIXEL)[1],
        patch_of(PHANTOM, shifted, (0, 2), common, PIXEL)[1],
        atol=1e-9,
    )


def test_motion_moves_the_particle_as_the_trajectory_says():
    content = replace(ONE.content, motion_angst=40.0)
    still, moved = replace(ONE, optics=WITHOUT_CTF), replace(ONE, content=content, optics=WITHOUT_CTF)
    scene = scene_of(moved)
    motion = scene.motion_of(0)
    first = int(acquisition_order(moved.scheme.nominal_angles()).argmin())
    assert_array_equal(motion[0, first], 0)
    for tilt in (0, 6):
        images = [-clean(settings, tilt) for settings in (still, moved)]
        grid = np.indices(images[0].shape)[::-1]
        centroids = [[(image * axis).sum() / image.sum() for axis in grid] for image in images]
        turned = scene.particles.series[0].projections[tilt, :3, :3] @ motion[0, tilt]
        assert np.linalg.norm(turned[:2]) > 4
        assert_allclose(np.subtract(*centroids[::-1]), turned[:2] / PIXEL, atol=1e-4)
    depths = [imaging_of(scene_of(settings), PHANTOM, 0).extra_defocus for settings in (still, moved)]
    assert_array_equal(*depths)  # the depth is that of the particle without motion


def test_motion_has_the_stated_size_at_the_end():
    content = TomoContent(particles=40, motion_angst=7.0)
    scene = scene_of(TomoSettings(content=content))
    last = int(acquisition_order(scene.settings.scheme.nominal_angles()).argmax())
    ends = np.concatenate([scene.motion_of(number)[:, last] for number in (0, 1)])
    assert_allclose(np.sqrt((ends**2).sum(axis=1).mean()), 7.0, rtol=0.2)


def test_tilts_near_zero_are_taken_first_on_alternating_sides():
    angles = np.array([-6.0, -3.0, 0.0, 3.0, 6.0])
    assert_array_equal(acquisition_order(angles), [4, 2, 0, 1, 3])
    series = scene_of(TomoSettings()).particles.series[0]
    assert len(series) == 41
    assert_array_equal(series.dose[[20, 21, 19, 22]], [0, 3, 6, 9])
    assert series.dose.max() == 120


def test_groups_of_other_pixel_sizes_have_the_same_contrast_and_their_own_microscope():
    optics = replace(WITHOUT_CTF, groups=2, pixel_ratio=1.25, voltages_kv=(300.0, 200.0))
    settings = replace(SETTINGS, content=replace(SETTINGS.content, tomograms=3), optics=optics)
    scene = scene_of(settings)
    assert [series.pixel_size_angst for series in scene.particles.series] == [4.0, 5.0, 4.0]
    assert [series.optics.voltage_kv for series in scene.particles.series] == [300.0, 200.0, 300.0]
    assert_array_equal(scene.particles.optics_group, np.repeat([0, 1, 0], 3))
    for number in (0, 1):
        exact = exact_projection(settings, 4, number)
        assert_allclose(clean(settings, 4, number), -exact, atol=1e-5 * exact.max())
    mass = (PHANTOM.heights * (np.sqrt(2 * np.pi) * PHANTOM.sigmas_angst) ** 3).sum()
    assert_allclose(-clean(settings, 4, 1).sum() * 5.0**2 * PIXEL, 3 * mass, rtol=1e-4)


def images_of(settings: TomoSettings, tilts, threads: Threads = SERIAL) -> list[np.ndarray]:
    scene = scene_of(settings)
    imaging, levels = imaging_of(scene, PHANTOM, 0), levels_of(scene, PHANTOM, threads)
    return [tilt_image(scene, PHANTOM, imaging, (0, tilt), levels, threads) for tilt in tilts]


def test_an_image_depends_on_seed_and_tilt_only():
    settings = replace(SETTINGS, images=TomoImages(snr=0.3))
    both = images_of(settings, (1, 4))
    with Threads(3) as threads:
        assert_array_equal(images_of(settings, (4,), threads)[0], both[1])
    assert np.abs(images_of(replace(settings, seed=6), (1,))[0] - both[0]).max() > 0.1


def test_noise_has_the_stated_ratio_to_the_particles():
    settings = replace(SETTINGS, images=TomoImages(snr=0.3))
    scene = scene_of(settings)
    imaging, levels = imaging_of(scene, PHANTOM, 0), levels_of(scene, PHANTOM, SERIAL)
    noise = images_of(settings, (2,))[0] - clean(settings, 2)
    assert_allclose(noise.std(), levels.noise, rtol=0.02)
    assert_allclose(levels.noise**2 * 0.3, levels.signal**2, rtol=1e-12)
    variances = []
    for particle in range(3):
        for tilt in range(7):
            _, patch = patch_of(PHANTOM, imaging, (particle, tilt), transfer(imaging, tilt), PIXEL)
            first = imaging.patch // 2 - 20
            variances.append(patch[first : first + 40, first : first + 40].var())
    assert_allclose(levels.signal**2, np.mean(variances), rtol=0.3)  # which pairs are taken varies


def test_hidden_tilts_are_loud_noise_and_no_particle_is_to_use_them():
    settings = replace(SETTINGS, scheme=replace(SETTINGS.scheme, hidden=2), images=TomoImages(snr=0.3))
    scene = scene_of(settings)
    hidden = scene.alignments[0].hidden
    assert hidden.sum() == 2
    assert_array_equal(scene.particles.visible.reshape(3, 7), np.tile(~hidden, (3, 1)))
    noise = levels_of(scene, PHANTOM, SERIAL).noise
    for tilt, image in enumerate(images_of(settings, range(7))):
        assert (image.std() > 8 * noise) == hidden[tilt]
    shown = images_of(replace(settings, scheme=SETTINGS.scheme), range(7))
    kept = int(np.flatnonzero(~hidden)[0])
    assert_array_equal(shown[kept], images_of(settings, (kept,))[0])


def test_the_background_is_a_constant_and_a_ramp_across_the_tilt_axis():
    settings = replace(
        SETTINGS, images=TomoImages(background=50.0, gradient=8.0),
        scheme=replace(SETTINGS.scheme, axis_deg=0.0, jitter_deg=0.0),
    )  # fmt: skip
    difference = images_of(settings, (3,))[0] - clean(settings, 3)
    ramp = 50 + 8 * (np.arange(150) / 150 - 0.5)
    assert_allclose(difference, np.tile(ramp, (141, 1)), atol=1e-3)


def test_particles_keep_their_distance_and_stay_in_the_tomogram():
    scene = scene_of(TomoSettings(content=TomoContent(particles=40)))
    positions = scene.particles.positions[:40]
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 1e9 * np.eye(40)
    assert distances.min() >= 1.5 * PHANTOM.radius_angst / PIXEL
    assert (positions > 0).all()
    assert (positions < [512, 512, 128]).all()
    with pytest.raises(ParameterError, match="do not fit into a tomogram of 97 × 102 × 45 pixels"):
        scene_of(replace(SETTINGS, content=replace(SETTINGS.content, particles=90)))


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("content", {"particles": 0}, "particles"), ("content", {"tomograms": 0}, "tomograms"),
        ("content", {"image_size": (8, 99)}, "16 × 16"), ("content", {"tomogram_size": (9, 9, 0)}, "1 pixel"),
        ("content", {"motion_angst": float("nan")}, "motion angst: every number must be finite"),
        ("content", {"pixel_size_angst": -1.0}, "pixel size"), ("content", {"box_size": 1}, "box"),
        ("scheme", {"angle_range_deg": (60.0, -60.0)}, "from low to high"), ("scheme", {"hand": 0}, "hand"),
        ("scheme", {"step_deg": 0.0}, "step"), ("scheme", {"hidden": 7}, "0 … 6"),
        ("scheme", {"step_deg": 1e-9}, "more than 10000 tilts"), ("scheme", {"random_directions": 0}, "random"),
        ("optics", {"defocus_range_angst": (2e4, 1e4)}, "defocus"), ("optics", {"groups": 2}, "as many"),
        ("optics", {"defocus_range_angst": None}, "need a CTF"), ("optics", {"dose_per_tilt": -1.0}, "dose"),
        ("optics", {"voltages_kv": (300.0, 200.0)}, "one for each"), ("optics", {"pixel_ratio": 0.0}, "ratio"),
        ("optics", {"amplitude_contrast": 1.5}, "contrast"), ("images", {"snr": 0.0}, "SNR"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(part, changed, message):
    with pytest.raises(ParameterError, match=message):
        replace(SETTINGS, **{part: replace(getattr(SETTINGS, part), **changed)})
