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
from centralslice.errors import ParameterError
from centralslice.jobs.subparticles.masks import (
    default_box,
    delocalisation_px,
    kept_centre,
    mask_report,
)
from centralslice.jobs.subparticles.operators import helical_operators, numbered_operators
from centralslice.jobs.subparticles.references import References, read_references
from centralslice.jobs.subparticles.rows import Candidates, make_candidates
from centralslice.jobs.subparticles.settings import SubparticleSettings
from centralslice.jobs.subparticles.source import SubparticleSource
from centralslice.jobs.subparticles.symmetry import find_cosets, nearly_symmetric, pseudo_symmetry
from centralslice.jobs.subparticles.volumes import Masks, need_keep, read_masks
from centralslice.plugin.registry import Registry

#: A map has a symmetry if it and its turned self correlate at least so.
LEAST_SYMMETRY = 0.95
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
        Half sets for which only the mask is turned, not their map.
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
    auto_box
        What ``--newbox auto`` would choose; 0: not known.
    summary, facts, notes
        For the plan, for the manifest, for the user.
    """

    symmetry: str
    candidates: Candidates
    mask_only: frozenset[int]
    centre_angst: FloatArray
    new_box: int
    stabiliser: IntArray
    grid: tuple[int, float] = (0, 1.0)
    dilate_px: float = 0.0
    auto_box: int = 0
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
            grid = (0, 1.0) if settings.expand_only else self._references().grid
            return self._design(name, candidates, none, grid)
        maps = self._references()
        masks = read_masks(settings.masks, self._source.mask_all, maps.grid, self._registry)
        self.notes += masks.notes
        self._report_masks(maps.first, masks)
        mask_only = self._mask_only(maps, rotations, masks)
        chosen, stabiliser = self._chosen(masks, rotations)
        numbers, rotations, translations = numbers[chosen], rotations[chosen], translations[chosen]
        centres = self._centres(maps, masks)
        recentred = settings.crop.centre != "none" or bool(copies.vectors)
        candidates = make_candidates(
            (numbers, rotations, translations), centres, recentred=recentred, align_z=copies.align_z
        )
        return self._design(name, candidates, masks, maps.grid, stabiliser, mask_only)

    def _design(
        self, name: str, candidates: Candidates, masks: Masks, grid: tuple[int, float],
        stabiliser: IntArray | None = None, mask_only: frozenset[int] = frozenset(),
    ) -> Design:  # fmt: skip
        new_box, auto_box, dilate = self._sizes(masks, grid)
        return Design(
            name, candidates, mask_only, candidates.centres_angst[0], new_box,
            np.zeros(1, np.int64) if stabiliser is None else stabiliser, grid, dilate, auto_box,
            self.summary, self.facts, tuple(self.notes),
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

    def _references(self) -> References:
        """The maps that symmetry and centre are judged by."""
        maps = read_references(self._source, self._particles, self._box, self._registry)
        self.notes += maps.notes
        if maps.agreement is not None:
            self.facts["half_maps_correlation"] = maps.agreement
        return maps

    def _chosen(self, masks: Masks, rotations: FloatArray) -> tuple[IntArray, IntArray]:
        """Numbers of the operators that are taken, and of those that map the kept part onto itself."""
        copies, count = self._settings.copies, len(rotations)
        if copies.cosets is None or copies.helix is not None or masks.keep is None or count == 1:
            return np.arange(count), np.zeros(1, np.int64)
        cosets = find_cosets(masks.keep, rotations, self._parallel, copies.cosets)
        self.facts["operator_overlaps"] = cosets.overlaps.tolist()
        taken = len(cosets.representatives)
        if taken < count:
            self.notes.append(
                f"{count // taken} of the {count} operators map the kept part onto itself: {taken} sub-particles a "
                "parent; --cosets off takes all"
            )
        self.notes += nearly_symmetric(cosets, rotations, copies.cosets)
        return cosets.representatives, cosets.stabiliser

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

    def _mask_only(self, maps: References, rotations: FloatArray, masks: Masks) -> frozenset[int]:
        """Half sets whose map lacks the symmetry, so that only the mask may be turned: each judged by its own."""
        mode, every = self._settings.copies.sym_mode, frozenset(maps.halves)
        if self._settings.copies.helix is not None or len(rotations) == 1:
            return frozenset()
        if not self._settings.subtraction.enabled or mode == "mask-only":
            return every if mode == "mask-only" else frozenset()
        worst: dict[int, float] = {}
        for half, data in maps.maps.items():
            found = pseudo_symmetry(data, rotations, masks.everything, self._parallel)
            worst[half] = float(np.min(found))
            if worst[half] < LEAST_SYMMETRY:
                self.notes.append(self._no_symmetry(half, int(np.argmin(found)), worst[half]))
        self.facts["symmetry_correlation"] = min(worst.values())
        if mode == "map":
            return frozenset()
        return frozenset(half for half, key in maps.halves.items() if worst[key] < LEAST_SYMMETRY)

    def _no_symmetry(self, half: int, number: int, correlation: float) -> str:
        """What is said of a map without the symmetry."""
        which = f"the map of half set {half}" if half else "the map"
        said = f"{which} and itself turned by operator {number} correlate only {correlation:.3f}"
        if self._settings.copies.sym_mode == "map":
            return f"{said}: it may not have the symmetry; --sym-mode mask-only does not rely on it"
        return f"{said}: it has not the symmetry, only the mask is turned (--sym-mode mask-only)"

    def _centres(self, maps: References, masks: Masks) -> FloatArray:
        """(c, 3) centres in the map, Å: nothing that the noise of one half map moves, unless it is asked for."""
        crop, vectors = self._settings.crop, self._settings.copies.vectors
        if vectors:
            return np.array(vectors, np.float64)
        choice, several = crop.centre, len(maps.maps) > 1
        if choice == "none":
            return np.zeros((1, 3))
        if isinstance(choice, tuple):
            factor = 1.0 if crop.centre_in_angst else maps.voxel_size_angst
            return np.array([choice], np.float64) * factor
        if choice == "auto":
            choice = "mask" if several else "density"
            self.facts["centre_of"] = choice
        keep = need_keep(masks, f"--center {choice}")
        if choice == "density" and several:
            self.notes.append(
                "--center density: found in the mean of the half maps, so each half set's sub-particles are centred by "
                "the other's map too; --center mask keeps them apart"
            )
        density = maps.mean() if choice == "density" else keep
        centre = np.asarray(kept_centre(density, keep, choice), np.float64)
        return centre[None] * maps.voxel_size_angst

    def _sizes(self, masks: Masks, grid: tuple[int, float]) -> tuple[int, int, float]:
        """New box, the automatic one (0: not known), and widening of projected masks, in pixels."""
        settings, box = self._settings, self._box
        spread = self._spread_px()
        wanted, auto_box = settings.crop.new_box, 0
        if wanted is None or (wanted == -1 and masks.keep is not None):
            keep = need_keep(masks, "--newbox auto")
            ratio = grid[1] / self._particles.optics[0].pixel_size_angst
            auto_box = min(box, 2 * math.ceil(default_box(keep, spread / ratio) * ratio / 2 - 1e-6))
        new_box = auto_box if wanted is None else box if wanted <= 3 else wanted
        if new_box % 2 and not settings.expand_only:
            self.notes.append(f"--newbox {new_box}: even sizes are read by every program")
        dilate = settings.masks.dilate_px
        return new_box, auto_box, float(min(math.ceil(spread), new_box / 4) if dilate is None else dilate)

    def _spread_px(self) -> float:
        """How far the CTF spreads signal in the images, pixels."""
        particles = self._particles
        known = [group for group in particles.optics if group.voltage_kv > 0]
        if particles.ctf is None or self._settings.subtraction.ctf == "none" or not known:
            return 0.0
        defocus = float(np.median(particles.ctf.defocus_u_angst))
        return max(
            delocalisation_px(group, defocus, max(_SPREAD_ANGST, 2 * group.pixel_size_angst))
            for group in known
        )


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
