"""``centralslice make3d``: oriented particle images in, 3D map out."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.options import Subparsers
from centralslice.cli.running import (
    Job,
    add_ppid,
    add_running,
    add_sums,
    checkpoint_seconds,
    run_job,
    thread_count,
)
from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from centralslice.jobs.make3d.plan import Make3dPlan
    from centralslice.jobs.make3d.result import Make3dResult
    from centralslice.jobs.make3d.settings import ConventionChoice, Make3dSettings, SeedSettings
    from centralslice.jobs.run_tools import Launch
    from centralslice.jobs.selection import SelectionRules
    from centralslice.plugin.registry import Registry
    from centralslice.runtime.hosts import Host

SUMMARY = "oriented particle images in, 3D map out"

EXAMPLES = """examples:
  centralslice make3d --input particles.star --output map.mrc --sym d2
  centralslice make3d --input particles.star --output map.mrc --dry-run
  centralslice make3d --input particles.hdf --output map.hdf --mode gauss_var --pad 320
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "make3d", help=SUMMARY, description="Reconstruct a 3D map from oriented 2D images by Fourier slice insertion.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_files(parser)
    _add_selection(parser)
    _add_method(parser)
    _add_seed(parser)
    _add_finish(parser)
    _add_running(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input and output")
    add = group.add_argument
    add("--input", type=Path, required=True, metavar="FILE",
        help="particles: .star, .cs, .lst, EMAN2 .hdf, or an image stack with --tlt")  # fmt: skip
    add(
        "--output",
        type=Path,
        default=Path("threed.hdf"),
        metavar="FILE",
        help="map: .mrc or .hdf [threed.hdf]",
    )
    add("--image-dir", type=Path, metavar="DIR", help="folder in which to look for the image files")
    add("--tlt", type=Path, metavar="FILE", help="tilt angles, one a line, for an image stack (tilt axis y)")
    add("--apix", type=float, metavar="Å", help="pixel size of the images; overrides the metadata")
    add("--shift-convention", choices=("projection", "recentre", "auto"),
        help="what header shifts of EMAN2 HDF files mean: the pose's shift, or the shift that re-centres "
        "the image; auto tries both on up to 300 images and says which "
        "[auto; recentre with --compat eman2]")  # fmt: skip
    add("--force", action="store_true", help="replace existing outputs")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which particles, with which weight")
    add = group.add_argument
    add("--input-model", type=int, metavar="N", help="only particles of this model or class number")
    add("--keep", type=float, default=1.0, metavar="X",
        help="fraction of particles to keep by quality, best (smallest) first; 0 keeps none [1]")  # fmt: skip
    add("--keepsig", action="store_true", help="--keep counts standard deviations above the mean quality")
    add("--keepabs", action="store_true", help="--keep is the largest quality value to keep")
    add("--no-wt", action="store_true", help="weight 1 for every image")
    add("--sqrt-wt", action="store_true", help="square root of each image's weight (ptcl_repr)")
    add("--usessnr", action="store_true", help="weigh by each image's SSNR curve (class_ssnr) instead")
    add("--subset", type=int, choices=(1, 2), help="only this half set")
    add("--split", metavar="HOW", help="make half sets where there are none: random:SEED or parity")
    add("--half-maps", choices=("auto", "no"), default="auto",
        help="write half maps and their FSC whenever there are half sets [auto]")  # fmt: skip


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reconstruction")
    add = group.add_argument
    add("--mode", metavar="NAME[:PARAMS]", help="reconstructor, see: centralslice plugins list reconstructor")
    add(
        "--sym",
        default="c1",
        help="symmetry: cN, dN, tet, oct, icos, icos2, T, O, I1..I4, hN:1:TWIST:RISE [c1]",
    )
    add("--ctf", choices=("auto", "full", "flipped", "premultiplied", "none"), default="auto",
        help="full: multiply by the CTF and weigh by CTF²; flipped: phases were flipped; premultiplied: only weigh; "
        "auto says what it takes and why [auto]")  # fmt: skip
    add(
        "--snr",
        type=float,
        metavar="X",
        help="Wiener constant: divide by ΣCTF² + 1/X, ΣCTF² per unpadded voxel",
    )
    add("--maxres", type=float, metavar="Å", help="leave out frequencies beyond this resolution")
    add("--pad", metavar="N", help="pad images to N pixels; negative: a good size from 1.25 times; 0: none")
    add("--padvol", metavar="N", help="size of the Fourier volume, at least; 0: no wish [0]")
    add(
        "--fillangle",
        type=float,
        default=0.0,
        metavar="DEG",
        help="also insert in directions within this angle",
    )
    add("--altedgemask", action="store_true", help="zero the image edges that a tilt brings in")
    add("--iterative", action="store_true", help="four passes against the previous map (mode 'iterative')")
    add("--itermask", type=Path, metavar="FILE", help="mask of the map between passes, with --iterative")
    add("--noradcor", action="store_true", help="no correction for the kernel's transform (EMAN2's modes)")
    add("--preprocess", action="append", default=[], metavar="PROCESSOR", help="on each image, repeatable")
    add("--precision", choices=("float32", "float64"), default="float32", help="of slices and sums [float32]")
    add("--compat", choices=("eman2",), help="EMAN2's numbers, for comparison and migration")


def _add_seed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("seed")
    add = group.add_argument
    add("--seedmap", type=Path, metavar="FILE", help="map added to the data as if it had been measured")
    add("--seedweight", type=float, metavar="X", help="its weight, ΣCTF² per unpadded voxel [1]")
    add("--seedweightmap", type=Path, metavar="FILE",
        help="its weight per voxel, as --savenorm writes it; times --seedweight if given")  # fmt: skip
    add("--useseedasref", action="store_true",
        help="weigh the rings of each image by their agreement with the seed instead of adding the seed")  # fmt: skip


def _add_finish(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the map")
    add = group.add_argument
    add("--outsize", metavar="N[,N,N]",
        help="size of the map, x,y,z; 0: as the images; beyond their box it is filled with 0 [0]")  # fmt: skip
    add("--setsf", metavar="FILE", help="set the structure factor: a file, auto (strucfac.txt) or none")
    add(
        "--postprocess",
        action="append",
        default=[],
        metavar="PROCESSOR",
        help="on the merged map, repeatable",
    )
    add("--savenorm", type=Path, metavar="FILE", help="write the weights (ΣCTF² per unpadded voxel)")
    add("--compressbits", type=int, metavar="N",
        help="HDF: bits per voxel, 0 lossless, negative plain float [10]; MRC is always float")  # fmt: skip
    add("--report", action="store_true", help="write an HTML page with pictures of the map, FSC and facts")
    add("--float16", action="store_true", help="MRC: half precision (mode 12)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = add_running(parser)
    add_sums(group)
    add_ppid(group)


def run(arguments: argparse.Namespace) -> int:
    """Plan, and unless it is a dry run, compute; on every rank of the world this process belongs to."""
    return run_job(arguments, Job(lambda registry, hosts: _plan(arguments, registry, hosts), _compute))


def _compute(plan: Make3dPlan, registry: Registry, launch: Launch) -> list[str] | None:
    from centralslice.jobs.make3d.job import run_make3d

    result = run_make3d(plan, registry, launch)
    return None if result is None else report_lines(plan.outputs.merged, result)


def _plan(arguments: argparse.Namespace, registry: Registry, hosts: Sequence[Host]) -> Make3dPlan:
    """The plan, made by the master alone."""
    from centralslice.jobs.layout import layout_notes
    from centralslice.jobs.make3d.plan import plan_make3d, read_particles
    from centralslice.jobs.make3d.shift_convention import resolve_shift_convention

    settings = settings_from(arguments)
    convention, note = resolve_shift_convention(settings, registry)
    settings = replace(settings, shift_convention=convention)
    plan = plan_make3d(settings, registry, read_particles(settings, registry, convention))
    notes = [note] if note else []
    return replace(plan, notes=(*plan.notes, *notes, *layout_notes(plan, hosts)))


def report_lines(output: Path, result: Make3dResult) -> list[str]:
    """What is printed of maps that were written."""
    blank = result.blank_rows
    lines = []
    if len(blank):
        shown = ", ".join(str(row + 1) for row in blank[:10]) + (
            ", … (all: see the manifest)" if len(blank) > 10 else ""
        )
        lines.append(f"skipped    {len(blank)} images of zero variance: particles {shown}")
    if result.resumed_particles:
        lines.append(f"resumed    {result.resumed_particles:,} particles taken over from the checkpoint")
    for name, curve in result.fsc.items():
        first, second = curve.resolution(0.143), curve.resolution(0.5)
        lines.append(f"resolution {first:.2f} Å (half-map FSC 0.143, {name}), {second:.2f} Å (0.5)")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.timings_s.items())
    return [*lines, f"time       {times}", f"sha256     {result.sha256}", f"map        {output}"]


def settings_from(arguments: argparse.Namespace) -> Make3dSettings:
    """The settings of parsed options.

    Raises
    ------
    ParameterError
        For options that exclude each other or are out of range.
    """
    from centralslice.cli.checkpoint import folder_of
    from centralslice.jobs.make3d.settings import Make3dSettings

    given = arguments
    _check(given)
    mode = given.mode
    if given.iterative:
        mode = mode if mode is not None and mode.split(":")[0] == "iterative" else "iterative"
    convention: ConventionChoice = given.shift_convention or ("recentre" if given.compat else "auto")
    return Make3dSettings(
        input=given.input, output=given.output, mode=mode, sym=given.sym, image_dir=given.image_dir, tlt=given.tlt,
        apix=given.apix, shift_convention=convention, selection=_selection(given), use_ssnr=given.usessnr,
        fill_angle=given.fillangle, tilted_edge_mask=given.altedgemask, pad=given.pad, padvol=given.padvol,
        outsize=given.outsize, ctf=given.ctf, snr=given.snr, maxres=given.maxres, half_maps=given.half_maps,
        seed=_seed(given), iteration_mask=given.itermask, preprocess=tuple(given.preprocess), setsf=given.setsf,
        postprocess=tuple(given.postprocess), radial_correction=not given.noradcor, save_norm=given.savenorm,
        compress_bits=given.compressbits, report=given.report, float16=given.float16, precision=given.precision,
        compat_eman2=given.compat is not None, sums=given.sums, resume=given.resume,
        quanta_of=None if given.quanta_of is None else folder_of(given.quanta_of),
        checkpoint_every_s=checkpoint_seconds(given.checkpoint_every),
        keep_checkpoints=given.keep_checkpoints, master_works=given.master_works, log_json=given.log_json,
        threads=thread_count(given.threads, given.parallel), force=given.force, quiet=given.verbose < 1,
    )  # fmt: skip


def _check(given: argparse.Namespace) -> None:
    for name in ("apix", "snr", "maxres", "seedweight"):
        value = getattr(given, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"--{name}: expected a number above 0, got {value:g}")
    if given.quanta_of is not None and given.sums == "fast":
        raise ParameterError("--quanta-of: only exact sums have quanta; leave out --sums fast")
    if given.keepsig and given.keepabs:
        raise ParameterError("--keepsig and --keepabs exclude each other; give one")
    if given.no_wt and given.sqrt_wt:
        raise ParameterError("--no-wt and --sqrt-wt exclude each other; give one")
    if not 0 <= given.fillangle <= 90:
        raise ParameterError(f"--fillangle: expected 0 to 90 degrees, got {given.fillangle:g}")
    if given.seedmap is None and (
        given.seedweightmap is not None or given.seedweight is not None or given.useseedasref
    ):
        raise ParameterError("--seedweight, --seedweightmap and --useseedasref need --seedmap")
    if given.useseedasref and given.seedweight is not None:
        raise ParameterError("--seedweight: not with --useseedasref, which adds no seed")
    if given.iterative and given.mode is not None and given.mode.split(":")[0] != "iterative":
        raise ParameterError(f"--iterative: is a mode of its own and excludes --mode {given.mode}")
    if given.itermask is not None and not given.iterative and (given.mode or "").split(":")[0] != "iterative":
        raise ParameterError("--itermask needs --iterative")
    check_compress_bits(given.compressbits)


def check_compress_bits(bits: int | None) -> None:
    """Refuse more bits than EMAN2 stores."""
    if bits is not None and bits > 16:
        raise ParameterError(f"--compressbits: expected at most 16, got {bits}")


def _selection(given: argparse.Namespace) -> SelectionRules:
    from centralslice.jobs.selection import SelectionRules

    return SelectionRules(
        keep=given.keep,
        keep_sigma=given.keepsig,
        keep_absolute=given.keepabs,
        model=given.input_model,
        subset=given.subset,
        split=given.split,
        weighting="none" if given.no_wt else "square_root" if given.sqrt_wt else "weight",
        peer_rounding=given.compat is not None,
    )


def _seed(given: argparse.Namespace) -> SeedSettings | None:
    from centralslice.jobs.make3d.settings import SeedSettings

    if given.seedmap is None:
        return None
    weight = 1.0 if given.seedweight is None else given.seedweight
    return SeedSettings(given.seedmap, weight, given.seedweightmap, given.useseedasref)
