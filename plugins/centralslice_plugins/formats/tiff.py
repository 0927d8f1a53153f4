"""TIFF images: pages checked against the file before anything of them is read.

The format's reading is tifffile's; compressions that need its optional companion ``imagecodecs`` (LZW is
one) are refused with that hint where it is not installed. TIFF stores the top row first; images in this
field have y upwards, so that the rows are turned round, as IMOD and RELION do.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from centralslice.errors import FileMissingError, FormatError

SUFFIXES = (".tif", ".tiff")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Pages are images of at most so many pixels on a side.
_LARGEST_SIDE = 1 << 20
#: No compression makes less than this part of the data of noisy images; what claims to is not one.
_LARGEST_RATIO = 1 << 12
#: What reading strange bytes raises inside tifffile.
_BROKEN = (tifffile.TiffFileError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
           struct.error, RuntimeError, MemoryError, ZeroDivisionError, ArithmeticError, EOFError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """Images of a file: ``count`` of ``shape`` (ny, nx); a pixel size is not kept in TIFF."""

    count: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]


def looks_like_tiff(path: Path) -> bool:
    """Whether a file starts as TIFF or BigTIFF files do; never raises on content."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _MAGIC
    except OSError:
        return False


class TiffImages:
    """An open TIFF file whose pages are equally sized images of real numbers, one value a pixel.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is no TIFF file, is cut off, or its pages are not such images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileMissingError(f"{path}: no such file")
        if not looks_like_tiff(path):
            raise FormatError(f"{path}: is not a TIFF file: it does not start with one of TIFF's marks")
        try:
            self._file = tifffile.TiffFile(path)
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
        except _BROKEN as error:
            raise self._broken(error) from error
        try:
            self.header = self._checked()
        except FormatError:
            self._file.close()
            raise
        except _BROKEN as error:
            self._file.close()
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> FormatError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FormatError(f"{self.path}: is not a TIFF file that can be read: {reason}")

    def _checked(self) -> TiffHeader:
        size = self.path.stat().st_size
        headers = {self._page(number, size) for number in range(len(self._file.pages))}
        if len(headers) != 1:
            sizes = ", ".join(sorted(f"{nx} x {ny} {dtype}" for (ny, nx), dtype in headers)) or "none"
            raise FormatError(f"{self.path}: expected images of one size and type, got {sizes}")
        shape, dtype = headers.pop()
        return TiffHeader(len(self._file.pages), shape, np.dtype(dtype))

    def _page(self, number: int, size: int) -> tuple[tuple[int, int], str]:
        """Shape and dtype of a page whose data are all inside the file."""
        page = self._file.pages[number]
        if not isinstance(page, tifffile.TiffPage):
            page = page.aspage()
        where = f"{self.path}: image {number + 1}"
        if page.dtype is None or page.dtype.kind not in "iuf" or len(page.shape) != 2:
            raise FormatError(
                f"{where}: expected one real number a pixel, got {page.dtype}, shape {page.shape}"
            )
        ny, nx = page.shape
        if not (0 < ny < _LARGEST_SIDE and 0 < nx < _LARGEST_SIDE):
            raise FormatError(f"{where}: its header says {nx} x {ny} pixels, which no image has")
        stored = sum(page.databytecounts)
        ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        needed = nx * ny * page.dtype.itemsize
        cut = not ends or max(ends) > size or stored * _LARGEST_RATIO < needed
        if cut or (page.compression == 1 and stored * 8 < nx * ny * page.bitspersample):
            raise FormatError(
                f"{where}: its data are not all in the file ({size} bytes); copy the file again"
            )
        return (int(ny), int(nx)), page.dtype.str

    def read(self, number: int) -> NDArray[Any]:
        """One image, (ny, nx), the last stored row first; raises FormatError if it cannot be decoded."""
        try:
            data = np.asarray(self._file.pages[number].asarray(maxworkers=1))
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except _BROKEN as error:
            reason = " ".join(str(error).split())
            hint = "; pip install imagecodecs" if "imagecodecs" in reason else ""
            raise FormatError(f"{self.path}: image {number + 1} cannot be decoded: {reason}{hint}") from error
        if data.shape != self.header.shape:
            raise FormatError(
                f"{self.path}: image {number + 1}: got shape {data.shape}, not {self.header.shape}"
            )
        return data[::-1]

    def close(self) -> None:
        """Release the file."""
        self._file.close()
