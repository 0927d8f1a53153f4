"""Files that processors take as parameters: maps, images and curves, read when they are needed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.errors import FileMissingError, FormatError
from centralslice.plugin.registry import shared_registry


def side_map(path: str, shape: tuple[int, ...], plugin_name: str) -> FloatArray:
    """A map or image file of the same shape as the data, float64, read-only.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is of another shape.
    """
    data = side_array(path, plugin_name)
    if data.ndim == len(shape) + 1 and data.shape[0] == 1:
        data = data[0]
    if data.shape != shape:
        raise FormatError(
            f"{plugin_name}: {path}: expected the size of the data {size_text(shape)}, "
            f"got {size_text(data.shape)} (x × y × z); clip or resample it first"
        )
    return data


def side_curve(path: str, plugin_name: str) -> tuple[FloatArray, FloatArray]:
    """Two-column text file: ascending abscissae and values, each (n,) float64, n >= 2.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it does not hold two columns of finite numbers with ascending first column.
    """
    stat = _stat(path, plugin_name)
    return _read_curve(path, plugin_name, stat)


def size_text(shape: tuple[int, ...]) -> str:
    """A shape in words, x first."""
    return " × ".join(map(str, reversed(shape)))


def _stat(path: str, plugin_name: str) -> tuple[int, int]:
    """Change time and size of a file: what decides whether it has to be read again."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise FileMissingError(f"{plugin_name}: {path}: cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size


def side_array(path: str, plugin_name: str) -> FloatArray:
    """A map file of any shape, float64, read-only; raises FileMissingError, FormatError."""
    return _read_map(path, _stat(path, plugin_name))


@lru_cache(maxsize=4)
def _read_map(path: str, stat: tuple[int, int]) -> FloatArray:
    """The file's map; kept, since a stack asks for the same mask once an image."""
    del stat  # part of the key only
    volume = shared_registry().reader_for(Path(path), "volume").read_volume(Path(path))
    data: FloatArray = np.array(volume.data, dtype=np.float64)
    data.setflags(write=False)
    return data


@lru_cache(maxsize=4)
def _read_curve(path: str, plugin_name: str, stat: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    del stat  # part of the key only
    where = f"{plugin_name}: {path}"
    rows = [
        line.replace(",", " ").split()
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    try:
        table = np.array([[float(word) for word in row[:2]] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise FormatError(f"{where}: expected two columns of numbers: {error}") from error
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] != 2 or not np.isfinite(table).all():
        raise FormatError(
            f"{where}: expected at least two rows of two finite numbers, got shape {table.shape}"
        )
    if not (np.diff(table[:, 0]) > 0).all():
        raise FormatError(f"{where}: expected ascending values in the first column")
    table.setflags(write=False)
    return table[:, 0], table[:, 1]
