"""Alignments to class averages in EMAN2's ``refine_XX`` folders: classmx and cls_result files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_attributes import faulty_transforms, poses_from_transforms
from centralslice_plugins.formats.eman2_hdf import Eman2File, one_line

#: Class, weight, tx, ty, alpha, mirror; a seventh, scale, may follow.
_LAYERS = 6
_FARTHEST = 2.0**31


@dataclass(frozen=True, slots=True)
class ClassAlignment:
    """How each particle lies in its class average.

    Attributes
    ----------
    path
        The file.
    number
        (n,) int64, class.
    used
        (n,) whether the particle is in the average.
    shift
        (n, 2) float64, tx and ty in pixels, of the particle before it is mirrored.
    alpha_deg
        (n,) in-plane angle, degrees.
    mirror
        (n,) whether the particle is mirrored in x, last of all.
    columns
        Classes of each particle in the file, of which the first is taken.
    """

    path: Path
    number: IntArray
    used: BoolArray
    shift: FloatArray
    alpha_deg: FloatArray
    mirror: BoolArray
    columns: int = 1

    def __len__(self) -> int:
        return len(self.number)


def read_class_alignment(path: Path) -> ClassAlignment:
    """Read a classmx or cls_result file.

    Raises
    ------
    FileMissingError, FormatError
        If the file is missing or damaged, has too few layers, or a value that cannot be.
    """
    with Eman2File(path) as file:
        if file.count < _LAYERS:
            raise FormatError(
                f"{path}: has {file.count} images; expected the {_LAYERS} of a classification: class, weight, "
                "tx, ty, alpha, mirror"
            )
        first = file.read_image(0)
        layers = np.stack(
            [first[:, 0], *(_layer(file, number, first.shape) for number in range(1, _LAYERS))]
        ).astype(np.float64)
    wrong = ~(np.isfinite(layers) & (np.abs(layers) < _FARTHEST)).all(axis=0)
    wrong |= (layers[0] != np.rint(layers[0])) | ~np.isin(layers[5], (0.0, 1.0))
    if wrong.any():
        row = int(np.argmax(wrong))
        values = ", ".join(f"{value:g}" for value in layers[:, row])
        raise FormatError(
            f"{path}: row {row + 1}: expected a whole class number, weight, tx, ty, alpha and a mirror of 0 or "
            f"1, got {values}"
        )
    return ClassAlignment(
        path,
        layers[0].astype(np.int64),
        layers[1] != 0,
        layers[2:4].T.copy(),
        layers[4],
        layers[5] == 1,
        first.shape[1],
    )


def _layer(file: Eman2File, number: int, shape: tuple[int, ...]) -> FloatArray:
    layer = file.read_image(number)
    if layer.shape != shape or layer.ndim != 2:
        raise FormatError(f"{file.path}: image {number + 1} is of shape {layer.shape}, the first of {shape}")
    return layer[:, 0]


def read_class_rotations(path: Path) -> FloatArray:
    """(m, 3, 3) rotations in the headers of reference projections; NaN where there is none.

    Raises
    ------
    FileMissingError, FormatError
        If the file is missing or damaged, or holds no image.
    """
    return _rotations(path)[0]


def replace_by_averages(rotations: FloatArray, path: Path) -> tuple[FloatArray, int]:
    """Class rotations with those of class averages (``--eulerrefine``) in their places, where these have any.

    Parameters
    ----------
    rotations
        (m, 3, 3) of the projections.
    path
        Class averages; ``projection_image_idx`` in a header says the class, otherwise its place does.

    Returns
    -------
        (m, 3, 3), and how many are those of averages.
    """
    found, classes = _rotations(path)
    known = ~np.isnan(found).any(axis=(1, 2)) & (classes >= 0) & (classes < len(rotations))
    result = rotations.copy()
    result[classes[known]] = found[known]
    return result, int(np.count_nonzero(known))


def _rotations(path: Path) -> tuple[FloatArray, IntArray]:
    """(m, 3, 3) rotations in the headers of a stack, NaN where there is none, and the class of each."""
    with Eman2File(path) as file:
        if not file.count:
            raise FormatError(f"{path}: holds no image")
        transforms = np.full((file.count, 3, 4), np.nan)
        classes = np.arange(file.count)
        for number in range(file.count):
            group = file.group(number)
            with one_line(path, f"the header of image {number + 1}"):
                transform = file.transform(group, b"xform.projection")
                index = file.number(group, b"projection_image_idx")
            if transform is not None:
                transforms[number] = transform
            if 0 <= index < _FARTHEST:
                classes[number] = int(index)
    known = ~np.isnan(transforms).all(axis=(1, 2))
    faulty = known & faulty_transforms(transforms)
    if faulty.any():
        raise FormatError(f"{path}: image {int(np.argmax(faulty)) + 1}: xform.projection is no rotation")
    rotations = np.full((len(transforms), 3, 3), np.nan)
    if known.any():
        rotations[known] = poses_from_transforms(transforms[known], "projection")[0]
    return rotations, classes


def class_of_each(alignment: ClassAlignment, rotations: FloatArray, source: Path) -> FloatArray:
    """(n, 3, 3) rotation of each particle's class.

    Raises
    ------
    FormatError
        If a particle's class does not exist or has no orientation.
    """
    number = alignment.number
    beyond = (number < 0) | (number >= len(rotations))
    if beyond.any():
        row = int(np.argmax(beyond))
        raise FormatError(
            f"{alignment.path}: row {row + 1}: class {number[row]} is not one of the {len(rotations)} of {source} "
            f"(0 … {len(rotations) - 1})"
        )
    found: FloatArray = rotations[number]
    without = np.isnan(found).any(axis=(1, 2))
    if without.any():
        image = int(number[np.argmax(without)]) + 1
        raise FormatError(f"{source}: image {image} has no xform.projection, but particles are of this class")
    return found


def poses_of_aligned(
    class_rotations: FloatArray, shift: FloatArray, alpha_deg: FloatArray, mirror: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Poses of particles that are aligned to projections.

    Parameters
    ----------
    class_rotations
        (n, 3, 3) E: rotation of each particle's projection.
    shift
        (n, 2) tx, ty in pixels.
    alpha_deg
        (n,) degrees.
    mirror
        (n,) bool.

    Returns
    -------
    rotations
        (n, 3, 3) float64, proper.
    shifts
        (n, 2) float64, pixels.

    Notes
    -----
    A particle's point p lies at ``q = X^m (Rz(α) p + t)`` of the projection, ``Rz(α) = [[c, s], [−s, c]]``
    and ``X = diag(−1, 1)``. So ``p = Rz(α)ᵀ (X^m q − t)``; with ``q = E r`` and depth turned over with the
    mirror, which leaves a projection as it is: ``A = Z^m Rz(α)ᵀ X^m E``, ``s = −Rz(α)ᵀ t``, Z = diag(1, 1, −1).
    """
    angle = np.deg2rad(np.asarray(alpha_deg, np.float64))
    cosine, sine = np.cos(angle), np.sin(angle)
    back = np.zeros((len(angle), 3, 3))
    back[:, 0, 0] = back[:, 1, 1] = cosine
    back[:, 0, 1], back[:, 1, 0], back[:, 2, 2] = -sine, sine, 1.0
    sign = np.where(mirror, -1.0, 1.0)
    flipped = np.asarray(class_rotations, np.float64).copy()
    flipped[:, 0] *= sign[:, None]
    flipped[:, 2] *= sign[:, None]  # Z^m commutes with the rotation about z
    shifts = -np.einsum("nij,nj->ni", back[:, :2, :2], np.asarray(shift, np.float64))
    return back @ flipped, shifts
