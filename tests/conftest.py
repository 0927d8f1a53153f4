"""What all tests share: where the reference data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the reference data, read only; the test is skipped where they are not at hand."""
    given = os.environ.get("CENTRALSLICE_REFERENCE")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}; set CENTRALSLICE_REFERENCE to their folder")
    return folder
