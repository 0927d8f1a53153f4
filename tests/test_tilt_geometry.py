"""Where points of a tomogram are in its tilt images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.tilt_series import Deformation, TiltSeries
from centralslice.errors import ParameterError
from centralslice.geometry.rotations import random_rotations, rotation_x, rotation_y, rotation_z
from centralslice.geometry.tilt_geometry import (
    angles_of_matrices,
    coefficient_count,
    depth_defocus,
    displacements,
    image_positions,
    inside_images,
    projection_matrices,
)

ANGLES = st.floats(-179, 179)


def series_of(projections, image_size=(100, 80), size=(90, 70, 40), hand=-1.0, slope=1.0, deformation=None):
    count = len(projections)
    whole, zeros = np.zeros(count, np.int64), np.zeros(count)
    return TiltSeries(
        "A", Path("a.star"), (), whole, whole, image_size, 2.5, size, projections, zeros, hand, slope,
        ContrastTransfer(*[zeros] * 6), zeros, 0.0, OpticsGroup(), deformation,
    )  # fmt: skip


def test_without_tilt_the_centres_of_tomogram_and_image_meet():
    matrix = projection_matrices([0.0], [0.0], [0.0], [[0.0, 0.0]], (100, 80), (90, 70, 40))
    assert_array_equal(matrix[0] @ [45, 35, 20, 1], [50, 40, 0, 1])
    assert_array_equal(matrix[0] @ [46, 33, 27, 1], [51, 38, 7, 1])


@given(x=ANGLES, y=ANGLES, z=ANGLES, shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)))
def test_a_point_is_turned_about_x_then_y_then_z_and_shifted(x, y, z, shift):
    matrix = projection_matrices([x], [y], [z], [shift], (101, 80), (91, 71, 41))[0]
    offset = np.array([3.0, -7.0, 11.0])
    turned = rotation_z(z) @ (rotation_y(y) @ (rotation_x(x) @ offset))
    at = matrix @ [*(offset + np.array([45, 35, 20])), 1]  # odd sizes: the whole half
    assert_allclose(at[:3], turned + np.array([50 + shift[0], 40 + shift[1], 0]), atol=1e-9)


def test_sizes_that_are_not_known_are_halved_towards_zero():
    matrix = projection_matrices([0.0], [0.0], [0.0], [[0.0, 0.0]], (100, 80), (-999, -999, -999))
    assert_array_equal(matrix[0] @ [-499, -499, -499, 1], [50, 40, 0, 1])


@given(
    x=ANGLES,
    y=st.one_of(st.floats(-89, 89), st.sampled_from([90.0, -90.0])),
    z=ANGLES,
    scale=st.floats(0.5, 2),
)
def test_angles_of_matrices_give_the_matrices_again(x, y, z, scale):
    matrices = projection_matrices([x], [y], [z], [[0.0, 0.0]], (10, 10), (10, 10, 10))
    again = projection_matrices(*angles_of_matrices(scale * matrices), [[0.0, 0.0]], (10, 10), (10, 10, 10))
    assert_allclose(again, matrices, atol=1e-9)


def test_angles_in_the_usual_range_come_back_as_they_were():
    angles = np.array([[1.0, -60.0, 85.0], [0.0, 0.0, 0.0], [-3.0, 57.0, -179.0]]).T
    matrices = projection_matrices(*angles, np.zeros((3, 2)), (10, 10), (10, 10, 10))
    assert_allclose(angles_of_matrices(matrices[:, :3, :3]), angles, atol=1e-9)


def test_as_many_angles_as_shifts_are_wanted():
    with pytest.raises(ParameterError, match="as many"):
        projection_matrices([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [[0.0, 0.0]], (10, 10), (10, 10, 10))


def test_positions_are_projected_points_and_motion_moves_them_in_the_tomogram():
    rng = np.random.default_rng(0)
    projections = np.tile(np.eye(4), (5, 1, 1))
    projections[:, :3, :3], projections[:, :3, 3] = random_rotations(5, 1), rng.normal(size=(5, 3))
    series, positions = series_of(projections), rng.uniform(0, 60, (7, 3))
    motion = rng.normal(size=(7, 5, 3))
    expected = np.empty((7, 5, 2))
    for n in range(7):
        for f in range(5):
            expected[n, f] = (projections[f] @ [*(positions[n] + motion[n, f] / 2.5), 1])[:2]
    assert_allclose(image_positions(series, positions, motion), expected)
    assert_allclose(
        image_positions(series, positions), image_positions(series, positions, np.zeros((7, 5, 3)))
    )


def test_depth_is_counted_from_the_real_centre_and_signed_by_the_hand():
    projections = projection_matrices(
        [0.0, 0.0], [0.0, 30.0], [0.0, 80.0], np.zeros((2, 2)), (100, 80), (91, 71, 41)
    )
    series = series_of(projections, size=(91, 71, 41), slope=0.8)
    centre = np.array([45.5, 35.5, 20.5])
    assert_allclose(depth_defocus(series, [centre]), 0, atol=1e-10)
    depth = depth_defocus(series, centre + np.array([[0, 0, 10], [10, 0, 0]]))
    assert_allclose(depth, -2.5 * 0.8 * np.array([[10, 10 * np.cos(np.pi / 6)], [0, -5]]), atol=1e-9)
    opposite = series_of(projections, size=(91, 71, 41), slope=0.8, hand=1.0)
    assert_allclose(depth_defocus(opposite, centre + np.array([[0, 0, 10]])), -depth[:1])


def test_a_window_is_inside_if_its_centre_is_further_than_the_margin_from_every_side():
    x = [
        [8.0, 40.0],
        [8.1, 40.0],
        [91.9, 40.0],
        [92.0, 40.0],
        [50.0, 8.0],
        [50.0, 71.9],
        [50.0, 72.0],
        [np.nan, 40.0],
    ]
    inside = inside_images(np.array(x)[None], (100, 80), 8)
    assert_array_equal(inside, [[False, True, True, False, False, True, False, False]])


def test_linear_deformation_is_a_matrix_about_the_image_centre():
    given_ = Deformation("linear", (0, 0), np.array([[0.01, 0.02, -0.03], [0.0, 0.0, 0.0]]))
    shift = displacements(given_, np.array([[[60.0, 30.0], [1.0, 2.0]]]), (100, 80))
    assert_allclose(shift, [[[0.1, 0.2 + 0.3], [0, 0]]])


def spline(values: np.ndarray) -> Deformation:
    """Of (f, 2, gy, gx, 4) node values."""
    return Deformation("spline", (values.shape[3], values.shape[2]), values.reshape(len(values), -1))


@given(x=st.floats(0, 100), y=st.floats(0, 80))
def test_a_spline_whose_nodes_follow_a_bicubic_function_is_that_function(x, y):
    along, down = np.meshgrid(np.arange(4.0), np.arange(3.0))  # grid coordinates, slopes are per cell

    def field(u, v):
        return 0.3 * u**3 * v - v**3 + 2 * u * v**2 + 1

    nodes = np.stack([
        field(along, down), 0.9 * along**2 * down + 2 * down**2, 0.3 * along**3 - 3 * down**2 + 4 * along * down,
        0.9 * along**2 + 4 * down,
    ], -1)  # fmt: skip
    values = np.stack([nodes, -2 * nodes])[None]
    u, v = x / 100 * 3, y / 80 * 2
    got = displacements(spline(values), np.array([[[x, y]]]), (100, 80))[0, 0]
    assert_allclose(got, [field(u, v), -2 * field(u, v)], atol=1e-8)


def test_a_spline_goes_on_level_outside_the_image_and_each_tilt_has_its_own():
    values = np.random.default_rng(3).normal(size=(2, 2, 3, 4, 4))
    edge = displacements(spline(values), np.array([[[0.0, 40.0], [100.0, 80.0]]]), (100, 80))
    outside = displacements(spline(values), np.array([[[-30.0, 40.0], [170.0, 99.0]]]), (100, 80))
    assert_allclose(outside, edge, atol=1e-8)
    assert_allclose(edge[0], [values[0, :, 1, 0, 0], values[1, :, 2, 3, 0]], atol=1e-8)


def test_fourier_deformation_is_a_sum_of_waves():
    grid = (4, 4)
    waves = [(1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (1, -2), (2, -2), (1, -1), (2, -1)]
    table = np.random.default_rng(5).normal(size=(3, 2, len(waves), 2))
    given_ = Deformation("Fourier", grid, table.reshape(3, -1))
    assert coefficient_count(given_) == 4 * len(waves)
    at = np.random.default_rng(6).uniform(0, 80, (2, 3, 2))
    expected = np.zeros_like(at)
    for number, (x, y) in enumerate(waves):
        phase = np.pi * (x * at[..., 0] / 100 + y * at[..., 1] / 80)
        for axis in range(2):
            expected[..., axis] += table[:, axis, number, 0] * np.cos(phase)
            expected[..., axis] += table[:, axis, number, 1] * np.sin(phase)
    assert_allclose(displacements(given_, at, (100, 80)), expected, atol=1e-12)


def test_deformed_positions_are_the_projected_ones_displaced():
    projections = projection_matrices([0.0], [20.0], [85.0], [[1.0, 2.0]], (100, 80), (90, 70, 40))
    given_ = Deformation("linear", (0, 0), np.array([[0.01, 0.02, -0.03]]))
    plain = image_positions(series_of(projections), [[50.0, 30.0, 22.0]])
    bent = image_positions(series_of(projections, deformation=given_), [[50.0, 30.0, 22.0]])
    assert_allclose(bent, plain + displacements(given_, plain, (100, 80)))


@pytest.mark.parametrize(
    ("kind", "grid", "count"),
    [("linear", (0, 0), 4), ("spline", (2, 2), 31), ("spline", (1, 3), 24), ("Fourier", (4, 4), 35)],
)
def test_wrong_numbers_of_coefficients_are_refused(kind, grid, count):
    with pytest.raises(ParameterError, match="deformation: expected"):
        displacements(Deformation(kind, grid, np.zeros((1, count))), np.zeros((1, 1, 2)), (100, 80))
