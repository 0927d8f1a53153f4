"""Half-map FSC: unmasked, under a soft sphere, and under a mask with what the mask itself correlates taken off."""

from __future__ import annotations

import numpy as np
import scipy.fft

from centralslice.conventions import FloatArray
from centralslice.fourier.shells import (
    ShellCorrelation,
    fourier_shell_correlation,
    shell_numbers,
    soft_sphere,
)

#: Radius and edge of the sphere, in boxes.
SPHERE_RADIUS, SPHERE_EDGE = 0.4, 0.06
#: Phases are randomised from the shell on where the unmasked FSC falls below this (RELION's choice).
RANDOMISE_BELOW = 0.8
#: The corrected curve starts so many shells beyond; before it is the masked one.
RANDOMISE_MARGIN = 2


def half_map_fsc(
    first: FloatArray, second: FloatArray, voxel_size_angst: float, mask: FloatArray | None = None
) -> dict[str, ShellCorrelation]:
    """FSC of the half maps of the unpadded box.

    Parameters
    ----------
    first, second
        (n, n, n) half maps.
    voxel_size_angst
        Å.
    mask
        (n, n, n) soft mask, or None.

    Returns
    -------
        ``unmasked`` and ``sphere``; with a mask also ``mask``, ``randomised`` (masked, after the phases of both
        maps were randomised where the unmasked FSC is below 0.8) and ``corrected``,
        ``(mask − randomised) / (1 − randomised)`` from two shells after that on (Chen et al. 2013).
    """
    size, voxel = first.shape[0], voxel_size_angst
    sphere = soft_sphere(size, SPHERE_RADIUS * size, SPHERE_EDGE * size).astype(first.dtype)
    unmasked = fourier_shell_correlation(first, second, voxel)
    curves = {"unmasked": unmasked, "sphere": fourier_shell_correlation(first, second, voxel, sphere)}
    if mask is None:
        return curves
    masked = fourier_shell_correlation(first, second, voxel, mask)
    start = randomisation_start(unmasked)
    noise = fourier_shell_correlation(
        randomised_phases(first, start, 1), randomised_phases(second, start, 2), voxel, mask
    )
    corrected = masked.values.copy()
    late = np.arange(len(corrected)) >= start + RANDOMISE_MARGIN
    corrected[late] = ((masked.values - noise.values) / (1 - noise.values))[late]
    return {
        **curves, "mask": masked, "randomised": noise,
        "corrected": ShellCorrelation(masked.frequency, corrected),
    }  # fmt: skip


def randomisation_start(unmasked: ShellCorrelation) -> int:
    """The first shell where the unmasked FSC is below 0.8, the zero frequency apart."""
    below = np.flatnonzero(unmasked.values[1:] < RANDOMISE_BELOW)
    return int(below[0]) + 1 if len(below) else len(unmasked.values)


def randomised_phases(data: FloatArray, start: int, seed: int) -> FloatArray:
    """The map with uniformly random phases in shells from ``start`` on; amplitudes stay."""
    spectrum = scipy.fft.rfftn(data)
    # the transform of white noise has random phases with the symmetry of a real map's
    noise = np.random.default_rng(seed).standard_normal(data.shape, np.float32)
    phases = scipy.fft.rfftn(noise, overwrite_x=True)
    phases /= np.maximum(np.abs(phases), np.finfo(np.float32).tiny)
    late = shell_numbers(len(data)) >= start
    spectrum[late] = np.abs(spectrum[late]) * phases[late]
    result: FloatArray = scipy.fft.irfftn(spectrum, s=data.shape, overwrite_x=True)
    return result.astype(data.dtype, copy=False)
