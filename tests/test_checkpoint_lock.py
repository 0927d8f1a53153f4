"""One run a checkpoint folder; the lock of a dead run is no obstacle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from centralslice.errors import CheckpointError, ResourceError
from centralslice.runtime import checkpoint_lock
from centralslice.runtime.checkpoint import CheckpointStore, RunState, Shard
from centralslice.runtime.checkpoint_lock import Holder, folder_lock, read_holder

HOLD = """
import sys, time
from pathlib import Path
from centralslice.runtime.checkpoint import CheckpointStore

with CheckpointStore(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def holding_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_while_the_first_lives_and_not_after(tmp_path: Path) -> None:
    folder = tmp_path / "map_checkpoint"
    process = holding_process(folder)
    with (
        pytest.raises(CheckpointError, match=f"in use by another run .process {process.pid} on ") as caught,
        CheckpointStore(folder).lock(),
    ):
        pass
    assert "\n" not in str(caught.value)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert (folder / "lock").exists()
    with CheckpointStore(folder).lock():
        holder = read_holder(folder / "lock")
        assert holder is not None
        assert holder.pid == os.getpid()
    assert not folder.exists()


def test_a_number_used_again_by_another_process_is_a_dead_run(tmp_path: Path) -> None:
    with folder_lock(tmp_path) as mine:
        pass
    earlier = replace(mine, started="1", token="other")
    (tmp_path / "lock").write_text(json.dumps(asdict(earlier)))
    with folder_lock(tmp_path) as again:
        assert read_holder(tmp_path / "lock") == again


@pytest.mark.parametrize("content", ["", "torn {", "host"])
def test_a_lock_that_cannot_be_judged_counts_until_it_is_silent(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "lock"
    text = json.dumps(asdict(Holder(1, "elsewhere", "boot", "5", "t"))) if content == "host" else content
    lock.write_text(text)
    with (
        pytest.raises(CheckpointError, match=r"last sign of life \d+ s ago; .* remove .*lock"),
        folder_lock(tmp_path),
    ):
        pass
    past = time.time() - checkpoint_lock.STALE_AFTER - 5
    os.utime(lock, (past, past))
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_holder_gives_signs_of_life(tmp_path: Path) -> None:
    with folder_lock(tmp_path, heartbeat=0.01):
        lock = tmp_path / "lock"
        os.utime(lock, (1, 1))
        end = time.monotonic() + 5
        while lock.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 2


def test_of_many_that_take_over_at_once_one_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    inside, most, got = [0], [0], [0]
    guard, gate = threading.Lock(), threading.Barrier(12)

    def take() -> None:
        gate.wait()
        try:
            with folder_lock(tmp_path):
                with guard:
                    inside[0] += 1
                    got[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                with guard:
                    inside[0] -= 1
        except CheckpointError:
            pass

    for _ in range(5):
        (tmp_path / "lock").write_text(json.dumps(asdict(Holder(2**22 + 1, "elsewhere", "", "", ""))))
        os.utime(tmp_path / "lock", (1, 1))
        threads = [threading.Thread(target=take) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1
    assert got[0] >= 5


def test_a_run_that_lost_its_lock_does_not_commit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    other = json.dumps(asdict(Holder(7, "elsewhere", "boot", "5", "t")))
    with store.lock():
        record = store.write_shard(1, 0, Shard({"a": {"v": np.ones(3)}}, {}))
        (tmp_path / "lock").write_text(other)
        with pytest.raises(
            CheckpointError, match=r"process 7 on elsewhere.* has taken this checkpoint folder over"
        ):
            store.commit(1, [record], RunState({}))
        with pytest.raises(CheckpointError, match="taken"):
            store.remove()
    assert (tmp_path / "lock").read_text() == other
    assert store.epochs() == ()


def test_without_links_the_lock_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with folder_lock(tmp_path) as mine:
        assert read_holder(tmp_path / "lock") == mine
        with pytest.raises(CheckpointError, match="in use"), folder_lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be made"), CheckpointStore(tmp_path / "no" / "c").lock():
        pass
