"""make3d: oriented images in, map out."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.abc.reconstructor import NextPass, PassContext, Seed, WeightMap
from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.slices import Sums
from centralslice.data.volume import Volume
from centralslice.errors import FormatError, ParameterError, SelectionError
from centralslice.fourier.prepare import GroupPreparation, prepare_group
from centralslice.fourier.projection import slice_reader
from centralslice.fourier.shells import ShellCorrelation, fourier_shell_correlation, soft_sphere
from centralslice.fourier.transforms import crop_or_pad
from centralslice.jobs.accumulation import Accumulation
from centralslice.jobs.make3d_outputs import NORM_OPTIONS
from centralslice.jobs.make3d_plan import Make3dPlan
from centralslice.jobs.make3d_report import report_run
from centralslice.jobs.make3d_settings import SeedSettings
from centralslice.jobs.particle_images import ImageSource, StackPool
from centralslice.jobs.slice_batches import BatchMaker
from centralslice.plugin.registry import Registry
from centralslice.report.fsc import write_fsc
from centralslice.runtime.manifest import array_sha256, write_manifest
from centralslice.runtime.progress import Progress
from centralslice.runtime.staging import staged_outputs
from centralslice.runtime.threads import Threads

#: From a final name to the name to write.
Stage: TypeAlias = Callable[[Path], Path]

#: Radius and edge of the sphere under which the masked half-map FSC is computed, in boxes.
SPHERE_RADIUS, SPHERE_EDGE = 0.4, 0.06


@dataclass(frozen=True, slots=True)
class Make3dResult:
    """What a run made.

    Attributes
    ----------
    merged
        The map as written.
    fsc
        Half-map FSC, unmasked and under a soft sphere; empty without half sets.
    blank_rows
        Rows of the metadata file whose images had zero variance and were left out.
    timings_s
        Seconds of each part.
    sha256
        Of the merged map's values.
    """

    merged: Volume
    fsc: dict[str, ShellCorrelation]
    blank_rows: IntArray
    timings_s: dict[str, float]
    sha256: str


def run_make3d(plan: Make3dPlan, registry: Registry, command: str) -> Make3dResult:
    """Compute and write everything the plan names."""
    settings = plan.settings
    _notify(registry, "centralslice_run_started", command=command, settings=asdict(settings))
    started = time.perf_counter()
    passes = plan.sums.passes
    total = len(plan.particles) * passes * (1 if passes == 1 or not plan.has_halves else 2)
    progress = Progress(total, settings.quiet)
    with Threads(settings.threads) as threads, StackPool(plan.particles.image_files, registry) as pool:
        run = _Run(plan, registry, pool, threads, progress)
        maps = run.half_and_merged_maps() if plan.has_halves else {"merged": run.one_map()}
        progress.close()
        computed = time.perf_counter()
        if not np.any(maps["merged"]):
            raise SelectionError(
                f"{settings.input}: the map is zero everywhere; no image had a weight above zero"
            )
        fsc = half_map_fsc(maps["half1"], maps["half2"], plan) if plan.has_halves else {}
        volumes = run.volumes(maps)
        check_finite(volumes)
        with staged_outputs() as stage:
            run.write(volumes, fsc, stage)
            timings = {**run.timings, "compute": computed - started, "write": time.perf_counter() - computed}
            result = Make3dResult(
                volumes["merged"], fsc, run.blank_rows(), timings, array_sha256(volumes["merged"].data)
            )
            _write_manifest(plan, result, command, stage(plan.outputs.manifest))
    for label, path in _map_files(plan).items():
        _notify(registry, "centralslice_map_written", label=label, path=path)
    return result


def run_halves(plan: Make3dPlan, registry: Registry) -> tuple[FloatArray, FloatArray]:
    """Only the two half maps, not written."""
    with Threads(plan.settings.threads) as threads, StackPool(plan.particles.image_files, registry) as pool:
        run = _Run(plan, registry, pool, threads, Progress(0, quiet=True))
        halves = plan.particles.half_set
        return run.one_of(np.flatnonzero(halves == 1)), run.one_of(np.flatnonzero(halves == 2))


class _Run:
    """One run's open files, threads and timings."""

    def __init__(
        self, plan: Make3dPlan, registry: Registry, pool: StackPool, threads: Threads, progress: Progress
    ) -> None:
        self.plan, self._registry, self._threads, self._progress = plan, registry, threads, progress
        self.blank: list[IntArray] = []
        self.timings = {"insert": 0.0, "finish": 0.0}
        self._norm: WeightMap | None = None
        self._blocks = 0
        particles = plan.particles
        pixels = np.array([group.pixel_size_angst for group in particles.optics])
        source = ImageSource(particles, pool, plan.preprocessors, pixels[particles.optics_group])
        self._seed = self._read_seed(plan.settings.seed)
        self._accumulation = Accumulation(
            source, self._batch_maker(), plan.reconstructor, plan.block_images, self._block_done
        )

    def one_map(self) -> FloatArray:
        """The map of all particles, in as many passes as the reconstructor wants."""
        return self._passes("merged", np.arange(len(self.plan.particles)), None)

    def one_of(self, rows: IntArray) -> FloatArray:
        """The map of some particles."""
        return self._passes("trial", rows, None)

    def half_and_merged_maps(self) -> dict[str, FloatArray]:
        """Both half maps and the merged one; with one pass, every particle is inserted once."""
        halves = self.plan.particles.half_set
        first, second, rest = (np.flatnonzero(halves == number) for number in (1, 2, 0))
        if self.plan.sums.passes > 1:
            return {
                "half1": self._passes("half1", first, None),
                "half2": self._passes("half2", second, None),
                "merged": self._passes("merged", np.arange(len(halves)), None),
            }
        sums1, sums2 = self.plan.sums.zeros(), self.plan.sums.zeros()
        maps = {"half1": self._passes("half1", first, sums1), "half2": self._passes("half2", second, sums2)}
        sums1.add(sums2)
        del sums2
        return {**maps, "merged": self._passes("merged", rest, sums1)}

    def blank_rows(self) -> IntArray:
        """Rows of the metadata file whose images had zero variance."""
        rows: IntArray = np.unique(
            self.plan.particles.source_row[np.concatenate([*self.blank, np.empty(0, np.int64)])]
        )
        return rows

    def _passes(self, label: str, rows: IntArray, sums: Sums | None) -> FloatArray:
        """Insert and finish until there is a map; ``sums`` may hold particles already."""
        context = self._context()
        while True:
            begun = time.perf_counter()
            totals = self.plan.sums.zeros() if sums is None else sums
            self.blank.append(self._accumulation.add(rows, totals, context))
            inserted = time.perf_counter()
            _notify(self._registry, "centralslice_before_finish", label=label)
            result = self.plan.reconstructor.finish(totals, context)
            self.timings["insert"] += inserted - begun
            self.timings["finish"] += time.perf_counter() - inserted
            if not isinstance(result, NextPass):
                break
            context = replace(context, reference=result.reference, pass_number=context.pass_number + 1)
        if label == "merged" and self.plan.outputs.norm is not None:
            self._norm = self.plan.reconstructor.weight_map(totals, context)
        return result.data

    def _context(self) -> PassContext:
        plan = self.plan
        return PassContext(
            geometry=plan.geometry,
            plan=plan.sums,
            reference=self._seed.data if self._seed is not None and plan.sums.passes > 1 else None,
            seed=None if self._seed is None or self._as_reference else self._seed,
            wiener_snr=plan.settings.snr,
            ctf_weighted=any(mode != "none" for mode in plan.ctf_modes),
            grid_symmetry=plan.grid_symmetry,
            parallel=self._threads.map,
            iteration_mask=self._read_mask(),
        )

    @property
    def _as_reference(self) -> bool:
        return self.plan.settings.seed is not None and self.plan.settings.seed.as_reference

    def _batch_maker(self) -> BatchMaker:
        plan, settings = self.plan, self.plan.settings
        return BatchMaker(
            particles=plan.particles,
            geometry=plan.geometry,
            copies=plan.copies,
            groups=prepare_groups(plan),
            use_ssnr=settings.use_ssnr,
            as_eman2=plan.reconstructor.eman2_slices,
            mask_tilted_edges=settings.tilted_edge_mask,
            seed_slices=slice_reader(self._seed.data, self._threads.map)
            if self._seed is not None and self._as_reference
            else None,
        )

    def _block_done(self, particles: int) -> None:
        self._blocks += 1
        self._progress.advance(particles)
        _notify(
            self._registry, "centralslice_block_done", block=self._blocks,
            blocks=-(-len(self.plan.particles) // self.plan.block_images), particles=particles,
        )  # fmt: skip

    def _read_seed(self, settings: SeedSettings | None) -> Seed | None:
        if settings is None:
            return None
        size = self._seed_size
        data = crop_or_pad(self._read_map("--seedmap", settings.path), (size,) * 3)
        if settings.weight_map is None:
            return Seed(data, settings.weight)
        weights = self._read_map("--seedweightmap", settings.weight_map)
        if weights.shape != (size, size, size // 2 + 1):
            raise ParameterError(
                f"--seedweightmap: {settings.weight_map} has {'×'.join(map(str, reversed(weights.shape)))} "
                f"voxels; expected {size // 2 + 1}×{size}×{size} as --savenorm writes for this run"
            )
        if weights.min() < 0:
            raise ParameterError(f"--seedweightmap: {settings.weight_map} has weights below 0")
        return Seed(data, weights * settings.weight)

    def _read_mask(self) -> FloatArray | None:
        path = self.plan.settings.iteration_mask
        return (
            None if path is None else crop_or_pad(self._read_map("--itermask", path), (self._seed_size,) * 3)
        )

    def _read_map(self, option: str, path: Path) -> FloatArray:
        """A map that an option names, of the run's precision."""
        data = self._registry.reader_for(path, "volume").read_volume(path).data
        if data.ndim != 3:
            raise ParameterError(f"{option}: {path} is not a map but has {data.ndim} axes")
        if not np.all(np.isfinite(data)):
            raise FormatError(f"{option}: {path} has voxels that are not finite numbers")
        return np.asarray(data, self.plan.geometry.precision)

    @property
    def _seed_size(self) -> int:
        """Box of seeds and masks: the images'; as EMAN2 has it, that of the Fourier volume."""
        geometry = self.plan.geometry
        if self.plan.reconstructor.eman2_slices:
            return geometry.padded_size or geometry.slice_size
        return geometry.image_size

    def volumes(self, maps: dict[str, FloatArray]) -> dict[str, Volume]:
        """The maps as they will be written: cropped, the merged one postprocessed."""
        shape = self.plan.output_shape
        made = {
            label: self._finished(crop_or_pad(data, shape), ())
            for label, data in maps.items()
            if label != "merged"
        }
        return {
            **made,
            "merged": self._finished(crop_or_pad(maps["merged"], shape), self.plan.postprocessors),
        }

    def write(self, volumes: dict[str, Volume], fsc: dict[str, ShellCorrelation], stage: Stage) -> None:
        """Write curves and maps under their staged names."""
        plan, outputs = self.plan, self.plan.outputs
        if fsc and outputs.fsc_table is not None and outputs.fsc_plot is not None:
            write_fsc(stage(outputs.fsc_table), stage(outputs.fsc_plot), fsc, self._registry)
        if outputs.report is not None:
            report_run(stage(outputs.report), plan, volumes["merged"], fsc)
        if self._norm is not None and outputs.norm is not None:
            norm = Volume(self._norm.data, plan.geometry.voxel_size_angst)
            self._registry.writer_for(outputs.norm, "volume").write_volume(
                stage(outputs.norm), norm, NORM_OPTIONS
            )
        options = VolumeOptions(plan.settings.compress_bits, plan.settings.float16)
        for label, path in _map_files(plan).items():
            plan.writer.write_volume(stage(path), volumes[label], options)

    def _finished(self, data: FloatArray, processors: tuple[Processor, ...]) -> Volume:
        """The map with postprocessing and attributes."""
        voxel_size = self.plan.geometry.voxel_size_angst
        for processor in processors:
            data = processor.apply(data, voxel_size)
            voxel_size = processor.voxel_size(voxel_size)
        return Volume(data, voxel_size, attributes=map_attributes(self.plan))


def _map_files(plan: Make3dPlan) -> dict[str, Path]:
    """Label and file of every map, the merged one last."""
    outputs = plan.outputs
    halves = {"half1": outputs.half1, "half2": outputs.half2}
    return {**{label: path for label, path in halves.items() if path is not None}, "merged": outputs.merged}


def check_finite(volumes: dict[str, Volume]) -> None:
    """Refuse to write a map with values that are not finite numbers.

    Raises
    ------
    ParameterError
        Naming the map.
    """
    for label, volume in volumes.items():
        if not np.all(np.isfinite(volume.data)):
            raise ParameterError(
                f"the {label} map has values that are not finite numbers; leave out --postprocess or --setsf, "
                "or take --precision float64"
            )


def prepare_groups(plan: Make3dPlan) -> tuple[GroupPreparation, ...]:
    """Tables of every optics group, with the frequency limit of --maxres and of the map."""
    voxel = plan.geometry.voxel_size_angst
    prepared = []
    for group, mode in zip(plan.particles.optics, plan.ctf_modes, strict=True):
        per_index = plan.slice_size * group.pixel_size_angst
        limit = per_index / (2 * voxel)
        if plan.settings.maxres is not None:
            limit = min(limit, per_index / plan.settings.maxres)
        prepared.append(prepare_group(group, plan.slice_size, voxel, limit, mode, plan.geometry.precision))
    return tuple(prepared)


def half_map_fsc(first: FloatArray, second: FloatArray, plan: Make3dPlan) -> dict[str, ShellCorrelation]:
    """FSC of the half maps of the unpadded box, unmasked and under a soft sphere."""
    size, voxel = first.shape[0], plan.geometry.voxel_size_angst
    sphere = soft_sphere(size, SPHERE_RADIUS * size, SPHERE_EDGE * size).astype(first.dtype)
    return {
        "unmasked": fourier_shell_correlation(first, second, voxel),
        "sphere": fourier_shell_correlation(first, second, voxel, sphere),
    }


def map_attributes(plan: Make3dPlan) -> dict[str, object]:
    """EMAN2's attributes of a reconstruction (spec: weight sum, particles kept and left out, source)."""
    kept = np.sort(plan.particles.source_row)
    everyone = np.arange(plan.source_count)
    excluded = np.setdiff1d(everyone, kept)
    attributes: dict[str, object] = {
        "ptcl_repr": float(plan.particles.weight.sum()),
        "threed_ptcl_idxs": kept.astype(np.int32),
        "threed_ptcl_src": str(plan.settings.input),
    }
    if len(excluded):
        attributes["threed_excl_ptcl_idxs"] = excluded.astype(np.int32)
    return attributes


def _notify(registry: Registry, hook: str, **facts: object) -> None:
    """Tell life-cycle hooks; one that raises is reported and does not stop the run."""
    for failure in registry.notify(hook, **facts):
        from warnings import warn

        warn(f"plugin {failure.owner}: hook {hook} failed: {failure.error}", RuntimeWarning, stacklevel=2)


def _write_manifest(plan: Make3dPlan, result: Make3dResult, command: str, path: Path) -> None:
    settings, outputs = plan.settings, plan.outputs
    files = [settings.input, *plan.particles.image_files[:1000]]
    if settings.seed is not None:
        files.append(settings.seed.path)
    facts: dict[str, object] = {
        "command": command,
        "settings": asdict(settings),
        "reconstructor": repr(plan.reconstructor),
        "particles": {
            "used": len(plan.particles) - len(result.blank_rows),
            "dropped": plan.selection.dropped,
            "zero_variance_rows": result.blank_rows,
        },
        "notes": plan.notes,
        "ctf": plan.ctf_modes,
        "resolution_angst": {
            name: {"0.5": curve.resolution(0.5), "0.143": curve.resolution(0.143)}
            for name, curve in result.fsc.items()
        },
        "map_sha256": result.sha256,
        "resumed_particles": 0,
        "planned_memory_bytes": plan.memory_bytes,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "timings_s": result.timings_s,
        "outputs": outputs.all(),
    }
    write_manifest(path, facts, files)
