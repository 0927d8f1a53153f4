"""Stacks in formats that one process must write, from images that several processes wrote.

HDF5 files cannot be written by several processes. So these write plain images to known places of a raw file;
once all is there, one process copies it into the stack block by block, in order of the images: the result
does not depend on who wrote what, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import Writer
from centralslice.data.images import StackPlan
from centralslice.errors import FormatError, ResourceError

#: Bytes of images held at a time.
_BLOCK_BYTES = 2**26

#: Attributes of an image by its 0-based number.
Attributes: TypeAlias = Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RawStack:
    """Images one after the other in a file: ``plan.count`` of ``plan.shape`` and ``plan.dtype``.

    Attributes
    ----------
    path
        The file.
    plan
        What it holds; also of the stack it is to become.
    offset
        Bytes before the first image.
    """

    path: Path
    plan: StackPlan
    offset: int = 0

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.plan.shape[0] * self.plan.shape[1] * np.dtype(self.plan.dtype).itemsize

    def read(self, first: int, stop: int) -> NDArray[Any]:
        """Images ``first … stop − 1``, (m, ny, nx), in the stored dtype.

        Raises
        ------
        FormatError
            If the file ends before them.
        ResourceError
            If it cannot be read.
        """
        count = (stop - first) * self.plan.shape[0] * self.plan.shape[1]
        try:
            values: NDArray[Any] = np.fromfile(
                self.path, self.plan.dtype, count, offset=self.offset + first * self.image_bytes
            )
        except OSError as error:
            raise ResourceError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if values.size != count:
            raise FormatError(f"{self.path}: ends before image {stop} of {self.plan.count}; it was cut short")
        return values.reshape(stop - first, *self.plan.shape)


def convert_stack(raw: RawStack, path: Path, writer: Writer, attributes: Attributes | None = None) -> None:
    """Write a raw stack as ``path``, under a temporary name until it is complete.

    Parameters
    ----------
    raw
        Complete images; left as it is.
    path
        The stack to write.
    writer
        Its format, with the capability ``images``.
    attributes
        Of each image, for formats that have them, called in order; Transforms as 12 numbers (``xform.…``), CTFs
        as EMAN2's 8 numbers (``ctf``).

    Raises
    ------
    FormatError
        If the raw file is shorter than its plan.
    ParameterError
        If an attribute has no place in the format.
    ResourceError
        If a file cannot be read or written; nothing is left under the final name.
    """
    block = max(1, _BLOCK_BYTES // max(1, raw.image_bytes))
    with writer.create_stack(path, raw.plan) as sink:
        for first in range(0, raw.plan.count, block):
            stop = min(first + block, raw.plan.count)
            sink.write(first, raw.read(first, stop))
            if attributes is not None:
                for number in range(first, stop):
                    sink.write_attributes(number, attributes(number))
