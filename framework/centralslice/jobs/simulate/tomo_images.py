"""Tilt images of a simulated tomography project: every particle exact to the sub-pixel, dark on bright."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.geometry.tilt_geometry import depth_defocus, image_positions
from centralslice.jobs.simulate.tomo_scene import TomoScene
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf, ctf_constants, slice_frequencies
from centralslice.optics.dose import dose_filter
from centralslice.runtime.threads import Threads

#: A Gaussian's transform is taken as 0 from where it is exp(−this) of its value at 0.
_NOTHING = 34.5
#: Accuracy with which patches hold what the CTF spreads: exp(−this) of a Gaussian's transform, and sigmas.
_SPREAD, _SIGMAS, _MARGIN_PX = 13.8, 6.0, 8
#: Particles and tilts that the signal's variance is taken from.
_SAMPLE = 100
#: Standard deviation of the images of hidden tilts, over that of the noise or else of the signal.
LOUD = 10.0
_PATCHES_AT_ONCE = 32
_GAUSSIANS_AT_ONCE = 1024
_NOISE = 20


@numba.njit(nogil=True, cache=True)
def _waves(positions: FloatArray, envelopes: FloatArray, masses: FloatArray, size: int) -> FloatArray:
    """(2, g, m) real and imaginary part of ``mass · envelope · exp(−2πi k x / size)``, k = 0 … m − 1."""
    count, columns = envelopes.shape
    waves = np.empty((2, count, columns))
    for g in range(count):
        turn = -2 * np.pi * positions[g] / size
        step_real, step_imaginary = np.cos(turn), np.sin(turn)
        real, imaginary = masses[g], 0.0
        for k in range(columns):
            waves[0, g, k], waves[1, g, k] = real * envelopes[g, k], imaginary * envelopes[g, k]
            real, imaginary = (
                real * step_real - imaginary * step_imaginary,
                real * step_imaginary + imaginary * step_real,
            )
    return waves


@numba.njit(nogil=True, cache=True)
def _transform(along_x: FloatArray, along_y: FloatArray, real: FloatArray, imaginary: FloatArray) -> None:
    """Add ``Σ_g x[g, kx] · y[g, ky]`` to the (n, n // 2 + 1) parts of a half transform, n odd.

    Both are (2, g, n // 2 + 1) from :func:`_waves`; y at −ky is the conjugate. Ends of waves that are 0 are
    skipped.
    """
    rows, columns = real.shape
    count = along_x.shape[1]
    for g in range(count):
        reach = columns
        while reach > 1 and along_y[0, g, reach - 1] == 0 and along_y[1, g, reach - 1] == 0:
            reach -= 1
        for k in range(reach):
            a, b = along_y[0, g, k], along_y[1, g, k]
            for i in range(reach):
                real[k, i] += a * along_x[0, g, i] - b * along_x[1, g, i]
                imaginary[k, i] += a * along_x[1, g, i] + b * along_x[0, g, i]
        for k in range(1, reach):
            a, b = along_y[0, g, k], -along_y[1, g, k]
            for i in range(reach):
                real[rows - k, i] += a * along_x[0, g, i] - b * along_x[1, g, i]
                imaginary[rows - k, i] += a * along_x[1, g, i] + b * along_x[0, g, i]


def envelopes_of(sigmas_px: FloatArray, size: int) -> FloatArray:
    """(g, size // 2 + 1) float64 ``exp(−2π² sigma² (k / size)²)``, 0 below 1e-15."""
    exponent = 2 * np.pi**2 * (sigmas_px[:, None] * np.arange(size // 2 + 1) / size) ** 2
    result: FloatArray = np.where(exponent < _NOTHING, np.exp(-np.minimum(exponent, _NOTHING)), 0.0)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Imaging:
    """One series and its particles, ready to be imaged.

    Attributes
    ----------
    series
        The series.
    rotations
        (n, 3, 3) of its particles, map to tomogram.
    positions
        (n, f, 2) pixels in the tilt images.
    extra_defocus
        (n, f) Å, from depth.
    patch
        Odd size in pixels of the patches in which particles are computed.
    envelopes
        See :func:`envelopes_of`.
    with_ctf
        Whether there is a CTF.
    """

    series: TiltSeries
    rotations: FloatArray
    positions: FloatArray
    extra_defocus: FloatArray
    patch: int
    envelopes: FloatArray
    with_ctf: bool


def imaging_of(scene: TomoScene, phantom: GaussianPhantom, number: int) -> Imaging:
    """Series ``number`` of a scene with the particles in it."""
    series, rows = scene.particles.series[number], scene.rows_of(number)
    positions = scene.particles.positions[rows]
    extra = depth_defocus(series, positions)
    with_ctf = scene.settings.optics.defocus_range_angst is not None
    patch = patch_size(phantom, series, extra, with_ctf)
    return Imaging(
        series=series,
        rotations=scene.particles.rotations[rows],
        positions=image_positions(series, positions, scene.motion_of(number)),
        extra_defocus=extra,
        patch=patch,
        envelopes=envelopes_of(phantom.sigmas_angst / series.pixel_size_angst, patch),
        with_ctf=with_ctf,
    )


def patch_size(phantom: GaussianPhantom, series: TiltSeries, extra: FloatArray, with_ctf: bool) -> int:
    """Odd number of pixels that holds a particle and all that the CTF spreads of it.

    Notes
    -----
    Frequency k is displaced by ``|λ Δf k − Cs λ³ k³|``; k ends at the corner of the image's transform, or where
    the narrowest Gaussian's transform is 1e-6.
    """
    group, pixel = series.optics, series.pixel_size_angst
    reach = (np.linalg.norm(phantom.centres_angst, axis=1) + _SIGMAS * phantom.sigmas_angst).max()
    if with_ctf:
        defocus = np.stack([series.ctf.defocus_u_angst + extra, series.ctf.defocus_v_angst + extra])
        wavelength = ctf_constants(group).wavelength_angst
        narrow = math.sqrt(_SPREAD / 2) / (math.pi * phantom.sigmas_angst.min())
        k = np.linspace(0, min(math.sqrt(0.5) / pixel, narrow), 200)
        spherical = group.spherical_aberration_mm * 1e7 * wavelength**3 * k**3
        spread = [
            np.abs(wavelength * value * k - spherical).max() for value in (defocus.min(), defocus.max())
        ]
        reach += max(spread)
    return odd_fft_size(2 * math.ceil(reach / pixel) + 1 + 2 * _MARGIN_PX)


def odd_fft_size(least: int) -> int:
    """The smallest odd product of 3, 5, 7 and 11 that is not less: odd sizes have no Nyquist lines."""
    size = least | 1
    while True:
        rest = size
        for prime in (3, 5, 7, 11):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def transfer(imaging: Imaging, tilt: int) -> ComplexArray:
    """What all particles of a tilt are multiplied by: −1, radiation damage and odd aberrations exp(iθ).

    (n, n // 2 + 1) complex128 for patches of n pixels.
    """
    series, size = imaging.series, imaging.patch
    k_x, k_y = slice_frequencies(size, series.optics)
    damage = dose_filter(np.hypot(k_x, k_y), series.dose[tilt], series.bfactor_per_dose)
    _, theta = group_phases(series.optics, size)
    result: ComplexArray = -damage * np.exp(1j * theta)
    return result


def patch_of(
    phantom: GaussianPhantom,
    imaging: Imaging,
    where: tuple[int, int],
    common: ComplexArray,
    unit_angst: float,
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Image of one particle in one tilt.

    Parameters
    ----------
    phantom
        The object.
    imaging
        Series and particles.
    where
        Particle and tilt.
    common
        See :func:`transfer`.
    unit_angst
        Images are line integrals over this.

    Returns
    -------
    corner
        x, y of the patch's first pixel in the tilt image; may be outside.
    patch
        (n, n) float64.
    """
    particle, tilt = where
    series, size, pixel = imaging.series, imaging.patch, imaging.series.pixel_size_angst
    position = imaging.positions[particle, tilt]
    corner = np.floor(position + 0.5).astype(np.int64) - size // 2
    pose = series.projections[tilt, :2, :3] @ imaging.rotations[particle]
    centres = phantom.centres_angst @ pose.T / pixel + (position - corner)
    masses = phantom.heights * (math.sqrt(2 * math.pi) * phantom.sigmas_angst) ** 3 / (pixel**2 * unit_angst)
    parts = np.zeros((2, size, size // 2 + 1))
    for first in range(0, len(phantom), _GAUSSIANS_AT_ONCE):
        some = slice(first, first + _GAUSSIANS_AT_ONCE)
        along_x = _waves(centres[some, 0], imaging.envelopes[some], masses[some], size)
        along_y = _waves(centres[some, 1], imaging.envelopes[some], np.ones(len(along_x[0])), size)
        _transform(along_x, along_y, parts[0], parts[1])
    values = (parts[0] + 1j * parts[1]) * common
    if imaging.with_ctf:
        values *= _ctf(imaging, particle, tilt)
    patch: NDArray[np.float64] = scipy.fft.irfft2(values, s=(size, size))
    return (int(corner[0]), int(corner[1])), patch


def _ctf(imaging: Imaging, particle: int, tilt: int) -> FloatArray:
    """CTF with the particle's own defocus, on the samples of its patch."""
    series = imaging.series
    at_centre = series.ctf.take(np.array([tilt]))
    extra = imaging.extra_defocus[particle, tilt]
    parameters = ContrastTransfer(
        at_centre.defocus_u_angst + extra,
        at_centre.defocus_v_angst + extra,
        at_centre.defocus_angle_deg,
        at_centre.phase_shift_deg,
        at_centre.bfactor_angst2,
        at_centre.scale,
    )
    k_x, k_y = slice_frequencies(imaging.patch, series.optics)
    even = _even_phase(series.optics, imaging.patch)
    result: FloatArray = ctf(k_x, k_y, series.optics, parameters, even)[0]
    return result


def _even_phase(group: OpticsGroup, size: int) -> FloatArray | float:
    return group_phases(group, size)[0] if group.even_zernike else 0.0


def clean_tilt_image(
    phantom: GaussianPhantom, imaging: Imaging, tilt: int, unit_angst: float, threads: Threads
) -> NDArray[np.float64]:
    """Noise-free image of one tilt without background.

    Parameters
    ----------
    phantom
        The object.
    imaging
        Series and particles.
    tilt
        Which, in the order of the table.
    unit_angst
        Images are line integrals over this: with the voxel size of the true map V, ``−Σ_z V`` times CTF.
    threads
        Compute patches; they are added in order, so that the result does not depend on their number.

    Returns
    -------
        (ny, nx) float64.
    """
    nx, ny = imaging.series.image_size
    image = np.zeros((ny, nx))
    common = transfer(imaging, tilt)
    particles = _inside(imaging, tilt)
    for first in range(0, len(particles), _PATCHES_AT_ONCE):
        found = threads.map(
            lambda particle: patch_of(phantom, imaging, (particle, tilt), common, unit_angst),
            particles[first : first + _PATCHES_AT_ONCE],
        )
        for corner, patch in found:
            _add(image, corner, patch)
    return image


def _inside(imaging: Imaging, tilt: int) -> list[int]:
    """Particles whose patches have a pixel in the image."""
    margin = imaging.patch // 2 + 1
    low, high = -margin, np.array(imaging.series.image_size) + margin
    inside = ((imaging.positions[:, tilt] > low) & (imaging.positions[:, tilt] < high)).all(axis=1)
    found: list[int] = np.flatnonzero(inside).tolist()
    return found


def _add(image: NDArray[np.float64], corner: tuple[int, int], patch: NDArray[np.float64]) -> None:
    """Add the part of a patch that is in the image."""
    slices = []
    for first, length, size in zip(corner[::-1], image.shape, patch.shape, strict=True):
        low, high = max(first, 0), min(first + size, length)
        if low >= high:
            return
        slices.append((slice(low, high), slice(low - first, high - first)))
    (to_y, from_y), (to_x, from_x) = slices
    image[to_y, to_x] += patch[from_y, from_x]


@dataclass(frozen=True, slots=True)
class Levels:
    """Grey levels of a project.

    Attributes
    ----------
    signal
        Standard deviation of noise-free particles in windows of the true map's size.
    noise
        Of the white noise, 0 for none.
    scale
        What values are multiplied by before they are stored.
    """

    signal: float
    noise: float
    scale: float


def levels_of(scene: TomoScene, phantom: GaussianPhantom, threads: Threads) -> Levels:
    """Grey levels, from up to 100 particles and tilts of the first tomogram."""
    images, content = scene.settings.images, scene.settings.content
    imaging = imaging_of(scene, phantom, 0)
    particles, tilts = imaging.positions.shape[:2]
    count = min(_SAMPLE, particles * tilts)
    pairs = [(number % particles, number * tilts // count) for number in range(count)]

    def sample(where: tuple[int, int]) -> tuple[float, float]:
        common = transfer(imaging, where[1])
        _, patch = patch_of(phantom, imaging, where, common, content.pixel_size_angst)
        size = min(content.box_size, imaging.patch)
        first = imaging.patch // 2 - size // 2
        window = patch[first : first + size, first : first + size]
        return float(window.var()), float(np.abs(patch).max())

    variances, peaks = np.array(threads.map(sample, pairs)).T
    signal = float(np.sqrt(variances.mean()))
    noise = 0.0 if images.snr is None else signal / math.sqrt(images.snr)
    return Levels(signal, noise, _scale(scene, 4 * float(peaks.max()), noise or signal))


def _scale(scene: TomoScene, peak: float, noise: float) -> float:
    """1, or for int16 the power of two with which values almost fill its range."""
    images = scene.settings.images
    if images.stored_as != "int16":
        return 1.0
    largest = abs(images.background) + abs(images.gradient) + peak + 7 * LOUD * noise
    return 2.0 ** math.floor(math.log2(32000 / largest))


def tilt_image(
    scene: TomoScene, phantom: GaussianPhantom, imaging: Imaging, where: tuple[int, int],
    levels: Levels, threads: Threads,
) -> NDArray[np.float32]:  # fmt: skip
    """Image of series ``where[0]``, tilt ``where[1]`` as it is stored: (ny, nx) float32.

    Depends on the settings and on ``where`` only.
    """
    number, tilt = where
    settings = scene.settings
    nx, ny = settings.content.image_size
    rng = np.random.default_rng([settings.seed, _NOISE, number, tilt])
    if scene.alignments[number].hidden[tilt]:
        image = LOUD * (levels.noise or levels.signal) * rng.standard_normal((ny, nx))
    else:
        image = clean_tilt_image(phantom, imaging, tilt, settings.content.pixel_size_angst, threads)
        if levels.noise > 0:
            image += levels.noise * rng.standard_normal((ny, nx), np.float32)
    image += _background(scene, number, tilt)
    return (levels.scale * image).astype(np.float32)


def _background(scene: TomoScene, number: int, tilt: int) -> FloatArray:
    """(ny, nx) constant plus a ramp across the tilt axis, ± half the gradient at the edges."""
    images = scene.settings.images
    nx, ny = scene.settings.content.image_size
    angle = math.radians(scene.alignments[number].z_rot_deg[tilt])
    x, y = np.arange(nx) / nx - 0.5, np.arange(ny) / ny - 0.5
    ramp: FloatArray = math.cos(angle) * x[None, :] + math.sin(angle) * y[:, None]
    return images.background + images.gradient * ramp
