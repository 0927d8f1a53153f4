"""cryoSPARC particle metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from centralslice.abc.reader import ReadRequest
from centralslice.data.particles import Particles
from centralslice.errors import FileMissingError, FormatError
from centralslice.geometry.eulers import matrices_to_relion
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.formats.cryosparc import read_cs
from centralslice_plugins.formats.star import read_star
from centralslice_plugins.readers.cryosparc import CryosparcReader
from centralslice_plugins.readers.star import StarReader
from centralslice_plugins.writers.star import StarWriter

COUNT = 4


def fields(**changed: Any) -> dict[str, Any]:
    """Fields of four particles, ``/`` in names written ``__``; None leaves one out."""
    random = np.random.default_rng(5)
    given: dict[str, Any] = {
        "uid": np.array([11, 2**63 + 5, 7, 3], np.uint64),
        "blob__path": np.array([b">J1/imported/000090334788266266069_a.mrcs"] * 2 + [b"J1/b.mrc"] * 2),
        "blob__idx": np.array([0, 5, 1, 0], np.uint32),
        "blob__shape": np.full((COUNT, 2), 64, np.uint32),
        "blob__psize_A": np.full(COUNT, 1.345, np.float32),
        "blob__sign": np.ones(COUNT, np.float32),
        "ctf__exp_group_id": np.array([4, 4, 9, 4], np.uint32),
        "ctf__accel_kv": np.full(COUNT, 300, np.float32),
        "ctf__cs_mm": np.full(COUNT, 2.7, np.float32),
        "ctf__amp_contrast": np.full(COUNT, 0.1, np.float32),
        "ctf__df1_A": np.array([1e4, 2e4, 3e4, 4e4], np.float32),
        "ctf__df2_A": np.array([0.9e4, 2e4, 2.5e4, 4e4], np.float32),
        "ctf__df_angle_rad": np.array([0, 0.5, -0.5, 1], np.float32),
        "ctf__phase_shift_rad": np.full(COUNT, np.pi / 2, np.float32),
        "ctf__bfactor": np.array([0, 1, 2, 3], np.float32),
        "ctf__scale": np.array([1, 1, 0.5, 1], np.float32),
        "ctf__tilt_A": np.zeros((COUNT, 2), np.float32),
        "ctf__anisomag": np.zeros((COUNT, 4), np.float32),
        "alignments3D__pose": random.normal(size=(COUNT, 3)).astype(np.float32),
        "alignments3D__shift": np.array([[1, -2], [0, 0], [0.5, 3], [-1, 1]], np.float32),
        "alignments3D__psize_A": np.full(COUNT, 2.69, np.float32),
        "alignments3D__split": np.array([0, 1, 1, 0], np.uint32),
        "alignments3D__class": np.array([0, 2, 0, 1], np.uint32),
    } | changed  # fmt: skip
    return {name.replace("__", "/"): np.asarray(v) for name, v in given.items() if v is not None}


def save(path: Path, values: dict[str, Any]) -> Path:
    records = np.zeros(
        len(next(iter(values.values()))), [(name, v.dtype, v.shape[1:]) for name, v in values.items()]
    )
    for name, column in values.items():
        records[name] = column
    with path.open("wb") as file:
        np.save(file, records)
    return path


def images(folder: Path) -> None:
    (folder / "J1/imported").mkdir(parents=True, exist_ok=True)
    (folder / "J1/imported/a.mrcs").touch()
    (folder / "J1/b.mrc").touch()


def read(folder: Path, **changed: Any) -> Particles:
    images(folder)
    path = save(folder / "cryosparc_P1_J12_003_particles.cs", fields(**changed))
    return CryosparcReader().read_particles(ReadRequest(path))


def test_poses_are_the_transposed_exponential_map_and_shifts_minus_pixels(tmp_path: Path) -> None:
    found = read(tmp_path)
    pose = fields()["alignments3D/pose"].astype(np.float64)
    expected = np.swapaxes(Rotation.from_rotvec(pose).as_matrix(), 1, 2)
    np.testing.assert_allclose(found.rotations, expected, atol=1e-12)
    shifts = -2.69 * np.array([[1, -2], [0, 0], [0.5, 3], [-1, 1]])
    np.testing.assert_allclose(found.shifts_angst, shifts, rtol=1e-12)


def test_shifts_are_in_image_pixels_where_the_alignment_says_no_other(tmp_path: Path) -> None:
    found = read(tmp_path, alignments3D__psize_A=None)
    np.testing.assert_allclose(found.shifts_angst[0], [-1.345, 2.69], rtol=1e-12)


def test_image_paths_lose_their_arrow_and_their_number(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert [path.name for path in found.image_files] == ["a.mrcs", "b.mrc"]
    assert found.file_number.tolist() == [0, 0, 1, 1]
    assert found.image_number.tolist() == [0, 5, 1, 0]


def test_halves_classes_and_groups_are_taken_over(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.half_set.tolist() == [1, 2, 2, 1]
    assert found.model_number.tolist() == [0, 2, 0, 1]
    assert found.optics_group.tolist() == [0, 0, 1, 0]
    first = found.optics[0]
    assert first.name == "exposure group 4"
    # the shortest decimals that are these float32 numbers
    assert (first.pixel_size_angst, first.box_size, first.voltage_kv) == (1.345, 64, 300.0)
    assert (first.spherical_aberration_mm, first.amplitude_contrast) == (2.7, 0.1)
    assert found.notes == ()


def test_ctf_angles_become_degrees(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.ctf is not None
    np.testing.assert_array_equal(found.ctf.defocus_v_angst, [0.9e4, 2e4, 2.5e4, 4e4])
    np.testing.assert_allclose(found.ctf.defocus_angle_deg, np.rad2deg([0, 0.5, -0.5, 1]), rtol=1e-6)
    np.testing.assert_allclose(found.ctf.phase_shift_deg, 90.0, rtol=1e-6)
    np.testing.assert_array_equal(found.ctf.bfactor_angst2, [0, 1, 2, 3])
    np.testing.assert_array_equal(found.ctf.scale, [1, 1, 0.5, 1])


def test_what_is_not_applied_is_noted_where_it_is_not_nothing(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        ctf__tilt_A=np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.float32),
        ctf__anisomag=np.eye(4, dtype=np.float32),
        alignments3D__alpha=np.array([1, 1, 1, 0.9], np.float32),
        blob__sign=-np.ones(COUNT, np.float32),
    )
    beginnings = [
        "beam tilt (ctf/tilt_A) of 2 ", "anisotropic magnification (ctf/anisomag) of 4 ",
        "per-particle scale (alignments3D/alpha) of 1 ", "images of ",
    ]  # fmt: skip
    assert [note.startswith(text) for note, text in zip(found.notes, beginnings, strict=True)] == [True] * 4


def test_fields_of_the_passthrough_file_are_joined_by_uid(tmp_path: Path) -> None:
    whole = fields()
    blob = [name for name in whole if name.startswith("blob/")]
    order = np.array([2, 0, 3, 1])
    images(tmp_path)
    main = save(tmp_path / "P1_J12_003_particles.cs", {n: v for n, v in whole.items() if n not in blob})
    save(tmp_path / "P1_J11_passthrough_particles.cs", {"uid": whole["uid"], "blob/path": whole["blob/path"]})
    save(tmp_path / "P1_J12_passthrough_particles.cs", {n: whole[n][order] for n in ["uid", *blob]})
    found = CryosparcReader().read_particles(ReadRequest(main))
    expected = read(tmp_path)
    np.testing.assert_array_equal(found.image_number, expected.image_number)
    np.testing.assert_array_equal(found.rotations, expected.rotations)
    assert "P1_J12_passthrough_particles.cs by uid" in found.notes[0]
    np.testing.assert_array_equal(found.columns["blob/psize_A"], whole["blob/psize_A"])


def test_lacking_fields_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"lacks blob/path, blob/idx; put .*passthrough.* \(there is none\)"
    ):
        read(tmp_path, blob__path=None, blob__idx=None)
    save(tmp_path / "J12_passthrough_particles.cs", {n: v[:2] for n, v in fields().items()})
    with pytest.raises(FormatError, match=r"lacks blob/path; .*has not all of its particles"):
        read(tmp_path, blob__path=None)
    with pytest.raises(FormatError, match=r"lacks alignments3D/pose; put"):
        read(tmp_path, alignments3D__pose=None)


def test_of_several_classes_the_likeliest_is_taken(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    poses, shifts = random.normal(size=(COUNT, 2, 3)), random.normal(size=(COUNT, 2, 2))
    posterior = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    none = {"alignments3D__pose": None, "alignments3D__shift": None}
    by_class = {
        f"alignments_class_{k}__{part}": values[:, k]
        for part, values in (("pose", poses), ("shift", shifts), ("class_posterior", posterior))
        for k in (0, 1)
    }
    together = {
        "alignments3D_multi__pose": poses, "alignments3D_multi__shift": shifts,
        "alignments3D_multi__class_posterior": posterior,
    }  # fmt: skip
    best = np.array([0, 1, 0, 1])
    expected = np.swapaxes(Rotation.from_rotvec(poses[np.arange(COUNT), best]).as_matrix(), 1, 2)
    for extra in (by_class, together):
        found = read(tmp_path, **none, **extra)
        assert found.model_number.tolist() == best.tolist()
        np.testing.assert_allclose(found.rotations, expected, atol=1e-12)
        np.testing.assert_allclose(found.shifts_angst, -1.345 * shifts[np.arange(COUNT), best], rtol=1e-9)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"alignments3D__pose": np.full((COUNT, 3), np.nan)},
            r"particle 1: alignments3D/pose: expected finite",
        ),
        (
            {"alignments3D__pose": np.zeros((COUNT, 2))},
            r"alignments3D/pose: expected numbers of shape \(4, 3\)",
        ),
        (
            {"alignments3D__split": np.array([0, 1, 2, 0])},
            r"particle 3: alignments3D/split: .* from 0 to 1, got 2",
        ),
        ({"blob__psize_A": np.array([1, 0, 1, 1.0])}, r"particle 2: blob/psize_A: expected a size above 0"),
        ({"blob__idx": np.array([0, -1, 1, 1])}, r"particle 2: blob/idx: expected a whole number from 0"),
        ({"blob__shape": np.array([[4, 4], [4, 5], [4, 4], [4, 4]])}, r"particle 2: blob/shape: .*square"),
        ({"blob__path": np.arange(COUNT)}, r"field blob/path: expected text"),
        ({"blob__sign": np.array([1.0, 1, -1, 1])}, r"particle 3: blob/sign: images of both contrasts"),
        ({"ctf__amp_contrast": np.full(COUNT, 2.0)}, r"particle 1: ctf/amp_contrast: expected 0 to 1, got 2"),
    ],
    ids=range(9),
)
def test_wrong_values_give_one_line_with_particle_and_field(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read(tmp_path, **changed)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "wrong.cs"
    header = b"\x93NUMPY\x01\x00"
    huge = b"{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (1000000000000000,), }"
    objects = huge.replace(b"<u8", b"|O").replace(b"1000000000000000", b"1")
    for text, message in (
        (huge.ljust(117) + b"\n", "not a readable"),
        (objects.ljust(117) + b"\n", "not a readable"),
        (huge.replace(b"}", b"(").ljust(117) + b"\n", "not a readable"),
        (b"os.system('true')".ljust(117) + b"\n", "not a readable"),
        (huge.replace(b"1000000000000000", b"0").ljust(117) + b"\n", "not a readable|holds no particles"),
    ):
        path.write_bytes(header + len(text).to_bytes(2, "little") + text + bytes(64))
        with pytest.raises(FormatError, match=message):
            read_cs(path)
    path.write_bytes(b"\x94CSDAT rest")
    with pytest.raises(FormatError, match="CSDAT"):
        read_cs(path)
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 3)))
    with pytest.raises(FormatError, match="expected a list of records"):
        read_cs(path)
    with pytest.raises(FileMissingError, match="absent"):
        read_cs(tmp_path / "absent.cs")


def test_real_files_are_read_or_say_what_they_lack(reference: Path, tmp_path: Path) -> None:
    folder = reference / "third_party/cryosparc"
    with pytest.raises(FormatError, match="lacks alignments3D/pose, alignments3D/shift"):
        CryosparcReader().read_particles(ReadRequest(folder / "cryosparc_J2_particles_exported.cs"))
    path = folder / "cryosparc_P12_J24_001_particles.cs"
    for name in set(read_cs(path).texts("blob/path")):
        (tmp_path / Path(name).name).touch()
    found = CryosparcReader().read_particles(ReadRequest(path, image_dir=tmp_path))
    assert len(found) == 2019
    assert found.optics[0].pixel_size_angst == 2.95
    assert set(found.half_set.tolist()) == {1, 2}


def test_cs_and_star_of_the_same_particles_agree(reference: Path, tmp_path: Path) -> None:
    folder = reference / "third_party/cryosparc"
    original = read_cs(folder / "empiar_10076_7.cs")
    # neither file has poses: both are given the same ones, in their own dialects
    pose = np.random.default_rng(2).normal(size=(7, 3))
    shift_px = np.random.default_rng(3).normal(size=(7, 2))
    aligned = {"alignments3D/pose": pose, "alignments3D/shift": shift_px}
    save(tmp_path / "both.cs", original.fields | aligned)
    spa = CryosparcReader().read_particles(ReadRequest(tmp_path / "both.cs", image_dir=folder))
    angles = dict(
        zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), matrices_to_relion(spa.rotations), strict=True)
    )
    origins = {"rlnOriginX": shift_px[:, 0], "rlnOriginY": shift_px[:, 1]}
    columns = dict(read_star(folder / "empiar_10076_7.star").table("").columns)
    StarWriter().write_tables(tmp_path / "both.star", {"": columns | angles | origins})
    star = StarReader().read_particles(ReadRequest(tmp_path / "both.star", image_dir=folder))
    np.testing.assert_array_equal(spa.image_number, star.image_number)
    assert spa.image_files == star.image_files
    np.testing.assert_allclose(spa.rotations, star.rotations, atol=1e-12)
    np.testing.assert_allclose(spa.shifts_angst, star.shifts_angst, rtol=1e-6)
    assert spa.ctf is not None
    assert star.ctf is not None
    for name in ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg", "scale"):
        np.testing.assert_allclose(getattr(spa.ctf, name), getattr(star.ctf, name), rtol=1e-6, atol=1e-5)
    for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast"):
        assert getattr(spa.optics[0], name) == getattr(star.optics[0], name)
    assert spa.optics[0].pixel_size_angst == pytest.approx(star.optics[0].pixel_size_angst, rel=1e-6)


class TestCryosparcReader(ReaderContract):
    count = COUNT

    def make(self) -> CryosparcReader:
        return CryosparcReader()

    def write_example(self, folder: Path) -> Path:
        images(folder)
        return save(folder / "J1_particles.cs", fields())
