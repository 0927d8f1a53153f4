"""What a simulated tomography project is made of: numbers, checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup
from centralslice.errors import ParameterError
from centralslice.optics.aberrations import with_beam_tilt

#: How tilt images can be stored.
StoredAs: TypeAlias = Literal["float32", "float16", "int16"]
#: A problem, and whether it is there.
Check: TypeAlias = tuple[str, bool]
_MOST_TILTS = 10000


@dataclass(frozen=True, slots=True)
class TomoContent:
    """How much there is, how large it is, and where the particles are.

    Attributes
    ----------
    tomograms, particles
        Tomograms, and particles in each.
    image_size, tomogram_size
        (nx, ny) of the tilt images, (x, y, z) of the tomograms, unbinned pixels, even or odd.
    box_size
        Of the true map.
    pixel_size_angst
        Of the first optics group and of the true map.
    max_origin_angst
        Origins (refined offsets) are uniform in ± this along each axis.
    subtomogram_angles
        Whether the orientations are split at random into subtomogram angles and particle angles.
    motion_angst
        Root mean square displacement of a particle by the end of its series; 0: no motion.
    half_sets
        Deal the particles of each tomogram at random to two half sets.
    """

    tomograms: int = 2
    particles: int = 40
    image_size: tuple[int, int] = (512, 512)
    tomogram_size: tuple[int, int, int] = (512, 512, 128)
    box_size: int = 64
    pixel_size_angst: float = 4.0
    max_origin_angst: float = 0.0
    subtomogram_angles: bool = False
    motion_angst: float = 0.0
    half_sets: bool = True

    def checks(self) -> Iterator[Check]:
        """What must not be, and whether it is."""
        yield f"number of tomograms must be 1 or more, got {self.tomograms}", self.tomograms < 1
        yield f"particles in a tomogram must be 1 or more, got {self.particles}", self.particles < 1
        yield f"box must be 4 or more pixels, got {self.box_size}", self.box_size < 4
        yield f"pixel size must be more than 0 Å, got {self.pixel_size_angst}", self.pixel_size_angst <= 0
        yield f"tilt images must be 16 × 16 pixels or more, got {self.image_size}", min(self.image_size) < 16
        yield f"tomograms must be 1 pixel or more, got {self.tomogram_size}", min(self.tomogram_size) < 1
        yield f"origins must be 0 Å or more, got {self.max_origin_angst}", self.max_origin_angst < 0
        yield f"motion must be 0 Å or more, got {self.motion_angst}", self.motion_angst < 0


@dataclass(frozen=True, slots=True)
class TiltScheme:
    """How the stage is tilted.

    Attributes
    ----------
    angle_range_deg, step_deg
        First and last angle about y, and the step between.
    random_directions
        Number of random directions (uniform over all orientations) instead of a tilt series; None: a series.
    x_tilt_deg, axis_deg
        Tilt about x, and rotation of the tilt axis in the image.
    jitter_deg
        The three angles of each tilt differ from these by up to ± this.
    max_shift_angst
        Images are shifted by up to ± this along x and y.
    hand
        ±1, sign of the change of defocus with depth.
    hidden
        Tilts of each series that no particle is to use: their images are loud noise.
    """

    angle_range_deg: tuple[float, float] = (-60.0, 60.0)
    step_deg: float = 3.0
    random_directions: int | None = None
    x_tilt_deg: float = 0.0
    axis_deg: float = 85.0
    jitter_deg: float = 0.0
    max_shift_angst: float = 0.0
    hand: int = -1
    hidden: int = 0

    def nominal_angles(self) -> FloatArray:
        """(f,) float64 angles about y, ascending; zeros for random directions."""
        if self.random_directions is not None:
            return np.zeros(self.random_directions)
        low, high = self.angle_range_deg
        return low + self.step_deg * np.arange(math.floor((high - low) / self.step_deg + 1e-6) + 1)

    def checks(self) -> Iterator[Check]:
        """What must not be, and whether it is."""
        low, high = self.angle_range_deg
        yield f"tilts must be from low to high within ±90°, got {low} … {high}", not -90 <= low <= high <= 90
        yield f"tilt step must be more than 0°, got {self.step_deg}", self.step_deg <= 0
        tilts = self.random_directions
        if tilts is None:
            yield f"more than {_MOST_TILTS} tilts", high - low > _MOST_TILTS * self.step_deg
        else:
            yield f"random directions must be 1 … {_MOST_TILTS}, got {tilts}", not 1 <= tilts <= _MOST_TILTS
        yield f"tilt jitter must be 0° or more, got {self.jitter_deg}", self.jitter_deg < 0
        yield f"tilt shifts must be 0 Å or more, got {self.max_shift_angst}", self.max_shift_angst < 0
        yield f"hand must be 1 or -1, got {self.hand}", self.hand not in (1, -1)

    def late_checks(self) -> Iterator[Check]:
        """Those that need the others to be passed."""
        count = len(self.nominal_angles())
        wrong = not 0 <= self.hidden < count
        yield f"hidden tilts must be 0 … {count - 1} (of {count} tilts), got {self.hidden}", wrong


@dataclass(frozen=True, slots=True)
class TomoOptics:
    """The microscope and what it does to the images.

    Attributes
    ----------
    defocus_range_angst
        Mean defocus of a series is uniform between the two, Å underfocus; None: no CTF at all.
    astigmatism_angst, phase_shift_deg, bfactor_angst2
        As in :class:`centralslice.jobs.simulate.particles.SimulationSettings`, for each tilt.
    defocus_slope
        Multiplies the change of defocus with depth.
    dose_per_tilt
        e/Å²; the tilts nearest to 0 are taken first, on alternating sides.
    bfactor_per_dose
        Å² per e/Å² of radiation damage; 0: the exposure curve of Grant and Grigorieff.
    voltages_kv
        One for all optics groups, or one for each.
    spherical_aberration_mm, amplitude_contrast, beam_tilt_mrad, odd_zernike, even_zernike
        Of all groups; a beam tilt is written as odd Zernike coefficients.
    groups
        Number of optics groups; tomograms belong to them in turn.
    pixel_ratio
        Pixel size of each group over that of the one before.
    """

    defocus_range_angst: tuple[float, float] | None = (20000.0, 40000.0)
    astigmatism_angst: float = 0.0
    phase_shift_deg: float = 0.0
    bfactor_angst2: float = 0.0
    defocus_slope: float = 1.0
    dose_per_tilt: float = 3.0
    bfactor_per_dose: float = 0.0
    voltages_kv: tuple[float, ...] = (300.0,)
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    groups: int = 1
    pixel_ratio: float = 1.0

    def optics(self, pixel_size_angst: float) -> tuple[OpticsGroup, ...]:
        """The optics groups; ``pixel_size_angst`` is that of the first."""
        return tuple(self._group(number, pixel_size_angst) for number in range(self.groups))

    def _group(self, number: int, pixel_size_angst: float) -> OpticsGroup:
        group = OpticsGroup(
            name=f"opticsGroup{number + 1}",
            pixel_size_angst=pixel_size_angst * self.pixel_ratio**number,
            voltage_kv=self.voltages_kv[number % len(self.voltages_kv)],
            spherical_aberration_mm=self.spherical_aberration_mm,
            amplitude_contrast=self.amplitude_contrast,
            beam_tilt_mrad=self.beam_tilt_mrad,
            odd_zernike=self.odd_zernike,
            even_zernike=self.even_zernike,
        )
        values = {entry.name: getattr(group, entry.name) for entry in fields(group)}
        return OpticsGroup(**values | {"odd_zernike": with_beam_tilt(group), "beam_tilt_mrad": (0.0, 0.0)})

    def checks(self) -> Iterator[Check]:
        """What must not be, and whether it is."""
        low, high = self.defocus_range_angst or (0.0, 0.0)
        yield f"defocus must be a range from low to high, got {low} … {high}", low > high
        yield f"astigmatism must be 0 Å or more, got {self.astigmatism_angst}", self.astigmatism_angst < 0
        yield f"dose must be 0 e/Å² or more, got {self.dose_per_tilt}", self.dose_per_tilt < 0
        yield f"dose B factor must be 0 or more, got {self.bfactor_per_dose}", self.bfactor_per_dose < 0
        yield f"optics groups must be 1 or more, got {self.groups}", self.groups < 1
        yield f"pixel ratio must be more than 0, got {self.pixel_ratio}", self.pixel_ratio <= 0
        yield f"voltages must be more than 0 kV, got {self.voltages_kv}", min(self.voltages_kv) <= 0
        wrong = len(self.voltages_kv) not in (1, self.groups)
        yield f"voltages must be one, or one for each of {self.groups} optics groups", wrong
        contrast = self.amplitude_contrast
        yield f"amplitude contrast must be 0 … 1, got {contrast}", not 0 <= contrast <= 1
        extra = (
            self.astigmatism_angst, self.phase_shift_deg, self.bfactor_angst2, *self.even_zernike,
            self.defocus_slope - 1,
        )  # fmt: skip
        yield (
            "astigmatism, phase shift, B factor, even Zernike coefficients and a defocus slope need a CTF; "
            "give a defocus",
            self.defocus_range_angst is None and any(extra),
        )


@dataclass(frozen=True, slots=True)
class TomoImages:
    """What is added to the images, and how they are stored.

    Attributes
    ----------
    snr
        Mean variance of noise-free particles (CTF and damage applied, in windows of the true map's size, at
        up to 100 particles and tilts of the first tomogram) over that of the white noise; None: no noise.
    background, gradient
        Constant, and its change from edge to edge across the tilt axis, in units of the images.
    stored_as
        float32; float16; or int16, for which values are multiplied by a power of two.
    """

    snr: float | None = None
    background: float = 0.0
    gradient: float = 0.0
    stored_as: StoredAs = "float32"

    def checks(self) -> Iterator[Check]:
        """What must not be, and whether it is."""
        yield f"SNR must be more than 0, got {self.snr}", self.snr is not None and not self.snr > 0


@dataclass(frozen=True, slots=True)
class TomoSettings:
    """A project.

    Attributes
    ----------
    content, scheme, optics, images
        Its parts.
    seed
        Of everything random; each tilt image depends on the seed and its place only.
    relion4
        Write RELION 4 tables: projection matrices of all series in one file, coordinates in pixels.

    Raises
    ------
    ParameterError
        If anything is out of range or does not go together.
    """

    content: TomoContent = field(default_factory=TomoContent)
    scheme: TiltScheme = field(default_factory=TiltScheme)
    optics: TomoOptics = field(default_factory=TomoOptics)
    images: TomoImages = field(default_factory=TomoImages)
    seed: int = 0
    relion4: bool = False

    def __post_init__(self) -> None:
        for problem, wrong in self._checks():
            if wrong:
                raise ParameterError(f"simulation: {problem}")

    def _checks(self) -> Iterator[Check]:
        parts: tuple[Any, ...] = (self.content, self.scheme, self.optics, self.images)
        for part in parts:
            for entry in fields(part):
                values = np.atleast_1d(getattr(part, entry.name))
                wrong = values.dtype.kind == "f" and not np.isfinite(values).all()
                yield f"{entry.name.replace('_', ' ')}: every number must be finite", wrong
            yield from part.checks()
        yield from self.scheme.late_checks()
        yield f"seed must be 0 or more, got {self.seed}", self.seed < 0
        few = self.content.tomograms < self.optics.groups
        yield f"{self.optics.groups} optics groups need as many tomograms or more", few

    @property
    def groups(self) -> tuple[OpticsGroup, ...]:
        """The optics groups."""
        return self.optics.optics(self.content.pixel_size_angst)
