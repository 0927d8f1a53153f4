"""Slices of the tomographic reference project in plain NumPy, formula by formula: an independent preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from scipy.spatial.transform import Rotation

from centralslice.data.slices import SliceBatch, Views
from centralslice_plugins.formats.star import read_star


def euler(rot: Any, tilt: Any, psi: Any) -> Any:
    """RELION's matrix: map to image."""
    return Rotation.from_euler("zyz", [-rot, -tilt, -psi], degrees=True).as_matrix()


def projections(folder: Path, tomograms: Any, row: int, tilts: Any, image_shape: Any) -> Any:
    """(f, 4, 4) from angles, or as the table has them."""
    if "rlnTomoProjX" in tilts:
        return np.array([tilts.vectors(f"rlnTomoProj{axis}") for axis in "XYZW"]).transpose(1, 0, 2)
    size = np.array([tomograms.numbers(f"rlnTomoSize{axis}")[row] for axis in "XYZ"]) // 2
    pixel = tomograms.numbers("rlnTomoTiltSeriesPixelSize")[row]
    found = np.tile(np.eye(4), (len(tilts), 1, 1))
    for f in range(len(tilts)):
        angles = [tilts.numbers(label)[f] for label in ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")]
        found[f, :3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        found[f, :3, 3] = -found[f, :3, :3] @ size
        for axis, count in ((0, image_shape[1]), (1, image_shape[0])):
            found[f, axis, 3] += count // 2 + tilts.numbers(f"rlnTomo{'XY'[axis]}ShiftAngst")[f] / pixel
    return found


def window(image: Any, centre: Any, box: int, binning: int, circle: bool) -> Any:
    """Unitary transform of a particle's window, its centre at the origin, cropped to the bin."""
    size = box * binning
    origin = np.floor(centre + 0.5).astype(int) - size // 2
    at = [np.clip(origin[axis] + np.arange(size), 0, image.shape[1 - axis] - 1) for axis in (0, 1)]
    cut = image[np.ix_(at[1], at[0])].astype(np.float64)
    if circle:
        axis = np.arange(size) - size // 2
        edge = size // 2 - np.hypot(axis[:, None], axis)
        cut -= cut[edge < 0].mean()
        cut *= np.where(edge > 5, 1.0, np.where(edge > 0, 0.5 - 0.5 * np.cos(np.pi * edge / 5), 0.0))
    spectrum = np.fft.rfft2(np.fft.ifftshift(cut)) / size
    rows = np.fft.fftfreq(box, 1 / box).astype(int)
    spectrum = spectrum[rows][:, : box // 2 + 1] / binning
    t = (centre - origin) / binning - box // 2
    return spectrum * np.exp(2j * np.pi / box * (t[0] * np.arange(box // 2 + 1) + t[1] * rows[:, None]))


def noise_weight(image: Any, box: int) -> Any:
    """1 / amplitude of the noise of a tilt image at each sample of a slice."""
    x, y = np.arange(box // 2 + 1), np.fft.fftfreq(box, 1 / box)[:, None]
    starts = [range(0, side - box + 1, box // 2) for side in image.shape]
    blocks = [image[b : b + box, a : a + box].astype(np.float64) for b in starts[0] for a in starts[1]]
    power = np.mean([np.abs(np.fft.rfft2(block) / box) ** 2 for block in blocks], axis=0)
    radius = np.hypot(x, y)
    low, fraction = radius.astype(int), radius % 1
    sums, counts = np.zeros(box + 2), np.zeros(box + 2)
    for where, share in ((low, 1 - fraction), (low + 1, fraction)):
        np.add.at(sums, where, share * power)
        np.add.at(counts, where, share)
    curve = 1 / np.sqrt((sums / np.maximum(counts, 1e-30))[: box // 2 + 1])
    return np.interp(radius, x, curve)


def ctf_and_dose(optics: Any, tilts: Any, f: int, depth: float, k: Any) -> Any:
    """CTF and what the dose left, at frequencies k = (x, y) in 1/Å."""
    x, y = k
    voltage, spherical, contrast = optics
    wavelength = 12.2643247 / np.sqrt(voltage * 1e3 * (1 + voltage * 1e3 * 0.978466e-6))
    u, v = (tilts.numbers(f"rlnDefocus{axis}")[f] + depth for axis in "UV")
    angle = np.deg2rad(tilts.numbers("rlnDefocusAngle")[f])
    sine, cosine, squared = np.sin(angle), np.cos(angle), x**2 + y**2
    defocus = (u * cosine**2 + v * sine**2) * x**2 + 2 * (u - v) * sine * cosine * x * y
    defocus += (u * sine**2 + v * cosine**2) * y**2
    phase = -np.pi * wavelength * defocus + np.pi / 2 * spherical * 1e7 * wavelength**3 * squared**2
    ctf = -np.sin(phase - np.arcsin(contrast)) * tilts.numbers("rlnCtfScalefactor")[f]
    with np.errstate(divide="ignore"):
        critical = 0.245 * squared ** (-1.665 / 2) + 2.81
    return ctf, np.exp(-0.5 * tilts.numbers("rlnMicrographPreExposure")[f] / critical)


class Project:
    """One of the reference projects, as slices for a box and binning."""

    def __init__(self, folder: Path, suffix: str, motion: bool = False, relion4: bool = False) -> None:
        self.folder = folder
        tables = read_star(folder / f"tomograms{suffix}.star")
        self.tomograms = tables.table("global")
        self.particles = read_star(folder / f"particles{suffix}.star").table("particles")
        self.motion = read_star(folder / "motion.star").by_block() if motion else None
        self.series = []
        for row, name in enumerate(self.tomograms.texts("rlnTomoName")):
            star = tables if relion4 else read_star(folder / f"tilt_series/{name}.star")
            with mrcfile.open(folder / f"tilt/{name}.mrcs", permissive=True) as file:
                images = np.array(file.data)
            tilts = star.table(name)
            matrices = projections(folder, self.tomograms, row, tilts, images.shape[1:])
            self.series.append((name, tilts, images, matrices))

    def batches(self, half: int, box: int, binning: int = 1, **how: Any) -> Any:
        """One batch a particle of the half set (0: all)."""
        subset = self.particles.integers("rlnRandomSubset") if half else np.zeros(len(self.particles))
        for row in np.flatnonzero(subset == half):
            yield self._particle(row, box, binning, **how)

    def _particle(
        self, row: int, box: int, binning: int, circle: bool = True, ctf: bool = True, whiten: bool = False
    ) -> SliceBatch:
        number = [name for name, *_ in self.series].index(self.particles.texts("rlnTomoName")[row])
        _, tilts, images, matrices = self.series[number]
        fact = lambda label: float(self.tomograms.numbers(label)[number])  # noqa: E731
        optics = fact("rlnVoltage"), fact("rlnSphericalAberration"), fact("rlnAmplitudeContrast")
        pixel, middle = (
            fact("rlnTomoTiltSeriesPixelSize"),
            np.array([fact(f"rlnTomoSize{a}") / 2 for a in "XYZ"]),
        )
        position, rotation = self._pose(row, pixel, middle)
        moves = np.zeros((len(tilts), 3))
        if self.motion is not None:
            table = self.motion[self.particles.texts("rlnTomoParticleName")[row]]
            moves = np.array([table.numbers(f"rlnOrigin{a}Angst") for a in "XYZ"]).T / pixel
        x, y = np.arange(box // 2 + 1), np.fft.fftfreq(box, 1 / box)[:, None]
        frequency = x / (box * pixel * binning), y / (box * pixel * binning)
        samples, views, radii = [], [], []
        for f, matrix in enumerate(matrices):
            centre = (matrix @ [*(position + moves[f]), 1])[:2]
            limit = np.array(images.shape[:0:-1]) - box / 2
            if not (np.all(centre > box / 2) and np.all(centre < limit)):
                continue
            value = window(images[f], centre, box, binning, circle)
            depth = fact("rlnTomoHand") * pixel * (matrix[2, :3] @ (position - middle))
            transfer, dose = ctf_and_dose(optics, tilts, f, depth, frequency)
            kept = (np.hypot(x, y) <= box / 2) & (dose > 0.01)
            limits = np.array([1 + line.nonzero()[0].max() if line.any() else 0 for line in kept])
            factor = -transfer * dose if ctf else np.full(dose.shape, -1.0)
            weight = factor**2
            if whiten:
                noise = noise_weight(images[f], box)
                factor, weight = factor * noise, weight * noise
            inside = x < limits[:, None] if ctf else True
            value, weight = value * factor * inside, weight * inside
            samples.append(np.stack([value.real, value.imag, weight, 0 * weight], axis=-1))
            views.append(matrix[:3, :3] @ rotation)
            radii.append(float(limits[0]))
        count = len(samples)
        where = Views(np.arange(count), np.array(views), np.zeros((count, 2)), np.ones(count))
        return SliceBatch(np.array(samples, np.float32), box, max(radii), where, np.array(radii))

    def _pose(self, row: int, pixel: float, middle: Any) -> Any:
        """Position in unbinned pixels, and the rotation of the map to the tomogram."""
        numbers = lambda form, names: [self.particles.numbers(form.format(n))[row] for n in names]  # noqa: E731
        tilted = euler(*numbers("rlnTomoSubtomogram{}", ("Rot", "Tilt", "Psi")))
        if "rlnCoordinateX" in self.particles:
            position = np.array(numbers("rlnCoordinate{}", "XYZ"))
        else:
            position = np.array(numbers("rlnCenteredCoordinate{}Angst", "XYZ")) / pixel + middle
        position = position - tilted @ np.array(numbers("rlnOrigin{}Angst", "XYZ")) / pixel
        return position, tilted @ euler(*numbers("rlnAngle{}", ("Rot", "Tilt", "Psi")))
