"""The least-squares map by conjugate gradients on the sums alone: no further pass through the particles.

Minimised over maps f of box N is ``Σ_s d_s (w_s |A_s f|² − 2 Re A_s f* value_s)`` + seed, Wiener and ridge terms,
with A_s the exact transform at the sample's frequency and d_s = max(|k|, ½) the density weight, which
conditions the problem and weighs only between frequencies |k|, not between data at one frequency. The normal matrix is a
convolution with the transform of the sampling density; one product costs two FFTs of the doubled box
(Toeplitz embedding: Wajer & Pruessmann 2001; Fessler et al. 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numba import njit

from centralslice.abc.reconstructor import MapGeometry, PassContext, SumsPlan, WeightMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.errors import ParameterError
from centralslice.fourier import correction
from centralslice.fourier.grid import FourierGrid, make_grid
from centralslice.fourier.insertion import insert_batch
from centralslice.fourier.kernels import Window, fit_window, kaiser_bessel, kaiser_bessel_beta
from centralslice.fourier.transforms import crop_or_pad

#: The density's transform is needed to lags of a whole box, twice as far as the map: hence the large grid.
OVERSAMPLING, WIDTH = 2.25, 5
#: Added to the normal matrix, as a share of its mean over each shell: what is not measured stays near zero;
#: and as a share of the largest such mean: the gridded density is not more accurate than that.
RIDGE, LEAST_RIDGE = 1e-3, 1e-4


@dataclass(frozen=True)
class LeastSquares:
    """Least squares on gridded sums; the laws are those of a reconstructor.

    Attributes
    ----------
    iterations
        Steps at most.
    tolerance
        Stop when the preconditioned residual has fallen to this fraction.
    """

    iterations: int
    tolerance: float

    def grid(self, geometry: MapGeometry) -> FourierGrid:
        """The grid that lags up to one box can be read from; ``--padvol`` can only enlarge it."""
        return make_grid(geometry.image_size, OVERSAMPLING, WIDTH, geometry.padded_size, geometry.max_radius)

    def window(self) -> Window:
        """Kaiser–Bessel window for lags of one box."""
        return fit_window(WIDTH, kaiser_bessel(WIDTH, kaiser_bessel_beta(WIDTH, OVERSAMPLING / 2)))

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """One interleaved array."""
        grid = self.grid(geometry)
        gridded = 3 * grid.size**2 * (grid.size // 2 + 1)
        iterated = (2 * geometry.image_size) ** 3 * 5 // 2 + 8 * geometry.image_size**3
        finish_bytes = geometry.precision.itemsize * (gridded + iterated)
        return SumsPlan({"voxels": grid.shape}, geometry.precision, grid.shape[0], finish_bytes)

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to some planes."""
        insert_batch(sums["voxels"], batch, self.grid(context.geometry), self.window(), z_range)

    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """Σ CTF² of the unpadded box."""
        grid_sums = correction.GridSums(sums["voxels"], self.grid(context.geometry), self.window())
        return WeightMap(correction.plain_weights(grid_sums, correction.Division(0.0, 0), context.parallel))

    def solve(self, sums: Sums, context: PassContext) -> FloatArray:
        """The map (N, N, N), dtype of the sums."""
        grid, voxels = self.grid(context.geometry), sums["voxels"]
        data = self._adjoint(voxels, grid)
        density = self._density(voxels, grid)
        matrix = _normal_matrix(density, grid, context)
        if context.seed is not None:
            seed = crop_or_pad(np.asarray(context.seed.data, voxels.dtype), (grid.box,) * 3)
            data += _filtered(seed, matrix.seed)
        mask = context.iteration_mask
        if mask is not None:
            mask = crop_or_pad(np.asarray(mask, voxels.dtype), (grid.box,) * 3)
            data *= mask
        return self._iterate(matrix, data, mask)

    def _adjoint(self, voxels: FloatArray, grid: FourierGrid) -> FloatArray:
        """Σ d_s value_s exp(2πi k_s r / N) in the box, the map's origin at N // 2."""
        places = np.arange(grid.box) - grid.box // 2
        half = folded_half(voxels, grid, 0, 1.0) + 1j * folded_half(voxels, grid, 1, -1.0)
        return self._read(half, grid, places)

    def _density(self, voxels: FloatArray, grid: FourierGrid) -> FloatArray:
        """Transform of Σ d_s w_s exp(2πi k_s r / N) over lags r of the doubled box, (2N, 2N, N + 1) real."""
        doubled = 2 * grid.box
        lags = np.fft.fftfreq(doubled, 1.0 / doubled)
        response = self._read(folded_half(voxels, grid, 2, 1.0).astype(_complex_of(voxels)), grid, lags)
        for axis in range(3):  # the lag −N is never needed, and has no mate
            np.moveaxis(response, axis, 0)[grid.box] = 0
        spectrum: FloatArray = scipy.fft.rfftn(response).real
        return spectrum

    def _read(self, half: ComplexArray, grid: FourierGrid, places: FloatArray) -> FloatArray:
        """Gridded sums at real-space places: inverse transform, unnormalised, the window taken out."""
        index = places.astype(np.int64) % grid.size
        data = scipy.fft.irfftn(half, s=(grid.size,) * 3, overwrite_x=True)[np.ix_(index, index, index)]
        inverse = (grid.size / self.window().transform(places, grid.size)).astype(data.dtype)
        data *= inverse[:, None, None] * inverse[:, None]
        data *= inverse
        result: FloatArray = data
        return result

    def _iterate(self, matrix: NormalMatrix, data: FloatArray, mask: FloatArray | None) -> FloatArray:
        """Preconditioned conjugate gradients from zero."""
        result = np.zeros_like(data)
        residual = data
        direction = np.zeros_like(data)
        first = last = 0.0
        for _ in range(self.iterations):
            step = matrix.precondition(residual)
            size = _dot(residual, step)
            first = first or size
            if size <= self.tolerance**2 * first:
                break
            direction = step + (size / last if last else 0.0) * direction
            last = size
            masked = direction if mask is None else direction * mask
            image = matrix.apply(masked) if mask is None else matrix.apply(masked) * mask
            curvature = _dot(direction, image)
            if curvature <= 0.0:  # rounding: nothing is left to gain
                break
            length = size / curvature
            result += length * masked
            residual = residual - length * image
        return result


@dataclass(frozen=True)
class NormalMatrix:
    """The normal matrix and its preconditioner.

    Attributes
    ----------
    density
        (2N, 2N, N + 1) eigenvalues of the doubled box's convolution.
    diagonal
        (N, N, N // 2 + 1) what is added as a filter of the box: seed, Wiener and ridge terms.
    inverse
        (N, N, N // 2 + 1) the preconditioner, 0 beyond the data.
    seed
        (N, N, N // 2 + 1) the seed's part of ``diagonal``.
    """

    density: FloatArray
    diagonal: FloatArray
    inverse: FloatArray
    seed: FloatArray

    def apply(self, data: FloatArray) -> FloatArray:
        """Product with a map."""
        box, doubled = len(data), len(self.density)
        spectrum = scipy.fft.rfftn(data, s=(doubled,) * 3)
        spectrum *= self.density
        convolved = scipy.fft.irfftn(spectrum, s=(doubled,) * 3, overwrite_x=True)[:box, :box, :box]
        result: FloatArray = convolved + _filtered(data, self.diagonal)
        return result

    def precondition(self, data: FloatArray) -> FloatArray:
        """Product of the preconditioner with a map."""
        return _filtered(data, self.inverse)


def _normal_matrix(density: FloatArray, grid: FourierGrid, context: PassContext) -> NormalMatrix:
    box, kind = grid.box, density.dtype
    frequency = np.fft.fftfreq(box, 1.0 / box)
    radius = np.sqrt(frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + np.arange(box // 2 + 1) ** 2.0)
    means = _shell_means(density, box)
    mean = np.interp(radius, np.arange(len(means)), means)
    # one slice sample a voxel has the eigenvalue N³, times its density weight
    unit = box**3 * np.maximum(radius * grid.oversampling, 0.5)
    seed = np.zeros_like(radius)
    if context.seed is not None:
        seed = unit * _seed_weights(context.seed.weight, box)
    wiener = 0.0 if context.wiener_snr is None else 1.0 / context.wiener_snr
    diagonal = seed + wiener * unit + RIDGE * mean + LEAST_RIDGE * means.max()
    reached = (radius <= grid.max_radius) | (seed > 0)
    total = mean + diagonal
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=reached & (total > 0))
    return NormalMatrix(density, diagonal.astype(kind), inverse.astype(kind), seed.astype(kind))


def _shell_means(density: FloatArray, box: int) -> FloatArray:
    """Mean of the doubled box's eigenvalues in shells of |k| in cycles per box, not negative."""
    doubled = len(density)
    frequency = np.fft.fftfreq(doubled, 1.0 / doubled) / 2
    total, count = np.zeros(2 * box), np.zeros(2 * box)
    for z, plane in zip(frequency, density, strict=True):
        radius = np.sqrt(z * z + frequency[:, None] ** 2 + (np.arange(box + 1) / 2) ** 2)
        shell = np.rint(radius).astype(np.int64).ravel()
        total += np.bincount(shell, plane.ravel(), minlength=2 * box)
        count += np.bincount(shell, minlength=2 * box)
    return np.maximum(total / np.maximum(count, 1), 0.0)


def _seed_weights(weight: float | FloatArray, box: int) -> FloatArray:
    """A seed's weights of the box in FFT order."""
    if not isinstance(weight, np.ndarray):
        return np.full((1, 1, 1), float(weight))
    if weight.shape != (box, box, box // 2 + 1):
        raise ParameterError(f"seed weight map: expected shape {(box, box, box // 2 + 1)}, got {weight.shape}")
    return np.roll(weight, (-(box // 2), -(box // 2)), axis=(0, 1)).astype(np.float64)


def _filtered(data: FloatArray, gain: FloatArray) -> FloatArray:
    """A map with its transform multiplied by ``gain``."""
    result: FloatArray = scipy.fft.irfftn(scipy.fft.rfftn(data) * gain, s=data.shape, overwrite_x=True)
    return result


def _dot(one: FloatArray, other: FloatArray) -> float:
    """Inner product, plane by plane in float64."""
    return float(sum(np.vdot(a, b) for a, b in zip(one.astype(np.float64), other, strict=True)))


def _complex_of(array: FloatArray) -> Any:
    return np.complex64 if array.dtype == np.float32 else np.complex128


def folded_half(voxels: FloatArray, grid: FourierGrid, channel: int, parity: float) -> FloatArray:
    """One channel as a half transform (G, G, G // 2 + 1), zero frequency in the corner, both mates counted.

    The mate of a value is ``parity`` times it. What lies beyond Nyquist wraps around.
    """
    result = np.zeros((grid.size, grid.size, grid.size // 2 + 1), voxels.dtype)
    _fold(voxels, result, channel, parity, grid.middle, grid.margin)
    return result


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fold(voxels: Any, out: Any, channel: int, parity: float, middle: int, margin: int) -> None:
    size = out.shape[0]
    half = size // 2
    for plane in range(voxels.shape[0]):
        z = plane - middle
        for row in range(voxels.shape[1]):
            y = row - middle
            for column in range(voxels.shape[2]):
                value = voxels[plane, row, column, channel]
                if value == 0:
                    continue
                x = column - margin
                if 0 <= x <= half:
                    out[z % size, y % size, x] += value
                    if x == 0 or x == half:
                        out[-z % size, -y % size, x] += parity * value
                elif x < 0:
                    out[-z % size, -y % size, -x] += parity * value
                else:
                    out[-z % size, -y % size, size - x] += parity * value
