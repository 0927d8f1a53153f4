"""Helices along z: operator lists with translations, not groups."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import ParameterError
from centralslice.geometry.groups import operator_product
from centralslice.geometry.rotations import rotation_z

_FORM = "hN:NSTART:TWIST:RISE[:MAXTILT], e.g. h21:1:22.03:1.408"
_LARGEST_COUNT = 9999


@dataclass(frozen=True, slots=True)
class Helical(Symmetry):
    """``count`` subunits of a helix along z, each with ``starts``-fold copies about z.

    Attributes
    ----------
    count
        Number of operators along the helix: h = 0, +1, −1, +2, …
    starts
        Number of strands, related by a rotation of 360°/starts about z.
    twist_deg
        Turn from a subunit to the next, degrees; positive with a positive rise is a right-handed helix.
    rise_angst
        Rise from a subunit to the next along z, Å.
    max_tilt_deg
        EMAN2's fifth number: how far out of plane orientations are *generated* for such a helix. A
        reconstruction takes its orientations from the data; it is checked and kept, and changes no operator.

    Notes
    -----
    The map is one whose copy h is itself turned by +h·twist about z and moved by +h·rise along z, so
    ``V(S r + t) = V(r)`` with ``S = Rz(h·twist)`` and ``t = (0, 0, h·rise)``.
    """

    plugin_name: ClassVar[str] = "helical"
    is_group: ClassVar[bool] = False
    count: int
    starts: int
    twist_deg: float
    rise_angst: float
    max_tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        for what, number in (("N", self.count), ("NSTART", self.starts)):
            if not 1 <= number <= _LARGEST_COUNT:
                raise ParameterError(f"helical symmetry: {what} must be 1 … {_LARGEST_COUNT}, got {number}")
        for what, value in (
            ("TWIST", self.twist_deg),
            ("RISE", self.rise_angst),
            ("MAXTILT", self.max_tilt_deg),
        ):
            if not math.isfinite(value):
                raise ParameterError(f"helical symmetry: {what} must be a finite number, got {value}")

    @classmethod
    def from_name(cls, name: str) -> Self:
        """``hN:NSTART:TWIST:RISE[:MAXTILT]``; commas may stand for the colons."""
        fields = re.split("[:,]", name[1:])
        if name[:1].lower() != "h" or not 4 <= len(fields) <= 5:
            raise ParameterError(f"symmetry '{name}': expected {_FORM}")
        try:
            counts = [int(text) for text in fields[:2]]
            numbers = [float(text) for text in fields[2:]]
        except ValueError as error:
            raise ParameterError(f"symmetry '{name}': expected {_FORM}") from error
        return cls(counts[0], counts[1], *numbers)

    def rotations(self) -> FloatArray:
        """(count · starts, 3, 3), identity first; the strands of one subunit follow each other."""
        return self._operators()[0]

    def translations_angst(self) -> FloatArray:
        """(count · starts, 3) in Å, along z."""
        return self._operators()[1]

    def _steps(self) -> IntArray:
        """h = 0, +1, −1, +2, −2, …, ``count`` of them."""
        numbers = np.arange(self.count)
        steps: IntArray = np.where(numbers % 2, (numbers + 1) // 2, -(numbers // 2))
        return steps

    def _operators(self) -> tuple[FloatArray, FloatArray]:
        steps = self._steps()
        along = np.zeros((self.count, 3))
        along[:, 2] = steps * self.rise_angst
        strands = rotation_z(360 * np.arange(self.starts) / self.starts)
        helix = (rotation_z(steps * self.twist_deg), along)
        return operator_product(helix, (strands, np.zeros((self.starts, 3))))
