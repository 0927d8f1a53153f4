"""RELION's table of tomograms and the tables of their tilts as :class:`TiltSeries`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.errors import FormatError
from centralslice_plugins.formats import relion_tomo_tilts as tilts
from centralslice_plugins.formats.relion_tomo_files import FileFinder
from centralslice_plugins.formats.relion_tomo_images import TiltImages, tilt_images
from centralslice_plugins.formats.star import StarFile, StarTable, read_star

PIXEL = "rlnTomoTiltSeriesPixelSize"
#: What a tomogram's row and an optics row both say, and the least and largest allowed value.
MICROSCOPE = {
    "rlnVoltage": (1e-3, 1e4),
    "rlnSphericalAberration": (-1e3, 1e3),
    "rlnAmplitudeContrast": (0.0, 1.0),
}
_SIZE = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
_TILTS = "rlnTomoTiltSeriesStarFile"
_LARGEST_SIDE = 1 << 20


@dataclass(frozen=True, slots=True)
class Tomograms:
    """The table of tomograms, checked.

    Attributes
    ----------
    file
        Its whole file; RELION 4's has the tilts of each tomogram too.
    table
        One row a tomogram.
    names
        Name to row.
    pixel_angst
        (rows,) unbinned pixel sizes.
    microscope
        Label to (rows,) values, of :data:`MICROSCOPE`.
    """

    file: StarFile
    table: StarTable
    names: dict[str, int]
    pixel_angst: FloatArray
    microscope: dict[str, FloatArray]

    def group_name(self, row: int) -> str:
        """Name of the row's optics group: its own, or the tomogram's."""
        label = "rlnOpticsGroupName" if "rlnOpticsGroupName" in self.table else "rlnTomoName"
        return str(self.table.texts(label)[row])


def tomogram_table(file: StarFile) -> Tomograms:
    """Check the table of tomograms.

    Raises
    ------
    FormatError
        If there is none, a column that is needed lacks, a name is there twice or a value cannot be.
    """
    table = file.find("global") or next(
        (table for table in file.tables if "rlnTomoName" in table and PIXEL in table), None
    )
    if table is None or "rlnTomoName" not in table:
        raise FormatError(
            f"{file.path}: expected a table of tomograms (block data_global with _rlnTomoName), got blocks "
            f"{file.block_names()}"
        )
    names: dict[str, int] = {}
    for row, name in enumerate(table.texts("rlnTomoName").tolist()):
        if names.setdefault(name, row) != row:
            raise FormatError(f"{table.where(row)}: tomogram '{name}' is there twice")
    pixel = _within(table, PIXEL, (1e-3, 1e4))
    microscope = {label: _within(table, label, limits) for label, limits in MICROSCOPE.items()}
    return Tomograms(file, table, names, pixel, microscope)


def _within(table: StarTable, label: str, limits: tuple[float, float]) -> FloatArray:
    values = table.numbers(label)
    wrong = ~((values >= limits[0]) & (values <= limits[1]))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(
            f"{table.where(row)}: _{label}: expected {limits[0]:g} to {limits[1]:g}, got {values[row]:g}"
        )
    return values


@dataclass(slots=True)
class SeriesReader:
    """Makes tilt series of rows of the table of tomograms.

    Attributes
    ----------
    tomograms
        The table.
    finder
        Finds files.
    centred
        Particles' coordinates are from the tomogram's centre, so that its size may be unknown.
    extracted
        Particles' images are extracted, so that tilt images may be gone.
    without_images, without_size, overridden
        Names of series that turned out to be so.
    """

    tomograms: Tomograms
    finder: FileFinder
    centred: bool
    extracted: bool
    without_images: list[str] = field(default_factory=list)
    without_size: list[str] = field(default_factory=list)
    overridden: list[str] = field(default_factory=list)
    _blocks: dict[str, StarTable] | None = None
    _files: dict[Path, dict[str, StarTable]] = field(default_factory=dict)

    def read(self, row: int) -> TiltSeries:
        """The series of one tomogram.

        Raises
        ------
        FormatError, FileMissingError
            Naming file, row and column.
        """
        table = self.tomograms.table
        rows = self._tilts(row)
        images = self._images(row, rows)
        name, pixel = str(table.texts("rlnTomoName")[row]), float(self.tomograms.pixel_angst[row])
        by_matrices = tilts.has_matrices(rows)
        size = self._size(row, by_matrices)
        if by_matrices:
            projections = tilts.matrices(rows)
            if not self.extracted and not projections[:, :3, 3].any():
                raise FormatError(
                    f"{rows.source}: block '{rows.block}': the matrices _rlnTomoProjX … W only turn and shift "
                    "nothing (as in WarpTools' exports): where particles are in tilt images is not known; use "
                    "extracted 2D stacks"
                )
            if tilts.has_angles(rows):
                self.overridden.append(name)
        else:
            projections = tilts.matrices_of_angles(rows, pixel, images.size, size)
        hand = tilts.finite_numbers(table, "rlnTomoHand")[row]
        if abs(hand) != 1:
            raise FormatError(f"{table.where(row)}: _rlnTomoHand: expected 1 or -1, got {hand:g}")
        return TiltSeries(
            name=name,
            source=rows.source,
            image_files=images.files,
            file_number=images.file_number,
            image_number=images.image_number,
            image_size=images.size,
            pixel_size_angst=pixel,
            size=size,
            projections=projections,
            tilt_angles_deg=tilts.stage_angles(rows, projections),
            hand=float(hand),
            defocus_slope=float(tilts.finite_numbers(table, "rlnTomoDefocusSlope", 1.0)[row]),
            ctf=tilts.tilt_contrast(rows),
            dose=tilts.tilt_doses(rows),
            bfactor_per_dose=float(tilts.finite_numbers(table, "rlnCtfBfactorPerElectronDose", 0.0)[row]),
            optics=self._optics(row, pixel),
            deformation=tilts.deformation(table, row, rows),
        )

    def notes(self) -> list[str]:
        """What was taken for granted of all series read."""
        source = self.tomograms.file.path
        found = []
        if self.overridden:
            found.append(
                f"{source}: {_some(self.overridden)}: tilts have matrices (_rlnTomoProjX … W) and angles: the "
                "matrices are used"
            )
        if self.without_size:
            found.append(
                f"{source}: {_some(self.without_size)}: no tomogram size is given: coordinates are taken from the "
                "centre, which maps to the middle of the untilted image"
            )
        if self.without_images:
            found.append(
                f"{source}: {_some(self.without_images)}: tilt images are not there; extracted stacks do without"
            )
        return found

    def _tilts(self, row: int) -> StarTable:
        """The table of a tomogram's tilts, from a file of its own or from a block of the tomograms' file."""
        table = self.tomograms.table
        block = str(table.texts("rlnTomoName")[row])
        named = str(table.texts(_TILTS)[row]) if _TILTS in table else ""
        if named:
            path = self.finder.find(named, table.source, f"_{_TILTS}")
            if path not in self._files:
                self._files[path] = read_star(path).by_block()
            blocks = self._files[path]
        else:
            if self._blocks is None:
                self._blocks = self.tomograms.file.by_block()
            path, blocks = table.source, self._blocks
        if block not in blocks:
            shown = ", ".join(f"data_{name}" for name in list(blocks)[:6])
            raise FormatError(
                f"{path}: no block data_{block} with the tilts of that tomogram (blocks: {shown})"
            )
        rows = blocks[block]
        if not len(rows):
            raise FormatError(f"{path}: block '{block}' holds no tilts")
        if "rlnTomoFrameCount" in table and table.integers("rlnTomoFrameCount")[row] != len(rows):
            raise FormatError(
                f"{table.where(row)}: _rlnTomoFrameCount says {table.integers('rlnTomoFrameCount')[row]} tilts, "
                f"{path}, block '{block}' has {len(rows)}"
            )
        return rows

    def _images(self, row: int, rows: StarTable) -> TiltImages:
        table = self.tomograms.table
        images = tilt_images(table, row, rows, self.finder, required=not self.extracted)
        if not images.files:
            self.without_images.append(str(table.texts("rlnTomoName")[row]))
        return images

    def _size(self, row: int, by_matrices: bool) -> tuple[int, int, int]:
        """(x, y, z) of the tomogram; (0, 0, 0) where coordinates are from its centre and nothing else needs it."""
        table = self.tomograms.table
        if all(label in table for label in _SIZE):
            x, y, z = (int(table.integers(label)[row]) for label in _SIZE)
            if min(x, y, z) > 0 and max(x, y, z) < _LARGEST_SIDE:
                return (x, y, z)
        name = str(table.texts("rlnTomoName")[row])
        if not self.centred or by_matrices:
            why = "_rlnTomoProjX … W" if by_matrices else "_rlnCoordinateX, Y, Z"
            raise FormatError(
                f"{table.where(row)}: tomogram '{name}' has no size ({', '.join(f'_{label}' for label in _SIZE)} "
                f"from 1), which {why} need; add it, in unbinned pixels"
            )
        self.without_size.append(name)
        return (0, 0, 0)

    def _optics(self, row: int, pixel: float) -> OpticsGroup:
        scope = {label: float(values[row]) for label, values in self.tomograms.microscope.items()}
        return OpticsGroup(
            name=self.tomograms.group_name(row),
            pixel_size_angst=pixel,
            voltage_kv=scope["rlnVoltage"],
            spherical_aberration_mm=scope["rlnSphericalAberration"],
            amplitude_contrast=scope["rlnAmplitudeContrast"],
        )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    counted = Counter(names)
    return ", ".join(list(counted)[:3]) + (f" and {len(counted) - 3} more" if len(counted) > 3 else "")
