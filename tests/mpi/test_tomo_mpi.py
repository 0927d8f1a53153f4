"""tomo under a real launcher: the same bits on any number of ranks, and after kills and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from centralslice.cli import main
from centralslice.errors import EXIT_REQUEUE
from centralslice.runtime.checkpoint import checkpoint_folder

if TYPE_CHECKING:
    from conftest import Launcher

pytestmark = pytest.mark.mpi

#: With these it takes long enough to be hit.
LONG = ("--sym", "I", "--b", "64", "--checkpoint-every", "0.1s")
PARTICLES = 48


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "tomo"
    made = [
        *("simulate", "--tomo", "--output", str(folder), "--tomograms", "3", "--particles", "16"),
        *("--image-size", "288", "288", "--tomogram-size", "288", "288", "48", "--box", "32", "--apix", "4"),
        *("--radius", "34", "--tilt-step", "4", "--snr", "0.5", "--motion", "3", "--defocus", "1e4", "2e4"),
    ]
    assert main(made) == 0
    return folder / "optimisation_set.star"


def words(project: Path, folder: Path, *options: str) -> list[str]:
    return ["tomo", "--i", str(project), "--b", "32", "--o", str(folder), "--threads", "1", *options]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def alone(project: Path, folder: Path, *options: str) -> dict[str, str]:
    """Hashes of an ordinary run."""
    assert main(words(project, folder, *options)) == 0
    found: dict[str, str] = manifest(folder)["map_sha256"]
    return found


@pytest.mark.slow
def test_the_maps_are_the_same_bits_on_any_ranks(mpich: Launcher, project: Path, tmp_path: Path) -> None:
    first = alone(project, tmp_path / "alone")
    for ranks in (1, 2, 3):
        folder = tmp_path / f"ranks{ranks}"
        done = mpich.centralslice(ranks, *words(project, folder, "--threads", str(1 + ranks % 2)))
        assert done.code == 0, done.err
        assert manifest(folder)["map_sha256"] == first
        assert manifest(folder)["ranks"] == ranks
        assert done.out.count("sha256 ") == 3  # the master alone speaks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "ranks1", "ranks2", "ranks3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--subset", "2"),
        ("--no-ctf", "--no-master-works"),
        ("--whiten", "--mem", "0.25"),
        ("--mode", "gauss_2"),
    ],
    ids=["one half set", "no CTF", "whitened, little memory", "blocks"],
)
def test_options_mean_the_same_on_ranks(
    mpich: Launcher, project: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    first = alone(project, tmp_path / "alone", *[word for word in options if word not in ("--mem", "0.25")])
    done = mpich.centralslice(3, *words(project, tmp_path / "ranks", *options))
    assert done.code == 0, done.err
    assert manifest(tmp_path / "ranks")["map_sha256"] == first


@pytest.mark.slow
def test_open_mpi_makes_the_same_maps(openmpi: Launcher, project: Path, tmp_path: Path) -> None:
    first = alone(project, tmp_path / "alone")
    done = openmpi.centralslice(2, *words(project, tmp_path / "ranks"))
    assert done.code == 0, done.err
    assert manifest(tmp_path / "ranks")["map_sha256"] == first


def test_an_error_of_the_master_ends_all_ranks_with_one_line(
    mpich: Launcher, project: Path, tmp_path: Path
) -> None:
    done = mpich.centralslice(
        3, *words(project, tmp_path / "x", "--subset", "1", "--split", "parity", "--b", "3")
    )
    assert done.code == 2
    assert done.err.count("centralslice: error: ") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_other_ranks_to_the_same_maps(
    mpich: Launcher, project: Path, tmp_path: Path
) -> None:
    first, folder = alone(project, tmp_path / "alone", *LONG), tmp_path / "map"
    job = mpich.start(2, "-m", "centralslice.cli", *words(project, folder, *LONG))
    wait_for_checkpoint(job, folder)
    os.killpg(job.pid, signal.SIGKILL)
    assert mpich.finish(job, 20).code != 0
    assert not list(folder.glob("[!.]*"))
    resumed = mpich.centralslice(3, *words(project, folder, *LONG, "--only-do-unfinished"))
    assert resumed.code == 0, resumed.err
    assert manifest(folder)["map_sha256"] == first
    assert 0 < manifest(folder)["resumed_particles"] <= PARTICLES


@pytest.mark.slow
@pytest.mark.parametrize(("name", "again"), [("SIGUSR1", 3), ("SIGTERM", 1)])
def test_a_signal_writes_a_checkpoint_and_other_ranks_go_on_from_it(
    mpich: Launcher, project: Path, tmp_path: Path, name: str, again: int
) -> None:
    first, folder = alone(project, tmp_path / "alone", *LONG), tmp_path / "map"
    job = mpich.start(2, "-m", "centralslice.cli", *words(project, folder, *LONG))
    wait_for_checkpoint(job, folder)
    os.kill(job.pid, signal.Signals[name])
    done = mpich.finish(job)
    assert done.code == EXIT_REQUEUE, done.err
    assert not folder.exists()
    resumed = mpich.centralslice(again, *words(project, folder, *LONG, "--resume", "--threads", "2"))
    assert resumed.code == 0, resumed.err
    assert manifest(folder)["map_sha256"] == first
    assert 0 < manifest(folder)["resumed_particles"] <= PARTICLES


def wait_for_checkpoint(job: subprocess.Popen[str], folder: Path) -> None:
    """Until a checkpoint is complete."""
    deadline = time.monotonic() + 120
    while not list(checkpoint_folder(folder).glob("index_*.json")):
        assert job.poll() is None, f"the run ended before its first checkpoint: {job.communicate()}"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
