"""Tilt images and extracted stacks of a run: opened once, mapped where the format allows it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.data.images import ImageStack
from centralslice.data.mapped import release_pages
from centralslice.data.tilt_series import TiltSeries
from centralslice.errors import FormatError
from centralslice.plugin.registry import Registry

#: Open files at a time.
OPEN_FILES = 128
#: Images that cannot be mapped stay decoded up to this much memory, at least the one in work.
DECODED_BYTES = 2**28
#: Pixels of mapped files are given back when so much of them was looked at,
MAPPED_BYTES = 2**25
#: which the system maps in pieces of this size.
_MAPPED_AT_ONCE = 2**16


class TiltImages:
    """The image files of tilt series; used by one thread at a time."""

    def __init__(self, registry: Registry, decoded_bytes: int = DECODED_BYTES) -> None:
        self._registry, self._decoded_bytes = registry, decoded_bytes
        self._open: OrderedDict[Path, tuple[ImageStack, NDArray[Any] | None]] = OrderedDict()
        self._decoded: OrderedDict[tuple[Path, int], FloatArray] = OrderedDict()

    def tilts(self, series: TiltSeries, tilts: IntArray) -> NDArray[Any] | list[NDArray[Any]]:
        """The tilts asked for, mapped or decoded, any dtype: one (f, ny, nx) array if they follow each other in a
        file that is mapped, else (ny, nx) each.
        """
        images = [self._image(series, int(tilt)) for tilt in tilts]
        numbers = series.image_number[tilts]
        if len(set(series.file_number[tilts])) == 1 and np.all(np.diff(numbers) == 1):
            mapped = self._opened(series.image_files[series.file_number[tilts[0]]])[1]
            if mapped is not None:
                found: NDArray[Any] = mapped[numbers[0] : numbers[-1] + 1]
                return found
        return images

    def windows_at_once(self, series: TiltSeries, size: int) -> int:
        """How many windows of so many pixels can be cut before :meth:`let_go`, of one tilt if images are decoded."""
        nx, ny = series.image_size
        touched = min(size, ny) * nx * np.dtype(np.float32).itemsize + 2 * _MAPPED_AT_ONCE
        return max(1, MAPPED_BYTES // touched)

    def decoded(self, series: TiltSeries) -> bool:
        """Whether any image of a series cannot be mapped."""
        return any(self._opened(path)[1] is None for path in series.image_files)

    def let_go(self) -> None:
        """Give back the memory of mapped pixels that were looked at; the system keeps them while it has room."""
        for _, mapped in self._open.values():
            if mapped is not None:
                release_pages(mapped)

    def stack(self, path: Path) -> ImageStack:
        """An open file of extracted images."""
        return self._opened(path)[0]

    def _image(self, series: TiltSeries, tilt: int) -> NDArray[Any]:
        path = series.image_files[series.file_number[tilt]]
        number = int(series.image_number[tilt])
        stack, mapped = self._opened(path)
        if number >= stack.header.count:
            raise FormatError(
                f"{series.source}, tilt {tilt + 1}: image {number + 1} of {path}, which has {stack.header.count}"
            )
        if stack.header.shape != series.image_size[::-1]:
            got = "×".join(map(str, stack.header.shape[::-1]))
            raise FormatError(
                f"{path}: images of {got} pixels, others of tilt series {series.name} have "
                f"{series.image_size[0]}×{series.image_size[1]}; all tilts must be of one size"
            )
        return mapped[number] if mapped is not None else self._decode(path, number, stack)

    def _decode(self, path: Path, number: int, stack: ImageStack) -> FloatArray:
        key = (path, number)
        found = self._decoded.pop(key, None)
        if found is None:
            needed = 4 * stack.header.shape[0] * stack.header.shape[1]
            held = sum(image.nbytes for image in self._decoded.values())
            while self._decoded and held + needed > self._decoded_bytes:
                held -= self._decoded.popitem(last=False)[1].nbytes
            found = stack.read(np.array([number]))[0]
        self._decoded[key] = found
        return found

    def _opened(self, path: Path) -> tuple[ImageStack, NDArray[Any] | None]:
        found = self._open.pop(path, None)
        if found is None:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
            stack = self._registry.reader_for(path, "images").open_images(path)
            found = stack, stack.mapped()
        self._open[path] = found
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stack, _ in self._open.values():
            stack.close()
        self._open.clear()
        self._decoded.clear()


def check_tilt_images(series: TiltSeries, images: TiltImages) -> None:
    """Open every image file of a series and look at its header; raises FormatError or FileMissingError."""
    images.tilts(series, np.arange(len(series)))
