"""Small RELION tomography projects for tests: every table can be changed before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centralslice.abc.reader import TiltReadRequest
from centralslice.data.images import StackPlan
from centralslice.data.tilt_series import TiltParticles
from centralslice.errors import InputError
from centralslice_plugins.readers.relion_tomo import RelionTomoReader
from centralslice_plugins.writers.mrc import MrcWriter

Rows = dict[str, list[Any]]


def loop(block: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """A loop as RELION writes it."""
    labels = "".join(f"_{label} #{place + 1}\n" for place, label in enumerate(columns))
    rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns.values(), strict=True))
    return f"\ndata_{block}\n\nloop_\n{labels}{rows}\n"


def pairs(block: str, values: Mapping[str, Any]) -> str:
    """A list."""
    return f"\ndata_{block}\n\n" + "".join(f"_{label}  {value}\n" for label, value in values.items()) + "\n"


def write_stack(path: Path, count: int, shape: tuple[int, int] = (20, 24)) -> Path:
    """An MRC stack of numbered images; image i is i everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with MrcWriter().create_stack(path, StackPlan(count, shape, 1.0)) as sink:
        for number in range(count):
            sink.write(number, np.full((1, *shape), number, np.float32))
    return path


def _tilts(name: str, count: int) -> Rows:
    steps = list(range(count))
    return {
        "rlnMicrographName": [f"{i + 1:06d}@tilt/{name}.mrcs" for i in steps],
        "rlnMicrographPreExposure": [3.0 * i for i in steps],
        "rlnTomoXTilt": [0.4] * count,
        "rlnTomoYTilt": [-3.1 + 3 * i for i in steps],
        "rlnTomoZRot": [85.2 + 0.1 * i for i in steps],
        "rlnTomoXShiftAngst": [4.2 - i for i in steps],
        "rlnTomoYShiftAngst": [-7.9 + 2 * i for i in steps],
        "rlnDefocusU": [24110.0 + 10 * i for i in steps],
        "rlnDefocusV": [23740.0 + 20 * i for i in steps],
        "rlnDefocusAngle": [41.0 - i for i in steps],
        "rlnCtfScalefactor": [1.0 - 0.1 * i for i in steps],
    }


@dataclass
class Project:
    """Two series A (3 tilts) and B (2 tilts) with three and two particles, in RELION 5's form."""

    folder: Path
    general: dict[str, Any] = field(default_factory=lambda: {"rlnTomoSubTomosAre2DStacks": 0})
    optics: Rows = field(
        default_factory=lambda: {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["optics1"],
            "rlnSphericalAberration": [2.7],
            "rlnVoltage": [300.0],
            "rlnAmplitudeContrast": [0.1],
            "rlnTomoTiltSeriesPixelSize": [4.0],
        }
    )
    tomograms: Rows = field(
        default_factory=lambda: {
            "rlnTomoName": ["B", "A"],
            "rlnTomoTiltSeriesStarFile": ["tilt_series/B.star", "tilt_series/A.star"],
            "rlnVoltage": [300.0] * 2,
            "rlnSphericalAberration": [2.7] * 2,
            "rlnAmplitudeContrast": [0.1] * 2,
            "rlnTomoTiltSeriesPixelSize": [4.0] * 2,
            "rlnTomoHand": [1, -1],
            "rlnOpticsGroupName": ["optics1"] * 2,
            "rlnTomoSizeX": [352, 350],
            "rlnTomoSizeY": [336, 330],
            "rlnTomoSizeZ": [120, 110],
        }
    )
    particles: Rows = field(
        default_factory=lambda: {
            "rlnTomoName": ["A", "B", "A", "A", "B"],
            "rlnTomoParticleName": ["A/1", "B/1", "A/2", "A/3", "B/2"],
            "rlnCenteredCoordinateXAngst": [-212.5, 155.0, 0.0, 33.0, 1.0],
            "rlnCenteredCoordinateYAngst": [88.1, -301.7, 0.0, 44.0, 2.0],
            "rlnCenteredCoordinateZAngst": [40.0, -22.4, 0.0, 55.0, 3.0],
            "rlnTomoSubtomogramRot": [10.0, 0.0, 20.0, 30.0, 40.0],
            "rlnTomoSubtomogramTilt": [75.0, 0.0, 60.0, 50.0, 40.0],
            "rlnTomoSubtomogramPsi": [-120.0, 0.0, 30.0, 20.0, 10.0],
            "rlnAngleRot": [33.1, -140.2, 1.0, 2.0, 3.0],
            "rlnAngleTilt": [104.6, 51.3, 4.0, 5.0, 6.0],
            "rlnAnglePsi": [-61.7, 12.9, 7.0, 8.0, 9.0],
            "rlnOriginXAngst": [3.2, -2.5, 0.0, 1.0, 2.0],
            "rlnOriginYAngst": [-1.1, 6.0, 0.0, 1.5, 2.5],
            "rlnOriginZAngst": [0.4, 1.3, 0.0, 2.0, 3.0],
            "rlnOpticsGroup": [1] * 5,
            "rlnRandomSubset": [1, 2, 1, 2, 1],
        }
    )
    tilts: dict[str, Rows] = field(default_factory=lambda: {"A": _tilts("A", 3), "B": _tilts("B", 2)})
    motion: str = ""
    images: bool = True

    def write(self) -> Path:
        """Write what there is; the optimisation set."""
        (self.folder / "tilt_series").mkdir(parents=True, exist_ok=True)
        named = {"rlnTomoParticlesFile": "particles.star", "rlnTomoTomogramsFile": "tomograms.star"}
        if self.motion:
            named["rlnTomoTrajectoriesFile"] = "motion.star"
            (self.folder / "motion.star").write_text(self.motion)
        blocks = [pairs("general", self.general)] if self.general else []
        blocks += [loop("optics", self.optics)] if self.optics else []
        (self.folder / "particles.star").write_text("".join([*blocks, loop("particles", self.particles)]))
        separate = "rlnTomoTiltSeriesStarFile" in self.tomograms
        for name, rows in self.tilts.items():
            if separate:
                (self.folder / f"tilt_series/{name}.star").write_text(loop(name, rows))
            if self.images:
                write_stack(self.folder / f"tilt/{name}.mrcs", len(next(iter(rows.values()))))
        joined = "" if separate else "".join(loop(name, rows) for name, rows in self.tilts.items())
        (self.folder / "tomograms.star").write_text(loop("global", self.tomograms) + joined)
        path = self.folder / "optimisation_set.star"
        path.write_text(pairs("optimisation_set", named))
        return path

    def read(self) -> TiltParticles:
        """Write and read it."""
        return RelionTomoReader().read_tilt_particles(TiltReadRequest(self.write()))

    def relion4(self, matrices: Mapping[str, Any]) -> None:
        """Turn it into RELION 4's form: matrices, pixel coordinates, tilts in the tomograms' file."""
        for name, rows in self.tilts.items():
            for label in ("rlnMicrographName", *(key for key in list(rows) if key.startswith("rlnTomo"))):
                del rows[label]
            for axis, place in zip("XYZW", range(4), strict=True):
                rows[f"rlnTomoProj{axis}"] = [vector(matrix[place]) for matrix in matrices[name]]
        del self.tomograms["rlnTomoTiltSeriesStarFile"]
        self.tomograms["rlnTomoTiltSeriesName"] = [
            f"tilt/{name}.mrcs" for name in self.tomograms["rlnTomoName"]
        ]
        self.tomograms["rlnTomoFrameCount"] = [
            len(self.tilts[name]["rlnDefocusU"]) for name in self.tomograms["rlnTomoName"]
        ]
        place_of = {name: row for row, name in enumerate(self.tomograms["rlnTomoName"])}
        rows_of = [place_of[name] for name in self.particles["rlnTomoName"]]
        for axis in "XYZ":
            angst = self.particles.pop(f"rlnCenteredCoordinate{axis}Angst")
            sizes = self.tomograms[f"rlnTomoSize{axis}"]
            self.particles[f"rlnCoordinate{axis}"] = [
                repr(a / 4.0 + sizes[row] / 2) for a, row in zip(angst, rows_of, strict=True)
            ]


def vector(values: Sequence[float]) -> str:
    """``[a,b,c]``."""
    return "[" + ",".join(repr(float(value)) for value in values) + "]"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that is not written yet."""
    return Project(tmp_path / "project")


@pytest.fixture
def new_project() -> Callable[[Path], Project]:
    """The same in a folder of one's own."""
    return Project


@pytest.fixture
def refused(project: Project) -> Callable[[], str]:
    """Reads the project, which must be refused; the message, one line."""

    def run() -> str:
        with pytest.raises(InputError) as caught:
            project.read()
        message = str(caught.value)
        assert "\n" not in message
        return message

    return run


@pytest.fixture
def trajectories() -> Callable[[Mapping[str, int]], str]:
    """Text of a motion file: block number i (of the particles named, with so many tilts) moves by i + t/10 in x."""

    def text(blocks: Mapping[str, int]) -> str:
        parts = [pairs("general", {"rlnParticleNumber": len(blocks)})]
        for place, (name, count) in enumerate(blocks.items()):
            rows = {
                "rlnOriginXAngst": [place + tilt / 10 for tilt in range(count)],
                "rlnOriginYAngst": [-1.0] * count,
                "rlnOriginZAngst": [2.0] * count,
            }
            parts.append(loop(name, rows))
        return "".join(parts)

    return text
