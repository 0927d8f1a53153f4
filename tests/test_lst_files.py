"""EMAN2 lists: rows resolve to images, lists override headers, nothing in a list is executed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from centralslice.abc.reader import ReadRequest
from centralslice.data.images import StackPlan
from centralslice.data.particles import Particles
from centralslice.errors import FileMissingError, FormatError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.readers.lst import LstReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter
from centralslice_plugins.writers.mrc import MrcWriter

READER = LstReader()
NUMBERS = [0.36, 0.48, -0.8, 1.5, -0.8, 0.6, 0.0, -2.5, 0.48, 0.64, 0.6, 0.0]


def stack(path: Path, count: int = 4) -> Path:
    """HDF images whose header shift is their number."""
    with Eman2HdfWriter().create_stack(path, StackPlan(count, (8, 8), 2.0)) as sink:
        for number in range(count):
            sink.write(number, np.zeros((1, 8, 8)))
            matrix = np.column_stack([eman2_to_matrices(10, 20, 30)[0], [number, 0, 0]])
            sink.write_attributes(number, {"xform.projection": Transform(matrix), "ptcl_repr": number + 1})
    return path


def write_list(path: Path, *rows: str, magic: str = "#LSX") -> Path:
    length = max((len(row) for row in rows), default=0) + 1
    lines = [row.ljust(length - 1) for row in rows]
    path.write_text("\n".join([magic, "# remark", f"# {length}", *lines]) + "\n")
    return path


def read(path: Path) -> Particles:
    return READER.read_particles(ReadRequest(path))


def transform_json(numbers=NUMBERS, as_text: bool = True) -> dict:
    return {"__class__": "Transform", "matrix": json.dumps(numbers) if as_text else numbers}


def test_the_peers_list_gives_the_poses_of_its_stack(reference):
    folder = reference / "eman2"
    ours = read(folder / "proj_c1_projconv.lst")
    theirs = Eman2HdfReader().read_particles(ReadRequest(folder / "proj_c1.hdf", shift_convention="recentre"))
    np.testing.assert_array_equal(ours.rotations, theirs.rotations)
    np.testing.assert_array_equal(ours.shifts_angst, theirs.shifts_angst)
    np.testing.assert_array_equal(ours.weight, theirs.weight)
    assert ours.image_files == (folder / "proj_c1_projconv.hdf",)
    assert not LstReader.ambiguous_shifts


def test_header_shifts_of_listed_images_are_those_of_the_projection_convention(tmp_path):
    stack(tmp_path / "a.hdf")
    path = write_list(tmp_path / "a.lst", "3\ta.hdf", "1\ta.hdf")
    for convention in ("projection", "recentre"):
        particles = READER.read_particles(ReadRequest(path, shift_convention=convention))
        np.testing.assert_allclose(particles.shifts_angst, [[6, 0], [2, 0]])
    np.testing.assert_array_equal(particles.image_number, [3, 1])
    np.testing.assert_array_equal(particles.weight, [4, 2])


@pytest.mark.parametrize("as_text", [True, False])
def test_attributes_of_the_list_override_the_header(tmp_path, as_text):
    stack(tmp_path / "a.hdf")
    given = {
        "xform.projection": transform_json(as_text=as_text), "ptcl_repr": 9, "class_qual": -0.25,
        "model_id": 3, "class_ssnr": [1, 2, 3], "score": -0.2, "more": {"__image__": ["b.hdf", 3]},
    }  # fmt: skip
    path = write_list(tmp_path / "a.lst", f"2\ta.hdf\t{json.dumps(given)}")
    particles = read(path)
    matrix = np.array(NUMBERS).reshape(3, 4)
    np.testing.assert_allclose(particles.rotations[0], matrix[:, :3], atol=1e-12)
    np.testing.assert_allclose(particles.shifts_angst[0], [3.0, -5.0])
    assert (particles.weight[0], particles.quality[0], particles.model_number[0]) == (9, -0.25, 3)
    np.testing.assert_array_equal(particles.ssnr, [[1, 2, 3]])


def test_a_ctf_in_the_list_is_read(tmp_path):
    stack(tmp_path / "a.hdf")
    given = {
        "__class__": "EMAN2Ctf", "defocus": 1.5, "dfdiff": 0.2, "dfang": 30, "bfactor": 50, "ampcont": 10,
        "voltage": 300, "cs": 2.7, "apix": 2.0, "dsbg": 0.1, "background": [], "snr": [],
    }  # fmt: skip
    text = Eman2Ctf(1.5, 0.2, 30, 50, 10, 300, 2.7, 2.0).as_text()
    path = write_list(
        tmp_path / "a.lst",
        f"0\ta.hdf\t{json.dumps({'ctf': given})}",
        f"1\ta.hdf\t{json.dumps({'ctf': text})}",
    )
    particles = read(path)
    assert particles.ctf is not None
    np.testing.assert_allclose(particles.ctf.defocus_u_angst, [16000, 16000])
    np.testing.assert_allclose(particles.ctf.defocus_v_angst, [14000, 14000])
    assert (particles.optics[0].voltage_kv, particles.optics[0].amplitude_contrast) == (300, 0.1)


def test_mrc_images_need_their_pose_in_the_list(tmp_path):
    with MrcWriter().create_stack(tmp_path / "a.mrcs", StackPlan(3, (6, 6), 1.7)) as sink:
        sink.write(0, np.zeros((3, 6, 6)))
    with_pose = json.dumps({"xform.projection": transform_json()})
    particles = read(write_list(tmp_path / "a.lst", f"2\ta.mrcs\t{with_pose}"))
    assert particles.optics[0].pixel_size_angst == pytest.approx(1.7)
    assert particles.optics[0].box_size == 6
    np.testing.assert_allclose(particles.shifts_angst, [[1.5 * 1.7, -2.5 * 1.7]], rtol=1e-6)
    path = write_list(tmp_path / "b.lst", f"2\ta.mrcs\t{with_pose}", "1\ta.mrcs")
    with pytest.raises(FormatError, match=r"1 of 2 images have no xform.projection.*a\.mrcs, image 2"):
        read(path)


def test_a_list_of_lists_is_followed_and_the_outer_one_wins(tmp_path):
    stack(tmp_path / "a.hdf")
    write_list(tmp_path / "inner.lst", "3\ta.hdf", '2\ta.hdf\t{"ptcl_repr":7,"model_id":1}')
    path = write_list(tmp_path / "outer.lst", '1\tinner.lst\t{"model_id":5}', "0\tinner.lst", "0\ta.hdf")
    particles = read(path)
    np.testing.assert_array_equal(particles.image_number, [2, 3, 0])
    np.testing.assert_array_equal(particles.weight, [7, 4, 1])
    np.testing.assert_array_equal(particles.model_number, [5, -1, -1])


def test_lists_in_a_circle_are_refused(tmp_path):
    write_list(tmp_path / "a.lst", "0\tb.lst")
    write_list(tmp_path / "b.lst", "0\ta.lst")
    with pytest.raises(FormatError, match="refers to itself"):
        read(tmp_path / "a.lst")


def test_lists_too_deep_are_refused(tmp_path):
    stack(tmp_path / "a.hdf")
    write_list(tmp_path / "0.lst", "0\ta.hdf")
    for depth in range(1, 10):
        write_list(tmp_path / f"{depth}.lst", f"0\t{depth - 1}.lst")
    assert len(read(tmp_path / "7.lst")) == 1
    with pytest.raises(FormatError, match="8 deep"):
        read(tmp_path / "8.lst")


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ('Transform({"az":10,"alt":20,"phi":30,"tx":1.5,"type":"eman"})', None),
        ("Transform({'az':10.0,'alt':20.0,'phi':30.0,'tx':1.5,'type':'eman','mirror':0,'scale':1.0})", None),
        ("-0.5;Transform({'az':10,'alt':20,'phi':30,'tx':1.5})", None),
        ("{'xform.projection':Transform({'az':10,'alt':20,'phi':30,'tx':1.5}),'score':-0.5}", None),
        ("-0.5;Transform({'az':10,'alt':20,'phi':30,'tx':1.5})", "score;xform.projection"),
    ],
)
def test_the_old_notations_are_parsed_as_literals(tmp_path, field, key):
    stack(tmp_path / "a.hdf")
    path = write_list(tmp_path / "a.lst", f"0\ta.hdf\t{field}")
    if key is not None:
        path.write_text(path.read_text().replace("# remark", f"#keys: {key}"))
    particles = read(path)
    np.testing.assert_allclose(particles.rotations[0], eman2_to_matrices(10, 20, 30)[0], atol=1e-12)
    np.testing.assert_allclose(particles.shifts_angst[0], [3.0, 0])


def test_mirror_and_scale_of_the_old_notation_are_in_the_matrix(tmp_path):
    stack(tmp_path / "a.hdf")
    field = "Transform({'az':10,'alt':20,'phi':30,'tx':1.5,'ty':2,'mirror':1,'scale':2})"
    particles = read(write_list(tmp_path / "a.lst", f"0\ta.hdf\t{field}"))
    flip = np.diag([-1.0, 1.0])
    peers = flip @ (2 * eman2_to_matrices(10, 20, 30)[0])[:2]
    np.testing.assert_allclose(particles.rotations[0, :2], peers, atol=1e-12)
    np.testing.assert_allclose(particles.shifts_angst[0], [-3.0, 4.0])


@pytest.mark.parametrize(
    "field",
    [
        "Transform(__import__('os').system('touch executed'))",
        "{'a': __import__('os').system('touch executed')}",
        "{'a': open('executed', 'w')}",
        "Transform(**{'az': 1})",
        "Transform({'az': [].__class__})",
        '{"xform.projection":{"__pickle__":"cos\\nsystem\\n(S\'touch executed\'\\ntR."}}',
        '{"deep":[{"in":{"__pickle__":"x"}}]}',
        '{"xform.projection":{"__class__":"Transform","matrix":"[1,2,3]"}}',
        '{"xform.projection":{"__class__":"Transform","matrix":[1,0,0,0,0,1,0,0,0,0,1,"x"]}}',
        '{"xform.projection":{"__class__":"Transform"}}',
        '{"ctf":{"__class__":"EMAN2Ctf","defocus":1}}',
        '{"ctf":7}',
        '{"ptcl_repr":"many"}',
        '{"ptcl_repr":' + "9" * 400 + "}",
        '{"unfinished":',
        "Transform({'az':1,'nonsense':2})",
        "Transform({'type':'klingon'})",
        "[" * 5000,
        '{"a":' + "[" * 50000 + "}",
    ],
)
def test_hostile_and_broken_attributes_name_the_line_and_run_nothing(tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    stack(tmp_path / "a.hdf")
    path = write_list(tmp_path / "a.lst", "0\ta.hdf", f"1\ta.hdf\t{field}")
    if field.startswith("[["):
        assert len(read(path)) == 2  # a remark
    else:
        with pytest.raises(FormatError, match=r"a\.lst") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert "line 5" in str(caught.value) or "image 2" in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x\ta.hdf", "line 4: invalid literal"),
        ("-1\ta.hdf", "line 4: expected image number"),
        ("7", "line 4"),
        ("4\ta.hdf", "row 1: .*a.hdf has 4 images, image 5 was asked for"),
    ],
)
def test_broken_rows_are_named(tmp_path, row, message):
    stack(tmp_path / "a.hdf")
    with pytest.raises(FormatError, match=message):
        read(write_list(tmp_path / "a.lst", row))


def test_missing_images_and_lists_are_named(tmp_path):
    with pytest.raises(FileMissingError, match=r"absent\.hdf"):
        read(write_list(tmp_path / "a.lst", "0\tabsent.hdf"))
    with pytest.raises(FileMissingError, match=r"absent\.lst: no such file"):
        read(tmp_path / "absent.lst")


def test_what_is_no_list_is_refused(tmp_path):
    path = tmp_path / "a.lst"
    path.write_text("0\ta.hdf\n")
    with pytest.raises(FormatError, match="begins with '0"):
        read(path)
    path.write_bytes(b"#LSX\n\xff\xfe")
    with pytest.raises(FormatError, match="is not text"):
        read(path)
    path.write_text("#LSX\n# remark\n# 20\n")
    with pytest.raises(FormatError, match="holds no image"):
        read(path)


def test_the_list_is_never_written_to(tmp_path):
    stack(tmp_path / "a.hdf")
    path = tmp_path / "a.lst"
    path.write_text("#LST\n0\ta.hdf\n1 a.hdf\n")
    before = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o444)
    particles = read(path)
    assert len(particles) == 2
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_paths_count_from_the_working_folder_first(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    stack(tmp_path / "a.hdf", 2)
    stack(tmp_path / "sets" / "a.hdf", 4)
    path = write_list(tmp_path / "sets" / "a.lst", "1\ta.hdf")
    monkeypatch.chdir(tmp_path)
    assert read(path).image_files[0].samefile(tmp_path / "a.hdf")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read(path).image_files[0].samefile(tmp_path / "sets" / "a.hdf")


def test_lists_are_recognised(tmp_path):
    assert READER.recognises(write_list(tmp_path / "a.txt", "0\ta.hdf"))
    assert READER.recognises(write_list(tmp_path / "b.txt", "0\ta.hdf", magic="#LST"))
    (tmp_path / "c.lst").write_text("")
    assert READER.recognises(tmp_path / "c.lst")
    assert not READER.recognises(Path(__file__))


def test_every_file_is_opened_once(tmp_path, monkeypatch):
    from centralslice_plugins.readers import lst

    stack(tmp_path / "a.hdf")
    stack(tmp_path / "b.hdf")
    opened = []

    class Counted(lst.Eman2File):
        def __init__(self, path: Path) -> None:
            opened.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(lst, "Eman2File", Counted)
    path = write_list(tmp_path / "a.lst", *(f"{number % 4}\t{'ab'[number % 2]}.hdf" for number in range(40)))
    assert len(read(path)) == 40
    assert sorted(opened) == ["a.hdf", "b.hdf"]
