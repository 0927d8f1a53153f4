"""Closing generators, cosets of the grid's symmetry, and products of operator lists."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.errors import ParameterError
from centralslice.geometry.groups import close_group, find_operators, grid_subgroup, operator_product
from centralslice.geometry.rotations import axis_rotation, random_rotations, rotation_z
from centralslice_plugins.symmetries.point_groups import (
    Cyclic,
    Dihedral,
    Icosahedral,
    Octahedral,
    Tetrahedral,
)

GROUPS = {
    "c1": (Cyclic(1), 1), "c3": (Cyclic(3), 1), "c4": (Cyclic(4), 4), "c6": (Cyclic(6), 2),
    "d2": (Dihedral(2), 4), "d3": (Dihedral(3), 2), "d4": (Dihedral(4), 8), "d7": (Dihedral(7), 2),
    "tet": (Tetrahedral("tet"), 1), "o": (Octahedral(), 24),
    "i1": (Icosahedral("i1"), 12), "i2": (Icosahedral("i2"), 12), "i4": (Icosahedral("i4"), 2),
}  # fmt: skip


def blob_grid(views: np.ndarray, samples: np.ndarray, size: int) -> np.ndarray:
    """Brute force insertion on an odd grid: a Gaussian kernel at k = Bᵀ κ for each view and sample."""
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    grid = np.zeros((size,) * 3)
    for view in views:
        for sample in samples:
            kx, ky, kz = view.T @ sample
            grid += np.exp(-((x - kx) ** 2 + (y - ky) ** 2 + (z - kz) ** 2) / 0.7)
    return grid


def moved(grid: np.ndarray, operator: np.ndarray) -> np.ndarray:
    """The grid whose value at S k is the old one at k, for a signed permutation S."""
    centre = len(grid) // 2
    index = np.indices(grid.shape).reshape(3, -1)[::-1] - centre  # x, y, z
    target = np.rint(operator @ index).astype(int)[::-1] + centre
    result = np.empty_like(grid)
    result[tuple(target)] = grid.ravel()
    return result


@pytest.mark.parametrize("name", GROUPS)
def test_representatives_times_subgroup_are_the_group_once_each(name):
    symmetry, on_grid = GROUPS[name]
    group = symmetry.rotations()
    subgroup, representatives = grid_subgroup(group)
    assert len(subgroup) == on_grid
    assert_array_equal(subgroup, np.rint(subgroup))
    for operators in (subgroup, representatives):
        assert_allclose(operators[0], np.eye(3), atol=1e-15)
    products = np.concatenate([c @ subgroup for c in representatives])
    assert_array_equal(np.sort(find_operators(group, products)), np.arange(len(group)))


@pytest.mark.parametrize("name", ["c4", "d2", "d3", "d7", "o", "i1", "i4"])
def test_inserting_representatives_and_summing_the_grid_over_the_subgroup_is_inserting_all(name):
    group = GROUPS[name][0].rotations()
    pose = random_rotations(1, 8)[0]
    samples = np.array([[2.3, 1.1, 0.0], [0.4, -2.9, 0.0]])
    subgroup, representatives = grid_subgroup(group)
    inserted = blob_grid(pose @ representatives, samples, 9)
    summed = sum(moved(inserted, operator) for operator in subgroup)
    assert_allclose(summed, blob_grid(pose @ group, samples, 9), atol=1e-12)


def test_the_other_side_would_be_wrong():
    group = Icosahedral("i1").rotations()
    subgroup, representatives = grid_subgroup(group)
    right_cosets = np.swapaxes(representatives, 1, 2)  # inverses of left representatives
    samples, pose = np.array([[2.3, 1.1, 0.0]]), random_rotations(1, 8)[0]
    inserted = blob_grid(pose @ right_cosets, samples, 9)
    summed = sum(moved(inserted, operator) for operator in subgroup)
    assert np.abs(summed - blob_grid(pose @ group, samples, 9)).max() > 0.1


def test_a_list_that_is_no_group_is_refused():
    with pytest.raises(ParameterError, match="closed group"):
        grid_subgroup(np.array([np.eye(3), rotation_z(90.0), rotation_z(33.0)]))


def test_generators_of_no_finite_group_are_refused():
    with pytest.raises(ParameterError, match="not a point group"):
        close_group([rotation_z(np.sqrt(2.0))])


def test_a_group_does_not_depend_on_which_generators_made_it():
    axis = (1.0, 0.0, (1 + np.sqrt(5)) / 2)
    other = close_group([axis_rotation(axis, 72.0), axis_rotation([1, 1, 1], 120.0)])
    assert len(other) == 60
    assert_array_equal(
        np.sort(find_operators(Icosahedral("i2").rotations(), other)), np.arange(60)
    )  # fmt: skip


def test_a_product_applies_the_inner_operator_first():
    outer = (rotation_z([0.0, 90.0]), np.array([[0, 0, 0], [1.0, 0, 0]]))
    inner = (rotation_z([0.0, 10.0, 20.0]), np.array([[0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]]))
    rotations, translations = operator_product(outer, inner)
    point = np.array([0.3, -1.2, 2.0])
    expected = [
        a @ (b @ point + s) + t
        for a, t in zip(*outer, strict=True)
        for b, s in zip(*inner, strict=True)
    ]  # fmt: skip
    assert_allclose(rotations @ point + translations, expected, atol=1e-14)
