"""Reading RELION tomography projects: what their tables say arrives, and what they leave out has its default."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from centralslice.abc.reader import TiltReadRequest
from centralslice.geometry.tilt_geometry import angles_of_matrices, image_positions, projection_matrices
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.readers.relion_tomo import RelionTomoReader


def read(path: Path, **changes):
    return RelionTomoReader().read_tilt_particles(TiltReadRequest(path, **changes))


def euler(rot, tilt, psi):
    """Spec: A = Rz(-psi) Ry(-tilt) Rz(-rot), by another library."""
    return Rotation.from_euler("zyz", [-rot, -tilt, -psi], degrees=True).as_matrix()


def columns(project, *labels):
    return np.array([project.particles[label] for label in labels], float).T


def test_tomograms_may_stand_in_any_order_and_keep_it(project):
    found = project.read()
    assert [series.name for series in found.series] == ["B", "A"]
    assert_array_equal(found.series_number, [1, 0, 1, 1, 0])
    assert_array_equal(found.tilt_start, [0, 3, 5, 8, 11])
    assert found.tilts_of(4) == slice(11, 13)
    assert found.names.tolist() == ["A/1", "B/1", "A/2", "A/3", "B/2"]
    assert found.half_set.tolist() == [1, 2, 1, 2, 1]
    assert found.notes == ()


def test_positions_are_from_the_unrounded_centre_minus_the_turned_origin(project):
    project.tomograms["rlnTomoSizeX"] = [351, 353]
    found = project.read()
    angst = columns(project, *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"))
    origin = columns(project, *(f"rlnOrigin{axis}Angst" for axis in "XYZ"))
    angles = columns(project, *(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi")))
    sizes = {"A": (353, 330, 110), "B": (351, 336, 120)}
    for row, name in enumerate(project.particles["rlnTomoName"]):
        wanted = angst[row] / 4 + np.array(sizes[name]) / 2 - euler(*angles[row]) @ origin[row] / 4
        assert_allclose(found.positions[row], wanted, atol=1e-12)


def test_rotations_are_the_subtomograms_times_the_particles(project):
    found = project.read()
    outer = columns(project, *(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi")))
    inner = columns(project, *(f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")))
    for row in range(5):
        assert_allclose(found.rotations[row], euler(*outer[row]) @ euler(*inner[row]), atol=1e-12)


def test_a_tilt_tables_values_arrive(project):
    rows = project.tilts["A"]
    rows["rlnCtfBfactor"], rows["rlnPhaseShift"] = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]
    rows["rlnTomoNominalStageTiltAngle"] = [-3.0, 0.0, 3.0]
    project.tomograms |= {"rlnTomoDefocusSlope": [0.8, 0.9], "rlnCtfBfactorPerElectronDose": [0.0, 2.5]}
    series = project.read().series[1]
    assert (series.name, series.hand, series.size, series.image_size) == (
        "A",
        -1.0,
        (350, 330, 110),
        (24, 20),
    )
    assert (series.defocus_slope, series.bfactor_per_dose, series.pixel_size_angst) == (0.9, 2.5, 4.0)
    assert series.tilt_angles_deg.tolist() == [-3.0, 0.0, 3.0]
    assert series.dose.tolist() == [0.0, 3.0, 6.0]
    for attribute, label in (
        ("defocus_u_angst", "rlnDefocusU"), ("defocus_v_angst", "rlnDefocusV"), ("scale", "rlnCtfScalefactor"),
        ("defocus_angle_deg", "rlnDefocusAngle"), ("phase_shift_deg", "rlnPhaseShift"),
        ("bfactor_angst2", "rlnCtfBfactor"),
    ):  # fmt: skip
        assert getattr(series.ctf, attribute).tolist() == rows[label], label
    assert (series.optics.voltage_kv, series.optics.amplitude_contrast) == (300.0, 0.1)


def test_columns_that_may_lack_have_relions_defaults(project):
    for label in ("rlnTomoXTilt", "rlnCtfScalefactor"):
        del project.tilts["A"][label]
    for label in (
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOriginZAngst",
        "rlnTomoParticleName",
        "rlnRandomSubset",
    ):
        del project.particles[label]
    found = project.read()
    series = found.series[1]
    assert series.ctf.scale.tolist() == [1.0] * 3
    assert not series.ctf.phase_shift_deg.any()
    assert not series.ctf.bfactor_angst2.any()
    assert (series.defocus_slope, series.bfactor_per_dose, series.deformation) == (1.0, 0.0, None)
    assert_allclose(series.tilt_angles_deg, [-3.1, -0.1, 2.9], atol=1e-9)
    assert_allclose(angles_of_matrices(series.projections)[0], 0, atol=1e-12)
    assert found.names.tolist() == ["A/1", "B/1", "A/2", "A/3", "B/2"]
    assert not found.half_set.any()
    assert_allclose(found.positions[2], series.centre, atol=1e-12)
    assert found.visible is None
    assert found.motion is None


def test_projections_turn_then_shift_about_whole_halves(project):
    series = project.read().series[1]
    rows = project.tilts["A"]
    for tilt in range(3):
        angles = [rows[label][tilt] for label in ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")]
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        shift = [rows["rlnTomoXShiftAngst"][tilt] / 4 + 12, rows["rlnTomoYShiftAngst"][tilt] / 4 + 10, 0]
        assert_allclose(series.projections[tilt, :3, :3], turn, atol=1e-12)
        assert_allclose(series.projections[tilt, :3, 3], shift - turn @ [175, 165, 55], atol=1e-10)
        assert series.projections[tilt, 3].tolist() == [0, 0, 0, 1]


def test_relion_4_and_5_forms_of_a_project_agree(project):
    five = project.read()
    project.relion4({series.name: series.projections for series in five.series})
    four = project.read()
    assert_allclose(four.positions, five.positions, atol=1e-9)
    assert_allclose(four.rotations, five.rotations, atol=1e-12)
    for old, new in zip(four.series, five.series, strict=True):
        assert_allclose(old.projections, new.projections, atol=1e-12)
        assert old.image_files == new.image_files
        assert_array_equal(old.image_number, new.image_number)
        assert_allclose(old.tilt_angles_deg, new.tilt_angles_deg, atol=1e-9)
    assert four.notes == ()


def test_matrices_count_before_angles_and_that_is_noted(project):
    matrix = projection_matrices([0.0], [30.0], [0.0], [[0, 0]], (24, 20), (350, 330, 110))[0]
    for axis, row in zip("XYZW", matrix.tolist(), strict=True):
        text = "[" + ",".join(map(repr, row)) + "]"
        project.tilts["A"][f"rlnTomoProj{axis}"] = [text] * 3
    found = project.read()
    assert_allclose(found.series[1].projections, np.stack([matrix] * 3), atol=1e-14)
    assert len(found.notes) == 1
    assert "A: tilts have matrices" in found.notes[0]


def test_a_stack_of_the_table_of_tomograms_counts_before_the_tilts_names(project):
    project.tomograms["rlnTomoTiltSeriesName"] = ["tilt/B.mrcs", "tilt/A.mrcs"]
    project.tilts["A"]["rlnMicrographName"] = ["nothing.mrc"] * 3
    series = project.read().series[1]
    assert [path.name for path in series.image_files] == ["A.mrcs"]
    assert series.image_number.tolist() == [0, 1, 2]


def test_tilt_images_may_be_numbered_in_any_file_or_single(project):
    rows = project.tilts
    rows["A"]["rlnMicrographName"] = ["3@tilt/B.mrc", "1@tilt/A.mrcs", "2@tilt/B.mrc"]
    rows["B"]["rlnMicrographName"] = ["tilt/one.mrc", "tilt/two.tif"]
    path = project.write()
    tilt = project.folder / "tilt"
    os.rename(tilt / "A.mrcs", tilt / "B.mrc")
    from centralslice_plugins.formats.mrc import NewHeader, Statistics, header_bytes

    tifffile = pytest.importorskip("tifffile")
    for name, count in (("A.mrcs", 1), ("one.mrc", 1)):
        header = NewHeader((count, 20, 24), 2, 1.0, True, Statistics(0, 0, 0, 0))
        (tilt / name).write_bytes(header_bytes(header) + bytes(4 * 20 * 24 * count))
    tifffile.imwrite(tilt / "two.tif", np.zeros((20, 24), np.int16))
    b, a = read(path).series
    assert [path.name for path in a.image_files] == ["B.mrc", "A.mrcs"]
    assert a.file_number.tolist() == [0, 1, 0]
    assert a.image_number.tolist() == [2, 0, 1]
    assert [path.name for path in b.image_files] == ["one.mrc", "two.tif"]
    assert b.image_number.tolist() == [0, 0]


def test_optics_groups_go_by_their_number_not_their_row(project):
    project.optics = {label: [values[0]] * 2 for label, values in project.optics.items()}
    project.optics |= {"rlnOpticsGroup": [9, 7], "rlnOpticsGroupName": ["nine", "seven"]}
    project.optics |= {"rlnTomoTiltSeriesPixelSize": [4.0, 2.0], "rlnVoltage": [300.0, 200.0]}
    project.optics |= {"rlnBeamTiltX": [0.1, 0.2], "rlnBeamTiltY": [0.3, 0.4], "rlnImageSize": [64, 128]}
    project.optics |= {"rlnOddZernike": ["[]", "[1,2]"], "rlnEvenZernike": ["[3]", "[4,5]"]}
    for label, value in (("00", 1.01), ("01", 0.01), ("10", 0.02), ("11", 0.99)):
        project.optics[f"rlnMagMat{label}"] = [value, value]
    project.optics["rlnCtfDataAreCtfPremultiplied"] = [1, 1]
    project.tomograms |= {"rlnTomoTiltSeriesPixelSize": [2.0, 4.0], "rlnVoltage": [200.0, 300.0]}
    project.particles["rlnOpticsGroup"] = [9, 7, 9, 9, 7]
    found = project.read()
    assert [group.name for group in found.optics] == ["nine", "seven"]
    assert found.optics_group.tolist() == [0, 1, 0, 0, 1]
    seven = found.optics[1]
    assert (seven.pixel_size_angst, seven.voltage_kv) == (2.0, 200.0)
    assert (seven.beam_tilt_mrad, seven.odd_zernike, seven.even_zernike) == (
        (0.2, 0.4),
        (1.0, 2.0),
        (4.0, 5.0),
    )
    assert seven.magnification == (1.01, 0.01, 0.02, 0.99)
    # windows are cut anew: boxes and CTF of what was extracted before are nothing to them
    assert (seven.box_size, seven.ctf_premultiplied) == (0, False)
    wanted = np.array([1.0, 2.0, 3.0]) / 2 + found.series[0].centre
    origin = euler(40, 40, 10) @ [2.0, 2.5, 3.0] / 2
    assert_allclose(found.positions[4], wanted - origin, atol=1e-12)


def test_without_an_optics_table_groups_are_those_of_the_tomograms_as_particles_name_them(project):
    project.optics = {}
    del project.particles["rlnOpticsGroup"]
    project.tomograms |= {"rlnOpticsGroupName": ["second", "first"], "rlnVoltage": [200.0, 300.0]}
    found = project.read()
    assert [(group.name, group.voltage_kv) for group in found.optics] == [("first", 300.0), ("second", 200.0)]
    assert found.optics_group.tolist() == [0, 1, 0, 0, 1]
    assert found.columns["rlnOpticsGroup"].tolist() == [1, 2, 1, 1, 2]
    assert found.optics_columns["rlnOpticsGroupName"].tolist() == ["first", "second"]
    assert any("2 optics groups are made" in note for note in found.notes)


def test_what_the_optics_table_leaves_out_comes_from_the_tomograms(project):
    for label in ("rlnVoltage", "rlnAmplitudeContrast", "rlnTomoTiltSeriesPixelSize", "rlnOpticsGroupName"):
        del project.optics[label]
    project.tomograms["rlnVoltage"] = [200.0, 300.0]
    found = project.read()
    assert [group.voltage_kv for group in found.optics] == [300.0, 200.0]
    assert {group.amplitude_contrast for group in found.optics} == {0.1}
    assert {group.pixel_size_angst for group in found.optics} == {4.0}
    assert any("rlnTomoTiltSeriesPixelSize" in note for note in found.notes)


def test_flags_of_visible_tilts_arrive_particle_after_particle(project):
    flags = ["[1,0,1]", "[0,1]", "[1,1,1]", "[0,0,0]", "[1,1]"]
    project.particles["rlnTomoVisibleFrames"] = flags
    found = project.read()
    assert found.visible.tolist() == [c == "1" for text in flags for c in text if c in "01"]
    project.particles["rlnTomoVisibleFrames"] = ["[1.0,0,1]", *flags[1:]]
    assert_array_equal(project.read().visible, found.visible)


def test_trajectories_are_matched_by_name_and_may_be_more_than_needed(project, trajectories):
    project.motion = trajectories({"B/2": 2, "A/1": 3, "other/1": 7, "A/3": 3, "A/2": 3, "B/1": 2})
    found = project.read()
    assert found.motion.shape == (13, 3)
    assert found.motion.dtype == np.float32
    order = ["B/2", "A/1", "other/1", "A/3", "A/2", "B/1"]
    for row, name in enumerate(found.names):
        block = found.motion[found.tilts_of(row)]
        assert_allclose(block[:, 0], order.index(name) + np.arange(len(block)) / 10, rtol=1e-6)
        assert_array_equal(block[:, 1:], np.tile([-1, 2], (len(block), 1)))


def test_trajectories_without_names_are_matched_by_position_in_the_particle_file(project, trajectories):
    project.motion = trajectories({str(i): n for i, n in enumerate([3, 2, 3, 3, 2])})
    project.particles["rlnTomoName"][0] = "lost"
    found = project.read()
    assert found.source_row.tolist() == [1, 2, 3, 4]
    assert [found.motion[found.tilts_of(row)][0, 0] for row in range(4)] == [1, 2, 3, 4]


def test_particles_of_unknown_tomograms_are_left_out_and_counted(project):
    project.particles["rlnTomoName"][1] = "C"
    found = project.read()
    assert len(found) == 4
    assert found.source_row.tolist() == [0, 2, 3, 4]
    assert found.names.tolist() == ["A/1", "A/2", "A/3", "B/2"]
    assert found.columns["rlnTomoName"].tolist() == ["A", "A", "A", "B"]
    assert any(note.startswith("1 of 5 particles left out") and "tomogram C" in note for note in found.notes)


def test_only_tomograms_with_particles_are_read(project):
    project.particles["rlnTomoName"] = ["B"] * 5
    path = project.write()
    (project.folder / "tilt/A.mrcs").unlink()
    (project.folder / "tilt_series/A.star").unlink()
    assert [series.name for series in read(path).series] == ["B"]


def test_without_a_tomogram_size_the_centre_maps_to_the_middle_of_the_image(project):
    for axis in "XYZ":
        del project.tomograms[f"rlnTomoSize{axis}"]
    for axis in "XY":
        project.tilts["A"][f"rlnTomo{axis}ShiftAngst"] = [0.0] * 3
    found = project.read()
    assert_allclose(image_positions(found.series[1], found.positions[2:3])[0], [[12, 10]] * 3, atol=1e-10)
    assert any("no tomogram size" in note for note in found.notes)


def test_any_even_tomogram_size_gives_the_positions_that_none_gives(project):
    sized = project.read()
    for axis in "XYZ":
        project.tomograms[f"rlnTomoSize{axis}"] = [-999, -999]
    free = project.read()
    for row in range(5):
        number = sized.series_number[row]
        wanted = image_positions(sized.series[number], sized.positions[row : row + 1])
        assert_allclose(
            image_positions(free.series[number], free.positions[row : row + 1]), wanted, atol=1e-9
        )


def test_deformations_are_read_for_each_tilt(project):
    project.tomograms |= {
        "rlnTomoDeformationGridSizeX": [0, 3],
        "rlnTomoDeformationGridSizeY": [0, 2],
        "rlnTomoDeformationType": ["none", "spline"],
    }
    values = [[tilt + i / 100 for i in range(48)] for tilt in range(3)]
    project.tilts["A"]["rlnTomoDeformationCoefficients"] = [
        "[" + ",".join(map(str, row)) + "]" for row in values
    ]
    b, a = project.read().series
    assert b.deformation is None
    assert (a.deformation.kind, a.deformation.grid) == ("spline", (3, 2))
    assert_allclose(a.deformation.coefficients, values)


def test_a_single_tilt_needs_no_dose_of_a_tilt(project):
    project.tilts["B"] = {label: values[:1] for label, values in project.tilts["B"].items()}
    series = project.read().series[0]
    assert len(series) == 1
    assert series.dose.tolist() == [0.0]


def test_crlf_files_and_quoted_texts_read_the_same(project):
    plain = project.read()
    for path in [*project.folder.glob("*.star"), *project.folder.glob("tilt_series/*.star")]:
        text = path.read_text().replace("optics1", '"optics1"').replace(" A/2 ", " 'A/2' ")
        path.write_bytes(text.replace("\n", "\r\n").encode())
    again = read(project.folder / "optimisation_set.star")
    assert_array_equal(again.positions, plain.positions)
    assert again.names.tolist() == plain.names.tolist()
    assert again.optics == plain.optics


def test_files_that_are_given_count_before_the_optimisation_sets(
    project, new_project, tmp_path, trajectories
):
    other = new_project(tmp_path / "other")
    other.particles = {label: values[:2] for label, values in other.particles.items()}
    other.tomograms["rlnTomoHand"] = [-1, 1]
    other.motion = trajectories(dict(zip(other.particles["rlnTomoParticleName"], (3, 2), strict=True)))
    folder = other.write().parent
    path = project.write()
    found = read(path, particles=folder / "particles.star", trajectories=folder / "motion.star")
    assert len(found) == 2
    assert found.motion.shape == (5, 3)
    assert [series.hand for series in found.series] == [1, -1]
    assert [series.hand for series in read(path, tomograms=folder / "tomograms.star").series] == [-1, 1]
    without = read(project.folder / "particles.star", tomograms=folder / "tomograms.star")
    assert len(without) == 5


def test_names_start_from_the_working_directory_then_from_the_folders_above_the_file(
    project, tmp_path, monkeypatch
):
    path = project.write()
    job = project.folder / "Refine3D/job020"
    job.mkdir(parents=True)
    os.rename(path, job / "run_optimisation_set.star")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert len(read(job / "run_optimisation_set.star")) == 5
    (elsewhere / "particles.star").write_text(
        (project.folder / "particles.star").read_text().replace("B/2", "B/here")
    )
    assert "B/here" in read(job / "run_optimisation_set.star").names
    assert "B/2" in read(job / "run_optimisation_set.star", base=project.folder).names


def test_extracted_stacks_do_without_tilt_images(project):
    project.general = {"rlnTomoSubTomosAre2DStacks": 1}
    project.images = False
    project.optics |= {"rlnImagePixelSize": [8.0], "rlnImageSize": [32], "rlnCtfDataAreCtfPremultiplied": [1]}
    names = ["s/A1.mrcs", "s/B1.mrcs", "s/A1.mrcs", "s/A3.mrcs", "s/B2.mrcs"]
    project.particles["rlnImageName"] = names
    (project.folder / "s").mkdir(parents=True)
    for name in names:
        (project.folder / name).touch()
    found = project.read()
    assert [str(path.relative_to(project.folder)) for path in found.stack_files] == list(dict.fromkeys(names))
    assert found.stack_number.tolist() == [0, 1, 0, 2, 3]
    group = found.optics[0]
    assert (group.pixel_size_angst, group.box_size, group.ctf_premultiplied) == (8.0, 32, True)
    assert found.series[0].image_files == ()
    assert any("tilt images are not there" in note for note in found.notes)
    # coordinates are in pixels of the tilt series all the same
    assert_allclose(found.positions[2], found.series[1].centre, atol=1e-12)


def test_a_table_of_3d_subtomograms_is_read_for_its_tilt_series(project):
    project.particles["rlnImageName"] = ["gone.mrc"] * 5
    found = project.read()
    assert found.stack_files == ()
    assert found.stack_number is None
    assert len(found.series[0].image_files) == 1


def test_particles_without_orientations_are_not_turned_and_that_is_noted(project):
    for label in [
        label for label in project.particles if "Rot" in label or "Tilt" in label or "Psi" in label
    ]:
        del project.particles[label]
    found = project.read()
    assert_array_equal(found.rotations, np.tile(np.eye(3), (5, 1, 1)))
    assert any("no orientations" in note for note in found.notes)


angle = st.floats(-179.0, 179.0)


@given(st.lists(st.tuples(angle, st.floats(-89.0, 89.0), angle), min_size=1, max_size=4))
def test_angles_to_matrices_and_back(angles):
    x_tilt, y_tilt, z_rot = np.array(angles).T
    found = projection_matrices(x_tilt, y_tilt, z_rot, np.zeros((len(angles), 2)), (31, 30), (21, 22, 23))
    assert_allclose(angles_of_matrices(found), (x_tilt, y_tilt, z_rot), atol=1e-9)


def test_the_reader_is_found_for_tilt_particles_and_star_stays_the_one_for_particles(project):
    path = project.write()
    registry = shared_registry()
    assert registry.reader_for(path, "tilt_particles").plugin_name == "relion_tomo"
    assert registry.reader_for(project.folder / "particles.star", "particles").plugin_name == "star"


def test_many_particles_read_quickly(project):
    import time

    count = 20_000
    project.particles = {label: (values * count)[:count] for label, values in project.particles.items()}
    project.particles["rlnTomoName"] = ["A"] * count
    project.particles["rlnTomoParticleName"] = [f"A/{i}" for i in range(count)]
    project.particles["rlnTomoVisibleFrames"] = ["[1,0,1]", "[0,1,1]"] * (count // 2)
    path = project.write()
    begin = time.process_time()
    assert len(read(path)) == count
    assert time.process_time() - begin < 10


def test_the_reference_projects_have_the_true_positions_and_matrices(reference):
    import json

    folder = reference / "relion_tomo"
    truth = {
        entry["name"]: entry for entry in json.loads((folder / "truth/truth.json").read_text())["particles"]
    }
    for name, count in (("", 28), ("_static", 14), ("_nohalves", 14)):
        found = read(folder / f"optimisation_set{name}.star")
        assert len(found) == count
        for row, particle in enumerate(found.names):
            assert_allclose(found.positions[row], truth[particle]["centre_px"], atol=1e-6)
            assert_allclose(found.rotations[row], truth[particle]["matrix"], atol=1e-6)
    four = read(folder / "particles_r4.star", tomograms=folder / "tomograms_r4.star")
    five = read(folder / "optimisation_set_static.star")
    # the files have 6 decimals of Å and degrees
    assert_allclose(four.positions, five.positions, atol=1e-6)
    assert_allclose(four.series[0].projections, five.series[0].projections, atol=5e-6)
    assert_array_equal(four.rotations, five.rotations)


def test_a_warptools_export_reads_without_its_tilt_series(reference):
    stem = "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
    found = read(reference / f"third_party/warp_70s/{stem}_optimisation_set.star")
    assert len(found) == 40
    assert found.visible.shape == (40 * 37,)
    assert int((~found.visible).sum()) == 50
    assert len(found.stack_files) == 40
    assert {group.pixel_size_angst for group in found.optics} == {12.0}
    assert all(group.ctf_premultiplied and group.box_size == 32 for group in found.optics)
    for series in found.series:
        turns = series.projections[:, :3, :3]
        assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (37, 1, 1)), atol=1e-5)


def test_tables_with_both_angles_and_matrices_of_other_programs_agree_with_themselves(reference):
    from centralslice_plugins.formats.relion_tomo_tilts import matrices
    from centralslice_plugins.formats.star import read_star

    folder = reference / "third_party/tomo_metadata/relion_tests/tilt_series_metadata"
    for path in sorted((folder / "tilt_series").glob("*.star")):
        table = read_star(path).tables[0]
        x_tilt, y_tilt, z_rot = angles_of_matrices(matrices(table))
        assert_allclose(y_tilt, table.numbers("rlnTomoYTilt"), atol=0.02, err_msg=path.name)
        assert_allclose(z_rot, table.numbers("rlnTomoZRot"), atol=0.02, err_msg=path.name)
        assert_allclose(x_tilt, table.numbers("rlnTomoXTilt"), atol=0.02, err_msg=path.name)
