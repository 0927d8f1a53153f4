"""Masks against their formulas, and masks found from the map."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from centralslice.errors import InputError
from centralslice.plugin.registry import shared_registry

RANDOM = np.random.default_rng(4)
SHAPES = [(12, 12), (11, 13), (8, 9, 10), (11, 11, 11)]


def apply(text, data, voxel=1.0):
    return shared_registry().create("processor", text).apply(data, voxel)


def distance(shape, shift=(0, 0, 0)):
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    moved = shift[: len(shape)][::-1]
    return np.sqrt(sum((g - n // 2 - s) ** 2 for g, n, s in zip(grids, shape, moved, strict=True)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sharp_mask_keeps_a_shell(shape):
    data, r = RANDOM.normal(size=shape), distance(shape)
    np.testing.assert_array_equal(apply("mask.sharp:outer_radius=4", data), np.where(r < 4, data, 0))
    np.testing.assert_array_equal(
        apply("mask.sharp:inner_radius=2:outer_radius=4:value=7", data), np.where((r >= 2) & (r < 4), data, 7)
    )


def test_masks_without_a_radius_keep_everything():
    data = RANDOM.normal(size=(9, 9))
    for name in ("sharp", "soft", "gaussian"):
        np.testing.assert_array_equal(apply(f"mask.{name}", data), data)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_negative_radius_counts_from_half_the_box_and_the_centre_can_be_moved(shape):
    data = RANDOM.normal(size=shape)
    r = distance(shape, (1, -2, 0.5))
    outer = shape[-1] // 2 - 2 + 1
    np.testing.assert_array_equal(
        apply("mask.sharp:outer_radius=-2:dx=1:dy=-2:dz=0.5", data), np.where(r < outer, data, 0)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_soft_mask_falls_as_a_gaussian_on_both_sides(shape):
    data, r = RANDOM.normal(size=shape), distance(shape)
    away = np.maximum(np.maximum(r - 4, 2 - r), 0)
    wanted = 3 + (data - 3) * np.exp(-((away / 1.5) ** 2))
    found = apply("mask.soft:inner_radius=2:outer_radius=4:width=1.5:value=3", data)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found[r == 3] == pytest.approx(data[r == 3])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gaussian_mask_is_one_inside_the_inner_radius(shape):
    data, r = RANDOM.normal(size=shape), distance(shape)
    np.testing.assert_allclose(apply("mask.gaussian:outer_radius=3", data), data * np.exp(-(r**2) / 9))
    np.testing.assert_allclose(
        apply("mask.gaussian:outer_radius=3:inner_radius=2:exponent=4", data),
        np.where(r <= 2, data, data * np.exp(-(((r - 2) / 3) ** 4))),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ring_mean_fills_the_outside(shape):
    data, r = RANDOM.normal(size=shape), distance(shape)
    ring = data[np.abs(r - 3) <= 1.5].mean()
    np.testing.assert_allclose(
        apply("mask.ringmean:outer_radius=3:ring_width=1.5", data), np.where(r < 3, data, ring)
    )


def test_radii_that_leave_nothing_are_refused():
    data = np.ones((8, 8))
    for text in ("mask.sharp:outer_radius=-6", "mask.soft:inner_radius=4:outer_radius=3"):
        with pytest.raises(InputError, match="not more than inner_radius"):
            apply(text, data)
    with pytest.raises(InputError, match="no pixel"):
        apply("mask.ringmean:outer_radius=40", data)


def test_the_cylinder_keeps_its_sector():
    shape = (9, 12, 11)
    data = RANDOM.normal(size=shape)
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    radius, angle = np.hypot(x - 5, y - 6), np.rad2deg(np.arctan2(y - 6, x - 5))
    keep = (radius >= 1) & (radius < 4) & (z >= 2) & (z <= 6)
    away = np.abs((angle - 170 + 180) % 360 - 180)
    box = "inner_radius=1:outer_radius=4:zmin=2:zmax=6"
    np.testing.assert_array_equal(apply(f"mask.cylinder:{box}", data), data * keep)
    np.testing.assert_array_equal(
        apply(f"mask.cylinder:{box}:phicen=170:phirange=50", data), data * (keep & (away <= 50))
    )
    soft = np.clip(1 - (away - 50) / 40, 0, 1)
    np.testing.assert_allclose(
        apply(f"mask.cylinder:{box}:phicen=170:phirange=50:phitriangle=1:phitrirange=40", data),
        data * keep * soft,
        atol=1e-12,
    )


def test_the_cylinder_with_a_triangle_in_height_peaks_in_the_middle():
    found = apply("mask.cylinder:zmin=1:zmax=9:ztriangle=1", np.ones((11, 4, 4)))[:, 2, 2]
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0])
    found = apply("mask.cylinder:zmin=1:zmax=9:ztriangle=0.5:cx=0:cy=1", np.ones((11, 4, 4)))[:, 2, 2]
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1, 1, 1, 1, 0.5, 0, 0])


def test_edges_are_zeroed_by_their_margins():
    data = RANDOM.normal(size=(7, 8, 9))
    wanted = data.copy()
    wanted[:, :, :2] = wanted[:, :, -1:] = wanted[:, :3] = wanted[:, -3:] = wanted[-2:] = 0
    np.testing.assert_array_equal(apply("mask.zeroedge3d:x0=2:x1=1:y0=3:z1=2", data), wanted)
    np.testing.assert_array_equal(apply("mask.zeroedge2d:x0=2:x1=1:y0=3:y1=3", data[0]), wanted[0])
    with pytest.raises(InputError, match="leave nothing"):
        apply("mask.zeroedge2d:x0=5", data[0])


def test_apodized_edges_rise_smoothly_over_the_margin():
    found = apply("mask.zeroedge2d:x0=3:x1=2:apodize=1", np.ones((4, 14)))[1]
    left = np.sin(np.pi / 2 * np.array([1, 2, 3]) / 4) ** 2
    right = np.sin(np.pi / 2 * np.array([2, 1]) / 3) ** 2
    np.testing.assert_allclose(found, [0, 0, 0, *left, 1, 1, 1, 1, *right, 0, 0])
    narrow = apply("mask.zeroedge2d:x0=4:apodize=1", np.ones((4, 9)))[1]
    assert narrow[4] > 0
    assert (narrow[:4] == 0).all()


def test_the_decaying_edge_is_linear_and_symmetric():
    found = apply("mask.decayedge2d:width=4", np.ones((30, 20)))
    np.testing.assert_allclose(found[15, :5], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found, found[::-1, ::-1])
    np.testing.assert_allclose(found[1, 2], 0.25 * 0.5)


def test_a_mask_file_multiplies_or_selects_a_level(tmp_path):
    mask = RANDOM.integers(0, 3, (6, 7, 8)).astype(np.float32)
    with mrcfile.new(tmp_path / "mask.mrc", data=mask):
        pass
    data = RANDOM.normal(size=mask.shape)
    name = f'"{tmp_path / "mask.mrc"}"'
    np.testing.assert_allclose(apply(f"mask.fromfile:filename={name}", data), data * mask)
    np.testing.assert_allclose(apply(f"mask.fromfile:filename={name}:maskset=2", data), data * (mask == 2))


def two_blobs():
    """Two separate cubes, the lower one with a thin tail."""
    data = np.zeros((20, 20, 20))
    data[8:12, 8:12, 8:12] = 2.0
    data[10, 10, 10] = 3.0
    data[8, 8, 12:15] = 1.0
    data[2:5, 2:5, 2:5] = 5.0
    return data


def test_the_auto_mask_keeps_what_is_connected_to_the_central_ball():
    data = two_blobs()
    wanted = data.copy()
    wanted[2:5, 2:5, 2:5] = 0
    np.testing.assert_array_equal(apply("mask.auto3d:threshold=0.5:radius=3", data), wanted)
    wanted[8, 8, 12:15] = 0
    np.testing.assert_array_equal(apply("mask.auto3d:threshold=1:radius=3", data), wanted)


def test_the_auto_mask_takes_the_highest_voxels_as_seeds():
    data = two_blobs()
    wanted = np.where(data == 5, 5.0, 0.0)
    np.testing.assert_array_equal(apply("mask.auto3d:threshold=0.5:nmaxseed=3", data), wanted)
    both = apply("mask.auto3d:threshold=0.5:nmaxseed=3:radius=3", data)
    np.testing.assert_array_equal(both, data)


def test_diagonal_neighbours_are_not_connected():
    data = np.zeros((9, 9, 9))
    data[4, 4, 4], data[5, 5, 4] = 1.0, 1.0
    found = apply("mask.auto3d:threshold=0.5:radius=0.5:return_mask=1", data)
    assert found.sum() == 1


def test_a_threshold_in_sigma_is_taken_from_the_map():
    data = two_blobs()
    level = data.mean() + 1.2 * data.std(ddof=1)
    np.testing.assert_array_equal(
        apply("mask.auto3d:sigma=1.2:radius=3", data),
        apply(f"mask.auto3d:threshold={float(level)!r}:radius=3", data),
    )


def test_the_mask_grows_by_shells_of_face_neighbours():
    data = np.zeros((15, 15, 15))
    data[7, 7, 7] = 1.0
    found = apply("mask.auto3d:threshold=0.5:radius=1:nshells=3:return_mask=1", data)
    z, y, x = np.mgrid[:15, :15, :15] - 7
    np.testing.assert_array_equal(found, (abs(z) + abs(y) + abs(x) <= 3).astype(float))


def test_the_soft_edge_is_a_low_pass_filter_cut_at_0_002():
    data = np.zeros((24, 24, 24))
    data[12, 12, 12] = 1.0
    hard = apply("mask.auto3d:threshold=0.5:radius=1:nshells=4:return_mask=1", data)
    blurred = apply("filter.lowpass.gauss:cutoff_abs=0.25", hard)
    found = apply("mask.auto3d:threshold=0.5:radius=1:nshells=2:nshellsgauss=4:return_mask=1", data)
    np.testing.assert_allclose(found, np.where(blurred < 0.002, 0, blurred), atol=1e-12)
    np.testing.assert_allclose(
        apply("mask.auto3d:threshold=0.5:radius=1:nshells=2:nshellsgauss=4", data), data * found, atol=1e-12
    )


def test_the_hysteresis_mask_grows_from_high_density_into_low_density():
    data = two_blobs()
    found = apply("mask.auto3d.thresh:threshold1=2.5:threshold2=0.5", data)
    np.testing.assert_array_equal(found, data)
    found = apply("mask.auto3d.thresh:threshold1=4:threshold2=0.5", data)
    np.testing.assert_array_equal(found, np.where(data == 5, 5.0, 0.0))
    mean, sigma = data.mean(), data.std(ddof=1)
    np.testing.assert_array_equal(
        apply("mask.auto3d.thresh", data),
        apply(
            f"mask.auto3d.thresh:threshold1={float(mean + 2 * sigma)!r}:threshold2={float(mean + sigma)!r}",
            data,
        ),
    )


def test_auto_masks_without_density_are_refused():
    with pytest.raises(InputError, match="no density"):
        apply("mask.auto3d:threshold=9:radius=3", two_blobs())
    with pytest.raises(InputError, match="above threshold1"):
        apply("mask.auto3d.thresh:threshold1=1:threshold2=2", two_blobs())


def test_dust_is_removed_and_large_pieces_are_kept_exactly():
    data = two_blobs()
    data[16, 16, 16] = 9.0
    found = apply("mask.dust3d:threshold=0.5:voxels=27", data)
    assert found[16, 16, 16] == 0
    np.testing.assert_array_equal(found[2:5, 2:5, 2:5], 0.0)
    large = data.copy()
    large[2:5, 2:5, 2:5] = large[16, 16, 16] = 0
    np.testing.assert_array_equal(found, large)
    np.testing.assert_array_equal(apply("mask.dust3d:threshold=0.5:voxels=26", data)[2:5, 2:5, 2:5], 5.0)


def test_the_surroundings_of_dust_are_damped_smoothly():
    data = np.full((15, 15, 15), 0.5)
    data[7, 7, 7] = 2.0
    found = apply("mask.dust3d", data)
    profile = found[7, 7, 7:]
    assert profile[0] == 0
    assert (np.diff(profile) >= 0).all()
    assert profile[-1] == pytest.approx(0.5)
