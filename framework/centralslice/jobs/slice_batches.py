"""From image chunks to slice batches: optics groups, symmetry copies, weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import MapGeometry, ParallelMap
from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.data.slices import SliceBatch, Views
from centralslice.fourier.eman2_compat import RADIUS_MARGIN, prepare_eman2
from centralslice.fourier.prepare import GroupPreparation, prepare_slices
from centralslice.fourier.projection import agreement_curves
from centralslice.fourier.slice_reading import SliceReader
from centralslice.geometry.eulers import eman2_to_matrices, matrices_to_eman2
from centralslice.jobs.particle_images import ImageChunk

#: Images that one task prepares.
TASK_IMAGES = 32


@dataclass(frozen=True, slots=True)
class CopyRules:
    """Under which operators each slice is inserted.

    Attributes
    ----------
    rotations, translations_angst
        (s, 3, 3) and (s, 3): V(S r + t) = V(r), identity first.
    factor
        Multiplies value and weight of every copy.
    fill_angle_deg
        Full width of the fan of neighbouring directions (``--fillangle``), 0 for none.
    """

    rotations: FloatArray
    translations_angst: FloatArray
    factor: float = 1.0
    fill_angle_deg: float = 0.0


class SampleBuffer:
    """Memory for one batch that is used again: fresh memory costs as much time as the transforms."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FloatArray:
        """An array of this shape, its values whatever was there."""
        needed = math.prod(shape) * dtype.itemsize
        if self._memory.nbytes < needed:
            self._memory = np.empty(needed, np.uint8)
        return self._memory[:needed].view(dtype).reshape(shape)


def _chosen(rows: IntArray, images: FloatArray, wanted: BoolArray) -> tuple[IntArray, FloatArray]:
    """The wanted rows and images, not copied if all are."""
    return (rows, images) if wanted.all() else (rows[wanted], images[wanted])


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Turns image chunks into slice batches.

    Attributes
    ----------
    particles, geometry, copies
        What, into which map, under which operators.
    groups
        Tables of each optics group.
    use_ssnr
        Weigh samples by the particles' SSNR curves instead of their scalar weights.
    as_eman2
        Prepare slices as EMAN2 does.
    mask_tilted_edges
        ``--altedgemask``.
    seed_slices
        Reader of the seed's slices, to weigh each image's rings by their agreement with it, or None.
    buffer
        Memory of the batches.
    """

    particles: Particles
    geometry: MapGeometry
    copies: CopyRules
    groups: tuple[GroupPreparation, ...]
    use_ssnr: bool = False
    as_eman2: bool = False
    mask_tilted_edges: bool = False
    seed_slices: SliceReader | None = None
    buffer: SampleBuffer = field(default_factory=SampleBuffer)

    def batches(self, chunk: ImageChunk, parallel: ParallelMap) -> Iterator[SliceBatch]:
        """The batches of a chunk, one an optics group, in the order of the groups.

        A batch is good until the next one is asked for: they share one buffer.
        """
        rows, images = _chosen(chunk.rows, chunk.images, ~chunk.blank)
        for group in np.unique(self.particles.optics_group[rows]):
            chosen = _chosen(rows, images, self.particles.optics_group[rows] == group)
            yield self._batch(*chosen, int(group), parallel)

    def _batch(self, rows: IntArray, images: FloatArray, group: int, parallel: ParallelMap) -> SliceBatch:
        preparation = self.groups[group]
        size = preparation.size
        samples = self.buffer.array((len(rows), size, size // 2 + 1, 4), preparation.precision)

        def prepare(start: int) -> None:
            part = slice(start, start + TASK_IMAGES)
            self._prepare(samples[part], rows[part], images[part], group)

        parallel(prepare, range(0, len(rows), TASK_IMAGES))
        # EMAN2 rounds radii and, in its iterative mode, goes beyond Nyquist; its inserters cut by themselves
        radius = size / 2 + RADIUS_MARGIN if self.as_eman2 else preparation.max_radius
        return SliceBatch(samples, size, radius, self._views(rows, group))

    def _prepare(self, samples: FloatArray, rows: IntArray, images: FloatArray, group: int) -> None:
        particles, preparation = self.particles, self.groups[group]
        shifts = particles.shifts_angst[rows] / particles.optics[group].pixel_size_angst
        ssnr = particles.ssnr[rows] if self.use_ssnr and particles.ssnr is not None else None
        weights = np.ones(len(rows)) if ssnr is not None else particles.weight[rows]
        tilts = matrices_to_eman2(particles.rotations[rows])[1] if self.mask_tilted_edges else None
        if self.as_eman2:
            samples[...] = prepare_eman2(images, -shifts, preparation.size, weights, ssnr, None, tilts)
            return
        if tilts is not None:
            images = mask_tilted_edges(images, tilts)
        ctf = None if particles.ctf is None else particles.ctf.take(rows)
        prepare_slices(images, preparation, shifts, weights, ctf, ssnr, samples)
        if self.seed_slices is not None:
            seed = self.seed_slices.read(self._matrices(rows, group), preparation.size)
            samples *= agreement_curves(samples, seed)[..., None]

    def _matrices(self, rows: IntArray, group: int) -> FloatArray:
        """(b, 3, 3): slice index to cycles per unpadded box."""
        return self._image_matrix(group) @ self.particles.rotations[rows]

    def _image_matrix(self, group: int) -> FloatArray:
        """(3, 3) scale and anisotropic magnification M of an optics group: ``k = s Rᵀ M (kx, ky)``."""
        geometry, optics = self.geometry, self.particles.optics[group]
        matrix = np.eye(3)
        matrix[:2, :2] = np.reshape(optics.magnification, (2, 2)).T
        slice_box = self.groups[group].size * optics.pixel_size_angst
        return matrix * (geometry.image_size * geometry.voxel_size_angst / slice_box)

    def _views(self, rows: IntArray, group: int) -> Views:
        """All copies of each slice; copy number is the slower index of a slice's views.

        V(S r + t) = V(r) means that the slice of pose R is also the slice of pose R Sᵀ, shifted by
        R Sᵀ t: the transform of V at S k is exp(−2πi S k·t) times that at k.
        """
        poses, image_matrix = self.particles.rotations[rows], self._image_matrix(group)
        fan, factors = fill_angle_fan(poses, self.copies.fill_angle_deg, self.geometry.image_size)
        operators = np.swapaxes(self.copies.rotations, 1, 2)
        matrices = np.einsum("hi,bfij,sjk->bfshk", image_matrix, fan, operators)
        # k·t of the copy, k = s Rᵀ M (kx, ky), in cycles: s is in units of one cycle per unpadded box
        box = self.geometry.image_size * self.geometry.voxel_size_angst
        turned = np.einsum("hi,bij,sjk->bshk", image_matrix, poses, operators)
        moved = np.einsum("bsij,sj->bsi", turned, self.copies.translations_angst)[..., :2]
        moved *= self.groups[group].size / box
        count, spread, orders = matrices.shape[:3]
        return Views(
            slice_number=np.repeat(np.arange(count), spread * orders),
            matrices=np.ascontiguousarray(matrices.reshape(-1, 3, 3)),
            shifts=np.ascontiguousarray(np.repeat(moved[:, None], spread, axis=1).reshape(-1, 2)),
            factors=np.ascontiguousarray(
                np.repeat(np.broadcast_to(factors, (count, spread)).reshape(-1), orders) * self.copies.factor
            ),
        )


def fill_angle_fan(matrices: FloatArray, width_deg: float, box: int) -> tuple[FloatArray, FloatArray]:
    """Each orientation and its neighbours within ``--fillangle``, and their relative factors.

    A square grid of n × n view directions around each one, ``n = min(9, ⌊width / a⌋)`` with ``a`` the angle of
    one Fourier voxel at Nyquist; Gaussian factors ``exp(−(Δ/(width/4))²)`` that sum to 1, so that the
    particle's weight stays what it was. The in-plane angle phi is kept, and steps in az are divided by
    sin(alt) so that the fan is as wide as it is high.

    Parameters
    ----------
    matrices
        (b, 3, 3), rotation times a scale.
    width_deg
        Full width; 0 for none.
    box
        Unpadded box in pixels.

    Returns
    -------
        (b, f, 3, 3) matrices and (f,) factors.
    """
    step = float(np.rad2deg(np.arctan2(1.0, box / 2)))
    count = min(9, int(width_deg / step))
    if count <= 1:
        return matrices[:, None], np.ones(1)
    scales = np.cbrt(np.linalg.det(matrices))
    az, alt, phi = matrices_to_eman2(matrices / scales[:, None, None])
    offsets = np.linspace(-width_deg / 2, width_deg / 2, count)
    up, around = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    sine = np.maximum(np.sin(np.deg2rad(alt)), np.sin(np.deg2rad(step)))
    # turning az by d and phi by −d·cos(alt) moves the direction without rolling the image
    turned = np.clip(around[None] / sine[:, None], -180.0, 180.0)
    roll = -turned * np.cos(np.deg2rad(alt))[:, None]
    fan = eman2_to_matrices(
        (az[:, None] + turned).ravel(), (alt[:, None] + up).ravel(), (phi[:, None] + roll).ravel()
    ).reshape(len(matrices), -1, 3, 3)
    factors = np.exp(-(up**2 + around**2) / (width_deg / 4) ** 2)
    return fan * scales[:, None, None, None], factors / factors.sum()


def mask_tilted_edges(images: FloatArray, tilts_deg: FloatArray) -> FloatArray:
    """Zero the columns at both sides that a tilt by ``alt`` about y brings in: nx (1 − cos alt) / 2 each."""
    width = images.shape[2]
    result = images.copy()
    for image, tilt in zip(result, tilts_deg, strict=True):
        columns = min(int(width * (1 - abs(np.cos(np.deg2rad(tilt)))) / 2), width // 2)
        if columns:
            image[:, :columns] = 0
            image[:, width - columns :] = 0
    return result
