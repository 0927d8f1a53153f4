"""Finding the image files that particle metadata name.

Programs write paths relative to the folder they ran in, which is rarely the one the user is in. Each
distinct name is looked up once:

1. under ``--image-dir`` if that is given: the whole relative path, then ever shorter ends of it;
2. as it is: absolute, or relative to the working directory;
3. relative to the metadata file's folder, then to each folder above it (a project folder holds job folders);
4. by its base name beside the metadata file, which is reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from centralslice.errors import FileMissingError, FormatError


@dataclass(frozen=True, slots=True)
class Located:
    """Image files found: ``files[i]`` for the i-th name asked for, and notes for the user."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def _no_other(name: str) -> Sequence[str]:
    return ()


def locate_images(
    names: Sequence[str],
    metadata: Path,
    image_dir: Path | None = None,
    other_names: Callable[[str], Sequence[str]] = _no_other,
) -> Located:
    """Find each of the distinct ``names``.

    Parameters
    ----------
    names
        Distinct names as the metadata have them.
    metadata
        The metadata file.
    image_dir
        Folder the user gave, or None.
    other_names
        Further names that a name's file may have.

    Raises
    ------
    FileMissingError
        If a file is nowhere; the message lists where it was looked for.
    FormatError
        If a name is empty or holds control characters, or two names are found as one file only because
        their folders were left out.
    """
    if image_dir is not None and not image_dir.is_dir():
        raise FileMissingError(f"--image-dir {image_dir}: is not a folder; give the folder of the images")
    found = [_locate(name, metadata, image_dir, other_names) for name in names]
    owner: dict[Path, int] = {}
    for number, (path, kind) in enumerate(found):
        other = owner.setdefault(path, number)
        if other != number and (kind, found[other][1]) != ("exact", "exact"):
            raise FormatError(
                f"{metadata}: '{names[other]}' and '{names[number]}' are both found only as {path}; "
                "restore their folders or give --image-dir"
            )
    beside = sum(kind == "beside" for _, kind in found)
    files = tuple(path for path, _ in found)
    if not beside:
        return Located(files)
    return Located(files, (f"{beside} of {len(names)} image files found by base name beside {metadata}",))


def _locate(
    name: str, metadata: Path, image_dir: Path | None, other_names: Callable[[str], Sequence[str]]
) -> tuple[Path, str]:
    """The file of one name and how it was found: ``exact``, ``shortened`` or ``beside``."""
    if not name:
        raise FormatError(f"{metadata}: an image's file name is empty")
    if min(name) < " ":
        raise FormatError(f"{metadata}: an image's file name holds control characters: {name!r}")
    tried: list[Path] = []
    for variant in (name, *other_names(name)):
        for path, kind in _candidates(variant, metadata, image_dir):
            if os.path.isfile(path):
                return path, ("shortened" if variant != name and kind == "exact" else kind)
            folder = Path(os.path.abspath(path)).parent
            if folder not in tried:
                tried.append(folder)
    shown = ", ".join(map(str, tried[:4])) + (f" and {len(tried) - 4} more" if len(tried) > 4 else "")
    raise FileMissingError(
        f"{metadata}: image file '{name}' not found (looked in {shown}); give its folder with --image-dir"
    )


def _candidates(name: str, metadata: Path, image_dir: Path | None) -> Iterator[tuple[Path, str]]:
    """Where a file may be, likeliest first."""
    pure = PurePath(name)
    parts = pure.parts[1:] if pure.is_absolute() else pure.parts
    if image_dir is not None:
        yield image_dir.joinpath(*parts), "exact"
        for first in range(1, len(parts)):
            yield image_dir.joinpath(*parts[first:]), "shortened"
    yield Path(name), "exact"
    if not pure.is_absolute():
        folder = metadata.absolute().parent
        yield metadata.parent / name, "exact"
        for above in folder.parents:
            yield above / name, "exact"
    yield metadata.parent / pure.name, "beside"
