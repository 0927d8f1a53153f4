"""``centralslice checkpoint``: what checkpoints hold, whether they are good, and adding up those of several jobs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.options import Subparsers, warn
from centralslice.errors import CheckpointError, FileMissingError

if TYPE_CHECKING:
    from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore

SUMMARY = "show, verify or merge the checkpoints of runs"


def add_parser(subparsers: Subparsers) -> None:
    """Add ``checkpoint show``, ``verify`` and ``merge``."""
    parser = subparsers.add_parser("checkpoint", help=SUMMARY, description=f"{SUMMARY.capitalize()}.")
    actions = parser.add_subparsers(dest="action", metavar="show|verify|merge", required=True)
    show = actions.add_parser("show", help="generations, stages, blocks done, and of which run they are")
    show.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder, or its map")
    verify = actions.add_parser("verify", help="read every byte and compare the checksums")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder, or its map")
    merge = actions.add_parser(
        "merge",
        help="add the sums of complete jobs with different particles",
        description="Add the sums of complete jobs that differ in their particles only. They must have been run "
        "with --keep-checkpoints.",
    )
    merge.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="checkpoint folders, or their maps"
    )
    merge.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new checkpoint folder")


def run(arguments: argparse.Namespace) -> int:
    """Do one of the three."""
    if arguments.action == "merge":
        return _merge([_folder(given) for given in arguments.folders], arguments.output)
    from centralslice.runtime.checkpoint import CheckpointStore

    store = CheckpointStore(_folder(arguments.folder))
    if not store.epochs():
        raise FileMissingError(f"{store.folder}: holds no checkpoint that was completed")
    return _verify(store) if arguments.action == "verify" else _show(store)


def _folder(given: Path) -> Path:
    """The folder itself, or that of the map given."""
    from centralslice.runtime.checkpoint import checkpoint_folder

    if given.is_dir():
        return given
    beside = checkpoint_folder(given)
    if beside.is_dir():
        return beside
    raise FileMissingError(f"{given}: no such checkpoint folder, and no {beside} either")


def _merge(folders: list[Path], output: Path) -> int:
    from centralslice.runtime.checkpoint_merge import merge_checkpoints

    result = merge_checkpoints(folders, output)
    for note in result.notes:
        warn(note)
    blocks = ", ".join(f"{label} {count:,} blocks" for label, count in result.blocks.items())
    print(f"{result.folder}: sums of {len(folders)} jobs: {blocks}")
    return 0


def _verify(store: CheckpointStore) -> int:
    """Every generation; the latest must be good."""
    problems: dict[int, CheckpointError] = {}
    for epoch in store.epochs():
        try:
            found = store.open(epoch)
            print(f"epoch {epoch}: good, {found.nbytes:,} bytes in {len(found.records)} shards")
        except CheckpointError as error:
            problems[epoch] = error
            print(f"epoch {epoch}: {error}")
    latest = store.epochs()[0]
    if latest in problems:
        rest = [epoch for epoch in store.epochs() if epoch not in problems]
        hint = f"; --resume auto takes epoch {rest[0]}" if rest else ""
        raise CheckpointError(f"{store.folder}: epoch {latest} cannot be used{hint}")
    return 0


def _show(store: CheckpointStore) -> int:
    from centralslice.runtime.checkpoint_lock import LOCK_NAME, read_holder

    good = 0
    for epoch in store.epochs():
        try:
            lines = list(_generation_lines(store.open(epoch, contents=False)))
            good += 1
        except CheckpointError as error:
            lines = [f"epoch {epoch}: {error}"]
        print("\n".join(lines))
    holder = read_holder(store.folder / LOCK_NAME)
    if holder is not None:
        print(f"in use by {holder}")
    if not good:
        raise CheckpointError(f"{store.folder}: none of the checkpoints can be used")
    return 0


def _generation_lines(found: Checkpoint) -> Iterator[str]:
    from centralslice.runtime.checkpoint_records import rank_name

    yield f"epoch {found.epoch} of {found.created}: {found.nbytes:,} bytes in {len(found.records)} shards"
    blocks = found.blocks()
    for label, numbers in blocks.items():
        yield f"  {label}: {len(numbers):,} of {found.state.stages.get(label, '?')} blocks"
    for shard in found.shards():
        for label, group in shard.layout.items():
            arrays = ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in group.items())
            yield f"  {rank_name(shard.rank)}: {label}: {arrays}"
    yield from _fact_lines("fingerprint", found.state.fingerprint)


def _fact_lines(name: str, value: object, indent: str = "  ") -> Iterator[str]:
    if isinstance(value, dict):
        yield f"{indent}{name}:"
        for key, item in value.items():
            yield from _fact_lines(str(key), item, indent + "  ")
    else:
        text = str(value)
        yield f"{indent}{name}: {text if len(text) <= 100 else f'{text[:97]}...'}"
