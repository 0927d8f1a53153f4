"""``centralslice checkpoint``: what checkpoints hold, whether they are good, sums of several jobs, maps of sums."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from centralslice.cli.options import Subparsers, open_registry, warn
from centralslice.errors import CheckpointError, FileMissingError, ParameterError

if TYPE_CHECKING:
    from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore

SUMMARY = "show, verify, merge or finish the checkpoints of runs"


def add_parser(subparsers: Subparsers) -> None:
    """Add ``checkpoint show``, ``verify``, ``merge`` and ``finish``."""
    parser = subparsers.add_parser("checkpoint", help=SUMMARY, description=f"{SUMMARY.capitalize()}.")
    actions = parser.add_subparsers(dest="action", metavar="show|verify|merge|finish", required=True)
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
    merge.add_argument(
        "--allow-shared-images",
        action="store_true",
        help="images may be in several jobs, as different particles (symmetry expansion)",
    )
    _add_finish(actions)


def _add_finish(actions: Subparsers) -> None:
    finish = actions.add_parser(
        "finish",
        help="maps of the sums of a complete job or of merged jobs, without the particles",
        description="Write the map, half maps, FSC and manifest of sums that a job run with --keep-checkpoints left, "
        "or that were merged. Options of the map (--snr, --outsize, --postprocess ...) are those of the jobs.",
    )
    add = finish.add_argument
    add("folder", type=Path, metavar="FOLDER", help="checkpoint folder, or its map")
    add("--output", type=Path, required=True, metavar="FILE", help="map to write, .mrc or .hdf")
    add("--savenorm", type=Path, metavar="FILE", help="write the weights (ΣCTF² per unpadded voxel)")
    add("--report", action="store_true", help="write an HTML page with pictures of the map, FSC and facts")
    add("--compressbits", type=int, metavar="N",
        help="HDF: bits per voxel, 0 lossless, negative plain float [10]; MRC is always float")  # fmt: skip
    add("--float16", action="store_true", help="MRC: half precision (mode 12)")
    add("--threads", type=int, metavar="N", help="threads [all cores this process may use]")
    add("--force", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> int:
    """Do one of the four."""
    if arguments.action == "merge":
        folders = [folder_of(given) for given in arguments.folders]
        return _merge(folders, arguments.output, arguments.allow_shared_images)
    if arguments.action == "finish":
        return _finish(arguments)
    from centralslice.runtime.checkpoint import CheckpointStore

    store = CheckpointStore(folder_of(arguments.folder))
    if not store.epochs():
        raise FileMissingError(f"{store.folder}: holds no checkpoint that was completed")
    return _verify(store) if arguments.action == "verify" else _show(store)


def folder_of(given: Path) -> Path:
    """The folder itself, or that of the map given."""
    from centralslice.runtime.checkpoint import checkpoint_folder

    if given.is_dir():
        return given
    beside = checkpoint_folder(given)
    if beside.is_dir():
        return beside
    raise FileMissingError(f"{given}: no such checkpoint folder, and no {beside} either")


def _finish(arguments: argparse.Namespace) -> int:
    from centralslice.cli.make3d import check_compress_bits, report_lines
    from centralslice.jobs.finish import FinishSettings, run_finish
    from centralslice.runtime.threads import available_cores

    if arguments.threads is not None and arguments.threads < 1:
        raise ParameterError(f"--threads: expected 1 or more, got {arguments.threads}")
    check_compress_bits(arguments.compressbits)
    settings = FinishSettings(
        folder=folder_of(arguments.folder), output=arguments.output, save_norm=arguments.savenorm,
        report=arguments.report, compress_bits=arguments.compressbits, float16=arguments.float16,
        force=arguments.force, threads=arguments.threads or available_cores(),
        command=shlex.join(["centralslice", *arguments.command_line]),
    )  # fmt: skip
    print("\n".join(report_lines(settings.output, run_finish(settings, open_registry()))))
    return 0


def _merge(folders: list[Path], output: Path, shared_images: bool) -> int:
    from centralslice.runtime.checkpoint_merge import merge_checkpoints

    result = merge_checkpoints(folders, output, shared_images)
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
