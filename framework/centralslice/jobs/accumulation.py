"""The heart of every sum job: blocks of particles into sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from centralslice.abc.reconstructor import PassContext, Reconstructor
from centralslice.conventions import IntArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.jobs.particle_images import ImageChunk, ImageSource
from centralslice.jobs.slice_batches import BatchMaker

#: Memory of the planes that one task works on: they should stay in the processor's cache.
SLAB_BYTES = 5 * 2**20
#: A slab thinner than this is visited by too many samples of its neighbours.
SLAB_PLANES = 8


@dataclass(frozen=True, slots=True)
class Accumulation:
    """What inserting needs, the same for all blocks."""

    source: ImageSource
    batches: BatchMaker
    reconstructor: Reconstructor
    block_images: int
    block_done: Callable[[int], None]

    def add(self, rows: IntArray, sums: Sums, context: PassContext) -> IntArray:
        """Insert these particles in order.

        Returns
        -------
            Rows of images of zero variance, which were not inserted.
        """
        blank: list[IntArray] = [np.empty(0, np.int64)]
        for chunk in self.source.chunks(rows, self.block_images):
            self._insert(chunk, sums, context)
            blank.append(chunk.rows[chunk.blank])
            self.block_done(len(chunk.rows))
        return np.concatenate(blank)

    def _insert(self, chunk: ImageChunk, sums: Sums, context: PassContext) -> None:
        """Insert a chunk; a function of its own, so that its batches are gone before the next is prepared."""
        for batch in self.batches.batches(chunk, context.parallel):
            insert_threaded(self.reconstructor, batch, sums, context)


def insert_threaded(
    reconstructor: Reconstructor, batch: SliceBatch, sums: Sums, context: PassContext
) -> None:
    """Insert one batch, threads working on disjoint ranges of planes."""
    planes = context.plan.planes
    thickness = max(SLAB_PLANES, int(SLAB_BYTES * planes / max(sums.nbytes, 1)))
    ranges = [(first, min(first + thickness, planes)) for first in range(0, planes, thickness)]
    # slices meet in the middle: the fullest slabs first, so that threads end together
    ranges.sort(key=lambda z_range: abs(z_range[0] + z_range[1] - planes))
    context.parallel(lambda z_range: reconstructor.insert(batch, sums, context, z_range), ranges)
