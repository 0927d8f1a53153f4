"""Geometry of a simulated tomography project: tilt series, particles, what the tables will say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer
from centralslice.data.tilt_series import TiltParticles, TiltSeries
from centralslice.errors import ParameterError
from centralslice.geometry.rotations import random_rotations
from centralslice.geometry.tilt_geometry import angles_of_matrices, projection_matrices
from centralslice.jobs.simulate.tomo_settings import TomoSettings

#: Relative scatter of the mean defocus of the tilts of a series.
_DEFOCUS_SCATTER = 0.005
_TRIES = 400
#: Least distance of two particles in radii of the object.
_APART = 1.5
#: First numbers of the seeds of what is random, after the user's seed.
_TILTS, _PARTICLES, _HIDDEN, _POSES = 10, 11, 12, 13


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the tables say of the tilts of one series, besides what is in its :class:`TiltSeries`.

    Attributes
    ----------
    x_tilt_deg, y_tilt_deg, z_rot_deg
        (f,) float64.
    shifts_angst
        (f, 2) float64.
    hidden
        (f,) bool, tilts that no particle is to use.
    """

    x_tilt_deg: FloatArray
    y_tilt_deg: FloatArray
    z_rot_deg: FloatArray
    shifts_angst: FloatArray
    hidden: BoolArray


@dataclass(frozen=True, slots=True)
class TomoScene:
    """Everything but the images.

    Attributes
    ----------
    settings
        What it was made from.
    particles
        The true particles and series, as a reader of the project should give them.
    alignments
        One a series.
    origins_angst
        (n, 3) float64, offsets in the frame of the subtomogram; the positions have them applied.
    subtomogram
        (n, 3, 3) float64 rotations; the rest of each orientation is the particle's own.
    """

    settings: TomoSettings
    particles: TiltParticles
    alignments: tuple[Alignment, ...]
    origins_angst: FloatArray
    subtomogram: FloatArray

    def rows_of(self, number: int) -> IntArray:
        """Rows of the particles of series ``number``."""
        return np.flatnonzero(self.particles.series_number == number)

    def motion_of(self, number: int) -> FloatArray | None:
        """(n, f, 3) float64 Å, motion of the particles of series ``number``, or None."""
        if self.particles.motion is None:
            return None
        rows = self.rows_of(number)
        chunks = [self.particles.motion[self.particles.tilts_of(int(row))] for row in rows]
        return np.array(chunks, np.float64)


def tomo_scene(settings: TomoSettings, radius_angst: float, folder: Path) -> TomoScene:
    """Tilt series and particles; a function of the settings and the object's radius only.

    Parameters
    ----------
    settings
        The project.
    radius_angst
        Of the object; particles keep a distance of 1.5 of it.
    folder
        Where the project will be.

    Raises
    ------
    ParameterError
        If the particles do not fit into the tomogram.
    """
    numbers = range(settings.content.tomograms)
    made = [_series(settings, number, folder) for number in numbers]
    series = tuple(entry for entry, _ in made)
    positions = np.concatenate([_positions(settings, one, n, radius_angst) for n, one in enumerate(series)])
    rng = np.random.default_rng([settings.seed, _POSES])
    count, each = len(positions), settings.content.particles
    rotations, subtomogram = random_rotations(count, rng), random_rotations(count, rng)
    if not settings.content.subtomogram_angles:
        subtomogram = np.tile(np.eye(3), (count, 1, 1))
    limit = settings.content.max_origin_angst
    origins = rng.uniform(-limit, limit, (count, 3))
    halves = [
        rng.permutation(each) % 2 + 1 if settings.content.half_sets else np.zeros(each) for _ in numbers
    ]
    tilts = len(series[0])
    particles = TiltParticles(
        source=folder / "particles.star",
        series=series,
        series_number=np.repeat(np.arange(len(series)), each),
        names=np.array([f"{one.name}/{number + 1}" for one in series for number in range(each)]),
        positions=positions,
        rotations=rotations,
        optics=settings.groups,
        optics_group=np.repeat(np.arange(len(series)) % settings.optics.groups, each),
        half_set=np.concatenate(halves).astype(np.int8),
        source_row=np.arange(count),
        tilt_start=np.arange(count) * tilts,
        visible=_visible([alignment for _, alignment in made], each),
        motion=_motion(settings, series, rng),
    )
    return TomoScene(settings, particles, tuple(one for _, one in made), origins, subtomogram)


def _series(settings: TomoSettings, number: int, folder: Path) -> tuple[TiltSeries, Alignment]:
    """One tilt series and its alignment."""
    rng = np.random.default_rng([settings.seed, _TILTS, number])
    content, optics, group = (
        settings.content,
        settings.optics,
        settings.groups[number % settings.optics.groups],
    )
    alignment = _alignment(settings, number, rng)
    projections = projection_matrices(
        alignment.x_tilt_deg,
        alignment.y_tilt_deg,
        alignment.z_rot_deg,
        alignment.shifts_angst / group.pixel_size_angst,
        content.image_size,
        content.tomogram_size,
    )
    nominal = settings.scheme.nominal_angles()
    name = f"TS_{number + 1:02d}"
    series = TiltSeries(
        name=name,
        source=folder / ("tomograms.star" if settings.relion4 else f"tilt_series/{name}.star"),
        image_files=(folder / f"tilt/{name}.mrcs",),
        file_number=np.zeros(len(nominal), np.int64),
        image_number=np.arange(len(nominal)),
        image_size=content.image_size,
        pixel_size_angst=group.pixel_size_angst,
        size=content.tomogram_size,
        projections=projections,
        tilt_angles_deg=nominal,
        hand=float(settings.scheme.hand),
        defocus_slope=optics.defocus_slope,
        ctf=_contrast_transfer(settings, projections, rng),
        dose=optics.dose_per_tilt * acquisition_order(nominal),
        bfactor_per_dose=optics.bfactor_per_dose,
        optics=group,
    )
    return series, alignment


def acquisition_order(angles_deg: FloatArray) -> IntArray:
    """(f,) int64 when each tilt is taken, from 0: small angles first, of ± the positive one."""
    order = np.lexsort((-angles_deg, np.round(np.abs(angles_deg), 6)))
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order))
    return result


def _alignment(settings: TomoSettings, number: int, rng: np.random.Generator) -> Alignment:
    scheme = settings.scheme
    nominal = scheme.nominal_angles()
    count = len(nominal)
    jitter = rng.uniform(-scheme.jitter_deg, scheme.jitter_deg, (3, count))
    angles = np.array([np.full(count, scheme.x_tilt_deg), nominal, np.full(count, scheme.axis_deg)]) + jitter
    if scheme.random_directions is not None:
        matrices = np.tile(np.eye(4), (count, 1, 1))
        matrices[:, :3, :3] = random_rotations(count, rng)
        angles = np.array(angles_of_matrices(matrices))
    hidden = np.zeros(count, np.bool_)
    chosen = np.random.default_rng([settings.seed, _HIDDEN, number])
    hidden[chosen.choice(count, scheme.hidden, replace=False)] = True
    limit = scheme.max_shift_angst
    return Alignment(angles[0], angles[1], angles[2], rng.uniform(-limit, limit, (count, 2)), hidden)


def _contrast_transfer(
    settings: TomoSettings, projections: FloatArray, rng: np.random.Generator
) -> ContrastTransfer:
    """CTF of the tilts: scatter about the series' defocus, amplitude falling as the cosine of the tilt."""
    optics, count = settings.optics, len(projections)
    if optics.defocus_range_angst is None:
        nothing = np.zeros(count)
        return ContrastTransfer(nothing, nothing, nothing, nothing, nothing, np.ones(count))
    mean = rng.uniform(*optics.defocus_range_angst) * (
        1 + rng.uniform(-_DEFOCUS_SCATTER, _DEFOCUS_SCATTER, count)
    )
    half_difference = rng.uniform(0, optics.astigmatism_angst, count) / 2
    upright = settings.scheme.random_directions is not None
    return ContrastTransfer(
        defocus_u_angst=mean + half_difference,
        defocus_v_angst=mean - half_difference,
        defocus_angle_deg=rng.uniform(0, 180, count),
        phase_shift_deg=np.full(count, optics.phase_shift_deg),
        bfactor_angst2=np.full(count, optics.bfactor_angst2),
        scale=np.ones(count) if upright else np.abs(projections[:, 2, 2]),
    )


def _positions(settings: TomoSettings, series: TiltSeries, number: int, radius_angst: float) -> FloatArray:
    """(n, 3) centres in 0-based pixels, uniform where the object fits, none too near another."""
    rng = np.random.default_rng([settings.seed, _PARTICLES, number])
    radius = radius_angst / series.pixel_size_angst
    reach = np.maximum(series.centre - 1 - np.array([radius, radius, min(radius, series.centre[2] - 1)]), 0)
    found = np.empty((0, 3))
    for _ in range(_TRIES * settings.content.particles):
        candidate = series.centre + rng.uniform(-1, 1, 3) * reach
        if (np.linalg.norm(found - candidate, axis=1) >= _APART * radius).all():
            found = np.vstack([found, candidate])
        if len(found) == settings.content.particles:
            return found
    x, y, z = series.size
    raise ParameterError(
        f"simulation: {settings.content.particles} particles of radius {radius_angst:.0f} Å do not fit into a "
        f"tomogram of {x} × {y} × {z} pixels ({len(found)} did); give fewer or a larger tomogram"
    )


def _visible(alignments: list[Alignment], each: int) -> BoolArray | None:
    """Whether each particle uses each tilt; None: nothing is hidden."""
    if not any(one.hidden.any() for one in alignments):
        return None
    return np.concatenate([np.tile(~one.hidden, each) for one in alignments])


def _motion(
    settings: TomoSettings, series: tuple[TiltSeries, ...], rng: np.random.Generator
) -> FloatArray | None:
    """(m, 3) float32 Å: random walks in the order of acquisition, 0 in the first image; None: no motion."""
    amplitude, each = settings.content.motion_angst, settings.content.particles
    if amplitude == 0:
        return None
    order = acquisition_order(settings.scheme.nominal_angles())
    step = amplitude / np.sqrt(3 * max(1, len(order) - 1))
    steps = step * rng.standard_normal((len(series) * each, len(order), 3))
    steps[:, 0] = 0
    result: FloatArray = steps.cumsum(axis=1)[:, order].reshape(-1, 3).astype(np.float32)
    return result
