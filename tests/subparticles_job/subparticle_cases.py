"""Rings of blobs with a symmetry, noise-free or not, on disk: what the tests of the subparticles command share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from centralslice.abc.reader import ReadRequest
from centralslice.cli import main
from centralslice.data.particles import Particles
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.jobs.simulate.particles import SimulationOutputs, SimulationSettings, write_simulation
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.readers.star import StarReader
from centralslice_plugins.writers.mrc import MrcWriter
from centralslice_plugins.writers.star import StarWriter

BOX, PIXEL = 48, 3.0
#: Centre of a subunit, pixels from the box's centre.
CENTRE = (10.0, 3.0, 6.0)


@dataclass(frozen=True)
class Ring:
    """Particles of a ring, its map and the mask of one subunit, as files of a folder."""

    folder: Path
    count: int
    sym: str

    @property
    def table(self) -> Path:
        return self.folder / "p.star"

    @property
    def truth(self) -> np.ndarray:
        return read_mrc(self.folder / "truth.mrc")

    @property
    def keep(self) -> np.ndarray:
        return read_mrc(self.folder / "keep.mrc")

    def words(
        self, output: Path, *options: str | Path, maps: tuple[str, ...] = ("--map", "truth.mrc")
    ) -> list[str]:
        """The command that takes the subunits out."""
        named = [str(self.folder / word) if word.endswith(".mrc") else word for word in maps]
        return [
            "subparticles", "--particles", str(self.table), *named, "--subunitmask", str(self.folder / "keep.mrc"),
            "--sym", self.sym, "--output", str(output), "--no-adjust-defocus", "--threads", "1", "--verbose", "0",
            *map(str, options),
        ]  # fmt: skip


def soft_ball(box: int, centre: tuple[float, float, float], radius: float, edge: float = 6.0) -> np.ndarray:
    """1 within the radius, a cosine edge beyond."""
    axis = np.arange(box) - box // 2
    x, y, z = centre
    distance = np.sqrt((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - radius) / edge, 0, 1))).astype(np.float32)


def blob(
    centre_angst: np.ndarray, radius: float, count: int, sigma: tuple[float, float], seed: int
) -> GaussianPhantom:
    """Gaussians in a ball."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = centre_angst + radius * np.cbrt(rng.uniform(size=(count, 1))) * directions
    return GaussianPhantom(places, rng.uniform(*sigma, count), rng.uniform(0.5, 1.5, count))


def make_ring(folder: Path, sym: str = "d3", count: int = 60, pixel: float = PIXEL, **changed: Any) -> Ring:
    """Simulate it."""
    centre = np.array(CENTRE) * pixel
    unit = blob(centre, 3.5 * pixel, 12, (1.1 * pixel, 1.6 * pixel), 1)
    given: dict[str, Any] = {
        "seed": 5, "max_shift_angst": 2 * pixel, "defocus_range_angst": (8000.0, 18000.0),
        "astigmatism_angst": 1500.0, **changed,
    }  # fmt: skip
    settings = SimulationSettings(count, BOX, pixel, **given)
    outputs = SimulationOutputs(
        folder / "p.star", folder / "p.mrcs", folder / "truth.mrc",
        {"table": StarWriter(), "stack": MrcWriter(), "truth": MrcWriter()},
    )  # fmt: skip
    write_simulation(unit.symmetrised(shared_registry().symmetry(sym)), settings, outputs)
    write_mrc(folder / "keep.mrc", soft_ball(BOX, CENTRE, 5.0), pixel)
    return Ring(folder, count, sym)


def read_mrc(path: Path) -> np.ndarray:
    """A map or stack, by other software than ours."""
    with mrcfile.open(path) as file:
        return file.data.astype(np.float64)


def write_mrc(path: Path, data: np.ndarray, pixel: float = PIXEL) -> Path:
    """A map, by other software than ours."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = pixel
    return path


def read_star(path: Path) -> Particles:
    """A STAR file's particles."""
    return StarReader().read_particles(ReadRequest(path))


def manifest(output: Path) -> dict[str, Any]:
    """What a run says of itself."""
    found: dict[str, Any] = json.loads(output.with_name(f"{output.stem}_manifest.json").read_text())
    return found


def fsc(first: np.ndarray, second: np.ndarray, radius: float | None = None) -> np.ndarray:
    """Correlation of two maps shell by shell, optionally inside a soft sphere."""
    size = len(first)
    if radius is not None:
        mask = soft_ball(size, (0, 0, 0), radius)
        first, second = first * mask, second * mask
    a, b = np.fft.rfftn(first), np.fft.rfftn(second)
    k = np.fft.fftfreq(size, 1 / size)
    shells = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(size // 2 + 1) ** 2)).astype(
        int
    )

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shells.ravel(), values.ravel())[: size // 2 + 1]

    return total((a * b.conj()).real) / np.sqrt(total(np.abs(a) ** 2) * total(np.abs(b) ** 2))


def reconstruct(table: Path, output: Path, *options: str) -> np.ndarray:
    """make3d of a STAR file."""
    words = ["make3d", "--input", str(table), "--output", str(output), "--ctf", "full", "--verbose", "0"]
    assert main([*words, "--threads", "1", "--checkpoint-every", "0", *options]) == 0
    return read_mrc(output)
