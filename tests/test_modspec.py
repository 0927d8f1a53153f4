"""The mini-language ``name:key=value``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centralslice.errors import ParameterError
from centralslice.plugin.modspec import parse_modspec

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,12}", fullmatch=True)
VALUES = st.text(st.characters(blacklist_characters='":', blacklist_categories=["Cs", "Cc"]), max_size=12)


@given(name=NAMES, parameters=st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_was_joined_is_split_again(name: str, parameters: dict[str, str]) -> None:
    text = ":".join([name, *(f"{key}={value}" for key, value in parameters.items())])
    assert parse_modspec(text) == (name, parameters)


@given(value=st.text(st.characters(blacklist_characters='"', blacklist_categories=["Cs"]), max_size=20))
def test_double_quotes_protect_colons_and_equals_signs(value: str) -> None:
    assert parse_modspec(f'mask.file:path="{value}":keep=1') == ("mask.file", {"path": value, "keep": "1"})


def test_a_name_alone_has_no_parameters() -> None:
    assert parse_modspec("normalize.edgemean") == ("normalize.edgemean", {})


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_modspec("a:b=c=d") == ("a", {"b": "c=d"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected name:key=value"),
        (":a=1", "expected name:key=value"),
        ("a=1", "expected name:key=value"),
        ("a:b", "'b' is not key=value"),
        ("a:=1", "'=1' is not key=value"),
        ("a:b=1:b=2", "'b' is given twice"),
        ('a:b="1', "double quote is not closed"),
    ],
)
def test_a_malformed_text_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint) as caught:
        parse_modspec(text)
    assert "\n" not in str(caught.value)
