"""The STAR dialect: what is read, what is refused, what survives a round trip."""

from __future__ import annotations

import math
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.testing.writer import Tables, WriterContract
from centralslice_plugins.formats.star import StarFile, is_star, read_star
from centralslice_plugins.formats.star_text import parse_vector, quoted
from centralslice_plugins.writers.star import StarWriter

LOOP = "data_particles\n\nloop_\n_rlnA #1\n_rlnB #2\n"

#: Files of the reference data that are not correct STAR, and what the error says.
BROKEN = {"sample.star": "block 'planetary', row 4: expected 4 values, got 5"}


def read(folder: Path, content: str | bytes) -> StarFile:
    path = folder / "test.star"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_star(path)


def test_lists_and_loops_of_several_blocks_are_read_in_their_order(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "# version 30001\n\ndata_general\n\n_rlnX  3\n_rlnName  'two words'\n\n"
        "data_\n\nloop_\n_a #1\n_b\n1 x\n2 y",
    )
    general, loop = found.tables
    assert (general.block, general.is_loop, len(general)) == ("general", False, 1)
    assert general.integers("rlnX").tolist() == [3]
    assert general.texts("rlnName").tolist() == ["two words"]
    assert (loop.block, loop.is_loop, len(loop)) == ("", True, 2)
    assert loop.numbers("a").tolist() == [1.0, 2.0]
    assert loop.texts("b").tolist() == ["x", "y"]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\n", "\n\n", "\n# a comment\n"])
def test_line_ends_blanks_and_comments_do_not_matter(tmp_path: Path, end: str) -> None:
    text = "data_x\nloop_\n_a #1\n_b #2 [with a remark]\n1 'p q' # remark\n  2\t\"r\"\n".replace("\n", end)
    for content in (text, text.rstrip()):
        (table,) = read(tmp_path, content).tables
        assert table.integers("a").tolist() == [1, 2]
        assert table.texts("b").tolist() == ["p q", "r"]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"\xef\xbb\xbfdata_x\n_a 1\n").table("x")) == 1


def test_a_block_may_follow_rows_directly(tmp_path: Path) -> None:
    first, second = read(tmp_path, LOOP + "1 2\ndata_other\nloop_\n_c\n3\n").tables
    assert (len(first), len(second)) == (1, 1)


def test_a_single_column_may_hold_names_that_look_like_keywords(tmp_path: Path) -> None:
    (table,) = read(tmp_path, "data_x\nloop_\n_name\na.mrc\ndata_001.mrc\n_b.mrc\nloop_1.mrc\n").tables
    assert table.texts("name").tolist() == ["a.mrc", "data_001.mrc", "_b.mrc", "loop_1.mrc"]


def test_loops_and_blocks_may_be_empty(tmp_path: Path) -> None:
    found = read(tmp_path, "data_a\n\ndata_b\nloop_\n_x #1\n\ndata_c\n")
    assert [(table.block, len(table), list(table.columns)) for table in found.tables] == [
        ("a", 0, []),
        ("b", 0, ["x"]),
        ("c", 0, []),
    ]


def test_a_block_may_hold_several_loops(tmp_path: Path) -> None:
    found = read(tmp_path, "data_a\nloop_\n_x\n1\n\nloop_\n_y\n2\n3\n")
    assert [(table.block, len(table)) for table in found.tables] == [("a", 1), ("a", 2)]
    assert [len(table) for table in found.with_label("y")] == [2]


def test_long_loops_and_many_blocks_are_read_to_their_ends(tmp_path: Path) -> None:
    for rows in (63, 64, 65, 255, 256, 257, 1024):
        text = LOOP + "".join(f"{row} x\n" for row in range(rows)) + "\ndata_next\n_a 1\n"
        found = read(tmp_path, text)
        assert found.table("particles").integers("rlnA").tolist() == list(range(rows))
        assert len(found.table("next")) == 1
        with pytest.raises(FormatError, match=f"row {rows + 1}: expected 2 values, got 1"):
            read(tmp_path, text.replace("\ndata_next", "wrong\n\ndata_next"))
    blocks = "".join(f"data_{number}\nloop_\n_x\n{number}\n\n" for number in range(300))
    found = read(tmp_path, blocks)
    assert [table.integers("x")[0] for table in found.by_block().values()] == list(range(300))


def test_a_list_entry_without_a_value_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path, "data_a\n_x\n_y 2\n").table("a").texts("x").tolist() == [""]


def test_numbers_keep_their_kind_and_texts_their_letters(tmp_path: Path) -> None:
    rows = [
        "1 1.5 000001@a.mrcs 0001 -3 1e-3 12 3.0",
        "-20 +2. 000002@a.mrcs 0002 4.5 nan 99999999999999999999 7",
    ]
    labels = ["whole", "decimal", "image", "padded", "mixed", "hole", "huge", "numbers"]
    table = read(tmp_path, "data_\nloop_\n" + "".join(f"_{x}\n" for x in labels) + "\n".join(rows)).table("")
    kinds = {label: table.column(label).dtype for label in labels}
    assert kinds["whole"] == np.int64
    assert {kinds[label] for label in ("decimal", "mixed", "hole", "numbers")} == {np.dtype(np.float64)}
    assert {kinds[label] for label in ("image", "padded", "huge")} == {np.dtype(object)}
    assert table.texts("padded").tolist() == ["0001", "0002"]
    assert table.integers("padded").tolist() == [1, 2]
    assert np.isnan(table.numbers("hole")[1])
    with pytest.raises(FormatError, match=r"row 1: _hole: expected a whole number, got '0.001'"):
        table.integers("hole")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.one_of(
            st.floats(allow_nan=False).map(repr),
            st.floats(-1e7, 1e7).map(lambda x: f"{x:.6f}"),
            st.floats(allow_nan=False, allow_infinity=False).map(lambda x: f"{x:+.25e}"),
            st.decimals(allow_nan=False, allow_infinity=False).map(str),
            st.integers().map(str),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_number_is_read_to_the_last_bit(tmp_path: Path, texts: list[str]) -> None:
    table = read(tmp_path, "data_\nloop_\n_x\n" + "\n".join(texts) + "\n").table("")
    expected = [float(text) for text in texts]
    assert table.numbers("x").tobytes() == np.array(expected).tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LOOP + "1 2\n\n3\n", r"line 8: block 'particles', row 2: expected 2 values, got 1: none for _rlnB"),
        (
            LOOP + "1 2 3\n",
            r"line 6: block 'particles', row 1: expected 2 values, got 3: too many behind _rlnB",
        ),
        (LOOP + "1 'x\n", r"line 6: .*row 1: a quote is not closed"),
        ("data_x\n_a 'x\n", r"line 2: a quote is not closed"),
        ("data_x\n_a 1\n_a 2\n", r"line 3: _a is there twice"),
        ("data_x\nloop_\n_a\n_a\n1 2\n", r"line 4: _a is there twice"),
        ("data_x\n_a 1 2\n", r"line 2: _a: expected one value, got 2"),
        ("data_x\nhello\n", r"line 2: expected _label, loop_ or data_, got 'hello'"),
        ("data_x\nloop_\n1 2\n", r"loop_ without labels"),
        ("data_x\nloop_\n_a 3 4\n1\n", r"line 3: expected a loop's label and at most #n"),
        ("data_x y\n_a 3\n", r"line 1: expected a block's name only"),
        ("hello\nworld\n", r"line 1: not a STAR file: expected data_"),
        ("", r"found none; is it empty"),
        ("# only a comment\n", r"found none; is it empty"),
        (b"data_x\n\0\0\0", r"binary"),
        ("data_x\n_a 1\n".encode("utf-16"), r"binary"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(1, 256)), r"line 1: not a STAR file"),
    ],
    ids=range(17),
)
def test_what_is_wrong_gives_one_line_with_its_place(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "test.star"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match=r"absent\.star: does not exist"):
        read_star(tmp_path / "absent.star")
    with pytest.raises(FormatError, match="cannot be read"):
        read_star(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(st.sampled_from("data_loop_ \n\t_ab#'\"1.\r"), max_size=80).map(lambda x: "data_\n" + x),
    )
)
def test_nothing_but_a_format_error_comes_of_garbage(tmp_path: Path, content: str | bytes) -> None:
    try:
        found = read(tmp_path, content)
    except FormatError as error:
        message = str(error)
        assert "\n" not in message
    else:
        assert found.tables


def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path: Path) -> None:
    table = read(tmp_path, LOOP + "1 2\n1 x\n").table("particles")
    with pytest.raises(FormatError, match=r"block 'particles', row 2: _rlnB: expected a number, got 'x'"):
        table.numbers("rlnB")
    with pytest.raises(FormatError, match=r"block 'particles' has no _rlnC"):
        table.numbers("rlnC")
    with pytest.raises(FormatError, match=r"no block data_optics; its blocks are data_particles"):
        read_star(tmp_path / "test.star").table("optics")


def test_vectors_are_read_and_anything_else_is_refused() -> None:
    assert parse_vector("[1,2.5,-3e2]") == (1.0, 2.5, -300.0)
    assert parse_vector("[ ]") == ()
    for wrong in ("1,2", "[1,]", "[a]", "[1;2]", "[nan]", ""):
        with pytest.raises(ValueError):  # noqa: PT011 (the text is added by the table, which knows the row)
            parse_vector(wrong)


def test_all_reference_files_are_read_or_refused_as_they_should_be(reference: Path) -> None:
    files = sorted(reference.rglob("*.star"))
    assert len(files) > 50
    for path in files:
        if path.name in BROKEN:
            with pytest.raises(FormatError, match=BROKEN[path.name]):
                read_star(path)
        else:
            assert read_star(path).tables, path
            assert is_star(path), path


def test_quoted_texts_of_the_reference_files_are_right(reference: Path) -> None:
    for kind in ("single", "double"):
        (basic,) = read_star(reference / f"third_party/star/basic_{kind}_quote.star").tables
        values = {label: column[0] for label, column in basic.columns.items()}
        assert values == {
            "no_quote_string": "noquote", "quote_string": "quote string",
            "whitespace_string": " ", "empty_string": "",
        }  # fmt: skip
        (loop,) = read_star(reference / f"third_party/star/loop_{kind}_quote.star").tables
        assert loop.texts("quote_string").tolist() == ["quote string"] * 2
        assert loop.texts("number_and_string").tolist() == ["4.0", "noquote"]
        assert loop.numbers("number").tolist() == [6.0, 7.0]


def test_reference_files_keep_labels_order_and_values_when_written_again(
    reference: Path, tmp_path: Path
) -> None:
    for path in sorted(reference.rglob("*.star")):
        if path.name in BROKEN:
            continue
        tables = {f"{number}": table.columns for number, table in enumerate(read_star(path).tables)}
        StarWriter().write_tables(tmp_path / "again.star", tables)
        again = read_star(tmp_path / "again.star")
        assert {table.block: list(table.columns) for table in again.tables} == {
            name: list(columns) for name, columns in tables.items()
        }
        for table in again.tables:
            for label, column in tables[table.block].items():
                if column.dtype == object:
                    assert table.texts(label).tolist() == column.tolist(), (path, label)
                else:
                    np.testing.assert_array_equal(table.numbers(label), column, str(path))


TEXTS = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    rows=st.integers(0, 6),
    names=st.sets(st.text(string.ascii_letters, min_size=1), max_size=5),
)
def test_any_table_reads_back_as_it_was_written(
    tmp_path: Path, data: st.DataObject, rows: int, names: set[str]
) -> None:
    kinds = {
        "float64": st.floats(),
        "int64": st.integers(-(10**18) + 1, 10**18 - 1),
        "object": st.one_of(TEXTS, st.text(st.sampled_from("'\" a"), max_size=6)),
    }
    columns = {}
    for name in sorted(names):
        kind = data.draw(st.sampled_from(sorted(kinds)))
        values = data.draw(st.lists(kinds[kind], min_size=rows, max_size=rows))
        columns[name] = np.array(values, kind).reshape(rows)
    path = tmp_path / "random.star"
    try:
        StarWriter().write_tables(path, {"x": columns})
    except ParameterError as error:
        assert "both kinds of quotes" in str(error)  # noqa: PT017
        return
    table = read_star(path).table("x")
    assert list(table.columns) == list(columns)
    for label, column in columns.items():
        if column.dtype == object:
            assert table.texts(label).tolist() == column.tolist()
        else:
            np.testing.assert_array_equal(table.numbers(label), column.astype(np.float64))
        if column.dtype == np.int64:
            assert table.integers(label).tolist() == column.tolist()


def test_texts_are_quoted_only_where_they_must_be() -> None:
    assert quoted("000001@a/b-c.mrcs") == "000001@a/b-c.mrcs"
    assert quoted("5'-end") == "5'-end"
    assert quoted("two words") == '"two words"'
    assert quoted("") == '""'
    assert quoted("#1") == '"#1"'
    assert quoted('say "x" now') == "'say \"x\" now'"
    for impossible in ("a\nb", "' \" x"):
        with pytest.raises(FormatError):
            quoted(impossible)


def test_the_written_form_is_what_relion_reads(tmp_path: Path) -> None:
    StarWriter().write_tables(
        tmp_path / "out.star",
        {
            "general": {"rlnX": np.array(3), "rlnLongName": np.array("a b")},
            "fsc": {
                "rlnA": np.array([1, 2]),
                "rlnB": np.array([0.1, 1e-7]),
                "rlnV": np.array([[1, 2.5], [3, 4]]),
            },
        },
    )
    assert (tmp_path / "out.star").read_text() == (
        '\ndata_general\n\n_rlnX          3\n_rlnLongName   "a b"\n\n'
        "\ndata_fsc\n\nloop_\n_rlnA #1\n_rlnB #2\n_rlnV #3\n1\t0.1\t[1.0,2.5]\n2\t1e-07\t[3.0,4.0]\n\n"
    )


def test_file_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    table = read(tmp_path, b"data_x\nloop_\n_name\n1@\xff\xfe.mrcs\nb\n").table("x")
    StarWriter().write_tables(tmp_path / "again.star", {"x": table.columns})
    assert b"1@\xff\xfe.mrcs" in (tmp_path / "again.star").read_bytes()


def test_names_with_blanks_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    for tables in ({"a b": {"x": np.arange(2)}}, {"a": {"x y": np.arange(2)}}, {"a": {"x": np.array([1j])}}):
        with pytest.raises(ParameterError, match=r"out\.star: table 'a"):
            StarWriter().write_tables(tmp_path / "out.star", tables)
    with pytest.raises(ParameterError, match="cannot hold line ends"):
        StarWriter().write_tables(tmp_path / "out.star", {"a": {"x": np.array(["p\nq"], object)}})
    assert not list(tmp_path.iterdir())


def test_a_hundred_thousand_rows_are_read_to_the_last(tmp_path: Path) -> None:
    row = "  1234.567800 -12.345678 000001@Extract/job012/micrograph.mrcs            1\n"
    path = tmp_path / "long.star"
    path.write_text("data_particles\nloop_\n_a\n_b\n_c\n_d\n" + row * 100_000 + "\n")
    table = read_star(path).table("particles")
    assert len(table) == 100_000
    assert math.isclose(table.numbers("a").sum(), 1234.5678 * 100_000)


class TestStarWriter(WriterContract):
    def make(self) -> StarWriter:
        return StarWriter()

    def read_tables(self, path: Path) -> Tables:
        return {table.block: table.columns for table in read_star(path).tables}
