"""TIFF image stacks, as cameras and motion correction programs write them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar

import numpy as np

from centralslice.abc.reader import Reader
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.images import ImageStack, StackHeader
from centralslice.errors import FormatError
from centralslice_plugins.formats.tiff import SUFFIXES, TiffImages, looks_like_tiff


class TiffReader(Reader):
    """Image stacks in TIFF and BigTIFF files, a page an image."""

    plugin_name: ClassVar[str] = "tiff"
    capabilities: ClassVar[frozenset[str]] = frozenset({"images"})

    def recognises(self, path: Path) -> bool:
        """Whether it starts with one of TIFF's marks, or else has its suffix."""
        return looks_like_tiff(path) or path.suffix.lower() in SUFFIXES

    def open_images(self, path: Path) -> ImageStack:
        """Open a file; raises FileMissingError or FormatError."""
        return TiffStack(path)


class TiffStack(ImageStack):
    """An open TIFF file; the last row of a page is y = 0, as IMOD and RELION take it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images = TiffImages(path)
        self._lock = threading.Lock()  # pages share one file position
        found = self._images.header
        self.header = StackHeader(found.count, found.shape, found.dtype)

    def read(self, numbers: IntArray) -> FloatArray:
        """See :meth:`ImageStack.read`."""
        wanted = np.asarray(numbers, np.int64).ravel()
        wrong = wanted[(wanted < 0) | (wanted >= self.header.count)]
        if wrong.size:
            raise FormatError(
                f"{self.path}: has {self.header.count} images, image {wrong[0] + 1} was asked for"
            )
        images = np.empty((len(wanted), *self.header.shape), np.float32)
        with self._lock:
            for place, number in enumerate(wanted.tolist()):
                images[place] = self._images.read(number)
        return images

    def close(self) -> None:
        """Release the file."""
        self._images.close()
