"""The insertion loops of EMAN2's ``fourier_iter`` reconstructor."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from centralslice.fourier.eman2_compat import RADIUS_MARGIN
from centralslice_plugins.reconstructors.eman2_kernels import (
    add_as_eman2,
    position_as_eman2,
    reaches,
    read_sample,
    table_exp,
)


@njit(nogil=True, cache=True)
def _frequency(spectrum: Any, i: int, j: int, k: int) -> complex:
    """Value at any frequency of a half transform; 0 beyond Nyquist."""
    size = spectrum.shape[0]
    half = size // 2
    if abs(i) > half or abs(j) > half or abs(k) > half:
        return 0j
    if i < 0:
        mate = spectrum[-k % size, -j % size, -i]
        return complex(mate.real, -mate.imag)
    value = spectrum[k % size, j % size, i]
    return complex(value.real, value.imag)


@njit(nogil=True, cache=True)
def _trilinear(spectrum: Any, px: float, py: float, pz: float) -> complex:
    """Half transform between its voxels."""
    i, j, k = math.floor(px), math.floor(py), math.floor(pz)
    u, v, w = px - i, py - j, pz - k
    total = 0j
    for c in range(2):
        for b in range(2):
            for a in range(2):
                share = (u if a else 1.0 - u) * (v if b else 1.0 - v) * (w if c else 1.0 - w)
                total += share * _frequency(spectrum, i + a, j + b, k + c)
    return total


@njit(nogil=True, cache=True)
def insert_iteratively(samples: Any, rows: Any, grid: Any, spectrum: Any, limit: float, z_range: Any) -> None:
    """Insert slices, each sample extrapolated to the voxels around it along a reference map.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) as :func:`centralslice.fourier.eman2_compat.prepare_eman2` makes them.
    rows
        From :func:`centralslice_plugins.reconstructors.eman2_kernels.view_rows`; scale: slice / image size.
    grid
        (N, N, N // 2 + 1, 4).
    spectrum
        Half transform (N, N, N // 2 + 1) of the reference; one of size 0 for none.
    limit
        Samples farther than this from the origin, in index units, are not inserted.
    z_range
        First plane to write, and the one after the last.
    """
    z_lo, z_hi = z_range
    size, volume = samples.shape[1], grid.shape[0]
    last = volume // 2 - 1
    guided = spectrum.shape[0] > 0
    for row in rows:
        for y in range(-(size // 2), size // 2):
            for x in range(size // 2 + 1):
                radius = math.sqrt(x * x + y * y)
                if math.floor(radius + 0.5) > size // 2 + RADIUS_MARGIN or radius > limit:
                    continue
                re, im, weight = read_sample(samples, row, y, x)
                if weight == 0.0:
                    continue
                px, py, pz = position_as_eman2(row, x, y, size, volume)
                i0, j0, k0 = math.floor(px - 2.5), math.floor(py - 2.5), math.floor(pz - 2.5)
                h = 0.5 if guided else max(0.1, 1.0 / ((px * px + py * py + pz * pz) / 4000.0 + 0.15))
                here = _trilinear(spectrum, px, py, pz) if guided else 0j
                for k in range(max(k0, -last), min(k0 + 5, last) + 1):
                    if not reaches(k, i0, 6, volume, z_range):
                        continue
                    for j in range(max(j0, -last), min(j0 + 5, last) + 1):
                        for i in range(max(i0, -last), min(i0 + 5, last) + 1):
                            if guided and i * i + j * j + k * k > 0.25 * volume * volume:
                                continue
                            g = table_exp(-h * ((i - px) ** 2 + (j - py) ** 2 + (k - pz) ** 2))
                            change = _frequency(spectrum, i, j, k) - here if guided else 0j
                            value = (re + weight * change.real, im + weight * change.imag)
                            sample = (value[0] * g, value[1] * g, weight * g)
                            add_as_eman2(grid, i, j, k, sample, z_lo, z_hi)
