"""What is chosen where nothing is said, and what the user is told: centres, cosets, boxes, memory, norms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from subparticle_cases import BOX, PIXEL, Ring, make_ring, manifest, read_mrc, read_star, soft_ball, write_mrc

from centralslice.cli import main, parser_for
from centralslice.cli.options import normalise
from centralslice.cli.subparticle_options import settings_from
from centralslice.errors import ResourceError
from centralslice.geometry.rotations import rotation_from_vectors
from centralslice.jobs.layout import layout_notes
from centralslice.jobs.run_tools import Launch
from centralslice.jobs.simulate.particles import relion_tables
from centralslice.jobs.subparticles.job import run_subparticles
from centralslice.jobs.subparticles.plan import SubparticlePlan, plan_subparticles
from centralslice.jobs.subparticles.rows import parents_of
from centralslice.jobs.subparticles.symmetry import find_cosets, nearly_symmetric, rotate_map
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.communicator import run_in_process
from centralslice.runtime.hosts import Host
from centralslice_plugins.writers.star import StarWriter


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    return make_ring(tmp_path_factory.mktemp("ring"), count=20)


def planned(words: list[str]) -> SubparticlePlan:
    """The plan of a command."""
    given = parser_for(("subparticles",)).parse_args(normalise(words))
    return plan_subparticles(settings_from(given), shared_registry())


def noisy(ring: Ring, name: str, seed: int) -> str:
    """The ring's map with noise that does not have its symmetry."""
    noise = np.random.default_rng(seed).standard_normal(ring.truth.shape) * ring.truth.std()
    write_mrc(ring.folder / name, ring.truth + 0.5 * noise)
    return name


@pytest.mark.parametrize("changed", [1, 2])
@pytest.mark.parametrize(
    "options", [(), ("--localrefine", "1"), ("--newbox", "auto", "--subpixel", "--invar", "harmonic")]
)
def test_changing_either_half_map_leaves_all_of_the_other_half_set_as_it_was(
    ring: Ring, tmp_path: Path, changed: int, options: tuple[str, ...]
) -> None:
    names = {1: noisy(ring, "one.mrc", 1), 2: noisy(ring, "two.mrc", 2)}
    found = []
    for number in range(2):
        if number:
            names[changed] = noisy(ring, "other.mrc", 3)
        output = tmp_path / f"run{number}" / "sub.mrcs"
        output.parent.mkdir()
        assert main(ring.words(output, *options, maps=("--half1", names[1], "--half2", names[2]))) == 0
        rows = [row for row in output.with_suffix(".star").read_text().splitlines() if "@" in row]
        invariants = output.with_name("sub_invar.mrcs")
        images = [read_mrc(path) for path in (output, invariants) if path.is_file()]
        found.append((images, [row.replace(f"run{number}", "") for row in rows]))
    halves = read_star(tmp_path / "run0" / "sub.star").columns["rlnRandomSubset"]
    same, other = np.flatnonzero(halves != changed), np.flatnonzero(halves == changed)
    for before, after in zip(found[0][0], found[1][0], strict=True):
        assert np.array_equal(before[same], after[same])
        assert not np.array_equal(before[other], after[other])
    assert [found[0][1][row] for row in same] == [found[1][1][row] for row in same]
    assert found[0][1] != found[1][1]  # residual correlations, at least


def test_the_centre_is_that_of_the_mask_with_half_maps_and_of_density_with_one(
    ring: Ring, tmp_path: Path
) -> None:
    halves = ("--half1", noisy(ring, "one.mrc", 1), "--half2", noisy(ring, "two.mrc", 2))
    axis = np.arange(BOX) - BOX // 2
    mask = (
        np.array([np.sum(ring.keep.sum(axis=other) @ axis) for other in ((0, 1), (0, 2), (1, 2))])
        / ring.keep.sum()
    )
    default = planned(ring.words(tmp_path / "a.mrcs", maps=halves))
    assert np.allclose(default.design.centre_angst / PIXEL, mask, atol=1e-6)
    one = planned(ring.words(tmp_path / "b.mrcs"))
    density = planned(ring.words(tmp_path / "b.mrcs", "--center", "density"))
    assert np.array_equal(one.design.centre_angst, density.design.centre_angst)
    assert np.linalg.norm(one.design.centre_angst / PIXEL - mask) > 0.1
    both = planned(ring.words(tmp_path / "a.mrcs", "--center", "density", maps=halves))
    assert any("--center density" in note and "mean of the half maps" in note for note in both.notes)
    assert not any("--center density" in note for note in (*default.notes, *density.notes))


def test_filters_and_edges_judge_the_refined_poses(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, count=24)
    particles = read_star(ring.table)
    rng = np.random.default_rng(3)
    off = rotation_from_vectors(np.radians(rng.uniform(-3, 3, (24, 3)))) @ particles.rotations
    moved = particles.shifts_angst + rng.uniform(-0.9, 0.9, (24, 2)) * PIXEL
    StarWriter().write_tables(
        tmp_path / "off.star", relion_tables(replace(particles, rotations=off, shifts_angst=moved))
    )
    options = ("--side", "35", "--edge", "drop", "--newbox", "40", "--localrefine", "3")
    words = ring.words(tmp_path / "sub.mrcs", *options)
    words[words.index(str(ring.table))] = str(tmp_path / "off.star")
    assert main(words) == 0
    columns = read_star(tmp_path / "sub.star").columns
    rough = planned([*words, "--force"])
    everything = planned([*ring.words(tmp_path / "all.mrcs", "--newbox", "40")])
    # with the refined poses of those that are written, each of them passes, and its move is that of its pose
    refined = read_star(tmp_path / "sub.star")
    centre = rough.design.centre_angst
    unit = refined.rotations[:, 2] @ centre / np.linalg.norm(centre)
    assert np.abs(np.degrees(np.arccos(unit)) - 90).max() <= 35
    assert np.all(columns["sprOutside"] == 0)
    # which is not what the given poses would have let through
    names = {
        (int(p), int(s)) for p, s in zip(columns["sprParentIndex"], columns["sprSymmetryIndex"], strict=True)
    }
    given = {
        (parent, int(rough.design.candidates.operators[candidate]))
        for parent in range(24)
        for candidate in np.flatnonzero(rough.layout.kept[parent])
    }
    assert names != given
    # nor are any missing: all others fail by the poses that were found
    rows = everything.rows_of(np.arange(24))
    assert len(rows) == 24 * 6
    true = np.abs(np.degrees(np.arccos(rows.direction[:, 2])) - 90)
    clear = (true < 34) & (rows.missing(BOX, 40) < 0.2)
    wanted = {
        (int(p), int(everything.design.candidates.operators[c]))
        for p, c in zip(rows.parent[clear], rows.candidate[clear], strict=True)
    }
    assert len(wanted - names) <= 0.05 * len(wanted)
    assert any("--localrefine" in note and "refined poses" in note for note in rough.notes)
    parents = parents_of(rough.particles, np.arange(24))
    assert np.allclose(parents.rotations, off, atol=1e-5)


def test_a_mask_that_is_nearly_symmetric_is_remarked_on_and_a_threshold_takes_its_operators_as_one(
    ring: Ring, tmp_path: Path
) -> None:
    centre = (10.0, 3.0, 6.0)
    turn = shared_registry().symmetry("d3").rotations()
    # all three copies above the plane, one of them fainter
    keep = soft_ball(BOX, centre, 6)
    three = sum(
        (rotate_map(keep, turn[n], 1) for n in range(1, 3) if np.allclose(turn[n][2], (0, 0, 1))), 0.35 * keep
    )
    write_mrc(tmp_path / "nearly.mrc", np.clip(three, 0, 1))
    words = ring.words(tmp_path / "sub.mrcs")
    words[words.index("--subunitmask") + 1] = str(tmp_path / "nearly.mrc")
    plan = planned(words)
    assert len(plan.design.candidates) == 6
    notes = [note for note in plan.notes if "nearly onto itself" in note]
    assert len(notes) == 1
    overlap = np.array(plan.design.facts["operator_overlaps"])
    near = overlap[(overlap > 0.5) & (overlap < 0.99)]
    assert f"{near.min():.2f} to {near.max():.2f}" in notes[0]
    suggestion = notes[0].split("--cosets ")[1].split(" ")[0]
    assert "for 2 sub-particles a parent" in notes[0]
    taken = planned([*words, "--cosets", suggestion])
    assert len(taken.design.candidates) == 2
    assert taken.design.stabiliser_order == 3
    assert not any("nearly onto itself" in note for note in taken.notes)
    assert main([*words, "--cosets", "0.3"]) == 2
    assert main([*words, "--cosets", "some"]) == 2


def test_the_references_subunit_mask_under_d7_is_remarked_on(reference: Path) -> None:
    path = reference / "subparticles" / "subunitmask.hdf"
    if not path.is_file():
        pytest.skip("no reference data of subparticles")
    keep = shared_registry().reader_for(path, "volume").read_volume(path).data
    rotations = shared_registry().symmetry("d7").rotations()
    found = find_cosets(keep, rotations, lambda work, items: list(map(work, items)))
    assert len(found.representatives) == 14
    (note,) = nearly_symmetric(found, rotations, 0.9)
    assert "0.81 to 0.89" in note
    assert "--cosets 0.8 for 2 sub-particles" in note


def test_a_large_box_off_the_middle_is_remarked_on_with_the_automatic_one(ring: Ring, tmp_path: Path) -> None:
    plan = planned(ring.words(tmp_path / "sub.mrcs", "--ctf", "none"))
    outside = len(plan.layout.outside)
    assert outside > 0
    (note,) = (note for note in plan.notes if "--newbox auto" in note)
    automatic = planned(ring.words(tmp_path / "sub.mrcs", "--newbox", "auto", "--ctf", "none"))
    assert f"{outside} of {plan.layout.total}" in note
    assert f"--newbox auto, {automatic.new_box} pixels, {len(automatic.layout.outside)} have" in note
    assert not any("--newbox auto" in note for note in automatic.notes)


def test_ranks_of_a_host_are_refused_what_they_cannot_hold_together(ring: Ring, tmp_path: Path) -> None:
    plan = planned(ring.words(tmp_path / "sub.mrcs"))
    assert plan.memory_bytes > plan.worker_bytes > plan.sums_bytes > 0
    ranks = 4
    needed = plan.memory_bytes + (ranks - 1) * plan.worker_bytes
    (note,) = layout_notes(plan, [Host("n1", tuple(range(ranks)), needed)], "transformed maps")
    assert "transformed maps" in note
    with pytest.raises(ResourceError, match="host n1: its 4 ranks"):
        layout_notes(plan, [Host("n1", tuple(range(ranks)), needed - 1)])


@pytest.mark.parametrize("mode", ["none", "group"])
def test_norm_corrections_are_applied_to_the_images_in_mode_none_alone_as_relion_does(
    tmp_path: Path, mode: str
) -> None:
    ring = make_ring(tmp_path, count=12)
    rng = np.random.default_rng(4)
    norm, scale = rng.uniform(0.5, 2.0, 12), rng.uniform(0.7, 1.4, 12)
    particles = read_star(ring.table)
    columns = {**particles.columns, "rlnNormCorrection": 0.9 / norm}
    StarWriter().write_tables(ring.table, {"optics": particles.optics_columns, "particles": columns})

    def run(name: str, image_factor: np.ndarray | None, scale: np.ndarray) -> dict[str, np.ndarray]:
        plan = planned(ring.words(tmp_path / name, "--scale-mode", mode))
        plan = replace(plan, source=replace(plan.source, image_factor=image_factor, scale=scale))
        run_in_process(1, lambda world: run_subparticles(plan, shared_registry(), Launch("test", world)))
        return dict(read_star((tmp_path / name).with_suffix(".star")).columns)

    found = run("a.mrcs", norm, scale)
    made = read_mrc(tmp_path / "a.mrcs")
    if mode == "group":
        run("b.mrcs", None, scale)
        assert np.array_equal(made, read_mrc(tmp_path / "b.mrcs"))
        assert np.array_equal(found["rlnNormCorrection"], np.repeat(columns["rlnNormCorrection"], 6))
        return
    assert np.all(found["rlnNormCorrection"] == 1)
    assert np.allclose(found["sprNormCorrectionParent"], np.repeat(columns["rlnNormCorrection"], 6))
    write_mrc(ring.folder / "p.mrcs", read_mrc(ring.folder / "p.mrcs") * norm[:, None, None])
    run("b.mrcs", None, scale * norm)
    assert np.abs(made - read_mrc(tmp_path / "b.mrcs")).max() < 1e-5 * np.abs(made).max()


def test_what_the_table_says_of_parents_is_not_what_local_refinement_found(
    ring: Ring, tmp_path: Path
) -> None:
    assert main(ring.words(tmp_path / "sub.mrcs", "--localrefine", "1")) == 0
    words = ["subparticles", "--revert", str(tmp_path / "sub.star"), "--output", str(tmp_path / "back.star")]
    assert main(words) == 0
    assert (tmp_path / "back.star").read_bytes() == ring.table.read_bytes()
    assert manifest(tmp_path / "sub.mrcs")["parents"] == ring.count
