"""What a subparticles run will do: particles, copies, masks, boxes and files, decided before any image is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.errors import FormatError, ParameterError, ResourceError, SelectionError
from centralslice.fourier.invariants import invariant_shape
from centralslice.fourier.prepare import CtfMode
from centralslice.fourier.slice_reading import reader_bytes
from centralslice.jobs.particle_images import StackPool, check_stacks
from centralslice.jobs.subparticle_design import Design, make_design
from centralslice.jobs.subparticle_files import SubparticleFiles, check_files, output_stack, plan_files
from centralslice.jobs.subparticle_layout import Layout, plan_layout
from centralslice.jobs.subparticle_rows import Rows, parents_of, rows_of
from centralslice.jobs.subparticle_settings import SubparticleSettings
from centralslice.jobs.subparticle_source import SubparticleSource, read_source
from centralslice.plugin.registry import Registry
from centralslice.runtime.threads import Threads

#: Where EMAN2 projects say which invariant they use, and the key.
PROJECT, PROJECT_KEY = Path("info/project.json"), "global.invariant_type"
#: The sign of the defocus change is judged by what is finer than this, Å.
HAND_ANGST = 6.0
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

    @property
    def memory_bytes(self) -> int:
        """Of one rank: transforms of the map, maps and masks, images, and what is known of each sub-particle."""
        size, settings = self.design.grid[0], self.settings.subtraction
        if size == 0:
            return ROW_BYTES * self.layout.total
        reader = reader_bytes(size, settings.pad or READ_OVERSAMPLING, READ_WIDTH)
        readers = 1 + settings.enabled + (self.settings.masks.masked != "no")
        return readers * reader + 24 * size**3 + 4 * BLOCK_BYTES + ROW_BYTES * self.layout.total

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
    modes, notes = _ctf_modes(particles, source, settings)
    _check_hand(particles, modes, settings)
    with Threads(settings.threads) as threads:
        design = make_design(settings, source, particles, box, registry, threads.map)
    invariant, said = _invariant(settings, eman2, design.new_box)
    settings = replace(settings, invariant=invariant)
    files = _plan_checked_files(settings, source, particles, registry)
    layout = plan_layout(particles, design, settings, box)
    images = 4 * (2 * box * box + design.candidates_a_parent(settings) * design.new_box**2)
    block = max(1, min(MOST_PARENTS, BLOCK_BYTES // max(images, 1)))
    plan = SubparticlePlan(
        settings=settings, source=source, particles=particles, files=files, design=design, layout=layout,
        parent_box=box, new_box=design.new_box, ctf_modes=modes, block_parents=int(block), rows=rows,
        notes=(*source.notes, *said, *notes, *design.notes),
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


def _check_memory(needed: int) -> None:
    """Refuse what the machine's memory cannot hold."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ResourceError(
            f"this run needs {needed / 1e9:,.1f} GB of memory, the machine has {present / 1e9:,.1f} GB; take a "
            "smaller --pad"
        )


def _invariant(
    settings: SubparticleSettings, eman2: bool, box: int
) -> tuple[Literal["none", "bispec", "harmonic"], list[str]]:
    """The invariant to write, and why.

    Raises
    ------
    ParameterError
        If one is asked for that boxes of this size do not have.
    """
    asked = settings.invariant
    unasked = asked is None
    if asked is None:
        asked = "auto" if eman2 and not settings.debug_strips else "none"
    if asked == "none" or settings.expand_only or settings.ssnr:
        return "none", []
    kind, said = _project_kind() if asked == "auto" else (asked, [])
    try:
        invariant_shape(kind, box)
    except ParameterError as error:
        if not unasked:
            raise
        return "none", [f"no invariants: {error}"]
    return kind, said


def _project_kind() -> tuple[Literal["bispec", "harmonic"], list[str]]:
    """The invariant that EMAN2's project file names."""
    if not PROJECT.is_file():
        return "bispec", [f"invariants: bispec, there is no {PROJECT} (--invartype auto)"]
    try:
        found = json.loads(PROJECT.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{PROJECT}: is no JSON, which --invartype auto needs: {error}") from error
    kind = found.get(PROJECT_KEY, "bispec") if isinstance(found, dict) else "bispec"
    if kind == "harmonic":
        return "harmonic", [f"invariants: harmonic, as {PROJECT} says (--invartype auto)"]
    if kind != "bispec":
        raise FormatError(
            f"{PROJECT}: {PROJECT_KEY}: expected bispec or harmonic, got '{kind}'; give --invartype"
        )
    return "bispec", [f"invariants: bispec, as {PROJECT} says or for want of it (--invartype auto)"]


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


def _check_hand(particles: Particles, modes: tuple[CtfMode, ...], settings: SubparticleSettings) -> None:
    """Refuse to find the sign of the defocus change from images that do not feel it."""
    if settings.crop.hand != "auto" or settings.expand_only or settings.ssnr:
        return
    finest = 2 * max(group.pixel_size_angst for group in particles.optics)
    if finest >= HAND_ANGST or "none" in modes:
        what = "images without a CTF" if "none" in modes else f"images that end at {finest:g} Å"
        raise ParameterError(
            f"--defocus-hand auto: looks at what is finer than {HAND_ANGST:g} Å, which {what} cannot show; give 1, -1 "
            "or --no-adjust-defocus"
        )


def _ctf_modes(
    particles: Particles, source: SubparticleSource, settings: SubparticleSettings
) -> tuple[tuple[CtfMode, ...], list[str]]:
    """How the CTF enters for each optics group, and why."""
    asked, modes, notes = settings.subtraction.ctf, [], []
    flipped = settings.subtraction.phase_flipped
    flipped = source.phase_flipped if flipped is None else flipped
    for group in particles.optics:
        usable = particles.ctf is not None and group.voltage_kv > 0
        mode: CtfMode
        if asked != "auto":
            if asked != "none" and not usable:
                raise ParameterError(
                    f"--ctf {asked}: {particles.source} has no defocus or no voltage for optics group "
                    f"'{group.name}'; use --ctf none"
                )
            if asked in ("full", "flipped") and group.ctf_premultiplied:
                raise ParameterError(
                    f"--ctf {asked}: the images of optics group '{group.name}' are CTF-multiplied already; "
                    "use --ctf auto"
                )
            mode = asked
        else:
            mode, reason = _automatic(usable, group.ctf_premultiplied, flipped)
            notes.append(f"CTF of '{group.name}': {mode}, because {reason} (--ctf auto)")
        modes.append(mode)
    return tuple(modes), notes


def _automatic(usable: bool, premultiplied: bool, flipped: bool | None) -> tuple[CtfMode, str]:
    if not usable:
        return "none", "the metadata have no defocus or no voltage"
    if premultiplied:
        return "premultiplied", "the metadata say that the images are CTF-multiplied"
    if flipped:
        return "flipped", "the images are phase flipped"
    return "full", "the metadata have defocus and microscope"
