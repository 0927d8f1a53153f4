"""make3d under real launchers: the same bits on any number of ranks, and after kills and signals."""

from __future__ import annotations

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

from centralslice.cli import main, parser_for
from centralslice.cli.make3d import settings_from
from centralslice.errors import EXIT_REQUEUE
from centralslice.jobs import stages
from centralslice.jobs.accumulation import Accumulation
from centralslice.jobs.make3d.job import run_make3d
from centralslice.jobs.make3d.plan import plan_make3d, read_particles
from centralslice.jobs.run_tools import Launch
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.checkpoint import checkpoint_folder
from centralslice.runtime.communicator import Communicator, run_in_process
from centralslice.runtime.schedule import run_stage

if TYPE_CHECKING:
    from conftest import Launcher

pytestmark = pytest.mark.mpi

#: With this symmetry it takes long enough to be hit.
PARTICLES, BOX, LONG = 3000, 64, ("--sym", "tet")


@dataclass(frozen=True)
class Data:
    """Simulated particles, and the hash of their map."""

    folder: Path
    sha256: str = ""

    def words(self, output: Path, *options: str) -> list[str]:
        """A make3d command."""
        files = ["--input", str(self.folder / "p.star"), "--output", str(output)]
        return ["make3d", *files, "--threads", "1", *options]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("small")
    made = ("--output", str(folder / "p.star"), "--count", "300", "--box", "32", "--snr", "1")
    assert main(["simulate", *made]) == 0
    return Data(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("large")
    made = ("--output", str(folder / "p.star"), "--count", str(PARTICLES), "--box", str(BOX), "--snr", "1")
    assert main(["simulate", *made]) == 0
    return Data(folder, alone(Data(folder).words(folder / "one.mrc", *LONG)))


def manifest(output: Path) -> dict[str, Any]:
    """What a run says of itself."""
    found: dict[str, Any] = json.loads(output.with_name(f"{output.stem}_manifest.json").read_text())
    return found


def alone(words: list[str]) -> str:
    """The map's hash of an ordinary run."""
    assert main(words) == 0
    return str(manifest(Path(words[words.index("--output") + 1]))["map_sha256"])


def in_process(words: list[str], ranks: int) -> str:
    """The map's hash of a run on ranks in this process."""
    settings, registry = settings_from(parser_for(("make3d",)).parse_args(words)), shared_registry()
    plan = plan_make3d(settings, registry, read_particles(settings, registry, "subtract"))
    results = run_in_process(
        ranks, lambda communicator: run_make3d(plan, registry, Launch("test", communicator))
    )
    assert results[0] is not None
    assert results[1:] == [None] * (ranks - 1)
    return str(results[0].sha256)


OPTIONS = {
    "half sets": [],
    "one set": ["--half-maps", "no"],
    "symmetry": ["--sym", "c4", "--snr", "10"],
    "in blocks": ["--mode", "gauss_2"],
    "iterative": ["--iterative"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_map_is_the_same_bits_on_any_ranks_and_threads(
    mpich: Launcher, small: Data, tmp_path: Path, options: list[str]
) -> None:
    one = small.words(tmp_path / "one.mrc", *options)
    hashes = {"1 thread": alone(one)}
    two = [*small.words(tmp_path / "two.mrc", *options)]
    two[two.index("--threads") + 1] = "2"
    hashes["2 threads"] = alone(two)
    for ranks in (3,) if options else (1, 2, 3, 5):
        output = tmp_path / f"mpi{ranks}.mrc"
        words = small.words(output, *options, "--log-json")
        done = mpich.centralslice(ranks, *words)
        assert done.code == 0, done.err
        hashes[f"{ranks} ranks"] = manifest(output)["map_sha256"]
        assert done.out.count("sha256 ") == 1
        for suffix in ("", "_half1", "_half2"):
            first, other = (tmp_path / f"{stem}{suffix}.mrc" for stem in ("one", f"mpi{ranks}"))
            assert first.exists() == other.exists()
    assert len(set(hashes.values())) == 1, hashes


def test_ranks_in_this_process_make_the_same_map(small: Data, tmp_path: Path) -> None:
    first = alone(small.words(tmp_path / "one.mrc"))
    assert in_process(small.words(tmp_path / "three.mrc", "--verbose", "0"), 3) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--half-maps", "no", "--mode", "gauss_2"],
        ["--half-maps", "no", "--mode", "gauss_2", "--compat", "eman2"],
    ],
    ids=["integer sums", "block sums", "wide sums"],
)
def test_blocks_in_any_order_make_the_same_map(
    large: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    expected = alone(large.words(tmp_path / "one.mrc", *options))
    orders: set[tuple[int, ...]] = set()
    done: list[int] = []

    def shuffled(communicator: Communicator, blocks: Any, work: Any, overseer: Any, *more: Any) -> None:
        order = list(blocks)
        if communicator.rank == 0:
            chance.shuffle(order)
            orders.add(tuple(order))
        run_stage(communicator, order, work, overseer, *more)

    def add(self: Accumulation, rows: Any, *more: Any) -> list[int]:
        done.append(int(rows[0]))
        return original(self, rows, *more)

    original = Accumulation.add
    monkeypatch.setattr(stages, "run_stage", shuffled)
    monkeypatch.setattr(Accumulation, "add", add)
    first_rows = []
    for seed in range(3):
        chance = random.Random(seed)
        done.clear()
        words = large.words(tmp_path / f"{seed}.mrc", "--verbose", "0", *options)
        assert in_process(words, 3) == expected, seed
        first_rows.append(list(done))
    assert len({tuple(rows) for rows in first_rows}) > 1
    assert all(sorted(rows) == sorted(first_rows[0]) for rows in first_rows)
    assert any(list(order) != sorted(order) for order in orders)


@pytest.mark.slow
def test_open_mpi_makes_the_same_map(openmpi: Launcher, small: Data, tmp_path: Path) -> None:
    first = alone(small.words(tmp_path / "one.mrc"))
    for ranks in (2, 3):
        done = openmpi.centralslice(ranks, *small.words(tmp_path / f"{ranks}.mrc", "--no-master-works"))
        assert done.code == 0, done.err
        assert manifest(tmp_path / f"{ranks}.mrc")["map_sha256"] == first


def test_every_rank_takes_part(mpich: Launcher, small: Data, tmp_path: Path) -> None:
    done = mpich.centralslice(3, *small.words(tmp_path / "map.mrc", "--log-json"))
    last = json.loads([line for line in done.err.splitlines() if line.startswith("{")][-1])
    assert set(last["ranks"]) == {"0", "1", "2"}
    assert sum(last["ranks"].values()) == 300


@pytest.mark.slow
def test_usr1_writes_a_checkpoint_and_other_ranks_go_on_from_it(
    mpi: Launcher, large: Data, tmp_path: Path
) -> None:
    output = tmp_path / "map.mrc"
    job = mpi.start(2, "-m", "centralslice.cli", *large.words(output, *LONG, "--checkpoint-every", "0.2s"))
    wait_for_checkpoint(job, output)
    os.kill(job.pid, signal.SIGUSR1)
    done = mpi.finish(job)
    assert done.code == EXIT_REQUEUE, done.err
    assert not output.exists()
    goes_on_to_the_same_map(mpi, 3, large, output)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_stop_signal_to_one_worker_alone_stops_all_after_a_checkpoint(
    mpich: Launcher, large: Data, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "map.mrc"
    job = mpich.start(3, "-m", "centralslice.cli", *large.words(output, *LONG, "--checkpoint-every", "0.2s"))
    wait_for_checkpoint(job, output)
    os.kill(mpich.process_of(job, 2), signal.Signals[name])
    done = mpich.finish(job)
    assert done.code == EXIT_REQUEUE, done.err
    assert f"stopped by {name}; a checkpoint was written" in done.err
    assert not output.exists()
    goes_on_to_the_same_map(mpich, 2, large, output)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["master", "worker", "launcher"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    mpich: Launcher, large: Data, tmp_path: Path, victim: str
) -> None:
    output = tmp_path / "map.mrc"
    job = mpich.start(3, "-m", "centralslice.cli", *large.words(output, *LONG, "--checkpoint-every", "0.2s"))
    wait_for_checkpoint(job, output)
    os.kill(
        job.pid if victim == "launcher" else mpich.process_of(job, 0 if victim == "master" else 2),
        signal.SIGKILL,
    )
    done = mpich.finish(job, 20)
    assert done.code != 0
    assert not output.exists()
    goes_on_to_the_same_map(mpich, 2, large, output)


def goes_on_to_the_same_map(mpi: Launcher, ranks: int, data: Data, output: Path) -> None:
    """Resumes, takes over what was done, and ends with the bits of an uninterrupted run."""
    resumed = mpi.centralslice(ranks, *data.words(output, *LONG, "--resume=auto"))
    assert resumed.code == 0, resumed.err
    assert manifest(output)["map_sha256"] == data.sha256
    assert 0 < manifest(output)["resumed_particles"] <= PARTICLES


def wait_for_checkpoint(job: subprocess.Popen[str], output: Path) -> None:
    """Until a checkpoint is complete."""
    deadline = time.monotonic() + 120
    while not list(checkpoint_folder(output).glob("index_*.json")):
        assert job.poll() is None, f"the run ended before its first checkpoint: {job.communicate()}"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
