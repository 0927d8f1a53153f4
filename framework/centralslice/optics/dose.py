"""Radiation damage as a filter: how much of each frequency is left after a dose."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import FloatArray
from centralslice.errors import ParameterError


def critical_exposure(k: ArrayLike) -> FloatArray:
    """Exposure in e/Å² after which the signal at |k| (1/Å) has fallen to exp(−½); infinite at k = 0.

    ``0.245 k^−1.665 + 2.81`` (Grant & Grigorieff 2015, 300 kV).
    """
    frequency = np.abs(np.asarray(k, np.float64))
    with np.errstate(divide="ignore"):
        result: FloatArray = 0.245 * frequency**-1.665 + 2.81
    return result


def exposure_filter(k: ArrayLike, dose: ArrayLike) -> FloatArray:
    """Amplitude left at |k| (1/Å) after a dose in e/Å²: ``exp(−½ dose / critical exposure)``, 1 at k = 0.

    ``k`` and ``dose`` broadcast. Raises ParameterError if a dose is negative or not finite.
    """
    result: FloatArray = np.exp(-0.5 * _checked(dose) / critical_exposure(k))
    return result


def bfactor_filter(k: ArrayLike, dose: ArrayLike, bfactor_per_dose: float) -> FloatArray:
    """Amplitude left after a dose in e/Å² as a B factor: ``exp(−β · dose · k² / 4)``.

    ``bfactor_per_dose`` is β in Å² per e/Å² (rlnCtfBfactorPerElectronDose). Raises ParameterError if a
    dose is negative or not finite.
    """
    result: FloatArray = np.exp(-bfactor_per_dose / 4 * _checked(dose) * np.asarray(k, np.float64) ** 2)
    return result


def dose_filter(k: ArrayLike, dose: ArrayLike, bfactor_per_dose: float = 0.0) -> FloatArray:
    """The B-factor form if ``bfactor_per_dose`` is more than 0, else the exposure curve: RELION's choice."""
    if bfactor_per_dose > 0:
        return bfactor_filter(k, dose, bfactor_per_dose)
    return exposure_filter(k, dose)


def _checked(dose: ArrayLike) -> FloatArray:
    doses = np.asarray(dose, np.float64)
    if not np.all(np.isfinite(doses)) or np.any(doses < 0):
        raise ParameterError(f"dose: expected finite numbers ≥ 0 e/Å², got a minimum of {doses.min()}")
    return doses
