"""Options of ``centralslice tomo`` for a tilt series that IMOD or AreTomo aligned."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from centralslice.abc.reader import AlignedSeries

#: Options without which there is no tilt series.
_NEEDED = ("tilt_series", "alignment", "coordinates", "tomogram_size", "apix")
_ALONE = (
    "tilt_angles", "x_tilt", "tilt_com", "defocus_file", "kv", "cs", "ac", "hand", "doses", "dose_per_tilt",
    "tilt_order", "coordinate_binning", "first_pixel", "imod_flip",
)  # fmt: skip


def add_alignment(parser: argparse.ArgumentParser) -> None:
    """Add them as a group."""
    group = parser.add_argument_group(
        "a tilt series aligned by IMOD or AreTomo, instead of --i, --p, --t and --mot"
    )
    add = group.add_argument
    add("--tilt-series", type=Path, metavar="FILE", help="stack of the tilt images as recorded, not aligned")
    add("--alignment", type=Path, metavar="FILE", help="IMOD's transforms (.xf) or AreTomo's .aln")
    add("--coordinates", type=Path, metavar="FILE",
        help="particles: STAR (rlnCoordinateX …), or columns x y z [rot tilt psi], as of model2point")  # fmt: skip
    add("--tomogram-size", type=int, nargs=3, metavar=("X", "Y", "Z"),
        help="unbinned pixels; Y along the tilt axis, Z the thickness")  # fmt: skip
    add("--apix", type=float, metavar="Å", help="pixel size of the tilt images")
    add("--tilt-angles", type=Path, metavar="FILE", help="IMOD's .tlt, one angle an image; needed with .xf")
    add("--x-tilt", type=Path, metavar="FILE", help="IMOD's .xtilt")
    add("--tilt-com", type=Path, metavar="FILE",
        help="IMOD's tilt.com; used: OFFSET, SHIFT, XAXISTILT, XTILTFILE, TILTFILE, excluded views")  # fmt: skip
    add("--defocus-file", type=Path, metavar="FILE", help="CTFFIND's table or IMOD's .defocus file")
    add("--kv", type=float, metavar="KV", help="voltage; needed for the CTF")
    add("--cs", type=float, metavar="MM", help="spherical aberration; needed for the CTF")
    add("--ac", type=float, metavar="X", help="amplitude contrast, 0 to 1; needed for the CTF")
    add(
        "--hand",
        type=int,
        choices=(1, -1),
        help="sign of the defocus' change with depth, as rlnTomoHand [-1]",
    )
    add("--doses", type=Path, metavar="FILE", help="e/Å² before each tilt, one a line")
    add("--dose-per-tilt", type=float, metavar="E/Å²", help="dose of each tilt, with --tilt-order")
    add(
        "--tilt-order",
        type=Path,
        metavar="FILE",
        help="SerialEM's .mdoc, or each tilt's place in time, one a line",
    )
    add(
        "--coordinate-binning",
        type=float,
        metavar="X",
        help="unbinned pixels in a pixel of --coordinates [1]",
    )
    add("--first-pixel", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="coordinates of the centre of the tomogram's first pixel [0 0 0]")  # fmt: skip
    add("--imod-flip", choices=("rx", "yz", "none"),
        help="how the tomogram was turned before picking: trimvol -rx, -yz, or not at all [rx]")  # fmt: skip


def aligned_series(given: argparse.Namespace) -> AlignedSeries | None:
    """The tilt series that the options give, or None.

    Raises
    ------
    ParameterError
        If one of the options lacks that the others need, or is out of range.
    """
    from centralslice.abc.reader import AlignedSeries
    from centralslice.data.particles import OpticsGroup

    names = [name for name in (*_NEEDED, *_ALONE) if getattr(given, name) is not None]
    if not names:
        return None
    missing = [_option(name) for name in _NEEDED if getattr(given, name) is None]
    if missing:
        raise ParameterError(f"{_option(names[0])}: needs also {', '.join(missing)}")
    _check(given)
    return AlignedSeries(
        images=given.tilt_series, alignment=given.alignment, coordinates=given.coordinates,
        size=(given.tomogram_size[0], given.tomogram_size[1], given.tomogram_size[2]),
        microscope=OpticsGroup(
            name=given.tilt_series.stem, pixel_size_angst=given.apix, voltage_kv=given.kv or 0.0,
            spherical_aberration_mm=given.cs or 0.0, amplitude_contrast=given.ac or 0.0,
        ),
        hand=float(-1 if given.hand is None else given.hand), tilt_angles=given.tilt_angles, x_tilts=given.x_tilt,
        tilt_command=given.tilt_com, defocus=given.defocus_file, doses=given.doses,
        dose_per_tilt=given.dose_per_tilt, tilt_order=given.tilt_order,
        coordinate_binning=1.0 if given.coordinate_binning is None else given.coordinate_binning,
        first_pixel=tuple(given.first_pixel or (0.0, 0.0, 0.0)), flip=given.imod_flip or "rx",
    )  # fmt: skip


def _check(given: argparse.Namespace) -> None:
    for name in ("apix", "kv", "coordinate_binning"):
        value = getattr(given, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"{_option(name)}: expected a number above 0, got {value:g}")
    for value in (*(given.first_pixel or ()), given.cs or 0.0):
        if not math.isfinite(value):
            raise ParameterError(f"--first-pixel, --cs: expected finite numbers, got {value:g}")
    if given.ac is not None and not 0 <= given.ac <= 1:
        raise ParameterError(f"--ac: expected 0 to 1, got {given.ac:g}")
    if given.dose_per_tilt is not None and not (
        given.dose_per_tilt >= 0 and math.isfinite(given.dose_per_tilt)
    ):
        raise ParameterError(f"--dose-per-tilt: expected 0 e/Å² or more, got {given.dose_per_tilt:g}")
    if not given.no_ctf and given.defocus_file is not None:
        for name in ("kv", "cs", "ac"):
            if getattr(given, name) is None:
                raise ParameterError(
                    f"{_option(name)}: is needed for the CTF with --defocus-file; or give --no-ctf"
                )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
