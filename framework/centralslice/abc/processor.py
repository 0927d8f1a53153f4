"""The processor contract: a pure function of an image or a map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from centralslice.conventions import FloatArray


class Processor(ABC):
    """``image or volume, voxel size -> same``; a frozen dataclass whose fields are its parameters.

    ``dimensions`` says what it takes: ``{2}``, ``{3}`` or both. A processor never changes its input,
    pickles, and gives the same result for the same input.
    """

    plugin_name: ClassVar[str]
    dimensions: ClassVar[frozenset[int]] = frozenset({2, 3})

    @abstractmethod
    def apply(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        """The processed data.

        Parameters
        ----------
        data
            (y, x) image or (z, y, x) map, float32 or float64.
        voxel_size_angst
            Pixel or voxel size, Å.

        Returns
        -------
            New array of the same dtype; of the same shape unless :meth:`voxel_size` says otherwise.
        """

    def voxel_size(self, voxel_size_angst: float) -> float:
        """Voxel size after :meth:`apply`; processors that resample override it."""
        return voxel_size_angst
