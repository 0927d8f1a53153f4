"""Which sign header shifts have: asked of the user, or found out from the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from centralslice.abc.reader import ShiftConvention
from centralslice.errors import ParameterError
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.jobs.selection import SelectionRules
from centralslice.plugin.registry import Registry

#: Images that are tried both ways.
TRIED_IMAGES = 300
#: The better sign must win by this much of mean half-map FSC.
DECISIVE_MARGIN = 0.02


def resolve_shift_convention(settings: Make3dSettings, registry: Registry) -> tuple[ShiftConvention, str]:
    """The convention to read with, and a line that says how it was found ('' if there was no question).

    With ``auto``, up to 300 images are reconstructed both ways in two halves; the sign with the better
    half-map agreement is taken.

    Raises
    ------
    ParameterError
        If ``auto`` cannot tell.
    """
    from centralslice.jobs.make3d.plan import plan_make3d, read_particles

    if settings.shift_convention != "auto":
        return settings.shift_convention, ""
    if settings.tlt is not None or not registry.reader_for(settings.input, "particles").ambiguous_shifts:
        return "projection", ""
    particles = read_particles(settings, registry, "projection")
    if not np.any(particles.shifts_angst):
        return "projection", ""
    plan_make3d(settings, registry, particles)  # whatever is wrong is said before the trial
    agreement = {name: _agreement(settings, registry, name) for name in ("projection", "recentre")}
    best, other = sorted(agreement, key=lambda name: -agreement[name])
    said = ", ".join(f"{name} {value:.3f}" for name, value in agreement.items())
    if agreement[best] - agreement[other] < DECISIVE_MARGIN:
        raise ParameterError(
            f"{settings.input}: --shift-convention auto cannot tell the sign of the header shifts "
            f"(half-map agreement: {said}); give projection or recentre"
        )
    chosen: ShiftConvention = "projection" if best == "projection" else "recentre"
    return chosen, f"header shifts are read as '{chosen}' (half-map agreement: {said})"


def _agreement(settings: Make3dSettings, registry: Registry, convention: ShiftConvention) -> float:
    """Mean FSC of two halves of the first images, read with this convention."""
    from centralslice.jobs.half_map_fsc import half_map_fsc
    from centralslice.jobs.make3d.job import run_halves
    from centralslice.jobs.make3d.plan import plan_make3d, read_particles

    with TemporaryDirectory() as folder:
        trial = replace(
            settings, output=Path(folder) / "trial.mrc", mode="kaiser_bessel", seed=None, iteration_mask=None,
            save_norm=None, setsf=None, postprocess=(), selection=SelectionRules(split="parity"), use_ssnr=False,
            compat_eman2=False, compress_bits=None, radial_correction=True, half_maps="auto", quiet=True,
            fill_angle=0.0, force=False, float16=False, checkpoint_every_s=0.0, resume="no", report=False,
            keep_checkpoints=False, quanta_of=None,
        )  # fmt: skip
        particles = read_particles(settings, registry, convention)
        step = max(1, len(particles) // TRIED_IMAGES)
        chosen = np.arange(0, len(particles), step)[:TRIED_IMAGES]
        particles = replace(particles.take(chosen), half_set=np.zeros(len(chosen), np.int8))
        plan = plan_make3d(trial, registry, particles)
        first, second = run_halves(plan, registry)
    curve = half_map_fsc(first, second, plan.geometry.voxel_size_angst)["sphere"]
    return float(curve.values[1:].mean())
