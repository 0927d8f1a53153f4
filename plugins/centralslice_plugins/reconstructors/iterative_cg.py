"""The least-squares map by conjugate gradients on the sums alone: no further pass through the particles.

Minimised over maps f of box N is ``Σ_s d_s (w_s |A_s f|² − 2 Re A_s f* value_s)`` plus terms for
seed, Wiener constant and ridge, with A_s the exact transform at the sample's frequency and d_s = max(|k|, ½)
the density weight, which conditions the problem and weighs only between frequencies |k|, not between data
at one frequency. The normal matrix is a convolution with the transform of the sampling density; one product
costs two FFTs of the doubled box (Toeplitz embedding: Wajer & Pruessmann 2001; Fessler et al. 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

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
        data = self.adjoint(voxels, grid)
        matrix = NormalMatrix.of(self.lags(voxels, grid), grid, context)
        mask = context.iteration_mask
        if mask is not None:
            mask = crop_or_pad(np.asarray(mask, voxels.dtype), (grid.box,) * 3)
        if context.seed is None:
            return self._iterate(matrix, data, mask)
        seed = crop_or_pad(np.asarray(context.seed.data, voxels.dtype), (grid.box,) * 3)
        inside = _filtered(seed, (matrix.inverse > 0).astype(voxels.dtype))
        # beyond the sphere of the data the seed stays as it is
        beyond = seed - inside if mask is None else (seed - inside) * mask
        return self._iterate(matrix, data + _filtered(inside, matrix.seed), mask) + beyond

    def adjoint(self, voxels: FloatArray, grid: FourierGrid) -> FloatArray:
        """Σ d_s value_s exp(2πi k_s r / N) in the box, the map's origin at N // 2."""
        places = np.arange(grid.box, dtype=np.float64) - grid.box // 2
        half = np.empty((grid.size, grid.size, grid.size // 2 + 1), _complex_of(voxels))
        half.real = folded_half(voxels, grid, 0, 1.0)
        half.imag = folded_half(voxels, grid, 1, -1.0)
        return self._read(half, grid, places)

    def lags(self, voxels: FloatArray, grid: FourierGrid) -> FloatArray:
        """Σ d_s w_s exp(2πi k_s r / N) over lags r of the doubled box, (2N, 2N, 2N), lag 0 in the corner."""
        doubled = 2 * grid.box
        half = folded_half(voxels, grid, 2, 1.0).astype(_complex_of(voxels))
        response = self._read(half, grid, np.fft.fftfreq(doubled, 1.0 / doubled))
        for axis in range(3):  # the lag −N is never needed, and has no mate
            np.moveaxis(response, axis, 0)[grid.box] = 0
        return response

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
        residual = data if mask is None else data * mask
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

    @classmethod
    def of(cls, lags: FloatArray, grid: FourierGrid, context: PassContext) -> Self:
        """The matrix of these lags and the terms of the context."""
        box, kind = grid.box, lags.dtype
        frequency = np.fft.fftfreq(box, 1.0 / box)
        radius = np.sqrt(
            frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + np.arange(box // 2 + 1) ** 2.0
        )
        mean = _radial(_circulant(lags, box), radius)
        # one slice sample a voxel has the eigenvalue N³, times its density weight
        unit = box**3 * np.maximum(radius * grid.oversampling, 0.5)
        seed = np.zeros_like(radius)
        if context.seed is not None:
            seed = unit * _seed_weights(context.seed.weight, box)
        wiener = 0.0 if context.wiener_snr is None else 1.0 / context.wiener_snr
        diagonal = seed + wiener * unit + RIDGE * mean + LEAST_RIDGE * mean.max()
        total = mean + diagonal
        inverse = np.divide(
            1.0, total, out=np.zeros_like(total), where=(radius <= grid.max_radius) & (total > 0)
        )
        density = scipy.fft.rfftn(lags).real
        return cls(density, diagonal.astype(kind), inverse.astype(kind), seed.astype(kind))

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


def _circulant(lags: FloatArray, box: int) -> FloatArray:
    """Eigenvalues of the nearest circulant matrix, (N, N, N // 2 + 1), not negative (T. Chan 1988)."""
    taper = 1.0 - np.abs(np.fft.fftfreq(2 * box, 1.0 / (2 * box))) / box
    folded = lags
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = -1
        weighted = folded * taper.reshape(shape).astype(lags.dtype)
        near, far = np.split(weighted, 2, axis=axis)
        folded = near + far
    eigenvalues: FloatArray = np.maximum(scipy.fft.rfftn(folded).real, 0.0)
    return eigenvalues


def _radial(values: FloatArray, radius: FloatArray) -> FloatArray:
    """Values of a half transform replaced by their mean at that |k|, linear between whole radii."""
    shell = np.rint(radius).astype(np.int64).ravel()
    count = np.bincount(shell)
    means = np.bincount(shell, values.ravel()) / np.maximum(count, 1)
    result: FloatArray = np.interp(radius, np.arange(len(means)), means)
    return result


def _seed_weights(weight: float | FloatArray, box: int) -> FloatArray:
    """A seed's weights of the box in FFT order."""
    if not isinstance(weight, np.ndarray):
        return np.full((1, 1, 1), float(weight))
    if weight.shape != (box, box, box // 2 + 1):
        raise ParameterError(
            f"seed weight map: expected shape {(box, box, box // 2 + 1)}, got {weight.shape}"
        )
    rolled: FloatArray = np.roll(weight, (-(box // 2), -(box // 2)), axis=(0, 1)).astype(np.float64)
    return rolled


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


@njit(nogil=True, cache=True)
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
