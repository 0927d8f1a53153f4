"""``centralslice simulate --tomo``: its options, and making the project."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from centralslice.geometry.gaussians import GaussianPhantom
    from centralslice.jobs.simulate.tomo import TomoOutputs
    from centralslice.jobs.simulate.tomo_settings import (
        StoredAs,
        TiltScheme,
        TomoContent,
        TomoOptics,
        TomoSettings,
    )
    from centralslice.plugin.registry import Registry

VOLTAGE_KV = 300.0
_TOMOGRAMS, _PARTICLES = 2, 40
_IMAGE_SIZE = (512, 512)
_THICKNESS_OF_IMAGE = 4
_DEFOCUS_ANGST = (20000.0, 40000.0)
_DOSE = 3.0
_TILTS_DEG, _STEP_DEG, _AXIS_DEG = (-60.0, 60.0), 3.0, 85.0
_DIRECTIONS = 41


def add_tomo_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--tomo`` and what needs it; every default is None (or False) until it is known to be wanted."""
    group = parser.add_argument_group("tomography (the others need --tomo)")
    group.add_argument(
        "--tomo", action="store_true",
        help="make a RELION tomography project: tilt series with particles in them; --output is its folder",
    )  # fmt: skip
    group.add_argument("--tomograms", type=int, help=f"number of tomograms (default {_TOMOGRAMS})")
    group.add_argument("--particles", type=int, help=f"in each tomogram (default {_PARTICLES})")
    group.add_argument(
        "--image-size", type=int, nargs=2, metavar=("X", "Y"),
        help=f"tilt images, pixels (default {_IMAGE_SIZE[0]} {_IMAGE_SIZE[1]})",
    )  # fmt: skip
    group.add_argument(
        "--tomogram-size", type=int, nargs=3, metavar=("X", "Y", "Z"),
        help="unbinned pixels (default: the images', and a quarter of their width in depth)",
    )  # fmt: skip
    group.add_argument(
        "--subtomogram-angles", action="store_true",
        help="split orientations at random into subtomogram angles and angles",
    )  # fmt: skip
    group.add_argument("--motion", type=float, help="beam-induced motion, Å rms at the end (default 0)")
    group.add_argument("--relion4", action="store_true", help="tables as RELION 4 has them")
    group.add_argument("--threads", type=int, help="threads (default: all cores of the process)")
    _add_tilts(parser)
    _add_optics(parser)


def _add_tilts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tilts (need --tomo)")
    group.add_argument(
        "--tilts", choices=("series", "random"),
        help="a tilt series, or directions over the whole sphere (default series)",
    )  # fmt: skip
    group.add_argument(
        "--tilt-range", type=float, nargs=2, metavar=("MIN", "MAX"),
        help=f"degrees (default {_TILTS_DEG[0]:g} {_TILTS_DEG[1]:g})",
    )  # fmt: skip
    group.add_argument("--tilt-step", type=float, help=f"degrees (default {_STEP_DEG:g})")
    group.add_argument("--tilt-count", type=int, help=f"random directions (default {_DIRECTIONS})")
    group.add_argument("--x-tilt", type=float, help="tilt about x, degrees (default 0)")
    group.add_argument(
        "--tilt-axis", type=float, help=f"rotation of the axis, degrees (default {_AXIS_DEG:g})"
    )
    group.add_argument(
        "--tilt-jitter", type=float, help="all three angles vary by ± this, degrees (default 0)"
    )
    group.add_argument("--tilt-shift", type=float, help="images are shifted by up to ± this, Å (default 0)")
    group.add_argument("--hand", type=int, help="sign of the defocus change with depth (default -1)")
    group.add_argument(
        "--hidden-tilts",
        type=int,
        help="tilts of each series that are loud noise and not to be used (default 0)",
    )


def _add_optics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tilt images (need --tomo)")
    group.add_argument("--dose", type=float, help=f"e/Å² a tilt (default {_DOSE:g}; 0 with --no-ctf)")
    group.add_argument(
        "--dose-bfactor", type=float, help="damage as B factor, Å² per e/Å² (default: a curve)"
    )
    group.add_argument("--defocus-slope", type=float, help="factor on the change with depth (default 1)")
    group.add_argument(
        "--group-voltages",
        type=float,
        nargs="+",
        metavar="KV",
        help="kV of each optics group (default --voltage)",
    )
    group.add_argument(
        "--pixel-ratio", type=float, help="pixel size of an optics group over the one before (default 1)"
    )
    for kind in ("even", "odd"):
        group.add_argument(
            f"--{kind}-zernike", type=float, nargs="+", metavar="C",
            help=f"{kind} aberration coefficients in RELION's order (default: none)",
        )  # fmt: skip
    group.add_argument("--background", type=float, help="constant added to the images (default 0)")
    group.add_argument("--ice-gradient", type=float, help="change of it across the tilt axis (default 0)")
    group.add_argument("--float16", action="store_true", help="store half-precision floats")
    group.add_argument("--int16", action="store_true", help="store scaled 16-bit integers")


#: Options that mean something with --tomo only, by their attribute.
TOMO_ONLY = (
    "tomograms", "particles", "image_size", "tomogram_size", "subtomogram_angles", "motion", "relion4",
    "threads", "tilts", "tilt_range", "tilt_step", "tilt_count", "x_tilt", "tilt_axis", "tilt_jitter",
    "tilt_shift", "hand", "hidden_tilts", "dose", "dose_bfactor", "defocus_slope", "group_voltages",
    "pixel_ratio", "even_zernike", "odd_zernike", "background", "ice_gradient", "float16", "int16",
)  # fmt: skip


def refuse_tomo_options(arguments: argparse.Namespace) -> None:
    """Refuse what needs --tomo where it was not given."""
    for name in TOMO_ONLY:
        value = getattr(arguments, name)
        if value is not None and value is not False:
            raise ParameterError(f"{_option(name)} is of tomography; add --tomo or leave it out")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run_tomo(arguments: argparse.Namespace, phantom: GaussianPhantom, registry: Registry) -> int:
    """Make and write a project."""
    from centralslice.jobs.simulate.tomo import write_tomo_project
    from centralslice.runtime.threads import Threads, available_cores

    settings = tomo_settings(arguments)
    outputs = _outputs(arguments, registry)
    with Threads(available_cores() if arguments.threads is None else arguments.threads) as threads:
        scene = write_tomo_project(phantom, settings, outputs, threads)
    tilts = sum(map(len, scene.particles.series))
    print(
        f"{outputs.folder / 'optimisation_set.star'}: {len(scene.particles)} particles in "
        f"{len(scene.particles.series)} tomograms, {tilts} tilt images, true map {outputs.folder / 'truth.mrc'}"
    )
    return 0


def tomo_settings(arguments: argparse.Namespace) -> TomoSettings:
    """The settings that the options say.

    Raises
    ------
    ParameterError
        If an option is out of range or does not go with another.
    """
    from centralslice.jobs.simulate.tomo_settings import TomoImages, TomoSettings

    _refuse_clashes(arguments)
    return TomoSettings(
        content=_content(arguments),
        scheme=_scheme(arguments),
        optics=_optics(arguments),
        images=TomoImages(
            snr=arguments.snr,
            background=_or(arguments.background, 0.0),
            gradient=_or(arguments.ice_gradient, 0.0),
            stored_as=_stored_as(arguments),
        ),
        seed=arguments.seed,
        relion4=arguments.relion4,
    )


def _refuse_clashes(arguments: argparse.Namespace) -> None:
    """Options that would be ignored."""
    random = arguments.tilts == "random"
    of_series = ("tilt_range", "tilt_step", "x_tilt", "tilt_axis", "tilt_jitter")
    of_ctf = ("defocus", "defocus_slope")
    clashes = (
        (arguments.count is not None, "--count is of single images; with --tomo give --particles"),
        *((random and getattr(arguments, name) is not None,
           f"{_option(name)} is of a tilt series; leave it or --tilts random out") for name in of_series),
        (not random and arguments.tilt_count is not None, "--tilt-count is of --tilts random; give that too"),
        *((arguments.no_ctf and getattr(arguments, name) is not None,
           f"--no-ctf and {_option(name)} exclude each other; leave one out") for name in of_ctf),
        (arguments.relion4 and bool(arguments.hidden_tilts),
         "RELION 4 tables cannot hide tilts; leave --relion4 or --hidden-tilts out"),
        (arguments.voltage is not None and arguments.group_voltages is not None,
         "--voltage and --group-voltages exclude each other; leave one out"),
        (arguments.float16 and arguments.int16, "--float16 and --int16 exclude each other; leave one out"),
        (not _dose(arguments) and arguments.dose_bfactor is not None,
         "--dose-bfactor needs a dose; give --dose or leave it out"),
    )  # fmt: skip
    for wrong, message in clashes:
        if wrong:
            raise ParameterError(message)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _dose(arguments: argparse.Namespace) -> float:
    """e/Å² a tilt; without a CTF there is no damage either unless it is wanted."""
    dose: float = _or(arguments.dose, 0.0 if arguments.no_ctf else _DOSE)
    return dose


def _stored_as(arguments: argparse.Namespace) -> StoredAs:
    if arguments.float16:
        return "float16"
    return "int16" if arguments.int16 else "float32"


def _content(arguments: argparse.Namespace) -> TomoContent:
    from centralslice.jobs.simulate.tomo_settings import TomoContent

    nx, ny = _or(arguments.image_size, _IMAGE_SIZE)
    x, y, z = _or(arguments.tomogram_size, (nx, ny, max(1, nx // _THICKNESS_OF_IMAGE)))
    return TomoContent(
        tomograms=_or(arguments.tomograms, _TOMOGRAMS),
        particles=_or(arguments.particles, _PARTICLES),
        image_size=(nx, ny),
        tomogram_size=(x, y, z),
        box_size=arguments.box,
        pixel_size_angst=arguments.apix,
        max_origin_angst=arguments.shift,
        subtomogram_angles=arguments.subtomogram_angles,
        motion_angst=_or(arguments.motion, 0.0),
        half_sets=not arguments.no_halves,
    )


def _scheme(arguments: argparse.Namespace) -> TiltScheme:
    from centralslice.jobs.simulate.tomo_settings import TiltScheme

    low, high = _or(arguments.tilt_range, _TILTS_DEG)
    return TiltScheme(
        angle_range_deg=(low, high),
        step_deg=_or(arguments.tilt_step, _STEP_DEG),
        random_directions=_or(arguments.tilt_count, _DIRECTIONS) if arguments.tilts == "random" else None,
        x_tilt_deg=_or(arguments.x_tilt, 0.0),
        axis_deg=_or(arguments.tilt_axis, _AXIS_DEG),
        jitter_deg=_or(arguments.tilt_jitter, 0.0),
        max_shift_angst=_or(arguments.tilt_shift, 0.0),
        hand=_or(arguments.hand, -1),
        hidden=_or(arguments.hidden_tilts, 0),
    )


def _optics(arguments: argparse.Namespace) -> TomoOptics:
    from centralslice.jobs.simulate.tomo_settings import TomoOptics

    low, high = _or(arguments.defocus, _DEFOCUS_ANGST)
    return TomoOptics(
        defocus_range_angst=None if arguments.no_ctf else (low, high),
        astigmatism_angst=arguments.astigmatism,
        phase_shift_deg=arguments.phase_shift,
        bfactor_angst2=arguments.bfactor,
        defocus_slope=_or(arguments.defocus_slope, 1.0),
        dose_per_tilt=_dose(arguments),
        bfactor_per_dose=_or(arguments.dose_bfactor, 0.0),
        voltages_kv=tuple(_or(arguments.group_voltages, (_or(arguments.voltage, VOLTAGE_KV),))),
        spherical_aberration_mm=arguments.cs,
        amplitude_contrast=arguments.amplitude_contrast,
        beam_tilt_mrad=tuple(arguments.beam_tilt),
        odd_zernike=tuple(_or(arguments.odd_zernike, ())),
        even_zernike=tuple(_or(arguments.even_zernike, ())),
        groups=arguments.optics_groups,
        pixel_ratio=_or(arguments.pixel_ratio, 1.0),
    )


def _outputs(arguments: argparse.Namespace, registry: Registry) -> TomoOutputs:
    from centralslice.jobs.simulate.tomo import TomoOutputs

    folder: Path = arguments.output
    if folder.suffix:
        raise ParameterError(f"--output {folder}: with --tomo it is a folder; expected a name without suffix")
    kinds = {".star": "table", ".mrcs": "images", ".mrc": "volume", ".json": "table"}
    writers = {suffix: registry.writer_for(folder / f"a{suffix}", kind) for suffix, kind in kinds.items()}
    return TomoOutputs(folder, writers, arguments.force)
