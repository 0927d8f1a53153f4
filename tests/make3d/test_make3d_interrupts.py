"""Full disks, Ctrl-C and kill: nothing under a final name, and what can clean up does."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time

import pytest

#: Runs the command after something that makes it slow enough to be hit.
SLOWLY = """
import sys, time
import centralslice.jobs.{module} as module
original = module.{name}
def slow(*arguments, **more):
    print("{name}", flush=True)
    time.sleep(30)
    return original(*arguments, **more)
module.{name} = slow
from centralslice.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(data, folder, *options):
    return [
        "make3d",
        "--input",
        str(data.table),
        "--output",
        str(folder / "map.mrc"),
        "--threads",
        "2",
        *options,
    ]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def data(simulate):
    return simulate(half_sets=True, snr=0.5)


@pytest.mark.parametrize("suffix", ["mrc", "hdf"])
@pytest.mark.parametrize("limit", [100, 5_000, 30_000, 100_000])
def test_a_full_disk_ends_with_one_line_and_nothing_left(limit, suffix, data, folder):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    more = ["--compressbits", "0"] if suffix == "hdf" else []
    words = command(data, folder, *more)
    words[4] = str(folder / f"map.{suffix}")
    done = subprocess.run(
        [sys.executable, "-m", "centralslice.cli", *words], capture_output=True, text=True, check=False,
        preexec_fn=small_files,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written" in done.stderr
    assert str(folder) in done.stderr
    assert ".staged" not in done.stderr
    assert names(folder) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [("make3d_plan", "check_stacks"), ("accumulation", "insert_threaded"), ("make3d", "half_map_fsc"),
     ("make3d", "_write_manifest")],
)  # fmt: skip
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_interrupting_leaves_nothing_under_a_final_name(which, module, name, data, folder):
    script = SLOWLY.format(module=module, name=name)
    with subprocess.Popen(
        [sys.executable, "-c", script, *command(data, folder)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while process.stdout.readline().strip() != name:
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(which)
        started = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    visible = [found for found in names(folder) if not found.startswith(".")]
    assert visible == []
    if which == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "centralslice: interrupted"
        assert names(folder) == []
    else:
        assert process.returncode == -signal.SIGKILL
        # what is left hidden does not stop the next run
        again = subprocess.run(
            [sys.executable, "-m", "centralslice.cli", *command(data, folder)],
            capture_output=True,
            check=False,
        )
        assert again.returncode == 0


def test_an_error_while_writing_removes_what_was_written_before_it(data, attempt, monkeypatch):
    from centralslice.errors import ResourceError
    from centralslice_plugins.writers.mrc import MrcWriter

    original, calls = MrcWriter.write_volume, []

    def fails_at_the_last(self, path, volume, options):
        calls.append(path)
        if volume.data.shape == (32, 32, 32) and "half" not in path.name:
            raise ResourceError(f"{path}: cannot be written: no space")
        original(self, path, volume, options)

    monkeypatch.setattr(MrcWriter, "write_volume", fails_at_the_last)
    run = attempt(data.table)
    assert run.code == 2
    assert run.err == f"centralslice: error: {run.output}: cannot be written: no space\n"
    assert any("half2" in path.name for path in calls)
    assert run.left() == []
