"""The heart of every sum job: blocks of particles into sums."""

from __future__ import annotations

from dataclasses import dataclass

from centralslice.abc.reconstructor import PassContext, Reconstructor
from centralslice.conventions import IntArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.jobs.particle_images import ImageChunk, ReadAhead
from centralslice.jobs.slice_batches import BatchMaker
from centralslice.runtime.exact_sums import RankSums

#: Memory of the planes that one task works on: they should stay in the processor's cache.
SLAB_BYTES = 16 * 2**20
#: A slab thinner than this is visited by too many samples of its neighbours.
SLAB_PLANES = 8


@dataclass(frozen=True, slots=True)
class Accumulation:
    """What inserting needs, the same for all blocks of a rank."""

    images: ReadAhead
    batches: BatchMaker
    reconstructor: Reconstructor
    piece_images: int

    def add(self, rows: IntArray, sums: RankSums, context: PassContext) -> list[int]:
        """Insert the particles of a block in order, piece by piece as memory allows.

        Returns
        -------
            Rows (of the run's particles) of images of zero variance, which were not inserted.
        """
        blank: list[int] = []
        pieces = self.pieces(rows)
        for number, piece in enumerate(pieces):
            chunk = self.images.take(piece)
            if number + 1 < len(pieces):
                self.images.start(pieces[number + 1])
            self._insert(chunk, sums, context)
            blank += chunk.rows[chunk.blank].tolist()
        sums.end_block()
        return blank

    def read_ahead(self, rows: IntArray) -> None:
        """Start reading the first piece of a block."""
        self.images.start(self.pieces(rows)[0])

    def pieces(self, rows: IntArray) -> list[IntArray]:
        """A block's rows as they are read and prepared at a time."""
        return [rows[start : start + self.piece_images] for start in range(0, len(rows), self.piece_images)]

    def _insert(self, chunk: ImageChunk, sums: RankSums, context: PassContext) -> None:
        """Insert a piece; a function of its own, so that its batches are gone before the next is prepared."""
        for batch in self.batches.batches(chunk, context.parallel):
            insert_threaded(self.reconstructor, batch, sums.before(batch, context), context)


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
