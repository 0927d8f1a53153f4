"""What a make3d run made, and the half-map FSC in it."""

from __future__ import annotations

from dataclasses import dataclass

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.volume import Volume
from centralslice.fourier.shells import ShellCorrelation, fourier_shell_correlation, soft_sphere

#: Radius and edge of the sphere under which the masked half-map FSC is computed, in boxes.
SPHERE_RADIUS, SPHERE_EDGE = 0.4, 0.06


@dataclass(frozen=True, slots=True)
class Make3dResult:
    """What a run made.

    Attributes
    ----------
    merged
        The map as written.
    fsc
        Half-map FSC, unmasked and under a soft sphere; empty without half sets.
    blank_rows
        Rows of the metadata file whose images had zero variance and were left out.
    timings_s
        Seconds of each part.
    sha256
        Of the merged map's values.
    resumed_particles
        Taken over from a checkpoint.
    ranks
        That worked.
    """

    merged: Volume
    fsc: dict[str, ShellCorrelation]
    blank_rows: IntArray
    timings_s: dict[str, float]
    sha256: str
    resumed_particles: int = 0
    ranks: int = 1


def half_map_fsc(
    first: FloatArray, second: FloatArray, voxel_size_angst: float
) -> dict[str, ShellCorrelation]:
    """FSC of the half maps of the unpadded box, unmasked and under a soft sphere."""
    size, voxel = first.shape[0], voxel_size_angst
    sphere = soft_sphere(size, SPHERE_RADIUS * size, SPHERE_EDGE * size).astype(first.dtype)
    return {
        "unmasked": fourier_shell_correlation(first, second, voxel),
        "sphere": fourier_shell_correlation(first, second, voxel, sphere),
    }
