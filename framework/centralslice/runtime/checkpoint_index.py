"""The index that makes an epoch valid: JSON with its own checksum, written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from centralslice.data.files import atomic_output
from centralslice.errors import CheckpointError
from centralslice.runtime.checkpoint_records import (
    FORMAT,
    FORMAT_VERSION,
    RunState,
    ShardRecord,
    plain_value,
    record_from_plain,
    record_to_plain,
)

#: An index larger than this is none of ours.
INDEX_BYTES = 2**30
#: Differing items that are named in one message.
NAMED_ITEMS = 8
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Index:
    """What the index of one epoch says."""

    epoch: int
    created: str
    records: tuple[ShardRecord, ...]
    state: RunState


def index_name(epoch: int) -> str:
    """Name of the index of an epoch."""
    return f"index_{epoch:06d}.json"


def write_index(path: Path, epoch: int, records: Sequence[ShardRecord], state: RunState) -> None:
    """Write the index atomically.

    Raises
    ------
    ResourceError
        If it cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "epoch": epoch,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": state.fingerprint,
        "stages": dict(state.stages),
        "quanta": {label: dict(quanta) for label, quanta in state.quanta.items()},
        "facts": state.facts,
        "shards": [record_to_plain(record) for record in sorted(records, key=lambda record: record.rank)],
    }
    content = as_json(content)
    text = json.dumps({**content, "blake2b": _digest(content)}, separators=(",", ":"))
    with atomic_output(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_index(path: Path) -> Index:
    """Read and check an index.

    Raises
    ------
    CheckpointError
        If it cannot be read, is damaged, of another version, or says what cannot be.
    """
    content = _content(path)
    try:
        records = tuple(record_from_plain(plain) for plain in content["shards"])
        state = RunState(
            dict(content["fingerprint"]),
            {str(label): int(blocks) for label, blocks in content["stages"].items()},
            {
                str(label): {str(name): tuple(map(float, each)) for name, each in quanta.items()}
                for label, quanta in content["quanta"].items()
            },
            dict(content["facts"]),
        )
        return Index(int(content["epoch"]), str(content["created"]), records, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: no index of a checkpoint: {error!r}") from error


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > INDEX_BYTES:
            raise CheckpointError(f"{path}: larger than any index of a checkpoint")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: no index of a checkpoint")
    if content.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {content.get('version')}, this program reads {FORMAT_VERSION}"
        )
    if content.pop("blake2b", None) != _digest(content):
        raise CheckpointError(f"{path}: damaged: its checksum differs")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def as_json(value: Any) -> Any:
    """The value as it comes back from JSON: tuples are lists, keys are text, NumPy values are Python's."""
    return json.loads(json.dumps(value, default=plain_value))


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Dotted name of each item that differs to its value then and now."""
    return {
        ".".join(path): (_shown(then), _shown(now))
        for path, then, now in _differing(as_json(stored), as_json(current), ())
    }


def _differing(then: Any, now: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _differing(then.get(key, _ABSENT), now.get(key, _ABSENT), (*path, key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, pair in enumerate(zip(then, now, strict=True)):
            yield from _differing(*pair, (*path, str(number)))
    elif then is _ABSENT or now is _ABSENT or json.dumps(then) != json.dumps(now):  # NaN equals NaN here
        yield path, then, now


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:45]}..."


def name_differences(differing: Mapping[str, tuple[str, str]], then: str = "then", now: str = "now") -> str:
    """``a.b: 1 then, 2 now; c: …`` for a message."""
    items = [f"{name}: {a} {then}, {b} {now}" for name, (a, b) in differing.items()]
    more = f"; and {len(items) - NAMED_ITEMS} more" if len(items) > NAMED_ITEMS else ""
    return "; ".join(items[:NAMED_ITEMS]) + more
