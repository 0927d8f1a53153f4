"""Text of EMAN2's fast lists (LSX): records of one length, attributes as compact JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from centralslice.data.files import atomic_output
from centralslice.errors import ParameterError
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform, eman2_object

_COMMENT = "# Every line after the next has the number of characters it says, with the line's end."
#: Blanks left in the longest record, for editing in place.
_SLACK = 4


def record_text(number: int, file: str, attributes: Mapping[str, Any]) -> str:
    """A record without its padding: image number, tab, file, and, if there are any, tab and attributes.

    Raises
    ------
    ValueError
        If the number is negative, the file's name cannot stand in a list, or a value not in JSON.
    """
    if number < 0:
        raise ValueError(f"image number {number}: expected 0 or more")
    if not file or file != file.strip() or any(letter in file for letter in "\t\r\n"):
        raise ValueError(f"file name '{file}': lists cannot hold empty names, tabs, or blanks at the ends")
    if not attributes:
        return f"{number}\t{file}"
    plain = {name: _json_value(eman2_object(name, value)) for name, value in attributes.items()}
    return f"{number}\t{file}\t{json.dumps(plain, sort_keys=True, separators=(',', ':'), allow_nan=False)}"


def write_records(path: Path, records: Iterable[str]) -> int:
    """Write a list, atomically; returns the number of records.

    Parameters
    ----------
    path
        The list.
    records
        Gone through twice, since the length of the longest stands first; see :func:`record_text`.

    Raises
    ------
    ResourceError
        If the file cannot be written.
    """
    longest, count = 0, 0
    for record in records:
        longest, count = max(longest, len(record.encode())), count + 1
    length = longest + 1 + _SLACK
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        file.write(f"#LSX\n{_COMMENT}\n# {length}\n".encode())
        for record in records:
            _write_record(file, record.encode(), length)
    return count


def _write_record(file: BinaryIO, record: bytes, length: int) -> None:
    file.write(record.ljust(length - 1) + b"\n")


def _json_value(value: Any) -> Any:
    """A value as JSON has it, EMAN2's objects by the names that EMAN2 gives them; raises ValueError."""
    if isinstance(value, Transform):
        numbers = ",".join(f"{number:.9g}" for number in _finite(value.matrix.ravel().tolist()))
        return {"__class__": "Transform", "matrix": f"[{numbers}]"}
    if isinstance(value, Eman2Ctf):
        return _ctf_object(value)
    if isinstance(value, np.ndarray):
        value = list(value) if value.ndim else value[()]
    if isinstance(value, (list, tuple)):
        return [_json_value(entry) for entry in value]
    if isinstance(value, np.floating):
        value = float(str(value))
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return _finite([value])[0]
    if isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"a {type(value).__name__} cannot stand in a list")


def _ctf_object(ctf: Eman2Ctf) -> dict[str, Any]:
    numbers = {
        "defocus": ctf.defocus_um, "dfdiff": ctf.dfdiff_um, "dfang": ctf.dfang_deg, "bfactor": ctf.bfactor_angst2,
        "ampcont": ctf.ampcont_percent, "voltage": ctf.voltage_kv, "cs": ctf.cs_mm, "apix": ctf.apix_angst,
        "dsbg": ctf.background_step,
    }  # fmt: skip
    curves = {"background": list(ctf.background), "snr": list(ctf.snr)}
    return {"__class__": "EMAN2Ctf"} | numbers | curves


def _finite(numbers: list[float]) -> list[float]:
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number that is not finite cannot stand in a list")
    return numbers


def checked_record(path: Path, row: int, number: int, file: str, attributes: Mapping[str, Any]) -> str:
    """:func:`record_text` whose errors name the list and the row (0-based).

    Raises
    ------
    ParameterError
        In place of ValueError.
    """
    try:
        return record_text(number, file, attributes)
    except ValueError as error:
        raise ParameterError(f"{path}: row {row + 1}: {error}") from error
