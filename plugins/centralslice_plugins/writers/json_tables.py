"""Tables as one JSON object: table name to column name to list of values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.writer import Writer
from centralslice.data.files import atomic_output
from centralslice.errors import ParameterError


class JsonWriter(Writer):
    """``{"table": {"column": [values]}}``; single values stay single, NaN and infinities become null.

    JSON has no numbers that are not finite; float32 values are written as their shortest decimal.
    """

    plugin_name: ClassVar[str] = "json"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    capabilities: ClassVar[frozenset[str]] = frozenset({"table"})

    def write_tables(self, path: Path, tables: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Write named tables into one file, atomically.

        Raises
        ------
        ParameterError
            If columns differ in length or hold anything but real numbers, truth values and text.
        ResourceError
            If the file cannot be written.
        """
        content = {}
        for name, table in tables.items():
            lengths = {len(column) for column in table.values() if np.ndim(column)}
            if len(lengths) > 1:
                raise ParameterError(f"{path}: table '{name}': columns differ in length: {sorted(lengths)}")
            content[name] = {
                label: _plain(np.asarray(column), f"{path}: table '{name}': column '{label}'")
                for label, column in table.items()
            }
        with atomic_output(path) as temporary:
            temporary.write_text(
                json.dumps(content, indent=1, allow_nan=False, ensure_ascii=True) + "\n", encoding="ascii"
            )


def _plain(values: Any, where: str) -> Any:
    """Arrays and NumPy scalars as what JSON has."""
    if isinstance(values, np.ndarray):
        return [_plain(value, where) for value in values] if values.ndim else _plain(values[()], where)
    if isinstance(values, np.floating):
        values = float(str(values))
    elif isinstance(values, np.generic):
        values = values.item()
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, bytes):
        return values.decode(errors="surrogateescape")
    if isinstance(values, (bool, int, str)) or values is None:
        return values
    raise ParameterError(f"{where}: expected real numbers, truth values or text, got {type(values).__name__}")
