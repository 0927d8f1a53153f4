"""Which copies of which part are taken: symmetry, equivalent operators, centre and box, from maps and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.errors import FormatError, ParameterError
from centralslice.jobs.subparticle_masks import (
    default_box,
    delocalisation_px,
    halves_agreement,
    kept_centre,
    mask_report,
)
from centralslice.jobs.subparticle_operators import helical_operators, numbered_operators
from centralslice.jobs.subparticle_rows import Candidates, make_candidates
from centralslice.jobs.subparticle_settings import SubparticleSettings
from centralslice.jobs.subparticle_source import SubparticleSource
from centralslice.jobs.subparticle_symmetry import find_cosets, pseudo_symmetry
from centralslice.jobs.subparticle_volumes import Masks, need_keep, read_map, read_masks
from centralslice.plugin.registry import Registry

#: A map has a symmetry if it and its turned self correlate at least so.
LEAST_SYMMETRY = 0.95
#: Half maps that correlate less are not of one frame.
LEAST_AGREEMENT = 0.5
#: Resolution up to which room is made for what the CTF spreads, Å.
_SPREAD_ANGST = 4.0


@dataclass(frozen=True, slots=True)
class Design:
    """Copies, their centre and box.

    Attributes
    ----------
    symmetry
        Name.
    candidates
        The sub-particles a parent may give.
    mask_only
        Whether only the mask is turned, not the map.
    centre_angst
        (3,) of the kept part, from the map's centre voxel.
    new_box
        Pixels.
    stabiliser
        Numbers of the operators that map the kept part onto itself.
    grid
        Box and voxel size (Å) of the map; box 0 if none was read.
    dilate_px
        Widening of the projected mask.
    summary, facts, notes
        For the plan, for the manifest, for the user.
    """

    symmetry: str
    candidates: Candidates
    mask_only: bool
    centre_angst: FloatArray
    new_box: int
    stabiliser: IntArray
    grid: tuple[int, float] = (0, 1.0)
    dilate_px: float = 0.0
    summary: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def stabiliser_order(self) -> int:
        """Order of the symmetry that sub-particles have."""
        return max(1, len(self.stabiliser))

    def candidates_a_parent(self, settings: SubparticleSettings) -> int:
        """How many a parent gives at most."""
        return 1 if settings.copies.relax_sym else len(self.candidates)


class _Designer:
    """Works out a design step by step; notes gather on the way."""

    def __init__(
        self, settings: SubparticleSettings, source: SubparticleSource, particles: Particles, box: int,
        registry: Registry, parallel: ParallelMap,
    ) -> None:  # fmt: skip
        self._settings, self._source, self._particles, self._box = settings, source, particles, box
        self._registry, self._parallel = registry, parallel
        self.notes: list[str] = []
        self.summary: dict[str, str] = {}
        self.facts: dict[str, Any] = {}

    def make(self) -> Design:
        """The design."""
        settings, copies = self._settings, self._settings.copies
        name, numbers, rotations, translations = self._operators()
        if settings.expand_only or settings.ssnr:
            none = Masks(None, None, None, None)
            candidates = make_candidates(
                (numbers, rotations, translations), np.zeros((1, 3)), recentred=False
            )
            grid = (0, 1.0) if settings.expand_only else self._map()[1]
            return self._design(name, candidates, none, grid)
        data, grid = self._map()
        masks = read_masks(settings.masks, self._source.mask_all, grid, self._registry)
        self.notes += masks.notes
        self._report_masks(data, masks)
        mask_only = self._mask_only(data, rotations, masks)
        stabiliser: IntArray = np.zeros(1, np.int64)
        if copies.cosets and copies.helix is None and masks.keep is not None and len(rotations) > 1:
            cosets = find_cosets(masks.keep, rotations, self._parallel)
            chosen, stabiliser = cosets.representatives, cosets.stabiliser
            self.facts["operator_overlaps"] = cosets.overlaps.tolist()
            if len(chosen) < len(rotations):
                self.notes.append(
                    f"{len(rotations) // len(chosen)} of the {len(rotations)} operators map the kept part onto "
                    f"itself: {len(chosen)} sub-particles a parent; --cosets off takes all"
                )
            numbers, rotations, translations = numbers[chosen], rotations[chosen], translations[chosen]
        centres = self._centres(data, masks, grid[1])
        recentred = settings.crop.centre != "none" or bool(copies.vectors)
        candidates = make_candidates(
            (numbers, rotations, translations), centres, recentred=recentred, align_z=copies.align_z
        )
        return self._design(name, candidates, masks, grid, stabiliser, mask_only)

    def _design(
        self, name: str, candidates: Candidates, masks: Masks, grid: tuple[int, float],
        stabiliser: IntArray | None = None, mask_only: bool = False,
    ) -> Design:  # fmt: skip
        new_box, dilate = self._sizes(masks, grid)
        return Design(
            name, candidates, mask_only, candidates.centres_angst[0], new_box,
            np.zeros(1, np.int64) if stabiliser is None else stabiliser, grid, dilate, self.summary, self.facts,
            tuple(self.notes),
        )  # fmt: skip

    def _operators(self) -> tuple[str, IntArray, FloatArray, FloatArray]:
        """Name, numbers, rotations and translations (Å) of all operators."""
        copies, said = self._settings.copies, self._source.symmetry
        if copies.helix is not None:
            twist, rise, count = copies.helix
            return (f"helix {twist:g}° {rise:g} Å", *helical_operators(twist, rise, count))
        name = copies.sym or said or "c1"
        if copies.sym is None and said is not None:
            self.notes.append(f"symmetry {said}, as the refinement says (--sym changes it)")
        elif copies.sym is not None and said is not None and copies.sym.lower() != said.lower():
            self.notes.append(f"--sym {copies.sym}: the refinement used {said}")
        elif copies.sym is None:
            self.notes.append("no --sym, and the input names no symmetry: c1")
        rotations = numbered_operators(name, self._registry)
        if np.any(self._registry.symmetry(name).translations_angst()):
            raise ParameterError(f"--sym {name}: helices are given with --helix --twist --rise --asu")
        return name, np.arange(len(rotations)), rotations, np.zeros((len(rotations), 3))

    def _map(self) -> tuple[FloatArray, tuple[int, float]]:
        """The map that centre and symmetry are judged by: half 1 where there are halves, for that half must not
        know of the other."""
        maps, optics = self._source.maps, self._particles.optics
        present = [int(half) for half in np.unique(self._particles.half_set)]
        missing = [half for half in present if half not in maps and 0 not in maps]
        if missing:
            raise ParameterError(
                f"{self._source.particles.source}: has particles of half set {missing[0]}, but there is no map "
                "for them; give --map, or --half1 and --half2"
            )
        first = 1 if 1 in maps else 0
        data, voxel, notes = read_map(maps[first], self._registry, self._box, optics)
        self.notes += notes
        if 1 in maps and 2 in maps:
            other, _, _ = read_map(maps[2], self._registry, self._box, optics)
            if other.shape != data.shape:
                raise FormatError(f"{maps[2]}: is {len(other)} voxels wide, {maps[1]} is {len(data)}")
            agreement = halves_agreement(data, other)
            self.facts["half_maps_correlation"] = float(agreement)
            if agreement < LEAST_AGREEMENT:
                raise FormatError(
                    f"{maps[1]} and {maps[2]}: correlate only {agreement:.2f}, so they are not in one frame; "
                    "align them, or give --ref combined"
                )
        return data, (len(data), voxel)

    def _report_masks(self, data: FloatArray, masks: Masks) -> None:
        """Numbers of the masks, and warnings."""
        if masks.excluded is None:
            if self._settings.subtraction.enabled:
                raise ParameterError(
                    "--subunitmask or --subtractmask: one is needed to subtract; --no-subtract only recentres"
                )
            return
        found = mask_report(data, masks.keep, masks.excluded)
        self.notes += found.warnings
        self.facts["masks"] = found.as_dict()
        self.summary["masks"] = (
            f"kept {found.kept_voxels:,.0f} voxels, {100 * found.kept_energy:.0f} % of the map's energy; subtracted "
            f"{found.subtracted_voxels:,.0f} voxels, {100 * found.subtracted_energy:.0f} %"
        )

    def _mask_only(self, data: FloatArray, rotations: FloatArray, masks: Masks) -> bool:
        """Whether the map lacks the symmetry, so that only the mask may be turned."""
        mode = self._settings.copies.sym_mode
        if self._settings.copies.helix is not None or len(rotations) == 1:
            return False
        if not self._settings.subtraction.enabled or mode == "mask-only":
            return mode == "mask-only"
        found = pseudo_symmetry(data, rotations, masks.everything, self._parallel)
        worst = float(np.min(found))
        self.facts["symmetry_correlation"] = worst
        if worst >= LEAST_SYMMETRY:
            return False
        number = int(np.argmin(found))
        said = f"the map and itself turned by operator {number} correlate only {worst:.3f}"
        if mode == "map":
            self.notes.append(
                f"{said}: it may not have the symmetry; --sym-mode mask-only does not rely on it"
            )
            return False
        self.notes.append(f"{said}: it has not the symmetry, only the mask is turned (--sym-mode mask-only)")
        return True

    def _centres(self, data: FloatArray, masks: Masks, voxel: float) -> FloatArray:
        """(c, 3) centres in the map, Å."""
        crop, vectors = self._settings.crop, self._settings.copies.vectors
        if vectors:
            return np.array(vectors, np.float64)
        if crop.centre == "none":
            return np.zeros((1, 3))
        if isinstance(crop.centre, tuple):
            return np.array([crop.centre], np.float64) * (1.0 if crop.centre_in_angst else voxel)
        keep = need_keep(masks, f"--center {crop.centre}")
        centre = np.asarray(kept_centre(data, keep, crop.centre), np.float64)
        return centre[None] * voxel

    def _sizes(self, masks: Masks, grid: tuple[int, float]) -> tuple[int, float]:
        """New box, and widening of projected masks, in pixels."""
        settings, box = self._settings, self._box
        spread = 0.0
        particles = self._particles
        if particles.ctf is not None and settings.subtraction.ctf != "none":
            defocus = float(np.median(particles.ctf.defocus_u_angst))
            spread = max(
                delocalisation_px(group, defocus, max(_SPREAD_ANGST, 2 * group.pixel_size_angst))
                for group in particles.optics
                if group.voltage_kv > 0
            ) if any(group.voltage_kv > 0 for group in particles.optics) else 0.0  # fmt: skip
        wanted = settings.crop.new_box
        if wanted is None:
            keep = need_keep(masks, "--newbox auto")
            ratio = grid[1] / particles.optics[0].pixel_size_angst
            new_box = min(box, 2 * math.ceil(default_box(keep, spread / ratio) * ratio / 2 - 1e-6))
        else:
            new_box = box if wanted <= 3 else wanted
        if new_box % 2 and not settings.expand_only:
            self.notes.append(f"--newbox {new_box}: even sizes are read by every program")
        dilate = settings.masks.dilate_px
        return new_box, float(min(math.ceil(spread), new_box / 4) if dilate is None else dilate)


def make_design(
    settings: SubparticleSettings, source: SubparticleSource, particles: Particles, box: int,
    registry: Registry, parallel: ParallelMap,
) -> Design:  # fmt: skip
    """Read map and masks and work out which copies are taken, where they are centred and how large they are.

    Parameters
    ----------
    settings, source, particles
        Options, refinement, its used particles.
    box
        Pixels of the parents' images.
    registry, parallel
        Plugins and threads.

    Raises
    ------
    InputError
        For masks, maps or options that cannot be used together.
    """
    return _Designer(settings, source, particles, box, registry, parallel).make()
