"""What symmetry does to masks and maps: copies that are the same, and symmetry that a map only seems to have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import BoolArray, FloatArray, IntArray, centre_of
from centralslice.errors import ParameterError

#: Overlap of the kept mask with its copy above which an operator maps the kept part onto itself.
SAME_REGION = 0.9
#: Overlap above which it is worth saying that it nearly does.
NEARLY_SAME_REGION = 0.5
#: A map has a symmetry if it correlates at least so with each of its copies.
REAL_SYMMETRY = 0.95
#: Voxels that the correlation with a copy is found from.
_POINTS = 50_000
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Cosets:
    """Operators that give different regions.

    Attributes
    ----------
    representatives
        (m,) int64 number of the first operator of each left coset, ascending; 0 is the first.
    stabiliser
        (k,) int64 operators that map the kept part onto itself: the symmetry of the sub-volume.
    overlaps
        (n,) ``⟨M, S_n M⟩ / ⟨M, M⟩``.
    """

    representatives: IntArray
    stabiliser: IntArray
    overlaps: FloatArray


def find_cosets(
    keep: FloatArray, rotations: FloatArray, parallel: ParallelMap, threshold: float = SAME_REGION
) -> Cosets:
    """Which operators of a group give the same region.

    Parameters
    ----------
    keep
        (n, n, n) mask of the kept part.
    rotations
        (m, 3, 3), identity first.
    parallel
        Threads.
    threshold
        Overlap from which a copy is the region itself.

    Notes
    -----
    ``S_n M`` and ``S_m M`` are the same region if ``S_n⁻¹ S_m`` maps M onto itself. Operators whose overlap is
    above the threshold but do not form a group together (a mask that is nearly as symmetric) count as different.

    Raises
    ------
    ParameterError
        If the mask is empty.
    """
    overlaps = mask_overlaps(keep, rotations, parallel)
    stabiliser = np.flatnonzero(overlaps > threshold)
    if not is_closed_group(rotations[stabiliser]):
        stabiliser = np.zeros(1, np.int64)
    same = rotations[stabiliser]
    representatives: list[int] = []
    for number, rotation in enumerate(rotations):
        relative = np.einsum("nji,jk->nik", rotations[representatives], rotation)
        distance = np.abs(relative[:, None] - same).max(axis=(-2, -1))
        if not np.any(distance < _TOLERANCE):
            representatives.append(number)
    return Cosets(np.array(representatives, np.int64), stabiliser, overlaps)


def nearly_symmetric(cosets: Cosets, rotations: FloatArray, threshold: float) -> list[str]:
    """What to say of operators that map most of the kept part onto itself, but were not taken to do so.

    Parameters
    ----------
    cosets
        As found with ``threshold``.
    rotations
        (m, 3, 3) all operators.
    threshold
        Overlap from which a copy is the region itself.
    """
    overlaps = cosets.overlaps
    near = np.setdiff1d(np.flatnonzero(overlaps > NEARLY_SAME_REGION), cosets.stabiliser)
    if not len(near):
        return []
    least = float(overlaps[near].min())
    lower = math.floor(20 * least - 1e-6) / 20
    same = np.flatnonzero(overlaps > lower)
    advice = "give a mask that is more symmetric"
    if least > threshold:
        advice = f"the operators above {threshold:g} are no group; {advice}, or --cosets with another overlap"
    if lower >= NEARLY_SAME_REGION and is_closed_group(rotations[same]):
        count = len(rotations) // len(same)
        advice = f"{advice}, or --cosets {lower:g} for {count} sub-particle{'s' * (count > 1)} a parent"
    return [
        f"{len(near)} operators map the kept part nearly onto itself, its mask overlapping by {least:.2f} to "
        f"{overlaps[near].max():.2f}; all {len(cosets.representatives)} copies are taken, much the same density again "
        f"and again. If it is one part, {advice}"
    ]


def mask_overlaps(keep: FloatArray, rotations: FloatArray, parallel: ParallelMap) -> FloatArray:
    """(n,) ``⟨M, S_n M⟩ / ⟨M, M⟩``, the copy by trilinear interpolation."""
    points, values = _points_of(keep, keep > 0.01 * keep.max())
    if len(values) == 0 or not np.any(values > 0):
        raise ParameterError("--subunitmask: the mask is empty")
    energy = float(values @ values)

    def overlap(rotation: FloatArray) -> float:
        return float(values @ _sample(keep, points, rotation, 1)) / energy

    return np.array(parallel(overlap, list(rotations)), np.float64)


def pseudo_symmetry(
    density: FloatArray, rotations: FloatArray, within: FloatArray | None, parallel: ParallelMap
) -> FloatArray:
    """(n,) correlation coefficient of a map with each of its copies, from at most 50,000 voxels.

    Parameters
    ----------
    density
        (n, n, n) map.
    rotations
        (m, 3, 3), identity first.
    within
        Mask of what counts, or None for the inscribed ball.
    parallel
        Threads.

    Raises
    ------
    ParameterError
        If the mask is empty.
    """
    axis = (np.arange(len(density)) - centre_of(len(density))) ** 2
    ball = axis[:, None, None] + axis[:, None] + axis < (0.5 * len(density) - 1) ** 2
    inside = ball if within is None else ball & (within > 0.5)
    points, values = _points_of(density, inside, _POINTS)
    if len(values) == 0:
        raise ParameterError("subparticles: the mask of the whole map is empty")
    splines = scipy.ndimage.spline_filter(density, 3, np.float32)

    def agreement(rotation: FloatArray) -> float:
        if np.abs(rotation - np.eye(3)).max() < _TOLERANCE:
            return 1.0
        copy = _sample(splines, points, rotation, 3)
        a, b = values - values.mean(), copy - copy.mean()
        power = math.sqrt(float(a @ a) * float(b @ b))
        return float(a @ b) / power if power > 0 else 0.0

    return np.array(parallel(agreement, list(rotations)), np.float64)


def rotate_map(data: FloatArray, rotation: FloatArray, order: int = 1) -> FloatArray:
    """The object turned by S: ``data(S⁻¹ x)`` about the centre voxel, by splines of an order; 0 outside."""
    inverse = np.asarray(rotation, np.float64).T[::-1, ::-1]
    centre = np.full(3, float(centre_of(len(data))))
    turned: FloatArray = scipy.ndimage.affine_transform(data, inverse, centre - inverse @ centre, order=order)
    return turned


def rotated_exclusion(keep: FloatArray, outer: FloatArray | None, rotation: FloatArray) -> FloatArray:
    """``M_all (1 − M_keep(S⁻¹ x))``: the subtracted part for one copy, the map itself not turned."""
    kept = np.clip(rotate_map(keep, rotation), 0, 1)
    excluded: FloatArray = 1 - kept if outer is None else outer * (1 - kept)
    return excluded.astype(np.float32, copy=False)


def is_closed_group(rotations: FloatArray) -> bool:
    """Whether the product of any two of the (n, 3, 3) rotations is one of them."""
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 1, 3, 3)
    return bool((np.abs(products - rotations).max(axis=(-2, -1)).min(axis=1) < _TOLERANCE).all())


def _points_of(data: FloatArray, chosen: BoolArray, most: int | None = None) -> tuple[FloatArray, FloatArray]:
    """(3, p) float32 z, y, x from the centre, and (p,) float64 values; of more than ``most``, every so-many-th."""
    flat = np.flatnonzero(chosen)
    if most is not None:
        flat = flat[:: max(1, math.ceil(len(flat) / most))]
    points = np.stack(np.unravel_index(flat, data.shape)).astype(np.float32) - centre_of(len(data))
    return points, data.ravel()[flat].astype(np.float64)


def _sample(data: FloatArray, points: FloatArray, rotation: FloatArray, order: int) -> FloatArray:
    """Values of the turned object at points: ``data(S⁻¹ x)``; for order 3 ``data`` are spline coefficients."""
    inverse = np.asarray(rotation, np.float64).T[::-1, ::-1].astype(np.float32)
    values: FloatArray = scipy.ndimage.map_coordinates(
        data, inverse @ points + np.float32(centre_of(len(data))), np.float64, order=order, prefilter=False
    )
    return values
