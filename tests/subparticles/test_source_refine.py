"""EMAN2 refine_XX folders: poses of aligned particles, files of iterations, half sets, and what can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import affine_transform

from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, FormatError, InputError, exit_code
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.jobs.subparticles.source import SourceRequest, SubparticleSource, read_source
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform
from centralslice_plugins.formats.eman2_refine import poses_of_aligned
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter

BOX = 8
VIEWS = eman2_to_matrices([0.0, 40.0, 200.0, 310.0], [0.0, 35.0, 80.0, 145.0], 0.0)
CTF = Eman2Ctf(1.5, 0.2, 30.0, 50.0, 10.0, 300.0, 2.7, 2.0)


def transform(rotation: np.ndarray, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Transform:
    return Transform(np.column_stack([rotation, shift]))


def write_stack(path: Path, headers: list[dict[str, Any]], box: int = BOX) -> Path:
    with Eman2HdfWriter().create_stack(path, StackPlan(len(headers), (box, box), 2.0)) as sink:
        sink.write(0, np.random.default_rng(1).normal(size=(len(headers), box, box)).astype(np.float32))
        for number, header in enumerate(headers):
            sink.write_attributes(number, header)
    return path


def write_map(path: Path, box: int = BOX) -> Path:
    data = np.random.default_rng(2).normal(size=(box, box, box)).astype(np.float32)
    Eman2HdfWriter().write_volume(path, Volume(data, 2.0), VolumeOptions(bits=-1))
    return path


def write_layers(path: Path, layers: np.ndarray) -> Path:
    """(6, n) values as a classification file."""
    images = np.ascontiguousarray(layers[:, :, None], np.float32)
    with Eman2HdfWriter().create_stack(path, StackPlan(len(layers), images.shape[1:], 1.0)) as sink:
        sink.write(0, images)
    return path


def alignments(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.array(
        [
            random.integers(len(VIEWS), size=count), np.ones(count),
            *random.uniform(-3, 3, size=(2, count)), random.uniform(0, 360, size=count),
            random.integers(2, size=count),
        ]
    )  # fmt: skip


@dataclass
class Project:
    """A project folder with a refinement in it, and its alignments by half."""

    root: Path
    layers: dict[str, np.ndarray]

    @property
    def folder(self) -> Path:
        return self.root / "refine_03"

    def read(self, **options: Any) -> SubparticleSource:
        return read_source(SourceRequest(folder=self.folder, **options), shared_registry())

    def settings(self, **changes: Any) -> None:
        path = self.folder / "0_refine_parms.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def make_project(root: Path) -> Project:
    folder, images = root / "refine_03", root / "particles"
    for path in (folder, images, root / "sets"):
        path.mkdir()
    layers = {"even": alignments(5, 3), "odd": alignments(4, 4)}
    for parity, values in layers.items():
        count = values.shape[1]
        header = {"ctf": CTF, "xform.projection": transform(np.eye(3))}
        write_stack(images / f"mic_{parity}.hdf", [header] * count)
        rows = [f"{number}\tparticles/mic_{parity}.hdf" for number in reversed(range(count))]
        (root / f"sets/all__ctf_flip_{parity}.lst").write_text(
            "\n".join(["#LST", "# x", "# 40", *rows]) + "\n"
        )
        for iteration in ("01", "02"):
            write_layers(folder / f"classmx_{iteration}_{parity}.hdf", values)
            views = [{"xform.projection": transform(view)} for view in VIEWS]
            write_stack(folder / f"projections_{iteration}_{parity}.hdf", views)
            write_map(folder / f"threed_{iteration}_{parity}.hdf")
    for name in ("threed_01", "threed_02", "mask"):
        write_map(folder / f"{name}.hdf")
    content = {
        "input": ["sets/all__ctf_flip_even.lst", "sets/all__ctf_flip_odd.lst"],
        "sym": "d2", "apix": 0.0, "astep": 4.0, "eulerrefine": False,
    }  # fmt: skip
    (folder / "0_refine_parms.json").write_text(json.dumps(content))
    return Project(root, layers)


def refused(action: Callable[[], Any], kind: type[InputError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert exit_code(caught.value) == 2
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


ANGLES = st.floats(-360, 360)


@settings(deadline=None)
@given(
    euler=st.tuples(ANGLES, st.floats(0, 180), ANGLES),
    alpha=ANGLES,
    shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    mirror=st.booleans(),
)
def test_a_pose_puts_every_density_where_the_alignment_to_the_projection_does(
    euler: tuple[float, float, float], alpha: float, shift: tuple[float, float], mirror: bool
) -> None:
    view = eman2_to_matrices(*euler)
    rotations, shifts = poses_of_aligned(view, np.array([shift]), np.array([alpha]), np.array([mirror]))
    assert np.linalg.det(rotations[0]) == pytest.approx(1.0, abs=1e-12)
    assert_allclose(rotations[0] @ rotations[0].T, np.eye(3), atol=1e-12)
    points = np.random.default_rng(0).normal(size=(3, 20)) * 20
    image = (rotations[0] @ points)[:2] + shifts[0][:, None]
    angle = np.deg2rad(alpha)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    aligned = turn @ image + np.array(shift)[:, None]
    if mirror:
        aligned[0] *= -1
    assert_allclose(aligned, (view[0] @ points)[:2], atol=1e-10)


def test_the_reference_folder_gives_the_true_alignments(reference: Path) -> None:
    folder = reference / "subparticles"
    found = read_source(SourceRequest(folder=folder / "refine_01", iteration=1), shared_registry())
    truth = json.loads((folder / "truth.json").read_text())
    assert [len(truth["rows"][parity]) for parity in ("even", "odd")] == [12, 12]
    rows = [row for parity in ("even", "odd") for row in truth["rows"][parity]]
    views = eman2_to_matrices(*([euler[name] for euler in truth["eulers"]] for name in ("az", "alt", "phi")))[
        [row["cls"] for row in rows]
    ]
    columns = found.particles.columns
    assert_allclose(columns["class_rotation"], views, atol=1e-6)
    for name, key in (("class_tx", "tx"), ("class_ty", "ty"), ("class_alpha_deg", "alpha")):
        assert_allclose(columns[name], [row[key] for row in rows], atol=1e-4)
    angle = np.deg2rad([row["alpha"] for row in rows])
    for place, row in enumerate(rows):
        # the inverse of the alignment, one matrix at a time
        cosine, sine = np.cos(angle[place]), np.sin(angle[place])
        back = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        flip = np.diag([-1.0, 1, -1]) if row["mirror"] else np.eye(3)
        assert_allclose(found.particles.rotations[place], back @ flip @ views[place], atol=1e-4)
        shift = -2.0 * (back @ [row["tx"], row["ty"], 0])[:2]
        assert_allclose(found.particles.shifts_angst[place], shift, atol=1e-4)
    assert (found.symmetry, found.stem, found.phase_flipped) == ("d7", "subptcl_01_1__ctf_flip", True)
    assert set(found.maps) == {0}
    assert found.mask_all == folder / "refine_01/mask.hdf"


def test_maps_projected_at_the_poses_are_the_particles_of_the_reference(reference: Path) -> None:
    folder = reference / "subparticles"
    found = read_source(SourceRequest(folder=folder / "refine_01"), shared_registry())
    reader, particles = Eman2HdfReader(), found.particles
    volume = reader.read_volume(found.maps[0]).data.astype(float)
    centre = np.full(3, 24.0)
    correlations = []
    for row in range(len(particles)):
        # image voxel (z, y, x) is the map at Aᵀ (x − s)
        inverse = particles.rotations[row].T[::-1, ::-1]
        shift = np.array([0.0, *particles.shifts_angst[row][::-1] / 2.0])
        turned = affine_transform(volume, inverse, centre - inverse @ (centre + shift), order=1)
        with reader.open_images(particles.image_files[particles.file_number[row]]) as stack:
            image = stack.read(particles.image_number[row : row + 1])[0]
        correlations.append(np.corrcoef(turned.sum(axis=0).ravel(), image.ravel())[0, 1])
    assert min(correlations) > 0.97


def test_even_particles_are_half_one_in_the_order_of_their_list(project: Project) -> None:
    found = project.read(iteration=1)
    particles = found.particles
    assert_array_equal(particles.half_set, [1] * 5 + [2] * 4)
    assert_array_equal(particles.source_row, [*range(5), *range(4)])
    assert_array_equal(particles.image_number, [4, 3, 2, 1, 0, 3, 2, 1, 0])
    assert [path.name for path in particles.image_files] == ["mic_even.hdf", "mic_odd.hdf"]
    assert {half: path.name for half, path in found.maps.items()} == {
        0: "threed_01.hdf", 1: "threed_01_even.hdf", 2: "threed_01_odd.hdf",
    }  # fmt: skip
    layers = np.concatenate([project.layers["even"], project.layers["odd"]], axis=1)
    wanted, shifts = poses_of_aligned(VIEWS[layers[0].astype(int)], layers[2:4].T, layers[4], layers[5] == 1)
    assert_allclose(particles.rotations, wanted, atol=1e-5)
    assert_allclose(particles.shifts_angst, 2.0 * shifts, atol=1e-5)
    assert (found.symmetry, found.angular_step_deg, found.used) == ("d2", 4.0, None)


def test_optics_and_defocus_come_from_the_particles_headers(project: Project) -> None:
    particles = project.read().particles
    (group,) = particles.optics
    assert (group.pixel_size_angst, group.box_size, group.voltage_kv) == (2.0, BOX, 300.0)
    assert particles.ctf is not None
    assert_allclose(particles.ctf.defocus_u_angst, 16000.0)
    assert_allclose(particles.ctf.defocus_v_angst, 14000.0)


def test_the_latest_complete_iteration_is_taken_unless_one_is_named(project: Project) -> None:
    write_map(project.folder / "threed_03.hdf")  # of an iteration that was stopped
    assert project.read().stem == "subptcl_03_2__ctf_flip"
    assert project.read(iteration=1).stem == "subptcl_03_1__ctf_flip"
    assert any("mask.hdf is of the last iteration" in note for note in project.read(iteration=1).notes)
    assert not any("mask.hdf" in note for note in project.read(iteration=2).notes)


def test_a_folder_is_found_however_it_is_written(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = project.read()
    monkeypatch.chdir(project.root)
    for text in ("refine_03", "./refine_03", "refine_03/", "../" + project.root.name + "/refine_03"):
        found = read_source(SourceRequest(folder=Path(text)), shared_registry())
        assert found.stem == wanted.stem
        assert_array_equal(found.particles.rotations, wanted.particles.rotations)
    monkeypatch.chdir(project.folder)
    assert read_source(SourceRequest(folder=Path(".")), shared_registry()).stem == wanted.stem


def test_refined_alignments_and_their_used_flags_are_preferred(project: Project) -> None:
    for parity, values in project.layers.items():
        better = values.copy()
        better[4] += 3.0
        better[1, 0] = 0.0
        write_layers(project.folder / f"cls_result_02_{parity}.hdf", better)
    found = project.read()
    assert_array_equal(found.used, [False, *[True] * 4, False, *[True] * 3])
    first = project.read(alignments="classmx")
    assert first.used is None
    turned = found.particles.rotations @ np.swapaxes(first.particles.rotations, 1, 2)
    assert_allclose(np.rad2deg(np.arccos(turned[:, 0, 0])), 3.0, atol=1e-3)
    assert any("2 of 9 particles are in no class average" in note for note in found.notes)


def test_refined_angles_of_class_averages_count_only_after_eulerrefine(project: Project) -> None:
    refined = eman2_to_matrices([5.0, 45.0], [3.0, 38.0], 0.0)
    for parity in ("even", "odd"):
        headers = [
            {"xform.projection": transform(rotation), "projection_image_idx": place}
            for rotation, place in zip(refined[::-1], (1, 0), strict=True)
        ]
        write_stack(project.folder / f"classes_02_{parity}.hdf", headers)
    assert_allclose(
        project.read().particles.columns["class_rotation"],
        VIEWS[project.read().particles.columns["class_number"]],
        atol=1e-6,
    )
    project.settings(eulerrefine=True)
    columns = project.read().particles.columns
    wanted = np.concatenate([refined, VIEWS[2:]])
    assert_allclose(columns["class_rotation"], wanted[columns["class_number"]], atol=1e-6)


def test_the_refinements_pixel_size_overrides_the_headers_and_says_so(project: Project) -> None:
    project.settings(apix=1.9)
    found = project.read()
    assert found.particles.optics[0].pixel_size_angst == 1.9
    assert any("say another pixel size than 1.9" in note for note in found.notes)


def test_flipped_phases_are_known_by_header_or_by_file_name(project: Project) -> None:
    assert project.read().phase_flipped is True
    for parity, count in (("even", 5), ("odd", 4)):
        shutil.move(
            project.root / f"sets/all__ctf_flip_{parity}.lst", project.root / f"sets/all_{parity}.lst"
        )
        write_stack(project.root / f"particles/mic_{parity}.hdf", [{"ctf": CTF}] * count)
    project.settings(input=["sets/all_even.lst", "sets/all_odd.lst"])
    found = project.read()
    assert (found.phase_flipped, found.stem) == (None, "subptcl_03_2__all")
    for value, wanted in ((1, True), (0, False)):
        for parity, count in (("even", 5), ("odd", 4)):
            header = {"ctf_phase_flipped": value}
            write_stack(project.root / f"particles/mic_{parity}.hdf", [header] * count)
        assert project.read().phase_flipped is wanted
    write_stack(project.root / "particles/mic_even.hdf", [{"ctf_phase_flipped": 1}] * 5)
    refused(project.read, FormatError, "5 of 9 images are phase flipped")


def test_different_views_of_the_halves_are_read_separately_and_noted(project: Project) -> None:
    other = eman2_to_matrices([1.0, 41.0, 201.0, 311.0], [1.0, 36.0, 81.0, 146.0], 0.0)
    write_stack(
        project.folder / "projections_02_odd.hdf", [{"xform.projection": transform(view)} for view in other]
    )
    found = project.read()
    columns = found.particles.columns
    assert_allclose(columns["class_rotation"][5:], other[columns["class_number"][5:]], atol=1e-6)
    assert any("different angles" in note for note in found.notes)


def test_given_maps_stand_in_place_of_the_refinements(project: Project, tmp_path: Path) -> None:
    given = [write_map(tmp_path / f"{name}.hdf") for name in ("full", "one", "two")]
    assert project.read(map=given[0]).maps == {0: given[0]}
    found = project.read(half1=given[1], half2=given[2])
    assert found.maps == {0: project.folder / "threed_02.hdf", 1: given[1], 2: given[2]}
    assert project.read(reference="combined").maps == {0: project.folder / "threed_02.hdf"}
    assert project.read(mask_all=given[0]).mask_all == given[0]


def test_an_iteration_that_is_not_there_is_refused_with_a_list_of_those_that_are(project: Project) -> None:
    refused(lambda: project.read(iteration=7), FormatError, "no iteration 7", "1, 2")


def test_a_missing_odd_file_of_the_iteration_is_named(project: Project) -> None:
    (project.folder / "classmx_02_odd.hdf").unlink()
    refused(
        lambda: project.read(iteration=2), FileMissingError, "classmx_02_odd.hdf", "complete iterations: 1"
    )
    assert project.read().stem == "subptcl_03_1__ctf_flip"


def test_a_missing_odd_stack_is_named(project: Project) -> None:
    (project.root / "particles/mic_odd.hdf").unlink()
    refused(project.read, FileMissingError, "mic_odd.hdf")


def test_a_missing_odd_list_is_named(project: Project) -> None:
    (project.root / "sets/all__ctf_flip_odd.lst").unlink()
    refused(project.read, FileMissingError, "all__ctf_flip_odd.lst")


def test_folders_without_a_refinement_are_refused(tmp_path: Path) -> None:
    empty, other = tmp_path / "refine_01", tmp_path / "refine_02"
    empty.mkdir()
    other.mkdir()
    (other / "notes.txt").write_text("x")

    def reading(folder: Path) -> Callable[[], Any]:
        return lambda: read_source(SourceRequest(folder=folder), shared_registry())

    refused(reading(empty), FormatError, "is empty")
    refused(reading(other), FormatError, "refine_02")
    refused(reading(tmp_path / "refine_09"), FileMissingError, "refine_09", "does not exist")
    (other / "0_refine_parms.json").write_text('{"input": ["a.lst", "b.lst"]}')
    refused(reading(other), FormatError, "no complete iteration", "classmx_NN_even.hdf")


def test_parameters_that_are_no_json_are_refused(project: Project) -> None:
    path = project.folder / "0_refine_parms.json"
    path.write_text('{"input": [')
    refused(project.read, FormatError, "0_refine_parms.json", "JSON")
    path.write_text('{"input": "all.lst"}')
    refused(project.read, FormatError, "'input'", "even and the odd")
    path.unlink()
    refused(project.read, FileMissingError, "0_refine_parms.json")


@pytest.mark.parametrize("number", [-1, len(VIEWS)])
def test_a_class_that_no_projection_is_of_is_refused(project: Project, number: int) -> None:
    values = project.layers["odd"].copy()
    values[0, 2] = number
    write_layers(project.folder / "classmx_02_odd.hdf", values)
    refused(project.read, FormatError, "classmx_02_odd.hdf", "row 3", f"class {number} ", "of the 4")


@pytest.mark.parametrize(("layer", "value"), [(0, 1.5), (5, 2.0), (2, np.nan), (4, 1e12)])
def test_values_that_cannot_be_are_refused_with_their_row(project: Project, layer: int, value: float) -> None:
    values = project.layers["even"].copy()
    values[layer, 1] = value
    write_layers(project.folder / "classmx_02_even.hdf", values)
    refused(project.read, FormatError, "classmx_02_even.hdf", "row 2")


def test_counts_that_differ_are_refused(project: Project) -> None:
    write_layers(project.folder / "classmx_02_even.hdf", project.layers["even"][:, :4])
    refused(project.read, FormatError, "4 particles", "all__ctf_flip_even.lst holds 5")


def test_a_classification_with_too_few_layers_is_refused(project: Project) -> None:
    write_layers(project.folder / "classmx_02_even.hdf", project.layers["even"][:4])
    refused(project.read, FormatError, "has 4 images", "classification")


def test_projections_without_orientations_are_refused(project: Project) -> None:
    write_stack(project.folder / "projections_02_even.hdf", [{}] * len(VIEWS))
    refused(project.read, FormatError, "projections_02_even.hdf", "xform.projection")


@pytest.mark.parametrize("name", ["threed_02.hdf", "threed_02_odd.hdf", "mask.hdf"])
def test_a_map_or_mask_of_another_box_is_refused(project: Project, name: str) -> None:
    write_map(project.folder / name, BOX + 2)
    refused(project.read, FormatError, "10", "8", name.split("_")[0])


def test_particles_of_another_box_are_refused(project: Project) -> None:
    for parity, count in (("even", 5), ("odd", 4)):
        write_stack(project.root / f"particles/mic_{parity}.hdf", [{}] * count, BOX + 4)
    refused(project.read, FormatError, "threed_02.hdf", "12 px")


def test_particles_of_several_boxes_are_told_apart_by_their_headers(project: Project) -> None:
    write_stack(project.root / "particles/mic_odd.hdf", [{"ctf": CTF}] * 4, BOX + 4)
    found = project.read()
    assert sorted(group.box_size for group in found.particles.optics) == [BOX, BOX + 4]
    assert any("box of 12 px, the map 8" in note for note in found.notes)


@pytest.mark.parametrize(
    "name", ["classmx_02_even.hdf", "projections_02_odd.hdf", "threed_02.hdf", "mask.hdf"]
)
def test_a_file_that_was_cut_off_is_refused_in_one_line(project: Project, name: str) -> None:
    path = project.folder / name
    path.write_bytes(path.read_bytes()[:700])
    refused(project.read, FormatError, name)
