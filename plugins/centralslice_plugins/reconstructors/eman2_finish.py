"""From sums to the map as EMAN2 does it, to the letter: for ``--compat eman2``, even sizes only."""

from __future__ import annotations

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import MapGeometry, PassContext, Seed, SumsPlan
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.errors import ParameterError

#: Self-mates on planes kx = 0 and kx = H, (kz, ky) in units of H, whose weight the peer doubles …
_DOUBLED = {0: ((0, 1), (1, 0), (1, 1)), 1: ((0, 1), (1, 0))}
#: … and those whose weight it leaves alone.
_LEFT_ALONE = {0: ((0, 0),), 1: ((0, 0), (1, 1))}


def compat_plan(geometry: MapGeometry, passes: int = 1) -> SumsPlan:
    """Sums of the Fourier volume: ``--padvol``, else as large as the slices; raises ParameterError if odd."""
    size = geometry.padded_size or geometry.slice_size
    for name, value in (("--padvol", size), ("--pad", geometry.slice_size)):
        if value % 2:
            raise ParameterError(
                f"{name}: expected an even size with compat, got {value}; EMAN2 distorts odd boxes"
            )
    finish_bytes = geometry.precision.itemsize * 6 * size**3
    return SumsPlan(
        {"voxels": (size, size, size // 2 + 1, 4)}, geometry.precision, size, finish_bytes, passes
    )


def finish_as_eman2(voxels: FloatArray, context: PassContext, with_seed: bool = True) -> FloatArray:
    """The map of the whole Fourier volume: weights paired, seed added, divided without floor, transformed."""
    values: ComplexArray = voxels[..., 0] + 1j * voxels[..., 1]
    weights = paired_weights(voxels[..., 2])
    if with_seed and context.seed is not None:
        add_seed(values, weights, context.seed)
    if context.wiener_snr is not None:
        weights = np.where(weights != 0, weights + 1.0 / context.wiener_snr, 0).astype(weights.dtype)
    return to_map(divide(values, weights))


def paired_weights(weights: FloatArray) -> FloatArray:
    """Weights (N, N, N // 2 + 1) with both mates of planes kx = 0 and kx = H holding their sum; a copy.

    The self-mates are doubled but for the zero frequency of both planes and (H, H) of plane H.
    """
    result = weights.copy()
    size = len(weights)
    mate = -np.arange(size) % size
    half = size // 2
    for place, column in ((0, 0), (1, half)):
        plane = weights[:, :, column]
        result[:, :, column] = plane + plane[mate][:, mate]
        for z, y in _LEFT_ALONE[place]:
            result[z * half, y * half, column] = plane[z * half, y * half]
    return result


def add_seed(values: ComplexArray, weights: FloatArray, seed: Seed) -> None:
    """Add a seed to values and paired weights in place, as the peer adds it before the pairing.

    A number as weight is added with the peer's factors: half at the zero frequency and at the other
    self-mates that pairing leaves alone, double at those it doubles. An array of the shape of the
    weights (``--savenorm`` layout, zero frequency at (N/2, N/2, 0)) is used as it is.

    Raises
    ------
    ParameterError
        If an array of weights is not of the Fourier volume's shape.
    """
    size, half = len(weights), len(weights) // 2
    spectrum = centred_transform(seed.data, size)
    if isinstance(seed.weight, np.ndarray):
        if seed.weight.shape != weights.shape:
            raise ParameterError(
                f"seed weight map: expected the Fourier volume's {weights.shape}, got {seed.weight.shape}"
            )
        extra = np.roll(seed.weight, (-half, -half), axis=(0, 1))
        values += spectrum * extra
        weights += extra
        return
    values += spectrum * seed.weight
    weights += seed.weight
    for table, change in ((_LEFT_ALONE, -0.5), (_DOUBLED, 1.0)):
        for place, cells in table.items():
            for z, y in cells:
                weights[z * half, y * half, place * half] += change * seed.weight


def centred_transform(data: FloatArray, size: int) -> ComplexArray:
    """Half transform of a centred map, padded with 0 or cropped to ``size``; phases from the centre voxel."""
    spectrum: ComplexArray = scipy.fft.rfftn(np.fft.ifftshift(fit_box(data, size)))
    return spectrum


def fit_box(data: FloatArray, size: int) -> FloatArray:
    """A cubic map padded with 0 or cropped to ``size``, the centre voxel n // 2 kept in the centre."""
    result = np.zeros((size,) * 3, data.dtype)
    taken, placed = [], []
    for old in data.shape:
        offset = old // 2 - size // 2
        first, last = max(offset, 0), min(offset + size, old)
        taken.append(slice(first, last))
        placed.append(slice(first - offset, last - offset))
    result[tuple(placed)] = data[tuple(taken)]
    return result


def divide(values: ComplexArray, weights: FloatArray) -> ComplexArray:
    """``values / weights`` where a weight is not exactly 0, without floor; 0 elsewhere."""
    result = np.zeros_like(values)
    # part by part: weights down to the smallest denormal occur, whose complex reciprocal overflows
    np.divide(values.real, weights, out=result.real, where=weights != 0)
    np.divide(values.imag, weights, out=result.imag, where=weights != 0)
    return result


def to_map(spectrum: ComplexArray) -> FloatArray:
    """Centred map of a half transform with an even size."""
    size = len(spectrum)
    result: FloatArray = np.fft.fftshift(scipy.fft.irfftn(spectrum, s=(size,) * 3))
    return result


def correct_gaussian(data: FloatArray, width: float) -> None:
    """Multiply by ``exp(r² G / N²)`` in place, r from voxel N // 2: an untruncated Gaussian's transform."""
    size = len(data)
    profile = np.exp((np.arange(size) - size // 2) ** 2 * (width / size**2))
    data *= (profile[:, None, None] * profile[:, None]).astype(data.dtype)
    data *= profile.astype(data.dtype)


def crop_as_eman2(data: FloatArray, size: int) -> FloatArray:
    """Crop or pad a cubic map to ``size``, origin offset ⌊(old − new) / 2⌋ (even to odd: one voxel off)."""
    offset = (len(data) - size) // 2
    shift = len(data) // 2 - size // 2 - offset
    return fit_box(np.roll(data, shift, axis=(0, 1, 2)) if shift else data, size)


def savenorm_layout(weights: FloatArray) -> FloatArray:
    """Paired weights with the zero frequency moved to (N/2, N/2, 0)."""
    half = len(weights) // 2
    return np.roll(weights, (half, half), axis=(0, 1))
