"""Reading the refinement that sub-particles are taken from, whichever dialect it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from centralslice.abc.reader import ReadRequest
from centralslice.conventions import FloatArray
from centralslice.data.particles import ContrastTransfer, Particles
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.jobs.subparticles.source_checks import check_maps, check_particles
from centralslice.plugin.registry import Registry

__all__ = ["SourceRequest", "SubparticleSource", "read_source"]

_HALVES = (1, 2)


def read_source(request: SourceRequest, registry: Registry) -> SubparticleSource:
    """The refinement a request names, with the maps and the mask the user gave in place of its own.

    Maps, mask and images are opened to see that their sizes fit; particles whose metadata do not say a box
    size get that of their images.

    Raises
    ------
    ParameterError
        If not exactly one of folder, optimiser and particles is given, or an option does not go with it.
    FileMissingError, FormatError
        If a file is missing, is not what its format demands, or does not fit the others.
    """
    _check_request(request)
    source = _plain(request, registry) if request.particles is not None else _refinement(request, registry)
    maps = _with_given_maps(source, request)
    notes = [*source.notes, *source.particles.notes]
    if request.reference == "combined":
        if 0 not in maps:
            raise ParameterError("--ref combined: there is no map of all particles; give one with --map")
        maps = {0: maps[0]}
    mask = source.mask_all if request.mask_all is None else request.mask_all
    particles = check_particles(source.particles, registry)
    _check_halves(maps, particles)
    map_notes = check_maps(maps, mask, particles, registry)
    return replace(
        source,
        particles=particles,
        maps=maps,
        mask_all=mask,
        notes=tuple(dict.fromkeys([*notes, *map_notes])),
    )


def _check_request(request: SourceRequest) -> None:
    """Refuse what does not go together."""
    given = {
        "a refinement folder": request.folder,
        "--i": request.optimiser,
        "--particles": request.particles,
    }
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "none"
        raise ParameterError(f"expected one of a refinement folder, --i and --particles, got {got}")
    if (request.half1 is None) != (request.half2 is None):
        raise ParameterError("--half1 and --half2 go together; give both or neither")
    only = {
        "ITERATION": (request.iteration is not None, "folder"),
        "--data": (request.data is not None, "optimiser"),
        "--class": (request.class_number is not None, "optimiser"),
        "--ignore-class": (request.ignore_class, "optimiser"),
    }
    for option, (is_given, attribute) in only.items():
        if is_given and getattr(request, attribute) is None:
            needs = "a refinement folder" if attribute == "folder" else "--i"
            raise ParameterError(f"{option}: goes with {needs} only")


def _refinement(request: SourceRequest, registry: Registry) -> SubparticleSource:
    path = request.folder if request.folder is not None else request.optimiser
    if path is None:
        raise ParameterError("expected a refinement folder or --i")
    if not path.exists():
        raise FileMissingError(
            f"{path}: does not exist; give a refine_XX or r3d_XX folder, or an optimiser.star"
        )
    if request.folder is not None and not path.is_dir():
        raise FormatError(
            f"{path}: expected a refinement folder, got a file; give a RELION optimiser with --i"
        )
    if path.is_dir() and not any(path.iterdir()):
        raise FormatError(f"{path}: is empty; expected a refine_XX or r3d_XX folder of EMAN2")
    return registry.reader_for(path, "refinement").read_refinement(path, request)


def _plain(request: SourceRequest, registry: Registry) -> SubparticleSource:
    """Particles of any format and the maps that go with them."""
    path = request.particles
    if path is None:
        raise ParameterError("expected --particles")
    reader = registry.reader_for(path, "particles")
    particles = reader.read_particles(ReadRequest(path, image_dir=request.image_dir))
    particles, notes = _list_columns(particles)
    if request.map is None and request.half1 is None:
        raise ParameterError(f"--particles {path}: goes with --map, or --half1 and --half2")
    names = [path.name, *(file.name for file in particles.image_files)]
    return SubparticleSource(
        particles=particles,
        maps={},
        mask_all=None,
        symmetry=None,
        phase_flipped=_phase_flipped(particles, names),
        scale=None,
        used=None,
        stem=f"{path.stem}_subptcl",
        dialect="plain",
        notes=notes,
    )


def _list_columns(particles: Particles) -> tuple[Particles, tuple[str, ...]]:
    """Half sets and changes of defocus in lists of e2spa_refine, whose readers give them as columns."""
    notes: list[str] = []
    classes = particles.columns.get("class")
    if classes is not None and np.isin(classes, (0.0, 1.0)).all() and not particles.half_set.any():
        particles = replace(particles, half_set=(classes + 1).astype(np.int8))
        notes.append(f"{particles.source}: half sets 1 and 2 are its classes 0 and 1")
    changes = particles.columns.get("defocus")
    if changes is not None and particles.ctf is not None:
        change_angst = 1e4 * np.nan_to_num(changes, nan=0.0)
        particles = replace(particles, ctf=_defocused(particles.ctf, change_angst))
        notes.append(f"{particles.source}: its changes of defocus are added to the CTFs")
    return particles, tuple(notes)


def _defocused(ctf: ContrastTransfer, change_angst: FloatArray) -> ContrastTransfer:
    return replace(
        ctf,
        defocus_u_angst=ctf.defocus_u_angst + change_angst,
        defocus_v_angst=ctf.defocus_v_angst + change_angst,
    )


def _phase_flipped(particles: Particles, names: list[str]) -> bool | None:
    """Whether EMAN2's headers or file names say that images are phase flipped."""
    flipped = particles.columns.get("ctf_phase_flipped")
    if flipped is not None and not np.isnan(flipped).any():
        if flipped.any() and not flipped.all():
            raise FormatError(
                f"{particles.source}: {np.count_nonzero(flipped)} of {len(particles)} images are phase flipped; "
                "give images of one kind"
            )
        if flipped.all():
            return True
    if any("__ctf_flip" in name for name in names):
        return True
    return None if flipped is None or np.isnan(flipped).any() else False


def _with_given_maps(source: SubparticleSource, request: SourceRequest) -> Mapping[int, Path]:
    """The source's maps, those of the request in their places."""
    maps = dict(source.maps)
    if request.map is not None and request.half1 is None:
        maps = {0: request.map}  # half maps of the refinement are not of this map
    elif request.map is not None:
        maps[0] = request.map
    if request.half1 is not None and request.half2 is not None:
        maps |= {1: request.half1, 2: request.half2}
    return maps


def _check_halves(maps: Mapping[int, Path], particles: Particles) -> None:
    """Refuse particles for which there is no map."""
    if 0 in maps:
        return
    without = ~np.isin(particles.half_set, [half for half in _HALVES if half in maps])
    if without.any():
        raise FormatError(
            f"{particles.source}: {np.count_nonzero(without)} of {len(particles)} particles are in no half set, and "
            "there are half maps only; give their map with --map"
        )
