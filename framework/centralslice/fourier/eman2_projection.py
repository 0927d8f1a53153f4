"""EMAN2's real-space projector and interpolations, quirks included: only for comparison with that program.

Written from the formulas of its ``standard`` projector and its ``xform`` processor. For work of one's own the
slice projectors are more accurate and faster.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError

Float32Array = NDArray[np.float32]


def project_standard(volume: ArrayLike, rotation: ArrayLike) -> Float32Array:
    """Projection of a map at one orientation by trilinear sums along the view.

    Parameters
    ----------
    volume
        (N, N, N), ``[z, y, x]``, origin at voxel N // 2.
    rotation
        (3, 3) orthogonal matrix from map to image coordinates (x, y, z).

    Returns
    -------
    ndarray
        (N, N) float32: sum over z of the map at ``rotation^T (x, y, z)``. Column 0 holds the last plane only,
        as in EMAN2, which sets the first pixel of each row anew at every plane.

    Raises
    ------
    ParameterError
        If the map is no cube or the rotation not (3, 3).
    """
    cube = _cube(volume)
    image = np.zeros(cube.shape[1:], np.float32)
    _project(cube, _inverse(rotation), image)
    return image


def rotate_volume(volume: ArrayLike, rotation: ArrayLike) -> Float32Array:
    """The map turned by ``rotation``: its value at x is that of ``volume`` at ``rotation^T x``.

    Trilinear about voxel N // 2, zero outside as in :func:`warp_image`; layout of :func:`project_standard`.

    Raises
    ------
    ParameterError
        If the map is no cube or the rotation not (3, 3).
    """
    cube = _cube(volume)
    turned = np.zeros_like(cube)
    _rotate(cube, _inverse(rotation), turned)
    return turned


def warp_image(image: ArrayLike, matrix: ArrayLike, shift: ArrayLike) -> Float32Array:
    """An image read at transformed places: the result at p is ``image`` at ``matrix p + shift``.

    Parameters
    ----------
    image
        (ny, nx), origin at pixel (ny // 2, nx // 2).
    matrix
        (2, 2), acting on (x, y).
    shift
        (2,) x, y in pixels.

    Returns
    -------
    ndarray
        (ny, nx) float32, bilinear. Zero where a coordinate is below 0 or not below nx or ny; within the pixel
        beyond the last one that is repeated, as in EMAN2.
    """
    source = np.ascontiguousarray(image, np.float32)
    warped = np.zeros_like(source)
    _warp(source, np.asarray(matrix, np.float64), np.asarray(shift, np.float64), warped)
    return warped


def alignment_matrix(alpha_deg: float, mirror: bool) -> FloatArray:
    """(2, 2) linear part of EMAN2's 2D transform: ``X^m Rz(α)``, the mirror of x being applied last."""
    angle = np.deg2rad(alpha_deg)
    cosine, sine = np.cos(angle), np.sin(angle)
    sign = -1.0 if mirror else 1.0
    return np.array([[sign * cosine, sign * sine], [-sine, cosine]])


def _cube(volume: ArrayLike) -> Float32Array:
    cube = np.ascontiguousarray(volume, np.float32)
    if cube.ndim != 3 or len(set(cube.shape)) != 1:
        raise ParameterError(f"projection: expected a cubic map, got an array of shape {cube.shape}")
    return cube


def _inverse(rotation: ArrayLike) -> FloatArray:
    matrix = np.asarray(rotation, np.float64)
    if matrix.shape != (3, 3):
        raise ParameterError(f"projection: expected a (3, 3) rotation, got an array of shape {matrix.shape}")
    return np.ascontiguousarray(matrix.T)


@njit(nogil=True, cache=True)
def _trilinear(cube: Float32Array, x: float, y: float, z: float) -> float:
    """The value at (x, y, z) in voxels from the corner, 0 <= x, y, z < N; the last voxel is repeated."""
    last = cube.shape[0] - 1
    x0, y0, z0 = int(x), int(y), int(z)
    x1, y1, z1 = min(x0 + 1, last), min(y0 + 1, last), min(z0 + 1, last)
    fx, fy, fz = x - x0, y - y0, z - z0
    low = (cube[z0, y0, x0] * (1 - fx) + cube[z0, y0, x1] * fx) * (1 - fy) + (
        cube[z0, y1, x0] * (1 - fx) + cube[z0, y1, x1] * fx
    ) * fy
    high = (cube[z1, y0, x0] * (1 - fx) + cube[z1, y0, x1] * fx) * (1 - fy) + (
        cube[z1, y1, x0] * (1 - fx) + cube[z1, y1, x1] * fx
    ) * fy
    return float(low * (1 - fz) + high * fz)


@njit(nogil=True, cache=True)
def _project(cube: Float32Array, back: FloatArray, image: Float32Array) -> None:
    size = cube.shape[0]
    centre = size // 2
    for row in range(size):
        for column in range(size):
            i, j = column - centre, row - centre
            # the first pixel of a row keeps the last plane only
            first = size - 1 if column == 0 else 0
            total = 0.0
            for plane in range(first, size):
                k = plane - centre
                x = back[0, 0] * i + back[0, 1] * j + back[0, 2] * k + centre
                y = back[1, 0] * i + back[1, 1] * j + back[1, 2] * k + centre
                z = back[2, 0] * i + back[2, 1] * j + back[2, 2] * k + centre
                if min(x, y, z) >= 0 and max(x, y, z) <= size - 1:
                    total += _trilinear(cube, x, y, z)
            image[row, column] = total


@njit(nogil=True, cache=True)
def _rotate(cube: Float32Array, back: FloatArray, turned: Float32Array) -> None:
    size = cube.shape[0]
    centre = size // 2
    for plane in range(size):
        for row in range(size):
            for column in range(size):
                i, j, k = column - centre, row - centre, plane - centre
                x = back[0, 0] * i + back[0, 1] * j + back[0, 2] * k + centre
                y = back[1, 0] * i + back[1, 1] * j + back[1, 2] * k + centre
                z = back[2, 0] * i + back[2, 1] * j + back[2, 2] * k + centre
                if min(x, y, z) >= 0 and max(x, y, z) < size:
                    turned[plane, row, column] = _trilinear(cube, x, y, z)


@njit(nogil=True, cache=True)
def _warp(source: Float32Array, matrix: FloatArray, shift: FloatArray, warped: Float32Array) -> None:
    rows, columns = source.shape
    for row in range(rows):
        for column in range(columns):
            i, j = column - columns // 2, row - rows // 2
            x = matrix[0, 0] * i + matrix[0, 1] * j + shift[0] + columns // 2
            y = matrix[1, 0] * i + matrix[1, 1] * j + shift[1] + rows // 2
            # up to a whole pixel beyond the last one counts as inside
            if x < 0 or y < 0 or x >= columns or y >= rows:
                continue
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            fx, fy = x - x0, y - y0
            low = source[y0, x0] * (1 - fx) + source[y0, x1] * fx
            high = source[y1, x0] * (1 - fx) + source[y1, x1] * fx
            warped[row, column] = low * (1 - fy) + high * fy
