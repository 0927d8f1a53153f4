"""EMAN2's own model of signal subtraction (``--compat eman2``), with its quirks, for comparison only.

Projections are made at the orientations of classes and warped to each particle; radial scales are fitted to
single images; some Fourier lines are subtracted twice and the corners of the transform erased; sub-particles
are centred on what is left in the image. ``e2extractsubparticles.py`` does so; the formulas were established
by running it. Everything here is a pure function of arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from centralslice.conventions import BoolArray, ComplexArray, FloatArray, IntArray, signed_frequencies
from centralslice.data.particles import Particles
from centralslice.errors import ParameterError
from centralslice.fourier.eman2_projection import (
    Float32Array,
    alignment_matrix,
    project_standard,
    rotate_volume,
    warp_image,
)

#: Projected masks count as 1 from here on.
_MASK_THRESHOLD = 0.01
#: Smaller boxes stand for "keep the parent's".
_SMALLEST_BOX = 4


@dataclass(frozen=True, slots=True)
class ClassAlignments:
    """How particles were aligned to projections of the map.

    Attributes
    ----------
    rotations
        (c, 3, 3) orientation of each class.
    numbers
        (n,) class of each particle, index into ``rotations``.
    alpha_deg, shifts_px, mirrored
        (n,), (n, 2), (n,) transform that takes the particle to its class:
        ``q = X^m (Rz(α) p + t)``, ``Rz = [[cos, sin], [−sin, cos]]``, X = diag(−1, 1).
    """

    rotations: FloatArray
    numbers: IntArray
    alpha_deg: FloatArray
    shifts_px: FloatArray
    mirrored: BoolArray


def class_alignments_of(particles: Particles) -> ClassAlignments:
    """Alignments to classes from the columns ``class_*`` that the reader of refine folders gives.

    Raises
    ------
    ParameterError
        If there are none: the particles come from something else than a refine folder.
    """
    names = ("class_number", "class_rotation", "class_alpha_deg", "class_tx", "class_ty", "class_mirror")
    missing = [name for name in names if name not in particles.columns]
    if missing:
        raise ParameterError(
            f"--compat eman2: the particles have no alignment to classes ({missing[0]}); the peer's model "
            "applies to refine_XX folders only, leave the option out"
        )
    number, rotation, alpha, x, y, mirror = (np.asarray(particles.columns[name]) for name in names)
    keys = np.column_stack([number, rotation.reshape(-1, 9)]).astype(np.float64)
    unique, numbers = np.unique(keys, axis=0, return_inverse=True)
    return ClassAlignments(
        unique[:, 1:].reshape(-1, 3, 3), numbers.reshape(-1).astype(np.int64), alpha.astype(np.float64),
        np.column_stack([x, y]).astype(np.float64), mirror.astype(np.float64) > 0.5,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Eman2Model:
    """What is subtracted, cut out and masked.

    Attributes
    ----------
    volume
        (N, N, N) map.
    excluded
        (N, N, N) mask of what is subtracted, ``(1 − M_keep) M_all``, not clipped.
    operators
        (k, 3, 3) symmetry operators; copy n is of the masks turned by operator n.
    kept
        (N, N, N) mask whose projection, as 0 and 1, multiplies the result (``--masked``): the outer mask or
        M_keep; None: no masking.
    new_box
        Pixels; less than 4: as the parent.
    """

    volume: Float32Array
    excluded: Float32Array
    operators: FloatArray
    kept: Float32Array | None = None
    new_box: int = -1

    @property
    def box(self) -> int:
        """Pixels of the sub-particles."""
        return self.new_box if self.new_box >= _SMALLEST_BOX else len(self.volume)


@dataclass(frozen=True, slots=True)
class Eman2Block:
    """Sub-particles of b parents.

    Attributes
    ----------
    images
        (b, k, m, m) float32.
    moves_px
        (b, k, 2) int64 x, y by which each was moved.
    """

    images: Float32Array
    moves_px: IntArray


def class_order(classes: ClassAlignments) -> IntArray:
    """(n,) particles in order of their classes, so that blocks share projections."""
    return np.argsort(classes.numbers, kind="stable")


def extract_eman2(
    model: Eman2Model, classes: ClassAlignments, rows: IntArray, images: FloatArray
) -> Eman2Block:
    """Sub-particles of a block of parents.

    Projections are shared by the parents of a class within the block: blocks in :func:`class_order` cost
    least. Masks are turned anew for each block; no more than four maps are held at a time.

    Parameters
    ----------
    model
        What to do.
    classes
        Alignments of all particles.
    rows
        (b,) numbers of the parents.
    images
        (b, N, N) their images.

    Raises
    ------
    ParameterError
        If the images are not of the map's box.
    """
    size = len(model.volume)
    if images.shape != (len(rows), size, size):
        raise ParameterError(
            f"sub-particles: images of shape {images.shape} for {len(rows)} parents and a map of {size} "
            "voxels; the peer's model needs particles of the map's box"
        )
    parents = [
        _Parent.of(number, image, full, classes)
        for number, image, full in zip(rows, images, _projected(model.volume, classes, rows), strict=True)
    ]
    block = Eman2Block(
        np.zeros((len(rows), len(model.operators), model.box, model.box), np.float32),
        np.zeros((len(rows), len(model.operators), 2), np.int64),
    )
    for copy, operator in enumerate(model.operators):
        masked = model.volume * _turned(model.excluded, operator)
        excluded = _projected(masked, classes, rows)
        cover = None if model.kept is None else _covers(_turned(model.kept, operator), classes, rows)
        for place, parent in enumerate(parents):
            left = parent.subtracted(next(excluded))
            if cover is not None:
                left = left * parent.warped(next(cover))
            moved, move = centre_on_power(left)
            block.images[place, copy] = clip_to_box(moved, model.box)
            block.moves_px[place, copy] = move
    return block


@dataclass(frozen=True, slots=True)
class _Parent:
    """A particle, its transform, its radial scales, and how class images come to lie on it."""

    image: FloatArray
    transform: ComplexArray
    scales: FloatArray
    matrix: FloatArray
    shift: FloatArray

    @classmethod
    def of(cls, number: int, image: FloatArray, full: FloatArray, classes: ClassAlignments) -> _Parent:
        mirrored = bool(classes.mirrored[number])
        matrix = alignment_matrix(float(classes.alpha_deg[number]), mirrored)
        shift = classes.shifts_px[number] * (-1.0 if mirrored else 1.0, 1.0)
        transform = _transform(image)
        scales = radial_scales(transform, _transform(warp_image(full, matrix, shift)))
        return cls(image, transform, scales, matrix, shift)

    def warped(self, projection: FloatArray) -> Float32Array:
        """A class image in the particle's frame."""
        return warp_image(projection, self.matrix, self.shift)

    def subtracted(self, projection: FloatArray) -> FloatArray:
        """The particle without a class image; pixels that were exactly 0 stay so."""
        left = subtract_rings(self.transform, _transform(self.warped(projection)), self.scales)
        result: FloatArray = fft.irfft2(left, self.image.shape) * (self.image != 0)
        return result


def _projected(volume: Float32Array, classes: ClassAlignments, rows: IntArray) -> Iterator[Float32Array]:
    """The projection for each row, made once for each class of the block."""
    made: dict[int, Float32Array] = {}
    for number in classes.numbers[rows].tolist():
        if number not in made:
            made[number] = project_standard(volume, classes.rotations[number])
        yield made[number]


def _covers(mask: Float32Array, classes: ClassAlignments, rows: IntArray) -> Iterator[Float32Array]:
    """The projected mask for each row as 0 and 1."""
    for projection in _projected(mask, classes, rows):
        yield (projection >= _MASK_THRESHOLD).astype(np.float32)


def _turned(mask: Float32Array, operator: FloatArray) -> Float32Array:
    if np.array_equal(operator, np.eye(3)):
        return mask
    return rotate_volume(mask, operator)


def _transform(image: FloatArray) -> ComplexArray:
    result: ComplexArray = fft.rfft2(np.asarray(image, np.float64))
    return result


def _frequencies(shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """ky (N, 1) and kx (1, N // 2 + 1) of a half transform."""
    return signed_frequencies(shape[0])[:, None], np.arange(shape[1])[None, :]


def _rings(shape: tuple[int, ...]) -> IntArray:
    """floor(|k|) of each sample of a half transform."""
    ky, kx = _frequencies(shape)
    rings: IntArray = np.floor(np.hypot(ky, kx)).astype(np.int64)
    return rings


def _last_ring(size: int) -> int:
    """Rings from here on are erased."""
    return int(size * np.sqrt(2) / 2)


def radial_scales(image: ComplexArray, reference: ComplexArray) -> FloatArray:
    """Scale of a reference in each ring, ``Σ Re(I F*) / Σ |F|²``; 0 in ring 0.

    Parameters
    ----------
    image, reference
        (N, N // 2 + 1) half transforms; the row ``|ky| = N / 2`` counts twice, as in EMAN2.
    """
    size = len(image)
    rings = _rings(image.shape)
    ky, kx = _frequencies(image.shape)
    weight = np.where(2 * np.abs(ky) == size, 2.0, 1.0) * np.ones(kx.shape)
    above = np.bincount(rings.ravel(), ((image * reference.conj()).real * weight).ravel())
    below = np.bincount(rings.ravel(), (np.square(np.abs(reference)) * weight).ravel())
    scales: FloatArray = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    scales[0] = 0.0
    return scales


def subtract_rings(image: ComplexArray, excluded: ComplexArray, scales: FloatArray) -> ComplexArray:
    """``I − a_R X`` on half transforms as EMAN2 does it.

    The lines kx = 0, kx = N / 2 and |ky| = N / 2 are subtracted twice, since writing a sample writes its
    Friedel mate too, which is read back later; rings from N / √2 on are erased.
    """
    size = len(image)
    rings = _rings(image.shape)
    ky, kx = _frequencies(image.shape)
    twice = (kx == 0) | (2 * kx == size) | (2 * np.abs(ky) == size)
    left: ComplexArray = image - scales[rings] * np.where(twice, 2.0, 1.0) * excluded
    left[rings >= _last_ring(size)] = 0
    return left


def centre_on_power(image: FloatArray) -> tuple[FloatArray, IntArray]:
    """Move an image so that the centre of mass of its squares is at pixel N // 2.

    Returns
    -------
    moved, move
        (N, N) filled with zeros; (2,) whole pixels x, y. Constant images, and those that would leave the
        box, are not moved.
    """
    size = len(image)
    still: IntArray = np.zeros(2, np.int64)
    power = np.square(image)
    if image.min() == image.max():
        return image, still
    places = np.arange(size)
    centre = np.array([power.sum(axis=axis) @ places for axis in (0, 1)]) / power.sum()
    move: IntArray = (size // 2 - np.floor(centre + 0.5)).astype(np.int64)
    if np.abs(move).max() >= size - 1:
        return image, still
    return _moved(image, int(move[0]), int(move[1])), move


def _moved(image: FloatArray, dx: int, dy: int) -> FloatArray:
    """An image moved by whole pixels, zeros coming in."""
    rows, columns = image.shape
    moved = np.zeros_like(image)
    moved[max(dy, 0) : rows + min(dy, 0), max(dx, 0) : columns + min(dx, 0)] = image[
        max(-dy, 0) : rows + min(-dy, 0), max(-dx, 0) : columns + min(-dx, 0)
    ]
    return moved


def clip_to_box(image: FloatArray, box: int) -> NDArray[np.float32]:
    """(box, box) float32 out of an (N, N) image from pixel ``(N − box) // 2`` on, zeros beyond its edges."""
    size = len(image)
    first = (size - box) // 2
    clipped = np.zeros((box, box), np.float32)
    low, high = max(first, 0), min(first + box, size)
    inside = slice(low - first, high - first)
    clipped[inside, inside] = image[low:high, low:high]
    return clipped
