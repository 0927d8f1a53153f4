"""subparticles under a real launcher: all ranks write one stack, the same bytes whatever their number."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest

from centralslice.cli import main
from centralslice.errors import EXIT_REQUEUE

if TYPE_CHECKING:
    from conftest import Launcher

pytestmark = pytest.mark.mpi

BOX = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated particles with half sets, their map, and a mask of a part of it."""
    made = tmp_path_factory.mktemp("particles")
    options = ("--count", "300", "--box", str(BOX), "--snr", "1")
    assert main(["simulate", "--output", str(made / "p.star"), *options]) == 0
    axis = np.arange(BOX) - BOX // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - 8.0) ** 2)
    with mrcfile.new(made / "keep.mrc") as file:
        file.set_data((0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 5) / 6, 0, 1))).astype(np.float32))
    return made


def words(folder: Path, output: Path, *options: str) -> list[str]:
    """The command."""
    truth = next(path for path in folder.glob("*.mrc") if path.name != "keep.mrc")
    files = ["--particles", folder / "p.star", "--map", truth, "--subunitmask", folder / "keep.mrc"]
    rest = ["--output", output, "--sym", "c4", "--sym-mode", "map", "--cosets", "off", "--threads", "1"]
    return ["subparticles", *map(str, [*files, *rest]), *options]


def same(first: Path, second: Path) -> bool:
    """Whether stack and table are the same bytes, but for the stack's own folder."""
    one, two = ((path / "sub.star").read_text().replace(str(path), "") for path in (first, second))
    return (first / "sub.mrcs").read_bytes() == (second / "sub.mrcs").read_bytes() and one == two


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    made = tmp_path_factory.mktemp("alone")
    assert main(words(folder, made / "sub.mrcs", "--verbose", "0")) == 0
    return made


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_stack_and_table_are_the_same_bytes_on_any_number_of_ranks(
    mpich: Launcher, folder: Path, alone: Path, tmp_path: Path, ranks: int
) -> None:
    done = mpich.centralslice(ranks, *words(folder, tmp_path / "sub.mrcs"))
    assert done.code == 0, done.err
    assert done.out.count("written ") == 1
    assert same(alone, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_a_bad_option_is_told_once_and_ends_all_ranks(mpich: Launcher, folder: Path, tmp_path: Path) -> None:
    done = mpich.centralslice(2, *words(folder, tmp_path / "sub.mrcs", "--newbox", "2"))
    assert done.code == 2
    assert done.err.count("--newbox: expected") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_of_two_ranks_that_was_stopped_goes_on_with_three(
    mpich: Launcher, folder: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sub.mrcs"
    job = mpich.start(2, "-m", "centralslice.cli", *words(folder, output, "--checkpoint-every", "0.05s"))
    checkpoints = tmp_path / "sub_checkpoint"
    deadline = time.monotonic() + 60
    while job.poll() is None and not list(checkpoints.glob("index_*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGUSR1)
    done = mpich.finish(job)
    assert done.code in (0, EXIT_REQUEUE), done.err  # it may have been at its end already
    if done.code == EXIT_REQUEUE:
        assert not output.exists()
        done = mpich.centralslice(3, *words(folder, output, "--resume"))
        assert done.code == 0, done.err
    assert same(alone, tmp_path)
    assert not checkpoints.exists()
