"""EMAN2 lists of particles (LSX)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import Writer
from centralslice.errors import ParameterError
from centralslice_plugins.formats.lst import ListRow
from centralslice_plugins.formats.lst_text import checked_record, write_records

#: Columns of a table that say which image a row is.
NUMBER, FILE = "image_number", "image_file"

Table = Mapping[str, NDArray[Any]]


class LstWriter(Writer):
    """One table, whose columns ``image_number`` (0-based) and ``image_file`` say which image a row is.

    All other columns are attributes by EMAN2's names: numbers, truth values, texts, rows of numbers; rows of 12
    numbers under ``xform.…`` become Transforms, rows of 8 under ``ctf`` CTFs
    (:func:`centralslice_plugins.formats.eman2_attributes.eman2_object`). Where a column of numbers has NaN, or
    one of objects None, the row goes without that attribute.
    """

    plugin_name: ClassVar[str] = "lst"
    suffixes: ClassVar[tuple[str, ...]] = (".lst",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"table"})

    def write_tables(self, path: Path, tables: Mapping[str, Table]) -> None:
        """Write the table, atomically.

        Raises
        ------
        ParameterError
            If there is not exactly one table with the two columns, columns differ in length, or a value
            cannot stand in a list.
        ResourceError
            If the file cannot be written.
        """
        if len(tables) != 1:
            raise ParameterError(f"{path}: a list holds one table of particles, got {len(tables)}")
        (name,) = tables
        table = {label: np.asarray(column) for label, column in tables[name].items()}
        missing = [label for label in (NUMBER, FILE) if label not in table]
        if missing:
            raise ParameterError(f"{path}: table '{name}': a list needs a column '{missing[0]}'")
        lengths = {len(column) if column.ndim else -1 for column in table.values()}
        if len(lengths) > 1 or -1 in lengths:
            raise ParameterError(
                f"{path}: table '{name}': columns differ in length: {sorted(lengths)} (−1: a single value)"
            )
        if table[NUMBER].dtype.kind not in "iu":
            raise ParameterError(f"{path}: table '{name}': '{NUMBER}' must hold whole numbers")
        write_records(path, _TableRecords(path, table))


def write_lst(path: Path, rows: Sequence[ListRow]) -> None:
    """Write rows as a list, atomically; their line numbers do not matter.

    Raises
    ------
    ParameterError
        If a value cannot stand in a list; the row is named.
    ResourceError
        If the file cannot be written.
    """
    write_records(
        path,
        [checked_record(path, place, row.number, row.file, row.attributes) for place, row in enumerate(rows)],
    )


@dataclass(frozen=True, slots=True)
class _TableRecords:
    """The records of a table, made anew each time they are gone through."""

    path: Path
    table: Table

    def __iter__(self) -> Iterator[str]:
        others = {label: column for label, column in self.table.items() if label not in (NUMBER, FILE)}
        for row, (number, file) in enumerate(zip(self.table[NUMBER], self.table[FILE], strict=True)):
            attributes = {label: column[row] for label, column in others.items() if not _absent(column[row])}
            yield checked_record(self.path, row, int(number), str(file), attributes)


def _absent(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or a row of NaN only."""
    if value is None:
        return True
    array = np.asarray(value)
    return array.dtype.kind == "f" and bool(np.isnan(array).all())
