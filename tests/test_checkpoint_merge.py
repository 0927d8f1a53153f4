"""Merging adds the sums of separate jobs: exactly, in any order, and only what belongs together."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from centralslice.errors import CheckpointError, OutputExistsError, ParameterError
from centralslice.runtime.checkpoint import MASTER, Checkpoint, CheckpointStore, RunState, Shard
from centralslice.runtime.checkpoint_merge import merge_checkpoints

STATE = RunState(
    {"inputs": "a.star", "options": {"sym": "c1"}, "versions": {"numpy": "2"}},
    {"half1": 2, "half2": 1},
    {label: {"value": (2.0**-20,)} for label in ("half1", "half2")},
    {"blank": [3]},
)


def quanta(*values: float) -> dict[str, dict[str, tuple[float, ...]]]:
    """These for both stages."""
    return {label: {"value": values} for label in STATE.stages}


REFERENCE = {"reference": np.ones((2, 2))}


def job(folder: Path, seed: int, **changes: Any) -> Path:
    """A complete job of three shards; the master's has the reduced half 1."""
    random = np.random.default_rng(seed)
    kind = changes.pop("dtype", np.int64)
    limit = changes.pop("limit", 2**40)
    shape = changes.pop("shape", (3, 4, 2))
    reference = changes.pop("reference", REFERENCE)
    done = changes.pop("done", (0,))
    draw = [random.integers(-limit, limit, shape).astype(kind) for _ in range(3)]
    shards = {
        MASTER: Shard({"half1": {"value": draw[0]}}, {"half1": np.arange(2)}, {}, reference),
        0: Shard({"half2": {"value": draw[1]}}, {"half2": np.array(done, np.int64)}, {"host": "n0"}),
        1: Shard({"half2": {"value": draw[2]}}, {"half2": np.empty(0, np.int64)}),
    }
    state = replace(STATE, fingerprint={**STATE.fingerprint, "inputs": f"{seed}.star"})
    store = CheckpointStore(folder / f"job{seed}_checkpoint")
    records = [store.write_shard(1, rank, shard) for rank, shard in shards.items()]
    store.commit(1, records, replace(state, **changes))
    return store.folder


def opened(folder: Path) -> Checkpoint:
    found = CheckpointStore(folder).latest(None)
    assert found is not None
    return found


def sums(folder: Path, label: str) -> np.ndarray[Any, Any]:
    """The label's sum as Python integers, which cannot wrap."""
    parts = [shard.load().arrays.get(label, {}).get("value") for shard in opened(folder).shards()]
    total: np.ndarray[Any, Any] = sum(part.astype(object) for part in parts if part is not None)  # type: ignore[assignment]
    return total


def test_the_merged_sums_are_the_sums_of_the_jobs_in_any_order(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed) for seed in (1, 2, 3)]
    expected = {label: sum(sums(each, label) for each in jobs) for label in ("half1", "half2")}
    for number, order in enumerate(itertools.permutations(jobs)):
        result = merge_checkpoints(order, tmp_path / f"merged{number}_checkpoint")
        assert result.blocks == {"half1": 6, "half2": 3}
        assert result.notes == ()
        for label, whole in expected.items():
            assert (sums(result.folder, label) == whole).all()
    merged = opened(tmp_path / "merged0_checkpoint")
    assert merged.state.fingerprint["inputs"] == {"merged": ["1.star", "2.star", "3.star"]}
    assert merged.state.fingerprint["options"] == {"sym": "c1"}
    assert {label: list(each) for label, each in merged.blocks().items()} == {
        "half1": list(range(6)), "half2": [0, 1, 2]}  # fmt: skip
    assert merged.state.facts["merged"][0]["facts"] == {"blank": [3]}
    assert merged.state.facts["merged"][0]["shards"][1] == {"rank": 0, "facts": {"host": "n0"}}
    assert merged.master is not None
    assert np.array_equal(merged.master.state()["reference"], np.ones((2, 2)))


def test_merging_merged_jobs_is_merging_all_at_once(tmp_path: Path) -> None:
    a, b, c = (job(tmp_path, seed) for seed in (1, 2, 3))
    first = merge_checkpoints([a, b], tmp_path / "ab").folder
    nested, flat = (
        opened(merge_checkpoints(folders, tmp_path / name).folder)
        for folders, name in (([first, c], "ab_c"), ([a, b, c], "abc"))
    )
    assert nested.state.fingerprint == flat.state.fingerprint
    assert nested.state.stages == flat.state.stages
    assert (sums(nested.folder, "half1") == sums(flat.folder, "half1")).all()
    assert nested.blocks()["half1"].tolist() == flat.blocks()["half1"].tolist()


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-30, 5), min_size=2, max_size=4), st.booleans())
def test_different_quanta_are_brought_to_the_finest(
    tmp_path_factory: pytest.TempPathFactory, exponents: list[int], small: bool
) -> None:
    folder = tmp_path_factory.mktemp("quanta")
    kind = np.int32 if small else np.int64
    jobs = [
        job(folder, seed, quanta={label: {"value": (2.0**power,)} for label in STATE.stages}, limit=2**20, dtype=kind)
        for seed, power in enumerate(exponents)
    ]  # fmt: skip
    result = merge_checkpoints(jobs, folder / "merged")
    finest = min(exponents)
    expected = sum(
        sums(each, "half2") * 2 ** (power - finest) for each, power in zip(jobs, exponents, strict=True)
    )
    assert (sums(result.folder, "half2") == expected).all()
    assert opened(result.folder).state.quanta["half2"]["value"] == (2.0**finest,)
    assert bool(result.notes) == (len(set(exponents)) > 1)


def test_each_index_of_the_last_axis_may_have_its_own_quantum(tmp_path: Path) -> None:
    one = job(tmp_path, 1, quanta=quanta(2.0**-20, 4.0))
    two = job(tmp_path, 2, quanta=quanta(2.0**-18, 1.0))
    merged = merge_checkpoints([one, two], tmp_path / "merged").folder
    assert opened(merged).state.quanta == quanta(2.0**-20, 1.0)
    expected = sums(one, "half1") * np.array([1, 4]) + sums(two, "half1") * np.array([4, 1])
    assert (sums(merged, "half1") == expected).all()


def test_floats_of_two_precisions_are_refused(tmp_path: Path) -> None:
    jobs = [job(tmp_path, n, dtype=kind, quanta={}) for n, kind in enumerate((np.float32, np.float64))]
    with pytest.raises(CheckpointError, match=r"half1/value has the types \['float32', 'float64'\]"):
        merge_checkpoints(jobs, tmp_path / "merged")


def test_sums_of_int32_stay_int32_while_they_fit(tmp_path: Path) -> None:
    for limit, kind in ((2**28, np.int32), (2**31, np.int64)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        jobs = [job(folder, seed, dtype=np.int32, limit=limit, shape=(50, 50)) for seed in (1, 2)]
        result = merge_checkpoints(jobs, folder / "merged")
        assert opened(result.folder).master.layout["half1"]["value"][1] == kind  # type: ignore[union-attr]
        assert (sums(result.folder, "half1") == sums(jobs[0], "half1") + sums(jobs[1], "half1")).all()


def test_floats_are_added_in_the_order_given(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed, dtype=np.float32, quanta={}) for seed in (1, 2)]
    merged = opened(merge_checkpoints(jobs, tmp_path / "merged").folder)
    one, two = (next(opened(each).shards()).load().arrays["half1"]["value"] for each in jobs)
    assert merged.master is not None
    assert np.array_equal(merged.master.load().arrays["half1"]["value"], one + two)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fingerprint": {**STATE.fingerprint, "inputs": "x", "options": {"sym": "d2"}}}, 'options.sym: "c1" in .*d2'),
        ({"fingerprint": {**STATE.fingerprint, "inputs": "1.star"}}, "would count twice"),
        ({"stages": {"half1": 2, "half2": 5}}, r"not complete .half2 1/5 blocks."),
        ({"stages": {}}, "not complete"),
        ({"stages": {"half1": 2, "half2": 1, "merged": 0}}, "half1, half2, merged"),
        ({"shape": (3, 4, 1)}, "differ in shape"),
        ({"dtype": np.float32}, "has quanta, but its types"),
        ({"dtype": np.float32, "quanta": {}}, "quanta of half1/value"),
        ({"quanta": {}}, r"quanta of half1/value are \[\(9.5[^,]*,\), \(\)\]"),
        ({"quanta": quanta(3.0)}, "powers of two"),
        ({"quanta": quanta(0.0)}, "powers of two"),
        ({"quanta": quanta(1.0, 1.0)}, "one for each index of the last axis"),
        ({"quanta": quanta(2.0**5)}, "does not fit into 64 bits"),
        ({"quanta": quanta(2.0**90)}, "does not fit into 64 bits"),
        ({"limit": 2**62, "seed": 9}, "does not fit into 64 bits"),
        ({"reference": {}}, "'reference' of .* passes after the first"),
        ({"reference": {"reference": np.zeros((2, 2))}}, "'reference' of .* passes after the first"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    limit = changes.get("limit", 2**40)
    jobs = [job(tmp_path, 1, limit=limit), job(tmp_path, changes.pop("seed", 2), **changes)]
    with pytest.raises(CheckpointError, match=text) as caught:
        merge_checkpoints(jobs, tmp_path / "merged")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_a_job_that_is_in_a_merged_one_already_is_refused(tmp_path: Path) -> None:
    a, b, c = (job(tmp_path, seed) for seed in (1, 2, 3))
    both = merge_checkpoints([a, b], tmp_path / "ab").folder
    for folders in ([both, a], [b, both], [a, a], [both, c, b]):
        with pytest.raises(CheckpointError, match="would count twice"):
            merge_checkpoints(folders, tmp_path / "merged")


def test_an_output_in_use_and_missing_inputs_are_refused(tmp_path: Path) -> None:
    a, b = job(tmp_path, 1), job(tmp_path, 2)
    with pytest.raises(OutputExistsError, match="has a checkpoint already"):
        merge_checkpoints([a, b], b)
    with pytest.raises(ParameterError, match="two or more"):
        merge_checkpoints([a], tmp_path / "merged")
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        merge_checkpoints([a, tmp_path / "none"], tmp_path / "merged")
