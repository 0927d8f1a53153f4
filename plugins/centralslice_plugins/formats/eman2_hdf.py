"""Reading EMAN2's HDF5 layout ``/MDF/images/<n>/image``: opening, attributes, images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5s, h5t
from numpy.typing import NDArray

from centralslice.conventions import FloatArray
from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.eman2_attributes import (
    TRANSFORM_DTYPE,
    Transform,
    ctf_from_text,
    is_ctf_text,
)

MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf", ".hdf5", ".h5")
PREFIX = "EMAN."
IMAGES = "MDF/images"
#: Deflate cannot shrink data to less than about 1/1032.
_LARGEST_RATIO = 1100
_TRANSFORM_TYPE = h5t.py_create(TRANSFORM_DTYPE)


@contextmanager
def one_line(path: Path, what: str) -> Iterator[None]:
    """Turn whatever the HDF5 library says about a broken file into one line."""
    try:
        yield
    except FormatError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).strip("'\"")
        raise FormatError(f"{path}: {what} cannot be read: {reason}; the file is damaged") from error


def has_magic(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Eman2File:
    """An open EMAN2 HDF5 file; h5py's global lock makes reading from several threads safe.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not HDF5, damaged, or laid out in another way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileMissingError(f"{path}: no such file")
        if not has_magic(path):
            size = path.stat().st_size
            raise FormatError(f"{path}: is not an HDF5 file ({size} bytes, without the signature of HDF5)")
        with one_line(path, "the HDF5 file"):
            # Peers may hold the file open; nothing is written, so a lock that cannot be had is no matter.
            self._file = h5py.File(path, "r", locking="best-effort")
        try:
            with one_line(path, "the list of images"):
                self.images: h5g.GroupID = self._images()
                self.count = self._count()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _images(self) -> h5g.GroupID:
        if IMAGES not in self._file:
            if "num_dataset" in self._file.attrs:
                raise FormatError(
                    f"{self.path}: has EMAN2's obsolete layout (num_dataset); convert it with a present "
                    "e2proc3d.py or e2proc2d.py"
                )
            raise FormatError(f"{self.path}: is HDF5 but not EMAN2's: there is no group /{IMAGES}")
        group = self._file[IMAGES]
        if not isinstance(group, h5py.Group):
            raise FormatError(f"{self.path}: /{IMAGES} is not a group; the file is not EMAN2's")
        return group.id

    def _count(self) -> int:
        links: int = self.images.get_num_objs()
        if not h5a.exists(self.images, b"imageid_max"):
            return links
        highest = self.number(self.images, b"imageid_max")
        count = int(highest) + 1
        if not 0 <= count <= links:
            raise FormatError(
                f"{self.path}: imageid_max says {count} images, the file has {links}; "
                "it was not written to its end"
            )
        return count

    def group(self, number: int) -> h5g.GroupID:
        """The group of one image.

        Raises
        ------
        FormatError
            If the image is not there.
        """
        if not 0 <= number < self.count:
            raise FormatError(f"{self.path}: has {self.count} images, image {number + 1} was asked for")
        with one_line(self.path, f"image {number + 1}"):
            return h5g.open(self.images, str(number).encode())

    def number(self, group: h5g.GroupID, name: bytes) -> float:
        """A single number; NaN if the attribute is absent."""
        attribute = _attribute(group, name)
        if attribute is None:
            return float("nan")
        if attribute.shape not in ((), (1,)):
            raise FormatError(
                f"{self.path}: attribute {name.decode()} has shape {attribute.shape}, not one value"
            )
        value = np.empty(1, np.float64)
        attribute.read(value, mtype=h5t.NATIVE_DOUBLE)
        return float(value[0])

    def numbers(self, group: h5g.GroupID, name: bytes) -> NDArray[np.float32] | None:
        """A list of floats, or None if the attribute is absent."""
        attribute = _attribute(group, name)
        if attribute is None:
            return None
        values = np.empty(int(np.prod(attribute.shape, dtype=np.int64)), np.float32)
        attribute.read(values.reshape(attribute.shape), mtype=h5t.NATIVE_FLOAT)
        return values

    def transform(self, group: h5g.GroupID, name: bytes) -> FloatArray | None:
        """(3, 4) float64 matrix of a Transform, or None if the attribute is absent."""
        attribute = _attribute(group, name)
        if attribute is None:
            return None
        kind = attribute.get_type()
        record = np.full(1, np.nan, np.float32).repeat(12)
        if isinstance(kind, h5t.TypeCompoundID) and attribute.shape in ((), (1,)):
            attribute.read(record.view(TRANSFORM_DTYPE).reshape(attribute.shape), mtype=_TRANSFORM_TYPE)
        elif isinstance(kind, h5t.TypeFloatID) and attribute.shape == (12,):
            attribute.read(record, mtype=h5t.NATIVE_FLOAT)
        else:
            raise FormatError(f"{self.path}: attribute {name.decode()} is no Transform of 12 numbers")
        return record.astype(np.float64).reshape(3, 4)

    def text(self, group: h5g.GroupID, name: bytes) -> str | None:
        """A string, or None if the attribute is absent."""
        attribute = _attribute(group, name)
        if attribute is None:
            return None
        value = h5py.Group(group).attrs[attribute.name.decode()]
        return _as_text(value) if isinstance(value, (str, bytes)) else str(value)

    def attributes(self, number: int) -> dict[str, Any]:
        """All attributes of an image by EMAN2's names: numbers, bool, str, arrays, Transform, Eman2Ctf."""
        with one_line(self.path, f"the header of image {number + 1}"):
            stored = h5py.Group(self.group(number)).attrs
            names = sorted(stored, key=lambda name: name.startswith(PREFIX))  # prefixed ones win
            return {name.removeprefix(PREFIX): _python_value(stored[name]) for name in names}

    def pixel_size(self, group: h5g.GroupID) -> float:
        """``apix_x``, else IMOD's spacing of the whole file, else NaN."""
        size = self.number(group, b"apix_x")
        return size if size > 0 else self.number(self.images, b"Group.IMOD.PixelSpacing")

    def dataset(self, number: int) -> h5d.DatasetID:
        """The image data of one image, after a look at whether the file can hold what it claims."""
        with one_line(self.path, f"image {number + 1}"):
            found = h5d.open(self.group(number), b"image")
            self._check_stored(number, found)
            return found

    def _check_stored(self, number: int, found: h5d.DatasetID) -> None:
        claimed = int(np.prod(found.shape, dtype=np.float64)) * found.dtype.itemsize
        stored = found.get_storage_size()
        ratio = _LARGEST_RATIO if found.get_create_plist().get_layout() == h5d.CHUNKED else 1
        if found.dtype.kind not in "iuf" or not 2 <= len(found.shape) <= 3:
            raise FormatError(
                f"{self.path}: image {number + 1} is of dtype {found.dtype} and shape {found.shape}; "
                "expected 2 or 3 axes of real numbers"
            )
        if claimed > ratio * stored:
            raise FormatError(
                f"{self.path}: image {number + 1} claims {claimed} bytes, the file holds {stored} of it; "
                "it was not written to its end"
            )

    def read_image(self, number: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """One image as float32, bit reduction undone; into ``out`` if its shape is right.

        Raises
        ------
        FormatError
            If the image is damaged, complex, or of another shape than ``out``.
        """
        data = self.dataset(number)
        if out is None:
            out = np.empty(data.shape, np.float32)
        if data.shape != out.shape:
            raise FormatError(
                f"{self.path}: image {number + 1} is of shape {data.shape}, the first one of {out.shape}"
            )
        scale = self._scale(number)
        with one_line(self.path, f"image {number + 1}"):
            data.read(h5s.ALL, h5s.ALL, out, mtype=h5t.NATIVE_FLOAT)
        _rescale(out, scale)
        return out

    def read_sections(self, numbers: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """z sections of the 3D image 0 as float32 into ``out`` (m, ny, nx); see :meth:`read_image`."""
        data = self.dataset(0)
        scale = self._scale(0)
        space, memory = data.get_space(), h5s.create_simple((1, *out.shape[1:]))
        for number, section in zip(numbers.tolist(), out, strict=True):
            with one_line(self.path, f"section {number + 1}"):
                space.select_hyperslab((number, 0, 0), (1, *out.shape[1:]))
                data.read(memory, space, section[np.newaxis], mtype=h5t.NATIVE_FLOAT)
        _rescale(out, scale)

    def _scale(self, number: int) -> tuple[float, float] | None:
        """Step and offset of bit-reduced values, or None for plain ones; refuses transforms."""
        with one_line(self.path, f"the header of image {number + 1}"):
            group = self.group(number)
            if self.number(group, b"is_complex") == 1:
                raise FormatError(
                    f"{self.path}: image {number + 1} is complex (a transform); give real images"
                )
            bits = self.number(group, b"stored_renderbits")
            if not bits > 0:
                return None
            low, high = (self.number(group, b"stored_render" + end) for end in (b"min", b"max"))
        if not (bits <= 16 and np.isfinite(low) and np.isfinite(high)):
            raise FormatError(
                f"{self.path}: image {number + 1} has {bits:g} stored_renderbits and a range of "
                f"{low} to {high}"
            )
        return (high - low) / (2.0**bits - 1), low


def _rescale(values: NDArray[np.float32], scale: tuple[float, float] | None) -> None:
    if scale is not None:
        values *= np.float32(scale[0])
        values += np.float32(scale[1])


def _attribute(group: h5g.GroupID, name: bytes) -> h5a.AttrID | None:
    """An attribute with or without EMAN2's prefix."""
    for full in (b"EMAN." + name, name):
        if h5a.exists(group, full):
            return h5a.open(group, full)
    return None


def _as_text(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return text.split("\0", 1)[0]


def _python_value(value: Any) -> Any:
    """An attribute as h5py gives it, as a plain value; one-element lists are scalars in this format."""
    if isinstance(value, (str, bytes)):
        text = _as_text(value)
        if is_ctf_text(text):
            try:
                return ctf_from_text(text)
            except ValueError:
                return text  # a name that happens to begin like one
        return text
    array = np.asarray(value)
    if array.dtype.names is not None:
        return Transform.from_numbers([array.reshape(-1)[0][name] for name in array.dtype.names])
    if array.size != 1:
        return array
    single = array.reshape(-1)[0]
    if array.dtype == np.int8 and single in (ord("T"), ord("F")):
        return bool(single == ord("T"))
    return single.item() if isinstance(single, np.generic) else single
