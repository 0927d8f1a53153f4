"""Plain text files of numbers, a row a line: alignments, doses, coordinates."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.errors import FileMissingError, FormatError


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line that is neither blank nor a comment: its words, and where it is, for messages."""

    where: str
    words: tuple[str, ...]

    def numbers(self, what: str) -> list[float]:
        """All words as finite numbers; raises FormatError naming the line."""
        try:
            values = [float(word) for word in self.words]
        except ValueError as error:
            raise self.error(what) from error
        if not all(map(math.isfinite, values)):
            raise self.error(what)
        return values

    def error(self, what: str) -> FormatError:
        """That something else was expected here."""
        shown = " ".join(self.words)[:60]
        return FormatError(f"{self.where}: expected {what}, got '{shown}'")


def read_text(path: Path, what: str) -> str:
    """The text of a file: UTF-8, or Latin-1 as microscopes write it.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it cannot be read or is binary.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: does not exist; give a file of {what}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if b"\0" in data:
        raise FormatError(f"{path}: expected {what}, got binary data")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def text_lines(path: Path, what: str) -> list[TextLine]:
    """The lines of a file that hold something, comments (#) apart; raises as :func:`read_text`."""
    found = []
    for number, line in enumerate(read_text(path, what).splitlines(), 1):
        words = tuple(line.partition("#")[0].split())
        if words:
            found.append(TextLine(f"{path}: line {number}", words))
    return found


def number_rows(path: Path, what: str, columns: Collection[int]) -> FloatArray:
    """(n, m) float64 of a file whose lines all have m numbers, m one of ``columns``.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If a line has something else, or there is none.
    """
    rows: list[list[float]] = []
    wanted = columns
    for line in text_lines(path, what):
        values = line.numbers(what)
        if len(values) not in wanted:
            raise line.error(f"{what}, {' or '.join(map(str, sorted(wanted)))} numbers")
        wanted = (len(values),)
        rows.append(values)
    if not rows:
        raise FormatError(f"{path}: expected {what}, found no line of numbers")
    return np.array(rows, np.float64)
