"""Tables as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from centralslice.errors import ParameterError
from centralslice.testing.writer import Tables, WriterContract
from centralslice_plugins.writers.json_tables import JsonWriter


class TestJsonWriter(WriterContract):
    def make(self) -> JsonWriter:
        return JsonWriter()

    def read_tables(self, path: Path) -> Tables:
        return {
            name: {label: np.array(column) for label, column in table.items()}
            for name, table in json.loads(path.read_text()).items()
        }


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    JsonWriter().write_tables(path, {"t": {"x": np.array([np.nan, np.inf, 0.5]), "n": np.array(2)}})
    assert json.loads(path.read_text()) == {"t": {"x": [None, None, 0.5], "n": 2}}


def test_single_precision_is_written_as_its_shortest_decimal(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    JsonWriter().write_tables(path, {"t": {"x": np.array([0.1], np.float32), "ok": np.array([True])}})
    assert json.loads(path.read_text()) == {"t": {"x": [0.1], "ok": [True]}}


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"out\.json: table 't': column 'x': expected real numbers"):
        JsonWriter().write_tables(tmp_path / "out.json", {"t": {"x": np.array([1j])}})
    assert not list(tmp_path.iterdir())
