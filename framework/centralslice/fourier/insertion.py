"""Insertion of slices into a Fourier grid: the one loop that every separable window runs through."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch
from centralslice.fourier.grid import FourierGrid
from centralslice.fourier.kernels import Window
from centralslice.fourier.simd import add_to_plane, window_values

#: Density weight of a sample: max(|k|, this), |k| in grid voxels; samples crowd as 1/|k| around the origin.
SMALLEST_DENSITY_RADIUS = 0.5


def insert_batch(
    voxels: NDArray[Any], batch: SliceBatch, grid: FourierGrid, window: Window, z_range: tuple[int, int],
    quanta: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> None:  # fmt: skip
    """Add a batch to planes ``z_range`` of a grid.

    Parameters
    ----------
    voxels
        (planes, rows, columns, 4) as :class:`FourierGrid` lays it out: Σ d·value (re, im), Σ d·weight, Σ weight,
        with the density weight d = max(|k|, ½).
    batch
        The slices.
    grid
        Geometry of ``voxels``.
    window
        Interpolation window.
    z_range
        First plane and one past the last.
    quanta
        What one unit of value, weight and plain weight stands for in integer voxels; 1 for floats.

    Notes
    -----
    Additions to a voxel come in the order (view, ky, side, kx), whatever the range.
    """
    views = batch.views
    _insert(
        voxels, batch.samples, batch.size, batch.max_radius,
        views.slice_number, np.ascontiguousarray(views.matrices * grid.oversampling), views.shifts,
        views.factors, window.table(batch.samples.dtype), (0,) * window.width, 1.0 / np.array(quanta),
        grid.middle, grid.margin, z_range[0], z_range[1],
    )  # fmt: skip


@njit(nogil=True, cache=True, inline="always")
def _interval(slope: float, offset: float, low: float, high: float, last: int) -> tuple[int, int]:
    """Integers x in 0 … last with low <= slope·x + offset <= high, with one to spare on each side."""
    if abs(slope) < 1e-9:
        if low <= offset <= high:
            return 0, last
        return 1, 0
    one, two = (low - offset) / slope, (high - offset) / slope
    first, final = min(one, two), max(one, two)
    if final < -1 or first > last + 1:
        return 1, 0
    return max(0, int(math.floor(max(first, -1.0))) - 1), min(
        last, int(math.ceil(min(final, last + 1.0))) + 1
    )


@njit(nogil=True, cache=True)
def _insert(  # noqa: PLR0913 - one numeric kernel, called from one place
    voxels: Any, samples: Any, size: int, max_radius: float, slice_number: Any, matrices: Any, shifts: Any,
    factors: Any, coefficients: Any, width: Any, scales: Any, middle: int, margin: int, z_first: int, z_end: int,
) -> None:  # fmt: skip
    taps = len(width)
    half = 0.5 * taps
    row_stride = voxels.shape[2] * 4
    plane_stride = voxels.shape[1] * row_stride
    windows = np.zeros(coefficients.shape[1], coefficients.dtype)
    to_value, to_weight, to_plain = scales[0], scales[1], scales[2]
    for view in range(len(slice_number)):
        image = samples[slice_number[view]]
        m = matrices[view]
        ax, ay, az = m[0, 0], m[0, 1], m[0, 2]
        # largest radius of this slice that stays inside the sphere of the grid, whatever its pixel size
        along, across = ax * ax + ay * ay + az * az, m[1, 0] ** 2 + m[1, 1] ** 2 + m[1, 2] ** 2
        skew = ax * m[1, 0] + ay * m[1, 1] + az * m[1, 2]
        stretch = math.sqrt(0.5 * (along + across) + math.hypot(0.5 * (along - across), skew))
        reach = min(max_radius, (middle - margin + 1e-6) / stretch)
        factor = factors[view]
        shift_x, shift_y = shifts[view, 0], shifts[view, 1]
        shifted = shift_x != 0.0 or shift_y != 0.0
        for row in range(size):
            ky = row if row <= (size - 1) // 2 else row - size
            square = reach * reach - ky * ky
            if square < 0:
                continue
            last = min(int(math.sqrt(square) + 1e-9), size // 2)
            bx, by, bz = m[1, 0] * ky, m[1, 1] * ky, m[1, 2] * ky
            for side in range(2):
                sign = 1.0 - 2.0 * side
                low = z_first - half - middle
                high = z_end + half - middle
                first, final = _interval(sign * az, sign * bz, low, high, last)
                from_x, to_x = _interval(sign * ax, sign * bx, 0.0, 1e30, last)
                for kx in range(max(first, from_x), min(final, to_x) + 1):
                    weight = image[row, kx, 2]
                    if weight == 0:
                        continue
                    x = kx * ax + bx
                    if (x < 0) != (side == 1):
                        continue
                    y = sign * (kx * ay + by)
                    z = sign * (kx * az + bz)
                    edge_z = z + middle - half
                    first_z = int(math.ceil(edge_z))
                    if first_z >= z_end or first_z + taps <= z_first:
                        continue
                    edge_y = y + middle - half
                    edge_x = sign * x + margin - half
                    first_y, first_x = int(math.ceil(edge_y)), int(math.ceil(edge_x))
                    window_values(
                        coefficients, first_x - edge_x, first_y - edge_y, first_z - edge_z, windows, width
                    )
                    real, imaginary = float(image[row, kx, 0]), float(image[row, kx, 1])
                    if shifted:
                        angle = -2.0 * math.pi * (kx * shift_x + ky * shift_y) / size
                        c, s = math.cos(angle), math.sin(angle)
                        real, imaginary = real * c - imaginary * s, real * s + imaginary * c
                    density = factor * max(math.sqrt(x * x + y * y + z * z), 0.5)
                    sample = (
                        to_value * density * real, to_value * sign * density * imaginary,
                        to_weight * density * weight, to_plain * factor * weight,
                    )  # fmt: skip
                    start = first_y * row_stride + first_x * 4
                    for tap in range(max(0, z_first - first_z), min(taps, z_end - first_z)):
                        add_to_plane(
                            voxels, (first_z + tap) * plane_stride + start, row_stride, windows, tap, sample, width
                        )  # fmt: skip


def slice_peaks(samples: FloatArray) -> FloatArray:
    """(b, 3) float64: largest |value| · radius, weight · radius and weight of each slice.

    Radius is that of the sample in slice index units, at least ½; a value counts by the larger of its parts.
    """
    peaks = np.zeros((len(samples), 3))
    _slice_peaks(peaks, samples)
    return peaks


# nothing but maxima of finite numbers: their order does not matter
@njit(nogil=True, cache=True, fastmath={"reassoc", "nnan", "nsz"})
def _slice_peaks(peaks: Any, samples: Any) -> None:
    count, size, half, _ = samples.shape
    zero = samples.dtype.type(0)
    for n in range(count):
        value, weighted, plain = zero, zero, zero
        for row in range(size):
            ky = row if row <= (size - 1) // 2 else row - size
            here = samples[n, row]
            for kx in range(half):
                square = max(samples.dtype.type(kx * kx + ky * ky), samples.dtype.type(0.25))
                real, imaginary, weight = here[kx, 0], here[kx, 1], here[kx, 2]
                value = max(value, square * max(real * real, imaginary * imaginary))
                weighted = max(weighted, square * weight * weight)
                plain = max(plain, weight)
        peaks[n, 0], peaks[n, 1], peaks[n, 2] = math.sqrt(value), math.sqrt(weighted), plain
