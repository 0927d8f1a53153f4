"""Everything a tomo run decides before it allocates or computes: inputs checked, tilts chosen, memory known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from centralslice.abc.reader import AlignedSeries, TiltReadRequest
from centralslice.abc.reconstructor import MapGeometry, Reconstructor
from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.conventions import FloatArray
from centralslice.data.tilt_series import TiltParticles
from centralslice.errors import ParameterError, SelectionError
from centralslice.fourier.tilt_slices import TiltCtfMode, TiltSettings
from centralslice.fourier.windows import Background, window_size
from centralslice.geometry.groups import operator_product
from centralslice.geometry.rotations import rotation_z
from centralslice.jobs.budget import check_memory, estimated_time, images_of_block
from centralslice.jobs.copies import CopyRules, plan_copies
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.jobs.tomo.memory import ImageBytes, MemoryChoice, TomoMemory
from centralslice.jobs.tomo.outputs import TomoOutputs, plan_tomo_outputs, read_fsc_mask
from centralslice.jobs.tomo.selection import TiltSelection, check_rules, select_tilts
from centralslice.jobs.tomo.settings import HelicalSettings, TomoSettings
from centralslice.jobs.tomo.slices import TomoSlicing
from centralslice.jobs.tomo.tilt_images import TiltImages, check_tilt_images
from centralslice.plugin.registry import Registry
from centralslice.runtime.exact_sums import choose_kind, integer_geometry, scheme_bytes


@dataclass(frozen=True, slots=True)
class TomoPlan:
    """A run, decided.

    Attributes
    ----------
    settings
        The user's choice.
    slicing
        Particles, tilts used, and how windows become slices.
    finishing
        How sums become maps.
    outputs, writer
        The files, and who writes maps.
    block_slices
        Of :class:`centralslice.jobs.tomo.slices.TiltSlices`.
    memory, choice
        What memory depends on, and what was chosen.
    source_count
        Particles in the metadata.
    notes
        Lines that explain choices and defaults.
    """

    settings: TomoSettings
    slicing: TomoSlicing
    finishing: FinishPlan
    outputs: TomoOutputs
    writer: Writer
    block_slices: int
    memory: TomoMemory
    choice: MemoryChoice
    source_count: int
    notes: tuple[str, ...]

    @property
    def selection(self) -> TiltSelection:
        """Particles and tilts."""
        return self.slicing.selection

    @property
    def particles(self) -> TiltParticles:
        """The particles used, in order."""
        return self.selection.particles

    @property
    def sums_bytes(self) -> int:
        """One set of sums."""
        return scheme_bytes(self.finishing.sums_kind, self.finishing.sums)

    @property
    def memory_bytes(self) -> int:
        """Largest memory of the process, worked out."""
        return self.memory.peak(self.choice)

    @property
    def worker_bytes(self) -> int:
        """Largest memory of a rank that only inserts."""
        return self.memory.worker_peak(self.choice)

    def _if_widened(self) -> str:
        """What integer sums may need that outgrow 32 bits, which few do."""
        widened = self.memory.widened(self.choice)
        return (
            "" if widened == self.memory_bytes else f"; up to {widened / 1e9:.2f} GB if sums outgrow 32 bits"
        )

    def _time(self) -> str:
        finishing = self.finishing
        rounds = finishing.sums.passes * (2 if finishing.halves and finishing.sums.passes > 1 else 1)
        return estimated_time(
            int(self.selection.counts.sum()) * rounds, finishing.geometry.image_size,
            len(self.slicing.copies.rotations), len(self.outputs.labels), self.settings.threads,
        )  # fmt: skip

    def lines(self) -> list[str]:
        """What ``--dry-run`` prints."""
        selection, finishing, geometry = self.selection, self.finishing, self.finishing.geometry
        half = np.bincount(self.particles.half_set, minlength=3)
        lost = ", ".join(f"{n:,} {why}" for why, n in selection.dropped_particles.items()) or "none"
        lost_tilts = ", ".join(f"{n:,} {why}" for why, n in selection.dropped_tilts.items()) or "none"
        series = len(np.unique(self.particles.series_number))
        crop = "" if self.settings.crop is None else f", cropped to {finishing.output_shape[0]}"
        return [
            f"input      {self.settings.source}: {len(self.particles):,} particles in {series} tilt series, "
            f"dropped: {lost}",
            f"tilts      {int(selection.counts.sum()):,} windows used, dropped: {lost_tilts}",
            f"half sets  none {half[0]:,}, 1: {half[1]:,}, 2: {half[2]:,}",
            f"CTF        {', '.join(finishing.ctf_modes)}",
            f"symmetry   {finishing.symmetry}",
            f"method     {finishing.reconstructor!r}",
            f"map        {geometry.image_size} voxels of {geometry.voxel_size_angst:g} Å a side{crop}",
            f"memory     {self.memory_bytes / 1e9:.2f} GB (sums {self.sums_bytes / 1e9:.2f} GB each"
            f"{', half 1 waits on disk' if self.choice.spill else ''}, "
            f"finish {finishing.sums.finish_bytes / 1e9:.2f} GB{self._if_widened()})",
            f"sums       {finishing.sums_kind}; blocks of about {self.block_slices} windows",
            f"threads    {self.settings.threads}",
            f"time       about {self._time()} on one rank, by the benchmarks' cost of a core",
            *(f"note       {note}" for note in self.notes),
            *(f"output     {path}" for path in self.outputs.all()),
        ]


def read_tilt_particles(settings: TomoSettings, registry: Registry) -> TiltParticles:
    """The particles of the input as its reader gives them."""
    if settings.series is not None:
        _check_series(settings, settings.series)
    elif settings.optimisation_set is None and settings.particles is None:
        raise ParameterError(
            "--i or --p: give an optimisation set, or particles with --p and tomograms with --t, or a tilt series "
            "with --tilt-series, --alignment and --coordinates"
        )
    path = settings.source
    particles_file = None if settings.optimisation_set is None else settings.particles
    request = TiltReadRequest(
        path, particles_file, settings.tomograms, settings.trajectories, series=settings.series
    )
    particles: TiltParticles = registry.reader_for(path, "tilt_particles").read_tilt_particles(request)
    if len(particles) == 0:
        raise SelectionError(f"{path}: holds no particles")
    return particles


def _check_series(settings: TomoSettings, series: AlignedSeries) -> None:
    """Refuse a tilt series beside a project, and a CTF of which nothing is known."""
    project = {
        "--i": settings.optimisation_set, "--p": settings.particles, "--t": settings.tomograms,
        "--mot": settings.trajectories,
    }  # fmt: skip
    for option, path in project.items():
        if path is not None:
            raise ParameterError(
                f"{option} {path}: not with --tilt-series; give a project or one tilt series"
            )
    if not settings.ctf:
        return
    if series.defocus is None:
        raise ParameterError(
            "--defocus-file: CTF weighting needs the defocus of each tilt (CTFFIND or IMOD); or give --no-ctf"
        )
    if series.microscope.voltage_kv <= 0:
        raise ParameterError("--kv: CTF weighting needs the voltage; or give --no-ctf")


def plan_tomo(settings: TomoSettings, registry: Registry, particles: TiltParticles) -> TomoPlan:
    """Decide everything; image headers are looked at, nothing is allocated.

    Raises
    ------
    InputError
        For whatever would make the run fail or its result wrong.
    """
    check_rules(settings.tilts)
    reconstructor, mode = _reconstructor(settings, registry)
    extracted = bool(particles.stack_files)
    box = _box(settings, particles)
    base = particles.optics[0].pixel_size_angst if extracted else particles.series[0].pixel_size_angst
    voxel = base * window_size(box, settings.binning) / box
    binnings = _binnings(settings, particles, voxel)
    windows = np.array([window_size(box, binning) for binning in binnings])
    relion = reconstructor.relion_tomo_slices
    margins = None if extracted else np.full(len(windows), box / 2) if relion else windows / 2
    source_count = len(particles)
    selection = select_tilts(particles, settings.tilts, settings.subset, settings.split, margins)
    images = _checked_images(selection, registry)
    halves = settings.subset is None and all(
        bool(np.any(selection.particles.half_set == half)) for half in (1, 2)
    )
    kind = choose_kind(reconstructor, settings.sums == "exact")
    limit = None if settings.maxres is None else box * voxel / settings.maxres
    geometry = integer_geometry(
        MapGeometry(box, box, voxel, precision=np.dtype(settings.precision), max_radius=limit), kind
    )
    sums = reconstructor.plan(geometry)
    operators, name, is_group = symmetry_operators(settings.sym, settings.helix, registry)
    if reconstructor.symmetrises_sums:
        copies, grid, averaged = CopyRules(np.eye(3)[None], np.zeros((1, 3))), None, operators
    else:
        (copies, grid), averaged = plan_copies(operators, is_group, reconstructor, 0.0), None
    slicing = TomoSlicing(
        selection, geometry, copies, binnings, _slice_settings(settings, geometry, reconstructor, particles),
        _background(settings, relion), settings.whiten,
    )  # fmt: skip
    size = settings.crop if settings.crop is not None and settings.crop < box else box
    finishing = FinishPlan(
        mode=mode, reconstructor=reconstructor, geometry=geometry, sums=sums, sums_kind=kind, symmetry=name,
        grid_symmetry=grid, ctf_modes=(slicing.settings.ctf_mode,), wiener_snr=settings.snr,
        output_shape=(size,) * 3, postprocess=(), postprocessors=(), halves=halves, seed=None,
        iteration_mask=None, symmetry_copies=averaged,
    )  # fmt: skip
    outputs = plan_tomo_outputs(settings, halves, size < box)
    read_fsc_mask(settings, size, registry)  # refused now rather than when everything is done
    memory = TomoMemory(slicing, finishing, images, settings.threads)
    choice = memory.choose(settings)
    plan = TomoPlan(
        settings, slicing, finishing, outputs, registry.writer_for(outputs.merged, "volume"),
        images_of_block(int(selection.counts.sum()), choice.largest_piece, sums.nbytes, kind), memory, choice,
        source_count, (*particles.notes, *_notes(settings, selection, halves, extracted)),
    )  # fmt: skip
    check_memory(plan.memory_bytes, "--b, --bin or --mem")
    return plan


def symmetry_operators(
    sym: str, helix: HelicalSettings, registry: Registry
) -> tuple[tuple[FloatArray, FloatArray], str, bool]:
    """Point group and helix multiplied out: operators, a name, and whether they are a point group.

    Helical copies are those of RELION: h from −(n // 2) to n // 2 + n % 2 − 1.
    """
    symmetry = registry.symmetry(sym)
    group = symmetry.rotations(), symmetry.translations_angst()
    if helix.units == 1:
        return group, sym.lower(), symmetry.is_group
    if helix.units < 1:
        raise ParameterError(f"--nr-helical-asu: expected 1 or more, got {helix.units}")
    if not symmetry.is_group:
        raise ParameterError(f"--nr-helical-asu: not with --sym {sym}, which is helical itself")
    half = helix.units // 2
    steps = np.array(sorted(range(-half, half + helix.units % 2), key=lambda step: (step != 0, step)))
    along = np.zeros((len(steps), 3))
    along[:, 2] = steps * helix.rise_angst
    name = f"{sym.lower()} × {helix.units} helical units of {helix.twist_deg:g}°, {helix.rise_angst:g} Å"
    return operator_product((rotation_z(steps * helix.twist_deg), along), group), name, False


def _reconstructor(settings: TomoSettings, registry: Registry) -> tuple[Reconstructor, str]:
    spec = settings.mode or _default_mode(settings, registry)
    made: Reconstructor = registry.create("reconstructor", spec)
    if settings.compat_relion != made.relion_tomo_slices:
        raise ParameterError(
            f"--mode {spec}: not with --compat relion, which has a method of its own; leave one out"
            if settings.compat_relion
            else f"--mode {spec}: is RELION's own method; give --compat relion instead"
        )
    if made.eman2_slices:
        raise ParameterError(f"--mode {spec}: EMAN2's own slices are for make3d; leave out compat")
    return made, registry.expand("reconstructor", spec)[0]


def _default_mode(settings: TomoSettings, registry: Registry) -> str:
    """The method of no --mode.

    The least-squares step of the default reconstructor evens out the sampling to a fraction of a percent, but gains
    noise where the weights are low, as in missing wedges and at the zeros of a few CTFs. With CTF and dose weights it
    is left out: the noise is what limits such maps.
    """
    if settings.compat_relion:
        return "relion_tomo"
    default = registry.default("reconstructor")
    return f"{default}:refinements=0" if settings.ctf and default == "kaiser_bessel" else default


def _box(settings: TomoSettings, particles: TiltParticles) -> int:
    """The box asked for, or that of extracted images."""
    box = settings.box
    if particles.stack_files:
        stored = particles.optics[0].box_size
        if settings.binning != 1:
            raise ParameterError(
                f"--bin {settings.binning:g}: the particles are extracted already; leave it out"
            )
        if settings.whiten:
            raise ParameterError("--whiten: needs tilt images, the particles are extracted already")
        if box is not None and stored and box > stored:
            raise ParameterError(f"--b {box}: the extracted images have {stored} pixels; give at most that")
        box = box or stored or None
    if box is None:
        raise ParameterError("--b: give the box size in binned pixels")
    if box < 4:
        raise ParameterError(f"--b: expected 4 pixels or more, got {box}")
    if settings.compat_relion and abs(box * settings.binning / 2 - round(box * settings.binning / 2)) > 1e-9:
        raise ParameterError(
            f"--bin {settings.binning:g}: --b × --bin must be an even whole number with --compat relion, got "
            f"{box * settings.binning:g}; RELION makes garbage of it"
        )
    for option, value in (("--crop", settings.crop),):
        if value is not None and value < 4:
            raise ParameterError(f"{option}: expected 4 pixels or more, got {value}")
    return box


def _binnings(settings: TomoSettings, particles: TiltParticles, voxel: float) -> tuple[float, ...]:
    """Windows of every series cover the same length in Å; with --compat relion the same pixels."""
    if settings.compat_relion or particles.stack_files:
        return (settings.binning,) * len(particles.series)
    return tuple(max(1.0, voxel / series.pixel_size_angst) for series in particles.series)


def _slice_settings(
    settings: TomoSettings, geometry: MapGeometry, reconstructor: Reconstructor, particles: TiltParticles
) -> TiltSettings:
    extracted, relion = bool(particles.stack_files), reconstructor.relion_tomo_slices
    if extracted and relion:
        raise ParameterError("--compat relion: RELION's program reads tilt images, not extracted particles")
    mode: TiltCtfMode = "none" if not settings.ctf else "premultiplied" if extracted else "full"
    if extracted and not settings.ctf:
        raise ParameterError("--no-ctf: the extracted images are CTF-multiplied already; leave it out")
    return TiltSettings(
        box=geometry.image_size, voxel_size_angst=geometry.voxel_size_angst, dose_cutoff=settings.dose_cutoff,
        max_frequency=None if settings.maxres is None else 1 / settings.maxres, ctf_mode=mode,
        sign=1.0 if extracted else -1.0,
        slab_angst=particles.series[0].pixel_size_angst, extracted=extracted, flavour="relion" if relion else "default",
        aberration_pixel_angst=particles.series[0].pixel_size_angst if relion else None,
        precision=geometry.precision,
    )  # fmt: skip


def _background(settings: TomoSettings, relion: bool) -> Background:
    if settings.circle_crop:
        return "circle"
    return "none" if relion else "corners"


def _checked_images(selection: TiltSelection, registry: Registry) -> ImageBytes:
    """Look at the headers of all image files that are used."""
    particles = selection.particles
    found = [(0, 0, 0)]
    with TiltImages(registry) as images:
        for number in () if particles.stack_files else np.unique(particles.series_number):
            series = particles.series[number]
            check_tilt_images(series, images)
            pixels = 4 * series.image_size[0] * series.image_size[1]
            decoded = images.decoded(series)
            found.append((0 if decoded else pixels * len(series), pixels * len(series) * decoded, pixels))
    return ImageBytes(*np.max(found, axis=0).tolist())


def _notes(settings: TomoSettings, selection: TiltSelection, halves: bool, extracted: bool) -> list[str]:
    notes = []
    if settings.subset is None and not halves:
        notes.append("there are no half sets: only the merged map is made; --split random:1 makes some")
    if extracted:
        notes.append("extracted stacks: CTF- and dose-multiplied already, contrast as it is")
    if settings.compat_relion:
        notes.append(
            "--compat relion: RELION's gather without padding; beam tilt and magnification are not used"
        )
    for number, series in enumerate(selection.particles.series):
        if number and abs(series.pixel_size_angst - selection.particles.series[0].pixel_size_angst) > 1e-6:
            notes.append("tilt series of different pixel sizes: all are brought to the voxel of the first")
            break
    return notes


def block_count(plan: TomoPlan) -> int:
    """About how many blocks the run has, for display."""
    return math.ceil(int(plan.selection.counts.sum()) / plan.block_slices)


def volume_options(settings: TomoSettings) -> VolumeOptions:
    """How maps are stored."""
    return VolumeOptions(None, settings.float16)


def with_notes(plan: TomoPlan, notes: list[str]) -> TomoPlan:
    """The plan with more to say."""
    return replace(plan, notes=(*plan.notes, *notes))
