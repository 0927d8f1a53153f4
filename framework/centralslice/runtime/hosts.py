"""Which ranks share a host, and how much memory it has."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from centralslice.runtime.communicator import MASTER, Communicator


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the run.

    Attributes
    ----------
    name
        As it calls itself.
    ranks
        Ranks on it.
    memory_bytes
        Its memory.
    """

    name: str
    ranks: tuple[int, ...]
    memory_bytes: int

    @property
    def has_master(self) -> bool:
        """Whether rank 0 is here."""
        return MASTER in self.ranks


def memory_of_this_host() -> int:
    """Physical memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gather_hosts(communicator: Communicator) -> tuple[Host, ...]:
    """The hosts of all ranks in the order of their first ranks: on the master; empty elsewhere. Collective."""
    own = (socket.gethostname(), memory_of_this_host())
    if communicator.rank != MASTER:
        communicator.send(("host", own), MASTER)
        return ()
    found = {MASTER: own}
    for _ in range(communicator.size - 1):
        source, (kind, facts) = communicator.receive()
        if kind != "host":
            raise RuntimeError(f"rank {source} sent '{kind}' where its host was expected")
        found[source] = facts
    hosts: dict[str, list[int]] = {}
    for rank in sorted(found):
        hosts.setdefault(found[rank][0], []).append(rank)
    return tuple(
        Host(name, tuple(ranks), min(found[rank][1] for rank in ranks)) for name, ranks in hosts.items()
    )
