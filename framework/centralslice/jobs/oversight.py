"""What the master watches while blocks are done: progress, hooks, when to write a checkpoint and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from centralslice.jobs.stages import RunMemory
from centralslice.runtime.checkpoint import MASTER, CheckpointStore, RunState, Shard
from centralslice.runtime.progress import Progress
from centralslice.runtime.schedule import STOP, BlockReport
from centralslice.runtime.signals import SignalFlags


@dataclass
class RunOverseer:
    """The master's overseer of all stages of a run.

    Attributes
    ----------
    progress
        Display.
    every_s
        Seconds between checkpoints, 0 for none at intervals.
    store
        Where checkpoints go, or None.
    signals
        Noted stop signals, or None.
    fingerprint
        What must be the same to resume.
    observe
        Called with every report, for hooks.
    cleanup
        Holds the checkpoint folder's lock to the end of the run; it is taken when first needed.
    generation_bytes
        Size of the next generation of all ranks.
    planned
        Label to blocks of all stages.
    quanta
        Label to array name to the units of its integer sums.
    memory
        What is known of the run so far.
    """

    progress: Progress
    every_s: float
    store: CheckpointStore | None
    signals: SignalFlags | None
    fingerprint: dict[str, Any]
    observe: Callable[[BlockReport], None]
    cleanup: ExitStack
    generation_bytes: Callable[[], int] = int
    planned: Callable[[], dict[str, int]] = dict
    quanta: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory: RunMemory = field(default_factory=RunMemory)
    stopped_by: str = ""
    _told: str | None = None
    _last: float = field(default_factory=time.monotonic)

    def stop_asked(self) -> str | None:
        """The first stop signal that came to this process or, on the master, that a worker told of."""
        return (None if self.signals is None else self.signals.requested()) or self._told

    def block_done(self, report: BlockReport) -> None:
        """Count, remember blank images and a worker's stop signal, tell hooks."""
        self._told = self._told or report.facts.get(STOP)
        self.memory.blank.update(report.facts.get("blank", ()))
        self.progress.advance(report.particles, report.rank, report.seconds)
        self.observe(report)

    def checkpoint_due(self) -> bool:
        """At intervals, and when a signal asked to stop."""
        if self.store is None:
            return False
        due = self.stop_asked() is not None or (
            self.every_s > 0 and time.monotonic() - self._last >= self.every_s
        )
        if due:
            self._lock(self.store)
        return due

    def begin_checkpoint(self) -> int:
        """Make room on the disk; the next epoch."""
        if self.store is None:
            raise RuntimeError("no checkpoint folder")
        self.store.make_room(self.generation_bytes())
        return self.store.next_epoch()

    def checkpoint_saved(self, epoch: int, records: Sequence[Iterable[Any]]) -> bool:
        """Write the index; True after a signal."""
        if self.store is None:
            return False
        state = RunState(self.fingerprint, self.planned(), self.quanta)
        self.store.commit(epoch, list(chain.from_iterable(records)), state)
        self._last = time.monotonic()
        self.stopped_by = self.stop_asked() or ""
        return bool(self.stopped_by)

    def keep_complete(self, shard: Shard, facts: Mapping[str, Any]) -> None:
        """Write a last epoch, of all that was summed: sums can be finished again from it, or merged.

        Parameters
        ----------
        shard
            Totals of all stages, and lists of the particles.
        facts
            What finishing needs, and what the job was.
        """
        if self.store is None:
            raise RuntimeError("no checkpoint folder")
        self._lock(self.store)
        self.store.make_room(shard.nbytes)
        epoch = self.store.next_epoch()
        stages = {label: blocks for label, blocks in self.planned().items() if label in shard.blocks}
        quanta = {label: units for label, units in self.quanta.items() if label in stages}
        record = self.store.write_shard(epoch, MASTER, shard)
        self.store.commit(epoch, [record], RunState(self.fingerprint, stages, quanta, facts))

    def _lock(self, store: CheckpointStore) -> None:
        """Keep other runs out of the folder from now to the end."""
        if not store.locked:
            self.cleanup.enter_context(store.lock())
