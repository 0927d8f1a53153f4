"""Maps and masks of a subparticles run, read and brought to one box; the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.jobs.subparticles.masks import exclusion_mask, fit_mask
from centralslice.jobs.subparticles.settings import MaskSettings
from centralslice.plugin.registry import Registry

#: Sizes that differ by less are the same.
_SAME_SIZE = 0.01


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks on the map's grid, float32 0 … 1, or None where there is none.

    Attributes
    ----------
    keep
        The part that is kept.
    excluded
        E: the part that is subtracted.
    outer
        What ``--masked`` projects in place of the kept part.
    everything
        The whole particle.
    notes
        What was done to them.
    """

    keep: FloatArray | None
    excluded: FloatArray | None
    outer: FloatArray | None
    everything: FloatArray | None
    notes: tuple[str, ...] = ()


def read_volume(path: Path, registry: Registry, option: str) -> Volume:
    """A map or mask.

    Raises
    ------
    FileMissingError
        If it does not exist; the option is named.
    """
    if not path.is_file():
        raise FileMissingError(f"{option}: {path} does not exist")
    return registry.reader_for(path, "volume").read_volume(path)


def read_map(
    path: Path, registry: Registry, box: int, optics: tuple[OpticsGroup, ...]
) -> tuple[FloatArray, float, list[str]]:
    """A reference map: data float32, voxel size Å, notes.

    Raises
    ------
    FormatError
        If it is not cubic, not finite, zero everywhere, or covers another field than the images.
    """
    volume = read_volume(path, registry, "reference map")
    size = volume.data.shape[0]
    if volume.data.shape != (size, size, size):
        raise FormatError(f"{path}: expected a cubic map, got {volume.data.shape[::-1]} voxels")
    if not np.all(np.isfinite(volume.data)) or not np.any(volume.data):
        raise FormatError(f"{path}: the map is zero everywhere or has values that are not finite numbers")
    pixels = np.array([group.pixel_size_angst for group in optics])
    voxel, notes = float(volume.voxel_size_angst), []
    if size == box:
        if np.abs(voxel / pixels - 1).min() > _SAME_SIZE:
            notes.append(
                f"{path} says voxels of {voxel:g} Å, the images have pixels of {pixels[0]:g} Å, which is taken"
            )
            voxel = float(pixels[0])
    elif np.abs(size * voxel / (box * pixels) - 1).min() > _SAME_SIZE:
        raise FormatError(
            f"{path}: is {size} voxels of {voxel:g} Å wide, the images are {box} pixels of {pixels[0]:g} Å; "
            "expected a map of the refinement: clip or resample it first"
        )
    return np.ascontiguousarray(volume.data, np.float32), voxel, notes


def read_masks(
    settings: MaskSettings, everything: Path | None, grid: tuple[int, float], registry: Registry
) -> Masks:
    """All masks on the map's grid.

    Parameters
    ----------
    settings
        What the user gave.
    everything
        The refinement's own mask of the whole particle, or None.
    grid
        Box and voxel size, Å, of the map.
    registry
        Readers.

    Raises
    ------
    ParameterError
        If nothing or everything would be subtracted.
    FormatError, FileMissingError
        For a mask that cannot be used.
    """
    notes: list[str] = []

    def fitted(path: Path | None, option: str) -> FloatArray | None:
        if path is None:
            return None
        volume = read_volume(path, registry, option)
        if volume.data.shape[0] == grid[0] and abs(volume.voxel_size_angst / grid[1] - 1) > _SAME_SIZE:
            # programs that make masks often forget the voxel size, and those that use them do not look at it
            if volume.voxel_size_angst != 1.0:
                notes.append(
                    f"{option} {path}: says voxels of {volume.voxel_size_angst:g} Å; having the map's box, it is taken "
                    f"to be on the map's grid of {grid[1]:g} Å"
                )
            volume = replace(volume, voxel_size_angst=grid[1])
        made, said = fit_mask(volume, *grid, f"{option} {path}")
        notes.extend(said)
        return made

    whole = fitted(everything if settings.whole else None, "--maskall")
    keep, subtract = fitted(settings.keep, "--subunitmask"), fitted(settings.subtract, "--subtractmask")
    outer = fitted(settings.outer, "--outermask")
    excluded = None
    if keep is not None or subtract is not None:
        excluded = exclusion_mask(keep, subtract, whole)
    if keep is None and excluded is not None:
        rest = 1.0 - excluded if whole is None else whole * (1.0 - excluded)
        keep = np.clip(rest, 0.0, 1.0).astype(np.float32)
    return Masks(keep, excluded, outer, whole, tuple(notes))


def need_keep(masks: Masks, option: str) -> FloatArray:
    """The kept part's mask; ParameterError if there is none."""
    if masks.keep is None:
        raise ParameterError(f"{option}: needs --subunitmask or --subtractmask")
    return masks.keep
