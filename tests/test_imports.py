"""The direction of imports: the contracts hold, and they fail when a forbidden import is planted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = ("framework", "plugins", "mpi_launch")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources that a test may spoil."""
    for root in ROOTS:
        shutil.copytree(
            REPOSITORY / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(folder / root) for root in ROOTS)
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_import_contracts_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("framework/centralslice/data/volume.py", "import centralslice_plugins"),
        ("framework/centralslice/jobs/__init__.py", "import centralslice_mpi"),
        ("plugins/centralslice_plugins/formats/__init__.py", "import centralslice_mpi"),
        ("framework/centralslice/errors.py", "import centralslice.conventions"),
        ("framework/centralslice/abc/reader.py", "import centralslice.plugin.modspec"),
        ("framework/centralslice/optics/__init__.py", "import centralslice.geometry"),
        ("framework/centralslice/plugin/loading.py", "import centralslice.cli.options"),
    ],
)
def test_a_planted_forbidden_import_is_caught(copy: Path, module: str, planted: str) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\n{planted}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{Path(module).stem} ->" in done.stdout or f"{Path(module).parent.name} ->" in done.stdout


def test_the_source_roots_cannot_be_imported_as_packages(tmp_path: Path) -> None:
    path = tmp_path / "planted.py"
    path.write_text("import framework.centralslice\n\nprint(framework)\n")
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    if not Path(ruff).is_file():
        pytest.skip("ruff is not installed")
    config = f"--config={REPOSITORY / 'pyproject.toml'}"
    done = subprocess.run(
        [ruff, "check", "--no-cache", config, str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "TID251" in done.stdout


@pytest.mark.parametrize("root", ROOTS)
def test_a_source_root_holds_exactly_one_package(root: str) -> None:
    visible = [path.name for path in (REPOSITORY / root).iterdir() if not path.name.startswith((".", "__"))]
    assert len(visible) == 1
    assert (REPOSITORY / root / visible[0] / "__init__.py").is_file()
