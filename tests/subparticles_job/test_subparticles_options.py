"""Options of the subparticles command: each does what it says, or is refused in one line before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
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

from centralslice.cli import main
from centralslice.geometry.eulers import relion_to_matrices
from centralslice.geometry.rotations import rotation_from_vectors
from centralslice.jobs.simulate.particles import relion_tables
from centralslice_plugins.writers.star import StarWriter


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    return make_ring(tmp_path_factory.mktemp("ring"), count=40)


def run(ring: Ring, folder: Path, *options: str | Path) -> dict[str, np.ndarray]:
    """The columns of a run's STAR file."""
    assert main(ring.words(folder / "sub.mrcs", *options, "--force")) == 0
    return dict(read_star(folder / "sub.star").columns)


def poses(columns: dict[str, np.ndarray], ending: str = "") -> np.ndarray:
    if ending:
        return relion_to_matrices(*(columns[f"spr{name}{ending}"] for name in ("Rot", "Tilt", "Psi")))
    return relion_to_matrices(*(columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")))


@pytest.mark.parametrize(
    "options",
    [
        ["--subpixel"],
        ["--align-z", "--fill", "noise"],
        ["--sym-mode", "mask-only"],
        ["--scale-mode", "none"],
        ["--scale-mode", "particle", "--pad", "3"],
        ["--masked", "--fill", "zero"],
        ["--depth-slabs", "2", "--keep-dc"],
        ["--float16"],
        ["--center", "mask", "--randomize", "--seed", "3"],
        ["--center", "30,9,18A", "--stack-format", "mrcs"],
    ],
    ids=" ".join,
)
def test_every_way_of_extraction_reconstructs_the_kept_density(
    ring: Ring, tmp_path: Path, options: list[str]
) -> None:
    run(ring, tmp_path, *options)
    made = reconstruct(tmp_path / "sub.star", tmp_path / "map.mrc", "--half-maps", "no")
    assert fsc(made, read_mrc(tmp_path / "sub_reference.mrc"), 11)[1:18].min() > 0.97


def test_the_subtracted_part_may_be_given_instead_of_the_kept_one(ring: Ring, tmp_path: Path) -> None:
    run(ring, tmp_path)
    kept = read_mrc(tmp_path / "sub.mrcs")
    write_mrc(tmp_path / "away.mrc", 1 - ring.keep)
    words = ring.words(tmp_path / "sub.mrcs", "--subtractmask", tmp_path / "away.mrc", "--force")
    at = words.index("--subunitmask")
    assert main(words[:at] + words[at + 2 :]) == 0
    assert np.abs(read_mrc(tmp_path / "sub.mrcs") - kept).max() < 1e-3 * np.abs(kept).max()


def test_half_precision_images_are_those_of_single_precision_rounded(ring: Ring, tmp_path: Path) -> None:
    run(ring, tmp_path)
    single = read_mrc(tmp_path / "sub.mrcs")
    run(ring, tmp_path, "--float16")
    with mrcfile.open(tmp_path / "sub.mrcs") as file:
        assert file.data.dtype == np.float16
        assert np.array_equal(file.data, single.astype(np.float16))
        assert abs(float(file.header.rms) - single.std()) < 1e-3 * single.std()


def test_eman2_stacks_and_lists_go_back_into_make3d(ring: Ring, tmp_path: Path) -> None:
    assert main(ring.words(tmp_path / "sub.hdf", "--subpixel")) == 0
    assert sorted(path.name for path in tmp_path.glob("*.lst")) == ["sub.lst", "sub_even.lst", "sub_odd.lst"]
    made = reconstruct(tmp_path / "sub.lst", tmp_path / "map.mrc", "--half-maps", "no")
    assert fsc(made, read_mrc(tmp_path / "sub_reference.mrc"), 11)[1:18].min() > 0.97
    again = reconstruct(tmp_path / "sub.star", tmp_path / "again.mrc", "--half-maps", "no")
    assert fsc(made, again)[1:20].min() > 0.999
    halves = read_star(tmp_path / "sub.star").columns["rlnRandomSubset"]
    for name, half in (("even", 1), ("odd", 2)):
        lines = [line for line in (tmp_path / f"sub_{name}.lst").read_text().splitlines() if line[:1] != "#"]
        assert len(lines) == np.count_nonzero(halves == half)


def test_one_random_copy_or_all_in_random_order_depend_on_the_seed_only(ring: Ring, tmp_path: Path) -> None:
    one = [run(ring, tmp_path, "--relax-sym", "--seed", seed)["sprSymmetryIndex"] for seed in ("1", "1", "2")]
    assert len(one[0]) == ring.count
    assert np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], one[2])
    assert set(one[0].tolist()) == set(range(6))
    mixed = run(ring, tmp_path, "--randomize")["sprSymmetryIndex"].reshape(-1, 6)
    assert np.array_equal(np.sort(mixed, axis=1), np.tile(np.arange(6), (ring.count, 1)))
    assert not np.array_equal(mixed, np.sort(mixed, axis=1))


def test_views_are_filtered_by_the_direction_of_the_centre(ring: Ring, tmp_path: Path) -> None:
    everything = run(ring, tmp_path)
    centre = np.array(json.loads((tmp_path / "sub_frame.json").read_text())["centre_angst"])
    depth = poses(everything)[:, 2] @ centre / np.linalg.norm(centre)
    inclination = np.degrees(np.arccos(depth))
    side = run(ring, tmp_path, "--side", "30")
    assert len(side["rlnImageName"]) == np.count_nonzero(np.abs(inclination - 90) <= 30)
    top = run(ring, tmp_path, "--top", "40")
    assert len(top["rlnImageName"]) == np.count_nonzero(np.minimum(inclination, 180 - inclination) <= 40)
    near = run(ring, tmp_path, "--mindist", "40")
    place = (poses(everything) @ centre)[:, :2].reshape(-1, 6, 2)
    distance = np.linalg.norm(place[:, :, None] - place[:, None], axis=3) + 1e9 * np.eye(6)
    assert len(near["rlnImageName"]) == np.count_nonzero(distance.min(axis=2) >= 40)
    assert manifest(tmp_path / "sub.mrcs")["filtered"] == 6 * ring.count - len(near["rlnImageName"])


def test_images_do_not_change_when_others_are_filtered_out(ring: Ring, tmp_path: Path) -> None:
    everything = run(ring, tmp_path)
    images = read_mrc(tmp_path / "sub.mrcs")
    side = run(ring, tmp_path, "--side", "30")
    names = {name: row for row, name in enumerate(everything["rlnParticleName"].tolist())}
    rows = [names[name] for name in side["rlnParticleName"].tolist()]
    assert np.array_equal(read_mrc(tmp_path / "sub.mrcs"), images[rows])


def test_copies_on_an_axis_are_taken_once_with_unique(ring: Ring, tmp_path: Path) -> None:
    columns = run(ring, tmp_path, "--vectors", "0,0,30", "--unique", "5", "--no-subtract")
    assert len(columns["rlnImageName"]) == 2 * ring.count  # a D3's three-fold axis has two ends


def test_several_centres_each_have_their_sub_particles(ring: Ring, tmp_path: Path) -> None:
    columns = run(
        ring, tmp_path, "--vectors", "0,0,3;12,0,0", "--length", "24", "--no-subtract", "--sym", "c1"
    )
    assert np.array_equal(columns["sprSubunit"], np.tile([0, 1], ring.count))
    expected = -np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], 1)
    expected -= PIXEL * np.stack([columns["sprShiftX"], columns["sprShiftY"]], 1)
    parent = -np.stack([columns["sprOriginXAngstParent"], columns["sprOriginYAngstParent"]], 1)
    centres = np.array([[0, 0, 24.0], [24.0, 0, 0]])[columns["sprSubunit"]]
    placed = np.einsum("nij,nj->ni", poses(columns, "Parent"), centres)[:, :2] + parent
    assert np.abs(placed - expected).max() < 1e-9


def test_markers_drawn_in_chimera_are_centres(ring: Ring, tmp_path: Path) -> None:
    marks = "".join(f'<marker id="{n}" x="{x}" y="5" z="5"/>' for n, x in ((1, 5), (2, 25)))
    (tmp_path / "v.cmm").write_text(f'<marker_set name="v">{marks}</marker_set>')
    drawn = run(ring, tmp_path, "--vectors", tmp_path / "v.cmm", "--no-subtract")
    typed = run(ring, tmp_path, "--vectors", "20,0,0", "--no-subtract")
    assert np.array_equal(drawn["rlnOriginXAngst"], typed["rlnOriginXAngst"])


def test_expansion_gives_every_pose_of_the_symmetry_and_leaves_images_alone(
    ring: Ring, tmp_path: Path
) -> None:
    words = ["subparticles", "--particles", str(ring.table), "--map", str(ring.folder / "truth.mrc")]
    assert (
        main([*words, "--sym", "d3", "--expand-only", "--output", str(tmp_path / "all.star"), "-v", "0"]) == 0
    )
    columns, parents = read_star(tmp_path / "all.star").columns, read_star(ring.table).columns
    assert columns["rlnImageName"].tolist() == np.repeat(parents["rlnImageName"], 6).tolist()
    assert np.array_equal(columns["rlnOriginXAngst"], np.repeat(parents["rlnOriginXAngst"], 6))
    turned = np.swapaxes(poses(columns, "Parent"), 1, 2) @ poses(columns)
    angles = np.degrees(np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))).reshape(
        -1, 6
    )
    assert np.abs(np.sort(angles, axis=1) - [0, 120, 120, 180, 180, 180]).max() < 1e-5
    expanded = reconstruct(tmp_path / "all.star", tmp_path / "map.mrc", "--half-maps", "no")
    assert fsc(expanded, ring.truth)[1:18].min() > 0.9
    assert not list(tmp_path.glob("*.mrcs"))


def test_helical_expansion_is_relions(ring: Ring, tmp_path: Path) -> None:
    words = ["subparticles", "--particles", str(ring.table), "--map", str(ring.folder / "truth.mrc")]
    helix = ["--helix", "--twist", "20", "--rise", "4.5", "--asu", "4", "--expand-only"]
    assert main([*words, *helix, "--output", str(tmp_path / "all.star"), "-v", "0"]) == 0
    columns = read_star(tmp_path / "all.star").columns
    n = columns["sprSymmetryIndex"]
    assert n[:4].tolist() == [-1, 0, 1, 2]
    tilt, psi = np.radians(columns["sprTiltParent"]), np.radians(columns["sprPsiParent"])
    change = (columns["rlnAngleRot"] - columns["sprRotParent"] + 20 * n + 180) % 360 - 180
    assert np.abs(change).max() < 1e-9
    along = np.sin(tilt) * n * 4.5
    assert np.allclose(columns["rlnOriginXAngst"] - columns["sprOriginXAngstParent"], np.cos(psi) * along)
    assert np.allclose(columns["rlnOriginYAngst"] - columns["sprOriginYAngstParent"], -np.sin(psi) * along)


def test_poses_are_refined_towards_the_truth(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, count=24, snr=1.0)
    particles = read_star(ring.table)
    rng = np.random.default_rng(3)
    off = rotation_from_vectors(np.radians(rng.uniform(-2, 2, (24, 3)))) @ particles.rotations
    moved = particles.shifts_angst + rng.uniform(-0.8, 0.8, (24, 2)) * PIXEL
    tables = relion_tables(replace(particles, rotations=off, shifts_angst=moved))
    StarWriter().write_tables(tmp_path / "off.star", tables)
    words = ring.words(tmp_path / "sub.mrcs", "--localrefine", "3")
    words[words.index(str(ring.table))] = str(tmp_path / "off.star")
    assert main(words) == 0
    found = poses(dict(read_star(tmp_path / "sub.star").columns))[::6]

    def error(rotations: np.ndarray) -> float:
        turned = np.swapaxes(rotations, 1, 2) @ particles.rotations
        cosine = (np.trace(turned, axis1=1, axis2=2) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())

    assert error(found) < 0.5 * error(off)


def test_depth_changes_the_defocus_as_the_hand_says(ring: Ring, tmp_path: Path) -> None:
    words = [word for word in ring.words(tmp_path / "sub.mrcs", "--force") if word != "--no-adjust-defocus"]
    assert main(words) == 0
    columns = read_star(tmp_path / "sub.star").columns
    centre = np.array(json.loads((tmp_path / "sub_frame.json").read_text())["centre_angst"])
    delta = columns["rlnDefocusU"] - columns["sprDefocusUParent"]
    assert np.allclose(delta, -(poses(dict(columns))[:, 2] @ centre))
    assert np.allclose(delta, columns["sprDefocusDelta"])
    assert main([*words, "--defocus-hand", "-1"]) == 0
    assert np.allclose(read_star(tmp_path / "sub.star").columns["sprDefocusDelta"], -delta)
    assert main([*words, "--defocus-hand", "auto"]) == 2  # nothing finer than 6 Å in these images


def test_the_hand_is_found_from_the_images(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, pixel=1.5, count=40)
    words = [word for word in ring.words(tmp_path / "sub.mrcs") if word != "--no-adjust-defocus"]
    assert main([*words, "--defocus-hand", "auto"]) == 0
    found = manifest(tmp_path / "sub.mrcs")["defocus_hand"]
    assert found["chosen"] == 0.0, found  # the images were made without depth, so neither sign fits
    assert not read_star(tmp_path / "sub.star").columns["sprDefocusDelta"].any()


def test_sub_particles_outside_are_listed_dropped_or_kept(ring: Ring, tmp_path: Path) -> None:
    flagged = run(ring, tmp_path, "--center", "18,0,0")
    outside = flagged["sprOutside"] == 1
    assert 0 < outside.sum() < len(outside)
    assert np.array_equal(outside, flagged["sprOutsideFraction"] > 0.25)
    listed = manifest(tmp_path / "sub.mrcs")["outside"]["parent_and_candidate"]
    assert listed == np.stack([flagged["sprParentIndex"], flagged["sprSymmetryIndex"]], 1)[outside].tolist()
    dropped = run(ring, tmp_path, "--center", "18,0,0", "--edge", "drop")
    assert dropped["rlnParticleName"].tolist() == flagged["rlnParticleName"][~outside].tolist()


def test_a_box_larger_than_the_parents_is_padded_and_exact_zeros_stay(ring: Ring, tmp_path: Path) -> None:
    columns = run(ring, tmp_path, "--newbox", "64", "--fill", "zero", "--no-subtract")
    images = read_mrc(tmp_path / "sub.mrcs")
    assert images.shape[1:] == (64, 64)
    parents = read_mrc(ring.folder / "p.mrcs")
    for row in (0, 7, 100):
        dx, dy = int(columns["sprShiftX"][row]), int(columns["sprShiftY"][row])
        wide = np.zeros((BOX + 200, BOX + 200))
        at = 100 + 32 - BOX // 2
        wide[at + dy : at + dy + BOX, at + dx : at + dx + BOX] = parents[columns["sprParentIndex"][row]]
        assert np.abs(images[row] - wide[100:164, 100:164]).max() < 1e-4


def test_strips_show_particle_model_subtracted_part_and_rest(ring: Ring, tmp_path: Path) -> None:
    run(ring, tmp_path, "--debug-strips", "3", "--scale-mode", "none")
    strips = read_mrc(tmp_path / "sub_strips.mrcs")
    assert strips.shape == (3, BOX, 5 * BOX)
    particle, model, gone, left, _ = np.split(strips[1], 5, axis=1)
    assert np.abs(particle - read_mrc(ring.folder / "p.mrcs")[1]).max() < 1e-4
    assert np.abs(particle - gone - left).max() < 1e-3
    assert np.corrcoef(particle.ravel(), model.ravel())[0, 1] > 0.999


def test_statistics_only_are_signal_and_noise_of_the_rings(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, sym="c1", count=30, snr=0.5)
    words = [
        "subparticles",
        "--particles",
        str(ring.table),
        "--map",
        str(ring.folder / "truth.mrc"),
        "--ssnr",
    ]
    assert main([*words, "--output", str(tmp_path / "st.mrcs"), "-v", "0"]) == 0
    text = (tmp_path / "st_ssnr.star").read_text()
    rows = np.array([line.split() for line in text.splitlines() if line[:1].isdigit()], float)
    clean = tmp_path / "clean"
    clean.mkdir()
    make_ring(clean, sym="c1", count=30)
    signal, noisy = (np.fft.rfft2(read_mrc(folder / "p.mrcs")) / BOX**2 for folder in (clean, tmp_path))
    radius = np.hypot(np.fft.fftfreq(BOX, 1 / BOX)[:, None], np.arange(BOX // 2 + 1))
    for number in (2, 5, 10):
        at = np.floor(radius + 0.5) == number
        expected = np.mean(np.abs(signal[:, at]) ** 2) / np.mean(np.abs(noisy - signal)[:, at] ** 2)
        assert rows[number][3] == pytest.approx(expected, rel=0.02)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    ring: Ring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ring.words(tmp_path / "sub.mrcs", "--dry-run")) == 0
    told = capsys.readouterr().out
    for expected in ("d3, 6 sub-particles a parent", "240 sub-particles", "sub_manifest.json"):
        assert expected in told
    assert not list(tmp_path.iterdir())


REFUSED = {
    "both masks": (["--subtractmask", "m.mrc"], "exclude each other"),
    "outer mask alone": (["--outermask", "m.mrc"], "only with --masked"),
    "length alone": (["--length", "3"], "only with --vectors"),
    "two centres": (["--center", "none", "--recenter-on-mask"], "exclude each other"),
    "bad centre": (["--center", "1,2"], "expected x,y,z"),
    "bad box": (["--newbox", "2"], "--newbox"),
    "half a helix": (["--helix", "--twist", "3"], "needs --twist, --rise and --asu"),
    "expansion with a box": (["--expand-only", "--newbox", "32"], "not with --expand-only"),
    "peer with more than it can": (["--compat", "eman2", "--subpixel"], "not with --compat eman2"),
    "hand without depth": (["--defocus-hand", "auto"], "not with --no-adjust-defocus"),
    "no such symmetry": (["--sym", "q5"], "symmetry"),
    "bispectrum too small": (["--newbox", "32", "--invar", "bispec"], "34"),
    "subtraction without it": (["--no-subtract", "--scale-mode", "none"], "not with --no-subtract"),
    "expansion with a fill": (["--expand-only", "--fill", "zero"], "not with --expand-only"),
    "statistics of copies": (["--ssnr"], "not with --ssnr"),
    "folder that is none": (["--optimiser", "x.star"], "expected one of"),
    "no particle said unused": (["--only-used"], "--only-used"),
    "missing map": (["--map", "none.mrc"], "none.mrc"),
    "missing mask": (["--subunitmask", "none.mrc"], "none.mrc"),
    "two inputs": (["refine_01"], "refinement folder and --particles"),
}


@pytest.mark.parametrize(("options", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_any_work(
    ring: Ring, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert main(ring.words(tmp_path / "sub.mrcs", *options)) == 2
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def broken_stack(ring: Ring, folder: Path) -> list[str]:
    (ring.folder / "p.mrcs").unlink()
    return ring.words(folder / "sub.mrcs")


def short_stack(ring: Ring, folder: Path) -> list[str]:
    write_mrc(ring.folder / "p.mrcs", np.zeros((3, BOX, BOX)))
    return ring.words(folder / "sub.mrcs")


def nan_image(ring: Ring, folder: Path) -> list[str]:
    with (ring.folder / "p.mrcs").open("r+b") as file:
        file.seek(1024 + 5 * 4 * BOX * BOX)
        file.write(np.float32(np.nan).tobytes())
    return ring.words(folder / "sub.mrcs")


def other_box(ring: Ring, folder: Path) -> list[str]:
    write_mrc(ring.folder / "truth.mrc", np.ones((32, 32, 32)))
    return ring.words(folder / "sub.mrcs")


def empty_mask(ring: Ring, folder: Path) -> list[str]:
    write_mrc(ring.folder / "keep.mrc", np.ones((BOX, BOX, BOX)))
    return ring.words(folder / "sub.mrcs")


def halves_apart(ring: Ring, folder: Path) -> list[str]:
    write_mrc(ring.folder / "other.mrc", ring.truth[::-1])
    return ring.words(folder / "sub.mrcs", maps=("--half1", "truth.mrc", "--half2", "other.mrc"))


@pytest.mark.parametrize("spoil", [broken_stack, short_stack, nan_image, other_box, empty_mask, halves_apart])
def test_bad_files_end_the_run_with_one_line_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object
) -> None:
    ring = make_ring(tmp_path, count=8)
    (tmp_path / "out").mkdir()
    words = spoil(ring, tmp_path / "out")  # type: ignore[operator]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_outputs_are_not_replaced_unasked(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "sub.star").write_text("mine")
    assert main(ring.words(tmp_path / "sub.mrcs")) == 2
    assert (tmp_path / "sub.star").read_text() == "mine"


def test_a_map_without_the_symmetry_has_only_its_mask_turned(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, sym="c1", count=30)
    extra = ring.truth + 3 * ring.truth.max() * soft_ball(BOX, (-10, -3, 6), 2)
    write_mrc(tmp_path / "truth.mrc", extra)
    columns = run(ring, tmp_path, "--sym", "c2")
    assert len(columns["rlnImageName"]) == 2 * ring.count
    assert "mask-only" in " ".join(manifest(tmp_path / "sub.mrcs")["notes"])
