"""``centralslice simulate``: particles whose truth is known, to try options and to measure accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.options import Subparsers, open_registry
from centralslice.cli.simulate_tomo import VOLTAGE_KV, add_tomo_options, refuse_tomo_options, run_tomo
from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from centralslice.geometry.gaussians import GaussianPhantom
    from centralslice.jobs.simulate.particles import SimulationOutputs, SimulationSettings
    from centralslice.plugin.registry import Registry

SUMMARY = "make a particle stack, or tilt series with particles, with a known true map"

_COUNT = 1000
#: Box in pixels and pixel size in Å of images, and with --tomo.
_IMAGES, _TOMO = (128, 1.5), (64, 4.0)

_DEFOCUS_ANGST = (10000.0, 25000.0)
_GAUSSIANS = 60
_SIGMAS_PIXEL = (1.5, 4.0)
_SIGMA_OF_BOX = 0.06
_RADIUS_OF_BOX = 0.28


def add_parser(subparsers: Subparsers) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "simulate",
        help=SUMMARY,
        description="Make exact projections of random Gaussians, or of the atoms of a model, at random "
        "orientations, with CTF and noise. Writes NAME.star, NAME.mrcs and the true map NAME_truth.mrc; with "
        "--tomo a folder with tilt series, RELION's tables and truth.mrc.",
    )
    _add_object(parser)
    _add_imaging(parser)
    add_tomo_options(parser)


def _add_object(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="NAME.star",
        help="metadata (default simulated.star); with --tomo a folder (default simulated_tomo)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument("--count", type=int, help=f"number of images (default {_COUNT})")
    parser.add_argument(
        "--box",
        type=int,
        help=f"image size, pixels (default {_IMAGES[0]}; with --tomo of the map, {_TOMO[0]})",
    )
    parser.add_argument(
        "--apix", type=float, help=f"pixel size, Å (default {_IMAGES[1]:g}; with --tomo {_TOMO[1]:g})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    parser.add_argument("--sym", default="c1", help="symmetry of the object (default %(default)s)")
    what = parser.add_argument_group("object")
    what.add_argument(
        "--gaussians", type=int,
        help=f"random Gaussians in the asymmetric unit (default {_GAUSSIANS})",
    )  # fmt: skip
    what.add_argument(
        "--radius", type=float, help=f"Å, of the ball of their centres (default {_RADIUS_OF_BOX} × box)"
    )
    what.add_argument(
        "--sigma", type=float, nargs=2, metavar=("MIN", "MAX"),
        help=f"Å (default {_SIGMAS_PIXEL[0]:g} to {_SIGMAS_PIXEL[1]:g} pixels, up to {_SIGMA_OF_BOX} × box)",
    )  # fmt: skip
    what.add_argument(
        "--model", type=Path, metavar="FILE",
        help="atoms of a PDB or mmCIF file instead; with --sym the asymmetric unit, axes through 0, 0, 0",
    )  # fmt: skip
    what.add_argument(
        "--resolution", type=float,
        help="Å at which an atom's transform is 1/e (default 3 pixels); needs --model",
    )  # fmt: skip


def _add_imaging(parser: argparse.ArgumentParser) -> None:
    imaging = parser.add_argument_group("imaging")
    imaging.add_argument(
        "--shift",
        type=float,
        default=0.0,
        help="shifts, with --tomo origins, are uniform in ± this, Å (default 0)",
    )
    imaging.add_argument(
        "--defocus", type=float, nargs=2, metavar=("MIN", "MAX"),
        help=f"Å underfocus (default {_DEFOCUS_ANGST[0]:g} {_DEFOCUS_ANGST[1]:g}; with --tomo 20000 40000)",
    )  # fmt: skip
    imaging.add_argument("--no-ctf", action="store_true", help="plain projections")
    imaging.add_argument("--astigmatism", type=float, default=0.0, help="largest U − V, Å (default 0)")
    imaging.add_argument("--phase-shift", type=float, default=0.0, help="degrees (default 0)")
    imaging.add_argument("--voltage", type=float, help=f"kV (default {VOLTAGE_KV:g})")
    imaging.add_argument("--cs", type=float, default=2.7, help="mm (default %(default)s)")
    imaging.add_argument("--amplitude-contrast", type=float, default=0.1, help="0 … 1 (default %(default)s)")
    imaging.add_argument(
        "--beam-tilt", type=float, nargs=2, default=(0.0, 0.0), metavar=("X", "Y"), help="mrad (default 0 0)"
    )
    imaging.add_argument("--bfactor", type=float, default=0.0, help="envelope exp(−B k²/4), Å² (default 0)")
    imaging.add_argument(
        "--snr", type=float,
        help="variance of the images over that of white noise, over all pixels (default: no noise)",
    )  # fmt: skip
    imaging.add_argument("--no-halves", action="store_true", help="no half sets")
    imaging.add_argument("--optics-groups", type=int, default=1, help="number of optics groups (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Make and write the particles."""
    from centralslice.jobs.simulate.particles import check_fits, write_simulation

    _set_defaults(arguments)
    if arguments.tomo:
        registry = open_registry()
        return run_tomo(arguments, _object(arguments, registry), registry)
    refuse_tomo_options(arguments)
    settings = _settings(arguments)
    registry = open_registry()
    outputs = _outputs(arguments, registry)
    phantom = _object(arguments, registry)
    check_fits(phantom, settings)
    write_simulation(phantom, settings, outputs)
    print(f"{outputs.table}: {settings.count} images in {outputs.stack}, true map {outputs.truth}")
    return 0


def _set_defaults(arguments: argparse.Namespace) -> None:
    """Those that differ between images and tilt series."""
    box, pixel = _TOMO if arguments.tomo else _IMAGES
    name = "simulated_tomo" if arguments.tomo else "simulated.star"
    for option, default in (("box", box), ("apix", pixel), ("output", Path(name))):
        if getattr(arguments, option) is None:
            setattr(arguments, option, default)


def _settings(arguments: argparse.Namespace) -> SimulationSettings:
    from centralslice.jobs.simulate.particles import SimulationSettings

    if arguments.no_ctf and arguments.defocus is not None:
        raise ParameterError("--no-ctf and --defocus exclude each other; leave one out")
    defocus = None if arguments.no_ctf else tuple(arguments.defocus or _DEFOCUS_ANGST)
    return SimulationSettings(
        count=_COUNT if arguments.count is None else arguments.count,
        box_size=arguments.box,
        pixel_size_angst=arguments.apix,
        seed=arguments.seed,
        max_shift_angst=arguments.shift,
        defocus_range_angst=defocus,
        astigmatism_angst=arguments.astigmatism,
        phase_shift_deg=arguments.phase_shift,
        voltage_kv=VOLTAGE_KV if arguments.voltage is None else arguments.voltage,
        spherical_aberration_mm=arguments.cs,
        amplitude_contrast=arguments.amplitude_contrast,
        beam_tilt_mrad=tuple(arguments.beam_tilt),
        bfactor_angst2=arguments.bfactor,
        snr=arguments.snr,
        half_sets=not arguments.no_halves,
        optics_groups=arguments.optics_groups,
    )


def _outputs(arguments: argparse.Namespace, registry: Registry) -> SimulationOutputs:
    """Files and writers, after looking whether they may be written."""
    from centralslice.data.files import refuse_existing
    from centralslice.jobs.simulate.particles import SimulationOutputs

    table: Path = arguments.output
    if table.suffix.lower() != ".star":
        raise ParameterError(f"--output {table}: expected a name ending in .star")
    stack, truth = table.with_suffix(".mrcs"), table.with_name(f"{table.stem}_truth.mrc")
    for path in (table, stack, truth):
        refuse_existing(path, arguments.force)
    writers = {
        "table": registry.writer_for(table, "table"),
        "stack": registry.writer_for(stack, "images"),
        "truth": registry.writer_for(truth, "volume"),
    }
    return SimulationOutputs(table, stack, truth, writers)


def _object(arguments: argparse.Namespace, registry: Registry) -> GaussianPhantom:
    from centralslice.jobs.simulate.object import ObjectSettings, make_object

    if arguments.resolution is not None and arguments.model is None:
        raise ParameterError("--resolution is that of --model; give --model FILE or leave it out")
    for option in ("gaussians", "radius", "sigma"):
        if arguments.model is not None and getattr(arguments, option) is not None:
            raise ParameterError(f"--{option} is of random Gaussians; leave it or --model out")
    pixel, box = arguments.apix, arguments.box
    widest = max(_SIGMAS_PIXEL[0], min(_SIGMAS_PIXEL[1], _SIGMA_OF_BOX * box))
    low, high = arguments.sigma or (_SIGMAS_PIXEL[0] * pixel, widest * pixel)
    settings = ObjectSettings(
        gaussians=_GAUSSIANS if arguments.gaussians is None else arguments.gaussians,
        radius_angst=_RADIUS_OF_BOX * box * pixel if arguments.radius is None else arguments.radius,
        sigma_range_angst=(low, high),
        model=arguments.model,
        resolution_angst=3 * pixel if arguments.resolution is None else arguments.resolution,
    )
    return make_object(settings, arguments.seed, registry.symmetry(arguments.sym))
