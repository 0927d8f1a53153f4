"""Orientation dialects of other programs, and the pose matrix R of :mod:`centralslice.conventions`.

Angles are degrees; arrays of n angles give (n, 3, 3) float64. Source of the RELION formulas: its ZYZ
matrix ``A = Rz(−psi) Ry(−tilt) Rz(−rot)``; of the EMAN2 ones ``R = Rz(−phi) Rx(−alt) Rz(−az)``, written
here with right-handed matrices (EMAN2's own elementary matrices are their transposes).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import BoolArray, FloatArray
from centralslice.errors import ParameterError
from centralslice.geometry.rotations import (
    quaternions_to_matrices,
    rotation_from_vectors,
    rotation_x,
    rotation_y,
    rotation_z,
)

#: Relative length of the third row's x, y part below which a view is taken to be along the z axis.
_GIMBAL = 1e-12


def relion_to_matrices(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> FloatArray:
    """RELION's rlnAngleRot, Tilt, Psi to (n, 3, 3) pose matrices."""
    first, second, third = np.broadcast_arrays(*np.atleast_1d(rot, tilt, psi))
    return rotation_z(-third) @ rotation_y(-second) @ rotation_z(-first)


def matrices_to_relion(matrices: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(n, 3, 3) poses to RELION's ``(rot, tilt, psi)``, each (n,); tilt in 0 … 180, rot 0 where that is free.

    A scale of the matrices is ignored. psi is taken after rot is undone, so that the three together
    stay accurate to rounding however near a view is to the z axis.
    """
    given = _stack(matrices)
    rot = np.arctan2(given[:, 2, 1], given[:, 2, 0])
    rot[_along_z(given)] = 0.0
    tilt = _inclination(given)
    cosine, sine = np.cos(rot), np.sin(rot)
    psi = np.arctan2(
        cosine * given[:, 0, 1] - sine * given[:, 0, 0],
        cosine * given[:, 1, 1] - sine * given[:, 1, 0],
    )
    return np.rad2deg(rot), np.rad2deg(tilt), np.rad2deg(psi)


def eman2_to_matrices(az: ArrayLike, alt: ArrayLike, phi: ArrayLike) -> FloatArray:
    """EMAN2's az, alt, phi to (n, 3, 3) pose matrices."""
    first, second, third = np.broadcast_arrays(*np.atleast_1d(az, alt, phi))
    return rotation_z(-third) @ rotation_x(-second) @ rotation_z(-first)


def matrices_to_eman2(matrices: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(n, 3, 3) poses to EMAN2's ``(az, alt, phi)``, each (n,); alt in 0 … 180, az 0 where that is free."""
    given = _stack(matrices)
    az = np.arctan2(given[:, 2, 0], -given[:, 2, 1])
    az[_along_z(given)] = 0.0
    alt = _inclination(given)
    cosine, sine = np.cos(az), np.sin(az)
    phi = np.arctan2(
        -(cosine * given[:, 1, 0] + sine * given[:, 1, 1]),
        cosine * given[:, 0, 0] + sine * given[:, 0, 1],
    )
    return np.rad2deg(az), np.rad2deg(alt), np.rad2deg(phi)


def imod_tilt_to_matrices(angle: ArrayLike) -> FloatArray:
    """Angles of an IMOD .tlt file to (n, 3, 3) poses: slice sample (kx, ky) at (kx cos, ky, −kx sin)."""
    return rotation_y(-np.atleast_1d(np.asarray(angle, np.float64)))


def cryosparc_to_matrices(pose: ArrayLike) -> FloatArray:
    """cryoSPARC's (n, 3) axis-angle poses (radians) to (n, 3, 3) poses, the transposed exponential map."""
    return np.swapaxes(rotation_from_vectors(np.atleast_2d(np.asarray(pose, np.float64))), -1, -2)


#: Keys of each of EMAN2's orientation dialects; a key that is absent counts as 0.
EMAN2_DIALECTS: Mapping[str, tuple[str, ...]] = {
    "eman": ("az", "alt", "phi"),
    "spider": ("phi", "theta", "psi"),
    "mrc": ("phi", "theta", "omega"),
    "imagic": ("alpha", "beta", "gamma"),
    "2d": ("alpha",),
    "quaternion": ("e0", "e1", "e2", "e3"),
    "spin": ("omega", "n1", "n2", "n3"),
    "sgirot": ("q", "n1", "n2", "n3"),
    "spinvec": ("v1", "v2", "v3"),
    "xyz": ("xtilt", "ytilt", "ztilt"),
    "matrix": ("m11", "m12", "m13", "m21", "m22", "m23", "m31", "m32", "m33"),
}


def eman2_dialect_to_matrix(kind: str, values: Mapping[str, float]) -> FloatArray:
    """One orientation in any of EMAN2's dialects to its (3, 3) matrix.

    Parameters
    ----------
    kind
        One of :data:`EMAN2_DIALECTS`, case-insensitive.
    values
        Key to number; angles in degrees, ``spinvec`` in turns. Shifts, scale and mirror are no part of it.

    Raises
    ------
    ParameterError
        For an unknown kind or key, a value that is not finite, or values that give a singular matrix.

    Notes
    -----
    quaternion and sgirot are taken as they are: one that is not of unit length scales the matrix.
    """
    keys = EMAN2_DIALECTS.get(kind.lower())
    if keys is None:
        raise ParameterError(f"orientation type: expected one of {', '.join(EMAN2_DIALECTS)}, got '{kind}'")
    for key in values:
        if key not in keys:
            raise ParameterError(f"{kind} orientation: unknown key '{key}' (known: {', '.join(keys)})")
    numbers = np.array([float(values.get(key, 0.0)) for key in keys])
    if not np.all(np.isfinite(numbers)):
        raise ParameterError(f"{kind} orientation: expected finite numbers, got {dict(values)}")
    matrix = _dialect_matrix(kind.lower(), numbers)
    if np.linalg.det(matrix) == 0:
        raise ParameterError(f"{kind} orientation: {dict(values)} gives a singular matrix")
    return matrix


def _dialect_matrix(kind: str, numbers: FloatArray) -> FloatArray:
    """The matrix of one dialect from its numbers, in the order of the keys."""
    result: FloatArray
    if kind in ("eman", "imagic"):
        result = eman2_to_matrices(*numbers)[0]
    elif kind in ("spider", "mrc"):
        result = relion_to_matrices(*numbers)[0]
    elif kind == "2d":
        result = rotation_z(-numbers[0])
    elif kind == "quaternion":
        result = quaternions_to_matrices(numbers).T
    elif kind in ("spin", "sgirot"):
        result = _spin(numbers[0], numbers[1:], normalise=kind == "spin")
    elif kind == "spinvec":
        result = rotation_from_vectors(2 * np.pi * numbers).T
    elif kind == "xyz":
        # what EMAN2 writes out row by row is x tilt first, then y, then z
        result = rotation_z(-numbers[2]) @ rotation_y(-numbers[1]) @ rotation_x(-numbers[0])
    else:
        result = numbers.reshape(3, 3)
    return result


def _spin(angle_deg: float, axis: FloatArray, normalise: bool) -> FloatArray:
    """EMAN2's spin and sgirot: rotation about an axis; the identity for a null axis."""
    length = float(np.linalg.norm(axis))
    if length == 0:
        return np.eye(3)
    direction = axis / length if normalise else axis
    half = np.deg2rad(angle_deg) / 2
    return quaternions_to_matrices(np.concatenate([[np.cos(half)], np.sin(half) * direction])).T


def _stack(matrices: ArrayLike) -> FloatArray:
    """Matrices as (n, 3, 3) float64."""
    return np.asarray(matrices, np.float64).reshape(-1, 3, 3)


def _along_z(matrices: FloatArray) -> BoolArray:
    """Whether each view is along the z axis, up or down."""
    row = matrices[:, 2]
    result: BoolArray = np.hypot(row[:, 0], row[:, 1]) <= _GIMBAL * np.abs(row[:, 2])
    return result


def _inclination(matrices: FloatArray) -> FloatArray:
    """Angle between the view and the z axis, radians, 0 … π."""
    result: FloatArray = np.arctan2(np.hypot(matrices[:, 2, 0], matrices[:, 2, 1]), matrices[:, 2, 2])
    return result
