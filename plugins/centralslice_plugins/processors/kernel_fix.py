"""Corrections of a map for the interpolation kernel it was gridded with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.conventions import FloatArray
from centralslice.errors import InputError

from .base import BuiltinProcessor, centred_grid


@dataclass(frozen=True, kw_only=True)
class GaussKernelFix(BuiltinProcessor):
    """Multiplies a map by ``exp(G Σ (x/n)²)``, which undoes a Gaussian interpolation kernel.

    Offsets x are from n // 2. EMAN2's modes have G = 4 (gauss_2), 6.4 (gauss_3), 10.4 (gauss_5). Each axis
    is divided by its own length; EMAN2 2.99 divides all by ny.
    """

    plugin_name: ClassVar[str] = "math.gausskernelfix"
    gauss_width: float = parameter(unit="", doc="G; for a kernel exp(−δ²/I) it is π² I")

    def _check_parameters(self) -> None:
        self._require(0 <= self.gauss_width <= 100, "gauss_width", "0 … 100")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        result = data
        for axis, size in zip(centred_grid(data.shape), data.shape, strict=True):
            result = result * np.exp(self.gauss_width * (axis / size) ** 2).astype(data.dtype)
        return result


#: Offsets (in thirds of a voxel) that the kernels of the gridding modes keep.
_KEPT = {"gridding_5": 7, "gridding_7": 10}
#: Largest gain relative to the centre; where the kernel's transform is smaller, there is nothing to restore.
_MOST_GAIN = 8.0


@lru_cache(maxsize=2)
def gridding_kernel(mode: str) -> FloatArray:
    """The 3D kernel of an EMAN2 gridding mode at whole-voxel offsets, (2m + 1,)·3, 1 at its centre.

    It is made by alternating projections, as in EMAN2: a centred ball with a Gaussian edge, limited in turn
    to a cube of 236/768 of the period in real space and to a few offsets (thirds of a voxel) in Fourier
    space, 64 times. Both limits are products over the axes, so a round is one small matrix an axis.
    """
    kept, period, spacing = _KEPT[mode], 768, 4
    points = (np.arange(59) - 29) * spacing
    distance = np.sqrt(points[:, None, None] ** 2 + points[None, :, None] ** 2 + points**2)
    ball = np.exp(-((np.maximum(distance - 72, 0.0) / 72.0) ** 2))
    offsets = np.arange(-kept, kept + 1)
    to_fourier = np.cos(2.0 * np.pi * np.outer(offsets, points) / period)
    one_round = np.linalg.matrix_power(to_fourier @ to_fourier.T * spacing / period, 63)
    seed = np.einsum("ai,bj,ck,ijk->abc", to_fourier, to_fourier, to_fourier, ball, optimize=True)
    kernel = np.einsum("ai,bj,ck,ijk->abc", one_round, one_round, one_round, seed, optimize=True)
    whole = slice(kept % 3, None, 3)
    found: FloatArray = kernel[whole, whole, whole] / kernel[kept, kept, kept]
    found.setflags(write=False)
    return found


@dataclass(frozen=True, kw_only=True)
class GridKernelFix(BuiltinProcessor):
    """Divides a map by the transform of the kernel of a gridding mode.

    The gain is 1 at the centre and at most 8. EMAN2 2.99 leaves an overall factor that depends on the mode
    and negative gains near the rim.
    """

    plugin_name: ClassVar[str] = "math.gridkernelfix"
    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    functor: Literal["gridding_5", "gridding_7"] = parameter(unit="", doc="interpolation mode of the map")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        kernel = gridding_kernel(self.functor)
        reach = kernel.shape[0] // 2
        if min(data.shape) < 2 * reach + 1:
            raise InputError(f"{self.plugin_name}: expected at least {2 * reach + 1} voxels a side")
        offsets = np.arange(-reach, reach + 1)
        waves = [
            np.cos(2.0 * math.pi * np.outer(np.arange(size) - size // 2, offsets) / size)
            for size in data.shape
        ]
        envelope = np.einsum("ai,bj,ck,ijk->abc", *waves, kernel, optimize=True) / kernel.sum()
        gain: FloatArray = 1.0 / np.maximum(envelope, 1.0 / _MOST_GAIN)
        return data * gain.astype(data.dtype)
