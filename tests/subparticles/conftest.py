"""Objects of two parts, and exact images of them with the CTF, for the tests of subtraction."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.geometry.rotations import random_rotations
from centralslice.optics.aberrations import group_phases
from centralslice.optics.ctf import ctf, slice_frequencies

MICROSCOPE = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}


def blob(centre, radius, count, sigma, seed):
    """Gaussians in a ball about a centre, Å."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = np.asarray(centre) + radius * np.cbrt(rng.uniform(size=(count, 1))) * directions
    return GaussianPhantom(places, rng.uniform(*sigma, count), rng.uniform(0.5, 1.5, count))


def together(first, second):
    """The sum of two phantoms."""
    names = ("centres_angst", "sigmas_angst", "heights")
    return GaussianPhantom(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in names))


def soft_ball(box, centre_px, radius, edge=5.0):
    """Soft mask (box, box, box): 1 within the radius, a cosine edge of this width beyond."""
    axis = np.arange(box) - box // 2
    x, y, z = centre_px
    distance = np.sqrt((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - radius) / edge, 0, 1))).astype(np.float32)


def random_ctf(count, seed, astigmatism=1500.0, low=8000.0, high=20000.0):
    """CTF parameters, astigmatic in every second particle."""
    rng = np.random.default_rng(seed)
    defocus = rng.uniform(low, high, count)
    half = np.where(np.arange(count) % 2, astigmatism / 2, 0.0)
    return ContrastTransfer(
        defocus + half,
        defocus - half,
        rng.uniform(0, 180, count),
        np.zeros(count),
        np.zeros(count),
        np.ones(count),
    )


def images_of(parts, rotations, shifts_px, box, optics, transfer=None, flipped=False, depth_hand=0.0):
    """Exact images (b, n, n) float64 of phantoms; with a hand, each Gaussian has the defocus of its height."""
    pixel = optics.pixel_size_angst
    kx, ky = slice_frequencies(box, optics)
    plane = np.stack([kx, ky, 0 * kx], -1)
    raw_x, raw_y = np.meshgrid(np.arange(box // 2 + 1), np.fft.fftfreq(box, 1 / box))
    gamma, theta = group_phases(optics, box) if optics.voltage_kv else (0.0 * kx, 0.0 * kx)
    images = []
    for number, (pose, shift) in enumerate(zip(rotations, shifts_px, strict=True)):
        spectrum = np.zeros(kx.shape, complex)
        pieces = [parts]
        if depth_hand:
            pieces = [
                GaussianPhantom(parts.centres_angst[[g]], parts.sigmas_angst[[g]], parts.heights[[g]])
                for g in range(len(parts))
            ]
        for piece in pieces:
            part = piece.transform(plane @ pose, pixel)
            if transfer is not None:
                one = transfer.take(np.array([number]))
                change = -depth_hand * (pose @ piece.centres_angst[0])[2] if depth_hand else 0.0
                moved = ContrastTransfer(
                    one.defocus_u_angst + change, one.defocus_v_angst + change, one.defocus_angle_deg,
                    one.phase_shift_deg, one.bfactor_angst2, one.scale,
                )  # fmt: skip
                found = ctf(kx, ky, optics, moved, gamma)[0]
                part = part * (np.abs(found) if flipped else found)
            spectrum += part
        spectrum *= np.exp(1j * theta)
        spectrum *= np.exp(
            -2j * np.pi * (raw_x * (shift[0] + box // 2) + raw_y * (shift[1] + box // 2)) / box
        )
        if box % 2 == 0:
            spectrum[box // 2] = 0
            spectrum[:, box // 2] = 0
        images.append(np.fft.irfft2(spectrum, s=(box, box)))
    return np.array(images)


@dataclass
class Scene:
    """Kept part A and other part B, their map and masks, and views of them."""

    box: int = 64
    pixel: float = 2.0
    views: int = 6
    seed: int = 0
    apart: bool = True
    astigmatism: float = 1500.0
    optics: OpticsGroup = field(init=False)

    def __post_init__(self):
        self.optics = OpticsGroup(pixel_size_angst=self.pixel, box_size=self.box, **MICROSCOPE)
        reach = self.box * self.pixel
        self.centre_angst = np.array([0.2, 0.05, 0.0]) * reach
        sigma = (1.2 * self.pixel, 2.0 * self.pixel)
        self.kept = blob(self.centre_angst, 0.08 * reach, 12, sigma, self.seed)
        away = -0.2 if self.apart else 0.1
        self.other = blob([away * reach, 0, 0], 0.12 * reach, 25, sigma, self.seed + 1)
        self.whole = together(self.kept, self.other)
        self.density = self.whole.volume(self.box, self.pixel).astype(np.float32)
        self.keep = soft_ball(self.box, self.centre_angst / self.pixel, 0.08 * self.box + 6.0)
        rng = np.random.default_rng(self.seed + 2)
        self.rotations = random_rotations(self.views, self.seed + 3)
        self.shifts = rng.uniform(-2, 2, (self.views, 2))
        self.ctf = random_ctf(self.views, self.seed + 4, self.astigmatism)

    def images(self, parts=None, **options):
        """Images of the whole object, or of parts of it."""
        return images_of(
            self.whole if parts is None else parts, self.rotations, self.shifts, self.box, self.optics,
            self.ctf, **options,
        )  # fmt: skip


@pytest.fixture
def scenes():
    """Makers of objects and images."""
    return SimpleNamespace(
        Scene=Scene,
        blob=blob,
        together=together,
        soft_ball=soft_ball,
        random_ctf=random_ctf,
        images_of=images_of,
    )
