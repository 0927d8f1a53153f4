"""EMAN2 list files: rows that point into HDF5 and MRC stacks, or into other lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.conventions import IntArray
from centralslice.data.particles import Particles
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_attributes import Transform
from centralslice_plugins.formats.eman2_hdf import Eman2File, has_magic
from centralslice_plugins.formats.eman2_particles import HeaderTable, particles_from_headers
from centralslice_plugins.formats.lst import ListRow, ctf_of, is_list, read_list
from centralslice_plugins.formats.mrc import read_header
from centralslice_plugins.formats.paths import locate_images
from centralslice_plugins.readers.eman2_hdf import fill_from_headers

#: Lists of lists of lists … beyond this are a mistake.
_DEEPEST = 8
#: Numbers of e2spa_refine and of sub-particle lists that are kept as columns.
_KEPT = ("class", "score", "defocus", "ptcl3d_id", "tilt_id", "orig_idx", "sym_idx")


@dataclass(frozen=True, slots=True)
class _Target:
    """The real image behind a row, and what all the lists on the way say about it."""

    file: Path
    number: int
    attributes: Mapping[str, Any]
    line: int


class LstReader(Reader):
    """LSX and LST lists. Attributes in the list override those in the images' headers.

    Shifts are always those of the projection convention, as EMAN2 takes them in lists.
    """

    plugin_name: ClassVar[str] = "lst"
    capabilities: ClassVar[frozenset[str]] = frozenset({"particles"})

    def recognises(self, path: Path) -> bool:
        """Whether the file begins with #LSX or #LST, or else is called .lst."""
        return is_list(path) or path.suffix.lower() == ".lst"

    def read_particles(self, request: ReadRequest) -> Particles:
        """One particle a row; the headers of HDF5 images give what the list does not.

        Raises
        ------
        FileMissingError, FormatError
        """
        table = list_headers(request.path, request.image_dir)
        return particles_from_headers(request.path, table, "projection")


def list_headers(path: Path, image_dir: Path | None) -> HeaderTable:
    """What a list and the headers of its images say, whether they have orientations or not.

    Raises
    ------
    FileMissingError, FormatError
    """
    notes: list[str] = []
    targets = _targets(path, image_dir, (), {}, notes)
    places = {file: place for place, file in enumerate(dict.fromkeys(target.file for target in targets))}
    table = HeaderTable.empty(
        tuple(places),
        np.array([places[target.file] for target in targets], np.int64),
        np.array([target.number for target in targets], np.int64),
    )
    table.notes.extend(dict.fromkeys(notes))
    order = np.argsort(table.file_number, kind="stable")
    edges = np.searchsorted(table.file_number[order], np.arange(len(places) + 1))
    for file, place in places.items():
        _fill_from_file(table, order[edges[place] : edges[place + 1]], file, path)
    for row, target in enumerate(targets):
        _override(table, row, target, path)
    return table


def _targets(
    path: Path,
    image_dir: Path | None,
    above: tuple[Path, ...],
    known: dict[Path, list[_Target]],
    notes: list[str],
) -> list[_Target]:
    """The images of a list, lists in it followed; each list is read once."""
    here = path.resolve()
    if here in above:
        raise FormatError(f"{path}: refers to itself, by way of {' -> '.join(map(str, (*above, here)))}")
    if len(above) >= _DEEPEST:
        raise FormatError(f"{path}: is the list of a list, {_DEEPEST} deep; make one list of it")
    if here in known:
        return known[here]
    rows = read_list(path)
    names = list(dict.fromkeys(row.file for row in rows))
    located = locate_images(names, path, image_dir)
    notes.extend(located.notes)
    files = dict(zip(names, located.files, strict=True))
    inner = {
        name: _targets(file, image_dir, (*above, here), known, notes)
        for name, file in files.items()
        if is_list(file)
    }
    known[here] = [_target(path, row, files[row.file], inner.get(row.file)) for row in rows]
    return known[here]


def _target(path: Path, row: ListRow, file: Path, inner: Sequence[_Target] | None) -> _Target:
    if inner is None:
        return _Target(file, row.number, row.attributes, row.line)
    if row.number >= len(inner):
        raise FormatError(
            f"{path}: line {row.line}: list {file} has {len(inner)} rows, row {row.number + 1} was asked for"
        )
    found = inner[row.number]
    return _Target(found.file, found.number, {**found.attributes, **row.attributes}, row.line)


def _fill_from_file(table: HeaderTable, rows: IntArray, file: Path, source: Path) -> None:
    """What the headers of one file say; it is opened once."""
    if has_magic(file):
        with Eman2File(file) as opened:
            _check_numbers(table, rows, file, opened.count, source)
            fill_from_headers(table, rows, opened)
        return
    header = read_header(file)
    _check_numbers(table, rows, file, header.shape[0], source)
    table.boxes[rows] = header.shape[2]
    if header.voxel_angst[0]:
        table.pixel[rows] = header.voxel_angst[0]


def _check_numbers(table: HeaderTable, rows: IntArray, file: Path, count: int, source: Path) -> None:
    beyond = rows[table.image_number[rows] >= count]
    if beyond.size:
        number = table.image_number[beyond[0]]
        raise FormatError(
            f"{source}: row {beyond[0] + 1}: {file} has {count} images, image {number + 1} was asked for"
        )


def _override(table: HeaderTable, row: int, target: _Target, source: Path) -> None:
    """Put the list's attributes in place of the header's."""
    given = target.attributes
    where = f"{source}: line {target.line}"
    pose = given.get("xform.projection")
    if pose is not None:
        if not isinstance(pose, Transform):
            raise FormatError(f"{where}: xform.projection is a {type(pose).__name__}; expected a Transform")
        table.transforms[row] = pose.matrix
    for name, column in table.numbers().items():
        if name in given:
            if isinstance(given[name], bool) or not isinstance(given[name], (int, float)):
                raise FormatError(f"{where}: {name} is '{given[name]}'; expected a number")
            column[row] = _as_float(given[name])
    for name in _KEPT:
        if isinstance(given.get(name), (int, float)) and not isinstance(given[name], bool):
            table.put(name, row, _as_float(given[name]))
    try:
        if "ctf" in given:
            table.ctf[row] = ctf_of(given["ctf"])
        if "class_ssnr" in given:
            table.ssnr[row] = np.atleast_1d(np.asarray(given["class_ssnr"], np.float32)).ravel()
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"{where}: {' '.join(str(error).split())}") from error


def _as_float(value: float) -> float:
    """A number of JSON, whose integers have no end."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
