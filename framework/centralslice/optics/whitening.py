"""Noise spectrum of a tilt image, as the curve that whitens it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, signed_frequencies
from centralslice.errors import ParameterError


def whitening_curve(image: NDArray[Any], size: int) -> FloatArray:
    """1/√ of the image's mean power, in bins of one cycle per window.

    Parameters
    ----------
    image
        (ny, nx), any real type; may be a memory map.
    size
        Side S of the windows, even or odd.

    Returns
    -------
        (S // 2 + 1,) float64; 0 where there is no power.

    Raises
    ------
    ParameterError
        If no window fits into the image, or a pixel is not finite.

    Notes
    -----
    The mean of ``|rfft2 / S|²`` over S × S blocks that overlap by half (as many as fit, from pixel 0), averaged
    over shells of the half transform, each sample shared between the two nearest whole radii (RELION's
    ``--whiten``). The mean of the image is not taken off: zero frequency gets a very low weight.
    """
    if size < 2 or min(image.shape) < size:
        raise ParameterError(
            f"whitening: expected an image of at least {size} × {size} pixels, got {image.shape}"
        )
    power = _mean_power(image, size)
    if not np.all(np.isfinite(power)):
        raise ParameterError("whitening: expected finite pixels, got an image with others")
    average = shell_average(power, size)
    curve = np.zeros(size // 2 + 1)
    np.divide(1.0, np.sqrt(average), out=curve, where=average > 0)
    return curve


def _mean_power(image: NDArray[Any], size: int) -> FloatArray:
    """(S, S // 2 + 1) mean of |rfft2 / S|² over half-overlapping blocks."""
    step = size // 2
    total = np.zeros((size, size // 2 + 1))
    blocks = 0
    for top in range(0, image.shape[0] - size + 1, step):
        rows = np.asarray(image[top : top + size], np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(rows, size, axis=1)[:, ::step]
        with np.errstate(invalid="ignore"):  # of infinite pixels; the caller sees it by the result
            spectra = scipy.fft.rfft2(windows.transpose(1, 0, 2))
            total += np.sum(spectra.real**2 + spectra.imag**2, axis=0, dtype=np.float64)
        blocks += len(spectra)
    result: FloatArray = total / (blocks * float(size) ** 2)
    return result


def shell_average(power: FloatArray, size: int) -> FloatArray:
    """(S // 2 + 1,) means over shells of an (S, S // 2 + 1) half transform, samples linearly shared."""
    radius = np.hypot(np.arange(size // 2 + 1)[None, :], signed_frequencies(size)[:, None]).ravel()
    lower = radius.astype(np.int64)
    upper_share = radius - lower
    places, shares = np.concatenate([lower, lower + 1]), np.concatenate([1 - upper_share, upper_share])
    sums = np.bincount(places, shares * np.tile(power.ravel(), 2))[: size // 2 + 1]
    counts = np.bincount(places, shares)[: size // 2 + 1]
    result: FloatArray = sums / counts  # every shell has a sample: (radius, 0)
    return result


def whitening_table(curve: FloatArray, radius: FloatArray) -> FloatArray:
    """The curve at radii in bins, linearly between them, the last bin beyond the end; float32, of radius' shape."""
    bins = np.arange(len(curve))
    table: FloatArray = np.interp(radius.ravel(), bins, curve).reshape(radius.shape).astype(np.float32)
    return table
