"""How long a user waits for help and for the list of plugins, each in a new process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"]], ids=" ".join)
def test_start(benchmark: BenchmarkFixture, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "centralslice.cli", *arguments]
    benchmark.pedantic(
        subprocess.run, (command,), {"check": True, "stdout": subprocess.DEVNULL}, rounds=5, warmup_rounds=1
    )
