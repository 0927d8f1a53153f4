"""Central slices of a map's transform: projections by the Fourier slice theorem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.fourier.grid import fast_even_size
from centralslice.fourier.kernels import Window, fit_window, kaiser_bessel, kaiser_bessel_beta
from centralslice.fourier.simd import window_values
from centralslice.fourier.transforms import PaddedTransform, crop_or_pad

#: Window and grid for reading slices; relative error about 1e-4.
READ_WIDTH, READ_OVERSAMPLING = 6, 2.0


@dataclass(frozen=True, slots=True)
class SliceReader:
    """A map's transform on an oversampled grid, the window divided out beforehand.

    Attributes
    ----------
    grid
        (G, G, G // 2 + 1) complex, FFT order, phase origin at the box centre.
    box
        Unpadded box N.
    window
        Interpolation window.
    """

    grid: ComplexArray
    box: int
    window: Window

    def read(self, matrices: FloatArray, size: int) -> ComplexArray:
        """Slices at poses: (b, size, size // 2 + 1) complex, origin at the box centre.

        Parameters
        ----------
        matrices
            (b, 3, 3); sample (kx, ky) is read at ``Mᵀ (kx, ky, 0)`` cycles per box, 0 beyond N / 2.
        size
            Slice size in pixels.
        """
        slices = np.zeros((len(matrices), size, size // 2 + 1), self.grid.dtype)
        scale = self.grid.shape[0] / self.box
        kind = self.grid.real.dtype
        _read_slices(
            slices, self.grid, np.ascontiguousarray(matrices * scale), self.window.table(kind),
            (0,) * self.window.width, 0.5 * self.box * scale - 0.5,
        )  # fmt: skip
        return slices


def slice_reader(data: FloatArray, parallel: ParallelMap) -> SliceReader:
    """Prepare a cubic map (n, n, n) for reading slices."""
    box = data.shape[0]
    size = fast_even_size(math.ceil(READ_OVERSAMPLING * box))
    window = fit_window(
        READ_WIDTH, kaiser_bessel(READ_WIDTH, kaiser_bessel_beta(READ_WIDTH, READ_OVERSAMPLING))
    )
    inverse = (1 / window.transform(np.arange(box) - box // 2, size)).astype(data.dtype)
    shaped = data * inverse[:, None, None] * np.multiply.outer(inverse, inverse)
    transform = PaddedTransform(box, size, size // 2 - 1, data.dtype, parallel)
    return SliceReader(transform.to_grid(crop_or_pad(shaped, (box,) * 3)), box, window)


def agreement_curves(samples: FloatArray, seed: ComplexArray) -> FloatArray:
    """Weights of each ring of each image from its Fourier ring correlation with the seed's slice.

    ``clip(FRC + 0.1, 0.01, 1)``, 1 in the first four rings.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) prepared slices.
    seed
        (b, n, n // 2 + 1) slices of the seed.

    Returns
    -------
        (b, n, n // 2 + 1) factors for value and weight.
    """
    size = samples.shape[1]
    rows = np.fft.fftfreq(size, 1 / size)
    rings = np.rint(np.hypot(rows[:, None], np.arange(size // 2 + 1))).astype(np.int64)
    values = samples[..., 0] + 1j * samples[..., 1]
    curves = np.empty(samples.shape[:3], samples.dtype)
    for number, (value, model) in enumerate(zip(values, seed, strict=True)):
        used = samples[number, ..., 2] > 0

        def over_rings(quantity: FloatArray, used: Any = used) -> FloatArray:
            return np.asarray(np.bincount(rings[used], quantity[used], minlength=rings.max() + 1), np.float64)

        cross = over_rings((value * model.conj()).real)
        power = np.sqrt(over_rings(np.abs(value) ** 2) * over_rings(np.abs(model) ** 2))
        curve = np.clip(np.divide(cross, power, out=np.zeros_like(cross), where=power > 0) + 0.1, 0.01, 1.0)
        curve[:4] = 1.0
        curves[number] = curve[rings]
    return curves


@njit(nogil=True, cache=True)
def _read_slices(slices: Any, grid: Any, matrices: Any, coefficients: Any, width: Any, limit: float) -> None:
    count, size, half = slices.shape
    grid_size = grid.shape[0]
    taps = len(width)
    lanes = coefficients.shape[1] // 4
    windows = np.zeros(4 * lanes, coefficients.dtype)
    for n in range(count):
        m = matrices[n]
        for row in range(size):
            ky = row if row <= (size - 1) // 2 else row - size
            for kx in range(half):
                x, y, z = (
                    kx * m[0, 0] + ky * m[1, 0],
                    kx * m[0, 1] + ky * m[1, 1],
                    kx * m[0, 2] + ky * m[1, 2],
                )
                if x * x + y * y + z * z > limit * limit:
                    continue
                sign = 1.0
                if x < 0:
                    x, y, z, sign = -x, -y, -z, -1.0
                first_x, first_y, first_z = (
                    int(math.ceil(x - 0.5 * taps)), int(math.ceil(y - 0.5 * taps)), int(math.ceil(z - 0.5 * taps)),
                )  # fmt: skip
                window_values(
                    coefficients, first_x - (x - 0.5 * taps), first_y - (y - 0.5 * taps), first_z - (z - 0.5 * taps),
                    windows, width,
                )  # fmt: skip
                real, imaginary = 0.0, 0.0
                for k in range(taps):
                    for j in range(taps):
                        weight = windows[2 * lanes + k] * windows[lanes + j]
                        for i in range(taps):
                            a, b, c = first_x + i, first_y + j, first_z + k
                            if a >= 0:
                                value = grid[c % grid_size, b % grid_size, a]
                            else:
                                value = grid[-c % grid_size, -b % grid_size, -a].conjugate()
                            real += weight * windows[i] * value.real
                            imaginary += weight * windows[i] * value.imag
                slices[n, row, kx] = complex(real, sign * imaginary)
