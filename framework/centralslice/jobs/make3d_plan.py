"""Everything a make3d run decides before it allocates or computes: inputs checked, plugins made, memory known."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from centralslice.abc.parameters import parameters_of
from centralslice.abc.processor import Processor
from centralslice.abc.reader import ReadRequest, ShiftConvention
from centralslice.abc.reconstructor import MapGeometry, Reconstructor, SumsPlan
from centralslice.abc.symmetry import Symmetry
from centralslice.abc.writer import Writer
from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup, Particles
from centralslice.errors import FileMissingError, ParameterError, ResourceError, SelectionError
from centralslice.fourier.prepare import CtfMode
from centralslice.jobs.copies import CopyRules, plan_copies
from centralslice.jobs.make3d_outputs import Outputs, check_outputs, plan_outputs
from centralslice.jobs.make3d_settings import Make3dSettings
from centralslice.jobs.make3d_sizes import output_shape, padded_size, volume_size
from centralslice.jobs.particle_images import StackPool, check_stacks
from centralslice.jobs.selection import Selection, select
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import CheckpointStore, checkpoint_folder
from centralslice.runtime.exact_sums import SumsKind, choose_kind, integer_geometry, scheme_bytes

#: Bytes of samples that are prepared at a time; a block is as many images, whatever the machine.
BATCH_BYTES = 256 * 2**20
#: A piece of images goes through all of the sums: it should be at least one image for this much of them.
SUMS_BYTES_PER_IMAGE = 2**18
#: Blocks that a run is cut into if they are large enough.
WANTED_BLOCKS = 256
#: Integer sums have head-room for a piece: the more of a run is in one piece, the coarser their quantum.
LEAST_PIECES = 8
#: The interpreter and its libraries, as measured after import.
BASE_BYTES = 220 * 2**20
#: In the names of files that EMAN2 wrote with flipped phases.
FLIPPED_NAME = "ctf_flip"
#: Of files that EMAN2 wrote, whose headers do not say whether phases were flipped.
EMAN2_SUFFIXES = frozenset({".hdf", ".hdf5", ".h5", ".lst", ".lsx"})


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
    preprocessors = tuple(_processor(text, 2, registry) for text in settings.preprocess)
    postprocessors = tuple(_processor(text, 3, registry) for text in postprocess_specs(settings))
    particles, notes = with_pixel_sizes(particles, settings)
    selection = select(particles, settings.selection)
    particles = by_half_set(selection.particles)
    if settings.use_ssnr and particles.ssnr is None:
        raise ParameterError(f"--usessnr: {settings.input} has no SSNR curves (class_ssnr)")
    halves = settings.half_maps == "auto" and settings.selection.subset is None
    halves = halves and bool(np.any(particles.half_set == 1)) and bool(np.any(particles.half_set == 2))
    _check_seed(settings, halves)
    outputs = plan_outputs(settings, halves)
    writer = check_outputs(outputs, _as_begun(settings, outputs), _inputs(settings, particles), registry)
    with StackPool(particles.image_files, registry) as pool:
        image_size = check_stacks(particles, pool).shape[0]
    slice_size = padded_size(settings.pad, image_size)
    voxel_size = particles.optics[0].pixel_size_angst
    geometry = MapGeometry(
        image_size=image_size,
        slice_size=slice_size,
        voxel_size_angst=voxel_size,
        padded_size=volume_size(settings.padvol) or (slice_size if settings.pad else None),
        precision=np.dtype(settings.precision),
        max_radius=None if settings.maxres is None else image_size * voxel_size / settings.maxres,
    )
    if geometry.max_radius is not None and geometry.max_radius < 1:
        raise ParameterError(
            f"--maxres {settings.maxres:g}: coarser than the box of {image_size * voxel_size:g} Å, "
            "nothing would be left"
        )
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
        slice_size=slice_size,
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


def _as_begun(settings: Make3dSettings, outputs: Outputs) -> Make3dSettings:
    """With ``force`` if a run is resumed that was killed while its outputs got their names, the manifest last."""
    begun = settings.resume != "no" and not outputs.manifest.exists()
    begun = begun and bool(CheckpointStore(checkpoint_folder(settings.output)).epochs())
    return replace(settings, force=True) if begun else settings


def images_at_a_time(geometry: MapGeometry) -> int:
    """Images that a rank prepares at a time."""
    return max(1, min(1024, BATCH_BYTES // _slice_bytes(geometry)))


def piece_bytes(geometry: MapGeometry, images: int) -> int:
    """Memory of so many images: their samples, the images as read, and those read ahead."""
    return images * (_slice_bytes(geometry) + 2 * 4 * geometry.image_size**2)


def _slice_bytes(geometry: MapGeometry) -> int:
    return 4 * geometry.precision.itemsize * geometry.slice_size * (geometry.slice_size // 2 + 1)


def images_of_block(count: int, piece: int, sums_bytes: int, kind: SumsKind) -> int:
    """Images in a block: enough blocks for many ranks, but each large enough to be worth going through the sums.

    A function of the inputs and options alone, never of ranks or threads.
    """
    if kind in ("block", "wide"):
        return max(piece, 1024)  # the totals are gone through once a block
    worthwhile = max(32, sums_bytes // SUMS_BYTES_PER_IMAGE)
    return int(min(piece, max(worthwhile, math.ceil(count / WANTED_BLOCKS))))


def mode_of(settings: Make3dSettings, registry: Registry) -> str:
    """The mode asked for, or the default."""
    return settings.mode or ("gauss_var" if settings.compat_eman2 else registry.default("reconstructor"))


def make_reconstructor(settings: Make3dSettings, registry: Registry) -> Reconstructor:
    """The reconstructor of --mode with what other options say about it."""
    spec = mode_of(settings, registry)
    name = registry.expand("reconstructor", spec)[0]
    known = {entry.name for entry in parameters_of(registry.resolve("reconstructor", name))}
    for wanted, parameter, text, option in (
        (settings.compat_eman2, "compat", "true", "--compat eman2"),
        (not settings.radial_correction, "radial_correction", "false", "--noradcor"),
    ):
        if wanted and parameter not in known:
            raise ParameterError(
                f"{option}: mode '{name}' has no such variant; use one of EMAN2's modes, e.g. --mode gauss_2"
            )
        if wanted:
            spec = f"{spec}:{parameter}={text}"
    if settings.iteration_mask is not None and name != "iterative":
        raise ParameterError(f"--itermask: only for --iterative, not for mode '{name}'")
    made: Reconstructor = registry.create("reconstructor", spec)
    return made


def _processor(text: str, dimension: int, registry: Registry) -> Processor:
    made: Processor = registry.create("processor", text)
    if dimension not in made.dimensions:
        kind = "images" if dimension == 2 else "maps"
        raise ParameterError(f"processor '{text}': does not work on {kind}")
    return made


def postprocess_specs(settings: Make3dSettings) -> tuple[str, ...]:
    """Postprocessors as typed: structure factor first, then the user's."""
    if settings.setsf is None or settings.setsf.lower() == "none":
        return settings.postprocess
    path = Path("strucfac.txt") if settings.setsf.lower() == "auto" else Path(settings.setsf)
    if not path.is_file():
        raise ParameterError(f"--setsf: {path} does not exist; give a file of s and intensity, or none")
    compat = ":compat=eman2" if settings.compat_eman2 else ""
    return (f'filter.setstrucfac:filename="{path}"{compat}', *settings.postprocess)


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


def check_memory(needed: int, smaller: str) -> None:
    """Refuse what the machine's memory cannot hold."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ResourceError(
            f"this run needs {needed / 1e9:,.1f} GB of memory, the machine has {present / 1e9:,.1f} GB; "
            f"take a smaller {smaller}"
        )


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


def choose_ctf_modes(particles: Particles, settings: Make3dSettings) -> tuple[tuple[CtfMode, ...], list[str]]:
    """How the CTF enters for each optics group, and why."""
    modes: list[CtfMode] = []
    notes: list[str] = []
    for number, group in enumerate(particles.optics):
        usable = particles.ctf is not None and group.voltage_kv > 0
        if settings.ctf == "auto":
            files = [
                particles.image_files[at]
                for at in np.unique(particles.file_number[particles.optics_group == number])
            ]
            mode, reason = _automatic_ctf(group, usable, settings, files)
            notes.append(f"CTF of '{group.name}': {mode}, because {reason} (--ctf auto)")
        else:
            mode = settings.ctf
            if mode != "none" and not usable:
                raise ParameterError(
                    f"--ctf {mode}: {settings.input} has no defocus or no voltage for optics group "
                    f"'{group.name}'; use --ctf none"
                )
            if mode in ("full", "flipped") and group.ctf_premultiplied:
                raise ParameterError(
                    f"--ctf {mode}: the images of optics group '{group.name}' are CTF-multiplied already; "
                    "use --ctf auto"
                )
        modes.append(mode)
    return tuple(modes), notes


def _automatic_ctf(
    group: OpticsGroup, usable: bool, settings: Make3dSettings, files: Sequence[Path]
) -> tuple[CtfMode, str]:
    """What --ctf auto takes for a group whose images are in these files, and why.

    EMAN2's headers do not say whether phases were flipped; the names that its programs give the files do.

    Raises
    ------
    ParameterError
        If only some of the group's files are called flipped.
    """
    if settings.compat_eman2:
        return "none", "EMAN2's make3dpar takes images as they are"
    if not usable:
        return "none", "the metadata have no defocus or no voltage"
    if group.ctf_premultiplied:
        return "premultiplied", "the metadata say that the images are CTF-multiplied"
    flipped = [FLIPPED_NAME in path.name for path in files]
    if any(flipped) and not all(flipped):
        raise ParameterError(
            f"--ctf auto: of the image files of optics group '{group.name}' some are called {FLIPPED_NAME} "
            f"({files[flipped.index(True)].name}), others not ({files[flipped.index(False)].name}); "
            "give --ctf full or --ctf flipped"
        )
    if any(flipped):
        return "flipped", f"the image files are called {FLIPPED_NAME}"
    reason = "the metadata have defocus and microscope"
    suffixes = {path.suffix.lower() for path in (settings.input, *files)}
    if suffixes & EMAN2_SUFFIXES:
        reason += "; images whose phases were flipped need --ctf flipped"
    return "full", reason
