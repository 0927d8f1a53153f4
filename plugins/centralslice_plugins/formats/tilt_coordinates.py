"""Coordinates of particles in one tomogram: STAR, or plain columns x y z [rot tilt psi]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FormatError, SelectionError
from centralslice.geometry.eulers import relion_to_matrices
from centralslice_plugins.formats import relion_tomo_particles as rows_of
from centralslice_plugins.formats.relion_tomo_tilts import finite_numbers
from centralslice_plugins.formats.star import StarTable, is_star, read_star
from centralslice_plugins.formats.text_numbers import number_rows

_AXES = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
_CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_WHAT = "coordinates (x y z, or x y z rot tilt psi)"


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Particles as a file lists them.

    Attributes
    ----------
    positions
        (n, 3) in the file's own pixels, origins not applied; if ``centred``, Å from half the tomogram's size.
    origins_angst
        (n, 3) to be subtracted along the tomogram's axes, Å.
    rotations
        (n, 3, 3) map to tomogram axes, or None: the file has no orientations.
    half_set
        (n,) int8, 0 for none.
    rows
        (n,) 0-based rows of the file.
    columns
        Columns of a STAR file, or None.
    """

    positions: FloatArray
    origins_angst: FloatArray
    rotations: FloatArray | None
    half_set: IntArray
    rows: IntArray
    columns: dict[str, NDArray[Any]] | None = None
    centred: bool = False


def read_coordinates(path: Path, names: tuple[str, ...]) -> Coordinates:
    """The particles of one tomogram.

    Parameters
    ----------
    path
        STAR with ``rlnCenteredCoordinateXAngst, …`` or ``rlnCoordinateX, Y, Z`` and RELION's angles and origins, or
        columns: x y z, or x y z rot tilt psi; as model2point writes them also with the contour, or object and
        contour, before x y z.
    names
        The tomogram's possible names: rows of a STAR file that has ``rlnTomoName`` count if it is one of them.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is neither, naming row and column.
    SelectionError
        If a STAR file is of several tomograms, none of them this one.
    """
    if not path.is_file() or not is_star(path):
        return _of_columns(path)
    file = read_star(path)
    found = [(table, axes) for axes in (_CENTRED, _AXES) for table in file.tables if _has(table, axes)]
    if not found:
        raise FormatError(
            f"{path}: expected a table with {', '.join(f'_{label}' for label in _AXES)} or _{_CENTRED[0]} …, got "
            f"blocks {file.block_names()}"
        )
    table, axes = found[0]
    rows = _rows_of_tomogram(table, names)
    chosen = rows_of.chosen_rows(table, rows)
    outer = rows_of.turns(chosen, rows_of.SUBTOMOGRAM_ANGLES)
    inner = rows_of.turns(chosen, rows_of.PARTICLE_ANGLES)
    given = [matrices for matrices in (outer, inner) if matrices is not None]
    origins = np.stack([finite_numbers(chosen, label, 0.0) for label in _ORIGIN], axis=1)
    if outer is not None:
        origins = np.einsum("nij,nj->ni", outer, origins)
    return Coordinates(
        positions=np.stack([finite_numbers(chosen, label) for label in axes], axis=1),
        origins_angst=origins,
        rotations=None if not given else given[0] if len(given) == 1 else given[0] @ given[1],
        half_set=rows_of.half_sets(chosen),
        rows=rows,
        columns=dict(chosen.columns),
        centred=axes is _CENTRED,
    )


def _has(table: StarTable, labels: tuple[str, ...]) -> bool:
    return all(label in table for label in labels)


def _rows_of_tomogram(table: StarTable, names: tuple[str, ...]) -> IntArray:
    if "rlnTomoName" not in table:
        return np.arange(len(table))
    named = table.texts("rlnTomoName")
    rows = np.flatnonzero(np.isin(named.astype(str), names))
    if len(rows):
        return rows
    distinct = list(dict.fromkeys(named.tolist()))
    if len(distinct) > 1:
        raise SelectionError(
            f"{table.source}: has particles of tomograms {', '.join(distinct[:3])} …, none of {' or '.join(names)}; "
            "give a file with the particles of this tilt series"
        )
    return np.arange(len(table))


def _of_columns(path: Path) -> Coordinates:
    table = number_rows(path, _WHAT, (3, 4, 5, 6))
    count, width = table.shape
    extra = width - 3 if width < 6 else 0
    odd = (table[:, :extra] != np.round(table[:, :extra])).any(axis=1)
    if odd.any():
        raise FormatError(
            f"{path}: row {int(np.argmax(odd)) + 1}: expected {_WHAT}, got {width} numbers that do not begin with "
            "whole numbers of object and contour"
        )
    rotations = None
    if width == 6:
        rotations = relion_to_matrices(table[:, 3], table[:, 4], table[:, 5])
    return Coordinates(
        positions=table[:, extra : extra + 3],
        origins_angst=np.zeros((count, 3)),
        rotations=rotations,
        half_set=np.zeros(count, np.int8),
        rows=np.arange(count),
    )
