"""Slices as EMAN2's ``e2make3dpar.py`` prepares them; only for ``--compat eman2``.

Everything a careful preparation would do differently is done here on purpose: shifts by bilinear
interpolation, an amplitude factor from the padded row length, the ky < 0 mates of column kx = 0 kept
(so that column counts twice), and padding of an even to an odd box that is off by one pixel.
The edge mean is subtracted and the preprocessors are applied by the caller, before.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from centralslice.conventions import FloatArray, signed_frequencies
from centralslice.errors import ParameterError

#: Samples are kept up to this many index units beyond Nyquist: the iterative reconstructor wants them.
RADIUS_MARGIN = 3


def subtract_edge_mean(images: FloatArray) -> FloatArray:
    """``images`` (b, y, x) less the mean of each one's border, the corner pixels counted twice."""
    height, width = images.shape[1:]
    border = images[:, [0, -1], :].sum((1, 2), dtype=np.float64) + images[:, :, [0, -1]].sum(
        (1, 2), dtype=np.float64
    )
    mean = (border / (2 * width + 2 * height)).astype(images.dtype)
    result: FloatArray = images - mean[:, None, None]
    return result


def pad_or_crop(images: FloatArray, size: int) -> FloatArray:
    """``images`` (b, y, x) in square boxes, filled with 0, origin offset ⌊(old − new) / 2⌋."""
    result = np.zeros((len(images), size, size), images.dtype)
    taken, placed = zip(*(_overlap(old, size) for old in images.shape[1:]), strict=True)
    result[:, placed[0], placed[1]] = images[:, taken[0], taken[1]]
    return result


def _overlap(old: int, new: int) -> tuple[slice, slice]:
    """Where to take from and where to put along one axis."""
    offset = (old - new) // 2
    first, last = max(offset, 0), min(offset + new, old)
    return slice(first, last), slice(first - offset, last - offset)


def mask_tilted_edges(images: FloatArray, altitudes_deg: FloatArray) -> None:
    """Zero ``⌊nx (1 − cos alt) / 2⌋`` columns on both sides of each image, in place (``--altedgemask``)."""
    width = images.shape[2]
    for image, altitude in zip(images, altitudes_deg, strict=True):
        columns = int(width * (1.0 - math.cos(math.radians(float(altitude)))) / 2.0)
        image[:, :columns] = 0
        image[:, max(width - columns, 0) :] = 0


def resample_bilinear(images: FloatArray, linear: FloatArray, shifts_px: FloatArray) -> FloatArray:
    """Move each image's content by ``x' = A x + t`` about pixel n // 2, bilinearly, 0 outside.

    Parameters
    ----------
    images
        (b, n, n).
    linear
        (b, 2, 2), the A of each image, acting on (x, y).
    shifts_px
        (b, 2), the t of each image, pixels.
    """
    size = images.shape[1]
    centred = np.arange(size, dtype=np.float64) - size // 2
    result = np.empty_like(images)
    for number, (image, matrix, shift) in enumerate(zip(images, linear, shifts_px, strict=True)):
        if not shift.any() and np.array_equal(matrix, np.eye(2)):
            result[number] = image
            continue
        inverse = np.linalg.inv(matrix)
        x, y = centred[None, :] - shift[0], centred[:, None] - shift[1]
        columns = inverse[0, 0] * x + inverse[0, 1] * y + size // 2
        rows = inverse[1, 0] * x + inverse[1, 1] * y + size // 2
        result[number] = _bilinear(image, rows, columns)
    return result


def _bilinear(image: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Image at fractional positions, 0 where a position is outside the pixel centres."""
    last = image.shape[0] - 1
    inside = (rows >= 0) & (columns >= 0) & (rows <= last) & (columns <= last)
    y = np.clip(np.floor(rows), 0, last - 1).astype(np.int64)
    x = np.clip(np.floor(columns), 0, last - 1).astype(np.int64)
    v, u = rows - y, columns - x
    lower = image[y, x] * (1 - u) + image[y, x + 1] * u
    upper = image[y + 1, x] * (1 - u) + image[y + 1, x + 1] * u
    result: FloatArray = np.where(inside, lower * (1 - v) + upper * v, 0)
    return result


def prepare_eman2(
    images: FloatArray,
    shifts_px: FloatArray,
    pad: int,
    weights: FloatArray,
    ssnr: FloatArray | None = None,
    linear: FloatArray | None = None,
    altitudes_deg: FloatArray | None = None,
) -> FloatArray:
    """Samples of a SliceBatch, prepared the way EMAN2 does.

    Parameters
    ----------
    images
        (b, ny, nx) float32 or float64, edge mean subtracted, preprocessed.
    shifts_px
        (b, 2) pixels; the content of each image is moved by +t.
    pad
        Size of the slices, pixels, even.
    weights
        (b,) weight of each particle; not used where ``ssnr`` is given.
    ssnr
        (b, m) spectral SNR of each particle, from frequency 0 to Nyquist, or None.
    linear
        (b, 2, 2) scale and mirror of each image, or None for none.
    altitudes_deg
        (b,) the alt angle of each image, to mask the edges a tilt brings in; None for no mask.

    Returns
    -------
        (b, pad, pad // 2 + 1, 4) like ``SliceBatch.samples``, but with both Friedel mates on column
        kx = 0 and with samples up to ``RADIUS_MARGIN`` beyond Nyquist. The weight of an image
        without any contrast is 0.

    Raises
    ------
    ParameterError
        If ``pad`` is odd or not positive.
    """
    if pad < 2 or pad % 2:
        raise ParameterError(
            f"--pad: expected an even size with --compat eman2, got {pad}; EMAN2 distorts odd boxes"
        )
    padded = pad_or_crop(images, pad)
    if altitudes_deg is not None:
        mask_tilted_edges(padded, altitudes_deg)
    flat = padded.reshape(len(padded), -1)
    has_contrast = flat.max(1, initial=-np.inf) > flat.min(1, initial=np.inf)
    matrices = np.broadcast_to(np.eye(2), (len(images), 2, 2)) if linear is None else linear
    moved = resample_bilinear(padded, matrices, shifts_px)
    spectra = scipy.fft.rfft2(scipy.fft.ifftshift(moved, axes=(1, 2)), axes=(1, 2))
    plane = _sample_weights(pad, weights, ssnr) * has_contrast[:, None, None]
    samples = np.zeros((*spectra.shape, 4), images.dtype)
    spectra *= math.sqrt((pad + 2) / pad)
    samples[..., 0] = spectra.real * plane
    samples[..., 1] = spectra.imag * plane
    samples[..., 2] = plane
    return samples


def _sample_weights(pad: int, weights: FloatArray, ssnr: FloatArray | None) -> FloatArray:
    """(b, pad, pad // 2 + 1) weight of each sample, 0 beyond the kept radius."""
    rows, columns = signed_frequencies(pad)[:, None], np.arange(pad // 2 + 1)[None, :]
    radius = np.floor(np.hypot(columns, rows) + 0.5).astype(np.int64)
    if ssnr is None:
        kept = radius <= pad // 2 + RADIUS_MARGIN
        result: FloatArray = np.asarray(weights)[:, None, None] * kept
        return result
    bins = ssnr.shape[1]
    kept = radius <= pad // 2
    index = np.minimum((radius * (2.0 * (bins - 1) / pad)).astype(np.int64), bins - 1)
    return np.maximum(ssnr, 0)[:, index] * kept
