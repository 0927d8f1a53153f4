"""What a make3d run writes: maps as they were asked for, curves, report, manifest."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.abc.reconstructor import WeightMap
from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice.fourier.shells import ShellCorrelation
from centralslice.fourier.transforms import crop_or_pad
from centralslice.jobs.make3d_outputs import NORM_OPTIONS
from centralslice.jobs.make3d_plan import Make3dPlan
from centralslice.jobs.make3d_report import report_run
from centralslice.jobs.make3d_result import Make3dResult
from centralslice.plugin.registry import Registry
from centralslice.report.fsc import write_fsc
from centralslice.runtime.manifest import write_manifest

#: From a final name to the name to write.
Stage: TypeAlias = Callable[[Path], Path]


def output_volumes(plan: Make3dPlan, maps: dict[str, FloatArray]) -> dict[str, Volume]:
    """The maps as they will be written: cropped, the merged one postprocessed."""
    shape = plan.output_shape
    made = {
        label: _finished(plan, crop_or_pad(data, shape), ())
        for label, data in maps.items()
        if label != "merged"
    }
    return {
        **made,
        "merged": _finished(plan, crop_or_pad(maps["merged"], shape), plan.postprocessors),
    }


def write_outputs(
    plan: Make3dPlan, registry: Registry, volumes: dict[str, Volume], fsc: dict[str, ShellCorrelation],
    norm: WeightMap | None, stage: Stage,
) -> None:  # fmt: skip
    """Write curves and maps under their staged names."""
    outputs = plan.outputs
    if fsc and outputs.fsc_table is not None and outputs.fsc_plot is not None:
        write_fsc(stage(outputs.fsc_table), stage(outputs.fsc_plot), fsc, registry)
    if outputs.report is not None:
        report_run(stage(outputs.report), plan, volumes["merged"], fsc)
    if norm is not None and outputs.norm is not None:
        weights = Volume(norm.data, plan.geometry.voxel_size_angst)
        registry.writer_for(outputs.norm, "volume").write_volume(stage(outputs.norm), weights, NORM_OPTIONS)
    options = VolumeOptions(plan.settings.compress_bits, plan.settings.float16)
    for label, path in map_files(plan).items():
        plan.writer.write_volume(stage(path), volumes[label], options)


def _finished(plan: Make3dPlan, data: FloatArray, processors: tuple[Processor, ...]) -> Volume:
    """The map with postprocessing and attributes."""
    voxel_size = plan.geometry.voxel_size_angst
    for processor in processors:
        data = processor.apply(data, voxel_size)
        voxel_size = processor.voxel_size(voxel_size)
    return Volume(data, voxel_size, attributes=map_attributes(plan))


def map_files(plan: Make3dPlan) -> dict[str, Path]:
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


def write_run_manifest(plan: Make3dPlan, result: Make3dResult, command: str, path: Path) -> None:
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
        "resumed_particles": result.resumed_particles,
        "sums": plan.sums_kind,
        "ranks": result.ranks,
        "planned_memory_bytes": plan.memory_bytes,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "timings_s": result.timings_s,
        "outputs": outputs.all(),
    }
    write_manifest(path, facts, files)
