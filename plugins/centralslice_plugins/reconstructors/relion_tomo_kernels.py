"""The loops of RELION's subtomogram averaging: slices gathered by voxels, sums averaged over a symmetry.

Sums are (z, y, x // 2 + 1, 3), [real, imaginary, weight], of an even box, zero frequency in the corner; index
n / 2 of y and z is the negative Nyquist frequency. Reads beyond the last column take column n / 2 − 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch

#: Coordinates closer to 0 are 0: a rounding error below it would be read as the row before.
NEARLY_ZERO = 1e-9


def gather_rows(batch: SliceBatch) -> FloatArray:
    """Views as the rows :func:`gather_slices` reads.

    Returns
    -------
        (v, 12) float64: slice number, factor, radius limit, and the matrix (A⁻¹)ᵀ that takes a voxel's
        frequency to the slice's frame, row by row.
    """
    views = batch.views
    rows = np.empty((len(views), 12))
    rows[:, 0] = views.slice_number
    rows[:, 1] = views.factors
    rows[:, 2] = batch.max_radius if batch.radii is None else batch.radii[views.slice_number]
    rows[:, 3:] = np.swapaxes(np.linalg.inv(views.matrices), 1, 2).reshape(-1, 9)
    return rows


@njit(nogil=True, cache=True)
def _interval(slope: float, start: float, last: int) -> tuple[int, int]:
    """First and last x of 0 … ``last`` where ``|slope · x + start| < 1`` may hold; one more at either end."""
    if abs(slope) * (last + 1) < NEARLY_ZERO:
        return (0, last) if abs(start) < 1.0 + NEARLY_ZERO else (0, -1)
    one, other = (-1.0 - start) / slope, (1.0 - start) / slope
    low, high = min(one, other), max(one, other)
    if high < 0.0 or low > last:
        return 0, -1
    return max(int(low), 0), int(min(high + 1.0, last))


@njit(nogil=True, cache=True)
def _bilinear(samples: Any, u: float, v: float) -> tuple[float, float, float]:
    """(re, im, weight) of a slice (n, n // 2 + 1, ≥ 3) at frequency (u, v)."""
    size = samples.shape[0]
    half = size // 2
    sign = 1.0
    if u < 0.0:
        u, v, sign = -u, -v, -1.0
    if abs(v) < NEARLY_ZERO:
        v = 0.0
    if v < 0.0:
        v += size
    x0, y0 = int(u), int(v)
    fx, fy = u - x0, v - y0
    x0 = min(x0, half)
    x1 = x0 + 1 if x0 < half else half - 1
    y0 = min(y0, size - 1)
    y1 = y0 + 1 if y0 < size - 1 else 0
    a, b, c, d = (1.0 - fy) * (1.0 - fx), (1.0 - fy) * fx, fy * (1.0 - fx), fy * fx
    p, q, r, s = samples[y0, x0], samples[y0, x1], samples[y1, x0], samples[y1, x1]
    return (
        a * p[0] + b * q[0] + c * r[0] + d * s[0],
        sign * (a * p[1] + b * q[1] + c * r[1] + d * s[1]),
        a * p[2] + b * q[2] + c * r[2] + d * s[2],
    )


@njit(nogil=True, cache=True)
def gather_slices(samples: Any, rows: Any, voxels: Any, z_range: Any) -> None:
    """Add to each voxel what every slice within one index of it holds there; even sizes only.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4), all of them: both mates of column 0, Nyquist row and column.
    rows
        From :func:`gather_rows`.
    voxels
        (n, n, n // 2 + 1, 3) sums.
    z_range
        First plane to write, and the one after the last.

    Notes
    -----
    Voxel k of at most the slice's radius is at ``p = (A⁻¹)ᵀ k`` in its frame and takes ``1 − |p_z|`` of the
    bilinear value at (p_x, p_y). Views are added in their order.
    """
    size = voxels.shape[0]
    half = size // 2
    for z in range(z_range[0], z_range[1]):
        kz = z if z < half else z - size
        for row in rows:
            image = samples[int(row[0])]
            factor, squared, matrix = row[1], row[2] * row[2], row[3:]
            for y in range(size):
                ky = y if y < half else y - size
                rest = squared - ky * ky - kz * kz
                if rest < 0.0:
                    continue
                start_x = matrix[1] * ky + matrix[2] * kz
                start_y = matrix[4] * ky + matrix[5] * kz
                start_z = matrix[7] * ky + matrix[8] * kz
                first, last = _interval(matrix[6], start_z, min(int(math.sqrt(rest)), half))
                for x in range(first, last + 1):
                    height = factor * (1.0 - abs(matrix[6] * x + start_z))
                    u, v = matrix[0] * x + start_x, matrix[3] * x + start_y
                    if height <= 0.0 or abs(u) >= half + 1 or abs(v) >= half + 1:
                        continue
                    re, im, weight = _bilinear(image, u, v)
                    voxel = voxels[z, y, x]
                    voxel[0] += height * re
                    voxel[1] += height * im
                    voxel[2] += height * weight


@njit(nogil=True, cache=True)
def _wrapped(position: float, size: int) -> tuple[int, int, float]:
    """Neighbours along a full axis and the fraction between them."""
    if abs(position) < NEARLY_ZERO:
        position = 0.0
    if position < 0.0:
        position += size
    low = int(position)
    fraction = position - low
    low = min(low, size - 1)
    return low, (low + 1 if low < size - 1 else 0), fraction


@njit(nogil=True, cache=True)
def _trilinear(voxels: Any, x: float, y: float, z: float) -> tuple[float, float, float]:
    """(re, im, weight) of sums at frequency (x, y, z)."""
    size = voxels.shape[0]
    half = size // 2
    sign = 1.0
    if not x > 0.0:
        x, y, z, sign = -x, -y, -z, -1.0
    x0 = int(x)
    fx = x - x0
    x0 = min(x0, half)
    x1 = x0 + 1 if x0 < half else half - 1
    y0, y1, fy = _wrapped(y, size)
    z0, z1, fz = _wrapped(z, size)
    re, im, weight = 0.0, 0.0, 0.0
    for plane, share_z in ((z0, 1.0 - fz), (z1, fz)):
        for line, share_y in ((y0, 1.0 - fy), (y1, fy)):
            for column, share_x in ((x0, 1.0 - fx), (x1, fx)):
                voxel = voxels[plane, line, column]
                share = share_z * share_y * share_x
                re += share * voxel[0]
                im += share * voxel[1]
                weight += share * voxel[2]
    return re, sign * im, weight


@njit(nogil=True, cache=True)
def average_plane(voxels: Any, rotations: Any, shifts: Any, z: int, averaged: Any) -> None:
    """Mean of a plane of sums and its copies under operators other than the identity.

    Parameters
    ----------
    voxels
        (n, n, n // 2 + 1, 3) sums.
    rotations, shifts
        (m, 3, 3) and (m, 3) voxels: the map V becomes the mean of V(r) and all V(S r + t).
    z
        Which plane.
    averaged
        (n, n // 2 + 1, 3), written.
    """
    size = voxels.shape[0]
    half = size // 2
    kz = z if z < half else z - size
    share = 1.0 / (len(rotations) + 1)
    for y in range(size):
        ky = y if y < half else y - size
        for kx in range(half + 1):
            own = voxels[z, y, kx]
            re, im, weight = float(own[0]), float(own[1]), float(own[2])
            for number in range(len(rotations)):
                turn, shift = rotations[number], shifts[number]
                px = turn[0, 0] * kx + turn[0, 1] * ky + turn[0, 2] * kz
                py = turn[1, 0] * kx + turn[1, 1] * ky + turn[1, 2] * kz
                pz = turn[2, 0] * kx + turn[2, 1] * ky + turn[2, 2] * kz
                a, b, c = _trilinear(voxels, px, py, pz)
                angle = 2.0 * math.pi / size * (px * shift[0] + py * shift[1] + pz * shift[2])
                cosine, sine = math.cos(angle), math.sin(angle)
                re += a * cosine - b * sine
                im += a * sine + b * cosine
                weight += c
            averaged[y, kx, 0], averaged[y, kx, 1] = re * share, im * share
            averaged[y, kx, 2] = weight * share


@njit(nogil=True, cache=True)
def radial_sums(weights: Any, z: int) -> Any:
    """(n // 2 + 1, 2): sums of a plane's weights (n, n // 2 + 1), and of shares, split between whole radii."""
    size = weights.shape[0]
    half = size // 2
    kz = z if z < half else z - size
    sums = np.zeros((half + 2, 2))
    for y in range(size):
        ky = y if y < half else y - size
        for x in range(half + 1):
            radius = math.sqrt(float(x * x + ky * ky + kz * kz))
            low = int(radius)
            if low > half:
                continue
            fraction = radius - low
            sums[low, 0] += (1.0 - fraction) * weights[y, x]
            sums[low, 1] += 1.0 - fraction
            sums[low + 1, 0] += fraction * weights[y, x]
            sums[low + 1, 1] += fraction
    return sums[: half + 1]


@njit(nogil=True, cache=True)
def divide_plane(spectrum: Any, weights: Any, means: Any, z: int) -> None:
    """Divide a plane by its weights, at least a thousandth of their mean at that radius; 0 from the last radius on."""
    size = weights.shape[0]
    half = size // 2
    kz = z if z < half else z - size
    for y in range(size):
        ky = y if y < half else y - size
        for x in range(half + 1):
            radius = math.sqrt(float(x * x + ky * ky + kz * kz))
            low = int(radius)
            if low + 1 > half:
                spectrum[y, x] = 0.0
                continue
            fraction = radius - low
            floor = 0.001 * ((1.0 - fraction) * means[low] + fraction * means[low + 1])
            divisor = max(float(weights[y, x]), floor)
            if divisor > 0.0:
                spectrum[y, x] /= divisor
