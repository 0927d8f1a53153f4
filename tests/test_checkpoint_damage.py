"""Whatever happens to the files or the process, a checkpoint is good, or named and refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from centralslice.errors import CheckpointError
from centralslice.runtime.checkpoint import MASTER, CheckpointStore, RunState, Shard
from centralslice.runtime.checkpoint_records import record_from_plain, record_to_plain

FINGERPRINT = {"options": 1}
STATE = RunState(FINGERPRINT, {"half1": 100})


def write_epoch(store: CheckpointStore, epoch: int) -> None:
    records = [
        store.write_shard(epoch, rank, Shard(
            {"half1": {"value": np.full((4, 5, 6), epoch + rank), "weight": np.full((4, 5), 0.5 * epoch)}},
            {"half1": np.array([rank + 1])}, {"epoch": epoch}, {"reference": np.ones((3, 3), np.float32)},
        ))
        for rank in (MASTER, 0, 1)
    ]  # fmt: skip
    store.commit(epoch, records, STATE)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Two good generations."""
    made = CheckpointStore(tmp_path / "map_checkpoint")
    for epoch in (1, 2):
        write_epoch(made, epoch)
    return made


def assert_refused_and_previous_used(store: CheckpointStore, name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        store.latest(FINGERPRINT)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    found = store.latest(FINGERPRINT, allow_previous=True)
    assert found is not None
    assert found.epoch == 1
    assert name in found.notes[0]
    for shard in found.shards():
        shard.load()


def shard_files(store: CheckpointStore, epoch: int) -> list[Path]:
    return sorted(store.folder.glob(f"shard_{epoch:06d}_*"))


def boundaries(store: CheckpointStore) -> Iterator[tuple[Path, int]]:
    """Every place of every shard of the latest epoch where an array begins or ends, and a few more."""
    for record in store.open(2).records:
        path = store.folder / record.file
        ends = {array.offset + array.nbytes for array in record.arrays} | {a.offset for a in record.arrays}
        for place in sorted({0, 1, record.nbytes - 1, *ends} - {record.nbytes}):
            yield path, place


def test_a_shard_truncated_anywhere_is_refused_by_name(store: CheckpointStore) -> None:
    tried = 0
    for path, place in boundaries(store):
        whole = path.read_bytes()
        path.write_bytes(whole[:place])
        assert_refused_and_previous_used(store, f"{path}: truncated")
        path.write_bytes(whole)
        tried += 1
    assert tried >= 3 * 6
    assert store.latest(FINGERPRINT) is not None


def test_a_flipped_bit_anywhere_is_refused_by_name(store: CheckpointStore) -> None:
    """Every byte of a shard, the HDF5 structure and the gaps included."""
    path = shard_files(store, 2)[0]
    (stored,) = (shard for shard in store.open(2).shards() if shard.path == path)
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        with path.open("r+b") as file:
            file.seek(max(place - 1, 0))
            file.write(bytes([*whole[max(place - 1, 0) : place], byte ^ 1 << place % 8]))
        with pytest.raises(CheckpointError, match="damaged") as caught:
            stored.verify()
        assert str(path) in str(caught.value)
    assert_refused_and_previous_used(store, str(path))


def test_the_damaged_array_is_named_when_pieces_are_read_as_well(store: CheckpointStore) -> None:
    record = store.open(2).records[0]
    path = store.folder / record.file
    (array,) = (array for array in record.arrays if array.name == "sums/half1/weight")
    with path.open("r+b") as file:
        file.seek(array.offset + 3)
        file.write(b"\xff")
    found = store.latest(FINGERPRINT, contents=False)
    assert found is not None
    assert found.master is not None
    with pytest.raises(CheckpointError, match=r"the checksum of sums/half1/weight differs in rows 0-3"):
        found.master.load()


def test_a_missing_shard_is_refused_by_name(store: CheckpointStore) -> None:
    path = shard_files(store, 2)[1]
    path.unlink()
    assert_refused_and_previous_used(store, f"{path}: missing")


def test_a_shard_that_grew_or_is_a_folder_is_refused(store: CheckpointStore) -> None:
    first, second = shard_files(store, 2)[:2]
    with first.open("ab") as file:
        file.write(b"more")
    assert_refused_and_previous_used(store, "too long")
    first.unlink()
    first.mkdir()
    second.unlink()
    assert_refused_and_previous_used(store, "cannot be read")


def test_a_shard_of_another_epoch_under_this_name_is_refused(store: CheckpointStore) -> None:
    old, new = shard_files(store, 1)[0], shard_files(store, 2)[0]
    new.write_bytes(old.read_bytes())
    assert_refused_and_previous_used(store, str(new))


def test_an_index_truncated_or_flipped_anywhere_is_refused(store: CheckpointStore) -> None:
    path = store.folder / "index_000002.json"
    whole = path.read_bytes()
    chosen = random.Random(5)
    for place in [0, 1, len(whole) - 3, *chosen.sample(range(len(whole) - 2), 100)]:
        path.write_bytes(whole[:place])
        with pytest.raises(CheckpointError, match="index_000002"):
            store.open(2)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="index_000002"):
            store.open(2)
    assert_refused_and_previous_used(store, str(path))


def test_an_index_under_another_number_is_refused(store: CheckpointStore) -> None:
    path = store.folder / "index_000003.json"
    path.write_bytes((store.folder / "index_000002.json").read_bytes())
    with pytest.raises(CheckpointError, match="index_000003"):
        store.latest(FINGERPRINT)


def test_an_index_of_a_later_format_says_so(store: CheckpointStore) -> None:
    path = store.folder / "index_000002.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    assert_refused_and_previous_used(store, "checkpoint format 99, this program reads 1")


def test_all_damaged_names_both(store: CheckpointStore) -> None:
    for epoch in (1, 2):
        shard_files(store, epoch)[0].unlink()
    with pytest.raises(CheckpointError) as caught:
        store.latest(FINGERPRINT, allow_previous=True)
    assert "shard_000001" in str(caught.value)
    assert "shard_000002" in str(caught.value)


def test_a_damaged_generation_is_not_kept_in_place_of_a_good_one(store: CheckpointStore) -> None:
    path = shard_files(store, 2)[0]
    path.write_bytes(bytes(path.stat().st_size))
    assert store.latest(FINGERPRINT, allow_previous=True) is not None
    write_epoch(store, 3)
    assert store.epochs() == (3, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": -1}, {"bytes": True}, {"rank": "0"}, {"file": None}, {"arrays": {}}, {"rest_crc32": 0.5},
        {"arrays": [{}]},
        {"arrays": [{"path": ["sums", "a"], "dtype": "<f8", "shape": [1], "offset": 0, "crc32": [1]}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "|O", "shape": [1], "offset": 0, "crc32": [1]}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "nonsense", "shape": [1], "offset": 0, "crc32": [1]}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "<f8", "shape": [2**70], "offset": 0, "crc32": [1]}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "<f8", "shape": [1], "offset": -8, "crc32": [1]}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "<f8", "shape": [1], "offset": 8, "crc32": []}]},
        {"arrays": [{"path": ["state", "a"], "dtype": "<f8", "shape": [True], "offset": 8, "crc32": [1]}]},
    ],
)  # fmt: skip
def test_an_index_that_says_what_cannot_be_is_refused(
    store: CheckpointStore, change: dict[str, object]
) -> None:
    plain = record_to_plain(store.open(2).records[0])
    assert record_to_plain(record_from_plain(plain)) == plain
    with pytest.raises(CheckpointError):
        record_from_plain({**plain, **change})


WRITER = """
import sys
from pathlib import Path
import numpy as np
from centralslice.runtime.checkpoint import MASTER, CheckpointStore, RunState, Shard

store = CheckpointStore(Path(sys.argv[1]))
with store.lock():
    found = store.latest({"options": 1})
    assert found is None or int(sys.argv[2]) <= found.epoch
    print("ready", flush=True)
    while True:
        epoch = store.next_epoch()
        store.make_room(0)
        records = [
            store.write_shard(epoch, rank, Shard(
                {"half1": {"value": np.full((50, 40, 60), epoch * 10 + rank), "weight": np.full(7, epoch)}},
                {"half1": np.array([rank + 1])}))
            for rank in (MASTER, 0, 1)
        ]
        store.commit(epoch, records, RunState({"options": 1}, {"half1": 100}, {}, {"epoch": epoch}))
        print(epoch, flush=True)
"""


def killed_writer(folder: Path, last: int, delay: float | None) -> tuple[int, float]:
    """Run the writer, kill it so long after it began (None: when it committed).

    Returns the last epoch it said it had committed, and the seconds until then or until the kill.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(last)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    assert first == "ready\n", process.stderr.read()
    start = time.monotonic()
    if delay is None:
        last = int(process.stdout.readline())
    else:
        time.sleep(delay)
    taken = time.monotonic() - start
    process.send_signal(signal.SIGKILL)
    said, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL, errors
    lines = [line for line in said.split("\n")[:-1] if line]
    return (int(lines[-1]) if lines else last), taken


def test_a_run_killed_at_any_moment_leaves_a_good_generation(tmp_path: Path) -> None:
    folder, chosen = tmp_path / "map_checkpoint", random.Random()
    last, one_epoch = killed_writer(folder, 0, None)
    inside = 0
    for _ in range(24):
        before, following = last, CheckpointStore(folder).next_epoch()
        last, _ = killed_writer(folder, before, chosen.uniform(0.0, 3 * one_epoch))
        following = last + 1 if last > before else following
        inside += any(path.name.startswith(".") for path in folder.iterdir())
        found = CheckpointStore(folder).latest({"options": 1})
        assert found is not None
        # a commit may be done and not said; never said and not done
        assert found.epoch in (last, following)
        last = found.epoch
        assert found.state.facts == {"epoch": last}
        for shard in found.shards():
            value = shard.load().arrays["half1"]["value"]
            assert (value == last * 10 + shard.rank).all()
        indices = list(folder.glob("index_*"))
        assert len(indices) <= 3
    assert inside > 0, "no kill fell into the writing of a file"


def test_a_worker_that_outlives_its_run_cannot_spoil_the_next(store: CheckpointStore) -> None:
    records = [store.write_shard(3, rank, Shard({}, {})) for rank in (0, 1)]
    orphan = CheckpointStore(store.folder).write_shard(3, 0, Shard({"half1": {"v": np.ones(3)}}, {}))
    store.commit(3, records, STATE)
    orphan_again = CheckpointStore(store.folder).write_shard(3, 0, Shard({}, {}))
    assert len({record.file for record in [*records, orphan, orphan_again]}) == 4
    found = store.latest(FINGERPRINT)
    assert found is not None
    assert found.epoch == 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "map_checkpoint"
    path.write_text("a file")
    with pytest.raises(CheckpointError, match=f"{os.fspath(path)}: cannot be read"):
        CheckpointStore(path).latest(FINGERPRINT)
