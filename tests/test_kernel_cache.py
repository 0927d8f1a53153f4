"""Compiled kernels are kept in a folder for each version of the sources, and never taken from another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from centralslice.runtime import kernel_cache

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = ("framework", "plugins", "mpi_launch")
SAY_FOLDER = """
import os
from centralslice.runtime.kernel_cache import choose_kernel_folder
choose_kernel_folder()
print(os.environ.get("NUMBA_CACHE_DIR", ""))
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources that a test may edit."""
    for root in ROOTS:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(REPOSITORY / root, tmp_path / "sources" / root, ignore=ignored)
    return tmp_path / "sources"


def environment(sources: Path, cache: Path) -> dict[str, str]:
    """As a user with this cache folder who has these sources."""
    kept = {name: value for name, value in os.environ.items() if name != kernel_cache.VARIABLE}
    path = os.pathsep.join(str(sources / root) for root in ROOTS)
    return {**kept, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}


def folder_of(sources: Path, cache: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SAY_FOLDER], env={**environment(sources, cache), **more},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_an_edited_kernel_source_gets_another_folder(sources: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = folder_of(sources, cache)
    assert Path(first).parent == cache / "centralslice"
    assert Path(first).is_dir()
    assert Path(first).stat().st_mode & 0o077 == 0
    simd = sources / "framework/centralslice/fourier/simd.py"
    facts, text = simd.stat(), simd.read_text()
    # the same size and time, as in two wheels
    simd.write_text(text.replace("lanes", "lames", 1))
    os.utime(simd, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (simd.stat().st_size, simd.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    second = folder_of(sources, cache)
    assert second != first
    simd.write_text(text)
    assert folder_of(sources, cache) == first


def test_a_source_without_kernels_changes_nothing(sources: Path, tmp_path: Path) -> None:
    first = folder_of(sources, tmp_path / "cache")
    errors = sources / "framework/centralslice/errors.py"
    errors.write_text(errors.read_text() + "\n# more\n")
    assert folder_of(sources, tmp_path / "cache") == first


def test_the_users_own_folder_wins(sources: Path, tmp_path: Path) -> None:
    assert folder_of(sources, tmp_path / "cache", NUMBA_CACHE_DIR="/elsewhere") == "/elsewhere"
    assert not (tmp_path / "cache").exists()


def test_without_a_folder_that_can_be_written_numba_looks_for_one_itself(
    sources: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert folder_of(sources, blocked) == ""
    # a bad XDG_CACHE_HOME does not keep from using the home
    home = folder_of(sources, blocked, HOME=str(tmp_path / "home"))
    assert Path(home).is_relative_to(tmp_path / "home")


def test_only_folders_of_other_versions_that_were_long_unused_are_removed(tmp_path: Path) -> None:
    parent = tmp_path / "centralslice"
    long_ago = time.time() - kernel_cache.KEPT_S - 3600
    kept = [f"kernels-{3:016x}", "something", "kernels-x"]
    for name in (f"kernels-{1:016x}", f"kernels-{2:016x}", *kept):
        (parent / name).mkdir(parents=True)
        (parent / name / "kernel.nbi").write_text("x")
        if name != kept[0]:
            os.utime(parent / name, (long_ago, long_ago))
    (tmp_path / "target").mkdir()
    link = parent / f"kernels-{4:016x}"
    link.symlink_to(tmp_path / "target")
    os.utime(link, (long_ago, long_ago), follow_symlinks=False)
    assert kernel_cache._usable(parent / f"kernels-{5:016x}")
    left = sorted(path.name for path in parent.iterdir())
    assert left == sorted([*kept, link.name, f"kernels-{5:016x}"])
    assert (tmp_path / "target").is_dir()


def test_using_a_folder_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / f"kernels-{1:016x}"
    folder.mkdir()
    os.utime(folder, (0, 0))
    assert kernel_cache._usable(folder)
    assert time.time() - folder.stat().st_mtime < 60


def test_finding_the_folder_takes_no_time_to_speak_of() -> None:
    kernel_cache.sources_hash()
    started = time.process_time()
    kernel_cache.sources_hash()
    assert time.process_time() - started < 0.1  # 3 ms on an idle machine


def test_help_imports_no_numba_and_makes_no_folder(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom centralslice.cli import main\n"
        "main(['make3d', '--help'])\nassert 'numba' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env=environment(REPOSITORY, tmp_path / "cache"),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_first_runs_at_the_same_time_are_safe(tmp_path: Path) -> None:
    cache, program = tmp_path / "cache", "import sys; from centralslice.cli import main; sys.exit(main())"

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words],
            env=environment(REPOSITORY, cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    table = tmp_path / "p.star"
    with start("simulate", "--output", str(table), "--count", "12", "--box", "24", "--no-ctf") as process:
        assert process.wait() == 0, process.stderr and process.stderr.read()
    shutil.rmtree(cache)

    def reconstruct(name: str) -> subprocess.Popen[str]:
        return start(
            "make3d", "--input", str(table), "--output", str(tmp_path / f"{name}.mrc"), "--threads", "1"
        )

    def finished(process: subprocess.Popen[str]) -> str:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "sha256" in out
        return err

    both = [reconstruct("a"), reconstruct("b")]
    for process in both:
        assert "compiling kernels" in finished(process)
    folders = list((cache / "centralslice").iterdir())
    assert len(folders) == 1
    assert list(folders[0].rglob("*.nbi"))
    assert list(folders[0].rglob("*.tmp*")) == []
    # what they left serves the next run
    assert "compiling kernels" not in finished(reconstruct("c"))
    manifests = [json.loads((tmp_path / f"{name}_manifest.json").read_text()) for name in "abc"]
    assert len({manifest["map_sha256"] for manifest in manifests}) == 1
