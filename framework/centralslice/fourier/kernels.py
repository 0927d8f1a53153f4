"""Interpolation windows: a width, φ(u) and what the framework derives from them.

A window is separable, of integer width w in grid voxels, and zero beyond ``|u| = w / 2``. The insertion loop
evaluates it as one polynomial a cell, fitted here, so any φ(u), also a third party's, runs at the same speed
and nothing is compiled for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import i0

from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError
from centralslice.fourier.simd import COEFFICIENTS, lanes_of

MAX_WIDTH = 8

#: φ(u) of an array of distances |u| <= w / 2 in grid voxels.
WindowFunction = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Window:
    """A window ready for insertion.

    Attributes
    ----------
    width
        Voxels per axis, 1 … 8.
    coefficients
        (COEFFICIENTS, 8) float64: voxel j of the window has the value ``Σ_d c[d, j] f^d``, where f in [0, 1)
        is the distance from the window's edge to its first voxel.
    fit_error
        Largest deviation of the polynomials from φ, relative to its maximum.
    nodes, values
        Quadrature nodes (u, weight·φ) over the window, for its transform.
    """

    width: int
    coefficients: FloatArray
    fit_error: float
    nodes: FloatArray
    values: FloatArray

    def table(self, kind: Any) -> FloatArray:
        """The coefficients as the insertion loop reads them: (COEFFICIENTS, 4 · lanes) of a dtype."""
        lanes = lanes_of(self.width)
        return np.ascontiguousarray(np.tile(self.coefficients[:, :lanes], (1, 4)), kind)

    def transform(self, distance: FloatArray, grid_size: int) -> FloatArray:
        """``∫ φ(u) cos(2π u x / G) du`` at real-space distances x (voxels), normalised to ∫ φ = 1.

        A densely sampled weighted mean convolves the transform with φ, which multiplies the map by this.
        """
        angles = 2 * np.pi / grid_size * np.multiply.outer(np.asarray(distance, np.float64), self.nodes)
        profile: FloatArray = np.cos(angles) @ self.values / self.values.sum()
        return profile


def fit_window(width: int, function: WindowFunction) -> Window:
    """Fit the polynomials of a window, normalised so that ∫ φ = 1.

    Parameters
    ----------
    width
        Integer width in grid voxels, 1 … 8.
    function
        φ(u), vectorised; called only with |u| <= width / 2.

    Raises
    ------
    ParameterError
        If the width is not an integer in range, φ is not finite, or its integral is not positive.
    """
    if int(width) != width or not 1 <= width <= MAX_WIDTH:
        raise ParameterError(f"width: expected a whole number of voxels from 1 to {MAX_WIDTH}, got {width}")
    width = int(width)
    knots, weights = np.polynomial.legendre.leggauss(32)
    fractions = (knots + 1) / 2
    cells = np.arange(width) - width / 2
    nodes = (cells[:, None] + fractions).ravel()
    values = np.asarray(function(nodes), np.float64) * np.tile(weights / 2, width)
    integral = values.sum()
    if not np.all(np.isfinite(values)) or not integral > 0:
        raise ParameterError("interpolation window: φ(u) must be finite and have a positive integral")
    scaled = values.reshape(width, -1) / np.tile(weights / 2, (width, 1)) / integral
    coefficients = np.zeros((COEFFICIENTS, MAX_WIDTH))
    powers = np.polynomial.polynomial.polyvander(fractions, COEFFICIENTS - 1)
    basis = np.polynomial.chebyshev.chebvander(2 * fractions - 1, COEFFICIENTS - 1)
    to_powers = np.linalg.lstsq(powers, basis, rcond=None)[0]
    fitted = np.linalg.lstsq(basis, scaled.T, rcond=None)[0]
    coefficients[:, :width] = to_powers @ fitted
    error = float(np.abs(powers @ coefficients[:, :width] - scaled.T).max() / np.abs(scaled).max())
    return Window(width, coefficients, error, nodes, values / integral)


def kaiser_bessel(width: int, beta: float) -> WindowFunction:
    """Kaiser–Bessel window ``I0(β √(1 − (2u/w)²))`` (Jackson et al. 1991, eq. 12)."""

    def window(u: FloatArray) -> FloatArray:
        inside = np.sqrt(np.maximum(0.0, 1 - (2 * u / width) ** 2))
        values: FloatArray = i0(beta * inside) / i0(beta)
        return values

    return window


def kaiser_bessel_beta(width: int, oversampling: float) -> float:
    """Shape parameter of least aliasing (Beatty, Nishimura & Pauly 2005, eq. 5)."""
    return float(np.pi * np.sqrt(max(0.0, (width / oversampling * (oversampling - 0.5)) ** 2 - 0.8)))
