"""``centralslice process``: processors applied to an image stack or a map."""

from __future__ import annotations

import argparse
from pathlib import Path

from centralslice.cli.options import Subparsers, open_registry, warn

SUMMARY = "filter, mask, normalise or resample images or a map"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "process",
        help=SUMMARY,
        description="Apply processors, in the order given, to every image of a stack or to a map. "
        "`centralslice plugins list processor` lists them.",
        epilog="The first rule that applies: .mrcs, .st, .ali, .lst are stacks; .map, .ccp4, .rec are maps; "
        "one section is an image; the header (EMAN2 HDF) says it; a cube is a map; MRC files of space group "
        "0 are stacks; anything else is a map.",
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="image stack or map")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="its name decides the format")
    parser.add_argument(
        "--process", action="append", required=True, metavar="NAME:KEY=VALUE:…",
        help="processor with its parameters; may be given several times",
    )  # fmt: skip
    parser.add_argument("--apix", type=float, help="pixel size of the input, Å (default: its header's)")
    parser.add_argument(
        "--dimension", type=int, choices=(2, 3), help="2: a stack of images, 3: a map (default: see below)"
    )
    parser.add_argument("--first", type=int, help="first image of a stack, from 0 (default 0)")
    parser.add_argument("--last", type=int, help="last image of a stack, inclusive (default: the last)")
    parser.add_argument(
        "--compressbits", type=int,
        help="of maps in HDF: < 0 plain float, 0 lossless, 1 … 16 bits (default: the format's)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing output")


def run(arguments: argparse.Namespace) -> int:
    """Process the file."""
    from centralslice.jobs.process import ProcessSettings, run_process

    settings = ProcessSettings(
        source=arguments.input,
        output=arguments.output,
        processors=tuple(arguments.process),
        apix=arguments.apix,
        dimension=arguments.dimension,
        first=arguments.first,
        last=arguments.last,
        bits=arguments.compressbits,
        force=arguments.force,
    )
    result = run_process(settings, open_registry())
    for notice in result.notices:
        warn(notice)
    count, ny, nx = result.shape
    what = f"{count} images of {nx} × {ny}" if result.dimension == 2 else f"map of {nx} × {ny} × {count}"
    print(f"{settings.output}: {what} at {result.voxel_size_angst:g} Å")
    return 0
