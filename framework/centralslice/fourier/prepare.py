"""From images to slices: transform, exact shift, CTF and weight, fused in one pass over the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.fft
from numba import njit

from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.fourier.ctf_kernels import ctf_coefficients, sine_of_turns
from centralslice.fourier.transforms import crop_or_pad
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import electron_wavelength

#: full: multiply by the CTF; flipped: by its absolute value (phases were flipped before); premultiplied:
#: the images are multiplied already, only the weight is CTF²; none: weight 1.
CtfMode = Literal["full", "flipped", "premultiplied", "none"]
_CTF_CODES = {"none": 0, "full": 1, "flipped": 2, "premultiplied": 3}


@dataclass(frozen=True, slots=True)
class GroupPreparation:
    """What all images of an optics group share.

    Attributes
    ----------
    size
        Slice size in pixels after padding.
    max_radius
        Largest |(kx, ky)| used, in slice index units.
    ctf_mode
        How the CTF enters.
    frequencies
        (2, 2) float64: 1/Å per slice index, with the magnification matrix: ``(X, Y) = frequencies @ (kx, ky)``.
    wavelength_angst, spherical_aberration_angst, amplitude_phase
        λ; Cs; asin of the amplitude contrast, radians.
    even_phase
        (size, size // 2 + 1) float64 to add to γ, or (1, 1) zeros.
    odd_phase
        (size, size // 2 + 1) complex64 factors ``exp(−iθ)``, or (1, 1) ones.
    amplitude
        Factor of the values that makes groups of other pixel sizes agree in density.
    precision
        dtype of the samples.
    """

    size: int
    max_radius: float
    ctf_mode: CtfMode
    frequencies: FloatArray
    wavelength_angst: float
    spherical_aberration_angst: float
    amplitude_phase: float
    even_phase: FloatArray
    odd_phase: ComplexArray
    amplitude: float
    precision: np.dtype[Any]


def prepare_group(
    optics: OpticsGroup, size: int, voxel_size_angst: float, max_radius: float, ctf_mode: CtfMode,
    precision: np.dtype[Any],
) -> GroupPreparation:  # fmt: skip
    """Tables of an optics group.

    Parameters
    ----------
    optics
        The group; its pixel size must be known.
    size
        Slice size after padding.
    voxel_size_angst
        Voxel size of the map, Å.
    max_radius
        Largest frequency in slice index units; the ambiguous Nyquist row and column are left out anyway.
    ctf_mode
        How the CTF enters.
    precision
        dtype of the samples.
    """
    spacing = 1.0 / (size * optics.pixel_size_angst)
    even: FloatArray = np.zeros((1, 1))
    odd: ComplexArray = np.ones((1, 1), np.complex64)
    wavelength = 0.0
    if ctf_mode != "none":
        wavelength = electron_wavelength(optics.voltage_kv)
        gamma, theta = group_phases(optics, size)
        if np.any(gamma):
            even = gamma
        if np.any(theta):
            odd = np.exp(-1j * theta).astype(np.complex64)
    return GroupPreparation(
        size=size,
        max_radius=min(max_radius, size / 2),
        ctf_mode=ctf_mode,
        frequencies=np.array(optics.magnification, np.float64).reshape(2, 2) * spacing,
        wavelength_angst=wavelength,
        spherical_aberration_angst=optics.spherical_aberration_mm * 1e7,
        amplitude_phase=math.asin(optics.amplitude_contrast),
        even_phase=even,
        odd_phase=odd,
        amplitude=(optics.pixel_size_angst / voxel_size_angst) ** 3,
        precision=precision,
    )


def prepare_slices(
    images: FloatArray,
    group: GroupPreparation,
    shifts_px: FloatArray,
    weights: FloatArray,
    ctf: ContrastTransfer | None = None,
    ssnr: FloatArray | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Samples of a :class:`centralslice.data.slices.SliceBatch`.

    Parameters
    ----------
    images
        (b, n, n) float32 or float64, particle at the centre pixel n // 2 plus its shift.
    group
        Tables of the images' optics group.
    shifts_px
        (b, 2) shift t of the pose in pixels; undone exactly by a phase ramp.
    weights
        (b,) weight of each image, multiplies value and weight.
    ctf
        Parameters of the same images; needed unless the mode is ``none``.
    ssnr
        (b, m) curves that multiply value and weight, point i at the fraction i / (m − 1) of Nyquist.
    out
        Where to put the samples, or None for a new array.

    Returns
    -------
        (b, size, size // 2 + 1, 4) samples of the group's precision.
    """
    size, count = group.size, len(images)
    if images.shape[-1] != size:
        images = crop_or_pad(images, (size, size))
    spectra = scipy.fft.rfft2(images.astype(group.precision, copy=False))
    samples = np.empty((*spectra.shape, 4), group.precision) if out is None else out
    _fill_samples(
        samples, spectra, _coefficients(group, ctf, count), np.asarray(shifts_px, np.float64) + size // 2,
        np.asarray(weights, np.float64), np.zeros((1, 1), np.float32) if ssnr is None else ssnr,
        group.frequencies, group.even_phase, group.odd_phase, group.max_radius,
        _CTF_CODES[group.ctf_mode], group.amplitude,
    )  # fmt: skip
    return samples


def _coefficients(group: GroupPreparation, ctf: ContrastTransfer | None, count: int) -> FloatArray:
    """(b, 7) of :func:`centralslice.fourier.ctf_kernels.ctf_coefficients`, zeros where there is no CTF."""
    if group.ctf_mode == "none" or ctf is None:
        return np.zeros((count, 7))
    return ctf_coefficients(
        ctf, group.wavelength_angst, group.spherical_aberration_angst, group.amplitude_phase
    )


@njit(nogil=True, cache=True)
def _fill_samples(  # noqa: PLR0913 - one numeric kernel, called from one place
    samples: Any, spectra: Any, table: Any, shifts: Any, weights: Any, ssnr: Any, frequencies: Any, even: Any,
    odd: Any, max_radius: float, mode: int, amplitude: float,
) -> None:  # fmt: skip
    count, size, half = spectra.shape
    transfer = np.empty(half)
    ramp = np.empty(half, np.complex128)
    f00, f01, f10, f11 = frequencies[0, 0], frequencies[0, 1], frequencies[1, 0], frequencies[1, 1]
    curved, tabled, aberrated = ssnr.shape[1] > 1, even.shape[0] > 1, odd.shape[0] > 1
    per_radius = 2.0 * (ssnr.shape[1] - 1) / size
    for n in range(count):
        c0, c1, c2, c3, c4, damping, scale = table[n]
        for kx in range(half):
            angle = 2.0 * math.pi * kx * shifts[n, 0] / size
            ramp[kx] = complex(math.cos(angle), math.sin(angle))
        for row in range(size):
            ky = row if row <= (size - 1) // 2 else row - size
            angle = 2.0 * math.pi * ky * shifts[n, 1] / size
            turn = complex(math.cos(angle), math.sin(angle))
            square = max_radius * max_radius - ky * ky
            last = (
                -1 if square < 0 or 2 * ky == -size else min(int(math.sqrt(square) + 1e-9), (size - 1) // 2)
            )
            first = 1 if ky < 0 else 0
            if mode > 0:
                for kx in range(last + 1):
                    x, y = f00 * kx + f01 * ky, f10 * kx + f11 * ky
                    k2 = x * x + y * y
                    gamma = c0 * x * x + c1 * x * y + c2 * y * y + c3 * k2 * k2 + c4
                    if tabled:
                        gamma += even[row, kx] / (2.0 * math.pi)
                    transfer[kx] = -scale * sine_of_turns(gamma)
                if damping != 0.0:
                    for kx in range(last + 1):
                        x, y = f00 * kx + f01 * ky, f10 * kx + f11 * ky
                        transfer[kx] *= math.exp(damping * (x * x + y * y))
            for kx in range(half):
                if kx < first or kx > last:
                    samples[n, row, kx, 0] = 0
                    samples[n, row, kx, 1] = 0
                    samples[n, row, kx, 2] = 0
                    samples[n, row, kx, 3] = 0
                    continue
                weight = weights[n]
                if curved:
                    weight *= max(0.0, ssnr[n, int(math.sqrt(kx * kx + ky * ky) * per_radius)])
                factor = weight
                if mode > 0:
                    c = transfer[kx]
                    weight *= c * c
                    if mode == 1:
                        factor *= c
                    elif mode == 2:
                        factor *= abs(c)
                value = spectra[n, row, kx] * (ramp[kx] * turn) * (factor * amplitude)
                if aberrated:
                    value *= odd[row, kx]
                samples[n, row, kx, 0] = value.real
                samples[n, row, kx, 1] = value.imag
                samples[n, row, kx, 2] = weight
                samples[n, row, kx, 3] = 0
