"""IMOD's text files of a tilt series: transforms (.xf), tilt.com, defocus.

Conventions as IMOD's programs keep them, pixel centres of images at whole numbers from 0:

* a transform takes the raw image to the aligned one about the centres of both,
  ``x_aligned = M (x_raw − (n − 1) / 2) + t + (n − 1) / 2`` (newstack), and y of the aligned image is along
  the tilt axis;
* ``tilt`` turns the specimen by ``Ry(tilt + OFFSET) Rx(x_tilt − XAXISTILT)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.text_numbers import TextLine, number_rows, text_lines

_NM = 10.0
#: Singular values of a transform are within this factor of 1.
_LARGEST_STRETCH = 1.25
_ANGLE_LIMIT_DEG = 360.0
_ASTIGMATISM, _RADIANS, _PHASE, _PHASE_RADIANS, _INVERTED, _CUT_ON = 1, 2, 4, 8, 16, 32
#: Entries of tilt.com that bend or squeeze the projection beyond what one matrix a tilt says.
_NOT_LINEAR = ("LOCALFILE", "ZFACTORFILE", "COMPRESS")


@dataclass(frozen=True, slots=True)
class TiltCommand:
    """What of IMOD's tilt.com says where a tomogram is; lengths in unbinned pixels.

    Attributes
    ----------
    x_axis_tilt_deg, angle_offset_deg
        ``XAXISTILT``, subtracted from X tilts, and the first number of ``OFFSET``, added to tilt angles.
    axis_offset_px
        Second number of ``OFFSET``: how far the tilt axis is to the right of the images' centre.
    shift_px
        ``SHIFT``: (x, z) by which the tomogram's content is moved.
    thickness_px
        ``THICKNESS``, or None.
    tilt_angles, x_tilts
        ``TILTFILE`` and ``XTILTFILE``, from the folder of the com file, or None.
    excluded
        Views from 1 that are left out.
    """

    x_axis_tilt_deg: float = 0.0
    angle_offset_deg: float = 0.0
    axis_offset_px: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    thickness_px: float | None = None
    tilt_angles: Path | None = None
    x_tilts: Path | None = None
    excluded: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class TiltDefocus:
    """Defocus of each view: (f,) Å, Å, degrees, degrees; the first along the angle from the image's x axis."""

    u_angst: FloatArray
    v_angst: FloatArray
    angle_deg: FloatArray
    phase_deg: FloatArray


def read_transforms(path: Path) -> tuple[FloatArray, FloatArray]:
    """(f, 2, 2) matrices M and (f, 2) shifts t of an .xf file.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If a line is not six numbers, or its matrix mirrors, flattens or stretches.
    """
    rows = number_rows(path, "transforms (A11 A12 A21 A22 DX DY)", (6,))
    matrices = rows[:, :4].reshape(-1, 2, 2)
    singular = np.linalg.svd(matrices, compute_uv=False)
    wrong = (singular.max(1) > _LARGEST_STRETCH) | (singular.min(1) < 1 / _LARGEST_STRETCH)
    wrong |= np.linalg.det(matrices) <= 0
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = " ".join(f"{value:g}" for value in rows[row, :4])
        raise FormatError(
            f"{path}: row {row + 1}: expected a rotation with at most a little stretch in A11 A12 A21 A22, got {shown}"
        )
    return matrices, rows[:, 4:]


def read_x_tilts(path: Path) -> FloatArray:
    """(f,) degrees of an .xtilt file, one a line; raises FormatError or FileMissingError."""
    values = number_rows(path, "X tilts in degrees, one a line", (1,))[:, 0]
    if np.abs(values).max() > _ANGLE_LIMIT_DEG:
        row = int(np.argmax(np.abs(values)))
        raise FormatError(f"{path}: row {row + 1}: expected an X tilt within ±360°, got {values[row]:g}")
    return values


def read_tilt_command(path: Path) -> TiltCommand:
    """What a tilt.com says about the geometry.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it does not run ``tilt``, has local alignments, Z factors or compression, or a value is no number.
    """
    lines = text_lines(path, "IMOD's tilt.com")
    if not any(line.words[0].lower() in ("$tilt", "tilt") for line in lines):
        raise FormatError(f"{path}: expected IMOD's tilt.com (a line '$tilt -StandardInput'), found none")
    entries = {line.words[0].upper(): line for line in lines}
    for name in _NOT_LINEAR:
        if name in entries:
            raise FormatError(
                f"{entries[name].where}: {name}: local alignments, Z factors and compression cannot be used; align "
                "without them"
            )
    if "INCLUDE" in entries:
        raise FormatError(f"{entries['INCLUDE'].where}: INCLUDE: give the views to leave out (EXCLUDELIST2)")
    angle, axis = _values(entries, "OFFSET", 2)
    shift = _values(entries, "SHIFT", 2)
    thickness = _values(entries, "THICKNESS", 1)[0] if "THICKNESS" in entries else None
    excluded = [
        view for line in lines if line.words[0].upper().startswith("EXCLUDELIST") for view in _views(line)
    ]
    return TiltCommand(
        x_axis_tilt_deg=_values(entries, "XAXISTILT", 1)[0],
        angle_offset_deg=angle,
        axis_offset_px=axis,
        shift_px=(shift[0], shift[1]),
        thickness_px=thickness,
        tilt_angles=_named(entries, "TILTFILE", path),
        x_tilts=_named(entries, "XTILTFILE", path),
        excluded=frozenset(excluded),
    )


def read_defocus(path: Path, views: int) -> TiltDefocus:
    """Defocus of each of ``views`` views, of a ctfplotter file of version 2 or 3.

    A row is for the middle of its range of views; views between are interpolated, as ctfphaseflip does.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If a row is not what the file's flags say, views are out of range, or phases have a cut-on frequency.
    """
    lines = text_lines(path, "IMOD defocus (view, view, angle, angle, nm …)")
    if not lines:
        raise FormatError(f"{path}: expected IMOD defocus (view, view, angle, angle, nm …), found nothing")
    flags, rows = _flags(lines)
    columns = 5 + 2 * bool(flags & _ASTIGMATISM) + bool(flags & _PHASE)
    table = np.array([_defocus_row(line, columns, views) for line in rows])
    if not len(table):
        raise FormatError(f"{path}: expected IMOD defocus (view, view, angle, angle, nm …), found no view")
    middle = (table[:, 0] + table[:, 1]) / 2
    order = np.argsort(middle, kind="stable")
    at = np.arange(1, views + 1)
    if flags & _ASTIGMATISM:
        u, v = table[:, 4] * _NM, table[:, 5] * _NM
        angle = table[:, 6] if flags & _RADIANS else np.deg2rad(table[:, 6])
    else:
        u = v = table[:, 4] * _NM
        angle = np.zeros(len(table))
    phase = np.zeros(len(table))
    if flags & _PHASE:
        phase = np.rad2deg(table[:, -1]) if flags & _PHASE_RADIANS else table[:, -1]
    # the mean and the two components of astigmatism have no jumps, unlike the angle
    parts = ((u + v) / 2, (u - v) / 2 * np.cos(2 * angle), (u - v) / 2 * np.sin(2 * angle), phase)
    mean, along, across, phases = (np.interp(at, middle[order], part[order]) for part in parts)
    half = np.hypot(along, across)
    return TiltDefocus(mean + half, mean - half, np.rad2deg(np.arctan2(across, along)) / 2, phases)


def _values(entries: dict[str, TextLine], name: str, count: int) -> list[float]:
    """``count`` numbers of an entry; 0 for those that it does not have."""
    line = entries.get(name)
    if line is None:
        return [0.0] * count
    values = TextLine(line.where, line.words[1:]).numbers(f"{name} with numbers")
    if not 1 <= len(values) <= count:
        raise line.error(f"{name} with at most {count} number(s)")
    return [*values, *[0.0] * (count - len(values))]


def _named(entries: dict[str, TextLine], name: str, source: Path) -> Path | None:
    line = entries.get(name)
    if line is None:
        return None
    if len(line.words) != 2:
        raise line.error(f"{name} with the name of a file")
    return source.parent / line.words[1]


def _views(line: TextLine) -> IntArray:
    """The numbers of a list such as ``1,3-5``."""
    found: list[int] = []
    for part in "".join(line.words[1:]).split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or len(part) > 12:
            raise line.error("a list of views such as 1,3-5")
        if int(last or first) - int(first) > 10_000:
            raise line.error("a list of at most 10,000 views")
        found += range(int(first), int(last or first) + 1)
    return np.array(found, np.int64)


def _flags(lines: list[TextLine]) -> tuple[int, list[TextLine]]:
    """Flags of the first line of version 3, and the rows; 0 for version 2, whose first row ends in a 2."""
    first = lines[0].numbers("a row of IMOD defocus")
    if len(first) == 6 and first[5] == 3:
        flags = int(first[0])
        known = _ASTIGMATISM | _RADIANS | _PHASE | _PHASE_RADIANS | _INVERTED
        if flags & _CUT_ON:
            raise lines[0].error("phases without cut-on frequencies (flag 32), which cannot be used")
        if flags != first[0] or flags & ~known:
            raise lines[0].error("flags that are a sum of 1, 2, 4, 8 and 16")
        return flags, lines[1:]
    if len(first) == 6 and first[5] == 2:
        return 0, [TextLine(lines[0].where, lines[0].words[:5]), *lines[1:]]
    return 0, lines


def _defocus_row(line: TextLine, columns: int, views: int) -> list[float]:
    values = line.numbers("a row of IMOD defocus")
    if len(values) != columns:
        raise line.error(f"{columns} numbers of IMOD defocus")
    first, last = values[:2]
    if not (1 <= first <= last <= views and first == math.floor(first) and last == math.floor(last)):
        raise line.error(f"views from 1 to {views}")
    return values
