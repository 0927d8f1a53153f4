"""STAR values as text: numbers that read back the same, quotes where they are needed, vectors."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from centralslice.errors import FormatError

#: Texts that need no quotes.
_PLAIN = re.compile(r"(?![_#'\"]|data_|loop_)[^\x00-\x20]+")


def number(text: str) -> float:
    """A text as a number, NaN and infinities too; ValueError if it is none."""
    if "_" in text:  # Python's own notation, no number to anybody else
        raise ValueError(text)
    return float(text)


def parse_vector(text: str) -> tuple[float, ...]:
    """``[1,2.5,-3]`` as numbers; ValueError if it is anything else."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        raise ValueError(text)
    inner = inner[1:-1].strip()
    numbers = tuple(number(part) for part in inner.split(",")) if inner else ()
    if not all(map(math.isfinite, numbers)):
        raise ValueError(text)
    return numbers


def format_value(value: Any) -> str:
    """A value as STAR text; the shortest text of a number that gives the same number when read."""
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(int(value))
    if isinstance(value, np.floating):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return quoted(value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value))


def quoted(text: str) -> str:
    """The text, quoted where STAR needs it; raises FormatError for a text that STAR cannot hold."""
    if _PLAIN.fullmatch(text):
        return text
    if any(letter in text for letter in "\n\r\0"):
        raise FormatError(f"{text!r}: a STAR value cannot hold line ends")
    for mark in "\"'":
        if not any(
            letter == mark and (index + 1 == len(text) or ord(text[index + 1]) <= 32)
            for index, letter in enumerate(text)
        ):
            return f"{mark}{text}{mark}"
    raise FormatError(f"{text!r}: a STAR value cannot hold both kinds of quotes before blanks")
