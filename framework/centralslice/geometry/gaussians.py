"""An object whose map, projections and transform are known exactly: a sum of round Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray, centre_of
from centralslice.errors import ParameterError
from centralslice.geometry.rotations import is_rotation

#: Half-width of the painted window in sigmas; exp(−8.5²/2) is below the last bit of the peak.
_REACH = 8.5


@numba.njit(nogil=True, cache=True)
def _paint(
    image: FloatArray,
    x: FloatArray,
    y: FloatArray,
    height: FloatArray,
    sigma: FloatArray,
) -> None:
    """Add 2D Gaussians centred at index (y, x), pixels, to a (ny, nx) image of any size, even or odd."""
    ny, nx = image.shape
    profile = np.empty(nx)
    for g in range(len(x)):
        reach = _REACH * sigma[g]
        first = max(0, int(np.ceil(x[g] - reach)))
        last = min(nx, int(np.floor(x[g] + reach)) + 1)
        factor = -0.5 / (sigma[g] * sigma[g])
        for i in range(first, last):
            profile[i] = np.exp(factor * (i - x[g]) ** 2)
        top = max(0, int(np.ceil(y[g] - reach)))
        bottom = min(ny, int(np.floor(y[g] + reach)) + 1)
        for j in range(top, bottom):
            scaled = height[g] * np.exp(factor * (j - y[g]) ** 2)
            for i in range(first, last):
                image[j, i] += scaled * profile[i]


@dataclass(frozen=True, slots=True, eq=False)
class GaussianPhantom:
    """``V(r) = Σ height · exp(−|r − centre|² / (2 sigma²))``, r from the centre voxel.

    Attributes
    ----------
    centres_angst
        (g, 3) float64, x y z in Å from the centre of the box (voxel ``n // 2``).
    sigmas_angst
        (g,) float64, Å, > 0.
    heights
        (g,) float64, density at the centre of each.

    Raises
    ------
    ParameterError
        If shapes do not fit, a number is not finite or a sigma is not positive.
    """

    centres_angst: FloatArray
    sigmas_angst: FloatArray
    heights: FloatArray

    def __post_init__(self) -> None:
        count = len(self.sigmas_angst)
        if self.centres_angst.shape != (count, 3) or self.heights.shape != (count,):
            raise ParameterError(
                "phantom: expected centres (g, 3), sigmas (g,) and heights (g,), got "
                f"{self.centres_angst.shape}, {self.sigmas_angst.shape} and {self.heights.shape}"
            )
        numbers = np.concatenate([self.centres_angst.ravel(), self.sigmas_angst, self.heights])
        if not np.all(np.isfinite(numbers)) or np.any(self.sigmas_angst <= 0):
            raise ParameterError("phantom: expected finite numbers and sigmas of more than 0 Å")

    def __len__(self) -> int:
        return len(self.sigmas_angst)

    @property
    def radius_angst(self) -> float:
        """Radius of the sphere about the centre outside of which no Gaussian is within three sigma."""
        return float((np.linalg.norm(self.centres_angst, axis=1) + 3 * self.sigmas_angst).max(initial=0.0))

    def volume(self, size: int, voxel_size_angst: float) -> NDArray[np.float64]:
        """The map at the voxel centres, (size, size, size) float64 as z, y, x; even or odd."""
        data = np.zeros((size, size, size))
        x, y, z = self.centres_angst.T / voxel_size_angst + centre_of(size)
        sigma = self.sigmas_angst / voxel_size_angst
        for plane in range(size):
            distance = (plane - z) / sigma
            near = np.abs(distance) <= _REACH
            height = self.heights[near] * np.exp(-0.5 * distance[near] ** 2)
            _paint(data[plane], x[near], y[near], height, sigma[near])
        return data

    def project(
        self, rotations: ArrayLike, shifts_angst: ArrayLike, size: int, pixel_size_angst: float
    ) -> NDArray[np.float64]:
        """Exact projections under poses (see :mod:`centralslice.conventions`).

        Parameters
        ----------
        rotations
            (m, 3, 3) proper rotations.
        shifts_angst
            (m, 2) x, y in Å.
        size
            Image size n in pixels, even or odd.
        pixel_size_angst
            Å.

        Returns
        -------
            (m, n, n) float64: the line integral over the pixel size, i.e. in the units of ``Σ_z V``.

        Raises
        ------
        ParameterError
            If a matrix is not a proper rotation (to 1e-4: matrices kept in single precision pass).
        """
        poses = np.asarray(rotations, np.float64).reshape(-1, 3, 3)
        shifts = np.asarray(shifts_angst, np.float64).reshape(-1, 2)
        if len(shifts) != len(poses) or not is_rotation(poses, 1e-4).all():
            raise ParameterError("phantom: projecting needs a proper rotation and a shift for each image")
        images = np.zeros((len(poses), size, size))
        sigma = self.sigmas_angst / pixel_size_angst
        height = self.heights * sigma * np.sqrt(2 * np.pi)
        for image, pose, shift in zip(images, poses, shifts, strict=True):
            x, y = (pose[:2] @ self.centres_angst.T + shift[:, None]) / pixel_size_angst + centre_of(size)
            _paint(image, x, y, height, sigma)
        return images

    def transform(self, frequencies: ArrayLike, voxel_size_angst: float) -> NDArray[np.complex128]:
        """The Fourier transform with the centre voxel as origin.

        Parameters
        ----------
        frequencies
            (…, 3) kx, ky, kz in 1/Å.
        voxel_size_angst
            Å.

        Returns
        -------
            (…,) complex128 ``∫ V(r) exp(−2πi k·r) dr / voxel³``: what the unnormalised FFT of
            :meth:`volume` tends to where the map is well sampled and fits the box.
        """
        k = np.asarray(frequencies, np.float64)
        squared = (k**2).sum(axis=-1)
        total = np.zeros(squared.shape, np.complex128)
        masses = self.heights * (np.sqrt(2 * np.pi) * self.sigmas_angst / voxel_size_angst) ** 3
        for centre, sigma, mass in zip(self.centres_angst, self.sigmas_angst, masses, strict=True):
            total += mass * np.exp(-2 * np.pi**2 * sigma**2 * squared - 2j * np.pi * (k @ centre))
        return total

    def symmetrised(self, symmetry: Symmetry) -> GaussianPhantom:
        """The sum of all copies ``S r + t``, so that ``V(S r + t) = V(r)`` (for a helix but for its ends)."""
        rotations, translations = symmetry.rotations(), symmetry.translations_angst()
        copies = np.einsum("sij,gj->sgi", rotations, self.centres_angst) + translations[:, None]
        order = len(rotations)
        return GaussianPhantom(
            copies.reshape(-1, 3), np.tile(self.sigmas_angst, order), np.tile(self.heights, order)
        )


def random_phantom(
    count: int, sigma_range_angst: tuple[float, float], radius_angst: float, seed: Any = 0
) -> GaussianPhantom:
    """``count`` Gaussians with centres uniform in a ball; the same for the same seed.

    Parameters
    ----------
    count
        Number of Gaussians, > 0.
    sigma_range_angst
        Smallest and largest sigma, Å; uniform between.
    radius_angst
        Radius of the ball of centres, Å.
    seed
        Whatever :func:`numpy.random.default_rng` takes.

    Raises
    ------
    ParameterError
        If a number is out of range.

    Notes
    -----
    Heights are uniform in 0.5 … 1.5, all positive.
    """
    low, high = sigma_range_angst
    if count < 1 or not 0 < low <= high or not radius_angst >= 0:
        raise ParameterError(
            "phantom: expected a count ≥ 1, sigmas of more than 0 in order and a radius ≥ 0, "
            f"got {count}, {low} … {high} and {radius_angst}"
        )
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centres = radius_angst * np.cbrt(rng.uniform(size=(count, 1))) * directions
    return GaussianPhantom(centres, rng.uniform(low, high, count), rng.uniform(0.5, 1.5, count))
