"""The default reconstructor: a Kaiser–Bessel window on an oversampled grid, refined once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError
from centralslice.fourier.kernels import kaiser_bessel, kaiser_bessel_beta
from centralslice.fourier.reconstruction import KernelReconstructor


@dataclass(frozen=True, kw_only=True)
class KaiserBessel(KernelReconstructor):
    """Kaiser–Bessel gridding on an oversampled grid with one least-squares refinement step.

    Window: Jackson et al. 1991; its shape: Beatty, Nishimura & Pauly 2005, eq. 5.
    """

    plugin_name: ClassVar[str] = "kaiser_bessel"

    beta: float = parameter(0.0, "", "shape of the window; 0 takes the shape of least aliasing")

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ParameterError(f"beta: expected >= 0, got {self.beta}")
        KernelReconstructor.__post_init__(self)

    def kernel(self, u: FloatArray) -> FloatArray:
        """I0(β √(1 − (2u/w)²))."""
        beta = self.beta or kaiser_bessel_beta(self.width, self.oversampling)
        return kaiser_bessel(self.width, beta)(u)
