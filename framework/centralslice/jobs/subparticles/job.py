"""subparticles: parts of oriented particles as particles of their own, the rest subtracted; on any number of ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.images import StackPlan
from centralslice.fourier.invariants import invariant_shape
from centralslice.jobs.particle_images import ReadAhead, StackPool
from centralslice.jobs.run_tools import Launch, RankTools, RunKind, StoppedRun, notify, open_tools
from centralslice.jobs.subparticles.engine import group_numbers, read_parents
from centralslice.jobs.subparticles.identity import run_fingerprint
from centralslice.jobs.subparticles.outputs import (
    summary_facts,
    write_frame,
    write_lists,
    write_reference,
    write_run_manifest,
    write_strips,
)
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.report import report_run
from centralslice.jobs.subparticles.results import Results
from centralslice.jobs.subparticles.run import SubparticleRun, invariant_kind
from centralslice.jobs.subparticles.settings import PASS_ONE_PARENTS
from centralslice.jobs.subparticles.ssnr import ssnr_table
from centralslice.jobs.subparticles.stack import SharedStack, StackFile, file_sha256
from centralslice.jobs.subparticles.table import Table, make_table
from centralslice.plugin.registry import Registry
from centralslice.runtime.communicator import Communicator
from centralslice.runtime.schedule import StopRun
from centralslice.runtime.staging import staged_outputs
from centralslice.runtime.world import on_master

__all__ = ["Launch", "StoppedRun", "SubparticleResult", "run_subparticles"]


@dataclass(frozen=True, slots=True)
class SubparticleResult:
    """What came of a run.

    Attributes
    ----------
    facts
        As the manifest has them.
    sha256
        Name of output to its SHA-256.
    seconds
        Stage to time.
    """

    facts: Mapping[str, Any]
    sha256: Mapping[str, str]
    seconds: Mapping[str, float]


def run_subparticles(plan: SubparticlePlan, registry: Registry, launch: Launch) -> SubparticleResult | None:
    """Make and write everything the plan names; the result on the master, None on workers. Collective.

    Raises
    ------
    StoppedRun
        If a signal asked to stop and a checkpoint was written.
    """
    notify(registry, "centralslice_run_started", command=launch.command, settings=asdict(plan.settings))
    if plan.settings.expand_only:
        return on_master(launch.communicator, lambda: _expand(plan, registry, launch))
    with ExitStack() as opened:
        tools, run = _open_run(plan, registry, launch.communicator, opened)
        result, sums, stacks = None, None, []
        try:
            if plan.settings.ssnr:
                sums = run.statistics()
            else:
                run.refine_poses()
                stacks = _open_stacks(run, tools, opened)
                run.extract_all(stacks)
        except StopRun:
            raise StoppedRun(getattr(tools.overseer, "stopped_by", "")) from None
        if sums is not None:
            return _write_statistics(plan, registry, launch, run, sums)
        if plan.settings.ssnr:
            return None
        if tools.is_master and run.results is not None:
            result = _write(run.plan, registry, launch.command, run, stacks)
            if tools.store is not None and not plan.settings.keep_checkpoints:
                tools.store.remove()
        launch.communicator.broadcast(None)  # nobody closes a stack that is still being finished
    return result


def _write(
    plan: SubparticlePlan, registry: Registry, command: str, run: SubparticleRun, stacks: list[SharedStack]
) -> SubparticleResult:
    """All outputs, under their final names together."""
    results, files, began = run.results, plan.files, time.perf_counter()
    if results is None:
        raise RuntimeError("only the master writes")
    table = make_table(plan, results)
    facts = summary_facts(plan, results)
    sha256: dict[str, str] = {}
    with staged_outputs() as stage:
        statistics = (results.statistics, results.invariant_statistics)
        for stack, each in zip(stacks, statistics, strict=False):
            path = stack.file.path
            sha256[path.name] = stack.complete(each, stage(path), _attributes(plan, results, table))
        write_lists(plan, results, table, registry, stage)
        if files.frame is not None:
            write_frame(plan, results, stage(files.frame))
        write_reference(plan, registry, stage)
        if files.strips is not None:
            write_strips(plan, results, registry, stage(files.strips))
        if files.report is not None:
            report_run(stage(files.report), plan, results, facts)
        _write_table(plan, registry, table, stage(files.table), sha256)
        seconds = {**run.seconds, "write": time.perf_counter() - began}
        write_run_manifest(plan, {**facts, "timings_s": seconds}, command, sha256, stage(files.manifest))
        for stack in stacks:
            stack.hand_over(stage(stack.file.path))
    return SubparticleResult(facts, sha256, seconds)


def _write_table(
    plan: SubparticlePlan, registry: Registry, table: Table, staged: Any, sha256: dict[str, str]
) -> None:
    registry.writer_for(plan.files.table, "table").write_tables(staged, table.tables)
    sha256[plan.files.table.name] = file_sha256(staged)


def _attributes(plan: SubparticlePlan, results: Results, table: Table) -> Any:
    """Attributes of a sub-particle's image, for formats that have them."""
    pixel = plan.particles.optics[0].pixel_size_angst

    def of(number: int) -> dict[str, Any]:
        rows = table.rows
        pose = np.zeros((3, 4))
        pose[:, :3], pose[:2, 3] = rows.rotations[number], table.residual_px[number]
        return {
            "apix_x": pixel, "apix_y": pixel, "apix_z": pixel, "xform.projection": pose.ravel(),
            "orig_src": str(plan.particles.image_files[plan.particles.file_number[rows.parent[number]]]),
            "orig_idx": int(plan.particles.image_number[rows.parent[number]]),
            "sym_idx": int(plan.design.candidates.operators[rows.candidate[number]]),
        }  # fmt: skip

    return of


def _write_statistics(
    plan: SubparticlePlan, registry: Registry, launch: Launch, run: SubparticleRun,
    sums: tuple[FloatArray, float],
) -> SubparticleResult:  # fmt: skip
    """The table of --ssnr."""
    path = plan.files.ssnr
    if path is None:
        raise RuntimeError("no table to write")
    facts = {"parents": len(plan.particles), "sub_particles": 0}
    with staged_outputs() as stage:
        registry.writer_for(path, "table").write_tables(stage(path), {"ssnr": ssnr_table(*sums)})
        sha256 = {path.name: file_sha256(stage(path))}
        write_run_manifest(plan, facts, launch.command, sha256, stage(plan.files.manifest))
    return SubparticleResult(facts, sha256, run.seconds)


def _expand(plan: SubparticlePlan, registry: Registry, launch: Launch) -> SubparticleResult:
    """Metadata only: every copy's pose, the images as they are."""
    results = Results.empty(plan)
    table = make_table(plan, results)
    sha256: dict[str, str] = {}
    facts = {
        "parents": len(plan.particles),
        "sub_particles": plan.layout.total,
        "filtered": plan.layout.filtered,
    }
    with staged_outputs() as stage:
        _write_table(plan, registry, table, stage(plan.files.table), sha256)
        write_run_manifest(plan, facts, launch.command, sha256, stage(plan.files.manifest))
    return SubparticleResult(facts, sha256, {})


def _open_run(
    plan: SubparticlePlan, registry: Registry, communicator: Communicator, opened: ExitStack
) -> tuple[RankTools, SubparticleRun]:
    """What a rank works with."""
    work = planned_work(plan)
    kind = RunKind(lambda: run_fingerprint(plan), work, -(-work // plan.block_parents))
    tools = opened.enter_context(open_tools(plan.settings, kind, registry, communicator))
    pool = opened.enter_context(StackPool(plan.particles.image_files, registry))
    images = opened.enter_context(ReadAhead(lambda numbers: read_parents(plan, pool, numbers)))
    results = None
    if tools.is_master:
        results = Results.empty(plan)
        if tools.checkpoint is not None and tools.checkpoint.master is not None:
            results = Results.of(plan, tools.checkpoint.master)
    run = SubparticleRun(plan, tools, images, results)
    tools.overseer.generation_bytes = lambda: _state_bytes(run.results)
    return tools, run


def _open_stacks(run: SubparticleRun, tools: RankTools, opened: ExitStack) -> list[SharedStack]:
    """The outputs' temporary files, made by the master; one not finished goes unless a checkpoint needs it."""
    stacks = [SharedStack(file) for file in stack_files(run.plan, tools.registry)]
    opened.callback(_put_away, tools, stacks)

    def create() -> None:
        for stack in stacks:
            stack.create(run.resumes_images)

    on_master(tools.communicator, create)
    for stack in stacks:
        stack.open()
    return stacks


def planned_work(plan: SubparticlePlan) -> int:
    """Parents that are gone through, all stages together."""
    parents, settings = len(plan.particles), plan.settings
    if settings.ssnr:
        return parents
    parts = len(np.unique(plan.design.candidates.operators))
    turned = np.count_nonzero(np.isin(plan.particles.half_set, list(plan.design.mask_only)))
    total = parents * (1 + (settings.subtraction.local_refine_deg > 0)) + int(turned) * (parts - 1)
    if settings.subtraction.enabled and settings.subtraction.scale_mode in ("group", "particle"):
        groups = np.bincount(group_numbers(plan))
        total += int(np.minimum(groups, PASS_ONE_PARENTS).sum())
    return total


def _state_bytes(results: Results | None) -> int:
    """Room a checkpoint needs."""
    return 0 if results is None else sum(array.nbytes for array in results.state().values())


def _put_away(tools: RankTools, stacks: list[SharedStack]) -> None:
    """Close stacks; without a checkpoint that needs them the master removes what is not finished."""
    needed = tools.store is not None and bool(tools.store.epochs())
    for stack in stacks:
        if tools.is_master and not needed:
            stack.discard()
        else:
            stack.close()


def stack_files(plan: SubparticlePlan, registry: Registry) -> list[StackFile]:
    """The stacks of a run: images, and their invariants."""
    files, pixel = plan.files, plan.particles.optics[0].pixel_size_angst
    if files.stack is None:
        return []
    dtype = np.float16 if plan.settings.float16 else np.float32
    shape = StackPlan(plan.layout.total, (plan.new_box, plan.new_box), pixel, dtype)
    made = [StackFile(files.stack, files.partial, shape, registry.writer_for(files.stack, "images"))]
    kind = invariant_kind(plan)
    if files.invariants is not None and kind is not None:
        size = StackPlan(plan.layout.total, invariant_shape(kind, plan.new_box), pixel)
        writer = registry.writer_for(files.invariants, "images")
        made.append(StackFile(files.invariants, files.partial_invariants, size, writer))
    return made
