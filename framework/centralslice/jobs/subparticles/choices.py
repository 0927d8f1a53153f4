"""What a run takes from metadata where the user leaves it open: how the CTF enters, and which invariant is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from centralslice.data.particles import Particles
from centralslice.errors import FormatError, ParameterError
from centralslice.fourier.invariants import invariant_shape
from centralslice.fourier.prepare import CtfMode
from centralslice.jobs.subparticles.settings import SubparticleSettings
from centralslice.jobs.subparticles.source import SubparticleSource

#: Where EMAN2 projects say which invariant they use, and the key.
PROJECT, PROJECT_KEY = Path("info/project.json"), "global.invariant_type"
#: The sign of the defocus change is judged by what is finer than this, Å.
HAND_ANGST = 6.0


def choose_invariant(
    settings: SubparticleSettings, eman2: bool, box: int
) -> tuple[Literal["none", "bispec", "harmonic"], list[str]]:
    """The invariant to write, and why.

    Raises
    ------
    ParameterError
        If one is asked for that boxes of this size do not have.
    """
    asked = settings.invariant
    unasked = asked is None
    if asked is None:
        asked = "auto" if eman2 and not settings.debug_strips else "none"
    if asked == "none" or settings.expand_only or settings.ssnr:
        return "none", []
    kind, said = _project_kind() if asked == "auto" else (asked, [])
    try:
        invariant_shape(kind, box)
    except ParameterError as error:
        if not unasked:
            raise
        return "none", [f"no invariants: {error}"]
    return kind, said


def _project_kind() -> tuple[Literal["bispec", "harmonic"], list[str]]:
    """The invariant that EMAN2's project file names."""
    if not PROJECT.is_file():
        return "bispec", [f"invariants: bispec, there is no {PROJECT} (--invartype auto)"]
    try:
        found = json.loads(PROJECT.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{PROJECT}: is no JSON, which --invartype auto needs: {error}") from error
    kind = found.get(PROJECT_KEY, "bispec") if isinstance(found, dict) else "bispec"
    if kind == "harmonic":
        return "harmonic", [f"invariants: harmonic, as {PROJECT} says (--invartype auto)"]
    if kind != "bispec":
        raise FormatError(
            f"{PROJECT}: {PROJECT_KEY}: expected bispec or harmonic, got '{kind}'; give --invartype"
        )
    return "bispec", [f"invariants: bispec, as {PROJECT} says or for want of it (--invartype auto)"]


def check_hand(particles: Particles, modes: tuple[CtfMode, ...], settings: SubparticleSettings) -> None:
    """Refuse to find the sign of the defocus change from images that do not feel it."""
    if settings.crop.hand != "auto" or settings.expand_only or settings.ssnr:
        return
    finest = 2 * max(group.pixel_size_angst for group in particles.optics)
    if finest >= HAND_ANGST or "none" in modes:
        what = "images without a CTF" if "none" in modes else f"images that end at {finest:g} Å"
        raise ParameterError(
            f"--defocus-hand auto: looks at what is finer than {HAND_ANGST:g} Å, which {what} cannot show; give 1, -1 "
            "or --no-adjust-defocus"
        )


def choose_ctf_modes(
    particles: Particles, source: SubparticleSource, settings: SubparticleSettings
) -> tuple[tuple[CtfMode, ...], list[str]]:
    """How the CTF enters for each optics group, and why."""
    asked, modes, notes = settings.subtraction.ctf, [], []
    flipped = settings.subtraction.phase_flipped
    flipped = source.phase_flipped if flipped is None else flipped
    for group in particles.optics:
        usable = particles.ctf is not None and group.voltage_kv > 0
        mode: CtfMode
        if asked != "auto":
            if asked != "none" and not usable:
                raise ParameterError(
                    f"--ctf {asked}: {particles.source} has no defocus or no voltage for optics group "
                    f"'{group.name}'; use --ctf none"
                )
            if asked in ("full", "flipped") and group.ctf_premultiplied:
                raise ParameterError(
                    f"--ctf {asked}: the images of optics group '{group.name}' are CTF-multiplied already; "
                    "use --ctf auto"
                )
            mode = asked
        else:
            mode, reason = _automatic(usable, group.ctf_premultiplied, flipped)
            notes.append(f"CTF of '{group.name}': {mode}, because {reason} (--ctf auto)")
        modes.append(mode)
    return tuple(modes), notes


def _automatic(usable: bool, premultiplied: bool, flipped: bool | None) -> tuple[CtfMode, str]:
    if not usable:
        return "none", "the metadata have no defocus or no voltage"
    if premultiplied:
        return "premultiplied", "the metadata say that the images are CTF-multiplied"
    if flipped:
        return "flipped", "the images are phase flipped"
    return "full", "the metadata have defocus and microscope"
