"""Insertion loops of the EMAN2 modes: windows of Gaussian and simpler kernels.

Two loops: ``insert_as_eman2`` repeats the peer to rounding, with its table exponential, its windows
and its handling of Friedel mates; ``spread`` is ours. Both write the grid (z, y, x // 2 + 1, 4),
[real, imaginary, weight, extra], zero frequency in the corner, and only planes of a given range.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from centralslice.conventions import FloatArray
from centralslice.data.slices import Views

NEAREST, TRILINEAR, GAUSS_2, GAUSS_3, GAUSS_5, GAUSS_VAR, TABULATED = range(7)

#: Squared 1/e half widths of the fixed Gaussians, voxels².
I2, I3, I5 = 4.0 / math.pi**2, 6.4 / math.pi**2, 10.4 / math.pi**2

#: Entries of a tabulated kernel per voxel of distance.
TABLE_STEPS = 2048

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
def table_exp(exponent):  # type: ignore[no-untyped-def]
    """The peer's exponential: steps of 1/50, relative error up to 1 %."""
    if -19.98 <= exponent <= 0.0:
        return _TABLE_EXP[int(math.floor(-50.0 * exponent + 0.5))]
    return math.exp(exponent)


@njit(nogil=True, cache=True)
def add_as_eman2(grid, i, j, k, sample, z_lo, z_hi):  # type: ignore[no-untyped-def]
    """Add (re, im, weight) at frequency (i, j, k): values to both mates on planes 0 and H, weights to one."""
    size = grid.shape[0]
    half = size // 2
    if abs(i) > half or abs(j) > half or abs(k) > half:
        return
    re, im, weight = sample
    direct_z, direct_y = k % size, j % size
    mate_z, mate_y = -k % size, -j % size
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
def _eman2_window(mode):  # type: ignore[no-untyped-def]
    """(offset added before the floor, voxels per axis) of a mode."""
    if mode == NEAREST:
        return 0.5, 1
    if mode == TRILINEAR or mode == GAUSS_2:
        return 0.0, 2
    if mode == GAUSS_3:
        return -0.5, 3
    return -2.5, 6


@njit(nogil=True, cache=True)
def _eman2_decay(mode, radius_squared):  # type: ignore[no-untyped-def]
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
def _read_sample(samples, row, y, x):  # type: ignore[no-untyped-def]
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
def insert_as_eman2(samples, rows, grid, mode, z_lo, z_hi):  # type: ignore[no-untyped-def]
    """Insert prepared slices as EMAN2's ``fourier`` reconstructor does; even sizes only.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) as :func:`centralslice.fourier.eman2_compat.prepare_eman2` makes them.
    rows
        From :func:`view_rows`.
    grid
        (N, N, N // 2 + 1, 4).
    mode
        One of the codes of this module.
    z_lo, z_hi
        Planes to write.
    """
    size = samples.shape[1]
    offset, width = _eman2_window(mode)
    for row in rows:
        for y in range(-(size // 2), size // 2):
            for x in range(size // 2 + 1):
                if math.floor(math.sqrt(x * x + y * y) + 0.5) > size // 2:
                    continue
                re, im, weight = _read_sample(samples, row, y, x)
                if weight == 0.0:
                    continue
                px, py, pz = row[2] * x + row[5] * y, row[3] * x + row[6] * y, row[4] * x + row[7] * y
                i0, j0, k0 = math.floor(px + offset), math.floor(py + offset), math.floor(pz + offset)
                h, factor = _eman2_decay(mode, px * px + py * py + pz * pz)
                for k in range(k0, k0 + width):
                    for j in range(j0, j0 + width):
                        for i in range(i0, i0 + width):
                            if mode == NEAREST:
                                g = 1.0
                            elif mode == TRILINEAR:
                                g = (1.0 - abs(i - px)) * (1.0 - abs(j - py)) * (1.0 - abs(k - pz))
                            else:
                                g = factor * table_exp(-h * ((i - px) ** 2 + (j - py) ** 2 + (k - pz) ** 2))
                            add_as_eman2(grid, i, j, k, (re * g, im * g, weight * g), z_lo, z_hi)


@njit(nogil=True, cache=True)
def decay(mode, radius_squared):  # type: ignore[no-untyped-def]
    """h of the Gaussian ``exp(−h δ²)`` of a mode, for a sample at this squared distance from the origin."""
    if mode == GAUSS_2:
        return 1.0 / I2
    if mode == GAUSS_5:
        return 1.0 / I5
    if mode == GAUSS_3:
        return 32.0 / ((8.0 + math.sqrt(radius_squared)) * I3)
    return max(0.1, 1.0 / (radius_squared / 4000.0 + 0.15))


@njit(nogil=True, cache=True)
def _gaussian(out, first, width, h):  # type: ignore[no-untyped-def]
    """``exp(−h (first + n)²)``, n = 0 … width − 1, by recurrence from the voxel nearest to 0."""
    nearest = min(max(int(math.floor(0.5 - first)), 0), width - 1)
    u = first + nearest
    step, ratio = math.exp(-h), math.exp(-2.0 * h * u)
    square = step * step
    out[nearest] = centre = math.exp(-h * u * u)
    value, growth = centre, step * ratio
    for n in range(nearest + 1, width):
        value *= growth
        growth *= square
        out[n] = value
    value, growth = centre, step / ratio
    for n in range(nearest - 1, -1, -1):
        value *= growth
        growth *= square
        out[n] = value


@njit(nogil=True, cache=True)
def _axis(out, position, mode, h, table):  # type: ignore[no-untyped-def]
    """Fill ``out`` with the kernel along one axis; returns the first cell. Widths as in :func:`width_of`."""
    if mode == NEAREST:
        out[0] = 1.0
        return int(math.floor(position + 0.5))
    if mode == TABULATED:
        width = len(out)
        first = int(math.ceil(position - 0.5 * width))
        for n in range(width):
            place = abs(first + n - position) * TABLE_STEPS
            cell = int(place)
            out[n] = table[cell] + (place - cell) * (table[cell + 1] - table[cell])
        return first
    if mode == GAUSS_3:
        first = int(math.floor(position - 0.5))
    elif mode == TRILINEAR or mode == GAUSS_2:
        first = int(math.floor(position))
    else:
        first = int(math.floor(position)) - 2
    if mode == TRILINEAR:
        out[1] = position - first
        out[0] = 1.0 - out[1]
    else:
        _gaussian(out, first - position, len(out), h)
    return first


def width_of(mode: int, table: FloatArray) -> int:
    """Cells per axis of a mode's window; a tabulated kernel reaches as far as its table."""
    if mode == TABULATED:
        return int(2 * (len(table) - 2) // TABLE_STEPS)
    return {NEAREST: 1, TRILINEAR: 2, GAUSS_2: 2, GAUSS_3: 3}.get(mode, 6)


@njit(nogil=True, cache=True)
def _add_window(grid, sample, cells, kernel, z_range, periodic):  # type: ignore[no-untyped-def]
    """Add one sample under its window; the x of the sample is not negative.

    Cells with x < 0 go to their mate. Of the plane x = 0 only the cell itself is written; finish adds the mates.
    """
    i0, j0, k0 = cells
    gx, gy, gz = kernel
    z_lo, z_hi = z_range
    size, width = grid.shape[1], len(gx)
    half = size // 2
    negative = min(max(-i0, 0), width)
    inside = min(half + 1 - i0, width)
    for c in range(width):
        k = k0 + c
        direct_z, mate_z = k % size, -k % size
        writes_direct, writes_mate = z_lo <= direct_z < z_hi, z_lo <= mate_z < z_hi
        if not (writes_direct or writes_mate) or (abs(k) > half and not periodic):
            continue
        for b in range(width):
            j = j0 + b
            if abs(j) > half and not periodic:
                continue
            g = gz[c] * gy[b]
            re, im, weight, extra = sample[0] * g, sample[1] * g, sample[2] * g, sample[3] * g
            if writes_direct:
                line = grid[direct_z, j % size]
                for a in range(negative, inside):
                    line[i0 + a, 0] += gx[a] * re
                    line[i0 + a, 1] += gx[a] * im
                    line[i0 + a, 2] += gx[a] * weight
                    line[i0 + a, 3] += gx[a] * extra
            if writes_mate:
                line = grid[mate_z, -j % size]
                for a in range(width):
                    if a < negative:
                        i = -(i0 + a)
                    elif a >= inside and periodic:
                        i = size - i0 - a
                    else:
                        continue
                    line[i, 0] += gx[a] * re
                    line[i, 1] -= gx[a] * im
                    line[i, 2] += gx[a] * weight
                    line[i, 3] += gx[a] * extra


@njit(nogil=True, cache=True)
def spread(samples, rows, grid, mode, table, z_range):  # type: ignore[no-untyped-def]
    """Insert slices, each measured frequency once; any box parity.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) as in SliceBatch.
    rows
        From :func:`view_rows`.
    grid
        (N, N, N // 2 + 1, 4), same dtype as the samples or wider.
    mode
        Code of the kernel. A tabulated kernel wraps around the grid and its samples are weighted by
        their distance from the origin (the fourth sum keeps the weights without that); the others end
        at Nyquist and leave the fourth sum at 0.
    table
        Tabulated kernel from distance 0, ``TABLE_STEPS`` entries a voxel; any array for other modes.
        The last two entries are beyond the window.
    z_range
        First plane to write, and the one after the last.
    """
    size = samples.shape[1]
    width = 6
    if mode == TABULATED:
        width = 2 * (len(table) - 2) // TABLE_STEPS
    elif mode == NEAREST:
        width = 1
    elif mode == GAUSS_3:
        width = 3
    elif mode == TRILINEAR or mode == GAUSS_2:
        width = 2
    gx, gy, gz = np.empty(width, grid.dtype), np.empty(width, grid.dtype), np.empty(width, grid.dtype)
    values = np.zeros(4, grid.dtype)
    tabulated = mode == TABULATED
    z_lo, z_hi = z_range
    reach = 0.5 * width + 1.0
    whole = z_hi - z_lo == grid.shape[0]
    for row in rows:
        for y in range(-(size // 2), (size + 1) // 2):
            for x in range(size // 2 + 1):
                re, im, weight = _read_sample(samples, row, y, x)
                if weight == 0.0:
                    continue
                px, py, pz = row[2] * x + row[5] * y, row[3] * x + row[6] * y, row[4] * x + row[7] * y
                if not whole and not _touches(pz, reach, z_lo, z_hi, grid.shape[0]):
                    continue
                if px < 0.0:
                    px, py, pz, im = -px, -py, -pz, -im
                radius_squared = px * px + py * py + pz * pz
                # zero frequency is its own mate: finish adds mates, so it is given half
                share = 0.5 if x == 0 and y == 0 else 1.0
                density = max(math.sqrt(radius_squared), 0.5) * share if tabulated else share
                values[0], values[1], values[2] = re * density, im * density, weight * density
                values[3] = weight * share if tabulated else 0.0
                h = decay(mode, radius_squared)
                cells = (_axis(gx, px, mode, h, table), _axis(gy, py, mode, h, table), _axis(gz, pz, mode, h, table))
                _add_window(grid, values, cells, (gx, gy, gz), z_range, tabulated)


@njit(nogil=True, cache=True)
def _touches(position, reach, z_lo, z_hi, size):  # type: ignore[no-untyped-def]
    """Whether a window about ±position can meet the planes, whatever the wrap."""
    for centre in (position % size, -position % size):
        for wrap in (-size, 0, size):
            if centre + wrap + reach >= z_lo and centre + wrap - reach < z_hi:
                return True
    return False
