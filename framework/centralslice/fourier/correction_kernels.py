"""The loops behind :mod:`centralslice.fourier.correction`: fold the stored half, average over operators, divide.

``voxels`` is laid out by :class:`centralslice.fourier.grid.FourierGrid`; ``operators`` are signed permutations
(n, 3, 3) int64; ``units`` are the quanta of integer sums (value, weight, plain weight), 1 for float sums;
``limit`` is the largest |k| in grid voxels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def plane_shell_sums(voxels: Any, units: Any, plane: int, middle: int, margin: int, shells: int) -> Any:
    """Sum and count of weights (channel 2) of the half kx >= 0 of one plane, by shell."""
    result = np.zeros((2, shells))
    z = plane - middle
    for row in range(voxels.shape[1]):
        y = row - middle
        for column in range(margin, voxels.shape[2]):
            x = column - margin
            shell = int(math.sqrt(x * x + y * y + z * z))
            if shell < shells:
                weight = float(voxels[plane, row, column, 2])
                if x <= margin:
                    weight += voxels[2 * middle - plane, 2 * middle - row, margin - x, 2]
                # columns x > 0 stand for their mates too
                count = 2.0 if x > 0 else 1.0
                result[0, shell] += count * weight * units[1]
                result[1, shell] += count
    return result


@njit(nogil=True, cache=True)
def folded(voxels: Any, units: Any, x: int, y: int, z: int, middle: int, margin: int) -> Any:
    """Sums at frequency (x, y, z) of the full transform: value re, im, density-weighted weight, weight."""
    sign = 1.0
    if x < 0:
        x, y, z, sign = -x, -y, -z, -1.0
    here = voxels[z + middle, y + middle, x + margin]
    real, imaginary, weight, plain = float(here[0]), float(here[1]), float(here[2]), float(here[3])
    if x <= margin:
        mate = voxels[middle - z, middle - y, margin - x]
        real += mate[0]
        imaginary -= mate[1]
        weight += mate[2]
        plain += mate[3]
    return units[0] * real, units[0] * sign * imaginary, units[1] * weight, units[2] * plain


@njit(nogil=True, cache=True)
def gather(  # noqa: PLR0913 - part of one numeric kernel
    voxels: Any, units: Any, x: int, y: int, z: int, middle: int, margin: int, operators: Any
) -> Any:
    """Sums at a frequency, averaged over the operators."""
    if len(operators) == 1:
        return folded(voxels, units, x, y, z, middle, margin)
    real, imaginary, weight, plain = 0.0, 0.0, 0.0, 0.0
    for n in range(len(operators)):
        g = operators[n]
        part = folded(
            voxels, units, g[0, 0] * x + g[0, 1] * y + g[0, 2] * z, g[1, 0] * x + g[1, 1] * y + g[1, 2] * z,
            g[2, 0] * x + g[2, 1] * y + g[2, 2] * z, middle, margin,
        )  # fmt: skip
        real += part[0]
        imaginary += part[1]
        weight += part[2]
        plain += part[3]
    share = 1.0 / len(operators)
    return real * share, imaginary * share, weight * share, plain * share


@njit(nogil=True, cache=True)
def gather_plane(  # noqa: PLR0913 - part of one numeric kernel
    plane: Any, voxels: Any, units: Any, middle: int, margin: int, limit: float, z: int, operators: Any
) -> None:
    """Density-weighted weights of a whole plane z, both halves of x, in FFT order."""
    size = plane.shape[0]
    reach = int(limit)
    for y in range(-reach, reach + 1):
        square = limit * limit - y * y - z * z
        if square < 0:
            continue
        last = int(math.sqrt(square))
        for x in range(-last, last + 1):
            plane[y % size, x % size] = gather(voxels, units, x, y, z, middle, margin, operators)[2]


@njit(nogil=True, cache=True)
def cut_sphere(slab: Any, first_row: int, limit: float) -> None:
    """Zero what lies beyond |k| = limit."""
    size = slab.shape[0]
    for index in range(size):
        z = index if index <= size // 2 else index - size
        for row in range(slab.shape[1]):
            y = first_row + row
            square = limit * limit - y * y - z * z
            start = 0 if square < 0 else int(math.sqrt(square)) + 1
            for x in range(start, slab.shape[2]):
                slab[index, row, x] = 0


@njit(nogil=True, cache=True)
def gather_slab(  # noqa: PLR0913 - one numeric kernel, called from one place
    slab: Any, voxels: Any, units: Any, middle: int, margin: int, limit: float, first_row: int, floors: Any, snr: float,
    volume_ratio: float, operators: Any, seed: Any, seed_weight: Any, what: int,
) -> None:  # fmt: skip
    """Fill a slab.

    With d the local mean of the density weights, s the seed's weight, S the seed:
    total = max(W, floor) + d/SNR + d·s. What = 0: value / total; 1: value; 2: slab / total · min(1, W / floor);
    3: slab · (d/SNR + d·s) − d·s·S; 4: d·s·S / total. With 2 the slab becomes 0 beyond ``limit``.
    """
    size = slab.shape[0]
    if what == 2:
        cut_sphere(slab, first_row, limit)
    seeded = seed.shape[0] > 1
    for row in range(slab.shape[1]):
        y = first_row + row
        for z in range(-int(limit), int(limit) + 1):
            square = limit * limit - y * y - z * z
            if square < 0:
                continue
            for x in range(int(math.sqrt(square)) + 1):
                real, imaginary, weight, plain = gather(voxels, units, x, y, z, middle, margin, operators)
                radius = math.sqrt(x * x + y * y + z * z)
                density = weight / plain if plain > 0 else max(radius, 0.5)
                extra = density / (snr * volume_ratio)
                seed_value, share = 0j, 0.0
                if seeded:
                    seed_value = complex(seed[z % size, y % size, x])
                    share = density / volume_ratio
                    if seed_weight.shape[0] > 1:
                        share *= seed_weight[z % size, y % size, x]
                    else:
                        share *= seed_weight[0, 0, 0]
                    extra += share
                total = max(weight, floors[int(radius)]) + extra if weight > 0 else extra
                scale = 1.0 / total if total > 0 else 0.0
                if what == 0:
                    slab[z % size, row, x] = complex(real * scale, imaginary * scale)
                elif what == 1:
                    slab[z % size, row, x] = complex(real, imaginary)
                elif what == 2:
                    # fades out with the data: an unmeasured frequency is not corrected by its neighbours
                    floor = floors[int(radius)]
                    slab[z % size, row, x] *= scale * min(1.0, weight / floor) if floor > 0 else scale
                elif what == 3:
                    slab[z % size, row, x] = extra * slab[z % size, row, x] - share * seed_value
                else:
                    slab[z % size, row, x] = share * scale * seed_value


@njit(nogil=True, cache=True)
def read_plain_weights(  # noqa: PLR0913 - one numeric kernel, called from one place
    plane: Any,
    kz: int,
    voxels: Any,
    units: Any,
    middle: int,
    margin: int,
    limit: float,
    oversampling: float,
    operators: Any,
) -> None:
    """Trilinear reading of Σ weight at the unpadded box's frequencies of one plane kz, times (G / N)³."""
    box = plane.shape[0]
    for row in range(box):
        for kx in range(plane.shape[1]):
            px, py, pz = kx * oversampling, (row - box // 2) * oversampling, kz * oversampling
            if px * px + py * py + pz * pz > limit * limit:
                continue
            ix, iy, iz = int(math.floor(px)), int(math.floor(py)), int(math.floor(pz))
            total = 0.0
            for corner in range(8):
                dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
                share = abs(1 - dx - (px - ix)) * abs(1 - dy - (py - iy)) * abs(1 - dz - (pz - iz))
                if share > 0:
                    total += (
                        share * gather(voxels, units, ix + dx, iy + dy, iz + dz, middle, margin, operators)[3]
                    )
            plane[row, kx] = total * oversampling**3
