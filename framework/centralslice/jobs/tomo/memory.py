"""Memory of a tomo run, worked out: how many windows are in work, and what waits on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from centralslice.errors import ResourceError
from centralslice.fourier.windows import window_size
from centralslice.jobs.budget import BASE_BYTES, LEAST_PIECES
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.jobs.tomo.settings import TomoSettings
from centralslice.jobs.tomo.slices import TASK_WINDOWS, TomoSlicing
from centralslice.jobs.tomo.tilt_images import DECODED_BYTES, MAPPED_BYTES
from centralslice.runtime.exact_sums import scheme_bytes

#: Memory of the windows and samples of a piece, where memory is not short.
PIECE_BYTES = 96 * 2**20
#: A piece is never meant to be smaller than this many slices.
LEAST_SLICES = 32
#: Maps in memory, of the box, beside the sums: where one is finished, and where all are written.
_FINISHED_MAPS, _WRITTEN_MAPS = 6, 8


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Tilt images.

    Attributes
    ----------
    mapped
        All pixels of the tilt series with most, of files that can be mapped.
    decoded
        The same of files that cannot, as float32.
    largest
        The largest image as float32.
    """

    mapped: int = 0
    decoded: int = 0
    largest: int = 0


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    """What was chosen.

    Attributes
    ----------
    largest_piece, piece
        Slices of a piece where memory is not short, and here.
    spill
        Whether the sums of a half wait on disk while others are summed.
    decoded_bytes
        Memory of decoded tilt images that are kept.
    """

    largest_piece: int
    piece: int
    spill: bool
    decoded_bytes: int


@dataclass(frozen=True, slots=True)
class TomoMemory:
    """What memory depends on: slices, sums and images of a run, and its threads."""

    slicing: TomoSlicing
    finishing: FinishPlan
    images: ImageBytes
    threads: int

    def choose(self, settings: TomoSettings) -> MemoryChoice:
        """The fastest way that ``--mem`` allows.

        Raises
        ------
        ResourceError
            If none does.
        """
        total = int(self.slicing.selection.counts.sum())
        largest = max(LEAST_SLICES, min(1024, PIECE_BYTES // self._slice_bytes))
        if self.finishing.sums_kind == "integer":
            largest = max(1, min(largest, total // LEAST_PIECES))
        decoded = min(DECODED_BYTES, self.images.decoded)
        best = MemoryChoice(largest, largest, False, decoded)
        if settings.memory_gb is None:
            return best
        sizes = [largest]
        while sizes[-1] > LEAST_SLICES:
            sizes.append(max(LEAST_SLICES, sizes[-1] // 2))
        choices = [
            MemoryChoice(largest, size, spill, kept)
            for spill in ((False, True) if self._sets > 1 else (False,))
            for kept in dict.fromkeys((decoded, min(decoded, self.images.largest)))
            for size in sizes
        ]
        for choice in choices:
            if self.peak(choice) <= settings.memory_gb * 1e9:
                return choice
        raise ResourceError(
            f"--mem {settings.memory_gb:g}: this run needs {self.peak(choices[-1]) / 1e9 + 0.005:.2f} GB at least; "
            "give more, a smaller --b, or a larger --bin"
        )

    def peak(self, choice: MemoryChoice) -> int:
        """Largest memory of a process that makes the maps."""
        one, box = self._sums_bytes, self.slicing.geometry.image_size
        volume = self.slicing.geometry.precision.itemsize * box**3
        sets = 1 if choice.spill else self._sets
        inserting = sets * one + self._inserting(choice)
        halves = 2 * volume if self.finishing.halves else 0
        finishing = sets * one + halves + max(self.finishing.sums.finish_bytes, _FINISHED_MAPS * volume)
        writing = _WRITTEN_MAPS * volume
        return self._always(choice) + max(inserting, finishing, writing)

    def worker_peak(self, choice: MemoryChoice) -> int:
        """Largest memory of a process that only inserts."""
        return self._always(choice) + self._sums_bytes + self._inserting(choice)

    def widened(self, choice: MemoryChoice) -> int:
        """Of :meth:`peak`, if all integer sums outgrow 32 bits; while the last do, they are there twice."""
        if self.finishing.sums_kind != "integer" or self.finishing.sums.dtype.itemsize > 4:
            return self.peak(choice)
        return self.peak(choice) + (1 + (1 if choice.spill else self._sets)) * self._sums_bytes

    @property
    def _sets(self) -> int:
        """Sums that the master holds if none wait on disk: half 1 waits for half 2, both for those of neither."""
        if not self.finishing.halves or self.finishing.sums.passes > 1:
            return 1
        return 2 + bool(np.any(self.slicing.selection.particles.half_set == 0))

    @property
    def _sums_bytes(self) -> int:
        return scheme_bytes(self.finishing.sums_kind, self.finishing.sums)

    def _always(self, choice: MemoryChoice) -> int:
        """The program, metadata, tables of the tilts, decoded images."""
        decoded = choice.decoded_bytes and max(choice.decoded_bytes, self.images.largest)
        return BASE_BYTES + table_bytes(self.slicing) + decoded

    def _inserting(self, choice: MemoryChoice) -> int:
        """Windows in work and read ahead, their samples and transforms, and the images they are cut from."""
        counts = self.slicing.selection.counts
        slices = min(max(choice.piece, int(counts.max())), int(counts.sum()))
        tasks = min(slices, TASK_WINDOWS * self.threads)
        # the system maps more than what is looked at: whole pages, and those around them
        images = min(self.images.mapped, 3 * MAPPED_BYTES)
        if self.images.decoded:
            images += self.images.largest  # as it is stored, while it is decoded
        return slices * self._slice_bytes + 3 * tasks * self._window_bytes + images

    @property
    def _window_bytes(self) -> int:
        sizes = [window_size(self.slicing.settings.box, binning) for binning in self.slicing.binnings]
        return 4 * max(sizes) ** 2

    @property
    def _slice_bytes(self) -> int:
        """A window in work, one read ahead, and the samples of one."""
        settings = self.slicing.settings
        samples = 4 * settings.precision.itemsize * settings.box * (settings.box // 2 + 1)
        return 2 * self._window_bytes + samples


def table_bytes(slicing: TomoSlicing) -> int:
    """Metadata of the particles, and dose and whitening tables of the tilts."""
    particles, box = slicing.selection.particles, slicing.settings.box
    tilts = max(len(series) for series in particles.series)
    motion = 0 if particles.motion is None else particles.motion.nbytes
    per_tilt = 4 * box * (box // 2 + 1) * (2 if slicing.whiten else 1)
    selected = 2 * np.asarray(slicing.selection.used).nbytes
    return 400 * len(particles) + motion + selected + 4 * tilts * per_tilt
