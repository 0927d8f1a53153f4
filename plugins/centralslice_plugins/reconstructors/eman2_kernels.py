"""The insertion loop of EMAN2's ``fourier`` reconstructor, repeated to rounding.

With its table exponential, its windows and its handling of Friedel mates, for ``--compat eman2``; our own
loop is in ``eman2_spread``. The grid is (z, y, x // 2 + 1, 4), [real, imaginary, weight, not used], zero
frequency in the corner; only planes of a given range are written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from centralslice.conventions import FloatArray
from centralslice.data.slices import Views

NEAREST, TRILINEAR, GAUSS_2, GAUSS_3, GAUSS_5, GAUSS_VAR = range(6)

#: Squared 1/e half widths of the fixed Gaussians, voxels².
I2, I3, I5 = 4.0 / math.pi**2, 6.4 / math.pi**2, 10.4 / math.pi**2

#: Weights below the smallest normal float32 are lost in the peer, which decides what its tails fill.
SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)

_TABLE_EXP = np.exp(-np.arange(1000) / 50.0)


def view_rows(views: Views, slice_size: int, scale: float) -> FloatArray:
    """Views as the rows the loops read.

    Parameters
    ----------
    views
        Where the slices go.
    slice_size
        Size of the slices, pixels.
    scale
        Grid cells per cycle per unpadded box: grid size / image size.

    Returns
    -------
        (v, 10) float64: slice number, factor, grid position (x, y, z) per kx, the same per ky, and the
        phase in radians per kx and per ky.
    """
    rows = np.empty((len(views), 10))
    rows[:, 0] = views.slice_number
    rows[:, 1] = views.factors
    rows[:, 2:8] = (views.matrices[:, :2, :] * scale).reshape(-1, 6)
    rows[:, 8:] = -2.0 * math.pi / slice_size * views.shifts
    return rows


@njit(nogil=True, cache=True)
def table_exp(exponent: Any) -> Any:
    """The peer's exponential: steps of 1/50, relative error up to 1 %."""
    if -19.98 <= exponent <= 0.0:
        return _TABLE_EXP[math.floor(-50.0 * exponent + 0.5)]
    return math.exp(exponent)


@njit(nogil=True, cache=True)
def add_as_eman2(grid: Any, i: Any, j: Any, k: Any, sample: Any, z_lo: Any, z_hi: Any) -> Any:
    """Add (re, im, weight) at frequency (i, j, k): values to both mates on planes 0 and H, weights to one."""
    size = grid.shape[0]
    half = size // 2
    if abs(i) > half or abs(j) > half or abs(k) > half:
        return
    re, im, weight = sample
    direct_z, direct_y = (k if k >= 0 else k + size), (j if j >= 0 else j + size)
    mate_z, mate_y = (-k if k <= 0 else size - k), (-j if j <= 0 else size - j)
    column = abs(i)
    if i == 0 or column == half:
        if j == 0 and k == 0:
            if z_lo <= 0 < z_hi:
                grid[0, 0, column, 0] += re
                grid[0, 0, column, 2] += weight
            return
        if z_lo <= mate_z < z_hi:
            grid[mate_z, mate_y, column, 0] += re
            grid[mate_z, mate_y, column, 1] -= im
    if i < 0:
        direct_z, direct_y, im = mate_z, mate_y, -im
    if z_lo <= direct_z < z_hi:
        grid[direct_z, direct_y, column, 0] += re
        grid[direct_z, direct_y, column, 1] += im
        grid[direct_z, direct_y, column, 2] += weight


@njit(nogil=True, cache=True)
def position_as_eman2(row: Any, x: int, y: int, slice_size: int, grid_size: int) -> Any:
    """Grid position (x, y, z) of a sample in single precision, in the peer's order of operations.

    Positions half-way between voxels, as tilts of 60° have them, fall to the same side only so.
    ``row`` is for scale slice size / image size: it holds the bare rotation.
    """
    fx, fy = np.float32(x / slice_size), np.float32(y / slice_size)
    size = np.float32(grid_size)
    px = size * (np.float32(row[2]) * fx + np.float32(row[5]) * fy)
    py = size * (np.float32(row[3]) * fx + np.float32(row[6]) * fy)
    pz = size * (np.float32(row[4]) * fx + np.float32(row[7]) * fy)
    return px, py, pz


@njit(nogil=True, cache=True)
def reaches(k: int, first: int, width: int, size: int, z_range: Any) -> bool:
    """Whether voxels x = first … of frequency plane k are written to these planes, themselves or as mates."""
    last = first + width - 1
    here = last >= 0 and z_range[0] <= k % size < z_range[1]
    return here or ((first <= 0 or last >= size // 2) and z_range[0] <= -k % size < z_range[1])


@njit(nogil=True, cache=True)
def _eman2_window(mode: Any) -> Any:
    """(offset added before the floor, voxels per axis) of a mode."""
    if mode == NEAREST:
        return 0.5, 1
    if mode in (TRILINEAR, GAUSS_2):
        return 0.0, 2
    if mode == GAUSS_3:
        return -0.5, 3
    return -2.5, 6


@njit(nogil=True, cache=True)
def _eman2_decay(mode: Any, radius_squared: Any) -> Any:
    """(h, factor) of ``factor E(−h δ²)`` for a sample at this squared distance from the origin, voxels²."""
    if mode == GAUSS_2:
        return 1.0 / I2, 1.0
    if mode == GAUSS_5:
        return 1.0 / I5, 1.0
    if mode == GAUSS_3:
        h = 32.0 / ((8.0 + math.sqrt(radius_squared)) * I3)
        return h, 1.0 / (1.0 + 6.0 * table_exp(-h) + 12.0 * table_exp(-2.0 * h) + 8.0 * table_exp(-3.0 * h))
    return max(0.1, 1.0 / (radius_squared / 4000.0 + 0.15)), 1.0


@njit(nogil=True, cache=True)
def read_sample(samples: Any, row: Any, y: Any, x: Any) -> Any:
    """(re, im, weight) of a sample under a view's factor and shift; y is signed."""
    entry = samples[int(row[0]), y, x]
    factor = row[1]
    re, im, weight = entry[0] * factor, entry[1] * factor, entry[2] * factor
    if row[8] != 0.0 or row[9] != 0.0:
        angle = row[8] * x + row[9] * y
        cosine, sine = math.cos(angle), math.sin(angle)
        re, im = re * cosine - im * sine, re * sine + im * cosine
    return re, im, weight


@njit(nogil=True, cache=True)
def insert_as_eman2(samples: Any, rows: Any, grid: Any, mode: int, limit: float, z_range: Any) -> None:
    """Insert prepared slices as EMAN2's ``fourier`` reconstructor does; even sizes only.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) as :func:`centralslice.fourier.eman2_compat.prepare_eman2` makes them.
    rows
        From :func:`view_rows`, for scale slice size / image size.
    grid
        (N, N, N // 2 + 1, 4).
    mode
        One of the codes of this module.
    limit
        Samples farther than this from the origin, in index units, are not inserted; nor those that round
        to more than n / 2.
    z_range
        First plane to write, and the one after the last.
    """
    z_lo, z_hi = z_range
    size = samples.shape[1]
    offset, width = _eman2_window(mode)
    for row in rows:
        for y in range(-(size // 2), size // 2):
            for x in range(size // 2 + 1):
                radius = math.sqrt(x * x + y * y)
                if math.floor(radius + 0.5) > size // 2 or radius > limit:
                    continue
                re, im, weight = read_sample(samples, row, y, x)
                if weight == 0.0:
                    continue
                px, py, pz = position_as_eman2(row, x, y, size, grid.shape[0])
                i0, j0, k0 = math.floor(px + offset), math.floor(py + offset), math.floor(pz + offset)
                h, factor = _eman2_decay(mode, px * px + py * py + pz * pz)
                for k in range(k0, k0 + width):
                    if not reaches(k, i0, width, grid.shape[0], z_range):
                        continue
                    for j in range(j0, j0 + width):
                        for i in range(i0, i0 + width):
                            if mode == NEAREST:
                                g = 1.0
                            elif mode == TRILINEAR:
                                g = (1.0 - abs(i - px)) * (1.0 - abs(j - py)) * (1.0 - abs(k - pz))
                            else:
                                g = factor * table_exp(-h * ((i - px) ** 2 + (j - py) ** 2 + (k - pz) ** 2))
                            single = np.float32(g)
                            if single >= SMALLEST_NORMAL:
                                sample = (re * single, im * single, weight * single)
                                add_as_eman2(grid, i, j, k, sample, z_lo, z_hi)
