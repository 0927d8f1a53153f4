"""Masks found from the map: connected density from seeds, and removal of dust.

Connected means sharing a face (6 neighbours).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.ndimage

from centralslice.abc.parameters import parameter
from centralslice.conventions import BoolArray, FloatArray
from centralslice.errors import InputError, ParameterError

from .base import BuiltinProcessor, mean_and_sigma, radius_grid
from .fourier_base import gaussian_decay, half_frequency, multiplied

_FACES = scipy.ndimage.generate_binary_structure(3, 1)


def connected(inside: BoolArray, seeds: BoolArray) -> BoolArray:
    """The parts of ``inside`` that hold a seed."""
    labels, count = scipy.ndimage.label(inside, _FACES)
    chosen = np.zeros(count + 1, dtype=bool)
    chosen[labels[seeds & inside]] = True
    chosen[0] = False
    found: BoolArray = chosen[labels]
    return found


def softened(mask: BoolArray, shells: int, gauss_shells: int) -> FloatArray:
    """A mask grown by ``shells + gauss_shells // 2`` voxels, with a Gaussian edge of ``gauss_shells`` voxels.

    The edge is a low-pass filter with 1/e at 1/gauss_shells cycles per voxel; values below 0.002 are 0.
    """
    grown = mask
    if shells + gauss_shells // 2 > 0:
        grown = scipy.ndimage.binary_dilation(mask, _FACES, iterations=shells + gauss_shells // 2)
    weights: FloatArray = grown.astype(np.float64)
    if gauss_shells > 0:
        weights = multiplied(weights, gaussian_decay(half_frequency(mask.shape), 1.0 / gauss_shells))
        weights[weights < 0.002] = 0.0
    return weights


@dataclass(frozen=True, kw_only=True)
class ConnectedMask(BuiltinProcessor):
    """A mask from connected density, grown and softened."""

    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    nshells: int = parameter(0, "voxels", "how far the mask is grown")
    nshellsgauss: int = parameter(0, "voxels", "width of a soft edge; grows the mask by half of it")
    return_mask: bool = parameter(False, "", "give the mask instead of the masked map")

    def _check_parameters(self) -> None:
        for name in ("nshells", "nshellsgauss"):
            self._require(getattr(self, name) >= 0, name, "a number >= 0")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        found = self._density(data)
        if not found.any():
            raise InputError(
                f"{self.plugin_name}: no density is connected to a seed; lower the threshold or change seeds"
            )
        mask = softened(found, self.nshells, self.nshellsgauss)
        if self.return_mask:
            return mask
        result: FloatArray = data * mask
        return result

    @abstractmethod
    def _density(self, data: FloatArray) -> BoolArray:
        """Where the density is, before it is grown."""


@dataclass(frozen=True, kw_only=True)
class AutoMask3d(ConnectedMask):
    """Masks a map by the density above a threshold that is connected to seeds.

    Seeds are the voxels above the threshold in a central ball and/or the highest voxels.
    """

    plugin_name: ClassVar[str] = "mask.auto3d"
    threshold: float | None = parameter(None, "", "density belongs to the mask above this")
    sigma: float | None = parameter(None, "sigma", "threshold as mean + sigma · standard deviation")
    radius: float = parameter(0.0, "voxels", "radius of the central ball of seeds; 0 is none")
    nmaxseed: int = parameter(0, "", "number of highest voxels taken as seeds")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._require(0 <= self.radius < math.inf, "radius", "a finite number >= 0")
        self._require(self.nmaxseed >= 0, "nmaxseed", "a number >= 0")
        if (self.threshold is None) == (self.sigma is None):
            raise ParameterError(f"{self.plugin_name}: give either threshold or sigma")
        if self.radius == 0 and self.nmaxseed == 0:
            raise ParameterError(f"{self.plugin_name}: no seeds; give radius or nmaxseed")

    def _density(self, data: FloatArray) -> BoolArray:
        level = self.threshold
        if level is None:
            mean, deviation = mean_and_sigma(data)
            level = mean + (self.sigma or 0.0) * deviation
        inside: BoolArray = data > level
        seeds: BoolArray = np.zeros(data.shape, dtype=bool)
        if self.radius > 0:
            seeds |= inside & (radius_grid(data.shape) <= self.radius)
        if self.nmaxseed > 0:
            count = min(self.nmaxseed, data.size)
            seeds.ravel()[np.argsort(data, axis=None, kind="stable")[-count:]] = True
        return connected(inside, seeds)


@dataclass(frozen=True, kw_only=True)
class AutoMask3dThresh(ConnectedMask):
    """Masks a map by density above a low threshold that is connected to density above a high one."""

    plugin_name: ClassVar[str] = "mask.auto3d.thresh"
    threshold1: float | None = parameter(None, "", "threshold of the seeds; mean + 2 sigma if not given")
    threshold2: float | None = parameter(None, "", "threshold of the mask; mean + sigma if not given")

    def _density(self, data: FloatArray) -> BoolArray:
        mean, sigma = mean_and_sigma(data)
        high = mean + 2.0 * sigma if self.threshold1 is None else self.threshold1
        low = mean + sigma if self.threshold2 is None else self.threshold2
        if low > high:
            raise InputError(f"{self.plugin_name}: threshold2 ({low:g}) is above threshold1 ({high:g})")
        return connected(data > low, data > high)


@dataclass(frozen=True, kw_only=True)
class Dust3d(BuiltinProcessor):
    """Removes small separate pieces of density.

    Pieces above the threshold of at most ``voxels`` voxels become 0. Around a piece the map is damped by the
    piece, grown by one voxel and blurred with a Gaussian of one voxel; other density is kept as it is.
    """

    plugin_name: ClassVar[str] = "mask.dust3d"
    dimensions: ClassVar[frozenset[int]] = frozenset({3})
    threshold: float = parameter(1.5, "", "density counts above this")
    voxels: int = parameter(27, "voxels", "largest piece that is removed")

    def _check_parameters(self) -> None:
        self._require(self.voxels >= 1, "voxels", "a number >= 1")

    def _process(self, data: FloatArray, voxel_size_angst: float) -> FloatArray:
        inside = data > self.threshold
        labels, count = scipy.ndimage.label(inside, _FACES)
        small = np.bincount(labels.ravel(), minlength=count + 1) <= self.voxels
        small[0] = False
        dust = small[labels]
        if not dust.any():
            return data
        grown = scipy.ndimage.binary_dilation(dust, _FACES).astype(np.float64)
        damping = scipy.ndimage.gaussian_filter(grown, 1.0, mode="constant")
        damping[inside & ~dust] = 0.0
        damping[dust] = 1.0
        result: FloatArray = data * (1.0 - damping)
        return result
