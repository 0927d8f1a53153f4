"""The subparticles command end to end: what comes out is the kept part, whole, in its place, and always the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from subparticle_cases import (
    BOX,
    PIXEL,
    Ring,
    fsc,
    make_ring,
    manifest,
    read_mrc,
    read_star,
    reconstruct,
    soft_ball,
    write_mrc,
)

from centralslice.cli import main, parser_for
from centralslice.cli.options import normalise
from centralslice.cli.subparticle_options import settings_from
from centralslice.jobs.run_tools import Launch
from centralslice.jobs.subparticles.job import run_subparticles
from centralslice.jobs.subparticles.plan import plan_subparticles
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.communicator import run_in_process
from centralslice_plugins.writers.star import StarWriter

#: Shells up to about 7 Å of a box of 48 pixels of 3 Å.
FINE = 20


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    return make_ring(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def taken(ring: Ring, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring's subunits."""
    output = tmp_path_factory.mktemp("taken") / "sub.mrcs"
    assert main(ring.words(output)) == 0
    return output


def with_angles(table: Path, output: Path, changed: dict[str, np.ndarray]) -> Path:
    """The same STAR file with other columns."""
    particles = read_star(table)
    columns = {**particles.columns, **changed}
    StarWriter().write_tables(output, {"optics": particles.optics_columns, "particles": columns})
    return output


def test_reconstructed_sub_particles_are_the_kept_density(taken: Path, tmp_path: Path) -> None:
    made = reconstruct(taken.with_suffix(".star"), tmp_path / "map.mrc", "--half-maps", "no")
    expected = read_mrc(taken.with_name("sub_reference.mrc"))
    curve = fsc(made, expected, 11)
    assert curve[1:FINE].min() > 0.99
    # the reference is the kept density about its centre
    centre = json.loads(taken.with_name("sub_frame.json").read_text())["centre_px"]
    mass = np.array(
        [np.sum(expected * axis) for axis in np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij")]
    )
    assert np.abs(mass / expected.sum()).max() < 0.02
    assert np.linalg.norm(np.array(centre) - (10, 3, 6)) < 1.5


def test_the_parents_orientations_do_not_reconstruct_the_kept_density(taken: Path, tmp_path: Path) -> None:
    columns = read_star(taken.with_suffix(".star")).columns
    parent = {f"rlnAngle{name}": columns[f"spr{name}Parent"] for name in ("Rot", "Tilt", "Psi")}
    wrong = with_angles(taken.with_suffix(".star"), taken.with_name("wrong.star"), parent)
    made = reconstruct(wrong, tmp_path / "map.mrc", "--half-maps", "no")
    curve = fsc(made, read_mrc(taken.with_name("sub_reference.mrc")), 11)
    assert curve[8:FINE].mean() < 0.7


def test_every_parent_is_there_with_all_its_copies_in_order(ring: Ring, taken: Path) -> None:
    columns = read_star(taken.with_suffix(".star")).columns
    assert np.array_equal(columns["sprParentIndex"], np.repeat(np.arange(ring.count), 6))
    assert np.array_equal(columns["sprSymmetryIndex"], np.tile(np.arange(6), ring.count))
    parents = read_star(ring.table)
    assert np.array_equal(columns["rlnRandomSubset"], np.repeat(parents.columns["rlnRandomSubset"], 6))
    names = columns["rlnImageName"].tolist()
    assert [int(name.split("@")[0]) for name in names] == list(range(1, 6 * ring.count + 1))
    assert len(set(columns["rlnParticleName"].tolist())) == len(names)
    facts = manifest(taken)
    assert facts["parents"] == ring.count
    assert facts["sub_particles"] == 6 * ring.count
    assert facts["parents_without_sub_particles"] == []
    assert (
        len(facts["outside"]["parent_and_candidate"])
        == facts["outside"]["count"]
        == columns["sprOutside"].sum()
    )


def test_images_are_centred_to_what_the_metadata_say(tmp_path: Path) -> None:
    ring = make_ring(
        tmp_path, sym="c1", count=40, defocus_range_angst=None, astigmatism_angst=0.0, half_sets=False
    )
    output = tmp_path / "sub.mrcs"
    assert main(ring.words(output, "--no-subtract", "--fill", "zero")) == 0
    images, columns = read_mrc(output), read_star(tmp_path / "sub.star").columns
    axis = np.arange(BOX) - BOX // 2
    total = images.sum(axis=(1, 2))
    found = np.stack([(images.sum(axis=1) @ axis) / total, (images.sum(axis=2) @ axis) / total], axis=1)
    shift = -np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], axis=1) / PIXEL
    assert np.abs(shift).max() <= 0.5
    assert np.abs(found - shift).max() < 0.06
    assert main([*ring.words(output, "--no-subtract", "--fill", "zero", "--subpixel"), "--force"]) == 0
    images, columns = read_mrc(output), read_star(tmp_path / "sub.star").columns
    assert not columns["rlnOriginXAngst"].any()
    assert np.abs((images.sum(axis=1) @ axis) / images.sum(axis=(1, 2))).max() < 0.06


def same(first: Path, second: Path) -> bool:
    """Whether stack and table are the same bytes, but for the stack's name."""
    tables = [path.with_suffix(".star").read_text().replace(path.parent.name, "") for path in (first, second)]
    return first.read_bytes() == second.read_bytes() and tables[0] == tables[1]


@pytest.mark.parametrize("options", [["--threads", "2"], ["--threads", "8"]])
def test_any_number_of_threads_makes_the_same_bytes(
    ring: Ring, taken: Path, tmp_path: Path, options: list[str]
) -> None:
    assert main(ring.words(tmp_path / "sub.mrcs", *options)) == 0
    assert same(taken, tmp_path / "sub.mrcs")


def in_process(words: list[str], ranks: int) -> list[object]:
    """A run on ranks in this process."""
    registry = shared_registry()
    plan = plan_subparticles(
        settings_from(parser_for(("subparticles",)).parse_args(normalise(words))), registry
    )
    return run_in_process(ranks, lambda world: run_subparticles(plan, registry, Launch("test", world)))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "options", [[], ["--localrefine", "2", "--defocus-hand", "auto", "--invar", "bispec"]]
)
def test_any_number_of_ranks_makes_the_same_bytes(
    ring: Ring, tmp_path: Path, ranks: int, options: list[str]
) -> None:
    if options:
        (tmp_path / "fine").mkdir()
        ring = make_ring(tmp_path / "fine", pixel=2.0, count=40)
    words = [word for word in ring.words(tmp_path / "sub.mrcs", *options) if word != "--no-adjust-defocus"]
    (tmp_path / "one").mkdir()
    alone = [*words, "--force"]
    alone[alone.index(str(tmp_path / "sub.mrcs"))] = str(tmp_path / "one" / "sub.mrcs")
    assert main(alone) == 0
    results = in_process(words, ranks)
    assert results[0] is not None
    assert results[1:] == [None] * (ranks - 1)
    assert (tmp_path / "sub.mrcs").read_bytes() == (tmp_path / "one" / "sub.mrcs").read_bytes()
    tables = [(folder / "sub.star").read_text() for folder in (tmp_path, tmp_path / "one")]
    assert tables[0] == tables[1].replace(str(tmp_path / "one"), str(tmp_path))
    if options:
        assert (tmp_path / "sub_invar.mrcs").read_bytes() == (
            tmp_path / "one" / "sub_invar.mrcs"
        ).read_bytes()


def test_sub_particles_of_one_half_set_know_nothing_of_the_other_half_map(ring: Ring, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal(ring.truth.shape) * ring.truth.std() * 0.3
    write_mrc(ring.folder / "perturbed.mrc", ring.truth + noise)
    stacks = []
    for name in ("truth.mrc", "perturbed.mrc"):
        output = tmp_path / name.replace(".mrc", ".mrcs")
        assert main(ring.words(output, maps=("--half1", "truth.mrc", "--half2", name))) == 0
        stacks.append(read_mrc(output))
    halves = read_star(tmp_path / "truth.star").columns["rlnRandomSubset"]
    assert np.array_equal(stacks[0][halves == 1], stacks[1][halves == 1])
    assert not np.array_equal(stacks[0][halves == 2], stacks[1][halves == 2])


def test_revert_gives_back_the_parents_table_byte_for_byte(ring: Ring, tmp_path: Path) -> None:
    output = tmp_path / "sub.mrcs"
    words = [
        word for word in ring.words(output, "--align-z", "--newbox", "32") if word != "--no-adjust-defocus"
    ]
    assert main(words) == 0
    assert (
        main(
            ["subparticles", "--revert", str(tmp_path / "sub.star"), "--output", str(tmp_path / "back.star")]
        )
        == 0
    )
    assert (tmp_path / "back.star").read_bytes() == ring.table.read_bytes()


def test_noise_without_particles_does_not_correlate_between_the_halves(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, sym="d7", count=120, defocus_range_angst=None, astigmatism_angst=0.0)
    rng = np.random.default_rng(2)
    write_mrc(tmp_path / "noise.mrcs", rng.standard_normal((ring.count, BOX, BOX)))
    (tmp_path / "p.mrcs").unlink()
    (tmp_path / "noise.mrcs").rename(tmp_path / "p.mrcs")
    z = np.arange(BOX) - BOX // 2
    upper = 0.5 + 0.5 * np.cos(np.pi * np.clip((6.0 - z) / 6.0, 0, 1))
    write_mrc(tmp_path / "keep.mrc", soft_ball(BOX, (0, 0, 0), 18) * upper[:, None, None])
    output = tmp_path / "sub.mrcs"
    assert main(ring.words(output)) == 0
    columns = read_star(tmp_path / "sub.star").columns
    assert len(columns["rlnImageName"]) == 2 * ring.count  # a ring of seven keeps two of fourteen operators
    reconstruct(tmp_path / "sub.star", tmp_path / "map.mrc", "--sym", "c7", "--ctf", "none")
    curve = fsc(read_mrc(tmp_path / "map_half1.mrc"), read_mrc(tmp_path / "map_half2.mrc"))
    assert abs(curve[3:24].mean()) < 0.15


def test_what_is_subtracted_is_gone_from_a_reconstruction_in_noise(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, sym="c3", count=200, snr=0.1)
    output = tmp_path / "sub.mrcs"
    assert main(ring.words(output, "--sym", "c1", "--center", "none", "--sym-mode", "map")) == 0
    made = reconstruct(tmp_path / "sub.star", tmp_path / "map.mrc", "--half-maps", "no", "--snr", "1")
    gone = (ring.truth * (1 - ring.keep))[ring.keep == 0]
    left = made[ring.keep == 0]
    whole = reconstruct(ring.table, tmp_path / "whole.mrc", "--half-maps", "no", "--snr", "1")[ring.keep == 0]
    beta = np.sum(left * gone) / np.sum(gone**2)
    assert abs(beta) < 0.05
    assert np.sum(whole * gone) / np.sum(gone**2) > 0.5


SLOWLY = """
import sys, time
import centralslice.jobs.subparticles.engine as module
original = module.HalfEngine.extract
def slow(self, *arguments):
    print("block", flush=True)
    time.sleep(0.25)
    return original(self, *arguments)
module.HalfEngine.extract = slow
import centralslice.jobs.subparticles.plan as plan
plan.MOST_PARENTS = 6
from centralslice.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(words: list[str], program: str = SLOWLY) -> subprocess.Popen[str]:
    """The command, slow enough to be hit, in small blocks."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("how", "options"),
    [
        (signal.SIGKILL, []),
        (signal.SIGUSR1, []),
        (signal.SIGKILL, ["--localrefine", "1", "--invar", "harmonic"]),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    ring: Ring, tmp_path: Path, how: signal.Signals, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centralslice.jobs.subparticles.plan.MOST_PARENTS", 6)
    whole = tmp_path / "whole" / "sub.mrcs"
    whole.parent.mkdir()
    assert main(ring.words(whole, *options)) == 0
    output = tmp_path / "sub.mrcs"
    words = ring.words(output, "--checkpoint-every", "0.1s", *options)
    job = start(words)
    folder = tmp_path / "sub_checkpoint"
    deadline = time.monotonic() + 60
    partial = tmp_path / "sub.mrcs.partial"  # poses are refined before it is made
    while not list(folder.glob("index_*.json")) or not partial.is_file() or partial.stat().st_size == 0:
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(job.pid, how)
    job.communicate(timeout=60)
    assert job.returncode == (-9 if how == signal.SIGKILL else 75)
    assert all(path.suffix == ".partial" for path in tmp_path.iterdir() if path.is_file())
    assert main(words) == 2  # a checkpoint is never overwritten unasked
    changed = [*words, "--resume"]
    changed[changed.index("--threads") + 1] = "2"
    results = in_process(changed, 2)
    assert results[0] is not None
    assert output.read_bytes() == whole.read_bytes()
    assert (tmp_path / "sub.star").read_text() == (whole.parent / "sub.star").read_text().replace(
        "/whole/", "/"
    )
    assert not folder.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_stopped_while_poses_are_refined_goes_on_to_the_same_bytes(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centralslice.jobs.subparticles.plan.MOST_PARENTS", 6)
    options = ("--localrefine", "2", "--side", "40")
    maps = ("--half1", "truth.mrc", "--half2", "truth.mrc")
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "sub.mrcs"
    assert main(ring.words(whole, *options, maps=maps)) == 0
    words = ring.words(tmp_path / "sub.mrcs", "--checkpoint-every", "0.1s", *options, maps=maps)
    job = start(words, SLOWLY.replace("HalfEngine.extract", "HalfEngine.refined"))
    folder = tmp_path / "sub_checkpoint"
    deadline = time.monotonic() + 60
    while not list(folder.glob("index_*.json")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate(timeout=60)
    assert not (tmp_path / "sub.mrcs.partial").exists()
    assert in_process([*words, "--resume"], 2)[0] is not None
    assert (tmp_path / "sub.mrcs").read_bytes() == whole.read_bytes()
    assert (tmp_path / "sub.star").read_text() == whole.with_suffix(".star").read_text().replace(
        "/whole/", "/"
    )


def test_flat_images_keep_their_place_as_zeros_and_are_listed(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, count=12, half_sets=False)
    assert main(ring.words(tmp_path / "whole.mrcs")) == 0
    images = read_mrc(ring.folder / "p.mrcs")
    images[4] = 3.5
    write_mrc(ring.folder / "p.mrcs", images)
    assert main(ring.words(tmp_path / "sub.mrcs")) == 0
    made = read_mrc(tmp_path / "sub.mrcs")
    assert not made[24:30].any()
    assert made[:24].std(axis=(1, 2)).min() > 0
    assert manifest(tmp_path / "sub.mrcs")["flat_parents"] == [4]
    assert manifest(tmp_path / "sub.mrcs")["gains"]["0"]["particles"] == 11
