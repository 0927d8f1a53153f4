"""Ranks in one process, and what every rank concludes from the environment and from signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centralslice.data.slices import PIECE_NUMBERS, add_exactly
from centralslice.errors import ParameterError
from centralslice.runtime import signals
from centralslice.runtime.communicator import (
    AnnouncedFailure,
    Communicator,
    RankFailure,
    Serial,
    run_in_process,
)
from centralslice.runtime.launched import LaunchedWorld
from centralslice.runtime.signals import SignalFlags
from centralslice.runtime.world import check_parallel, on_master, open_world, ranks_asked, run_in_world
from centralslice_mpi.communicator import relatives
from centralslice_mpi.environment import check_library, check_size, library_family, library_name, world_of

SIZES = (1, 2, 3, 5)
LARGEST = int(np.iinfo(np.int32).max)
MPICH = "MPICH Version:      5.0.2\nMPICH Release date: Fri Sep 25\n"
OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11\0"


def within(seconds: float, work: Callable[[], Any]) -> None:
    """Run in a thread that must end in time; its error is raised here."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still running after {seconds} s"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("size", SIZES)
def test_every_rank_gets_the_masters_value_again_and_again(size: int) -> None:
    def work(communicator: Communicator) -> list[Any]:
        got = []
        for turn in range(20):
            got.append(communicator.broadcast((turn, b"x" * turn) if communicator.rank == 0 else None))
            communicator.sum_to_master(np.full(3, communicator.rank))
        return got

    assert run_in_process(size, work) == [[(turn, b"x" * turn) for turn in range(20)]] * size


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_a_rank_arrive_complete_and_in_order(size: int) -> None:
    def work(communicator: Communicator) -> list[Any]:
        if communicator.rank:
            for number in range(10):
                communicator.send((number, np.arange(number)), 0)
            communicator.broadcast(None)
            return []
        got = [communicator.receive() for _ in range(10 * (size - 1))]
        assert not communicator.waiting()
        communicator.broadcast(None)
        return got

    got = run_in_process(size, work)[0]
    for source in range(1, size):
        mine = [message for sender, message in got if sender == source]
        assert [number for number, _ in mine] == list(range(10))
        assert all(array.tolist() == list(range(number)) for number, array in mine)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-LARGEST, LARGEST), min_size=4, max_size=4), min_size=1, max_size=5),
    st.data(),
)
def test_integer_sums_are_exact_whatever_their_width(parts: list[list[int]], data: st.DataObject) -> None:
    kinds = [data.draw(st.sampled_from([np.int32, np.int64])) for _ in parts]

    def work(communicator: Communicator) -> Any:
        return communicator.sum_to_master(
            np.array(parts[communicator.rank], kinds[communicator.rank]).reshape(2, 2)
        )

    total, *others = run_in_process(len(parts), work)
    assert total.ravel().tolist() == [sum(column) for column in zip(*parts, strict=True)]
    assert total.shape == (2, 2)
    assert others == [None] * (len(parts) - 1)


def test_float_sums_are_added_in_the_order_of_the_ranks() -> None:
    parts = [np.float32([1e8]), np.float32([1.0]), np.float32([-1e8]), np.float32([1.0])]
    total = run_in_process(
        4, lambda communicator: communicator.sum_to_master(parts[communicator.rank].copy())
    )[0]
    assert total.tolist() == [(np.float32(1e8) + np.float32(1) + np.float32(-1e8) + np.float32(1)).item()]


@pytest.mark.parametrize("overflow_at", [0, PIECE_NUMBERS - 1, PIECE_NUMBERS, 2 * PIECE_NUMBERS])
def test_a_sum_that_leaves_int32_in_any_piece_comes_back_as_int64(overflow_at: int) -> None:
    total = np.full(2 * PIECE_NUMBERS + 1, 5, np.int32)
    part = np.full_like(total, 7)
    part[overflow_at] = LARGEST
    summed = add_exactly(total, part)
    assert summed.dtype == np.int64
    assert int(summed[overflow_at]) == LARGEST + 5
    assert np.count_nonzero(summed == 12) == len(total) - 1


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda array: array[::2, ::-1]])
def test_sums_of_arrays_of_any_layout_are_whole(layout: Callable[[Any], Any]) -> None:
    total, part = layout(np.arange(24, dtype=np.int32).reshape(4, 6)), layout(np.ones((4, 6), np.int32))
    expected = total + part
    assert add_exactly(total, part).tolist() == expected.tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("waiting_in", ["receive", "broadcast", "sum", "look"])
@pytest.mark.parametrize("end", ["raise", "exit", "abort", "return"])
def test_no_rank_waits_for_one_that_has_ended(size: int, waiting_in: str, end: str) -> None:
    """A clean end that others still wait for is a failure, too."""

    def work(communicator: Communicator) -> None:
        if communicator.rank == size - 1:
            if end == "raise":
                raise ZeroDivisionError("as asked")
            if end == "exit":
                raise SystemExit(3)
            if end == "abort":
                communicator.abort(3)
            return
        if waiting_in == "receive":
            communicator.receive()
        elif waiting_in == "broadcast":
            communicator.broadcast(1)
        elif waiting_in == "sum":
            communicator.sum_to_master(np.zeros(3))
        else:
            while not communicator.waiting() and end != "return":
                time.sleep(0.001)

    if end == "return":
        if size == 1 or waiting_in == "look":
            return within(10, lambda: run_in_process(size, work))
        expected: type[BaseException] = RankFailure
    else:
        expected = ZeroDivisionError if end == "raise" else SystemExit
    with pytest.raises(expected):
        within(10, lambda: run_in_process(size, work))
    return None


def test_what_a_rank_sent_before_it_ended_still_arrives() -> None:
    def work(communicator: Communicator) -> Any:
        if communicator.rank:
            return communicator.send("last words", 0)
        time.sleep(0.1)
        return communicator.receive()

    assert run_in_process(2, work)[0] == (1, "last words")


@pytest.mark.parametrize("size", SIZES)
def test_the_masters_error_is_every_ranks_error(size: int) -> None:
    def work(communicator: Communicator) -> Any:
        def check() -> None:
            raise ParameterError("--option: expected this")

        if communicator.rank == 0:
            return on_master(communicator, check)
        with pytest.raises(AnnouncedFailure) as told:
            on_master(communicator, check)
        assert told.value.code == 2
        raise told.value

    with pytest.raises(ParameterError, match="expected this"):
        run_in_process(size, work)


@pytest.mark.parametrize("size", SIZES)
def test_the_masters_result_is_every_ranks_result_and_only_it_works(size: int) -> None:
    worked = []

    def work(communicator: Communicator) -> Any:
        return on_master(communicator, lambda: worked.append(communicator.rank) or "done")

    assert run_in_process(size, work) == ["done"] * size
    assert worked == [0]


@given(st.integers(1, 300))
def test_the_tree_of_ranks_reaches_everyone_once_in_few_steps(size: int) -> None:
    reached = [0]
    for rank in reached:
        parent, children = relatives(rank, size)
        assert (parent is None) == (rank == 0)
        for child in children:
            assert relatives(child, size)[0] == rank
        reached += children
        assert len(children) <= size.bit_length()
    assert sorted(reached) == list(range(size))


HYDRA = {"PMI_SIZE": "8", "PMI_RANK": "3", "PMI_FD": "9", "MPI_LOCALNRANKS": "4"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3", "PMIX_RANK": "3", "PMIX_NAMESPACE": "x"}
STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}
BATCH = {
    "SLURM_NTASKS": "8",
    "SLURM_JOB_ID": "7",
    "SLURM_NPROCS": "8",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
}


@pytest.mark.parametrize(
    ("environment", "family"),
    [
        (HYDRA, "mpich"),
        (OMPI, "openmpi"),
        (STEP, None),
        ({**STEP, "PMI_SIZE": "8", "PMI_RANK": "3"}, None),
        ({**STEP, "PMIX_RANK": "3"}, None),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **OMPI}, "openmpi"),  # the step is that of the daemons
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **HYDRA}, "mpich"),
        ({"PMI_SIZE": "8", "PMI_RANK": "3"}, "mpich"),
        ({"MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_RANK": "3"}, "mpich"),
    ],
)
def test_a_launchers_environment_is_recognised(environment: dict[str, str], family: str | None) -> None:
    world = world_of({"PATH": "/bin", **environment})
    assert world is not None
    assert (world.size, world.rank, world.family) == (8, 3, family)


@pytest.mark.parametrize("environment", [{}, {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, BATCH])
def test_a_plain_process_and_a_batch_script_are_no_world(environment: dict[str, str]) -> None:
    assert world_of(environment) is None


def test_a_pmix_launcher_without_size_is_a_world_of_unknown_size() -> None:
    world = world_of({"PMIX_RANK": "2"})
    assert world is not None
    assert (world.size, world.rank) == (None, 2)


def test_a_launchers_number_that_is_none_is_named() -> None:
    with pytest.raises(ParameterError, match=r"OMPI_COMM_WORLD_SIZE: expected a number .* got 'x'"):
        world_of({"OMPI_COMM_WORLD_SIZE": "x"})


def test_mpi_libraries_are_told_apart() -> None:
    assert (library_family(MPICH), library_family(OPEN_MPI)) == ("mpich", "openmpi")
    assert library_family("Intel(R) MPI Library 2021.9 for Linux* OS") == "mpich"
    assert library_family("Something new") is None
    assert (library_name(MPICH), library_name(OPEN_MPI)) == ("MPICH 5.0.2", "Open MPI v5.0.11")


def test_a_launcher_of_the_other_library_is_refused_before_mpi_starts() -> None:
    world = LaunchedWorld(8, 0, "Open MPI's mpirun", "openmpi")
    check_library(world, OPEN_MPI)
    check_library(world, "Something new")
    with pytest.raises(
        ParameterError, match=r"Open MPI's mpirun started 8 ranks, but mpi4py uses MPICH 5\.0\.2"
    ):
        check_library(world, MPICH)


def test_eight_worlds_of_one_instead_of_one_of_eight_are_explained() -> None:
    world = LaunchedWorld(8, 0, "srun", None)
    check_size(world, 8, MPICH)
    with pytest.raises(
        ParameterError, match=r"srun started 8 ranks, but MPICH 5\.0\.2 sees a world of 1; .*--mpi=pmi"
    ):
        check_size(world, 1, MPICH)


@pytest.mark.parametrize(
    ("text", "mpi", "ranks", "threads"),
    [
        (None, False, None, None),
        ("mpi", True, None, None),
        ("mpi:4", True, 4, None),
        ("thread:3", False, None, 3),
    ],
)
def test_the_parallel_option_is_parsed(
    text: str | None, mpi: bool, ranks: int | None, threads: int | None
) -> None:
    asked = ranks_asked(text)
    assert (asked.mpi, asked.ranks, asked.threads) == (mpi, ranks, threads)


@pytest.mark.parametrize(
    "text", ["", "mpi:", "mpi:0", "thread", "thread:", "thread:0", "mpi:-1", "cuda:1", "thread:²"]
)
def test_other_forms_of_the_parallel_option_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="--parallel: expected mpi, mpi:N or thread:N"):
        ranks_asked(text)


def test_a_plain_process_is_alone_and_told_how_to_start_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PMI", "OMPI", "SLURM", "MPI_", "MV2")):
            monkeypatch.delenv(name)
    assert isinstance(open_world(), Serial)
    assert isinstance(open_world("thread:4"), Serial)
    assert isinstance(open_world("mpi:1"), Serial)
    assert run_in_world(None, lambda communicator: communicator.size + 6) == 7
    with pytest.raises(ParameterError, match="type: mpirun -n 4 centralslice"):
        open_world("mpi:4")


def test_the_parallel_option_is_compared_with_the_world() -> None:
    world = LaunchedWorld(8, 0, "srun", None)
    check_parallel(None, world)
    check_parallel("mpi", world)
    check_parallel("mpi:8", world)
    with pytest.raises(ParameterError, match="srun started 8 ranks; start 4"):
        check_parallel("mpi:4", world)
    with pytest.raises(ParameterError, match="for threads of each rank give --threads 4"):
        check_parallel("thread:4", world)


def test_stop_signals_are_noted_and_the_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with SignalFlags() as flags:
        assert flags.requested() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flags.requested() == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_that_comes_again_later_ends_the_process() -> None:
    program = """
import os, signal, time
from centralslice.runtime import signals
signals.REPEAT_S = 0.2
with signals.SignalFlags() as flags:
    for pause in (0.0, 0.01, 0.3):
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGTERM)
        print(flags.requested(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.split() == ["SIGTERM", "SIGTERM"]


def test_ctrl_c_that_comes_again_interrupts_though_a_signal_delivered_twice_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "REPEAT_CTRL_C_S", 0.1)
    with SignalFlags(("SIGINT", "SIGTERM")) as flags:
        for name in ("SIGINT", "SIGINT", "SIGTERM"):
            os.kill(os.getpid(), signal.Signals[name])
        assert flags.requested() == "SIGINT"
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # within REPEAT_S
        for _ in range(2):  # an unwinding that hangs can be interrupted, too
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)


def test_flags_in_another_thread_leave_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def elsewhere() -> None:
        with SignalFlags() as flags:
            assert signal.getsignal(signal.SIGTERM) is before
            assert flags.requested() is None

    within(10, elsewhere)


def test_a_worker_that_ends_in_good_order_leaves_others_waiting_for_the_master() -> None:
    def work(communicator: Communicator) -> Any:
        if communicator.rank == 0:
            communicator.send("end", 1)
            time.sleep(0.5)  # rank 1 has ended long before rank 2 hears anything
            communicator.send("end", 2)
            return None
        return communicator.receive()

    assert run_in_process(3, work) == [None, (0, "end"), (0, "end")]
