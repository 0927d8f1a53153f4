"""Checkpoints: one shard a rank, one of the master, and an index written last.

The folder ``<map stem>_checkpoint`` beside the map holds two generations. A generation counts only when its
index is there, and the index is written when all its shards are safely on disk; so a run that is killed at any
moment leaves a good generation behind.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from centralslice.errors import CheckpointError, ResourceError
from centralslice.runtime.checkpoint_generation import Checkpoint, refuse_foreign
from centralslice.runtime.checkpoint_index import Index, index_name, read_index, write_index
from centralslice.runtime.checkpoint_lock import Holder, check_held, folder_lock
from centralslice.runtime.checkpoint_records import MASTER, RunState, ShardRecord
from centralslice.runtime.checkpoint_shards import AnyArray, Piece, Shard, StoredShard
from centralslice.runtime.checkpoint_writing import write_shard_file

__all__ = [
    "MASTER",
    "AnyArray",
    "Checkpoint",
    "CheckpointStore",
    "Piece",
    "RunState",
    "Shard",
    "ShardRecord",
    "StoredShard",
    "checkpoint_bytes",
    "checkpoint_folder",
    "require_free_space",
]

#: Generations that are kept.
GENERATIONS = 2
_INDEX = re.compile(r"index_(\d{6,})\.json\Z")
_SHARD = re.compile(r"\.?shard_(\d{6,})_(?:r\d+|master)_[0-9a-f]+\.h5(?:\.partial)?\Z")
_LEFTOVER = re.compile(r"\.(?:index_\d{6,}\..*\.partial\.json|lock\.[0-9a-f]+\.partial)\Z")


def checkpoint_folder(output: Path) -> Path:
    """The folder of a map's checkpoints: ``<stem>_checkpoint`` beside it."""
    return output.with_name(f"{output.stem}_checkpoint")


def checkpoint_bytes(sums_bytes: int, ranks: int, master_bytes: int = 0) -> int:
    """Disk that checkpoints need: two generations of every rank's sums and of what the master holds besides.

    Where there is room, a third generation is written before the oldest is removed.
    """
    return GENERATIONS * (sums_bytes * ranks + master_bytes)


def require_free_space(folder: Path, needed: int) -> None:
    """Refuse to write what the disk cannot take.

    Raises
    ------
    ResourceError
        With what is needed and what is free.
    """
    free = _free_bytes(folder)
    if free < needed:
        raise ResourceError(
            f"{folder}: a checkpoint needs {needed / 1e9:,.2f} GB of disk, {free / 1e9:,.2f} GB are free; "
            "make room, or run without --checkpoint-every"
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(
        next(path for path in (folder, *folder.absolute().parents) if path.exists())
    ).free


class CheckpointStore:
    """The checkpoint folder of one map.

    The master holds :meth:`lock` and calls everything; workers only call :meth:`write_shard`.

    Parameters
    ----------
    folder
        Made when it is first needed; see :func:`checkpoint_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder: Holder | None = None
        self._refused: set[int] = set()

    @property
    def locked(self) -> bool:
        """Whether this store holds the lock."""
        return self._holder is not None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder.

        Raises
        ------
        CheckpointError
            If another run uses it.
        ResourceError
            If the folder cannot be made or written.
        """
        self._make_folder()
        with folder_lock(self.folder) as self._holder:
            try:
                yield
            finally:
                self._holder = None
        with suppress(OSError):  # nothing was saved, or it was removed: leave no empty folder
            self.folder.rmdir()

    def epochs(self) -> tuple[int, ...]:
        """Numbers of the epochs that have an index, good or not, latest first."""
        found = (_INDEX.match(name) for name in self._names())
        return tuple(sorted((int(match[1]) for match in found if match), reverse=True))

    def next_epoch(self) -> int:
        """A number later than that of anything in the folder."""
        found = [
            match for name in self._names() for match in (_INDEX.match(name), _SHARD.match(name)) if match
        ]
        return max((int(match[1]) for match in found), default=0) + 1

    def make_room(self, needed: int) -> None:
        """Before an epoch: see that ``needed`` bytes fit, giving up the oldest of two generations if they must.

        Raises
        ------
        ResourceError
            If they do not fit even so; the latest generation is still there.
        """
        self._check_held()
        self._remove_leftovers(self._usable(GENERATIONS))
        if _free_bytes(self.folder) < needed:
            self._remove_leftovers(self._usable(1))
        require_free_space(self.folder, needed)

    def write_shard(self, epoch: int, rank: int, shard: Shard) -> ShardRecord:
        """Write one process's share of an epoch; it counts only when the epoch is committed.

        Parameters
        ----------
        epoch
            From :meth:`next_epoch`, the same for all ranks.
        rank
            Rank, or ``MASTER`` for what the master holds besides its own private sums.
        shard
            What it has.

        Raises
        ------
        ParameterError
            If a name or an array's type cannot be stored.
        ResourceError
            If the disk is too small or cannot be written; nothing of it is left, earlier epochs are intact.
        """
        self._make_folder()
        require_free_space(self.folder, shard.nbytes)
        # a random part: a process of a killed run that lives on cannot overwrite this run's file
        owner = "master" if rank == MASTER else f"r{rank}"
        path = self.folder / f"shard_{epoch:06d}_{owner}_{secrets.token_hex(4)}.h5"
        return write_shard_file(path, rank, epoch, shard)

    def commit(self, epoch: int, records: Sequence[ShardRecord], state: RunState) -> None:
        """Make an epoch valid by writing its index; then remove generations before the previous one.

        Raises
        ------
        CheckpointError
            If a shard is missing or has not its size, two are of one rank, the epoch is not later than the
            latest, or another run has taken over.
        ResourceError
            If the index cannot be written; the epoch does not count then.
        """
        self._check_held()
        if self.epochs()[:1] >= (epoch,):
            raise CheckpointError(f"{self.folder}: epoch {epoch} is not later than {self.epochs()[0]}")
        ranks = [record.rank for record in records]
        if len(set(ranks)) < len(ranks):
            raise CheckpointError(f"{self.folder}: epoch {epoch} has two shards of one rank: {sorted(ranks)}")
        for record in records:
            StoredShard(self.folder, record).check_presence()
        write_index(self._index_path(epoch), epoch, records, state)
        self._remove_leftovers(self._usable(GENERATIONS))

    def open(self, epoch: int, contents: bool = True) -> Checkpoint:
        """One generation, checked; with ``contents`` every byte is read and compared with its checksum.

        Raises
        ------
        CheckpointError
            Naming the file and what is wrong with it.
        """
        index = self._read_index(epoch)
        records = tuple(sorted(index.records, key=lambda record: record.rank))
        found = Checkpoint(self.folder, epoch, index.created, index.state, records)
        found.verify(contents)
        return found

    def latest(
        self, fingerprint: Mapping[str, Any] | None, allow_previous: bool = False, contents: bool = True
    ) -> Checkpoint | None:
        """The latest generation, checked.

        Parameters
        ----------
        fingerprint
            Of the run that wants to go on; None: any.
        allow_previous
            If the latest cannot be used, take the one before; the notes say so.
        contents
            Compare every checksum now. Without, they are compared only when the shards are read.

        Returns
        -------
            The checkpoint, or None if there is none at all.

        Raises
        ------
        CheckpointError
            If it is damaged or of another run, naming the file or the items that differ; with
            ``allow_previous`` if that is so for all.
        """
        problems: list[str] = []
        for epoch in self.epochs():
            try:
                found = self.open(epoch, contents)
                refuse_foreign(found, fingerprint)
            except CheckpointError as error:
                if not allow_previous:
                    raise
                self._refused.add(epoch)
                problems.append(str(error))
                continue
            notes = [f"checkpoint of epoch {epoch} of {found.created} is used, for the later is not: {problem}"
                     for problem in problems]  # fmt: skip
            return Checkpoint(self.folder, epoch, found.created, found.state, found.records, tuple(notes))
        if problems:
            raise CheckpointError("; ".join(problems))
        return None

    def remove(self) -> None:
        """Remove what is ours, and the folder if nothing else is in it.

        Raises
        ------
        ResourceError
            If something cannot be removed.
        """
        self._check_held()
        self._remove_leftovers(())
        with suppress(OSError):  # the lock, or a file of somebody else
            self.folder.rmdir()

    def _index_path(self, epoch: int) -> Path:
        return self.folder / index_name(epoch)

    def _read_index(self, epoch: int) -> Index:
        path = self._index_path(epoch)
        index = read_index(path)
        ranks = [record.rank for record in index.records]
        foreign = [record.file for record in index.records if not _SHARD.match(record.file)]
        if index.epoch != epoch or foreign or len(set(ranks)) < len(ranks):
            raise CheckpointError(f"{path}: says what no index of epoch {epoch} says; it is not used")
        return index

    def _usable(self, count: int) -> tuple[Index, ...]:
        """The latest generations that are complete as far as names and sizes tell, and were not refused."""
        found: list[Index] = []
        for epoch in self.epochs():
            if epoch in self._refused or len(found) == count:
                continue
            try:
                index = self._read_index(epoch)
                for record in index.records:
                    StoredShard(self.folder, record).check_presence()
            except CheckpointError:
                continue  # it could not be resumed from, so nothing is lost with it
            found.append(index)
        return tuple(found)

    def _remove_leftovers(self, kept: Sequence[Index]) -> None:
        """Remove all files of ours that do not belong to these generations, indices first."""
        names = {self._index_path(index.epoch).name for index in kept}
        names |= {record.file for index in kept for record in index.records}
        ours = [
            name for name in self._names() if any(kind.match(name) for kind in (_INDEX, _SHARD, _LEFTOVER))
        ]
        try:
            for name in sorted(set(ours) - names, key=lambda name: (not _INDEX.match(name), name)):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"{self.folder}: cannot be cleaned: {error.strerror or error}") from error

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot be read: {error.strerror or error}") from error

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{self.folder}: cannot be made: {error.strerror or error}") from error

    def _check_held(self) -> None:
        if self._holder is not None:
            check_held(self.folder, self._holder)
