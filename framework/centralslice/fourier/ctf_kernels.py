"""What the kernels that multiply slices by the CTF share: coefficients of γ and a sine that vectorises."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from centralslice.conventions import FloatArray
from centralslice.data.particles import ContrastTransfer


def ctf_coefficients(
    ctf: ContrastTransfer, wavelength_angst: float, spherical_aberration_angst: float, amplitude_phase: float
) -> FloatArray:
    """(b, 7): γ/2π = c0 X² + c1 XY + c2 Y² + c3 (X² + Y²)² + c4, envelope c6 · exp(c5 (X² + Y²)).

    γ = −πλ D + (π/2) Cs λ³ k⁴ − phase shift − asin(Q0), D the astigmatic defocus quadratic form.
    """
    u, v, wavelength = ctf.defocus_u_angst, ctf.defocus_v_angst, wavelength_angst
    table = np.zeros((len(u), 7))
    angle = np.deg2rad(ctf.defocus_angle_deg)
    cosine, sine = np.cos(angle), np.sin(angle)
    table[:, 0] = -wavelength / 2 * (u * cosine**2 + v * sine**2)
    table[:, 1] = -wavelength * (u - v) * sine * cosine
    table[:, 2] = -wavelength / 2 * (u * sine**2 + v * cosine**2)
    table[:, 3] = spherical_aberration_angst * wavelength**3 / 4
    table[:, 4] = -(np.deg2rad(ctf.phase_shift_deg) + amplitude_phase) / (2 * np.pi)
    table[:, 5] = -ctf.bfactor_angst2 / 4
    table[:, 6] = ctf.scale
    return table


@njit(nogil=True, cache=True, inline="always")
def sine_of_turns(turns: Any) -> Any:
    """sin(2π turns) to 1e-9: range reduction and the Taylor series to order 13; LLVM vectorises it."""
    rest = turns - np.rint(turns)
    size = abs(rest)
    x = 6.283185307179586 * min(size, 0.5 - size)
    square = x * x
    series = 1.6059043836821613e-10
    series = series * square - 2.505210838544172e-08
    series = series * square + 2.7557319223985893e-06
    series = series * square - 0.0001984126984126984
    series = series * square + 0.008333333333333333
    series = series * square - 0.16666666666666666
    value = x + x * square * series
    return -value if rest < 0 else value
