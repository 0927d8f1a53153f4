"""RELION particle metadata of all versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from centralslice.abc.reader import ReadRequest
from centralslice.data.particles import Particles
from centralslice.errors import FileMissingError, FormatError
from centralslice.geometry.eulers import matrices_to_relion, relion_to_matrices
from centralslice.optics.ctf import ctf, slice_frequencies
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.formats.groups import distinct_rows
from centralslice_plugins.formats.star import read_star
from centralslice_plugins.readers.mrc import MrcReader
from centralslice_plugins.readers.star import StarReader
from centralslice_plugins.writers.star import StarWriter

COUNT = 4


def columns(**changed: Any) -> dict[str, Any]:
    """Columns of four particles; None leaves one out, one value is for all."""
    names = ["1@a.mrcs", "000003@b.mrcs", "2@a.mrcs", "1@b.mrcs"]
    given: dict[str, Any] = {
        "rlnImageName": names, "rlnAngleRot": [10.0, 20.0, 30.0, 40.0],
        "rlnAngleTilt": [50.0, 60.0, 70.0, 180.0], "rlnAnglePsi": [-10.0, 0.0, 170.0, -180.0],
    } | changed  # fmt: skip
    return {
        label: np.array([value] * COUNT if np.ndim(value) == 0 else value)
        for label, value in given.items()
        if value is not None
    }


def optics(**changed: Any) -> dict[str, Any]:
    """An optics table of two groups, out of order."""
    given: dict[str, Any] = {
        "rlnOpticsGroup": [7, 3], "rlnOpticsGroupName": ["first", "second"], "rlnVoltage": [300.0, 200.0],
        "rlnSphericalAberration": [2.7, 1.4], "rlnAmplitudeContrast": [0.1, 0.07],
        "rlnImagePixelSize": [1.5, 2.0], "rlnImageSize": [64, 48], "rlnImageDimensionality": [2, 2],
    } | changed  # fmt: skip
    return {label: np.array(value) for label, value in given.items() if value is not None}


def write(folder: Path, **tables: dict[str, Any]) -> Path:
    for name in ("a.mrcs", "b.mrcs"):
        (folder / name).touch()
    path = folder / "particles.star"
    StarWriter().write_tables(path, tables)
    return path


def read(folder: Path, **tables: dict[str, Any]) -> Particles:
    return StarReader().read_particles(ReadRequest(write(folder, **tables)))


def modern(folder: Path, changed_optics: dict[str, Any] | None = None, **changed: Any) -> Particles:
    groups = {"rlnOpticsGroup": [3, 7, 3, 7]}
    return read(folder, optics=optics(**(changed_optics or {})), particles=columns(**(groups | changed)))


def test_poses_are_relion_s_matrix_and_minus_the_origin(tmp_path: Path) -> None:
    found = modern(tmp_path, rlnOriginXAngst=[1.0, -2.0, 0.0, 3.5], rlnOriginYAngst=[4.0, 0.0, 0.25, -1.0])
    np.testing.assert_array_equal(
        found.rotations, relion_to_matrices([10, 20, 30, 40], [50, 60, 70, 180], [-10, 0, 170, -180])
    )
    np.testing.assert_array_equal(found.shifts_angst, [[-1, -4], [2, 0], [0, -0.25], [-3.5, 1]])
    assert found.ctf is None
    assert found.notes == ()


def test_image_names_are_split_into_distinct_files_and_numbers_from_zero(tmp_path: Path) -> None:
    found = modern(tmp_path)
    assert [path.name for path in found.image_files] == ["a.mrcs", "b.mrcs"]
    assert found.file_number.tolist() == [0, 1, 0, 1]
    assert found.image_number.tolist() == [0, 2, 1, 0]
    assert modern(tmp_path, rlnImageName="a.mrcs").image_number.tolist() == [0] * COUNT


def test_optics_groups_are_looked_up_by_their_number(tmp_path: Path) -> None:
    extra = {
        "rlnBeamTiltX": [0.1, 0.2], "rlnBeamTiltY": [-0.3, 0.0], "rlnCtfDataAreCtfPremultiplied": [0, 1],
        "rlnOddZernike": ["[1,2.5]", "[]"], "rlnEvenZernike": ["[0,0,3]", "[1]"],
        "rlnMagMat00": [1.01, 1.0], "rlnMagMat01": [0.02, 0.0],
        "rlnMagMat10": [0.03, 0.0], "rlnMagMat11": [0.99, 1.0],
    }  # fmt: skip
    found = modern(tmp_path, extra)
    first, second = found.optics
    assert found.optics_group.tolist() == [1, 0, 1, 0]
    assert (first.name, first.voltage_kv, first.spherical_aberration_mm) == ("first", 300.0, 2.7)
    assert (first.amplitude_contrast, first.pixel_size_angst, first.box_size) == (0.1, 1.5, 64)
    assert (first.beam_tilt_mrad, first.odd_zernike, first.even_zernike) == (
        (0.1, -0.3), (1.0, 2.5), (0.0, 0.0, 3.0),
    )  # fmt: skip
    assert first.magnification == (1.01, 0.02, 0.03, 0.99)
    assert (first.ctf_premultiplied, second.ctf_premultiplied) == (False, True)
    assert (second.name, second.pixel_size_angst, second.odd_zernike) == ("second", 2.0, ())


def test_ctf_values_come_from_the_row_then_the_optics_row_then_a_default(tmp_path: Path) -> None:
    found = modern(
        tmp_path,
        {"rlnPhaseShift": [90.0, 45.0], "rlnCtfBfactor": [5.0, 6.0]},
        rlnDefocusU=[1e4, 2e4, 3e4, 4e4],
        rlnCtfBfactor=[1.0, 2.0, 3.0, 4.0],
        rlnVoltage=[300.0, 300.0, 200.0, 300.0],
    )
    assert found.ctf is not None
    np.testing.assert_array_equal(found.ctf.defocus_v_angst, found.ctf.defocus_u_angst)
    np.testing.assert_array_equal(found.ctf.defocus_angle_deg, 0.0)
    np.testing.assert_array_equal(found.ctf.phase_shift_deg, [45, 90, 45, 90])
    np.testing.assert_array_equal(found.ctf.bfactor_angst2, [1, 2, 3, 4])
    np.testing.assert_array_equal(found.ctf.scale, 1.0)
    # a row with a voltage of its own splits its group
    voltages = [found.optics[group].voltage_kv for group in found.optics_group]
    assert voltages == [300.0, 300.0, 200.0, 300.0]
    assert [found.optics[group].name for group in found.optics_group] == [
        "second",
        "first",
        "second",
        "first",
    ]


def test_relion_3_0_rows_form_groups_of_equal_values(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        images=columns(
            rlnVoltage=[300.0, 200.0, 300.0, 300.0], rlnSphericalAberration=2.7, rlnAmplitudeContrast=0.1,
            rlnDetectorPixelSize=5.0, rlnMagnification=[25000.0, 25000.0, 25000.0, 50000.0],
            rlnOriginX=[1.0, 1.0, 1.0, 1.0], rlnOriginY=[0.0, 0.0, -3.0, 2.0], rlnDefocusU=1e4,
        ),
    )  # fmt: skip
    assert found.optics_group.tolist() == [0, 1, 0, 2]
    assert [group.voltage_kv for group in found.optics] == [300.0, 200.0, 300.0]
    # 10⁴ · 5 µm / 25000 = 2 Å
    assert [group.pixel_size_angst for group in found.optics] == [2.0, 2.0, 1.0]
    np.testing.assert_array_equal(found.shifts_angst, [[-2, 0], [-2, 0], [-2, 6], [-1, -2]])


def test_origins_in_pixels_use_the_optics_table_s_pixel_size(tmp_path: Path) -> None:
    found = modern(tmp_path, rlnOriginX=1.0, rlnOriginY=-2.0, rlnDetectorPixelSize=9.0, rlnMagnification=1e4)
    np.testing.assert_array_equal(found.shifts_angst, [[-2, 4], [-1.5, 3], [-2, 4], [-1.5, 3]])


def test_pixel_size_is_taken_from_what_says_it_most_directly(tmp_path: Path) -> None:
    none = {"rlnImagePixelSize": None}
    for changed, own, expected in (
        (none, {"rlnImagePixelSize": 1.1, "rlnPixelSize": 1.2}, 1.1),
        (none, {"rlnPixelSize": 1.2, "rlnDetectorPixelSize": 9.0, "rlnMagnification": 1e4}, 1.2),
        (none, {"rlnDetectorPixelSize": 9.0, "rlnMagnification": 1e4}, 9.0),
        (none | {"rlnPixelSize": [1.3, 1.3]}, {}, 1.3),
    ):
        found = modern(tmp_path, changed, **own)
        assert {group.pixel_size_angst for group in found.optics} == {expected}
        assert found.notes == ()


def test_without_any_pixel_size_one_angstrom_is_taken_and_noted(tmp_path: Path) -> None:
    found = modern(tmp_path, {"rlnImagePixelSize": None}, rlnOriginX=1.0, rlnOriginY=2.0)
    assert {group.pixel_size_angst for group in found.optics} == {1.0}
    np.testing.assert_array_equal(found.shifts_angst, [[-1, -2]] * COUNT)
    assert any("says no pixel size: 1 Å a pixel is taken" in note for note in found.notes)


def test_group_numbers_without_an_optics_table_are_kept_apart_and_noted(tmp_path: Path) -> None:
    found = read(tmp_path, particles=columns(rlnOpticsGroup=[2, 2, 5, 2]))
    assert found.optics_group.tolist() == [0, 0, 1, 0]
    assert any("no data_optics" in note for note in found.notes)


def test_particles_without_group_numbers_are_of_the_only_group(tmp_path: Path) -> None:
    single = {label: column[:1] for label, column in optics().items()}
    found = read(tmp_path, optics=single, particles=columns())
    assert found.optics[0].name == "first"
    with pytest.raises(FormatError, match="no _rlnOpticsGroup to tell 2 optics groups apart"):
        read(tmp_path, optics=optics(), particles=columns())


def test_half_sets_and_classes_are_taken_over(tmp_path: Path) -> None:
    found = modern(tmp_path, rlnRandomSubset=[1, 2, 0, 1], rlnClassNumber=[3, 1, 1, 2])
    assert found.half_set.tolist() == [1, 2, 0, 1]
    assert found.model_number.tolist() == [3, 1, 1, 2]
    found = modern(tmp_path)
    assert found.half_set.tolist() == [0] * COUNT
    assert found.model_number.tolist() == [-1] * COUNT


def test_missing_voltage_and_aberration_are_noted_where_there_is_a_defocus(tmp_path: Path) -> None:
    found = read(tmp_path, particles=columns(rlnDefocusU=1e4, rlnPixelSize=1.0))
    for label in ("rlnVoltage: no CTF can be computed", "rlnSphericalAberration", "rlnAmplitudeContrast"):
        assert any(f"has no _{label}" in note for note in found.notes)


def test_all_columns_are_kept_for_writing_the_rows_again(tmp_path: Path) -> None:
    found = modern(tmp_path, rlnParticleFigureOfMerit=[0.5, 1.0, 0.25, 0.0], mineOwn=["x", "y z", "", "w"])
    assert found.columns["rlnParticleFigureOfMerit"].tolist() == [0.5, 1.0, 0.25, 0.0]
    assert found.columns["mineOwn"].tolist() == ["x", "y z", "", "w"]
    tables = {"optics": found.optics_columns, "particles": found.take(np.array([3, 1])).columns}
    StarWriter().write_tables(tmp_path / "again.star", tables)
    again = StarReader().read_particles(ReadRequest(tmp_path / "again.star"))
    np.testing.assert_array_equal(again.rotations, found.rotations[[3, 1]])
    assert list(again.columns) == list(found.columns)
    assert again.columns["mineOwn"].tolist() == ["w", "y z"]
    assert again.optics_group.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rlnAngleRot": None, "rlnAngleTilt": None}, r"has no _rlnAngleRot, _rlnAngleTilt: particles need"),
        ({"rlnAnglePsi": [0.0, np.nan, 0.0, 0.0]}, r"row 2: _rlnAnglePsi: expected a finite number, got nan"),
        ({"rlnAngleTilt": ["1", "2", "x", "3"]}, r"row 3: _rlnAngleTilt: expected a number, got 'x'"),
        ({"rlnRandomSubset": [1, 2, 3, 1]}, r"row 3: _rlnRandomSubset: expected 0, 1 or 2, got 3"),
        ({"rlnRandomSubset": [1, 1.5, 2, 1]}, r"row 2: _rlnRandomSubset: expected a whole number, got '1.5'"),
        ({"rlnOpticsGroup": [3, 7, 4, 3]}, r"row 3: optics group 4 is not in block 'optics' \(there: 7, 3\)"),
        (
            {"rlnImageName": ["1@a.mrcs", "0@a.mrcs", "a.mrcs", "a.mrcs"]},
            r"row 2: _rlnImageName: expected N@fi",
        ),
        ({"rlnImageName": ["1@a.mrcs", "x@a.mrcs", "a.mrcs", "a.mrcs"]}, r"row 2: .* got 'x@a.mrcs'"),
        ({"rlnImageName": ["1@a.mrcs", "3@", "a.mrcs", "a.mrcs"]}, r"row 2: _rlnImageName: expected N@file"),
        ({"rlnDefocusU": [1.0, 2.0, 3.0, np.inf]}, r"row 4: _rlnDefocusU: expected a finite number"),
        ({"rlnOriginXAngst": 1.0}, r"has no _rlnOriginYAngst"),
        ({"rlnOriginXAngst": [0.0, np.nan, 0.0, 0.0], "rlnOriginYAngst": 0.0}, r"row 2: _rlnOriginXAngst"),
        ({"rlnAmplitudeContrast": 1.5}, r"row 1: _rlnAmplitudeContrast: expected 0 to 1, got 1.5"),
        ({"rlnCtfImage": "ctf.mrc"}, r"3D subtomograms"),
        ({"rlnImageName": None}, r"no block has _rlnImageName"),
        ({"rlnTomoParticleName": "TS_01/1"}, r"table of tomography particles .*use centralslice tomo"),
    ],
    ids=range(16),
)
def test_wrong_particles_give_one_line_with_row_and_label(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        modern(tmp_path, **changed)
    assert "particles.star" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rlnOpticsGroup": [3, 3]}, r"row 2: optics group 3 is there twice"),
        ({"rlnImagePixelSize": [0.0, 1.0]}, r"_rlnImagePixelSize: expected a size above 0"),
        ({"rlnVoltage": [-1.0, 300.0]}, r"_rlnVoltage: expected 0 to 10000, got -1"),
        ({"rlnImageDimensionality": [2, 3]}, r"row 2: _rlnImageDimensionality: expected 2"),
        ({"rlnOddZernike": ["[1,2]", "1 2"]}, r"row 2: _rlnOddZernike: expected numbers as \[1,2.5\]"),
        ({"rlnMagMat00": [1.0, 1.0]}, r"has no _rlnMagMat01"),
        (
            {"rlnMagMat00": [0.0, 1.0], "rlnMagMat01": [0.0, 0.0], "rlnMagMat10": [0.0, 0.0],
             "rlnMagMat11": [0.0, 1.0]},
            r"row 1: _rlnMagMat00 … 11: expected a matrix near the identity, got determinant 0",
        ),
    ],
    ids=range(7),
)  # fmt: skip
def test_wrong_optics_give_one_line_with_row_and_label(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        modern(tmp_path, changed)


def test_an_empty_table_and_a_missing_image_are_errors(tmp_path: Path) -> None:
    empty = {label: column[:0] for label, column in columns().items()}
    with pytest.raises(FormatError, match="block 'particles' holds no particles"):
        read(tmp_path, particles=empty)
    with pytest.raises(FileMissingError, match=r"image file 'c\.mrcs' not found"):
        read(tmp_path, particles=columns(rlnImageName="1@c.mrcs"))


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.5, np.nan]), st.integers(0, 3)), min_size=1, max_size=30))
def test_distinct_rows_are_grouped_in_the_order_of_their_first_members(rows: list[tuple[float, int]]) -> None:
    first, group = distinct_rows([np.array([r[0] for r in rows]), np.array([r[1] for r in rows])], len(rows))
    keys = [(str(value), number) for value, number in rows]
    order = list(dict.fromkeys(keys))
    assert [keys[row] for row in first] == order
    assert [order[number] for number in group] == keys


def test_tomography_files_are_sent_to_the_tomo_command(reference: Path) -> None:
    for name, what in (
        ("optimisation_set.star", "optimisation set"), ("particles.star", "tomography particles"),
        ("tomograms.star", "table of tomograms"), ("particles_r4.star", "tomography particles"),
    ):  # fmt: skip
        with pytest.raises(FormatError, match=f"{what}.*use centralslice tomo"):
            StarReader().read_particles(ReadRequest(reference / "relion_tomo" / name))


def test_relion_s_own_particles_are_read(reference: Path) -> None:
    found = StarReader().read_particles(ReadRequest(reference / "relion_spa/particles.star"))
    assert len(found) == 300
    assert found.half_set[:4].tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(found.shifts_angst[0], [4.715466, -4.473103])
    assert found.ctf is not None
    assert found.ctf.defocus_u_angst[0] == 17343.177554
    rot, tilt, psi = matrices_to_relion(found.rotations)
    np.testing.assert_allclose([rot[0], tilt[0], psi[0]], [-64.914611, 146.861609, 129.036717])


@pytest.mark.parametrize(
    ("name", "count", "groups", "pixel_angst"),
    [
        ("cryodrgn/relion31.star", 5, 1, 2.806),
        ("cryodrgn/relion31.v2.star", 5, 1, 2.806),
        ("bgal/bgal_clean.star", 500, 1, 3.54),
        ("tomodrgn/10076_classD_32_sim.star", 576, 1, 1.0),
    ],
)
def test_files_of_other_programs_are_read(
    reference: Path, name: str, count: int, groups: int, pixel_angst: float
) -> None:
    found = StarReader().read_particles(ReadRequest(reference / "third_party" / name))
    assert (len(found), len(found.optics)) == (count, groups)
    assert found.optics[0].pixel_size_angst == pixel_angst


def test_six_groups_with_aberrations_are_read(reference: Path, tmp_path: Path) -> None:
    path = reference / "third_party/cryodrgn/relion31.6opticsgroups.star"
    for name in read_star(path).table("particles").texts("rlnImageName"):
        (tmp_path / Path(name.partition("@")[2]).name).touch()
    found = StarReader().read_particles(ReadRequest(path, image_dir=tmp_path))
    assert len(found.optics) == 6
    first = found.optics[0]
    assert first.name == "opticsGroup5"
    assert (len(first.odd_zernike), len(first.even_zernike)) == (6, 9)
    assert first.magnification[:3] == (1.011472, 0.004231, 0.004560)
    assert first.beam_tilt_mrad == (0.657334, 0.884982)


def test_a_projection_s_centre_of_mass_is_the_posed_map_s(reference: Path) -> None:
    folder = reference / "third_party/cryodrgn"
    found = StarReader().read_particles(ReadRequest(folder / "toy_projections_poses.star"))
    volume = MrcReader().read_volume(folder / "toymodel_small_nocenter.mrc").data.astype(np.float64)
    with MrcReader().open_images(found.image_files[0]) as stack:
        images = stack.read(found.image_number).astype(np.float64)
    axis = np.arange(30) - 30 // 2
    sums = [np.einsum(f"zyx,{letter}->", volume, axis) for letter in "xyz"]
    centre = np.array(sums) / volume.sum()
    mass = images.sum(axis=(1, 2))
    seen = np.stack([np.einsum("nyx,x->n", images, axis), np.einsum("nyx,y->n", images, axis)], 1)
    expected = (found.rotations @ centre)[:, :2]
    np.testing.assert_allclose(seen / mass[:, None], expected, atol=0.15)
    assert np.abs(expected).max() > 1.0


def test_images_with_ctf_and_noise_correlate_best_at_the_pose_s_shift(reference: Path) -> None:
    folder = reference / "relion_spa"
    found = StarReader().read_particles(ReadRequest(folder / "particles.star")).take(np.arange(12))
    volume = MrcReader().read_volume(folder / "particles_true.mrc").data.astype(np.float64)
    with MrcReader().open_images(found.image_files[0]) as stack:
        images = np.fft.rfft2(stack.read(found.image_number).astype(np.float64))
    assert found.ctf is not None
    group = found.optics[0]
    size = group.box_size
    transfer = ctf(*slice_frequencies(size, group), group, found.ctf)
    for number, rotation in enumerate(found.rotations):
        # density at r of the turned map is the map's at Rᵀ r; arrays are zyx
        turn = rotation.T[::-1, ::-1]
        centre = np.full(3, size // 2)
        turned = affine_transform(volume, turn, centre - turn @ centre, order=1)
        model = np.fft.rfft2(turned.sum(axis=0)) * transfer[number]
        match = np.fft.irfft2(images[number] * np.conj(model), (size, size))
        row, column = np.unravel_index(np.argmax(match), match.shape)
        seen = [(column + size // 2) % size - size // 2, (row + size // 2) % size - size // 2]
        np.testing.assert_allclose(seen, found.shifts_angst[number] / group.pixel_size_angst, atol=1.0)


class TestStarReader(ReaderContract):
    count = COUNT

    def make(self) -> StarReader:
        return StarReader()

    def write_example(self, folder: Path) -> Path:
        return write(
            folder,
            optics=optics(),
            particles=columns(
                rlnOpticsGroup=[3, 7, 3, 7], rlnRandomSubset=[1, 2, 1, 2],
                rlnOriginXAngst=1.5, rlnOriginYAngst=-2.0,
                rlnDefocusU=1e4, rlnDefocusV=9e3, rlnDefocusAngle=12.0,
            ),
        )  # fmt: skip
