"""The contrast transfer function, in RELION's convention: ``CTF = −sin γ``, which is +Q0 at k = 0.

    γ   = −π λ D(k) + (π/2) Cs λ³ |k|⁴ − phase shift − atan(Q0 / √(1 − Q0²)) + γ_even(k)
    D   = (U cos²α + V sin²α) kx² + 2 (U − V) sin α cos α kx ky + (U sin²α + V cos²α) ky²
    CTF = −sin γ · scale · exp(−B |k|² / 4)

k in 1/Å, U and V in Å (positive is underfocus), Cs in Å. These are float64 NumPy reference functions; fused
kernels take their constants from :func:`ctf_constants` and are tested against :func:`ctf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import FloatArray, signed_frequencies
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.errors import ParameterError


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic electron wavelength.

    Parameters
    ----------
    voltage_kv
        Accelerating voltage in kV, > 0.

    Returns
    -------
        Wavelength in Å; 0.019687 at 300 kV.

    Raises
    ------
    ParameterError
        If the voltage is not positive.

    Notes
    -----
    ``λ = 12.2643247 / √(V (1 + 0.978466e-6 V))``, V in volts: the constants RELION uses.
    """
    if not voltage_kv > 0:
        raise ParameterError(f"voltage: expected more than 0 kV, got {voltage_kv}")
    volts = voltage_kv * 1e3
    return 12.2643247 / sqrt(volts * (1 + volts * 0.978466e-6))


@dataclass(frozen=True, slots=True)
class CtfConstants:
    """What γ needs to know of a microscope.

    Attributes
    ----------
    wavelength_angst
        λ.
    defocus_factor
        −π λ, multiplies D (Å, so that ``defocus_factor · D`` is radians).
    spherical_factor
        (π/2) Cs λ³ in Å⁴, multiplies |k|⁴.
    amplitude_phase
        atan(Q0 / √(1 − Q0²)), radians, is subtracted.
    """

    wavelength_angst: float
    defocus_factor: float
    spherical_factor: float
    amplitude_phase: float


def ctf_constants(group: OpticsGroup) -> CtfConstants:
    """The CTF constants of an optics group.

    Raises
    ------
    ParameterError
        If the voltage is not positive or the amplitude contrast is not in 0 … 1.
    """
    contrast = group.amplitude_contrast
    if not 0 <= contrast <= 1:
        raise ParameterError(f"optics group {group.name}: amplitude contrast must be 0 … 1, got {contrast}")
    if not group.voltage_kv > 0:
        raise ParameterError(
            f"optics group {group.name}: voltage must be more than 0 kV, got {group.voltage_kv}"
        )
    wavelength = electron_wavelength(group.voltage_kv)
    return CtfConstants(
        wavelength_angst=wavelength,
        defocus_factor=-pi * wavelength,
        spherical_factor=pi / 2 * group.spherical_aberration_mm * 1e7 * wavelength**3,
        amplitude_phase=asin(contrast),
    )


def slice_frequencies(size: int, group: OpticsGroup) -> tuple[FloatArray, FloatArray]:
    """Frequencies of the samples of a half transform, with the magnification matrix applied.

    Parameters
    ----------
    size
        Image size n in pixels, even or odd.
    group
        Its pixel size (> 0, Å) and 2×2 magnification matrix M.

    Returns
    -------
    k_x, k_y
        (n, n // 2 + 1) float64, 1/Å, of ``M (kx, ky)``. Row ``n // 2`` of even sizes is the negative
        Nyquist frequency; column ``n // 2`` the positive one.

    Raises
    ------
    ParameterError
        If the pixel size is not positive.
    """
    pixel = group.pixel_size_angst
    if not pixel > 0:
        raise ParameterError(f"optics group {group.name}: pixel size must be more than 0 Å, got {pixel}")
    k_x = np.arange(size // 2 + 1)[None, :] / (size * pixel)
    k_y = signed_frequencies(size)[:, None] / (size * pixel)
    m00, m01, m10, m11 = group.magnification
    return m00 * k_x + m01 * k_y, m10 * k_x + m11 * k_y


def ctf_phase(
    k_x: ArrayLike,
    k_y: ArrayLike,
    group: OpticsGroup,
    parameters: ContrastTransfer,
    even_phase: ArrayLike = 0.0,
) -> FloatArray:
    """γ of each particle.

    Parameters
    ----------
    k_x, k_y
        Frequencies in 1/Å, any shape.
    group
        Voltage, Cs and amplitude contrast.
    parameters
        Of n particles.
    even_phase
        Phase of the even aberrations, radians, of the shape of ``k_x``.

    Returns
    -------
        (n, \\*k_x.shape) float64, radians.

    Raises
    ------
    ParameterError
        If the optics group allows no CTF.
    """
    constants = ctf_constants(group)
    x, y = np.broadcast_arrays(np.asarray(k_x, np.float64), np.asarray(k_y, np.float64))
    columns = (-1, *(1,) * x.ndim)  # particles first
    u, v = parameters.defocus_u_angst.reshape(columns), parameters.defocus_v_angst.reshape(columns)
    angle = np.deg2rad(parameters.defocus_angle_deg).reshape(columns)
    cosine, sine = np.cos(angle), np.sin(angle)
    along, across = cosine * x + sine * y, cosine * y - sine * x
    defocus = u * along**2 + v * across**2
    shift = np.deg2rad(parameters.phase_shift_deg).reshape(columns) + constants.amplitude_phase
    result: FloatArray = constants.defocus_factor * defocus - shift
    result += constants.spherical_factor * (x**2 + y**2) ** 2 + np.asarray(even_phase, np.float64)
    return result


def ctf(
    k_x: ArrayLike,
    k_y: ArrayLike,
    group: OpticsGroup,
    parameters: ContrastTransfer,
    even_phase: ArrayLike = 0.0,
) -> FloatArray:
    """The CTF of each particle; arguments and errors as :func:`ctf_phase`.

    Returns
    -------
        (n, \\*k_x.shape) float64: ``−sin γ · scale · exp(−B |k|² / 4)``.
    """
    phase = ctf_phase(k_x, k_y, group, parameters, even_phase)
    columns = (-1, *(1,) * (phase.ndim - 1))
    squared = np.asarray(k_x, np.float64) ** 2 + np.asarray(k_y, np.float64) ** 2
    envelope = np.exp(-parameters.bfactor_angst2.reshape(columns) / 4 * squared)
    result: FloatArray = -np.sin(phase) * parameters.scale.reshape(columns) * envelope
    return result
