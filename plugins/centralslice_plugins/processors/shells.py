"""Radial curves of half transforms: shell means by linear bin splitting, and curves looked up at a radius.

Radii are Fourier pixels of the y axis, ``f · ny``; bins reach to the corner of the transform.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from centralslice.conventions import ComplexArray, FloatArray, IntArray

from .fourier_base import half_frequencies, half_frequency

Compat = Literal["none", "eman2"]


def half_radius(shape: tuple[int, ...]) -> FloatArray:
    """Radius of each sample of a half transform, Fourier pixels of the y axis."""
    return half_frequency(shape) * shape[-2]


def lookup_radius(shape: tuple[int, ...], compat: Compat) -> FloatArray:
    """Radius at which a curve is looked up.

    EMAN2 2.99 divides kx by the padded row length n + 2 there, which stretches its filters along x
    (``compat="eman2"`` does the same).
    """
    if compat == "none":
        return half_radius(shape)
    *rest, along_x = half_frequencies(shape)
    narrowed = along_x * shape[-1] / (shape[-1] + 2)
    radius: FloatArray = np.sqrt(sum(axis**2 for axis in rest) + narrowed**2) * shape[-2]
    return radius


def sample_weights(shape: tuple[int, ...], compat: Compat) -> FloatArray:
    """How often each sample of a half transform counts: 2 where its Friedel mate is left out.

    EMAN2 2.99 counts each stored sample of a 3D transform once, without those of the plane kx = 0
    that lie beyond the Nyquist plane of z, whatever their mates (``compat="eman2"``).
    """
    half = (*shape[:-1], shape[-1] // 2 + 1)
    if compat == "eman2" and len(shape) == 3:
        weights = np.ones(half)
        weights[shape[0] // 2 + 1 :, :, 0] = 0.0
        return weights
    weights = np.full(half, 2.0)
    weights[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        weights[..., -1] = 1.0
    return weights


class Shells:
    """Weighted means over shells of one shape of half transform; each sample is split between two bins."""

    def __init__(self, shape: tuple[int, ...], compat: Compat = "none") -> None:
        radius = half_radius(shape).ravel()
        self._low: IntArray = np.floor(radius).astype(np.int64)
        self.count = int(self._low.max()) + 2
        weights = sample_weights(shape, compat).ravel()
        self._upper = (radius - self._low) * weights
        self._lower = weights - self._upper
        self._total = self._sums(np.ones_like(radius))

    def _sums(self, values: FloatArray) -> FloatArray:
        below = np.bincount(self._low, self._lower * values, self.count)
        above = np.bincount(self._low + 1, self._upper * values, self.count)
        sums: FloatArray = np.asarray(below + above, dtype=np.float64)
        return sums

    def mean(self, values: FloatArray) -> FloatArray:
        """Mean of real values (shape of the half transform) in each shell, (count,); 0 in empty ones."""
        sums = self._sums(np.asarray(values, dtype=np.float64).ravel())
        return np.divide(sums, self._total, out=np.zeros_like(sums), where=self._total > 0)

    def power(self, values: ComplexArray) -> FloatArray:
        """Mean |F|² in each shell."""
        return self.mean(values.real.astype(np.float64) ** 2 + values.imag.astype(np.float64) ** 2)


def looked_up(curve: FloatArray, radius: FloatArray) -> FloatArray:
    """A curve of shells at any radius, linear; its last value beyond its end."""
    found: FloatArray = np.interp(radius, np.arange(curve.size), curve)
    return found


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """``numerator / denominator``, 0 where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    found: FloatArray = np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)
    return found
