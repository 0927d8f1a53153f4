"""Adding the sums of separate jobs: particles that came later, or a job that was split by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.errors import CheckpointError, OutputExistsError, ParameterError
from centralslice.runtime.checkpoint import MASTER, Checkpoint, CheckpointStore, RunState, Shard
from centralslice.runtime.checkpoint_index import as_json, differences, name_differences
from centralslice.runtime.checkpoint_shards import AnyArray
from centralslice.runtime.scaled_addition import add_exactly, is_power_of_two, narrowed

#: Parts of a fingerprint in which jobs that are merged may, and must, differ.
MAY_DIFFER = ("inputs", "selection")
#: The word under which a merged fingerprint lists what the jobs had.
MERGED = "merged"
#: State arrays whose names begin so are lists of a job's particles: those of merged jobs are put together.
LISTS = "list."
#: The list of numbers of which none may be in two jobs: the images they used.
ONCE = f"{LISTS}images"
#: The fact that merged jobs share as far as it matters: the first one's is kept.
FROM_FIRST = "finish"
#: The fact that names stages that a job may lack.
OPTIONAL = "optional_stages"

_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What was merged.

    Attributes
    ----------
    folder, epoch
        The new checkpoint.
    blocks
        Label to the number of blocks in its sums.
    notes
        What the user should be told.
    """

    folder: Path
    epoch: int
    blocks: Mapping[str, int]
    notes: tuple[str, ...]


def merge_checkpoints(folders: Sequence[Path], output: Path, shared_images: bool = False) -> MergeResult:
    """Add the sums of complete jobs into one checkpoint, which a run can finish.

    Integer sums are added exactly: the result does not depend on the order of the folders. Where their quanta
    differ, all are brought to the finest. Floats are added in the order of the folders. Blocks of the
    n-th job get numbers after those of the jobs before.

    Parameters
    ----------
    folders
        Two or more checkpoint folders; of each the latest generation counts.
    output
        New checkpoint folder.
    shared_images
        Images may be in several jobs: particles were expanded by symmetry, say, and the copies divided.

    Raises
    ------
    CheckpointError
        If one is damaged, not complete, of other options, geometry or stages, of the same particles as
        another, or a sum does not fit into 64 bits.
    OutputExistsError
        If ``output`` has a checkpoint already.
    ResourceError
        If the disk is too small.
    """
    if len(folders) < 2:
        raise ParameterError("checkpoint merge: expected two or more folders")
    target = CheckpointStore(output)
    if target.epochs():
        raise OutputExistsError(f"{output}: has a checkpoint already; give another --output")
    parts = [complete_checkpoint(folder) for folder in folders]
    for number, part in enumerate(parts):
        for other in parts[:number]:
            _check_alike(other, part)
    state_arrays = _common_state(parts, shared_images)
    quanta, notes = _common_quanta(parts)
    state = RunState(
        _merged_fingerprint([part.state.fingerprint for part in parts]),
        {label: sum(part.state.stages.get(label, 0) for part in parts) for label in _stages(parts)},
        quanta,
        _merged_facts(parts),
    )
    shard = Shard(_added(parts, quanta), _renumbered(parts), {}, state_arrays)
    with target.lock():
        target.make_room(shard.nbytes)
        epoch = target.next_epoch()
        target.commit(epoch, [target.write_shard(epoch, MASTER, shard)], state)
    return MergeResult(output, epoch, state.stages, tuple(notes))


def complete_checkpoint(folder: Path) -> Checkpoint:
    """The latest generation of a job that has done all its blocks.

    Raises
    ------
    CheckpointError
        If there is none, it is damaged, or the job is not complete.
    """
    found = CheckpointStore(folder).latest(None)
    if found is None:
        raise CheckpointError(f"{folder}: no checkpoint there; keep those of a job with --keep-checkpoints")
    done = {label: len(numbers) for label, numbers in found.blocks().items()}
    if found.state.facts.get(FROM_FIRST, {}).get("passes", 1) > 1:
        raise CheckpointError(
            f"{folder}: is of a method of several passes; those after the first depend on all particles, which have "
            "to be run together"
        )
    if not found.state.stages or done != dict(found.state.stages):
        unfinished = [
            f"{label} {done[label]}/{found.state.stages.get(label, '?')} blocks"
            for label in done
            if done[label] != found.state.stages.get(label)
        ]
        raise CheckpointError(
            f"{folder}: the job is not complete ({', '.join(unfinished) or 'no stages'}); finish it with --resume "
            "--keep-checkpoints before merging"
        )
    return found


def _check_alike(one: Checkpoint, other: Checkpoint) -> None:
    differing = differences(one.state.fingerprint, other.state.fingerprint)
    refused = {name: pair for name, pair in differing.items() if name.split(".")[0] not in MAY_DIFFER}
    if refused:
        names = name_differences(refused, f"in {one.folder}", f"in {other.folder}")
        raise CheckpointError(f"cannot be merged, the jobs differ: {names}")
    if _particles(one) & _particles(other):
        raise CheckpointError(
            f"cannot be merged: {one.folder} and {other.folder} share inputs and selection, "
            "their particles would count twice"
        )
    if _required(one) != _required(other):
        raise CheckpointError(
            f"cannot be merged: {one.folder} has the stages {', '.join(one.state.stages)}, "
            f"{other.folder} has {', '.join(other.state.stages)}"
        )
    layouts = [_layout(part) for part in (one, other)]
    shared = layouts[0].keys() & layouts[1].keys()
    lacking = (
        {label for label, _ in layouts[0].keys() ^ layouts[1].keys()} - _optional(one) - _optional(other)
    )
    if lacking or any(layouts[0][key][0] != layouts[1][key][0] for key in shared):
        raise CheckpointError(
            f"cannot be merged: the sums of {one.folder} and {other.folder} differ in shape"
        )


def _optional(part: Checkpoint) -> set[str]:
    return set(part.state.facts.get(OPTIONAL, ()))


def _required(part: Checkpoint) -> list[str]:
    optional = _optional(part)
    return [label for label in part.state.stages if label not in optional]


def _stages(parts: Sequence[Checkpoint]) -> list[str]:
    """The stages of all jobs: those that all have, then those that some have."""
    return list(dict.fromkeys(label for part in parts for label in part.state.stages))


def _layouts(parts: Sequence[Checkpoint]) -> dict[_Key, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of the sums that any job has."""
    found: dict[_Key, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for part in parts:
        found = {**_layout(part), **found}
    return dict(sorted(found.items()))


def _layout(part: Checkpoint) -> dict[_Key, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of the job's sums; all its shards must agree."""
    found: dict[_Key, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for shard in part.shards():
        for label, group in shard.layout.items():
            for name, kind in group.items():
                if found.setdefault((label, name), kind)[0] != kind[0]:
                    raise CheckpointError(f"{part.folder}: shards differ in the shape of {label}/{name}")
    return dict(sorted(found.items()))


def _common_quanta(parts: Sequence[Checkpoint]) -> tuple[dict[str, dict[str, tuple[float, ...]]], list[str]]:
    """Per array of integers the finest quanta, and notes where they differ."""
    common: dict[str, dict[str, tuple[float, ...]]] = {}
    notes = []
    for (label, name), (shape, dtype) in _layouts(parts).items():
        given = [
            part.state.quanta.get(label, {}).get(name, ()) for part in parts if label in part.state.stages
        ]
        if not any(given) and dtype.kind not in "iu":
            continue
        counts = {len(quanta) for quanta in given}
        known = all(is_power_of_two(quantum) for quanta in given for quantum in quanta)
        if counts not in ({1}, {shape[-1] if len(shape) > 1 else 1}) or not known:
            raise CheckpointError(
                f"cannot be merged: the quanta of {label}/{name} are {given}; expected powers of two, in each job "
                "one for all or one for each index of the last axis"
            )
        finest = tuple(map(min, zip(*given, strict=True)))
        common.setdefault(label, {})[name] = finest
        if len(set(given)) > 1:
            notes.append(f"{label}/{name}: quanta {sorted(set(given))}: all sums brought to {finest}")
    return common, notes


def _added(
    parts: Sequence[Checkpoint], quanta: Mapping[str, Mapping[str, tuple[float, ...]]]
) -> dict[str, dict[str, AnyArray]]:
    sums: dict[str, dict[str, AnyArray]] = {}
    for (label, name), (shape, _) in _layouts(parts).items():
        kinds = {_layout(part)[label, name][1] for part in parts if label in part.state.stages}
        finest = quanta.get(label, {}).get(name)
        if finest is None:
            sums.setdefault(label, {})[name] = _add_floats(parts, (label, name), shape, kinds)
        else:
            sums.setdefault(label, {})[name] = _add_integers(parts, (label, name), shape, (kinds, finest))
    return sums


def _add_floats(
    parts: Sequence[Checkpoint], key: _Key, shape: tuple[int, ...], kinds: set[np.dtype[Any]]
) -> AnyArray:
    if len(kinds) > 1:
        raise CheckpointError(f"cannot be merged: {'/'.join(key)} has the types {sorted(map(str, kinds))}")
    total: AnyArray = np.zeros(shape, next(iter(kinds)))
    for part in parts:
        for where, values in _pieces(part, key):
            total[where] += values
    return total


def _add_integers(
    parts: Sequence[Checkpoint],
    key: _Key,
    shape: tuple[int, ...],
    how: tuple[set[np.dtype[Any]], tuple[float, ...]],
) -> AnyArray:
    kinds, finest = how
    if not all(kind.kind in "iu" and np.can_cast(kind, np.int64) for kind in kinds):
        raise CheckpointError(
            f"cannot be merged: {'/'.join(key)} has quanta, but its types are {sorted(map(str, kinds))}"
        )
    total = np.zeros(shape, np.int64)
    for part in parts:
        if key[0] not in part.state.stages:
            continue
        given = part.state.quanta[key[0]][key[1]]
        powers = [math.frexp(one)[1] - math.frexp(other)[1] for one, other in zip(given, finest, strict=True)]
        shifts = np.array(powers if shape else powers[0], np.int64)
        for where, values in _pieces(part, key):
            total[where] = add_exactly(total[where], values.astype(np.int64), shifts, "/".join(key))
    return narrowed(total, kinds)


def _pieces(part: Checkpoint, key: _Key) -> Iterator[tuple[Any, AnyArray]]:
    for shard in part.shards():
        for piece in shard.pieces([key[0]]):
            if piece.name == key[1]:
                yield piece.where, piece.values


def _renumbered(parts: Sequence[Checkpoint]) -> dict[str, NDArray[np.int64]]:
    """All blocks, those of each job after those of the jobs before."""
    first = dict.fromkeys(_stages(parts), 0)
    blocks: dict[str, list[NDArray[np.int64]]] = {label: [] for label in first}
    for part in parts:
        for label, numbers in part.blocks().items():
            blocks[label].append(numbers.astype(np.int64) + first[label])
            first[label] += part.state.stages[label]
    return {label: np.concatenate(numbers) for label, numbers in blocks.items()}


def _common_state(parts: Sequence[Checkpoint], shared_images: bool) -> dict[str, AnyArray]:
    """State arrays: lists put together; others must be the same, a reference that differs is of a later pass."""
    states = [_state(part) for part in parts]
    for part, state in zip(parts, states, strict=True):
        for name in sorted({*states[0], *state}):
            one, other = states[0].get(name), state.get(name)
            if not name.startswith(LISTS) and (one is None or other is None or not _same_bits(one, other)):
                raise CheckpointError(
                    f"cannot be merged: '{name}' of {part.folder} is not that of {parts[0].folder}; passes after "
                    "the first depend on all particles and have to be run together"
                )
    if not shared_images:
        _check_once(parts, states)
    names = [name for name in states[0] if name.startswith(LISTS)]
    lists = {name: np.concatenate([state[name] for state in states if name in state]) for name in names}
    return {**states[0], **lists}


def _check_once(parts: Sequence[Checkpoint], states: Sequence[Mapping[str, AnyArray]]) -> None:
    """Refuse images that are in two jobs; those that one job has twice are its own affair."""
    images = [
        (part.folder, np.unique(state[ONCE]))
        for part, state in zip(parts, states, strict=True)
        if ONCE in state
    ]
    for (one, first), (other, second) in combinations(images, 2):
        shared = len(np.intersect1d(first, second, assume_unique=True))
        if shared:
            raise CheckpointError(
                f"cannot be merged: {shared:,} images are in both {one} and {other}, they would count twice; "
                "--allow-shared-images if they are different particles"
            )


def _state(part: Checkpoint) -> dict[str, AnyArray]:
    found: dict[str, AnyArray] = {}
    for shard in part.shards():
        found |= shard.state()
    return found


def _same_bits(one: AnyArray, other: AnyArray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _merged_fingerprint(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first one, with what each had in the parts that may differ; merges of merges are listed flat."""
    merged = dict(as_json(fingerprints[0]))
    for part in MAY_DIFFER:
        merged[part] = {MERGED: [item for each in fingerprints for item in _flat(each.get(part))]}
    return merged


def _flat(part: Any) -> list[Any]:
    if isinstance(part, dict) and list(part) == [MERGED]:
        return list(part[MERGED])
    return [part]


def _particles(found: Checkpoint) -> set[str]:
    """Which particles are in the sums: one text for each job that was merged into them."""
    columns = [_flat(found.state.fingerprint.get(part)) for part in MAY_DIFFER]
    return {json.dumps(row, sort_keys=True) for row in zip(*columns, strict=True)}


def _merged_facts(parts: Sequence[Checkpoint]) -> dict[str, Any]:
    """The jobs that were merged, those of merges listed flat, and what they share."""
    origins: list[Any] = []
    for part in parts:
        before = part.state.facts.get(MERGED)
        origins += before if isinstance(before, list) else [_origin(part)]
    facts = parts[0].state.facts
    shared = {FROM_FIRST: facts[FROM_FIRST]} if FROM_FIRST in facts else {}
    optional = sorted(set().union(*map(_optional, parts)))
    return {**shared, **({OPTIONAL: optional} if optional else {}), MERGED: origins}


def _origin(part: Checkpoint) -> dict[str, Any]:
    return {
        "folder": str(part.folder),
        "epoch": part.epoch,
        "created": part.created,
        "stages": dict(part.state.stages),
        "quanta": {label: dict(quanta) for label, quanta in part.state.quanta.items()},
        "facts": {name: value for name, value in part.state.facts.items() if name != FROM_FIRST},
        "shards": [{"rank": shard.rank, "facts": shard.facts()} for shard in part.shards()],
    }
