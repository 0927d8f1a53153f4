"""MRC maps and image stacks, and IMOD's and CCP4's relatives of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import Reader
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.images import ImageStack, StackHeader
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.mrc import SUFFIXES, MrcHeader, looks_like_mrc, read_header

#: Files of other dtypes are converted in pieces of this many bytes.
_PIECE_BYTES = 8 << 20
#: Voxel sizes of the three axes that differ by more than this fraction are reported.
_ANISOTROPY = 0.001
_HDF_MAGIC = b"\x89HDF"


class MrcReader(Reader):
    """Maps and image stacks in MRC files of modes 0, 1, 2, 6, 12 and 101."""

    plugin_name: ClassVar[str] = "mrc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"images", "volume"})

    def recognises(self, path: Path) -> bool:
        """Whether the header can be one of MRC, or else the suffix is one of MRC's."""
        if looks_like_mrc(path):
            return True
        return path.suffix.lower() in SUFFIXES and not _starts_with(path, _HDF_MAGIC)

    def open_images(self, path: Path) -> ImageStack:
        """Open a stack; a map counts as the stack of its z sections.

        Raises
        ------
        FileMissingError, FormatError
            If the file is missing, broken, or stores its axes in another order than x, y, z.
        """
        return MrcStack(path)

    def read_volume(self, path: Path) -> Volume:
        """Read a map as float32 (z, y, x), whatever its axis order and dtype.

        The voxel size is that of x (1 Å if the header has none). Where the axes differ, ``attributes``
        holds ``apix_x``, ``apix_y`` and ``apix_z``.

        Raises
        ------
        FileMissingError, FormatError
        """
        with _Sections(path) as sections:
            header = sections.header
            stored = np.empty(header.shape, np.float32)
            sections.read_run(0, stored)
        order = [2 - header.axes[2 - position] for position in range(3)]  # zyx axis of each stored axis
        data = np.ascontiguousarray(stored.transpose(np.argsort(order)))
        voxel = header.voxel_angst[0] or next((size for size in header.voxel_angst if size), 1.0)
        return Volume(data, voxel, header.origin_angst, _anisotropy(header))


class MrcStack(ImageStack):
    """An open MRC stack; reads with ``preadv``, so that threads share nothing and nothing stays mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sections = _Sections(path)
        header = self._sections.header
        if header.axes != (0, 1, 2):
            self._sections.close()
            names = ", ".join("xyz"[axis] for axis in header.axes)
            raise FormatError(f"{path}: columns, rows, sections are {names}; an image stack needs x, y, z")
        count, ny, nx = header.shape
        self.header = StackHeader(count, (ny, nx), header.dtype, header.voxel_angst[0])

    def read(self, numbers: IntArray) -> FloatArray:
        """See :meth:`ImageStack.read`; runs of successive numbers are read at once."""
        wanted = np.asarray(numbers, np.int64).ravel()
        wrong = wanted[(wanted < 0) | (wanted >= self.header.count)]
        if wrong.size:
            raise FormatError(
                f"{self.path}: has {self.header.count} images, image {wrong[0] + 1} was asked for"
            )
        images = np.empty((len(wanted), *self.header.shape), np.float32)
        for start, stop in _runs(wanted):
            self._sections.read_run(int(wanted[start]), images[start:stop])
        return images

    def mapped(self) -> NDArray[Any] | None:
        """See :meth:`ImageStack.mapped`; only 4-bit images cannot be mapped."""
        header = self._sections.header
        if header.packed:
            return None
        return np.memmap(self.path, header.dtype, "r", header.offset, header.shape)

    def close(self) -> None:
        """Release the file."""
        self._sections.close()


class _Sections:
    """An open file and its checked header; reads runs of sections as float32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise FileMissingError(f"{path}: no such file") from error
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> _Sections:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_run(self, first: int, out: NDArray[np.float32]) -> None:
        """Fill ``out`` (m, ny, nx) with sections ``first … first + m − 1``."""
        header = self.header
        offset = header.offset + first * header.section_bytes
        if header.dtype == np.dtype(np.float32):
            self._fill(out.reshape(-1).view(np.uint8), offset)
            return
        rows = out.reshape(-1, header.shape[2])
        step = max(1, _PIECE_BYTES // header.row_bytes)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            raw = np.empty(len(piece) * header.row_bytes, np.uint8)
            self._fill(raw, offset + start * header.row_bytes)
            piece[...] = _unpacked(raw, len(piece), header)

    def _fill(self, buffer: NDArray[np.uint8], offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._descriptor, [buffer[done:].data], offset + done)
            except OSError as error:
                raise FormatError(
                    f"{self.path}: cannot be read at byte {offset + done}: {error.strerror}"
                ) from error
            if not got:
                raise FormatError(
                    f"{self.path}: ends at byte {offset + done}; {offset + len(buffer)} bytes were expected: "
                    "the file was shortened while in use"
                )
            done += got


def _unpacked(raw: NDArray[np.uint8], rows: int, header: MrcHeader) -> NDArray[Any]:
    """Rows of stored values; mode 101 keeps the first value of a pair in the low four bits."""
    if not header.packed:
        return raw.view(header.dtype).reshape(rows, header.shape[2])
    pairs = raw.reshape(rows, header.row_bytes)
    values = np.empty((rows, 2 * header.row_bytes), np.uint8)
    values[:, 0::2] = pairs & 15
    values[:, 1::2] = pairs >> 4
    return values[:, : header.shape[2]]


def _runs(numbers: IntArray) -> Iterator[tuple[int, int]]:
    """Ranges of positions whose numbers succeed one another."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = [0, *breaks.tolist(), len(numbers)]
    yield from itertools.pairwise(edges)


def _anisotropy(header: MrcHeader) -> dict[str, float]:
    known = [size for size in header.voxel_angst if size]
    if len(known) < 2 or max(known) - min(known) <= _ANISOTROPY * max(known):
        return {}
    return {f"apix_{name}": size for name, size in zip("xyz", header.voxel_angst, strict=True) if size}


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
