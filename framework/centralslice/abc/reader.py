"""The reader contract: particle metadata, image stacks and maps from files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from centralslice.data.images import ImageStack
from centralslice.data.particles import OpticsGroup, Particles
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.data.tilt_series import TiltParticles
from centralslice.data.volume import Volume
from centralslice.errors import FormatError

ShiftConvention = Literal["projection", "recentre"]
#: What was done to IMOD's reconstruction before particles were picked: ``trimvol -rx``, ``trimvol -yz``, nothing.
VolumeFlip = Literal["rx", "yz", "none"]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """How particle metadata are to be read.

    Attributes
    ----------
    path
        Metadata file, or the image stack itself where that carries the metadata.
    image_dir
        Folder in which to look for image files, or None.
    tilt_angles
        Plain file of tilt angles that goes with an image stack (``--tlt``), or None.
    shift_convention
        How header shifts of EMAN2 HDF files are meant: ``projection`` (the pose's shift) or
        ``recentre`` (the shift that would centre the image, its negative). Other formats say it themselves.
    """

    path: Path
    image_dir: Path | None = None
    tilt_angles: Path | None = None
    shift_convention: ShiftConvention = "projection"


@dataclass(frozen=True, slots=True)
class AlignedSeries:
    """One tilt series that was aligned outside RELION, and the particles in its tomogram.

    Attributes
    ----------
    images
        The stack as it was recorded, not aligned.
    alignment
        IMOD's transforms (.xf) or AreTomo's alignment (.aln).
    coordinates
        The particles: STAR, or columns x y z [rot tilt psi].
    size
        (x, y, z) of the tomogram in unbinned pixels, y along the tilt axis.
    microscope
        Pixel size of the images, Å; voltage 0 if no CTF is wanted.
    hand
        ±1, as RELION's ``rlnTomoHand``.
    tilt_angles, x_tilts, tilt_command
        IMOD's .tlt, .xtilt and tilt.com, or None.
    defocus
        Defocus of each tilt: CTFFIND's table or IMOD's .defocus file, or None.
    doses
        Dose in e/Å² before each tilt, one a line, or None.
    dose_per_tilt, tilt_order
        Instead of ``doses``: e/Å² of one tilt, and SerialEM's .mdoc or each tilt's place in time, one a line.
    coordinate_binning
        Unbinned pixels in a pixel that coordinates are in.
    first_pixel
        (x, y, z) coordinates of the centre of the tomogram's first pixel.
    flip
        How the tomogram lies that coordinates are of.
    """

    images: Path
    alignment: Path
    coordinates: Path
    size: tuple[int, int, int]
    microscope: OpticsGroup
    hand: float = -1.0
    tilt_angles: Path | None = None
    x_tilts: Path | None = None
    tilt_command: Path | None = None
    defocus: Path | None = None
    doses: Path | None = None
    dose_per_tilt: float | None = None
    tilt_order: Path | None = None
    coordinate_binning: float = 1.0
    first_pixel: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flip: VolumeFlip = "rx"

    def files(self) -> tuple[Path, ...]:
        """Every file that is given, the images apart."""
        named = (
            self.alignment, self.coordinates, self.tilt_angles, self.x_tilts, self.tilt_command, self.defocus,
            self.doses, self.tilt_order,
        )  # fmt: skip
        return tuple(path for path in named if path is not None)


@dataclass(frozen=True, slots=True)
class TiltReadRequest:
    """How particles in tilt series are to be read.

    Attributes
    ----------
    path
        Optimisation set, or the particles where there is none; with ``series`` its alignment.
    particles, tomograms, trajectories
        Files that are taken instead of those that an optimisation set names, or None.
    base
        Folder that relative paths in the files start from, beside the folder of the file itself; None: the
        working directory.
    series
        One tilt series with an alignment of its own, instead of a project, or None.
    """

    path: Path
    particles: Path | None = None
    tomograms: Path | None = None
    trajectories: Path | None = None
    base: Path | None = None
    series: AlignedSeries | None = None


class Reader(ABC):
    """Reads one file format.

    ``capabilities`` says what of: ``particles``, ``tilt_particles``, ``images``, ``volume``, ``refinement``.
    A ``refinement`` may be a folder.
    """

    plugin_name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]
    #: Whether shifts in this format are ambiguous and --shift-convention applies.
    ambiguous_shifts: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether this reader is the one for the (existing) file: by content first, by suffix otherwise."""

    def read_particles(self, request: ReadRequest) -> Particles:
        """Read particle metadata; raises FormatError or FileMissingError naming file and row."""
        raise FormatError(f"{request.path}: {self.plugin_name} files hold no particle metadata")

    def read_tilt_particles(self, request: TiltReadRequest) -> TiltParticles:
        """Read particles in tilt series; raises FormatError or FileMissingError naming file and row."""
        raise FormatError(f"{request.path}: {self.plugin_name} files hold no particles in tilt series")

    def read_refinement(self, path: Path, request: SourceRequest) -> SubparticleSource:
        """Read a finished refinement; raises FormatError, FileMissingError or ParameterError, naming the file.

        Maps and masks are only named; the caller checks them against the particles.
        """
        raise FormatError(f"{path}: {self.plugin_name} files hold no refinement")

    def open_images(self, path: Path) -> ImageStack:
        """Open an image stack after checking its header against the file; raises FormatError."""
        raise FormatError(f"{path}: {self.plugin_name} files hold no images")

    def read_volume(self, path: Path) -> Volume:
        """Read a map; raises FormatError."""
        raise FormatError(f"{path}: {self.plugin_name} files hold no map")
