"""Parts of the subparticles job by themselves: operators' order, geometry, files that several processes write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.data.images import StackPlan
from centralslice.errors import CheckpointError, FormatError, ParameterError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.geometry.rotations import random_rotations
from centralslice.jobs.subparticles.operators import numbered_operators
from centralslice.jobs.subparticles.outputs import in_frame
from centralslice.jobs.subparticles.rows import Parents, make_candidates, round_half_away, rows_of
from centralslice.jobs.subparticles.stack import SharedStack, StackFile
from centralslice.jobs.subparticles.table import saved_label, saved_name
from centralslice.jobs.subparticles.vectors import read_cmm
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.readers.mrc import MrcReader
from centralslice_plugins.writers.mrc import MrcWriter

UNMAGNIFIED = np.array([[1.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "number", "angles"),
    [
        ("c7", 3, (3 * 360 / 7, 0, 0)),
        ("d7", 6, (6 * 360 / 7, 0, 0)),
        ("d7", 9, (2 * 360 / 7, 180, 0)),
        ("tet", 1, (0, 0, 120)),
        ("tet", 7, (120, 109.4712206, 180)),
        ("oct", 5, (0, 90, 90)),
        ("oct", 23, (0, 180, 270)),
        ("icos", 1, (90, 0, 198)),
        ("icos", 11, (162, 63.4349488, 234)),
        ("icos", 59, (90, 180, -18)),
    ],
)
def test_operators_are_numbered_as_eman2_does(
    name: str, number: int, angles: tuple[float, float, float]
) -> None:
    operators = numbered_operators(name, shared_registry())
    assert np.abs(operators[number] - eman2_to_matrices(*angles)[0]).max() < 1e-6
    assert np.abs(operators[0] - np.eye(3)).max() < 1e-12
    assert len({tuple(np.round(operator.ravel(), 6)) for operator in operators}) == len(operators)


def test_halves_are_rounded_away_from_zero() -> None:
    assert round_half_away(np.array([0.5, -0.5, 1.5, -2.5, 0.49, -0.49])).tolist() == [1, -1, 2, -3, 0, 0]


@given(st.integers(0, 2**31), st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30))
def test_poses_of_sub_particles_see_their_frame_where_the_parent_has_it(
    seed: int, x: float, y: float, z: float
) -> None:
    centre = np.array([[x, y, z]])
    operators = numbered_operators("d3", shared_registry())
    candidates = make_candidates((np.arange(6), operators, np.zeros((6, 3))), centre, align_z=True)
    view = random_rotations(1, seed)
    magnification = np.array([[1.02, 0.005], [-0.003, 0.98]])
    parents = Parents(
        np.array([4]), view, np.array([[3.0, -2.0]]), np.array([1.5]), magnification.reshape(1, 4)
    )
    rows = rows_of(parents, candidates, np.arange(6)[None])
    point = np.random.default_rng(seed).normal(size=3)
    for row in range(6):
        frame = candidates.frames[row]
        in_map = operators[row] @ (frame.T @ point + centre[0])
        # the slice is read at M k: a point of the image plane is seen at its place times the transpose
        seen = magnification.T @ (view[0] @ in_map)[:2] + np.array([3.0, -2.0])
        moved = seen / 1.5 + rows.move_px[row]
        of_frame = magnification.T @ (rows.rotations[row] @ point)[:2] / 1.5
        assert np.abs(moved - of_frame - rows.residual_px[row]).max() < 1e-9
        assert np.abs(rows.residual_px[row]).max() <= 0.5
    if np.linalg.norm(centre) > 1e-3:
        assert np.allclose(candidates.frames[0] @ centre[0], [0, 0, np.linalg.norm(centre)])


def test_what_of_a_box_is_outside_is_counted() -> None:
    candidates = make_candidates((np.arange(1), np.eye(3)[None], np.zeros((1, 3))), np.array([[8.0, 0, 0]]))
    parents = Parents(np.array([0]), np.eye(3)[None], np.zeros((1, 2)), np.array([1.0]), UNMAGNIFIED)
    rows = rows_of(parents, candidates, np.zeros((1, 1), int))
    assert rows.missing(32, 32) == pytest.approx(8 / 32)
    assert rows.missing(32, 16) == pytest.approx(0)
    assert rows.missing(32, 64) == pytest.approx(0)


def test_names_of_saved_columns_lead_back() -> None:
    for label in ("rlnAngleRot", "rlnAnglePsi", "rlnOriginXAngst", "rlnDefocusU", "rlnOriginXPriorAngst"):
        assert saved_label(saved_name(label)) == label
    assert saved_name("rlnAngleTilt") == "sprTiltParent"


def stack_file(folder: Path, count: int = 5, dtype: type = np.float32) -> StackFile:
    plan = StackPlan(count, (4, 4), 1.5, dtype)
    return StackFile(folder / "s.mrcs", folder / "s.mrcs.partial", plan, MrcWriter())


def test_a_stack_written_by_two_in_any_order_is_what_one_writes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(5, 4, 4)).astype(np.float32)
    first, second = SharedStack(stack_file(tmp_path)), SharedStack(stack_file(tmp_path))
    first.create(resume=False)
    second.open()
    statistics = np.empty((5, 4))
    for stack, numbers in ((second, [1, 4]), (first, [0, 2, 3])):
        statistics[numbers] = stack.write(np.array(numbers), images[numbers])
    second.close()
    assert not (tmp_path / "s.mrcs").exists()
    digest = first.complete(statistics, tmp_path / "s.mrcs")
    assert len(digest) == 64
    assert not (tmp_path / "s.mrcs").exists()
    first.hand_over(tmp_path / "s.mrcs")
    assert not (tmp_path / "s.mrcs.partial").exists()
    with MrcWriter().create_stack(tmp_path / "one.mrcs", StackPlan(5, (4, 4), 1.5)) as sink:
        sink.write(0, images)
    assert (tmp_path / "s.mrcs").read_bytes() == (tmp_path / "one.mrcs").read_bytes()
    with MrcReader().open_images(tmp_path / "s.mrcs") as read:
        assert np.array_equal(read.read(np.arange(5)), images)


def test_a_stack_that_another_run_writes_or_that_is_gone_is_refused(tmp_path: Path) -> None:
    mine, other = SharedStack(stack_file(tmp_path)), SharedStack(stack_file(tmp_path))
    with pytest.raises(CheckpointError, match="is missing"):
        mine.create(resume=True)
    mine.create(resume=False)
    with pytest.raises(CheckpointError, match="another run"):
        other.create(resume=False)
    mine.discard()
    other.discard()
    assert not list(tmp_path.iterdir())


def test_values_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    stack = SharedStack(stack_file(tmp_path, dtype=np.float16))
    stack.create(resume=False)
    with pytest.raises(ParameterError, match="float16"):
        stack.write(np.array([0]), np.full((1, 4, 4), 1e5, np.float32))
    stack.discard()


@pytest.mark.parametrize("size", [16, 17])
def test_a_map_is_taken_to_another_frame(size: int) -> None:
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    data = np.exp(-((x - 2.5) ** 2 + (y + 1) ** 2 + (z - 1.25) ** 2) / 4)
    moved = in_frame(data, np.array([2.5, -1, 1.25]), np.eye(3), 12)
    axis = np.arange(12) - 6
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    assert np.abs(moved - np.exp(-(x**2 + y**2 + z**2) / 4)).max() < 0.01


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<a/>",
        '<!DOCTYPE x [<!ENTITY a "b">]><m/>',
        '<m><marker id="1" x="0" y="0" z="nan"/></m>',
    ],
)
def test_files_that_are_no_markers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.cmm").write_text(text)
    with pytest.raises(FormatError, match=r"v\.cmm"):
        read_cmm(tmp_path / "v.cmm")
