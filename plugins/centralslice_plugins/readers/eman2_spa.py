"""EMAN2 ``r3d_XX`` folders of e2spa_refine: every particle has a pose of its own in a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import Reader
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_iterations import (
    choose_iteration,
    complete_iterations,
    find_mask,
    iteration_file,
    iteration_maps,
    phase_flipped,
    set_name,
)
from centralslice_plugins.formats.eman2_json import flag_of, read_json, text_of
from centralslice_plugins.formats.eman2_particles import HeaderTable, particles_from_headers
from centralslice_plugins.readers.lst import list_headers

_PARAMETERS = "0_spa_params.json"
_LIST = "ptcls_{}.lst"
_NEEDED = ("threed_{}.hdf", _LIST)


class Eman2SpaReader(Reader):
    """Refinements of e2spa_refine; ``class`` 0 in the list is half set 1, ``class`` 1 half set 2."""

    plugin_name: ClassVar[str] = "eman2_spa"
    capabilities: ClassVar[frozenset[str]] = frozenset({"refinement"})

    def recognises(self, path: Path) -> bool:
        """Whether it is a folder with e2spa_refine's parameters or lists."""
        return path.is_dir() and ((path / _PARAMETERS).is_file() or any(path.glob("ptcls_*.lst")))

    def read_refinement(self, path: Path, request: SourceRequest) -> SubparticleSource:
        """Read one iteration of a folder.

        Raises
        ------
        FileMissingError, FormatError
            If the iteration is not there or lacks a file, or a file is damaged.
        """
        number = choose_iteration(path, request.iteration, _NEEDED)
        settings, notes = _settings(path)
        listed = iteration_file(path, _LIST, number)
        table = list_headers(listed, request.image_dir)
        notes += add_defocus(table, listed)
        halves, half_notes = _half_sets(table, listed)
        particles = particles_from_headers(listed, table, "projection")
        if "score" in table.extra and not np.isnan(table.extra["score"]).any():
            particles = replace(particles, quality=table.extra["score"])  # more negative is better
        maps, map_notes = iteration_maps(path, number)
        mask, mask_notes = find_mask(path, number == complete_iterations(path, _NEEDED)[-1])
        given = text_of(path / _PARAMETERS, settings, "ptcl") or listed.name
        names = [given, *map(str, table.files)]
        return SubparticleSource(
            particles=replace(particles, half_set=halves),
            maps=maps,
            mask_all=mask,
            symmetry=text_of(path / _PARAMETERS, settings, "sym"),
            phase_flipped=phase_flipped(listed, table.extra, len(table), names),
            scale=None,
            used=None,
            stem=set_name(path, number, given),
            dialect="r3d",
            notes=(
                f"{path}: iteration {number}",
                *dict.fromkeys([*notes, *half_notes, *map_notes, *mask_notes]),
            ),
            symmetry_broken=flag_of(settings, "breaksym"),
        )


def _settings(folder: Path) -> tuple[Mapping[str, Any], list[str]]:
    """The refinement's options; a folder without them can be read all the same."""
    path = folder / _PARAMETERS
    if path.is_file():
        return read_json(path), []
    return {}, [f"{path} does not exist: symmetry and input of the refinement are not known"]


def add_defocus(table: HeaderTable, source: Path) -> list[str]:
    """Add the changes of defocus in a list (``defocus``, µm) to the CTFs.

    Raises
    ------
    FormatError
        If a particle has a change of defocus but no CTF, or the change is not finite.
    """
    changes = table.extra.get("defocus")
    if changes is None:
        return []
    rows = np.flatnonzero(~np.isnan(changes))
    for row in rows.tolist():
        ctf = table.ctf[row]
        if ctf is None or not np.isfinite(changes[row]):
            raise FormatError(
                f"{source}: row {row + 1}: has a change of defocus of {changes[row]:g} µm but "
                f"{'no CTF' if ctf is None else 'it must be finite'}"
            )
        table.ctf[row] = replace(ctf, defocus_um=ctf.defocus_um + float(changes[row]))
    return [f"{source}: changes of defocus of {len(rows)} of {len(table)} particles are added to their CTFs"]


def _half_sets(table: HeaderTable, source: Path) -> tuple[NDArray[np.int8], list[str]]:
    """(n,) half set of each particle; raises FormatError for a class that is neither 0 nor 1."""
    classes = table.extra.get("class")
    if classes is None:
        return np.zeros(len(table), np.int8), [f"{source}: no line says its half set ('class')"]
    wrong = ~np.isin(classes, (0.0, 1.0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{source}: row {row + 1}: 'class': expected 0 (even half) or 1 (odd half), got {classes[row]:g}"
        )
    return (classes + 1).astype(np.int8), []
