"""RELION refinements: an optimiser file with its models and particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.conventions import BoolArray, FloatArray
from centralslice.data.particles import Particles
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice_plugins.formats.relion_optimiser import (
    Model,
    Optimiser,
    find_beside,
    group_scales,
    is_optimiser,
    read_model,
    read_optimiser,
    read_symmetry,
    unfiltered_halves,
)
from centralslice_plugins.formats.star import is_star
from centralslice_plugins.readers.star import StarReader


class RelionOptimiserReader(Reader):
    """Refine3D and Class3D results: poses of the data file, maps, norm and group scale of the models."""

    plugin_name: ClassVar[str] = "relion_optimiser"
    capabilities: ClassVar[frozenset[str]] = frozenset({"refinement"})

    def recognises(self, path: Path) -> bool:
        """Whether it is a STAR file with ``data_optimiser_general``."""
        return path.is_file() and is_star(path) and is_optimiser(path)

    def read_refinement(self, path: Path, request: SourceRequest) -> SubparticleSource:
        """Read an optimiser and what it names.

        Raises
        ------
        FileMissingError, FormatError
            If a file is missing or broken, or particles and models do not belong together.
        ParameterError
            If a class must be chosen, or the one chosen does not exist.
        """
        optimiser = read_optimiser(path)
        models = tuple(read_model(find_beside(name, path)) for name in optimiser.models)
        data = find_beside(optimiser.data, path) if request.data is None else request.data
        particles = StarReader().read_particles(ReadRequest(data, image_dir=request.image_dir))
        number, chosen, notes = _choose_class(models[0], particles, request)
        if chosen is not None:
            particles = particles.take(chosen)
        maps, map_notes = _maps(optimiser, models, number, particles)
        symmetry, symmetry_notes = _symmetry(optimiser)
        groups, image_factor, scale_notes = _corrections(optimiser, models, particles)
        scale = None if groups is None and image_factor is None else np.ones(len(particles))
        if scale is not None:
            scale *= 1.0 if groups is None else groups
            scale /= 1.0 if image_factor is None else image_factor
        if not optimiser.correct_ctf:
            particles = replace(particles, ctf=None)
        all_notes = [*notes, *map_notes, *symmetry_notes, *scale_notes, *_flag_notes(optimiser)]
        return SubparticleSource(
            particles=particles,
            maps=maps,
            mask_all=None,
            symmetry=symmetry,
            phase_flipped=optimiser.phase_flipped,
            scale=scale,
            used=None,
            stem="particles_subtracted",
            dialect="relion",
            notes=tuple(all_notes),
            image_factor=image_factor,
        )


def _choose_class(
    model: Model, particles: Particles, request: SourceRequest
) -> tuple[int, BoolArray | None, list[str]]:
    """The 1-based class whose map is taken, which particles are of it (None: all), and notes."""
    count = len(model.maps)
    numbers = particles.model_number
    wanted = request.class_number
    if wanted is None:
        present = np.unique(numbers[numbers > 0])
        if count > 1 and (request.ignore_class or len(present) != 1):
            raise ParameterError(
                f"{model.path}: has {count} classes; choose the one whose map and particles are wanted with --class"
            )
        wanted = int(present[0]) if count > 1 else 1
    if not 1 <= wanted <= count:
        raise ParameterError(f"--class {wanted}: {model.path} has classes 1 … {count}")
    if request.ignore_class or count == 1:
        return wanted, None, []
    of_class = numbers == wanted
    if not of_class.any():
        raise FormatError(f"{particles.source}: no particle is of class {wanted}; choose another --class")
    if of_class.all():
        return wanted, None, []
    return wanted, of_class, [f"{of_class.sum()} of {len(numbers)} particles are of class {wanted}"]


def _maps(
    optimiser: Optimiser, models: Sequence[Model], number: int, particles: Particles
) -> tuple[dict[int, Path], list[str]]:
    """The maps by half set, and what is to be said about their independence."""
    for model in models:
        if len(model.maps) < number:
            raise FormatError(f"{model.path}: has {len(model.maps)} classes, class {number} is wanted")
    found = [find_beside(model.maps[number - 1].partition("@")[2] or model.maps[number - 1], optimiser.path)
             for model in models]  # fmt: skip
    if optimiser.split_halves:
        return {1: found[0], 2: found[1]}, []
    if not {1, 2} <= set(np.unique(particles.half_set).tolist()):
        return {0: found[0]}, []
    halves = unfiltered_halves(optimiser.path)
    if halves is not None and len(models[0].maps) == 1:
        note = (
            f"{optimiser.path}: has converged, its map is of all particles; {halves[0].name} and "
            f"{halves[1].name} beside it are used for the half sets"
        )
        return {0: found[0], 1: halves[0], 2: halves[1]}, [note]
    return {0: found[0]}, [
        f"warning: {optimiser.path}: its map is of all particles, so half sets do not stay independent; give "
        "--half1 and --half2, or an optimiser of an iteration (run_itNNN_optimiser.star)"
    ]


def _symmetry(optimiser: Optimiser) -> tuple[str | None, list[str]]:
    if optimiser.sampling is None:
        return None, [f"{optimiser.path}: names no sampling file, the symmetry is not known"]
    try:
        return read_symmetry(find_beside(optimiser.sampling, optimiser.path)), []
    except FileMissingError:
        return None, [f"{optimiser.path}: {optimiser.sampling} does not exist, the symmetry is not known"]


def _corrections(
    optimiser: Optimiser, models: Sequence[Model], particles: Particles
) -> tuple[FloatArray | None, FloatArray | None, list[str]]:
    """(n,) group scales and (n,) factors ``mean norm / norm`` of the images, None where RELION has none."""
    owner = np.where(particles.half_set == 2, len(models) - 1, 0)
    groups = image_factor = None
    notes: list[str] = []
    if optimiser.correct_scale:
        groups = np.ones(len(particles))
        for number, model in enumerate(models):
            rows = np.flatnonzero(owner == number)
            if len(model.group_scale) and len(rows):
                groups[rows] = _scales(model, particles.take(rows))
            elif len(rows):
                notes.append(f"{model.path}: has no group scale corrections, 1 is taken")
    if optimiser.correct_norm:
        average = np.array([model.norm_average for model in models])[owner]
        norm = _numbers(particles, "rlnNormCorrection")
        if norm is None:
            notes.append(f"{particles.source}: has no _rlnNormCorrection, images are taken as they are")
        elif not (np.isfinite(norm) & (norm > 0)).all():
            row = int(np.argmin(np.isfinite(norm) & (norm > 0)))
            raise FormatError(
                f"{particles.source}: row {particles.source_row[row] + 1}: _rlnNormCorrection: expected a "
                f"number > 0, got {norm[row]:g}"
            )
        else:
            image_factor = average / norm
    return groups, image_factor, notes


def _scales(model: Model, particles: Particles) -> FloatArray:
    """(n,) group scale of each particle."""
    numbers = _numbers(particles, "rlnGroupNumber")
    if numbers is not None and not (np.abs(numbers) < 2.0**53).all():
        raise FormatError(f"{particles.source}: _rlnGroupNumber: expected whole numbers, got one that is not")
    names = particles.columns.get("rlnGroupName")
    return group_scales(
        model,
        None if numbers is None else numbers.astype(np.int64),
        None if names is None else [str(name) for name in names.tolist()],
    )


def _numbers(particles: Particles, label: str) -> FloatArray | None:
    """A column of numbers, None if it is absent; raises FormatError if it is not of numbers."""
    column = particles.columns.get(label)
    if column is None:
        return None
    if column.dtype == object:
        raise FormatError(f"{particles.source}: _{label}: expected numbers, got '{column[0]}'")
    return column.astype(np.float64)


def _flag_notes(optimiser: Optimiser) -> list[str]:
    notes = []
    if not optimiser.correct_ctf:
        notes.append(f"{optimiser.path}: was refined without CTF correction, so no CTF is applied")
    if optimiser.first_peak:
        notes.append(
            f"warning: {optimiser.path}: ignored CTFs until their first peak; the full CTF is applied here"
        )
    return notes
