"""Orientations and operators of EMAN2 and RELION, from the formulas of both."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from centralslice.geometry.eulers import (
    eman2_to_matrices,
    matrices_to_eman2,
    matrices_to_relion,
    relion_to_matrices,
)
from centralslice.jobs.subparticles.operators import numbered_operators
from centralslice.plugin.registry import shared_registry

GROUPS = {"c1": 1, "c7": 7, "d1": 2, "d2": 4, "d7": 14, "tet": 12, "oct": 24, "icos": 60, "icos2": 60}


def eman2_by_hand(az: float, alt: float, phi: float) -> np.ndarray:
    """The matrix written out, row by row."""
    (ca, sa), (ct, st), (cf, sf) = ((np.cos(angle), np.sin(angle)) for angle in np.deg2rad([az, alt, phi]))
    return np.array(
        [
            [cf * ca - ct * sa * sf, cf * sa + ct * ca * sf, st * sf],
            [-sf * ca - ct * sa * cf, -sf * sa + ct * ca * cf, st * cf],
            [st * sa, -st * ca, ct],
        ]
    )


def angles() -> np.ndarray:
    """(1008, 3) az, alt, phi: random ones and views along the axis, up and down."""
    random = np.random.default_rng(0)
    drawn = np.column_stack(
        [random.uniform(-360, 360, 1000), random.uniform(0, 180, 1000), random.uniform(-360, 360, 1000)]
    )
    along = [[az, alt, phi] for az in (0.0, 77.0) for alt in (0.0, 180.0) for phi in (0.0, -130.0)]
    return np.concatenate([drawn, along])


def test_eman2_angles_give_the_matrix_that_is_written_out() -> None:
    given = angles()
    wanted = np.array([eman2_by_hand(*row) for row in given])
    assert_allclose(eman2_to_matrices(*given.T), wanted, atol=1e-12)


def test_relion_angles_are_eman2_ones_turned_by_ninety_degrees() -> None:
    az, alt, phi = angles().T
    assert_allclose(relion_to_matrices(az - 90, alt, phi + 90), eman2_to_matrices(az, alt, phi), atol=1e-12)


def test_matrices_go_to_either_program_and_back() -> None:
    matrices = eman2_to_matrices(*angles().T)
    assert_allclose(relion_to_matrices(*matrices_to_relion(matrices)), matrices, atol=1e-6)
    assert_allclose(eman2_to_matrices(*matrices_to_eman2(matrices)), matrices, atol=1e-6)


@pytest.mark.parametrize(("name", "order"), GROUPS.items())
def test_operators_are_a_group_with_the_identity_first(name: str, order: int) -> None:
    operators = numbered_operators(name, shared_registry())
    assert operators.shape == (order, 3, 3)
    assert_allclose(operators[0], np.eye(3), atol=1e-12)
    products = (operators[:, None] @ operators[None]).reshape(-1, 1, 3, 3)
    assert np.abs(products - operators[None]).max(axis=(2, 3)).min(axis=1).max() < 1e-6


def test_cyclic_and_dihedral_operators_turn_by_az_and_flip_about_x() -> None:
    seven = numbered_operators("C7", shared_registry())
    for number, operator in enumerate(seven):
        assert_allclose(operator, eman2_by_hand(360 * number / 7, 0, 0), atol=1e-6)
    both = numbered_operators("d7", shared_registry())
    for number, operator in enumerate(both):
        wanted = eman2_by_hand(360 * (number % 7) / 7, 180.0 if number >= 7 else 0.0, 0)
        assert_allclose(operator, wanted, atol=1e-6)
    assert_allclose(both[7] @ [1, 0, 0], [1, 0, 0], atol=1e-12)


def test_tetrahedral_and_octahedral_operators_are_numbered_by_their_tables() -> None:
    tilt = np.rad2deg(np.arccos(-1 / 3))
    wanted = [(0, 0, phi) for phi in (0, 120, 240)]
    wanted += [(az, tilt, phi) for az in (0, 120, 240) for phi in (60, 180, 300)]
    tet = numbered_operators("tet", shared_registry())
    assert_allclose(tet, [eman2_by_hand(*row) for row in wanted], atol=1e-6)
    wanted = [(0, 0, 90 * j) for j in range(4)]
    wanted += [(az, 90, 90 * j) for az in (0, 90, 180, 270) for j in range(4)]
    wanted += [(0, 180, 90 * j) for j in range(4)]
    octahedral = numbered_operators("OCT", shared_registry())
    assert_allclose(octahedral, [eman2_by_hand(*row) for row in wanted], atol=1e-6)


def test_icosahedral_operators_are_numbered_by_their_table() -> None:
    upper, lower = (0, 288, 216, 144, 72), (36, 324, 252, 180, 108)
    rows = [(0, 0, c) for c in upper]
    rows += [(a, 63.4349488, c) for a in (0, 72, 144, 216, 288) for c in lower]
    rows += [(a, 116.5650512, c) for a in (36, 108, 180, 252, 324) for c in upper]
    rows += [(0, 180, c) for c in upper]
    found = numbered_operators("icos", shared_registry())
    assert_allclose(found, [eman2_by_hand(a + 90, b, c - 90) for a, b, c in rows], atol=1e-6)
