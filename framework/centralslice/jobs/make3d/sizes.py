"""The size options of make3d: ``--pad``, ``--padvol`` and ``--outsize``; 0 is the same as leaving one out."""

from __future__ import annotations

import math

from centralslice.errors import ParameterError
from centralslice.fourier.grid import fast_even_size


def padded_size(text: str | None, image_size: int) -> int:
    """Size of the padded images; a negative number asks for the next good size from 1.25 times the image.

    Raises
    ------
    ParameterError
        If the text is not ``N`` or ``N,N``, or the two differ.
    """
    if text is None:
        return image_size
    values = _numbers(text, "--pad", (1, 2))
    if min(values) < 0:
        return fast_even_size(math.ceil(1.25 * image_size))
    if len(set(values)) > 1:
        raise ParameterError(f"--pad: only square images are reconstructed, got {text}")
    return values[0] or image_size


def volume_size(text: str | None) -> int | None:
    """Size of the Fourier volume that was asked for, or None.

    Raises
    ------
    ParameterError
        If the text is not ``N`` or ``N,N,N``, the three differ, or it is negative.
    """
    values = [0] if text is None else _numbers(text, "--padvol", (1, 3))
    if len(set(values)) > 1:
        raise ParameterError(f"--padvol: the Fourier volume is a cube, got {text}")
    if values[0] < 0:
        raise ParameterError(f"--padvol: expected a size in voxels, got {text}")
    return values[0] or None


def output_shape(text: str | None, image_size: int) -> tuple[int, int, int]:
    """(z, y, x) of the written map; ``--outsize`` is in the order x, y, z.

    Raises
    ------
    ParameterError
        If the text is not ``N`` or ``N,N,N`` or a size is not positive.
    """
    values = [0] if text is None else _numbers(text, "--outsize", (1, 3))
    if values == [0]:
        values = [image_size]
    if min(values) < 1:
        raise ParameterError(f"--outsize: expected sizes of 1 voxel or more, got {text}")
    x, y, z = values * 3 if len(values) == 1 else values
    return z, y, x


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        wanted = " or ".join(",".join(["N"] * count) for count in counts)
        raise ParameterError(f"{option}: expected {wanted}, got '{text}'")
    return values
