"""From sums on a Fourier grid to the map: fold, divide, inverse transform, undo the window, refine.

The estimate value / weight would be exact if the samples lay evenly under the window. They do not; what is left
is corrected by one (or more) steps towards the solution of the weighted normal equations ``T f = b``, with
``b`` = the data put back into the box and ``T`` the convolution with the sampling density, which is the weight
with the window taken out. Both need nothing but the sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.fourier.correction_kernels import (
    cut_sphere,
    gather_plane,
    gather_slab,
    plane_shell_sums,
    read_plain_weights,
)
from centralslice.fourier.grid import FourierGrid
from centralslice.fourier.kernels import Window
from centralslice.fourier.transforms import PaddedTransform

#: The sampling density is trusted to this distance (in boxes N) and tapered to zero at half the grid: beyond,
#: the copies that gridding makes are as large as the density itself.
TRUSTED_DISTANCE = 0.65


@dataclass(frozen=True, slots=True)
class Division:
    """How numerator and weight become an estimate of the map's transform.

    Attributes
    ----------
    floor
        The weight is at least this fraction of its mean in its shell.
    refinements
        Steps towards the least-squares solution after the division.
    relaxation
        Part of each step that is taken: all of it is best for clean data, less spares noisy shells.
    wiener_snr
        Constant of ``W / (W + 1/SNR)`` with W = Σ CTF² per voxel of the unpadded box, or None.
    operators
        (n, 3, 3) signed permutations over which the sums are averaged, identity first; None for none.
    """

    floor: float
    refinements: int
    relaxation: float = 1.0
    wiener_snr: float | None = None
    operators: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class GridSums:
    """Everything the finish reads.

    Attributes
    ----------
    voxels
        The sums, laid out by ``grid``.
    grid, window
        As used for insertion.
    quanta
        What one unit of value, weight and plain weight stands for; 1 for float sums.
    kind
        Dtype of the map, float32 or float64.
    seed
        Transform of the seed, (G, G, G // 2 + 1) in FFT order, or None.
    seed_weight
        Its Σ CTF² weight, a real array of the same shape, or of shape (1, 1, 1) if constant.
    """

    voxels: FloatArray
    grid: FourierGrid
    window: Window
    quanta: tuple[float, float, float] = (1.0, 1.0, 1.0)
    kind: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    seed: ComplexArray | None = None
    seed_weight: FloatArray | None = None

    @property
    def units(self) -> FloatArray:
        """The quanta as the loops read them."""
        return np.array(self.quanta, np.float64)


def finish_map(sums: GridSums, division: Division, parallel: ParallelMap) -> FloatArray:
    """The map of box N: (N, N, N), centre at N // 2, in the images' density units; dtype of the sums."""
    grid = sums.grid
    transform = padded_transform(grid, sums.kind, parallel)
    divide = _Divider(sums, division, weight_floors(sums, division, parallel))
    profile = sums.window.transform(np.arange(grid.box, dtype=np.float64) - grid.box // 2, grid.size)
    estimate = _undo_window(transform.to_map(divide.quotient), profile)
    if sums.seed is not None:
        estimate += transform.to_map(divide.seed_quotient)
    if division.refinements == 0:
        return estimate
    density: FloatArray | None = sampling_density(sums, division, parallel)
    for step in range(division.refinements, 0, -1):
        assert density is not None  # noqa: S101 - for the type checker
        model = transform.filter_map(estimate, partial(divide.times_density, density=density))
        if step == 1:
            density = None  # before the next large array is made
        # the data's own map is made anew in every step: it would be one more array in memory
        residual = _undo_window(transform.to_map(divide.numerator), profile)
        residual -= model
        change = transform.filter_map(residual, divide.over_weight)
        change *= division.relaxation
        estimate += change
    return estimate


def padded_transform(grid: FourierGrid, kind: np.dtype[Any], parallel: ParallelMap) -> PaddedTransform:
    """The transforms between the box and this grid."""
    return PaddedTransform(grid.box, grid.size, int(limit_of(grid)), kind, parallel)


def limit_of(grid: FourierGrid) -> float:
    """Largest |k| in grid voxels that is used; the ambiguous Nyquist frequency of the grid is not."""
    return min(float(grid.radius), grid.size / 2 - 0.5)


def finish_bytes(grid: FourierGrid, itemsize: int, refinements: int) -> int:
    """Memory of :func:`finish_map` beside the sums: half-cropped array, sampling density, maps."""
    half = grid.size // 2 + 1
    working = 2 * itemsize * grid.box * grid.size * half
    density = 2 * itemsize * grid.size * half * half if refinements else 0
    return working + density + (2 if refinements else 1) * itemsize * grid.box**3


def weight_floors(sums: GridSums, division: Division, parallel: ParallelMap) -> FloatArray:
    """Smallest weight to divide by in each shell ⌊|k|⌋: ``floor`` times the mean over the shell, float64."""
    grid, voxels, units = sums.grid, sums.voxels, sums.units
    planes = parallel(
        lambda plane: plane_shell_sums(voxels, units, plane, grid.middle, grid.margin, grid.radius + 2),
        range(voxels.shape[0]),
    )
    total = np.sum(planes, axis=0)
    means: FloatArray = division.floor * total[0] / np.maximum(total[1], 1)
    return means


def sampling_density(sums: GridSums, division: Division, parallel: ParallelMap) -> FloatArray:
    """The weight with the window taken out: (G // 2 + 1, G, G + 2), planes z >= 0, y and x in FFT order.

    The density is even, so planes z < 0 are not stored; the last two columns are padding. In real space the
    window multiplies the density's transform by its profile, which is divided out up to TRUSTED_DISTANCE. The
    taper is radial: the density's transform has copies of its peak on the sphere |x| = N, because every
    slice is a regular grid of samples.
    """
    grid, kind = sums.grid, sums.kind
    size, half = grid.size, grid.size // 2 + 1
    operators = _permutations(division.operators)
    spectrum = np.zeros((half, size, half), np.complex64 if kind == np.float32 else np.complex128)
    density = spectrum.view(kind)

    def forward(z: int) -> None:
        plane = np.zeros((size, size), kind)
        gather_plane(plane, sums.voxels, sums.units, grid.middle, grid.margin, limit_of(grid), z, operators)
        spectrum[z] = scipy.fft.rfft2(plane)

    distance = np.abs(np.fft.fftfreq(size, 1 / size))
    inverse = 1 / sums.window.transform(distance, size)

    def sharpen(y: int) -> None:
        # planes z and −z are mirror images, so their transforms are conjugate and the line along z is real
        factor = inverse[:, None] * inverse[:half] * inverse[y]
        factor *= _trust(np.sqrt(distance[:, None] ** 2 + distance[:half] ** 2 + distance[y] ** 2), grid)
        lines = scipy.fft.irfft(spectrum[:, y], n=size, axis=0)
        lines *= factor.astype(kind)
        spectrum[:, y] = scipy.fft.rfft(lines, axis=0)

    def back(z: int) -> None:
        density[z, :, :size] = scipy.fft.irfft2(spectrum[z], s=(size, size))

    parallel(forward, range(int(limit_of(grid)) + 1))
    parallel(sharpen, range(size))
    parallel(back, range(half))
    return density


def _trust(radius: FloatArray, grid: FourierGrid) -> FloatArray:
    """Taper of the density's transform at distances in voxels: 1 to TRUSTED_DISTANCE, 0 from N or G / 2 on."""
    start, stop = TRUSTED_DISTANCE * grid.box, min(float(grid.box), grid.size / 2)
    start = min(start, 0.87 * stop)
    taper: FloatArray = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - start) / (stop - start), 0, 1))
    return taper


def seed_weights(weight: float | FloatArray, grid: FourierGrid, kind: np.dtype[Any]) -> FloatArray:
    """A seed's weight on the grid: (1, 1, 1) for a number, else (G, G, G // 2 + 1) in FFT order, interpolated.

    Parameters
    ----------
    weight
        A number, or (n, n, n // 2 + 1) with zero frequency at (n // 2, n // 2, 0), one cycle a box a voxel.
    """
    if np.ndim(weight) == 0:
        return np.full((1, 1, 1), weight, kind)
    table = np.asarray(weight, kind)
    half = table.shape[0] // 2
    frequency = np.fft.fftfreq(grid.size, 1 / grid.size) / grid.oversampling
    columns = np.arange(grid.size // 2 + 1) / grid.oversampling
    result = np.zeros((grid.size, grid.size, grid.size // 2 + 1), kind)
    for plane, z in enumerate(frequency):
        where = np.meshgrid([z + half], frequency + half, columns, indexing="ij")
        result[plane] = scipy.ndimage.map_coordinates(table, where, order=1, mode="constant")[0]
    return result


def plain_weights(sums: GridSums, division: Division, parallel: ParallelMap) -> FloatArray:
    """Σ CTF² per voxel of the unpadded box, (N, N, N // 2 + 1), zero frequency at (N // 2, N // 2, 0).

    Read trilinearly off the grid; beyond the sphere of data 0.
    """
    grid = sums.grid
    operators = _permutations(division.operators)
    result = np.zeros((grid.box, grid.box, grid.box // 2 + 1), np.float32)

    def plane(number: int) -> None:
        read_plain_weights(
            result[number], number - grid.box // 2, sums.voxels, sums.units, grid.middle, grid.margin, limit_of(grid),
            grid.oversampling, operators,
        )  # fmt: skip

    parallel(plane, range(grid.box))
    return result


@dataclass(frozen=True, slots=True)
class _Divider:
    """Slab functions of one finish."""

    sums: GridSums
    division: Division
    floors: FloatArray

    def quotient(self, slab: ComplexArray, first: int) -> None:
        self._gather(slab, first, 0)

    def numerator(self, slab: ComplexArray, first: int) -> None:
        self._gather(slab, first, 1)

    def over_weight(self, slab: ComplexArray, first: int) -> None:
        self._gather(slab, first, 2)

    def seed_quotient(self, slab: ComplexArray, first: int) -> None:
        self._gather(slab, first, 4)

    def times_density(self, slab: ComplexArray, first: int, density: FloatArray) -> None:
        size = self.sums.grid.size
        columns = np.arange(slab.shape[2])
        product = np.empty_like(slab)
        for row in range(slab.shape[1]):
            y = first + row
            above = density[:, y % size, columns]
            below = density[:, -y % size, -columns % size]
            product[: size // 2 + 1, row] = slab[: size // 2 + 1, row] * above
            product[size // 2 + 1 :, row] = slab[size // 2 + 1 :, row] * below[size // 2 - 1 : 0 : -1]
        self._gather(slab, first, 3)
        slab += product
        cut_sphere(slab, first, limit_of(self.sums.grid))

    def _gather(self, slab: ComplexArray, first: int, what: int) -> None:
        sums, grid = self.sums, self.sums.grid
        snr = math.inf if self.division.wiener_snr is None else self.division.wiener_snr
        seed = np.zeros((1, 1, 1), slab.dtype) if sums.seed is None else sums.seed
        weight = np.zeros((1, 1, 1), sums.kind) if sums.seed_weight is None else sums.seed_weight
        gather_slab(
            slab, sums.voxels, sums.units, grid.middle, grid.margin, limit_of(grid), first, self.floors, snr,
            grid.oversampling**3, _permutations(self.division.operators), seed, weight, what,
        )  # fmt: skip


def _undo_window(data: FloatArray, profile: FloatArray) -> FloatArray:
    """Divide by the window's separable profile, in place."""
    inverse = (1.0 / profile).astype(data.dtype)
    data *= inverse[:, None, None]
    data *= np.multiply.outer(inverse, inverse)
    return data


def _permutations(operators: FloatArray | None) -> Any:
    """Signed permutations as (n, 3, 3) int64; the identity alone if there are none."""
    if operators is None:
        return np.eye(3, dtype=np.int64)[None]
    return np.rint(operators).astype(np.int64)
