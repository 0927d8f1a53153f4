"""Whether particles, maps and mask of a refinement fit together, from headers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from centralslice.conventions import IntArray
from centralslice.data.particles import OpticsGroup, Particles
from centralslice.errors import FileMissingError, FormatError
from centralslice.plugin.registry import Registry

#: Pixel sizes that differ by a smaller part are the same.
_SAME_PIXEL = 1e-2


@dataclass(frozen=True, slots=True)
class _Box:
    """Size in voxels and voxel size in Å (0: unknown) of a map."""

    path: Path
    size: int
    voxel_angst: float


def check_particles(particles: Particles, registry: Registry) -> Particles:
    """Compare metadata with the headers of all image stacks.

    Returns
    -------
        The particles, with box sizes that the metadata lacked.

    Raises
    ------
    FileMissingError, FormatError
        If an image file is missing or damaged, images are not square, not of the size the metadata say, or a
        particle's image is beyond its stack.
    """
    by_file = _image_sizes(particles, registry)
    sizes = by_file[particles.file_number]
    groups: list[OpticsGroup] = []
    for number, group in enumerate(particles.optics):
        rows = np.flatnonzero(particles.optics_group == number)
        size = group.box_size or (int(sizes[rows[0]]) if rows.size else 0)
        wrong = rows[sizes[rows] != size]
        if wrong.size:
            row = int(wrong[0])
            raise FormatError(
                f"{particles.source}: optics group {group.name} has a box of {size} px, but "
                f"{particles.describe(row)} is of {sizes[row]} px"
            )
        groups.append(replace(group, box_size=size))
    return replace(particles, optics=tuple(groups))


def _image_sizes(particles: Particles, registry: Registry) -> IntArray:
    """(files,) image size of each stack, 0 if no particle is in it; each stack is opened once."""
    last = np.full(len(particles.image_files), -1, np.int64)
    np.maximum.at(last, particles.file_number, particles.image_number)
    sizes = np.zeros(len(last), np.int64)
    for place, (path, number) in enumerate(zip(particles.image_files, last.tolist(), strict=True)):
        if number < 0:
            continue
        with registry.reader_for(path, "images").open_images(path) as stack:
            header = stack.header
        if number >= header.count:
            raise FormatError(
                f"{particles.source}: asks for image {number + 1} of {path}, which has {header.count}; is the "
                "stack that of these particles?"
            )
        if header.shape[0] != header.shape[1]:
            raise FormatError(
                f"{path}: images are {header.shape[1]} × {header.shape[0]} px; expected square ones"
            )
        sizes[place] = header.shape[0]
    return sizes


def check_maps(
    maps: Mapping[int, Path], mask: Path | None, particles: Particles, registry: Registry
) -> list[str]:
    """Compare maps with each other, the mask with them, and the particles' boxes with theirs.

    Raises
    ------
    FileMissingError, FormatError
        If a map or the mask is missing or damaged, not cubic, or of another size.
    """
    boxes = [_box(path, "map", registry) for _, path in sorted(maps.items())]
    first = boxes[0]
    for other in boxes[1:]:
        if other.size != first.size:
            raise FormatError(
                f"{other.path}: has a box of {other.size} voxels, {first.path} one of {first.size}; the maps of a "
                "refinement are of one size"
            )
    if mask is not None:
        found = _box(mask, "mask", registry)
        if found.size != first.size:
            raise FormatError(
                f"{mask}: mask has a box of {found.size} voxels, {first.path} one of {first.size}; resample it "
                "to the map"
            )
    return _compare_particles(first, particles)


def _compare_particles(box: _Box, particles: Particles) -> list[str]:
    """Refuse particles of which no optics group has the map's box; note other boxes and pixel sizes."""
    present = [particles.optics[number] for number in np.unique(particles.optics_group).tolist()]
    other = [group for group in present if group.box_size != box.size]
    if len(other) == len(present):
        raise FormatError(
            f"{box.path}: has a box of {box.size} voxels, but the particles of {particles.source} have one of "
            f"{other[0].box_size} px; give the map they were refined against"
        )
    notes = [
        f"optics group {group.name} has a box of {group.box_size} px, the map {box.size}" for group in other
    ]
    for group in present:
        same_box = group.box_size == box.size
        ratio = group.pixel_size_angst / box.voxel_angst if box.voxel_angst > 0 else 1.0
        if same_box and abs(ratio - 1) > _SAME_PIXEL:
            notes.append(
                f"warning: {box.path} has voxels of {box.voxel_angst:g} Å, particles of {group.name} pixels of "
                f"{group.pixel_size_angst:g} Å"
            )
    return notes


def _box(path: Path, what: str, registry: Registry) -> _Box:
    """The size of a map from its header, which its reader compares with the file."""
    if not path.is_file():
        raise FileMissingError(f"{path}: {what} does not exist")
    with registry.reader_for(path, "images").open_images(path) as stack:
        shape = (stack.header.count, *stack.header.shape)
        voxel = stack.header.pixel_size_angst
    if len(set(shape)) != 1:
        raise FormatError(f"{path}: {what} is {shape[2]} × {shape[1]} × {shape[0]} voxels; expected a cube")
    return _Box(path, shape[0], voxel)
