"""The files a tomo run writes, named as RELION names them, and how they are filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import PassContext, Reconstructor
from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.conventions import FloatArray
from centralslice.data.slices import Sums
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, OutputExistsError, ParameterError, ResourceError
from centralslice.fourier.weight_cube import weight_cube
from centralslice.jobs.finish_maps import WEIGHTS
from centralslice.jobs.tomo.selection import TiltSelection
from centralslice.jobs.tomo.settings import TomoSettings
from centralslice.jobs.tomo.taper import crop_centre, taper
from centralslice.plugin.registry import Registry

#: Name of the side map that is the numerator.
DATA = "data"


@dataclass(frozen=True, slots=True)
class TomoOutputs:
    """The files of a run, all in one folder.

    Attributes
    ----------
    folder
        Theirs.
    labels
        Maps made: ``half1``, ``half2`` if there are half sets, and ``merged``.
    cropped
        Whether maps of the whole box are written, too.
    note
        Whether the command is noted.
    page
        Whether a page with pictures is written.
    """

    folder: Path
    labels: tuple[str, ...]
    cropped: bool
    note: bool
    page: bool

    def map(self, label: str) -> Path:
        """A map as it is wanted."""
        return self.folder / f"{label}.mrc"

    def full(self, label: str) -> Path:
        """A map of the whole box, not tapered."""
        return self.folder / f"{label}_full.mrc"

    def side(self, name: str, label: str) -> Path:
        """Numerator or weights of a map."""
        return self.folder / f"{'weight' if name == WEIGHTS else name}_{label}.mrc"

    @property
    def merged(self) -> Path:
        """The map of all particles."""
        return self.map("merged")

    @property
    def fsc_table(self) -> Path:
        """Half-map FSC as STAR."""
        return self.folder / "fsc.star"

    @property
    def fsc_plot(self) -> Path:
        """Half-map FSC as a picture."""
        return self.folder / "fsc.png"

    @property
    def tomograms(self) -> Path:
        """What each tomogram gave."""
        return self.folder / "tomograms.star"

    @property
    def report(self) -> Path:
        """Facts and pictures."""
        return self.folder / "report.html"

    @property
    def manifest(self) -> Path:
        """What was done."""
        return self.folder / "manifest.json"

    @property
    def note_file(self) -> Path:
        """The command line."""
        return self.folder / "note.txt"

    def all(self) -> tuple[Path, ...]:
        """Every file."""
        maps = [self.map(label) for label in self.labels]
        full = [self.full(label) for label in self.labels] if self.cropped else []
        sides = [self.side(name, label) for label in self.labels for name in (DATA, WEIGHTS)]
        curves = [self.fsc_table, self.fsc_plot] if len(self.labels) > 1 else []
        page = [self.report] if self.page else []
        note = [self.note_file] if self.note else []
        return (*maps, *full, *sides, *curves, self.tomograms, *page, self.manifest, *note)


def plan_tomo_outputs(settings: TomoSettings, halves: bool, cropped: bool) -> TomoOutputs:
    """Names of all files.

    Raises
    ------
    ParameterError
        If the folder has no name.
    OutputExistsError
        If one of them exists and neither --force nor a way to resume was given.
    ResourceError
        If the folder cannot be made.
    """
    folder = settings.output
    if not folder.name:
        raise ParameterError(f"--o {folder}: give the name of a folder to write to")
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"--o {folder}: is a file; give the name of a folder")
    above = folder.absolute().parent
    if not folder.exists() and not above.is_dir():
        raise ResourceError(f"--o {folder}: folder {above} does not exist; create it first")
    labels = ("half1", "half2", "merged") if halves else ("merged",)
    outputs = TomoOutputs(folder, labels, cropped, settings.note, settings.report)
    there = [path for path in outputs.all() if path.exists()]
    # killed while outputs got their names, the manifest last
    begun = settings.resume != "no" and not outputs.manifest.exists()
    if there and not settings.force and not begun:
        raise OutputExistsError(f"{there[0]}: exists already; give another --o, or --force to replace it")
    return outputs


@dataclass(frozen=True, slots=True)
class SideWriter:
    """Writes numerator and weights of every map as soon as it is finished.

    Attributes
    ----------
    reconstructor
        Who made the sums.
    outputs, writer, voxel_size_angst
        Where to, by whom.
    stage
        From a final name to the name to write.
    """

    reconstructor: Reconstructor
    outputs: TomoOutputs
    writer: Writer
    voxel_size_angst: float
    stage: Callable[[Path], Path]

    def sides(self, label: str, data: FloatArray, sums: Sums, context: PassContext) -> dict[str, FloatArray]:
        """Numerator (n, n, n) in real space, and the cube of weights."""
        weights = self.reconstructor.weight_map(sums, context).data
        numerator = self.reconstructor.data_map(sums, context)
        if numerator is None:
            numerator = numerator_of(data, weights, context.wiener_snr)
        return {DATA: numerator, WEIGHTS: weight_cube(weights)}

    def keep(self, label: str, sides: dict[str, FloatArray]) -> None:
        """Write them."""
        for name, data in sides.items():
            path = self.stage(self.outputs.side(name, label))
            self.writer.write_volume(path, Volume(data, self.voxel_size_angst), VolumeOptions())


def numerator_of(data: FloatArray, weights: FloatArray, wiener_snr: float | None) -> FloatArray:
    """The map before it was divided by its weights: what gives this map when divided by them.

    Parameters
    ----------
    data
        (n, n, n) the map, centred.
    weights
        (n, n, n // 2 + 1) as in :class:`centralslice.abc.reconstructor.WeightMap`.
    wiener_snr
        If not None, ``1 / wiener_snr`` was added to the weights.
    """
    size = len(data)
    spectrum = scipy.fft.rfftn(np.fft.ifftshift(data))
    added = 0.0 if wiener_snr is None else 1 / wiener_snr
    spectrum *= np.fft.ifftshift(weights, axes=(0, 1)) + added
    result: FloatArray = np.fft.fftshift(scipy.fft.irfftn(spectrum, s=(size,) * 3, overwrite_x=True))
    return result.astype(data.dtype, copy=False)


def written_maps(
    outputs: TomoOutputs, maps: Mapping[str, FloatArray], settings: TomoSettings, size: int
) -> dict[Path, FloatArray]:
    """File to map: cropped and tapered, and the whole box if it was cropped; RELION's crop with --compat relion."""
    files: dict[Path, FloatArray] = {}
    for label, data in maps.items():
        if outputs.cropped:
            files[outputs.full(label)] = data
        cut = crop_centre(data, size, settings.compat_relion) if outputs.cropped else data
        files[outputs.map(label)] = taper(cut, settings.taper) if settings.taper > 0 else cut
    return files


def tomogram_table(selection: TiltSelection) -> dict[str, np.ndarray]:
    """One row a tomogram that gave something: particles, and windows in all and of each half set."""
    particles = selection.particles
    numbers = particles.series_number
    rows = np.unique(numbers)
    count = len(particles.series)

    def windows(chosen: np.ndarray) -> np.ndarray:
        sums = np.bincount(numbers[chosen], selection.counts[chosen], minlength=count)
        return sums.astype(np.int64)[rows]

    return {
        "rlnTomoName": np.array([particles.series[number].name for number in rows]),
        "rlnTomoFrameCount": np.array([len(particles.series[number]) for number in rows]),
        "centralsliceParticles": np.bincount(numbers, minlength=count)[rows],
        "centralsliceWindows": windows(np.arange(len(numbers))),
        "centralsliceWindowsHalf1": windows(np.flatnonzero(particles.half_set == 1)),
        "centralsliceWindowsHalf2": windows(np.flatnonzero(particles.half_set == 2)),
    }


def read_fsc_mask(settings: TomoSettings, size: int, registry: Registry) -> FloatArray | None:
    """The mask of ``--fsc``, or None.

    Raises
    ------
    ParameterError
        If it has not the box of the maps, or values that are not finite numbers.
    """
    path = settings.fsc_mask
    if path is None:
        return None
    if not path.is_file():
        raise FileMissingError(f"--fsc: {path} does not exist")
    data: FloatArray = registry.reader_for(path, "volume").read_volume(path).data
    if data.shape != (size,) * 3:
        got = "×".join(map(str, reversed(data.shape)))
        raise ParameterError(f"--fsc: {path} has {got} voxels; expected {size}×{size}×{size} as the maps")
    if not np.all(np.isfinite(data)) or not np.any(data):
        raise ParameterError(f"--fsc: {path} is zero everywhere or has values that are not finite numbers")
    return data
