"""One generation of a checkpoint, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centralslice.conventions import IntArray
from centralslice.errors import CheckpointError
from centralslice.runtime.checkpoint_index import differences, index_name, name_differences
from centralslice.runtime.checkpoint_records import MASTER, RunState, ShardRecord
from centralslice.runtime.checkpoint_shards import StoredShard


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One generation, found good.

    Attributes
    ----------
    folder, epoch, created
        Where, its number, and when it was committed (ISO 8601, UTC).
    state
        What the master gave to :meth:`CheckpointStore.commit`.
    records
        Its shards.
    notes
        What the user should be told, such as that a later generation could not be used.
    """

    folder: Path
    epoch: int
    created: str
    state: RunState
    records: tuple[ShardRecord, ...]
    notes: tuple[str, ...] = ()

    def shards(self) -> Iterator[StoredShard]:
        """The shards, the master's first; nothing of them is in memory yet."""
        return (StoredShard(self.folder, record) for record in self.records)

    @property
    def master(self) -> StoredShard | None:
        """The master's own shard, if it wrote one."""
        return next((shard for shard in self.shards() if shard.rank == MASTER), None)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(record.nbytes for record in self.records)

    @property
    def index_path(self) -> Path:
        """The file that makes it valid."""
        return self.folder / index_name(self.epoch)

    def blocks(self) -> dict[str, IntArray]:
        """Label to the sorted numbers of all blocks in the sums.

        Raises
        ------
        CheckpointError
            If a block is in two shards, or a shard cannot be read.
        """
        parts: dict[str, list[IntArray]] = {label: [] for label in self.state.stages}
        for shard in self.shards():
            for label, numbers in shard.blocks().items():
                parts.setdefault(label, []).append(numbers)
        return {label: self._disjoint(label, numbers) for label, numbers in parts.items()}

    def _disjoint(self, label: str, parts: list[IntArray]) -> IntArray:
        numbers: IntArray = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
        twice = numbers[1:][numbers[1:] == numbers[:-1]]
        if len(twice):
            raise CheckpointError(
                f"{self.folder}: epoch {self.epoch}: block {twice[0]} of {label} is in the sums twice"
            )
        planned = self.state.stages.get(label)
        if len(numbers) and (numbers[0] < 0 or (planned is not None and numbers[-1] >= planned)):
            raise CheckpointError(
                f"{self.folder}: epoch {self.epoch}: {label} has blocks {numbers[0]}-{numbers[-1]}, planned {planned}"
            )
        return numbers

    def verify(self, contents: bool = True) -> None:
        """Check presence, sizes, that blocks are counted once and, with ``contents``, every checksum.

        Raises
        ------
        CheckpointError
            Naming the file and what is wrong with it.
        """
        for shard in self.shards():
            if contents:
                shard.verify()
            else:
                shard.check_presence()
        self.blocks()


def refuse_foreign(found: Checkpoint, fingerprint: Mapping[str, Any] | None) -> None:
    differing = {} if fingerprint is None else differences(found.state.fingerprint, fingerprint)
    if differing:
        raise CheckpointError(
            f"{found.folder}: epoch {found.epoch} is of another run: {name_differences(differing)}; "
            "run with the same inputs and options, or without --resume"
        )
