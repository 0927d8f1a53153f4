"""STAR files: reading whatever RELION, cryoSPARC, Warp and hand editing leave in them, and formatting tables.

Dialect: ``data_<block>`` starts a block; in it stand lists (``_label value``) and loops (``loop_``, labels
with or without ``#n``, rows). Blank and comment lines may stand anywhere, lines may end in CR LF, texts
may be quoted with ' or ". A token that starts with # starts a comment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats import star_tokens as tokens
from centralslice_plugins.formats.star_text import format_value, number, parse_vector

_NOT_FINITE = {b"nan", b"-nan", b"+nan", b"inf", b"-inf", b"+inf"}
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class StarTable:
    """One list or loop of a STAR file.

    Attributes
    ----------
    source
        The file.
    block
        Name of its block, without ``data_``.
    columns
        Label (without the underscore) to values: int64 or float64 where every value is a number that
        nothing of the text but its layout is lost in, otherwise an object array of str.
    rows
        Number of rows; 1 for a list.
    is_loop
        False for a list.
    """

    source: Path
    block: str
    columns: Mapping[str, NDArray[Any]]
    rows: int
    is_loop: bool = True

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def where(self, row: int) -> str:
        """``file: block 'name', row N`` (1-based), for messages."""
        return f"{self.source}: block '{self.block}', row {row + 1}"

    def column(self, label: str) -> NDArray[Any]:
        """The values as they were read; raises FormatError if there is no such label."""
        if label not in self.columns:
            raise FormatError(f"{self.source}: block '{self.block}' has no _{label}")
        return self.columns[label]

    def numbers(self, label: str) -> FloatArray:
        """(rows,) float64; raises FormatError naming the first row that is not a number (NaN is one)."""
        values = self.column(label)
        if values.dtype != object:
            return values.astype(np.float64)
        return self._converted(label, values, number, "a number")

    def integers(self, label: str) -> IntArray:
        """(rows,) int64; raises FormatError naming the first row that is not a whole number."""
        values = self.column(label)
        if values.dtype == np.int64:
            return values
        decimals = self.numbers(label)
        wrong = ~(np.abs(decimals) < 2.0**53) | (decimals != np.round(decimals))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FormatError(f"{self.where(row)}: _{label}: expected a whole number, got '{values[row]}'")
        return decimals.astype(np.int64)

    def texts(self, label: str) -> NDArray[np.object_]:
        """(rows,) object array of str."""
        values = self.column(label)
        if values.dtype == object:
            return values
        return np.array([format_value(value) for value in values.tolist()], object).reshape(len(values))

    def _converted(
        self, label: str, values: NDArray[Any], convert: Callable[[str], float], wanted: str
    ) -> FloatArray:
        result = np.empty(len(values))
        for row, text in enumerate(values.tolist()):
            try:
                result[row] = convert(text)
            except ValueError as error:
                raise FormatError(f"{self.where(row)}: _{label}: expected {wanted}, got '{text}'") from error
        return result

    def vectors(self, label: str) -> list[tuple[float, ...]]:
        """Each row's ``[a,b,…]``; raises FormatError naming the first row that is none."""
        found = []
        for row, text in enumerate(self.texts(label).tolist()):
            try:
                found.append(parse_vector(text))
            except ValueError as error:
                raise FormatError(
                    f"{self.where(row)}: _{label}: expected numbers as [1,2.5], got '{text}'"
                ) from error
        return found


@dataclass(frozen=True, slots=True)
class StarFile:
    """All tables of a file in their order; blocks of one name may be several."""

    path: Path
    tables: tuple[StarTable, ...]

    def find(self, block: str) -> StarTable | None:
        """The first table of a block, or None."""
        return next((table for table in self.tables if table.block == block), None)

    def by_block(self) -> dict[str, StarTable]:
        """Block name to its first table, for files with thousands of blocks."""
        found: dict[str, StarTable] = {}
        for table in self.tables:
            found.setdefault(table.block, table)
        return found

    def table(self, block: str) -> StarTable:
        """The first table of a block; raises FormatError listing the blocks there are."""
        found = self.find(block)
        if found is None:
            raise FormatError(f"{self.path}: no block data_{block}; its blocks are {self.block_names()}")
        return found

    def with_label(self, label: str) -> tuple[StarTable, ...]:
        """The tables that have a label."""
        return tuple(table for table in self.tables if label in table)

    def block_names(self) -> str:
        """The names of the first blocks, for messages."""
        names = list(dict.fromkeys(f"data_{table.block}" for table in self.tables))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        return ", ".join(names[:6]) + more


def is_star(path: Path) -> bool:
    """Whether the file's first 64 KiB look like STAR: text whose first word is ``data_…``."""
    with path.open("rb") as file:
        head = file.read(_PROBE_BYTES)
    if b"\0" in head:
        return False
    for line in head.removeprefix(b"\xef\xbb\xbf").splitlines():
        words = line.split(None, 1)
        if words and not words[0].startswith(b"#"):
            return words[0].startswith(b"data_")
    return path.suffix.lower() == ".star" and len(head) > 0


def read_star(path: Path) -> StarFile:
    """Read all tables of a STAR file.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not STAR; the message names line, or block, row and label.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: does not exist") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if b"\0" in data:
        raise FormatError(f"{path}: expected a STAR text file, got binary data")
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    tables = tuple(_Scanner(path, data).tables(start))
    if not tables:
        raise FormatError(f"{path}: expected a STAR file with data_ blocks, found none; is it empty?")
    return StarFile(path, tables)


class _Scanner:
    """Walks through a file line by line up to the rows of a loop, which the compiled functions take."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.array = tokens.as_bytes(data)

    def tables(self, position: int) -> Iterator[StarTable]:
        """All tables from ``position`` to the end; an empty block counts as an empty list."""
        block: str | None = None
        pairs: dict[str, str] = {}
        pending = False
        while position < len(self.data):
            words, following = self.line(position)
            if words and words[0].startswith("data_"):
                if pairs or pending:
                    yield self.pairs_table(block, pairs)
                if len(words) > 1:
                    raise self.error(position, f"expected a block's name only, got '{words[1]}' behind it")
                block, pairs, pending = words[0][len("data_") :], {}, True
            elif words and block is None:
                raise self.error(
                    position, f"not a STAR file: expected data_ (a block), got '{_short(words[0])}'"
                )
            elif words and words[0] == "loop_" and len(words) == 1:
                if pairs:
                    yield self.pairs_table(block, pairs)
                table, following = self.loop(block or "", following)
                pairs, pending = {}, False
                yield table
            elif words:
                self.add_pair(position, words, pairs)
            position = following
        if block is not None and (pairs or pending):
            yield self.pairs_table(block, pairs)

    def line(self, position: int) -> tuple[list[str], int]:
        """The tokens of the line at ``position`` without comments, and where the next line starts."""
        count, first, following = tokens.count_tokens(self.array, position)
        if count < 0:
            raise self.error(position, "a quote is not closed")
        words, at = [], first
        for _ in range(count):
            while self.data[at] <= 32:
                at += 1
            begin, end, at = tokens.token_end(self.array, at)
            words.append(_text(self.data[begin:end]))
        return words, following

    def add_pair(self, position: int, words: list[str], pairs: dict[str, str]) -> None:
        """One ``_label value`` of a list; a label alone has the empty value."""
        if not words[0].startswith("_") or words[0] == "_":
            raise self.error(position, f"expected _label, loop_ or data_, got '{_short(words[0])}'")
        label = words[0][1:]
        if len(words) > 2:
            raise self.error(
                position, f"_{label}: expected one value, got {len(words) - 1}; quote values with blanks"
            )
        if label in pairs:
            raise self.error(position, f"_{label} is there twice")
        pairs[label] = words[1] if len(words) == 2 else ""

    def pairs_table(self, block: str | None, pairs: dict[str, str]) -> StarTable:
        columns = {label: _typed([value]) for label, value in pairs.items()}
        return StarTable(self.path, block or "", columns, 1 if pairs else 0, is_loop=False)

    def loop(self, block: str, position: int) -> tuple[StarTable, int]:
        """The loop whose labels start at ``position``, and where the line behind it starts."""
        labels, position = self.labels(position)
        if not labels:
            raise self.error(max(position - 1, 0), "loop_ without labels")
        columns = len(labels)
        starts = np.empty(64, np.int64)
        rows, after, how = tokens.find_rows(self.array, position, columns, starts, 0)
        while how == tokens.FULL:
            starts = np.concatenate([starts, np.empty(3 * rows, np.int64)])
            rows, after, how = tokens.find_rows(self.array, after, columns, starts, rows)
        if how != tokens.RIGHT:
            raise self.ragged(block, labels, rows, after, how)
        cursor = starts[:rows].copy()
        values = {label: self.column(cursor) for label in labels}
        return StarTable(self.path, block, values, rows), after

    def labels(self, position: int) -> tuple[list[str], int]:
        """The labels behind ``loop_``, and where the line behind them starts."""
        labels: list[str] = []
        while position < len(self.data):
            count, first, following = tokens.count_tokens(self.array, position)
            if count != 0:
                if self.data[first] != ord("_"):
                    break
                words, following = self.line(position)
                if len(words) > 1 or words[0] == "_":
                    raise self.error(
                        position, f"expected a loop's label and at most #n behind it, got '{words[-1]}'"
                    )
                if words[0][1:] in labels:
                    raise self.error(position, f"{words[0]} is there twice")
                labels.append(words[0][1:])
            position = following
        return labels, position

    def column(self, cursor: tokens.Positions) -> NDArray[Any]:
        """The next value of each row, as whole numbers, decimals or texts; the cursors move on."""
        begins, ends = np.empty_like(cursor), np.empty_like(cursor)
        tokens.next_tokens(self.array, cursor, begins, ends)
        numeric = _numeric(self.data, self.array, begins, ends)
        if numeric is not None:
            return numeric
        known: dict[bytes, str] = {}
        found = np.empty(len(begins), object)
        for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            raw = self.data[begin:end]
            text = known.get(raw)
            if text is None:
                text = known[raw] = _text(raw)
            found[row] = text
        return found

    def error(self, position: int, what: str) -> FormatError:
        line = self.data.count(b"\n", 0, position) + 1
        return FormatError(f"{self.path}: line {line}: {what}")

    def ragged(self, block: str, labels: list[str], row: int, position: int, got: int) -> FormatError:
        """The error of a row with too few or too many values, or an open quote."""
        where = f"block '{block}', row {row + 1}"
        if got < 0:
            return self.error(position, f"{where}: a quote is not closed")
        if got < len(labels):
            detail = f"none for _{labels[got]}"
        else:
            detail = f"too many behind _{labels[-1]}; quote values with blanks"
        return self.error(position, f"{where}: expected {len(labels)} values, got {got}: {detail}")


def _numeric(
    data: bytes, array: NDArray[np.uint8], begins: tokens.Positions, ends: tokens.Positions
) -> NDArray[Any] | None:
    """A column as int64 or float64, exact, or None if it is text."""
    count = len(begins)
    whole, decimals, kinds = np.empty(count, np.int64), np.empty(count), np.empty(count, np.int8)
    row = tokens.parse_numbers(array, (begins, ends), whole, decimals, kinds, 0)
    while row < count:
        raw = data[begins[row] : ends[row]]
        if raw.lower() not in _NOT_FINITE:
            return None
        decimals[row], kinds[row] = float(raw), tokens.DECIMAL
        row = tokens.parse_numbers(array, (begins, ends), whole, decimals, kinds, row + 1)
    if not kinds.any():
        return whole
    for hard in np.flatnonzero(kinds == tokens.HARD_DECIMAL).tolist():
        decimals[hard] = float(data[begins[hard] : ends[hard]])
    return decimals


def _typed(texts: list[str]) -> NDArray[Any]:
    """Texts as a column, as if they stood in a loop."""
    encoded = [text.encode(errors="surrogateescape") for text in texts]
    data = b"\n".join(encoded)
    lengths = np.array([len(text) for text in encoded], np.int64)
    ends = np.cumsum(lengths + 1) - 1
    numeric = _numeric(data, tokens.as_bytes(data), ends - lengths, ends)
    return np.array(texts, object) if numeric is None else numeric


def _text(raw: bytes) -> str:
    """Bytes that are not UTF-8 are kept as Python keeps them in file names."""
    return raw.decode(errors="surrogateescape")


def _short(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= 40 else printable[:40] + "…"
