"""What several ranks on one host cost: each holds sums of its own, where the threads of one rank share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from centralslice.errors import ResourceError
from centralslice.jobs.make3d_plan import Make3dPlan
from centralslice.runtime.exact_sums import scheme_bytes
from centralslice.runtime.hosts import Host

#: Several ranks on a host are remarked on if one rank would need so much less.
REMARKABLE_BYTES = 2**28


def with_layout(plan: Make3dPlan, hosts: Sequence[Host]) -> Make3dPlan:
    """The plan with notes on hosts where several ranks multiply the sums.

    Parameters
    ----------
    plan
        Of the run.
    hosts
        As :func:`centralslice.runtime.hosts.gather_hosts` gives them.

    Raises
    ------
    ResourceError
        If the ranks of a host need more memory than it has.
    """
    for host in hosts:
        _check(plan, host)
    notes = [note for note in (_note(plan, host) for host in hosts) if note]
    if len(notes) > 1:
        notes = [notes[0], f"the same on {len(notes) - 1} more host(s)"]
    return replace(plan, notes=(*plan.notes, *notes)) if notes else plan


def host_bytes(plan: Make3dPlan, ranks: int, has_master: bool) -> int:
    """Memory of so many ranks."""
    return (plan.memory_bytes if has_master else 0) + (ranks - has_master) * plan.worker_bytes


def _check(plan: Make3dPlan, host: Host) -> None:
    count, needed = len(host.ranks), host_bytes(plan, len(host.ranks), host.has_master)
    if count > 1 and needed > host.memory_bytes:
        raise ResourceError(
            f"host {host.name}: its {count} ranks need {needed / 1e9:,.1f} GB of memory, it has "
            f"{host.memory_bytes / 1e9:,.1f} GB; {_instead(plan, host)}"
        )


def _note(plan: Make3dPlan, host: Host) -> str:
    count, needed = len(host.ranks), host_bytes(plan, len(host.ranks), host.has_master)
    if needed - host_bytes(plan, 1, host.has_master) < REMARKABLE_BYTES:
        return ""
    return (
        f"{count} ranks on host {host.name} each hold {scheme_bytes(plan.sums_kind, plan.sums) / 1e9:,.2f} GB "
        f"of sums, {needed / 1e9:,.2f} GB with all else; {_instead(plan, host)}"
    )


def _instead(plan: Make3dPlan, host: Host) -> str:
    threads = len(host.ranks) * plan.settings.threads
    one = host_bytes(plan, 1, host.has_master)
    return f"one rank a host with --threads {threads} needs {one / 1e9:,.2f} GB"
