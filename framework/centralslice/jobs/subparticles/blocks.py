"""Plain data of sub-particle blocks: parents, their copies, the model of a group, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer
from centralslice.fourier.slice_reading import SliceReader
from centralslice.jobs.subparticles.gain import GroupGain
from centralslice.jobs.subparticles.optics import GroupTables
from centralslice.jobs.subparticles.window import Fill, Mask2D


@dataclass(frozen=True, slots=True)
class ParentBlock:
    """Some parents of one optics group, half set and gain group.

    Attributes
    ----------
    rows
        (b,) int64, their numbers in the run.
    images
        (b, n, n) float32 as they are in the file.
    rotations, shifts_px
        (b, 3, 3) and (b, 2), their poses in pixels.
    ctf
        CTF parameters, or None.
    image_factor, model_factor
        (b,) factors of the images (norm correction) and of the model (scale correction), or None for 1.
    """

    rows: IntArray
    images: FloatArray
    rotations: FloatArray
    shifts_px: FloatArray
    ctf: ContrastTransfer | None = None
    image_factor: FloatArray | None = None
    model_factor: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Copies:
    """The sub-particles of a block, parent major.

    Attributes
    ----------
    parent
        (k,) int64 index into the block, ascending.
    reading
        (k, 3, 3) pose that the map without the kept part is read at: A S, or A if the mask was turned.
    shifts_px
        (k, 2) its shift: the parent's, for helical copies also what the operator moves.
    moves_px
        (k, 2) int64 by which the image is moved.
    residual_px
        (k, 2) where the centre is after that.
    seeds
        (k,) int64 number of the sub-particle in the run, for noise.
    mask_reading
        (k, 3, 3) pose A S that a projected mask is read at; None: ``reading``, where the mask was not turned.
    """

    parent: IntArray
    reading: FloatArray
    shifts_px: FloatArray
    moves_px: IntArray
    residual_px: FloatArray
    seeds: IntArray
    mask_reading: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class ModelMaps:
    """Transforms of the map: without the kept part, and all of it (kept part + subtracted part), or None.

    ``full`` is needed for the scale modes ``group``, ``particle`` and ``eman``, and for correlations.
    """

    excluded: SliceReader
    full: SliceReader | None = None


@dataclass(frozen=True, slots=True)
class GroupModel:
    """What the images of a block are modelled with: tables of the optics group, maps of the half, gain of the group."""

    tables: GroupTables
    maps: ModelMaps
    gain: GroupGain


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """How sub-particles are written.

    Attributes
    ----------
    box
        Pixels.
    fill
        What stands outside the parent.
    subpixel
        Move by the residual too, exactly, by a phase; the residual left is 0.
    keep_dc
        Leave the mean alone.
    subtract
        False: recentre and crop only.
    seed
        Of noise that is filled in.
    mask
        Soft mask in the image, or None.
    """

    box: int
    fill: Fill = "mean"
    subpixel: bool = False
    keep_dc: bool = False
    subtract: bool = True
    seed: int = 0
    mask: Mask2D | None = None


@dataclass(frozen=True, slots=True)
class SubparticleBlock:
    """Result of a block.

    Attributes
    ----------
    images
        (k, box, box) float32.
    scale, clipped
        (b,) b_p of the parents, and whether it was clipped.
    residual_cc
        (k,) correlation of the residual with the projection of the kept part, over 1 <= R < Rc; NaN without the
        full map.
    """

    images: FloatArray
    scale: FloatArray
    clipped: BoolArray
    residual_cc: FloatArray
