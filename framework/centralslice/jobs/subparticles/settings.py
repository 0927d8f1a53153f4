"""The options of a subparticles run, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from centralslice.jobs.subparticles.source import SourceRequest
from centralslice.jobs.subparticles.symmetry import SAME_REGION

ScaleMode: TypeAlias = Literal["group", "particle", "none", "eman"]
Fill: TypeAlias = Literal["mean", "zero", "noise", "wrap"]
Edge: TypeAlias = Literal["flag", "drop", "keep"]
Invariant: TypeAlias = Literal["none", "bispec", "harmonic", "auto"]
Centring: TypeAlias = Literal["auto", "density", "mask", "none"] | tuple[float, float, float]
#: +1, −1 or 0 (no change), or found from the images.
Hand: TypeAlias = Literal["1", "-1", "0", "auto"]

#: ``--output`` was not given: the refinement's own name is taken.
NO_OUTPUT = Path()
#: Parents whose gain curves are looked at, for each optics group and half set.
PASS_ONE_PARENTS = 2000


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """Which part of the map is kept and which is subtracted.

    Attributes
    ----------
    keep
        Soft mask of the part that is kept (``--subunitmask``), or None.
    subtract
        Soft mask of the part that is subtracted, in its place (``--subtractmask``), or None.
    whole
        Whether the mask of the whole particle bounds what is subtracted (not with ``--maskall none``).
    outer
        Mask for ``--masked`` in place of the kept part (``--outermask``), or None.
    masked
        Multiply the sub-particles by the projected mask: not, softly, or as 0 and 1.
    dilate_px
        ``--maskdilate``: widening of the projected mask, pixels; None: room for what the CTF spreads.
    """

    keep: Path | None = None
    subtract: Path | None = None
    whole: bool = True
    outer: Path | None = None
    masked: Literal["no", "soft", "hard"] = "no"
    dilate_px: float | None = None


@dataclass(frozen=True, slots=True)
class CopySettings:
    """Which copies of the kept part are taken, and how they are posed.

    Attributes
    ----------
    sym
        Symmetry, or None for what the refinement says.
    sym_mode
        ``map``: the map has the symmetry, so that one masked map does for all copies; ``mask-only``: only the
        mask is turned; ``auto``: looks at the map.
    cosets
        Take one operator of those that map the kept part onto itself: whose masks overlap by more than this
        fraction. None: take all.
    relax_sym
        One copy at random of each parent.
    randomize
        Copies of each parent in random order.
    align_z
        Turn the sub-particles' frame so that their centre lies on +z of the parent's.
    vectors
        (x, y, z) in Å of several centres, or none.
    helix
        ``(twist_deg, rise_angst, asu)`` or None.
    seed
        Of what is random.
    """

    sym: str | None = None
    sym_mode: Literal["auto", "map", "mask-only"] = "auto"
    cosets: float | None = SAME_REGION
    relax_sym: bool = False
    randomize: bool = False
    align_z: bool = False
    vectors: tuple[tuple[float, float, float], ...] = ()
    helix: tuple[float, float, int] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """Which sub-particles are left out by their geometry; None: no such limit.

    Attributes
    ----------
    unique_deg
        Of those of a parent whose centres lie in directions within this angle, the first.
    min_distance_angst
        Those with another of the parent nearer than this in projection.
    side_deg, top_deg
        Only those whose centre lies within this angle of the image plane, of the line of sight.
    """

    unique_deg: float | None = None
    min_distance_angst: float | None = None
    side_deg: float | None = None
    top_deg: float | None = None


@dataclass(frozen=True, slots=True)
class SubtractionSettings:
    """How the unwanted part is taken away.

    Attributes
    ----------
    enabled
        False: recentre and crop only (``--no-subtract``).
    ctf
        As in make3d; ``phase_flipped`` overrides what the source says.
    scale_mode
        ``group``, ``particle``, ``none`` or ``eman``.
    keep_dc
        Leave the zero frequency alone.
    pad
        Padding of the map before its transform.
    depth_slabs
        Slabs along the view with a defocus of their own.
    local_refine_deg
        Half angle within which each pose is refined first; 0: not.
    """

    enabled: bool = True
    ctf: Literal["auto", "full", "flipped", "premultiplied", "none"] = "auto"
    phase_flipped: bool | None = None
    scale_mode: ScaleMode = "group"
    keep_dc: bool = False
    pad: float | None = None
    depth_slabs: int = 1
    local_refine_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class CropSettings:
    """Where sub-particles are cut out and what is noted of them.

    Attributes
    ----------
    centre
        Their centre in the map: of density in the kept mask, of the mask, x y z from the centre voxel (in voxels,
        or in Å with ``centre_in_angst``), or no recentring. ``auto``: of the mask where half sets have maps of
        their own, for a centre of density would carry one half map's noise into the other's sub-particles; else
        of density.
    new_box
        Pixels; −1: as the parent; None: from the kept part (``auto``).
    subpixel
        Shift by the fraction of a pixel too, so that no shift is left.
    fill, edge
        What stands where the parent has no pixels, and what becomes of sub-particles mostly there.
    adjust_defocus, hand
        Whether their depth changes their defocus, and with which sign.
    """

    centre: Centring = "auto"
    centre_in_angst: bool = False
    new_box: int | None = -1
    subpixel: bool = False
    fill: Fill = "mean"
    edge: Edge = "flag"
    adjust_defocus: bool = True
    hand: Hand = "1"


@dataclass(frozen=True, slots=True)
class SubparticleSettings:
    """Everything the user chose; see ``centralslice subparticles --help``."""

    source: SourceRequest
    output: Path = NO_OUTPUT
    masks: MaskSettings = field(default_factory=MaskSettings)
    copies: CopySettings = field(default_factory=CopySettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    subtraction: SubtractionSettings = field(default_factory=SubtractionSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    only_used: bool = False
    expand_only: bool = False
    ssnr: bool = False
    invariant: Invariant | None = None
    float16: bool = False
    stack_format: Literal["mrcs", "hdf"] | None = None
    compat_eman2: bool = False
    debug_strips: int = 0
    threads: int = 1
    master_works: bool = True
    checkpoint_every_s: float = 0.0
    keep_checkpoints: bool = False
    resume: Literal["no", "yes", "auto"] = "no"
    log_json: bool = False
    force: bool = False
    quiet: bool = False
