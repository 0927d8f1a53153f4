"""Where the tilt images of RELION's tables are: ``N@stack``, single images, or one stack a series."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.mrc import read_header
from centralslice_plugins.formats.relion_tomo_files import FileFinder
from centralslice_plugins.formats.star import StarTable
from centralslice_plugins.formats.tiff import TiffImages, looks_like_tiff

_NUMBERED = re.compile(r"([0-9]{1,9})@(.+)")
_STACK, _IMAGE = "rlnTomoTiltSeriesName", "rlnMicrographName"


@dataclass(frozen=True, slots=True)
class TiltImages:
    """The images of a series: files, and each tilt's file and 0-based image in it; size (nx, ny)."""

    files: tuple[Path, ...]
    file_number: IntArray
    image_number: IntArray
    size: tuple[int, int]


def no_images(tilts: int) -> TiltImages:
    """Of a series of which only extracted particles are left."""
    return TiltImages((), np.zeros(tilts, np.int64), np.zeros(tilts, np.int64), (0, 0))


def tilt_images(
    tomograms: StarTable, row: int, tilts: StarTable, finder: FileFinder, required: bool
) -> TiltImages:
    """The images of one series, all headers read.

    The tomogram's own ``rlnTomoTiltSeriesName`` counts before ``rlnMicrographName`` of its tilts. If a file is
    nowhere and they are not required there are no images at all.

    Raises
    ------
    FileMissingError
        If a file is nowhere and they are required.
    FormatError
        If a name is none, a file holds no such image, or the images differ in size.
    """
    if not required and _STACK not in tomograms and _IMAGE not in tilts:
        return no_images(len(tilts))
    names, numbers, plain, named_by = _names(tomograms, row, tilts)
    distinct = {name: place for place, name in enumerate(dict.fromkeys(names))}
    look = finder.find if required else finder.find_or_none
    found = [look(name, named_by, "the tilt image file") for name in distinct]
    files = tuple(path for path in found if path is not None)
    if len(files) < len(found):
        return no_images(len(tilts))
    places = np.array([distinct[name] for name in names], np.int64)
    headers = [image_header(path) for path in files]
    for tilt, (place, number) in enumerate(zip(places.tolist(), numbers.tolist(), strict=True)):
        count = headers[place][0]
        if number >= count:
            raise FormatError(
                f"{tilts.where(tilt)}: image {number + 1} of {files[place]} was asked for, which has {count} images"
            )
        if plain and count > 1:
            raise FormatError(
                f"{tilts.where(tilt)}: _{_IMAGE}: {files[place]} has {count} images; name one of them as N@file"
            )
        if headers[place][1] != headers[places[0]][1]:
            raise FormatError(
                f"{tilts.where(tilt)}: the tilt images of a series need one size: {files[place]} has "
                f"{_shown(headers[place][1])}, {files[places[0]]} has {_shown(headers[places[0]][1])} pixels"
            )
    return TiltImages(files, places, numbers, headers[places[0]][1])


def image_header(path: Path) -> tuple[int, tuple[int, int]]:
    """Number of images in an MRC or TIFF file, and their (nx, ny); raises FormatError."""
    if looks_like_tiff(path):
        images = TiffImages(path)
        images.close()
        return images.header.count, (images.header.shape[1], images.header.shape[0])
    header = read_header(path)
    return header.shape[0], (header.shape[2], header.shape[1])


def _names(tomograms: StarTable, row: int, tilts: StarTable) -> tuple[list[str], IntArray, bool, Path]:
    """Each tilt's file name and 0-based number in it, whether names have no number, and who names them."""
    if _STACK in tomograms:
        stack = str(tomograms.texts(_STACK)[row])
        return [stack] * len(tilts), np.arange(len(tilts), dtype=np.int64), False, tomograms.source
    if _IMAGE not in tilts:
        raise FormatError(
            f"{tilts.source}: block '{tilts.block}' has no _{_IMAGE}, and {tomograms.source} no _{_STACK}: the tilt "
            "images are named nowhere"
        )
    names: list[str] = []
    numbers = np.zeros(len(tilts), np.int64)
    texts = tilts.texts(_IMAGE).tolist()
    for tilt, text in enumerate(texts):
        numbered = _NUMBERED.fullmatch(text)
        if numbered is None and (not text or text.startswith("@")):
            raise FormatError(f"{tilts.where(tilt)}: _{_IMAGE}: expected N@file or a file, got '{text}'")
        if numbered is not None:
            numbers[tilt] = int(numbered[1]) - 1
        if numbers[tilt] < 0:
            raise FormatError(f"{tilts.where(tilt)}: _{_IMAGE}: expected N@file with N from 1, got '{text}'")
        names.append(numbered[2] if numbered is not None else text)
    return names, numbers, not any(_NUMBERED.fullmatch(text) for text in texts), tilts.source


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
