"""A processor: a frozen dataclass whose fields are its parameters."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.abc.processor import Processor
from centralslice.conventions import FloatArray


@dataclass(frozen=True)
class Clip(Processor):
    """Limits outliers, such as dead or hot pixels, to ``mean ± sigmas · σ``."""

    plugin_name: ClassVar[str] = "acme.clip"
    sigmas: float = parameter(4.0, "σ", "largest deviation from the mean that is kept")

    def apply(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        """The data with outliers limited; same shape and dtype."""
        middle, width = data.mean(dtype=np.float64), self.sigmas * data.std(dtype=np.float64)
        return np.clip(data, middle - width, middle + width).astype(data.dtype)
