"""Tilt series in IMOD's and AreTomo's files, written from what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from centralslice.abc.reader import AlignedSeries, TiltReadRequest
from centralslice.data.images import StackPlan
from centralslice.data.particles import OpticsGroup
from centralslice.data.tilt_series import TiltParticles
from centralslice_plugins.readers.tilt_alignment import TiltAlignmentReader
from centralslice_plugins.writers.mrc import MrcWriter

#: Tilts of the example, and its sizes.
ANGLES = (-42.5, -20.0, 0.5, 21.25, 40.0)
IMAGE, SIZE = (30, 24), (26, 22, 10)


def write_stack(path: Path, count: int, image: tuple[int, int] = IMAGE) -> Path:
    """An MRC stack of numbered images; image i is i everywhere."""
    with MrcWriter().create_stack(path, StackPlan(count, image[::-1], 1.0)) as sink:
        for number in range(count):
            sink.write(number, np.full((1, *image[::-1]), number, np.float32))
    return path


def write_rows(path: Path, rows: Any, form: str = "%.10g") -> Path:
    """Numbers, a row a line."""
    np.savetxt(path, np.atleast_1d(rows), fmt=form)
    return path


def write_xf(path: Path, matrices: np.ndarray, shifts: np.ndarray) -> Path:
    """As IMOD writes transforms: seven decimals, three of the shifts."""
    lines = [
        "".join(f"{value:12.7f}" for value in matrix.ravel()) + "".join(f"{value:12.3f}" for value in shift)
        for matrix, shift in zip(matrices, shifts, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def rotations_2d(angles_deg: Sequence[float]) -> np.ndarray:
    """(f, 2, 2) counter-clockwise turns."""
    angle = np.deg2rad(np.asarray(angles_deg, float))
    return np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)


@pytest.fixture
def example(tmp_path: Path) -> AlignedSeries:
    """A stack with five tilts, .xf and .tlt, and three particles."""
    count = len(ANGLES)
    shifts = np.array([[1.5, -2.25], [0.5, 3.0], [0, 0], [-1.125, 2.5], [4.0, -3.5]])
    return AlignedSeries(
        images=write_stack(tmp_path / "TS_1.mrc", count),
        alignment=write_xf(tmp_path / "TS_1.xf", rotations_2d([-85, -85.1, -85.2, -85.1, -85]), shifts),
        coordinates=write_rows(tmp_path / "points.txt", [[12, 10, 5], [13.5, 11, 4], [3, 20, 9]]),
        size=SIZE,
        microscope=OpticsGroup("TS_1", 4.0, 0, 300.0, 2.7, 0.1),
        tilt_angles=write_rows(tmp_path / "TS_1.tlt", ANGLES),
    )


@pytest.fixture
def read() -> Callable[..., TiltParticles]:
    """Read a series with changes."""

    def run(series: AlignedSeries, **changes: Any) -> TiltParticles:
        given = replace(series, **changes)
        return TiltAlignmentReader().read_tilt_particles(TiltReadRequest(given.alignment, series=given))

    return run


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    """The functions above, for tests in other modules."""
    return SimpleNamespace(stack=write_stack, rows=write_rows, xf=write_xf, rotations=rotations_2d)
