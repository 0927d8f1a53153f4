"""make3d: oriented images in, map out; on one process, or on every rank of an MPI world."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from centralslice.abc.reconstructor import WeightMap
from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import SelectionError
from centralslice.jobs.finish_maps import FinishWatch, NormKeeper, read_iteration_mask, read_seed
from centralslice.jobs.finish_plan import finish_record
from centralslice.jobs.half_map_fsc import half_map_fsc
from centralslice.jobs.make3d.identity import (
    FINISH,
    IMAGES,
    JOB,
    ROWS,
    image_identities,
    job_facts,
    run_fingerprint,
)
from centralslice.jobs.make3d.plan import Make3dPlan, finish_plan
from centralslice.jobs.make3d.result import Make3dResult
from centralslice.jobs.make3d.slices import particle_slices
from centralslice.jobs.make3d.write import (
    check_finite,
    map_files,
    norm_volume,
    output_volumes,
    run_writing,
    write_outputs,
    write_run_manifest,
)
from centralslice.jobs.oversight import RunOverseer
from centralslice.jobs.particle_images import ImageSource, ReadAhead, StackPool
from centralslice.jobs.run_tools import Launch, RankTools, RunKind, StoppedRun, notify, open_tools
from centralslice.jobs.sums_run import SumsJob, SumsRun
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint_merge import OPTIONAL
from centralslice.runtime.communicator import Communicator, Serial
from centralslice.runtime.manifest import array_sha256
from centralslice.runtime.schedule import StopRun
from centralslice.runtime.staging import remove_left_staged, staged_outputs


def run_make3d(plan: Make3dPlan, registry: Registry, launch: Launch) -> Make3dResult | None:
    """Compute and write everything the plan names; the result on the master, None on workers. Collective.

    Raises
    ------
    StoppedRun
        If a signal asked to stop and a checkpoint was written.
    """
    settings = plan.settings
    notify(registry, "centralslice_run_started", command=launch.command, settings=asdict(settings))
    started = time.perf_counter()
    norm = NormKeeper(plan.reconstructor)
    watch = FinishWatch(partial(_before_finish, registry))
    if plan.outputs.norm is not None:
        watch = replace(watch, sides=norm.sides, keep=norm.keep)
    with _run(plan, registry, launch.communicator, watch) as (run, tools):
        if tools.checkpoint is not None:  # its lock is held: whoever began to write these outputs is gone
            remove_left_staged(plan.outputs.all())
        if settings.keep_checkpoints:
            run.when_complete = partial(_keep_complete, plan, run, tools.overseer, launch.command)
        try:
            maps = run.maps()
        except StopRun:
            raise StoppedRun(tools.overseer.stopped_by) from None
        if not run.is_master:
            return None
        computed = time.perf_counter()
        result = _write(plan, registry, launch, run, maps, norm.norm, (started, computed))
        if tools.store is not None and not settings.keep_checkpoints:
            tools.store.remove()
    for label, path in map_files(plan.outputs).items():
        notify(registry, "centralslice_map_written", label=label, path=path)
    return result


def _write(
    plan: Make3dPlan, registry: Registry, launch: Launch, run: SumsRun, maps: dict[str, FloatArray],
    norm: WeightMap | None, times: tuple[float, float],
) -> Make3dResult:  # fmt: skip
    """Check and write what was computed."""
    started, computed = times
    if not np.any(maps["merged"]):
        raise SelectionError(
            f"{plan.settings.input}: the map is zero everywhere; no image had a weight above zero"
        )
    voxel = plan.geometry.voxel_size_angst
    fsc = half_map_fsc(maps["half1"], maps["half2"], voxel) if plan.has_halves else {}
    writing = run_writing(plan)
    volumes = output_volumes(run.finishing, maps, writing.attributes)
    check_finite(volumes)
    blank: IntArray = np.unique(
        plan.particles.source_row[np.array(sorted(run.stages.memory.blank), np.int64)]
    )
    with staged_outputs() as stage:
        write_outputs(writing, registry, volumes, fsc, norm_volume(norm, run.finishing), stage)
        timings = {**run.timings, "compute": computed - started, "write": time.perf_counter() - computed}
        result = Make3dResult(
            volumes["merged"], fsc, blank, timings, array_sha256(volumes["merged"].data),
            run.stages.resumed_particles, launch.communicator.size,
        )  # fmt: skip
        write_run_manifest(plan, result, launch.command, stage(plan.outputs.manifest))
    return result


def _keep_complete(plan: Make3dPlan, run: SumsRun, overseer: RunOverseer, command: str) -> None:
    """A last checkpoint with all sums, what finishing needs, and which images are in it."""
    particles, done = plan.particles, run.stages.completed_shard()
    lists = {
        IMAGES: image_identities(particles, overseer.fingerprint["inputs"]),
        ROWS: np.sort(particles.source_row).astype(np.int64),
    }
    facts = {
        FINISH: finish_record(run.finishing),
        JOB: job_facts(plan, sorted(run.stages.memory.blank), command),
        OPTIONAL: ["none"],
    }
    overseer.keep_complete(replace(done, state={**done.state, **lists}), facts)


def run_halves(plan: Make3dPlan, registry: Registry) -> tuple[FloatArray, FloatArray]:
    """Only the two half maps, by this process alone, not written."""
    with _run(plan, registry, Serial(), FinishWatch()) as (run, _):
        return run.half_maps()


def _before_finish(registry: Registry, label: str) -> None:
    notify(registry, "centralslice_before_finish", label=label)


@contextmanager
def _run(
    plan: Make3dPlan, registry: Registry, communicator: Communicator, watch: FinishWatch
) -> Iterator[tuple[SumsRun, RankTools]]:
    """Open what a rank works with and wire it up."""
    settings, particles = plan.settings, plan.particles
    finishing = finish_plan(plan, registry)
    passes, total = plan.sums.passes, len(particles)
    kind = RunKind(
        lambda: run_fingerprint(plan, finishing),
        total * passes * (1 if passes == 1 or not plan.has_halves else 2), -(-total // plan.block_images),
    )  # fmt: skip
    pixels = np.array([group.pixel_size_angst for group in particles.optics])
    with (
        open_tools(settings, kind, registry, communicator) as tools,
        StackPool(particles.image_files, registry) as pool,
        ReadAhead(
            ImageSource(particles, pool, plan.preprocessors, pixels[particles.optics_group]).read
        ) as images,
    ):
        seed = read_seed(finishing, registry)
        job = SumsJob(
            finishing, particles.half_set, seed, read_iteration_mask(finishing, registry),
            watch, settings.master_works, settings.quanta_of,
        )  # fmt: skip
        source = particle_slices(plan, images, seed, tools.threads.map)
        yield SumsRun(job, source, tools), tools
