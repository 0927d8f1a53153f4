"""Resampling and movements of pixels: centres stay, whole steps are exact, analytic densities follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.errors import CentralsliceError, InputError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.plugin.registry import shared_registry

RANDOM = np.random.default_rng(6)
IMAGE = RANDOM.normal(size=(9, 12))
MAP = RANDOM.normal(size=(7, 9, 12))


def processor(text):
    return shared_registry().create("processor", text)


def apply(text, data, voxel=1.0):
    return processor(text).apply(data, voxel)


def blob(shape, centre_xyz=(0.0, 0.0, 0.0), sigma=2.0, spacing=1.0):
    """A Gaussian at an offset (in units of spacing 1) from n // 2."""
    centre = centre_xyz[: len(shape)][::-1]
    axes = np.ogrid[tuple(map(slice, shape))]
    squared = sum(
        ((axis - n // 2) * spacing - c) ** 2 for axis, n, c in zip(axes, shape, centre, strict=True)
    )
    return np.exp(-squared / (2 * sigma**2))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("data", [IMAGE, MAP], ids=["image", "map"])
@pytest.mark.parametrize(
    ("name", "reduce"), [("mean", np.mean), ("median", np.median), ("max", np.max), ("min", np.min)]
)
def test_blocks_are_reduced_one_by_one(name, reduce, data, n):
    found = apply(f"math.{name}shrink:n={n}", data)
    assert found.shape == tuple(size // n for size in data.shape)
    for index in np.ndindex(found.shape):
        block = data[tuple(slice(i * n, i * n + n) for i in index)]
        assert found[index] == pytest.approx(reduce(block))
    assert processor(f"math.{name}shrink:n={n}").voxel_size(1.5) == 1.5 * n


def test_shrinking_by_one_and_a_half_weighs_by_area():
    found = apply("math.meanshrink:n=1.5", IMAGE)
    assert found.shape == (6, 8)
    fine = np.kron(IMAGE, np.ones((2, 2)))
    np.testing.assert_allclose(found, fine.reshape(6, 3, 8, 3).mean(axis=(1, 3)))
    with pytest.raises(InputError, match="takes images"):
        apply("math.meanshrink:n=1.5", MAP)


def test_blocks_larger_than_the_data_are_refused():
    for name in ("mean", "median"):
        with pytest.raises(InputError, match="do not fit"):
            apply(f"math.{name}shrink:n=20", IMAGE)


@pytest.mark.parametrize(
    ("size", "n"), [(48, 2.0), (48, 1.5), (45, 1.5), (47, 1.3), (31, 0.5), (30, 0.7), (33, 2.0)]
)
def test_fourier_resampling_takes_a_smooth_density_at_the_new_points(size, n):
    data = blob((size,) * 2, (1.0, -2.0), 3.0)
    new = math.floor(size / n + 0.5)
    found = apply(f"math.fft.resample:n={n}", data)
    np.testing.assert_allclose(found, blob((new,) * 2, (1.0, -2.0), 3.0, spacing=n), atol=2e-4)
    assert processor(f"math.fft.resample:n={n}").voxel_size(1.1) == 1.1 * n


def test_fourier_resampling_of_maps_crops_the_transform():
    """Frequencies up to 2 of 12 voxels pass to a grid of 6 (Nyquist 3); all others are left out."""
    data = RANDOM.normal(size=(12, 12, 12))
    frequency = np.abs(np.fft.fftfreq(12, 1 / 12))
    largest = np.maximum(np.maximum(frequency[:, None, None], frequency[:, None]), frequency)
    low = np.fft.ifftn(np.fft.fftn(data) * (largest < 3)).real
    np.testing.assert_allclose(apply("math.fft.resample:n=2", low), low[::2, ::2, ::2], atol=1e-12)
    high = np.fft.ifftn(np.fft.fftn(data) * (largest > 3)).real
    np.testing.assert_allclose(apply("math.fft.resample:n=2", high), 0.0, atol=1e-12)


@given(n=st.floats(0.4, 3), size=st.integers(6, 15))
def test_resampling_keeps_constants_and_the_centre_of_a_point(n, size):
    found = apply(f"math.fft.resample:n={n!r}", np.full((size, size), 2.5))
    np.testing.assert_allclose(found, 2.5, atol=1e-9)
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    found = apply(f"math.fft.resample:n={n!r}", point)
    assert found[found.shape[0] // 2, found.shape[1] // 2] == pytest.approx(found.max())


def test_resampling_finer_and_back_is_the_identity():
    data = RANDOM.normal(size=(9, 9, 9))
    finer = apply("math.fft.resample:n=0.5", data)
    np.testing.assert_allclose(apply("math.fft.resample:n=2", finer), data, atol=1e-10)


def test_a_factor_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="nothing is left"):
        apply("math.fft.resample:n=30", IMAGE)


@pytest.mark.parametrize("size", [32, 33])
def test_the_transform_moves_a_density_from_x_to_r_x_plus_t(size):
    angles, shift, centre = (30.0, 40.0, 50.0), np.array([1.5, -2.0, 0.5]), np.array([4.0, 2.0, -3.0])
    found = apply("xform:az=30:alt=40:phi=50:tx=1.5:ty=-2:tz=0.5", blob((size,) * 3, tuple(centre), 3.0))
    moved = eman2_to_matrices(*angles)[0] @ centre + shift
    np.testing.assert_allclose(found, blob((size,) * 3, tuple(moved), 3.0), atol=0.05)


def test_the_scale_enlarges_and_divides_the_voxel_size():
    found = apply("xform:scale=1.5", blob((33,) * 2, (4.0, 2.0), 3.0))
    np.testing.assert_allclose(found, blob((33,) * 2, (6.0, 3.0), 4.5), atol=0.03)
    assert processor("xform:scale=1.5").voxel_size(3.0) == pytest.approx(2.0)
    assert processor("xform:az=10:alt=20:phi=30").voxel_size(3.0) == 3.0


def test_a_matrix_is_the_same_as_its_angles():
    matrix = np.column_stack([eman2_to_matrices(10, 20, 30)[0], [1, 2, 3]])
    text = ",".join(repr(float(value)) for value in matrix.ravel())
    data = RANDOM.normal(size=(10, 10, 10))
    np.testing.assert_allclose(
        apply(f"xform:transform={text}", data),
        apply("xform:az=10:alt=20:phi=30:tx=1:ty=2:tz=3", data),
        atol=1e-12,
    )


@pytest.mark.parametrize("size", [8, 9])
def test_a_quarter_turn_of_an_image_is_exact(size):
    data = RANDOM.normal(size=(size, size))
    found = apply("xform:alpha=90", data)
    # passive Rz(90): x' = y, y' = -x
    centre = size // 2
    for y in range(1, size):
        for x in range(1, size):
            inside = 0 <= 2 * centre - x < size
            if inside and 0 <= y < size:
                assert found[2 * centre - x, y] == pytest.approx(data[y, x])


def test_images_are_not_turned_out_of_their_plane():
    for text in ("xform:alt=10", "xform:tz=1", "xform:alt=180"):
        with pytest.raises(InputError, match="plane only"):
            apply(text, IMAGE)


@pytest.mark.parametrize("size", [16, 17])
def test_whole_pixel_shifts_by_the_transform_are_exact(size):
    data = RANDOM.normal(size=(size,) * 3)
    np.testing.assert_array_equal(
        apply("xform:tx=2:ty=-1:tz=3", data), apply("xform.translate.int:trans=2,-1,3", data)
    )


def test_scaling_clips_about_the_centre():
    found = apply("xform.scale:scale=2:clip=24", blob((16,) * 3, (1.0, 0.0, -1.0), 4.0))
    np.testing.assert_allclose(found, blob((24,) * 3, (2.0, 0.0, -2.0), 8.0), atol=0.03)
    assert apply("xform.scale:scale=1.1", np.ones((10, 10))).shape == (11, 11)
    assert processor("xform.scale:scale=2").voxel_size(3.0) == 1.5
    with pytest.raises(InputError, match="equal sizes"):
        apply("xform.scale:scale=2", IMAGE)


@pytest.mark.parametrize(("sym", "order"), [("c1", 1), ("c4", 4), ("d2", 4)])
def test_symmetry_averaging_is_the_mean_over_exactly_turned_copies(sym, order):
    data = blob((17,) * 3, (4.0, 1.0, 2.0), 2.0)
    rotations = shared_registry().create("symmetry", sym).rotations()
    assert len(rotations) == order
    wanted = sum(blob((17,) * 3, tuple(r @ (4.0, 1.0, 2.0)), 2.0) for r in rotations) / order
    np.testing.assert_allclose(apply(f"xform.applysym:sym={sym}", data), wanted, atol=1e-3)


def test_only_point_groups_are_averaged():
    with pytest.raises(InputError, match="point group"):
        processor('xform.applysym:sym="h5:1:30:4"')
    with pytest.raises(CentralsliceError, match="q7"):
        processor("xform.applysym:sym=q7")


def test_images_take_cyclic_symmetries_only():
    data = blob((17, 17), (4.0, 1.0))
    found = apply("xform.applysym:sym=c4", data)
    np.testing.assert_allclose(found, np.rot90(found), atol=1e-12)
    with pytest.raises(InputError, match="cN"):
        apply("xform.applysym:sym=d2", data)


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (7, 8, 9), (8, 9, 10)])
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_flips_mirror_about_the_centre_voxel_and_lose_nothing(shape, axis):
    data = RANDOM.normal(size=shape)
    if axis == "z" and len(shape) == 2:
        with pytest.raises(InputError, match="no z axis"):
            apply("xform.flip:axis=z", data)
        return
    number = {"x": -1, "y": -2, "z": -3}[axis]
    for name in ("flip", "reverse"):
        found = apply(f"xform.{name}:axis={axis}", data)
        size, centre = shape[number], shape[number] // 2
        for offset in range(-centre, (size + 1) // 2):
            source = (centre - offset) % size
            np.testing.assert_array_equal(
                np.take(found, centre + offset, number), np.take(data, source, number)
            )
        np.testing.assert_array_equal(apply(f"xform.{name}:axis={axis}", found), data)
    np.testing.assert_array_equal(apply(f"xform.mirror:axis={axis}", data), np.flip(data, number))


@pytest.mark.parametrize("size", [8, 9])
def test_half_turns_and_transposition_of_images(size):
    data = blob((size, size), (1.0, -2.0), 1.5)
    interior = (slice(1, None),) * 2
    turned = apply("math.rotate.180", data)
    np.testing.assert_allclose(turned[interior], blob((size, size), (-1.0, 2.0), 1.5)[interior], atol=1e-12)
    np.testing.assert_array_equal(apply("xform.transpose", IMAGE), IMAGE.T)


@pytest.mark.parametrize("data", [IMAGE, MAP], ids=["image", "map"])
def test_whole_shifts_leave_zeros_behind(data):
    wanted = np.zeros_like(data)
    wanted[..., 2:, :-3] = data[..., :-2, 3:]
    np.testing.assert_array_equal(apply("xform.translate.int:trans=-3,2", data), wanted)
    np.testing.assert_array_equal(apply("xform.translate.int:trans=100,0", data), 0.0)
    with pytest.raises(InputError, match="2D"):
        apply("xform.translate.int:trans=1,1,1", IMAGE)


@pytest.mark.parametrize("shape", [(32, 32), (31, 33), (24, 25, 26)])
def test_the_centre_of_mass_comes_to_the_centre_voxel(shape):
    data = blob(shape, (3.0, -2.0, 1.0))
    np.testing.assert_allclose(apply("xform.centerofmass", data), blob(shape), atol=1e-3)
    data = blob(shape, (3.4, -2.3, 1.2))
    whole = apply("xform.centerofmass", data)
    np.testing.assert_allclose(whole, blob(shape, (0.4, -0.3, 0.2)), atol=1e-3)
    exact = apply("xform.centerofmass:int_shift_only=0", data)
    np.testing.assert_allclose(exact, blob(shape), atol=1e-3)


def test_mass_counts_above_the_threshold_and_may_be_squared():
    data = np.zeros((16, 16))
    data[3, 4], data[10, 12] = 1.0, 3.0
    found = apply("xform.centerofmass:threshold=2", data)
    assert found[8, 8] == 3.0
    squared = apply("xform.centerofmass:powercenter=1", data)
    # centre of mass of weights 1 and 9: x 11.2, y 9.3
    assert squared[10 - 1, 12 - 3] == 3.0
    np.testing.assert_array_equal(apply("xform.centerofmass:threshold=9", data), data)


@pytest.mark.parametrize("shape", [(8, 9), (7, 8, 9)])
def test_origins_move_between_centre_and_corner(shape):
    data = RANDOM.normal(size=shape)
    corner = apply("xform.phaseorigin.tocorner", data)
    assert corner[(0,) * len(shape)] == data[tuple(n // 2 for n in shape)]
    np.testing.assert_array_equal(apply("xform.phaseorigin.tocenter", corner), data)
