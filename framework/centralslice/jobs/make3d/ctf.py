"""How the CTF enters a make3d run, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from centralslice.data.particles import OpticsGroup, Particles
from centralslice.errors import ParameterError
from centralslice.fourier.prepare import CtfMode
from centralslice.jobs.make3d.settings import Make3dSettings

#: In the names of files that EMAN2 wrote with flipped phases.
FLIPPED_NAME = "ctf_flip"
#: Of files that EMAN2 wrote, whose headers do not say whether phases were flipped.
EMAN2_SUFFIXES = frozenset({".hdf", ".hdf5", ".h5", ".lst", ".lsx"})


def choose_ctf_modes(particles: Particles, settings: Make3dSettings) -> tuple[tuple[CtfMode, ...], list[str]]:
    """How the CTF enters for each optics group, and why."""
    modes: list[CtfMode] = []
    notes: list[str] = []
    for number, group in enumerate(particles.optics):
        usable = particles.ctf is not None and group.voltage_kv > 0
        if settings.ctf == "auto":
            files = [
                particles.image_files[at]
                for at in np.unique(particles.file_number[particles.optics_group == number])
            ]
            mode, reason = _automatic_ctf(group, usable, settings, files)
            notes.append(f"CTF of '{group.name}': {mode}, because {reason} (--ctf auto)")
        else:
            mode = settings.ctf
            if mode != "none" and not usable:
                raise ParameterError(
                    f"--ctf {mode}: {settings.input} has no defocus or no voltage for optics group "
                    f"'{group.name}'; use --ctf none"
                )
            if mode in ("full", "flipped") and group.ctf_premultiplied:
                raise ParameterError(
                    f"--ctf {mode}: the images of optics group '{group.name}' are CTF-multiplied already; "
                    "use --ctf auto"
                )
        modes.append(mode)
    return tuple(modes), notes


def _automatic_ctf(
    group: OpticsGroup, usable: bool, settings: Make3dSettings, files: Sequence[Path]
) -> tuple[CtfMode, str]:
    """What --ctf auto takes for a group whose images are in these files, and why.

    EMAN2's headers do not say whether phases were flipped; the names that its programs give the files do.

    Raises
    ------
    ParameterError
        If only some of the group's files are called flipped.
    """
    if settings.compat_eman2:
        return "none", "EMAN2's make3dpar takes images as they are"
    if not usable:
        return "none", "the metadata have no defocus or no voltage"
    if group.ctf_premultiplied:
        return "premultiplied", "the metadata say that the images are CTF-multiplied"
    flipped = [FLIPPED_NAME in path.name for path in files]
    if any(flipped) and not all(flipped):
        raise ParameterError(
            f"--ctf auto: of the image files of optics group '{group.name}' some are called {FLIPPED_NAME} "
            f"({files[flipped.index(True)].name}), others not ({files[flipped.index(False)].name}); "
            "give --ctf full or --ctf flipped"
        )
    if any(flipped):
        return "flipped", f"the image files are called {FLIPPED_NAME}"
    reason = "the metadata have defocus and microscope"
    suffixes = {path.suffix.lower() for path in (settings.input, *files)}
    if suffixes & EMAN2_SUFFIXES:
        reason += "; images whose phases were flipped need --ctf flipped"
    return "full", reason
