"""What several ranks on one host cost: each holds sums of its own, where the threads of one rank share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from centralslice.errors import ResourceError
from centralslice.jobs.run_tools import RunChoices
from centralslice.runtime.hosts import Host

#: Several ranks on a host are remarked on if one rank would need so much less.
REMARKABLE_BYTES = 2**28


class PlannedMemory(Protocol):
    """What the plan of a sum job says of memory."""

    @property
    def settings(self) -> RunChoices:
        """The user's choice."""

    @property
    def memory_bytes(self) -> int:
        """Of the rank that makes the maps."""

    @property
    def worker_bytes(self) -> int:
        """Of any other rank."""

    @property
    def sums_bytes(self) -> int:
        """One set of sums, or of transformed maps: what each rank has of its own."""


def layout_notes(plan: PlannedMemory, hosts: Sequence[Host], held: str = "sums") -> list[str]:
    """Notes on hosts where several ranks multiply the sums.

    Parameters
    ----------
    plan
        Of the run.
    hosts
        As :func:`centralslice.runtime.hosts.gather_hosts` gives them.
    held
        What each rank has of its own.

    Raises
    ------
    ResourceError
        If the ranks of a host need more memory than it has.
    """
    for host in hosts:
        _check(plan, host)
    notes = [note for note in (_note(plan, host, held) for host in hosts) if note]
    return [notes[0], f"the same on {len(notes) - 1} more host(s)"] if len(notes) > 1 else notes


def host_bytes(plan: PlannedMemory, ranks: int, has_master: bool) -> int:
    """Memory of so many ranks."""
    return (plan.memory_bytes if has_master else 0) + (ranks - has_master) * plan.worker_bytes


def _check(plan: PlannedMemory, host: Host) -> None:
    count, needed = len(host.ranks), host_bytes(plan, len(host.ranks), host.has_master)
    if count > 1 and needed > host.memory_bytes:
        raise ResourceError(
            f"host {host.name}: its {count} ranks need {needed / 1e9:,.1f} GB of memory, it has "
            f"{host.memory_bytes / 1e9:,.1f} GB; {_instead(plan, host)}"
        )


def _note(plan: PlannedMemory, host: Host, held: str) -> str:
    count, needed = len(host.ranks), host_bytes(plan, len(host.ranks), host.has_master)
    if needed - host_bytes(plan, 1, host.has_master) < REMARKABLE_BYTES:
        return ""
    return (
        f"{count} ranks on host {host.name} each hold {plan.sums_bytes / 1e9:,.2f} GB "
        f"of {held}, {needed / 1e9:,.2f} GB with all else; {_instead(plan, host)}"
    )


def _instead(plan: PlannedMemory, host: Host) -> str:
    threads = len(host.ranks) * plan.settings.threads
    one = host_bytes(plan, 1, host.has_master)
    return f"one rank a host with --threads {threads} needs {one / 1e9:,.2f} GB"
