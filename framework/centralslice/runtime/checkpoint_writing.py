"""Writing a shard: an HDF5 file of contiguous arrays, in checksummed pieces.

HDF5 lays the file out in memory; the arrays are then written straight to where HDF5 will look for them. So any
HDF5 program reads a shard, but the HDF5 library never meets a full disk, which it answers with far less grace
than an ``OSError``.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from centralslice.data.files import publish
from centralslice.data.mapped import release_pages
from centralslice.errors import ParameterError, ResourceError
from centralslice.runtime.checkpoint_records import (
    FORMAT,
    FORMAT_VERSION,
    STORED_KINDS,
    ArrayRecord,
    ShardRecord,
    piece_rows,
    plain_value,
)
from centralslice.runtime.checkpoint_shards import AnyArray, Shard, rest_checksum


def write_shard_file(path: Path, rank: int, epoch: int, shard: Shard) -> ShardRecord:
    """Write a shard under a temporary name, fsync and rename it.

    Raises
    ------
    ParameterError
        If a label or name cannot be one in HDF5, or an array has no plain numbers.
    ResourceError
        If it cannot be written, the disk being full for example; nothing is left behind.
    """
    arrays = _flat(shard)
    image, layout, size = _lay_out(arrays, {"epoch": epoch, "rank": rank})
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w+b") as file:
            image.copy_to(file)
            written = tuple(_write_array(file, record, arrays[record.path]) for record in layout)
            file.truncate(size)
            file.flush()
            rest = rest_checksum(file, written, size)
        publish(temporary, path)
    except OSError as error:
        raise ResourceError(
            f"{path}: checkpoint of {size:,} bytes cannot be written: {error.strerror or error}; "
            "the checkpoint before it is still good"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return ShardRecord(rank, path.name, size, rest, written)


def _flat(shard: Shard) -> dict[tuple[str, ...], AnyArray]:
    """All that is stored, by path, small things first."""
    facts = json.dumps(shard.facts, default=plain_value).encode()
    flat: dict[tuple[str, ...], AnyArray] = {("facts",): np.frombuffer(facts, np.uint8)}
    flat |= {("blocks", label): np.asarray(numbers, np.int64) for label, numbers in shard.blocks.items()}
    flat |= {("state", name): np.asarray(array) for name, array in shard.state.items()}
    for label, group in shard.arrays.items():
        flat |= {("sums", label, name): np.asarray(array) for name, array in group.items()}
    for path, array in flat.items():
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in path):
            raise ParameterError(
                f"checkpoint: a label or an array cannot be named {path[1:]}: no /, no dots alone"
            )
        if array.dtype.kind not in STORED_KINDS:
            raise ParameterError(
                f"checkpoint: {'/'.join(path)}: arrays of type {array.dtype} cannot be stored"
            )
    return flat


class _Image(io.RawIOBase):
    """The file as HDF5 would write it, without the arrays: only what it writes is kept."""

    def __init__(self) -> None:
        self._writes: list[tuple[int, bytes]] = []
        self._position = self._end = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        )
        return self._position

    def write(self, data: Any) -> int:
        self._writes.append((self._position, bytes(data)))
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        start, view = self._position, memoryview(buffer)
        view[:] = bytes(len(view))
        for at, data in self._writes:
            first, last = max(at, start), min(at + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - at : last - at]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        return self._end

    def copy_to(self, file: BinaryIO) -> None:
        for at, data in self._writes:
            file.seek(at)
            file.write(data)


def _lay_out(
    arrays: Mapping[tuple[str, ...], AnyArray], numbers: Mapping[str, int]
) -> tuple[_Image, tuple[ArrayRecord, ...], int]:
    """Let HDF5 decide where everything goes; image, arrays in the order of their offsets, size of the file."""
    image = _Image()
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_layout(h5py.h5d.CONTIGUOUS)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    records = []
    with h5py.File(image, "w") as file:
        file.attrs.update({"format": FORMAT, "version": FORMAT_VERSION, **numbers})
        for path, array in arrays.items():
            group = file.require_group(f"/{'/'.join(path[:-1])}")
            kind, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
            if not array.shape:
                space = h5py.h5s.create(h5py.h5s.SCALAR)
            dataset = h5py.h5d.create(group.id, path[-1].encode(), kind, space, contiguous)
            records.append(ArrayRecord(path, array.dtype.str, array.shape, dataset.get_offset() or 0))
        file.flush()
        size = file.id.get_filesize()
    return image, tuple(sorted(records, key=lambda record: record.offset)), size


def _write_array(file: BinaryIO, record: ArrayRecord, array: AnyArray) -> ArrayRecord:
    """Write the values where they belong; the record with their checksums."""
    if array.size == 0:
        return record
    file.seek(record.offset)
    rows = array if array.shape else array.reshape(1)
    step, checksums = piece_rows(array.shape, array.dtype), []
    for first in range(0, len(rows), step):
        piece = np.ascontiguousarray(rows[first : first + step])
        data = piece.reshape(-1).view(np.uint8).data
        checksums.append(zlib.crc32(data))
        file.write(data)
        release_pages(array)
    return replace(record, checksums=tuple(checksums))
