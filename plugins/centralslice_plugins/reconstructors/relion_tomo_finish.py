"""From sums to the map as RELION's subtomogram averaging does it, in double precision; even boxes only."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice_plugins.reconstructors.relion_tomo_kernels import average_plane, divide_plane, radial_sums

#: Entries of operators below this are 0.
_SMALLEST_ENTRY = 1e-6
#: The peer divides by this where the profile of its kernel is smaller.
_SMALLEST_PROFILE = 0.01


def symmetrised(
    voxels: FloatArray, copies: tuple[FloatArray, FloatArray], voxel_size_angst: float, parallel: ParallelMap
) -> FloatArray:
    """Sums averaged over operators, values and weights alike.

    Parameters
    ----------
    voxels
        (n, n, n // 2 + 1, 3) sums.
    copies
        (m, 3, 3) rotations and (m, 3) translations in Å, identity first: ``V(S r + t) = V(r)``.
    voxel_size_angst
        Å.
    parallel
        Threads.
    """
    rotations = np.where(np.abs(copies[0]) < _SMALLEST_ENTRY, 0.0, copies[0])[1:]
    shifts = np.ascontiguousarray(copies[1][1:] / voxel_size_angst, np.float64)
    averaged = np.empty_like(voxels)
    parallel(
        lambda z: average_plane(voxels, rotations, shifts, z, averaged[z]),
        range(len(voxels)),
    )
    return averaged


def numerator_map(voxels: FloatArray, parallel: ParallelMap) -> FloatArray:
    """(n, n, n) float64 map of the values alone, centred, divided by sinc² of the radius for the gather's kernel."""
    size = len(voxels)
    spectrum = np.empty(voxels.shape[:3], np.complex128)
    sign = _alternating(size)

    def plane(z: int) -> None:
        centring = -sign if z % 2 else sign  # moves the map's centre from the corner to n / 2
        spectrum[z] = (voxels[z, ..., 0] + 1j * voxels[z, ..., 1]) * centring

    parallel(plane, range(size))
    data = inverse_transform(spectrum, parallel)
    squared = (np.arange(size) - size // 2.0) ** 2

    def correct(z: int) -> None:
        radius = np.sqrt(squared[z] + squared[:, None] + squared) / size
        data[z] /= np.maximum(np.sinc(radius) ** 2, _SMALLEST_PROFILE)

    parallel(correct, range(size))
    return data


def divided(
    numerator: FloatArray, weights: FloatArray, wiener_snr: float | None, parallel: ParallelMap
) -> FloatArray:
    """The map: the numerator over its weights in Fourier space.

    Parameters
    ----------
    numerator
        (n, n, n) float64, from :func:`numerator_map`.
    weights
        (n, n, n // 2 + 1), zero frequency in the corner.
    wiener_snr
        ``1 / SNR`` is added to the weights; None: weights below a thousandth of their mean at that radius
        are raised to it, and frequencies from Nyquist on are 0.
    parallel
        Threads.
    """
    spectrum = forward_transform(numerator, parallel)
    if wiener_snr is not None:
        constant = 1.0 / wiener_snr

        def divide(z: int) -> None:
            spectrum[z] /= weights[z] + constant
    else:
        means = _radial_means(weights, parallel)

        def divide(z: int) -> None:
            divide_plane(spectrum[z], weights[z], means, z)

    parallel(divide, range(len(weights)))
    return inverse_transform(spectrum, parallel)


def forward_transform(data: FloatArray, parallel: ParallelMap) -> ComplexArray:
    """(n, n, n // 2 + 1) complex128, divided by the square root of the number of voxels."""
    size = len(data)
    spectrum = np.empty((size, size, size // 2 + 1), np.complex128)

    def plane(z: int) -> None:
        spectrum[z] = scipy.fft.rfft2(data[z])

    def slab(y: int) -> None:
        spectrum[:, y] = scipy.fft.fft(spectrum[:, y], axis=0) / size**1.5

    parallel(plane, range(size))
    parallel(slab, range(size))
    return spectrum


def inverse_transform(spectrum: ComplexArray, parallel: ParallelMap) -> FloatArray:
    """(n, n, n) float64 of an even n, with the scale that undoes :func:`forward_transform`; the spectrum is used up."""
    size = len(spectrum)
    data = np.empty((size,) * 3)

    def slab(y: int) -> None:
        spectrum[:, y] = scipy.fft.ifft(spectrum[:, y], axis=0)

    def plane(z: int) -> None:
        data[z] = scipy.fft.irfft2(spectrum[z], s=(size, size)) * size**1.5

    parallel(slab, range(size))
    parallel(plane, range(size))
    return data


def _alternating(size: int) -> FloatArray:
    """(n, n // 2 + 1) of (−1)^(x + y)."""
    signs: FloatArray = 1.0 - 2.0 * ((np.arange(size)[:, None] + np.arange(size // 2 + 1)) % 2)
    return signs


def _radial_means(weights: FloatArray, parallel: ParallelMap) -> FloatArray:
    """(n // 2 + 1,) mean weight at each whole radius."""
    parts = parallel(lambda z: radial_sums(weights[z], z), range(len(weights)))
    columns = [[part[radius] for part in parts] for radius in range(len(parts[0]))]
    totals = np.array([[math.fsum(pair[side] for pair in column) for side in (0, 1)] for column in columns])
    means: FloatArray = totals[:, 0] / totals[:, 1]
    return means
