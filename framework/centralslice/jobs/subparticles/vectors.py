"""Centres of sub-particles drawn in Chimera: CMM marker files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from centralslice.errors import FileMissingError, FormatError

#: Larger files are no markers.
_LARGEST_BYTES = 2**24


def read_cmm(path: Path) -> tuple[tuple[float, float, float], ...]:
    """Vectors of a marker file, Å: marker 1 is their origin, the other markers their ends.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is not a marker file with at least two markers.
    """
    if not path.is_file():
        raise FileMissingError(f"--vectors: {path} does not exist")
    text = path.read_bytes()
    if len(text) > _LARGEST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise FormatError(f"{path}: is no plain marker file (.cmm)")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - entities were refused above
        markers = {
            int(marker.attrib["id"]): [float(marker.attrib[axis]) for axis in "xyz"]
            for marker in root.iter("marker")
        }
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: is no marker file (.cmm): {' '.join(str(error).split())}") from error
    if 1 not in markers or len(markers) < 2 or not np.all(np.isfinite(list(markers.values()))):
        raise FormatError(
            f"{path}: expected marker 1 as the origin and at least one more, got {sorted(markers)}"
        )
    origin = np.array(markers[1])
    ends = [np.array(markers[number]) - origin for number in sorted(markers) if number != 1]
    return tuple((float(end[0]), float(end[1]), float(end[2])) for end in ends)
