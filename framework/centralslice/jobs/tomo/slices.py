"""Slices of tomo: windows cut from tilt images (or extracted stacks), prepared and sent where they belong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from centralslice.abc.reconstructor import MapGeometry, ParallelMap
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer
from centralslice.data.slices import SliceBatch
from centralslice.data.tilt_series import TiltSeries
from centralslice.errors import FormatError
from centralslice.fourier.tilt_slices import (
    TiltPreparation,
    TiltSettings,
    prepare_tilt_slices,
    prepare_tilts,
)
from centralslice.fourier.windows import (
    BLANK,
    NOT_FINITE,
    Background,
    cut_windows,
    window_corners,
    window_size,
)
from centralslice.geometry.tilt_geometry import depth_defocus, image_positions
from centralslice.jobs.copies import CopyRules, views_of_copies
from centralslice.jobs.make3d.slice_batches import SampleBuffer
from centralslice.jobs.particle_images import ReadAhead
from centralslice.jobs.tomo.selection import TiltSelection, motion_of
from centralslice.jobs.tomo.tilt_images import TiltImages
from centralslice.optics.whitening import whitening_curve

#: Windows that one task prepares.
TASK_WINDOWS = 32
#: Tables of so many optics groups in tilt series are kept.
_KEPT_TABLES = 4


@dataclass(frozen=True, slots=True)
class TomoSlicing:
    """How windows become slices.

    Attributes
    ----------
    selection
        Particles and their tilts.
    geometry, copies
        Into which map, under which operators.
    binnings
        For each tilt series: a window of ⌊binning · box + ½⌋ pixels becomes a slice.
    settings
        Of the slices, binning apart.
    background
        What is taken off windows.
    whiten
        Divide by the noise's amplitude spectrum.
    """

    selection: TiltSelection
    geometry: MapGeometry
    copies: CopyRules
    binnings: tuple[float, ...]
    settings: TiltSettings
    background: Background
    whiten: bool


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one optics group in one tilt series.

    Attributes
    ----------
    series_number, group
        Which.
    tilt
        (b,) tilt of each window.
    pixels
        (b, S, S) float32.
    origins
        (b, 2) where the particle is in its window.
    poses
        (b, 3, 3).
    ctf
        Parameters, depth included.
    curves
        (f, S // 2 + 1) whitening curves of the tilt series, or None.
    """

    series_number: int
    group: int
    tilt: IntArray
    pixels: FloatArray
    origins: FloatArray
    poses: FloatArray
    ctf: ContrastTransfer
    curves: FloatArray | None


class WindowReader:
    """Reads the windows of particles; used by one thread at a time."""

    def __init__(self, slicing: TomoSlicing, images: TiltImages) -> None:
        self._slicing, self._images = slicing, images
        self._curves: dict[int, FloatArray] = {}

    def read(self, rows: IntArray) -> tuple[list[Windows], list[int]]:
        """Windows of these particles, and which per-tilt values are of blank ones, which are left out."""
        particles = self._slicing.selection.particles
        found: list[Windows] = []
        blank: list[int] = []
        for number in dict.fromkeys(particles.series_number[rows].tolist()):
            of_series = rows[particles.series_number[rows] == number]
            for group in np.unique(particles.optics_group[of_series]):
                chosen = of_series[particles.optics_group[of_series] == group]
                windows, left_out = self._windows(int(number), int(group), chosen)
                found.append(windows)
                blank += left_out
        return found, blank

    def _windows(self, number: int, group: int, rows: IntArray) -> tuple[Windows, list[int]]:
        selection, particles = self._slicing.selection, self._slicing.selection.particles
        series = particles.series[number]
        starts = particles.tilt_start[rows]
        which, tilt = np.nonzero(selection.used[starts[:, None] + np.arange(len(series))])
        if particles.stack_files:
            pixels, origins, flags = self._extracted(series, rows, which, tilt)
        else:
            pixels, origins, flags = self._cut(series, number, rows, which, tilt)
        if np.any(flags == NOT_FINITE):
            bad = int(np.argmax(flags == NOT_FINITE))
            raise FormatError(
                f"{self._where(series, int(rows[which[bad]]), int(tilt[bad]))}: has pixels that are not finite "
                f"numbers (particle {particles.names[rows[which[bad]]]}); repair or remove the tilt"
            )
        good = flags != BLANK
        blank = (starts[which] + tilt)[~good].tolist()
        if blank:
            which, tilt, pixels, origins = which[good], tilt[good], pixels[good], origins[good]
        ctf = series.ctf.take(tilt)
        depth = depth_defocus(series, particles.positions[rows])[which, tilt]
        ctf = replace(
            ctf, defocus_u_angst=ctf.defocus_u_angst + depth, defocus_v_angst=ctf.defocus_v_angst + depth
        )
        poses = series.projections[tilt, :3, :3] @ particles.rotations[rows[which]]
        curves = self._whitening(number) if self._slicing.whiten else None
        return Windows(number, group, tilt, pixels, origins, poses, ctf, curves), blank

    def _cut(
        self, series: TiltSeries, number: int, rows: IntArray, which: IntArray, tilt: IntArray
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """Windows out of tilt images."""
        particles, slicing = self._slicing.selection.particles, self._slicing
        centres = image_positions(series, particles.positions[rows], motion_of(particles, rows, len(series)))
        size = window_size(slicing.settings.box, slicing.binnings[number])
        corners, origins = window_corners(centres[which, tilt], size)
        pixels = np.empty((len(tilt), size, size), np.float32)
        flags = np.empty(len(tilt), np.int64)
        for part in self._parts(series, tilt, size):
            wanted, at = np.unique(tilt[part], return_inverse=True)
            images = self._images.tilts(series, wanted)
            pixels[part], flags[part] = cut_windows(images, at, corners[part], size, slicing.background)
            self._images.let_go()
        return pixels, origins, flags

    def _parts(self, series: TiltSeries, tilt: IntArray, size: int) -> Iterator[IntArray]:
        """Numbers of windows that are cut at a time, tilt by tilt: few enough for the memory of their images."""
        order, step = np.argsort(tilt, kind="stable"), self._images.windows_at_once(series, size)
        if self._images.decoded(series):
            ends = np.flatnonzero(np.diff(tilt[order])) + 1
            yield from np.split(order, ends)
            return
        for start in range(0, len(order), step):
            yield order[start : start + step]

    def _extracted(
        self, series: TiltSeries, rows: IntArray, which: IntArray, tilt: IntArray
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """Windows out of the particles' stacks, their centres kept."""
        particles, box = self._slicing.selection.particles, self._slicing.settings.box
        if particles.stack_number is None:
            raise FormatError(f"{particles.source}: names no image stacks")
        pixels = np.empty((len(which), box, box), np.float32)
        flags = np.empty(len(which), np.int64)
        for position, row in enumerate(rows):
            here = which == position
            stack = self._images.stack(particles.stack_files[particles.stack_number[row]])
            numbers = stack_numbers(self._slicing.selection, int(row), tilt[here], stack.header.count)
            images = stack.read(numbers)
            corner = np.full((len(numbers), 2), images.shape[1] // 2 - box // 2)
            pixels[here], flags[here] = cut_windows(images, np.arange(len(numbers)), corner, box, "corners")
        return pixels, np.full((len(which), 2), float(box // 2)), flags

    def _where(self, series: TiltSeries, row: int, tilt: int) -> str:
        particles = self._slicing.selection.particles
        if particles.stack_number is not None and particles.stack_files:
            return f"{particles.stack_files[particles.stack_number[row]]}, tilt {tilt + 1}"
        return f"{series.image_files[series.file_number[tilt]]}, image {int(series.image_number[tilt]) + 1}"

    def _whitening(self, number: int) -> FloatArray:
        """(f, S // 2 + 1) whitening curves of a tilt series."""
        if number not in self._curves:
            series = self._slicing.selection.particles.series[number]
            size = window_size(self._slicing.settings.box, self._slicing.binnings[number])
            curves = []
            for tilt in range(len(series)):
                curves.append(whitening_curve(self._images.tilts(series, np.array([tilt]))[0], size))
                self._images.let_go()
            self._curves[number] = np.stack(curves)
        return self._curves[number]


def stack_numbers(selection: TiltSelection, row: int, tilts: IntArray, depth: int) -> IntArray:
    """Image numbers of some tilts in a particle's stack, which holds all tilts or the visible ones only.

    Raises
    ------
    FormatError
        If it holds another number of images.
    """
    particles = selection.particles
    where = particles.tilts_of(row)
    total = where.stop - where.start
    visible = np.ones(total, bool) if particles.visible is None else particles.visible[where]
    if depth == total:
        return tilts
    if depth != np.count_nonzero(visible) or not visible[tilts].all():
        path = particles.stack_files[0 if particles.stack_number is None else particles.stack_number[row]]
        raise FormatError(
            f"{path}: holds {depth} images; expected {total}, one a tilt of {particles.names[row]}, or "
            f"{np.count_nonzero(visible)}, one a visible tilt"
        )
    numbers: IntArray = np.cumsum(visible)[tilts] - 1
    return numbers


@dataclass(frozen=True, slots=True)
class TiltPiece:
    """Windows as they were read."""

    windows: list[Windows]
    blank: Sequence[int]
    source: TiltSlices

    def batches(self, parallel: ParallelMap) -> Iterator[SliceBatch]:
        """Slices, an optics group of a tilt series after the other."""
        for windows in self.windows:
            if len(windows.tilt):
                yield self.source.batch(windows, parallel)


@dataclass(frozen=True, slots=True)
class TiltSlices:
    """The slice source of a tomo run.

    Attributes
    ----------
    slicing
        How.
    ahead
        Reads windows in the background.
    block_slices, piece_slices
        Slices of a block and of a piece, about: both hold whole particles.
    largest_piece
        Slices of a piece where memory is not short, which the units of exact sums are made for.
    buffer
        Memory of the batches.
    """

    slicing: TomoSlicing
    ahead: ReadAhead[tuple[list[Windows], list[int]]]
    block_slices: int
    piece_slices: int
    largest_piece: int
    buffer: SampleBuffer = field(default_factory=SampleBuffer)
    _tables: dict[tuple[int, int], TiltPreparation] = field(default_factory=dict)

    def blocks(self, rows: IntArray) -> list[IntArray]:
        """Consecutive particles of one tilt series."""
        numbers = self.slicing.selection.particles.series_number[rows]
        parts = np.split(rows, np.flatnonzero(np.diff(numbers)) + 1) if len(rows) else []
        return [block for part in parts for block in self._cut(part, self.block_slices)]

    def pieces(self, rows: IntArray) -> list[IntArray]:
        """As many as memory is meant for."""
        return self._cut(rows, self.piece_slices)

    def _cut(self, rows: IntArray, slices: int) -> list[IntArray]:
        """Consecutive rows with at most so many slices, but at least one row."""
        counts = self.slicing.selection.counts[rows]
        parts: list[IntArray] = []
        start, held = 0, 0
        for position, count in enumerate(counts.tolist()):
            if held and held + count > slices:
                parts.append(rows[start:position])
                start, held = position, 0
            held += count
        parts.append(rows[start:])
        return parts

    def sample(self, slices: int) -> IntArray:
        """Particles spread over the run: some from everywhere rather than all slices of a few, if a block allows it."""
        counts = self.slicing.selection.counts
        mean = float(counts.mean())
        wanted = max(slices / mean, min(8.0, self.block_slices / mean))
        return np.linspace(0, len(counts) - 1, max(1, min(len(counts), round(wanted)))).astype(np.int64)

    def share(self, rows: IntArray) -> float:
        """By slices."""
        counts = self.slicing.selection.counts
        return float(counts[rows].sum() / counts.sum())

    @property
    def largest_share(self) -> float:
        """Of a piece: a particle more than it is meant to hold."""
        counts = self.slicing.selection.counts
        return min(1.0, float((self.largest_piece + counts.max()) / counts.sum()))

    def start(self, rows: IntArray) -> None:
        """Begin to cut these windows."""
        self.ahead.start(rows)

    def take(self, rows: IntArray) -> TiltPiece:
        """These windows."""
        windows, blank = self.ahead.take(rows)
        return TiltPiece(windows, blank, self)

    def batch(self, windows: Windows, parallel: ParallelMap) -> SliceBatch:
        """Prepare windows; the batch is good until the next one is made."""
        tables = self._preparation(windows)
        count, size = len(windows.tilt), tables.size
        samples = self.buffer.array((count, size, size // 2 + 1, 4), tables.precision)

        def prepare(start: int) -> None:
            part = slice(start, start + TASK_WINDOWS)
            prepare_tilt_slices(
                windows.pixels[part], tables, windows.tilt[part], windows.origins[part],
                windows.ctf.take(np.arange(count)[part]), None, samples[part],
            )  # fmt: skip

        parallel(prepare, range(0, count, TASK_WINDOWS))
        geometry = self.slicing.geometry
        group = self.slicing.selection.particles.optics[windows.group]
        matrix = np.eye(3)
        if not tables.mates:  # RELION ignores the magnification of tilt series
            matrix[:2, :2] = np.reshape(group.magnification, (2, 2)).T
        box = geometry.image_size * geometry.voxel_size_angst
        matrix *= box / (size * tables.pixel_size_angst)
        views = views_of_copies(windows.poses, matrix, self.slicing.copies, geometry, size)
        return SliceBatch(samples, size, tables.max_radius, views, tables.radii[windows.tilt])

    def _preparation(self, windows: Windows) -> TiltPreparation:
        """Tables of an optics group in a tilt series; the latest are kept."""
        number, group = key = (windows.series_number, windows.group)
        if key not in self._tables:
            slicing, particles = self.slicing, self.slicing.selection.particles
            settings = replace(slicing.settings, binning=slicing.binnings[number])
            while len(self._tables) >= _KEPT_TABLES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = prepare_tilts(
                particles.series[number], particles.optics[group], settings, windows.curves
            )
        return self._tables[key]
