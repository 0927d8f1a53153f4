"""Every defect of the peers that the specification lists has a test that shows we are right.

``TESTS`` maps the defect's number (or the peer's name) to the tests, by module and name; the tests below are those
that no other module has.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from parent_scenes import Scene, words
from subparticle_cases import read_mrc, read_star, write_mrc

from centralslice.cli import main

JOB, OPTIONS = "subparticles_job/test_subparticles_job", "subparticles_job/test_subparticles_options"
ACCURACY, RUNS = "subparticles_job/test_subparticles_accuracy", "subparticles_job/test_subparticles_runs"
DIALECTS, RELION = "subparticles_job/test_subparticles_dialects", "subparticles_job/test_subparticles_relion"
CHOICES, HERE = "subparticles_job/test_subparticles_choices", "subparticles_job/test_subparticles_defects"
R3D, REFINE = "subparticles/test_source_r3d", "subparticles/test_source_refine"
OPTIMISER, SUBTRACT = "subparticles/test_source_relion", "subparticles/test_subtract"
GAIN, INVARIANTS = "subparticles/test_gain", "subparticles/test_invariants"

TESTS: dict[str, tuple[tuple[str, str], ...]] = {
    # r3d_ folders do not run
    "1": (
        (RUNS, "test_an_r3d_folder_gives_the_kept_density_and_its_half_sets"),
        (R3D, "test_poses_and_shifts_are_those_of_the_list"),
    ),
    "1b": ((RUNS, "test_an_r3d_folder_gives_the_kept_density_and_its_half_sets"),),
    "1c": (
        (RUNS, "test_an_r3d_folder_gives_the_kept_density_and_its_half_sets"),
        (SUBTRACT, "test_one_masked_map_does_for_all_copies_of_a_symmetric_map"),
    ),
    # threads crash
    "2": (
        (JOB, "test_any_number_of_threads_makes_the_same_bytes"),
        (SUBTRACT, "test_any_number_of_threads_gives_the_same_bits"),
    ),
    # lines of the transform subtracted twice
    "3": (
        (SUBTRACT, "test_what_is_left_is_the_projection_of_the_kept_density"),
        (HERE, "test_every_frequency_is_subtracted_once"),
    ),
    # no orientation, operator or parent in the list
    "4": (
        (DIALECTS, "test_a_refine_folder_gives_stack_lists_and_invariants"),
        (OPTIONS, "test_eman2_stacks_and_lists_go_back_into_make3d"),
        (JOB, "test_every_parent_is_there_with_all_its_copies_in_order"),
    ),
    # halves lost
    "5": (
        (ACCURACY, "test_noise_correlates_only_if_copies_of_a_parent_are_split"),
        (JOB, "test_noise_without_particles_does_not_correlate_between_the_halves"),
    ),
    # one map for both halves
    "6": (
        (ACCURACY, "test_each_half_sets_sub_particles_know_only_their_own_map"),
        (CHOICES, "test_changing_either_half_map_leaves_all_of_the_other_half_set_as_it_was"),
        (RUNS, "test_one_map_for_all_is_taken_only_if_asked"),
    ),
    # centring follows noise
    "7": (
        (ACCURACY, "test_centres_are_where_the_residual_shifts_say"),
        (HERE, "test_noise_does_not_move_the_centre"),
    ),
    # failures lose images silently
    "8": (
        (OPTIONS, "test_bad_files_end_the_run_with_one_line_and_nothing_written"),
        (REFINE, "test_a_missing_odd_stack_is_named"),
    ),
    # arguments looked at before they are counted
    "9": ((HERE, "test_arguments_are_judged_before_any_file_is_read"),),
    # invariants: the project is not asked, zeros in small boxes
    "10": (
        (DIALECTS, "test_default_names_are_the_peers_and_go_into_sets"),
        (INVARIANTS, "test_boxes_that_are_too_small_are_refused_by_name"),
        (OPTIONS, "test_what_cannot_be_is_refused_before_any_work"),
    ),
    # --debug without --masked
    "11": ((OPTIONS, "test_strips_show_particle_model_subtracted_part_and_rest"),),
    # every class is projected; memory of copies
    "12": ((RUNS, "test_memory_depends_neither_on_parents_nor_on_symmetry"),),
    "13": ((RUNS, "test_memory_depends_neither_on_parents_nor_on_symmetry"),),
    # alignments that are not the refined ones
    "14": (
        (REFINE, "test_refined_alignments_and_their_used_flags_are_preferred"),
        (REFINE, "test_refined_angles_of_class_averages_count_only_after_eulerrefine"),
        (OPTIONS, "test_poses_are_refined_towards_the_truth"),
    ),
    # map and mask of other iterations
    "15": (
        (R3D, "test_an_earlier_iteration_can_be_named"),
        (REFINE, "test_the_latest_complete_iteration_is_taken_unless_one_is_named"),
    ),
    # a ring filter for each image
    "16": (
        (SUBTRACT, "test_a_radial_filter_of_the_map_is_found"),
        (SUBTRACT, "test_nothing_of_the_other_part_is_left_on_average_at_low_snr"),
        (GAIN, "test_nothing_is_subtracted_where_the_map_is_not_in_the_images"),
        (ACCURACY, "test_nothing_of_the_other_part_is_left_at_a_thirtieth_of_the_noise"),
    ),
    # order by chance, outputs replaced, folders spelt otherwise
    "17": (
        (JOB, "test_any_number_of_ranks_makes_the_same_bytes"),
        (OPTIONS, "test_outputs_are_not_replaced_unasked"),
        (REFINE, "test_a_folder_is_found_however_it_is_written"),
    ),
    # symmetry not taken from the refinement, boxes not compared
    "18": (
        (DIALECTS, "test_an_optimiser_says_particles_maps_and_symmetry"),
        (REFINE, "test_particles_of_another_box_are_refused"),
        (REFINE, "test_a_map_or_mask_of_another_box_is_refused"),
    ),
    # stale headers
    "19": ((DIALECTS, "test_a_refine_folder_gives_stack_lists_and_invariants"),),
    # rows that repeat copy 0
    "20": (
        (HERE, "test_each_row_has_its_own_image_and_pose"),
        (ACCURACY, "test_neither_the_parents_orientation_nor_the_other_order_does"),
    ),
    "RELION: revert keeps new origins": ((JOB, "test_revert_gives_back_the_parents_table_byte_for_byte"),),
    "RELION: integer centres": ((HERE, "test_centres_between_voxels_are_kept"),),
    "RELION: wraps around": ((SUBTRACT, "test_the_image_of_a_copy_is_centred_and_cut_without_wrapping"),),
    "RELION: one process refuses half sets": (
        (DIALECTS, "test_an_optimiser_says_particles_maps_and_symmetry"),
    ),
    "RELION: joint map after convergence": (
        (OPTIMISER, "test_the_unfiltered_halves_beside_a_converged_optimiser_are_used_and_said"),
        (OPTIMISER, "test_a_joint_map_for_both_half_sets_is_warned_of"),
    ),
    "RELION: no expansion, no defocus change": (
        (OPTIONS, "test_expansion_gives_every_pose_of_the_symmetry_and_leaves_images_alone"),
        (ACCURACY, "test_the_defocus_of_their_depth_brings_out_what_is_at_3_angstrom"),
    ),
    "pyem: no residual shift in the crop": ((ACCURACY, "test_centres_are_where_the_residual_shifts_say"),),
    "pyem: no aberrations": ((RUNS, "test_any_optics_give_the_kept_density"),),
    "localrec: truncates": (
        ("subparticles_job/test_subparticles_parts", "test_halves_are_rounded_away_from_zero"),
    ),
    "localrec: an external program extracts": ((RELION, "test_relion_reconstructs_the_kept_density"),),
    "localrec: sign of the defocus": (
        (ACCURACY, "test_the_defocus_of_their_depth_brings_out_what_is_at_3_angstrom"),
        (OPTIONS, "test_depth_changes_the_defocus_as_the_hand_says"),
    ),
    "localrec: --randomize raises": (
        (OPTIONS, "test_one_random_copy_or_all_in_random_order_depend_on_the_seed_only"),
    ),
    "cryoSPARC: scale depends on windows": (
        (SUBTRACT, "test_grey_scales_of_particles_and_map_do_not_matter"),
    ),
}


def test_every_defect_has_tests_that_exist() -> None:
    root = Path(__file__).resolve().parents[1]
    assert {str(number) for number in range(1, 21)} <= set(TESTS)
    names: dict[str, set[str]] = {}
    for number, tests in TESTS.items():
        for module, name in tests:
            if module not in names:
                tree = ast.parse((root / f"{module}.py").read_text())
                names[module] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in names[module], (number, module, name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    Scene(count=10).write(folder)
    return folder


def test_every_frequency_is_subtracted_once(scene: Path, tmp_path: Path) -> None:
    # what masks that complete each other take away is together the whole model, on every line of the transform
    options = ["--sym", "c1", "--center", "none", "--scale-mode", "none", "--sym-mode", "map"]
    keep = read_mrc(scene / "keep.mrc")
    assert main(words(scene, tmp_path / "sub.mrcs", *options, "--keep-dc")) == 0
    given = words(scene, tmp_path / "all.mrcs", *options, "--keep-dc")
    write_mrc(tmp_path / "all.mrc", 1 - keep)
    at = given.index("--subunitmask")
    given[at + 1] = str(tmp_path / "all.mrc")
    assert main(given) == 0
    images = read_mrc(scene / "p.mrcs")
    both = np.fft.fft2(2 * images - read_mrc(tmp_path / "sub.mrcs") - read_mrc(tmp_path / "all.mrcs"))
    own = np.fft.fft2(images)
    for line in (np.s_[:, :, 0], np.s_[:, 0, :], np.s_[:, 3, :], np.s_[:, :, 3]):
        taken, there = both[line][:, 1:16], own[line][:, 1:16]
        factor = np.sum((taken * there.conj()).real) / np.sum(np.abs(there) ** 2)
        assert factor == pytest.approx(1, abs=0.02)


def test_noise_does_not_move_the_centre(tmp_path: Path) -> None:
    moves = {}
    for name, snr in (("clean", None), ("noisy", 0.02)):
        folder = tmp_path / name
        Scene(count=10, snr=snr).write(folder)
        assert main(words(folder, folder / "sub.mrcs", "--sym", "d3")) == 0
        columns = read_star(folder / "sub.star").columns
        moves[name] = np.stack([columns["sprShiftX"], columns["sprShiftY"]])
    assert np.array_equal(moves["clean"], moves["noisy"])
    assert np.abs(moves["clean"]).max() > 8


def test_arguments_are_judged_before_any_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    for given, expected in (
        (["refine_01", "five"], "ITERATION"),
        (["--newbox", "x", "refine_01", "5"], "--newbox"),
        ([], "expected one of"),
        (["refine_99", "5"], "refine_99"),
    ):
        try:
            code = main(["subparticles", *given])
        except SystemExit as ended:
            code = int(ended.code or 0)
        assert code == 2
        assert expected in capsys.readouterr().err


def test_each_row_has_its_own_image_and_pose(scene: Path, tmp_path: Path) -> None:
    assert main(words(scene, tmp_path / "sub.mrcs", "--sym", "d3")) == 0
    columns, images = read_star(tmp_path / "sub.star").columns, read_mrc(tmp_path / "sub.mrcs")
    poses = np.stack([columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], axis=1)
    assert len(np.unique(np.round(poses, 6), axis=0)) == len(poses) == 60
    assert len(np.unique(images.reshape(60, -1), axis=0)) == 60
    assert [int(name.split("@")[0]) for name in columns["rlnImageName"].tolist()] == list(range(1, 61))


def test_centres_between_voxels_are_kept(scene: Path, tmp_path: Path) -> None:
    shifts = {}
    for centre in ("10,3,6", "10.4,3,6"):
        assert main(words(scene, tmp_path / "sub.mrcs", "--sym", "c1", "--center", centre, "--force")) == 0
        columns = read_star(tmp_path / "sub.star").columns
        moved = [-columns[f"rlnOrigin{axis}Angst"] / 3 - columns[f"sprShift{axis}"] for axis in "XY"]
        shifts[centre] = np.stack(moved, axis=1)
    apart = np.linalg.norm(shifts["10.4,3,6"] - shifts["10,3,6"], axis=1)
    assert 0.3 < apart.max() <= 0.4 + 1e-6
