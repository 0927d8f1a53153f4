"""``centralslice subparticles``: subtract what is not wanted, keep each symmetry copy as a particle of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.options import Subparsers, open_registry
from centralslice.cli.running import Job, add_ppid, add_running, run_job
from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from centralslice.jobs.run_tools import Launch
    from centralslice.jobs.subparticles.plan import SubparticlePlan
    from centralslice.plugin.registry import Registry
    from centralslice.runtime.hosts import Host

SUMMARY = "subtract parts of particles, keep each symmetry copy as a particle of its own"

EXAMPLES = """examples:
  centralslice subparticles refine_01 5 --subunitmask mask_subunit.hdf --sym d7
  centralslice subparticles r3d_02 --subunitmask mask_subunit.hdf --newbox auto
  centralslice subparticles --optimiser run_it025_optimiser.star --subunitmask keep.mrc --output sub.mrcs
  centralslice subparticles --particles data.star --half1 h1.mrc --half2 h2.mrc --subunitmask keep.mrc --sym C7
  centralslice subparticles --revert sub.star --output back.star
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "subparticles", help=SUMMARY, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Subtract the projection of a part of the map from every particle, and write every symmetry copy "
        "of the rest as a centred particle of its own, with metadata for make3d, RELION and EMAN2.",
    )  # fmt: skip
    _add_input(parser)
    _add_output(parser)
    _add_masks(parser)
    _add_copies(parser)
    _add_subtraction(parser)
    _add_crop(parser)
    _add_filters(parser)
    _add_modes(parser)
    add_ppid(add_running(parser))


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input: a folder, --optimiser, or --particles")
    add = group.add_argument
    add("folder", type=Path, nargs="?", metavar="FOLDER", help="EMAN2's refine_XX or r3d_XX")
    add("iteration", type=int, nargs="?", metavar="ITERATION", help="[the latest that is complete]")
    add("--optimiser", "--i", type=Path, metavar="FILE", help="RELION's run_itNNN_optimiser.star")
    add("--particles", type=Path, metavar="FILE", help="oriented particles: .star, .cs, .lst or .hdf")
    add("--map", type=Path, metavar="FILE", help="reference map of all particles")
    add("--half1", type=Path, metavar="FILE", help="reference map of half set 1 (EMAN2's even)")
    add("--half2", type=Path, metavar="FILE", help="reference map of half set 2 (EMAN2's odd)")
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="particles in place of the optimiser's, a subset for example",
    )
    add("--class-number", type=int, metavar="N", help="RELION: class whose map and particles are taken")
    add("--ignore-class", action="store_true", help="RELION: take particles of all classes")
    add("--image-dir", type=Path, metavar="DIR", help="folder in which to look for the image files")
    add("--only-used", action="store_true", help="only particles that the refinement used for its map")
    add("--ref", choices=("halves", "combined"), default="halves",
        help="halves: each half set has its own map; combined: one map for all, which ties them [halves]")  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output", type=Path, metavar="FILE",
        help="stack: .mrcs or .hdf (or .star); all else has its stem [as e2extractsubparticles.py]")  # fmt: skip
    add("--stack-format", choices=("mrcs", "hdf"), help="of the stack [mrcs; hdf for EMAN2's folders]")
    add("--float16", action="store_true", help="half precision (MRC mode 12)")
    add("--invartype", "--invar", choices=("none", "bispec", "harmonic", "auto"),
        help="stack of rotation and translation invariants; auto: as info/project.json says, else bispec "
        "[auto for EMAN2's folders, else none]")  # fmt: skip
    add("--debug-strips", type=int, default=0, metavar="N",
        help="also write, for the first N parents, strips of particle, projected map, subtracted part, rest and mask "
        "(e2extractsubparticles.py's --debug)")  # fmt: skip
    add("--force", action="store_true", help="replace existing outputs")


def _add_masks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("masks")
    add = group.add_argument
    add("--subunitmask", "--mask", type=Path, metavar="FILE", help="soft mask of the part that is kept")
    add("--subtractmask", type=Path, metavar="FILE", help="soft mask of the part that is subtracted, instead")
    add("--maskall", metavar="FILE",
        help="soft mask of the whole particle, or none [EMAN2's mask.hdf; none for others]")  # fmt: skip
    add("--masked", nargs="?", const="soft", choices=("soft", "hard"), default="no",
        help="multiply by the projected mask of the kept part, softly, or by 0 and 1 as EMAN2. It cuts away what the "
        "CTF spreads: noise-free FSC falls from 1.00 to 0.93 at 7 Å with a hard one [no]")  # fmt: skip
    add(
        "--outermask",
        type=Path,
        metavar="FILE",
        help="with --masked: mask to project instead of the kept part",
    )
    add(
        "--maskdilate",
        type=float,
        metavar="PX",
        help="with --masked: widen it [room for what the CTF spreads]",
    )


def _add_copies(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("copies")
    add = group.add_argument
    add("--sym", help="cN, dN, tet, oct, icos, icos2, T, O, I1..I4 [what the refinement says, else c1]")
    add("--sym-mode", choices=("auto", "map", "mask-only"), default="auto",
        help="map: the map has the symmetry; mask-only: turn only the mask; auto looks at the map [auto]")  # fmt: skip
    add("--cosets", default="auto", metavar="HOW",
        help="auto: of the operators that map the kept part onto itself, its masks overlapping by more than 0.9, only "
        "one is taken; a number: that overlap; off: all are [auto]")  # fmt: skip
    add("--relax-sym", action="store_true", help="one copy of each parent, chosen at random")
    add("--randomize", action="store_true", help="the copies of each parent in random order")
    add("--seed", type=int, default=0, metavar="N", help="of everything random [0]")
    add("--align-z", action="store_true", help="turn the frame so that the sub-particle lies on +z")
    add("--vectors", metavar="V", help="centres instead of the mask's: file.cmm, or x,y,z;x,y,z;… in Å")
    add("--length", type=float, metavar="Å", help="with --vectors: length of each of them")
    add("--helix", action="store_true", help="copies along a helix, with --twist, --rise and --asu")
    add("--twist", type=float, metavar="DEG", help="helical twist")
    add("--rise", type=float, metavar="Å", help="helical rise")
    add("--asu", type=int, metavar="N", help="asymmetric units of a particle")


def _add_subtraction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("subtraction")
    add = group.add_argument
    add("--no-subtract", action="store_true", help="recentre and cut out only")
    add("--ctf", choices=("auto", "full", "flipped", "premultiplied", "none"), default="auto",
        help="how the CTF is in the images, as in make3d [auto]")  # fmt: skip
    add(
        "--phase-flipped",
        choices=("yes", "no"),
        help="whether the images' phases were flipped [what the input says]",
    )
    add("--scale-mode", choices=("group", "particle", "none", "eman"), default="group",
        help="group: radial gain of each group and scale of each particle; particle: only that; none: the map as it "
        "is (RELION); eman: radial filter of each image [group]")  # fmt: skip
    add("--keep-dc", action="store_true", help="leave the images' mean alone")
    add("--pad", type=float, metavar="X", help="padding of the map before its transform, 1.25 to 4 [2]")
    add("--depth-slabs", type=int, default=1, metavar="N",
        help="from 2: each depth of the subtracted part has its own defocus [1]")  # fmt: skip
    add(
        "--localrefine",
        type=float,
        default=0.0,
        metavar="DEG",
        help="refine poses within this angle and 1 px first [0]",
    )
    add("--compat", choices=("eman2",), help="e2extractsubparticles.py's own model, for comparison")


def _add_crop(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("centring and box")
    add = group.add_argument
    add(
        "--newbox",
        default="-1",
        metavar="N",
        help="pixels; -1: as the parents; auto: from the kept part [-1]",
    )
    add("--center", metavar="C",
        help="density: centre of mass of the kept density; mask: of the mask; x,y,z: voxels from the map's centre "
        "(x,y,zA: Å; --center=-5,0,0 with a minus first); none: do not move [mask where half sets have their own maps, "
        "else density]")  # fmt: skip
    add("--recenter-on-mask", action="store_true", help="the same as --center mask")
    add(
        "--subpixel",
        action="store_true",
        help="move by fractions of pixels, no shift is left in the metadata",
    )
    add("--fill", choices=("mean", "zero", "noise", "wrap"), default="mean",
        help="outside the parent's image: background mean, 0, noise, or the other side (RELION) [mean]")  # fmt: skip
    add("--edge", choices=("flag", "drop", "keep"), default="flag",
        help="sub-particles more than 25 %% outside: flag, drop or keep them [flag]")  # fmt: skip
    add("--keep-all", action="store_true", help="the same as --edge keep")
    add("--adjust-defocus", action=argparse.BooleanOptionalAction, default=True,
        help="change the defocus by the depth of the sub-particle [yes]")  # fmt: skip
    add("--defocus-hand", choices=("1", "-1", "0", "auto"), default="1",
        help="sign of that; auto: from the images, finer than 6 Å [1]")  # fmt: skip


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters")
    add = group.add_argument
    add(
        "--unique",
        type=float,
        metavar="DEG",
        help="leave out copies whose centres lie in directions this close",
    )
    add(
        "--mindist",
        type=float,
        metavar="Å",
        help="leave out copies closer than this to another in projection",
    )
    add("--side", type=float, metavar="DEG", help="only copies within this angle of the image plane")
    add("--top", type=float, metavar="DEG", help="only copies within this angle of the line of sight")


def _add_modes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of extraction")
    add = group.add_argument
    add("--expand-only", action="store_true", help="symmetry expansion: metadata only, no images")
    add("--ssnr", action="store_true", help="only statistics: signal to noise of map and images")
    add(
        "--revert",
        type=Path,
        metavar="FILE",
        help="sub-particle STAR: write the parents' STAR again, to --output",
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan, and unless it is a dry run, compute; on every rank of the world this process belongs to."""
    from centralslice.runtime.world import on_master, run_in_world

    if arguments.revert is not None:
        return run_in_world(
            arguments.parallel,
            lambda communicator: on_master(communicator, lambda: _revert(arguments, open_registry())),
        )
    return run_job(arguments, Job(lambda registry, hosts: _plan(arguments, registry, hosts), _compute))


def _plan(arguments: argparse.Namespace, registry: Registry, hosts: Sequence[Host]) -> SubparticlePlan:
    """The plan, made by the master alone."""
    from centralslice.cli.subparticle_options import settings_from
    from centralslice.jobs.layout import layout_notes
    from centralslice.jobs.subparticles.plan import plan_subparticles

    plan = plan_subparticles(settings_from(arguments), registry)
    return plan.with_notes(layout_notes(plan, hosts, "transformed maps"))


def _compute(plan: SubparticlePlan, registry: Registry, launch: Launch) -> list[str] | None:
    from centralslice.jobs.subparticles.job import run_subparticles

    result = run_subparticles(plan, registry, launch)
    if result is None:
        return None
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items()) or "0 s"
    digests = [f"sha256     {digest} {name}" for name, digest in result.sha256.items()]
    written = f"{result.facts['sub_particles']:,} sub-particles, {plan.files.table}"
    return [f"time       {times}", *digests, f"written    {written}"]


def _revert(given: argparse.Namespace, registry: Registry) -> int:
    from centralslice.jobs.subparticles.revert import revert

    if given.output is None:
        raise ParameterError("--revert: needs --output, the STAR file to write")
    count = revert(given.revert, given.output, registry, image_dir=given.image_dir, force=given.force)
    if given.verbose >= 1:
        print(f"written    {count:,} parents, {given.output}")
    return 0
