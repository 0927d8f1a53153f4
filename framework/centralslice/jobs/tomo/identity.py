"""What makes two tomo runs the same (to resume), or of one kind (to add their sums)."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.data.tilt_series import TiltParticles, TiltSeries
from centralslice.jobs.finish_plan import finish_record
from centralslice.jobs.tomo.plan import TomoPlan
from centralslice.runtime.file_identity import file_identity
from centralslice.runtime.manifest import versions

#: Settings that change what is in the sums beyond what the selection and the finish record say.
_OPTIONS = ("whiten", "ctf", "circle_crop", "dose_cutoff", "maxres", "binning")


def tomo_fingerprint(plan: TomoPlan) -> dict[str, Any]:
    """What must be the same to resume; ``inputs`` and ``selection`` may differ between jobs that are merged."""
    settings, particles = plan.settings, plan.particles
    record = finish_record(plan.finishing)
    chosen = asdict(settings)
    return {
        "inputs": {
            "particles": file_identity(particles.source, whole=True),
            "images": [file_identity(path) for path in image_files(particles)],
        },
        "selection": {
            "block_slices": plan.block_slices,
            "particles": len(particles),
            "particles_sha256": _digest(plan),
        },
        "options": {name: str(chosen[name]) for name in _OPTIONS},
        "method": {name: value for name, value in record.items() if name not in ("seed", "iteration_mask")},
        "versions": versions(),
    }


def image_files(particles: TiltParticles) -> list[Any]:
    """Every image file of the tilt series that are used, or of the extracted particles."""
    if particles.stack_files and particles.stack_number is not None:
        return [particles.stack_files[number] for number in np.unique(particles.stack_number)]
    used = np.unique(particles.series_number)
    return list(dict.fromkeys(path for number in used for path in particles.series[number].image_files))


def particle_identities(particles: TiltParticles) -> NDArray[np.uint64]:
    """(n,) one number a particle, sorted: by the names of its tomogram and of itself."""
    keys = [
        hashlib.sha256(f"{particles.series[series].name}\0{name}".encode()).digest()[:8]
        for series, name in zip(particles.series_number, particles.names, strict=True)
    ]
    return np.sort(np.frombuffer(b"".join(keys), np.uint64))


def _digest(plan: TomoPlan) -> str:
    """Of everything that the slices are computed from, pixels apart."""
    particles, selection = plan.particles, plan.selection
    found = hashlib.sha256(repr(particles.optics).encode())
    for array in (
        particles.series_number, particles.positions, particles.rotations, particles.optics_group,
        particles.half_set, particles.tilt_start, selection.used, selection.counts, particles.motion,
    ):  # fmt: skip
        if array is not None:
            found.update(np.ascontiguousarray(array).tobytes())
    for number in np.unique(particles.series_number):
        _add_series(found, particles.series[number])
    return found.hexdigest()


def _add_series(found: Any, series: TiltSeries) -> None:
    facts = (
        series.name, series.pixel_size_angst, series.size, series.hand, series.defocus_slope,
        series.bfactor_per_dose, series.image_size,
    )  # fmt: skip
    found.update(repr(facts).encode())
    ctf = series.ctf
    arrays = [
        series.projections, series.dose, ctf.defocus_u_angst, ctf.defocus_v_angst, ctf.defocus_angle_deg,
        ctf.phase_shift_deg, ctf.bfactor_angst2, ctf.scale,
    ]  # fmt: skip
    if series.deformation is not None:
        arrays.append(series.deformation.coefficients)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
