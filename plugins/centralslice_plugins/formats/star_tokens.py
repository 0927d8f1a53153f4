"""Cutting the rows of a STAR loop into tokens and numbers: the loops that run over every byte.

Rows are found first (:func:`find_rows`), then each column is cut from all rows at once
(:func:`next_tokens`), left to right, so that only one column's positions are in memory at a time.
Blanks are all bytes up to 32 but the line feed, so that CR LF files need no care.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]

_LINE_FEED, _HASH, _UNDERSCORE, _SINGLE, _DOUBLE = 10, 35, 95, 39, 34
_PLUS, _MINUS, _POINT, _ZERO, _NINE, _BIG_E, _SMALL_E = 43, 45, 46, 48, 57, 69, 101

#: What a token is, in the order of rising generality (see :func:`parse_numbers`).
WHOLE, DECIMAL, HARD_DECIMAL, TEXT = 0, 1, 2, 3

#: How :func:`find_rows` came to its end.
RIGHT, FULL = -2, -3

#: Powers of ten that are exact in float64.
_EXACT_POWERS = np.array([10.0**n for n in range(23)])
_EXACT_LIMIT = np.uint64(2**53)


@njit(nogil=True, cache=True)
def token_end(data: Bytes, position: int) -> tuple[int, int, int]:
    """The token that starts at ``position`` (not a blank): where its text starts, stops, and what follows.

    The third number is the position behind the token and its closing quote, or −1 if a quote is not closed.
    A closing quote is one that a blank or the end of the line follows.
    """
    size = len(data)
    first = data[position]
    if first in (_SINGLE, _DOUBLE):
        stop = position + 1
        while stop < size and data[stop] != _LINE_FEED:
            if data[stop] == first and (stop + 1 >= size or data[stop + 1] <= 32):
                return position + 1, stop, stop + 1
            stop += 1
        return position, stop, -1
    stop = position
    while stop < size and data[stop] > 32:
        stop += 1
    return position, stop, stop


@njit(nogil=True, cache=True)
def count_tokens(data: Bytes, position: int) -> tuple[int, int, int]:
    """Tokens of a line: their number (−1: open quote), where the first starts, where the next line starts."""
    size = len(data)
    count, first = 0, -1
    while position < size and data[position] != _LINE_FEED:
        if data[position] <= 32:
            position += 1
            continue
        if data[position] == _HASH:
            while position < size and data[position] != _LINE_FEED:
                position += 1
            break
        if count == 0:
            first = position
        count += 1
        position = token_end(data, position)[2]
        if position < 0:
            return -1, first, -1
    return count, first, min(position + 1, size)


@njit(nogil=True, cache=True)
def _is_keyword(data: Bytes, position: int) -> bool:
    """Whether ``data_`` or ``loop_`` stands at ``position``."""
    if position + 5 > len(data) or data[position + 4] != _UNDERSCORE:
        return False
    d = data[position : position + 4]
    is_data = d[0] == 100 and d[1] == 97 and d[2] == 116 and d[3] == 97
    is_loop = d[0] == 108 and d[1] == 111 and d[2] == 111 and d[3] == 112
    return bool(is_data or is_loop)


@njit(nogil=True, cache=True)
def find_rows(data: Bytes, position: int, columns: int, starts: Positions, rows: int) -> tuple[int, int, int]:
    """Find the rows of a loop of ``columns`` columns.

    Parameters
    ----------
    data
        The whole file.
    position
        Where the line behind the last label starts, or behind the last row that was found.
    columns
        Number of labels.
    starts
        Filled with the position of the first token of each row.
    rows
        Number of rows found before.

    Returns
    -------
        Number of rows; position of the line that ended the loop; number of tokens of the row that was
        not right (−1: a quote is not closed), RIGHT, or FULL if ``starts`` has no room for another row.

    Notes
    -----
    Directly behind a row every line is a row (so a single column may hold names such as ``data_1.mrc``);
    behind a blank or comment line a lone ``data_…`` or ``loop_`` and any ``_label`` end the loop.
    """
    after_row = rows > 0
    while position < len(data):
        if rows == len(starts):
            return rows, position, FULL
        count, first, following = count_tokens(data, position)
        if count == 0:
            after_row = False
            position = following
            continue
        lone_keyword = count == 1 and _is_keyword(data, first)
        if lone_keyword and not (after_row and columns == 1):
            break
        if data[first] == _UNDERSCORE and not after_row:
            break
        if count != columns:
            return rows, position, count
        starts[rows] = first
        rows += 1
        after_row = True
        position = following
    return rows, position, RIGHT


@njit(nogil=True, cache=True)
def next_tokens(data: Bytes, cursor: Positions, begins: Positions, ends: Positions) -> None:
    """Cut the next token of every row: its text is ``data[begins[i]:ends[i]]``; the cursors move on."""
    for row in range(len(cursor)):
        position = cursor[row]
        while data[position] <= 32:
            position += 1
        begins[row], ends[row], cursor[row] = token_end(data, position)


@njit(nogil=True, cache=True)
def _parse_number(data: Bytes, position: int, stop: int) -> tuple[int, np.int64, float]:
    """What the token is and its value, exact; whole numbers in the second, decimals in the third place.

    A mantissa below 2^53 times or over a power of ten up to 10^22 is rounded once, hence correctly
    (Clinger 1990); any other decimal is HARD_DECIMAL and left to the caller. Whole numbers with
    leading zeros, a plus or more than 18 digits are TEXT: as numbers they would lose something.
    """
    begin = position
    negative = position < stop and data[position] == _MINUS
    if position < stop and (negative or data[position] == _PLUS):
        position += 1
    mantissa, digits, significant, fraction, point = np.uint64(0), 0, 0, 0, False
    first_digit = position
    while position < stop:
        letter = data[position]
        if _ZERO <= letter <= _NINE:
            significant += significant > 0 or letter != _ZERO
            if significant <= 19:
                mantissa = mantissa * np.uint64(10) + np.uint64(letter - _ZERO)
            digits += 1
            fraction += point
        elif letter == _POINT and not point:
            point = True
        else:
            break
        position += 1
    if digits == 0:
        return TEXT, np.int64(0), 0.0
    if position == stop and not point:
        odd = digits > 18 or data[begin] == _PLUS or (digits > 1 and data[first_digit] == _ZERO)
        if odd or (negative and mantissa == 0):
            return TEXT, np.int64(0), 0.0
        value = np.int64(mantissa)
        return WHOLE, (-value if negative else value), float(mantissa) * (-1.0 if negative else 1.0)
    exponent = 0
    if position < stop:
        if data[position] not in (_BIG_E, _SMALL_E):
            return TEXT, np.int64(0), 0.0
        position += 1
        down = position < stop and data[position] == _MINUS
        if position < stop and (down or data[position] == _PLUS):
            position += 1
        if position == stop:
            return TEXT, np.int64(0), 0.0
        while position < stop:
            letter = data[position]
            if not _ZERO <= letter <= _NINE:
                return TEXT, np.int64(0), 0.0
            exponent = min(exponent * 10 + (letter - _ZERO), 100000)
            position += 1
        exponent = -exponent if down else exponent
    power = exponent - fraction
    if significant > 19 or mantissa > _EXACT_LIMIT or power > 22 or power < -22:
        return HARD_DECIMAL, np.int64(0), 0.0
    size = float(mantissa)
    size = size * _EXACT_POWERS[power] if power >= 0 else size / _EXACT_POWERS[-power]
    return DECIMAL, np.int64(0), (-size if negative else size)


@njit(nogil=True, cache=True)
def parse_numbers(
    data: Bytes,
    spans: tuple[Positions, Positions],
    whole: Positions,
    decimals: NDArray[np.float64],
    kinds: NDArray[np.int8],
    first: int,
) -> int:
    """Parse a column's tokens from row ``first`` until one is TEXT; its row, or the number of rows.

    ``kinds[i]`` becomes WHOLE, DECIMAL, HARD_DECIMAL (value to be filled in) or TEXT.
    """
    begins, ends = spans
    for row in range(first, len(begins)):
        kind, integer, value = _parse_number(data, begins[row], ends[row])
        kinds[row] = kind
        if kind == TEXT:
            return row
        whole[row] = integer
        decimals[row] = value
    return len(begins)


def as_bytes(data: bytes) -> NDArray[Any]:
    """The file's bytes as the array that the functions here take."""
    return np.frombuffer(data, np.uint8)
