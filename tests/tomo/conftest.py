"""What the tests of tomo share: simulated projects whose truth is known, and the command run in-process."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from centralslice.abc.reader import TiltReadRequest
from centralslice.cli import main
from centralslice.data.tilt_series import TiltParticles
from centralslice.fourier.shells import fourier_shell_correlation, shell_numbers, soft_sphere
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.jobs.simulate.tomo import TomoOutputs, write_tomo_project
from centralslice.jobs.simulate.tomo_settings import (
    TiltScheme,
    TomoContent,
    TomoImages,
    TomoOptics,
    TomoSettings,
)
from centralslice.runtime.threads import Threads
from centralslice_plugins.readers.relion_tomo import RelionTomoReader
from centralslice_plugins.writers.json_tables import JsonWriter
from centralslice_plugins.writers.mrc import MrcWriter
from centralslice_plugins.writers.star import StarWriter

WRITERS = {".star": StarWriter(), ".mrcs": MrcWriter(), ".mrc": MrcWriter(), ".json": JsonWriter()}
#: Box of the true maps and pixel size in Å, unless a test says otherwise.
BOX, PIXEL = 48, 4.0
#: Gaussians inside 11 voxels, so that CTF-spread signal stays in the windows.
PHANTOM = random_phantom(14, (1.2 * PIXEL, 2.0 * PIXEL), 11 * PIXEL, 8)

#: Block of a STAR file: label to text (a list), or label to texts (a loop).
Block = dict[str, Any]
Change = Callable[[dict[str, dict[str, Block]]], None]


def read_map(path: Path) -> np.ndarray:
    """A map by other software than ours, float64; headers of reference files are not clean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(path, permissive=True) as file:
            return np.array(file.data, np.float64)


def read_star(path: Path) -> dict[str, Block]:
    """Blocks of a STAR file by the format's plain rules."""
    found: dict[str, Block] = {}
    for part in ("\n" + path.read_text()).split("\ndata_")[1:]:
        name, _, text = part.partition("\n")
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if lines and lines[0] == ["loop_"]:
            labels = [line[0][1:] for line in lines[1:] if line[0].startswith("_")]
            rows = [line for line in lines[1:] if not line[0].startswith("_")]
            found[name] = {label: [row[place] for row in rows] for place, label in enumerate(labels)}
        else:
            found[name] = {line[0][1:]: line[1] for line in lines}
    return found


def write_star(path: Path, blocks: dict[str, Block]) -> None:
    """The same back, as RELION writes it."""
    text = ""
    for name, block in blocks.items():
        text += f"\ndata_{name}\n\n"
        if all(isinstance(value, str) for value in block.values()):
            text += "".join(f"_{label} {value}\n" for label, value in block.items()) + "\n"
            continue
        text += "loop_\n" + "".join(f"_{label} #{place + 1}\n" for place, label in enumerate(block))
        rows = zip(*block.values(), strict=True)
        text += "".join(" ".join(map(str, row)) + "\n" for row in rows) + "\n"
    path.write_text(text)


@dataclass(frozen=True)
class Project:
    """A project on disk."""

    folder: Path
    phantom: GaussianPhantom | None = None

    @property
    def set(self) -> Path:
        return self.folder / "optimisation_set.star"

    @property
    def truth(self) -> np.ndarray:
        return read_map(self.folder / "truth.mrc")

    @property
    def tables(self) -> dict[str, dict[str, Block]]:
        """Every STAR file by its name in the project."""
        paths = sorted(self.folder.rglob("*.star"))
        return {str(path.relative_to(self.folder)): read_star(path) for path in paths}

    def read(self) -> TiltParticles:
        """As our reader sees it."""
        return RelionTomoReader().read_tilt_particles(TiltReadRequest(self.set))

    def stack(self, name: str) -> np.ndarray:
        return read_map(self.folder / f"tilt/{name}.mrcs")


@dataclass(frozen=True)
class Run:
    """What a run of the command left."""

    code: int
    folder: Path
    out: str
    err: str
    _maps: dict[str, np.ndarray] = field(default_factory=dict)

    def map(self, name: str = "merged") -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = read_map(self.folder / f"{name}.mrc")
        return self._maps[name]

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return loaded

    @property
    def fsc(self) -> dict[str, Block]:
        return read_star(self.folder / "fsc.star")

    def left(self) -> list[str]:
        """Names of all files in the output folder."""
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture(scope="session")
def read() -> Callable[[Path], np.ndarray]:
    """Reads a map with mrcfile."""
    return read_map


@pytest.fixture(scope="session")
def star() -> Callable[[Path], dict[str, Block]]:
    """Reads a STAR file by plain rules."""
    return read_star


def settings_of(changed: dict[str, Any]) -> TomoSettings:
    """Settings by the names of their fields, whichever part they are in."""
    plain: dict[str, Any] = {
        "tomograms": 30, "particles": 1, "image_size": (112, 112), "tomogram_size": (60, 60, 60),
        "box_size": BOX, "pixel_size_angst": PIXEL, "random_directions": 30,
        "defocus_range_angst": (8000.0, 14000.0), "dose_per_tilt": 0.0, "seed": 3,
    }  # fmt: skip
    values = plain | changed
    whole = {name: values.pop(name) for name in ("seed", "relion4") if name in values}
    parts: dict[str, Any] = {}
    kinds = {"content": TomoContent, "scheme": TiltScheme, "optics": TomoOptics, "images": TomoImages}
    for name, kind in kinds.items():
        own = {key: values.pop(key) for key in list(values) if key in kind.__dataclass_fields__}
        parts[name] = kind(**own)
    assert not values, values
    return TomoSettings(**parts, **whole)


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Makes a project of these settings, or gives the one made before."""
    made: dict[str, Project] = {}

    def make(phantom: GaussianPhantom = PHANTOM, **changed: Any) -> Project:
        settings = settings_of(changed)
        key = repr((settings, id(phantom)))
        if key not in made:
            folder = tmp_path_factory.mktemp("simulation") / "project"
            with Threads(2) as threads:
                write_tomo_project(phantom, settings, TomoOutputs(folder, WRITERS), threads)
            made[key] = Project(folder, phantom)
        return made[key]

    return make


@pytest.fixture(scope="session")
def plain(simulate: Callable[..., Project]) -> Project:
    """Views from everywhere, a CTF of 1, no noise, no dose: 2,400 windows."""
    return simulate(
        tomograms=40, random_directions=60, defocus_range_angst=None, amplitude_contrast=1.0,
        spherical_aberration_mm=0.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def with_ctf(simulate: Callable[..., Project]) -> Project:
    """Views from everywhere, CTF, no noise: 900 windows."""
    return simulate()


@pytest.fixture(scope="session")
def noisy(simulate: Callable[..., Project]) -> Project:
    """A small usual project: two tilt series, CTF, dose, noise, half sets; 2 × 12 particles of 11 tilts."""
    return simulate(
        tomograms=2, particles=12, image_size=(300, 300), tomogram_size=(256, 256, 64), step_deg=12.0,
        random_directions=None, dose_per_tilt=3.0, defocus_range_angst=(15000.0, 25000.0), snr=0.3,
        box_size=32, max_origin_angst=6.0, phantom=random_phantom(14, (6.0, 9.0), 34.0, 8),
    )  # fmt: skip


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Project]:
    """A copy of a project with changed tables; images are shared unless a function changes them.

    ``images(name, stack)`` gives the stack (f, y, x) to be used for a tilt series.
    """
    numbers = iter(range(1000))

    def make(
        project: Project, change: Change | None = None,
        images: Callable[[str, np.ndarray], np.ndarray] | None = None,
    ) -> Project:  # fmt: skip
        folder = tmp_path / f"altered{next(numbers)}"
        tables = project.tables
        if change is not None:
            change(tables)
        for name, blocks in tables.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_star(folder / name, blocks)
        shutil.copy(project.folder / "truth.mrc", folder)
        if images is None:
            (folder / "tilt").symlink_to(project.folder / "tilt")
        else:
            (folder / "tilt").mkdir()
            for path in sorted((project.folder / "tilt").iterdir()):
                with mrcfile.new(folder / "tilt" / path.name) as file:
                    file.set_data(images(path.stem, read_map(path)).astype(np.float32))
                    file.set_image_stack()
        return Project(folder, project.phantom)

    return make


@pytest.fixture
def attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs tomo on an optimisation set (or none) with options; gives exit code, streams and files."""
    numbers = iter(range(1000))

    def run(source: Path | Project | None, *options: Any, output: Path | None = None) -> Run:
        folder = output or tmp_path / f"run{next(numbers)}"
        capsys.readouterr()
        source = source.set if isinstance(source, Project) else source
        argv = ["tomo", *(["--i", str(source)] if source else []), *map(str, options)]
        argv += [] if "--o" in argv else ["--o", str(folder)]
        if not {"--threads", "--j", "--j-out", "--j-in", "--j_in", "--j_out"} & set(argv):
            argv += ["--threads", "2"]
        code = main(argv)
        said = capsys.readouterr()
        return Run(code, folder, said.out, said.err)

    return run


@pytest.fixture
def tomo(attempt: Callable[..., Run]) -> Callable[..., Run]:
    """Runs tomo and expects it to succeed."""

    def run(*arguments: Any, **more: Any) -> Run:
        result = attempt(*arguments, **more)
        assert result.code == 0, result.err
        return result

    return run


@pytest.fixture
def refused(attempt: Callable[..., Run]) -> Callable[..., str]:
    """Runs tomo, expects exit code 2, one line on stderr and no output folder; gives the line."""

    def run(*arguments: Any, **more: Any) -> str:
        result = attempt(*arguments, **more)
        assert result.code == 2, (result.out, result.err)
        lines = result.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("centralslice: error: ")
        assert not result.folder.exists()
        return lines[0]

    return run


def fsc_to(data: np.ndarray, truth: np.ndarray, radius: float, width: float) -> np.ndarray:
    """FSC under one soft sphere on both maps, voxels."""
    return fourier_shell_correlation(data, truth, 1.0, soft_sphere(len(truth), radius, width)).values


@pytest.fixture(scope="session")
def fsc_curve() -> Callable[..., np.ndarray]:
    """FSC of two maps under a soft sphere."""
    return fsc_to


@pytest.fixture(scope="session")
def likeness() -> Callable[..., float]:
    """Mean FSC to the truth up to 3/4 of Nyquist under a soft sphere of a third of the box."""

    def measure(data: np.ndarray, truth: np.ndarray) -> float:
        size = len(truth)
        return float(fsc_to(data, truth, size / 3, 5)[1 : round(0.375 * size)].mean())

    return measure


@pytest.fixture(scope="session")
def misfit() -> Callable[..., float]:
    """Relative rms difference from the truth in a shell, mean of all up to 3/4 of Nyquist: every shell counts alike.

    Averages over views with wrong phases lose amplitude, which an FSC without noise does not show.
    """

    def measure(data: np.ndarray, truth: np.ndarray) -> float:
        size = len(truth)
        mask = soft_sphere(size, size / 3, 5)
        difference, power = (np.abs(np.fft.rfftn(values * mask)) ** 2 for values in (data - truth, truth))
        shells = shell_numbers(size).ravel()
        sums = [np.bincount(shells, values.ravel()) for values in (difference, power)]
        return float(np.sqrt(sums[0] / sums[1])[1 : round(0.375 * size)].mean())

    return measure


@pytest.fixture(scope="session")
def error() -> Callable[..., float]:
    """Relative rms difference from the truth inside a third of the box, and beyond it nothing counts."""

    def measure(data: np.ndarray, truth: np.ndarray, scaled: bool = False) -> float:
        mask = soft_sphere(len(truth), len(truth) / 3, 4)
        a, b = data * mask, truth * mask
        scale = np.vdot(a, b) / np.vdot(b, b) if scaled else 1.0
        return float(np.linalg.norm(a / scale - b) / np.linalg.norm(b))

    return measure


@pytest.fixture(scope="session")
def scale_of() -> Callable[..., float]:
    """By what factor a map is larger than the truth, least squares under a third of the box."""

    def measure(data: np.ndarray, truth: np.ndarray) -> float:
        mask = soft_sphere(len(truth), len(truth) / 3, 4)
        return float(np.vdot(data * mask, truth * mask) / np.vdot(truth * mask, truth * mask))

    return measure
