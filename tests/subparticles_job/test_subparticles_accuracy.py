"""What the specification asks of sub-particles, end to end: density, order of operators, depth, halves, centring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parent_scenes import Scene, words
from subparticle_cases import fsc, manifest, read_mrc, read_star, reconstruct, soft_ball, write_mrc

from centralslice.cli import main
from centralslice.geometry.eulers import matrices_to_relion, relion_to_matrices
from centralslice_plugins.writers.star import StarWriter

#: A ring of seven above one of seven, a subunit 14.7 px off the axis.
RING = Scene(box=80, pixel=2.5, centre=(14.7, 0.0, 6.0), sym="d7", count=250, snr=0.3, sigmas=(0.8, 1.1))
NEW_BOX = 48


def shell(angst: float, box: int = NEW_BOX, pixel: float = 2.5) -> int:
    """The shell of a resolution."""
    return round(box * pixel / angst)


def changed(table: Path, name: str, **columns: np.ndarray) -> Path:
    """The same STAR file with other columns."""
    particles = read_star(table)
    tables = {"optics": particles.optics_columns, "particles": {**particles.columns, **columns}}
    StarWriter().write_tables(table.with_name(name), tables)
    return table.with_name(name)


def angles(rotations: np.ndarray) -> dict[str, np.ndarray]:
    return dict(
        zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), matrices_to_relion(rotations), strict=True)
    )


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sub-particles of the noisy ring: 250 parents × 14."""
    folder = tmp_path_factory.mktemp("ring")
    RING.write(folder)
    assert main(words(folder, folder / "sub.mrcs", "--sym", "d7", "--newbox", str(NEW_BOX))) == 0
    return folder / "sub.star"


def against_reference(table: Path, output: Path, *options: str) -> np.ndarray:
    """FSC of the map of a table with the kept density."""
    made = reconstruct(table, output, "--force", "--half-maps", "no", "--snr", "1", *options)
    return fsc(made, read_mrc(table.with_name("sub_reference.mrc")), 14)


def test_noisy_sub_particles_of_a_ring_reconstruct_the_kept_density(ring: Path, tmp_path: Path) -> None:
    assert len(read_star(ring).columns["rlnImageName"]) == 250 * 14
    curve = against_reference(ring, tmp_path / "map.mrc")
    assert curve[1 : shell(10) + 1].min() > 0.95


def test_neither_the_parents_orientation_nor_the_other_order_does(ring: Path, tmp_path: Path) -> None:
    columns = read_star(ring).columns
    parent = relion_to_matrices(*(columns[f"spr{name}Parent"] for name in ("Rot", "Tilt", "Psi")))
    own = relion_to_matrices(*(columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")))
    operator = np.swapaxes(parent, 1, 2) @ own
    good = against_reference(ring, tmp_path / "map.mrc")
    for name, poses in (("parent.star", parent), ("other.star", operator @ parent)):
        curve = against_reference(changed(ring, name, **angles(poses)), tmp_path / "wrong.mrc")
        assert curve[shell(10)] < 0.7 < good[shell(10)]


def test_noise_free_sub_particles_of_a_ring_are_right_to_7_angstrom(tmp_path: Path) -> None:
    scene = Scene(box=80, pixel=2.5, centre=(14.7, 0.0, 6.0), sym="d7", count=60)
    scene.write(tmp_path)
    assert main(words(tmp_path, tmp_path / "sub.mrcs", "--sym", "d7", "--newbox", str(NEW_BOX))) == 0
    curve = against_reference(tmp_path / "sub.star", tmp_path / "map.mrc")
    assert curve[1 : shell(7) + 1].min() > 0.99


def test_nothing_of_the_other_part_is_left_at_a_thirtieth_of_the_noise(tmp_path: Path) -> None:
    scene = Scene(sym="c3", count=200, snr=0.03)
    scene.write(tmp_path)
    options = ["--sym", "c1", "--center", "none", "--maskall", "none"]
    assert main(words(tmp_path, tmp_path / "sub.mrcs", *options)) == 0
    truth, keep = read_mrc(tmp_path / "truth.mrc"), read_mrc(tmp_path / "keep.mrc")
    only = keep == 0
    beta = {}
    for name in ("sub", "p"):
        made = reconstruct(
            tmp_path / f"{name}.star", tmp_path / "map.mrc", "--force", "--half-maps", "no", "--snr", "1"
        )
        beta[name] = np.sum(made[only] * truth[only]) / np.sum(truth[only] ** 2)
    assert abs(beta["sub"]) < 0.05 * beta["p"]
    assert beta["p"] > 0.5


def test_the_defocus_of_their_depth_brings_out_what_is_at_3_angstrom(tmp_path: Path) -> None:
    # two subunits 100 Å from the middle; every Gaussian has the defocus of its own height
    scene = Scene(
        box=192, pixel=1.2, centre=(83.0, 0.0, 8.0), sym="c2", count=80, snr=0.02, depth=True, gaussians=6,
        sigmas=(0.7, 0.9), defocus=(3000.0, 5000.0),
    )  # fmt: skip
    scene.write(tmp_path)
    output = tmp_path / "sub.mrcs"
    assert main(words(tmp_path, output, "--sym", "c2", "--newbox", "80", "--adjust-defocus")) == 0
    columns = read_star(tmp_path / "sub.star").columns
    delta = columns["sprDefocusDelta"]
    assert np.abs(delta).max() > 90
    at = shell(3, 80, 1.2)
    found = {}
    for name, factor in (("adjusted", 0), ("parents", 1), ("reversed", 2)):
        defocus = {label: columns[label] - factor * delta for label in ("rlnDefocusU", "rlnDefocusV")}
        table = changed(tmp_path / "sub.star", f"{name}.star", **defocus)
        found[name] = against_reference(table, tmp_path / "map.mrc")[at - 2 : at + 3].mean()
    assert found["adjusted"] > found["parents"] + 0.01, found
    assert found["parents"] > found["reversed"] + 0.05, found


def half_ring(folder: Path, scene: Scene) -> None:
    """Keep the upper seven of fourteen."""
    z = np.arange(scene.box) - scene.box // 2
    upper = 0.5 + 0.5 * np.cos(np.pi * np.clip((4.0 - z) / 6.0, 0, 1))
    write_mrc(folder / "keep.mrc", soft_ball(scene.box, (0, 0, 0), 18) * upper[:, None, None], scene.pixel)


def test_operators_that_keep_the_mask_are_one_sub_particle(tmp_path: Path) -> None:
    scene = Scene(sym="d7", centre=(13.0, 0.0, 6.0), count=4)
    scene.write(tmp_path)
    assert main(words(tmp_path, tmp_path / "one.mrcs", "--sym", "d7")) == 0
    overlaps = np.array(manifest(tmp_path / "one.mrcs")["operator_overlaps"])
    assert overlaps[0] == pytest.approx(1)
    assert overlaps[1:].max() < 0.9
    assert manifest(tmp_path / "one.mrcs")["sub_particles"] == 4 * 14
    half_ring(tmp_path, scene)
    assert main(words(tmp_path, tmp_path / "sub.mrcs", "--sym", "d7")) == 0
    facts = manifest(tmp_path / "sub.mrcs")
    overlaps = np.sort(facts["operator_overlaps"])
    assert overlaps[7:].min() > 0.9
    assert overlaps[:7].max() < 0.2
    assert facts["sub_particles"] == 4 * 2
    columns = read_star(tmp_path / "sub.star").columns
    assert columns["sprSymmetryIndex"].tolist() == [0, 7] * 4


def test_noise_correlates_only_if_copies_of_a_parent_are_split(tmp_path: Path) -> None:
    scene = Scene(sym="d7", centre=(13.0, 0.0, 6.0), count=200, defocus=None)
    scene.write(tmp_path)
    noise = np.random.default_rng(2).standard_normal((scene.count, scene.box, scene.box))
    write_mrc(tmp_path / "p.mrcs", noise, scene.pixel)
    half_ring(tmp_path, scene)
    options = ["--sym", "d7", "--cosets", "off"]
    assert main(words(tmp_path, tmp_path / "sub.mrcs", *options)) == 0
    lines = np.arange(14 * scene.count)
    tables = {
        "parents": tmp_path / "sub.star",
        "lines": changed(tmp_path / "sub.star", "lines.star", rlnRandomSubset=lines % 2 + 1),
    }
    curve = {}
    for name, table in tables.items():
        reconstruct(table, tmp_path / "map.mrc", "--sym", "c7", "--ctf", "none", "--force")
        halves = [read_mrc(tmp_path / f"map_half{half}.mrc") for half in (1, 2)]
        curve[name] = fsc(*halves)[3:24].mean()
    assert abs(curve["parents"]) < 0.15
    assert curve["lines"] > 0.8


def test_centres_are_where_the_residual_shifts_say(tmp_path: Path) -> None:
    scene = Scene(sym="d3", count=30, defocus=None)
    scene.write(tmp_path)
    options = ["--sym", "d3", "--scale-mode", "none", "--newbox", "24"]
    for name, extra in (("whole", []), ("part", ["--subpixel"])):
        output = tmp_path / f"{name}.mrcs"
        assert main(words(tmp_path, output, *options, *extra)) == 0
        images, columns = read_mrc(output), read_star(output.with_suffix(".star")).columns
        inside = columns["sprOutsideFraction"] < 0.05
        images = images[inside]
        axis, total = np.arange(24) - 12, images.sum(axis=(1, 2))
        centre = np.stack([(images.sum(axis=1) @ axis) / total, (images.sum(axis=2) @ axis) / total], axis=1)
        shift = (
            -np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], axis=1)[inside] / scene.pixel
        )
        assert inside.sum() > 20
        assert np.abs(shift).max() <= (0.5 if name == "whole" else 0)
        assert np.abs(centre - shift).max() <= 0.05


def test_each_half_sets_sub_particles_know_only_their_own_map(tmp_path: Path) -> None:
    scene = Scene(count=12)
    particles = scene.write(tmp_path)
    truth = read_mrc(tmp_path / "truth.mrc")
    noise = np.random.default_rng(1).standard_normal(truth.shape) * truth.std() * 0.3
    write_mrc(tmp_path / "other.mrc", truth + noise, scene.pixel)
    made = {}
    for name, maps in {
        "same": ("truth", "truth"),
        "first": ("other", "truth"),
        "second": ("truth", "other"),
    }.items():
        halves = [
            word for half in (1, 2) for word in (f"--half{half}", str(tmp_path / f"{maps[half - 1]}.mrc"))
        ]
        given = words(tmp_path, tmp_path / f"{name}.mrcs", "--sym", "d3", "--center", "mask", *halves)
        at = given.index("--map")
        assert main(given[:at] + given[at + 2 :]) == 0
        made[name] = read_mrc(tmp_path / f"{name}.mrcs").reshape(scene.count, 6, -1)
    for name, half in (("first", 1), ("second", 2)):
        own, other = particles.half_set == half, particles.half_set != half
        assert np.array_equal(made[name][other], made["same"][other])
        assert not np.array_equal(made[name][own], made["same"][own])
