"""Maps of the sums that a checkpoint holds: of one job again, or of several that were merged. Needs no particles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.abc.reconstructor import PassContext, WeightMap
from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.slices import Sums
from centralslice.data.volume import Volume
from centralslice.errors import CheckpointError, SelectionError
from centralslice.jobs.finish_maps import (
    WEIGHTS,
    FinishWatch,
    MapFinisher,
    NormKeeper,
    kept_scheme,
    read_iteration_mask,
    read_seed,
)
from centralslice.jobs.finish_plan import FinishPlan, rebuild_finish_plan
from centralslice.jobs.half_map_fsc import half_map_fsc
from centralslice.jobs.make3d.identity import FINISH, JOB, ROWS, check_side_files
from centralslice.jobs.make3d.outputs import Writing, check_outputs, plan_outputs
from centralslice.jobs.make3d.result import Make3dResult
from centralslice.jobs.make3d.write import (
    check_finite,
    norm_volume,
    output_volumes,
    result_facts,
    write_outputs,
)
from centralslice.jobs.sums_run import HALVES, sides_of
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore
from centralslice.runtime.checkpoint_merge import MERGED, complete_checkpoint
from centralslice.runtime.exact_sums import add_piece
from centralslice.runtime.manifest import array_sha256, write_manifest
from centralslice.runtime.staging import staged_outputs
from centralslice.runtime.threads import Threads


@dataclass(frozen=True, slots=True)
class FinishSettings:
    """What the user chose: the folder of the sums, and outputs as those of make3d."""

    folder: Path
    output: Path
    save_norm: Path | None = None
    report: bool = False
    compress_bits: int | None = None
    float16: bool = False
    force: bool = False
    threads: int = 1
    command: str = ""


def run_finish(settings: FinishSettings, registry: Registry) -> Make3dResult:
    """Finish the sums of a folder's latest generation and write what make3d would.

    Raises
    ------
    CheckpointError
        If there is none that is complete and was kept with what finishing needs.
    """
    started = time.perf_counter()
    found = _complete(settings.folder)
    plan = rebuild_finish_plan(found.state.facts[FINISH], registry)
    check_side_files(plan, found.state.fingerprint)
    writing = _writing(settings, plan, found, registry)
    with Threads(settings.threads) as threads:
        maps, norm, seconds = _maps(found, plan, registry, threads, writing.outputs.norm is not None)
    if not np.any(maps["merged"]):
        raise SelectionError(f"{found.folder}: the map is zero everywhere; no image had a weight above zero")
    voxel = plan.geometry.voxel_size_angst
    fsc = half_map_fsc(maps["half1"], maps["half2"], voxel) if plan.halves else {}
    volumes = output_volumes(plan, maps, writing.attributes)
    check_finite(volumes)
    with staged_outputs() as stage:
        write_outputs(writing, registry, volumes, fsc, norm_volume(norm, plan), stage)
        timings = {"finish": seconds, "total": time.perf_counter() - started}
        merged: Volume = volumes["merged"]
        blank: IntArray = np.empty(0, np.int64)
        result = Make3dResult(merged, fsc, blank, timings, array_sha256(merged.data))
        facts = {**_facts(settings, plan, found), **result_facts(result, writing.outputs)}
        write_manifest(stage(writing.outputs.manifest), facts, [found.index_path])
    return result


def _complete(folder: Path) -> Checkpoint:
    """The latest generation, if maps can be made of it."""
    found = CheckpointStore(folder).latest(None)
    if found is None:
        raise CheckpointError(f"{folder}: no checkpoint there; keep those of a job with --keep-checkpoints")
    if FINISH not in found.state.facts:
        raise CheckpointError(
            f"{folder}: does not hold what finishing needs, which only a job that ran to its end with "
            "--keep-checkpoints leaves; continue the job with --resume --keep-checkpoints"
        )
    return found if _of_passes(found) else complete_checkpoint(folder)


def _of_passes(found: Checkpoint) -> bool:
    return bool(found.state.facts[FINISH].get("passes", 1) > 1)


def _writing(settings: FinishSettings, plan: FinishPlan, found: Checkpoint, registry: Registry) -> Writing:
    outputs = plan_outputs(settings, plan.halves)
    sides = () if plan.seed is None else (plan.seed.path,)
    writer = check_outputs(outputs, settings, sides, registry)
    jobs = _jobs(found)
    facts = {
        "sums": str(found.folder),
        "jobs": ", ".join(f"{job['input']}: {job['particles']:,} particles" for job in jobs),
        "CTF": ", ".join(plan.ctf_modes),
        "symmetry": plan.symmetry,
        "method": repr(plan.reconstructor),
    }
    options = VolumeOptions(settings.compress_bits, settings.float16)
    notes = tuple(dict.fromkeys(note for job in jobs for note in job["notes"]))
    return Writing(outputs, writer, options, _attributes(found, jobs), facts, notes)


def _jobs(found: Checkpoint) -> list[dict[str, Any]]:
    """What each job said of itself."""
    facts = found.state.facts
    try:
        return [origin["facts"][JOB] for origin in facts[MERGED]] if MERGED in facts else [facts[JOB]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{found.folder}: does not say of which jobs it is: {error!r}") from error


def _attributes(found: Checkpoint, jobs: Sequence[dict[str, Any]]) -> dict[str, object]:
    """As a run writes them; rows of several metadata files cannot be told apart and are left out."""
    attributes: dict[str, object] = {"ptcl_repr": float(sum(job["weight"] for job in jobs))}
    rows = {} if found.master is None else found.master.state()
    if len(jobs) == 1 and ROWS in rows:
        kept = rows[ROWS]
        excluded = np.setdiff1d(np.arange(jobs[0]["source_count"]), kept)
        attributes["threed_ptcl_idxs"] = kept.astype(np.int32)
        attributes["threed_ptcl_src"] = str(jobs[0]["input"])
        if len(excluded):
            attributes["threed_excl_ptcl_idxs"] = excluded.astype(np.int32)
        return attributes
    return {**attributes, "threed_ptcl_src": ", ".join(str(job["input"]) for job in jobs)}


def _maps(
    found: Checkpoint, plan: FinishPlan, registry: Registry, threads: Threads, keep_norm: bool
) -> tuple[dict[str, FloatArray], WeightMap | None, float]:
    """The maps, the weights if wanted, and the seconds it took."""
    if _of_passes(found):
        return _finished_maps(found, plan, keep_norm)
    scheme = kept_scheme(found, plan)
    keeper = NormKeeper(plan.reconstructor)
    watch = FinishWatch(sides=keeper.sides, keep=keeper.keep) if keep_norm else FinishWatch()
    finisher = MapFinisher(plan, scheme, watch)
    seed, mask = read_seed(plan, registry), read_iteration_mask(plan, registry)
    maps = _maps_of_sums(found, plan, finisher, plan.context(seed, mask, threads.map, scheme))
    return maps, keeper.norm, finisher.seconds


def _maps_of_sums(
    found: Checkpoint, plan: FinishPlan, finisher: MapFinisher, context: PassContext
) -> dict[str, FloatArray]:
    """The maps, with one set of sums in memory at a time: those of half 1 are read twice."""
    maps: dict[str, FloatArray] = {}
    labels, total, last = list(found.state.stages), Sums({}), ""
    for last in [label for label in labels if label in HALVES] or labels[:1]:
        total = Sums({})  # that of the half before is given up first
        _add_stage(found, last, plan, total)
        if last in HALVES:
            maps[last] = finisher.map(last, total, context)
    for label in labels:
        if label != last:
            _add_stage(found, label, plan, total)
    return {**maps, "merged": finisher.map("merged", total, context)}


def _finished_maps(
    found: Checkpoint, plan: FinishPlan, keep_norm: bool
) -> tuple[dict[str, FloatArray], WeightMap | None, float]:
    """Of a method of several passes the maps themselves are kept."""
    state = {} if found.master is None else found.master.state()
    labels = ("half1", "half2", "merged") if plan.halves else ("merged",)
    if any(f"map.{label}" not in state for label in labels):
        raise CheckpointError(f"{found.folder}: lacks a map of {', '.join(labels)}")
    weights = sides_of(state, "merged").get(WEIGHTS)
    if keep_norm and weights is None:
        raise CheckpointError(
            f"--savenorm: {found.folder} has no weights; the job was run without --savenorm"
        )
    norm = WeightMap(weights) if keep_norm and weights is not None else None
    return {label: state[f"map.{label}"] for label in labels}, norm, 0.0


def _add_stage(found: Checkpoint, label: str, plan: FinishPlan, total: Sums) -> None:
    """Add all shards' sums of a stage, piece by piece."""
    layout = {name: kind for shard in found.shards() for name, kind in shard.layout.get(label, {}).items()}
    for name, planned in plan.sums.shapes.items():
        shape = layout[name][0] if name in layout else None
        if shape is None or shape[: len(planned) - 1] != planned[:-1]:
            raise CheckpointError(
                f"{found.folder}: {label}/{name}: expected the shape {planned}, got {shape}"
            )
    for name, (shape, dtype) in layout.items():
        if name not in total.arrays:
            total.arrays[name] = np.zeros(shape, dtype)
    for shard in found.shards():
        for piece in shard.pieces([label]):
            add_piece(total, piece.name, piece.where, piece.values)


def _facts(settings: FinishSettings, plan: FinishPlan, found: Checkpoint) -> dict[str, Any]:
    """What the manifest says beside what was made."""
    jobs = _jobs(found)
    origins = found.state.facts.get(MERGED, ())
    return {
        "command": settings.command,
        "sums_from": {"folder": found.folder, "epoch": found.epoch, "created": found.created},
        "merged_jobs": [
            {"folder": origin["folder"], "epoch": origin["epoch"], "created": origin["created"], **job}
            for origin, job in zip(origins, jobs, strict=bool(origins))
        ],
        "jobs": [] if origins else jobs,
        "reconstructor": repr(plan.reconstructor),
        "particles": {
            "used": sum(job["particles"] - len(job["zero_variance_rows"]) for job in jobs),
        },
        "ctf": list(plan.ctf_modes),
        "symmetry": plan.symmetry,
        "postprocess": list(plan.postprocess),
        "sums": plan.sums_kind,
        "quanta": {label: dict(units) for label, units in found.state.quanta.items()},
    }
