"""What the tests of make3d share: simulated particles whose truth is known, and the command run in-process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice.cli import main
from centralslice.data.images import StackPlan
from centralslice.data.particles import Particles
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.jobs.simulate.particles import (
    SimulationOutputs,
    SimulationSettings,
    relion_tables,
    simulated_particles,
    write_simulation,
)
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.writers.mrc import MrcWriter
from centralslice_plugins.writers.star import StarWriter

#: What is simulated unless a test says otherwise: box, pixel size in Å, number of images.
BOX, PIXEL, COUNT = 32, 2.0, 300


@dataclass(frozen=True)
class Simulation:
    """Simulated particles on disk and the object they are of."""

    table: Path
    stack: Path
    truth: np.ndarray
    phantom: GaussianPhantom
    settings: SimulationSettings

    @property
    def particles(self) -> Particles:
        return simulated_particles(self.settings, self.table, self.stack)

    @property
    def images(self) -> np.ndarray:
        return read_map(self.stack)


@dataclass(frozen=True)
class Run:
    """What a run of the command left."""

    code: int
    output: Path
    out: str
    err: str

    @property
    def data(self) -> np.ndarray:
        return read_map(self.output)

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.beside("_manifest.json").read_text())
        return loaded

    def beside(self, ending: str) -> Path:
        return self.output.with_name(self.output.stem + ending)

    def left(self) -> list[str]:
        """Names of all files in the output's folder, hidden ones too."""
        return sorted(path.name for path in self.output.parent.iterdir())


def read_map(path: Path) -> np.ndarray:
    """A map by other software than ours, float64."""
    if path.suffix != ".hdf":
        with mrcfile.open(path) as file:
            return file.data.astype(np.float64)
    with h5py.File(path) as file:
        entry = file["MDF/images/0"]
        data, facts = entry["image"][...].astype(np.float64), entry.attrs
        bits = int(facts["EMAN.stored_renderbits"][0]) if "EMAN.stored_renderbits" in facts else 0
        if bits > 0:
            low, high = facts["EMAN.stored_rendermin"][0], facts["EMAN.stored_rendermax"][0]
            data = data / (2.0**bits - 1) * (high - low) + low
        return data


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """Reads a map with mrcfile or h5py."""
    return read_map


@pytest.fixture(scope="session")
def deviation() -> Callable[..., float]:
    """Relative rms deviation of two maps, optionally within a sphere of so many voxels."""

    def measure(data: np.ndarray, expected: np.ndarray, radius: float | None = None) -> float:
        axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in data.shape)]
        inside = np.ones(data.shape, bool) if radius is None else sum(a * a for a in axes) <= radius**2
        return float(np.linalg.norm((data - expected)[inside]) / np.linalg.norm(expected[inside]))

    return measure


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Simulation]:
    """Makes a simulation of these settings, or gives the one made before."""
    made: dict[str, Simulation] = {}

    def make(phantom: GaussianPhantom | None = None, sym: str | None = None, **changed: Any) -> Simulation:
        base = SimulationSettings(COUNT, BOX, PIXEL, seed=3, defocus_range_angst=None, half_sets=False)
        settings = replace(base, **changed)
        size = settings.box_size * settings.pixel_size_angst
        key = repr((settings, sym, id(phantom) if phantom else None))
        if key not in made:
            if phantom is None:
                unit = random_phantom(12, (1.5 * PIXEL, 2.5 * PIXEL), 0.18 * size, 8)
                phantom = unit if sym is None else unit.symmetrised(shared_registry().symmetry(sym))
            folder = tmp_path_factory.mktemp("simulation")
            outputs = SimulationOutputs(
                folder / "particles.star", folder / "particles.mrcs", folder / "truth.mrc",
                {"table": StarWriter(), "stack": MrcWriter(), "truth": MrcWriter()},
            )  # fmt: skip
            write_simulation(phantom, settings, outputs)
            made[key] = Simulation(outputs.table, outputs.stack, read_map(outputs.truth), phantom, settings)
        return made[key]

    return make


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., Path]:
    """Writes images and particles as a stack and a STAR file; ``change`` may alter the tables before."""
    numbers = iter(range(1000))

    def write(images: np.ndarray, particles: Particles, change: Callable[[Any], None] | None = None) -> Path:
        folder = tmp_path / f"set{next(numbers)}"
        folder.mkdir()
        plan = StackPlan(len(images), images.shape[1:], particles.optics[0].pixel_size_angst)
        with MrcWriter().create_stack(folder / "images.mrcs", plan) as sink:
            sink.write(0, images.astype(np.float32))
        tables = relion_tables(replace(particles, image_files=(folder / "images.mrcs",)))
        if change is not None:
            change(tables)
        StarWriter().write_tables(folder / "particles.star", tables)
        return folder / "particles.star"

    return write


@pytest.fixture
def attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs make3d on an input with options and gives exit code, streams and files."""
    numbers = iter(range(1000))

    def run(source: Path, *options: Any, output: str = "map.mrc", threads: int = 1) -> Run:
        folder = tmp_path / f"run{next(numbers)}"
        folder.mkdir()
        capsys.readouterr()
        argv = ["make3d", "--input", str(source), *map(str, options)]
        target = folder / output
        if "--output" not in argv:
            argv += ["--output", str(target)]
        if not {"--threads", "--parallel"} & set(argv):
            argv += ["--threads", str(threads)]
        code = main(argv)
        said = capsys.readouterr()
        return Run(code, target, said.out, said.err)

    return run


@pytest.fixture
def make3d(attempt: Callable[..., Run]) -> Callable[..., Run]:
    """Runs make3d and expects it to succeed."""

    def run(*arguments: Any, **more: Any) -> Run:
        result = attempt(*arguments, **more)
        assert result.code == 0, result.err
        return result

    return run


@pytest.fixture
def refused(attempt: Callable[..., Run]) -> Callable[..., str]:
    """Runs make3d, expects exit code 2, one line on stderr and no file left; gives the line."""

    def run(*arguments: Any, **more: Any) -> str:
        result = attempt(*arguments, **more)
        assert result.code == 2, (result.out, result.err)
        lines = result.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("centralslice: error: ")
        assert result.left() == []
        return lines[0]

    return run
