"""Shard files: HDF5 with contiguous arrays, written and read in checksummed pieces.

HDF5 lays the file out in memory; the arrays are then written straight to where HDF5 will look for them. So any
HDF5 program reads a shard, but HDF5 itself meets neither a full disk nor a damaged file, both of which it
answers with far less grace than an ``OSError``.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import EllipsisType
from typing import Any, BinaryIO, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import IntArray
from centralslice.data.files import publish
from centralslice.errors import CheckpointError, ParameterError, ResourceError
from centralslice.runtime.checkpoint_records import (
    MASTER,
    PIECE_BYTES,
    STORED_KINDS,
    ArrayRecord,
    ShardRecord,
    piece_rows,
)

#: Any array that can be stored.
AnyArray: TypeAlias = NDArray[Any]
FORMAT = "centralslice-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """What one process contributes to an epoch.

    Attributes
    ----------
    arrays
        Label of a stage to array name to its private sums: what is added up over all shards.
    blocks
        Label to the numbers of the blocks that are in these sums; no block may be in two shards.
    facts
        JSON-able facts of this process.
    state
        Name to array that is not a sum, such as the previous pass's map; usually the master's.
    """

    arrays: Mapping[str, Mapping[str, AnyArray]]
    blocks: Mapping[str, IntArray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, AnyArray] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        sums = sum(array.nbytes for group in self.arrays.values() for array in group.values())
        return sum(array.nbytes for array in [*self.state.values(), *self.blocks.values()]) + sums


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one array: ``sums[label][name][where] += values`` adds them.

    ``values`` is overwritten when the next piece is asked for. ``where`` is a slice of axis 0, or ``...`` for
    an array without axes.
    """

    label: str
    name: str
    where: slice | EllipsisType
    values: AnyArray


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A shard in a folder. Whatever is read is checked against the checksums."""

    folder: Path
    record: ShardRecord

    @property
    def rank(self) -> int:
        """The rank that wrote it; ``MASTER`` for the master's own shard."""
        return self.record.rank

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self.record.file

    @property
    def layout(self) -> dict[str, dict[str, tuple[tuple[int, ...], np.dtype[Any]]]]:
        """Label to array name to shape and type of the sums."""
        found: dict[str, dict[str, tuple[tuple[int, ...], np.dtype[Any]]]] = {}
        for array in self._of("sums"):
            found.setdefault(array.path[1], {})[array.path[2]] = (array.shape, np.dtype(array.dtype))
        return found

    def blocks(self) -> dict[str, IntArray]:
        """Label to the numbers of the blocks in its sums."""
        return {array.path[1]: self._array(array) for array in self._of("blocks")}

    def state(self) -> dict[str, AnyArray]:
        """Arrays that are no sums."""
        return {array.path[1]: self._array(array) for array in self._of("state")}

    def facts(self) -> dict[str, Any]:
        """The facts that were given."""
        (array,) = self._of("facts")
        facts: dict[str, Any] = json.loads(self._array(array).tobytes())
        return facts

    def pieces(self, labels: Iterable[str] | None = None) -> Iterator[Piece]:
        """The sums of these stages (None: all), piece by piece, through one buffer of about 32 MiB.

        Raises
        ------
        CheckpointError
            If the file is missing, too short, or a checksum differs; names file and array.
        """
        wanted = None if labels is None else set(labels)
        chosen = [array for array in self._of("sums") if wanted is None or array.path[1] in wanted]
        with open_shard(self.path) as file:
            for array in chosen:
                for where, values in read_pieces(file, array):
                    yield Piece(array.path[1], array.path[2], where, values)

    def load(self) -> Shard:
        """All of it in memory."""
        arrays = {
            label: {name: np.empty(shape, dtype) for name, (shape, dtype) in group.items()}
            for label, group in self.layout.items()
        }
        for piece in self.pieces():
            arrays[piece.label][piece.name][piece.where] = piece.values
        return Shard(arrays, self.blocks(), self.facts(), self.state())

    def check_presence(self) -> None:
        """Refuse a shard that is missing or has not its size; reads nothing.

        Raises
        ------
        CheckpointError
            As said.
        """
        with open_shard(self.path) as file:
            size = os.fstat(file.fileno()).st_size
        if size != self.record.nbytes:
            kind = "truncated" if size < self.record.nbytes else "too long"
            raise CheckpointError(
                f"{self.path}: {kind}: expected {self.record.nbytes:,} bytes, found {size:,}"
            )

    def verify(self) -> None:
        """Read every byte and compare the checksums.

        Raises
        ------
        CheckpointError
            If the file is missing, has not its size, or a checksum differs; names file and array.
        """
        self.check_presence()
        with open_shard(self.path) as file:
            for array in self.record.arrays:
                for _ in read_pieces(file, array):
                    pass
            found = _rest_checksum(file, self.record.arrays, self.record.nbytes)
        if found != self.record.rest_checksum:
            raise CheckpointError(f"{self.path}: damaged: the checksum of the HDF5 structure differs")

    def _of(self, group: str) -> list[ArrayRecord]:
        return [array for array in self.record.arrays if array.path[0] == group]

    def _array(self, record: ArrayRecord) -> AnyArray:
        target = np.empty(record.shape, record.dtype)
        with open_shard(self.path) as file:
            for where, values in read_pieces(file, record):
                target[where] = values
        return target


def open_shard(path: Path) -> BinaryIO:
    """Open for reading.

    Raises
    ------
    CheckpointError
        If it is missing or cannot be read.
    """
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, though the checkpoint's index names it") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_pieces(file: BinaryIO, record: ArrayRecord) -> Iterator[tuple[slice | EllipsisType, AnyArray]]:
    """Where and what, piece by piece; the values are overwritten by the next piece.

    Raises
    ------
    CheckpointError
        If the file ends too early or a checksum differs.
    """
    dtype, whole = np.dtype(record.dtype), record.shape or (1,)
    if record.nbytes == 0:
        return
    step = piece_rows(record.shape, dtype)
    buffer = np.empty((min(step, whole[0]), *whole[1:]), dtype)
    file.seek(record.offset)
    for number, first in enumerate(range(0, whole[0], step)):
        last = min(first + step, whole[0])
        values = buffer[: last - first]
        _read_into(file, values, record)
        if zlib.crc32(values) != record.checksums[number]:
            rows = f"rows {first}-{last - 1}" if record.shape else "the value"
            raise CheckpointError(f"{file.name}: damaged: the checksum of {record.name} differs in {rows}")
        yield (slice(first, last), values) if record.shape else (..., values.reshape(()))


def _read_into(file: BinaryIO, values: AnyArray, record: ArrayRecord) -> None:
    target = memoryview(values.reshape(-1).view(np.uint8))
    while target:
        try:
            count = file.readinto(target)  # type: ignore[attr-defined]  # a FileIO has it
        except OSError as error:
            raise CheckpointError(f"{file.name}: cannot be read: {error.strerror or error}") from error
        if not count:
            raise CheckpointError(f"{file.name}: truncated inside {record.name}")
        target = target[count:]


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
            rest = _rest_checksum(file, written, size)
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
            raise ParameterError(f"checkpoint: a label or an array cannot be named {path[1:]}: no /, no dots alone")
        if array.dtype.kind not in STORED_KINDS:
            raise ParameterError(f"checkpoint: {'/'.join(path)}: arrays of type {array.dtype} cannot be stored")
    return flat


def plain_value(value: Any) -> Any:
    """What JSON can hold in place of NumPy values and paths; for the ``default`` of ``json.dumps``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-able")


class _Image(io.RawIOBase):
    """The file as HDF5 would write it, without the arrays: only what it writes is kept."""

    def __init__(self) -> None:
        self._writes: list[tuple[int, bytes]] = []
        self._position = self._end = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
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
            group = file.require_group("/".join(("", *path[:-1])))
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
        data = piece.reshape(-1).view(np.uint8)
        checksums.append(zlib.crc32(data))
        file.write(data)
    return replace(record, checksums=tuple(checksums))


def _rest_checksum(file: BinaryIO, arrays: Iterable[ArrayRecord], size: int) -> int:
    """CRC-32 of what lies before, between and after the arrays."""
    checksum = position = 0
    for first, last in [*((a.offset, a.offset + a.nbytes) for a in arrays if a.nbytes), (size, size)]:
        file.seek(position)
        while position < first:
            data = file.read(min(first - position, PIECE_BYTES))
            if not data:
                raise CheckpointError(f"{file.name}: truncated")
            checksum, position = zlib.crc32(data, checksum), position + len(data)
        position = last
    return checksum


def rank_name(rank: int) -> str:
    """``rank 3`` or ``master``."""
    return "master" if rank == MASTER else f"rank {rank}"
