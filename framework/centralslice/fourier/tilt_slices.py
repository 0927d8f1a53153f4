"""From windows of tilt images to slices: transform, Fourier crop, exact shift, CTF, dose, whitening, weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import scipy.fft

from centralslice.conventions import ComplexArray, FloatArray, IntArray, signed_frequencies
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.tilt_series import TiltSeries
from centralslice.errors import ParameterError
from centralslice.fourier.ctf_kernels import ctf_coefficients
from centralslice.fourier.tilt_kernels import (
    FULL,
    NONE,
    PREMULTIPLIED,
    SMALLEST_CTF,
    fill_tilt_samples,
)
from centralslice.fourier.windows import window_size
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import CtfConstants, ctf_constants
from centralslice.optics.dose import dose_filter
from centralslice.optics.whitening import whitening_table

#: full: value and weight are multiplied by CTF · dose; premultiplied: the images are already; none: weight 1.
TiltCtfMode = Literal["full", "premultiplied", "none"]
#: default: each measured frequency once, Nyquist left out, density as amplitude; relion: as RELION inserts it.
Flavour = Literal["default", "relion"]
_MODES = {"none": NONE, "full": FULL, "premultiplied": PREMULTIPLIED}

#: Windows transformed at a time: their spectra stay in the cache until they are used.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class TiltSettings:
    """What all tilt series of a reconstruction are prepared with.

    Attributes
    ----------
    box
        Slice size s, even or odd.
    voxel_size_angst
        Of the map.
    binning
        b: a window of S = ⌊b·s + ½⌋ pixels becomes a slice of s.
    dose_cutoff
        Frequencies of a tilt whose dose filter is not above this are left out; 0 for none.
    max_frequency
        Largest frequency wanted, 1/Å, or None.
    ctf_mode
        How the CTF enters.
    sign
        −1 for images of dark protein, +1 for inverted ones.
    extracted
        The windows are extracted 2D stacks of s pixels: their pixel size is that of their optics group, and
        they hold the same values as the tilt images.
    flavour
        Whose slices.
    aberration_pixel_angst
        Unbinned pixel of the aberration tables in flavour ``relion``; None: the series' own.
    slab_angst
        Images are sums over slabs of this thickness; None: the series' own pixel. That of the first series for all
        makes images of the same object agree whatever the camera's pixel.
    precision
        float32 or float64 samples.
    """

    box: int
    voxel_size_angst: float
    binning: float = 1.0
    dose_cutoff: float = 0.01
    max_frequency: float | None = None
    ctf_mode: TiltCtfMode = "full"
    sign: float = -1.0
    extracted: bool = False
    flavour: Flavour = "default"
    aberration_pixel_angst: float | None = None
    slab_angst: float | None = None
    precision: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))


@dataclass(frozen=True, slots=True)
class TiltPreparation:
    """What all windows of an optics group in a tilt series of f tilts share.

    Attributes
    ----------
    window_size, size
        S and s in pixels.
    pixel_size_angst
        Of the slices: S / s of the windows'.
    ctf_mode, sign, amplitude
        As in :class:`TiltSettings`; ``amplitude`` multiplies values so that maps agree in density.
    frequencies
        (2, 2) float64: 1/Å per slice index, ``(X, Y) = frequencies @ (kx, ky)``.
    wavelength_angst, spherical_aberration_angst, amplitude_phase
        λ; Cs; asin of the amplitude contrast, radians.
    even_turns
        (s, s // 2 + 1) float64 to add to γ / 2π, or (1, 1).
    odd_phase
        (s, s // 2 + 1) complex factors, or (1, 1) ones.
    dose
        (f, s, s // 2 + 1) float32 dose filter of each tilt.
    whitening
        The same of the noise, multiplies value and weight, or (1, 1, 1).
    limits
        (f, s) int64, how many samples kx = 0 … of each row are used.
    radii
        (f,) float64, largest radius of each tilt in slice index units.
    max_radius
        The largest of them.
    mates
        Whether both Friedel mates of column 0 are given.
    smallest_ctf
        |CTF| is at least this; 0 for no such floor.
    precision
        dtype of the samples.
    """

    window_size: int
    size: int
    pixel_size_angst: float
    ctf_mode: TiltCtfMode
    sign: float
    amplitude: float
    frequencies: FloatArray
    wavelength_angst: float
    spherical_aberration_angst: float
    amplitude_phase: float
    even_turns: FloatArray
    odd_phase: ComplexArray
    dose: FloatArray
    whitening: FloatArray
    limits: IntArray
    radii: FloatArray
    max_radius: float
    mates: bool
    smallest_ctf: float
    precision: np.dtype[Any]


def prepare_tilts(
    series: TiltSeries, optics: OpticsGroup, settings: TiltSettings, curves: FloatArray | None = None
) -> TiltPreparation:
    """Tables of an optics group in a tilt series.

    Parameters
    ----------
    series
        The tilt series; its doses and pixel size are used.
    optics
        The particles' optics group: microscope, aberrations, magnification; and pixel size of extracted images.
    settings
        What is wanted.
    curves
        (f, S // 2 + 1) whitening curve of each tilt (:func:`centralslice.optics.whitening.whitening_curve`).

    Raises
    ------
    ParameterError
        If the binning is less than 1, the dose cut-off not in [0, 1), or the optics allow no CTF.
    """
    _check(settings)
    window = settings.box if settings.extracted else window_size(settings.box, settings.binning)
    unbinned = optics.pixel_size_angst if settings.extracted else series.pixel_size_angst
    relion = settings.flavour == "relion"
    pixel = unbinned * window / settings.box
    plain = replace(optics, beam_tilt_mrad=(0.0, 0.0), magnification=(1.0, 0.0, 0.0, 1.0))
    group = replace(plain if relion else optics, pixel_size_angst=pixel)
    even, odd = _aberrations(group, settings, window)
    microscope = CtfConstants(0.0, 0.0, 0.0, 0.0) if settings.ctf_mode == "none" else ctf_constants(optics)
    magnification = np.array(group.magnification, np.float64).reshape(2, 2)
    frequencies = magnification / (settings.box * pixel)
    k = _radius(settings.box, frequencies)
    dose = dose_filter(k, np.asarray(series.dose)[:, None, None], series.bfactor_per_dose).astype(np.float32)
    if relion:
        limits, radii = _relion_limits(dose, settings)
    else:
        limits, radii = _default_limits(series, settings, pixel, float(np.linalg.norm(magnification, 2)))
    return TiltPreparation(
        window_size=window, size=settings.box, pixel_size_angst=pixel, ctf_mode=settings.ctf_mode,
        sign=settings.sign, amplitude=_amplitude(series, settings, unbinned, window), frequencies=frequencies,
        wavelength_angst=microscope.wavelength_angst, spherical_aberration_angst=optics.spherical_aberration_mm * 1e7,
        amplitude_phase=microscope.amplitude_phase, even_turns=even, odd_phase=odd, dose=dose,
        whitening=_whitening(curves, settings, window), limits=limits, radii=radii,
        max_radius=float(radii.max()), mates=relion, smallest_ctf=SMALLEST_CTF if relion else 0.0,
        precision=settings.precision,
    )  # fmt: skip


def prepare_tilt_slices(
    windows: FloatArray,
    preparation: TiltPreparation,
    tilt: IntArray,
    origins: FloatArray,
    ctf: ContrastTransfer | None = None,
    factors: FloatArray | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Samples of a :class:`centralslice.data.slices.SliceBatch`.

    Parameters
    ----------
    windows
        (b, S, S) float32 or float64.
    preparation
        Tables of their optics group and tilt series.
    tilt
        (b,) tilt of each window.
    origins
        (b, 2) x, y of the particle in its window in pixels (:func:`centralslice.fourier.windows.window_corners`);
        ``S // 2`` for extracted images.
    ctf
        Parameters of the same windows, depth included; needed unless the mode is ``none``.
    factors
        (b,) multiply value and weight, or None for 1.
    out
        Where to put the samples, or None for a new array.

    Returns
    -------
        (b, s, s // 2 + 1, 4) samples of the preparation's precision: real, imaginary, weight, 0.

    Raises
    ------
    ParameterError
        If the windows are of another size, or CTF parameters are missing.
    """
    count, size, half = len(windows), preparation.size, preparation.size // 2 + 1
    if windows.shape[1:] != (preparation.window_size,) * 2:
        raise ParameterError(
            f"windows: expected {preparation.window_size} × {preparation.window_size} pixels, got {windows.shape[1:]}"
        )
    samples = np.empty((count, size, half, 4), preparation.precision) if out is None else out
    lines = samples.reshape(count, size, 4 * half)
    odd: FloatArray = np.zeros((1, 1), preparation.precision)
    if len(preparation.odd_phase) > 1:
        odd = preparation.odd_phase.view(preparation.precision)
    table = _table(preparation, ctf, count)
    tilts, ones = np.ascontiguousarray(tilt, np.int64), np.ones(count)
    turns = np.asarray(origins, np.float64) / preparation.window_size
    weights = ones if factors is None else np.asarray(factors, np.float64)
    for start in range(0, count, _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        fill_tilt_samples(
            lines[here], _spectra(windows[here], preparation), tilts[here], turns[here], weights[here],
            table[here], preparation.frequencies, preparation.even_turns, odd, preparation.dose,
            preparation.whitening, preparation.limits, _MODES[preparation.ctf_mode], preparation.smallest_ctf,
            preparation.mates, preparation.sign * preparation.amplitude,
        )  # fmt: skip
    return samples


def tilt_ctf(series: TiltSeries, tilt: IntArray, defocus_angst: FloatArray) -> ContrastTransfer:
    """CTF parameters of windows: those of their tilts (b,), with the depth's change of defocus (b,) in Å."""
    chosen = series.ctf.take(tilt)
    return replace(
        chosen,
        defocus_u_angst=chosen.defocus_u_angst + defocus_angst,
        defocus_v_angst=chosen.defocus_v_angst + defocus_angst,
    )


def _check(settings: TiltSettings) -> None:
    if settings.box < 2:
        raise ParameterError(f"box: expected at least 2 pixels, got {settings.box}")
    if not settings.extracted and window_size(settings.box, settings.binning) < settings.box:
        raise ParameterError(f"binning: expected 1 or more, got {settings.binning}")
    if not 0 <= settings.dose_cutoff < 1:
        raise ParameterError(f"dose cut-off: expected 0 or more and less than 1, got {settings.dose_cutoff}")


def _amplitude(series: TiltSeries, settings: TiltSettings, unbinned: float, window: int) -> float:
    """Factor of the values; images are sums of the map over slabs."""
    if settings.flavour == "relion":
        # a unitary transform, divided by the binning once more where there is any
        return 1.0 / window * settings.box / window
    return unbinned**2 * (settings.slab_angst or series.pixel_size_angst) / settings.voxel_size_angst**3


def _radius(size: int, frequencies: FloatArray) -> FloatArray:
    """(s, s // 2 + 1) |(X, Y)|."""
    k_x, k_y = np.arange(size // 2 + 1)[None, :], signed_frequencies(size)[:, None]
    f = frequencies
    radius: FloatArray = np.hypot(f[0, 0] * k_x + f[0, 1] * k_y, f[1, 0] * k_x + f[1, 1] * k_y)
    return radius


def _aberrations(group: OpticsGroup, settings: TiltSettings, window: int) -> tuple[FloatArray, ComplexArray]:
    """γ_even in turns, and exp(−iθ_odd); single entries where there are none."""
    if settings.flavour == "relion" and settings.aberration_pixel_angst is not None:
        group = replace(group, pixel_size_angst=settings.aberration_pixel_angst * window / settings.box)
    if settings.ctf_mode == "none" and settings.flavour == "default":
        group = replace(group, beam_tilt_mrad=(0.0, 0.0)) if group.voltage_kv <= 0 else group
    gamma, theta = group_phases(group, settings.box)
    kind = np.complex64 if settings.precision == np.float32 else np.complex128
    even: FloatArray = np.ascontiguousarray(gamma / (2 * np.pi)) if np.any(gamma) else np.zeros((1, 1))
    odd: ComplexArray = np.exp(-1j * theta).astype(kind) if np.any(theta) else np.ones((1, 1), kind)
    return even, odd


def _whitening(curves: FloatArray | None, settings: TiltSettings, window: int) -> FloatArray:
    """(f, s, s // 2 + 1) of the curves; RELION reads them at the binning times the frequency."""
    if curves is None:
        return np.ones((1, 1, 1), np.float32)
    if curves.ndim != 2 or curves.shape[1] != window // 2 + 1:
        raise ParameterError(
            f"whitening curves: expected {window // 2 + 1} points a tilt, got shape {curves.shape}"
        )
    step = window / settings.box if settings.flavour == "relion" else 1.0
    radius = _radius(settings.box, np.eye(2) * step)
    return np.stack([whitening_table(curve, radius) for curve in curves])


def _relion_limits(dose: FloatArray, settings: TiltSettings) -> tuple[IntArray, FloatArray]:
    """Row limits X_f(y) and X_f(0): one more than the last kx in the disc with enough signal left."""
    size = settings.box
    k_x, k_y = np.arange(size // 2 + 1)[None, :], signed_frequencies(size)[:, None]
    disc = k_x**2 + k_y**2 <= size * size // 4
    kept = disc & (dose > settings.dose_cutoff)
    last = kept.shape[-1] - np.argmax(kept[..., ::-1], axis=-1)
    limits = np.where(kept.any(axis=-1), last, 0).astype(np.int64)
    radii = limits[:, 0].astype(np.float64)
    if settings.ctf_mode == "none":
        limits[:] = size // 2 + 1
    return limits, radii


def _default_limits(
    series: TiltSeries, settings: TiltSettings, pixel: float, magnified: float
) -> tuple[IntArray, FloatArray]:
    """Samples of a disc a tilt: within the Nyquist frequencies of slice and map, what is wanted, and the dose's."""
    size = settings.box
    extent = size * pixel  # 1/Å to slice indices
    wanted = math.inf if settings.max_frequency is None else settings.max_frequency
    # a magnified slice reaches further out in the map
    most = min(size / 2, extent / magnified * min(0.5 / settings.voxel_size_angst, wanted))
    radii = np.minimum(most, extent / magnified * dose_frequency(series, settings.dose_cutoff))
    k_y = signed_frequencies(size)
    square = radii[:, None] ** 2 - k_y[None, :] ** 2
    last = np.floor(np.sqrt(np.maximum(square, 0)) + 1e-9).astype(np.int64)
    limits = np.where(square < 0, 0, np.minimum(last, (size - 1) // 2) + 1)
    limits[:, 2 * k_y == -size] = 0
    return limits, radii


def dose_frequency(series: TiltSeries, cutoff: float) -> FloatArray:
    """(f,) frequency in 1/Å at which the dose filter of each tilt falls to ``cutoff``; inf where it never does."""
    result = np.full(len(series), np.inf)
    if cutoff <= 0:
        return result
    dose = np.asarray(series.dose, np.float64)
    if series.bfactor_per_dose > 0:
        exposed = dose > 0
        result[exposed] = np.sqrt(-4 * math.log(cutoff) / (series.bfactor_per_dose * dose[exposed]))
        return result
    # exp(−½ dose / (0.245 k^−1.665 + 2.81)) = cutoff, see optics/dose.py
    excess = dose / (-2 * math.log(cutoff)) - 2.81
    result[excess > 0] = (excess[excess > 0] / 0.245) ** (-1 / 1.665)
    return result


def _spectra(windows: FloatArray, preparation: TiltPreparation) -> FloatArray:
    """(b, s, 2 (s // 2 + 1)) transforms as pairs of reals, cropped to the slice."""
    size, half = preparation.size, preparation.size // 2 + 1
    images = windows.astype(preparation.precision, copy=False)
    if preparation.window_size == size:
        spectra = scipy.fft.rfft2(images)
    else:
        lines = scipy.fft.fft(scipy.fft.rfft(images)[..., :half], axis=1)
        spectra = np.concatenate([lines[:, : (size + 1) // 2], lines[:, -(size // 2) :]], axis=1)
    pairs: FloatArray = spectra.view(preparation.precision)
    return pairs


def _table(preparation: TiltPreparation, ctf: ContrastTransfer | None, count: int) -> FloatArray:
    """(b, 7) CTF coefficients, zeros in mode ``none``."""
    if preparation.ctf_mode == "none":
        return np.zeros((count, 7))
    if ctf is None:
        raise ParameterError("CTF: expected parameters of every window, got none; ask for slices without CTF")
    return ctf_coefficients(
        ctf,
        preparation.wavelength_angst,
        preparation.spherical_aberration_angst,
        preparation.amplitude_phase,
    )
