"""RELION particle metadata: STAR files of RELION 3.0 to 5 and of the programs that write the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import Particles, make_particles
from centralslice.errors import FormatError
from centralslice.geometry.eulers import relion_to_matrices
from centralslice_plugins.formats.paths import locate_images
from centralslice_plugins.formats.relion_optics import (
    RelionTables,
    check_finite,
    contrast_transfer,
    optics_groups,
    pixel_sizes,
    relion_tables,
    shifts_angst,
)
from centralslice_plugins.formats.star import StarFile, StarTable, is_star, read_star

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_TOMOGRAPHY = {
    "rlnTomoParticlesFile": "a tomography optimisation set",
    "rlnTomoTomogramsFile": "a tomography optimisation set",
    "rlnTomoTiltSeriesStarFile": "a table of tomograms",
    "rlnTomoTiltSeriesName": "a table of tomograms",
    "rlnTomoSubTomosAre2DStacks": "a table of tomography particles",
    "rlnTomoSubtomogramRot": "a table of tomography particles",
    "rlnTomoParticleName": "a table of tomography particles",
    "rlnTomoVisibleFrames": "a table of tomography particles",
}


class StarReader(Reader):
    """Particles of a STAR file: pose ``R`` is RELION's Euler matrix, ``t`` minus the origin offset."""

    plugin_name: ClassVar[str] = "star"
    capabilities: ClassVar[frozenset[str]] = frozenset({"particles"})

    def recognises(self, path: Path) -> bool:
        """Whether the file's first word is ``data_…``."""
        return is_star(path)

    def read_particles(self, request: ReadRequest) -> Particles:
        """Read the particles of a STAR file.

        Raises
        ------
        FormatError
            If the file is not STAR, holds no oriented 2D particles, or a value cannot be; the message
            names file, block, row and label.
        FileMissingError
            If the file, or an image file that it names, does not exist.
        """
        file = read_star(request.path)
        table, optics = _choose_tables(file)
        tables = relion_tables(table, optics)
        rotations = _rotations(table)
        names, file_number, image_number = image_names(table)
        located = locate_images(names, request.path, request.image_dir)
        pixel_angst = pixel_sizes(tables)
        notes = [*located.notes, *_notes(tables, pixel_angst)]
        if pixel_angst is None:
            pixel_angst = np.ones(len(table))
        groups, group = optics_groups(tables, pixel_angst)
        return make_particles(
            request.path,
            (located.files, file_number, image_number),
            rotations,
            shifts_angst=shifts_angst(tables, pixel_angst),
            optics=groups,
            optics_group=group,
            half_set=_half_sets(table),
            model_number=_model_numbers(table),
            ctf=contrast_transfer(tables),
            columns=table.columns,
            optics_columns={} if optics is None else optics.columns,
            notes=tuple(notes),
        )


def _choose_tables(file: StarFile) -> tuple[StarTable, StarTable | None]:
    """The particle table and the optics table; raises FormatError if there are no 2D particles."""
    for label, what in _TOMOGRAPHY.items():
        if file.with_label(label):
            raise FormatError(f"{file.path}: is {what} (it has _{label}); use centralslice tomo")
    candidates = file.with_label("rlnImageName")
    if not candidates:
        raise FormatError(
            f"{file.path}: no block has _rlnImageName, so there are no particles "
            f"(blocks: {file.block_names()})"
        )
    particles = next((table for table in candidates if table.block == "particles"), candidates[0])
    if len(particles) == 0:
        raise FormatError(f"{file.path}: block '{particles.block}' holds no particles")
    if "rlnCtfImage" in particles:
        raise FormatError(
            f"{file.path}: block '{particles.block}' has _rlnCtfImage: its particles are 3D subtomograms, "
            "only 2D images can be reconstructed"
        )
    optics = file.find("optics")
    for table in (particles, optics):
        if table is not None and "rlnImageDimensionality" in table:
            wrong = table.integers("rlnImageDimensionality") != 2
            if wrong.any():
                raise FormatError(
                    f"{table.where(int(np.argmax(wrong)))}: _rlnImageDimensionality: expected 2, "
                    "only particles that are 2D images can be reconstructed"
                )
    return particles, optics


def _rotations(table: StarTable) -> FloatArray:
    """(n, 3, 3) poses; raises FormatError naming missing labels or the row of an angle that is not finite."""
    missing = [f"_{label}" for label in _ANGLES if label not in table]
    if missing:
        raise FormatError(
            f"{table.source}: block '{table.block}' has no {', '.join(missing)}: particles need "
            "orientations; refine them first"
        )
    angles = [table.numbers(label) for label in _ANGLES]
    for label, values in zip(_ANGLES, angles, strict=True):
        check_finite(table, label, values)
    return relion_to_matrices(*angles)


def image_names(table: StarTable) -> tuple[list[str], IntArray, IntArray]:
    """Split rlnImageName ``N@file`` (or a plain ``file``, N = 1).

    Returns
    -------
        The distinct file names; (n,) index into them; (n,) 0-based image number.
    """
    files: dict[str, int] = {}
    file_number = np.empty(len(table), np.int64)
    image_number = np.zeros(len(table), np.int64)
    for row, text in enumerate(table.texts("rlnImageName").tolist()):
        number, at, name = text.partition("@")
        if at:
            if not (number.isascii() and number.isdigit() and 0 < len(number) <= 18 and int(number) > 0):
                raise FormatError(
                    f"{table.where(row)}: _rlnImageName: expected N@file with N from 1, got '{text}'"
                )
            image_number[row] = int(number) - 1
        else:
            name = text
        if not name:
            raise FormatError(f"{table.where(row)}: _rlnImageName: expected N@file, got '{text}'")
        file_number[row] = files.setdefault(name, len(files))
    return list(files), file_number, image_number


def _half_sets(table: StarTable) -> NDArray[np.int8]:
    if "rlnRandomSubset" not in table:
        return np.zeros(len(table), np.int8)
    subset = table.integers("rlnRandomSubset")
    wrong = (subset < 0) | (subset > 2)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{table.where(row)}: _rlnRandomSubset: expected 0, 1 or 2, got {subset[row]}")
    return subset.astype(np.int8)


def _model_numbers(table: StarTable) -> IntArray:
    if "rlnClassNumber" not in table:
        return np.full(len(table), -1, np.int64)
    return table.integers("rlnClassNumber")


def _notes(tables: RelionTables, pixel_angst: NDArray[Any] | None) -> list[str]:
    """What was taken for granted."""
    source = tables.particles.source
    notes = []
    if pixel_angst is None:
        notes.append(f"{source} says no pixel size: 1 Å a pixel is taken")
    if tables.optics is None and "rlnOpticsGroup" in tables.particles:
        notes.append(f"{source} has optics group numbers but no data_optics: groups are taken as they are")
    if tables.optics is not None and "rlnOpticsGroup" not in tables.particles:
        notes.append(f"{source} names no optics group for its particles: all are of the only one")
    if tables.value("rlnDefocusU") is not None:
        for label, taken in (
            ("rlnVoltage", "no CTF can be computed"),
            ("rlnSphericalAberration", "0 mm is taken"),
            ("rlnAmplitudeContrast", "0 is taken"),
        ):
            if tables.value(label) is None:
                notes.append(f"{source} has no _{label}: {taken}")
    return notes
