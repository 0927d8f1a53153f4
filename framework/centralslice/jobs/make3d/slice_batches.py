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
from centralslice.geometry.eulers import matrices_to_eman2
from centralslice.jobs.copies import CopyRules, views_of_copies
from centralslice.jobs.particle_images import ImageChunk

#: Images that one task prepares.
TASK_IMAGES = 32


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

    def release(self) -> None:
        """Give the memory back until it is wanted again."""
        self._memory = np.empty(0, np.uint8)


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
        """All copies of each slice."""
        return views_of_copies(
            self.particles.rotations[rows], self._image_matrix(group), self.copies, self.geometry,
            self.groups[group].size,
        )  # fmt: skip


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
