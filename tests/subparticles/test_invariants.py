"""Rotation and translation invariants, against a second evaluation of their definitions and their purpose."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.errors import ParameterError
from centralslice.fourier.invariants import invariant_shape, invariants, normalised

PIXEL = 2.0
SIZES = (48, 64, 120, 200, 360)
GOOD = [24, 32, 60, 100, 180]


def blobs(size: int, seed: int = 1, shift: tuple[float, float] = (0, 0), turn_deg: float = 0.0) -> np.ndarray:
    """Gaussians around the box centre, turned about it and then shifted."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size)) - size // 2
    angle = np.deg2rad(turn_deg)
    image = np.zeros((size, size))
    for _ in range(12):
        px, py = rng.uniform(-0.2, 0.2, 2) * size
        px, py = np.cos(angle) * px - np.sin(angle) * py, np.sin(angle) * px + np.cos(angle) * py
        width, height = rng.uniform(0.02, 0.06) * size, rng.uniform(0.5, 2)
        image += height * np.exp(-((x - px - shift[0]) ** 2 + (y - py - shift[1]) ** 2) / (2 * width**2))
    return image


def noisy(size: int) -> np.ndarray:
    return blobs(size) + 0.3 * np.random.default_rng(size).normal(size=(size, size))


def literally_normalised(image: np.ndarray) -> np.ndarray:
    size = len(image)
    spectrum = np.fft.fft2(image)
    s = np.hypot(*np.meshgrid(np.fft.fftfreq(size, PIXEL), np.fft.fftfreq(size, PIXEL)))
    image = np.fft.ifft2(spectrum * (1 - np.exp(-((s / 0.01) ** 2)))).real
    border = sum(image[0, i] + image[size - 1, i] + image[i, 0] + image[i, size - 1] for i in range(size))
    return (image - border / (4 * size)) / np.sqrt(((image - image.mean()) ** 2).sum() / (image.size - 1))


def transform(image: np.ndarray, kx: np.ndarray, ky: np.ndarray, period: int) -> np.ndarray:
    """Sums of the definition, [ky, kx], with the phase origin at the box centre."""
    place = np.arange(len(image)) - len(image) // 2
    return (
        np.exp(-2j * np.pi * np.outer(ky, place) / period)
        @ image
        @ np.exp(-2j * np.pi * np.outer(place, kx) / period)
    )


def literal_bispectrum(image: np.ndarray) -> np.ndarray:
    size = len(image)
    step = max(1, size // 168)
    # full plane c[(j, k)], j = -42 .. 42, from the half plane by Friedel's law; k = 42 is k = -42
    j, k = np.arange(43), np.arange(-42, 42)
    half = transform(image, j * step, k * step, size).T
    half[j * step > size // 2] = 0
    half[:, np.abs(k) * step > size // 2] = 0
    coefficients = {(a, b): half[a, b + 42] for a in j for b in k}
    for a in (0, 42):
        for b in range(1, 42):
            coefficients[a, -b] = np.conj(coefficients[a, b])
    for a in j:
        coefficients[a, 42] = coefficients[a, -42]
    table = np.zeros((86, 85), complex)
    forbidden = np.zeros((86, 85), bool)
    for a in range(-42, 43):
        for b in range(-42, 43):
            table[a + 42, b + 42] = coefficients[a, b] if a >= 0 else np.conj(coefficients[-a, -b])
    forbidden[:42, 42] = True
    x, y = np.meshgrid(np.arange(0, 43), np.arange(-16, 17), indexing="ij")
    sums = np.zeros((10, 17, 33), complex)
    theta = np.float32(0)
    directions = 0
    while theta < 360:
        c, s = np.cos(np.radians(float(theta))), np.sin(np.radians(float(theta)))
        sx, sy = x * c - y * s, x * s + y * c
        inside = sx**2 + sy**2 < 42**2
        sx, sy = np.where(inside, sx, 0), np.where(inside, sy, 0)
        fx, fy = np.floor(sx).astype(int), np.floor(sy).astype(int)
        value, bad = np.zeros(x.shape, complex), ~inside
        for dx in (0, 1):
            for dy in (0, 1):
                weight = np.abs(1 - dx - (sx - fx)) * np.abs(1 - dy - (sy - fy))
                value += weight * table[fx + dx + 42, fy + dy + 42]
                bad |= forbidden[fx + dx + 42, fy + dy + 42]
        turned = np.where(bad, 0, value)
        for dk in range(10):
            for jx in range(17):
                for jy in range(-16, 16):
                    if (jx == 0 and jy < 0) or jx + dk < 4:
                        continue
                    term = turned[jx, jy + 16] * turned[jx + dk, 16] * np.conj(turned[2 * jx + dk, jy + 16])
                    sums[dk, jx, jy + 16] += term
                    if jx == 0:
                        sums[dk, jx, 16 - jy] += np.conj(term)
        theta = np.float32(theta + np.float32(360 / (16 * np.pi)))
        directions += 1
    assert directions == 51
    out = np.zeros((320, 16))
    for dk in range(10):
        for px in range(16):
            for py in range(-16, 16):
                if not (px <= 2 and abs(py) <= 2 and np.hypot(px, py) < 2):
                    out[py + 16 + 32 * dk, px] = np.cbrt(sums[dk, px, py + 16].real)
    return out


def literal_harmonics(image: np.ndarray, azimuths: int) -> np.ndarray:
    size = len(image)
    ny = 4 * size // 8
    plane = transform(image, np.arange(-ny, ny + 1), np.arange(-ny, ny + 1), 4 * size)

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        i, j = np.floor(x).astype(int), np.floor(y).astype(int)
        p, q = x - i, y - j
        return (
            (1 - p) * (1 - q) * plane[j + ny, i + ny]
            + p * (1 - q) * plane[j + ny, i + 1 + ny]
            + (1 - p) * q * plane[j + 1 + ny, i + ny]
            + p * q * plane[j + 1 + ny, i + 1 + ny]
        )

    angle = 2 * np.pi * (np.arange(azimuths) + 0.5) / azimuths
    cosine, sine = np.cos(angle), np.sin(angle)
    pairs = [(jr, hn) for jr in range(3, ny // 4) for hn in (2, 3, 4)][: ny // 2]
    rows = np.zeros((ny // 2, azimuths), complex)
    for row, (jr, hn) in enumerate(pairs):
        t = at(hn * jr * cosine, hn * jr * sine) * np.conj(at(jr * cosine, jr * sine)) ** hn
        rows[row] = np.abs(t) ** (1 / (hn + 1)) / ny * np.exp(1j * np.angle(t))
    exponent = np.outer(np.arange(azimuths), np.arange(azimuths))
    spectra = rows @ np.exp(-2j * np.pi * exponent / azimuths)
    pairs = [(jx, rn) for jx in range(1, azimuths // 2) for rn in (2, 3, 4) if jx * rn < azimuths]
    out = np.zeros((ny // 2, azimuths // 2), complex)
    for column, (jx, rn) in enumerate(pairs[: azimuths // 2]):
        w = spectra[:, jx * rn] * np.conj(spectra[:, jx]) ** rn
        out[:, column] = np.abs(w) ** (1 / (rn + 1)) / azimuths * np.exp(1j * np.angle(w))
    floats = np.stack([out.real, out.imag], axis=-1).reshape(ny // 2, -1)
    return floats[: min(ny // 2, 4 * (ny // 4 - 3)), : min(azimuths, 4 * azimuths // 4) // 2]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def test_highpass_and_normalisation_follow_their_formulas() -> None:
    for size in (48, 49):
        np.testing.assert_allclose(
            normalised(noisy(size), PIXEL), literally_normalised(noisy(size)), atol=1e-9
        )


@pytest.mark.parametrize("size", [*SIZES, 35, 49])
def test_bispectra_equal_their_definition(size: int) -> None:
    ours = invariants(noisy(size)[None], "bispec", PIXEL)[0]
    assert difference(ours, literal_bispectrum(literally_normalised(noisy(size)))) < 1e-6


@pytest.mark.parametrize(("size", "azimuths"), [*zip(SIZES, GOOD, strict=True), (92, 48), (137, 72)])
def test_harmonics_equal_their_definition(size: int, azimuths: int) -> None:
    ours = invariants(noisy(size)[None], "harmonic", PIXEL)[0]
    assert difference(ours, literal_harmonics(literally_normalised(noisy(size)), azimuths)) < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_bispectra_have_the_peers_size_whatever_the_box(size: int) -> None:
    assert invariant_shape("bispec", size) == (320, 16)
    assert invariants(noisy(size)[None], "bispec", PIXEL).shape == (1, 320, 16)


@pytest.mark.parametrize(
    ("size", "shape"),
    [(48, (12, 12)), (64, (16, 16)), (120, (30, 30)), (200, (50, 50)), (360, (90, 90)), (92, (23, 24))],
)
def test_harmonics_have_the_peers_size(size: int, shape: tuple[int, int]) -> None:
    assert invariant_shape("harmonic", size) == shape
    result = invariants(noisy(size)[None], "harmonic", PIXEL)
    assert result.shape == (1, *shape)
    assert result.dtype == np.float32


@pytest.mark.parametrize("kind", ["bispec", "harmonic"])
@pytest.mark.parametrize(("shift", "turn"), [((3, -2), 0), ((0, 0), 90), ((0, 0), 37), ((2, 1), 200)])
def test_moved_and_turned_images_keep_their_invariants(
    kind: str, shift: tuple[float, float], turn: float
) -> None:
    size = 96
    stack = np.stack([blobs(size), blobs(size, 1, shift, turn), blobs(size, 2)])
    same, moved, other = invariants(stack, kind, PIXEL).astype(np.float64)
    # the samples that the peer leaves 0 turn with the grid, not with the image
    assert difference(moved, same) < 0.4 * difference(other, same)
    assert np.corrcoef(moved.ravel(), same.ravel())[0, 1] > 0.9


def test_harmonics_of_a_quarter_turn_are_the_same_to_rounding() -> None:
    """Azimuths are multiples of 90° apart, and bilinear interpolation is the same after a quarter turn."""
    size = 65
    image = blobs(size)
    same, turned = invariants(np.stack([image, np.rot90(image)]), "harmonic", PIXEL)
    assert difference(turned, same) < 1e-5


@pytest.mark.parametrize("kind", ["bispec", "harmonic"])
def test_grey_scale_does_not_matter_and_constant_images_give_zeros(kind: str) -> None:
    image = noisy(64)
    stack = np.stack([image, 7 * image + 100, np.full_like(image, 3.0)])
    first, scaled, constant = invariants(stack, kind, PIXEL)
    assert difference(scaled, first) < 1e-6
    assert not constant.any()


@pytest.mark.parametrize(("kind", "size"), [("bispec", 32), ("bispec", 33), ("harmonic", 31)])
def test_boxes_that_are_too_small_are_refused_by_name(kind: str, size: int) -> None:
    with pytest.raises(ParameterError, match=f"at least 3[24] pixels, got {size}"):
        invariants(np.zeros((1, size, size)), kind, PIXEL)


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(ParameterError, match="expected bispec or harmonic, got 'auto'"):
        invariant_shape("auto", 64)
    with pytest.raises(ParameterError, match="square"):
        invariants(np.zeros((1, 64, 48)), "bispec", PIXEL)
    with pytest.raises(ParameterError, match="pixel size in Å above 0, got 0"):
        invariants(np.zeros((1, 64, 64)), "bispec", 0.0)
    with pytest.raises(ParameterError, match="up to boxes of 1281 pixels, got 1282"):
        invariant_shape("harmonic", 1282)
