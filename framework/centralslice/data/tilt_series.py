"""Tilt series and the particles in them as plain arrays: what was recorded, how it is aligned, who sits where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup

#: Kinds of image deformation, by their names in tilt-series tables.
DeformationKind: TypeAlias = Literal["linear", "spline", "Fourier"]


@dataclass(frozen=True, slots=True)
class Deformation:
    """How the images of a tilt series are bent: the position c of a particle is found at c + d(c).

    Attributes
    ----------
    kind
        Model of d.
    grid
        (x, y) size of its grid.
    coefficients
        (f, m) float64, one row a tilt.
    """

    kind: DeformationKind
    grid: tuple[int, int]
    coefficients: FloatArray


@dataclass(frozen=True, slots=True)
class TiltSeries:
    """One tilt series, f tilts in the order of its table.

    Attributes
    ----------
    name
        The tomogram's name.
    source
        The file with the tilts' rows, for messages.
    image_files
        Files that hold the tilt images; empty if there are only extracted particles.
    file_number, image_number
        (f,) int64: index into ``image_files``, and 0-based image in that file.
    image_size
        (nx, ny) of every tilt image in pixels.
    pixel_size_angst
        Unbinned pixel, Å; every length in pixels below is of this pixel.
    size
        (x, y, z) of the tomogram in pixels.
    projections
        (f, 4, 4) float64: homogeneous 0-based tomogram pixel to 0-based tilt image pixel; row 2 is the depth.
    tilt_angles_deg
        (f,) float64, angle of the stage, 0 where nothing says it.
    hand
        ±1: sign of the change of defocus with depth.
    defocus_slope
        Multiplies the depth's change of defocus.
    ctf
        (f,) CTF parameters of each tilt at the tomogram's centre.
    dose
        (f,) float64, e/Å² accumulated before each tilt.
    bfactor_per_dose
        Å² per e/Å²; more than 0 replaces the exposure filter's curve.
    optics
        The microscope; its pixel size is that of the series.
    deformation
        Of the images, or None.
    """

    name: str
    source: Path
    image_files: tuple[Path, ...]
    file_number: IntArray
    image_number: IntArray
    image_size: tuple[int, int]
    pixel_size_angst: float
    size: tuple[int, int, int]
    projections: FloatArray
    tilt_angles_deg: FloatArray
    hand: float
    defocus_slope: float
    ctf: ContrastTransfer
    dose: FloatArray
    bfactor_per_dose: float
    optics: OpticsGroup
    deformation: Deformation | None = None

    def __len__(self) -> int:
        return len(self.projections)

    @property
    def centre(self) -> FloatArray:
        """(3,) centre of the tomogram in pixels: half its size, not rounded."""
        return np.array(self.size, np.float64) / 2


@dataclass(frozen=True, slots=True)
class TiltParticles:
    """Particles in tilt series, one row a particle.

    Attributes
    ----------
    source
        The metadata file.
    series
        The tilt series that have particles.
    series_number
        (n,) int64, index into ``series``.
    names
        (n,) str, ``rlnTomoParticleName``.
    positions
        (n, 3) float64, centre of each particle in 0-based unbinned pixels of its tomogram, origins applied.
    rotations
        (n, 3, 3) float64: map coordinates to tomogram axes. The pose in tilt f is
        ``projections[f, :3, :3] @ rotation``.
    optics, optics_group
        As in :class:`centralslice.data.particles.Particles`; the pixel size is the unbinned one, unless the
        images are extracted already, when it is theirs.
    half_set
        (n,) int8: 0 none, 1, 2.
    source_row
        (n,) int64, 0-based row of the metadata file.
    tilt_start
        (n,) int64, where a particle's per-tilt values begin in ``visible`` and ``motion``; they are as many
        as its series has tilts.
    visible
        (m,) bool, whether the metadata want the particle's tilt used, or None: they say nothing.
    motion
        (m, 3) float32, Å along the tomogram's axes, added to the position, or None.
    stack_files, stack_number
        Files of extracted 2D stacks, and (n,) int64 index of each particle's; () and None if windows are to be
        cut. Such images are CTF·dose-multiplied and their contrast is inverted already.
    columns, optics_columns
        The metadata's own columns.
    notes
        What the reader wants the user to know.
    """

    source: Path
    series: tuple[TiltSeries, ...]
    series_number: IntArray
    names: NDArray[Any]
    positions: FloatArray
    rotations: FloatArray
    optics: tuple[OpticsGroup, ...]
    optics_group: IntArray
    half_set: IntArray
    source_row: IntArray
    tilt_start: IntArray
    visible: BoolArray | None = None
    motion: FloatArray | None = None
    stack_files: tuple[Path, ...] = ()
    stack_number: IntArray | None = None
    columns: dict[str, NDArray[Any]] | None = None
    optics_columns: dict[str, NDArray[Any]] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, chosen: IntArray | BoolArray) -> TiltParticles:
        """The chosen particles (index or boolean array), in that order; per-tilt values stay where they are."""
        per_row = (
            "series_number", "names", "positions", "rotations", "optics_group", "half_set", "source_row",
            "tilt_start",
        )  # fmt: skip
        changed: dict[str, Any] = {name: getattr(self, name)[chosen] for name in per_row}
        if self.stack_number is not None:
            changed["stack_number"] = self.stack_number[chosen]
        if self.columns is not None:
            changed["columns"] = {name: column[chosen] for name, column in self.columns.items()}
        return replace(self, **changed)

    def tilts_of(self, row: int) -> slice:
        """Where the per-tilt values of a particle are."""
        first = int(self.tilt_start[row])
        return slice(first, first + len(self.series[self.series_number[row]]))
