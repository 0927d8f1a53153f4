"""Everything a make3d run decides before it allocates or computes: inputs checked, plugins made, memory known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.abc.reader import ReadRequest, ShiftConvention
from centralslice.abc.reconstructor import MapGeometry, Reconstructor, SumsPlan
from centralslice.abc.symmetry import Symmetry
from centralslice.abc.writer import Writer
from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup, Particles
from centralslice.errors import FileMissingError, ParameterError, SelectionError
from centralslice.fourier.prepare import CtfMode
from centralslice.jobs.budget import (
    BASE_BYTES,
    LEAST_PIECES,
    check_memory,
    estimated_time,
    images_at_a_time,
    images_of_block,
    piece_bytes,
)
from centralslice.jobs.copies import CopyRules, plan_copies
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.jobs.make3d.ctf import choose_ctf_modes
from centralslice.jobs.make3d.methods import make_processor, make_reconstructor, mode_of, postprocess_specs
from centralslice.jobs.make3d.outputs import Outputs, check_outputs, plan_outputs
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.jobs.make3d.sizes import output_shape, padded_size, volume_size
from centralslice.jobs.particle_images import StackPool, check_stacks
from centralslice.jobs.selection import Selection, select
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import CheckpointStore, checkpoint_folder
from centralslice.runtime.exact_sums import SumsKind, choose_kind, integer_geometry, scheme_bytes


@dataclass(frozen=True, slots=True)
class Make3dPlan:
    """A run, decided.

    Attributes
    ----------
    settings, particles, selection
        The user's choice and the particles used (pixel sizes known), in the order they will be inserted.
    geometry, reconstructor, sums
        The wanted map, who makes it and what it needs.
    slice_size
        Size of the padded images.
    output_shape
        (z, y, x) of the written map.
    ctf_modes
        Per optics group.
    symmetry, copies, grid_symmetry
        The symmetry, the operators slices are inserted under, and those the sums are averaged over.
    preprocessors, postprocessors
        Made and checked.
    writer
        Of the maps.
    outputs
        The files.
    sums_kind
        How sums are kept.
    block_images
        Images in a block, the unit that ranks share out.
    piece_images
        Images that a rank holds at a time.
    source_count
        Rows of the metadata file.
    notes
        Lines that explain choices and defaults.
    """

    settings: Make3dSettings
    particles: Particles
    selection: Selection
    geometry: MapGeometry
    reconstructor: Reconstructor
    sums: SumsPlan
    slice_size: int
    output_shape: tuple[int, int, int]
    ctf_modes: tuple[CtfMode, ...]
    symmetry: Symmetry
    copies: CopyRules
    grid_symmetry: FloatArray | None
    preprocessors: tuple[Processor, ...]
    postprocessors: tuple[Processor, ...]
    writer: Writer
    outputs: Outputs
    sums_kind: SumsKind
    block_images: int
    piece_images: int
    source_count: int
    notes: tuple[str, ...]

    @property
    def has_halves(self) -> bool:
        """Whether half maps are made."""
        return self.outputs.half1 is not None

    @property
    def memory_bytes(self) -> int:
        """Largest memory of the process, worked out: sums, finish or blocks, interpreter."""
        return self._sets * self.sums_bytes + self._bytes_beside_sums

    @property
    def widened_bytes(self) -> int:
        """The same if all integer sums outgrow 32 bits; while the last do, they are there twice."""
        if self.sums_kind != "integer" or self.sums.dtype.itemsize > 4:
            return self.memory_bytes
        return self.memory_bytes + (self._sets + 1) * self.sums_bytes

    @property
    def _sets(self) -> int:
        """Sums that the master holds: half 1 waits for half 2, both for those of neither."""
        rest = self.sums.passes == 1 and bool(np.any(self.particles.half_set == 0))
        return 1 + self.has_halves * (1 + rest)

    @property
    def _bytes_beside_sums(self) -> int:
        itemsize, image = self.geometry.precision.itemsize, self.geometry.image_size
        kept_maps = itemsize * image**3 if self.has_halves else 0
        written = itemsize * math.prod(self.output_shape) * (3 if self.has_halves else 1)
        return BASE_BYTES + kept_maps + max(self._piece_bytes, self.sums.finish_bytes, written)

    @property
    def sums_bytes(self) -> int:
        """One set of sums."""
        return scheme_bytes(self.sums_kind, self.sums)

    @property
    def worker_bytes(self) -> int:
        """Largest memory of a rank that only inserts: one set of sums at a time, blocks, interpreter."""
        return BASE_BYTES + self.sums_bytes + self._piece_bytes

    @property
    def _piece_bytes(self) -> int:
        return piece_bytes(self.geometry, self.piece_images)

    def _time(self) -> str:
        rounds = self.sums.passes * (2 if self.has_halves and self.sums.passes > 1 else 1)
        return estimated_time(
            len(self.particles) * rounds, self.slice_size, len(self.copies.rotations),
            3 if self.has_halves else 1, self.settings.threads,
        )  # fmt: skip

    def lines(self) -> list[str]:
        """What ``--dry-run`` prints."""
        settings, geometry = self.settings, self.geometry
        half = np.bincount(self.particles.half_set, minlength=3)
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.selection.dropped.items()) or "none"
        return [
            f"input      {settings.input}: {len(self.particles):,} particles used, dropped: {dropped}",
            f"half sets  none {half[0]:,}, 1: {half[1]:,}, 2: {half[2]:,}",
            f"images     {geometry.image_size} px of {self.particles.optics[0].pixel_size_angst:g} Å, "
            f"padded to {self.slice_size} px; {len(self.particles.optics)} optics group(s)",
            f"CTF        {', '.join(sorted(set(self.ctf_modes)))}",
            f"symmetry   {settings.sym}: {self.symmetry.order} operators",
            f"method     {self.reconstructor!r}",
            f"map        {'×'.join(map(str, reversed(self.output_shape)))} voxels of {geometry.voxel_size_angst:g} Å",
            f"memory     {self.memory_bytes / 1e9:.2f} GB "
            f"(sums {self.sums.nbytes / 1e9:.2f} GB each, finish {self.sums.finish_bytes / 1e9:.2f} GB"
            f"{_if_widened(self)})",
            f"sums       {self.sums_kind}; blocks of {self.block_images} images",
            f"threads    {settings.threads}",
            f"time       about {self._time()} on one rank, by the benchmarks' cost of a core",
            *(f"note       {note}" for note in self.notes),
            *(f"output     {path}" for path in self.outputs.all()),
        ]


def _if_widened(plan: Make3dPlan) -> str:
    """What integer sums may need that outgrow 32 bits, which few do."""
    if plan.widened_bytes == plan.memory_bytes:
        return ""
    return f"; up to {plan.widened_bytes / 1e9:.2f} GB if sums outgrow 32 bits"


def read_particles(settings: Make3dSettings, registry: Registry, convention: ShiftConvention) -> Particles:
    """The particles of the input as its reader gives them."""
    request = ReadRequest(settings.input, settings.image_dir, settings.tlt, convention)
    if settings.tlt is not None:
        reader = registry.create("reader", "tlt")
    else:
        reader = registry.reader_for(settings.input, "particles")
    particles: Particles = reader.read_particles(request)
    if len(particles) == 0:
        raise SelectionError(f"{settings.input}: holds no particles")
    return particles


def plan_make3d(settings: Make3dSettings, registry: Registry, particles: Particles) -> Make3dPlan:
    """Decide everything; nothing is allocated and no image is read.

    Parameters
    ----------
    settings
        The options.
    registry
        Plugins.
    particles
        As :func:`read_particles` gives them.

    Raises
    ------
    InputError
        For whatever would make the run fail or its result wrong.
    """
    _check_compat(settings)
    symmetry = registry.symmetry(settings.sym)
    source_count = len(particles)
    reconstructor = make_reconstructor(settings, registry)
    preprocessors = tuple(make_processor(text, 2, registry) for text in settings.preprocess)
    postprocessors = tuple(make_processor(text, 3, registry) for text in postprocess_specs(settings))
    particles, notes = with_pixel_sizes(particles, settings)
    selection = select(particles, settings.selection)
    particles = by_half_set(selection.particles)
    if settings.use_ssnr and particles.ssnr is None:
        raise ParameterError(f"--usessnr: {settings.input} has no SSNR curves (class_ssnr)")
    halves = _has_halves(settings, particles)
    _check_seed(settings, halves)
    outputs = plan_outputs(settings, halves)
    writer = check_outputs(outputs, _as_begun(settings, outputs), _inputs(settings, particles), registry)
    with StackPool(particles.image_files, registry) as pool:
        image_size = check_stacks(particles, pool).shape[0]
    geometry = _map_geometry(settings, image_size, particles.optics[0].pixel_size_angst)
    modes, ctf_notes = choose_ctf_modes(particles, settings)
    copies, grid_symmetry = plan_copies(
        (symmetry.rotations(), symmetry.translations_angst()), symmetry.is_group, reconstructor,
        settings.fill_angle, every_operator=settings.compat_eman2,
    )  # fmt: skip
    kind = choose_kind(reconstructor, settings.sums == "exact")
    geometry = integer_geometry(geometry, kind)
    sums = reconstructor.plan(geometry)
    piece = images_at_a_time(geometry)
    if kind == "integer":
        piece = max(1, min(piece, len(particles) // LEAST_PIECES))
    plan = Make3dPlan(
        settings=settings,
        particles=particles,
        selection=selection,
        geometry=geometry,
        reconstructor=reconstructor,
        sums=sums,
        slice_size=geometry.slice_size,
        output_shape=output_shape(settings.outsize, image_size),
        ctf_modes=modes,
        symmetry=symmetry,
        copies=copies,
        grid_symmetry=grid_symmetry,
        preprocessors=preprocessors,
        postprocessors=postprocessors,
        writer=writer,
        outputs=outputs,
        sums_kind=kind,
        block_images=images_of_block(len(particles), piece, sums.nbytes, kind),
        piece_images=piece,
        source_count=source_count,
        notes=(*particles.notes, *notes, *selection.notes, *ctf_notes),
    )
    check_memory(plan.memory_bytes, "--padvol, --pad or --outsize, --precision float32, or --half-maps no")
    return plan


def _has_halves(settings: Make3dSettings, particles: Particles) -> bool:
    """Whether half maps are made."""
    wanted = settings.half_maps == "auto" and settings.selection.subset is None
    return wanted and all(bool(np.any(particles.half_set == half)) for half in (1, 2))


def _map_geometry(settings: Make3dSettings, image_size: int, voxel_size_angst: float) -> MapGeometry:
    """The map of images of this box."""
    box_angst = image_size * voxel_size_angst
    slice_size = padded_size(settings.pad, image_size)
    limit = None if settings.maxres is None else box_angst / settings.maxres
    if limit is not None and limit < 1:
        raise ParameterError(
            f"--maxres {settings.maxres:g}: coarser than the box of {box_angst:g} Å, nothing would be left"
        )
    return MapGeometry(
        image_size=image_size,
        slice_size=slice_size,
        voxel_size_angst=voxel_size_angst,
        padded_size=volume_size(settings.padvol) or (slice_size if settings.pad else None),
        precision=np.dtype(settings.precision),
        max_radius=limit,
    )


def _as_begun(settings: Make3dSettings, outputs: Outputs) -> Make3dSettings:
    """With ``force`` if a run is resumed that was killed while its outputs got their names, the manifest last."""
    begun = settings.resume != "no" and not outputs.manifest.exists()
    begun = begun and bool(CheckpointStore(checkpoint_folder(settings.output)).epochs())
    return replace(settings, force=True) if begun else settings


def with_pixel_sizes(particles: Particles, settings: Make3dSettings) -> tuple[Particles, list[str]]:
    """Particles whose groups all have a pixel size, ``--apix`` applied; shifts in pixels stay what they are."""
    notes: list[str] = []
    groups: list[OpticsGroup] = []
    ratio = np.ones(len(particles.optics))
    for number, group in enumerate(particles.optics):
        old = group.pixel_size_angst
        new = settings.apix or old or 1.0
        if not old and not settings.apix:
            notes.append(
                f"optics group '{group.name}': no pixel size in the metadata, 1 Å taken; give --apix"
            )
        if not new > 0:
            raise ParameterError(f"--apix: expected > 0, got {new:g}")
        ratio[number] = new / old if old else new
        groups.append(replace(group, pixel_size_angst=new))
    shifts = particles.shifts_angst * ratio[particles.optics_group][:, None]
    return replace(particles, optics=tuple(groups), shifts_angst=shifts), notes


def by_half_set(particles: Particles) -> Particles:
    """All of half 1, then half 2, then those of none; file order inside, so blocks never depend on the run."""
    order = np.argsort(np.where(particles.half_set == 0, 3, particles.half_set), kind="stable")
    return particles.take(order)


def _inputs(settings: Make3dSettings, particles: Particles) -> list[Path]:
    """Every file the run reads, those that options name checked to exist.

    Raises
    ------
    FileMissingError
        If one does not.
    """
    seed = settings.seed
    named = {
        "--tlt": settings.tlt,
        "--itermask": settings.iteration_mask,
        "--seedmap": None if seed is None else seed.path,
        "--seedweightmap": None if seed is None else seed.weight_map,
    }
    for option, path in named.items():
        if path is not None and not path.is_file():
            raise FileMissingError(f"{option}: {path} does not exist")
    return [settings.input, *particles.image_files, *(path for path in named.values() if path is not None)]


def _check_compat(settings: Make3dSettings) -> None:
    """Refuse with --compat eman2 what EMAN2 has not, rather than ignore it."""
    if not settings.compat_eman2:
        return
    refused = {
        f"--ctf {settings.ctf}": settings.ctf not in ("auto", "none"),
        "--maxres": settings.maxres is not None,
        "--useseedasref": settings.seed is not None and settings.seed.as_reference,
    }
    for option, given in refused.items():
        if given:
            raise ParameterError(f"{option}: not with --compat eman2, which cannot do it; leave one out")


def _check_seed(settings: Make3dSettings, halves: bool) -> None:
    if settings.seed is None:
        return
    if halves:
        raise ParameterError(
            "--seedmap: the same seed in both half maps would make their FSC meaningless; "
            "use --half-maps no, or --subset 1 and 2 with a seed each"
        )
    if settings.seed.weight_map is not None and settings.seed.as_reference:
        raise ParameterError("--seedweightmap: not with --useseedasref, which adds no seed")


def finish_plan(plan: Make3dPlan, registry: Registry) -> FinishPlan:
    """The part of a run's plan that finishing needs."""
    settings = plan.settings
    return FinishPlan(
        mode=registry.expand("reconstructor", mode_of(settings, registry))[0],
        reconstructor=plan.reconstructor, geometry=plan.geometry, sums=plan.sums, sums_kind=plan.sums_kind,
        symmetry=settings.sym.lower(), grid_symmetry=plan.grid_symmetry,
        ctf_modes=tuple(sorted(set(plan.ctf_modes))), wiener_snr=settings.snr, output_shape=plan.output_shape,
        postprocess=postprocess_specs(settings), postprocessors=plan.postprocessors, halves=plan.has_halves,
        seed=settings.seed, iteration_mask=settings.iteration_mask,
    )  # fmt: skip
