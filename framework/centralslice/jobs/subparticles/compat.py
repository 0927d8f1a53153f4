"""The engine of ``--compat eman2``: the peer's model of subtraction, image by image."""

from __future__ import annotations

import numpy as np

from centralslice.conventions import IntArray
from centralslice.errors import ParameterError
from centralslice.jobs.subparticles.eman2 import Eman2Model, class_alignments_of, class_order, extract_eman2
from centralslice.jobs.subparticles.engine import Extracted, ParentImages
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.volumes import read_map, read_volume
from centralslice.plugin.registry import Registry


class Eman2Engine:
    """EMAN2's way, of all half sets alike; masks are not clipped.

    Parameters
    ----------
    plan
        Of the run; its source has alignments to classes.
    half
        Any.
    registry
        Readers.

    Raises
    ------
    ParameterError
        If the source has no alignments to classes, or no mask of the whole particle.
    """

    def __init__(self, plan: SubparticlePlan, half: int, registry: Registry) -> None:
        settings = plan.settings.masks
        if settings.keep is None or plan.source.mask_all is None:
            raise ParameterError("--compat eman2: needs --subunitmask and the refinement's mask.hdf")
        data, _, _ = read_map(plan.map_of(half), registry, plan.parent_box, plan.particles.optics)
        keep = read_volume(settings.keep, registry, "--subunitmask").data.astype(np.float32)
        whole = read_volume(plan.source.mask_all, registry, "mask").data.astype(np.float32)
        cover = None
        if settings.masked != "no":
            outer = settings.outer
            cover = (
                keep if outer is None else read_volume(outer, registry, "--outermask").data.astype(np.float32)
            )
        self.plan = plan
        self._classes = class_alignments_of(plan.particles)
        self._model = Eman2Model(
            data, (1 - keep) * whole, plan.design.candidates.rotations, cover, plan.new_box
        )  # fmt: skip

    def parts(self) -> list[IntArray]:
        """All operators at once."""
        return [np.arange(len(self.plan.design.candidates))]

    def order(self, parents: IntArray) -> IntArray:
        """Parents of a class one after the other: they share projections."""
        rank = np.empty(len(self.plan.particles), np.int64)
        rank[class_order(self._classes)] = np.arange(len(rank))
        return parents[np.argsort(rank[parents], kind="stable")]

    def extract(self, numbers: IntArray, parents: ParentImages, part: int) -> list[Extracted]:
        """Sub-particles of these parents."""
        done = extract_eman2(self._model, self._classes, numbers, parents.images)
        places = self.plan.layout.numbers(numbers).ravel()
        kept = np.flatnonzero(places >= 0)
        order = kept[np.argsort(places[kept], kind="stable")]
        box = done.images.shape[-1]
        return [Extracted(
            places[order], done.images.reshape(-1, box, box)[order], done.moves_px.reshape(-1, 2)[order],
            np.full(len(order), np.nan), numbers, np.full(len(numbers), np.nan), np.zeros(len(numbers), np.bool_),
        )]  # fmt: skip
