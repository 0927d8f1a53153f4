"""Particles of one tilt series that IMOD or AreTomo aligned, with a file of their coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from centralslice.abc.reader import AlignedSeries, Reader, TiltReadRequest
from centralslice.conventions import FloatArray
from centralslice.data.particles import ContrastTransfer
from centralslice.data.tilt_series import TiltParticles, TiltSeries
from centralslice.errors import FormatError, ParameterError
from centralslice_plugins.formats.aretomo import is_aln
from centralslice_plugins.formats.ctffind import read_ctffind
from centralslice_plugins.formats.imod import read_defocus
from centralslice_plugins.formats.mdoc import read_mdoc_order
from centralslice_plugins.formats.relion_tomo_images import image_header
from centralslice_plugins.formats.text_numbers import number_rows, text_lines
from centralslice_plugins.formats.tilt_alignment import Alignment, projections, read_alignment, upright
from centralslice_plugins.formats.tilt_coordinates import Coordinates, read_coordinates

#: How far the angles of an .mdoc may be from those of the alignment, apart from one offset, degrees.
_ANGLE_TOLERANCE = 3.0
_LARGEST_SIDE = 1 << 20


class TiltAlignmentReader(Reader):
    """IMOD's .xf with .tlt, or AreTomo's .aln, and coordinates in the tomogram made of them."""

    plugin_name: ClassVar[str] = "tilt_alignment"
    capabilities: ClassVar[frozenset[str]] = frozenset({"tilt_particles"})

    def recognises(self, path: Path) -> bool:
        """Whether it is an .aln file by its first line, or called .xf."""
        return is_aln(path) or path.suffix.lower() == ".xf"

    def read_tilt_particles(self, request: TiltReadRequest) -> TiltParticles:
        """Read the series and particles that ``request.series`` names.

        Raises
        ------
        FormatError, FileMissingError
            Naming file and line.
        ParameterError
            If files do not go together, or one lacks.
        SelectionError
            If no particle or tilt is left.
        """
        given = request.series
        if given is None:
            raise ParameterError(
                f"{request.path}: is the alignment of a tilt series; give it as --alignment with --tilt-series and "
                "--coordinates"
            )
        _check(given)
        images, image_size = image_header(given.images)
        alignment = read_alignment(given, images, image_size)
        series = _series(given, alignment, images, image_size)
        found = read_coordinates(
            given.coordinates, (given.images.stem, given.alignment.stem, given.images.name)
        )
        return _particles(given, series, found, alignment.notes)


def _check(given: AlignedSeries) -> None:
    """Refuse options that do not go together or are out of range."""
    if not all(0 < side < _LARGEST_SIDE for side in given.size):
        raise ParameterError(f"--tomogram-size: expected three sizes in pixels from 1, got {given.size}")
    if given.doses is not None and (given.dose_per_tilt is not None or given.tilt_order is not None):
        raise ParameterError("--doses: not with --dose-per-tilt or --tilt-order; it says all of it")
    if (given.dose_per_tilt is None) != (given.tilt_order is None):
        raise ParameterError("--dose-per-tilt and --tilt-order: give both, or --doses, or none")


def _series(
    given: AlignedSeries, alignment: Alignment, images: int, image_size: tuple[int, int]
) -> TiltSeries:
    kept = alignment.used()
    count = int(kept.sum())
    return TiltSeries(
        name=given.images.stem,
        source=given.alignment,
        image_files=(given.images,),
        file_number=np.zeros(count, np.int64),
        image_number=alignment.image_number[kept],
        image_size=image_size,
        pixel_size_angst=given.microscope.pixel_size_angst,
        size=given.size,
        projections=projections(alignment, image_size, given.size)[kept],
        tilt_angles_deg=alignment.tilt_angles_deg[kept],
        hand=given.hand,
        defocus_slope=1.0,
        ctf=_contrast(given, alignment, images).take(kept),
        dose=_doses(given, alignment, images)[kept],
        bfactor_per_dose=0.0,
        optics=given.microscope,
    )


def _contrast(given: AlignedSeries, alignment: Alignment, images: int) -> ContrastTransfer:
    """CTF of each tilt; all 0 where no file says it, which is refused before a CTF is computed.

    The signal fades with the cosine of the tilt, as the path through the ice gets longer: RELION's start, too.
    """
    path, count = given.defocus, len(alignment)
    none, unit = np.zeros(count), np.ones(count)
    if path is None:
        return ContrastTransfer(none, none, none, none, none, unit)
    lines = text_lines(path, "defocus of each tilt (CTFFIND or IMOD)")
    # IMOD's rows begin with a range of views and of angles; CTFFIND's have 7 columns or more and one number
    is_imod = path.suffix.lower() == ".defocus" or (bool(lines) and len(lines[0].words) in (5, 6))
    found = read_defocus(path, images) if is_imod else read_ctffind(path)
    columns = (found.u_angst, found.v_angst, found.angle_deg, found.phase_deg)
    u, v, angle, phase = (alignment.per_tilt(column, images, path) for column in columns)
    return ContrastTransfer(u, v, angle, phase, none, np.abs(np.cos(np.deg2rad(alignment.tilt_angles_deg))))


def _doses(given: AlignedSeries, alignment: Alignment, images: int) -> FloatArray:
    """(f,) e/Å² before each tilt; 0 where nothing says it."""
    if given.doses is not None:
        doses = number_rows(given.doses, "doses in e/Å² before each tilt, one a line", (1,))[:, 0]
        if doses.min() < 0:
            raise FormatError(
                f"{given.doses}: row {int(np.argmin(doses)) + 1}: expected e/Å² from 0, got {doses.min():g}"
            )
        return alignment.per_tilt(doses, images, given.doses)
    if given.dose_per_tilt is None or given.tilt_order is None:
        return np.zeros(len(alignment))
    return given.dose_per_tilt * _rank(given.tilt_order, alignment, images)


def _rank(path: Path, alignment: Alignment, images: int) -> FloatArray:
    """(f,) how many tilts were taken before each."""
    if path.suffix.lower() != ".mdoc":
        rank = number_rows(path, "each tilt's place in time, one a line", (1,))[:, 0]
        first = rank.min()
        if first not in (0, 1) or not np.array_equal(np.sort(rank), np.arange(len(rank)) + first):
            raise FormatError(
                f"{path}: expected the numbers 0 to {len(rank) - 1} or 1 to {len(rank)}, each once"
            )
        return alignment.per_tilt(rank - first, images, path)
    angles, rank_in_time = read_mdoc_order(path)
    if len(angles) != len(alignment):
        raise FormatError(
            f"{path}: has {len(angles)} sections, {alignment.source} {len(alignment)} tilts; give --doses instead"
        )
    # sections are in the order of time, images often in that of angles: both are brought together by angle
    own, theirs = np.argsort(alignment.tilt_angles_deg, kind="stable"), np.argsort(angles, kind="stable")
    apart = alignment.tilt_angles_deg[own] - angles[theirs]
    if np.abs(apart - np.median(apart)).max() > _ANGLE_TOLERANCE:
        raise FormatError(
            f"{path}: its tilt angles are not those of {alignment.source}; give the right .mdoc, or --doses"
        )
    rank = np.empty(len(angles))
    rank[own] = rank_in_time[theirs]
    return rank


def _particles(
    given: AlignedSeries, series: TiltSeries, found: Coordinates, notes: tuple[str, ...]
) -> TiltParticles:
    count, said = len(found.rows), list(notes)
    if found.rotations is None:
        said.append(f"{given.coordinates} has no orientations: all particles are taken as not turned")
    if given.doses is None and given.dose_per_tilt is None:
        said.append("no doses are given: all tilts count as taken before any dose")
    rotations = np.broadcast_to(np.eye(3), (count, 3, 3)) if found.rotations is None else found.rotations
    placed = _unbinned(given, found) - found.origins_angst / series.pixel_size_angst
    positions, rotations = upright(placed, rotations, given.flip, given.size[2])
    _check_inside(given, found, positions)
    return TiltParticles(
        source=given.coordinates,
        series=(series,),
        series_number=np.zeros(count, np.int64),
        names=np.array([f"{series.name}/{row + 1}" for row in found.rows.tolist()], object),
        positions=positions,
        rotations=np.ascontiguousarray(rotations),
        optics=(given.microscope,),
        optics_group=np.zeros(count, np.int64),
        half_set=found.half_set,
        source_row=found.rows.astype(np.int64),
        tilt_start=np.arange(count, dtype=np.int64) * len(series),
        columns=found.columns,
        notes=tuple(said),
    )


def _unbinned(given: AlignedSeries, found: Coordinates) -> FloatArray:
    """(n, 3) unbinned pixels, 0 at the centre of the first; origins not applied."""
    if not found.centred:
        steps = found.positions - np.array(given.first_pixel) + 0.5
        pixels: FloatArray = steps * given.coordinate_binning - 0.5
        return pixels
    if given.coordinate_binning != 1 or any(given.first_pixel):
        raise ParameterError(
            f"--coordinate-binning, --first-pixel: {given.coordinates} has coordinates in Å from the tomogram's "
            "centre; leave them out"
        )
    return found.positions / given.microscope.pixel_size_angst + np.array(given.size) / 2


def _check_inside(given: AlignedSeries, found: Coordinates, positions: FloatArray) -> None:
    outside = ((positions < -0.5) | (positions > np.array(given.size) - 0.5)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        shown = ", ".join(f"{value:g}" for value in found.positions[row])
        raise FormatError(
            f"{given.coordinates}: row {found.rows[row] + 1}: ({shown}) is outside the tomogram of "
            f"{' x '.join(map(str, given.size))} unbinned pixels ({int(outside.sum())} of {len(positions)} are); check "
            "--coordinate-binning, --first-pixel and --imod-flip"
        )
