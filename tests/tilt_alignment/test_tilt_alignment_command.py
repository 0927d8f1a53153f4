"""The command on a simulated project that was written out again as IMOD's and AreTomo's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice.abc.reader import TiltReadRequest
from centralslice.cli import main
from centralslice.data.tilt_series import TiltParticles
from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere
from centralslice.geometry.eulers import matrices_to_relion
from centralslice.geometry.tilt_geometry import angles_of_matrices
from centralslice_plugins.readers.relion_tomo import RelionTomoReader

SIMULATE = """--tomo --tomograms 1 --particles 24 --box 32 --apix 4 --tilt-range -60 60 --tilt-step 6 --x-tilt 1.5
    --tilt-axis 85 --tilt-jitter 0.3 --tilt-shift 12 --dose 3 --astigmatism 500 --phase-shift 20 --gaussians 20
    --snr 1000 --hand 1"""
#: Even and odd images and tomograms.
SIZES = {"even": ("160 150", "120 118 60"), "odd": ("161 151", "121 117 61")}


@dataclass(frozen=True)
class Project:
    """A project in RELION's form and what it holds, the same as files of IMOD, and RELION's map."""

    folder: Path
    particles: TiltParticles
    options: tuple[str, ...]
    expected: np.ndarray

    def alignment(self, name: str) -> tuple[str, ...]:
        """The options with another program's alignment."""
        if name == "imod":
            return (*self.options, *self.named("--alignment TS.xf --tilt-angles TS.tlt --x-tilt TS.xtilt"))
        return (*self.options, *self.named("--alignment TS.aln"))

    def named(self, words: str) -> list[str]:
        """Options whose files are in the project's folder."""
        return [str(self.folder / word) if word.startswith("TS.") else word for word in words.split()]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def read_map(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data, np.float64)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The least FSC up to Nyquist under a soft sphere."""
    return float(fourier_shell_correlation(a, b, 1.0, soft_sphere(len(a), len(a) / 3, 4)).values[1:16].min())


def shown_centre(particles: TiltParticles) -> np.ndarray:
    """(f, 2) where the centre of the tomogram as IMOD has it is in the images, from their centres."""
    (series,) = particles.series
    x, y, z = series.size
    centre = np.array([x // 2 - 0.5, (y - 1) / 2, z - z // 2 - 0.5, 1.0])
    return (series.projections @ centre)[:, :2] - (np.array(series.image_size) - 1) / 2


def write_out(particles: TiltParticles, files, folder: Path) -> None:
    """TS.xf, TS.tlt, TS.xtilt, TS.ctf.txt, TS.doses, TS.txt of the one series of a project."""
    (series,) = particles.series
    x_tilt, y_tilt, z_rot = angles_of_matrices(series.projections)
    matrices = files.rotations(-z_rot)
    files.xf(folder / "TS.xf", matrices, -np.einsum("fij,fj->fi", matrices, shown_centre(particles)))
    files.rows(folder / "TS.tlt", y_tilt, "%9.4f")
    files.rows(folder / "TS.xtilt", x_tilt, "%9.4f")
    ctf, number = series.ctf, np.arange(1, len(series) + 1)
    columns = (
        number, ctf.defocus_u_angst, ctf.defocus_v_angst, ctf.defocus_angle_deg, np.deg2rad(ctf.phase_shift_deg),
        number * 0 + 0.1, number * 0 + 8,
    )  # fmt: skip
    files.rows(folder / "TS.ctf.txt", np.stack(columns, 1))
    files.rows(folder / "TS.doses", series.dose)
    angles = np.stack(matrices_to_relion(particles.rotations), 1)
    files.rows(folder / "TS.txt", np.hstack([particles.positions, angles]))


@pytest.fixture(scope="module", params=list(SIZES))
def project(request, files, tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp(request.param)
    image, size = SIZES[request.param]
    made = folder / "project"
    words = (*SIMULATE.split(), "--image-size", *image.split(), "--tomogram-size", *size.split())
    assert run("simulate", *words, "--output", made) == 0
    source = made / "optimisation_set.star"
    assert run("tomo", "--i", source, "--b", 32, "--o", folder / "relion", "--threads", 1, "-v", 0) == 0
    particles = RelionTomoReader().read_tilt_particles(TiltReadRequest(source))
    write_out(particles, files, folder)
    stack = made / "tilt/TS_01.mrcs"
    options = [
        "--tilt-series",
        stack,
        "--defocus-file",
        folder / "TS.ctf.txt",
        "--doses",
        folder / "TS.doses",
    ]
    options += ["--coordinates", folder / "TS.txt", "--tomogram-size", *size.split()]
    others = "--apix 4 --kv 300 --cs 2.7 --ac 0.1 --hand 1 --b 32 --threads 1 -v 0"
    options += others.split()
    return Project(folder, particles, tuple(map(str, options)), read_map(folder / "relion/merged.mrc"))


def test_files_of_imod_give_the_map_of_the_project(project, tmp_path):
    assert run("tomo", *project.alignment("imod"), "--o", tmp_path / "map") == 0
    found = read_map(tmp_path / "map/merged.mrc")
    assert likeness(found, project.expected) > 0.999
    assert np.linalg.norm(found - project.expected) < 0.02 * np.linalg.norm(project.expected)


@pytest.mark.parametrize("flip", ["yz", "none"])
def test_coordinates_of_a_tomogram_that_lies_otherwise_give_the_same_map(project, files, tmp_path, flip):
    (series,) = project.particles.series
    positions, rotations = project.particles.positions, project.particles.rotations
    if flip == "yz":
        mirror = np.diag([1.0, 1, -1])
        positions = positions @ mirror + (0, 0, series.size[2] - 1)
        rotations = mirror @ rotations @ mirror
    else:
        turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        positions = positions @ turn.T + (0, series.size[2] - 1, 0)
        rotations = turn @ rotations
    angles = np.stack(matrices_to_relion(rotations), 1)
    binned = (positions + 0.5) / 2 + 0.5
    other = files.rows(tmp_path / "other.txt", np.hstack([binned, angles]))
    given = (*project.alignment("imod"), "--coordinates", other, "--imod-flip", flip)
    given = (*given, "--coordinate-binning", 2, "--first-pixel", 1, 1, 1)
    assert run("tomo", *given, "--o", tmp_path / "map") == 0
    found = read_map(tmp_path / "map/merged.mrc")
    assert likeness(found, project.expected) > 0.999


def test_relions_own_particles_give_half_maps(project, tmp_path):
    star = project.folder / "project/particles.star"
    given = (*project.alignment("imod"), "--coordinates", star)
    assert run("tomo", *given, "--o", tmp_path / "map") == 0
    for label in ("half1", "half2", "merged"):
        expected = read_map(project.folder / f"relion/{label}.mrc")
        assert likeness(read_map(tmp_path / f"map/{label}.mrc"), expected) > 0.999


def test_a_run_can_be_planned_and_names_all_its_files(project, tmp_path, capsys):
    assert run("tomo", *project.alignment("imod"), "--o", tmp_path / "map", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "24 particles in 1 tilt series" in shown
    assert "504 windows" in shown
    assert not (tmp_path / "map").exists()


def test_an_alignment_of_aretomo_gives_the_map_of_the_same_one_of_imod(project, tmp_path):
    (series,) = project.particles.series
    _, y_tilt, z_rot = angles_of_matrices(series.projections)
    shown = shown_centre(project.particles)
    nx, ny = series.image_size
    lines = ["# AreTomo Alignment / Priims bprmMn", f"# RawSize = {nx} {ny} {len(series)}"]
    for number, (turn, (x, y), tilt) in enumerate(zip(-z_rot, shown, y_tilt, strict=True)):
        lines.append(f"{number:5d} {turn:10.4f} 1.00000 {x:10.3f} {y:10.3f} 1 1 1 0 {tilt:8.2f}")
    (project.folder / "TS.aln").write_text("\n".join(lines) + "\n")
    assert run("tomo", *project.alignment("aretomo"), "--o", tmp_path / "aretomo") == 0
    # AreTomo has no X tilts
    words = (*project.options, *project.named("--alignment TS.xf --tilt-angles TS.tlt"))
    assert run("tomo", *words, "--o", tmp_path / "imod") == 0
    found, expected = (read_map(tmp_path / name / "merged.mrc") for name in ("aretomo", "imod"))
    assert likeness(found, expected) > 0.999


REFUSED = {
    "--i x.star": "--i x.star: not with --tilt-series",
    "--mot x.star": "--mot x.star: not with --tilt-series",
    "--ac 2": "--ac: expected 0 to 1",
    "--apix 0": "--apix: expected a number above 0",
    "--first-pixel 0 nan 0": "expected finite numbers",
    "--coordinate-binning -1": "--coordinate-binning: expected a number above 0",
    "--doses TS.tlt": "TS.tlt: row 1: expected e/Å² from 0",
    "--tomogram-size 50 118 60": "is outside the tomogram of 50 x 118 x 60",
    "--defocus-file TS.tlt": "expected CTFFIND's table",
    "--alignment TS.txt": "not a known format with tilt_particles",
}


@pytest.mark.parametrize("words", REFUSED)
def test_options_that_cannot_be_are_refused(project, tmp_path, capsys, words):
    given = (*project.alignment("imod"), *project.named(words), "--o", tmp_path / "map")
    assert run("tomo", *given) == 2
    assert REFUSED[words] in capsys.readouterr().err
    assert not (tmp_path / "map").exists()


def test_without_a_defocus_the_ctf_must_be_declined(project, tmp_path, capsys):
    words = list(project.alignment("imod"))
    place = words.index("--defocus-file")
    del words[place : place + 2]
    assert run("tomo", *words, "--o", tmp_path / "map") == 2
    assert "--defocus-file: CTF weighting needs" in capsys.readouterr().err
    assert run("tomo", *words, "--no-ctf", "--o", tmp_path / "map") == 0
    assert read_map(tmp_path / "map/merged.mrc").any()


def test_a_part_of_the_options_names_those_that_lack(project, tmp_path, capsys):
    assert run("tomo", *project.named("--alignment TS.xf --b 32"), "--o", tmp_path / "map") == 2
    assert "--alignment: needs also --tilt-series, --coordinates" in capsys.readouterr().err


def test_two_tilt_series_are_two_runs_that_merge(project, tmp_path):
    first, second = (project.folder / f"TS.part{i}.txt" for i in (1, 2))
    rows = (project.folder / "TS.txt").read_text().splitlines(keepends=True)
    first.write_text("".join(rows[:11]))
    second.write_text("".join(rows[11:]))
    stack = project.folder / "project/tilt/TS_01.mrcs"
    copy = tmp_path / "TS_02.mrcs"
    copy.symlink_to(stack)
    words = project.alignment("imod")
    one = ("--coordinates", first, "--o", tmp_path / "one", "--no-recon")
    two = ("--coordinates", second, "--o", tmp_path / "two", "--no-recon", "--tilt-series", copy)
    assert run("tomo", *words, *one) == 0
    assert run("tomo", *words, *two) == 0
    parts = [tmp_path / name for name in ("one", "two")]
    assert run("checkpoint", "merge", *parts, "--output", tmp_path / "sum") == 0
    assert run("checkpoint", "finish", tmp_path / "sum", "--output", tmp_path / "map.mrc") == 0
    # the finished map has no soft edge
    assert run("tomo", *words, "--o", tmp_path / "whole", "--taper", 0) == 0
    assert likeness(read_map(tmp_path / "map.mrc"), read_map(tmp_path / "whole/merged.mrc")) > 0.999


def test_the_other_options_work_on_it_too(project, tmp_path):
    words = (*project.alignment("imod"), "--o", tmp_path / "map", "--compat", "relion", "--whiten")
    assert run("tomo", *words, "--split", "random:1", "--tilt-range", -30, 30, "--sym", "C2") == 0
    assert (tmp_path / "map/half1.mrc").exists()
    assert "TS.xf" in (tmp_path / "map/manifest.json").read_text()
