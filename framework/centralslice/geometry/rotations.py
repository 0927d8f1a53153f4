"""Rotation matrices: elementary ones, random ones, checks, and mirrors folded away.

All matrices act on xyz columns and rotate right-handedly (actively): ``rotation_z(90)`` takes x to y.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import BoolArray, FloatArray
from centralslice.errors import ParameterError


def axis_rotation(axis: ArrayLike, angle_deg: ArrayLike) -> FloatArray:
    """Right-handed rotation about an axis.

    Parameters
    ----------
    axis
        (3,) x, y, z; any length but 0.
    angle_deg
        Scalar or (n,), degrees.

    Returns
    -------
        (3, 3) for a scalar angle, else (n, 3, 3), float64.

    Raises
    ------
    ParameterError
        If the axis has no length.

    Notes
    -----
    Rodrigues: ``R = 1 + sin(a) K + (1 − cos(a)) K²`` with K the cross-product matrix of the unit axis.
    Rotations about a coordinate axis have exact zeros and ones.
    """
    direction = np.asarray(axis, np.float64)
    length = np.linalg.norm(direction)
    if direction.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ParameterError(
            f"axis: expected three finite numbers that are not all 0, got {direction.tolist()}"
        )
    angles = np.deg2rad(np.asarray(angle_deg, np.float64))
    return rotation_from_vectors(direction / length * angles[..., None])


def rotation_from_vectors(vectors: ArrayLike) -> FloatArray:
    """Exponential map: (…, 3) rotation vectors (unit axis times radians) to (…, 3, 3) active matrices."""
    turned = np.asarray(vectors, np.float64)
    angle = np.linalg.norm(turned, axis=-1)[..., None, None]
    cross = np.zeros((*turned.shape, 3))
    x, y, z = np.moveaxis(turned, -1, 0)
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -z, y, -x
    cross -= np.swapaxes(cross, -1, -2)
    # sin(a)/a and (1 − cos(a))/a² = ½ (sin(a/2)/(a/2))², both finite at 0; np.sinc is sin(πu)/(πu)
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    result: FloatArray = np.eye(3) + first * cross + second * (cross @ cross)
    return result


def _about(index: int, angle_deg: ArrayLike) -> FloatArray:
    """(…, 3, 3) active rotation about coordinate axis ``index``."""
    angles = np.deg2rad(np.asarray(angle_deg, np.float64))
    first, second = (index + 1) % 3, (index + 2) % 3
    result = np.zeros((*angles.shape, 3, 3))
    result[..., index, index] = 1.0
    result[..., first, first] = result[..., second, second] = np.cos(angles)
    result[..., second, first] = np.sin(angles)
    result[..., first, second] = -result[..., second, first]
    return result


def rotation_x(angle_deg: ArrayLike) -> FloatArray:
    """Active rotation about x, y towards z; (…, 3, 3) for angles of any shape, degrees."""
    return _about(0, angle_deg)


def rotation_y(angle_deg: ArrayLike) -> FloatArray:
    """Active rotation about y, z towards x; (…, 3, 3) for angles of any shape, degrees."""
    return _about(1, angle_deg)


def rotation_z(angle_deg: ArrayLike) -> FloatArray:
    """Active rotation about z, x towards y; (…, 3, 3) for angles of any shape, degrees."""
    return _about(2, angle_deg)


def quaternions_to_matrices(quaternions: ArrayLike) -> FloatArray:
    """Active matrices of (…, 4) quaternions ``e0 … e3``, e0 the scalar part; not normalised: |e|² scales."""
    e0, e1, e2, e3 = np.moveaxis(np.asarray(quaternions, np.float64), -1, 0)
    rows = (
        (e0 * e0 + e1 * e1 - e2 * e2 - e3 * e3, 2 * (e1 * e2 - e0 * e3), 2 * (e1 * e3 + e0 * e2)),
        (2 * (e1 * e2 + e0 * e3), e0 * e0 - e1 * e1 + e2 * e2 - e3 * e3, 2 * (e2 * e3 - e0 * e1)),
        (2 * (e1 * e3 - e0 * e2), 2 * (e2 * e3 + e0 * e1), e0 * e0 - e1 * e1 - e2 * e2 + e3 * e3),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def random_rotations(count: int, seed: int | np.random.Generator) -> FloatArray:
    """(count, 3, 3) rotations, uniform over all orientations; the same for the same seed."""
    quaternions = np.random.default_rng(seed).standard_normal((count, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    return quaternions_to_matrices(quaternions)


def is_rotation(matrices: ArrayLike, tolerance: float = 1e-6) -> BoolArray:
    """Whether each (…, 3, 3) matrix is a proper rotation: finite, ``RᵀR = 1`` within tolerance, det > 0."""
    checked = np.asarray(matrices, np.float64)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(np.swapaxes(checked, -1, -2) @ checked - np.eye(3)).max(axis=(-2, -1))
        result: BoolArray = (deviation <= tolerance) & (np.linalg.det(checked) > 0)
    return result


def fold_mirror(matrix: ArrayLike, shift: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The proper rotation and shift that give the same projection as a Transform with a mirror.

    Parameters
    ----------
    matrix
        (…, 3, 3) matrix of an EMAN2 Transform as stored: scale times rotation, its x row negated
        if it mirrors (det < 0).
    shift
        (…, 2) or (…, 3) translation as stored, i.e. in the mirrored frame.

    Returns
    -------
    rotation
        (…, 3, 3) float64 with det > 0; a scale stays in the matrix.
    shift_xy
        (…, 2) float64, the pose's shift.

    Raises
    ------
    ParameterError
        If a matrix is singular or not finite.

    Notes
    -----
    Density at r lands on image point ``(A r + t)`` x, y whatever the third row of A is: a sum along z
    does not see its sign. Negating it makes ``A`` proper and leaves the image as it is.
    """
    folded = np.array(matrix, np.float64)
    determinant = np.linalg.det(folded)
    if not np.all(np.isfinite(determinant)) or np.any(determinant == 0):
        raise ParameterError("transform: expected a matrix with a finite determinant other than 0")
    folded[..., 2, :] *= np.sign(determinant)[..., None]
    return folded, np.array(shift, np.float64)[..., :2]
