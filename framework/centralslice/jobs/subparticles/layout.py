"""Which sub-particles a run writes and where each lies in the stack: decided by poses alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from centralslice.conventions import BoolArray, IntArray
from centralslice.data.particles import Particles
from centralslice.errors import SelectionError
from centralslice.jobs.subparticles.design import Design
from centralslice.jobs.subparticles.filters import MOST_MISSING, passing
from centralslice.jobs.subparticles.rows import choices, parents_of, rows_of
from centralslice.jobs.subparticles.settings import SubparticleSettings

#: Parents whose geometry is worked out at a time.
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """Which sub-particles there are and where each lies in the stack.

    Attributes
    ----------
    choice
        (n, k) candidate of each place of each parent; (1, k) where all parents have the same.
    kept
        (n, k) whether it is written.
    first
        (n + 1,) number of the first sub-particle of each parent.
    outside
        Numbers of sub-particles (parent, candidate) that are mostly outside their parents' images.
    filtered
        How many the filters left out.
    """

    choice: IntArray
    kept: BoolArray
    first: IntArray
    outside: IntArray
    filtered: int

    @property
    def total(self) -> int:
        """Sub-particles that are written."""
        return int(self.first[-1])

    def chosen(self, parents: IntArray) -> IntArray:
        """(p, k) candidates of these parents."""
        if len(self.choice) == 1:
            return np.broadcast_to(self.choice, (len(parents), self.choice.shape[1]))
        return self.choice[parents]

    def numbers(self, parents: IntArray) -> IntArray:
        """(p, k) place of each sub-particle in the stack, −1 for those left out."""
        kept = self.kept[parents]
        places = self.first[parents][:, None] + np.cumsum(kept, axis=1) - 1
        result: IntArray = np.where(kept, places, -1)
        return result


def plan_layout(particles: Particles, design: Design, settings: SubparticleSettings, box: int) -> Layout:
    """Which sub-particles are written, decided by geometry alone, a chunk of parents at a time.

    Parameters
    ----------
    particles
        With the poses that are to be judged.
    design, settings
        Copies and their boxes; filters and what becomes of those outside.
    box
        Pixels of the parents' images.

    Raises
    ------
    SelectionError
        If none is left.
    """
    copies, crop, count = settings.copies, settings.crop, len(particles)
    every = len(design.candidates)
    same = not (copies.relax_sym or copies.randomize)
    kept, chosen, outside, filtered = [], [], [], 0
    for start in range(0, count, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, count))
        choice = choices(numbers, every, copies.relax_sym, copies.randomize, copies.seed)
        parents = parents_of(particles, numbers)
        rows = rows_of(parents, design.candidates, choice)
        good = passing(
            rows, choice.shape[1], np.repeat(parents.pixels_angst, choice.shape[1]), settings.filters
        )
        filtered += int(np.count_nonzero(~good))
        if not settings.expand_only:
            away = good & (rows.missing(box, design.new_box) > MOST_MISSING)
            outside.append(np.stack([rows.parent[away], rows.candidate[away]], axis=1))
            if crop.edge == "drop":
                good &= ~away
        kept.append(good.reshape(choice.shape))
        chosen.append(choice[:1] if same else choice)
    all_kept = np.concatenate(kept)
    first = np.concatenate([[0], np.cumsum(all_kept.sum(axis=1))]).astype(np.int64)
    if not first[-1]:
        raise SelectionError(f"{particles.source}: no sub-particle is left after the filters")
    return Layout(
        chosen[0] if same else np.concatenate(chosen), all_kept, first,
        np.concatenate([np.empty((0, 2), np.int64), *outside]), filtered,
    )  # fmt: skip
