"""Tables as STAR files that RELION reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import Writer
from centralslice.data.files import atomic_output
from centralslice.errors import FormatError, ParameterError
from centralslice_plugins.formats.star_text import format_value

_ROWS_AT_ONCE = 20000

Table = Mapping[str, NDArray[Any]]


class StarWriter(Writer):
    """One block a table: a loop, or a list where all columns are single values (0-dimensional).

    Numbers are written as the shortest text that reads back as the same number, two-dimensional columns
    as vectors ``[a,b]``, texts in quotes where they need them.
    """

    plugin_name: ClassVar[str] = "star"
    suffixes: ClassVar[tuple[str, ...]] = (".star",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"table"})

    def write_tables(self, path: Path, tables: Mapping[str, Table]) -> None:
        """Write named tables into one file, atomically.

        Raises
        ------
        ParameterError
            If a name has blanks, columns differ in length, or a value cannot stand in a STAR file.
        ResourceError
            If the file cannot be written.
        """
        for name, table in tables.items():
            _check(path, name, table)
        with (
            atomic_output(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
        ):
            for name, table in tables.items():
                _write_table(path, file, name, table)


def _check(path: Path, name: str, table: Table) -> None:
    """Refuse what STAR cannot hold, before anything is written."""
    where = f"{path}: table '{name}'"
    if any(ord(letter) <= 32 for letter in name):
        raise ParameterError(f"{where}: a block's name cannot hold blanks")
    for label, column in table.items():
        if not label or any(ord(letter) <= 32 for letter in label):
            raise ParameterError(f"{where}: column '{label}': a label is text without blanks")
        if np.ndim(column) > 2 or np.iscomplexobj(column):
            raise ParameterError(f"{where}: column '{label}': expected real values or rows of them")
    lengths = {len(column) if np.ndim(column) else -1 for column in table.values()}
    if len(lengths) > 1:
        raise ParameterError(f"{where}: columns differ in length: {sorted(lengths)} (−1: a single value)")


def _write_table(path: Path, file: TextIO, name: str, table: Table) -> None:
    file.write(f"\ndata_{name}\n\n")
    if not table:
        return
    try:
        if all(np.ndim(column) == 0 for column in table.values()):
            width = max(map(len, table)) + 2
            for label, value in table.items():
                file.write(f"_{label.ljust(width)} {format_value(np.asarray(value)[()])}\n")
        else:
            file.write("loop_\n")
            file.writelines(f"_{label} #{number}\n" for number, label in enumerate(table, 1))
            rows = zip(*(_formatted(np.asarray(column)) for column in table.values()), strict=True)
            while chunk := list(islice(rows, _ROWS_AT_ONCE)):
                file.write("\n".join(map("\t".join, chunk)) + "\n")
    except FormatError as error:
        raise ParameterError(f"{path}: table '{name}': {error}") from error
    file.write("\n")


def _formatted(column: NDArray[Any]) -> Iterator[str]:
    """The texts of a column's values."""
    if column.ndim == 2:
        return (f"[{','.join(map(format_value, row))}]" for row in column)
    if column.dtype == np.float64:
        return map(repr, column.tolist())
    if np.issubdtype(column.dtype, np.integer):
        return map(str, column.tolist())
    return map(format_value, column)
