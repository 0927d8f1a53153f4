"""What a make3d run made."""

from __future__ import annotations

from dataclasses import dataclass

from centralslice.conventions import IntArray
from centralslice.data.volume import Volume
from centralslice.fourier.shells import ShellCorrelation


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
