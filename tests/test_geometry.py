"""Orientation conventions, against the programs' published matrices and against round trips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.geometry.eulers import (
    EMAN2_DIALECTS,
    cryosparc_to_matrices,
    eman2_dialect_to_matrix,
    eman2_to_matrices,
    imod_tilt_to_matrices,
    matrices_to_eman2,
    matrices_to_relion,
    relion_to_matrices,
)
from centralslice.geometry.rotations import (
    axis_rotation,
    fold_mirror,
    is_rotation,
    random_rotations,
    rotation_from_vectors,
    rotation_x,
    rotation_y,
    rotation_z,
)

ANGLE = st.one_of(
    st.floats(-360, 360),
    st.sampled_from([0.0, 90.0, -90.0, 180.0, -180.0, 1e-9, 180 - 1e-9, 1e-7]),
)


def relion_by_elements(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's matrix written out element by element."""
    (ca, cb, cg), (sa, sb, sg) = (f(np.deg2rad([rot, tilt, psi])) for f in (np.cos, np.sin))
    return np.array([
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ])  # fmt: skip


def eman2_by_elements(az: float, alt: float, phi: float) -> np.ndarray:
    """EMAN2's matrix written out element by element."""
    (cz, cl, cp), (sz, sl, sp) = (f(np.deg2rad([az, alt, phi])) for f in (np.cos, np.sin))
    return np.array([
        [cp * cz - cl * sz * sp, cp * sz + cl * cz * sp, sl * sp],
        [-sp * cz - cl * sz * cp, -sp * sz + cl * cz * cp, sl * cp],
        [sl * sz, -sl * cz, cl],
    ])  # fmt: skip


@given(ANGLE, ANGLE, ANGLE)
def test_relion_angles_give_relions_matrix_and_come_back_even_along_the_axis(rot, tilt, psi):
    matrix = relion_to_matrices(rot, tilt, psi)
    assert_allclose(matrix[0], relion_by_elements(rot, tilt, psi), atol=1e-14)
    again = matrices_to_relion(matrix)
    assert 0 <= again[1][0] <= 180
    assert_allclose(relion_to_matrices(*again), matrix, atol=4e-12)


@given(ANGLE, ANGLE, ANGLE)
def test_eman2_angles_give_eman2s_matrix_and_come_back_even_along_the_axis(az, alt, phi):
    matrix = eman2_to_matrices(az, alt, phi)
    assert_allclose(matrix[0], eman2_by_elements(az, alt, phi), atol=1e-14)
    again = matrices_to_eman2(matrix)
    assert 0 <= again[1][0] <= 180
    assert_allclose(eman2_to_matrices(*again), matrix, atol=4e-12)


def test_views_along_z_have_rot_and_az_zero():
    for tilt, psi in ((0.0, 50.0), (180.0, -70.0)):
        rot, back, turn = matrices_to_relion(relion_to_matrices(0.0, tilt, psi))
        assert_allclose((rot[0], back[0], turn[0]), (0.0, tilt, psi), atol=1e-12)
        az, back, turn = matrices_to_eman2(eman2_to_matrices(0.0, tilt, psi))
        assert_allclose((az[0], back[0], turn[0]), (0.0, tilt, psi), atol=1e-12)


def test_many_poses_and_scaled_ones_convert_at_once():
    poses = random_rotations(500, 3)
    assert_allclose(relion_to_matrices(*matrices_to_relion(1.7 * poses)), poses, atol=1e-14)
    assert_allclose(eman2_to_matrices(*matrices_to_eman2(0.3 * poses)), poses, atol=1e-14)


def test_relion_and_eman2_angles_of_one_view_differ_by_90_degrees():
    rot, tilt, psi = np.random.default_rng(1).uniform(-180, 180, (3, 50))
    assert_allclose(
        eman2_to_matrices(rot + 90, tilt, psi - 90), relion_to_matrices(rot, tilt, psi), atol=1e-14
    )


def test_an_imod_tilt_puts_the_slice_x_axis_at_cos_0_minus_sin():
    matrix = imod_tilt_to_matrices([30.0])[0]
    assert_allclose(matrix.T @ [1, 0, 0], [np.cos(np.pi / 6), 0, -0.5], atol=1e-15)
    assert_allclose(matrix.T @ [0, 1, 0], [0, 1, 0], atol=1e-15)
    assert_allclose(matrix, eman2_to_matrices(90, 30, -90)[0], atol=1e-15)


def test_a_cryosparc_pose_is_the_transposed_exponential_map():
    pose = np.array([[0.0, 0.0, np.pi / 2], [0.0, 0.0, 0.0], [0.3, -0.2, 0.9]])
    matrices = cryosparc_to_matrices(pose)
    assert_allclose(matrices[0] @ [0, 1, 0], [1, 0, 0], atol=1e-15)
    assert_array_equal(matrices[1], np.eye(3))
    angle = np.linalg.norm(pose[2])
    assert_allclose(matrices[2], axis_rotation(pose[2], np.rad2deg(angle)).T, atol=1e-15)


def test_the_exponential_map_is_exact_for_tiny_rotations():
    assert_allclose(rotation_from_vectors([1e-9, 0, 0])[2, 1], 1e-9, rtol=1e-15)


def test_elementary_rotations_are_right_handed():
    assert_allclose(rotation_x(90) @ [0, 1, 0], [0, 0, 1], atol=1e-15)
    assert_allclose(rotation_y(90) @ [0, 0, 1], [1, 0, 0], atol=1e-15)
    assert_allclose(rotation_z(90) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    assert_allclose(axis_rotation([1, 1, 1], 120.0) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def passive(kind: str, degrees: float) -> np.ndarray:
    """EMAN2's own elementary matrices."""
    return {"z": rotation_z, "x": rotation_x, "y": rotation_y}[kind](degrees).T


def expected_dialects() -> dict[str, tuple[dict[str, float], np.ndarray]]:
    """For each dialect some values and the matrix they must give, from elementary matrices only."""
    a, b, c = 20.0, 35.0, -50.0
    spider = passive("z", c) @ passive("y", b) @ passive("z", a)
    eman = passive("z", c) @ passive("x", b) @ passive("z", a)
    axis = np.array([0.6, 0.0, 0.8])
    turned = axis_rotation(axis, a).T
    e = np.array([np.cos(np.deg2rad(a / 2)), *(np.sin(np.deg2rad(a / 2)) * axis)])
    (cx, cy, cz), (sx, sy, sz) = (f(np.deg2rad([a, b, c])) for f in (np.cos, np.sin))
    tilts = np.array([
        [cy * cz, cx * sz + sx * sy * cz, sx * sz - cx * sy * cz],
        [-cy * sz, cx * cz - sx * sy * sz, sx * cz + cx * sy * sz],
        [sy, -sx * cy, cx * cy],
    ])  # fmt: skip
    return {
        "eman": ({"az": a, "alt": b, "phi": c}, eman),
        "imagic": ({"alpha": a, "beta": b, "gamma": c}, eman),
        "spider": ({"phi": a, "theta": b, "psi": c}, spider),
        "mrc": ({"phi": a, "theta": b, "omega": c}, spider),
        "2d": ({"alpha": a}, passive("z", a)),
        "quaternion": (dict(zip(("e0", "e1", "e2", "e3"), e, strict=True)), turned),
        "spin": ({"omega": a, "n1": 6.0, "n2": 0.0, "n3": 8.0}, turned),
        "sgirot": ({"q": a, "n1": 0.6, "n2": 0.0, "n3": 0.8}, turned),
        "spinvec": (dict(zip(("v1", "v2", "v3"), axis * a / 360, strict=True)), turned),
        "xyz": ({"xtilt": a, "ytilt": b, "ztilt": c}, tilts),
        "matrix": ({f"m{i}{j}": eman[i - 1, j - 1] for i in (1, 2, 3) for j in (1, 2, 3)}, eman),
    }


@pytest.mark.parametrize("kind", EMAN2_DIALECTS)
def test_each_eman2_dialect_gives_the_matrix_of_its_definition(kind):
    values, matrix = expected_dialects()[kind]
    assert_allclose(eman2_dialect_to_matrix(kind, values), matrix, atol=1e-14)


def test_a_quaternion_has_the_off_diagonal_signs_of_eman2():
    e0, e1, e2, e3 = 0.5, 0.5, -0.5, 0.5
    matrix = eman2_dialect_to_matrix("quaternion", {"e0": e0, "e1": e1, "e2": e2, "e3": e3})
    assert matrix[0, 1] == 2 * (e1 * e2 + e0 * e3)
    assert matrix[1, 0] == 2 * (e1 * e2 - e0 * e3)


def test_an_absent_key_counts_as_zero_and_an_unknown_one_is_refused():
    assert_allclose(eman2_dialect_to_matrix("eman", {"alt": 30}), passive("x", 30), atol=1e-15)
    assert_array_equal(eman2_dialect_to_matrix("spin", {"omega": 30}), np.eye(3))
    with pytest.raises(ParameterError, match=r"unknown key 'theta' .known: az, alt, phi"):
        eman2_dialect_to_matrix("eman", {"theta": 3})
    with pytest.raises(ParameterError, match="expected one of eman, spider"):
        eman2_dialect_to_matrix("euler", {})


@pytest.mark.parametrize("values", [{"m11": 1.0}, {"m11": float("nan")}])
def test_a_matrix_that_is_singular_or_not_finite_is_refused(values):
    with pytest.raises(ParameterError):
        eman2_dialect_to_matrix("matrix", values)


def test_folding_a_mirror_leaves_every_projection_as_it_is():
    rng = np.random.default_rng(4)
    points, shift = rng.standard_normal((40, 3)), rng.standard_normal((6, 3))
    stored = 1.3 * np.diag([-1.0, 1.0, 1.0]) @ random_rotations(6, 4)
    stored[::2] = 0.8 * random_rotations(3, 5)
    folded, shift_xy = fold_mirror(stored, shift)
    before = np.einsum("nij,pj->npi", stored, points) + shift[:, None]
    after = np.einsum("nij,pj->npi", folded, points)[..., :2] + shift_xy[:, None]
    assert_allclose(after, before[..., :2], atol=1e-15)
    scale = np.cbrt(np.linalg.det(folded))
    assert_allclose(scale, [0.8, 1.3] * 3)
    assert is_rotation(folded / scale[:, None, None]).all()
    with pytest.raises(ParameterError):
        fold_mirror(np.zeros((3, 3)), np.zeros(3))


def test_random_rotations_are_proper_repeatable_and_uniform():
    poses = random_rotations(20000, 11)
    assert is_rotation(poses, 1e-14).all()
    assert_array_equal(poses, random_rotations(20000, 11))
    assert_allclose(poses.mean(axis=0), 0, atol=0.02)
    # uniform on the sphere: every component of a rotated axis is uniform in −1 … 1
    assert_allclose((poses**2).mean(axis=0), 1 / 3, atol=0.01)
    assert_allclose((poses**4).mean(axis=0), 1 / 5, atol=0.01)


def test_mirrors_scaled_and_broken_matrices_are_no_rotations():
    matrices = np.array([np.eye(3), -np.eye(3), 1.01 * np.eye(3), np.full((3, 3), np.nan)])
    assert_array_equal(is_rotation(matrices), [True, False, False, False])


def test_eman2s_own_matrices_follow_from_its_angles(reference: Path):
    records = json.loads((reference / "eman2" / "proj_c1.json").read_text())
    angles = np.array([[record["az"], record["alt"], record["phi"]] for record in records])
    theirs = np.array([record["matrix"] for record in records]).reshape(-1, 3, 4)[..., :3]
    assert_allclose(eman2_to_matrices(*angles.T), theirs, atol=3e-7)
