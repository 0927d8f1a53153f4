"""What a subparticles run will do: particles, copies, masks, boxes and files, decided before any image is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.errors import ParameterError, ResourceError, SelectionError
from centralslice.fourier.prepare import CtfMode
from centralslice.fourier.slice_reading import reader_bytes
from centralslice.jobs.particle_images import StackPool, check_stacks
from centralslice.jobs.subparticles.choices import check_hand, choose_ctf_modes, choose_invariant
from centralslice.jobs.subparticles.design import Design, make_design
from centralslice.jobs.subparticles.files import SubparticleFiles, check_files, output_stack, plan_files
from centralslice.jobs.subparticles.filters import MOST_MISSING
from centralslice.jobs.subparticles.layout import Layout, plan_layout
from centralslice.jobs.subparticles.rows import Rows, parents_of, rows_of
from centralslice.jobs.subparticles.settings import SubparticleSettings
from centralslice.jobs.subparticles.source import SubparticleSource, read_source
from centralslice.plugin.registry import Registry
from centralslice.runtime.threads import Threads

#: Images of a block of parents and of their sub-particles take about this.
BLOCK_BYTES = 48 << 20
#: What is kept of each sub-particle until the table is written.
ROW_BYTES = 1000
#: Window and grid by which maps are read.
READ_WIDTH, READ_OVERSAMPLING = 4, 2.0
#: Parents in a block at most.
MOST_PARENTS = 64


@dataclass(frozen=True, slots=True)
class SubparticlePlan:
    """Everything that is decided.

    Attributes
    ----------
    settings, source, particles
        Options, refinement, and its particles that are used.
    files
        Outputs.
    design
        Copies, centre, masks' numbers.
    layout
        Which sub-particles.
    parent_box, new_box
        Sizes of images in pixels.
    ctf_modes
        How the CTF enters, for each optics group.
    phase_flipped
        Whether the images' phases were flipped.
    block_parents
        Parents of a block.
    rows
        (n,) numbers of the used particles in the source.
    notes
        What the user should know.
    """

    settings: SubparticleSettings
    source: SubparticleSource
    particles: Particles
    files: SubparticleFiles
    design: Design
    layout: Layout
    parent_box: int
    new_box: int
    ctf_modes: tuple[CtfMode, ...]
    block_parents: int
    rows: IntArray
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def halves(self) -> tuple[int, ...]:
        """Half sets in the order they are worked on."""
        return tuple(half for half in (1, 2, 0) if np.any(self.particles.half_set == half))

    def map_of(self, half: int) -> Path:
        """The reference map of a half set."""
        maps = self.source.maps
        return maps[half] if half in maps else maps[0]

    def rows_of(self, parents: IntArray) -> Rows:
        """The written sub-particles of these parents, in order."""
        layout = self.layout
        made = rows_of(parents_of(self.particles, parents), self.design.candidates, layout.chosen(parents))
        return made.take(layout.kept[parents].ravel())

    def posed(self, rotations: FloatArray, shifts_angst: FloatArray) -> SubparticlePlan:
        """The plan with other poses of the parents, (n, 3, 3) and (n, 2) Å: which copies are written follows them."""
        particles = replace(self.particles, rotations=rotations, shifts_angst=shifts_angst)
        layout = plan_layout(particles, self.design, self.settings, self.parent_box)
        return replace(self, particles=particles, layout=layout)

    def with_notes(self, notes: Sequence[str]) -> SubparticlePlan:
        """The plan, saying something more."""
        return replace(self, notes=(*self.notes, *notes))

    @property
    def normalises_images(self) -> bool:
        """Whether images are multiplied by mean norm / norm before anything else, as RELION does."""
        settings = self.settings
        plain = settings.subtraction.enabled and settings.subtraction.scale_mode == "none"
        return self.source.image_factor is not None and (
            settings.ssnr or (plain and not settings.expand_only and not settings.compat_eman2)
        )

    def corrections(self, rows: IntArray) -> tuple[FloatArray | None, FloatArray | None]:
        """Factors of images and of models for these rows of the source, None for 1."""
        image, model = self.source.image_factor, self.source.scale
        image = None if image is None or not self.normalises_images else image[rows]
        model = None if model is None else model[rows]
        if image is None or model is None:
            return image, model
        return image, model * image

    @property
    def sums_bytes(self) -> int:
        """Transforms of the map; each rank holds its own, its threads share them."""
        size, settings = self.design.grid[0], self.settings.subtraction
        if size == 0:
            return 0
        readers = 1 + settings.enabled + (self.settings.masks.masked != "no")
        return readers * reader_bytes(size, settings.pad or READ_OVERSAMPLING, READ_WIDTH)

    @property
    def worker_bytes(self) -> int:
        """Of a rank but the first: transforms of the map, maps and masks, images."""
        size = self.design.grid[0]
        return 0 if size == 0 else self.sums_bytes + 24 * size**3 + 4 * BLOCK_BYTES

    @property
    def memory_bytes(self) -> int:
        """Of the first rank, which also holds what is known of each sub-particle."""
        return self.worker_bytes + ROW_BYTES * self.layout.total

    def lines(self) -> list[str]:
        """The plan for the user."""
        design, layout, settings = self.design, self.layout, self.settings
        centre = ", ".join(f"{value:.1f}" for value in design.centre_angst)
        listed = [
            f"parents    {len(self.particles):,} of {self.source.particles.source} ({self.source.dialect})",
            f"symmetry   {design.symmetry}, {len(design.candidates)} sub-particles a parent"
            + (
                f", which have symmetry of order {design.stabiliser_order}"
                if design.stabiliser_order > 1
                else ""
            ),
            f"copies     {layout.total:,} sub-particles, {layout.filtered:,} filtered, "
            f"{len(layout.outside):,} mostly outside ({settings.crop.edge})",
            f"centre     {centre} Å from the map's centre",
            f"box        {self.parent_box} -> {self.new_box} pixels",
            f"CTF        {', '.join(sorted(set(self.ctf_modes)))}",
            f"gain       {settings.subtraction.scale_mode}",
            f"memory     {self.memory_bytes / 1e9:,.2f} GB a rank",
        ]
        listed += [f"{name:<10} {text}" for name, text in design.summary.items()]
        listed += [f"note       {note}" for note in self.notes]
        return [*listed, *(f"output     {path}" for path in self.files.all())]


def plan_subparticles(settings: SubparticleSettings, registry: Registry) -> SubparticlePlan:
    """Decide everything; on one process. Maps and masks are read, images are not.

    Raises
    ------
    InputError
        For whatever would make the run fail or its result wrong.
    """
    source = read_source(settings.source, registry)
    particles, rows = _used(source, settings)
    eman2 = source.dialect in ("refine", "r3d")
    stack = output_stack(settings, source.stem, eman2)
    settings = replace(settings, output=stack)
    with StackPool(particles.image_files, registry) as pool:
        box = particles.optics[0].box_size or 0
        if not settings.expand_only:
            box = check_stacks(particles, pool).shape[0]
    _plan_checked_files(settings, source, particles, registry)
    modes, notes = choose_ctf_modes(particles, source, settings)
    check_hand(particles, modes, settings)
    with Threads(settings.threads) as threads:
        design = make_design(settings, source, particles, box, registry, threads.map)
    notes += _correction_notes(source, settings)
    invariant, said = choose_invariant(settings, eman2, design.new_box)
    settings = replace(settings, invariant=invariant)
    files = _plan_checked_files(settings, source, particles, registry)
    layout = plan_layout(particles, design, settings, box)
    images = 4 * (2 * box * box + design.candidates_a_parent(settings) * design.new_box**2)
    block = max(1, min(MOST_PARENTS, BLOCK_BYTES // max(images, 1)))
    outside = _outside_note(particles, design, settings, box, layout)
    plan = SubparticlePlan(
        settings=settings, source=source, particles=particles, files=files, design=design, layout=layout,
        parent_box=box, new_box=design.new_box, ctf_modes=modes, block_parents=int(block), rows=rows,
        notes=(*source.notes, *said, *notes, *design.notes, *outside),
    )  # fmt: skip
    _check_memory(plan.memory_bytes)
    return plan


def _plan_checked_files(
    settings: SubparticleSettings, source: SubparticleSource, particles: Particles, registry: Registry
) -> SubparticleFiles:
    """The outputs, none of them an input or there already; lists for EMAN2, by halves where all have one."""
    lists = source.dialect in ("refine", "r3d") or settings.output.suffix.lower() == ".hdf"
    halves = bool(np.all(particles.half_set > 0))
    invariants = settings.invariant in ("bispec", "harmonic")
    files = plan_files(settings, settings.output, (3 if halves else 1) if lists else 0, invariants)
    inputs = [particles.source, *particles.image_files, *source.maps.values()]
    check_files(files, inputs, settings.force, registry)
    return files


def _correction_notes(source: SubparticleSource, settings: SubparticleSettings) -> list[str]:
    """What is not seen from the options."""
    notes, subtraction = [], settings.subtraction
    if source.image_factor is not None and subtraction.enabled and subtraction.scale_mode == "none":
        notes.append(
            "--scale-mode none: images are multiplied by mean norm / norm and written so, with rlnNormCorrection 1, as "
            "RELION does; other modes write them as they are"
        )
    if subtraction.local_refine_deg > 0:
        notes.append(
            "--localrefine: filters and --edge judge refined poses; what is said of copies is of those given"
        )
    return notes


def _outside_note(
    particles: Particles, design: Design, settings: SubparticleSettings, box: int, layout: Layout
) -> list[str]:
    """What a box as large as the parents' costs, and what one for the kept part would."""
    count = len(layout.outside)
    if not count or settings.crop.new_box != -1 or not design.auto_box:
        return []
    total = layout.total + (count if settings.crop.edge == "drop" else 0)
    said = (
        f"{count:,} of {total:,} sub-particles have more than {100 * MOST_MISSING:.0f} % of their box of "
        f"{design.new_box} pixels outside their parents' images"
    )
    if design.auto_box >= design.new_box:
        return [f"{said}; --edge drop leaves them out"]
    flagged = replace(settings, crop=replace(settings.crop, edge="flag"))
    left = len(plan_layout(particles, replace(design, new_box=design.auto_box), flagged, box).outside)
    return [f"{said}; with --newbox auto, {design.auto_box} pixels, {left:,} have"]


def _check_memory(needed: int) -> None:
    """Refuse what the machine's memory cannot hold."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ResourceError(
            f"this run needs {needed / 1e9:,.1f} GB of memory, the machine has {present / 1e9:,.1f} GB; take a "
            "smaller --pad"
        )


def _used(source: SubparticleSource, settings: SubparticleSettings) -> tuple[Particles, IntArray]:
    """The particles to work on, in their order, and their numbers in the source."""
    rows = np.arange(len(source.particles))
    if settings.only_used:
        if source.used is None:
            raise ParameterError(
                f"--only-used: {source.particles.source} does not say which particles its map was made of"
            )
        rows = np.flatnonzero(source.used)
    if not len(rows):
        raise SelectionError(f"{source.particles.source}: no particle is left")
    return (source.particles if len(rows) == len(source.particles) else source.particles.take(rows)), rows
