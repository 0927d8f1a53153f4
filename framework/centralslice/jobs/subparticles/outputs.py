"""What a subparticles run writes beside its stack: tables, frame, reference, report and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray
from centralslice.data.files import atomic_output
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.fourier.transforms import crop_or_pad
from centralslice.jobs.subparticles.engine import group_numbers
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.results import Results
from centralslice.jobs.subparticles.symmetry import rotate_map
from centralslice.jobs.subparticles.table import Table, list_columns
from centralslice.jobs.subparticles.volumes import read_map, read_masks
from centralslice.plugin.registry import Registry
from centralslice.runtime.manifest import write_manifest
from centralslice.runtime.staging import Stage


def write_lists(
    plan: SubparticlePlan, results: Results, table: Table, registry: Registry, stage: Stage
) -> None:
    """EMAN2 lists: all sub-particles, and those of even and odd parents where there are half sets."""
    if not plan.files.lists:
        return
    columns = list_columns(plan, results, table)
    halves = plan.particles.half_set[table.rows.parent]
    for path, half in zip(plan.files.lists, (None, 1, 2), strict=False):
        chosen = np.arange(len(halves)) if half is None else np.flatnonzero(halves == half)
        some = {name: column[chosen] for name, column in columns.items()}
        registry.writer_for(path, "table").write_tables(stage(path), {"particles": some})


def write_frame(plan: SubparticlePlan, results: Results, path: Path) -> None:
    """Where the sub-particles' frame lies in the parents': JSON."""
    design, candidates = plan.design, plan.design.candidates
    pixel = plan.particles.optics[0].pixel_size_angst
    frame = {
        "centre_angst": candidates.centres_angst[0].tolist(),
        "centre_px": (candidates.centres_angst[0] / pixel).tolist(),
        "rotation": candidates.frames[0].tolist(),
        "pixel_size_angst": pixel,
        "box": plan.new_box,
        "parent_box": plan.parent_box,
        "parent_symmetry": design.symmetry,
        "operators": [
            {
                "index": int(number), "subunit": int(subunit), "rotation": rotation.tolist(),
                "translation_angst": shift.tolist(), "centre_angst": centre.tolist(), "frame": frame.tolist(),
            }
            for number, subunit, rotation, shift, centre, frame in zip(
                candidates.operators, candidates.subunits, candidates.rotations, candidates.translations_angst,
                candidates.centres_angst, candidates.frames, strict=True,
            )
        ],
        "sub_particle_symmetry_operators": design.stabiliser.tolist(),
        "defocus_hand": results.hand if plan.settings.crop.hand == "auto" else float(plan.settings.crop.hand),
        "meaning": (
            "a point r of the sub-particle's map is at W^T r + c of the parent's map; "
            "sub-particle pose = A S W^T, W = rotation, c = centre_angst (x, y, z from the centre voxel)"
        ),
    }  # fmt: skip
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(frame, indent=2) + "\n")


def write_reference(plan: SubparticlePlan, registry: Registry, stage: Stage) -> None:
    """The kept part of the map, and its mask, in the sub-particles' frame and box."""
    maps, files = plan.source.maps, plan.files
    chosen = [maps[0]] if 0 in maps else [maps[1], maps[2]]
    read = [read_map(path, registry, plan.parent_box, plan.particles.optics) for path in chosen]
    voxel = read[0][1]
    data: FloatArray = np.stack([found[0] for found in read]).mean(axis=0, dtype=np.float32)
    masks = read_masks(plan.settings.masks, plan.source.mask_all, (len(data), voxel), registry)
    size = max(4, round(plan.new_box * plan.particles.optics[0].pixel_size_angst / voxel))
    kept = data if masks.keep is None else data * masks.keep
    centre, frame = plan.design.candidates.centres_angst[0] / voxel, plan.design.candidates.frames[0]
    for path, volume in ((files.reference, kept), (files.mask, masks.keep)):
        if path is not None and volume is not None:
            made = in_frame(volume, centre, frame, size)
            made = np.clip(made, 0, 1) if path == files.mask else made
            writer = registry.writer_for(path, "volume")
            writer.write_volume(stage(path), Volume(made, voxel), VolumeOptions())


def in_frame(data: FloatArray, centre_px: FloatArray, frame: FloatArray, size: int) -> FloatArray:
    """A map about another centre and turned: ``V'(r) = V(Wᵀ r + c)``, (size, size, size) float32.

    Parameters
    ----------
    data
        (n, n, n).
    centre_px
        (3,) c, x y z from the centre voxel.
    frame
        (3, 3) W.
    size
        Of the new map.
    """
    count = len(data)
    spectrum = scipy.fft.rfftn(data.astype(np.float32, copy=False))
    for axis, shift in zip((2, 1, 0), centre_px.tolist(), strict=True):
        frequency = np.fft.fftfreq(count)[: spectrum.shape[axis]] if axis < 2 else np.fft.rfftfreq(count)
        phase = np.exp(2j * np.pi * frequency * shift).astype(np.complex64)
        spectrum *= phase.reshape([-1 if number == axis else 1 for number in range(3)])
    moved = scipy.fft.irfftn(spectrum, s=data.shape)
    if not np.allclose(frame, np.eye(3)):
        moved = rotate_map(moved, frame, 3)
    result: FloatArray = crop_or_pad(np.asarray(moved, np.float32), (size, size, size))
    return result


def write_strips(plan: SubparticlePlan, results: Results, registry: Registry, path: Path) -> None:
    """The first sub-particles' making: particle, model of the whole, subtracted term, residual, mask, side by side."""
    wanted = sorted(results.strips)[: plan.settings.debug_strips]
    size = plan.parent_box
    shape = StackPlan(len(wanted), (size, 5 * size), plan.particles.optics[0].pixel_size_angst)
    with registry.writer_for(path, "images").create_stack(path, shape) as sink:
        for number, place in enumerate(wanted):
            sink.write(number, np.concatenate(list(results.strips[place]), axis=1)[None])


def summary_facts(plan: SubparticlePlan, results: Results) -> dict[str, Any]:
    """Numbers of a run, for manifest and report."""
    scales = results.scale[np.isfinite(results.scale)]
    correlation = results.correlation[np.isfinite(results.correlation)]
    groups = group_numbers(plan)
    gains = {}
    for group, gain in sorted(results.gains.items()):
        row = int(np.flatnonzero(groups == group)[0])
        optics = plan.particles.optics[int(plan.particles.optics_group[row])]
        gains[str(group)] = {
            "optics_group": optics.name, "half_set": int(plan.particles.half_set[row]), **gain.as_dict(),
            "cutoff_angst": gain.resolution_angst(plan.parent_box, optics.pixel_size_angst),
        }  # fmt: skip
    outside = plan.layout.outside
    return {
        "parents": len(plan.particles),
        "parents_without_sub_particles": plan.rows[~plan.layout.kept.any(axis=1)].tolist(),
        "sub_particles": plan.layout.total,
        "filtered": plan.layout.filtered,
        "outside": {
            "treatment": plan.settings.crop.edge, "count": len(outside),
            "parent_and_candidate": [[int(plan.rows[a]), int(b)] for a, b in outside[:1000]],
        },
        "flat_parents": plan.rows[results.blank].tolist(),
        "scale": None if not len(scales) else {
            "median": float(np.median(scales)), "5 %": float(np.percentile(scales, 5)),
            "95 %": float(np.percentile(scales, 95)), "clipped": int(np.count_nonzero(results.clipped)),
        },
        "residual_correlation_median": float(np.median(correlation)) if len(correlation) else None,
        "largest_move_px": np.abs(results.moves_px).max(initial=0),
        "gains": gains,
        "defocus_hand": {
            "chosen": results.hand, "scores_plus_minus_none": results.hand_scores.tolist(),
            "margin": _margin(results.hand_scores),
        },
        "centre_angst": plan.design.centre_angst.tolist(),
        **plan.design.facts,
    }  # fmt: skip


def _margin(scores: FloatArray) -> float | None:
    """By how much of itself the best score is above the second."""
    if len(scores) < 2:
        return None
    second, best = np.sort(scores)[-2:]
    return float((best - second) / abs(best)) if best else 0.0


def write_run_manifest(
    plan: SubparticlePlan, facts: Mapping[str, Any], command: str, sha256: Mapping[str, str], path: Path
) -> None:
    """What was done with what, and what came of it."""
    particles = plan.particles
    masks = [
        plan.settings.masks.keep,
        plan.settings.masks.subtract,
        plan.settings.masks.outer,
        plan.source.mask_all,
    ]
    inputs = [particles.source, *particles.image_files[:1000], *plan.source.maps.values()]
    write_manifest(
        path,
        {
            "command": command, "settings": asdict(plan.settings), "dialect": plan.source.dialect,
            "ctf": plan.ctf_modes, "notes": plan.notes, **facts, "sha256": dict(sha256),
            "outputs": plan.files.all(),
        },
        [path for path in (*inputs, *masks) if path is not None and path.is_file()],
    )  # fmt: skip
