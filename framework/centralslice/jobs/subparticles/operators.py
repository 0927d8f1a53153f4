"""Symmetry operators in the order by which sub-particles are numbered."""

from __future__ import annotations

import math
import re

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.geometry.groups import find_operators
from centralslice.plugin.registry import Registry

#: (az, alt, phi) of EMAN2's operators for the names it has besides cN and dN; icos from levels of (a; c).
_TETRAHEDRAL_TILT = math.degrees(math.acos(-1 / 3))
_ICOSAHEDRAL_TILT = math.degrees(math.atan(2))


def numbered_operators(name: str, registry: Registry) -> FloatArray:
    """(n, 3, 3) operators of a point group, in EMAN2's order for the names that it has.

    Other settings, and icos2, keep the order of the symmetry's plugin; identity is first everywhere.
    """
    rotations = registry.symmetry(name).rotations()
    order = _order(name.strip().lower(), rotations)
    return rotations if order is None else rotations[order]


def _order(name: str, rotations: FloatArray) -> IntArray | None:
    angles = _eman2_angles(name)
    if angles is None or len(angles) != len(rotations):
        return None
    return find_operators(rotations, eman2_to_matrices(*angles.T))


def _eman2_angles(name: str) -> FloatArray | None:
    """(n, 3) az, alt, phi, or None where EMAN2 has no such name or its order is not known."""
    found = re.fullmatch(r"([cd])(\d{1,3})", name)
    if found:
        turns = 360.0 * np.arange(int(found[2])) / max(int(found[2]), 1)
        rows = [(az, 0.0, 0.0) for az in turns]
        return np.array(rows + ([(az, 180.0, 0.0) for az in turns] if found[1] == "d" else []))
    makers = {"tet": _tetrahedral, "oct": _octahedral, "icos": _icosahedral}
    return makers[name]() if name in makers else None


def _tetrahedral() -> FloatArray:
    rows = [(0.0, 0.0, phi) for phi in (0.0, 120.0, 240.0)]
    rows += [(az, _TETRAHEDRAL_TILT, phi) for az in (0.0, 120.0, 240.0) for phi in (60.0, 180.0, 300.0)]
    return np.array(rows)


def _octahedral() -> FloatArray:
    quarter = (0.0, 90.0, 180.0, 270.0)
    rows = [(0.0, 0.0, phi) for phi in quarter]
    rows += [(az, 90.0, phi) for az in quarter for phi in quarter]
    return np.array(rows + [(0.0, 180.0, phi) for phi in quarter])


def _icosahedral() -> FloatArray:
    fifths = (0.0, 288.0, 216.0, 144.0, 72.0)
    levels = (
        (0.0, (0.0,), fifths),
        (_ICOSAHEDRAL_TILT, (0.0, 72.0, 144.0, 216.0, 288.0), (36.0, 324.0, 252.0, 180.0, 108.0)),
        (180.0 - _ICOSAHEDRAL_TILT, (36.0, 108.0, 180.0, 252.0, 324.0), fifths),
        (180.0, (0.0,), fifths),
    )
    return np.array(
        [(a + 90.0, alt, c - 90.0) for alt, around, turned in levels for a in around for c in turned]
    )


def helical_operators(
    twist_deg: float, rise_angst: float, count: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Operators of a helix along z as RELION's symmetry expansion makes them.

    Returns
    -------
    numbers
        (count,) n from −(count − 1) // 2 to count // 2.
    rotations, translations_angst
        Turns by n · twist about z and n · rise along it: a copy's pose is (A S, s + (A t)_xy).
    """
    numbers = np.arange(-((count - 1) // 2), count // 2 + 1)
    angle = np.radians(twist_deg * numbers)
    rotations = np.zeros((count, 3, 3))
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angle)
    rotations[:, 1, 0], rotations[:, 0, 1] = np.sin(angle), -np.sin(angle)
    rotations[:, 2, 2] = 1.0
    translations = np.zeros((count, 3))
    translations[:, 2] = rise_angst * numbers
    return numbers.astype(np.int64), rotations, translations
