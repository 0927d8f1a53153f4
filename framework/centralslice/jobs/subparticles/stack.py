"""One image stack that all ranks write at known places, under a temporary name until it is complete."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import Writer
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.files import publish
from centralslice.data.images import StackLayout, StackPlan, StackStatistics
from centralslice.errors import CheckpointError, ParameterError, ResourceError
from centralslice.jobs.subparticles.stack_conversion import Attributes, RawStack, convert_stack


@dataclass(frozen=True, slots=True)
class StackFile:
    """What a stack is to be: its final and temporary name, contents, and who writes the format."""

    path: Path
    partial: Path
    plan: StackPlan
    writer: Writer

    @property
    def layout(self) -> StackLayout:
        """Where images lie in the temporary file."""
        return self.writer.stack_layout(self.path, self.plan) or StackLayout(0, np.dtype("<f4"))

    @property
    def nbytes(self) -> int:
        """Bytes of the temporary file."""
        layout = self.layout
        return layout.offset + self.plan.count * self.image_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes of an image in it."""
        return self.plan.shape[0] * self.plan.shape[1] * self.layout.dtype.itemsize


class SharedStack:
    """The temporary file, open on this rank.

    Parameters
    ----------
    file
        What it is.
    """

    def __init__(self, file: StackFile) -> None:
        self.file = file
        self._layout, self._bytes = file.layout, file.image_bytes
        self._descriptor = -1

    def create(self, resume: bool) -> None:
        """The master makes it, or finds what a checkpoint belongs to; nobody else may be writing it.

        Raises
        ------
        CheckpointError
            If another run writes it, or what is to be continued is not there.
        ResourceError
            If it cannot be made.
        """
        path = self.file.partial
        if resume and (not path.is_file() or path.stat().st_size != self.file.nbytes):
            raise CheckpointError(
                f"{path}: is missing or not of {self.file.nbytes:,} bytes, though a checkpoint says that images are "
                "in it; leave out --resume and give --force to start anew"
            )
        free = shutil.disk_usage(path.parent).free
        if not resume and free < self.file.nbytes:
            raise ResourceError(
                f"{self.file.path}: needs {self.file.nbytes / 1e9:,.2f} GB of disk, {free / 1e9:,.2f} GB are free; "
                "make room, or take a smaller --newbox or --float16"
            )
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not resume:
                os.ftruncate(self._descriptor, 0)
                os.ftruncate(self._descriptor, self.file.nbytes)
        except BlockingIOError as error:
            raise CheckpointError(f"{path}: another run is writing it; give another --output") from error
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error

    def open(self) -> None:
        """Open what the master made."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self.file.partial, os.O_RDWR)
            except OSError as error:
                raise ResourceError(
                    f"{self.file.partial}: cannot be opened on this host ({error.strerror or error}); the output "
                    "must be on a file system that all ranks share"
                ) from error

    def write(self, numbers: IntArray, images: FloatArray) -> FloatArray:
        """Store images at their places.

        Parameters
        ----------
        numbers
            (k,) places.
        images
            (k, ny, nx).

        Returns
        -------
            (k, 4) float64: minimum, maximum, mean and mean square deviation of each, as stored.

        Raises
        ------
        ParameterError
            If a value does not fit into half precision.
        ResourceError
            If the disk is full.
        """
        stored = self._stored(images)
        for run in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            if len(run):
                data = np.ascontiguousarray(stored[run[0] : run[-1] + 1]).data.cast("B")
                self._write_at(self._layout.offset + int(numbers[run[0]]) * self._bytes, data)
        return _statistics(stored)

    def _stored(self, images: FloatArray) -> NDArray[Any]:
        dtype = self._layout.dtype
        if dtype.itemsize < images.dtype.itemsize:
            worst = float(np.abs(images).max(initial=0.0))
            if worst > float(np.finfo(dtype).max):
                raise ParameterError(
                    f"{self.file.path}: value {worst:g} does not fit into {dtype.name}; leave out --float16"
                )
        return np.ascontiguousarray(images, dtype)

    def _write_at(self, offset: int, data: memoryview) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], offset + done)
        except OSError as error:
            raise ResourceError(f"{self.file.path}: cannot be written: {error.strerror or error}") from error

    def sync(self) -> None:
        """See that what this rank wrote is on the disk."""
        os.fsync(self._descriptor)

    def complete(self, statistics: FloatArray, staged: Path, attributes: Attributes | None = None) -> str:
        """Make the finished stack; its SHA-256. The master, when all ranks have written.

        The images stay under the temporary name until :meth:`hand_over`, so that whatever happens to the other
        outputs, a run can be continued.

        Parameters
        ----------
        statistics
            (count, 4) of all images, as :meth:`write` gives them.
        staged
            The name under which it is to wait for the other outputs.
        attributes
            Of each image, for formats that have them.
        """
        file = self.file
        if file.writer.stack_layout(file.path, file.plan) is None:
            convert_stack(RawStack(file.partial, file.plan), staged, file.writer, attributes)
            return file_sha256(staged)
        header = file.writer.stack_header(file.path, file.plan, joined_statistics(statistics))
        self._write_at(0, memoryview(header))
        self.sync()
        return file_sha256(file.partial)

    def hand_over(self, staged: Path) -> None:
        """Give the completed stack its staged name; nothing is left under the temporary one."""
        if staged.exists():
            self.discard()
            return
        self.close()
        publish(self.file.partial, staged)

    def close(self) -> None:
        """Close it; the file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close it and remove the temporary file."""
        self.close()
        self.file.partial.unlink(missing_ok=True)


def _statistics(images: NDArray[Any]) -> FloatArray:
    found = np.empty((len(images), 4))
    for number, image in enumerate(images):
        values = image.astype(np.float64)
        mean = values.mean()
        found[number] = values.min(), values.max(), mean, np.square(values - mean).mean()
    return found


def joined_statistics(each: FloatArray) -> StackStatistics:
    """Of a whole stack, from those of its images."""
    mean = float(each[:, 2].mean())
    rms = float(np.sqrt((each[:, 3] + np.square(each[:, 2] - mean)).mean()))
    return StackStatistics(float(each[:, 0].min()), float(each[:, 1].max()), mean, rms)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
