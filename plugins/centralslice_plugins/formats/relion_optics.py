"""Optics groups, shifts and CTF parameters of RELION particle tables, of any version since 3.0.

From RELION 3.1 on an optics table holds what groups of particles share; before, every particle row
did. Both are brought to one form: each distinct combination of an optics row and of the values that
particle rows have of their own becomes one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.errors import FormatError
from centralslice_plugins.formats.groups import distinct_rows
from centralslice_plugins.formats.star import StarTable

_MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")

#: Label, default and smallest and largest allowed value of what a group has one number of.
_SCALARS = {
    "rlnVoltage": (0.0, 0.0, 1e4),
    "rlnSphericalAberration": (0.0, -1e3, 1e3),
    "rlnAmplitudeContrast": (0.0, 0.0, 1.0),
    "rlnBeamTiltX": (0.0, -1e3, 1e3),
    "rlnBeamTiltY": (0.0, -1e3, 1e3),
    "rlnImageSize": (0.0, 0.0, 1e6),
    "rlnCtfDataAreCtfPremultiplied": (0.0, 0.0, 1.0),
}
_ROW_FIRST = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")


@dataclass(frozen=True, slots=True)
class RelionTables:
    """A particle table and its optics table (None before RELION 3.1).

    ``optics_row`` is the optics row of each particle, (n,) int64; zeros without an optics table.
    """

    particles: StarTable
    optics: StarTable | None
    optics_row: IntArray

    def own(self, label: str) -> FloatArray | None:
        """A column of the particle table, (n,), or None."""
        return self.particles.numbers(label) if label in self.particles else None

    def shared(self, label: str) -> FloatArray | None:
        """A column of the optics table, spread over the particles, or None."""
        if self.optics is None or label not in self.optics:
            return None
        return self.optics.numbers(label)[self.optics_row]

    def value(self, label: str, row_first: bool = True) -> FloatArray | None:
        """(n,) values from the particle rows, else from their optics rows (or the other way round)."""
        first, second = (self.own, self.shared) if row_first else (self.shared, self.own)
        found = first(label)
        return found if found is not None else second(label)

    def finite(self, label: str, default: float | FloatArray) -> FloatArray:
        """As :meth:`value`, with a default, every value finite."""
        values = self.value(label)
        if values is None:
            return np.broadcast_to(np.asarray(default, np.float64), (len(self.particles),)).copy()
        check_finite(self.particles, label, values)
        return values


def check_finite(table: StarTable, label: str, values: FloatArray) -> None:
    """Raise FormatError naming the first row that is NaN or infinite."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{table.where(row)}: _{label}: expected a finite number, got {values[row]}")


def relion_tables(particles: StarTable, optics: StarTable | None) -> RelionTables:
    """Look up each particle's optics row by its rlnOpticsGroup; groups may have any numbers in any order.

    Raises
    ------
    FormatError
        If a particle names a group that the optics table does not define, or a group is defined twice.
    """
    zeros = np.zeros(len(particles), np.int64)
    if optics is None:
        return RelionTables(particles, None, zeros)
    if len(optics) == 0:
        raise FormatError(f"{optics.source}: block '{optics.block}' holds no optics group")
    if "rlnOpticsGroup" not in particles or "rlnOpticsGroup" not in optics:
        if len(optics) > 1:
            lacking = particles if "rlnOpticsGroup" not in particles else optics
            raise FormatError(
                f"{particles.source}: block '{lacking.block}' has no _rlnOpticsGroup to tell "
                f"{len(optics)} optics groups apart"
            )
        return RelionTables(particles, optics, zeros)
    wanted, defined = particles.integers("rlnOpticsGroup"), optics.integers("rlnOpticsGroup")
    order = np.argsort(defined, kind="stable")
    twice = np.flatnonzero(np.diff(defined[order]) == 0)
    if len(twice):
        raise FormatError(
            f"{optics.where(int(order[twice[0] + 1]))}: optics group "
            f"{defined[order[twice[0]]]} is there twice"
        )
    place = np.minimum(np.searchsorted(defined, wanted, sorter=order), len(defined) - 1)
    rows = order[place]
    wrong = defined[rows] != wanted
    if wrong.any():
        row = int(np.argmax(wrong))
        known = ", ".join(map(str, defined.tolist()))
        raise FormatError(
            f"{particles.where(row)}: optics group {wanted[row]} is not in block '{optics.block}' "
            f"(there: {known})"
        )
    return RelionTables(particles, optics, rows)


def pixel_sizes(tables: RelionTables) -> FloatArray | None:
    """(n,) pixel size of the particle images, Å, or None if the file says nothing.

    The optics table's rlnImagePixelSize counts first, then a particle's own, then rlnPixelSize, then
    10⁴ · rlnDetectorPixelSize / rlnMagnification (µm to Å).
    """
    for label in ("rlnImagePixelSize", "rlnPixelSize"):
        found = tables.value(label, row_first=label == "rlnPixelSize")
        if found is not None:
            return _positive(tables, label, found)
    detector, magnification = tables.value("rlnDetectorPixelSize"), tables.value("rlnMagnification")
    if detector is None or magnification is None:
        return None
    _positive(tables, "rlnMagnification", magnification)
    return 1e4 * _positive(tables, "rlnDetectorPixelSize", detector) / magnification


def _positive(tables: RelionTables, label: str, values: FloatArray) -> FloatArray:
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{tables.particles.where(row)}: _{label}: expected a size above 0, got {values[row]}"
        )
    return values


def shifts_angst(tables: RelionTables, pixel_angst: FloatArray) -> FloatArray:
    """(n, 2) shifts of the poses in Å: minus rlnOriginX/YAngst, or minus rlnOriginX/Y (pixels)."""
    particles = tables.particles
    for labels, factor in (
        (("rlnOriginXAngst", "rlnOriginYAngst"), None),
        (("rlnOriginX", "rlnOriginY"), pixel_angst),
    ):
        there = [label in particles for label in labels]
        if not any(there):
            continue
        origin = np.stack([particles.numbers(label) for label in labels], axis=1)
        for axis, label in enumerate(labels):
            check_finite(particles, label, origin[:, axis])
        shifts: FloatArray = -origin if factor is None else -origin * factor[:, None]
        return shifts + 0.0  # no negative zeros
    return np.zeros((len(particles), 2))


def optics_groups(tables: RelionTables, pixel_angst: FloatArray) -> tuple[tuple[OpticsGroup, ...], IntArray]:
    """The optics groups that particles are in, in the order of the optics table, and each particle's."""
    scalars = {
        label: _within(tables, label, tables.value(label, row_first=label in _ROW_FIRST))
        for label in _SCALARS
    }
    keys: list[Any] = [tables.optics_row, pixel_angst, *scalars.values()]
    if tables.optics is None and "rlnOpticsGroup" in tables.particles:
        keys.append(tables.particles.integers("rlnOpticsGroup"))
    first, group = distinct_rows(keys, len(tables.particles))
    order = np.argsort(tables.optics_row[first], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    extras = _Extras.of(tables.optics)
    groups = tuple(
        _group(place, {label: float(values[row]) for label, values in scalars.items()}, extras)
        for place, row in (
            ((number, int(tables.optics_row[row]), float(pixel_angst[row])), row)
            for number, row in enumerate(first[order].tolist())
        )
    )
    return groups, rank[group].astype(np.int64)


def _within(tables: RelionTables, label: str, values: FloatArray | None) -> FloatArray:
    """Values of a label, all within its range; its default where there are none."""
    default, least, most = _SCALARS[label]
    if values is None:
        return np.full(len(tables.particles), default)
    wrong = ~((values >= least) & (values <= most))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{tables.particles.where(row)}: _{label}: expected {least:g} to {most:g}, got {values[row]}"
        )
    return values


@dataclass(frozen=True, slots=True)
class _Extras:
    """What only an optics table has, row by row."""

    names: list[str]
    odd_zernike: list[tuple[float, ...]]
    even_zernike: list[tuple[float, ...]]
    magnification: list[tuple[float, float, float, float]]

    @classmethod
    def of(cls, optics: StarTable | None) -> _Extras | None:
        if optics is None:
            return None
        count = len(optics)
        none: list[tuple[float, ...]] = [()] * count
        vectors = [
            optics.vectors(label) if label in optics else none
            for label in ("rlnOddZernike", "rlnEvenZernike")
        ]
        numbers = [str(row + 1) for row in range(count)]
        if "rlnOpticsGroup" in optics:
            numbers = optics.texts("rlnOpticsGroup").tolist()
        names = [f"optics{number}" for number in numbers]
        if "rlnOpticsGroupName" in optics:
            names = optics.texts("rlnOpticsGroupName").tolist()
        return cls(names, vectors[0], vectors[1], _magnifications(optics))


def _magnifications(optics: StarTable) -> list[tuple[float, float, float, float]]:
    """Each row's magnification matrix; raises FormatError for a singular one."""
    there = [label in optics for label in _MAGNIFICATION]
    if not any(there):
        return [(1.0, 0.0, 0.0, 1.0)] * len(optics)
    columns = [optics.numbers(label) for label in _MAGNIFICATION]
    for label, column in zip(_MAGNIFICATION, columns, strict=True):
        check_finite(optics, label, column)
    determinant = columns[0] * columns[3] - columns[1] * columns[2]
    wrong = np.abs(determinant) < 1e-3
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{optics.where(row)}: _rlnMagMat00 … 11: expected a matrix near the identity, got "
            f"determinant {determinant[row]:g}"
        )
    m00, m01, m10, m11 = (column.tolist() for column in columns)
    return list(zip(m00, m01, m10, m11, strict=True))


def _group(place: tuple[int, int, float], scalars: dict[str, float], extras: _Extras | None) -> OpticsGroup:
    """One group; ``place`` is its number, its optics row and its pixel size."""
    number, row, pixel_angst = place
    common: dict[str, Any] = {
        "pixel_size_angst": pixel_angst,
        "box_size": round(scalars["rlnImageSize"]),
        "voltage_kv": scalars["rlnVoltage"],
        "spherical_aberration_mm": scalars["rlnSphericalAberration"],
        "amplitude_contrast": scalars["rlnAmplitudeContrast"],
        "beam_tilt_mrad": (scalars["rlnBeamTiltX"], scalars["rlnBeamTiltY"]),
        "ctf_premultiplied": scalars["rlnCtfDataAreCtfPremultiplied"] != 0,
    }
    if extras is None:
        return OpticsGroup(name=f"optics{number + 1}", **common)
    return OpticsGroup(
        name=extras.names[row],
        odd_zernike=extras.odd_zernike[row],
        even_zernike=extras.even_zernike[row],
        magnification=extras.magnification[row],
        **common,
    )


def contrast_transfer(tables: RelionTables) -> ContrastTransfer | None:
    """CTF parameters from the particle row, the optics row or defaults; None without a defocus."""
    if tables.value("rlnDefocusU") is None:
        return None
    defocus_u = tables.finite("rlnDefocusU", 0.0)
    return ContrastTransfer(
        defocus_u_angst=defocus_u,
        defocus_v_angst=tables.finite("rlnDefocusV", defocus_u),
        defocus_angle_deg=tables.finite("rlnDefocusAngle", 0.0),
        phase_shift_deg=tables.finite("rlnPhaseShift", 0.0),
        bfactor_angst2=tables.finite("rlnCtfBfactor", 0.0),
        scale=tables.finite("rlnCtfScalefactor", 1.0),
    )
