"""``centralslice checkpoint`` on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from centralslice.cli import main
from centralslice.runtime.checkpoint import CheckpointStore, RunState, Shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two generations of a complete job."""
    return make(tmp_path, "one")


def make(tmp_path: Path, name: str) -> Path:
    store = CheckpointStore(tmp_path / f"{name}_checkpoint")
    state = RunState({"inputs": name, "options": {"sym": "c4"}}, {"merged": 3}, {"merged": {"value": (1.0,)}})
    for epoch in (1, 2):
        shard = Shard({"merged": {"value": np.full((2, 3), epoch)}}, {"merged": np.arange(epoch + 1)})
        store.commit(epoch, [store.write_shard(epoch, 0, shard)], state)
    return store.folder


def test_show_tells_generations_blocks_arrays_and_the_fingerprint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "show", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "epoch 2 of 20" in text
    assert "  merged: 3 of 3 blocks" in text
    assert "  merged: 2 of 3 blocks" in text
    assert "  rank 0: merged: value int64 (2, 3)" in text
    assert "      sym: c4" in text
    assert "in use" not in text
    with CheckpointStore(folder).lock():
        assert main(["checkpoint", "show", str(folder)]) == 0
    assert "in use by process" in capsys.readouterr().out


def test_the_map_stands_for_its_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(folder.with_name("one.mrc"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"epoch {2 - n}: good, ") for n, line in enumerate(lines))


def test_verify_fails_when_the_latest_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = folder.glob("shard_000002*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["checkpoint", "verify", str(folder)]) == 2
    printed = capsys.readouterr()
    assert f"epoch 2: {path}: damaged" in printed.out
    assert "epoch 1: good" in printed.out
    assert printed.err.count("\n") == 1
    assert "epoch 2 cannot be used; --resume auto takes epoch 1" in printed.err


def test_show_of_nothing_usable_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.glob("shard_*"):
        path.unlink()
    assert main(["checkpoint", "show", str(folder)]) == 2
    assert "none of the checkpoints can be used" in capsys.readouterr().err
    for path in folder.glob("index_*"):
        path.unlink()
    assert main(["checkpoint", "show", str(folder)]) == 2
    assert "holds no checkpoint that was completed" in capsys.readouterr().err
    assert main(["checkpoint", "show", str(folder / "no.mrc")]) == 2
    assert "no such checkpoint folder" in capsys.readouterr().err


def test_merge_adds_jobs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, output = make(tmp_path, "two"), tmp_path / "both_checkpoint"
    assert main(["checkpoint", "merge", str(folder), str(other), "--output", str(output)]) == 0
    assert "sums of 2 jobs: merged 6 blocks" in capsys.readouterr().out
    found = CheckpointStore(output).latest(None)
    assert found is not None
    assert found.master is not None
    assert (found.master.load().arrays["merged"]["value"] == 4).all()
    assert main(["checkpoint", "merge", str(folder), str(other), "--output", str(output)]) == 2
    assert "has a checkpoint already" in capsys.readouterr().err


def test_asking_for_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from centralslice.cli import main; code = main(['checkpoint', '--help']); "
        "sys.exit(code or [m for m in ('numpy', 'h5py', 'numba') if m in sys.modules] or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "show|verify|merge" in done.stdout
