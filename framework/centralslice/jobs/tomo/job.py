"""tomo: tilt series and particles in them in, maps out; on one process, or on every rank of an MPI world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.files import atomic_output
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError, SelectionError
from centralslice.fourier.shells import ShellCorrelation
from centralslice.jobs.finish_maps import FinishWatch
from centralslice.jobs.finish_plan import finish_record
from centralslice.jobs.half_map_fsc import half_map_fsc
from centralslice.jobs.make3d.identity import FINISH, IMAGES, JOB, ROWS
from centralslice.jobs.map_report import report_facts, report_map
from centralslice.jobs.oversight import RunOverseer
from centralslice.jobs.particle_images import ReadAhead
from centralslice.jobs.run_tools import Launch, RankTools, RunKind, StoppedRun, notify, open_tools
from centralslice.jobs.sums_run import SumsJob, SumsRun
from centralslice.jobs.tomo.identity import image_files, particle_identities, tomo_fingerprint
from centralslice.jobs.tomo.outputs import SideWriter, read_fsc_mask, tomogram_table, written_maps
from centralslice.jobs.tomo.plan import TomoPlan, block_count, volume_options
from centralslice.jobs.tomo.slices import TiltSlices, WindowReader
from centralslice.jobs.tomo.taper import crop_centre
from centralslice.jobs.tomo.tilt_images import TiltImages
from centralslice.plugin.registry import Registry
from centralslice.report.fsc import write_fsc
from centralslice.runtime.checkpoint_merge import OPTIONAL
from centralslice.runtime.communicator import MASTER
from centralslice.runtime.manifest import array_sha256, write_manifest
from centralslice.runtime.peak_memory import peak_memory_bytes
from centralslice.runtime.schedule import StopRun
from centralslice.runtime.staging import Stage, remove_left_staged, staged_outputs

#: Pieces whose windows are cut in the background.
PIECES_AHEAD = 1


@dataclass(frozen=True, slots=True)
class TomoResult:
    """What a run made.

    Attributes
    ----------
    fsc
        Half-map FSC by name; empty without half sets.
    blank
        How many windows of equal pixels were left out.
    timings_s
        Seconds of each part.
    sha256
        Label to SHA-256 of the map's values, before cropping and taper.
    resumed_particles
        Taken over from a checkpoint.
    ranks
        That worked.
    """

    fsc: dict[str, ShellCorrelation]
    blank: int
    timings_s: dict[str, float]
    sha256: dict[str, str]
    resumed_particles: int
    ranks: int


def run_tomo(plan: TomoPlan, registry: Registry, launch: Launch) -> TomoResult | None:
    """Compute and write everything the plan names; the result on the master, None on workers. Collective.

    With ``stop_after_sums`` only the checkpoint with all sums is written, and the result has no maps.

    Raises
    ------
    StoppedRun
        If a signal asked to stop and a checkpoint was written.
    """
    settings = plan.settings
    notify(registry, "centralslice_run_started", command=launch.command, settings=asdict(settings))
    started = time.perf_counter()
    master = launch.communicator.rank == MASTER
    with _output_folder(plan.outputs.folder, master), _opened(plan, registry, launch) as (tools, source):
        if tools.checkpoint is not None:  # its lock is held: whoever began to write these outputs is gone
            remove_left_staged(plan.outputs.all())
        with staged_outputs() as stage:
            run = _make_run(plan, registry, tools, source, stage)
            if settings.keep_checkpoints:
                run.when_complete = partial(_keep_complete, plan, run, tools.overseer, launch.command)
            try:
                maps = run.sums_only() if settings.stop_after_sums else run.maps()
            except StopRun:
                raise StoppedRun(tools.overseer.stopped_by) from None
            if not run.is_master:
                return None
            result = _result(plan, registry, launch, run, maps, started)
            if maps:
                _write(plan, registry, launch, maps, result, stage)
        if tools.store is not None and not settings.keep_checkpoints:
            tools.store.remove()
    for label in plan.outputs.labels if maps else ():
        notify(registry, "centralslice_map_written", label=label, path=plan.outputs.map(label))
    return result


@contextmanager
def _output_folder(folder: Path, master: bool) -> Iterator[None]:
    """The folder exists meanwhile; it is taken away again if nothing came to be in it."""
    if not master:
        yield
        return
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # not empty: something was written
                folder.rmdir()


@contextmanager
def _opened(plan: TomoPlan, registry: Registry, launch: Launch) -> Iterator[tuple[RankTools, TiltSlices]]:
    """Open what a rank works with."""
    settings, finishing, particles = plan.settings, plan.finishing, plan.particles
    passes = finishing.sums.passes
    total = len(particles) * passes * (1 if passes == 1 or not finishing.halves else 2)
    kind = RunKind(lambda: tomo_fingerprint(plan), total, block_count(plan))
    with (
        open_tools(settings, kind, registry, launch.communicator) as tools,
        TiltImages(registry, plan.choice.decoded_bytes) as images,
        ReadAhead(WindowReader(plan.slicing, images).read, PIECES_AHEAD) as ahead,
    ):
        choice = plan.choice
        yield (
            tools,
            TiltSlices(plan.slicing, ahead, plan.block_slices, choice.piece, choice.largest_piece),
        )


def _make_run(
    plan: TomoPlan, registry: Registry, tools: RankTools, source: TiltSlices, stage: Stage
) -> SumsRun:
    """Wire up the run, with what is written of every map as soon as it is finished."""
    finishing, settings = plan.finishing, plan.settings
    sides = SideWriter(
        finishing.reconstructor, plan.outputs, plan.writer, finishing.geometry.voxel_size_angst, stage
    )

    def before(label: str) -> None:
        source.buffer.release()  # nothing is inserted while a map is finished
        notify(registry, "centralslice_before_finish", label=label)

    job = SumsJob(
        finishing, plan.particles.half_set, watch=FinishWatch(before, sides.sides, sides.keep),
        master_works=settings.master_works, quanta_of=settings.quanta_of,
        spill_folder=settings.output if plan.choice.spill else None,
    )  # fmt: skip
    return SumsRun(job, source, tools)


def _result(
    plan: TomoPlan, registry: Registry, launch: Launch, run: SumsRun, maps: dict[str, FloatArray],
    started: float,
) -> TomoResult:  # fmt: skip
    fsc: dict[str, ShellCorrelation] = {}
    if "half1" in maps:
        voxel = plan.finishing.geometry.voxel_size_angst
        size = plan.finishing.output_shape[0]
        first, second = (crop_centre(maps[label], size) for label in ("half1", "half2"))
        fsc = half_map_fsc(first, second, voxel, read_fsc_mask(plan.settings, size, registry))
    for label, data in maps.items():
        if not np.all(np.isfinite(data)):
            raise ParameterError(
                f"the {label} map has values that are not finite numbers; take --precision float64"
            )
    if maps and not np.any(maps["merged"]):
        raise SelectionError(
            f"{plan.settings.source}: the map is zero everywhere; no window had a weight above zero"
        )
    timings = {**run.timings, "compute": time.perf_counter() - started}
    hashes = {label: array_sha256(data) for label, data in maps.items()}
    return TomoResult(
        fsc, len(run.stages.memory.blank), timings, hashes, run.stages.resumed_particles,
        launch.communicator.size,
    )  # fmt: skip


def _write(
    plan: TomoPlan, registry: Registry, launch: Launch, maps: dict[str, FloatArray], result: TomoResult,
    stage: Stage,
) -> None:  # fmt: skip
    """Write maps, curves, tables and manifest under their staged names."""
    outputs, finishing = plan.outputs, plan.finishing
    voxel = finishing.geometry.voxel_size_angst
    files = written_maps(outputs, maps, plan.settings, finishing.output_shape[0])
    for path, data in files.items():
        plan.writer.write_volume(stage(path), Volume(data, voxel), volume_options(plan.settings))
    if result.fsc:
        write_fsc(stage(outputs.fsc_table), stage(outputs.fsc_plot), result.fsc, registry)
    if outputs.page:
        merged = Volume(files[outputs.merged], voxel)
        facts = report_facts(plan.lines())
        report_map(stage(outputs.report), f"tomo: {outputs.merged}", merged, result.fsc, facts, plan.notes)
    table = outputs.tomograms
    registry.writer_for(table, "table").write_tables(
        stage(table), {"tomograms": tomogram_table(plan.selection)}
    )
    if outputs.note:
        with atomic_output(stage(outputs.note_file)) as temporary:
            temporary.write_text(f"Command:\n\n{launch.command}\n")
    write_manifest(stage(outputs.manifest), _facts(plan, launch, result), _inputs(plan))


def _inputs(plan: TomoPlan) -> list[Path]:
    settings = plan.settings
    named = (settings.optimisation_set, settings.tomograms, settings.trajectories, plan.particles.source)
    others = () if settings.series is None else settings.series.files()
    files = dict.fromkeys(path for path in (*named, *others) if path is not None)
    return [*files, *image_files(plan.particles)[:100]]


def _facts(plan: TomoPlan, launch: Launch, result: TomoResult) -> dict[str, Any]:
    selection = plan.selection
    return {
        "command": launch.command,
        "settings": asdict(plan.settings),
        "reconstructor": repr(plan.finishing.reconstructor),
        "particles": {"used": len(selection.particles), "dropped": selection.dropped_particles},
        "windows": {
            "used": int(selection.counts.sum()) - result.blank,
            "dropped": {**selection.dropped_tilts, "all pixels equal": result.blank},
        },
        "notes": plan.notes,
        "ctf": plan.finishing.ctf_modes,
        "symmetry": plan.finishing.symmetry,
        "sums": plan.finishing.sums_kind,
        "resolution_angst": {
            name: {"0.5": curve.resolution(0.5), "0.143": curve.resolution(0.143)}
            for name, curve in result.fsc.items()
        },
        "map_sha256": result.sha256,
        "resumed_particles": result.resumed_particles,
        "ranks": result.ranks,
        "planned_memory_bytes": plan.memory_bytes,
        "planned_sums_bytes": plan.sums_bytes,
        "peak_memory_bytes": peak_memory_bytes(),
        "timings_s": result.timings_s,
        "outputs": plan.outputs.all(),
    }


def _keep_complete(plan: TomoPlan, run: SumsRun, overseer: RunOverseer, command: str) -> None:
    """A last checkpoint with all sums, what finishing needs, and which particles are in it."""
    particles, done = plan.particles, run.stages.completed_shard()
    lists = {
        IMAGES: particle_identities(particles),
        ROWS: np.sort(particles.source_row).astype(np.int64),
    }
    job = {
        "command": command,
        "input": str(plan.settings.source),
        "particles": len(particles),
        "source_count": plan.source_count,
        "weight": float(plan.selection.counts.sum()),
        "dropped": plan.selection.dropped_particles,
        "zero_variance_rows": [],
        "zero_variance_images": len(run.stages.memory.blank),
        "notes": list(plan.notes),
    }
    facts = {FINISH: finish_record(plan.finishing), JOB: job, OPTIONAL: ["none"]}
    overseer.keep_complete(replace(done, state={**done.state, **lists}), facts)
