"""A stack of images of one object and a plain file of the angles it was tilted by (``--tlt``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.data.images import ImageStack
from centralslice.data.particles import OpticsGroup, Particles, make_particles
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.geometry.eulers import imod_tilt_to_matrices
from centralslice_plugins.formats.tilt_angles import read_tilt_angles

#: Suffixes of plain image stacks, which have no orientations of their own.
_PLAIN_STACKS = (".mrc", ".mrcs", ".st", ".ali", ".rec", ".map")


def open_any_stack(path: Path) -> ImageStack:
    """Open an image stack with whichever reader recognises it."""
    from centralslice.plugin.registry import shared_registry

    return shared_registry().reader_for(path, "images").open_images(path)


class TiltSeriesStackReader(Reader):
    """Images of an aligned tilt series whose tilt axis is the image's y axis, with IMOD's angles.

    Used for any image stack when the request names a file of tilt angles; by itself it recognises plain
    image stacks, only to say that they need such a file.

    Parameters
    ----------
    open_images
        Opens an image stack; None: whichever registered reader recognises it.
    """

    plugin_name: ClassVar[str] = "tlt"
    capabilities: ClassVar[frozenset[str]] = frozenset({"particles"})

    def __init__(self, open_images: Callable[[Path], ImageStack] | None = None) -> None:
        self._open_images = open_any_stack if open_images is None else open_images

    def recognises(self, path: Path) -> bool:
        """Whether it is named as a plain image stack."""
        return path.suffix.lower() in _PLAIN_STACKS

    def read_particles(self, request: ReadRequest) -> Particles:
        """One particle an image, ``R = Ry(−angle)``: slice sample (kx, ky) sits at (kx cos, ky, −kx sin).

        Raises
        ------
        ParameterError
            If the request names no file of tilt angles.
        FormatError
            If there are not as many angles as images.
        FileMissingError
            If the stack or the file of tilt angles does not exist.
        """
        if request.tilt_angles is None:
            raise ParameterError(
                f"{request.path}: a plain image stack has no orientations; give its tilt angles with --tlt, "
                "or a metadata file in its place"
            )
        if not request.path.is_file():
            raise FileMissingError(f"{request.path}: does not exist")
        angles = read_tilt_angles(request.tilt_angles)
        with self._open_images(request.path) as stack:
            header = stack.header
        if header.count != len(angles):
            raise FormatError(
                f"{request.tilt_angles}: {len(angles)} tilt angles, but {request.path} has "
                f"{header.count} images; give one angle an image"
            )
        notes: tuple[str, ...] = ()
        pixel_angst = header.pixel_size_angst
        if not pixel_angst > 0:
            pixel_angst = 1.0
            notes = (f"{request.path} says no pixel size: 1 Å a pixel is taken",)
        box = header.shape[0] if header.shape[0] == header.shape[1] else 0
        count = len(angles)
        return make_particles(
            request.path,
            ((request.path,), np.zeros(count, np.int64), np.arange(count, dtype=np.int64)),
            imod_tilt_to_matrices(angles),
            optics=(OpticsGroup(name="tilt series", pixel_size_angst=pixel_angst, box_size=box),),
            columns={"tilt_angle_deg": angles},
            notes=notes,
        )
