"""EMAN2 ``refine_XX`` folders: particles posed by their classes, maps, mask and symmetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from centralslice.abc.reader import Reader
from centralslice.conventions import BoolArray, FloatArray
from centralslice.data.particles import Particles
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_iterations import (
    choose_iteration,
    complete_iterations,
    find_mask,
    iteration_file,
    iteration_maps,
    phase_flipped,
    project_file,
    set_name,
)
from centralslice_plugins.formats.eman2_json import flag_of, number_of, read_json, text_of
from centralslice_plugins.formats.eman2_particles import HeaderTable, joined_tables, particles_from_headers
from centralslice_plugins.formats.eman2_refine import (
    ClassAlignment,
    class_of_each,
    poses_of_aligned,
    read_class_alignment,
    read_class_rotations,
    replace_by_averages,
)
from centralslice_plugins.formats.lst import is_list
from centralslice_plugins.formats.paths import locate_images
from centralslice_plugins.readers.eman2_hdf import stack_headers
from centralslice_plugins.readers.lst import list_headers

_PARAMETERS = "0_refine_parms.json"
_PARITIES = ("even", "odd")
_NEEDED = (
    "threed_{}.hdf",
    *(f"{kind}_{{}}_{parity}.hdf" for kind in ("classmx", "projections") for parity in _PARITIES),
)
#: Pixel sizes that differ by less are the same.
_SAME_PIXEL = 1e-3


@dataclass(frozen=True, slots=True)
class _Half:
    """The particles of one half set: headers and alignment.

    ``views`` (m, 3, 3) are the rotations of the projections, ``class_rotations`` (n, 3, 3) those of each
    particle's class.
    """

    table: HeaderTable
    alignment: ClassAlignment
    views: FloatArray
    class_rotations: FloatArray

    def columns(self) -> dict[str, Any]:
        """The alignment as columns of particles."""
        found = self.alignment
        return {
            "class_number": found.number,
            "class_alpha_deg": found.alpha_deg,
            "class_tx": found.shift[:, 0],
            "class_ty": found.shift[:, 1],
            "class_mirror": found.mirror,
            "class_rotation": self.class_rotations,
        }


class Eman2RefineReader(Reader):
    """Refinements of e2refine_easy; even particles are half set 1, odd ones half set 2."""

    plugin_name: ClassVar[str] = "eman2_refine"
    capabilities: ClassVar[frozenset[str]] = frozenset({"refinement"})

    def recognises(self, path: Path) -> bool:
        """Whether it is a folder with e2refine_easy's parameters or classifications."""
        return path.is_dir() and ((path / _PARAMETERS).is_file() or any(path.glob("classmx_*_*.hdf")))

    def read_refinement(self, path: Path, request: SourceRequest) -> SubparticleSource:
        """Read one iteration of a folder.

        Raises
        ------
        FileMissingError, FormatError
            If the iteration is not there or lacks a file, or a file is damaged or does not fit the others.
        """
        settings = read_json(path / _PARAMETERS)
        number = choose_iteration(path, request.iteration, _NEEDED)
        refined = request.alignments == "refined"
        notes = _notes(path, settings)
        lists = _particle_lists(path, settings, request.image_dir)
        kind, said = _alignment_kind(path, number, refined)
        notes += said
        averages = refined and flag_of(settings, "eulerrefine")
        halves = [
            _read_half(path, number, parity, (lists[place], kind, averages), request.image_dir)
            for place, parity in enumerate(_PARITIES)
        ]
        maps, map_notes = iteration_maps(path, number)
        mask, mask_notes = find_mask(path, number == complete_iterations(path, _NEEDED)[-1])
        table = joined_tables([half.table for half in halves])
        apix = number_of(path / _PARAMETERS, settings, "apix")
        notes += [*map_notes, *mask_notes, *_view_notes(path, halves), *_set_pixel(table, apix)]
        used = np.concatenate([half.alignment.used for half in halves]) if kind == "cls_result" else None
        names = [str(name) for name in (*lists, *table.files)]
        source = SubparticleSource(
            particles=_particles(path, halves, table),
            maps=maps,
            mask_all=mask,
            symmetry=text_of(path / _PARAMETERS, settings, "sym"),
            phase_flipped=phase_flipped(path, table.extra, len(table), names),
            scale=None,
            used=used,
            stem=set_name(path, number, lists[0].name),
            dialect="refine",
            notes=(f"{path}: iteration {number}, alignments of {kind}", *dict.fromkeys(notes)),
            angular_step_deg=number_of(path / _PARAMETERS, settings, "astep"),
            symmetry_broken=flag_of(settings, "breaksym"),
        )
        return replace(source, notes=(*source.notes, *_used_note(used)))


def _particle_lists(folder: Path, settings: Mapping[str, Any], image_dir: Path | None) -> list[Path]:
    """The even and the odd particle file."""
    given = settings.get("input")
    if not (isinstance(given, list) and len(given) == 2 and all(isinstance(name, str) for name in given)):
        raise FormatError(
            f"{folder / _PARAMETERS}: 'input': expected the names of the even and the odd particles, got "
            f"'{str(given)[:60]}'"
        )
    names = given if image_dir is not None else [project_file(folder, name) for name in given]
    located = [locate_images([name], folder / _PARAMETERS, image_dir).files[0] for name in names]
    return located


def _alignment_kind(folder: Path, number: int, refined: bool) -> tuple[str, list[str]]:
    """``cls_result`` where both are there and wanted, otherwise ``classmx``."""
    present = [
        iteration_file(folder, f"cls_result_{{}}_{parity}.hdf", number).is_file() for parity in _PARITIES
    ]
    if refined and all(present):
        return "cls_result", []
    if not refined:
        return "classmx", []
    if any(present):
        return "classmx", [f"{folder}: cls_result of only one half set; classmx is used for both"]
    return "classmx", [f"{folder}: no cls_result files of iteration {number}; initial alignments are used"]


def _read_half(
    folder: Path, number: int, parity: str, what: tuple[Path, str, bool], image_dir: Path | None
) -> _Half:
    """One half set: ``what`` is its particle file, kind of alignment, and whether averages' angles count."""
    particles, kind, averages = what
    alignment = read_class_alignment(iteration_file(folder, f"{kind}_{{}}_{parity}.hdf", number))
    table = list_headers(particles, image_dir) if is_list(particles) else stack_headers(particles)
    if len(table) != len(alignment):
        raise FormatError(
            f"{alignment.path}: has alignments of {len(alignment)} particles, but {particles} holds {len(table)}; "
            "they must be of one refinement"
        )
    projections = iteration_file(folder, f"projections_{{}}_{parity}.hdf", number)
    rotations = views = read_class_rotations(projections)
    classes = iteration_file(folder, f"classes_{{}}_{parity}.hdf", number)
    if averages and classes.is_file():
        rotations, replaced = replace_by_averages(rotations, classes)
        table.notes.append(f"{classes}: refined angles of {replaced} of {len(rotations)} classes are used")
    elif averages:
        table.notes.append(f"{classes} does not exist: angles of the projections are used, not refined ones")
    if alignment.columns > 1:
        table.notes.append(
            f"{alignment.path}: particles are in {alignment.columns} classes each; the best is used"
        )
    found = class_of_each(alignment, rotations, projections)
    table.transforms[:] = _transforms(alignment, found)
    return _Half(table, alignment, views, found)


def _transforms(alignment: ClassAlignment, class_rotations: FloatArray) -> FloatArray:
    """(n, 3, 4) poses, shifts in pixels."""
    rotations, shifts = poses_of_aligned(
        class_rotations, alignment.shift, alignment.alpha_deg, alignment.mirror
    )
    transforms = np.zeros((len(alignment), 3, 4))
    transforms[:, :, :3] = rotations
    transforms[:, :2, 3] = shifts
    return transforms


def _particles(folder: Path, halves: Sequence[_Half], table: HeaderTable) -> Particles:
    """Particles of both half sets, even ones first; a row's number is that in its own file."""
    particles = particles_from_headers(folder, table, "projection")
    columns = [half.columns() for half in halves]
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    sizes = [len(half.table) for half in halves]
    return replace(
        particles,
        half_set=np.repeat(np.array([1, 2], np.int8), sizes),
        source_row=np.concatenate([np.arange(size, dtype=np.int64) for size in sizes]),
        columns={**particles.columns, **joined},
    )


def _set_pixel(table: HeaderTable, apix: float | None) -> list[str]:
    """Put the refinement's pixel size (``--apix``) in place of the headers', if it has one."""
    if apix is None or apix <= 0:
        return []
    differs = ~np.isnan(table.pixel) & (np.abs(table.pixel / apix - 1) > _SAME_PIXEL)
    table.pixel[:] = apix
    if not differs.any():
        return []
    return [
        f"{np.count_nonzero(differs)} of {len(table)} images say another pixel size than {apix:g} Å (apix)"
    ]


def _view_notes(folder: Path, halves: Sequence[_Half]) -> list[str]:
    """Whether the two half sets were compared with other views."""
    even, odd = (half.views for half in halves)
    if even.shape == odd.shape and np.allclose(even, odd, atol=1e-4, equal_nan=True):
        return []
    return [f"{folder}: even and odd projections have different angles; each half set is read with its own"]


def _notes(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    if flag_of(settings, "breaksym"):
        return [f"{folder}: was refined with --breaksym, its maps need not have the symmetry"]
    return []


def _used_note(used: BoolArray | None) -> tuple[str, ...]:
    if used is None or used.all():
        return ()
    return (f"{np.count_nonzero(~used)} of {len(used)} particles are in no class average (cls_result)",)
