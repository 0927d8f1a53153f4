"""RELION optimisers: models, maps of the half sets, corrections of norm and scale, classes, refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, FormatError, InputError, ParameterError, exit_code
from centralslice.geometry.eulers import relion_to_matrices
from centralslice.jobs.subparticles.source import SourceRequest, SubparticleSource, read_source
from centralslice.plugin.registry import shared_registry
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.readers.relion_optimiser import RelionOptimiserReader
from centralslice_plugins.writers.mrc import MrcWriter

BOX = 8
COUNT = 6
JOB = "Refine3D/job012"
ROT, TILT, PSI = np.linspace(0, 200, COUNT), np.linspace(10, 150, COUNT), np.linspace(-90, 90, COUNT)


def pairs(block: str, values: Mapping[str, Any]) -> str:
    lines = [f"_{label} {value}" for label, value in values.items()]
    return "\n".join([f"data_{block}", "", *lines, "", ""])


def loop(block: str, columns: Mapping[str, Any]) -> str:
    rows = zip(*columns.values(), strict=True)
    labels = [f"_{label} #{number}" for number, label in enumerate(columns, 1)]
    return "\n".join(
        [f"data_{block}", "", "loop_", *labels, *(" ".join(map(str, row)) for row in rows), "", ""]
    )


def write_map(path: Path, box: int = BOX) -> Path:
    data = np.random.default_rng(len(path.name)).normal(size=(box, box, box)).astype(np.float32)
    MrcWriter().write_volume(path, Volume(data, 2.0), VolumeOptions())
    return path


@dataclass
class Job:
    """A project with one refinement in it; attributes are changed before it is written."""

    root: Path
    prefix: str = "run_it005"
    split: bool = True
    classes: int = 1
    optimiser: dict[str, Any] = field(default_factory=dict)
    general: dict[str, Any] = field(default_factory=dict)
    particles: dict[str, Any] = field(default_factory=dict)
    optics: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.root / JOB

    @property
    def path(self) -> Path:
        return self.folder / f"{self.prefix}_optimiser.star"

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{JOB}/{self.prefix}"
        values: dict[str, Any] = {
            "rlnModelStarFile": f"{name}_half1_model.star" if self.split else f"{name}_model.star",
            "rlnExperimentalDataStarFile": f"{name}_data.star",
            "rlnOrientSamplingStarFile": f"{name}_sampling.star",
            "rlnDoSplitRandomHalves": int(self.split),
            "rlnDoCorrectNorm": 1, "rlnDoCorrectScale": 1, "rlnDoCorrectCtf": 1,
            "rlnDoIgnoreCtfUntilFirstPeak": 0, "rlnCtfDataArePhaseFlipped": 0,
        }  # fmt: skip
        if self.split:
            values["rlnModelStarFile2"] = f"{name}_half2_model.star"
        self.path.write_text("# version 50001\n\n" + pairs("optimiser_general", values | self.optimiser))
        for half in ("_half1", "_half2") if self.split else ("",):
            self.write_model(half)
        sampling = {"rlnIs3DSampling": 1, "rlnSymmetryGroup": "D7", "rlnPsiStep": 1.8}
        (self.folder / f"{self.prefix}_sampling.star").write_text(pairs("sampling_general", sampling))
        self.write_data()
        return self.path

    def write_model(self, half: str) -> None:
        maps = [f"{self.prefix}{half}_class{number + 1:03d}.mrc" for number in range(self.classes)]
        for name in maps:
            write_map(self.folder / name)
        second = half == "_half2"
        general = {
            "rlnReferenceDimensionality": 3, "rlnDataDimensionality": 2, "rlnOriginalImageSize": BOX,
            "rlnPixelSize": 2.0, "rlnNrClasses": self.classes, "rlnNrBodies": 1,
            "rlnNormCorrectionAverage": 0.5 if second else 0.8,
        }  # fmt: skip
        scales = [1.1, 0.9] if second else [1.2, 0.7]
        groups = {
            "rlnGroupNumber": [1, 2], "rlnGroupName": ["group_a", "group_b"],
            "rlnGroupScaleCorrection": scales,
        }  # fmt: skip
        text = pairs("model_general", general | self.general)
        text += loop("model_classes", {"rlnReferenceImage": [f"{JOB}/{name}" for name in maps]})
        (self.folder / f"{self.prefix}{half}_model.star").write_text(text + loop("model_groups", groups))

    def write_data(self) -> None:
        stack = self.root / "Extract/mic.mrcs"
        stack.parent.mkdir(exist_ok=True)
        with MrcWriter().create_stack(stack, StackPlan(COUNT, (BOX, BOX), 2.0)) as sink:
            sink.write(0, np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32))
        optics = {
            "rlnOpticsGroupName": ["o1"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [2.0],
            "rlnImageSize": [BOX], "rlnImageDimensionality": [2],
        }  # fmt: skip
        columns: dict[str, Any] = {
            "rlnImageName": [f"{number + 1}@Extract/mic.mrcs" for number in range(COUNT)],
            "rlnAngleRot": ROT, "rlnAngleTilt": TILT, "rlnAnglePsi": PSI,
            "rlnOriginXAngst": np.arange(COUNT) * 0.5, "rlnOriginYAngst": np.arange(COUNT) * -1.0,
            "rlnDefocusU": [10000.0] * COUNT, "rlnDefocusV": [9000.0] * COUNT, "rlnDefocusAngle": [0.0] * COUNT,
            "rlnOpticsGroup": [1] * COUNT, "rlnRandomSubset": [1, 2, 1, 2, 1, 2],
            "rlnClassNumber": [1] * COUNT, "rlnGroupNumber": [1, 1, 2, 2, 1, 2],
            "rlnNormCorrection": [0.4, 0.5, 0.8, 1.0, 1.6, 0.25],
        }  # fmt: skip
        columns |= self.particles
        kept = {label: values for label, values in columns.items() if label not in self.dropped}
        text = loop("optics", optics | self.optics) + loop("particles", kept)
        (self.folder / f"{self.prefix}_data.star").write_text(text)

    def read(self, **options: Any) -> SubparticleSource:
        return read_source(SourceRequest(optimiser=self.path, **options), shared_registry())


class TestRelionOptimiserReader(ReaderContract):
    count = COUNT

    def make(self) -> RelionOptimiserReader:
        return RelionOptimiserReader()

    def write_example(self, folder: Path) -> Path:
        return Job(folder).write()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def refused(action: Callable[[], Any], kind: type[InputError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert exit_code(caught.value) == 2
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_each_half_set_has_its_own_map_and_symmetry_is_that_of_the_sampling(job: Job) -> None:
    job.write()
    found = job.read()
    assert found.maps == {
        1: job.folder / "run_it005_half1_class001.mrc", 2: job.folder / "run_it005_half2_class001.mrc",
    }  # fmt: skip
    assert_array_equal(found.particles.half_set, [1, 2] * 3)
    assert_allclose(found.particles.rotations, relion_to_matrices(ROT, TILT, PSI), atol=1e-12)
    assert_allclose(found.particles.shifts_angst[:, 0], -0.5 * np.arange(COUNT))
    assert_allclose(found.particles.shifts_angst[:, 1], np.arange(COUNT))
    assert (found.symmetry, found.phase_flipped, found.dialect) == ("D7", False, "relion")
    assert (found.mask_all, found.used, found.stem) == (None, None, "particles_subtracted")
    assert found.particles.image_files == (job.root / "Extract/mic.mrcs",)


def test_scale_is_that_of_the_group_times_norm_over_mean_norm_of_the_own_half(job: Job) -> None:
    job.write()
    found = job.read()
    groups = np.array([1.2, 1.1, 0.7, 0.9, 1.2, 0.9])
    average = np.array([0.8, 0.5] * 3)
    norm = np.array([0.4, 0.5, 0.8, 1.0, 1.6, 0.25])
    assert found.scale is not None
    assert found.image_factor is not None
    assert_allclose(found.scale, groups * norm / average)
    assert_allclose(found.image_factor, average / norm)
    assert_allclose(found.scale * found.image_factor, groups)


def test_corrections_that_the_refinement_did_not_make_are_not_made(job: Job) -> None:
    job.optimiser = {"rlnDoCorrectNorm": 0}
    job.write()
    found = job.read()
    assert found.image_factor is None
    assert_allclose(found.scale, [1.2, 1.1, 0.7, 0.9, 1.2, 0.9])  # type: ignore[arg-type]
    job.optimiser = {"rlnDoCorrectNorm": 0, "rlnDoCorrectScale": 0}
    job.write()
    assert job.read().scale is None
    job.optimiser = {"rlnDoCorrectScale": 0}
    job.write()
    assert_allclose(job.read().scale, 1.0 / job.read().image_factor)  # type: ignore[arg-type, operator]


def test_groups_are_found_by_name_where_particles_have_no_numbers(job: Job) -> None:
    job.dropped = ("rlnGroupNumber",)
    job.optimiser = {"rlnDoCorrectNorm": 0}
    job.particles = {"rlnGroupName": ["group_b"] * 3 + ["group_a"] * 3}
    job.write()
    assert_allclose(job.read().scale, [0.7, 0.9, 0.7, 1.1, 1.2, 1.1])  # type: ignore[arg-type]
    job.particles = {"rlnGroupName": ["group_c"] * COUNT}
    job.write()
    refused(job.read, FormatError, "no group named group_c")


def test_a_group_the_model_does_not_have_is_refused(job: Job) -> None:
    job.particles = {"rlnGroupNumber": [1, 1, 2, 2, 1, 9]}
    job.write()
    refused(job.read, FormatError, "half2_model.star", "no group 9")


def test_phase_flipped_and_premultiplied_data_are_known(job: Job) -> None:
    job.optimiser = {"rlnCtfDataArePhaseFlipped": 1}
    job.optics = {"rlnCtfDataAreCtfPremultiplied": [1]}
    job.write()
    found = job.read()
    assert found.phase_flipped is True
    assert found.particles.optics[0].ctf_premultiplied is True


def test_data_refined_without_ctf_have_none(job: Job) -> None:
    job.optimiser = {"rlnDoCorrectCtf": 0, "rlnDoIgnoreCtfUntilFirstPeak": 1}
    job.write()
    found = job.read()
    assert found.particles.ctf is None
    assert any("without CTF correction" in note for note in found.notes)
    assert any("until their first peak" in note for note in found.notes)


def test_the_unfiltered_halves_beside_a_converged_optimiser_are_used_and_said(job: Job) -> None:
    job.prefix, job.split = "run", False
    job.write()
    halves = [write_map(job.folder / f"run_half{half}_class001_unfil.mrc") for half in (1, 2)]
    found = job.read()
    assert found.maps == {0: job.folder / "run_class001.mrc", 1: halves[0], 2: halves[1]}
    assert any("has converged" in note and "run_half1_class001_unfil.mrc" in note for note in found.notes)
    assert job.read(reference="combined").maps == {0: job.folder / "run_class001.mrc"}


def test_a_joint_map_for_both_half_sets_is_warned_of(job: Job) -> None:
    job.prefix, job.split = "run", False
    job.write()
    found = job.read()
    assert set(found.maps) == {0}
    assert any(note.startswith("warning: ") and "do not stay independent" in note for note in found.notes)
    job.dropped = ("rlnRandomSubset",)
    job.write()
    assert not any(note.startswith("warning: ") for note in job.read().notes)


def test_one_of_several_classes_is_chosen_with_its_particles(job: Job) -> None:
    job.split, job.classes, job.dropped = False, 3, ("rlnRandomSubset",)
    job.particles = {"rlnClassNumber": [1, 3, 3, 2, 3, 1]}
    job.write()
    refused(job.read, ParameterError, "3 classes", "--class")
    refused(lambda: job.read(class_number=4), ParameterError, "--class 4", "1 … 3")
    found = job.read(class_number=3)
    assert found.maps == {0: job.folder / "run_it005_class003.mrc"}
    assert_array_equal(found.particles.source_row, [1, 2, 4])
    assert_allclose(found.scale, np.array([1.2, 0.7, 1.2]) * np.array([0.5, 0.8, 1.6]) / 0.8)  # type: ignore[arg-type]
    assert any("3 of 6 particles are of class 3" in note for note in found.notes)
    everything = job.read(class_number=3, ignore_class=True)
    assert len(everything.particles) == COUNT
    refused(lambda: job.read(ignore_class=True), ParameterError, "--class")
    job.particles = {"rlnClassNumber": [2] * COUNT}
    job.write()
    assert job.read().maps == {0: job.folder / "run_it005_class002.mrc"}
    refused(lambda: job.read(class_number=1), FormatError, "no particle is of class 1")


def test_other_particles_can_be_given(job: Job, tmp_path: Path) -> None:
    job.write()
    text = (job.folder / "run_it005_data.star").read_text().splitlines()
    subset = tmp_path / "subset.star"
    subset.write_text("\n".join(line for line in text if not line.startswith(("1@", "2@"))) + "\n")
    found = job.read(data=subset)
    assert len(found.particles) == COUNT - 2
    assert found.particles.source == subset


def test_a_multi_body_refinement_is_refused_with_the_reason(job: Job) -> None:
    job.optimiser = {"rlnBodyStarFile": "bodies.star"}
    job.write()
    refused(job.read, FormatError, "multi-body", "bodies.star", "consensus")
    job.optimiser = {"rlnBodyStarFile": "None"}
    job.write()
    job.read()
    job.general = {"rlnNrBodies": 2}
    job.write()
    refused(job.read, FormatError, "multi-body", "rlnNrBodies")


def test_class_averages_are_refused_as_references(job: Job) -> None:
    job.general = {"rlnReferenceDimensionality": 2}
    job.write()
    refused(job.read, FormatError, "rlnReferenceDimensionality", "2D class averages")


def test_particles_in_a_single_table_of_old_relion_are_read(job: Job) -> None:
    job.write()
    columns = {
        "rlnImageName": [f"{number + 1}@Extract/mic.mrcs" for number in range(COUNT)],
        "rlnAngleRot": ROT, "rlnAngleTilt": TILT, "rlnAnglePsi": PSI,
        "rlnOriginX": np.arange(COUNT) * 0.25, "rlnOriginY": np.zeros(COUNT),
        "rlnDefocusU": [10000.0] * COUNT, "rlnDefocusV": [9000.0] * COUNT, "rlnDefocusAngle": [0.0] * COUNT,
        "rlnVoltage": [300.0] * COUNT, "rlnSphericalAberration": [2.7] * COUNT,
        "rlnAmplitudeContrast": [0.1] * COUNT, "rlnMagnification": [10000.0] * COUNT,
        "rlnDetectorPixelSize": [2.0] * COUNT, "rlnRandomSubset": [1, 2] * 3, "rlnGroupNumber": [1, 2] * 3,
        "rlnNormCorrection": [1.0] * COUNT,
    }  # fmt: skip
    (job.folder / "run_it005_data.star").write_text(loop("", columns))
    found = job.read()
    assert_allclose(found.particles.shifts_angst[:, 0], -0.5 * np.arange(COUNT))
    assert (found.particles.optics[0].pixel_size_angst, found.particles.optics[0].box_size) == (2.0, BOX)


def test_a_job_that_was_moved_is_read_from_its_own_folder(job: Job, tmp_path: Path) -> None:
    job.write()
    moved = tmp_path / "elsewhere"
    job.folder.rename(moved)
    found = read_source(
        SourceRequest(optimiser=moved / job.path.name, image_dir=job.root / "Extract"), shared_registry()
    )
    assert found.maps[1] == moved / "run_it005_half1_class001.mrc"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("run_it005_half2_model.star", "half2_model"),
        ("run_it005_data.star", "data.star"),
        ("run_it005_half1_class001.mrc", "half1_class001"),
    ],
)
def test_a_file_that_is_missing_is_named(job: Job, name: str, word: str) -> None:
    job.write()
    (job.folder / name).unlink()
    refused(job.read, FileMissingError, word)


def test_a_missing_sampling_file_leaves_the_symmetry_open(job: Job) -> None:
    job.write()
    (job.folder / "run_it005_sampling.star").unlink()
    found = job.read()
    assert found.symmetry is None
    assert any("symmetry is not known" in note for note in found.notes)


def test_files_that_are_no_optimiser_are_refused(job: Job, tmp_path: Path) -> None:
    job.write()
    registry = shared_registry()
    data = job.folder / "run_it005_data.star"
    refused(lambda: read_source(SourceRequest(optimiser=data), registry), FormatError, "run_it005_data.star")
    refused(lambda: read_source(SourceRequest(folder=job.path), registry), FormatError, "--i")
    absent = tmp_path / "absent_optimiser.star"
    refused(lambda: read_source(SourceRequest(optimiser=absent), registry), FileMissingError, absent.name)
    job.path.write_text(pairs("optimiser_general", {"rlnDoSplitRandomHalves": 0}))
    refused(job.read, FormatError, "rlnModelStarFile")


def test_tables_without_rows_and_numbers_that_are_none_are_refused(job: Job) -> None:
    job.particles = {"rlnGroupNumber": [1, 1, "nan", 2, 1, 2]}
    job.write()
    refused(job.read, FormatError, "rlnGroupNumber")
    job.particles = {}
    job.write()
    path = job.folder / "run_it005_half1_model.star"
    whole = path.read_text()
    path.write_text(
        whole.split("data_model_groups")[0] + loop("model_groups", {"rlnGroupScaleCorrection": []})
    )
    assert any("no group scale corrections" in note for note in job.read().notes)
    path.write_text(whole.split("data_model_classes")[0] + loop("model_classes", {"rlnReferenceImage": []}))
    refused(job.read, FormatError, "half1_model.star", "model_classes")
    labels = {"rlnReferenceDimensionality": [], "rlnNormCorrectionAverage": []}
    path.write_text(
        loop("model_general", labels) + "data_model_classes" + whole.split("data_model_classes")[1]
    )
    job.read()
    sampling = job.folder / "run_it005_sampling.star"
    sampling.write_text(loop("sampling_general", {"rlnSymmetryGroup": []}))
    assert job.read().symmetry is None


@pytest.mark.parametrize("value", ["0", "-1.5", "nan"])
def test_a_norm_that_cannot_be_is_refused_with_its_row(job: Job, value: str) -> None:
    job.particles = {"rlnNormCorrection": [1.0, value, *[1.0] * (COUNT - 2)]}
    job.write()
    refused(job.read, FormatError, "row 2", "rlnNormCorrection")


def test_maps_of_another_box_are_refused(job: Job) -> None:
    job.write()
    write_map(job.folder / "run_it005_half2_class001.mrc", BOX + 2)
    refused(job.read, FormatError, "half2_class001.mrc", "10 voxels")
    write_map(job.folder / "run_it005_half1_class001.mrc", BOX + 2)
    refused(job.read, FormatError, "half1_class001.mrc", "8 px")


def test_images_of_another_box_than_the_optics_table_says_are_refused(job: Job) -> None:
    job.optics = {"rlnImageSize": [BOX * 2]}
    job.write()
    refused(job.read, FormatError, "16 px", "8 px")


def test_a_given_mask_must_fit(job: Job, tmp_path: Path) -> None:
    job.write()
    mask = write_map(tmp_path / "mask.mrc")
    assert job.read(mask_all=mask).mask_all == mask
    wrong = write_map(tmp_path / "wrong.mrc", BOX - 2)
    refused(lambda: job.read(mask_all=wrong), FormatError, "wrong.mrc", "mask", "6 voxels")
    refused(lambda: job.read(mask_all=tmp_path / "absent.mrc"), FileMissingError, "absent.mrc")
