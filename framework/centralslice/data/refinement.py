"""A finished refinement as sub-particle extraction needs it: particles with poses, maps, mask, half sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from centralslice.conventions import BoolArray, FloatArray
from centralslice.data.particles import Particles

Dialect = Literal["refine", "r3d", "relion", "plain"]
References = Literal["halves", "combined"]
Alignments = Literal["refined", "classmx"]


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Where a refinement is and which part of it is wanted; what is None is looked for or taken as it comes.

    Exactly one of ``folder``, ``optimiser`` and ``particles`` is given.

    Attributes
    ----------
    folder
        EMAN2's ``refine_XX`` or ``r3d_XX``.
    iteration
        Iteration of the folder; None: the latest that is complete.
    optimiser
        RELION's ``*_optimiser.star``.
    particles
        Particle metadata that any reader takes; goes with ``map`` or ``half1`` and ``half2``.
    map, half1, half2
        Reference maps; for a refinement they stand in place of its own.
    mask_all
        Mask of the whole particle (``--maskall``), in place of the refinement's own.
    data
        Particle metadata in place of those the optimiser names (``--data``).
    image_dir
        Folder in which image files are looked for.
    reference
        ``halves``: each half set has its own map where there are two; ``combined``: one map for all.
    class_number
        RELION: the 1-based class whose map and particles are taken; None: the only one.
    ignore_class
        RELION: particles of all classes are taken (``--ignore-class``).
    alignments
        EMAN2's refine folders: ``refined`` takes cls_result files and Euler refinement where they exist,
        ``classmx`` the initial alignments to the projections, as the peer does.
    """

    folder: Path | None = None
    iteration: int | None = None
    optimiser: Path | None = None
    particles: Path | None = None
    map: Path | None = None
    half1: Path | None = None
    half2: Path | None = None
    mask_all: Path | None = None
    data: Path | None = None
    image_dir: Path | None = None
    reference: References = "halves"
    class_number: int | None = None
    ignore_class: bool = False
    alignments: Alignments = "refined"


@dataclass(frozen=True, slots=True)
class SubparticleSource:
    """A refinement, whichever program it came from.

    Attributes
    ----------
    particles
        Particles with pixel sizes known, half sets 1, 2 or 0, and poses (R, t) of
        :mod:`centralslice.conventions`. Of refine folders, ``columns`` also hold the alignment to a class
        average: ``class_number``, ``class_alpha_deg``, ``class_tx``, ``class_ty`` (pixels), ``class_mirror``,
        ``class_rotation`` (n, 3, 3).
    maps
        Half set to map: {0: combined} or {1: …, 2: …}; 0 beside 1 and 2 where it is known.
    mask_all
        Soft mask of the whole particle, or None.
    symmetry
        As the refinement says it, or None.
    phase_flipped
        Whether the images are phase flipped; None: not known.
    scale
        (n,) float64: what the CTF projection of the map must be multiplied by to match the image as it is
        in the file (RELION: group scale × norm / mean norm), or None.
    used
        (n,) False where the refinement left a particle out of its map, or None.
    stem
        Default name of outputs, as the peer forms it, without suffix.
    dialect
        Where it came from.
    notes
        What the user should know.
    image_factor
        (n,) float64: what RELION multiplies the image itself by (mean norm / norm), or None. The factor of
        the projection for an image that has been multiplied is ``scale * image_factor``.
    angular_step_deg
        Step of the out-of-plane angles where those are not refined one by one, or None.
    symmetry_broken
        The particles' poses have the symmetry, the maps need not.
    """

    particles: Particles
    maps: Mapping[int, Path]
    mask_all: Path | None
    symmetry: str | None
    phase_flipped: bool | None
    scale: FloatArray | None
    used: BoolArray | None
    stem: str
    dialect: Dialect
    notes: tuple[str, ...]
    image_factor: FloatArray | None = None
    angular_step_deg: float | None = None
    symmetry_broken: bool = False
