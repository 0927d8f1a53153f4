"""EMAN2 HDF5 stacks and maps with the attributes in their headers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.images import ImageStack, StackHeader
from centralslice.data.particles import Particles
from centralslice.data.volume import Volume
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, ctf_from_text
from centralslice_plugins.formats.eman2_hdf import SUFFIXES, Eman2File, has_magic, one_line
from centralslice_plugins.formats.eman2_particles import HeaderTable, particles_from_headers


class Eman2HdfReader(Reader):
    """Oriented images, stacks and maps in ``/MDF/images`` of HDF5 files."""

    plugin_name: ClassVar[str] = "eman2_hdf"
    capabilities: ClassVar[frozenset[str]] = frozenset({"particles", "images", "volume"})
    #: EMAN2 programs differ in what a header's shift means: see ``ReadRequest.shift_convention``.
    ambiguous_shifts: ClassVar[bool] = True

    def recognises(self, path: Path) -> bool:
        """Whether the file has HDF5's signature and EMAN2's group, or neither but a suffix of HDF5."""
        if not has_magic(path):
            return path.suffix.lower() in SUFFIXES
        try:
            Eman2File(path).close()
        except FormatError:
            # damaged or foreign: this reader says best what is wrong, unless the name says otherwise
            return path.suffix.lower() in SUFFIXES
        return True

    def read_particles(self, request: ReadRequest) -> Particles:
        """One particle an image; every image needs ``xform.projection``.

        Raises
        ------
        FileMissingError, FormatError
        """
        return particles_from_headers(request.path, stack_headers(request.path), request.shift_convention)

    def open_images(self, path: Path) -> ImageStack:
        """Open a stack of 2D images, or a single 3D image as the stack of its z sections.

        Raises
        ------
        FileMissingError, FormatError
        """
        return Eman2Stack(path)

    def read_volume(self, path: Path) -> Volume:
        """Read the one map of a file; ``attributes`` holds all its attributes by EMAN2's names.

        Raises
        ------
        FileMissingError, FormatError
        """
        with Eman2File(path) as file:
            if file.count != 1:
                raise FormatError(f"{path}: holds {file.count} images; expected one map, extract it first")
            data = file.read_image(0)
            if data.ndim != 3:
                raise FormatError(f"{path}: holds a 2D image of shape {data.shape}; expected a map")
            attributes = file.attributes(0)
            pixel = file.pixel_size(file.group(0))
        origin = [attributes.get(f"origin_{axis}", 0.0) for axis in "xyz"]
        if not all(isinstance(value, (int, float)) for value in origin):
            raise FormatError(f"{path}: origin_x, origin_y, origin_z are {origin}; expected numbers")
        return Volume(
            data,
            pixel if pixel > 0 else 1.0,
            (float(origin[0]), float(origin[1]), float(origin[2])),
            attributes,
        )


class Eman2Stack(ImageStack):
    """An open stack; every image must have the shape of the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Eman2File(path)
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def _header(self) -> StackHeader:
        if not self._file.count:
            raise FormatError(f"{self.path}: holds no image")
        first = self._file.dataset(0)
        pixel = self._file.pixel_size(self._file.group(0))
        count, shape = self._file.count, first.shape
        self._sections = len(shape) == 3 and count == 1
        if self._sections:
            count, shape = shape[0], shape[1:]
        if len(shape) != 2:
            raise FormatError(f"{self.path}: holds {count} 3D images; expected 2D images or one 3D image")
        return StackHeader(count, (shape[0], shape[1]), first.dtype, pixel if pixel > 0 else 0.0)

    def read(self, numbers: IntArray) -> FloatArray:
        """See :meth:`ImageStack.read`."""
        wanted = np.asarray(numbers, np.int64).ravel()
        wrong = wanted[(wanted < 0) | (wanted >= self.header.count)]
        if wrong.size:
            raise FormatError(
                f"{self.path}: has {self.header.count} images, image {wrong[0] + 1} was asked for"
            )
        images = np.empty((len(wanted), *self.header.shape), np.float32)
        if self._sections:
            self._file.read_sections(wanted, images)
        else:
            for number, image in zip(wanted.tolist(), images, strict=True):
                self._file.read_image(number, image)
        return images

    def attributes(self, number: int) -> Mapping[str, Any]:
        """All attributes of an image; those of the 3D image for its sections."""
        return self._file.attributes(0 if self._sections else number)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def stack_headers(path: Path) -> HeaderTable:
    """What the headers of a stack of 2D images say, whether they have orientations or not.

    Raises
    ------
    FileMissingError, FormatError
    """
    with Eman2File(path) as file:
        if file.count and len(file.dataset(0).shape) == 3:
            raise FormatError(
                f"{path}: holds a 3D image, not images with orientations; for a tilt series give "
                "--tlt with its angles"
            )
        numbers = np.arange(file.count, dtype=np.int64)
        table = HeaderTable.empty((path,), np.zeros_like(numbers), numbers)
        fill_from_headers(table, numbers, file)
    return table


def fill_from_headers(table: HeaderTable, rows: IntArray, file: Eman2File) -> None:
    """Read what the headers of one file say into rows of a table.

    Parameters
    ----------
    table
        Its ``image_number`` tells the image of each row.
    rows
        Rows that are of this file.
    file
        The open file.

    Notes
    -----
    Opens each image's group once and looks attributes up by name: linear in the number of images.
    """
    seen: dict[str, Eman2Ctf] = {}
    box = 0
    if len(rows):
        box = int(file.dataset(int(table.image_number[rows[0]])).shape[-1])
    for row in rows.tolist():
        number = int(table.image_number[row])
        group = file.group(number)
        with one_line(file.path, f"the header of image {number + 1}"):
            transform = file.transform(group, b"xform.projection")
            if transform is not None:
                table.transforms[row] = transform
            table.weight[row] = file.number(group, b"ptcl_repr")
            table.quality[row] = file.number(group, b"class_qual")
            table.model[row] = file.number(group, b"model_id")
            table.pixel[row] = file.pixel_size(group)
            table.ssnr[row] = file.numbers(group, b"class_ssnr")
            table.boxes[row] = box
            flipped = file.number(group, b"ctf_phase_flipped")
            if not math.isnan(flipped):
                # EMAN2 stores truth values as the letters T and F
                table.put("ctf_phase_flipped", row, float(flipped not in (0, ord("F"))))
            text = file.text(group, b"ctf")
            if text is not None:
                if text not in seen:
                    seen[text] = ctf_from_text(text)
                table.ctf[row] = seen[text]
