"""make3d: oriented images in, map out; on one process, or on every rank of an MPI world."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import CheckpointError, SelectionError
from centralslice.jobs.finish_plan import finish_plan, finish_record
from centralslice.jobs.make3d_identity import (
    FINISH,
    IMAGES,
    JOB,
    ROWS,
    image_identities,
    job_facts,
    run_fingerprint,
)
from centralslice.jobs.make3d_plan import Make3dPlan
from centralslice.jobs.make3d_result import Make3dResult, half_map_fsc
from centralslice.jobs.make3d_run import Make3dRun, RankTools
from centralslice.jobs.make3d_write import (
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
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import (
    Checkpoint,
    CheckpointStore,
    checkpoint_bytes,
    checkpoint_folder,
)
from centralslice.runtime.checkpoint_merge import OPTIONAL
from centralslice.runtime.communicator import MASTER, Communicator, Serial
from centralslice.runtime.exact_sums import scheme_bytes
from centralslice.runtime.manifest import array_sha256
from centralslice.runtime.progress import Progress
from centralslice.runtime.schedule import BlockReport, StopRun
from centralslice.runtime.signals import STOP_SIGNALS, SignalFlags
from centralslice.runtime.staging import staged_outputs
from centralslice.runtime.threads import Threads


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run was started.

    Attributes
    ----------
    command
        The command line, for the manifest.
    communicator
        The ranks.
    """

    command: str
    communicator: Communicator


class StoppedRun(Exception):
    """A signal stopped the run after a checkpoint; ``args[0]`` is the signal's name."""


def run_make3d(plan: Make3dPlan, registry: Registry, launch: Launch) -> Make3dResult | None:
    """Compute and write everything the plan names; the result on the master, None on workers. Collective.

    Raises
    ------
    StoppedRun
        If a signal asked to stop and a checkpoint was written.
    """
    settings = plan.settings
    _notify(registry, "centralslice_run_started", command=launch.command, settings=asdict(settings))
    started = time.perf_counter()
    with _tools(plan, registry, launch.communicator) as (tools, images):
        run = Make3dRun(
            plan, tools, images, lambda label: _notify(registry, "centralslice_before_finish", label=label)
        )
        overseer = tools.overseer
        if isinstance(overseer, RunOverseer):
            overseer.memory, overseer.planned = run.stages.memory, run.planned_blocks
            overseer.quanta = run.stage_quanta()
            _check_quanta(tools.checkpoint, overseer.quanta)
            if settings.keep_checkpoints:
                run.when_complete = partial(_keep_complete, plan, run, overseer, launch.command)
        try:
            maps = run.maps()
        except StopRun:
            raise StoppedRun(getattr(overseer, "stopped_by", "")) from None
        if not run.is_master:
            return None
        computed = time.perf_counter()
        result = _write(plan, registry, launch, run, maps, (started, computed))
        if tools.store is not None and not settings.keep_checkpoints:
            tools.store.remove()
    for label, path in map_files(plan.outputs).items():
        _notify(registry, "centralslice_map_written", label=label, path=path)
    return result


def _write(
    plan: Make3dPlan, registry: Registry, launch: Launch, run: Make3dRun, maps: dict[str, FloatArray],
    times: tuple[float, float],
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
        write_outputs(writing, registry, volumes, fsc, norm_volume(run.norm, run.finishing), stage)
        timings = {**run.timings, "compute": computed - started, "write": time.perf_counter() - computed}
        result = Make3dResult(
            volumes["merged"], fsc, blank, timings, array_sha256(volumes["merged"].data),
            run.stages.resumed_particles, launch.communicator.size,
        )  # fmt: skip
        write_run_manifest(plan, result, launch.command, stage(plan.outputs.manifest))
    return result


def _check_quanta(checkpoint: Checkpoint | None, quanta: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to add to sums in other units."""
    for label, units in ({} if checkpoint is None else checkpoint.state.quanta).items():
        if label in quanta and dict(quanta[label]) != dict(units):
            raise CheckpointError(
                f"--resume: the sums of {label} in the checkpoint have quanta {dict(units)}, this run's are "
                f"{dict(quanta[label])}; give --quanta-of as before"
            )


def _keep_complete(plan: Make3dPlan, run: Make3dRun, overseer: RunOverseer, command: str) -> None:
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
    with _tools(plan, registry, Serial()) as (tools, images):
        return Make3dRun(plan, tools, images, lambda label: None).half_maps()


@contextmanager
def _tools(
    plan: Make3dPlan, registry: Registry, communicator: Communicator
) -> Iterator[tuple[RankTools, ReadAhead]]:
    """Open what a rank works with; on the master also the checkpoint folder, and signals are noted."""
    settings, particles = plan.settings, plan.particles
    with ExitStack() as stack:
        threads = stack.enter_context(Threads(settings.threads))
        pool = stack.enter_context(StackPool(particles.image_files, registry))
        pixels = np.array([group.pixel_size_angst for group in particles.optics])
        source = ImageSource(particles, pool, plan.preprocessors, pixels[particles.optics_group])
        images = stack.enter_context(ReadAhead(source))
        store, checkpoint, signals, identity = None, None, None, {}
        if settings.checkpoint_every_s > 0 or settings.keep_checkpoints:
            store = CheckpointStore(checkpoint_folder(settings.output))
            signals = SignalFlags((*STOP_SIGNALS, "SIGINT"))
            if communicator.rank == MASTER:
                identity = run_fingerprint(plan, finish_plan(plan, registry))
                checkpoint = _take_up(plan, store, identity, stack)
        passes = plan.sums.passes
        total = len(particles) * passes * (1 if passes == 1 or not plan.has_halves else 2)
        progress = Progress(
            total, settings.quiet or communicator.rank != MASTER, json_lines=settings.log_json
        )
        stack.callback(progress.close)
        overseer = RunOverseer(
            progress, settings.checkpoint_every_s, store, signals, identity, _observer(plan, registry),
            stack, checkpoint_bytes(scheme_bytes(plan.sums_kind, plan.sums), communicator.size) // 2,
        )  # fmt: skip
        yield RankTools(registry, pool, threads, communicator, store, overseer, checkpoint, signals), images


def _take_up(
    plan: Make3dPlan, store: CheckpointStore, identity: dict[str, Any], stack: ExitStack
) -> Checkpoint | None:
    """What to resume from, the folder kept to the end of the run if there is something in it."""
    if not store.epochs() and plan.settings.resume == "no":
        return None
    stack.enter_context(store.lock())
    checkpoint = find_checkpoint(plan, store, identity)
    for note in checkpoint.notes if checkpoint is not None else ():
        print(f"centralslice: warning: {note}", file=sys.stderr)
    return checkpoint


def find_checkpoint(plan: Make3dPlan, store: CheckpointStore, identity: dict[str, Any]) -> Checkpoint | None:
    """What to resume from, by ``--resume``; a checkpoint that is there is never overwritten unasked.

    Raises
    ------
    CheckpointError
        If there is none and one is wanted, or there is one and nothing was said.
    """
    wanted = plan.settings.resume
    there = bool(store.epochs())
    if wanted == "no":
        if there and not plan.settings.force:
            raise CheckpointError(
                f"{store.folder}: holds a checkpoint of an interrupted run; --resume continues it, --force starts anew"
            )
        return None
    if not there:
        if wanted == "auto":
            return None
        raise CheckpointError(f"--resume: {store.folder} holds no checkpoint; leave out --resume")
    return store.latest(identity, allow_previous=wanted == "auto")


def _observer(plan: Make3dPlan, registry: Registry) -> Any:
    """A function that tells hooks of every block."""
    count = {"blocks": 0}

    def observe(report: BlockReport) -> None:
        count["blocks"] += 1
        _notify(
            registry, "centralslice_block_done", block=count["blocks"],
            blocks=-(-len(plan.particles) // plan.block_images), particles=report.particles,
        )  # fmt: skip

    return observe


def _notify(registry: Registry, hook: str, **facts: object) -> None:
    """Tell life-cycle hooks; one that raises is reported and does not stop the run."""
    for failure in registry.notify(hook, **facts):
        from warnings import warn

        warn(f"plugin {failure.owner}: hook {hook} failed: {failure.error}", RuntimeWarning, stacklevel=2)
