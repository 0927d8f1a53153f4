"""EMAN2's JSON files: plain JSON in which objects carry their class's name.

Nothing in a file is executed: pickled objects stay closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.eman2_attributes import Transform, ctf_from_mapping

_LARGEST_BYTES = 1 << 28
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image that a JSON file names: file as written, 0-based number."""

    file: str
    number: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is not opened: a pickle, or an object of a class that is not known."""

    kind: str


def read_json(path: Path) -> dict[str, Any]:
    """The dictionary of an EMAN2 JSON file; its objects become ours.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not JSON, not a dictionary, or an object in it is broken.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise FormatError(f"{path}: has {size} bytes; expected a JSON file of at most {_LARGEST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"{path}: does not exist") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is not text; expected JSON") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        content = decoded(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: expected EMAN2's JSON: {reason}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected a JSON dictionary, got a {type(content).__name__}")
    return content


def decoded(value: Any) -> Any:
    """A JSON value with EMAN2's objects in it as ours.

    ``Transform`` and ``EMAN2Ctf`` objects become :class:`Transform` and :class:`Eman2Ctf`, image references
    :class:`ImageReference`; pickles and other classes :class:`Opaque`.

    Raises
    ------
    ValueError
        If a Transform, CTF or image reference is broken.
    """
    if isinstance(value, list):
        return [decoded(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "__pickle__" in value:
        return Opaque("pickle")
    if "__image__" in value:
        return _image(value["__image__"])
    kind = value.get("__class__")
    if kind == "Transform":
        return transform_of(value.get("matrix"))
    if kind == "EMAN2Ctf":
        return ctf_from_mapping(value)
    if kind is not None:
        return Opaque(str(kind))
    return {key: decoded(entry) for key, entry in value.items()}


def transform_of(given: Any) -> Transform:
    """A Transform of 12 numbers, given as a list or as the text of one; raises ValueError."""
    numbers = given
    if isinstance(given, str):
        numbers = [float(word) for word in given.strip().strip("[]").split(",") if word.strip()]
    if not isinstance(numbers, list):
        raise ValueError("Transform without a matrix of 12 numbers")
    try:
        return Transform.from_numbers(numbers)
    except TypeError as error:
        raise ValueError(f"Transform with an entry that is not a number: {error}") from error


def text_of(path: Path, content: Mapping[str, Any], key: str) -> str | None:
    """A text of the file, None if it is absent, null or empty; raises FormatError for another type."""
    value = content.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FormatError(f"{path}: '{key}': expected a text, got a {type(value).__name__}")
    return value


def number_of(path: Path, content: Mapping[str, Any], key: str) -> float | None:
    """A number of the file, which may stand there as text; None if it is absent or null."""
    value = content.get(key)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"{path}: '{key}': expected a number, got '{str(value)[:40]}'") from error


def flag_of(content: Mapping[str, Any], key: str) -> bool:
    """Whether an option was on; options are kept as truth values, numbers or texts."""
    value = content.get(key)
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def _image(given: Any) -> ImageReference:
    if (
        isinstance(given, list)
        and len(given) == 2
        and isinstance(given[0], str)
        and isinstance(given[1], int)
    ):
        return ImageReference(given[0], given[1])
    raise ValueError(f"image reference '{str(given)[:40]}'; expected file and number")
