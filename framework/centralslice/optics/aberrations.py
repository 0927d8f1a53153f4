"""Higher-order aberrations: Zernike phases in RELION's order, and beam tilt.

The radius of the Zernike functions is |k| in 1/Å itself, not normalised:
``Z_n^m(k) = R_n^|m|(|k|) · (cos mφ if m ≥ 0 else sin |m|φ)``, φ = atan2(ky, kx).
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, isqrt, pi

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import FloatArray
from centralslice.data.particles import OpticsGroup
from centralslice.errors import ParameterError
from centralslice.optics.ctf import electron_wavelength, slice_frequencies

#: Coefficients beyond this many would overflow any use; a longer list is a broken file.
_MOST_COEFFICIENTS = 400


def even_index(number: int) -> tuple[int, int]:
    """``(n, m)`` of even Zernike coefficient ``number`` (0-based): n = 2q, m = 2 (i − q² − q), q = ⌊√i⌋."""
    q = isqrt(number)
    return 2 * q, 2 * (number - q * q - q)


def odd_index(number: int) -> tuple[int, int]:
    """``(n, m)`` of odd Zernike coefficient i: n = 2q + 1, m = 2 (i − q² − q) − n, q = ⌊(√(1+4i) − 1)/2⌋."""
    q = (isqrt(1 + 4 * number) - 1) // 2
    n = 2 * q + 1
    return n, 2 * (number - q * q - q) - n


def zernike(n: int, m: int, k_x: ArrayLike, k_y: ArrayLike) -> FloatArray:
    """Z_n^m at frequencies in 1/Å; n − |m| even and not negative."""
    x, y = np.asarray(k_x, np.float64), np.asarray(k_y, np.float64)
    order = abs(m)
    if order > n or (n - order) % 2:
        raise ParameterError(f"Zernike polynomial: n − |m| must be even and ≥ 0, got n {n}, m {m}")
    squared = x * x + y * y
    # the angular part times |k|^|m| is a polynomial in kx + i ky, so R_n^m is divided by |k|^|m|
    angular = (x + 1j * y) ** order
    radial = np.zeros(np.broadcast(x, y).shape)
    for j in range((n - order) // 2 + 1):
        weight = factorial(n - j) // (
            factorial(j) * factorial((n + order) // 2 - j) * factorial((n - order) // 2 - j)
        )
        radial += (-1) ** j * weight * squared ** ((n - order) // 2 - j)
    result: FloatArray = radial * (angular.real if m >= 0 else angular.imag)
    return result


def even_phase(coefficients: tuple[float, ...], k_x: ArrayLike, k_y: ArrayLike) -> FloatArray:
    """γ_even, radians: is added to γ of the CTF."""
    return _phase(coefficients, even_index, k_x, k_y)


def odd_phase(coefficients: tuple[float, ...], k_x: ArrayLike, k_y: ArrayLike) -> FloatArray:
    """θ_odd, radians: images carry ``exp(+iθ)``, and are corrected by ``exp(−iθ)``."""
    return _phase(coefficients, odd_index, k_x, k_y)


def _phase(
    coefficients: tuple[float, ...],
    index: Callable[[int], tuple[int, int]],
    k_x: ArrayLike,
    k_y: ArrayLike,
) -> FloatArray:
    """Sum of coefficient times Zernike function, on the frequencies' common shape."""
    if len(coefficients) > _MOST_COEFFICIENTS:
        raise ParameterError(
            f"aberrations: at most {_MOST_COEFFICIENTS} Zernike coefficients, got {len(coefficients)}"
        )
    total = np.zeros(np.broadcast(np.asarray(k_x), np.asarray(k_y)).shape)
    for number, coefficient in enumerate(coefficients):
        if coefficient != 0:
            total += coefficient * zernike(*index(number), k_x, k_y)
    return total


def with_beam_tilt(group: OpticsGroup) -> tuple[float, ...]:
    """The group's odd coefficients with its beam tilt t (mrad) added: θ gains −σ (t·k) |k|².

    σ = 2·10⁴ π Cs λ² with Cs in mm and λ in Å. As RELION does it: coefficients 1 and 4 (x), and 0 and 3
    (y), change by −2σt/3 and −σt/3. Raises ParameterError if there is a tilt but no voltage.
    """
    tilt_x, tilt_y = group.beam_tilt_mrad
    if tilt_x == 0 and tilt_y == 0:
        return group.odd_zernike
    strength = 2e4 * pi * group.spherical_aberration_mm * electron_wavelength(group.voltage_kv) ** 2
    changed = list(group.odd_zernike) + [0.0] * (5 - len(group.odd_zernike))
    for low, high, tilt in ((1, 4, tilt_x), (0, 3, tilt_y)):
        changed[low] -= 2 * strength * tilt / 3
        changed[high] -= strength * tilt / 3
    return tuple(changed)


def group_phases(group: OpticsGroup, size: int) -> tuple[FloatArray, FloatArray]:
    """Aberration phases of an optics group on the samples of a half transform.

    Parameters
    ----------
    group
        Zernike coefficients, beam tilt, magnification matrix and pixel size (Å, > 0).
    size
        Image size n in pixels, even or odd.

    Returns
    -------
    gamma_even
        (n, n // 2 + 1) float64, radians; added to γ of the CTF.
    theta_odd
        The same shape; images are multiplied by ``exp(−iθ)`` to undo it.

    Raises
    ------
    ParameterError
        If the pixel size, or with a beam tilt the voltage, is not
        positive, or there are too many coefficients.

    Notes
    -----
    Frequencies are ``M k``, M the magnification matrix; the Nyquist row of even sizes is negative.
    """
    k_x, k_y = slice_frequencies(size, group)
    return even_phase(group.even_zernike, k_x, k_y), odd_phase(with_beam_tilt(group), k_x, k_y)
