"""Particle images in order, chunk by chunk: read ahead, checked, background subtracted, preprocessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numba import njit

from centralslice.abc.processor import Processor
from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.images import ImageStack, StackHeader
from centralslice.data.particles import Particles
from centralslice.errors import FormatError, ParameterError
from centralslice.plugin.registry import Registry

#: What is read of a piece.
Chunk = TypeVar("Chunk")

#: Pieces that wait to be taken: the one that is wanted next and the one after it.
PIECES_AHEAD = 2
#: Open files at a time; stacks of one image each are common in old projects.
OPEN_STACKS = 64


class StackPool:
    """Open image stacks of a run; the least recently used is closed beyond OPEN_STACKS."""

    def __init__(self, files: Sequence[Path], registry: Registry) -> None:
        self._files, self._registry = files, registry
        self._open: dict[int, ImageStack] = {}

    def stack(self, number: int) -> ImageStack:
        """The stack of a file number, opened if need be."""
        found = self._open.pop(number, None)
        if found is None:
            path = self._files[number]
            found = self._registry.reader_for(path, "images").open_images(path)
            if len(self._open) >= OPEN_STACKS:
                self._open.pop(next(iter(self._open))).close()
        self._open[number] = found
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stack in self._open.values():
            stack.close()
        self._open.clear()


def check_stacks(particles: Particles, pool: StackPool) -> StackHeader:
    """Check every image file against the metadata before any work.

    Returns
    -------
        Header of the first stack.

    Raises
    ------
    FormatError
        For a stack with too few images, non-square images, or sizes that differ, naming file and row.
    """
    first: StackHeader | None = None
    order = np.argsort(particles.file_number, kind="stable")
    files, starts = np.unique(particles.file_number[order], return_index=True)
    for number, rows in zip(files, np.split(order, starts[1:]), strict=True):
        path, header = particles.image_files[number], pool.stack(int(number)).header
        row = int(rows[np.argmax(particles.image_number[rows])])
        asked = int(particles.image_number[row]) + 1
        if asked > header.count:
            raise FormatError(
                f"{path}: holds {header.count} images, but {particles.source}, particle {_row(particles, row)}, "
                f"asks for image {asked}"
            )
        if header.shape[0] != header.shape[1]:
            raise FormatError(
                f"{path}: images are {header.shape[1]}×{header.shape[0]} pixels "
                f"({particles.source}, particle {_row(particles, int(rows[0]))}); "
                "expected square ones: clip or pad them first"
            )
        if first is not None and header.shape != first.shape:
            raise FormatError(
                f"{path}: images are {header.shape[0]} pixels wide ({particles.source}, particle "
                f"{_row(particles, int(rows[0]))}), others are {first.shape[0]}; "
                "expected one box size: rescale them first"
            )
        first = header if first is None else first
    if first is None:
        raise FormatError(f"{particles.source}: no particles")
    return first


def _row(particles: Particles, row: int) -> int:
    """1-based row of the metadata file."""
    return int(particles.source_row[row]) + 1


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Images ready for transforming: ``rows`` of the run's particles, ``images`` (b, n, n) float32.

    ``blank`` marks images of zero variance, which must not be inserted.
    """

    rows: IntArray
    images: FloatArray
    blank: BoolArray


@dataclass(frozen=True, slots=True)
class ImageSource:
    """How the images of a run are read and treated."""

    particles: Particles
    pool: StackPool
    preprocessors: tuple[Processor, ...]
    pixel_sizes_angst: FloatArray

    def read(self, rows: IntArray) -> ImageChunk:
        """Read, check and preprocess these images."""
        particles = self.particles
        images: FloatArray | None = None
        for number in np.unique(particles.file_number[rows]):
            at = np.flatnonzero(particles.file_number[rows] == number)
            found = self.pool.stack(int(number)).read(particles.image_number[rows[at]])
            if len(at) == len(rows):
                images = np.ascontiguousarray(found, np.float32)
                break
            if images is None:
                images = np.empty((len(rows), *found.shape[1:]), np.float32)
            images[at] = found
        if images is None:
            raise FormatError(f"{particles.source}: no images to read")
        return self._checked(rows, images)

    def _checked(self, rows: IntArray, images: FloatArray) -> ImageChunk:
        if not images.flags.writeable:
            images = images.copy()
        blank, finite = _subtract_edge_means(images)
        if not finite.all():
            bad = int(rows[np.argmin(finite)])
            raise FormatError(
                f"{self.particles.describe(bad)}: has pixels that are not finite numbers (particle "
                f"{_row(self.particles, bad)} of {self.particles.source}); repair or remove it"
            )
        if self.preprocessors:
            images = self._preprocessed(rows, images)
            blank |= np.ptp(images, axis=(1, 2)) == 0
        return ImageChunk(rows, images, blank)

    def _preprocessed(self, rows: IntArray, images: FloatArray) -> FloatArray:
        """The images after every processor, their size and finiteness checked."""
        for processor in self.preprocessors:
            processed = [
                processor.apply(image, float(self.pixel_sizes_angst[row]))
                for row, image in zip(rows, images, strict=True)
            ]
            if processed and processed[0].shape != images.shape[1:]:
                raise ParameterError(
                    f"--preprocess {processor.plugin_name}: changes the size of the images from "
                    f"{images.shape[1:]} to {processed[0].shape}; use centralslice process before make3d"
                )
            images = np.stack(processed)
            finite = np.isfinite(images).all(axis=(1, 2))
            if not finite.all():
                bad = int(rows[np.argmin(finite)])
                raise ParameterError(
                    f"--preprocess {processor.plugin_name}: made pixels that are not finite numbers of "
                    f"{self.particles.describe(bad)} (particle {_row(self.particles, bad)} of {self.particles.source})"
                )
        return images


class ReadAhead(Generic[Chunk]):
    """Reads the next piece in the background while the present one is worked on; a context manager."""

    def __init__(self, read: Callable[[IntArray], Chunk], pieces_ahead: int = PIECES_AHEAD) -> None:
        self._read, self._pieces_ahead = read, pieces_ahead
        self._reader = ThreadPoolExecutor(1)
        self._waiting: dict[bytes, Future[Chunk]] = {}

    def start(self, rows: IntArray) -> None:
        """Begin to read these images; of what was begun and never taken, only the latest is kept."""
        if rows.tobytes() in self._waiting:
            return
        while len(self._waiting) >= self._pieces_ahead:
            self._waiting.pop(next(iter(self._waiting))).cancel()
        self._waiting[rows.tobytes()] = self._reader.submit(self._read, rows)

    def take(self, rows: IntArray) -> Chunk:
        """These images, begun before or now; only the reading thread touches files."""
        self.start(rows)
        return self._waiting.pop(rows.tobytes()).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)


@njit(nogil=True, cache=True)
def _subtract_edge_means(images: Any) -> Any:
    """Subtract each image's border mean (corners twice, as EMAN2 counts) in place; which are flat, which finite."""
    count, height, width = images.shape
    blank, finite = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    for n in range(count):
        image = images[n]
        total, same = _sum_and_equals(image.ravel(), image[0, 0])
        finite[n] = np.isfinite(total)
        blank[n] = same == image.size
        edge = 0.0
        for x in range(width):
            edge += image[0, x] + image[height - 1, x]
        for y in range(height):
            edge += image[y, 0] + image[y, width - 1]
        mean = np.float32(edge / (2 * width + 2 * height))
        for y in range(height):
            for x in range(width):
                image[y, x] -= mean
    return blank, finite


# the sum only tells whether there is a NaN or infinity in it: its order does not matter
@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum_and_equals(values: Any, first: Any) -> Any:
    """Sum of the magnitudes in float64, and how many values equal ``first``."""
    total, same = 0.0, 0
    for value in values:
        total += abs(value)
        same += value == first
    return total, same
