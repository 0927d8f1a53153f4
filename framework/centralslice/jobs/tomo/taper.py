"""Maps of tomographic jobs made ready to look at: cropped, and tapered to a sphere."""

from __future__ import annotations

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError
from centralslice.fourier.transforms import crop_or_pad


def taper(volume: FloatArray, width: float) -> FloatArray:
    """A map that falls to 0 towards the sphere that fits into its box; its mean under the taper is subtracted first.

    Parameters
    ----------
    volume
        (n, n, n), centre voxel n // 2.
    width
        Of the raised cosine in voxels, ≥ 0, inside radius n // 2; 0 is a hard edge.

    Returns
    -------
        (n, n, n), a new array of the same dtype.

    Raises
    ------
    ParameterError
        If the width is negative or not finite.

    Notes
    -----
    ``c (v − Σ c v / Σ c)`` with c = 1 for r < m − t, ``½ − ½ cos(π (m − r) / t)`` up to m = n // 2, 0 from there.
    """
    if not 0 <= width < np.inf:
        raise ParameterError(f"--taper: expected a width of 0 voxels or more, got {width}")
    total, weight = 0.0, 0.0
    for z, plane in enumerate(volume):
        factors = _taper_plane(len(volume), z, width)
        total += float((factors * plane).sum())
        weight += float(factors.sum())
    mean = total / weight if weight > 0 else 0.0
    result = np.empty_like(volume)
    for z, plane in enumerate(volume):
        result[z] = _taper_plane(len(volume), z, width) * (plane.astype(np.float64) - mean)
    return result


def _taper_plane(size: int, z: int, width: float) -> FloatArray:
    """(n, n) float64 factors c of a plane."""
    axis = np.arange(size) - size // 2
    inside = size // 2 - np.sqrt(axis[:, None] ** 2 + axis**2 + axis[z] ** 2)
    if width == 0:
        return np.where(inside > 0, 1.0, 0.0)
    soft = 0.5 - 0.5 * np.cos(np.pi * np.clip(inside / width, 0.0, 1.0))
    factors: FloatArray = np.where(inside > 0, soft, 0.0)
    return factors


def crop_centre(volume: FloatArray, size: int, compat: bool = False) -> FloatArray:
    """The middle of a map, a new array.

    Parameters
    ----------
    volume
        (n, n, n).
    size
        Wanted, 1 … n. The centre voxel n // 2 becomes the centre voxel size // 2.
    compat
        Cut ``(n − size) // 2`` voxels from each side as RELION does: one voxel more than wanted if n − size is odd.

    Raises
    ------
    ParameterError
        If the size is not 1 … n.
    """
    full = len(volume)
    if not 1 <= size <= full:
        raise ParameterError(f"--crop: expected 1 … {full} voxels, the box, got {size}")
    if compat:
        size += (full - size) % 2
    return crop_or_pad(volume, (size,) * 3)
