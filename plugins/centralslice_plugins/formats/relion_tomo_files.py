"""Finding the files of a RELION tomography project: the optimisation set, and whatever files name.

RELION itself starts every relative path from its working directory, the project folder. Here a name is
looked for there, then in the folder of the file that has it and in the folders above that one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from centralslice.abc.reader import TiltReadRequest
from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.star import StarFile, read_star

_PARTICLES, _TOMOGRAMS, _MOTION = "rlnTomoParticlesFile", "rlnTomoTomogramsFile", "rlnTomoTrajectoriesFile"
#: What stands in a list in place of a file that there is not.
_NO_FILE = ("", "None", "none")


@dataclass(frozen=True, slots=True)
class FileFinder:
    """Finds files by the names that other files have for them; folders are listed once.

    Attributes
    ----------
    base
        Folder that relative names start from first; None: the working directory.
    """

    base: Path | None = None
    _listed: dict[Path, frozenset[str] | None] = field(default_factory=dict, repr=False)

    def find(self, name: str, named_by: Path, what: str) -> Path:
        """The file of one name; ``what`` is it, for messages.

        Raises
        ------
        FileMissingError
            If it is nowhere; the message lists the folders.
        FormatError
            If the name is empty or holds control characters.
        """
        found = self.find_or_none(name, named_by, what)
        if found is not None:
            return found
        folders = list(
            dict.fromkeys(Path(os.path.abspath(path)).parent for path in self._places(name, named_by))
        )
        shown = ", ".join(map(str, folders[:4])) + (
            f" and {len(folders) - 4} more" if len(folders) > 4 else ""
        )
        raise FileMissingError(
            f"{named_by}: {what} '{name}' not found (looked in {shown}); run in the project folder, from which "
            "names start"
        )

    def find_or_none(self, name: str, named_by: Path, what: str) -> Path | None:
        """As :meth:`find`, but None for a file that is nowhere."""
        if not name:
            raise FormatError(f"{named_by}: the name of {what} is empty")
        if min(name) < " ":
            raise FormatError(f"{named_by}: the name of {what} holds control characters: {name!r}")
        return next((path for path in self._places(name, named_by) if self._is_there(path)), None)

    def _places(self, name: str, named_by: Path) -> Iterator[Path]:
        path = Path(name)
        if path.is_absolute():
            yield path
            return
        yield path if self.base is None else self.base / path
        folder = named_by.absolute().parent
        yield named_by.parent / path
        for above in folder.parents:
            yield above / path

    def _is_there(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = frozenset(entry.name for entry in entries if not entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                self._listed[folder] = frozenset()
            except OSError:  # a folder that may be entered but not listed
                self._listed[folder] = None
        names = self._listed[folder]
        if names is None:
            return path.is_file()
        return path.name in names


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """The files of a project: tables of particles and tomograms as read, and the trajectories' path or None."""

    particles: StarFile
    tomograms: StarFile
    trajectories: Path | None


def project_files(request: TiltReadRequest, finder: FileFinder) -> ProjectFiles:
    """What an optimisation set or the request names; a file that the request names counts first.

    Raises
    ------
    FormatError
        If neither names the particles or the tomograms, or a file is not STAR.
    FileMissingError
        If a file is not there.
    """
    first = read_star(request.path)
    entries = _entries(first)
    if entries is None and request.particles is not None:
        raise FormatError(
            f"{request.path}: expected an optimisation set (with _{_PARTICLES} or _{_TOMOGRAMS}), since the "
            f"particles are given as {request.particles}"
        )
    named = entries or {}
    if entries is None:
        particles = first
    else:
        path = request.particles or _named(named, _PARTICLES, request.path, finder)
        if path is None:
            raise FormatError(
                f"{request.path}: names no particles (_{_PARTICLES}); give the particles' STAR file"
            )
        particles = read_star(path)
    tomograms = request.tomograms or _named(named, _TOMOGRAMS, request.path, finder)
    if tomograms is None:
        raise FormatError(
            f"{request.path}: names no tomograms (_{_TOMOGRAMS}); give the tomograms' STAR file"
        )
    trajectories = request.trajectories or _named(named, _MOTION, request.path, finder)
    return ProjectFiles(particles, read_star(tomograms), trajectories)


def _entries(file: StarFile) -> dict[str, str] | None:
    """Label to file name of an optimisation set; None if the file is none."""
    labels = (_PARTICLES, _TOMOGRAMS)
    table = next((table for table in file.tables if any(label in table for label in labels)), None)
    if table is None:
        return None
    if len(table) != 1:
        raise FormatError(
            f"{file.path}: block '{table.block}': expected one optimisation set, got {len(table)} rows; "
            "keep one of them"
        )
    found = {label: str(table.texts(label)[0]) for label in (*labels, _MOTION) if label in table}
    return {label: name for label, name in found.items() if name not in _NO_FILE}


def _named(entries: dict[str, str], label: str, source: Path, finder: FileFinder) -> Path | None:
    return finder.find(entries[label], source, f"_{label}") if label in entries else None
