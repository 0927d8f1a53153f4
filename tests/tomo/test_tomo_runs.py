"""The same bits on any threads and ranks, with little memory, after kills and signals; checkpoints on their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from centralslice.abc.reconstructor import NextPass
from centralslice.cli import main, parser_for
from centralslice.cli.tomo import settings_from
from centralslice.jobs import accumulation
from centralslice.jobs.run_tools import Launch
from centralslice.jobs.tomo.job import run_tomo
from centralslice.jobs.tomo.memory import LEAST_SLICES, MemoryChoice
from centralslice.jobs.tomo.plan import plan_tomo, read_tilt_particles
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.communicator import Serial, run_in_process
from centralslice_plugins.reconstructors.kaiser_bessel import KaiserBessel

#: Runs the command after something that makes a function of accumulation slow enough to be hit.
SLOWLY = """
import sys, time
import centralslice.jobs.accumulation as module
original, calls = module.insert_threaded, []
def slow(*arguments, **more):
    calls.append(1)
    print("inserting", flush=True)
    time.sleep({pause} if len(calls) > {after} else 0)
    return original(*arguments, **more)
module.insert_threaded = slow
from centralslice.cli import main
sys.exit(main(sys.argv[1:]))
"""
FILES = ("half1", "half2", "merged")
#: Ways to sum: integers with half sets, one set only, integers of another kind of grid, float blocks.
WAYS = {
    "half sets": [],
    "one half set": ["--subset", "1"],
    "relion": ["--compat", "relion"],
    "blocks": ["--mode", "gauss_2"],
    "symmetry": ["--sym", "C3", "--nr-helical-asu", "2", "--helical-rise", "5", "--helical-twist", "30"],
}


def words(project, folder, *options, box=32):
    return ["tomo", "--i", str(project.set), "--b", str(box), "--o", str(folder), *map(str, options)]


def plan_of(arguments):
    settings, registry = settings_from(parser_for(("tomo",)).parse_args(arguments)), shared_registry()
    return plan_tomo(settings, registry, read_tilt_particles(settings, registry))


def hashes(folder):
    return json.loads((folder / "manifest.json").read_text())["map_sha256"]


def resumed(folder):
    return json.loads((folder / "manifest.json").read_text())["resumed_particles"]


def start_slowly(arguments, pause=20.0, after=0):
    """Starts the command; every insertion after so many pauses so many seconds, and each says when it begins."""
    script = SLOWLY.format(pause=pause, after=after)
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_insertions(process, count):
    seen = 0
    while seen < count:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        seen += line.strip() == "inserting"


def visible(folder):
    """Names of files that a user would take for results."""
    return (
        [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    )


def checkpoint_of(folder):
    return folder.with_name(f"{folder.name}_checkpoint")


@pytest.fixture
def expected(tomo, noisy):
    """Hashes of an ordinary run on one thread."""

    def make(*options):
        return hashes(tomo(noisy, "--b", 32, *options, "--threads", 1).folder)

    return make


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_the_maps_are_the_same_bits_on_any_threads_ranks_and_memory(options, noisy, tomo, expected, tmp_path):
    first = expected(*options)
    assert set(first) == ({"merged"} if "--subset" in options else set(FILES))
    for threads in (2, 3):
        assert hashes(tomo(noisy, "--b", 32, *options, "--threads", threads).folder) == first
    plan = plan_of([*words(noisy, tmp_path / "ranks", *options), "--verbose", "0", "--threads", "1"])
    results = run_in_process(
        3, lambda communicator: run_tomo(plan, shared_registry(), Launch("x", communicator))
    )
    assert results[0].sha256 == first
    assert results[1:] == [None, None]
    spill = len(first) > 1
    least = MemoryChoice(plan.choice.largest_piece, LEAST_SLICES, spill, 0)
    memory = (plan.memory.peak(least) + 1) / 1e9
    little = tomo(noisy, "--b", 32, *options, "--mem", repr(memory), "--verbose", 2, "--threads", 2)
    assert ("waits on disk" in little.out) == spill
    assert hashes(little.folder) == first


def test_of_three_sets_of_sums_two_wait_on_disk_if_need_be(noisy, tmp_path):
    def result(name, *options):
        arguments = words(noisy, tmp_path / name, *options, "--verbose", "0")
        settings, registry = settings_from(parser_for(("tomo",)).parse_args(arguments)), shared_registry()
        particles = read_tilt_particles(settings, registry)
        halves = np.where(np.arange(len(particles)) % 4 == 0, 0, particles.half_set)
        plan = plan_tomo(settings, registry, replace(particles, half_set=halves))
        return plan, run_tomo(plan, registry, Launch("x", Serial())).sha256

    plan, first = result("plenty")
    least = plan.memory.peak(replace(plan.choice, piece=LEAST_SLICES, spill=True))
    assert plan.memory_bytes - least > 1.99 * plan.sums_bytes
    little, other = result("little", "--mem", repr((least + 1) / 1e9))
    assert little.choice.spill
    assert other == first


@pytest.mark.parametrize("options", [[], ["--subset", "2"]], ids=["half sets", "one set"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(options, noisy, expected, tmp_path):
    folder = tmp_path / "map"
    every = [*words(noisy, folder, *options), "--threads", "2"]
    with start_slowly([*every, "--checkpoint-every", "0.001"], pause=0.3) as process:
        wait_for_insertions(process, 4 if options else 7)  # with half sets the second is begun
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert visible(folder) == []
    assert main([*every[:-1], "3", "--resume"]) == 0
    assert resumed(folder) > 0
    assert hashes(folder) == expected(*options)
    assert not checkpoint_of(folder).exists()


@pytest.mark.parametrize(
    ("which", "code", "again"),
    [
        (signal.SIGINT, 130, "--resume"),
        (signal.SIGUSR1, 75, "--only_do_unfinished"),
        (signal.SIGTERM, 75, "--only_do_unfinished"),
    ],
)
def test_a_signal_writes_a_checkpoint_from_which_other_threads_go_on(
    which, code, again, noisy, expected, attempt, tmp_path
):
    folder = tmp_path / "map"
    with start_slowly([*words(noisy, folder), "--threads", "2"], pause=0.5) as process:
        wait_for_insertions(process, 2)
        process.send_signal(which)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == (
        f"centralslice: stopped by {which.name}; a checkpoint was written, --resume continues"
    )
    assert not folder.exists()
    unasked = attempt(noisy, "--b", 32, output=folder)
    assert unasked.code == 2
    assert "holds a checkpoint of an interrupted run" in unasked.err
    assert main([*words(noisy, folder, again), "--threads", "1"]) == 0
    assert 0 < resumed(folder) < 24
    assert hashes(folder) == expected()


def test_only_do_unfinished_starts_where_there_is_nothing_to_go_on_from(noisy, tomo, expected):
    run = tomo(noisy, "--b", 32, "--only_do_unfinished")
    assert resumed(run.folder) == 0
    assert hashes(run.folder) == expected()


def test_a_checkpoint_of_other_options_or_particles_is_refused(noisy, altered, attempt, tmp_path):
    folder = tmp_path / "map"
    assert main([*words(noisy, folder), "--no_recon"]) == 0
    for project, options in (
        (noisy, ["--no_ctf"]),
        (noisy, ["--max-dose", "20"]),
        (altered(noisy, lambda t: t["particles.star"]["particles"]["rlnAngleRot"].reverse()), []),
    ):
        other = attempt(project, "--b", 32, "--resume", *options, output=folder)
        assert other.code == 2
        assert "--resume" in other.err or "differ" in other.err
        assert len(other.err.splitlines()) == 1


@pytest.mark.parametrize("mode", ["iterative", "gauss_2"])
def test_killed_runs_of_float_blocks_go_on_too_with_numerators_and_weights(mode, noisy, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "map"
    assert main([*words(noisy, whole, "--mode", mode), "--threads", "1"]) == 0
    every = words(noisy, folder, "--mode", mode)
    with start_slowly([*every, "--checkpoint-every", "0.001"], pause=0.5) as process:
        wait_for_insertions(process, 4)  # a block a tomogram and half
        process.kill()
        process.communicate()
    assert visible(folder) == []
    assert main([*every, "--resume", "--threads", "2"]) == 0
    assert resumed(folder) > 0
    check_same_files(folder, whole)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("insertions", [2, 9, 14, 21, 30])
def test_a_method_of_several_passes_goes_on_with_its_maps_and_their_numerators(
    insertions, halves, noisy, tmp_path, monkeypatch
):
    in_two_passes(monkeypatch)
    options = [] if halves else ["--subset", "1"]
    whole, folder = tmp_path / "whole", tmp_path / "map"
    assert main(words(noisy, whole, *options)) == 0
    inserted = []
    with monkeypatch.context() as patch:
        original = accumulation.insert_threaded

        def breaks_down(*arguments):
            inserted.append(1)
            if len(inserted) == insertions:
                raise MemoryError("out of memory")
            original(*arguments)

        patch.setattr(accumulation, "insert_threaded", breaks_down)
        code = main([*words(noisy, folder, *options), "--checkpoint-every", "1e-6"])
    if len(inserted) < insertions:
        assert not halves  # all is done before
        assert code == 0
        return
    assert code != 0
    assert visible(folder) == []
    assert main([*words(noisy, folder, *options), "--resume"]) == 0
    assert resumed(folder) > 0
    check_same_files(folder, whole, FILES if halves else ("merged",))


def in_two_passes(monkeypatch):
    """Makes the default method want its map for a second pass, and use it there."""
    plan, finish = KaiserBessel.plan, KaiserBessel.finish

    def twice(self, sums, context):
        volume = finish(self, sums, context)
        if context.pass_number == 0:
            return NextPass(volume.data)
        return replace(volume, data=volume.data + 0.5 * context.reference)

    monkeypatch.setattr(KaiserBessel, "plan", lambda self, geometry: replace(plan(self, geometry), passes=2))
    monkeypatch.setattr(KaiserBessel, "finish", twice)


def check_same_files(folder, whole, labels=FILES):
    assert hashes(folder) == hashes(whole)
    for label in labels:
        for name in (f"{label}.mrc", f"data_{label}.mrc", f"weight_{label}.mrc"):
            assert voxels(folder / name) == voxels(whole / name), name


def voxels(path):
    return path.read_bytes()[1024:]


def test_no_recon_leaves_sums_that_make_the_same_map(noisy, tomo, expected, tmp_path, read, capsys):
    folder, finished = tmp_path / "map", tmp_path / "finished.mrc"
    run = tomo(noisy, "--b", 32, "--no_recon", output=folder)
    assert f"sums       {checkpoint_of(folder)}" in run.out
    assert not folder.exists()
    for action in ("show", "verify"):
        assert main(["checkpoint", action, str(folder)]) == 0
    said = capsys.readouterr().out
    assert "half1: 7 of 7 blocks" in said or "half1:" in said
    assert "good" in said
    assert main(["checkpoint", "finish", str(folder), "--output", str(finished), "--savenorm",
                 str(tmp_path / "norm.mrc")]) == 0  # fmt: skip
    whole = tomo(noisy, "--b", 32, "--taper", 0)
    assert np.array_equal(read(finished), whole.map())
    for half in (1, 2):
        assert np.array_equal(read(tmp_path / f"finished_half{half}.mrc"), whole.map(f"half{half}"))
    # and the job itself goes on from there to its files
    assert main(words(noisy, folder, "--resume")) == 0
    assert resumed(folder) == 24
    assert hashes(folder) == expected()


def test_no_recon_needs_a_method_of_one_pass(noisy, refused, monkeypatch):
    in_two_passes(monkeypatch)
    assert "--no-recon: mode kaiser_bessel needs its map" in refused(noisy, "--b", 32, "--no_recon")


def test_merged_sums_of_two_particle_files_are_those_of_one_job(noisy, altered, tomo, tmp_path, read):
    def only(first):
        def change(tables):
            block = tables["particles.star"]["particles"]
            for label, values in block.items():
                block[label] = values[:9] if first else values[9:]

        return change

    whole = tomo(noisy, "--b", 32, "--taper", 0, "--keep-checkpoints")
    quanta = ("--quanta-of", checkpoint_of(whole.folder))
    jobs = []
    for first in (True, False):
        run = tomo(altered(noisy, only(first)), "--b", 32, "--no_recon", *quanta)
        jobs.append(str(checkpoint_of(run.folder)))
    merged = tmp_path / "merged_checkpoint"
    assert main(["checkpoint", "merge", *jobs, "--output", str(merged)]) == 0
    assert main(["checkpoint", "finish", str(merged), "--output", str(tmp_path / "map.mrc")]) == 0
    assert np.array_equal(read(tmp_path / "map.mrc"), whole.map())
    assert np.array_equal(read(tmp_path / "map_half2.mrc"), whole.map("half2"))
    again = tmp_path / "again_checkpoint"
    assert main(["checkpoint", "merge", jobs[0], jobs[0], "--output", str(again)]) == 2
    assert (
        main(["checkpoint", "merge", jobs[0], str(checkpoint_of(whole.folder)), "--output", str(again)]) == 2
    )
    assert not again.exists()


def test_tomograms_in_any_order_make_the_same_map_to_rounding(noisy, altered, tomo, error):
    def turned_round(tables):
        for name, block in (("particles.star", "particles"), ("tomograms.star", "global")):
            rows = tables[name][block]
            for label, values in rows.items():
                rows[label] = values[::-1]

    first = tomo(noisy, "--b", 32, "--taper", 0)
    other = tomo(altered(noisy, turned_round), "--b", 32, "--taper", 0)
    for label in FILES:
        difference = np.abs(other.map(label) - first.map(label)).max()
        assert difference < 1e-5 * np.abs(first.map(label)).max()


def test_more_than_a_hundred_tilts(simulate, tomo, likeness):
    project = simulate(tomograms=4, random_directions=130)
    run = tomo(project, "--b", 48, "--taper", 0)
    assert run.manifest["windows"]["used"] == 520
    assert likeness(run.map(), project.truth) > 0.9
