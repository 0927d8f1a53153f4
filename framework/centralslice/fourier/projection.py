"""How well images agree with slices of a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from centralslice.conventions import ComplexArray, FloatArray


def agreement_curves(samples: FloatArray, seed: ComplexArray) -> FloatArray:
    """Weights of each ring of each image from its Fourier ring correlation with the seed's slice.

    ``clip(FRC + 0.1, 0.01, 1)``, 1 in the first four rings.

    Parameters
    ----------
    samples
        (b, n, n // 2 + 1, 4) prepared slices.
    seed
        (b, n, n // 2 + 1) slices of the seed.

    Returns
    -------
        (b, n, n // 2 + 1) factors for value and weight.
    """
    size = samples.shape[1]
    rows = np.fft.fftfreq(size, 1 / size)
    rings = np.rint(np.hypot(rows[:, None], np.arange(size // 2 + 1))).astype(np.int64)
    values = samples[..., 0] + 1j * samples[..., 1]
    curves = np.empty(samples.shape[:3], samples.dtype)
    for number, (value, model) in enumerate(zip(values, seed, strict=True)):
        used = samples[number, ..., 2] > 0

        def over_rings(quantity: FloatArray, used: Any = used) -> FloatArray:
            return np.asarray(np.bincount(rings[used], quantity[used], minlength=rings.max() + 1), np.float64)

        cross = over_rings((value * model.conj()).real)
        power = np.sqrt(over_rings(np.abs(value) ** 2) * over_rings(np.abs(model) ** 2))
        curve = np.clip(np.divide(cross, power, out=np.zeros_like(cross), where=power > 0) + 0.1, 0.01, 1.0)
        curve[:4] = 1.0
        curves[number] = curve[rings]
    return curves
