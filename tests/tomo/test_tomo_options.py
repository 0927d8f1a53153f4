"""Every option of tomo does what its help says, or is refused with one line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from centralslice.abc.writer import VolumeOptions
from centralslice.cli import main, parser_for
from centralslice.data.volume import Volume
from centralslice.fourier.shells import soft_sphere
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.jobs.tomo.taper import taper
from centralslice_plugins.writers.mrc import MrcWriter

B = ("--b", "32")
PARTICLES = "particles.star"
#: Options that have their tests elsewhere, by the module or fixture that has them.
ELSEWHERE = {
    "test_tomo_reference": "--i --p --t --compat --SNR --nr-helical-asu --helical-rise --helical-twist",
    "test_tomo_accuracy": "--bin --mot --sym --mode --precision",
    "test_tomo_defects": "--whiten --no-circle-crop --no-ctf --j --j-in --j-out --mem",
    "test_tomo_runs": "--parallel --sums --quanta-of --checkpoint-every --resume --keep-checkpoints --master-works "
    "--no-master-works --only-do-unfinished --no-recon",
    "test_tomo_imod": "--tilt-series --alignment --coordinates --tomogram-size --apix --tilt-angles --x-tilt "
    "--tilt-com --defocus-file --kv --cs --ac --hand --doses --dose-per-tilt --tilt-order "
    "--coordinate-binning --first-pixel --imod-flip",
    "test_cli": "--help --debug",
}


def test_every_option_of_the_help_is_in_a_test():
    here = set(Path(__file__).read_text().replace('"', " ").replace("'", " ").split())
    elsewhere = set(" ".join(ELSEWHERE.values()).split())
    actions = parser_for(("tomo",))._actions
    (commands,) = (action for action in actions if isinstance(action, argparse._SubParsersAction))
    for action in commands.choices["tomo"]._actions:
        known = any(name in here | elsewhere for name in action.option_strings)
        assert known, action.option_strings


@pytest.fixture
def counts(star):
    """Windows of each tomogram, from the run's table."""

    def read(run):
        (rows,) = star(run.folder / "tomograms.star").values()
        return np.array(rows["centralsliceWindows"], int)

    return read


# --- which tilts and particles -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tilts"),
    [
        (("--tilt-range", -30, 30), 5), (("--tilt_range", -24.5, 0.5), 3), (("--max-dose", 12), 5),
        (("--max_dose", 11.9), 4), (("--first-tilts", 3), 3), (("--first-tilts", 99), 11), ((), 11),
        (("--first-tilts", 3, "--tilt-range", -1, 90), 2),
    ],
)  # fmt: skip
def test_tilts_are_chosen_by_angle_dose_and_order(noisy, tomo, counts, options, tilts):
    made = tomo(noisy, *B, *options)
    # all particles are far from the border, and no tilt counts twice
    assert counts(made).tolist() == [12 * tilts] * 2
    assert made.manifest["windows"]["used"] == 24 * tilts
    dropped = sum(made.manifest["windows"]["dropped"].values())
    assert dropped == 24 * (11 - tilts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tilt-range", 10, -10), "--tilt-range"), (("--max-dose", -1), "--max-dose"),
        (("--first-tilts", 0), "--first-tilts"), (("--tilt-range", 80, 85), "outside --tilt-range"),
        (("--crop", 40), "--crop"), (("--crop", 2), "--crop"), (("--b", 2), "--b"), (("--bin", 0.5), "--bin"),
        (("--bin", "nan"), "--bin"), (("--taper", -1), "--taper"), (("--maxres", 0), "--maxres"),
        (("--mem", -1), "--mem"), (("--nr-helical-asu", 0), "--nr-helical-asu"),
        (("--fsc", "/nowhere.mrc"), "/nowhere.mrc"), (("--mode", "nonsense"), "nonsense"),
        (("--mode", "relion_tomo"), "--compat relion"), (("--pipeline-control", "/nowhere"), "--pipeline-control"),
        (("--subset", 1, "--split", "parity"), "--split"), (("--checkpoint-every", "soon"), "--checkpoint-every"),
        (("--no-backup", "--only-do-unfinished"), "--no-backup"), (("--resume",), "--resume"),
        (("--cutoff-fract", 2), "--cutoff-fract"), (("--SNR", "nan"), "--SNR"), (("--cutoff-fract", "nan"), "--cutoff"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_values_that_cannot_be_are_refused_before_any_work(noisy, refused, options, said):
    assert said in refused(noisy, *(() if "--b" in options else B), *options)


def test_without_a_box_or_an_input_the_option_is_named(noisy, refused):
    assert "--b" in refused(noisy)
    assert "--i" in refused(None, *B)


def test_hidden_tilts_are_left_out_unless_they_are_to_be_used(simulate, tomo, likeness, counts):
    project = simulate(hidden=10)
    size = ("--b", "48", "--taper", "0")
    used, ignored = (tomo(project, *size, *more) for more in ((), ("--visible-frames", "ignore")))
    assert (counts(used) == 20).all()
    assert (counts(ignored) == 30).all()
    assert likeness(used.map(), project.truth) > 0.98
    assert likeness(ignored.map(), project.truth) < 0.9
    # the peer knows no such column
    compat = tomo(project, *size, "--compat", "relion")
    assert (counts(compat) == 30).all()
    assert (counts(tomo(project, *size, "--compat", "relion", "--visible_frames", "use")) == 20).all()


def test_a_subset_is_one_half_and_only_the_merged_map(noisy, tomo):
    whole, first = tomo(noisy, *B), tomo(noisy, *B, "--subset", 1)
    assert not (first.folder / "half1.mrc").exists()
    assert not (first.folder / "fsc.star").exists()
    np.testing.assert_allclose(first.map(), whole.map("half1"), atol=1e-5 * np.abs(first.map()).max())


def without_halves(tables):
    del tables[PARTICLES]["particles"]["rlnRandomSubset"]


def test_half_sets_are_made_where_there_are_none(noisy, altered, tomo):
    project = altered(noisy, without_halves)
    none, split, parity = (
        tomo(project, *B, *how) for how in ((), ("--split", "random:1"), ("--split", "parity"))
    )
    assert not (none.folder / "half1.mrc").exists()
    assert any("no half sets" in note for note in none.manifest["notes"])
    for made in (split, parity):
        assert made.fsc["fsc"]["rlnFourierShellCorrelationUnmaskedMaps"]
        # the sum is of the same particles
        assert np.linalg.norm(made.map() - none.map()) < 1e-4 * np.linalg.norm(none.map())
    assert np.linalg.norm(split.map("half1") - parity.map("half1")) > 0.1 * np.linalg.norm(none.map())


# --- method --------------------------------------------------------------------------------------------------


def test_the_cutoff_leaves_out_frequencies_of_little_dose_weight(noisy, tomo):
    weights = {
        cutoff: tomo(noisy, *B, "--cutoff-fract", cutoff).map("weight_merged") for cutoff in (0, 0.5, 0.9)
    }
    middle, edge = (16, 16, slice(17, 20)), (16, 16, 31)
    assert weights[0].sum() > weights[0.5].sum() > weights[0.9].sum() > 0
    np.testing.assert_allclose(weights[0.5][middle], weights[0][middle], rtol=0.02)
    assert weights[0.9][edge] < 0.5 * weights[0][edge]


def test_nothing_is_in_the_map_beyond_the_resolution_wanted(noisy, tomo):
    made = tomo(noisy, *B, "--maxres", 16, "--taper", 0).map()
    power = np.abs(np.fft.fftshift(np.fft.fftn(made))) ** 2
    axis = np.arange(32) - 16
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    # 16 Å are 8 voxels of the transform; the kernel and its correction spread a little
    assert power[radius > 10].sum() < 3e-3 * power.sum()
    assert power[(radius > 6) & (radius < 8)].sum() > 1e-2 * power.sum()


def test_crop_and_taper_make_the_map_of_the_full_one(noisy, tomo):
    made = tomo(noisy, "--b", 40, "--crop", 32, "--taper", 6)
    full = made.map("merged_full")
    assert full.shape == (40,) * 3
    np.testing.assert_allclose(made.map(), taper(full[4:36, 4:36, 4:36], 6.0), atol=1e-5 * np.abs(full).max())
    bare = tomo(noisy, "--b", 40, "--crop", 32, "--taper", 0)
    np.testing.assert_array_equal(bare.map(), full[4:36, 4:36, 4:36])
    default = tomo(noisy, "--b", 40, "--crop", 32)
    np.testing.assert_allclose(
        default.map(), taper(full[4:36, 4:36, 4:36], 10.0), atol=1e-5 * np.abs(full).max()
    )


def test_a_crop_of_the_whole_box_or_none_writes_no_full_maps(noisy, tomo):
    for crop in (-1, 0, 32):
        assert "merged_full.mrc" not in tomo(noisy, *B, "--crop", crop).left()


# --- the files ------------------------------------------------------------------------------------------------


def test_the_files_are_named_as_the_peer_names_them_and_nothing_else_is_left(noisy, tomo):
    labels = ("half1", "half2", "merged")
    maps = {f"{kind}{label}.mrc" for kind in ("", "data_", "weight_") for label in labels}
    told = {"fsc.star", "fsc.png", "tomograms.star", "manifest.json", "note.txt"}
    made = tomo(noisy, *B)
    assert set(made.left()) == maps | told
    cropped = tomo(noisy, *B, "--crop", 24)
    assert set(cropped.left()) == maps | told | {f"{label}_full.mrc" for label in labels}
    assert sorted(path.name for path in made.folder.parent.iterdir() if path.name.startswith(".")) == []


def test_the_note_has_the_command(noisy, tomo):
    made = tomo(noisy, *B, "--sym", "C1")
    note = (made.folder / "note.txt").read_text()
    assert f"centralslice tomo --i {noisy.set} --b 32 --sym C1 --o {made.folder}" in note
    assert made.manifest["command"] in note


def test_the_table_of_tomograms_counts_particles_and_windows(noisy, altered, tomo, star):
    def fewer(tables):
        rows = tables[PARTICLES]["particles"]
        for label, values in rows.items():
            rows[label] = values[:17]

    project = altered(noisy, fewer)
    made = tomo(project, *B)
    (rows,) = star(made.folder / "tomograms.star").values()
    particles = project.tables[PARTICLES]["particles"]
    for place, name in enumerate(rows["rlnTomoName"]):
        own = [row for row, tomogram in enumerate(particles["rlnTomoName"]) if tomogram == name]
        assert int(rows["centralsliceParticles"][place]) == len(own)
        assert int(rows["rlnTomoFrameCount"][place]) == 11
        for half in "12":
            count = sum(particles["rlnRandomSubset"][row] == half for row in own)
            assert int(rows[f"centralsliceWindowsHalf{half}"][place]) == 11 * count
    assert sum(map(int, rows["centralsliceWindows"])) == 17 * 11 == made.manifest["windows"]["used"]


def test_the_curves_are_in_the_table_of_the_fsc(noisy, tomo):
    made = tomo(noisy, *B)
    table = made.fsc["fsc"]
    assert len(table["rlnResolution"]) == 17
    assert float(table["rlnResolution"][16]) == pytest.approx(1 / 8, rel=1e-6)
    assert "mask" not in table
    sphere = made.manifest["resolution_angst"]["sphere"]
    assert f"resolution {sphere['0.143']:.2f} Å" in made.out


def write_mask(path, mask):
    MrcWriter().write_volume(path, Volume(mask.astype(np.float32), 4.0), VolumeOptions())
    return path


def test_a_masks_own_correlation_is_taken_off(simulate, tomo, tmp_path):
    # one blob without detail and much noise: a hard mask alone makes its high frequencies agree
    blob = GaussianPhantom(np.zeros((1, 3)), np.array([20.0]), np.array([1.0]))
    project = simulate(
        phantom=blob, tomograms=10, random_directions=20, box_size=32, snr=0.3, half_sets=False,
        defocus_range_angst=None, amplitude_contrast=1.0, spherical_aberration_mm=0.0,
    )  # fmt: skip
    mask = write_mask(tmp_path / "mask.mrc", soft_sphere(32, 7, 0))
    made = tomo(project, *B, "--fsc", mask, "--split", "parity")
    table = {name: np.array(values, float) for name, values in made.fsc["fsc"].items()}
    assert {"mask", "randomised", "corrected"} <= set(table)
    # without detail from here on
    high = slice(5, 10)
    assert abs(table["rlnFourierShellCorrelationUnmaskedMaps"][high].mean()) < 0.1
    assert table["mask"][high].mean() > 0.4
    assert table["randomised"][high].mean() > 0.4
    assert table["corrected"][high].mean() < 0.1
    # where the phases are kept the corrected curve is the masked one
    np.testing.assert_array_equal(table["corrected"][:4], table["mask"][:4])
    assert "corrected" in made.out


def test_a_mask_of_another_size_is_refused(noisy, attempt, tmp_path):
    mask = write_mask(tmp_path / "mask.mrc", soft_sphere(24, 7, 2))
    made = attempt(noisy, *B, "--fsc", mask)
    assert made.code == 2
    assert "24×24×24" in made.err
    assert "32×32×32" in made.err
    assert len(made.err.splitlines()) == 1
    assert made.left() == []


def test_half_precision_maps_are_mode_12_and_close(noisy, tomo):
    half, full = tomo(noisy, *B, "--float16"), tomo(noisy, *B)
    import mrcfile

    with mrcfile.open(half.folder / "merged.mrc") as file:
        assert file.header.mode == 12
    assert np.abs(half.map() - full.map()).max() < 2e-3 * np.abs(full.map()).max()


def test_an_existing_folder_is_refused_unless_forced(noisy, attempt, tomo):
    first = tomo(noisy, *B)
    before = (first.folder / "merged.mrc").read_bytes()
    again = attempt(noisy, *B, "--sym", "C2", output=first.folder)
    assert again.code == 2
    assert "--force" in again.err
    assert (first.folder / "merged.mrc").read_bytes() == before
    forced = tomo(noisy, *B, "--sym", "C2", "--force", output=first.folder)
    assert (forced.folder / "merged.mrc").read_bytes() != before


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(noisy, tomo):
    made = tomo(noisy, *B, "--dry-run", "--max-dose", 12)
    assert made.left() == []
    assert not made.folder.exists()
    assert "24 particles in 2 tilt series" in made.out
    assert "120 windows used" in made.out
    assert "144 above --max-dose" in made.out
    assert "memory" in made.out
    assert str(made.folder / "merged.mrc") in made.out


def test_verbosity(noisy, tomo):
    silent, plain, loud = (tomo(noisy, *B, *word) for word in (("-v", "0"), (), ("--verbose",)))
    assert silent.out == ""
    assert "resolution" in plain.out
    assert "symmetry   c1" not in plain.out
    assert "symmetry   c1" in loud.out


def test_progress_as_json_lines(noisy, tomo):
    import json

    made = tomo(noisy, *B, "--log-json")
    assert all(json.loads(line) for line in made.err.splitlines() if line.startswith("{"))
    assert any(line.startswith("{") for line in made.err.splitlines())


def test_version(capsys):
    assert main(["tomo", "--version"]) == 0
    assert capsys.readouterr().out.startswith("centralslice ")


def test_threads_are_taken_from_any_of_its_names(noisy, tomo, refused):
    for words in (("--threads", 1), ("--j", 1), ("--j-out", 1, "--j-in", 1)):
        assert tomo(noisy, *B, *words, "--dry-run").out.count("threads    1\n") == 1
    assert "threads    6\n" in tomo(noisy, *B, "--j_out", 3, "--j_in", 2, "--dry-run").out
    assert "threads    2\n" in tomo(noisy, *B, "--j", 2, "--j_out", 3, "--j_in", 2, "--dry-run").out
    assert "--j" in refused(noisy, *B, "--j", 2, "--threads", 3)


def test_a_theme_is_accepted_and_changes_no_file(noisy, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "centralslice.cli", "tomo", "--i", str(noisy.set), *B, "--theme", "dark"]
    done = subprocess.run(
        [*command, "--o", str(tmp_path / "map"), "--dry-run"], capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # compiled kernels may be kept
    assert [path.name for path in home.iterdir() if path.name != ".cache"] == []


def test_the_pipeline_learns_how_the_job_ended(noisy, attempt, tomo, tmp_path):
    place = tmp_path / "job"
    place.mkdir()
    made = tomo(noisy, *B, "--pipeline-control", place)
    assert [path.name for path in place.iterdir()] == ["RELION_JOB_EXIT_SUCCESS"]
    assert "note.txt" not in made.left()
    failed = attempt(noisy, *B, "--sym", "X9", "--pipeline_control", f"{place}/")
    assert failed.code == 2
    assert [path.name for path in place.iterdir()] == ["RELION_JOB_EXIT_FAILURE"]


def test_a_report_is_a_page_beside_the_maps(noisy, tomo):
    made = tomo(noisy, *B, "--report")
    assert any(name.endswith(".html") for name in made.left())


def test_no_backup_leaves_no_checkpoints_and_the_same_map(noisy, tomo):
    plain, bare = tomo(noisy, *B), tomo(noisy, *B, "--no-backup")
    np.testing.assert_array_equal(bare.map(), plain.map())
