"""Optics groups of particles in tomograms, brought together with what the table of tomograms says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import OpticsGroup
from centralslice.errors import FormatError
from centralslice_plugins.formats.groups import distinct_rows
from centralslice_plugins.formats.relion_optics import (
    RelionTables,
    check_finite,
    optics_groups,
    relion_tables,
)
from centralslice_plugins.formats.relion_tomo_series import PIXEL, Tomograms
from centralslice_plugins.formats.star import StarTable

#: How far the values of an optics row may be from those of a tomogram's row, as in RELION.
_TOLERANCE = 1e-3
_GROUP = "rlnOpticsGroup"


@dataclass(frozen=True, slots=True)
class TomoOptics:
    """What the particles' optics are.

    Attributes
    ----------
    groups, group
        Groups and each particle's, as :class:`TiltParticles` has them.
    coordinate_angst
        (n,) pixel size that coordinates and origins are converted with.
    group_numbers
        (n,) ``rlnOpticsGroup`` where it had to be made up, or None.
    columns
        The optics table's columns.
    notes
        What was taken for granted.
    """

    groups: tuple[OpticsGroup, ...]
    group: IntArray
    coordinate_angst: FloatArray
    group_numbers: IntArray | None
    columns: dict[str, NDArray[Any]]
    notes: tuple[str, ...]


def tomo_optics(
    particles: StarTable, optics: StarTable | None, tomograms: Tomograms, rows: IntArray, extracted: bool
) -> TomoOptics:
    """The optics groups of particles.

    Parameters
    ----------
    particles
        The particles that have a tomogram.
    optics
        The optics table; None: one group is made for each ``rlnOpticsGroupName`` of the tomograms.
    tomograms
        The table of tomograms.
    rows
        (n,) each particle's row in it.
    extracted
        The images are extracted stacks, whose pixel size, box and CTF are those of the optics table.

    Raises
    ------
    FormatError
        If a particle's group is not defined, or an optics row and a tomogram's row disagree.
    """
    made = None
    if optics is None:
        optics, made = _made_optics(particles, tomograms, rows)
    columns = {} if _GROUP not in particles else {_GROUP: particles.column(_GROUP)}
    if made is not None:
        columns[_GROUP] = made
    for label, values in tomograms.microscope.items():
        if label not in optics:
            columns[label] = values[rows]
    tables = relion_tables(replace(particles, columns=columns), optics)
    _check_agreement(tables, tomograms, rows)
    notes = []
    if made is not None:
        notes.append(
            f"{particles.source} has no data_optics: {len(optics)} optics groups are made of the tomograms'"
        )
    unbinned = tables.shared(PIXEL)
    if unbinned is None:
        notes.append(f"{optics.source}: block '{optics.block}' has no _{PIXEL}: the tomograms' is taken")
        unbinned = tomograms.pixel_angst[rows]
    groups, group = optics_groups(tables, _image_pixel(tables) if extracted else unbinned)
    if not extracted:  # windows are cut from the tilt series, whatever boxes were extracted before
        groups = tuple(replace(entry, box_size=0, ctf_premultiplied=False) for entry in groups)
    return TomoOptics(groups, group, unbinned, made, dict(optics.columns), tuple(notes))


def _made_optics(particles: StarTable, tomograms: Tomograms, rows: IntArray) -> tuple[StarTable, IntArray]:
    """An optics table of the tomograms' groups, in the order in which particles name them, and the numbers."""
    used, place = np.unique(rows, return_inverse=True)
    names = [tomograms.group_name(row) for row in used.tolist()]
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    values = {PIXEL: tomograms.pixel_angst, **tomograms.microscope}
    keys: list[Any] = [np.array([codes[name] for name in names])[place]]
    keys += [column[rows] for column in values.values()]
    first, group = distinct_rows(keys, len(rows))
    columns: dict[str, NDArray[Any]] = {
        _GROUP: np.arange(1, len(first) + 1),
        "rlnOpticsGroupName": np.array([names[place[row]] for row in first.tolist()], object),
        **{label: column[rows[first]] for label, column in values.items()},
    }
    return StarTable(particles.source, "optics", columns, len(first)), group + 1


def _check_agreement(tables: RelionTables, tomograms: Tomograms, rows: IntArray) -> None:
    """Raise FormatError naming an optics row and a tomogram's row that particles connect and that disagree."""
    optics = tables.optics
    if optics is None:
        return
    pairs = np.unique(np.stack([tables.optics_row, rows], axis=1), axis=0)
    for label, values in {PIXEL: tomograms.pixel_angst, **tomograms.microscope}.items():
        if label not in optics:
            continue
        own = optics.numbers(label)
        check_finite(optics, label, own)
        wrong = np.abs(own[pairs[:, 0]] - values[pairs[:, 1]]) > _TOLERANCE
        if wrong.any():
            row, tomogram = pairs[int(np.argmax(wrong))].tolist()
            raise FormatError(
                f"{optics.where(row)}: _{label} is {own[row]:g}, but {values[tomogram]:g} in "
                f"{tomograms.table.where(tomogram)} (tomogram '{tomograms.table.texts('rlnTomoName')[tomogram]}'); "
                "they must agree within 0.001"
            )


def _image_pixel(tables: RelionTables) -> FloatArray:
    """(n,) pixel size of extracted images; raises FormatError naming the optics row."""
    optics, label = tables.optics, "rlnImagePixelSize"
    if optics is None or label not in optics:
        source = tables.particles.source
        raise FormatError(f"{source}: block 'optics' has no _{label}, the pixel size of the extracted images")
    values = optics.numbers(label)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{optics.where(row)}: _{label}: expected a size above 0, got {values[row]:g}")
    result: FloatArray = values[tables.optics_row]
    return result
