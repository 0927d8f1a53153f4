"""Particles in tilt series of RELION 5 and RELION 4 projects, and of WarpTools' exports in their form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import Reader, TiltReadRequest
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.tilt_series import TiltParticles, TiltSeries
from centralslice.errors import FormatError, SelectionError
from centralslice_plugins.formats import relion_tomo_particles as rows_of
from centralslice_plugins.formats.relion_tomo_files import FileFinder, project_files
from centralslice_plugins.formats.relion_tomo_motion import read_motion
from centralslice_plugins.formats.relion_tomo_optics import TomoOptics, tomo_optics
from centralslice_plugins.formats.relion_tomo_series import SeriesReader, Tomograms, tomogram_table
from centralslice_plugins.formats.star import StarTable, is_star


class RelionTomoReader(Reader):
    """Optimisation sets, or particles and tomograms: matrices map the map's axes to the tomogram's."""

    plugin_name: ClassVar[str] = "relion_tomo"
    capabilities: ClassVar[frozenset[str]] = frozenset({"tilt_particles"})

    def recognises(self, path: Path) -> bool:
        """Whether it is a STAR file; what it holds is judged when it is read."""
        return is_star(path)

    def read_tilt_particles(self, request: TiltReadRequest) -> TiltParticles:
        """Read a project.

        Raises
        ------
        FormatError
            If a file is not what it has to be; the message names file, block, row and label.
        FileMissingError
            If a file that is named does not exist; the message lists where it was looked for.
        SelectionError
            If no particle is in a tomogram of the table.
        """
        project = _opened(request)
        particles, rows = project.particles, project.tomogram_rows
        series, series_number, series_notes = _series(project)
        optics = tomo_optics(particles, project.optics, project.tomograms, rows, project.extracted)
        centres = np.array([one.centre for one in series])[series_number]
        found, rotations, notes = _poses(particles, centres, optics)
        tilts = np.array([len(one) for one in series], np.int64)[series_number]
        motion = None
        if project.trajectories is not None:
            motion = read_motion(project.trajectories, project.names, project.kept, tilts)
        stacks, stack_number = _stacks(particles, project.finder) if project.extracted else ((), None)
        return TiltParticles(
            source=particles.source,
            series=series,
            series_number=series_number,
            names=project.names,
            positions=found,
            rotations=rotations,
            optics=optics.groups,
            optics_group=optics.group,
            half_set=rows_of.half_sets(particles),
            source_row=project.kept,
            tilt_start=np.cumsum(tilts) - tilts,
            visible=rows_of.visible_tilts(particles, tilts),
            motion=motion,
            stack_files=stacks,
            stack_number=stack_number,
            columns=_columns(particles, optics),
            optics_columns=optics.columns,
            notes=(*project.notes, *series_notes, *optics.notes, *notes),
        )


@dataclass(frozen=True, slots=True)
class _Project:
    """The tables of a project and the particles that are in a tomogram of it.

    ``kept`` are their rows in the particle file, ``tomogram_rows`` the rows of their tomograms.
    """

    finder: FileFinder
    tomograms: Tomograms
    particles: StarTable
    optics: StarTable | None
    trajectories: Path | None
    names: NDArray[Any]
    kept: IntArray
    tomogram_rows: IntArray
    extracted: bool
    notes: list[str]


def _opened(request: TiltReadRequest) -> _Project:
    """Find and read the tables that particles and tomograms are in."""
    finder = FileFinder(request.base)
    files = project_files(request, finder)
    everything = rows_of.particle_table(files.particles)
    tomograms = tomogram_table(files.tomograms)
    kept, tomogram_rows, notes = _in_tomograms(everything, tomograms)
    return _Project(
        finder=finder,
        tomograms=tomograms,
        particles=rows_of.chosen_rows(everything, kept),
        optics=files.particles.find("optics"),
        trajectories=files.trajectories,
        names=rows_of.particle_names(everything)[kept],
        kept=kept,
        tomogram_rows=tomogram_rows,
        extracted=rows_of.is_extracted(files.particles, everything),
        notes=notes,
    )


def _series(project: _Project) -> tuple[tuple[TiltSeries, ...], IntArray, list[str]]:
    """The tilt series with particles, in the order of their table; each particle's; and notes."""
    centred = rows_of.is_centred(project.particles)
    reader = SeriesReader(project.tomograms, project.finder, centred, project.extracted)
    used, number = np.unique(project.tomogram_rows, return_inverse=True)
    return tuple(reader.read(row) for row in used.tolist()), number.astype(np.int64), reader.notes()


def _in_tomograms(particles: StarTable, tomograms: Tomograms) -> tuple[IntArray, IntArray, list[str]]:
    """Rows of the particles whose tomogram is known, its row for each, and a note on the others."""
    named = particles.texts("rlnTomoName").tolist()
    rows = np.array([tomograms.names.get(name, -1) for name in named], np.int64)
    kept = np.flatnonzero(rows >= 0)
    if len(kept) == len(rows):
        return kept, rows, []
    missing = list(dict.fromkeys(name for name, row in zip(named, rows.tolist(), strict=True) if row < 0))
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    if not len(kept):
        raise SelectionError(
            f"{particles.source}: none of {len(rows)} particles is in a tomogram of {tomograms.file.path} (they are "
            f"in {shown}); give the tomograms that belong to the particles"
        )
    lost = len(rows) - len(kept)
    note = f"{lost} of {len(rows)} particles left out: {tomograms.file.path} has no tomogram {shown}"
    return kept, rows[kept], [note]


def _poses(
    particles: StarTable, centres: FloatArray, optics: TomoOptics
) -> tuple[FloatArray, FloatArray, list[str]]:
    """(n, 3) positions and (n, 3, 3) matrices A_sub · A_particle, and what was taken for granted."""
    outer = rows_of.turns(particles, rows_of.SUBTOMOGRAM_ANGLES)
    inner = rows_of.turns(particles, rows_of.PARTICLE_ANGLES)
    found = rows_of.positions(particles, centres, optics.coordinate_angst, outer)
    notes = []
    if outer is None and inner is None:
        notes.append(f"{particles.source} has no orientations: all particles are taken as not turned")
    given = [matrices for matrices in (outer, inner) if matrices is not None]
    if not given:
        return found, np.broadcast_to(np.eye(3), (len(particles), 3, 3)).copy(), notes
    return found, given[0] if len(given) == 1 else given[0] @ given[1], notes


def _stacks(particles: StarTable, finder: FileFinder) -> tuple[tuple[Path, ...], IntArray]:
    """The distinct files of the particles' extracted stacks, and each particle's."""
    names: dict[str, int] = {}
    number = np.empty(len(particles), np.int64)
    files: list[Path] = []
    for row, name in enumerate(particles.texts("rlnImageName").tolist()):
        if "@" in name:
            raise FormatError(
                f"{particles.where(row)}: _rlnImageName: expected the file of a 2D stack, got '{name}'"
            )
        place = names.setdefault(name, len(files))
        if place == len(files):
            files.append(finder.find(name, particles.source, f"row {row + 1}: the stack"))
        number[row] = place
    return tuple(files), number


def _columns(particles: StarTable, optics: TomoOptics) -> dict[str, NDArray[Any]]:
    columns = dict(particles.columns)
    if optics.group_numbers is not None:
        columns["rlnOpticsGroup"] = optics.group_numbers
    return columns
