"""The symmetry contract: operators that map the map onto itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np

from centralslice.conventions import FloatArray


class Symmetry(ABC):
    """Rotations, and for helical symmetries translations, that map the map onto itself.

    ``is_group`` is False for helical operator lists, to which no group law applies.
    """

    plugin_name: ClassVar[str]
    is_group: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_name(cls, name: str) -> Self:
        """The symmetry of this name (``c7``, ``I1``, ``h21:1:22.03:1.408``), case-insensitive.

        Raises
        ------
        ParameterError
            If the name is not one of this family's, or its order is out of range.
        """

    @abstractmethod
    def rotations(self) -> FloatArray:
        """(n, 3, 3) float64 operators, identity first; the density satisfies V(S r) = V(r)."""

    def translations_angst(self) -> FloatArray:
        """(n, 3) float64 x, y, z in Å that go with the rotations: r -> S r + t. Zero for point groups."""
        return np.zeros((len(self.rotations()), 3))

    @property
    def order(self) -> int:
        """Number of operators."""
        return len(self.rotations())
