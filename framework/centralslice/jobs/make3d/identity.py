"""What makes two make3d jobs the same (to resume), or of one kind (to add their sums)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.data.particles import Particles
from centralslice.errors import CheckpointError, FileMissingError
from centralslice.jobs.finish_plan import FinishPlan, finish_record
from centralslice.jobs.make3d.plan import Make3dPlan
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.runtime.checkpoint_merge import FROM_FIRST, LISTS, ONCE
from centralslice.runtime.file_identity import file_identity
from centralslice.runtime.manifest import versions

#: Names of a kept checkpoint's facts: what finishing needs, and what the job was.
FINISH, JOB = FROM_FIRST, "job"
#: Names of its lists: images (:func:`image_identities`) and rows of the metadata file, one each a particle.
IMAGES, ROWS = ONCE, f"{LISTS}rows"
#: Settings that say how a job runs or which files it writes, not what is in its sums.
_FREE = frozenset({
    "threads", "force", "quiet", "resume", "checkpoint_every_s", "keep_checkpoints", "master_works", "log_json",
    "output", "save_norm", "report", "compress_bits", "float16", "quanta_of",
})  # fmt: skip
#: Settings whose files are known by content.
_FILES = frozenset({"input", "image_dir", "tlt", "seed", "iteration_mask", "setsf"})
#: Settings that are in the finish record as they were understood.
_UNDERSTOOD = frozenset({
    "mode", "sym", "ctf", "snr", "outsize", "half_maps", "pad", "padvol", "precision", "sums", "postprocess",
})  # fmt: skip
#: Parts of the selection that change the weights of the particles, so that sums must agree in them.
_WEIGHTING = ("weighting", "peer_rounding")


def run_fingerprint(plan: Make3dPlan, finishing: FinishPlan) -> dict[str, Any]:
    """What must be the same to resume; ``inputs`` and ``selection`` may differ between jobs that are merged.

    Files are known by name, size and content, so that a project may be moved.
    """
    settings = plan.settings
    rules = asdict(settings.selection)
    weighting = {name: rules.pop(name) for name in _WEIGHTING}
    left_out = _FREE | _FILES | _UNDERSTOOD | {"selection"}
    options = {name: str(value) for name, value in asdict(settings).items() if name not in left_out}
    return {
        "inputs": _inputs(plan),
        "selection": {**rules, "block_images": plan.block_images, **_particles_digest(plan.particles)},
        "options": {**options, **weighting, **_side_files(settings)},
        "method": _without_paths(finish_record(finishing)),
        "versions": versions(),
    }


def _inputs(plan: Make3dPlan) -> dict[str, Any]:
    settings = plan.settings
    files = {"metadata": file_identity(settings.input, settings.input.suffix.lower() in _TABLES)}
    if settings.tlt is not None:
        files["tlt"] = file_identity(settings.tlt)
    return {**files, "images": [file_identity(path) for path in plan.particles.image_files]}


#: Metadata that are text or tables are read whole; particle stacks with headers may be large.
_TABLES = frozenset({".star", ".lst", ".lsx", ".json", ".cs"})


def _side_files(settings: Make3dSettings) -> dict[str, Any]:
    """Files that options name, by content."""
    seed = settings.seed
    found: dict[str, Any] = {
        "seed": None if seed is None else {
            "map": file_identity(seed.path, whole=True),
            "weight": seed.weight,
            "weight_map": None if seed.weight_map is None else file_identity(seed.weight_map, whole=True),
            "as_reference": seed.as_reference,
        },
        "iteration_mask": _optional(settings.iteration_mask),
    }  # fmt: skip
    if settings.setsf is not None and settings.setsf.lower() != "none":
        found["setsf"] = _optional(
            Path("strucfac.txt" if settings.setsf.lower() == "auto" else settings.setsf)
        )
    return found


def check_side_files(plan: FinishPlan, fingerprint: Mapping[str, Any]) -> None:
    """Refuse a seed or mask that is not the one the sums were made for.

    Raises
    ------
    CheckpointError
        Naming the file.
    FileMissingError
        If it is not there any more.
    """
    options = fingerprint.get("options", {})
    seed = plan.seed
    known = [(None if plan.iteration_mask is None else plan.iteration_mask, options.get("iteration_mask"))]
    if seed is not None:
        stored = options.get("seed") or {}
        known += [(seed.path, stored.get("map")), (seed.weight_map, stored.get("weight_map"))]
    for path, identity in known:
        if path is None:
            continue
        if not path.is_file():
            raise FileMissingError(
                f"{path}: does not exist any more, but the sums are to be finished with it"
            )
        if file_identity(path, whole=True) != identity:
            raise CheckpointError(
                f"{path}: has changed since the sums were made with it; put the old file back"
            )


def _optional(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else file_identity(path, whole=True)


def _without_paths(record: dict[str, Any]) -> dict[str, Any]:
    """The finish record without the places of files, which :func:`_side_files` knows by content."""
    return {name: value for name, value in record.items() if name not in ("seed", "iteration_mask")}


def _particles_digest(particles: Particles) -> dict[str, Any]:
    """Number and digest of what is inserted, in its order."""
    found = hashlib.sha256(repr(particles.optics).encode())
    arrays = [
        particles.file_number, particles.image_number, particles.rotations, particles.shifts_angst,
        particles.optics_group, particles.half_set, particles.weight, particles.ssnr,
        *(() if particles.ctf is None else (
            particles.ctf.defocus_u_angst, particles.ctf.defocus_v_angst, particles.ctf.defocus_angle_deg,
            particles.ctf.phase_shift_deg, particles.ctf.bfactor_angst2, particles.ctf.scale,
        )),
    ]  # fmt: skip
    for array in arrays:
        if array is not None:
            found.update(np.ascontiguousarray(array).tobytes())
    return {"particles": len(particles), "particles_sha256": found.hexdigest()}


def job_facts(plan: Make3dPlan, blank: list[int], command: str) -> dict[str, Any]:
    """What the manifest and the header of a map made of the kept sums say of this job.

    Parameters
    ----------
    plan
        The job.
    blank
        Rows of its particles whose images had zero variance.
    command
        The command line.
    """
    rows = np.unique(plan.particles.source_row[np.array(blank, np.int64)])
    return {
        "command": command,
        "input": str(plan.settings.input),
        "particles": len(plan.particles),
        "source_count": plan.source_count,
        "weight": float(plan.particles.weight.sum()),
        "dropped": plan.selection.dropped,
        "zero_variance_rows": rows.tolist(),
        "zero_variance_images": len(blank),
        "notes": list(plan.notes),
    }


def image_identities(particles: Particles, inputs: dict[str, Any]) -> NDArray[np.uint64]:
    """One number an image, the same in every job that uses it under whatever name.

    Parameters
    ----------
    particles
        The particles.
    inputs
        That part of :func:`run_fingerprint`.

    Returns
    -------
        (n,) uint64, sorted.
    """
    keys = np.array([int(file["sha256"][:16], 16) for file in inputs["images"]], np.uint64)
    with np.errstate(over="ignore"):
        mixed = keys[particles.file_number] + _mix(particles.image_number.astype(np.uint64))
        return np.sort(_mix(mixed))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one scrambling of 64-bit numbers (splitmix64, Steele, Lea & Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
