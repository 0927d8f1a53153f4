"""What the projection of a map becomes in an image: grid, CTF of each depth, aberrations, shift and grey scale.

    model(k) = (voxel / pixel)³ · T(k) · V^(Aᵀ M k) · exp(−2πi k·s / n)

T is the CTF (its absolute value for flipped, its square for premultiplied images) times ``exp(iθ_odd)``, and M the
magnification matrix. With a defocus for every depth, the CTF of density at height z is that of defocus
``D − hand · z``; summed over z this reads the transform on the two caps ``kz = ∓ hand · λ k² / 2`` of the Ewald
sphere, the limit of infinitely many slabs:

    model = (−1 / 2i) (e^{iγ} V^(k, −hand λk²/2) − e^{−iγ} V^(k, +hand λk²/2)) · envelope
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.errors import ParameterError
from centralslice.fourier.ctf_kernels import ctf_coefficients, sine_of_turns
from centralslice.fourier.prepare import CtfMode
from centralslice.fourier.slice_reading import SliceReader
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import electron_wavelength

_CODES = {"none": 0, "full": 1, "flipped": 2, "premultiplied": 3}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What all optics groups share.

    Attributes
    ----------
    map_box, voxel_size_angst
        Of the map that is projected.
    ctf_mode
        How the CTF is in the images; ``none``: they have none.
    curved
        Every depth has a defocus of its own.
    hand
        +1 or −1: sign of the defocus change with height, see the module's formula.
    max_resolution_angst
        Nothing finer is modelled; None: to the Nyquist frequency of map and image.
    """

    map_box: int
    voxel_size_angst: float
    ctf_mode: CtfMode
    curved: bool = False
    hand: float = 1.0
    max_resolution_angst: float | None = None


@dataclass(frozen=True, slots=True)
class GroupTables:
    """Tables of an optics group.

    Attributes
    ----------
    size, pixel_size_angst
        Of its images.
    limit
        Largest radius that is modelled, in cycles per image.
    embedding
        (3, 3): ``embedding @ R`` is the matrix a map is read with.
    curvature
        ``kz = curvature · (kx² + ky²)`` of the first cap, cycles per image; 0 for flat slices.
    frequencies
        (2, 2) 1/Å per cycle an image.
    microscope
        λ and Cs in Å, asin of the amplitude contrast.
    ctf_mode
        As in the settings; ``premultiplied`` where the group says so.
    even_phase, odd_phase
        (n, n // 2 + 1) radians and factors ``exp(iθ)``, or (1, 1).
    amplitude
        (voxel / pixel)³.
    """

    size: int
    pixel_size_angst: float
    limit: float
    embedding: FloatArray
    curvature: float
    frequencies: FloatArray
    microscope: tuple[float, float, float]
    ctf_mode: CtfMode
    even_phase: FloatArray
    odd_phase: ComplexArray
    amplitude: float

    @property
    def rings(self) -> int:
        """Number of rings ⌊√(kx² + ky²)⌋ = 0 … n // 2."""
        return self.size // 2 + 1


def group_tables(optics: OpticsGroup, image_size: int, settings: ModelSettings) -> GroupTables:
    """Tables of an optics group.

    Parameters
    ----------
    optics
        Its pixel size must be known; voltage too unless there is no CTF.
    image_size
        Pixels of its images.
    settings
        Of the run. Premultiplied groups are so in any mode but ``none``.

    Raises
    ------
    ParameterError
        If the pixel size or voltage is not positive, or depth has a defocus without a CTF.
    """
    if not optics.pixel_size_angst > 0:
        raise ParameterError(
            f"optics group {optics.name}: pixel size must be more than 0 Å, got {optics.pixel_size_angst}"
        )
    mode = settings.ctf_mode
    if mode != "none" and optics.ctf_premultiplied:
        mode = "premultiplied"
    if settings.curved and mode == "none":
        raise ParameterError("--depth-slabs: a defocus for every depth needs images with a CTF")
    length = image_size * optics.pixel_size_angst
    factor = settings.map_box * settings.voxel_size_angst / length
    limit = min((image_size - 1) / 2, (settings.map_box - 1) / 2 / factor)
    if settings.max_resolution_angst is not None:
        limit = min(limit, length / settings.max_resolution_angst)
    even: FloatArray = np.zeros((1, 1))
    odd: ComplexArray = np.ones((1, 1), np.complex64)
    wavelength = 0.0
    if mode != "none":
        wavelength = electron_wavelength(optics.voltage_kv)
        gamma, theta = group_phases(optics, image_size)
        even = gamma if np.any(gamma) else even
        odd = np.exp(1j * theta).astype(np.complex64) if np.any(theta) else odd
    magnification = np.array(optics.magnification, np.float64).reshape(2, 2)
    embedding = np.eye(3)
    embedding[:2, :2] = magnification.T
    return GroupTables(
        size=image_size,
        pixel_size_angst=optics.pixel_size_angst,
        limit=limit,
        embedding=embedding * factor,
        curvature=-settings.hand * wavelength / (2 * length) if settings.curved else 0.0,
        frequencies=magnification / length,
        microscope=(wavelength, optics.spherical_aberration_mm * 1e7, math.asin(optics.amplitude_contrast)),
        ctf_mode=mode,
        even_phase=even,
        odd_phase=odd,
        amplitude=(settings.voxel_size_angst / optics.pixel_size_angst) ** 3,
    )


def transfer(tables: GroupTables, ctf: ContrastTransfer | None, row: int, factor: float) -> ComplexArray:
    """Factors of the slices of one image.

    Parameters
    ----------
    tables
        Of its optics group.
    ctf, row
        CTF parameters and which of them; None only without a CTF.
    factor
        Of the model's grey scale.

    Returns
    -------
        (c, n, n // 2 + 1) complex64, one for each cap that is read: 1, or 2 with a defocus for every depth.

    Raises
    ------
    ParameterError
        If there are no CTF parameters but there is a CTF.
    """
    caps = 1 if tables.curvature == 0 else 2
    table = np.zeros((caps, tables.size, tables.size // 2 + 1), np.complex64)
    coefficients = np.zeros(7)
    if tables.ctf_mode != "none":
        if ctf is None:
            raise ParameterError(
                "subparticles: the particles have no CTF parameters; expected a defocus for each, "
                "or images without a CTF (--ctf none)"
            )
        coefficients = ctf_coefficients(ctf.take(np.array([row])), *tables.microscope)[0]
    _fill_transfer(
        table, coefficients, tables.frequencies, tables.even_phase, tables.odd_phase, tables.limit,
        (_CODES[tables.ctf_mode], tables.amplitude * factor),
    )  # fmt: skip
    return table


def project(
    reader: SliceReader,
    rotation: FloatArray,
    shift_px: FloatArray,
    tables: GroupTables,
    factors: ComplexArray,
) -> ComplexArray:
    """Transform of a map's projection as an image has it: (n, n // 2 + 1) complex64, phase origin at pixel 0.

    Parameters
    ----------
    reader
        The map.
    rotation, shift_px
        (3, 3) and (2,): where it is read and its shift in pixels of the image.
    tables
        Of the optics group.
    factors
        (c, n, n // 2 + 1) of :func:`transfer`.
    """
    matrix = (tables.embedding @ rotation)[None]
    caps = [
        reader.read(matrix, tables.size, tables.limit * tables.embedding[2, 2], sign * tables.curvature)[0]
        for sign in (1.0, -1.0)[: len(factors)]
    ]
    model: ComplexArray = caps[0]
    other = caps[-1]
    _form_model(model, other, factors, np.asarray(shift_px, np.float64) + tables.size // 2)
    return model


@njit(nogil=True, cache=True)
def _fill_transfer(
    table: Any, coefficients: Any, frequencies: Any, even: Any, odd: Any, limit: float, how: Any
) -> None:
    mode, amplitude = how
    caps, size, half = table.shape
    c0, c1, c2, c3, c4, damping, scale = coefficients
    sine = np.empty(half)
    envelope = np.empty(half)
    for row in range(size):
        ky = row if row <= (size - 1) // 2 else row - size
        square = limit * limit - ky * ky
        if square < 0:
            continue
        stop = min(int(math.sqrt(square)) + 1, half)
        if mode == 0:
            for kx in range(stop):
                table[0, row, kx] = amplitude
            continue
        for kx in range(stop):
            x = frequencies[0, 0] * kx + frequencies[0, 1] * ky
            y = frequencies[1, 0] * kx + frequencies[1, 1] * ky
            k2 = x * x + y * y
            turns = c0 * x * x + c1 * x * y + c2 * y * y + c3 * k2 * k2 + c4
            if even.shape[0] > 1:
                turns += even[row, kx] / (2.0 * math.pi)
            envelope[kx] = turns
            sine[kx] = sine_of_turns(turns)
        for kx in range(stop):
            turns = envelope[kx]
            x = frequencies[0, 0] * kx + frequencies[0, 1] * ky
            y = frequencies[1, 0] * kx + frequencies[1, 1] * ky
            strength = scale * amplitude * math.exp(damping * (x * x + y * y))
            if mode == 2 and sine[kx] > 0:  # phases were flipped where −sin γ is negative
                strength = -strength
            elif mode == 3:
                strength *= -scale * sine[kx] * math.exp(damping * (x * x + y * y))
            factor = complex(strength, 0.0)
            if odd.shape[0] > 1:
                factor *= odd[row, kx]
            if caps == 1:
                table[0, row, kx] = -factor * sine[kx]
            else:
                # −sin γ = (i/2) (e^{iγ} − e^{−iγ})
                cosine = sine_of_turns(turns + 0.25)
                table[0, row, kx] = factor * complex(-0.5 * sine[kx], 0.5 * cosine)
                table[1, row, kx] = factor * complex(-0.5 * sine[kx], -0.5 * cosine)


@njit(nogil=True, cache=True)
def _form_model(model: Any, other: Any, factors: Any, origin: Any) -> None:
    """``model`` becomes (T₁ model + T₂ other) · exp(−2πi k·origin / n); ``other`` only counts if there is a T₂."""
    size, half = model.shape
    ramp = np.empty(half, np.complex64)
    for kx in range(half):
        angle = -2.0 * math.pi * kx * origin[0] / size
        ramp[kx] = complex(math.cos(angle), math.sin(angle))
    for row in range(size):
        ky = row if row <= (size - 1) // 2 else row - size
        angle = -2.0 * math.pi * ky * origin[1] / size
        turn = np.complex64(complex(math.cos(angle), math.sin(angle)))
        if len(factors) == 1:
            for kx in range(half):
                model[row, kx] = model[row, kx] * factors[0, row, kx] * (ramp[kx] * turn)
        else:
            for kx in range(half):
                value = model[row, kx] * factors[0, row, kx] + other[row, kx] * factors[1, row, kx]
                model[row, kx] = value * (ramp[kx] * turn)
