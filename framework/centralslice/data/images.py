"""Access to image stacks: a header that was checked, and images read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import ParameterError


@dataclass(frozen=True, slots=True)
class StackHeader:
    """Shape of a stack: ``count`` images of ``shape`` (ny, nx); pixel size in Å, 0 if unknown."""

    count: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    pixel_size_angst: float = 0.0


class ImageStack(ABC):
    """An open stack of equally sized 2D images; safe to read from several threads.

    A 3D map counts as a stack of its z sections.
    """

    path: Path
    header: StackHeader

    @abstractmethod
    def read(self, numbers: IntArray) -> FloatArray:
        """The images with these 0-based numbers, (len(numbers), ny, nx), native float32 values.

        Raises
        ------
        FormatError
            If a number is beyond the stack or the file is shorter than its header says.
        """

    def mapped(self) -> NDArray[Any] | None:
        """All images (count, ny, nx) mapped into memory as they are stored, any dtype; None if they cannot be."""
        return None

    def attributes(self, number: int) -> Mapping[str, Any]:
        """Per-image attributes of formats that have them (EMAN2 HDF); empty otherwise."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StackSink(ABC):
    """A stack being written: images go to known places; nothing has the final name before ``commit``."""

    @abstractmethod
    def write(self, first: int, images: NDArray[Any]) -> None:
        """Store (m, ny, nx) images as numbers ``first … first + m − 1`` (0-based)."""

    def write_attributes(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Give an image that was written attributes, in formats that have them (EMAN2 HDF).

        Raises
        ------
        ParameterError
            If the format has no place for them.
        """
        raise ParameterError("attributes of images: the stack's format has no place for them; write .hdf")

    @abstractmethod
    def commit(self) -> None:
        """Flush, fsync and rename to the final name."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what was written so far; does nothing after ``commit``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What a stack will hold: count, image shape (ny, nx), pixel size Å, stored dtype."""

    count: int
    shape: tuple[int, int]
    pixel_size_angst: float
    dtype: DTypeLike = np.float32


@dataclass(frozen=True, slots=True)
class StackLayout:
    """A file whose images lie one after the other: bytes before the first, and the stored dtype."""

    offset: int
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class StackStatistics:
    """Of all pixels of a stack."""

    minimum: float
    maximum: float
    mean: float
    rms: float
