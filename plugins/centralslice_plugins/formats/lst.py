"""EMAN2 list files (LSX and their ancestors): lines of image number, file and attributes.

Nothing in a list is executed: objects of the old notation (``Transform({…})``, Python dicts) are parsed
as literals, and pickled ones are refused.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.errors import FileMissingError, FormatError
from centralslice.geometry.eulers import EMAN2_DIALECTS, eman2_dialect_to_matrix
from centralslice_plugins.formats.eman2_attributes import (
    Eman2Ctf,
    Transform,
    ctf_from_mapping,
    ctf_from_text,
    is_ctf_text,
)

MAGICS = ("#LSX", "#LST")
#: Longer texts of the old notation are not handed to the parser.
_LONGEST_LITERAL = 20000
_PLACEMENT = ("type", "tx", "ty", "tz", "scale", "mirror")


@dataclass(frozen=True, slots=True)
class ListRow:
    """A line: 0-based image number, the file as written, the attributes, and the line's number (1-based)."""

    number: int
    file: str
    attributes: Mapping[str, Any]
    line: int


def is_list(path: Path) -> bool:
    """Whether a file begins as lists do."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in tuple(magic.encode() for magic in MAGICS)
    except OSError:
        return False


def read_list(path: Path) -> list[ListRow]:
    """All rows of a list; the list is only read.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not a list, or a line is broken or holds a pickled object; the line is named.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise FileMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is not text; the file is no EMAN2 list") from error
    lines = text.replace("\r\n", "\n").split("\n")
    if not lines[0].startswith(MAGICS):
        raise FormatError(f"{path}: begins with '{lines[0][:20]}'; an EMAN2 list begins with #LSX or #LST")
    keys = _keys(lines)
    return [
        _row(path, line, number, keys)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]


def _keys(lines: list[str]) -> tuple[str, ...]:
    """Names of the old ``#keys: a;b`` line, none if there is no such line."""
    for line in lines[1:3]:
        if line.startswith("#keys:"):
            return tuple(key.strip() for key in line[6:].strip().split(";") if key.strip())
    return ()


def _row(path: Path, line: str, number: int, keys: tuple[str, ...]) -> ListRow:
    fields = line.rstrip().split("\t", 2)
    if len(fields) < 2:
        fields = line.split(None, 2)  # the oldest lists have blanks
    try:
        image = int(fields[0])
        if image < 0 or len(fields) < 2 or not fields[1].strip():
            raise ValueError("expected image number, tab, file")
        attributes = _attributes(fields[2].strip(), keys) if len(fields) > 2 else {}
    except (ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "it is nested too deeply"
        raise FormatError(f"{path}: line {number}: {reason}; the line is '{line.strip()[:60]}'") from error
    return ListRow(image, fields[1].strip(), attributes, number)


def _attributes(text: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The third field as attributes by EMAN2's names; raises ValueError."""
    if not text:
        return {}
    if keys:
        values = text.split(";")
        if len(values) != len(keys):
            raise ValueError(f"{len(values)} values for the {len(keys)} keys of the list")
        return {key: _literal(value.strip()) for key, value in zip(keys, values, strict=True)}
    if text.startswith("{"):
        return _dictionary(text)
    if "Transform(" in text:
        before, transform, after = text.partition("Transform(")
        found = {"xform.projection": _literal(transform + after)}
        score = before.strip().rstrip(";").strip()
        return found | ({"score": _literal(score)} if score else {})
    try:
        # a list that came of sets has a remark here
        return {"__default__": _literal(text)}
    except ValueError:
        return {"__default__": text}


def _dictionary(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as not_json:
        try:
            given = _literal(text)
        except ValueError:
            raise ValueError(f"the attributes are not JSON: {not_json}") from not_json
    if not isinstance(given, dict):
        raise ValueError("the attributes are no JSON object")
    return {str(key): _object(value) for key, value in given.items()}


def _object(value: Any) -> Any:
    """EMAN2's objects in JSON as ours; plain values as they are; raises ValueError."""
    if isinstance(value, list):
        return [_object(entry) for entry in value]
    if isinstance(value, str) and is_ctf_text(value):
        try:
            return ctf_from_text(value)
        except ValueError:
            return value
    if not isinstance(value, dict):
        return value
    if "__pickle__" in value:
        raise ValueError(
            "holds a pickled object (__pickle__), which is never opened; write the list without it"
        )
    kind = value.get("__class__")
    if kind == "Transform":
        return _transform_of_numbers(value.get("matrix"))
    if kind == "EMAN2Ctf":
        return ctf_from_mapping(value)
    return {key: _object(entry) for key, entry in value.items()}


def _transform_of_numbers(given: Any) -> Transform:
    """A Transform of 12 numbers, given as a list or as the text of one."""
    numbers = given
    if isinstance(given, str):
        words = given.strip().strip("[]").split(",")
        numbers = [float(word) for word in words if word.strip()]
    if not isinstance(numbers, (list, tuple)):
        raise ValueError("Transform without a matrix of 12 numbers")
    try:
        return Transform.from_numbers(numbers)
    except TypeError as error:
        raise ValueError(f"Transform with an entry that is not a number: {error}") from error


def _literal(text: str) -> Any:
    """A Python literal, of which Transform({…}) may be part; raises ValueError."""
    if len(text) > _LONGEST_LITERAL:
        raise ValueError(f"an object of {len(text)} characters in the old notation")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in the text
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"'{text[:40]}' is neither JSON nor a plain value") from error
    return _object(_evaluated(tree.body))


def _evaluated(node: ast.expr) -> Any:
    """The value of a literal's syntax tree; calls are allowed to Transform and with one dict only."""
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_evaluated(key) for key in node.keys if key is not None]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a dictionary with keys that are not text")
        return dict(zip(keys, (_evaluated(value) for value in node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluated(entry) for entry in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Transform":
        if len(node.args) != 1 or node.keywords:
            raise ValueError("Transform takes one dictionary or list")
        given = _evaluated(node.args[0])
        return transform_from_parameters(given) if isinstance(given, dict) else _transform_of_numbers(given)
    if isinstance(node, ast.Constant | ast.UnaryOp):
        return ast.literal_eval(node)
    raise ValueError(f"'{ast.unparse(node)[:40]}' is not a plain value")


def transform_from_parameters(given: Mapping[str, Any]) -> Transform:
    """A Transform of EMAN2's named parameters (type, angles, tx, ty, tz, scale, mirror).

    Raises
    ------
    ValueError
        If a parameter is unknown or not a number.
    """
    if "matrix" in given:
        return _transform_of_numbers(given["matrix"])
    kind = str(given.get("type", "eman")).lower()
    if kind not in EMAN2_DIALECTS:
        raise ValueError(f"Transform of type '{kind}' (known: {', '.join(EMAN2_DIALECTS)})")
    try:
        angles = {key: float(value) for key, value in given.items() if key not in _PLACEMENT}
        scale, mirror = float(given.get("scale", 1.0)), int(given.get("mirror", 0))
        shift = [float(given.get(key, 0.0)) for key in ("tx", "ty", "tz")]
    except TypeError as error:
        raise ValueError(f"Transform with a parameter that is not a number: {error}") from error
    matrix = np.column_stack([scale * eman2_dialect_to_matrix(kind, angles), shift])
    if mirror:
        matrix[0] *= -1.0
    return Transform(matrix)


def ctf_of(value: Any) -> Eman2Ctf | None:
    """The value of a ``ctf`` attribute as a CTF; raises ValueError if it is none."""
    if value is None or isinstance(value, Eman2Ctf):
        return value
    if isinstance(value, str):
        return ctf_from_text(value)
    if isinstance(value, Mapping):
        return ctf_from_mapping(value)
    raise ValueError(f"ctf is a {type(value).__name__}")
