"""What a checkpoint's index says: which shards there are, where their arrays lie, their checksums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from centralslice.errors import CheckpointError

#: What shards and indices say they are.
FORMAT: Final = "centralslice-checkpoint"
FORMAT_VERSION: Final = 1
#: The rank under which the master's own shard is filed.
MASTER: Final = -1
#: Array kinds that may be stored: bool, integers, floats, complex.
STORED_KINDS: Final = "biufc"
#: Pieces that are written, checked and read at a time; a single row may be larger.
PIECE_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class ArrayRecord:
    """Where one array lies in its shard.

    Attributes
    ----------
    path
        ``("sums", label, name)``, ``("state", name)``, ``("blocks", label)`` or ``("facts",)``.
    dtype
        NumPy's type string with the byte order, such as ``<i8``.
    shape
        Its shape; ``()`` for a single value.
    offset
        First byte in the file; the values follow in C order.
    checksums
        CRC-32 of each piece, in order; :func:`piece_rows` says what a piece is.
    """

    path: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    offset: int
    checksums: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def name(self) -> str:
        """The path as HDF5 writes it."""
        return "/".join(self.path)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard as it was written; small, for a worker to send to the master.

    Attributes
    ----------
    rank
        Who wrote it; ``MASTER`` for the master's own.
    file
        Name inside the checkpoint folder.
    nbytes
        Size of the file.
    rest_checksum
        CRC-32 of all bytes of the file that are in no array.
    arrays
        Its arrays in the order of their offsets.
    """

    rank: int
    file: str
    nbytes: int
    rest_checksum: int
    arrays: tuple[ArrayRecord, ...]


@dataclass(frozen=True, slots=True)
class RunState:
    """What the master knows about the run when it commits an epoch.

    Attributes
    ----------
    fingerprint
        Nested JSON-able facts that must be the same to resume: inputs, options, versions.
    stages
        Label to the number of blocks planned for that stage.
    quanta
        Label to array name to the quanta of its integer sums, powers of two: one for all, or one for each
        index of the last axis. Value = integer × quantum. Empty where sums are floats.
    facts
        Anything else that is JSON-able.
    """

    fingerprint: Mapping[str, Any]
    stages: Mapping[str, int] = field(default_factory=dict)
    quanta: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def record_to_plain(record: ShardRecord) -> dict[str, Any]:
    """The record as JSON-able data."""
    arrays = [
        {
            "path": list(array.path),
            "dtype": array.dtype,
            "shape": list(array.shape),
            "offset": array.offset,
            "crc32": list(array.checksums),
        }
        for array in record.arrays
    ]
    return {
        "rank": record.rank,
        "file": record.file,
        "bytes": record.nbytes,
        "rest_crc32": record.rest_checksum,
        "arrays": arrays,
    }


def record_from_plain(plain: Any) -> ShardRecord:
    """The record again; everything is checked, for an index is a file like any other.

    Raises
    ------
    CheckpointError
        If something is missing, of the wrong type, or points outside the shard; says what, not where.
    """
    size = _natural(plain, "bytes")
    arrays = tuple(_array_record(item, size) for item in _value(plain, "arrays", list))
    ends = [array.offset + array.nbytes for array in arrays]
    if any(after.offset < end for after, end in zip(arrays[1:], ends, strict=False)):
        raise CheckpointError("arrays of a shard overlap")
    rank = _value(plain, "rank", int)
    return ShardRecord(rank, _value(plain, "file", str), size, _natural(plain, "rest_crc32"), arrays)


def _array_record(plain: Any, size: int) -> ArrayRecord:
    path = tuple(map(str, _value(plain, "path", list)))
    if len(path) != {"sums": 3, "state": 2, "blocks": 2, "facts": 1}.get(path[0] if path else "", 0):
        raise CheckpointError(f"array '{'/'.join(path)}' is of no known group")
    dtype = _value(plain, "dtype", str)
    try:
        known = np.dtype(dtype).kind in STORED_KINDS
    except TypeError:
        known = False
    if not known:
        raise CheckpointError(f"array '{'/'.join(path)}' has the unknown type '{dtype}'")
    shape = tuple(_naturals(_value(plain, "shape", list)))
    checksums = tuple(_naturals(_value(plain, "crc32", list)))
    record = ArrayRecord(path, dtype, shape, _natural(plain, "offset"), checksums)
    if record.offset + record.nbytes > size:
        raise CheckpointError(f"array '{record.name}' would reach beyond its shard")
    if len(checksums) != math.ceil(_rows(shape) / piece_rows(shape, np.dtype(dtype))):
        raise CheckpointError(
            f"array '{record.name}' has {len(checksums)} checksums, which is not one a piece"
        )
    return record


def piece_rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Rows along axis 0 in one piece: as many as fit in 32 MiB, at least one."""
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    return max(1, PIECE_BYTES // max(row_bytes, 1))


def _rows(shape: tuple[int, ...]) -> int:
    """Rows along axis 0; an array without values has none, a single value is one."""
    return 0 if 0 in shape else (shape or (1,))[0]


def _value(plain: Any, key: str, kind: type) -> Any:
    value = plain.get(key) if isinstance(plain, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"'{key}' is missing or of the wrong type")
    return value


def _natural(plain: Any, key: str) -> int:
    return _naturals([_value(plain, key, int)])[0]


def _naturals(values: list[Any]) -> list[int]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise CheckpointError("a number that counts is negative or no integer")
    return values


def plain_value(value: Any) -> Any:
    """What JSON can hold in place of NumPy values and paths; for the ``default`` of ``json.dumps``."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON-able")


def rank_name(rank: int) -> str:
    """``rank 3`` or ``master``."""
    return "master" if rank == MASTER else f"rank {rank}"
