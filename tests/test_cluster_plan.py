"""The manual's figures for a large cluster are those that the plan gives today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "explanation" / "cluster-scale.md"


def test_the_manual_shows_the_plan_of_a_large_box_on_many_nodes() -> None:
    script = REPOSITORY / "benchmarks" / "cluster_plan.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in PAGE.read_text()
