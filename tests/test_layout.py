"""Which ranks share a host, and what the plan says of it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from centralslice.cli import main
from centralslice.errors import ResourceError
from centralslice.jobs import layout
from centralslice.jobs.layout import host_bytes, layout_notes
from centralslice.jobs.make3d.plan import Make3dPlan, plan_make3d, read_particles
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.communicator import Communicator, Serial, run_in_process
from centralslice.runtime.exact_sums import scheme_bytes
from centralslice.runtime.hosts import Host, gather_hosts


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Make3dPlan:
    """Of a small run with two threads."""
    table = tmp_path_factory.mktemp("layout") / "particles.star"
    assert main(["simulate", "--output", str(table), "--box", "24", "--count", "40"]) == 0
    settings = Make3dSettings(input=table, output=table.with_name("map.mrc"), threads=2)
    registry = shared_registry()
    return plan_make3d(settings, registry, read_particles(settings, registry, "projection"))


def test_every_rank_is_counted_on_its_host() -> None:
    def work(communicator: Communicator) -> Any:
        found = gather_hosts(communicator)
        communicator.broadcast(None)  # nobody leaves before all are known
        return found

    here = socket.gethostname()
    (host,) = gather_hosts(Serial())
    assert (host.name, host.ranks, host.has_master) == (here, (0,), True)
    assert host.memory_bytes > 2**28
    first, *others = run_in_process(4, work)
    assert [(host.name, host.ranks) for host in first] == [(here, (0, 1, 2, 3))]
    assert others == [()] * 3


def test_ranks_of_different_hosts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "one", 1: "two", 2: "one", 3: "two", 4: "three"}

    def work(communicator: Communicator) -> Any:
        rank = communicator.rank
        if rank == 0:
            monkeypatch.setattr(socket, "gethostname", lambda: names[0])
            found = gather_hosts(communicator)
        else:
            communicator.send(("host", (names[rank], 100 + rank)), 0)
            found = ()
        communicator.broadcast(None)
        return found

    found = run_in_process(5, work)[0]
    assert [(host.name, host.ranks) for host in found] == [("one", (0, 2)), ("two", (1, 3)), ("three", (4,))]
    assert [host.has_master for host in found] == [True, False, False]
    assert [host.memory_bytes for host in found[1:]] == [101, 104]


def test_one_rank_a_host_is_not_remarked_on(plan: Make3dPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "REMARKABLE_BYTES", 1)
    hosts = [Host("one", (0,), 10**12), Host("two", (1,), 10**12)]
    assert layout_notes(plan, hosts) == []


def test_a_worker_needs_one_set_of_sums_and_the_master_two(plan: Make3dPlan) -> None:
    assert plan.has_halves
    sums = scheme_bytes(plan.sums_kind, plan.sums)
    assert plan.memory_bytes - plan.worker_bytes >= sums
    assert host_bytes(plan, 3, has_master=True) == plan.memory_bytes + 2 * plan.worker_bytes
    assert host_bytes(plan, 3, has_master=False) == 3 * plan.worker_bytes


def test_several_ranks_on_a_host_are_remarked_on_with_figures(plan: Make3dPlan) -> None:
    hosts = [Host("one", (0, 1, 2, 3), 10**12), Host("two", (4, 5, 6, 7), 10**12), Host("x", (8,), 10**12)]
    notes = layout_notes(plan, hosts)
    sums, needed = scheme_bytes(plan.sums_kind, plan.sums), plan.memory_bytes + 3 * plan.worker_bytes
    assert notes == [
        f"4 ranks on host one each hold {sums / 1e9:.2f} GB of sums, {needed / 1e9:.2f} GB with all else; "
        f"one rank a host with --threads 8 needs {plan.memory_bytes / 1e9:.2f} GB",
        "the same on 1 more host(s)",
    ]


def test_more_ranks_than_a_host_can_hold_are_refused_with_what_fits(plan: Make3dPlan) -> None:
    room = plan.worker_bytes * 3
    with pytest.raises(
        ResourceError, match=r"host two: its 4 ranks need .* GB of memory, it has .* GB; one rank a host with"
    ) as e:
        layout_notes(plan, [Host("one", (0,), 10**12), Host("two", (1, 2, 3, 4), room)])
    assert "\n" not in str(e.value)
    layout_notes(plan, [Host("one", (0,), 10**12), Host("two", (1, 2, 3), room)])


def test_the_command_shows_the_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "centralslice.runtime.hosts.gather_hosts", lambda communicator: (Host("n1", (0, 1, 2), 10**12),)
    )
    table = tmp_path / "p.star"
    assert main(["simulate", "--output", str(table), "--box", "24", "--count", "20"]) == 0
    arguments = ["make3d", "--input", str(table), "--output", str(tmp_path / "m.mrc"), "--dry-run"]
    assert main([*arguments, "--threads", "2"]) == 0
    assert "note       3 ranks on host n1 each hold" in capsys.readouterr().out
