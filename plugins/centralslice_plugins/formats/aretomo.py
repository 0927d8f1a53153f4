"""AreTomo's alignments (.aln), AreTomo 1 to 3.

AreTomo's own .xf files say the same as IMOD's with ``M = Rz(ROT)`` and ``t = −M (TX, TY)``; TILT has
AlphaOffset in it already. Images that AreTomo found dark have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.text_numbers import TextLine, read_text

_TITLE = "# AreTomo Alignment"
_COLUMNS = 10


@dataclass(frozen=True, slots=True)
class AreTomoAlignment:
    """An alignment, (f,) rows in the order of the file.

    Attributes
    ----------
    matrices, shifts_px
        (f, 2, 2) and (f, 2) as in IMOD's .xf files.
    tilt_angles_deg
        (f,) degrees.
    raw_size
        (x, y, images) of the stack that was aligned.
    sections
        (f,) numbers in the file's first column.
    dark
        Numbers of the images that have no row.
    local
        Whether there are local alignments too.
    """

    matrices: FloatArray
    shifts_px: FloatArray
    tilt_angles_deg: FloatArray
    raw_size: tuple[int, int, int]
    sections: IntArray
    dark: IntArray
    local: bool


def is_aln(path: Path) -> bool:
    """Whether a file begins as AreTomo's alignments do."""
    with path.open("rb") as file:
        return file.read(len(_TITLE)) == _TITLE.encode()


def read_aln(path: Path) -> AreTomoAlignment:
    """Read an alignment.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is none, a row is not ten numbers, or it has a BetaOffset or a magnification, of which nothing
        says how they are meant.
    """
    lines = [
        TextLine(f"{path}: line {number}", tuple(line.split()))
        for number, line in enumerate(read_text(path, "AreTomo's alignments").splitlines(), 1)
        if line.strip()
    ]
    if not lines or not " ".join(lines[0].words).startswith(_TITLE):
        raise FormatError(f"{path}: expected '{_TITLE}' in the first line; give AreTomo's .aln file")
    size: tuple[int, int, int] | None = None
    dark: list[int] = []
    rows: list[list[float]] = []
    local = False
    for line in lines[1:]:
        if line.words[0] != "#":
            if not local:
                rows.append(_row(line))
        elif line.words[1:3] == ("Local", "Alignment"):
            local = True
        elif line.words[2:3] == ("=",):
            values = TextLine(line.where, line.words[3:])
            if line.words[1] == "RawSize":
                size = _raw_size(values)
            elif line.words[1] == "DarkFrame":
                dark.append(_whole(values, values.numbers("a dark frame")[0]))
            elif line.words[1] == "BetaOffset" and values.numbers("a BetaOffset") != [0.0]:
                raise line.error("BetaOffset 0; give AreTomo's .xf and .tlt files instead")
    if size is None or not rows:
        raise FormatError(
            f"{path}: expected '# RawSize = x y n' and a row for each tilt, found {len(rows)} rows"
        )
    return _alignment(path, np.array(rows), size, dark, local)


def images_of(alignment: AreTomoAlignment, path: Path, images: int) -> IntArray:
    """(f,) 0-based image in a stack of each row.

    A stack with as many images as there are rows has them in that order, unless it is the stack that was
    aligned and the first column numbers its images. Otherwise the stack must be the one that was aligned, with
    the dark images in it.

    Raises
    ------
    FormatError
        If the numbers do not fit, or it is not clear which images are dark.
    """
    rows = len(alignment.sections)
    if images not in (rows, rows + len(alignment.dark)):
        dark = f" (or {rows + len(alignment.dark)} with the dark ones)" if len(alignment.dark) else ""
        raise FormatError(f"{path}: has rows for {rows} tilts{dark}, but the stack has {images} images")
    for first in (0, 1):
        named = np.concatenate([alignment.sections, alignment.dark if images > rows else alignment.dark[:0]])
        if np.array_equal(np.sort(named), np.arange(first, first + images)):
            return alignment.sections - first
    if images == rows:
        return np.arange(rows)
    # rows are numbered anew in some versions: those that are not dark, if it is clear how these are counted
    fitting = [
        first for first in (0, 1)
        if alignment.dark.min() >= first and alignment.dark.max() < first + images
        and len(np.unique(alignment.dark)) == len(alignment.dark)
    ]  # fmt: skip
    if len(fitting) != 1:
        raise FormatError(
            f"{path}: it is not clear which of {images} images are dark; give the stack without them, or .xf and .tlt"
        )
    return np.setdiff1d(np.arange(images), alignment.dark - fitting[0])


def _alignment(
    path: Path, rows: FloatArray, size: tuple[int, int, int], dark: list[int], local: bool
) -> AreTomoAlignment:
    scaled = np.abs(rows[:, 2] - 1) > 1e-6
    if scaled.any():
        row = int(np.argmax(scaled))
        raise FormatError(
            f"{path}: row {row + 1}: expected GMAG 1, got {rows[row, 2]:g}; give AreTomo's .xf and .tlt files instead"
        )
    tilts = rows[:, 9]
    wrong = np.abs(tilts) > 360
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{path}: row {row + 1}: expected TILT within ±360°, got {tilts[row]:g}")
    angle = np.deg2rad(rows[:, 1])
    matrices = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    shifts = -np.einsum("fij,fj->fi", matrices, rows[:, 3:5])
    sections = rows[:, 0].astype(np.int64)
    return AreTomoAlignment(matrices, shifts, tilts, size, sections, np.array(dark, np.int64), local)


def _row(line: TextLine) -> list[float]:
    what = "SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT"
    values = line.numbers(what)
    if len(values) != _COLUMNS:
        raise line.error(f"{_COLUMNS} numbers ({what})")
    _whole(line, values[0])
    return values


def _raw_size(line: TextLine) -> tuple[int, int, int]:
    values = [_whole(line, value) for value in line.numbers("RawSize = x y n")]
    if len(values) != 3 or min(values) < 1:
        raise line.error("RawSize = x y n")
    return values[0], values[1], values[2]


def _whole(line: TextLine, value: float) -> int:
    if value != int(value) or not 0 <= value < 1 << 31:
        raise line.error("a whole number")
    return int(value)
