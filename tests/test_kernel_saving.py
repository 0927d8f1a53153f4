"""A full disk, or no folder at all, for compiled kernels does not end a run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
#: Kernels are larger than this, the outputs of the smallest run are not.
LIMIT_BYTES = 60_000
#: Of a file that is not there, so that numba has no folder for it.
NOWHERE = """
import sys
{before}
from centralslice.runtime.kernel_saving import go_on_without_cache
go_on_without_cache()
go_on_without_cache()
assert {imported} == ("numba" in sys.modules)
from numba import njit
source = "def twice(x):\\n    return 2 * x\\ndef thrice(x):\\n    return 3 * x\\n"
names = {{}}
exec(compile(source, "<nowhere>", "exec"), names)
print([njit(cache=True)(names[name])(21) for name in ("twice", "thrice")])
"""


def environment(cache: Path) -> dict[str, str]:
    """As a user with this cache folder."""
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    path = os.pathsep.join(str(REPOSITORY / root) for root in ("framework", "plugins", "mpi_launch"))
    return {**kept, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}


@pytest.mark.parametrize("before", ["", "import numba"])
def test_kernels_that_have_no_folder_are_compiled_and_the_user_is_told_once(
    before: str, tmp_path: Path
) -> None:
    program = NOWHERE.format(before=before, imported=bool(before))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[42, 63]\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("centralslice: warning: compiled kernels cannot be kept (cannot cache function")


@pytest.mark.slow
def test_a_run_goes_on_where_the_disk_is_too_full_for_its_kernels(tmp_path: Path) -> None:
    def run(cache: Path, *words: str, limit: bool = False) -> subprocess.CompletedProcess[str]:
        def little_room() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

        return subprocess.run(
            [sys.executable, "-m", "centralslice.cli", *words], env=environment(cache), text=True,
            capture_output=True, check=False, preexec_fn=little_room if limit else None,
        )  # fmt: skip

    table, common = (
        str(tmp_path / "p.star"),
        ("--threads", "1", "--half-maps", "no", "--checkpoint-every", "0"),
    )
    made = run(tmp_path / "a", "simulate", "--output", table, "--count", "20", "--box", "24", "--no-ctf")
    assert made.returncode == 0, made.stderr
    runs = {
        name: run(
            tmp_path / name, "make3d", "--input", table, "--output", str(tmp_path / f"{name}.mrc"), *common,
            limit=name == "full",
        )
        for name in ("a", "full")
    }  # fmt: skip
    for name, done in runs.items():
        assert done.returncode == 0, (name, done.stderr)
    warnings = [line for line in runs["full"].stderr.splitlines() if "warning" in line]
    (folder,) = (tmp_path / "full" / "centralslice").iterdir()
    assert len(warnings) == 1
    assert warnings[0].startswith(f"centralslice: warning: compiled kernels cannot be kept in {folder}")
    assert "File too large" in warnings[0]
    assert "warning" not in runs["a"].stderr
    hashes = {json.loads((tmp_path / f"{name}_manifest.json").read_text())["map_sha256"] for name in runs}
    assert len(hashes) == 1
    assert [path for path in folder.rglob("*") if ".tmp" in path.name] == []
