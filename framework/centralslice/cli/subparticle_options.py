"""The settings of ``centralslice subparticles`` from its parsed options, and what they must not be."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.running import checkpoint_seconds, thread_count
from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from centralslice.jobs.subparticles.settings import (
        Centring,
        CopySettings,
        CropSettings,
        FilterSettings,
        MaskSettings,
        SubparticleSettings,
        SubtractionSettings,
    )
    from centralslice.jobs.subparticles.source import SourceRequest


def settings_from(given: argparse.Namespace) -> SubparticleSettings:
    """The settings of parsed options.

    Raises
    ------
    ParameterError
        For options that exclude each other or are out of range.
    """
    from centralslice.jobs.subparticles.settings import NO_OUTPUT, SubparticleSettings

    _check(given)
    return SubparticleSettings(
        source=_source(given), output=NO_OUTPUT if given.output is None else given.output, masks=_masks(given),
        copies=_copies(given), filters=_filters(given), subtraction=_subtraction(given), crop=_crop(given),
        only_used=given.only_used, expand_only=given.expand_only, ssnr=given.ssnr, invariant=given.invartype,
        float16=given.float16, stack_format=given.stack_format, compat_eman2=given.compat is not None,
        debug_strips=given.debug_strips, threads=thread_count(given.threads, given.parallel),
        master_works=given.master_works,
        checkpoint_every_s=checkpoint_seconds(given.checkpoint_every), resume=given.resume, log_json=given.log_json,
        force=given.force, quiet=given.verbose < 1,
    )  # fmt: skip


def _source(given: argparse.Namespace) -> SourceRequest:
    from centralslice.jobs.subparticles.source import SourceRequest

    compat = given.compat is not None
    whole = None if given.maskall is None or given.maskall.lower() == "none" else Path(given.maskall)
    return SourceRequest(
        folder=given.folder, iteration=given.iteration, optimiser=given.optimiser, particles=given.particles,
        map=given.map, half1=given.half1, half2=given.half2, mask_all=whole, data=given.data,
        image_dir=given.image_dir, reference="combined" if compat else given.ref, class_number=given.class_number,
        ignore_class=given.ignore_class, alignments="classmx" if compat else "refined",
    )  # fmt: skip


def _masks(given: argparse.Namespace) -> MaskSettings:
    from centralslice.jobs.subparticles.settings import MaskSettings

    whole = given.maskall is None or given.maskall.lower() != "none"
    return MaskSettings(
        given.subunitmask, given.subtractmask, whole, given.outermask, given.masked, given.maskdilate
    )


def _copies(given: argparse.Namespace) -> CopySettings:
    from centralslice.jobs.subparticles.settings import CopySettings

    helix = (given.twist, given.rise, given.asu) if given.helix else None
    compat = given.compat is not None
    return CopySettings(
        given.sym, "map" if compat else given.sym_mode, None if compat else _cosets(given.cosets), given.relax_sym,
        given.randomize, given.align_z, _vectors(given), helix, given.seed,
    )  # fmt: skip


def _cosets(text: str) -> float | None:
    """The overlap above which masks are one region."""
    from centralslice.jobs.subparticles.symmetry import SAME_REGION

    if text in ("auto", "off"):
        return SAME_REGION if text == "auto" else None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value < 1:
        raise ParameterError(
            f"--cosets: expected auto, off or an overlap from 0.5 to less than 1, got '{text}'"
        )
    return value


def _filters(given: argparse.Namespace) -> FilterSettings:
    from centralslice.jobs.subparticles.settings import FilterSettings

    return FilterSettings(given.unique, given.mindist, given.side, given.top)


def _subtraction(given: argparse.Namespace) -> SubtractionSettings:
    from centralslice.jobs.subparticles.settings import SubtractionSettings

    flipped = None if given.phase_flipped is None else given.phase_flipped == "yes"
    return SubtractionSettings(
        not given.no_subtract, given.ctf, flipped, given.scale_mode, given.keep_dc, given.pad, given.depth_slabs,
        given.localrefine,
    )  # fmt: skip


def _crop(given: argparse.Namespace) -> CropSettings:
    from centralslice.jobs.subparticles.settings import CropSettings

    centre, in_angst = _centre(given)
    return CropSettings(
        centre=centre, centre_in_angst=in_angst, new_box=_new_box(given.newbox), subpixel=given.subpixel,
        fill=given.fill, edge="keep" if given.keep_all else given.edge, adjust_defocus=given.adjust_defocus,
        hand=given.defocus_hand,
    )  # fmt: skip


def _new_box(text: str) -> int | None:
    if text.lower() == "auto":
        return None
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < -1 or 0 <= size <= 3:
        raise ParameterError(f"--newbox: expected a size from 4, -1 or auto, got '{text}'")
    return size


def _centre(given: argparse.Namespace) -> tuple[Centring, bool]:
    """The centre asked for, and whether it is in Å."""
    text = given.center
    if given.recenter_on_mask:
        if text not in (None, "mask"):
            raise ParameterError(f"--recenter-on-mask and --center {text} exclude each other; give one")
        return "mask", False
    if text is None:
        return "auto", False
    if text in ("auto", "density", "mask", "none"):
        return text, False
    in_angst = text[-1:] in ("A", "Å")
    return numbers("--center", text[:-1] if in_angst else text), in_angst


def numbers(option: str, text: str) -> tuple[float, float, float]:
    """``x,y,z``; raises ParameterError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise ParameterError(f"{option}: expected x,y,z, got '{text}'")
    return (found[0], found[1], found[2])


def _vectors(given: argparse.Namespace) -> tuple[tuple[float, float, float], ...]:
    if given.vectors is None:
        return ()
    if given.vectors.lower().endswith(".cmm"):
        from centralslice.jobs.subparticles.vectors import read_cmm

        found = read_cmm(Path(given.vectors))
    else:
        found = tuple(numbers("--vectors", part) for part in given.vectors.split(";") if part.strip())
    if not found:
        raise ParameterError("--vectors: expected at least one x,y,z")
    if given.length is None:
        return found
    if any(not any(vector) for vector in found):
        raise ParameterError("--length: a vector of length 0 has no direction")
    scaled = []
    for x, y, z in found:
        factor = given.length / math.sqrt(x * x + y * y + z * z)
        scaled.append((x * factor, y * factor, z * factor))
    return tuple(scaled)


def _check(given: argparse.Namespace) -> None:
    """Refuse what cannot be, or would be ignored."""
    for problem, wrong in (*_bad_numbers(given), *_bad_pairs(given), *_bad_modes(given)):
        if wrong:
            raise ParameterError(problem)


def _bad_numbers(given: argparse.Namespace) -> list[tuple[str, bool]]:
    positive = [
        (f"--{name}: expected a number above 0, got {value:g}", not (value > 0 and math.isfinite(value)))
        for name in ("length", "unique", "mindist", "side", "top")
        if (value := getattr(given, name)) is not None
    ]
    return [
        *positive,
        (f"--pad: expected 1.25 to 4, got {given.pad}", given.pad is not None and not 1.25 <= given.pad <= 4),
        (f"--depth-slabs: expected 1 or more, got {given.depth_slabs}", given.depth_slabs < 1),
        (f"--localrefine: expected 0 to 30 degrees, got {given.localrefine:g}", not 0 <= given.localrefine <= 30),
        (f"--debug-strips: expected 0 or more, got {given.debug_strips}", given.debug_strips < 0),
        (f"--seed: expected 0 or more, got {given.seed}", given.seed < 0),
        (f"--maskdilate: expected 0 or more, got {given.maskdilate}", (given.maskdilate or 0) < 0),
        (f"--asu: expected 1 or more, got {given.asu}", given.asu is not None and given.asu < 1),
    ]  # fmt: skip


def _bad_pairs(given: argparse.Namespace) -> list[tuple[str, bool]]:
    helical = (given.twist, given.rise, given.asu)
    no_masked = given.masked == "no"
    return [
        ("--subunitmask and --subtractmask exclude each other; give one",
         given.subunitmask is not None and given.subtractmask is not None),
        ("--outermask: only with --masked", given.outermask is not None and no_masked),
        ("--maskdilate: only with --masked", given.maskdilate is not None and no_masked),
        ("--length: only with --vectors", given.length is not None and given.vectors is None),
        ("--vectors and --center exclude each other; give one",
         given.vectors is not None and (given.center is not None or given.recenter_on_mask)),
        ("--helix: needs --twist, --rise and --asu", given.helix and None in helical),
        ("--twist, --rise and --asu: only with --helix", not given.helix and any(v is not None for v in helical)),
        ("--helix and --sym exclude each other", given.helix and given.sym is not None),
        ("--phase-flipped: only with --ctf auto", given.phase_flipped is not None and given.ctf != "auto"),
        ("--keep-all and --edge exclude each other; give one", given.keep_all and given.edge != "flag"),
        ("--defocus-hand: not with --no-adjust-defocus", not given.adjust_defocus and given.defocus_hand != "1"),
        ("--float16: not in .hdf stacks", given.float16 and given.stack_format == "hdf"),
        ("--relax-sym and --randomize exclude each other; one copy has no order", given.relax_sym and given.randomize),
    ]  # fmt: skip


#: Option and what it is unless given.
_USUAL = (
    ("scale_mode", "group"), ("fill", "mean"), ("edge", "flag"), ("depth_slabs", 1), ("localrefine", 0.0),
    ("debug_strips", 0), ("newbox", "-1"), ("masked", "no"), ("defocus_hand", "1"), ("cosets", "auto"),
    ("sym_mode", "auto"),
)  # fmt: skip
#: Options of extraction, of subtraction, and of sub-particles, which some modes do not have.
_EXTRACTION = (
    "subunitmask", "subtractmask", "outermask", "maskall", "vectors", "center", "invartype", "stack_format",
    "recenter_on_mask", "subpixel", "float16", "no_subtract", "keep_dc", "pad", "align_z", "mindist", "keep_all",
    "scale_mode", "fill", "edge", "depth_slabs", "localrefine", "debug_strips", "newbox", "masked", "defocus_hand",
    "cosets", "sym_mode",
)  # fmt: skip
_COPIES = ("sym", "relax_sym", "randomize", "helix", "unique", "side", "top")
_SUBTRACTION = ("scale_mode", "keep_dc", "depth_slabs", "subtractmask", "maskall", "sym_mode")
_NOT_THE_PEERS = (
    *_COPIES[1:], "vectors", "center", "pad", "subtractmask", "mindist", "align_z", "subpixel", "keep_dc",
    "no_subtract", "recenter_on_mask", "scale_mode", "fill", "depth_slabs", "localrefine", "debug_strips",
    "defocus_hand", "phase_flipped", "maskdilate",
)  # fmt: skip


def _given(given: argparse.Namespace, names: tuple[str, ...]) -> str:
    """The first of these options that was given, as it is typed, or nothing."""
    usual = dict(_USUAL)
    for name in names:
        value = getattr(given, name)
        if value != usual[name] if name in usual else value not in (None, False):
            return f"--{name.replace('_', '-')}"
    return ""


def _bad_modes(given: argparse.Namespace) -> list[tuple[str, bool]]:
    """Options that a mode would leave unused."""
    expanded = _given(given, _EXTRACTION) if given.expand_only else ""
    counted = _given(given, (*_EXTRACTION, *_COPIES)) if given.ssnr else ""
    moved = _given(given, _SUBTRACTION) if given.no_subtract else ""
    compat = _given(given, _NOT_THE_PEERS) if given.compat is not None else ""
    masks = (given.subunitmask, given.subtractmask, given.outermask)
    return [
        ("--expand-only and --ssnr exclude each other", given.expand_only and given.ssnr),
        (f"{expanded}: not with --expand-only, which makes no images", bool(expanded)),
        (f"{counted}: not with --ssnr, which makes no sub-particles", bool(counted)),
        (f"{moved}: not with --no-subtract", bool(moved)),
        (f"{compat}: not with --compat eman2, which cannot do it", bool(compat)),
        ("--compat eman2: only for a refine_XX folder", given.compat is not None and given.folder is None),
        ("--align-z: with --center none there is no direction", given.align_z and given.center == "none"),
        ("--masked: needs --subunitmask, --subtractmask or --outermask", given.masked != "no" and masks == (None,) * 3),
    ]  # fmt: skip
