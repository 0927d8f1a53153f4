"""The reader contract: particle metadata, image stacks and maps from files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from centralslice.data.images import ImageStack
from centralslice.data.particles import Particles
from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.data.tilt_series import TiltParticles
from centralslice.data.volume import Volume
from centralslice.errors import FormatError

ShiftConvention = Literal["projection", "recentre"]


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
class TiltReadRequest:
    """How particles in tilt series are to be read.

    Attributes
    ----------
    path
        Optimisation set, or the particles where there is none.
    particles, tomograms, trajectories
        Files that are taken instead of those that an optimisation set names, or None.
    base
        Folder that relative paths in the files start from, beside the folder of the file itself; None: the
        working directory.
    """

    path: Path
    particles: Path | None = None
    tomograms: Path | None = None
    trajectories: Path | None = None
    base: Path | None = None


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
