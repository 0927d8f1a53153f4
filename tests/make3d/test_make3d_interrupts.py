"""Full disks, Ctrl-C and kill: nothing under a final name, and what can clean up does.

Ctrl-C while particles are inserted writes a checkpoint first, unless checkpoints are switched off.
"""

from __future__ import annotations

import json
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
    time.sleep({seconds})
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


def slowly(module, name, words, seconds=30):
    """Starts the command; a function of it takes so many seconds more, and says when it begins."""
    script = SLOWLY.format(module=module, name=name, seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, line):
    while process.stdout.readline().strip() != line:
        assert process.poll() is None, process.stderr.read()


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "centralslice.cli", *words], capture_output=True, text=True, check=False
    )


def manifest(folder):
    return json.loads((folder / "map_manifest.json").read_text())


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
    ("module", "name", "options"),
    [
        ("make3d.plan", "check_stacks", ()),
        ("accumulation", "insert_threaded", ("--checkpoint-every", "0")),
        ("make3d.job", "half_map_fsc", ()),
        ("make3d.job", "write_run_manifest", ()),
        ("make3d.job", "write_run_manifest", ("--checkpoint-every", "0")),
    ],
)
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_interrupting_leaves_nothing_under_a_final_name(which, module, name, options, data, folder):
    with slowly(module, name, command(data, folder, *options)) as process:
        wait_for(process, name)
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
        assert run(*command(data, folder)).returncode == 0


@pytest.mark.parametrize(
    ("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_signal_while_inserting_writes_a_checkpoint_from_which_the_run_goes_on(which, code, data, folder):
    with slowly("accumulation", "insert_threaded", command(data, folder), seconds=1) as process:
        wait_for(process, "insert_threaded")
        wait_for(process, "insert_threaded")  # so the first block is done
        process.send_signal(which)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == (
        f"centralslice: stopped by {which.name}; a checkpoint was written, --resume continues"
    )
    assert names(folder) == ["map_checkpoint"]
    assert "lock" not in names(folder / "map_checkpoint")
    unasked = run(*command(data, folder))
    assert unasked.returncode == 2
    assert "holds a checkpoint of an interrupted run" in unasked.stderr
    resumed = run(*command(data, folder, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert "map_checkpoint" not in names(folder)
    assert 0 < manifest(folder)["resumed_particles"] < 300  # so it did not go on to the end
    expected = manifest(folder)["map_sha256"]
    assert run(*command(data, folder, "--force")).returncode == 0
    assert manifest(folder)["resumed_particles"] == 0
    assert manifest(folder)["map_sha256"] == expected


def test_a_killed_run_goes_on_from_its_last_checkpoint(data, folder):
    words = command(data, folder, "--checkpoint-every", "0.001")
    with slowly("accumulation", "insert_threaded", words, seconds=0.5) as process:
        for _ in range(4):
            wait_for(process, "insert_threaded")
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [name for name in names(folder) if not name.startswith(".")] == ["map_checkpoint"]
    # its own checkpoints replace the one it goes on from before half 2 begins
    resumed = run(*command(data, folder, "--resume", "--checkpoint-every", "0.001"))
    assert resumed.returncode == 0, resumed.stderr
    assert 0 < manifest(folder)["resumed_particles"] < 150
    expected = manifest(folder)["map_sha256"]
    assert run(*command(data, folder, "--force")).returncode == 0
    assert manifest(folder)["map_sha256"] == expected


def test_a_run_killed_while_its_files_get_their_names_is_resumed_without_force(data, folder):
    """Outputs are renamed one by one, the manifest last; then the checkpoint goes."""
    assert run(*command(data, folder, "--keep-checkpoints")).returncode == 0
    expected = manifest(folder)["map_sha256"]
    refused = run(*command(data, folder, "--resume"))
    assert refused.returncode == 2
    assert "exists already" in refused.stderr  # a complete run is not replaced unasked
    (folder / "map_manifest.json").rename(folder / ".map_manifest.123.staged.json")
    (folder / ".map_fsc.123.staged.star").touch()
    (folder / "..map_fsc.123.staged.123.partial.star").touch()
    (folder / ".map_2.123.staged.mrc").touch()  # of another run
    resumed = run(*command(data, folder, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert manifest(folder)["map_sha256"] == expected
    assert manifest(folder)["resumed_particles"] == 300
    assert [name for name in names(folder) if name.startswith(".")] == [".map_2.123.staged.mrc"]


@pytest.mark.parametrize("every", ["10m", "0.001"])
def test_a_second_ctrl_c_ends_the_run_at_once_and_keeps_the_last_checkpoint(every, data, folder):
    indices = f"list(__import__('pathlib').Path({str(folder)!r}).glob('map_checkpoint/index*'))"
    seconds = "60" if every == "10m" else f"60 if {indices} else 0.1"
    words = command(data, folder, "--checkpoint-every", every)
    with slowly("accumulation", "insert_threaded", words, seconds=seconds) as process:
        for _ in range(1 if every == "10m" else 3):
            wait_for(process, "insert_threaded")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # as a launcher delivers what the terminal has delivered already
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    if every == "10m":
        assert err.splitlines()[-1] == "centralslice: interrupted"
        assert names(folder) == []
        return
    assert err.splitlines()[-1] == (
        f"centralslice: interrupted; the last checkpoint in {folder / 'map_checkpoint'} is kept, --resume continues"
    )
    assert names(folder) == ["map_checkpoint"]
    assert "lock" not in names(folder / "map_checkpoint")
    resumed = run(*command(data, folder, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert 0 < manifest(folder)["resumed_particles"] < 300


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
