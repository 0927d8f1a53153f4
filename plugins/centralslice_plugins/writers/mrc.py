"""MRC maps and image stacks: plain little-endian MRC2014, the density scale kept."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.data.files import atomic_output, publish, temporary_name
from centralslice.data.images import StackLayout, StackPlan, StackSink, StackStatistics
from centralslice.data.volume import Volume
from centralslice.errors import CentralsliceError, ParameterError, ResourceError
from centralslice_plugins.formats.mrc import HEADER_BYTES, NewHeader, Statistics, header_bytes

_MODES: Final[dict[np.dtype[Any], int]] = {
    np.dtype(np.float32): 2,
    np.dtype(np.float16): 12,
    np.dtype(np.int8): 0,
    np.dtype(np.int16): 1,
    np.dtype(np.uint16): 6,
}


class MrcWriter(Writer):
    """Writes maps (mode 2, or 12 for float16) and stacks (modes 0, 1, 2, 6, 12)."""

    plugin_name: ClassVar[str] = "mrc"
    suffixes: ClassVar[tuple[str, ...]] = (".mrc", ".mrcs", ".map", ".st", ".rec", ".ali")
    capabilities: ClassVar[frozenset[str]] = frozenset({"volume", "images"})

    def write_volume(self, path: Path, volume: Volume, options: VolumeOptions) -> None:
        """Write a map at its true density scale, ISPG 1, starts 0, origin as given.

        Raises
        ------
        ParameterError
            If quantised storage is asked for, or values do not fit into the stored dtype.
        ResourceError
            If the file cannot be written; nothing is left behind.
        """
        if options.bits is not None and options.bits > 0:
            raise ParameterError(
                f"{path}: --compressbits {options.bits} does not apply to MRC, which has no place for the "
                "density scale of quantised values; leave it out, use 0 or -1, or write .hdf"
            )
        if volume.data.ndim != 3:
            raise ParameterError(f"{path}: a map has 3 axes, got an array of shape {volume.data.shape}")
        dtype = np.dtype(np.float16 if options.float16 else np.float32)
        sums = _SectionSums(len(volume.data))
        with atomic_output(path) as temporary, open(temporary, "wb") as file:
            file.write(bytes(HEADER_BYTES))
            for number, section in enumerate(volume.data):
                stored = stored_as(section, dtype, path)
                sums.note(number, stored[np.newaxis])
                file.write(stored.tobytes())
            header = NewHeader(
                volume.data.shape, _MODES[dtype], volume.voxel_size_angst, False, sums.statistics(),
                volume.origin_angst,
            )  # fmt: skip
            file.seek(0)
            file.write(header_bytes(header))

    def create_stack(self, path: Path, plan: StackPlan) -> StackSink:
        """Start a stack, ISPG 0 and mz 1.

        Raises
        ------
        ParameterError
            If the plan's dtype has no MRC mode or the plan is empty.
        ResourceError
            If the file cannot be made.
        """
        return MrcStackSink(path, plan)

    def stack_layout(self, path: Path, plan: StackPlan) -> StackLayout:
        """Images follow the header of 1024 bytes.

        Raises
        ------
        ParameterError
            If the plan's dtype has no MRC mode.
        """
        return StackLayout(HEADER_BYTES, _stored_dtype(path, plan).newbyteorder("<"))

    def stack_header(self, path: Path, plan: StackPlan, statistics: StackStatistics) -> bytes:
        """The header of a finished stack."""
        found = Statistics(statistics.minimum, statistics.maximum, statistics.mean, statistics.rms)
        mode = _MODES[_stored_dtype(path, plan)]
        return header_bytes(NewHeader((plan.count, *plan.shape), mode, plan.pixel_size_angst, True, found))


def _stored_dtype(path: Path, plan: StackPlan) -> np.dtype[Any]:
    """The plan's dtype in native order; raises ParameterError if it has no MRC mode."""
    dtype = np.dtype(plan.dtype).newbyteorder("=")
    if dtype not in _MODES:
        known = ", ".join(map(str, _MODES))
        raise ParameterError(f"{path}: MRC cannot store {dtype} (it can: {known})")
    return dtype


def stored_as(values: NDArray[Any], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """``values`` in the stored dtype, little-endian; integers are rounded.

    Raises
    ------
    ParameterError
        If a finite value is beyond the dtype's range.
    """
    little = dtype.newbyteorder("<")
    if values.dtype == dtype:
        return np.ascontiguousarray(values, little)
    info: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    rounded = np.rint(values) if dtype.kind in "iu" else values
    finite = rounded[np.isfinite(rounded)]
    if dtype.kind in "iu" and finite.size != rounded.size:
        raise ParameterError(f"{path}: values that are not finite cannot be stored as {dtype}")
    if finite.size and (finite.max() > info.max or finite.min() < info.min):
        worst = finite.flat[np.abs(finite).argmax()]
        raise ParameterError(
            f"{path}: value {worst:g} does not fit into {dtype}, which ends at {info.max:g}; store float32"
        )
    return np.ascontiguousarray(rounded, little)


class _SectionSums:
    """Statistics kept per section, so that they depend neither on the order of writing nor on rewriting."""

    def __init__(self, count: int) -> None:
        self.written = np.zeros(count, np.bool_)
        self._extremes = np.zeros((count, 2))
        self._moments = np.zeros((count, 2))  # mean, mean square deviation from it

    def note(self, first: int, images: NDArray[Any]) -> None:
        for number, image in enumerate(images, first):
            self._extremes[number] = image.min(), image.max()
            values = image.astype(np.float64)
            mean = values.mean()
            self._moments[number] = mean, np.square(values - mean).mean()
            self.written[number] = True

    def statistics(self) -> Statistics:
        means, squares = self._moments.T
        mean = means.mean()
        rms = np.sqrt((squares + np.square(means - mean)).mean())
        return Statistics(
            float(self._extremes[:, 0].min()), float(self._extremes[:, 1].max()), float(mean), float(rms)
        )


class MrcStackSink(StackSink):
    """A stack being written under a temporary name; safe to write to from several threads."""

    def __init__(self, path: Path, plan: StackPlan) -> None:
        self._dtype = _stored_dtype(path, plan)
        if plan.count < 1 or min(plan.shape) < 1:
            raise ParameterError(
                f"{path}: a stack of {plan.count} images of shape {plan.shape} cannot be written"
            )
        self.path = path
        self._plan = plan
        self._temporary = temporary_name(path)
        self._lock = threading.Lock()
        self._sums = _SectionSums(plan.count)
        self._image_bytes = plan.shape[0] * plan.shape[1] * self._dtype.itemsize
        try:
            self._descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            os.ftruncate(self._descriptor, HEADER_BYTES + plan.count * self._image_bytes)
        except OSError as error:
            self.discard()
            raise ResourceError(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, first: int, images: NDArray[Any]) -> None:
        """See :meth:`StackSink.write`.

        Raises
        ------
        ParameterError
            If the images do not fit into the stack or its dtype.
        ResourceError
            If the disk is full.
        """
        last = first + len(images)
        if first < 0 or last > self._plan.count or images.shape[1:] != self._plan.shape:
            raise ParameterError(
                f"{self.path}: images {first + 1} to {last} of shape {images.shape[1:]} do not fit into a "
                f"stack of {self._plan.count} of shape {self._plan.shape}"
            )
        stored = stored_as(images, self._dtype, self.path)
        self._write_at(HEADER_BYTES + first * self._image_bytes, stored.data.cast("B"))
        with self._lock:
            self._sums.note(first, stored)

    def commit(self) -> None:
        """See :meth:`StackSink.commit`.

        Raises
        ------
        CentralsliceError
            If an image was never written.
        ResourceError
            If the disk is full.
        """
        missing = np.flatnonzero(~self._sums.written)
        if missing.size:
            self.discard()
            raise CentralsliceError(
                f"{self.path}: {missing.size} of {self._plan.count} images were never written, the first is "
                f"image {missing[0] + 1}"
            )
        plan = self._plan
        statistics = self._sums.statistics()
        header = NewHeader(
            (plan.count, *plan.shape), _MODES[self._dtype], plan.pixel_size_angst, True, statistics
        )
        self._write_at(0, memoryview(header_bytes(header)))
        os.close(self._descriptor)
        self._descriptor = -1
        try:
            publish(self._temporary, self.path)
        except OSError as error:
            self.discard()
            raise ResourceError(f"{self.path}: cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """See :meth:`StackSink.discard`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)

    def _write_at(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._descriptor, data[done:], offset + done)
            except OSError as error:
                self.discard()
                raise ResourceError(f"{self.path}: cannot be written: {error.strerror}") from error
