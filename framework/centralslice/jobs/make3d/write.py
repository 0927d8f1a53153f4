"""What make3d writes, from particles or from sums: maps as they were asked for, curves, report, manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.abc.reconstructor import WeightMap
from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice.fourier.shells import ShellCorrelation
from centralslice.fourier.transforms import crop_or_pad
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.jobs.make3d.outputs import NORM_OPTIONS, Outputs, Writing
from centralslice.jobs.make3d.plan import Make3dPlan
from centralslice.jobs.make3d.result import Make3dResult
from centralslice.jobs.map_report import report_facts, report_map
from centralslice.plugin.registry import Registry
from centralslice.report.fsc import write_fsc
from centralslice.runtime.manifest import write_manifest
from centralslice.runtime.peak_memory import peak_memory_bytes
from centralslice.runtime.staging import Stage


def output_volumes(
    plan: FinishPlan, maps: Mapping[str, FloatArray], attributes: Mapping[str, object]
) -> dict[str, Volume]:
    """The maps as they will be written: cropped, the merged one postprocessed and last."""
    made = {
        label: _finished(plan, crop_or_pad(data, plan.output_shape), (), attributes)
        for label, data in maps.items()
        if label != "merged"
    }
    merged = crop_or_pad(maps["merged"], plan.output_shape)
    return {**made, "merged": _finished(plan, merged, plan.postprocessors, attributes)}


def _finished(
    plan: FinishPlan, data: FloatArray, processors: tuple[Processor, ...], attributes: Mapping[str, object]
) -> Volume:
    """The map with postprocessing and attributes."""
    voxel_size = plan.geometry.voxel_size_angst
    for processor in processors:
        data = processor.apply(data, voxel_size)
        voxel_size = processor.voxel_size(voxel_size)
    return Volume(data, voxel_size, attributes=attributes)


def write_outputs(
    writing: Writing, registry: Registry, volumes: dict[str, Volume], fsc: dict[str, ShellCorrelation],
    norm: Volume | None, stage: Stage,
) -> None:  # fmt: skip
    """Write curves and maps under their staged names."""
    outputs = writing.outputs
    if fsc and outputs.fsc_table is not None and outputs.fsc_plot is not None:
        write_fsc(stage(outputs.fsc_table), stage(outputs.fsc_plot), fsc, registry)
    if outputs.report is not None:
        title = f"make3d: {outputs.merged.name}"
        report_map(stage(outputs.report), title, volumes["merged"], fsc, writing.facts, writing.notes)
    if norm is not None and outputs.norm is not None:
        registry.writer_for(outputs.norm, "volume").write_volume(stage(outputs.norm), norm, NORM_OPTIONS)
    for label, path in map_files(outputs).items():
        writing.writer.write_volume(stage(path), volumes[label], writing.options)


def norm_volume(norm: WeightMap | None, plan: FinishPlan) -> Volume | None:
    """The weights as they will be written."""
    return None if norm is None else Volume(norm.data, plan.geometry.voxel_size_angst)


def map_files(outputs: Outputs) -> dict[str, Path]:
    """Label and file of every map, the merged one last."""
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


def run_writing(plan: Make3dPlan) -> Writing:
    """What writing a run's maps needs."""
    settings = plan.settings
    options = VolumeOptions(settings.compress_bits, settings.float16)
    facts = report_facts(plan.lines())
    return Writing(plan.outputs, plan.writer, options, map_attributes(plan), facts, plan.notes)


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


def result_facts(result: Make3dResult, outputs: Outputs) -> dict[str, Any]:
    """What a manifest says of what was made."""
    return {
        "resolution_angst": {
            name: {"0.5": curve.resolution(0.5), "0.143": curve.resolution(0.143)}
            for name, curve in result.fsc.items()
        },
        "map_sha256": result.sha256,
        "peak_memory_bytes": peak_memory_bytes(),
        "timings_s": result.timings_s,
        "outputs": outputs.all(),
    }


def write_run_manifest(plan: Make3dPlan, result: Make3dResult, command: str, path: Path) -> None:
    """Write the manifest of a run of particles."""
    settings = plan.settings
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
        "resumed_particles": result.resumed_particles,
        "sums": plan.sums_kind,
        "ranks": result.ranks,
        "planned_memory_bytes": plan.memory_bytes,
        **result_facts(result, plan.outputs),
    }
    write_manifest(path, facts, files)
