"""A reconstructor with an interpolation kernel of our own; insertion and correction are the framework's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.fourier.reconstruction import KernelReconstructor


@dataclass(frozen=True)
class Hann(KernelReconstructor):
    """Gridding with the Hann window ``cos²(π u / width)``."""

    plugin_name: ClassVar[str] = "acme_hann"
    width: int = parameter(4, "voxels", "width of the window on the padded grid")

    def kernel(self, u: FloatArray) -> FloatArray:
        """φ(u), at most 1, zero at |u| = width / 2."""
        values: FloatArray = np.cos(np.pi * u / self.width) ** 2
        return values
