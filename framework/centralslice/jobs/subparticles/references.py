"""The maps that a run's particles are compared with, read together to judge frame, symmetry and centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.particles import Particles
from centralslice.errors import FormatError, ParameterError
from centralslice.jobs.subparticles.masks import halves_agreement
from centralslice.jobs.subparticles.source import SubparticleSource
from centralslice.jobs.subparticles.volumes import read_map
from centralslice.plugin.registry import Registry

#: Half maps that correlate less are not of one frame.
LEAST_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class References:
    """Maps of the half sets that there are particles of.

    Attributes
    ----------
    maps
        Half set to (n, n, n) float32; 0: the map of all that have none of their own.
    halves
        Half set to the key of its map.
    voxel_size_angst
        Of all of them.
    agreement
        Correlation of two half maps, or None.
    notes
        For the user.
    """

    maps: Mapping[int, FloatArray]
    halves: Mapping[int, int]
    voxel_size_angst: float
    agreement: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> FloatArray:
        """The first map."""
        return next(iter(self.maps.values()))

    @property
    def grid(self) -> tuple[int, float]:
        """Box and voxel size, Å."""
        return len(self.first), self.voxel_size_angst

    def mean(self) -> FloatArray:
        """Of all maps, (n, n, n) float32; it knows of both half sets."""
        maps = list(self.maps.values())
        if len(maps) == 1:
            return maps[0]
        result: FloatArray = np.mean(maps, axis=0, dtype=np.float32)
        return result


def read_references(
    source: SubparticleSource, particles: Particles, box: int, registry: Registry
) -> References:
    """The maps of all half sets that occur.

    Parameters
    ----------
    source, particles
        The refinement, and its particles that are used.
    box
        Pixels of the images.
    registry
        Readers.

    Raises
    ------
    ParameterError
        If a half set has no map.
    FormatError
        If the maps differ in size, or correlate so little that they cannot be in one frame.
    """
    paths: dict[int, Path] = {}
    halves: dict[int, int] = {}
    for half in (int(each) for each in np.unique(particles.half_set)):
        if half not in source.maps and 0 not in source.maps:
            raise ParameterError(
                f"{source.particles.source}: has particles of half set {half}, but there is no map for them; give "
                "--map, or --half1 and --half2"
            )
        halves[half] = half if half in source.maps else 0
        paths[halves[half]] = source.maps[halves[half]]
    maps: dict[int, FloatArray] = {}
    voxel, notes = 1.0, []
    for half, path in sorted(paths.items()):
        data, size, said = read_map(path, registry, box, particles.optics)
        if maps and data.shape != next(iter(maps.values())).shape:
            raise FormatError(
                f"{path}: is {len(data)} voxels wide, {paths[min(maps)]} is {len(maps[min(maps)])}"
            )
        voxel = voxel if maps else size
        maps[half] = data
        notes += said
    agreement = None
    if 1 in maps and 2 in maps:
        agreement = halves_agreement(maps[1], maps[2])
        if agreement < LEAST_AGREEMENT:
            raise FormatError(
                f"{paths[1]} and {paths[2]}: correlate only {agreement:.2f}, so they are not in one frame; "
                "align them, or give --ref combined"
            )
    return References(maps, halves, voxel, agreement, tuple(dict.fromkeys(notes)))
