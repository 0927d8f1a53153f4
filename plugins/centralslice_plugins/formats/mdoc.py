"""SerialEM's .mdoc files: when each tilt was taken."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.text_numbers import read_text

_SECTION = re.compile(r"\[(?:ZValue|FrameSet) = (\d+)\]")
_DATES = ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S")


def read_mdoc_order(path: Path) -> tuple[FloatArray, IntArray]:
    """(n,) stage angles in degrees of the sections in the order of the file, and (n,) 0-based rank in time.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If a section has no TiltAngle or DateTime, there is none, or two were taken at the same angle.
    """
    sections: list[dict[str, str]] = []
    for line in read_text(path, "SerialEM's tilts (.mdoc)").splitlines():
        if _SECTION.fullmatch(line.strip()):
            sections.append({})
        name, equals, value = line.partition("=")
        if equals and sections and not line.lstrip().startswith("["):
            sections[-1][name.strip()] = value.strip()
    if not sections:
        raise FormatError(f"{path}: expected SerialEM's .mdoc with sections [ZValue = 0] …, found none")
    angles = np.array([_angle(section, f"{path}: section {i + 1}") for i, section in enumerate(sections)])
    times = [_time(section, f"{path}: section {i + 1}") for i, section in enumerate(sections)]
    if len(np.unique(angles)) < len(angles):
        raise FormatError(f"{path}: two sections have one TiltAngle; give the order as plain numbers")
    rank = np.argsort(np.argsort(np.array(times, "datetime64[s]"), kind="stable"), kind="stable")
    return angles, rank.astype(np.int64)


def _angle(section: dict[str, str], where: str) -> float:
    text = section.get("TiltAngle", "nothing")
    try:
        angle = float(text)
    except ValueError as error:
        raise FormatError(f"{where}: TiltAngle: expected degrees, got '{text[:40]}'") from error
    if not abs(angle) <= 360:
        raise FormatError(f"{where}: TiltAngle: expected degrees within ±360, got {text[:40]}")
    return angle


def _time(section: dict[str, str], where: str) -> datetime:
    text = " ".join(section.get("DateTime", "nothing").split())
    for form in _DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise FormatError(f"{where}: DateTime: expected day-month-year hours:minutes:seconds, got '{text[:40]}'")
