"""Where the sub-particles of a parent lie: poses, positions, depth, and what of a box is outside the parent's.

    position  u = (A (S c + t))_xy + s,   move  d = −round(u),   shift left  s' = u + d,
    pose      A S Wᵀ,                     depth z = (A (S c + t))_z

with the parent's pose (A, s), a symmetry operator (S, t), the centre c of the kept part in the map, and W the
rotation that takes c to +z (``--align-z``), else 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.geometry.eulers import relion_to_matrices


@dataclass(frozen=True, slots=True)
class Candidates:
    """The sub-particles each parent may give, symmetry operator major, centre minor.

    Attributes
    ----------
    operators, subunits
        (c,) number of the symmetry operator, and of the centre.
    rotations, translations_angst
        (c, 3, 3) S and (c, 3) t.
    centres_angst
        (c, 3) centre in the map from its centre voxel, x y z.
    frames
        (c, 3, 3) W.
    recentred
        Whether sub-particles are moved to the centre of their images.
    """

    operators: IntArray
    subunits: IntArray
    rotations: FloatArray
    translations_angst: FloatArray
    centres_angst: FloatArray
    frames: FloatArray
    recentred: bool = True

    def __len__(self) -> int:
        return len(self.operators)


@dataclass(frozen=True, slots=True)
class Parents:
    """Some parents: where they are and how they were taken.

    Attributes
    ----------
    numbers, rotations, shifts_angst
        (p,), (p, 3, 3) and (p, 2).
    pixels_angst
        (p,) pixel sizes.
    magnifications
        (p, 4) matrices M, row by row. The slice of an image is read at M k, so a point at r in the image plane
        of its pose is seen at Mᵀ r.
    """

    numbers: IntArray
    rotations: FloatArray
    shifts_angst: FloatArray
    pixels_angst: FloatArray
    magnifications: FloatArray


def parents_of(particles: Particles, numbers: IntArray) -> Parents:
    """The poses of these particles."""
    pixels = np.array([group.pixel_size_angst for group in particles.optics])
    matrices = np.array([group.magnification for group in particles.optics], np.float64)
    groups = particles.optics_group[numbers]
    return Parents(
        numbers,
        particles.rotations[numbers],
        particles.shifts_angst[numbers],
        pixels[groups],
        matrices[groups],
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Sub-particles, one a row, parent major.

    Attributes
    ----------
    parent, candidate
        (m,) number of the parent and of the candidate.
    rotations
        (m, 3, 3) their poses.
    position_px
        (m, 2) of their centre in the parent's image, from its centre pixel, x y.
    move_px
        (m, 2) int64 whole pixels by which the image is moved.
    residual_px
        (m, 2) where the centre is after that, from the centre pixel.
    depth_angst
        (m,) height of the centre over the parent's along the line of sight.
    direction
        (m, 3) from the parent's centre to theirs, unit length, in the image's frame.
    """

    parent: IntArray
    candidate: IntArray
    rotations: FloatArray
    position_px: FloatArray
    move_px: IntArray
    residual_px: FloatArray
    depth_angst: FloatArray
    direction: FloatArray

    def __len__(self) -> int:
        return len(self.parent)

    def take(self, chosen: BoolArray | IntArray) -> Rows:
        """Some of them."""
        return Rows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def missing(self, parent_box: int, new_box: int) -> FloatArray:
        """(m,) fraction of the new box that the parent's image does not cover, 0 … 1.

        A new box larger than the parent's counts as if it were as large.
        """
        low = np.maximum(-(new_box // 2) - self.move_px, -(parent_box // 2))
        high = np.minimum(new_box - new_box // 2 - self.move_px, parent_box - parent_box // 2)
        covered = np.clip(high - low, 0, None).prod(axis=1)
        result: FloatArray = 1.0 - covered / min(parent_box, new_box) ** 2
        return result


def round_half_away(values: FloatArray) -> IntArray:
    """Nearest integers, halves away from zero."""
    result: IntArray = np.trunc(values + np.copysign(0.5, values)).astype(np.int64)
    return result


def rows_of(parents: Parents, candidates: Candidates, choice: IntArray) -> Rows:
    """All chosen candidates of some parents.

    Parameters
    ----------
    parents
        p of them.
    candidates
        What there is to choose from.
    choice
        (p, k) numbers of the candidates each parent gives, in order.
    """
    each = choice.shape[1]
    flat = choice.ravel()
    centre = _times(candidates.rotations, candidates.centres_angst) + candidates.translations_angst
    views = np.repeat(parents.rotations, each, axis=0)
    placed = _times(views, centre[flat])
    pixels = np.repeat(parents.pixels_angst, each)[:, None]
    seen = _seen(placed, np.repeat(parents.magnifications, each, axis=0))
    position = (seen + np.repeat(parents.shifts_angst, each, axis=0)) / pixels
    move = -round_half_away(position) if candidates.recentred else np.zeros(position.shape, np.int64)
    turned = candidates.rotations @ np.swapaxes(candidates.frames, 1, 2)
    return Rows(
        np.repeat(parents.numbers, each), flat, views @ turned[flat], position, move, position + move,
        placed[:, 2], _directions(views, placed),
    )  # fmt: skip


def _seen(placed: FloatArray, magnifications: FloatArray) -> FloatArray:
    """(m, 2) Mᵀ (x, y) of (m, 3) points in the frame of their image."""
    x, y = placed[:, 0], placed[:, 1]
    m00, m01, m10, m11 = magnifications.T
    return np.stack([m00 * x + m10 * y, m01 * x + m11 * y], axis=1)


def _times(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    """(m, 3, 3) times (m, 3), summed in one order: a row's values do not depend on how many there are."""
    first = matrices[:, :, 0] * vectors[:, None, 0] + matrices[:, :, 1] * vectors[:, None, 1]
    result: FloatArray = first + matrices[:, :, 2] * vectors[:, None, 2]
    return result


def make_candidates(
    operators: tuple[IntArray, FloatArray, FloatArray], centres_angst: FloatArray, *, recentred: bool = True,
    align_z: bool = False,
) -> Candidates:  # fmt: skip
    """Every operator with every centre.

    Parameters
    ----------
    operators
        Numbers (n,), rotations (n, 3, 3) and translations (n, 3) in Å.
    centres_angst
        (c, 3) in the map.
    recentred
        Whether sub-particles are moved to the centre of their images.
    align_z
        Turn their frame so that the centre's direction is +z.
    """
    numbers, rotations, translations = operators
    count, order = len(centres_angst), len(numbers)
    frames = np.array([_to_z(centre) if align_z else np.eye(3) for centre in centres_angst])
    return Candidates(
        np.repeat(numbers, count), np.tile(np.arange(count), order), np.repeat(rotations, count, axis=0),
        np.repeat(translations, count, axis=0), np.tile(centres_angst, (order, 1)),
        np.tile(frames, (order, 1, 1)), recentred,
    )  # fmt: skip


def _to_z(centre: FloatArray) -> FloatArray:
    """A rotation that takes the direction of a point to +z; the identity for the origin."""
    x, y, z = centre.tolist()
    if math.sqrt(x * x + y * y + z * z) < 1e-6:
        return np.eye(3)
    rot, tilt = math.degrees(math.atan2(y, x)), math.degrees(math.atan2(math.hypot(x, y), z))
    frame: FloatArray = relion_to_matrices(rot, tilt, 0.0)[0]
    return frame


def _directions(views: FloatArray, placed: FloatArray) -> FloatArray:
    """Unit vectors to the centres; of one in the middle of the parent, that of the parent's z axis."""
    length = np.linalg.norm(placed, axis=1, keepdims=True)
    axis = views[:, :, 2]
    result: FloatArray = np.where(
        length > 1e-6,
        placed / np.maximum(length, 1e-6),
        axis / np.linalg.norm(axis, axis=1, keepdims=True),
    )
    return result


def choices(numbers: IntArray, count: int, relax: bool, shuffle: bool, seed: int) -> IntArray:
    """Which candidates each parent gives, in which order.

    Parameters
    ----------
    numbers
        (p,) numbers of the parents; what is random depends on these and the seed only.
    count
        Candidates there are.
    relax, shuffle
        One at random; all in random order.
    seed
        Of both.

    Returns
    -------
        (p, 1) or (p, count) int64.
    """
    if not (relax or shuffle):
        return np.broadcast_to(np.arange(count), (len(numbers), count))
    rows = [np.random.default_rng([seed, number]).permutation(count) for number in numbers.tolist()]
    result: IntArray = np.array(rows, np.int64).reshape(len(numbers), count)
    return result[:, :1] if relax else result
