"""CTFFIND's text output, as CTFFIND 4 and 5 and AreTomo write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from centralslice.errors import FormatError
from centralslice_plugins.formats.imod import TiltDefocus
from centralslice_plugins.formats.text_numbers import number_rows

_WHAT = "CTFFIND's table (image, defocus 1, defocus 2, angle, phase shift …)"


def read_ctffind(path: Path) -> TiltDefocus:
    """Defocus of each image: (f,) Å, Å, degrees, phase shift in degrees (radians in the file).

    Columns are image number, defocus 1 and 2 in Å, azimuth of defocus 1 in degrees, phase shift in radians,
    correlation and resolution; more (AreTomo's sign of the defocus gradient, CTFFIND 5's tilt and thickness)
    are not looked at.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If rows are not those, or images are not numbered 1, 2, 3 …
    """
    table = number_rows(path, _WHAT, range(7, 13))
    expected = np.arange(1, len(table) + 1)
    wrong = table[:, 0] != expected
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{path}: row {row + 1}: expected image {row + 1}, got {table[row, 0]:g}; rows must be 1, 2, 3 … as the "
            "tilt images"
        )
    return TiltDefocus(table[:, 1], table[:, 2], table[:, 3], np.rad2deg(table[:, 4]))
