"""Conventions, said once and referred to everywhere.

Arrays
    ``[z, y, x]``, x fastest. The centre of a box of n voxels is voxel ``n // 2`` on each axis.
Matrices
    3×3, acting on xyz columns.
Units
    Å and degrees at the surface, radians inside; names carry the unit (``shifts_angst``).
Pose
    ``(R, t)`` projects the map: density at centred point ``r`` lands on image point ``(R r + t)`` x,y
    and is summed along z. The slice sample ``(kx, ky)`` of the image sits at ``k = Rᵀ (kx, ky, 0)``.
Fourier transforms
    Forward unnormalised with ``exp(-2πi k·x/n)``, inverse divided by the number of samples.
    Half transforms hold ``kx = 0 … n // 2``. A shift by ``t`` pixels multiplies by ``exp(-2πi k·t/n)``.
Half sets
    0 is none (counts for the merged map only), 1 and 2 are the half sets.
Weights
    ``Σ CTF²`` in units of one slice sample per voxel of the unpadded box.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
ComplexArray: TypeAlias = NDArray[np.complexfloating[Any, Any]]
IntArray: TypeAlias = NDArray[np.integer[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]


def centre_of(size: int) -> int:
    """Index of the centre voxel of an axis of ``size`` voxels, even or odd."""
    return size // 2


def signed_frequencies(size: int) -> IntArray:
    """Frequency of each index of a full FFT axis; for even sizes index ``size // 2`` is negative."""
    return np.fft.fftfreq(size, 1.0 / size).round().astype(np.int64)
