"""The MPI communicator under real launchers: its laws, and that no end of any rank leaves others hanging."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from centralslice.errors import EXIT_REQUEUE

if TYPE_CHECKING:
    from conftest import Launcher

pytestmark = pytest.mark.mpi

#: A job that must end does so within this, the start of MPI included (Open MPI: 2 s here).
SOON_S = 10.0


def facts(out: str) -> list[dict[str, Any]]:
    """The JSON lines of a program."""
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_messages_broadcasts_and_sums_are_those_of_one_rank(mpi: Launcher, ranks: int) -> None:
    done = mpi.program(ranks, "laws")
    assert done.code == 0, done.err
    assert sorted(fact["rank"] for fact in facts(done.out)) == list(range(ranks))
    assert {fact["size"] for fact in facts(done.out)} == {ranks}
    assert done.err == ""


def test_the_schedule_does_every_block_once_and_its_sums_are_the_same_bits(mpi: Launcher) -> None:
    hashes = set()
    for ranks in (1, 2, 3, 5):
        done = mpi.program(ranks, "schedule", "60", "13", "999", "0.005")
        assert done.code == 0, done.err
        (fact,) = facts(done.out)
        assert fact["blocks"] == list(range(60))
        assert fact["ranks"] == list(range(ranks))
        hashes.add(fact["sha256"])
    assert len(hashes) == 1


def test_a_run_that_stops_at_a_checkpoint_ends_with_the_code_for_requeueing(mpi: Launcher) -> None:
    done = mpi.program(3, "schedule", "60", "10", "20", "0.002")
    assert done.code == EXIT_REQUEUE
    (fact,) = facts(done.out)
    assert 20 <= fact["stopped"] < 60


def test_usr1_to_the_launcher_reaches_the_ranks(mpi: Launcher) -> None:
    job = mpi.start(3, mpi_programs(), "schedule", "100000", "1000000", "1000000", "0.01")
    time.sleep(3)
    os.kill(job.pid, signal.SIGUSR1)
    done = mpi.finish(job, SOON_S)
    assert done.code == EXIT_REQUEUE, done.err
    (fact,) = facts(done.out)
    assert fact["signal"] == "SIGUSR1"
    assert fact["stopped"] > 0


def test_term_to_mpichs_launcher_still_leaves_time_for_a_checkpoint(mpich: Launcher) -> None:
    """Open MPI kills its ranks 0.2 s after a TERM or INT, so that only USR1 is promised there."""
    job = mpich.start(3, mpi_programs(), "schedule", "100000", "1000000", "1000000", "0.01")
    time.sleep(2)
    os.kill(job.pid, signal.SIGTERM)
    done = mpich.finish(job, SOON_S)
    (fact,) = facts(done.out)
    assert fact["signal"] == "SIGTERM"
    assert done.code != 0


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("raise", 1, "ZeroDivisionError: as asked"),
        ("input", 2, "--option: expected this, got that"),
        ("sys.exit3", 3, "SystemExit: 3"),
        ("sys.exit0", 1, "SystemExit: 0"),
        ("interrupt", 130, ""),
    ],
)
def test_an_error_on_any_rank_ends_the_job_at_once_and_says_where(
    mpi: Launcher, how: str, code: int, said: str, who: int
) -> None:
    done = mpi.program(3, "die", how, str(who), "work")
    assert done.code == code
    assert done.seconds < SOON_S
    assert said in done.err
    if who and said:
        assert f"rank {who} of 3 on " in done.err
    assert ("Traceback" in done.err) == (how in ("raise", "sys.exit3", "sys.exit0"))


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("raise", "receive"),
        ("raise", "broadcast"),
        ("raise", "sum"),
        ("os._exit7", "work"),
        ("kill", "receive"),
        ("kill", "work"),
    ],
)
def test_no_rank_waits_for_one_that_died(mpi: Launcher, how: str, who: int, where: str) -> None:
    done = mpi.program(3, "die", how, str(who), where)
    assert done.code != 0
    assert done.seconds < SOON_S


@pytest.mark.parametrize("where", ["receive", "broadcast", "sum"])
@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize("how", ["return0", "return2"])
def test_no_rank_waits_for_one_that_has_left_too_early(
    mpich: Launcher, how: str, who: int, where: str
) -> None:
    done = mpich.program(3, "die", how, str(who), where)
    assert done.code != 0
    assert done.seconds < SOON_S
    assert f"rank {who} ended with exit code {how[6:]} while others needed it" in done.err


def test_a_rank_that_returns_an_error_does_not_wait_for_ever_for_busy_ones(mpich: Launcher) -> None:
    done = mpich.program(3, "die", "return2", "1", "work")
    assert done.code == 2
    assert done.seconds < 20


def test_what_the_master_finds_wrong_is_said_once_and_ends_all_ranks(mpi: Launcher) -> None:
    done = mpi.program(3, "verdict", "input")
    assert done.code == 2
    assert done.err.count("centralslice: error: --option: expected this, got that") == 1
    assert "Traceback" not in done.err


def test_the_codes_of_all_ranks_become_one(mpi: Launcher) -> None:
    assert mpi.program(3, "code", "0", "0", "0").code == 0
    assert mpi.program(3, "code", "0", "4", "5").code == 4
    assert mpi.program(3, "verdict", "sys.exit0").code == 0


def test_mpichs_launcher_with_open_mpis_mpi4py_is_refused_once(mpich: Launcher, openmpi: Launcher) -> None:
    """Open MPI would run three worlds of one rank each."""
    done = type(mpich)("mixed", mpich.mpiexec, openmpi.python).program(3, "laws")
    assert done.code == 2
    assert done.err.count("MPICH's mpiexec started 3 ranks, but mpi4py uses Open MPI v") == 1
    assert str(openmpi.mpiexec) in done.err
    assert done.out == ""


def test_open_mpis_launcher_with_mpichs_mpi4py_is_refused_once(mpich: Launcher, openmpi: Launcher) -> None:
    """MPICH would end the process while it starts."""
    done = type(mpich)("mixed", openmpi.mpiexec, mpich.python).program(3, "laws")
    assert done.code == 2
    assert done.err.count("Open MPI's mpirun started 3 ranks, but mpi4py uses MPICH 5") == 1
    assert str(mpich.mpiexec) in done.err


def test_without_mpi4py_one_rank_says_what_to_install(mpich: Launcher) -> None:
    done = mpich.run(3, "-S", "-c", without("mpi4py"), timeout=60)
    assert done.code == 2
    assert done.err.count("mpi4py is not installed") == 1
    assert "pip install 'centralslice[mpi]'" in done.err


def test_a_wrong_option_is_said_once(mpi: Launcher) -> None:
    for arguments in (["make3d", "--bogus"], ["make3d", "--input", "none.star", "--output", "m.mrc"]):
        done = mpi.centralslice(3, *arguments)
        assert done.code == 2
        assert done.err.count("centralslice: error:") == 1
        assert done.seconds < SOON_S


def test_the_number_of_ranks_asked_for_is_compared(mpich: Launcher) -> None:
    done = mpich.centralslice(3, "make3d", "--input", "a.star", "--output", "m.mrc", "--parallel", "mpi:4")
    assert done.code == 2
    assert done.err.count("--parallel mpi:4: MPICH's mpiexec started 3 ranks") == 1


def test_commands_that_are_not_parallel_run_once(mpich: Launcher) -> None:
    alone = mpich.centralslice(1, "plugins", "list")
    assert alone.code == 0
    assert mpich.centralslice(3, "plugins", "list").out == alone.out


def mpi_programs() -> str:
    """The file of the programs."""
    return str(os.path.join(os.path.dirname(__file__), "programs.py"))


def without(module: str) -> str:
    """A program that starts a world where a module cannot be imported."""
    path = [entry for entry in sys.path if entry]
    return f"""
import sys
sys.path += {path!r}
sys.modules[{module!r}] = None
from centralslice.runtime.launched import shared_runner
sys.exit(shared_runner().guarded(lambda communicator: 0))
"""
