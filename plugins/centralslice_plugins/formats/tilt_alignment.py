"""Where IMOD and AreTomo say that a tomogram's points are in the recorded images.

Images and tomogram have pixel centres at whole numbers from 0. Tomograms lie as ``trimvol -rx`` leaves them:
y along the tilt axis, z towards the side that IMOD's ``tilt`` calls up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from centralslice.abc.reader import AlignedSeries, VolumeFlip
from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.errors import FormatError, ParameterError, SelectionError
from centralslice.geometry.rotations import rotation_x, rotation_y
from centralslice_plugins.formats.aretomo import images_of, is_aln, read_aln
from centralslice_plugins.formats.imod import TiltCommand, read_tilt_command, read_transforms, read_x_tilts
from centralslice_plugins.formats.tilt_angles import read_tilt_angles


@dataclass(frozen=True, slots=True)
class Alignment:
    """An alignment, f tilts.

    Attributes
    ----------
    source
        Its file, for messages.
    matrices, shifts_px
        (f, 2, 2) and (f, 2): recorded to aligned image about the centres of both, as in an .xf file.
    tilt_angles_deg, x_tilts_deg
        (f,) turns of the specimen, offsets applied.
    image_number
        (f,) 0-based image in the stack.
    command
        What else tilt.com says.
    notes
        What the user should know.
    """

    source: Path
    matrices: FloatArray
    shifts_px: FloatArray
    tilt_angles_deg: FloatArray
    x_tilts_deg: FloatArray
    image_number: IntArray
    command: TiltCommand = field(default_factory=TiltCommand)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.matrices)

    def per_tilt(self, values: FloatArray, images: int, path: Path) -> FloatArray:
        """(f,) of a file with a row for each image of the stack, or for each tilt of the alignment."""
        if len(values) == images:
            return values[self.image_number]
        if len(values) == len(self):
            return values
        raise FormatError(
            f"{path}: has {len(values)} rows; expected {len(self)}, one for each tilt of {self.source}"
            + (f", or {images}, one for each image" if images != len(self) else "")
        )

    def used(self) -> BoolArray:
        """(f,) whether tilt.com leaves the view in.

        Raises
        ------
        SelectionError
            If it leaves none.
        """
        kept = ~np.isin(self.image_number + 1, sorted(self.command.excluded))
        if not kept.any():
            raise SelectionError(f"{self.source}: all {len(self)} views are excluded by tilt.com")
        return kept


def read_alignment(request: AlignedSeries, images: int, image_size: tuple[int, int]) -> Alignment:
    """The alignment of a stack with so many images of (nx, ny) pixels.

    Raises
    ------
    FileMissingError, FormatError
        Naming file and line.
    ParameterError
        If files are given that do not go together, or one lacks.
    """
    if not request.alignment.is_file() or not is_aln(request.alignment):
        return _of_imod(request, images)
    for option, path in (
        ("--tilt-angles", request.tilt_angles), ("--x-tilt", request.x_tilts), ("--tilt-com", request.tilt_command)
    ):  # fmt: skip
        if path is not None:
            raise ParameterError(f"{option} {path}: an .aln file has all angles itself; leave it out")
    found = read_aln(request.alignment)
    if found.raw_size[:2] != image_size:
        raise FormatError(
            f"{request.alignment}: is of images of {found.raw_size[0]} x {found.raw_size[1]} pixels, {request.images} "
            f"has {image_size[0]} x {image_size[1]}"
        )
    notes = (
        [f"{request.alignment}: local alignments are not used, only the global one"] if found.local else []
    )
    count = len(found.tilt_angles_deg)
    if len(found.dark):
        notes.append(f"{request.alignment}: {len(found.dark)} dark images are left out, {count} tilts remain")
    return Alignment(
        request.alignment, found.matrices, found.shifts_px, found.tilt_angles_deg, np.zeros(count),
        images_of(found, request.alignment, images), notes=tuple(notes),
    )  # fmt: skip


def projections(alignment: Alignment, image_size: tuple[int, int], size: tuple[int, int, int]) -> FloatArray:
    """(f, 4, 4) tomogram pixel to pixel of the recorded image, row 2 the depth.

    ``x_raw = (n − 1)/2 + M⁻¹ ((Ry Rx (u − c))_xy + a − t)`` with the tomogram's centre c where ``tilt`` has it,
    ``SHIFT`` and the tilt axis' offset a included: IMOD halves sizes to whole numbers before it adds the half
    pixel, so that centres of odd widths and thicknesses are half a pixel off the middle.
    """
    command = alignment.command
    centre = np.array(
        [
            size[0] // 2 - 0.5 + command.axis_offset_px + command.shift_px[0],
            (size[1] - 1) / 2,
            size[2] - size[2] // 2 - 0.5 - command.shift_px[1],
        ]
    )
    turns = rotation_y(alignment.tilt_angles_deg) @ rotation_x(alignment.x_tilts_deg)
    back = np.linalg.inv(alignment.matrices)
    axis = np.array([command.axis_offset_px, 0.0])
    result = np.zeros((len(alignment), 4, 4))
    result[:, :2, :3] = back @ turns[:, :2]
    result[:, 2, :3] = turns[:, 2]
    result[:, :3, 3] = -(result[:, :3, :3] @ centre)
    result[:, :2, 3] += np.einsum("fij,fj->fi", back, axis - alignment.shifts_px)
    result[:, :2, 3] += (np.array(image_size) - 1) / 2
    result[:, 3, 3] = 1.0
    return result


def upright(
    positions: FloatArray, rotations: FloatArray, flip: VolumeFlip, thickness: int
) -> tuple[FloatArray, FloatArray]:
    """Positions in pixels and rotations of a tomogram that lies otherwise, as of one after ``trimvol -rx``.

    ``none``: axes are x, z downwards, y; a quarter turn. ``yz``: y and z of that changed places, which mirrors
    it; what was found in the mirrored tomogram is the mirror image, in z, of what is there.
    """
    if flip == "none":
        turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        return positions @ turn.T + (0, 0, thickness - 1), turn @ rotations
    if flip == "yz":
        mirror = np.diag([1.0, 1.0, -1.0])
        return positions @ mirror + (0, 0, thickness - 1), mirror @ rotations @ mirror
    return positions, rotations


def _of_imod(request: AlignedSeries, images: int) -> Alignment:
    command, notes = TiltCommand(), []
    if request.tilt_command is not None:
        command = read_tilt_command(request.tilt_command)
        if command.thickness_px is not None and command.thickness_px != request.size[2]:
            raise ParameterError(
                f"--tomogram-size: expected Z {command.thickness_px:g} as THICKNESS in {request.tilt_command}, got "
                f"{request.size[2]}"
            )
        if command.excluded:
            notes.append(f"{request.tilt_command}: {len(command.excluded)} views are excluded there")
    matrices, shifts = read_transforms(request.alignment)
    angle_file = request.tilt_angles or command.tilt_angles
    if angle_file is None:
        raise ParameterError("--tilt-angles: an .xf file needs the tilt angles (.tlt), or --tilt-com")
    angles = read_tilt_angles(angle_file)
    x_tilt_file = request.x_tilts or command.x_tilts
    x_tilts = np.zeros(images) if x_tilt_file is None else read_x_tilts(x_tilt_file)
    counted: Sequence[tuple[Path | None, int]] = (
        (request.alignment, len(matrices)), (angle_file, len(angles)), (x_tilt_file, len(x_tilts))
    )  # fmt: skip
    for path, count in counted:
        if count != images:
            raise FormatError(
                f"{path}: has {count} rows, but {request.images} has {images} images; one row an image"
            )
    return Alignment(
        request.alignment, matrices, shifts, angles + command.angle_offset_deg,
        x_tilts - command.x_axis_tilt_deg, np.arange(images), command, tuple(notes),
    )  # fmt: skip
