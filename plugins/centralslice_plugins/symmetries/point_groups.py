"""The point groups of proper rotations, in EMAN2's and RELION's settings, from exact axes.

Words are EMAN2's names (tet, oct, icos, icos2, icos5), single letters RELION's (C, D, T, O, I, I1 … I4);
upper and lower case are the same. The settings differ for T (turned 180° about z against tet) and I.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Self

import numpy as np

from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError
from centralslice.geometry.groups import close_group
from centralslice.geometry.rotations import axis_rotation, rotation_x, rotation_z

#: The names that exist, for messages.
KNOWN_NAMES = "c1 … c999, d1 … d999, tet, T, oct, O, icos, icos5, icos2, I, I1 … I4, hN:NSTART:TWIST:RISE"
LARGEST_ORDER = 999

_GOLDEN = (1 + sqrt(5)) / 2
_Axis = tuple[float, float, float]

# generators: (axis, fold); two that do not share a subgroup are enough
_TETRAHEDRAL: dict[str, tuple[tuple[_Axis, int], ...]] = {
    "tet": (((0, 0, 1), 3), ((0, sqrt(2), -1), 2)),
    "t": (((0, 0, 1), 3), ((0, sqrt(2), 1), 2)),
}
_ICOSAHEDRAL: dict[str, tuple[tuple[_Axis, int], ...]] = {
    "i1": (((1, 0, 0), 2), ((_GOLDEN, 0, 1), 5)),
    "i2": (((0, 0, 1), 2), ((1, 0, _GOLDEN), 5)),
    "i3": (((0, 0, 1), 5), ((-1, 0, _GOLDEN), 2)),
    "i4": (((0, 0, 1), 5), ((1, 0, _GOLDEN), 2)),
}
_ICOSAHEDRAL_NAMES = {"icos": "i4", "icos5": "i4", "icos2": "i1", "i": "i2"} | {
    name: name for name in _ICOSAHEDRAL
}


def _generated(generators: tuple[tuple[_Axis, int], ...]) -> FloatArray:
    return close_group(np.array([axis_rotation(axis, 360 / fold) for axis, fold in generators]))


def unknown_symmetry(name: str) -> ParameterError:
    """The error for a name that is no symmetry."""
    return ParameterError(f"symmetry '{name}': no such symmetry (known: {KNOWN_NAMES})")


def _order_of(name: str, letter: str) -> int:
    """N of ``cN``, ``dN``."""
    digits = name[1:]
    if name[:1].lower() != letter or not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        raise unknown_symmetry(name)
    return int(digits)


def _check_order(letter: str, fold: int) -> None:
    if not 1 <= fold <= LARGEST_ORDER:
        raise ParameterError(
            f"symmetry '{letter}{fold}': expected {letter}1 … {letter}{LARGEST_ORDER} (known: {KNOWN_NAMES})"
        )


def _cyclic(fold: int) -> FloatArray:
    """(fold, 3, 3) rotations about z, quarter turns exact."""
    operators = rotation_z(360 * np.arange(fold) / fold)
    operators[np.abs(operators) < 1e-15] = 0.0
    return operators


@dataclass(frozen=True, slots=True)
class Cyclic(Symmetry):
    """N-fold about z."""

    plugin_name: ClassVar[str] = "cyclic"
    fold: int

    def __post_init__(self) -> None:
        _check_order("c", self.fold)

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``cN``."""
        return cls(_order_of(name, "c"))

    def rotations(self) -> FloatArray:
        """(N, 3, 3): turns by 360°/N about z."""
        return _cyclic(self.fold)


@dataclass(frozen=True, slots=True)
class Dihedral(Symmetry):
    """N-fold about z, 2-fold about x and every 180°/N from it."""

    plugin_name: ClassVar[str] = "dihedral"
    fold: int

    def __post_init__(self) -> None:
        _check_order("d", self.fold)

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``dN``."""
        return cls(_order_of(name, "d"))

    def rotations(self) -> FloatArray:
        """(2N, 3, 3): the turns about z, then each times the 2-fold about x."""
        turns = _cyclic(self.fold)
        return np.concatenate([turns, turns @ np.rint(rotation_x(180.0))]) + 0.0


@dataclass(frozen=True, slots=True)
class Tetrahedral(Symmetry):
    """12 operators, 3-fold about z.

    ``tet`` (EMAN2): 2-fold at (0, √2, −1), other 3-fold at (0, √8, 1).
    ``t`` (RELION): 2-fold at (0, √2, 1), other 3-fold at (0, √8, −1).
    """

    plugin_name: ClassVar[str] = "tetrahedral"
    setting: str

    def __post_init__(self) -> None:
        if self.setting not in _TETRAHEDRAL:
            raise unknown_symmetry(self.setting)

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``tet`` or ``T``."""
        return cls(name.lower())

    def rotations(self) -> FloatArray:
        """(12, 3, 3)."""
        return _generated(_TETRAHEDRAL[self.setting])


@dataclass(frozen=True, slots=True)
class Octahedral(Symmetry):
    """24 operators: 4-folds about x, y, z, 3-folds about (±1, ±1, ±1); the same in EMAN2 and RELION."""

    plugin_name: ClassVar[str] = "octahedral"

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``oct`` or ``O``."""
        if name.lower() not in ("oct", "o"):
            raise unknown_symmetry(name)
        return cls()

    def rotations(self) -> FloatArray:
        """(24, 3, 3), entries exactly 0 and ±1."""
        return np.rint(_generated((((0, 0, 1), 4), ((1, 1, 1), 3)))) + 0.0


@dataclass(frozen=True, slots=True)
class Icosahedral(Symmetry):
    """60 operators, g = (1 + √5) / 2.

    ======================  ===============================================
    I1 = icos2 (EMAN2)      2-folds x, y, z; 5-folds at (g, 0, 1), (0, 1, g)
    I2 = I = i (RELION)     2-folds x, y, z; 5-folds at (1, 0, g), (0, g, 1)
    I3                      5-fold z; 2-folds y and (−1, 0, g)
    I4 = icos, icos5        5-fold z; 2-folds y and (1, 0, g)
    ======================  ===============================================

    ``i`` alone has RELION's meaning I2. (EMAN2's help offers ``i`` too, but its programs refuse it; write
    ``icos`` for EMAN2's setting.)
    """

    plugin_name: ClassVar[str] = "icosahedral"
    setting: str

    def __post_init__(self) -> None:
        if self.setting not in _ICOSAHEDRAL:
            raise unknown_symmetry(self.setting)

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``icos``, ``icos5``, ``icos2``, ``I``, ``I1`` … ``I4``."""
        setting = _ICOSAHEDRAL_NAMES.get(name.lower())
        if setting is None:
            raise unknown_symmetry(name)
        return cls(setting)

    def rotations(self) -> FloatArray:
        """(60, 3, 3)."""
        return _generated(_ICOSAHEDRAL[self.setting])
