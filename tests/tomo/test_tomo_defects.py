"""Every defect of the peer that the specification lists has a test that shows we are right.

``TESTS`` maps the defect's number to the tests, by module and name; the tests below are those that no other
module has. Number 21 is about another program of the peer.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice.cli import parser_for
from centralslice.cli.tomo import settings_from
from centralslice.jobs.run_tools import Launch
from centralslice.jobs.tomo.job import run_tomo
from centralslice.jobs.tomo.plan import plan_tomo, read_tilt_particles
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.communicator import run_in_process

REFERENCE, ACCURACY, OPTIONS = "tomo/test_tomo_reference", "tomo/test_tomo_accuracy", "tomo/test_tomo_options"
HERE, RUNS, BAD = "tomo/test_tomo_defects", "tomo/test_tomo_runs", "relion_tomo/test_relion_tomo_bad_input"

TESTS: dict[int, tuple[tuple[str, str], ...]] = {
    # merged weights are those of half 1
    1: (
        (REFERENCE, "test_merged_weights_and_numerators_are_those_of_both_halves"),
        (
            REFERENCE,
            "test_merged_weights_of_the_default_method_are_those_of_both_halves_and_divide_the_numerator",
        ),
    ),
    # MPI ignores --no_ctf
    2: ((HERE, "test_no_ctf_counts_on_any_number_of_ranks"),),
    # --mem too small: no threads, segmentation fault
    3: ((HERE, "test_too_little_memory_is_said_in_one_line_with_what_is_needed"),),
    # no HOME; --theme writes there
    4: (
        (HERE, "test_a_home_folder_is_not_needed"),
        (OPTIONS, "test_a_theme_is_accepted_and_changes_no_file"),
    ),
    # odd boxes are garbage
    5: ((ACCURACY, "test_boxes_and_crops_of_any_size_are_equally_right"),),
    # bin · b not an even integer is garbage
    6: (
        (ACCURACY, "test_binned_maps_are_the_object_on_coarser_voxels"),
        (HERE, "test_with_compat_sizes_that_the_peer_makes_garbage_of_are_refused"),
    ),
    # a tilt table without a column of its geometry
    7: (
        (BAD, "test_a_tilt_table_without_one_of_its_geometry_columns_is_named_with_it"),
        (HERE, "test_a_tilt_table_without_geometry_is_refused_by_the_command"),
    ),
    # a missing tomogram size shifts everything by half a voxel
    8: ((HERE, "test_without_a_tomogram_size_the_map_is_the_same"),),
    # half sets other than 1 and 2
    9: (
        (BAD, "test_a_half_set_other_than_1_and_2_is_named_with_its_row_in_the_file"),
        (HERE, "test_a_half_set_3_is_refused_by_the_command"),
    ),
    # one tilt
    10: ((HERE, "test_series_of_one_tilt_make_a_map"),),
    # threads: --j_in slower, each of --j_out its own volume
    11: ((HERE, "test_more_threads_need_no_other_volume"),),
    # whitening
    12: (
        (HERE, "test_whitening_with_binning_makes_no_map_worse"),
        (HERE, "test_whitening_without_ctf_does_not_depend_on_order_or_threads"),
        ("test_tilt_slices", "test_whitening_multiplies_value_and_weight_once_at_the_right_frequency"),
    ),
    # --no_circle_crop keeps the mean
    13: ((HERE, "test_without_the_circle_the_background_is_taken_off_still"),),
    # resuming
    14: (
        (HERE, "test_an_interrupted_run_without_half_sets_goes_on"),
        (RUNS, "test_a_checkpoint_of_other_options_or_particles_is_refused"),
        (RUNS, "test_a_killed_run_goes_on_from_its_last_checkpoint"),
    ),
    # point group and helix are added, not multiplied
    15: ((HERE, "test_point_group_and_helix_are_multiplied_out"),),
    # unknown symmetry found at the end
    16: ((HERE, "test_an_unknown_symmetry_is_refused_before_any_work"),),
    # odd differences of box and crop
    17: (
        (ACCURACY, "test_boxes_and_crops_of_any_size_are_equally_right"),
        (HERE, "test_a_crop_by_an_odd_number_gives_exactly_the_size"),
    ),
    # misspelt options
    18: ((HERE, "test_a_misspelt_option_is_refused"),),
    # optics groups by row
    19: ((HERE, "test_optics_groups_go_by_their_number"),),
    # space group 0
    20: ((HERE, "test_maps_say_that_they_are_volumes"),),
    # no padding, radial correction
    22: (
        (ACCURACY, "test_full_coverage_without_noise_is_right_to_one_percent_and_at_scale"),
        (ACCURACY, "test_the_peers_scheme_loses_three_times_as_much_at_least"),
    ),
    # visibility in binned pixels
    23: ((HERE, "test_windows_that_hang_over_the_border_are_not_used_when_binning"),),
    # tables and amplitudes by the first tomogram
    24: (
        (ACCURACY, "test_groups_of_other_pixel_size_and_voltage_give_one_map"),
        (ACCURACY, "test_every_pixel_size_has_the_same_amplitude_in_the_map"),
        (HERE, "test_aberrations_are_those_of_each_pixel_size"),
        (HERE, "test_a_tomogram_without_particles_decides_nothing"),
    ),
    # whole series in double precision
    25: ((HERE, "test_tilt_images_are_mapped_not_loaded_and_memory_stays_below_the_plan"),),
    # deformation declared but missing; Fourier deformation out of bounds
    26: (
        (BAD, "test_a_deformation_that_lacks_something_is_refused"),
        (HERE, "test_a_deformation_without_coefficients_is_refused_by_the_command"),
        ("test_tilt_geometry", "test_fourier_deformation_is_a_sum_of_waves"),
        ("test_tilt_geometry", "test_wrong_numbers_of_coefficients_are_refused"),
    ),
    # dose limit by the row y = 0
    27: (("test_tilt_slices", "test_each_tilt_ends_where_its_dose_has_left_too_little_signal"),),
    # memory above what is printed
    28: ((HERE, "test_tilt_images_are_mapped_not_loaded_and_memory_stays_below_the_plan"),),
}

B = ("--b", "32")
PARTICLES, TOMOGRAMS = "particles.star", "tomograms.star"


def test_every_defect_has_tests_that_exist():
    root = Path(__file__).resolve().parents[1]
    assert sorted(TESTS) == [*range(1, 21), *range(22, 29)]
    for number, tests in TESTS.items():
        for module, name in tests:
            tree = ast.parse((root / f"{module}.py").read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names, (number, module, name)


def plan_of(project, folder, *options):
    words = ["tomo", "--i", str(project.set), "--o", str(folder), *map(str, options)]
    settings = settings_from(parser_for(("tomo",)).parse_args(words))
    registry = shared_registry()
    return plan_tomo(settings, registry, read_tilt_particles(settings, registry))


def tilt_tables(tables):
    """Rows of every tilt series."""
    return [
        rows for path, blocks in tables.items() if path.startswith("tilt_series") for rows in blocks.values()
    ]


@pytest.mark.parametrize("compat", [(), ("--compat", "relion")])
def test_no_ctf_counts_on_any_number_of_ranks(noisy, tomo, tmp_path, compat, read):
    with_ctf = tomo(noisy, *B, *compat).map("weight_merged")
    alone = tomo(noisy, *B, "--no_ctf", *compat)
    plan = plan_of(noisy, tmp_path / "ranks", *B, "--no-ctf", "--threads", 1, *compat, "-v", 0)
    results = run_in_process(3, lambda world: run_tomo(plan, shared_registry(), Launch("test", world)))
    assert results[0].ranks == 3
    for name in ("merged", "weight_merged", "half2"):
        np.testing.assert_array_equal(read(tmp_path / f"ranks/{name}.mrc"), alone.map(name))
    difference = np.linalg.norm(alone.map("weight_merged") - with_ctf)
    assert difference > 0.3 * np.linalg.norm(with_ctf)


@pytest.mark.parametrize("memory", ["0.001", "0.1"])
def test_too_little_memory_is_said_in_one_line_with_what_is_needed(noisy, refused, memory):
    message = refused(noisy, *B, "--mem", memory)
    assert f"--mem {memory}" in message
    assert "GB at least" in message


def test_a_home_folder_is_not_needed(noisy, tomo, tmp_path, read):
    expected = tomo(noisy, *B).map()
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [sys.executable, "-m", "centralslice.cli", "tomo", "--i", str(noisy.set), *B]
    done = subprocess.run(
        [*command, "--o", str(tmp_path / "map")], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read(tmp_path / "map/merged.mrc"), expected)


@pytest.mark.parametrize("options", [("--b", 31), ("--b", 32, "--bin", 1.33), ("--b", 31, "--bin", 1.5)])
def test_with_compat_sizes_that_the_peer_makes_garbage_of_are_refused(noisy, refused, options):
    assert "even whole number" in refused(noisy, *options, "--compat", "relion")


@pytest.mark.parametrize("label", ["rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst"])
def test_a_tilt_table_without_geometry_is_refused_by_the_command(noisy, altered, refused, label):
    def remove(tables):
        for rows in tilt_tables(tables):
            del rows[label]

    assert label in refused(altered(noisy, remove), *B)


def test_without_a_tomogram_size_the_map_is_the_same(noisy, altered, tomo):
    def remove(tables):
        for axis in "XYZ":
            del tables[TOMOGRAMS]["global"][f"rlnTomoSize{axis}"]

    expected, found = tomo(noisy, *B).map(), tomo(altered(noisy, remove), *B).map()
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("value", ["3", "0", "-1"])
def test_a_half_set_3_is_refused_by_the_command(noisy, altered, refused, value):
    def change(tables):
        tables[PARTICLES]["particles"]["rlnRandomSubset"][5] = value

    message = refused(altered(noisy, change), *B)
    assert "rlnRandomSubset" in message
    assert value in message


def test_series_of_one_tilt_make_a_map(simulate, tomo, likeness):
    project = simulate(tomograms=200, random_directions=1, image_size=(80, 80), seed=5)
    assert likeness(tomo(project, "--b", 48, "--taper", 0).map(), project.truth) > 0.85
    assert tomo(project, "--b", 48, "--compat", "relion").map().any()


def test_more_threads_need_no_other_volume(noisy, tmp_path):
    plans = [
        plan_of(noisy, tmp_path / "map", "--b", 160, *words)
        for words in (("--j", 1), ("--j", 8), ("--j-out", 4, "--j-in", 2), ("--j-out", 1, "--j-in", 2))
    ]
    assert [plan.settings.threads for plan in plans] == [1, 8, 8, 2]
    assert len({plan.sums_bytes for plan in plans}) == 1
    # a thread has windows in work, but no sums of its own
    needed = [plan.memory_bytes for plan in plans]
    assert max(needed) - min(needed) < 0.1 * plans[0].sums_bytes


def coloured(stack):
    """Noise that is the stronger the coarser it is, instead of white noise, on top of images."""
    random = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(stack.shape[1])[:, None], np.fft.rfftfreq(stack.shape[2]))
    spectrum = np.fft.rfft2(random.standard_normal(stack.shape)) / (0.03 + frequency)
    noise = np.fft.irfft2(spectrum, s=stack.shape[1:])
    return stack + 2.0 * stack.std() * noise / noise.std()


def test_whitening_with_binning_makes_no_map_worse(simulate, altered, tomo, likeness):
    project = altered(simulate(), None, lambda name, stack: coloured(stack))
    truth = project.phantom.volume(28, 8.0)
    size = ("--b", 28, "--bin", 2, "--taper", 0)
    white, plain = (likeness(tomo(project, *size, *more).map(), truth) for more in (("--whiten",), ()))
    assert white > plain - 0.01
    # and the weights are those of the unbinned noise at the same frequencies
    weights = tomo(project, *size, "--whiten", "--no-ctf", "--compat", "relion").map("weight_merged")
    unbinned = tomo(project, "--b", 56, "--whiten", "--no-ctf").map("weight_merged")
    assert np.all(weights[14, 14, 16:22] > 0)
    assert np.corrcoef(tomo(project, *size, "--whiten", "--no-ctf").map("weight_merged")[14, 14, 15:24],
                       unbinned[28, 28, 29:38])[0, 1] > 0.9  # fmt: skip


def test_whitening_without_ctf_does_not_depend_on_order_or_threads(noisy, altered, tomo):
    def turned(tables):
        rows = tables[PARTICLES]["particles"]
        for label, values in rows.items():
            rows[label] = values[::-1]

    words = (*B, "--whiten", "--no-ctf")
    forward, backward = tomo(noisy, *words), tomo(altered(noisy, turned), *words, "--threads", "1")
    for name in ("merged", "weight_merged"):
        difference = np.linalg.norm(forward.map(name) - backward.map(name))
        assert difference < 1e-4 * np.linalg.norm(forward.map(name))
    one = tomo(noisy, *words, "--threads", 1)
    np.testing.assert_array_equal(one.map(), forward.map())


def test_without_the_circle_the_background_is_taken_off_still(noisy, altered, tomo, likeness):
    high = altered(noisy, None, lambda name, stack: stack + 1000.0)
    words = (*B, "--no-circle-crop")
    expected, found = tomo(noisy, *words).map(), tomo(high, *words).map()
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    # as the peer does: a huge low frequency
    peers = tomo(high, *words, "--compat", "relion", "--taper", 0).map()
    assert np.linalg.norm(peers) > 10 * np.linalg.norm(
        tomo(noisy, *words, "--compat", "relion", "--taper", 0).map()
    )


def without_halves(tables):
    del tables[PARTICLES]["particles"]["rlnRandomSubset"]


def test_an_interrupted_run_without_half_sets_goes_on(noisy, altered, attempt, tomo, monkeypatch):
    import signal

    from centralslice.jobs.tomo import slices as tomo_slices

    project = altered(noisy, without_halves)
    expected = tomo(project, *B).map()
    original, calls = tomo_slices.WindowReader.read, []

    def stopping(self, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, rows)

    monkeypatch.setattr(tomo_slices.WindowReader, "read", stopping)
    stopped = attempt(project, *B)
    monkeypatch.undo()
    assert stopped.code == 75, stopped.err
    assert "--resume" in stopped.err
    other = attempt(project, *B, "--no-ctf", "--resume", output=stopped.folder)
    assert other.code != 0
    assert len(other.err.splitlines()) == 1
    done = tomo(project, *B, "--only-do-unfinished", output=stopped.folder)
    assert done.manifest["resumed_particles"] > 0
    np.testing.assert_array_equal(done.map(), expected)
    # what is finished is not made again unasked
    again = attempt(project, *B, "--only-do-unfinished", output=stopped.folder)
    assert again.code == 2
    assert "exists already" in again.err


def test_point_group_and_helix_are_multiplied_out(simulate, tomo, likeness):
    project = simulate()
    size = ("--b", 48, "--taper", 0)
    helix = ("--nr-helical-asu", 3, "--helical-rise", 10, "--helical-twist", 25)
    both = tomo(project, *size, "--sym", "C2", *helix).map()
    # six copies of the true map: turned by a half, and by the steps of the helix
    total = np.zeros_like(both)
    for step in (-1, 0, 1):
        for turn in (0.0, 180.0):
            angle = np.deg2rad(25.0 * step + turn)
            matrix = np.array(
                [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
            )
            centres = project.phantom.centres_angst @ matrix.T + [0, 0, 10.0 * step]
            total += replace(project.phantom, centres_angst=centres).volume(48, 4.0)
    assert likeness(both, total) > 0.98
    alone = tomo(project, *size, *helix).map()
    assert likeness(alone, total) < 0.9


def test_an_unknown_symmetry_is_refused_before_any_work(noisy, refused, monkeypatch):
    from centralslice.jobs.tomo import slices as tomo_slices

    def never(self, rows):
        raise AssertionError("a window was read")

    monkeypatch.setattr(tomo_slices.WindowReader, "read", never)
    assert "Q7" in refused(noisy, *B, "--sym", "Q7")


@pytest.mark.parametrize(("box", "crop"), [(32, 25), (33, 24), (33, 33), (32, 31)])
def test_a_crop_by_an_odd_number_gives_exactly_the_size(noisy, tomo, box, crop):
    made = tomo(noisy, "--b", box, "--crop", crop)
    assert made.map().shape == (crop,) * 3


@pytest.mark.parametrize("word", ["--crp", "--cro", "--sn", "--no-ctff", "--symm"])
def test_a_misspelt_option_is_refused(noisy, tmp_path, word, capsys):
    from centralslice.cli import main

    words = ["tomo", "--i", str(noisy.set), *B, "--o", str(tmp_path / "map"), word, "24"]
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "map").exists()


def test_optics_groups_go_by_their_number(simulate, altered, tomo):
    project = simulate(groups=2, voltages_kv=(300.0, 120.0))

    def renumber(tables):
        new = {"1": "7", "2": "3"}
        optics, particles = tables[PARTICLES]["optics"], tables[PARTICLES]["particles"]
        for table in (optics, particles):
            table["rlnOpticsGroup"] = [new[value] for value in table["rlnOpticsGroup"]]

    expected, found = tomo(project, "--b", 48).map(), tomo(altered(project, renumber), "--b", 48).map()
    np.testing.assert_array_equal(found, expected)


def test_maps_say_that_they_are_volumes(noisy, tomo):
    made = tomo(noisy, "--b", 40, "--crop", 32)
    for path in sorted(made.folder.glob("*.mrc")):
        with mrcfile.open(path) as file:
            assert file.header.ispg == 1, path
            assert file.is_volume(), path
            assert float(file.voxel_size.x) == pytest.approx(4.0)
        assert mrcfile.validate(str(path)), path


def test_windows_that_hang_over_the_border_are_not_used_when_binning(simulate, tomo):
    # windows of 48 pixels, images of 60: a particle may be 6 pixels from the middle, by the peer's rule 18
    project = simulate(
        tomograms=8, particles=1, image_size=(60, 60), tomogram_size=(90, 90, 30), random_directions=None,
        step_deg=12.0, box_size=48,
    )  # fmt: skip
    ours, peers = (tomo(project, "--b", 24, "--bin", 2, *more).manifest["windows"]["used"]
                   for more in ((), ("--compat", "relion")))  # fmt: skip
    assert 0 < ours < peers
    # and so do unbinned windows of the same size
    assert ours == tomo(project, "--b", 48, "--compat", "relion").manifest["windows"]["used"]


def test_aberrations_are_those_of_each_pixel_size(simulate, tomo, misfit):
    project = simulate(
        groups=2, pixel_ratio=1.3, even_zernike=(0.0,) * 4 + (16000.0, 0.0, 0.0, 0.0, -16000.0),
        odd_zernike=(0.0, 0.0, 2000.0, 0.0, 0.0, -1500.0),
    )  # fmt: skip
    assert misfit(tomo(project, "--b", 48, "--taper", 0).map(), project.truth) < 0.1


def test_a_tomogram_without_particles_decides_nothing(noisy, altered, tomo):
    def add(tables):
        rows = tables[TOMOGRAMS]["global"]
        for label, values in rows.items():
            values.insert(0, "empty" if label == "rlnTomoName" else values[0])
        rows["rlnTomoTiltSeriesPixelSize"][0] = "2.5"
        rows["rlnTomoTiltSeriesStarFile"][0] = "nowhere.star"

    expected, found = tomo(noisy, *B), tomo(altered(noisy, add), *B)
    np.testing.assert_array_equal(found.map(), expected.map())
    with mrcfile.open(found.folder / "merged.mrc") as file:
        assert float(file.voxel_size.x) == pytest.approx(4.0)


def test_tilt_images_are_mapped_not_loaded_and_memory_stays_below_the_plan(simulate, tmp_path):
    # 133 MB of tilt images; the peer holds them threefold
    project = simulate(tomograms=1, particles=4, image_size=(900, 900), random_directions=41, seed=4)
    command = [sys.executable, "-m", "centralslice.cli", "tomo", "--i", str(project.set), "--b", "96"]
    command += ["--threads", "2", "--force", "--o", str(tmp_path / "map")]
    for _ in range(2):  # kernels may have to be compiled first, which takes memory of its own
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "map/manifest.json").read_text())
    assert facts["peak_memory_bytes"] <= facts["planned_memory_bytes"]


def test_a_deformation_without_coefficients_is_refused_by_the_command(noisy, altered, refused):
    def declare(tables):
        rows = tables[TOMOGRAMS]["global"]
        rows["rlnTomoDeformationType"] = ["spline"] * 2
        rows["rlnTomoDeformationGridSizeX"] = rows["rlnTomoDeformationGridSizeY"] = ["3"] * 2

    assert "rlnTomoDeformationCoefficients" in refused(altered(noisy, declare), *B)
