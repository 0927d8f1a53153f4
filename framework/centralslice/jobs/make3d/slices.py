"""Slices of make3d: images read ahead, prepared with their optics group's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from centralslice.abc.reconstructor import ParallelMap, Seed
from centralslice.conventions import IntArray
from centralslice.data.slices import SliceBatch
from centralslice.fourier.prepare import GroupPreparation, prepare_group
from centralslice.fourier.slice_reading import slice_reader
from centralslice.jobs.make3d.plan import Make3dPlan
from centralslice.jobs.make3d.slice_batches import BatchMaker
from centralslice.jobs.particle_images import ImageChunk, ReadAhead


@dataclass(frozen=True, slots=True)
class ParticlePiece:
    """Images as they were read."""

    chunk: ImageChunk
    maker: BatchMaker

    @property
    def blank(self) -> Sequence[int]:
        """Rows of images of zero variance."""
        blank: list[int] = self.chunk.rows[self.chunk.blank].tolist()
        return blank

    def batches(self, parallel: ParallelMap) -> Iterator[SliceBatch]:
        """Slices, an optics group after the other."""
        return self.maker.batches(self.chunk, parallel)


@dataclass(frozen=True, slots=True)
class ParticleSlices:
    """The slice source of a make3d run."""

    images: ReadAhead[ImageChunk]
    maker: BatchMaker
    count: int
    block_images: int
    piece_images: int

    def blocks(self, rows: IntArray) -> list[IntArray]:
        """Blocks of equal size."""
        return [rows[at : at + self.block_images] for at in range(0, len(rows), self.block_images)]

    def pieces(self, rows: IntArray) -> list[IntArray]:
        """As many as memory is meant for."""
        return [rows[at : at + self.piece_images] for at in range(0, len(rows), self.piece_images)]

    def sample(self, slices: int) -> IntArray:
        """Every so many-th particle."""
        return np.arange(0, self.count, max(1, self.count // slices))[:slices]

    def share(self, rows: IntArray) -> float:
        """Each particle has one image."""
        return len(rows) / self.count

    @property
    def largest_share(self) -> float:
        """Of a full piece."""
        return min(1.0, self.piece_images / self.count)

    def start(self, rows: IntArray) -> None:
        """Begin to read these images."""
        self.images.start(rows)

    def take(self, rows: IntArray) -> ParticlePiece:
        """These images."""
        return ParticlePiece(self.images.take(rows), self.maker)


def particle_slices(
    plan: Make3dPlan, images: ReadAhead[ImageChunk], seed: Seed | None, parallel: ParallelMap
) -> ParticleSlices:
    """The slice source of a plan.

    Parameters
    ----------
    plan
        The run.
    images
        Its images.
    seed
        The seed, if the run has one.
    parallel
        Threads, for preparing the seed's slices.
    """
    settings = plan.settings
    as_reference = settings.seed is not None and settings.seed.as_reference
    maker = BatchMaker(
        particles=plan.particles,
        geometry=plan.geometry,
        copies=plan.copies,
        groups=prepare_groups(plan),
        use_ssnr=settings.use_ssnr,
        as_eman2=plan.reconstructor.eman2_slices,
        mask_tilted_edges=settings.tilted_edge_mask,
        seed_slices=slice_reader(seed.data, parallel) if seed is not None and as_reference else None,
    )
    return ParticleSlices(images, maker, len(plan.particles), plan.block_images, plan.piece_images)


def prepare_groups(plan: Make3dPlan) -> tuple[GroupPreparation, ...]:
    """Tables of every optics group, with the frequency limit of --maxres and of the map."""
    voxel = plan.geometry.voxel_size_angst
    prepared = []
    for group, mode in zip(plan.particles.optics, plan.ctf_modes, strict=True):
        per_index = plan.slice_size * group.pixel_size_angst
        limit = per_index / (2 * voxel)
        if plan.settings.maxres is not None:
            limit = min(limit, per_index / plan.settings.maxres)
        prepared.append(prepare_group(group, plan.slice_size, voxel, limit, mode, plan.geometry.precision))
    return tuple(prepared)
