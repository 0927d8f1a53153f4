"""Filters with curves from the data: structure factor, matching, B-factor, optimal subtraction."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from centralslice.errors import FileMissingError, FormatError, InputError
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.processors.shells import Shells, half_radius, lookup_radius, sample_weights

VOXEL = 1.5
RANDOM = np.random.default_rng(8)


def apply(text, data):
    return shared_registry().create("processor", text).apply(data, VOXEL)


def map_file(path, data):
    with mrcfile.new(path, data=np.ascontiguousarray(data, np.float32)) as out:
        out.voxel_size = VOXEL
    return f'"{path}"'


def full_radius(shape):
    axes = [np.fft.fftfreq(n) for n in shape]
    return np.sqrt(sum(axis**2 for axis in np.ix_(*axes))) * shape[-2]


def shell_means(values, shape):
    """Means over the full transform, each sample split linearly between two shells, one by one."""
    radius = full_radius(shape).ravel()
    sums, total = np.zeros(int(radius.max()) + 2), np.zeros(int(radius.max()) + 2)
    for r, v in zip(radius, values.ravel(), strict=True):
        low = int(r)
        for shell, part in ((low, 1 - (r - low)), (low + 1, r - low)):
            sums[shell] += part * v
            total[shell] += part
    return sums / np.where(total > 0, total, 1)


def filtered(data, gains):
    radius = full_radius(data.shape)
    transfer = np.interp(radius, np.arange(len(gains)), gains)
    return np.fft.ifftn(np.fft.fftn(data) * transfer).real


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (8, 8, 8), (5, 6, 7)])
def test_shell_means_of_the_half_transform_are_those_of_the_full_one(shape):
    data = RANDOM.normal(size=shape)
    wanted = shell_means(np.abs(np.fft.fftn(data)) ** 2, shape)
    np.testing.assert_allclose(Shells(shape).power(np.fft.rfftn(data)), wanted, rtol=1e-10)


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (5, 6, 7)])
def test_weights_count_every_sample_of_the_full_transform_once(shape):
    assert sample_weights(shape, "none").sum() == np.prod(shape)


def test_radii_are_the_peers_only_if_asked_for():
    np.testing.assert_allclose(lookup_radius((6, 6, 8), "none"), half_radius((6, 6, 8)))
    assert lookup_radius((8, 8, 8), "eman2")[0, 0, 4] == pytest.approx(4 * 8 / 10)
    assert lookup_radius((8, 8, 8), "eman2")[0, 4, 0] == pytest.approx(4)


@pytest.mark.parametrize("size", [12, 13])
def test_the_structure_factor_is_set_shell_by_shell(tmp_path, size):
    data = RANDOM.normal(size=(size,) * 3)
    curve = tmp_path / "sf.txt"
    curve.write_text("# s SF\n0 10\n0.1, 4\n0.2 1\n")
    means = shell_means(np.abs(np.fft.fftn(data)) ** 2, data.shape)
    s = np.arange(len(means)) / (VOXEL * size)
    gains = np.sqrt(size**3 * 2.5 * np.interp(s, [0, 0.1, 0.2], [10, 4, 1]) / means)
    gains[0] = 1
    gains[s > 0.2] = gains[np.flatnonzero(s <= 0.2)[-1]]
    found = apply(f'filter.setstrucfac:filename="{curve}":scale=2.5', data)
    np.testing.assert_allclose(found, filtered(data, gains), atol=1e-10)
    nearest = apply(f'filter.setstrucfac:strucfac="{curve}":scale=2.5:interpolate=0', data)
    radius = full_radius(data.shape)
    wanted = np.fft.ifftn(np.fft.fftn(data) * gains[np.rint(radius).astype(int)]).real
    np.testing.assert_allclose(nearest, wanted, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 2 3", "two rows"), ("0 1\n0.1 x", "numbers"), ("0 1\n0 2", "ascending"), ("0 1\n1 nan", "finite"),
     ("0 1\n1 -5", ">= 0"), ("", "two rows"), ("0\n1", "two rows")],
)  # fmt: skip
def test_a_bad_structure_factor_file_is_refused(tmp_path, text, words):
    curve = tmp_path / "sf.txt"
    curve.write_text(text)
    with pytest.raises(InputError, match=words):
        apply(f'filter.setstrucfac:strucfac="{curve}"', np.ones((4, 4)))


def test_a_missing_file_is_named(tmp_path):
    for text in ("filter.setstrucfac:strucfac", "filter.matchto:to", "mask.fromfile:filename"):
        with pytest.raises(FileMissingError, match=r"absent\.mrc"):
            apply(f'{text}="{tmp_path / "absent.mrc"}"', np.ones((4, 4)))


def test_a_file_of_another_size_is_refused_with_both_sizes(tmp_path):
    path = map_file(tmp_path / "a.mrc", np.ones((4, 5, 6)))
    for text in (
        "filter.matchto:to",
        "mask.fromfile:filename",
        "normalize.toimage:to",
        "math.sub.optimal:ref",
    ):
        with pytest.raises(FormatError, match="expected the size of the data 4 × 4 × 4, got 6 × 5 × 4"):
            apply(f"{text}={path}", np.ones((4, 4, 4)))


def test_a_file_that_was_changed_is_read_again(tmp_path):
    path = tmp_path / "mask.mrc"
    name = map_file(path, np.ones((4, 4)))
    np.testing.assert_array_equal(apply(f"mask.fromfile:filename={name}", np.ones((4, 4))), 1.0)
    path.unlink()
    map_file(path, np.zeros((1, 4, 4)))
    np.testing.assert_array_equal(apply(f"mask.fromfile:filename={name}", np.ones((4, 4))), 0.0)


@pytest.mark.parametrize("shape", [(12, 12), (11, 11, 11)])
def test_matching_applies_the_root_of_the_ratio_of_the_spectra(tmp_path, shape):
    data, target = RANDOM.normal(size=shape), RANDOM.normal(size=shape).astype(np.float32)
    name = map_file(tmp_path / "to.mrc", target)
    power = [shell_means(np.abs(np.fft.fftn(a)) ** 2, shape) for a in (target.astype(float), data)]
    gains = np.sqrt(power[0] / np.where(power[1] > 0, power[1], 1))
    np.testing.assert_allclose(apply(f"filter.matchto:to={name}", data), filtered(data, gains), atol=1e-7)
    kept = np.maximum(gains, 0.01 * gains.mean())
    np.testing.assert_allclose(
        apply(f"filter.matchto:to={name}:keephires=1", data), filtered(data, kept), atol=1e-7
    )


def test_matching_to_a_scaled_copy_scales(tmp_path):
    data = RANDOM.normal(size=(9, 9)).astype(np.float32)
    name = map_file(tmp_path / "to.mrc", 3 * data)
    np.testing.assert_allclose(apply(f"filter.matchto:to={name}", data), 3 * data, atol=1e-4)
    np.testing.assert_allclose(apply(f"filter.matchto:to={name}:bydot=1", data), data / 3, atol=1e-5)
    opposite = map_file(tmp_path / "minus.mrc", -data)
    np.testing.assert_allclose(apply(f"filter.matchto:to={opposite}:bydot=1", data), 0.0, atol=1e-6)


def gaussian_spectrum(size, bfactor):
    """A point blurred by exp(−B s²/4): its power spectrum is exactly exp(−B s²/2)."""
    s = full_radius((size,) * 3) / (size * VOXEL)
    return np.fft.ifftn(np.exp(-bfactor * s**2 / 4)).real


def test_autob_undoes_a_bfactor_up_to_the_noise_cutoff():
    size, bfactor = 48, 120.0
    data = gaussian_spectrum(size, bfactor)
    found = np.fft.fftn(apply("filter.lowpass.autob:noisecutoff=0.3", data)).real
    s = full_radius(data.shape) / (size * VOXEL)
    # shells are not infinitely thin, so the fitted B is right to some percent
    inside = (s < 0.29) & (s > 0.02)
    assert np.abs(np.log(found[inside])).max() < 0.05 * bfactor * 0.3**2 / 4
    np.testing.assert_allclose(found[0, 0, 0], np.fft.fftn(data).real[0, 0, 0])


def test_autob_leaves_the_falloff_of_the_cutoff_and_goes_on_with_it():
    data = gaussian_spectrum(32, 80.0)
    flat = np.fft.fftn(apply("filter.lowpass.autob:noisecutoff=0.25", data)).real
    s = full_radius(data.shape) / (32 * VOXEL)
    cut = np.fft.fftn(apply("filter.lowpass.autob:noisecutoff=0.25:cutoff_freq=0.1", data)).real
    np.testing.assert_allclose(cut, flat * np.exp(-100.0 * s**2 / 4), atol=1e-9)
    given = np.fft.fftn(apply("filter.lowpass.autob:noisecutoff=0.25:bfactor=100", data)).real
    np.testing.assert_allclose(given, cut, atol=1e-9)


def test_autob_without_enough_shells_is_refused():
    with pytest.raises(InputError, match="needs 3"):
        apply("filter.lowpass.autob", np.ones((6, 6)))


def test_optimal_subtraction_removes_a_filtered_copy_of_the_reference(tmp_path):
    reference = RANDOM.normal(size=(16, 16, 16)).astype(np.float32)
    name = map_file(tmp_path / "ref.mrc", reference)
    np.testing.assert_allclose(
        apply(f"math.sub.optimal:ref={name}", 2.5 * reference.astype(float)), 0.0, atol=1e-10
    )
    subtracted = apply(f"math.sub.optimal:ref={name}:return_subim=1", 2.5 * reference.astype(float))
    np.testing.assert_allclose(subtracted, 2.5 * reference, atol=1e-6)


def test_optimal_subtraction_leaves_frequencies_outside_its_band(tmp_path):
    reference = RANDOM.normal(size=(16, 16)).astype(np.float32)
    data = 2.0 * reference.astype(float)
    name = map_file(tmp_path / "ref.mrc", reference)
    band = "low_cutoff_frequency=0.1:high_cutoff_frequency=0.3"
    left = np.fft.fftn(apply(f"math.sub.optimal:ref={name}:{band}", data))
    f = full_radius(data.shape) / 16
    inside = (f >= 0.1) & (f <= 0.3)
    np.testing.assert_allclose(left[inside], 0.0, atol=1e-9)
    np.testing.assert_allclose(left[~inside], np.fft.fftn(data)[~inside], atol=1e-9)


def test_optimal_subtraction_can_subtract_another_map_with_the_gains_of_the_reference(tmp_path):
    reference, actual = RANDOM.normal(size=(2, 16, 16)).astype(np.float32)
    names = [map_file(tmp_path / f"{n}.mrc", a) for n, a in (("ref", reference), ("actual", actual))]
    found = apply(f"math.sub.optimal:ref={names[0]}:actual={names[1]}", 2.0 * reference.astype(float))
    np.testing.assert_allclose(found, 2.0 * reference - 2.0 * actual, atol=1e-5)
