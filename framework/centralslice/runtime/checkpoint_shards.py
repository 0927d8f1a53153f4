"""Shards of a checkpoint in memory and on disk: checksummed pieces, read one at a time.

The index says where the arrays lie in the HDF5 file, so reading never gives a damaged file to the HDF5 library.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import IntArray
from centralslice.errors import CheckpointError
from centralslice.runtime.checkpoint_records import (
    PIECE_BYTES,
    ArrayRecord,
    ShardRecord,
    piece_rows,
)

#: Any array that can be stored.
AnyArray: TypeAlias = NDArray[Any]


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
            found = rest_checksum(file, self.record.arrays, self.record.nbytes)
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
        if zlib.crc32(values.data) != record.checksums[number]:
            rows = f"rows {first}-{last - 1}" if record.shape else "the value"
            raise CheckpointError(f"{file.name}: damaged: the checksum of {record.name} differs in {rows}")
        yield (slice(first, last), values) if record.shape else (..., values.reshape(()))


def _read_into(file: BinaryIO, values: AnyArray, record: ArrayRecord) -> None:
    target = values.reshape(-1).view(np.uint8).data
    while target:
        try:
            count = file.readinto(target)  # type: ignore[attr-defined]  # a FileIO has it
        except OSError as error:
            raise CheckpointError(f"{file.name}: cannot be read: {error.strerror or error}") from error
        if not count:
            raise CheckpointError(f"{file.name}: truncated inside {record.name}")
        target = target[count:]


def rest_checksum(file: BinaryIO, arrays: Iterable[ArrayRecord], size: int) -> int:
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
