"""One rank's way from parent images to sub-particle images, for one half set at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice.fourier.slice_reading import SliceReader, slice_reader
from centralslice.jobs.particle_images import StackPool
from centralslice.jobs.subparticles.gain import GroupGain, RingStatistics, grouping
from centralslice.jobs.subparticles.masks import whole_mask
from centralslice.jobs.subparticles.optics import GroupTables, ModelSettings, group_tables
from centralslice.jobs.subparticles.plan import READ_OVERSAMPLING, READ_WIDTH, SubparticlePlan
from centralslice.jobs.subparticles.refine import refine_poses
from centralslice.jobs.subparticles.rows import Rows, parents_of, rows_of
from centralslice.jobs.subparticles.ssnr import ring_powers
from centralslice.jobs.subparticles.subtract import (
    Copies,
    ModelMaps,
    OutputSettings,
    ParentBlock,
    debug_strip,
    defocus_hand_scores,
    ring_statistics,
    subtract_block,
)
from centralslice.jobs.subparticles.symmetry import rotated_exclusion
from centralslice.jobs.subparticles.volumes import Masks, need_keep, read_map, read_masks
from centralslice.jobs.subparticles.window import Mask2D, mask_reader
from centralslice.plugin.registry import Registry

#: Sub-particle images that are held at a time, bytes, beyond one parent's first few.
_IMAGE_BYTES = 48 << 20
_EDGE_PX = 5.0


@dataclass(frozen=True, slots=True)
class ParentImages:
    """Images of some parents as they are in their files, and which have no variance."""

    images: FloatArray
    blank: BoolArray


def read_parents(plan: SubparticlePlan, pool: StackPool, numbers: IntArray) -> ParentImages:
    """Raw images of these parents.

    Raises
    ------
    FormatError
        If a pixel is not a finite number.
    """
    particles = plan.particles
    images = np.empty((len(numbers), plan.parent_box, plan.parent_box), np.float32)
    files = particles.file_number[numbers]
    for file in np.unique(files):
        at = np.flatnonzero(files == file)
        images[at] = pool.stack(int(file)).read(particles.image_number[numbers[at]])
    finite = np.isfinite(images).all(axis=(1, 2))
    if not finite.all():
        bad = int(numbers[np.argmin(finite)])
        raise FormatError(
            f"{particles.describe(bad)}: has pixels that are not finite numbers (particle "
            f"{particles.source_row[bad] + 1} of {particles.source}); repair or remove it"
        )
    return ParentImages(images, np.ptp(images, axis=(1, 2)) == 0)


@dataclass(frozen=True, slots=True)
class Extracted:
    """Sub-particles of a block.

    Attributes
    ----------
    numbers
        (k,) places in the stack, ascending.
    images
        (k, box, box) float32.
    moves_px, correlation
        (k, 2) and (k,): whole pixels moved, and correlation of what is left with the kept part.
    parents, scale, clipped
        (b,) numbers of the parents, their b_p, and whether it was clipped.
    """

    numbers: IntArray
    images: FloatArray
    moves_px: IntArray
    correlation: FloatArray
    parents: IntArray
    scale: FloatArray
    clipped: BoolArray


class Engine(Protocol):
    """What makes sub-particles of parents."""

    def parts(self) -> list[IntArray]:
        """Candidates that are worked on together; each part goes through all parents."""

    def extract(self, numbers: IntArray, parents: ParentImages, part: int) -> list[Extracted]:
        """Sub-particles of these parents, in pieces."""


class HalfEngine:
    """Maps, tables and gains of one half set.

    Parameters
    ----------
    plan
        Of the run.
    half
        0, 1 or 2.
    registry, parallel
        Plugins and this rank's threads.
    hand
        Sign of the defocus change with height.
    """

    def __init__(
        self, plan: SubparticlePlan, half: int, registry: Registry, parallel: ParallelMap, hand: float
    ) -> None:
        self.plan, self.half, self._parallel = plan, half, parallel
        settings = plan.settings
        data, voxel, _ = read_map(plan.map_of(half), registry, plan.parent_box, plan.particles.optics)
        masks = read_masks(settings.masks, plan.source.mask_all, (len(data), voxel), registry)
        self._data, self._masks, self._mask_only = data, masks, half in plan.design.mask_only
        self.tables = _tables(plan, (len(data), voxel), hand)
        self.groups = group_numbers(plan)
        self.gains: Mapping[int, GroupGain] = {}
        whole = None if masks.excluded is None else whole_mask(masks.keep, masks.excluded, masks.everything)
        self.full = self._reader(data if whole is None else data * whole)
        self._excluded: tuple[int, SliceReader] | None = None
        self.output = self._output(masks)

    def parts(self) -> list[IntArray]:
        """All candidates at once, or those of one operator each if only the mask is turned."""
        candidates = self.plan.design.candidates
        if not self._mask_only:
            return [np.arange(len(candidates))]
        return [np.flatnonzero(candidates.operators == number) for number in np.unique(candidates.operators)]

    def statistics(self, numbers: IntArray, parents: ParentImages) -> dict[int, RingStatistics]:
        """What gains are found from, for each gain group of these parents."""
        found = {}
        for group, all_inside in self._of_groups(numbers):
            inside = all_inside & ~parents.blank  # flat images say nothing of the gain
            if not inside.any():
                continue
            block = self._block(numbers[inside], parents.images[inside])
            found[group] = ring_statistics(block, self._tables_of(numbers[inside]), self.full, self._parallel)
        return found

    def extract(self, numbers: IntArray, parents: ParentImages, part: int) -> list[Extracted]:
        """Sub-particles of these parents, in pieces of bounded memory."""
        found = []
        maps = self._maps(part)
        for group, inside in self._of_groups(numbers):
            mine = numbers[inside]
            block = self._block(mine, parents.images[inside])
            flat = parents.blank[inside]
            places, rows = self._rows(mine, part)
            for few in _pieces(rows, self.plan.new_box):
                copies = self._copies(mine, rows.take(few), places[few])
                done = subtract_block(
                    block, copies, self._tables_of(mine), maps, self._gain(group), self.output, self._parallel
                )
                seen = np.unique(copies.parent)
                # there is no particle in a flat image to subtract anything from
                done.images[flat[copies.parent]] = 0.0
                found.append(Extracted(
                    places[few], done.images, copies.moves_px, done.residual_cc, mine[seen], done.scale[seen],
                    done.clipped[seen],
                ))  # fmt: skip
        return found

    def strips(self, numbers: IntArray, parents: ParentImages) -> dict[int, FloatArray]:
        """Place in the stack to the (5, n, n) strip of each parent's first sub-particle."""
        found = {}
        maps = self._maps(0)
        for group, inside in self._of_groups(numbers):
            for number, image in zip(numbers[inside], parents.images[inside], strict=True):
                mine = np.array([number])
                places, rows = self._rows(mine, 0)
                if not len(rows):
                    continue
                copies = self._copies(mine, rows, places)
                found[int(places[0])] = debug_strip(
                    self._block(mine, image[None]), copies, self._tables_of(mine), maps, self._gain(group),
                    self.output, 0,
                )  # fmt: skip
        return found

    def hand_scores(self, numbers: IntArray, parents: ParentImages) -> FloatArray:
        """(3,) correlation of these parents' sub-particles with the kept part for hands +1, −1 and 0."""
        total = np.zeros(3)
        maps = self._maps(0)
        for group, inside in self._of_groups(numbers):
            mine = numbers[inside]
            places, rows = self._rows(mine, 0)
            total += defocus_hand_scores(
                self._block(mine, parents.images[inside]), self._copies(mine, rows, places), rows.depth_angst,
                self._tables_of(mine), maps, self._gain(group), self._parallel,
            )  # fmt: skip
        return total

    def refined(self, numbers: IntArray, parents: ParentImages) -> tuple[FloatArray, FloatArray]:
        """Better poses of these parents: (b, 3, 3) and shifts (b, 2) in Å."""
        rotations = np.empty((len(numbers), 3, 3))
        shifts = np.empty((len(numbers), 2))
        limit = self.plan.settings.subtraction.local_refine_deg
        for _, inside in self._of_groups(numbers):
            mine = numbers[inside]
            tables = self._tables_of(mine)
            block = self._block(mine, parents.images[inside])
            found, moved = refine_poses(block, tables, self.full, limit, self._parallel)
            rotations[inside], shifts[inside] = found, moved * tables.pixel_size_angst
        return rotations, shifts

    def powers(self, numbers: IntArray, parents: ParentImages, field_angst: float) -> FloatArray:
        """(3, rings) sums of --ssnr over these parents; rings are those of a field of view."""
        total = np.zeros((3, self.plan.parent_box // 2 + 1))
        for _, inside in self._of_groups(numbers):
            mine = numbers[inside]
            tables = self._tables_of(mine)
            ratio = field_angst / (tables.size * tables.pixel_size_angst)
            block = self._block(mine, parents.images[inside])
            total += ring_powers(block, tables, self.full, total.shape[1], ratio, self._parallel)
        return total

    def _gain(self, group: int) -> GroupGain:
        return self.gains[group]

    def _rows(self, numbers: IntArray, part: int) -> tuple[IntArray, Rows]:
        """Places in the stack and geometry of the written sub-particles of these parents in a part."""
        plan = self.plan
        choice = plan.layout.chosen(numbers)
        rows = rows_of(parents_of(plan.particles, numbers), plan.design.candidates, choice)
        places = plan.layout.numbers(numbers).ravel()
        wanted = (places >= 0) & np.isin(rows.candidate, self.parts()[part])
        return places[wanted], rows.take(wanted)

    def _copies(self, numbers: IntArray, rows: Rows, places: IntArray) -> Copies:
        """The rows as subtraction takes them."""
        candidates, particles = self.plan.design.candidates, self.plan.particles
        index = np.searchsorted(numbers, rows.parent)
        views = particles.rotations[rows.parent]
        turned = views if self._mask_only else views @ candidates.rotations[rows.candidate]
        pixel = self._tables_of(numbers).pixel_size_angst
        along = np.einsum("mij,mj->mi", views, candidates.translations_angst[rows.candidate])[:, :2]
        shifts = (particles.shifts_angst[rows.parent] + along) / pixel
        return Copies(index, turned, shifts, rows.move_px, rows.residual_px, places)

    def _of_groups(self, numbers: IntArray) -> list[tuple[int, BoolArray]]:
        mine = self.groups[numbers]
        return [(int(group), mine == group) for group in np.unique(mine)]

    def _tables_of(self, numbers: IntArray) -> GroupTables:
        return self.tables[int(self.plan.particles.optics_group[numbers[0]])]

    def _block(self, numbers: IntArray, images: FloatArray) -> ParentBlock:
        particles, rows = self.plan.particles, self.plan.rows[numbers]
        tables = self._tables_of(numbers)
        image_factor, model_factor = self.plan.corrections(rows)
        return ParentBlock(
            numbers, images, particles.rotations[numbers],
            particles.shifts_angst[numbers] / tables.pixel_size_angst,
            None if particles.ctf is None or tables.ctf_mode == "none" else particles.ctf.take(numbers),
            image_factor, model_factor,
        )  # fmt: skip

    def _reader(self, data: FloatArray) -> SliceReader:
        pad = self.plan.settings.subtraction.pad or READ_OVERSAMPLING
        return slice_reader(data.astype(np.float32, copy=False), self._parallel, READ_WIDTH, pad)

    def _maps(self, part: int) -> ModelMaps:
        """The map without the kept part, for a part of the candidates; only the latest is kept."""
        if self._masks.excluded is None:
            return ModelMaps(self.full, self.full)  # nothing is subtracted
        if self._excluded is None or self._excluded[0] != part:
            excluded = self._masks.excluded
            if self._mask_only:
                candidates = self.plan.design.candidates
                rotation = candidates.rotations[self.parts()[part][0]]
                keep = need_keep(self._masks, "--sym-mode mask-only")
                excluded = rotated_exclusion(keep, self._masks.everything, rotation)
            self._excluded = None  # not two at a time
            self._excluded = (part, self._reader(self._data * excluded))
        return ModelMaps(self._excluded[1], self.full)

    def _output(self, masks: Masks) -> OutputSettings:
        settings, crop = self.plan.settings, self.plan.settings.crop
        mask = None
        if settings.masks.masked != "no":
            chosen = masks.keep if masks.outer is None else masks.outer
            hard = settings.masks.masked == "hard"
            if chosen is not None:
                dilate = 0.0 if hard and settings.masks.dilate_px is None else self.plan.design.dilate_px
                mask = Mask2D(mask_reader(chosen, self._parallel), dilate, 0.0 if hard else _EDGE_PX)
        return OutputSettings(
            self.plan.new_box, crop.fill, crop.subpixel, settings.subtraction.keep_dc,
            settings.subtraction.enabled, settings.copies.seed, mask,
        )  # fmt: skip


def group_numbers(plan: SubparticlePlan) -> IntArray:
    """(n,) gain group of each parent: optics group × half set, and micrograph where it has enough."""
    particles = plan.particles
    names: Any = particles.columns.get("rlnMicrographName")
    return grouping(particles.optics_group, particles.half_set.astype(np.int64), names)


def _tables(plan: SubparticlePlan, grid: tuple[int, float], hand: float) -> tuple[GroupTables, ...]:
    curved = plan.settings.subtraction.depth_slabs > 1
    return tuple(
        group_tables(group, plan.parent_box, ModelSettings(*grid, mode, curved, hand or 1.0))
        for group, mode in zip(plan.particles.optics, plan.ctf_modes, strict=True)
    )


def _pieces(rows: Rows, box: int) -> list[IntArray]:
    """Row numbers in pieces whose images are of bounded size; a piece has at least one row."""
    step = max(16, _IMAGE_BYTES // (4 * box * box))
    return [np.arange(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]
