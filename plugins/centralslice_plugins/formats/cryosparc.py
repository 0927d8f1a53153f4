"""cryoSPARC ``.cs`` files: a NumPy structured array on disk, one record a particle, joined by ``uid``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FileMissingError, FormatError

_MAGIC = b"\x93NUMPY"
_STREAM_MAGIC = b"\x94CSDAT"
#: A header names some hundred fields at most; more is no particle file.
_MAX_HEADER_BYTES = 200_000
#: What NumPy raises for headers that are damaged in one way or another.
_UNREADABLE = (
    ValueError, OSError, EOFError, ArithmeticError, TypeError, SyntaxError, LookupError, TokenError,
    RecursionError, MemoryError,
)  # fmt: skip
_JOB = re.compile(r"(?:^|_)(J\d+)_")


@dataclass(frozen=True, slots=True)
class CsTable:
    """The fields of a ``.cs`` file: name to array with one entry (number or vector) a particle."""

    source: Path
    fields: dict[str, NDArray[Any]]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def where(self, row: int) -> str:
        """``file: particle N`` (1-based), for messages."""
        return f"{self.source}: particle {row + 1}"

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that there are no fields of."""
        return [name for name in names if name not in self.fields]

    def numbers(self, name: str, *shape: int) -> FloatArray:
        """(n, *shape) float64, finite; raises FormatError for another shape or a value that is not finite."""
        values = self.fields[name]
        if values.dtype.kind not in "fiu" or values.shape[1:] != shape:
            raise FormatError(
                f"{self.source}: field {name}: expected numbers of shape {(self.rows, *shape)}, "
                f"got {values.dtype} of shape {values.shape}"
            )
        result = values.astype(np.float64)
        wrong = ~np.isfinite(result).reshape(self.rows, -1).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FormatError(f"{self.where(row)}: {name}: expected finite numbers, got {values[row]}")
        return result

    def integers(self, name: str, least: int, most: int) -> IntArray:
        """(n,) int64 within ``least … most``; raises FormatError naming the first particle outside."""
        values = self.numbers(name)
        wrong = (values < least) | (values > most) | (values != np.round(values))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FormatError(
                f"{self.where(row)}: {name}: expected a whole number from {least} to {most}, "
                f"got {values[row]:g}"
            )
        return values.astype(np.int64)

    def texts(self, name: str) -> list[str]:
        """Texts of all particles."""
        values = self.fields[name]
        if values.dtype.kind == "S" and values.ndim == 1:
            return [value.decode(errors="surrogateescape") for value in values.tolist()]
        if values.dtype.kind == "U" and values.ndim == 1:
            return list(values.tolist())
        raise FormatError(f"{self.source}: field {name}: expected text, got {values.dtype}")


def is_cs(path: Path) -> bool:
    """Whether the file has the suffix .cs and starts as a cryoSPARC table does."""
    if path.suffix.lower() != ".cs":
        return False
    with path.open("rb") as file:
        return file.read(6) in (_MAGIC, _STREAM_MAGIC)


def read_cs(path: Path) -> CsTable:
    """Read all fields of a ``.cs`` file; nothing in it is executed.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not a structured array, is shorter than its header says, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: does not exist") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if magic == _STREAM_MAGIC:
        raise FormatError(
            f"{path}: is a cryoSPARC stream (CSDAT); save it in numpy format with cryosparc-tools first"
        )
    if magic != _MAGIC:
        raise FormatError(f"{path}: expected a cryoSPARC .cs file, which is a NumPy array; this is none")
    try:
        # a memory map checks the header's size against the file's before anything is allocated
        mapped = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=_MAX_HEADER_BYTES)
        records = np.array(mapped)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"{path}: not a readable .cs file: {reason}") from error
    if records.dtype.names is None or records.ndim != 1:
        raise FormatError(f"{path}: expected a list of records with named fields, got {records.dtype}")
    if len(records) == 0:
        raise FormatError(f"{path}: holds no particles")
    return CsTable(path, {name: records[name] for name in records.dtype.names}, len(records))


def with_passthrough(table: CsTable, wanted: Sequence[str]) -> tuple[CsTable, tuple[str, ...]]:
    """The table with fields it lacks from the passthrough file beside it, joined by ``uid``.

    cryoSPARC writes what a job did not change into ``…passthrough_particles….cs``. A file of the same
    job (``J12``) is preferred; it must have all wanted fields that are lacking and all particles.

    Returns
    -------
        The table with the fields it has and all further ones of the passthrough file; notes.

    Raises
    ------
    FormatError
        If fields are lacking and no such file has them.
    """
    lacking = table.missing(wanted)
    if not lacking:
        return table, ()
    problems = []
    for path in _passthrough_files(table.source):
        other = read_cs(path)
        absent = other.missing(["uid", *lacking])
        if absent:
            problems.append(f"{path.name} lacks {', '.join(absent)}")
            continue
        rows = _matching_rows(table, other)
        if rows is None:
            problems.append(f"{path.name} has not all of its particles")
            continue
        joined = {name: values[rows] for name, values in other.fields.items() if name not in table}
        note = f"{', '.join(lacking)} taken from {path} by uid"
        return CsTable(table.source, table.fields | joined, len(table)), (note,)
    tried = "; ".join(problems) or "there is none"
    raise FormatError(
        f"{table.source}: lacks {', '.join(lacking)}; put cryoSPARC's passthrough_particles.cs "
        f"of the same job beside it ({tried})"
    )


def _passthrough_files(source: Path) -> list[Path]:
    """Passthrough files beside a file, those of its own job first."""
    job = _JOB.search(source.name)

    def other_job(path: Path) -> tuple[bool, str]:
        found = _JOB.search(path.name)
        return not (job and found and job[1] == found[1]), path.name

    found = [path for path in source.parent.glob("*passthrough*.cs") if path.name != source.name]
    return sorted(found, key=other_job)


def _matching_rows(table: CsTable, other: CsTable) -> IntArray | None:
    """Row in ``other`` of each particle of ``table`` by uid, or None if some are not there."""
    if "uid" not in table:
        raise FormatError(f"{table.source}: has no field uid to look up its particles by")
    wanted, there = table.fields["uid"], other.fields["uid"]
    order = np.argsort(there, kind="stable")
    place = np.minimum(np.searchsorted(there, wanted, sorter=order), len(there) - 1)
    rows: IntArray = order[place]
    return rows if np.array_equal(there[rows], wanted) else None
