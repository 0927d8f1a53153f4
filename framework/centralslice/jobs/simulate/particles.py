"""Simulated particles: exact projections of a known object with CTF and noise, as stack and STAR file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.images import StackPlan
from centralslice.data.particles import ContrastTransfer, OpticsGroup, Particles, make_particles
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice.geometry.eulers import matrices_to_relion
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.geometry.rotations import random_rotations
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf, slice_frequencies

#: Images whose mean variance the noise level is derived from; a fixed set, so that chunks do not matter.
NOISE_SAMPLE = 100
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """How particles are taken.

    Attributes
    ----------
    count, box_size
        Number of images and their size in pixels (even or odd).
    pixel_size_angst
        Å.
    seed
        Of poses, shifts, defocus, half sets and noise; each image depends on the seed and its number only.
    max_shift_angst
        Shifts are uniform in ± this along x and y.
    defocus_range_angst
        Mean defocus is uniform between the two, Å underfocus; None: no CTF at all.
    astigmatism_angst
        Largest difference of defocus U and V; uniform from 0, at a random angle.
    phase_shift_deg
        Phase-plate shift.
    voltage_kv, spherical_aberration_mm, amplitude_contrast, beam_tilt_mrad
        Microscope.
    bfactor_angst2
        Envelope exp(−B k² / 4), recorded as rlnCtfBfactor.
    snr
        Mean variance of the noise-free images (CTF applied, all pixels, first 100 images) over the variance
        of the white noise; None: no noise.
    half_sets
        Deal the particles at random to two half sets of equal size.
    optics_groups
        Number of equal optics groups the particles are dealt to in turn.
    """

    count: int
    box_size: int
    pixel_size_angst: float
    seed: int = 0
    max_shift_angst: float = 0.0
    defocus_range_angst: tuple[float, float] | None = (10000.0, 25000.0)
    astigmatism_angst: float = 0.0
    phase_shift_deg: float = 0.0
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    bfactor_angst2: float = 0.0
    snr: float | None = None
    half_sets: bool = True
    optics_groups: int = 1

    def __post_init__(self) -> None:
        for problem, wrong in self._checks():
            if wrong:
                raise ParameterError(f"simulation: {problem}")

    def _checks(self) -> Iterator[tuple[str, bool]]:
        """What must not be, and whether it is."""
        yield f"count must be 1 or more, got {self.count}", self.count < 1
        yield f"box must be 4 or more pixels, got {self.box_size}", self.box_size < 4
        yield f"pixel size must be more than 0 Å, got {self.pixel_size_angst}", not self.pixel_size_angst > 0
        yield f"seed must be 0 or more, got {self.seed}", self.seed < 0
        yield f"shift must be 0 Å or more, got {self.max_shift_angst}", not self.max_shift_angst >= 0
        yield f"SNR must be more than 0, got {self.snr}", self.snr is not None and not self.snr > 0
        yield f"optics groups must be 1 … {self.count}", not 1 <= self.optics_groups <= self.count
        low, high = self.defocus_range_angst or (0.0, 0.0)
        yield f"defocus must be a range from low to high, got {low} … {high}", not low <= high
        yield (
            f"astigmatism must be 0 Å or more, got {self.astigmatism_angst}",
            not self.astigmatism_angst >= 0,
        )
        without = self.defocus_range_angst is None
        extra = (
            self.bfactor_angst2 or self.astigmatism_angst or self.phase_shift_deg or any(self.beam_tilt_mrad)
        )
        yield (
            "astigmatism, phase shift, B factor and beam tilt need a CTF; give a defocus",
            without and bool(extra),
        )
        numbers = (
            low, high, self.phase_shift_deg, self.bfactor_angst2, *self.beam_tilt_mrad, self.max_shift_angst,
            self.pixel_size_angst, self.astigmatism_angst, self.spherical_aberration_mm,
        )  # fmt: skip
        yield "every number must be finite", not all(map(math.isfinite, numbers))

    def optics(self) -> tuple[OpticsGroup, ...]:
        """The optics groups."""
        return tuple(
            OpticsGroup(
                name=f"opticsGroup{number + 1}",
                pixel_size_angst=self.pixel_size_angst,
                box_size=self.box_size,
                voltage_kv=self.voltage_kv,
                spherical_aberration_mm=self.spherical_aberration_mm,
                amplitude_contrast=self.amplitude_contrast,
                beam_tilt_mrad=self.beam_tilt_mrad,
            )
            for number in range(self.optics_groups)
        )


def simulated_particles(settings: SimulationSettings, table: Path, stack: Path) -> Particles:
    """Poses, shifts, CTF parameters and half sets of all particles; a function of the settings only.

    ``table`` and ``stack`` are the files they will be in.
    """
    count = settings.count
    rng = np.random.default_rng([settings.seed, 0])
    rotations = random_rotations(count, rng)
    shifts = rng.uniform(-settings.max_shift_angst, settings.max_shift_angst, (count, 2))
    halves = rng.permutation(count) % 2 + 1 if settings.half_sets else np.zeros(count)
    numbers = np.arange(count, dtype=np.int64)
    return make_particles(
        table,
        ((stack,), np.zeros(count, np.int64), numbers),
        rotations,
        shifts_angst=shifts,
        optics=settings.optics(),
        optics_group=numbers % settings.optics_groups,
        half_set=halves.astype(np.int8),
        ctf=_ctf_parameters(settings, np.random.default_rng([settings.seed, 1])),
    )


def _ctf_parameters(settings: SimulationSettings, rng: np.random.Generator) -> ContrastTransfer | None:
    if settings.defocus_range_angst is None:
        return None
    count = settings.count
    mean = rng.uniform(*settings.defocus_range_angst, count)
    half_difference = rng.uniform(0, settings.astigmatism_angst, count) / 2
    return ContrastTransfer(
        defocus_u_angst=mean + half_difference,
        defocus_v_angst=mean - half_difference,
        defocus_angle_deg=rng.uniform(0, 180, count),
        phase_shift_deg=np.full(count, settings.phase_shift_deg),
        bfactor_angst2=np.full(count, settings.bfactor_angst2),
        scale=np.ones(count),
    )


def clean_images(phantom: GaussianPhantom, particles: Particles, chosen: IntArray) -> FloatArray:
    """Noise-free images of the chosen particles.

    Parameters
    ----------
    phantom
        The object.
    particles
        With one box and pixel size; no magnification matrix, not CTF-premultiplied.
    chosen
        (m,) row numbers.

    Returns
    -------
        (m, n, n) float64: exact projections; with CTF parameters their FFT times CTF times exp(iθ), θ the
        group's odd aberrations. The convolution is periodic in the box.

    Notes
    -----
    ``θ`` has the sign that multiplying by ``exp(−iθ)`` corrects (see optics.aberrations).
    """
    taken = particles.take(chosen)
    size, pixel = taken.optics[0].box_size, taken.optics[0].pixel_size_angst
    images = phantom.project(taken.rotations, taken.shifts_angst, size, pixel)
    if taken.ctf is None:
        return images
    for number, group in enumerate(taken.optics):
        rows = np.flatnonzero(taken.optics_group == number)
        if not len(rows):
            continue
        gamma_even, theta_odd = group_phases(group, size)
        transforms = scipy.fft.rfft2(images[rows])
        transforms *= ctf(*slice_frequencies(size, group), group, taken.ctf.take(rows), gamma_even)
        if theta_odd.any():
            transforms *= np.exp(1j * theta_odd)
        images[rows] = scipy.fft.irfft2(transforms, s=(size, size))
    return images


def noise_sigma(phantom: GaussianPhantom, particles: Particles, snr: float) -> float:
    """Standard deviation of white noise at a signal-to-noise ratio, see :class:`SimulationSettings`."""
    sample = np.arange(min(NOISE_SAMPLE, len(particles)))
    variances = [
        clean_images(phantom, particles, part).var(axis=(1, 2))
        for part in np.array_split(sample, math.ceil(len(sample) / chunk_size(particles.optics[0].box_size)))
    ]
    return float(np.sqrt(np.concatenate(variances).mean() / snr))


def chunk_size(box_size: int) -> int:
    """Images to make at a time, for about 64 MiB of working memory."""
    return max(1, _CHUNK_BYTES // (4 * 8 * box_size * box_size))


def image_chunks(
    phantom: GaussianPhantom, settings: SimulationSettings, particles: Particles
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """``(first, images)`` with images (m, n, n) float32, in order; memory is bounded.

    Raises
    ------
    ParameterError
        If the object does not fit the box.
    """
    check_fits(phantom, settings)
    return _chunks(phantom, settings, particles)


def _chunks(
    phantom: GaussianPhantom, settings: SimulationSettings, particles: Particles
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    sigma = 0.0 if settings.snr is None else noise_sigma(phantom, particles, settings.snr)
    step = chunk_size(settings.box_size)
    for first in range(0, settings.count, step):
        numbers = np.arange(first, min(first + step, settings.count))
        images = clean_images(phantom, particles, numbers).astype(np.float32)
        if sigma > 0:
            for image, number in zip(images, numbers.tolist(), strict=True):
                rng = np.random.default_rng([settings.seed, 2, number])
                image += sigma * rng.standard_normal(image.shape, np.float32)
        yield first, images


def check_fits(phantom: GaussianPhantom, settings: SimulationSettings) -> None:
    """Refuse an object whose three-sigma sphere, shifted, leaves the images."""
    radius = phantom.radius_angst + settings.max_shift_angst
    needed = 2 * math.ceil(radius / settings.pixel_size_angst) + 1
    if needed > settings.box_size + 1:
        raise ParameterError(
            f"simulation: an object of radius {phantom.radius_angst:.0f} Å shifted by up to "
            f"{settings.max_shift_angst:g} Å needs a box of {needed} pixels, got {settings.box_size}"
        )


def relion_tables(particles: Particles) -> dict[str, dict[str, NDArray[Any]]]:
    """The particles as RELION 3.1 and 5 tables ``optics`` and ``particles``; with CTF columns if any."""
    groups = particles.optics
    optics: dict[str, NDArray[Any]] = {
        "rlnOpticsGroup": np.arange(1, len(groups) + 1),
        "rlnOpticsGroupName": np.array([group.name for group in groups]),
        "rlnVoltage": np.array([group.voltage_kv for group in groups]),
        "rlnSphericalAberration": np.array([group.spherical_aberration_mm for group in groups]),
        "rlnAmplitudeContrast": np.array([group.amplitude_contrast for group in groups]),
        "rlnImagePixelSize": np.array([group.pixel_size_angst for group in groups]),
        "rlnImageSize": np.array([group.box_size for group in groups]),
        "rlnImageDimensionality": np.full(len(groups), 2),
    }
    if any(any(group.beam_tilt_mrad) for group in groups):
        optics["rlnBeamTiltX"] = np.array([group.beam_tilt_mrad[0] for group in groups])
        optics["rlnBeamTiltY"] = np.array([group.beam_tilt_mrad[1] for group in groups])
    rot, tilt, psi = matrices_to_relion(particles.rotations)
    names = [f"{number + 1:06d}@{particles.image_files[0]}" for number in particles.image_number.tolist()]
    rows: dict[str, NDArray[Any]] = {
        "rlnImageName": np.array(names),
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": 0.0 - particles.shifts_angst[:, 0],
        "rlnOriginYAngst": 0.0 - particles.shifts_angst[:, 1],
        **_ctf_columns(particles.ctf),
        "rlnOpticsGroup": particles.optics_group + 1,
    }
    if particles.half_set.any():
        rows["rlnRandomSubset"] = particles.half_set.astype(np.int64)
    return {"optics": optics, "particles": rows}


def _ctf_columns(parameters: ContrastTransfer | None) -> dict[str, NDArray[Any]]:
    if parameters is None:
        return {}
    columns: dict[str, NDArray[Any]] = {
        "rlnDefocusU": parameters.defocus_u_angst,
        "rlnDefocusV": parameters.defocus_v_angst,
        "rlnDefocusAngle": parameters.defocus_angle_deg,
    }
    if parameters.phase_shift_deg.any():
        columns["rlnPhaseShift"] = parameters.phase_shift_deg
    if parameters.bfactor_angst2.any():
        columns["rlnCtfBfactor"] = parameters.bfactor_angst2
    return columns


@dataclass(frozen=True, slots=True)
class SimulationOutputs:
    """The files of a simulation, and the writer for each."""

    table: Path
    stack: Path
    truth: Path
    writers: Mapping[str, Writer]

    def __post_init__(self) -> None:
        if {"table", "stack", "truth"} - set(self.writers):
            raise ParameterError("simulation: needs writers for table, stack and truth")


def write_simulation(
    phantom: GaussianPhantom,
    settings: SimulationSettings,
    outputs: SimulationOutputs,
    done: Callable[[int], None] = lambda count: None,
) -> Particles:
    """Make the images and write stack, true map and, last, the table.

    Parameters
    ----------
    phantom
        The object; its map at the images' box and pixel size is the truth.
    settings
        How the particles are taken.
    outputs
        Files and writers.
    done
        Called with the number of images written so far.

    Returns
    -------
        What the table says.
    """
    particles = simulated_particles(settings, outputs.table, outputs.stack)
    size, pixel = settings.box_size, settings.pixel_size_angst
    plan = StackPlan(settings.count, (size, size), pixel)
    chunks = image_chunks(phantom, settings, particles)
    with outputs.writers["stack"].create_stack(outputs.stack, plan) as sink:
        for first, images in chunks:
            sink.write(first, images)
            done(first + len(images))
    truth = Volume(phantom.volume(size, pixel).astype(np.float32), pixel)
    outputs.writers["truth"].write_volume(outputs.truth, truth, VolumeOptions())
    outputs.writers["table"].write_tables(outputs.table, relion_tables(particles))
    return particles
