"""Lists and HDF stacks of sub-particles: they read back as they were written, whoever wrote the images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.abc.reader import ReadRequest
from centralslice.data.images import StackPlan
from centralslice.errors import FormatError, ParameterError
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.jobs.subparticles.stack_conversion import RawStack, convert_stack
from centralslice.plugin.registry import load_registry
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform
from centralslice_plugins.formats.eman2_storage import attribute_value
from centralslice_plugins.formats.lst import ListRow, read_list
from centralslice_plugins.formats.lst_text import record_text
from centralslice_plugins.readers.eman2_hdf import Eman2HdfReader
from centralslice_plugins.readers.lst import LstReader
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter
from centralslice_plugins.writers.lst import LstWriter, write_lst
from centralslice_plugins.writers.mrc import MrcWriter

CTF = np.array([1.5, 0.2, 30.0, 50.0, 10.0, 300.0, 2.7, 2.0])


def poses(count: int) -> np.ndarray:
    """(n, 3, 4) Transforms, with the image's number as shift."""
    angles = np.arange(count) * 10.0
    matrices = eman2_to_matrices(angles, angles / 3, -angles)
    shifts = np.column_stack([np.arange(count), -np.arange(count), np.zeros(count)])
    return np.concatenate([matrices, shifts[:, :, None]], axis=2)


def table(count: int) -> dict[str, np.ndarray]:
    return {
        "image_number": np.arange(count),
        "image_file": np.array(["subs.hdf"] * count, object),
        "xform.projection": poses(count),
        "ctf": np.tile(CTF, (count, 1)) + np.arange(count)[:, None] * np.eye(8)[0],
        "class": np.arange(count) // 2 % 2,
        "score": np.where(np.arange(count) == 1, np.nan, -0.1 * np.arange(count)),
        "orig_src": np.array([f"parents {n % 3}.hdf" for n in range(count)], object),
        "sub_shift": np.arange(2 * count).reshape(count, 2),
    }


def stack(path: Path, count: int) -> Path:
    with Eman2HdfWriter().create_stack(path, StackPlan(count, (8, 8), 2.0)) as sink:
        sink.write(0, np.zeros((count, 8, 8)))
    return path


def test_every_line_has_the_length_that_stands_first(tmp_path: Path) -> None:
    path = tmp_path / "subs.lst"
    LstWriter().write_tables(path, {"particles": table(12)})
    raw = path.read_bytes()
    magic, comment, length = raw.split(b"\n")[:3]
    assert magic == b"#LSX"
    assert comment.startswith(b"# ")
    base, size = len(magic) + len(comment) + len(length) + 3, int(length[1:])
    assert len(raw) == base + 12 * size
    records = [raw[base + n * size : base + (n + 1) * size] for n in range(12)]
    assert all(record.endswith(b"\n") for record in records)
    assert [int(record.split(b"\t")[0]) for record in records] == list(range(12))
    assert size == max(len(record.rstrip()) for record in records) + 5


def test_attributes_are_compact_json_with_sorted_keys_and_empty_cells_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "subs.lst"
    LstWriter().write_tables(path, {"particles": table(3)})
    texts = [line.split("\t")[2].rstrip() for line in path.read_text().splitlines()[3:]]
    found = [json.loads(text) for text in texts]
    assert all(
        text == json.dumps(entry, sort_keys=True, separators=(",", ":"))
        for text, entry in zip(texts, found, strict=True)
    )
    assert found[0]["xform.projection"]["__class__"] == "Transform"
    assert found[0]["ctf"]["__class__"] == "EMAN2Ctf"
    assert [entry["sub_shift"] for entry in found] == [[0, 1], [2, 3], [4, 5]]
    assert ["score" in entry for entry in found] == [True, False, True]


def test_lists_read_back_with_poses_shifts_and_ctfs(tmp_path: Path) -> None:
    count = 6
    stack(tmp_path / "subs.hdf", count)
    path = tmp_path / "subs.lst"
    LstWriter().write_tables(path, {"particles": table(count)})
    particles = LstReader().read_particles(ReadRequest(path))
    np.testing.assert_allclose(particles.rotations, poses(count)[:, :, :3], atol=1e-8)
    np.testing.assert_allclose(particles.shifts_angst, 2.0 * poses(count)[:, :2, 3])
    assert particles.ctf is not None
    np.testing.assert_allclose(particles.ctf.defocus_u_angst, 1e4 * (1.6 + np.arange(count)))
    np.testing.assert_allclose(particles.ctf.defocus_v_angst, 1e4 * (1.4 + np.arange(count)))
    assert particles.image_number.tolist() == list(range(count))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31),
            st.text("ab /.ä_", min_size=1).filter(lambda name: name == name.strip()),
            st.dictionaries(
                st.text(min_size=1, max_size=5).filter(
                    lambda key: not key.startswith("xform.") and key != "ctf"
                ),
                st.one_of(
                    st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False),
                    st.lists(st.integers(), max_size=3),
                ),
                max_size=4,
            ),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_records_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("lists") / "any.lst"
    write_lst(path, [ListRow(number, file, attributes, 0) for number, file, attributes in rows])
    again = [(row.number, row.file, dict(row.attributes)) for row in read_list(path)]
    assert again == rows


def test_single_precision_values_are_written_in_their_shortest_form() -> None:
    text = record_text(0, "a.hdf", {"score": np.float32(0.1), "xform.projection": Transform(poses(1)[0])})
    assert '"score":0.1,' in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_file": None}, "needs a column 'image_file'"),
        ({"image_number": np.arange(3.0)}, "whole numbers"),
        ({"class": np.arange(4)}, "differ in length"),
        ({"image_number": np.array([0, -1, 2])}, "row 2: image number -1"),
        ({"image_file": np.array(["a", "b\tc", "d"], object)}, "row 2: file name"),
        ({"xform.projection": np.zeros((3, 11))}, "row 1: a Transform has 12 numbers, got 11"),
        ({"ctf": np.zeros((3, 9))}, "row 1: a CTF has 8 numbers, got 9"),
        ({"score": np.array([0.0, np.inf, 1.0])}, "row 2: a number that is not finite"),
        ({"sub_shift": np.array([[0, 1], [0, np.nan], [1, 1]])}, "row 2: a number that is not finite"),
        ({"score": np.array([1j, 2, 3])}, "row 1: a complex cannot stand in a list"),
    ],
)
def test_what_a_list_cannot_hold_is_refused_by_row_and_nothing_is_written(
    tmp_path: Path, change: dict, message: str
) -> None:
    columns = {label: column for label, column in (table(3) | change).items() if column is not None}
    with pytest.raises(ParameterError, match=message) as caught:
        LstWriter().write_tables(tmp_path / "subs.lst", {"particles": columns})
    assert "subs.lst" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_list_holds_exactly_one_table(tmp_path: Path) -> None:
    for tables in ({}, {"a": table(1), "b": table(1)}):
        with pytest.raises(ParameterError, match="holds one table"):
            LstWriter().write_tables(tmp_path / "subs.lst", tables)


def test_the_registry_finds_the_writer_of_lists() -> None:
    assert isinstance(load_registry().writer_for(Path("x.lst"), "table"), LstWriter)


def raw_images(path: Path, count: int, shape: tuple[int, int], offset: int = 0) -> np.ndarray:
    """Images written in pieces and out of order, as several processes do."""
    images = np.random.default_rng(5).normal(size=(count, *shape)).astype(np.float32)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    size = images[0].nbytes
    for first, stop in ((count // 2, count), (0, count // 2)):
        os.pwrite(descriptor, images[first:stop].tobytes(), offset + first * size)
    os.close(descriptor)
    return images


def test_raw_images_become_an_hdf_stack_with_the_attributes_of_each(tmp_path: Path) -> None:
    count, raw, path = 7, tmp_path / "raw", tmp_path / "subs.hdf"
    images = raw_images(raw, count, (6, 5))
    transforms = poses(count)

    def attributes(number: int) -> dict:
        return {
            "xform.projection": transforms[number], "ctf": CTF, "ptcl_source_image": f"mic{number}.mrc",
            "orig_idx": number + 100, "sym_idx": 3,
        }  # fmt: skip

    convert_stack(RawStack(raw, StackPlan(count, (6, 5), 2.0)), path, Eman2HdfWriter(), attributes)
    with Eman2HdfReader().open_images(path) as opened:
        np.testing.assert_array_equal(opened.read(np.arange(count)), images)
        assert opened.header.pixel_size_angst == 2.0
        header = opened.attributes(4)
    np.testing.assert_allclose(header["xform.projection"].matrix, transforms[4], atol=1e-6)
    assert header["ctf"] == Eman2Ctf(1.5, 0.2, 30.0, 50.0, 10.0, 300.0, 2.7, 2.0)
    assert (header["orig_idx"], header["sym_idx"], header["ptcl_source_image"]) == (104, 3, "mic4.mrc")
    with h5py.File(path) as file:
        stored = file["MDF/images/4"].attrs
        assert stored["EMAN.xform.projection"].dtype.names[:2] == ("00", "01")
        assert bytes(stored["EMAN.ctf"]).startswith(b"E1.5 0.2 30 50 10 300 2.7 2 ")
        assert file["MDF/images"].attrs["imageid_max"][0] == count - 1


def test_conversion_gives_the_same_bytes_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    raw_images(raw, 9, (8, 8), offset=64)
    written = []
    for block in (1, 3 * 8 * 8 * 4, 2**20):
        monkeypatch.setattr("centralslice.jobs.subparticles.stack_conversion._BLOCK_BYTES", block)
        for writer, suffix in ((Eman2HdfWriter(), "hdf"), (MrcWriter(), "mrcs")):
            path = tmp_path / f"{block}.{suffix}"
            convert_stack(RawStack(raw, StackPlan(9, (8, 8), 1.5), 64), path, writer)
            written.append(path.read_bytes())
    assert written[0::2] == [written[0]] * 3
    assert written[1::2] == [written[1]] * 3


def test_a_raw_file_that_is_cut_short_leaves_no_stack(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "subs.hdf"
    raw_images(raw, 3, (8, 8))
    with pytest.raises(FormatError, match="ends before image 4 of 4"):
        convert_stack(RawStack(raw, StackPlan(4, (8, 8), 1.0)), path, Eman2HdfWriter())
    assert list(tmp_path.iterdir()) == [raw]


def test_formats_without_attributes_say_so(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw_images(raw, 2, (8, 8))
    plan = StackPlan(2, (8, 8), 1.0)
    with pytest.raises(ParameterError, match="no place"):
        convert_stack(RawStack(raw, plan), tmp_path / "x.mrcs", MrcWriter(), lambda number: {"a": number})
    assert list(tmp_path.iterdir()) == [raw]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("xform.projection", np.zeros(9), "12 numbers, got 9"),
        ("ctf", np.zeros(3), "8 numbers, got 3"),
        ("ctf", np.full(8, np.nan), "not finite"),
    ],
)
def test_plain_numbers_that_are_no_transform_or_ctf_are_refused(
    name: str, value: np.ndarray, message: str
) -> None:
    with pytest.raises(ParameterError, match=f"attribute {name}.*{message}"):
        attribute_value(name, value)
