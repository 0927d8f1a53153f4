"""Failures of any kind: one line that names the file, and nothing under a final name."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice.cli import main, parser_for
from centralslice.cli.tomo import settings_from
from centralslice.errors import ResourceError
from centralslice.jobs import sums_run
from centralslice.jobs.tomo.memory import LEAST_SLICES
from centralslice.jobs.tomo.plan import plan_tomo, read_tilt_particles
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.writers.mrc import MrcWriter

#: Runs the command after something that makes a function slow enough to be hit.
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


def words(project, folder, *options):
    return ["tomo", "--i", str(project.set), "--b", "32", "--o", str(folder), "--threads", "2", *options]


@pytest.fixture
def copied(noisy, altered):
    """A copy of the small project whose tilt images may be spoilt; gives it and the first stack."""
    project = altered(noisy)
    (project.folder / "tilt").unlink()
    shutil.copytree(noisy.folder / "tilt", project.folder / "tilt")
    return project, project.folder / "tilt" / "TS_01.mrcs"


def spoil(path, image, value):
    """Set a pixel in the middle region of an image that windows are cut from."""
    with path.open("r+b") as file:
        header = file.read(1024)
        nx, ny, _, mode = struct.unpack("<4i", header[:16])
        assert mode == 2
        start = 1024 + struct.unpack("<i", header[92:96])[0]
        values = np.full(nx * ny, value, np.float32)
        file.seek(start + 4 * nx * ny * image)
        file.write(values.tobytes())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("whiten", [False, True])
def test_pixels_that_are_no_numbers_are_told_with_file_and_image(value, whiten, copied, refused):
    project, stack = copied
    spoil(stack, 4, value)
    error = refused(project, "--b", 32, *(["--whiten"] if whiten else []))
    assert str(stack) in error
    assert "image 5" in error
    assert "not finite" in error or "finite pixels" in error


def test_pixels_that_are_no_numbers_in_a_tilt_that_is_not_used_do_not_matter(copied, tomo):
    project, stack = copied
    spoil(stack, 0, np.nan)
    assert tomo(project, "--b", 32, "--tilt-range", -50, 60).code == 0


def test_a_blank_tilt_is_left_out_and_counted(copied, tomo):
    project, stack = copied
    spoil(stack, 4, 7.0)
    run = tomo(project, "--b", 32)
    assert 8 < run.manifest["windows"]["dropped"]["all pixels equal"] <= 12
    assert "windows whose pixels are all equal" in run.out


@pytest.mark.parametrize("length", [0, 500, 1024, 100_000])
def test_a_truncated_stack_is_told(length, copied, refused):
    project, stack = copied
    os.truncate(stack, length)
    assert str(stack) in refused(project, "--b", 32)


def test_a_missing_stack_is_told_with_the_file_that_names_it(copied, refused):
    project, stack = copied
    stack.unlink()
    error = refused(project, "--b", 32)
    assert "tilt/TS_01.mrcs" in error
    assert "TS_01.star" in error


def test_a_stack_with_too_few_images_is_told(copied, refused, read):
    project, stack = copied
    data = read(stack)
    with mrcfile.new(stack, overwrite=True) as file:
        file.set_data(data[:7].astype(np.float32))
        file.set_image_stack()
    error = refused(project, "--b", 32)
    assert "TS_01.star" in error
    assert "which has 7 images" in error


def test_tilt_images_of_another_size_are_told(copied, refused, read):
    project, stack = copied
    data = read(stack)
    with mrcfile.new(stack.with_name("other.mrcs")) as file:
        file.set_data(data[:, :-2].astype(np.float32))
        file.set_image_stack()
    table = project.folder / "tilt_series" / "TS_01.star"
    table.write_text(table.read_text().replace("3@tilt/TS_01.mrcs", "3@tilt/other.mrcs"))
    error = refused(project, "--b", 32)
    assert "other.mrcs" in error
    assert "300 x 298" in error


def test_an_output_folder_that_cannot_be_one_is_refused(noisy, attempt, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for output, said in (
        (file, "is a file; give the name of a folder"),
        (tmp_path / "none" / "map", "does not exist; create it first"),
        (file / "map", "does not exist; create it first"),
    ):
        run = attempt(noisy, "--b", 32, output=output)
        assert run.code == 2
        assert said in run.err
        assert len(run.err.splitlines()) == 1
    assert file.read_text() == "mine"


def test_existing_results_are_replaced_with_force_only(noisy, attempt, tmp_path):
    folder = tmp_path / "map"
    assert attempt(noisy, "--b", 32, output=folder).code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = attempt(noisy, "--b", 32, output=folder)
    assert again.code == 2
    assert f"{folder}/half1.mrc: exists already" in again.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert attempt(noisy, "--b", 32, "--sym", "C2", "--force", output=folder).code == 0
    assert (folder / "merged.mrc").read_bytes() != before["merged.mrc"]


def test_a_folder_of_other_things_is_used_and_they_stay(noisy, tomo, tmp_path):
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "mine.txt").write_text("mine")
    assert "mine.txt" in tomo(noisy, "--b", 32, output=tmp_path / "map").left()


@pytest.mark.parametrize(
    ("limit", "options"), [(100, []), (100_000, []), (135_000, []), (100_000, ["--no_recon"])]
)
def test_a_full_disk_ends_with_one_line_and_nothing_left(limit, options, noisy, tmp_path):
    folder = tmp_path / "map"

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "centralslice.cli", *words(noisy, folder, *options)],
        capture_output=True, text=True, check=False, preexec_fn=small_files,
    )  # fmt: skip
    if limit > 132_100 and not options:  # a map has 132,096 bytes; the plot may be larger
        assert done.returncode in (0, 2), done.stderr
    else:
        assert done.returncode == 2, done.stderr
    if done.returncode:
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "cannot be written" in done.stderr
        assert ".staged" not in done.stderr
        assert not folder.exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_disk_too_full_for_the_sums_of_a_half_is_told(noisy, refused, monkeypatch):
    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sums_run.tempfile, "TemporaryFile", full)
        error = refused(noisy, "--b", 32, "--mem", little_memory(noisy))
    assert "the sums of a half" in error
    assert "No space left on device; free the disk, or give more --mem" in error


def little_memory(project):
    """GB with which the sums of a half must wait on disk."""
    arguments = parser_for(("tomo",)).parse_args(words(project, Path("none")))
    settings, registry = settings_from(arguments), shared_registry()
    plan = plan_tomo(settings, registry, read_tilt_particles(settings, registry))
    return (plan.memory.peak(replace(plan.choice, piece=LEAST_SLICES, spill=True)) + 1) / 1e9


@pytest.mark.parametrize(
    ("which", "module", "name", "options"),
    [
        (signal.SIGINT, "tomo.plan", "check_tilt_images", ()),
        (signal.SIGINT, "accumulation", "insert_threaded", ("--checkpoint-every", "0")),
        (signal.SIGINT, "tomo.job", "write_manifest", ()),
        (signal.SIGKILL, "tomo.job", "half_map_fsc", ()),
        (signal.SIGKILL, "tomo.job", "write_manifest", ()),
    ],
)
def test_interrupting_leaves_nothing_under_a_final_name(which, module, name, options, noisy, tmp_path):
    folder = tmp_path / "map"
    script = SLOWLY.format(module=module, name=name)
    with subprocess.Popen(
        [sys.executable, "-c", script, *words(noisy, folder, *options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while process.stdout.readline().strip() != name:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(which)
        _, err = process.communicate(timeout=20)
    if which == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1] == "centralslice: interrupted"
        assert not folder.exists()
    else:
        assert process.returncode == -signal.SIGKILL
        assert not list(folder.glob("[!.]*"))
        assert main(words(noisy, folder)) == 0  # what is left hidden does not stop the next run


def test_an_error_while_writing_removes_what_was_written_before_it(noisy, refused, monkeypatch):
    original, calls = MrcWriter.write_volume, []

    def fails_late(self, path, volume, options):
        calls.append(path.name)
        if len(calls) == 8:
            raise ResourceError(f"{path}: cannot be written: no space")
        original(self, path, volume, options)

    monkeypatch.setattr(MrcWriter, "write_volume", fails_late)
    assert "cannot be written: no space" in refused(noisy, "--b", 32)
    assert len(calls) == 8
