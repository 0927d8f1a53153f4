"""Normalisations, thresholds and arithmetic against their formulas written out."""

from __future__ import annotations

import math

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.errors import InputError
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.processors.kernel_fix import gridding_kernel

RANDOM = np.random.default_rng(21)
IMAGE = RANDOM.normal(3.0, 2.0, (8, 9))
MAP = RANDOM.normal(3.0, 2.0, (7, 8, 9))


def apply(text, data, voxel=1.0):
    return shared_registry().create("processor", text).apply(data, voxel)


def map_file(path, data):
    with mrcfile.new(path, data=np.ascontiguousarray(data, np.float32)):
        pass
    return f'"{path}"'


def sigma(data):
    return math.sqrt(((data - data.mean()) ** 2).sum() / (data.size - 1))


@pytest.mark.parametrize("data", [IMAGE, MAP], ids=["image", "map"])
def test_normalize_gives_mean_0_and_sigma_1(data):
    np.testing.assert_allclose(apply("normalize", data), (data - data.mean()) / sigma(data), atol=1e-12)


def test_the_edge_mean_of_an_image_counts_corners_twice():
    edges = [IMAGE[0], IMAGE[-1], IMAGE[:, 0], IMAGE[:, -1]]
    mean = sum(edge.sum() for edge in edges) / (2 * 8 + 2 * 9)
    np.testing.assert_allclose(apply("normalize.edgemean", IMAGE), (IMAGE - mean) / sigma(IMAGE), atol=1e-12)


def test_the_edge_mean_of_a_map_is_the_mean_over_its_six_faces():
    faces = [MAP[0], MAP[-1], MAP[:, 0], MAP[:, -1], MAP[:, :, 0], MAP[:, :, -1]]
    mean = sum(face.sum() for face in faces) / sum(face.size for face in faces)
    np.testing.assert_allclose(apply("normalize.edgemean", MAP), (MAP - mean) / sigma(MAP), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "radius", "width"), [("", 2, 2), (":radius=-1:width=1", 3, 1), (":radius=0", 0, 2)]
)
def test_the_circle_mean_is_taken_in_its_ring(text, radius, width):
    y, x = np.mgrid[:8, :9]
    distance = np.hypot(y - 4, x - 4)
    mean = IMAGE[(distance >= radius) & (distance < radius + width)].mean()
    np.testing.assert_allclose(
        apply(f"normalize.circlemean{text}", IMAGE), (IMAGE - mean) / sigma(IMAGE), atol=1e-12
    )


def test_a_circle_outside_the_image_is_refused():
    with pytest.raises(InputError, match="no pixel"):
        apply("normalize.circlemean:radius=50", IMAGE)


def test_lredge_takes_two_columns_each_side():
    mean = np.concatenate([IMAGE[:, :2], IMAGE[:, -2:]], axis=1).mean()
    np.testing.assert_allclose(apply("normalize.lredge", IMAGE), (IMAGE - mean) / sigma(IMAGE), atol=1e-12)


def test_unit_length_and_unit_sum_are_1():
    assert (apply("normalize.unitlen", MAP) ** 2).sum() == pytest.approx(1)
    assert apply("normalize.unitsum", MAP).sum() == pytest.approx(1)


def test_maxmin_spans_minus_1_to_1():
    found = apply("normalize.maxmin", MAP)
    assert (found.min(), found.max()) == (pytest.approx(-1), pytest.approx(1))
    np.testing.assert_allclose(np.argsort(found, axis=None), np.argsort(MAP, axis=None))


@pytest.mark.parametrize(
    "name", ["", ".edgemean", ".circlemean", ".lredge", ".maxmin", ".unitlen", ".unitsum", ".ramp.normvar"]
)
def test_data_without_variation_stay_as_they_are(name):
    value = 0.0 if name in (".unitlen", ".unitsum", ".ramp.normvar") else 4.0
    flat = np.full((8, 8), value, np.float32)
    np.testing.assert_array_equal(apply(f"normalize{name}", flat), flat)


def test_normalisation_under_a_mask_uses_its_pixels_only(tmp_path):
    mask = (np.arange(72).reshape(8, 9) % 3 == 0).astype(float)
    inside = IMAGE[mask != 0]
    name = map_file(tmp_path / "mask.mrc", mask)
    wanted = (IMAGE - inside.mean()) / inside.std()
    np.testing.assert_allclose(apply(f"normalize.mask:mask={name}", IMAGE), wanted, atol=1e-10)
    np.testing.assert_allclose(
        apply(f"normalize.mask:mask={name}:apply_mask=1", IMAGE), wanted * mask, atol=1e-10
    )
    np.testing.assert_allclose(
        apply(f"normalize.mask:mask={name}:no_sigma=1", IMAGE), IMAGE - inside.mean(), atol=1e-10
    )
    empty = map_file(tmp_path / "empty.mrc", np.zeros((8, 9)))
    with pytest.raises(InputError, match="other than 0"):
        apply(f"normalize.mask:mask={empty}", IMAGE)


def test_bymass_encloses_the_mass_at_the_threshold():
    density = np.abs(MAP) + 0.01
    found = apply("normalize.bymass:mass=1.215:thr=2.5", density, voxel=1.5)
    voxels = round(1215 / (0.81 * 1.5**3))
    assert (found >= 2.5 * (1 - 1e-12)).sum() == voxels
    np.testing.assert_allclose(found / density, (found / density).flat[0])
    default = apply("normalize.bymass:mass=1.215:apix=1.5", density)
    level = density.mean() + sigma(density)
    assert (default >= level * (1 - 1e-12)).sum() == voxels


def test_bymass_refuses_what_cannot_be(tmp_path):
    with pytest.raises(InputError, match="the map has"):
        apply("normalize.bymass:mass=1000", MAP)
    with pytest.raises(InputError, match="not above 0"):
        apply("normalize.bymass:mass=0.1", -np.abs(MAP))


def test_toimage_finds_the_linear_function(tmp_path):
    name = map_file(tmp_path / "to.mrc", 2.5 * IMAGE - 1)
    np.testing.assert_allclose(apply(f"normalize.toimage:to={name}", IMAGE), 2.5 * IMAGE - 1, atol=1e-5)


def test_toimage_leaves_out_zeros_and_values_beyond_the_thresholds(tmp_path):
    target = (2.5 * IMAGE + 20).astype(np.float32)
    target[0], target[1], target[2] = 0, 1e4, -1e4
    name = map_file(tmp_path / "to.mrc", target)
    found = apply(f"normalize.toimage:to={name}:low_threshold=-100:high_threshold=100", IMAGE)
    np.testing.assert_allclose(found, 2.5 * IMAGE + 20, atol=1e-4)
    zeros_too = apply(
        f"normalize.toimage:to={name}:ignore_zero=0:low_threshold=-100:high_threshold=100", IMAGE
    )
    used = np.abs(target) < 100
    slope, offset = np.polyfit(IMAGE[used], target[used].astype(float), 1)
    np.testing.assert_allclose(zeros_too, slope * IMAGE + offset, rtol=1e-6)


def test_toimage_can_leave_out_pixels_near_the_mean(tmp_path):
    target = IMAGE**3
    name = map_file(tmp_path / "to.mrc", target)
    target = target.astype(np.float32).astype(float)
    used = (np.abs(IMAGE - IMAGE.mean()) >= 0.5 * sigma(IMAGE)) & (
        np.abs(target - target.mean()) >= 0.5 * sigma(target)
    )
    slope, offset = np.polyfit(IMAGE[used], target[used], 1)
    found = apply(f"normalize.toimage:to={name}:ignore_lowsig=0.5", IMAGE)
    np.testing.assert_allclose(found, slope * IMAGE + offset, rtol=1e-6)


def test_the_ramp_is_the_least_squares_plane():
    y, x = np.mgrid[:8, :9]
    columns = np.stack([np.ones(72), x.ravel(), y.ravel()], axis=1)
    plane = columns @ np.linalg.lstsq(columns, IMAGE.ravel(), rcond=None)[0]
    np.testing.assert_allclose(apply("filter.ramp", IMAGE), IMAGE - plane.reshape(8, 9), atol=1e-12)
    np.testing.assert_allclose(apply("filter.ramp", 2.0 * x - 3.0 * y + 1), 0.0, atol=1e-12)


def test_ramp_normvar_normalises_inside_its_disc():
    image = RANDOM.normal(size=(16, 16)) + 0.5 * np.arange(16)
    flat = apply("filter.ramp", image)
    y, x = np.mgrid[:16, :16]
    inside = flat[np.hypot(y - 8, x - 8) < 6]
    np.testing.assert_allclose(
        apply("normalize.ramp.normvar", image), (flat - inside.mean()) / sigma(inside), atol=1e-12
    )


VALUES = np.array([[-2.0, -0.5, 0.0], [0.5, 1.0, 3.0]])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("threshold.belowtozero", [0, 0, 0, 0.5, 1, 3]),
        ("threshold.belowtozero:minval=1", [0, 0, 0, 0, 1, 3]),
        ("threshold.abovetozero", [-2, -0.5, 0, 0, 0, 0]),
        ("threshold.abovetozero:maxval=1", [-2, -0.5, 0, 0.5, 1, 0]),
        ("threshold.belowtozero_cut:minval=0.5", [0, 0, 0, 0, 0.5, 2.5]),
        ("threshold.belowtominval:minval=0.5", [0.5, 0.5, 0.5, 0.5, 1, 3]),
        ("threshold.belowtominval:minval=0.5:newval=-9", [-9, -9, -9, 0.5, 1, 3]),
        ("threshold.binary:value=0.5", [0, 0, 0, 1, 1, 1]),
        ("threshold.binaryrange:low=-0.5:high=1", [0, 1, 1, 1, 1, 0]),
        ("threshold.rangetozero:minval=-0.5:maxval=1", [-2, 0, 0, 0, 0, 3]),
        ("threshold.notzero", [1, 1, 0, 1, 1, 1]),
        ("threshold.clampminmax:minval=-1:maxval=1", [-1, -0.5, 0, 0.5, 1, 1]),
        ("threshold.clampminmax:minval=-1:maxval=1:tozero=1", [0, -0.5, 0, 0.5, 1, 0]),
        ("threshold.clampminmax:minval=-1:maxval=1:tomean=1", [1 / 3, -0.5, 0, 0.5, 1, 1 / 3]),
        ("threshold.compress:range=1", [-1, 0, 0, 0, 0, 2]),
        ("threshold.compress:range=1:value=0.5", [-1, 0.5, 0.5, 0.5, 0.5, 2]),
        ("threshold.compress:range=1:value=0.5:clamponly=1", [-2, 0.5, 0.5, 0.5, 0.5, 3]),
        ("math.linear:scale=2:shift=1", [-3, 0, 1, 2, 3, 7]),
        ("math.reciprocal", [-0.5, -2, 0, 2, 1, 1 / 3]),
        ("math.reciprocal:zero_to=7", [-0.5, -2, 7, 2, 1, 1 / 3]),
        ("math.absvalue", [2, 0.5, 0, 0.5, 1, 3]),
        ("math.squared", [4, 0.25, 0, 0.25, 1, 9]),
        ("math.sqrt", [0, 0, 0, math.sqrt(0.5), 1, math.sqrt(3)]),
        ("math.log", [0, 0, 0, math.log10(0.5), 0, math.log10(3)]),
        ("math.floor", [-2, -1, 0, 0, 1, 3]),
        ("tomo.tiltangleweight:angle=60", [-4, -1, 0, 1, 2, 6]),
    ],
)
def test_values_become_what_the_formula_says(text, wanted):
    np.testing.assert_allclose(apply(text, VALUES), np.reshape(wanted, (2, 3)), atol=1e-12)


@given(nsigma=st.floats(0.1, 3))
def test_nsigma_clamps_at_mean_plus_minus_nsigma(nsigma):
    low, high = IMAGE.mean() - nsigma * sigma(IMAGE), IMAGE.mean() + nsigma * sigma(IMAGE)
    found = apply(f"threshold.clampminmax.nsigma:nsigma={nsigma!r}", IMAGE)
    np.testing.assert_allclose(found, np.minimum(np.maximum(IMAGE, low), high), atol=1e-12)
    outside = (low > IMAGE) | (high < IMAGE)
    found = apply(f"threshold.clampminmax.nsigma:nsigma={nsigma!r}:tozero=1", IMAGE)
    np.testing.assert_allclose(found, np.where(outside, 0, IMAGE))


@given(value=st.floats(-5, 5), half=st.floats(0, 5))
def test_compressing_twice_is_compressing_by_twice_the_range(value, half):
    once = f"threshold.compress:range={half!r}:value={value!r}"
    twice = f"threshold.compress:range={2 * half!r}:value={value!r}"
    np.testing.assert_allclose(apply(once, apply(once, IMAGE)), apply(twice, IMAGE), atol=1e-9)


def test_values_that_are_not_finite_are_replaced():
    data = VALUES.copy()
    data[0, 0], data[1, 2] = np.nan, np.inf
    np.testing.assert_allclose(apply("math.finite", data).ravel(), [0.25, -0.5, 0, 0.5, 1, 0.25])
    np.testing.assert_allclose(apply("math.finite:to=7", data).ravel(), [7, -0.5, 0, 0.5, 1, 7])
    with pytest.raises(InputError, match="no value is finite"):
        apply("math.finite", np.full((2, 2), np.nan))


def test_an_amplitude_field_multiplies_the_half_transform(tmp_path):
    field = RANDOM.random((8, 5)).astype(np.float32)
    name = map_file(tmp_path / "amp.mrc", field)
    wanted = np.fft.irfft2(np.fft.rfft2(IMAGE) * field, s=IMAGE.shape)
    np.testing.assert_allclose(apply(f"math.multamplitude:amp={name}", IMAGE), wanted, atol=1e-12)
    with pytest.raises(InputError, match="half transform 4 × 8, got 5 × 8"):
        apply(f"math.multamplitude:amp={name}", IMAGE[:, :7])


@pytest.mark.parametrize("shape", [(9, 9), (8, 8, 8)])
def test_the_rotational_average_depends_on_the_radius_only_and_keeps_what_is_radial(shape):
    radius = np.sqrt(
        sum((axis - n // 2) ** 2 for axis, n in zip(np.ogrid[tuple(map(slice, shape))], shape, strict=True))
    )
    np.testing.assert_allclose(apply("math.rotationalaverage", np.full(shape, 3.0)), 3.0)
    data = RANDOM.normal(size=shape)
    found = apply("math.rotationalaverage", data)
    whole = radius == 2
    assert np.ptp(found[whole]) < 1e-12
    np.testing.assert_allclose(apply("math.rotationalsubtract", data), data - found, atol=1e-12)
    # a shell whose neighbours are all at other radii: linear splitting written out for one bin
    weights = np.maximum(1 - np.abs(radius - 2), 0)
    np.testing.assert_allclose(found[whole], (weights * data).sum() / weights.sum(), atol=1e-12)


def test_the_gaussian_kernel_correction_grows_with_the_squared_relative_radius():
    z, y, x = np.mgrid[:7, :8, :9]
    factor = np.exp(4.0 * (((z - 3) / 7) ** 2 + ((y - 4) / 8) ** 2 + ((x - 4) / 9) ** 2))
    np.testing.assert_allclose(apply("math.gausskernelfix:gauss_width=4", MAP), MAP * factor, rtol=1e-12)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("mode", ["gridding_5", "gridding_7"])
def test_the_gridding_correction_divides_by_the_transform_of_the_kernel(mode, size):
    kernel = gridding_kernel(mode)
    np.testing.assert_allclose(kernel, kernel.transpose(2, 0, 1), atol=1e-12)
    reach = kernel.shape[0] // 2
    grid = np.zeros((size,) * 3)
    for index in np.ndindex(kernel.shape):
        grid[tuple((i - reach) % size for i in index)] = kernel[index]
    envelope = np.fft.fftshift(np.fft.fftn(grid).real)
    envelope /= envelope[(size // 2,) * 3]
    data = RANDOM.normal(size=grid.shape)
    found = apply(f"math.gridkernelfix:functor={mode}", data)
    safe = envelope > 0.13
    np.testing.assert_allclose((found * envelope)[safe], data[safe], rtol=1e-6)
    assert (found / data).max() <= 8 + 1e-9
    assert found[(size // 2,) * 3] == pytest.approx(data[(size // 2,) * 3])


def test_the_regenerated_gridding_kernels_are_the_described_ones():
    """Axis profiles as measured on the peer, rounded: centre 1, one voxel and two voxels away."""
    five, seven = gridding_kernel("gridding_5"), gridding_kernel("gridding_7")
    np.testing.assert_allclose(five[2, 2, 2:], [1, 0.384, -0.087], atol=0.003)
    np.testing.assert_allclose(seven[3, 3, 3:], [1, 0.345, -0.168, -0.015], atol=0.003)
