"""The pass over the samples of tilt slices: phase ramp, CTF, dose, whitening and weight at once.

Written row by row over plain lines of numbers, so that every loop becomes vector instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from centralslice.fourier.ctf_kernels import sine_of_turns

#: How the CTF enters.
NONE, FULL, PREMULTIPLIED = 0, 1, 2

#: RELION keeps |CTF| at least this large.
SMALLEST_CTF = 1e-8


@njit(nogil=True, cache=True)
def fill_tilt_samples(  # noqa: PLR0913 - one numeric kernel, called from one place
    samples: Any, spectra: Any, tilt: Any, origins: Any, factors: Any, table: Any, frequencies: Any,
    even_turns: Any, odd: Any, dose: Any, whitening: Any, limits: Any, mode: int, floor: float, mates: bool,
    amplitude: float,
) -> None:  # fmt: skip
    """Write ``samples`` (b, s, 4 h) from ``spectra`` (b, s, 2 h), h = s // 2 + 1.

    ``origins`` (b, 2) are in turns per index; ``even_turns`` (s, h), ``odd`` (s, 2 h) and ``whitening``
    (f, s, h) have one row of length 1 if there is none; ``limits`` (f, s) says how many samples of a row are
    used, and ``mates`` whether ky < 0 of column 0 are.
    """
    count, size, half = len(samples), samples.shape[1], samples.shape[2] // 4
    kind = samples.dtype
    columns = np.empty((2, half), kind)
    rows = np.empty((2, size), kind)
    envelope = np.empty(half)
    transfer = np.empty(half)
    gain = np.empty(half, kind)
    weight = np.empty(half, kind)
    for n in range(count):
        t = tilt[n]
        value_factor, weight_factor = kind.type(amplitude * factors[n]), kind.type(factors[n])
        damping, scale = table[n, 5], table[n, 6]
        _ramp(columns, origins[n, 0], half)
        _ramp(rows, origins[n, 1], (size + 1) // 2)
        if damping != 0:
            squared = frequencies[0, 0] ** 2 + frequencies[1, 0] ** 2
            for kx in range(half):
                envelope[kx] = math.exp(damping * squared * kx * kx)
        for row in range(size):
            ky = row if row < (size + 1) // 2 else row - size
            line = samples[n, row]
            last = limits[t, row]
            first = 1 if ky < 0 and not mates else 0
            if last <= first:
                line[:] = 0
                continue
            if mode == NONE:
                gain[:] = value_factor
                weight[:] = weight_factor
            else:
                _sines(transfer[:last], _phase_row(table[n], frequencies, ky), scale, even_turns, row)
                if damping != 0:
                    _damp(transfer[:last], envelope, damping, frequencies, ky)
                if floor > 0:
                    _keep_from_zero(transfer[:last], floor)
                _gains(transfer[:last], dose[t, row], gain, weight, value_factor, weight_factor, mode)
            if whitening.shape[2] > 1:
                _multiply(whitening[t, row], gain, weight)
            _write(
                line,
                spectra[n, row],
                columns,
                rows[0, row],
                rows[1, row],
                gain[:last],
                weight,
                odd[row % len(odd)],
            )
            line[: 4 * first] = 0
            line[4 * last :] = 0


@njit(nogil=True, cache=True)
def _ramp(ramp: Any, turns: float, positive: int) -> None:
    """cos and sin of 2π k · turns, k = 0 … positive − 1 and then the negative ones up to −1."""
    size = ramp.shape[1]
    for index in range(size):
        k = index if index < positive else index - size
        ramp[0, index] = sine_of_turns(k * turns + 0.25)
        ramp[1, index] = sine_of_turns(k * turns)


@njit(nogil=True, cache=True)
def _phase_row(c: Any, f: Any, ky: int) -> Any:
    """Coefficients a0 … a4 of γ/2π = Σ a_i kx^i along a row."""
    # k² = q2 kx² + q1 kx + q0, the defocus form likewise d2, d1, d0
    q2, d2 = f[0, 0] ** 2 + f[1, 0] ** 2, c[0] * f[0, 0] ** 2 + c[1] * f[0, 0] * f[1, 0] + c[2] * f[1, 0] ** 2
    q1 = 2 * ky * (f[0, 0] * f[0, 1] + f[1, 0] * f[1, 1])
    d1 = 2 * (c[0] * f[0, 0] * f[0, 1] + c[2] * f[1, 0] * f[1, 1])
    d1 = ky * (d1 + c[1] * (f[0, 0] * f[1, 1] + f[0, 1] * f[1, 0]))
    q0 = ky * ky * (f[0, 1] ** 2 + f[1, 1] ** 2)
    d0 = ky * ky * (c[0] * f[0, 1] ** 2 + c[1] * f[0, 1] * f[1, 1] + c[2] * f[1, 1] ** 2)
    a2 = d2 + c[3] * (q1 * q1 + 2 * q0 * q2)
    return d0 + c[3] * q0 * q0 + c[4], d1 + 2 * c[3] * q0 * q1, a2, 2 * c[3] * q1 * q2, c[3] * q2 * q2


@njit(nogil=True, cache=True)
def _sines(transfer: Any, coefficients: Any, scale: float, even_turns: Any, row: int) -> None:
    """CTF of a row without its envelope."""
    a0, a1, a2, a3, a4 = coefficients
    if even_turns.shape[1] > 1:
        extra = even_turns[row]
        for kx in range(len(transfer)):
            turns = (((a4 * kx + a3) * kx + a2) * kx + a1) * kx + a0 + extra[kx]
            transfer[kx] = -scale * sine_of_turns(turns)
    else:
        for kx in range(len(transfer)):
            turns = (((a4 * kx + a3) * kx + a2) * kx + a1) * kx + a0
            transfer[kx] = -scale * sine_of_turns(turns)


@njit(nogil=True, cache=True)
def _damp(transfer: Any, envelope: Any, damping: float, f: Any, ky: int) -> None:
    """exp(damping · k²) as a product of functions of kx, of ky, and of a power for a skewed matrix."""
    along = math.exp(damping * ky * ky * (f[0, 1] ** 2 + f[1, 1] ** 2))
    skew = math.exp(2 * damping * ky * (f[0, 0] * f[0, 1] + f[1, 0] * f[1, 1]))
    for kx in range(len(transfer)):
        transfer[kx] *= envelope[kx] * along
    if skew != 1:
        power = 1.0
        for kx in range(len(transfer)):
            transfer[kx] *= power
            power *= skew


@njit(nogil=True, cache=True)
def _keep_from_zero(transfer: Any, floor: float) -> None:
    for kx in range(len(transfer)):
        c = transfer[kx]
        if abs(c) < floor:
            transfer[kx] = -floor if c < 0 else floor


@njit(nogil=True, cache=True)
def _gains(
    transfer: Any, dose: Any, gain: Any, weight: Any, value_factor: Any, weight_factor: Any, mode: int
) -> None:
    """What multiplies values, and the weight: c and c², c = CTF · dose; 1 and c² for premultiplied images."""
    if mode == FULL:
        for kx in range(len(transfer)):
            c = transfer[kx] * dose[kx]
            gain[kx] = c * value_factor
            weight[kx] = c * c * weight_factor
    else:
        for kx in range(len(transfer)):
            c = transfer[kx] * dose[kx]
            gain[kx] = value_factor
            weight[kx] = c * c * weight_factor


@njit(nogil=True, cache=True)
def _multiply(curve: Any, gain: Any, weight: Any) -> None:
    for kx in range(len(gain)):
        gain[kx] *= curve[kx]
        weight[kx] *= curve[kx]


@njit(nogil=True, cache=True)
def _write(  # noqa: PLR0913 - one numeric kernel, called from one place
    line: Any, spectrum: Any, columns: Any, turn_re: Any, turn_im: Any, gain: Any, weight: Any, odd: Any
) -> None:  # fmt: skip
    """Samples of one row: spectrum · ramp · gain (· odd phases), weight, 0."""
    cosines, sines = columns[0], columns[1]
    if len(odd) > 1:
        for kx in range(len(gain)):
            re = (cosines[kx] * turn_re - sines[kx] * turn_im) * gain[kx]
            im = (cosines[kx] * turn_im + sines[kx] * turn_re) * gain[kx]
            u = re * odd[2 * kx] - im * odd[2 * kx + 1]
            v = re * odd[2 * kx + 1] + im * odd[2 * kx]
            line[4 * kx] = spectrum[2 * kx] * u - spectrum[2 * kx + 1] * v
            line[4 * kx + 1] = spectrum[2 * kx] * v + spectrum[2 * kx + 1] * u
            line[4 * kx + 2] = weight[kx]
            line[4 * kx + 3] = 0
    else:
        for kx in range(len(gain)):
            u = (cosines[kx] * turn_re - sines[kx] * turn_im) * gain[kx]
            v = (cosines[kx] * turn_im + sines[kx] * turn_re) * gain[kx]
            line[4 * kx] = spectrum[2 * kx] * u - spectrum[2 * kx + 1] * v
            line[4 * kx + 1] = spectrum[2 * kx] * v + spectrum[2 * kx + 1] * u
            line[4 * kx + 2] = weight[kx]
            line[4 * kx + 3] = 0
