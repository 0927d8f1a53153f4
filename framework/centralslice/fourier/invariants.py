"""EMAN2's rotation and translation invariants of particle images: bispectra and harmonics.

Written from the definitions of ``math.bispectrum.slice:size=32:fp=10`` and ``math.harmonic:fp=4``, after a
Gaussian highpass and normalisation by edge mean and standard deviation, as EMAN2 prepares its classifications.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from centralslice.conventions import ComplexArray, FloatArray, signed_frequencies
from centralslice.errors import ParameterError
from centralslice.fourier.invariant_kernels import (
    GRID,
    HALF,
    HARMONICS,
    REACH,
    SLICES,
    bispectrum,
    rotational_harmonics,
    translational_harmonics,
)

InvariantKind: TypeAlias = Literal["bispec", "harmonic"]

_HIGHPASS_PER_ANGST = 0.01
#: Harmonics are read from the transform of the image padded to this many boxes.
_PADDING = 4
#: Smallest boxes for which each invariant has content.
_SMALLEST = {"bispec": 34, "harmonic": 32}
#: FFT sizes EMAN2 takes to be fast, as far as harmonics use them.
_GOOD_SIZES = (
    16, 24, 32, 36, 40, 44, 48, 52, 56, 60, 64, 72, 84, 96, 100, 104, 112, 120, 128, 132, 140, 168, 180, 192,
    196, 208, 216, 220, 224, 240, 256, 260, 288, 300, 320, 352, 360, 384, 416, 440, 448, 480, 512, 540, 560,
    576, 588, 600, 630, 640,
)  # fmt: skip


def invariant_shape(kind: InvariantKind, size: int) -> tuple[int, int]:
    """(ny, nx) of the invariant of a box of ``size`` pixels.

    Raises
    ------
    ParameterError
        If the kind is unknown or the box too small or too large for it.
    """
    if kind not in get_args(InvariantKind):
        raise ParameterError(f"invariant: expected {' or '.join(get_args(InvariantKind))}, got '{kind}'")
    if size < _SMALLEST[kind]:
        raise ParameterError(
            f"{kind} invariants need a box of at least {_SMALLEST[kind]} pixels, got {size}: smaller ones hold "
            "nothing but zeros; choose a larger --newbox or --invartype none"
        )
    if kind == "bispec":
        return 2 * REACH * SLICES, REACH
    ny, azimuths = size // 2, _azimuths(size)
    return min(ny // 2, HARMONICS * (ny // 4 - 3)), min(azimuths, HARMONICS * azimuths // 4) // 2


def invariants(images: FloatArray, kind: InvariantKind, pixel_size_angst: float) -> NDArray[np.float32]:
    """Invariants of images.

    Parameters
    ----------
    images
        (b, N, N).
    kind
        ``bispec`` or ``harmonic``.
    pixel_size_angst
        Of the images; the highpass is at 0.01 1/Å.

    Returns
    -------
    ndarray
        (b, ny, nx) float32, see :func:`invariant_shape`; zeros for constant images.

    Raises
    ------
    ParameterError
        If the images are not square, the pixel size not above 0, or as for :func:`invariant_shape`.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ParameterError(f"invariants: expected square images (b, N, N), got shape {images.shape}")
    if not (np.isfinite(pixel_size_angst) and pixel_size_angst > 0):
        raise ParameterError(f"invariants: expected a pixel size in Å above 0, got {pixel_size_angst}")
    shape = invariant_shape(kind, images.shape[1])
    result = np.zeros((len(images), *shape), np.float32)
    one = _bispectrum_image if kind == "bispec" else _harmonic_image
    for place, image in enumerate(images):
        result[place] = one(normalised(image, pixel_size_angst), shape)
    return result


def normalised(image: FloatArray, pixel_size_angst: float) -> FloatArray:
    """(N, N) float64: highpass ``1 − exp(−(s / 0.01)²)``, minus the mean of the border, over the sigma.

    The border's four lines count their corners twice; sigma divides by n − 1. Constant images give zeros.
    """
    size = len(image)
    ky, kx = signed_frequencies(size)[:, None], np.arange(size // 2 + 1)[None, :]
    scaled = (np.square(kx) + np.square(ky)) / (size * pixel_size_angst * _HIGHPASS_PER_ANGST) ** 2
    spectrum = fft.rfft2(np.asarray(image, np.float64)) * -np.expm1(-scaled)
    passed: FloatArray = fft.irfft2(spectrum, image.shape)
    border = (passed[0].sum() + passed[-1].sum() + passed[:, 0].sum() + passed[:, -1].sum()) / (4 * size)
    sigma = passed.std(ddof=1)
    # what rounding leaves of a constant image is no signal
    if sigma <= 1e-12 * np.abs(image).max():
        return np.zeros_like(passed)
    result: FloatArray = (passed - border) / sigma
    return result


def _bispectrum_image(image: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """(320, 16): cube roots of the real part, slices below one another, ky rising from −16 in each."""
    sums = bispectrum(_coarse_coefficients(image)).real
    rows = np.cbrt(sums.transpose(0, 2, 1))
    ky, kx = np.arange(-REACH, REACH)[:, None], np.arange(REACH)[None, :]
    rows[:, np.hypot(ky, kx) < 2] = 0.0
    result: FloatArray = rows.reshape(shape)
    return result


def _coarse_coefficients(image: FloatArray) -> ComplexArray:
    """(43, 84) coefficients ``c[j, k + 42] = C(j step, k step)`` about the box centre, 0 beyond the transform.

    The columns j = 0 and 42 are made Hermitian, as those of a real image of 84 pixels are.
    """
    size = len(image)
    step = max(1, size // (2 * GRID))
    kx, ky = step * np.arange(HALF + 1), step * np.arange(-HALF, HALF)
    known = (kx <= size // 2)[:, None] & (np.abs(ky) <= size // 2)[None, :]
    spectrum = fft.rfft2(image)
    columns, rows = np.minimum(kx, size // 2)[:, None], (ky % size)[None, :]
    phase = np.exp(2j * np.pi * (size // 2) / size * (kx[:, None] + ky[None, :]))
    c: ComplexArray = np.where(known, spectrum[rows, columns] * phase, 0)
    for column in (0, HALF):
        c[column, HALF - 1 : 0 : -1] = c[column, HALF + 1 :].conj()
    return c


def _harmonic_image(image: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Real and imaginary parts side by side, cut to ``shape``."""
    ny, azimuths = len(image) // 2, _azimuths(len(image))
    rows = np.zeros((ny // 2, azimuths), np.complex128)
    translational_harmonics(_fine_coefficients(image, ny), ny, rows)
    columns = np.zeros((ny // 2, azimuths // 2), np.complex128)
    rotational_harmonics(fft.fft(rows, axis=1), columns)
    result: FloatArray = columns.view(np.float64)[: shape[0], : shape[1]]
    return result


def _fine_coefficients(image: FloatArray, reach: int) -> ComplexArray:
    """``c[ky + K, kx]`` (2K + 1, K + 1) of the image padded to four times its box, about its centre; K = reach."""
    size = len(image)
    padded = _PADDING * size
    kx, ky = np.arange(reach + 1), np.arange(-reach, reach + 1)
    # only the columns that are used are transformed along y
    along_x = fft.rfft(image, padded, axis=1)[:, : reach + 1]
    spectrum = fft.fft(along_x, padded, axis=0)[ky]
    phase = np.exp(2j * np.pi * (size // 2) / padded * (kx[None, :] + ky[:, None]))
    return np.ascontiguousarray(spectrum * phase)


def _azimuths(size: int) -> int:
    """Number of azimuths for a box: the smallest good FFT size from half the box on."""
    for good in _GOOD_SIZES:
        if good >= size // 2:
            return good
    raise ParameterError(
        f"harmonic invariants are defined up to boxes of {2 * _GOOD_SIZES[-1] + 1} pixels, got {size}; shrink the "
        "images or choose --invartype bispec"
    )
