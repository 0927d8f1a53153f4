"""A real-space map and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from centralslice.conventions import FloatArray


@dataclass(frozen=True, slots=True)
class Volume:
    """A map: ``data`` (z, y, x), float32 or float64; ``voxel_size_angst`` Å (> 0), equal on all axes.

    ``attributes`` are extra facts for formats that can keep them (names as EMAN2 has them, without the
    ``EMAN.`` prefix); ``origin_angst`` is the position of voxel (0, 0, 0), x y z.
    """

    data: FloatArray
    voxel_size_angst: float = 1.0
    origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0)
    attributes: Mapping[str, Any] = field(default_factory=dict)
