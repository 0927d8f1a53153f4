"""Every defect of the peer that the specification lists has a test that shows we are right.

``TESTS`` maps the defect's number to the tests, by module and name; the tests below are those that no other
module has.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from centralslice.abc.reconstructor import MapGeometry, PassContext
from centralslice.cli import main
from centralslice.data.slices import SliceBatch, Sums, Views
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.reconstructors.eman2_spread import _fill_gaussian
from centralslice_plugins.reconstructors.kaiser_bessel import KaiserBessel

SHIFTS, SIZES, OUTPUTS = "make3d/test_make3d_shifts", "make3d/test_make3d_sizes", "make3d/test_make3d_outputs"
OPTIONS, SEED, BAD = "make3d/test_make3d_options", "make3d/test_make3d_seed", "make3d/test_make3d_bad_input"
SYMMETRY, THREADS = "make3d/test_make3d_symmetry", "make3d/test_make3d_threads"
HERE, REFERENCE = "make3d/test_make3d_defects", "test_eman2_modes_reference"

TESTS: dict[int, tuple[tuple[str, str], ...]] = {
    # shift sign by file suffix
    1: (
        (SHIFTS, "test_auto_takes_the_sign_that_agrees_and_says_so"),
        (SHIFTS, "test_the_two_signs_of_the_same_images_give_one_map"),
        (SHIFTS, "test_a_list_is_always_in_projection_convention"),
    ),
    # bilinear shifts
    2: ((SHIFTS, "test_shifts_of_a_fraction_of_a_pixel_are_exact"),),
    # a default that blurs with frequency and radius
    3: (
        (HERE, "test_the_default_mode_keeps_amplitudes_at_every_radius_and_frequency"),
        (REFERENCE, "test_without_compat_every_mode_is_nearer_to_the_truth"),
    ),
    # amplitude high by the padded row length
    4: ((OPTIONS, "test_every_mode_gives_the_true_map_at_the_true_scale"),),
    # exponential by table
    5: ((HERE, "test_gaussians_are_exact_without_compat"),),
    # racy sums
    6: ((THREADS, "test_maps_are_identical_bit_for_bit_for_one_two_and_three_threads"),),
    # tails divided to full strength
    7: (
        (HERE, "test_gaps_between_views_are_not_filled_with_noise"),
        ("test_iterative", "test_a_missing_wedge_stays_near_zero_instead_of_growing"),
    ),
    # the ky axis of a slice counted twice
    8: (("test_prepare", "test_each_measured_frequency_counts_once"),),
    # --fillangle drops phi
    9: ((OPTIONS, "test_fillangle_keeps_the_in_plane_angle"),),
    # --seedweightmap cannot work
    10: (
        (SEED, "test_a_seed_counts_as_so_many_measurements"),
        (SEED, "test_a_weight_map_of_the_wrong_shape_is_refused"),
    ),
    # zero frequency of the seed doubled; weight times the number of tasks
    11: (
        (SEED, "test_a_heavy_seed_is_what_comes_back"),
        (THREADS, "test_maps_are_identical_bit_for_bit_for_one_two_and_three_threads"),
    ),
    # --useseedasref filters
    12: ((SEED, "test_the_seed_as_reference_spares_the_map_images_that_disagree_with_it"),),
    # --iterative with --savenorm or --parallel raises; clamponly ignored
    13: (
        (OPTIONS, "test_iterative_works_with_savenorm_seed_and_threads"),
        ("test_processors_values", "test_values_become_what_the_formula_says"),
    ),
    # helical rise ignored
    14: (
        (SYMMETRY, "test_the_rise_of_a_helix_is_honoured"),
        (SYMMETRY, "test_a_helix_shifts_each_copy_by_its_rise"),
    ),
    # sym=c gives a zero map, i is rejected
    15: (
        (SYMMETRY, "test_a_symmetry_that_does_not_exist_is_refused"),
        (SYMMETRY, "test_few_views_of_a_symmetric_object_give_its_map"),
        (BAD, "test_images_of_zero_variance_are_left_out_counted_and_listed"),
    ),
    # --pad=0
    16: ((SIZES, "test_zero_means_that_an_option_was_not_given"),),
    # --altedgemask writes a file in the working folder
    17: ((OPTIONS, "test_edges_that_a_tilt_brings_in_are_masked"),),
    # exceptions of threads swallowed
    18: (
        (BAD, "test_pixels_that_are_not_numbers"),
        (BAD, "test_a_processor_that_fails_on_an_image_ends_the_run"),
    ),
    # MRC loses the density scale, HDF clips
    19: (
        (SIZES, "test_mrc_is_float_at_the_true_scale_or_refused_before_any_work"),
        (SIZES, "test_bits_of_an_hdf_map"),
    ),
    # long particle lists lost
    20: (("test_eman2_hdf_maps", "test_long_lists_of_particles_are_kept"),),
    # bare excepts
    21: (
        ("test_eman2_hdf_particles", "test_images_without_orientation_are_counted_and_named"),
        (SIZES, "test_sizes_that_cannot_be_are_refused"),
        (BAD, "test_missing_angles"),
        (BAD, "test_processors_that_spoil_images_or_maps_are_named"),
    ),
    # a typo where flat images were to be skipped
    22: ((BAD, "test_images_of_zero_variance_are_left_out_counted_and_listed"),),
    # odd boxes
    23: ((OPTIONS, "test_odd_and_even_boxes_are_equally_right"),),
    # talks at verbosity 0
    24: ((OUTPUTS, "test_verbosity"),),
    # wrong processors, unusable modes
    25: (
        ("test_processors_filters", "test_filters_multiply_the_transform_by_their_formula"),
        ("test_processors_values", "test_maxmin_spans_minus_1_to_1"),
        (OPTIONS, "test_every_mode_gives_the_true_map_at_the_true_scale"),
        (HERE, "test_modes_that_cannot_be_used_do_not_exist_and_no_file_is_littered"),
    ),
    # settings of polyhedra
    26: (
        (SYMMETRY, "test_names_for_different_settings_give_different_maps"),
        ("test_symmetries", "test_axes_are_exactly_where_the_programs_have_them"),
    ),
    # .lst: eval, unpickling, rewriting, reopening
    27: (
        ("test_lst_files", "test_hostile_and_broken_attributes_name_the_line_and_run_nothing"),
        ("test_lst_files", "test_the_list_is_never_written_to"),
        ("test_lst_files", "test_every_file_is_opened_once"),
    ),
    # stale names in the help
    28: (
        (OUTPUTS, "test_version_and_help_end_well"),
        (HERE, "test_every_mode_and_symmetry_of_the_help_exists"),
    ),
    # 32-bit voxel counters
    29: ((HERE, "test_voxels_beyond_two_to_the_31_are_reached"),),
    # e2make3d.py
    30: (
        (OUTPUTS, "test_options_that_exclude_each_other_or_do_not_exist_are_refused"),
        (SEED, "test_a_seed_is_padded_or_cut_about_its_centre"),
    ),
}


def test_every_defect_has_tests_that_exist():
    root = Path(__file__).resolve().parents[1]
    assert sorted(TESTS) == list(range(1, 31))
    for number, tests in TESTS.items():
        for module, name in tests:
            tree = ast.parse((root / f"{module}.py").read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, (number, module, name)


def test_the_default_mode_keeps_amplitudes_at_every_radius_and_frequency(simulate, make3d):
    # the peer's default leaves .26 of the amplitude at 3/8 of the box and .42 to .48 cycles a pixel
    size, pixel = 48, 1.0
    distances = np.array([0.0, size / 8, size / 4, 0.31 * size])
    places = np.array([[0, 0, 1], [1, 0, 0], [0, 0.6, -0.8], [-0.6, 0.8, 0]]) * distances[:, None]
    phantom = GaussianPhantom(places, np.full(4, 0.9), np.ones(4))
    data = simulate(phantom=phantom, box_size=size, pixel_size_angst=pixel, count=600)
    run = make3d(data.table)
    assert "KaiserBessel" in run.manifest["reconstructor"]
    grid = np.indices((size,) * 3)[::-1] - size // 2
    for place in places:
        near = np.linalg.norm(grid - place[:, None, None, None], axis=0) < 4.5
        found, exact = np.fft.fftn(np.where(near, run.data, 0)), np.fft.fftn(np.where(near, data.truth, 0))
        axis = np.fft.fftfreq(size)
        frequency = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
        for low, high in ((0.05, 0.15), (0.2, 0.3), (0.3, 0.4)):
            band = (frequency >= low) & (frequency < high)
            transfer = np.sum((found * exact.conj()).real[band]) / np.sum(np.abs(exact[band]) ** 2)
            assert abs(transfer - 1) < 0.03


def test_gaussians_are_exact_without_compat():
    for h in (0.1, 1.7, 6.6):
        for first in (-2.97, -2.5, -2.03):
            values = np.zeros(8)
            _fill_gaussian(values, first, h, 6)
            exact = np.sqrt(h / np.pi) * np.exp(-h * (first + np.arange(6)) ** 2)
            np.testing.assert_allclose(values[:6], exact, rtol=1e-12)


def test_gaps_between_views_are_not_filled_with_noise(simulate, make3d, write_set):
    data = simulate(count=4)
    noise = np.random.default_rng(3).normal(size=data.images.shape)
    table = write_set(noise, data.particles)
    axis = np.fft.fftfreq(32, 1 / 32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    places = np.stack([x, y, z], -1)
    radius = np.linalg.norm(places, axis=-1)
    away = np.min([np.abs(places @ pose[2]) for pose in data.particles.rotations], axis=0)
    measured, gap = (away < 0.5) & (radius < 14), (away > 3) & (radius < 14)
    ratios = {}
    for name, options in (("ours", ()), ("peer", ("--compat", "eman2"))):
        power = np.abs(np.fft.fftn(make3d(table, *options).data)) ** 2
        ratios[name] = power[gap].mean() / power[measured].mean()
    assert ratios["ours"] < 0.04
    assert ratios["peer"] > 5 * ratios["ours"]


@pytest.mark.parametrize("mode", ["experimental", "gauss_4", "gauss_5_slow", "kaiser_bessel_derived"])
def test_modes_that_cannot_be_used_do_not_exist_and_no_file_is_littered(
    mode, simulate, refused, make3d, monkeypatch, tmp_path
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    table = simulate(count=40).table
    assert mode in refused(table, "--mode", mode)
    make3d(table, "--mode", "gauss_var", "--verbose", "3")
    assert list(Path().iterdir()) == []


def test_every_mode_and_symmetry_of_the_help_exists(capsys):
    main(["make3d", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    registry = shared_registry()
    names = text.split("symmetry: ")[1].split(" [c1]")[0]
    for name in names.replace("I1..I4", "I1, I4").split(", "):
        filled = name.replace("cN", "c5").replace("dN", "d5").replace("hN:1:TWIST:RISE", "h4:1:20:3")
        assert registry.symmetry(filled).order > 1
    assert "plugins list reconstructor" in text
    assert main(["plugins", "list", "reconstructor"]) == 0
    assert "kaiser_bessel" in capsys.readouterr().out


def test_voxels_beyond_two_to_the_31_are_reached(tmp_path):
    reconstructor = KaiserBessel(oversampling=2.0)
    geometry = MapGeometry(image_size=740, slice_size=740, voxel_size_angst=1.0)
    plan = reconstructor.plan(geometry)
    ((name, shape),) = plan.shapes.items()
    assert np.prod(shape, dtype=np.int64) > 2**31
    # a sparse file: only what is written takes space
    voxels = np.asarray(np.memmap(tmp_path / "sums", np.float32, "w+", shape=shape))
    sums, context = Sums({name: voxels}), PassContext(geometry, plan)
    samples = np.zeros((1, 740, 371, 4), np.float32)
    samples[0, 0, 360, :3] = 3.0, 4.0, 1.0
    turned = np.array([[[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]])  # kx becomes kz
    views = Views(np.zeros(1, np.int64), turned, np.zeros((1, 2)), np.ones(1))
    reconstructor.insert(
        SliceBatch(samples, 740, 365.0, views), sums, context, (plan.planes - 30, plan.planes)
    )
    near = voxels[-30:].reshape(30, -1, 4)
    assert near[..., 3].max() > 0.1
    assert np.argmax(near[..., 3].max(1)) > 2
