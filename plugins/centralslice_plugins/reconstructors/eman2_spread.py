"""Insertion with Gaussians whose width grows with frequency (gauss_3, gauss_var), exactly evaluated.

The fixed kernels go through the framework's own loop; this one differs from it only in the window, and
fills the same grid (see :class:`centralslice.fourier.grid.FourierGrid`) with the same four sums.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch
from centralslice.fourier.grid import FourierGrid
from centralslice.fourier.simd import add_to_plane
from centralslice_plugins.reconstructors.eman2_kernels import GAUSS_3, I3, read_sample, view_rows


@njit(nogil=True, cache=True)
def decay(mode: int, radius: float) -> float:
    """h of the Gaussian ``exp(−h δ²)`` of a mode, for a sample at this distance from the origin, voxels."""
    if mode == GAUSS_3:
        return 32.0 / ((8.0 + radius) * I3)
    return max(0.1, 1.0 / (radius * radius / 4000.0 + 0.15))


def axis_kernel(mode: int, width: int, radius: float) -> tuple[FloatArray, FloatArray]:
    """Quadrature of the kernel along one axis for samples at ``radius`` voxels from the origin.

    Returns
    -------
        Offsets u in voxels and φ(u) du with ∫ φ = 1, float64, Gauss–Legendre on each voxel of the window.
    """
    knots, weights = np.polynomial.legendre.leggauss(48)
    u = (np.arange(width)[:, None] - 0.5 * width + 0.5 * (knots + 1.0)).ravel()
    values = np.exp(-decay(mode, radius) * u * u) * np.tile(0.5 * weights, width)
    return u, values / values.sum()


def insert_gaussian(
    voxels: FloatArray, batch: SliceBatch, grid: FourierGrid, mode: int, width: int, z_range: tuple[int, int]
) -> None:
    """Add a batch to planes ``z_range`` of a grid.

    Parameters
    ----------
    voxels
        (planes, rows, columns, 4) of ``grid``.
    batch
        The slices.
    grid
        Geometry of ``voxels``.
    mode
        GAUSS_3 or GAUSS_VAR.
    width
        Voxels per axis of the window, 3 or 6.
    z_range
        First plane and one past the last.
    """
    rows = view_rows(batch.views, batch.size, grid.oversampling)
    samples = batch.samples.astype(voxels.dtype, copy=False)
    limits = np.array([min(batch.max_radius, grid.size), grid.radius, *z_range], dtype=np.float64)
    _insert(voxels, samples, rows, mode, (0,) * width, (grid.middle, grid.margin), limits)


@njit(nogil=True, cache=True)
def _fill_gaussian(out: Any, first: float, h: float, width: int) -> None:
    """``√(h/π) exp(−h (first + n)²)`` for n = 0 … width − 1, by recurrence from the voxel nearest to 0."""
    nearest = min(max(math.floor(0.5 - first), 0), width - 1)
    u = first + nearest
    step, ratio = math.exp(-h), math.exp(-2.0 * h * u)
    centre = math.sqrt(h / math.pi) * math.exp(-h * u * u)
    square = step * step
    out[nearest] = centre
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
def _insert(
    voxels: Any, samples: Any, rows: Any, mode: int, width: Any, origin: Any, limits: Any
) -> None:  # fmt: skip
    """Insert slices; ``limits``: largest radius in the slice, in the grid, first plane, end of the planes."""
    size, taps = samples.shape[1], len(width)
    half = 0.5 * taps
    middle, margin = origin
    z_first, z_end = int(limits[2]), int(limits[3])
    row_stride = voxels.shape[2] * 4
    plane_stride = voxels.shape[1] * row_stride
    lanes = 4 if taps <= 4 else 8  # as fourier.simd lays out the windows of x, y and z
    windows = np.zeros(4 * lanes, voxels.dtype)
    gx, gy, gz = windows[:lanes], windows[lanes : 2 * lanes], windows[2 * lanes : 3 * lanes]
    for row in rows:
        for y in range(-(size // 2), (size + 1) // 2):
            square = limits[0] * limits[0] - y * y
            if square < 0.0:
                continue
            for x in range(min(int(math.sqrt(square) + 1e-9), size // 2) + 1):
                px, py, pz = row[2] * x + row[5] * y, row[3] * x + row[6] * y, row[4] * x + row[7] * y
                sign = -1.0 if px < 0.0 else 1.0
                edge_z = sign * pz + middle - half
                first_z = math.ceil(edge_z)
                radius = math.sqrt(px * px + py * py + pz * pz)
                if first_z >= z_end or first_z + taps <= z_first or radius > limits[1] + 1e-6:
                    continue
                real, imaginary, weight = read_sample(samples, row, y, x)
                if weight == 0.0:
                    continue
                edge_x, edge_y = sign * px + margin - half, sign * py + middle - half
                first_x, first_y = math.ceil(edge_x), math.ceil(edge_y)
                h = decay(mode, radius)
                _fill_gaussian(gx, first_x - edge_x - half, h, taps)
                _fill_gaussian(gy, first_y - edge_y - half, h, taps)
                _fill_gaussian(gz, first_z - edge_z - half, h, taps)
                density = max(radius, 0.5)
                sample = (density * real, sign * density * imaginary, density * weight, float(weight))
                start = first_y * row_stride + first_x * 4
                for tap in range(max(0, z_first - first_z), min(taps, z_end - first_z)):
                    at = (first_z + tap) * plane_stride + start
                    add_to_plane(voxels, at, row_stride, windows, tap, sample, width)
