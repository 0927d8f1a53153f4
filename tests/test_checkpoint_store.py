"""Checkpoints come back as they were written, generation after generation."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from centralslice.errors import CheckpointError, ParameterError, ResourceError, exit_code
from centralslice.runtime import checkpoint as module
from centralslice.runtime.checkpoint import (
    MASTER,
    CheckpointStore,
    RunState,
    Shard,
    checkpoint_bytes,
    checkpoint_folder,
)

FINGERPRINT = {"inputs": {"p.star": {"bytes": 7}}, "options": {"pad": (2, 2)}, "versions": {"numpy": "2"}}
STATE = RunState(
    FINGERPRINT, {"half1": 10, "half2": 10}, {"half1": {"value": (2.0**-30,)}}, {"blank": [1, 2]}
)

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
names = names.filter(lambda name: name not in (".", ".."))
arrays = hnp.arrays(
    st.sampled_from(["<i4", "<i8", ">i8", "u1", "?", "<f2", "<f4", "<f8", ">f4", "<c8", "<c16"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
facts = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.floats(), st.text(), st.none()))


def shard(seed: int = 0, blocks: tuple[int, ...] = (0, 3)) -> Shard:
    random = np.random.default_rng(abs(seed))
    value = random.integers(-(2**60), 2**60, (5, 4, 3))
    return Shard(
        {"half1": {"value": value, "weight": value[..., 0].astype(np.int32)}},
        {"half1": np.array(blocks)}, {"seed": seed},
    )  # fmt: skip


def commit(store: CheckpointStore, epoch: int, *shards: Shard, state: RunState = STATE) -> None:
    store.commit(epoch, [store.write_shard(epoch, rank, each) for rank, each in enumerate(shards)], state)


def assert_same(one: Any, other: Any) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    sums=st.dictionaries(names, st.dictionaries(names, arrays, max_size=3), max_size=3),
    state=st.dictionaries(names, arrays, max_size=2),
    blocks=st.sets(st.integers(0, 2**40), max_size=20),
    some_facts=facts,
)
def test_a_shard_comes_back_bit_for_bit(sums: Any, state: Any, blocks: set[int], some_facts: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder) / "map_checkpoint")
        given_shard = Shard(sums, {"a": np.array(sorted(blocks), np.int64)}, some_facts, state)
        commit(store, 1, given_shard, state=RunState(FINGERPRINT))
        found = store.latest(FINGERPRINT)
        assert found is not None
        (stored,) = found.shards()
        loaded = stored.load()
    for label, group in sums.items():
        for name, array in group.items():
            assert_same(loaded.arrays[label][name], array)
    for name, array in state.items():
        assert_same(loaded.state[name], array)
    assert set(loaded.blocks["a"]) == blocks
    assert json.dumps(loaded.facts) == json.dumps(some_facts)


def test_any_hdf5_program_reads_a_shard(tmp_path: Path) -> None:
    record = CheckpointStore(tmp_path).write_shard(4, 2, shard(1))
    with h5py.File(tmp_path / record.file) as file:
        assert dict(file.attrs) == {"format": "centralslice-checkpoint", "version": 1, "epoch": 4, "rank": 2}
        assert_same(file["sums/half1/value"][()], shard(1).arrays["half1"]["value"])
        assert_same(file["sums/half1/weight"][()], shard(1).arrays["half1"]["weight"])
        assert file["blocks/half1"][()].tolist() == [0, 3]
        assert json.loads(file["facts"][()].tobytes()) == {"seed": 1}


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_large_arrays_travel_in_pieces(tmp_path: Path, order: str) -> None:
    whole = np.arange(53 * 10**6 // 8, dtype=np.int64)[: 205 * 179 * 180].reshape(205, 179, 180)
    array = {"C": whole, "F": np.asfortranarray(whole), "strided": whole[::-1, :, ::2]}[order]
    store = CheckpointStore(tmp_path)
    commit(store, 1, Shard({"merged": {"value": array}}, {}), state=RunState({}))
    found = store.latest({})
    assert found is not None
    total = array.copy()
    sizes = []
    for stored in found.shards():
        for piece in stored.pieces():
            total[piece.where] += piece.values
            sizes.append(piece.values.nbytes)
    assert np.array_equal(total, 2 * array)
    assert max(sizes) <= 32 * 2**20
    assert len(sizes) == (1 if order == "strided" else 2)


def test_only_the_stages_asked_for_are_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    both = Shard({"half1": {"v": np.ones(3)}, "half2": {"v": np.zeros(3)}}, {})
    commit(store, 1, both, state=RunState({}))
    (stored,) = store.open(1).shards()
    assert [(piece.label, piece.name) for piece in stored.pieces(["half2"])] == [("half2", "v")]


def test_the_master_comes_first_and_has_its_own_shard(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    records = [store.write_shard(1, rank, shard(rank, (rank + 1,))) for rank in (1, 0, MASTER)]
    store.commit(1, records, STATE)
    found = store.latest(FINGERPRINT)
    assert found is not None
    assert [stored.rank for stored in found.shards()] == [MASTER, 0, 1]
    assert found.master is not None
    assert found.master.facts() == {"seed": MASTER}
    assert {label: list(numbers) for label, numbers in found.blocks().items()} == {
        "half1": [0, 1, 2],
        "half2": [],
    }
    assert found.state.quanta == {"half1": {"value": (2.0**-30,)}}
    assert found.state.facts == {"blank": [1, 2]}
    assert found.notes == ()


def test_two_generations_stay_and_older_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for epoch in range(1, 6):
        assert store.next_epoch() == epoch
        commit(store, epoch, shard(epoch), shard(epoch, (1,)))
    assert store.epochs() == (5, 4)
    assert len(list(tmp_path.iterdir())) == 6


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "map_checkpoint")
    assert store.latest(FINGERPRINT) is None
    store.write_shard(1, 0, shard())
    assert store.latest(FINGERPRINT, allow_previous=True) is None  # a shard without an index does not count
    assert store.next_epoch() == 2


def test_what_an_interrupted_run_left_goes_at_the_next_commit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write_shard(1, 0, shard())
    (tmp_path / ".shard_000001_r3_0123abcd.h5.partial").write_bytes(b"half")
    (tmp_path / ".index_000001.123.partial.json").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    commit(store, 2, shard())
    assert {path.name.partition("_")[0] for path in tmp_path.iterdir()} == {"index", "shard", "notes.txt"}
    assert len(list(tmp_path.iterdir())) == 3


def test_remove_leaves_what_is_not_ours(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "a_checkpoint")
    commit(store, 1, shard())
    with store.lock():
        store.remove()
    assert not store.folder.exists()
    commit(store, 1, shard())
    (store.folder / "shard_notes.h5").write_text("mine")
    store.remove()
    assert [path.name for path in store.folder.iterdir()] == ["shard_notes.h5"]


def test_an_epoch_cannot_go_back_and_a_rank_cannot_come_twice(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    commit(store, 3, shard())
    with pytest.raises(CheckpointError, match="epoch 3 is not later than 3"):
        commit(store, 3, shard())
    record = store.write_shard(4, 0, shard())
    with pytest.raises(CheckpointError, match=r"two shards of one rank: \[0, 0\]"):
        store.commit(4, [record, record], STATE)
    (tmp_path / record.file).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        store.commit(4, [record], STATE)
    assert store.epochs() == (3,)


@pytest.mark.parametrize("blocks", [(0, 5), (10,), (-1,)])
def test_a_block_counted_twice_or_not_planned_is_refused(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    store = CheckpointStore(tmp_path)
    commit(store, 1, shard(0, (5, 6)), shard(1, blocks))
    with pytest.raises(CheckpointError, match=r"block 5 of half1 is in the sums twice|half1 has blocks"):
        store.latest(FINGERPRINT)


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "nul\0"])
def test_a_name_that_hdf5_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="cannot be named"):
        CheckpointStore(tmp_path).write_shard(1, 0, Shard({"a": {name: np.zeros(2)}}, {}))
    with pytest.raises(ParameterError, match="type object"):
        CheckpointStore(tmp_path).write_shard(1, 0, Shard({"a": {"b": np.array([None])}}, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_checkpoint_is_refused_with_the_items_that_differ(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    commit(store, 1, shard())
    other = {"inputs": {"p.star": {"bytes": 8}}, "options": {"pad": [2, 2], "sym": "c4"}, "versions": {}}
    with pytest.raises(CheckpointError) as caught:
        store.latest(other)
    text = str(caught.value)
    assert "inputs.p.star.bytes: 7 then, 8 now" in text
    assert 'options.sym: nothing then, "c4" now' in text
    assert 'versions.numpy: "2" then, nothing now' in text
    assert "options.pad" not in text
    assert exit_code(caught.value) == 2
    assert store.latest(None) is not None


def test_with_resume_auto_an_own_generation_before_a_foreign_one_is_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    commit(store, 1, shard(1))
    commit(store, 2, shard(2), state=RunState({"options": "others"}))
    found = store.latest(FINGERPRINT, allow_previous=True)
    assert found is not None
    assert found.epoch == 1
    assert len(found.notes) == 1
    assert "epoch 2 is of another run" in found.notes[0]
    commit(store, 3, shard(3))  # the good one stays as the previous generation, not the refused one
    assert store.epochs() == (3, 1)


def test_the_disk_needed_is_two_generations() -> None:
    assert checkpoint_bytes(10**9, 128, 5) == 2 * (128 * 10**9 + 5)
    assert checkpoint_folder(Path("a/b.map.mrc")) == Path("a/b.map_checkpoint")


def test_the_previous_generation_makes_room_only_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    commit(store, 1, shard())
    commit(store, 2, shard())
    free = 1000
    monkeypatch.setattr(module, "_free_bytes", lambda folder: free + 500 * (1 not in store.epochs()))
    store.make_room(1000)
    assert store.epochs() == (2, 1)
    store.make_room(1500)
    assert store.epochs() == (2,)
    with pytest.raises(ResourceError, match="make room, or run without --checkpoint-every"):
        store.make_room(1501)
    with pytest.raises(ResourceError, match="GB are free"):
        store.write_shard(3, 0, Shard({"a": {"v": np.zeros(10**4)}}, {}))
    assert store.epochs() == (2,)
    assert store.latest(FINGERPRINT) is not None


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from centralslice.errors import ResourceError
from centralslice.runtime import checkpoint as module
from centralslice.runtime.checkpoint import CheckpointStore, RunState, Shard

module._free_bytes = lambda folder: 2**60  # the disk fills up after the check
store = CheckpointStore(Path(sys.argv[1]))
for epoch, size in enumerate((100, 10**6, 20000), 1):
    if epoch == 2 and sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (400000, 400000))
    try:
        shard = Shard({"a": {"v": np.arange(size), "w": np.arange(size)}}, {"a": np.arange(epoch)})
        store.commit(epoch, [store.write_shard(epoch, 0, shard)], RunState({}))
    except ResourceError as error:
        print(error)
        names = sorted(path.name for path in store.folder.iterdir())
        assert [name[:12] for name in names] == ["index_000001", "shard_000001"], names
        assert store.latest({}).epoch == 1
    if epoch == 1 and sys.argv[2] == "full":
        for fill in (2**20, 4096, 1):
            try:
                with (store.folder.parent / "filler").open("ab", buffering=0) as file:
                    while file.write(bytes(fill)):
                        pass
            except OSError:
                pass
    if epoch == 2 and sys.argv[2] == "full":
        (store.folder.parent / "filler").unlink()
assert store.latest({}).epoch == 3
"""


def test_a_file_that_may_not_grow_leaves_the_previous_generation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "c"), "limit"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "File too large; the checkpoint before it is still good" in done.stdout


@pytest.mark.parametrize("size", ["64k", "4m"])
def test_a_full_disk_leaves_the_previous_generation(tmp_path: Path, size: str) -> None:
    program = f"mount -t tmpfs -o size={size} tmpfs {tmp_path}"
    try:
        probe = subprocess.run(
            ["unshare", "-rm", "sh", "-c", program], capture_output=True, timeout=20, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare")
    if probe.returncode:
        pytest.skip("no private mounts for this user")
    command = [sys.executable, "-c", FULL.replace("20000", "1000"), str(tmp_path / "c"), "full"]
    script = f'{program} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *command],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No space left on device; the checkpoint before it is still good" in done.stdout
