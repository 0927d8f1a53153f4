"""Plain files of tilt angles (IMOD .tlt, .rawtlt)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.errors import FileMissingError, FormatError

_LARGEST_DEG = 360.0


def read_tilt_angles(path: Path) -> FloatArray:
    """The tilt angles of a plain file, degrees, (n,) float64, in the order of the file.

    One angle a line; blank lines and lines that start with # do not count. Some programs write a second
    column (the order in which the tilts were taken): the angle is the first column. More columns are
    refused, since such a file is something else (an .xf or .aln file, say).

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If a line is not one or two numbers, lines differ in their number of columns, an angle is not
        within ±360° or there is none.
    """
    try:
        text = path.read_bytes().decode("ascii")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: does not exist; give a file of tilt angles, one a line") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected tilt angles, one a line, got binary data") from error
    angles: list[float] = []
    columns = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        columns = columns or len(words)
        angles.append(_angle(words, columns, f"{path}: line {number}"))
    if not angles:
        raise FormatError(f"{path}: expected tilt angles, one a line, found none")
    return np.array(angles)


def _angle(words: list[str], columns: int, where: str) -> float:
    """The angle of one line."""
    shown = " ".join(words)[:40]
    if len(words) > 2 or len(words) != columns:
        wanted = "one or two columns" if len(words) > 2 else f"{columns} column(s) as in the lines above"
        raise FormatError(f"{where}: expected a tilt angle, {wanted}, got '{shown}'")
    try:
        angle, *_ = [float(word) for word in words]
    except ValueError as error:
        raise FormatError(f"{where}: expected a tilt angle, got '{shown}'") from error
    if not math.isfinite(angle) or abs(angle) > _LARGEST_DEG:
        raise FormatError(f"{where}: expected a tilt angle within ±360°, got '{shown}'")
    return angle
