"""What must be the same for a subparticles run to be continued."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.runtime.file_identity import file_identity
from centralslice.runtime.manifest import versions

#: Settings that say how a job runs, not what it makes.
_FREE = frozenset({
    "threads", "force", "quiet", "resume", "checkpoint_every_s", "keep_checkpoints", "master_works", "log_json",
    "output", "source", "masks",
})  # fmt: skip


def run_fingerprint(plan: SubparticlePlan) -> dict[str, Any]:
    """Inputs by content, options by value, versions of what computes."""
    settings = plan.settings
    options = {name: str(value) for name, value in asdict(settings).items() if name not in _FREE}
    masks = asdict(settings.masks)
    paths = {name: value for name, value in masks.items() if isinstance(value, Path)}
    options |= {name: str(value) for name, value in masks.items() if name not in paths}
    whole = plan.source.mask_all
    inputs: dict[str, Any] = {
        "images": [file_identity(path) for path in plan.particles.image_files],
        "maps": {str(half): file_identity(path, whole=True) for half, path in plan.source.maps.items()},
        "masks": {name: file_identity(path, whole=True) for name, path in paths.items()},
        "whole_mask": None if whole is None else file_identity(whole, whole=True),
    }
    selection = {
        "particles": len(plan.particles),
        "sub_particles": plan.layout.total,
        "digest": _digest(plan),
    }
    return {"inputs": inputs, "selection": selection, "options": options, "versions": versions()}


def _digest(plan: SubparticlePlan) -> str:
    """Of the particles, the copies and where they go."""
    found = hashlib.sha256(
        repr((plan.particles.optics, plan.new_box, plan.ctf_modes, plan.block_parents)).encode()
    )
    particles, candidates, layout = plan.particles, plan.design.candidates, plan.layout
    arrays = [
        particles.file_number, particles.image_number, particles.rotations, particles.shifts_angst,
        particles.optics_group, particles.half_set, layout.choice, layout.kept, candidates.operators,
        candidates.rotations, candidates.translations_angst, candidates.centres_angst, candidates.frames,
    ]  # fmt: skip
    if particles.ctf is not None:
        arrays += [getattr(particles.ctf, entry.name) for entry in fields(particles.ctf)]
    arrays += [factors for factors in (plan.source.scale, plan.source.image_factor) if factors is not None]
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
