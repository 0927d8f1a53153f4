"""Tomography projects that are not right: each is refused with one line that says where and what."""

from __future__ import annotations

import pytest

from centralslice.abc.reader import TiltReadRequest
from centralslice.errors import FileMissingError, FormatError, SelectionError
from centralslice_plugins.readers.relion_tomo import RelionTomoReader


def read(path, **changes):
    return RelionTomoReader().read_tilt_particles(TiltReadRequest(path, **changes))


@pytest.mark.parametrize("label", ["rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst"])
def test_a_tilt_table_without_one_of_its_geometry_columns_is_named_with_it(project, refused, label):
    del project.tilts["A"][label]
    message = refused()
    assert "A.star: block 'A' has no" in message
    assert f"_{label}:" in message


@pytest.mark.parametrize(
    "label", ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnMicrographPreExposure"]
)
def test_a_tilt_table_without_defocus_or_dose_is_named_with_the_column(project, refused, label):
    del project.tilts["B"][label]
    message = refused()
    assert "B.star" in message
    assert f"has no _{label}" in message


@pytest.mark.parametrize(
    "label",
    [
        "rlnTomoHand",
        "rlnTomoTiltSeriesPixelSize",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
    ],
)
def test_a_table_of_tomograms_without_a_column_it_needs_is_named_with_it(project, refused, label):
    del project.tomograms[label]
    message = refused()
    assert "tomograms.star" in message
    assert f"_{label}" in message or "expected a table of tomograms" in message


@pytest.mark.parametrize(
    ("label", "value", "wanted"),
    [
        ("rlnTomoHand", 0, "row 2: _rlnTomoHand: expected 1 or -1, got 0"),
        (
            "rlnTomoTiltSeriesPixelSize",
            0,
            "row 2: _rlnTomoTiltSeriesPixelSize: expected 0.001 to 10000, got 0",
        ),
        ("rlnAmplitudeContrast", 7, "row 2: _rlnAmplitudeContrast: expected 0 to 1, got 7"),
        ("rlnVoltage", "nan", "row 2: _rlnVoltage: expected 0.001 to 10000, got nan"),
    ],
)
def test_a_tomograms_value_that_cannot_be_is_named_with_its_row(project, refused, label, value, wanted):
    project.tomograms[label][1] = value
    assert wanted in refused()


def test_a_tomogram_that_is_there_twice_is_named(project, refused):
    project.tomograms["rlnTomoName"] = ["A", "A"]
    assert "row 2: tomogram 'A' is there twice" in refused()


def test_a_half_set_other_than_1_and_2_is_named_with_its_row_in_the_file(project, refused):
    project.particles["rlnTomoName"][0] = "lost"  # a row left out does not shift the others' numbers
    project.particles["rlnRandomSubset"][3] = 0
    assert "particles.star: block 'particles', row 4: _rlnRandomSubset: expected 1 or 2, got 0" in refused()


def test_an_optics_row_that_disagrees_with_a_tomogram_is_named_with_both(project, refused):
    project.tomograms["rlnVoltage"] = [300.0, 200.0]
    message = refused()
    assert "particles.star: block 'optics', row 1: _rlnVoltage is 300, but 200 in" in message
    assert "tomograms.star: block 'global', row 2 (tomogram 'A')" in message


def test_an_optics_row_agrees_within_a_thousandth(project):
    project.optics["rlnTomoTiltSeriesPixelSize"] = [4.0009]
    assert project.read().optics[0].pixel_size_angst == 4.0009


def test_a_group_that_is_not_defined_is_named_with_the_particles_row(project, refused):
    project.particles["rlnOpticsGroup"][2] = 5
    message = refused()
    assert "row 3: optics group 5 is not in block 'optics' (there: 1)" in message


def test_particles_of_no_known_tomogram_are_an_error_that_names_both_files(project, refused):
    project.particles["rlnTomoName"] = ["x"] * 5
    message = refused()
    assert "none of 5 particles is in a tomogram of" in message
    assert "particles.star" in message
    assert "tomograms.star" in message
    with pytest.raises(SelectionError):
        project.read()


def test_pixel_coordinates_need_the_tomograms_size(project, refused):
    for axis in "XYZ":
        project.particles[f"rlnCoordinate{axis}"] = project.particles.pop(f"rlnCenteredCoordinate{axis}Angst")
        del project.tomograms[f"rlnTomoSize{axis}"]
    message = refused()
    assert "tomogram 'B' has no size (_rlnTomoSizeX, _rlnTomoSizeY, _rlnTomoSizeZ from 1)" in message
    assert "_rlnCoordinateX, Y, Z need" in message


def test_matrices_need_the_tomograms_size(project, refused):
    eye = {"X": "[1,0,0,0]", "Y": "[0,1,0,0]", "Z": "[0,0,1,0]", "W": "[0,0,0,1]"}
    project.tilts["A"] |= {f"rlnTomoProj{axis}": [row] * 3 for axis, row in eye.items()}
    project.tomograms["rlnTomoSizeZ"] = [120, 0]
    assert "tomogram 'A' has no size" in refused()


@pytest.mark.parametrize(
    ("axis", "text", "wanted"),
    [
        ("X", "[1,0,0]", "row 1: _rlnTomoProjX: expected 4 numbers [a,b,c,d], got 3"),
        ("Y", "1", "row 1: _rlnTomoProjY: expected numbers as [1,2.5], got '1'"),
        ("Z", "[1,0,0,0]", "row 1: _rlnTomoProjX … W: the projection matrix is singular"),
        ("W", "[0,0,1,1]", "row 1: _rlnTomoProjW: expected [0,0,0,1], got [0,0,1,1]"),
    ],
)
def test_a_matrix_that_is_none_is_named_with_its_row(project, refused, axis, text, wanted):
    eye = {"X": "[1,0,0,0]", "Y": "[0,1,0,0]", "Z": "[0,0,1,0]", "W": "[0,0,0,1]"} | {axis: text}
    project.tilts["A"] |= {f"rlnTomoProj{name}": [row] * 3 for name, row in eye.items()}
    assert wanted in refused()


def test_matrices_that_only_turn_do_not_say_where_windows_are_cut(project, refused):
    eye = {"X": "[1,0,0,0]", "Y": "[0,1,0,0]", "Z": "[0,0,1,0]", "W": "[0,0,0,1]"}
    project.tilts["A"] |= {f"rlnTomoProj{axis}": [row] * 3 for axis, row in eye.items()}
    assert "A.star: block 'A': the matrices _rlnTomoProjX … W only turn and shift nothing" in refused()


def test_three_of_four_rows_of_matrices_are_refused(project, refused):
    project.tilts["A"] |= {f"rlnTomoProj{axis}": ["[1,0,0,0]"] * 3 for axis in "XYZ"}
    assert "has no _rlnTomoProjW, but other rows of the projection matrices" in refused()


def test_a_block_of_another_name_is_refused_with_the_blocks_there_are(project, refused):
    project.tomograms["rlnTomoTiltSeriesStarFile"] = ["tilt_series/B.star", "tilt_series/B.star"]
    message = refused()
    assert "B.star: no block data_A with the tilts of that tomogram (blocks: data_B)" in message


def test_a_tilt_count_that_differs_from_the_table_is_refused(project, refused):
    project.tomograms["rlnTomoFrameCount"] = [2, 4]
    assert "_rlnTomoFrameCount says 4 tilts" in refused()


def test_a_tilt_table_that_is_not_there_lists_where_it_was_looked_for(project):
    path = project.write()
    (project.folder / "tilt_series/A.star").unlink()
    with pytest.raises(FileMissingError) as caught:
        read(path)
    message = str(caught.value)
    assert "tomograms.star: _rlnTomoTiltSeriesStarFile 'tilt_series/A.star' not found (looked in" in message
    assert str(project.folder / "tilt_series") in message


def test_a_tilt_image_that_is_not_there_is_named_with_the_table(project):
    path = project.write()
    (project.folder / "tilt/B.mrcs").unlink()
    with pytest.raises(FileMissingError, match=r"B\.star: the tilt image file 'tilt/B\.mrcs' not found"):
        read(path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("0@tilt/A.mrcs", "expected N@file with N from 1, got '0@tilt/A.mrcs'"),
        ("@tilt/A.mrcs", "expected N@file or a file, got '@tilt/A.mrcs'"),
        ("4@tilt/A.mrcs", "image 4 of"),
    ],
)
def test_a_tilt_images_name_that_is_none_is_named_with_its_row(project, refused, name, wanted):
    project.tilts["A"]["rlnMicrographName"][1] = name
    message = refused()
    assert "A.star: block 'A', row 2" in message
    assert wanted in message


def test_a_stack_named_without_a_number_is_refused(project, refused):
    project.tilts["A"]["rlnMicrographName"] = ["tilt/A.mrcs"] * 3
    assert "has 3 images; name one of them as N@file" in refused()


def test_tilt_images_of_two_sizes_are_refused(project, tmp_path, new_project):
    import shutil

    from centralslice.data.images import StackPlan
    from centralslice_plugins.writers.mrc import MrcWriter

    project.tilts["A"]["rlnMicrographName"][2] = "1@tilt/other.mrcs"
    path = project.write()
    with MrcWriter().create_stack(tmp_path / "other.mrcs", StackPlan(1, (20, 26), 1.0)) as sink:
        import numpy as np

        sink.write(0, np.zeros((1, 20, 26), np.float32))
    shutil.copy(tmp_path / "other.mrcs", project.folder / "tilt/other.mrcs")
    with pytest.raises(FormatError, match=r"need one size: .* has 26 x 20, .* has 24 x 20 pixels"):
        read(path)


def test_images_named_nowhere_are_refused(project, refused):
    del project.tilts["A"]["rlnMicrographName"]
    assert "has no _rlnMicrographName, and" in refused()


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (
            "[1,0]",
            "row 3: _rlnTomoVisibleFrames: expected 3 values, as many as tomogram 'A' has tilts, got 2",
        ),
        ("[1,0,2]", "row 3: _rlnTomoVisibleFrames: expected 0 and 1, got 2"),
        ("101", "row 3: _rlnTomoVisibleFrames: expected numbers as [1,2.5], got '101'"),
    ],
)
def test_wrong_flags_of_visible_tilts_are_named_with_the_row(project, refused, flags, wanted):
    project.particles["rlnTomoVisibleFrames"] = ["[1,0,1]", "[0,1]", flags, "[0,0,0]", "[1,1]"]
    assert wanted in refused()


def test_a_trajectory_that_is_missing_names_the_particle(project, refused, trajectories):
    project.motion = trajectories({"A/1": 3, "A/2": 3, "A/3": 3, "B/1": 2})
    assert "motion.star: no block data_B/2 with the trajectory of particle 'B/2' (4 blocks)" in refused()


def test_trajectories_by_position_that_are_too_few_name_the_particle(project, refused, trajectories):
    project.motion = trajectories({"0": 3, "1": 2, "2": 3, "3": 3})
    assert "motion.star: no block 5 for particle 'B/2' (4 blocks)" in refused()


def test_a_trajectory_of_another_length_names_the_particle(project, refused, trajectories):
    project.motion = trajectories({"A/1": 3, "A/2": 2, "A/3": 3, "B/1": 2, "B/2": 2})
    assert "block 'A/2': particle 'A/2' needs 3 rows, one a tilt, got 2" in refused()


def test_a_trajectory_that_is_not_finite_names_the_particle(project, refused, trajectories):
    text = trajectories({"A/1": 3, "A/2": 3, "A/3": 3, "B/1": 2, "B/2": 2})
    project.motion = text.replace("2.1 -1.0 2.0", "nan -1.0 2.0")
    assert "particle 'A/3': expected finite displacements" in refused()


@pytest.mark.parametrize(
    ("changes", "coefficients", "wanted"),
    [
        ({"rlnTomoDeformationType": ["bent"] * 2}, 3, "expected one of linear, spline, Fourier, got 'bent'"),
        ({}, 4, "expected 3 numbers (linear, grid 2 x 2), got 4"),
        ({}, 0, "has no _rlnTomoDeformationCoefficients"),
        ({"rlnTomoDeformationType": None}, 3, "has no _rlnTomoDeformationType: a deformation needs"),
        (
            {"rlnTomoDeformationType": ["spline"] * 2, "rlnTomoDeformationGridSizeX": [1, 1]},
            3,
            "expected a grid of at least 2 × 2, got 1 × 2",
        ),
    ],
)
def test_a_deformation_that_lacks_something_is_refused(project, refused, changes, coefficients, wanted):
    project.tomograms |= {
        "rlnTomoDeformationGridSizeX": [2, 2],
        "rlnTomoDeformationGridSizeY": [2, 2],
        "rlnTomoDeformationType": ["linear"] * 2,
    } | changes
    project.tomograms = {label: values for label, values in project.tomograms.items() if values is not None}
    for rows in project.tilts.values():
        if coefficients:
            text = "[" + ",".join(["0.5"] * coefficients) + "]"
            rows["rlnTomoDeformationCoefficients"] = [text] * len(rows["rlnDefocusU"])
    assert wanted in refused()


def test_particles_without_coordinates_are_refused(project, refused):
    del project.particles["rlnCenteredCoordinateZAngst"]
    assert "has no coordinates: neither" in refused()


@pytest.mark.parametrize(
    "label", ["rlnCenteredCoordinateXAngst", "rlnAngleTilt", "rlnTomoSubtomogramPsi", "rlnOriginYAngst"]
)
def test_a_number_that_is_not_finite_is_named_with_row_and_label(project, refused, label):
    project.particles[label][3] = "nan"
    assert f"row 4: _{label}: expected a finite number, got nan" in refused()


def test_one_angle_without_the_others_is_refused(project, refused):
    del project.particles["rlnAngleTilt"]
    assert "block 'particles' has no _rlnAngleTilt" in refused()


def test_a_negative_dose_is_refused(project, refused):
    project.tilts["A"]["rlnMicrographPreExposure"][2] = -1
    assert "row 3: _rlnMicrographPreExposure: expected e/Å² from 0, got -1" in refused()


def test_extracted_stacks_need_their_pixel_size_and_their_files(project, refused):
    project.general = {"rlnTomoSubTomosAre2DStacks": 1}
    project.particles["rlnImageName"] = ["s/1.mrcs"] * 5
    assert "block 'optics' has no _rlnImagePixelSize" in refused()
    project.optics["rlnImagePixelSize"] = [8.0]
    assert "row 1: the stack 's/1.mrcs' not found (looked in" in refused()
    project.particles["rlnImageName"] = ["1@s/1.mrcs"] * 5
    assert "row 1: _rlnImageName: expected the file of a 2D stack, got '1@s/1.mrcs'" in refused()


def test_an_optimisation_set_without_tomograms_says_what_to_give(project):
    path = project.write()
    path.write_text("data_\n\n_rlnTomoParticlesFile particles.star\n")
    with pytest.raises(FormatError, match="names no tomograms"):
        read(path)
    path.write_text("data_\n\n_rlnTomoTomogramsFile tomograms.star\n_rlnTomoParticlesFile None\n")
    with pytest.raises(FormatError, match="names no particles"):
        read(path)
    with pytest.raises(FormatError, match="names no tomograms"):
        read(project.folder / "particles.star")
    with pytest.raises(FormatError, match="expected an optimisation set"):
        read(project.folder / "particles.star", particles=project.folder / "particles.star")


def test_an_optimisation_set_of_several_rows_is_refused(project):
    path = project.write()
    path.write_text("data_\n\nloop_\n_rlnTomoParticlesFile\n_rlnTomoTomogramsFile\na b\nc d\n")
    with pytest.raises(FormatError, match="expected one optimisation set, got 2 rows"):
        read(path)


def test_other_star_files_are_refused_as_what_they_are_not(project):
    path = project.write()
    with pytest.raises(FormatError, match="expected an optimisation set or particles in tomograms"):
        read(project.folder / "tilt_series/A.star", tomograms=project.folder / "tomograms.star")
    with pytest.raises(FormatError, match="expected a table of tomograms"):
        read(path, tomograms=project.folder / "tilt_series/A.star")
    with pytest.raises(FileMissingError, match=r"absent\.star"):
        read(path, tomograms=project.folder / "absent.star")


def test_a_name_with_control_characters_or_none_is_refused(project, refused):
    project.tomograms["rlnTomoTiltSeriesStarFile"][1] = '"a\tb"'
    assert "holds control characters" in refused()
