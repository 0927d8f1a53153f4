"""EMAN2 HDF5 maps and stacks: attributes as EMAN2 reads them, bit reduction that clips nothing."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.data.files import atomic_output, publish, temporary_name
from centralslice.data.images import StackPlan, StackSink
from centralslice.data.volume import Volume
from centralslice.errors import CentralsliceError, ParameterError, ResourceError
from centralslice_plugins.formats.eman2_hdf import IMAGES
from centralslice_plugins.formats.eman2_storage import (
    Quantisation,
    attribute_value,
    quantisation_of,
    statistics_of,
    write_attributes,
)

_DEFAULT_BITS: Final = 10
_DEFLATE: Final = 1
#: EMAN2's number of each stored dtype.
_DATATYPES: Final = {"int8": 1, "uint8": 2, "int16": 3, "uint16": 4, "float32": 7}
#: Attributes from this size on need HDF5's "dense" storage.
_COMPACT_BYTES: Final = 64000


class Eman2HdfWriter(Writer):
    """Writes maps and stacks as EMAN2 lays them out, readable with any HDF5 library from 1.8 on.

    The file format is HDF5's oldest, unless an attribute (a list of particle numbers) has more than
    64 KiB: that one needs the format of HDF5 1.8, which is then chosen.
    """

    plugin_name: ClassVar[str] = "eman2_hdf"
    suffixes: ClassVar[tuple[str, ...]] = (".hdf", ".hdf5", ".h5")
    capabilities: ClassVar[frozenset[str]] = frozenset({"volume", "images"})

    def write_volume(self, path: Path, volume: Volume, options: VolumeOptions) -> None:
        """Write a map.

        ``options.bits``: None is 10; < 0 plain float32; 0 losslessly compressed float32; 1 … 16 quantised
        over the full range, 0 staying 0.

        Raises
        ------
        ParameterError
            If an option or attribute has no place in the format, or values that are not finite are to
            be quantised.
        ResourceError
            If the file cannot be written; nothing is left behind.
        """
        bits = _checked_bits(path, options)
        data = volume.data
        if data.ndim != 3:
            raise ParameterError(f"{path}: a map has 3 axes, got an array of shape {data.shape}")
        statistics = statistics_of(data)
        attributes = _map_attributes(volume)
        with atomic_output(path) as temporary:
            file = CarefulFile(temporary)
            with file, h5py.File(file, "w", libver=_file_format(attributes)) as hdf:
                images = hdf.create_group(IMAGES)
                _count_images(images, 1)
                group = _new_group(images, 0)
                kept = _write_image(group, data, bits, statistics)
                write_attributes(group, attributes | statistics | kept)
            file.raise_error()

    def create_stack(self, path: Path, plan: StackPlan) -> StackSink:
        """Start a stack of plain (not compressed) images.

        Raises
        ------
        ParameterError
            If EMAN2 has no place for the plan's dtype or the plan is empty.
        ResourceError
            If the file cannot be made.
        """
        return Eman2StackSink(path, plan)


class CarefulFile(io.RawIOBase):
    """A file for HDF5 that remembers the first failure to write, and lets HDF5 close in peace.

    HDF5 cannot close a file whose writes fail: the process crashes at its end. So after a failure
    writes go nowhere; :meth:`raise_error` tells, and the file must not be published.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 closed by close()
        self.error: OSError | None = None

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise self.error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got = self._file.readinto(view) or 0
        view[got:] = bytes(len(view) - got)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += self._file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Eman2StackSink(StackSink):
    """A stack being written under a temporary name; safe to write to from several threads."""

    def __init__(self, path: Path, plan: StackPlan) -> None:
        self._dtype = np.dtype(plan.dtype).newbyteorder("=")
        if str(self._dtype) not in _DATATYPES:
            raise ParameterError(
                f"{path}: EMAN2 HDF files cannot store {self._dtype} (they can: {', '.join(_DATATYPES)})"
            )
        if plan.count < 1 or min(plan.shape) < 1:
            raise ParameterError(
                f"{path}: a stack of {plan.count} images of shape {plan.shape} cannot be written"
            )
        self.path = path
        self._plan = plan
        self._lock = threading.Lock()
        self._written = np.zeros(plan.count, np.bool_)
        self._temporary = temporary_name(path)
        try:
            self._file = CarefulFile(self._temporary)
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {error.strerror}") from error
        self._hdf = h5py.File(self._file, "w", libver=("earliest", "v108"))
        self._images = self._hdf.create_group(IMAGES)
        _count_images(self._images, plan.count)

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
        with self._lock:
            for number, image in enumerate(images, first):
                self._write_one(number, image)
            self._stop_on_error()

    def write_attributes(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Give an image that was written further attributes, by EMAN2's names.

        Raises
        ------
        ParameterError
            If the image was not written yet or a value has no place in the format.
        ResourceError
            If the disk is full.
        """
        with self._lock:
            if not 0 <= number < self._plan.count or not self._written[number]:
                raise ParameterError(f"{self.path}: image {number + 1} was not written yet; write it first")
            if _file_format(attributes) != ("earliest", "v108"):
                raise ParameterError(f"{self.path}: image {number + 1} has an attribute of more than 64 KiB")
            write_attributes(self._images[str(number)], attributes)
            self._stop_on_error()

    def _write_one(self, number: int, image: NDArray[Any]) -> None:
        stored = _exact(image, self._dtype, self.path)
        statistics = statistics_of(stored)
        if self._written[number]:
            del self._images[str(number)]
        group = _new_group(self._images, number)
        group.create_dataset("image", data=stored)
        pixel = {f"apix_{axis}": float(self._plan.pixel_size_angst) for axis in "xyz"}
        write_attributes(group, pixel | statistics | {"datatype": _DATATYPES[str(self._dtype)]})
        self._written[number] = True

    def commit(self) -> None:
        """See :meth:`StackSink.commit`.

        Raises
        ------
        CentralsliceError
            If an image was never written.
        ResourceError
            If the disk is full.
        """
        missing = np.flatnonzero(~self._written)
        if missing.size:
            self.discard()
            raise CentralsliceError(
                f"{self.path}: {missing.size} of {self._plan.count} images were never written, the first is "
                f"image {missing[0] + 1}"
            )
        self._hdf.close()
        self._stop_on_error()
        self._file.close()
        try:
            publish(self._temporary, self.path)
        except OSError as error:
            self.discard()
            raise ResourceError(f"{self.path}: cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """See :meth:`StackSink.discard`."""
        self._hdf.close()
        self._file.close()
        with suppress(FileNotFoundError):
            self._temporary.unlink()

    def _stop_on_error(self) -> None:
        error = self._file.error
        if error is not None:
            self.discard()
            raise ResourceError(f"{self.path}: cannot be written: {error.strerror}") from error


def _checked_bits(path: Path, options: VolumeOptions) -> int:
    """Bits, 0 for lossless and −1 for plain."""
    if options.float16:
        raise ParameterError(
            f"{path}: EMAN2 HDF files have no half-precision floats; use --compressbits instead"
        )
    bits = _DEFAULT_BITS if options.bits is None else options.bits
    if bits > 16:
        raise ParameterError(
            f"{path}: --compressbits {bits}: expected at most 16, 0 for lossless or -1 for plain"
        )
    return max(bits, -1)


def _map_attributes(volume: Volume) -> dict[str, Any]:
    """The map's own attributes, its voxel size and, unless it is 0, its origin."""
    attributes = {name: value for name, value in volume.attributes.items() if not name.startswith("stored_")}
    attributes |= {f"apix_{axis}": float(volume.voxel_size_angst) for axis in "xyz"}
    for axis, position in zip("xyz", volume.origin_angst, strict=True):
        attributes.pop(f"origin_{axis}", None)
        if position:
            attributes[f"origin_{axis}"] = float(position)
    return attributes


def _file_format(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Range of HDF5 file formats: the oldest, or that of 1.8 where an attribute has more than 64 KiB."""
    found = (attribute_value(name, value) for name, value in attributes.items())
    large = any(entry is not None and entry[0].nbytes >= _COMPACT_BYTES for entry in found)
    return ("v108", "v108") if large else ("earliest", "v108")


def _count_images(images: h5py.Group, count: int) -> None:
    images.attrs.create("imageid_max", np.array([count - 1], np.int32), shape=(1,), dtype=np.int32)


def _new_group(images: h5py.Group, number: int) -> h5py.Group:
    """An image's group, without time stamps: the same map writes the same bytes."""
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(images.id, str(number).encode(), gcpl=creation))


def _write_image(
    group: h5py.Group, data: NDArray[Any], bits: int, statistics: Mapping[str, Any]
) -> dict[str, Any]:
    """Store the voxels section by section; returns the attributes that tell how."""
    scale: Quantisation | None = None
    if bits > 0:
        extremes = float(statistics["minimum"]), float(statistics["maximum"])
        scale = quantisation_of(*extremes, bool(statistics["all_int"]), bits)
    dtype = np.dtype(np.float32) if scale is None else scale.dtype
    chunks = (1, min(8, data.shape[1]), data.shape[2]) if bits >= 0 else None
    dataset = group.create_dataset(
        "image", data.shape, dtype, chunks=chunks, compression=_DEFLATE if bits >= 0 else None
    )
    for number, section in enumerate(data):
        dataset[number] = section.astype(np.float32) if scale is None else scale.stored(section)
    kept: dict[str, Any] = {"datatype": _DATATYPES[str(dtype)]}
    if scale is not None:
        kept |= {
            "stored_rendermin": np.float32(scale.low),
            "stored_rendermax": np.float32(scale.high),
            "stored_renderbits": bits,
            "stored_truncated": 0,
        }
    return kept


def _exact(image: NDArray[Any], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """An image in the stored dtype; integers are rounded, values beyond their range refused."""
    if dtype.kind == "f":
        return np.ascontiguousarray(image, dtype)
    rounded = np.rint(image)
    info = np.iinfo(dtype)
    if not np.isfinite(rounded).all() or rounded.min() < info.min or rounded.max() > info.max:
        raise ParameterError(
            f"{path}: values from {image.min():g} to {image.max():g} do not fit into {dtype}; store float32"
        )
    return np.ascontiguousarray(rounded.astype(dtype))
