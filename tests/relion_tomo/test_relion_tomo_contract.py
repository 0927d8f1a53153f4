"""The laws of readers, for tomography projects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from centralslice.testing.reader import ReaderContract
from centralslice_plugins.readers.relion_tomo import RelionTomoReader


class TestRelionTomoReader(ReaderContract):
    count = 5
    new_project: Callable[[Path], Any]

    @pytest.fixture(autouse=True)
    def _projects(self, new_project: Callable[[Path], Any]) -> None:
        self.new_project = new_project

    def make(self) -> RelionTomoReader:
        return RelionTomoReader()

    def write_example(self, folder: Path) -> Path:
        path: Path = self.new_project(folder).write()
        return path
