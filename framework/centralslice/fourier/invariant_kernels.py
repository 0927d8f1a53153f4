"""Inner loops of :mod:`centralslice.fourier.invariants`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from centralslice.conventions import ComplexArray, FloatArray

#: Real size of the coefficients of the bispectrum's slices, 2 (32 + 10), and its half.
GRID = 84
HALF = GRID // 2
#: Third frequencies of the bispectrum, and the half size of each slice.
SLICES = 10
REACH = 16
#: Highest harmonic.
HARMONICS = 4


@njit(nogil=True, cache=True)
def _turned(c: ComplexArray, x: float, y: float) -> complex:
    """Bilinear c at (x, y), 0 beyond the circle and where a Friedel mate of the row ky = 0 would be needed.

    ``c[j, k + HALF]`` is the coefficient at (j, k), j = 0 … HALF, k = −HALF … HALF − 1.
    """
    if x * x + y * y >= HALF * HALF:
        return 0j
    x0, y0 = math.floor(x), math.floor(y)
    value = 0j
    for right in range(2):
        for up in range(2):
            i, j = x0 + right, y0 + up
            weight = (x - x0 if right else 1 - x + x0) * (y - y0 if up else 1 - y + y0)
            if i >= 0:
                value += weight * c[i, (j + HALF) % GRID]
            elif j == 0:
                return 0j
            else:
                value += weight * c[-i, (HALF - j) % GRID].conjugate()
    return value


@njit(nogil=True, cache=True)
def accumulate_bispectrum(
    c: ComplexArray, cosine: float, sine: float, turned: ComplexArray, sums: ComplexArray
) -> None:
    """Add one direction to ``sums`` (SLICES, REACH, 2 REACH).

    ``turned`` (2 REACH + SLICES, 2 REACH) is room for the coefficients turned by the angle;
    ``turned[j, k + REACH]`` is at (j, k).
    """
    for j in range(turned.shape[0]):
        for k in range(-REACH, REACH):
            turned[j, k + REACH] = _turned(c, j * cosine - k * sine, j * sine + k * cosine)
    for dk in range(SLICES):
        for j in range(max(0, 4 - dk), REACH):
            along_x = turned[j + dk, REACH]
            for k in range(0 if j == 0 else -REACH, REACH):
                both = turned[2 * j + dk, k + REACH]
                product = turned[j, k + REACH] * along_x * both.conjugate()
                sums[dk, j, k + REACH] += product
                if j == 0:
                    sums[dk, j, REACH - k] += product.conjugate()


@njit(nogil=True, cache=True)
def _coefficient(c: ComplexArray, x: float, y: float) -> complex:
    """Bilinear coefficient at (x, y); ``c[ky + K, kx]``, kx = 0 … K, ky = −K … K."""
    reach = c.shape[1] - 1
    x0, y0 = math.floor(x), math.floor(y)
    value = 0j
    for right in range(2):
        for up in range(2):
            i, j = x0 + right, y0 + up
            weight = (x - x0 if right else 1 - x + x0) * (y - y0 if up else 1 - y + y0)
            value += weight * (c[j + reach, i] if i >= 0 else c[reach - j, -i].conjugate())
    return value


@njit(nogil=True, cache=True)
def _root(first: complex, second: complex, order: int, scale: float) -> complex:
    """``t = first · conj(second)^order`` with its size taken to ``|t|^(1/(order+1)) / scale``."""
    product: complex = first * second.conjugate() ** order
    size: float = abs(product)
    if size == 0:
        return 0j
    rooted: float = size ** (1 / (order + 1))
    return product / size * (rooted / scale)


@njit(nogil=True, cache=True)
def translational_harmonics(c: ComplexArray, ny: int, rows: ComplexArray) -> None:
    """Invariants to translation for each azimuth, ``rows`` (ny // 2, azimuths); rows beyond the last stay 0."""
    azimuths = rows.shape[1]
    for azimuth in range(azimuths):
        angle = 2 * math.pi * (azimuth + 0.5) / azimuths
        cosine, sine = math.cos(angle), math.sin(angle)
        row = 0
        for radius in range(3, ny // 4):
            base = _coefficient(c, radius * cosine, radius * sine)
            for harmonic in range(2, HARMONICS + 1):
                if row >= ny // 2:
                    break
                far = harmonic * radius
                rows[row, azimuth] = _root(
                    _coefficient(c, far * cosine, far * sine), base, harmonic, float(ny)
                )
                row += 1


@njit(nogil=True, cache=True)
def rotational_harmonics(spectra: ComplexArray, columns: ComplexArray) -> None:
    """Invariants to rotation, ``columns`` (m, azimuths // 2), of azimuthal spectra (m, azimuths)."""
    count, azimuths = spectra.shape
    for row in range(count):
        column = 0
        for order in range(1, azimuths // 2):
            for harmonic in range(2, HARMONICS + 1):
                if order * harmonic >= azimuths or column >= azimuths // 2:
                    break
                columns[row, column] = _root(
                    spectra[row, order * harmonic], spectra[row, order], harmonic, float(azimuths)
                )
                column += 1


def turning_angles() -> FloatArray:
    """(51,) radians: multiples of 360° / 16π below 360°, summed in single precision as EMAN2 does."""
    step, angle, angles = np.float32(360 / (16 * np.pi)), np.float32(0), []
    while angle < 360:
        angles.append(float(angle))
        angle = np.float32(angle + step)
    radians: FloatArray = np.deg2rad(np.array(angles))
    return radians


def bispectrum(c: ComplexArray) -> ComplexArray:
    """(SLICES, REACH, 2 REACH) bispectral sums of coefficients ``c[j, k + HALF]`` over all directions."""
    sums = np.zeros((SLICES, REACH, 2 * REACH), np.complex128)
    turned = np.zeros((2 * REACH + SLICES, 2 * REACH), np.complex128)
    for angle in turning_angles().tolist():
        accumulate_bispectrum(c, math.cos(angle), math.sin(angle), turned, sums)
    return sums
