"""The wheel, and a stranger's plugin, in virtual environments of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import mrcfile
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "third_party_plugin"

pytestmark = pytest.mark.packaging


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program without this process's Python settings; its output."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CENTRALSLICE"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, folder: Path, *what: str) -> None:
    for module in ("build", "hatchling", "pip"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; pip install -e '.[dev]'")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, *what, source)


class Environment:
    """A fresh virtual environment that borrows our dependencies, not our package or .pth files."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.bin = folder / "bin"
        self.packages = Path(
            run(self.bin / "python", "-c", "import site; print(site.getsitepackages()[0])").strip()
        )
        borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (self.packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))

    def install(self, wheel: Path) -> None:
        python = self.bin / "python"
        options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
        # --ignore-installed: the borrowed folder may hold an editable installation, which must be left alone
        run(sys.executable, "-m", "pip", "--python", python, "install", *options, "--ignore-installed", wheel)

    def centralslice(self, *arguments: str | Path) -> str:
        return run(self.bin / "centralslice", *arguments, cwd=self.folder)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source distribution and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(REPOSITORY, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel."""
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="session")
def with_stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and the example of a third-party plugin."""
    folder = tmp_path_factory.mktemp("stranger")
    build(EXAMPLE, folder, "--wheel")
    (stranger,) = folder.glob("*.whl")
    environment = Environment(tmp_path_factory.mktemp("with_stranger"))
    environment.install(wheel)
    environment.install(stranger)
    return environment


def test_the_wheel_holds_exactly_our_three_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"centralslice", "centralslice_plugins", "centralslice_mpi"}
    assert {"centralslice/registry.toml", "centralslice/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for root in ("framework", "plugins", "mpi_launch"):
        folder = REPOSITORY / root
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.py")} <= names


def test_the_source_distribution_can_be_worked_in(distributions: Path) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {
        "Makefile", ".ci/run", "README.md", "LICENSE", "CHANGELOG.md", "mkdocs.yml", "registry.toml",
        "tests/test_packaging.py", "examples/third_party_plugin/pyproject.toml",
    } <= names  # fmt: skip


def test_the_wheel_runs_from_its_own_files(installed: Environment) -> None:
    program = (
        "import centralslice, centralslice_plugins, centralslice_mpi;"
        "from centralslice.plugin.catalogue import shipped_catalogue;"
        "print(centralslice.__file__, centralslice_plugins.__file__, centralslice_mpi.__file__);"
        "print(shipped_catalogue())"
    )
    places = run(installed.bin / "python", "-c", program, cwd=installed.folder).split()
    assert len(places) == 4
    assert all(Path(place).is_relative_to(installed.packages) for place in places)


def test_the_console_script_of_the_wheel_works(installed: Environment) -> None:
    assert "usage: centralslice" in installed.centralslice("--help")
    listed = installed.centralslice("plugins", "list")
    for name in ("cyclic", "star", "mrc", "kaiser_bessel"):
        assert name in listed
    assert "not loaded" not in listed
    assert "acme" not in listed


def test_a_strangers_plugins_are_listed_with_their_owner_and_shown(with_stranger: Environment) -> None:
    listed = with_stranger.centralslice("plugins", "list")
    assert "acme.clip" in listed
    assert "acme_hann" in listed
    assert "[acme (acme-recon 1.0)]" in listed
    assert "sigmas  float, σ, default 4.0" in with_stranger.centralslice("plugins", "show", "acme.clip")
    assert "width" in with_stranger.centralslice("plugins", "show", "acme_hann")


def test_a_strangers_processor_is_used_by_process(with_stranger: Environment, tmp_path: Path) -> None:
    data = np.random.default_rng(5).normal(size=(8, 8, 8)).astype(np.float32)
    data[1, 2, 3] = 1e4
    with mrcfile.new(tmp_path / "in.mrc") as opened:
        opened.set_data(data)
        opened.voxel_size = 1.5
    with_stranger.centralslice(
        "process", tmp_path / "in.mrc", tmp_path / "out.mrc", "--process", "acme.clip:sigmas=2"
    )
    with mrcfile.open(tmp_path / "out.mrc") as opened:
        processed = opened.data.copy()
    middle, width = data.mean(dtype=np.float64), 2 * data.std(dtype=np.float64)
    np.testing.assert_array_equal(processed, np.clip(data, middle - width, middle + width).astype(np.float32))


@pytest.mark.slow  # the kernels are compiled anew for the new environment
def test_a_strangers_kernel_reconstructs_a_map_close_to_the_truth(
    with_stranger: Environment, tmp_path: Path
) -> None:
    made = ("--count", "400", "--box", "32", "--no-ctf", "--apix", "2")
    with_stranger.centralslice("simulate", "--output", tmp_path / "particles.star", *made)
    with_stranger.centralslice(
        "make3d", "--input", tmp_path / "particles.star", "--output", tmp_path / "map.mrc",
        "--mode", "acme_hann:width=4", "--threads", "2",
    )  # fmt: skip
    with mrcfile.open(tmp_path / "map.mrc") as opened:
        found = opened.data.astype(np.float64)
    with mrcfile.open(tmp_path / "particles_truth.mrc") as opened:
        truth = opened.data.astype(np.float64)
    axes = np.ogrid[-16:16, -16:16, -16:16]
    inside = sum(axis**2 for axis in axes) < 12**2
    deviation = np.sqrt(np.mean((found - truth)[inside] ** 2) / np.mean(truth[inside] ** 2))
    assert deviation < 0.02


def test_the_examples_own_tests_pass(with_stranger: Environment, tmp_path: Path) -> None:
    run(
        with_stranger.bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
        f"--rootdir={EXAMPLE}", f"--config-file={EXAMPLE / 'pyproject.toml'}", EXAMPLE / "tests",
        cwd=tmp_path,
    )  # fmt: skip
