"""The heart of every sum job: blocks of particles into sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from centralslice.abc.reconstructor import ParallelMap, PassContext, Reconstructor
from centralslice.conventions import IntArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.runtime.exact_sums import RankSums

#: Memory of the planes that one task works on: they should stay in the processor's cache.
SLAB_BYTES = 16 * 2**20
#: A slab thinner than this is visited by too many samples of its neighbours.
SLAB_PLANES = 8


class Piece(Protocol):
    """What was read of some rows, ready to be prepared."""

    @property
    def blank(self) -> Sequence[int]:
        """What was left out for want of contrast, as numbers that the job knows to name."""

    def batches(self, parallel: ParallelMap) -> Iterator[SliceBatch]:
        """The slices, prepared; a batch is good until the next one is asked for."""


class SliceSource(Protocol):
    """Where the slices of a sum job come from; rows are the numbers of its particles."""

    def blocks(self, rows: IntArray) -> list[IntArray]:
        """Rows cut into blocks: a function of the inputs and options alone, never of ranks, threads or memory."""

    def pieces(self, rows: IntArray) -> list[IntArray]:
        """A block's rows as they are read and prepared at a time."""

    def sample(self, slices: int) -> IntArray:
        """Rows, spread over the whole run, with about so many slices or as many as memory is meant for."""

    def share(self, rows: IntArray) -> float:
        """These rows' part of all slices of the run, 0 … 1."""

    @property
    def largest_share(self) -> float:
        """The largest piece's part of all slices, 0 … 1."""

    def start(self, rows: IntArray) -> None:
        """Begin to read a piece in the background; cheap to ignore."""

    def take(self, rows: IntArray) -> Piece:
        """A piece, begun before or now."""


@dataclass(frozen=True, slots=True)
class Accumulation:
    """What inserting needs, the same for all blocks of a rank."""

    source: SliceSource
    reconstructor: Reconstructor

    def add(self, rows: IntArray, sums: RankSums, context: PassContext) -> list[int]:
        """Insert the particles of a block in order, piece by piece as memory allows.

        Returns
        -------
            What was left out for want of contrast.
        """
        blank: list[int] = []
        pieces = self.source.pieces(rows)
        for number, rows_of_piece in enumerate(pieces):
            piece = self.source.take(rows_of_piece)
            if number + 1 < len(pieces):
                self.source.start(pieces[number + 1])
            self._insert(piece, sums, context)
            blank += piece.blank
        sums.end_block()
        return blank

    def read_ahead(self, rows: IntArray) -> None:
        """Start reading the first piece of a block."""
        self.source.start(self.source.pieces(rows)[0])

    def _insert(self, piece: Piece, sums: RankSums, context: PassContext) -> None:
        """Insert a piece; a function of its own, so that its batches are gone before the next is prepared."""
        for batch in piece.batches(context.parallel):
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
