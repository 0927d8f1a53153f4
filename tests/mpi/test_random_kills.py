"""Runs killed at random moments under a real launcher: what is resumed ends with the bits of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from centralslice.cli import main
from centralslice.runtime.checkpoint import checkpoint_folder

if TYPE_CHECKING:
    from conftest import Launcher

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

#: Runs killed with MPICH's launcher, and with Open MPI's.
KILLS, OPENMPI_KILLS = 20, 2
#: Ranks of the runs that are killed, and what goes on: so many ranks, or a process with threads.
RANKS, RESUMED_WITH = 3, (1, 2, 5, 3, "threads")
#: In turn.
VICTIMS = ("worker", "master", "checkpoint")
#: Enough work to be killed in the middle: with this symmetry each particle costs more than its image.
PARTICLES, BOX, OPTIONS = 16_000, 32, ("--sym", "tet")
EVERY_S = 0.2
#: A kill comes at this part of the measured time of an undisturbed run.
FIRST, LAST = 0.3, 0.9
#: Beside the interval: the blocks in hand of every rank, and writing the checkpoint that was due, on a busy machine.
SLACK_S = 1.0
#: Attempts to hit a run before it ends.
ATTEMPTS = 4
WATCHED = Path(__file__).with_name("watched.py")


@dataclass
class Undisturbed:
    """The particles, the hash of their map by one process, the files of a run, and its seconds on ranks."""

    table: Path
    sha256: str
    files: frozenset[str]
    seconds: float


@dataclass(frozen=True)
class Killed:
    """What a killed run left.

    Attributes
    ----------
    output
        The map that is not there.
    saved
        Particles in the last checkpoint.
    lost_s
        Between that checkpoint and the last block that was done after it.
    lost
        Particles done after it.
    torn
        Files of a checkpoint that was not finished.
    part
        Of the undisturbed run's time.
    """

    output: Path
    saved: int
    lost_s: float
    lost: int
    torn: tuple[str, ...]
    part: float


def words(table: Path, output: Path, *options: str) -> list[str]:
    """A make3d command."""
    files = ["--input", str(table), "--output", str(output)]
    return ["make3d", *files, *OPTIONS, "--checkpoint-every", f"{EVERY_S}s", *options]


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_name(f"{output.stem}_manifest.json").read_text())
    return found


def measured(launcher: Launcher, table: Path, folder: Path) -> Undisturbed:
    """A run of one process, and one on ranks."""
    alone, ranks = folder / "alone" / "map.mrc", folder / "ranks" / "map.mrc"
    for output in (alone, ranks):
        output.parent.mkdir(parents=True)
    assert main(words(table, alone, "--threads", "1")) == 0
    seconds = []
    for again in (
        (),
        ("--force",),
    ):  # the first of a launcher's environment has to read all of it from the disk
        done = launcher.run(
            RANKS, WATCHED, folder / "journal", *words(table, ranks, "--threads", "1", *again)
        )
        assert done.code == 0, done.err
        seconds.append(done.seconds)
    assert manifest(ranks)["map_sha256"] == manifest(alone)["map_sha256"]
    assert manifest(alone)["resumed_particles"] == 0
    files = frozenset(path.name for path in alone.parent.iterdir())
    return Undisturbed(table, str(manifest(alone)["map_sha256"]), files, min(seconds))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    made = ("--output", str(folder / "p.star"), "--count", str(PARTICLES), "--box", str(BOX), "--snr", "1")
    assert main(["simulate", *made]) == 0
    return folder / "p.star"


@pytest.fixture(scope="module")
def undisturbed(table: Path) -> dict[str, Undisturbed]:
    """By the launcher's name; measured when first needed."""
    return {}


def kill_one(
    launcher: Launcher, run: Undisturbed, folder: Path, number: int, chance: random.Random
) -> Killed:
    """Start a run and kill it in the middle; one that ends first does not count."""
    for attempt in range(ATTEMPTS):
        part = chance.uniform(FIRST, LAST)
        output = folder / f"attempt{attempt}" / "map.mrc"
        output.parent.mkdir(parents=True)
        journal = folder / f"journal{attempt}"
        begun = time.monotonic()
        job = launcher.start(RANKS, WATCHED, journal, *words(run.table, output, "--threads", "1"))
        hit(launcher, job, output, VICTIMS[number % len(VICTIMS)], number, begun + part * run.seconds)
        part = (time.monotonic() - begun) / run.seconds
        done = launcher.finish(job, 30)
        assert "Traceback" not in done.err, done.err
        if done.code != 0 and not output.exists() and part <= LAST:
            return left_by(output, journal, part)
        if done.code == 0:  # this machine has become faster
            run.seconds = min(run.seconds, part * run.seconds)
    pytest.fail(f"{launcher.name}: {ATTEMPTS} runs ended before they were killed")


def hit(
    launcher: Launcher, job: subprocess.Popen[str], output: Path, victim: str, number: int, moment: float
) -> None:
    """Kill a rank at the moment, or as soon after it as there is a checkpoint, or one is being written."""
    folder, ranks = checkpoint_folder(output), []
    while not list(folder.glob("index_*.json")) or time.monotonic() < moment - 0.05:
        if job.poll() is not None:
            return
        time.sleep(0.002)
    rank = {"master": 0, "worker": 1 + number % (RANKS - 1), "checkpoint": number % RANKS}[victim]
    with contextlib.suppress(AssertionError, OSError):  # it has ended
        ranks = [launcher.process_of(job, rank)]
    while ranks and (time.monotonic() < moment or (victim == "checkpoint" and not torn_in(folder))):
        if job.poll() is not None:
            return
        time.sleep(0.0005)
    for process in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def torn_in(folder: Path) -> tuple[str, ...]:
    """Files of a checkpoint without an index."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # removed at the end of a run
        return ()
    latest = max((name[6:12] for name in names if name.startswith("index_")), default="")
    # .shard_000003_r1_ab12cd34.h5.partial
    return tuple(name for name in names if "shard_" in name and name.lstrip(".")[6:12] > latest)


def left_by(output: Path, journal: Path, part: float) -> Killed:
    """The last checkpoint, and what was done after it."""
    folder = checkpoint_folder(output)
    committed = max(path.stat().st_mtime for path in folder.glob("index_*.json"))
    lines = [line.split() for line in journal.read_text().splitlines()]
    reports = [(float(moment), int(done)) for moment, done in lines]
    saved = max(done for moment, done in reports if moment <= committed)
    last_at, last_done = reports[-1]
    return Killed(output, saved, max(0.0, last_at - committed), last_done - saved, torn_in(folder), part)


def goes_on(launcher: Launcher, run: Undisturbed, killed: Killed, how: int | str) -> None:
    """Resumed with other ranks or threads, it takes over what the checkpoint had, and makes the same map."""
    folder, output = killed.output.parent, killed.output
    if how == "threads":
        assert main(words(run.table, output, "--threads", "2", "--resume=auto")) == 0
    else:
        command = words(run.table, output, "--threads", "1", "--resume=auto")
        done = launcher.centralslice(int(how), *command, timeout=60)
        assert done.code == 0, done.err
    assert manifest(output)["map_sha256"] == run.sha256
    assert manifest(output)["resumed_particles"] == killed.saved
    assert {path.name for path in folder.iterdir()} == run.files


def check(launcher: Launcher, known: dict[str, Undisturbed], table: Path, folder: Path, number: int) -> None:
    """Kill a run, judge what was lost, resume it."""
    if launcher.name not in known:
        known[launcher.name] = measured(launcher, table, folder / "undisturbed")
    run = known[launcher.name]
    killed = kill_one(launcher, run, folder, number, random.Random(7000 + number))
    assert FIRST <= killed.part <= LAST
    assert 0 < killed.saved < PARTICLES or killed.lost == 0
    assert killed.lost_s <= EVERY_S + SLACK_S
    print(f"killed {VICTIMS[number % len(VICTIMS)]} at {killed.part:.2f}: {killed}")
    goes_on(launcher, run, killed, RESUMED_WITH[number % len(RESUMED_WITH)])


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits_when_resumed(
    mpich: Launcher, undisturbed: dict[str, Undisturbed], table: Path, tmp_path: Path, number: int
) -> None:
    check(mpich, undisturbed, table, tmp_path, number)


@pytest.mark.parametrize("number", range(OPENMPI_KILLS))
def test_the_same_with_open_mpi(
    openmpi: Launcher, undisturbed: dict[str, Undisturbed], table: Path, tmp_path: Path, number: int
) -> None:
    check(openmpi, undisturbed, table, tmp_path, number)
