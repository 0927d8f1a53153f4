"""Sub-particles beside RELION's own programs, where they are installed: the same images, shifts and statistics."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from parent_scenes import RelionJob, Scene, relion, write_table
from subparticle_cases import fsc, read_mrc, read_star

from centralslice.cli import main

SUBTRACT, RECONSTRUCT = "relion_particle_subtract", "relion_reconstruct"


def installed(program: str) -> str:
    """The program, or a visible skip."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on the PATH")
    return program


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RelionJob:
    """A refinement with norms and scales, its particles noisy."""
    folder = tmp_path_factory.mktemp("job")
    scene = Scene(sym="d3", count=40, snr=0.1)
    particles = scene.write(folder)
    number = np.arange(scene.count)
    write_table(
        particles, rlnClassNumber=number * 0 + 1, rlnGroupNumber=number // 20 + 1,
        rlnNormCorrection=np.linspace(0.8, 1.2, scene.count), rlnMicrographName=[f"m{one // 20}.mrc" for one in number],
        rlnCoordinateX=500.0 + number, rlnCoordinateY=400.0 - number,
    )  # fmt: skip
    return RelionJob(folder, scene, norm=0.9, scales=(1.1, 0.95))


def ours(job: RelionJob, output: Path, *options: str | Path) -> None:
    """Ours from the same optimiser, each option as RELION does it."""
    words = ["--optimiser", job.write(), "--subunitmask", job.folder / "keep.mrc", "--output", output]
    like = [
        "--scale-mode",
        "none",
        "--fill",
        "wrap",
        "--keep-all",
        "--no-adjust-defocus",
        "--recenter-on-mask",
    ]
    rest = ["--sym", "c1", "--threads", "1", "-v", "0", *options]
    assert main(["subparticles", *map(str, [*words, *like, *rest])]) == 0


def test_images_and_shifts_are_those_of_relion_particle_subtract(job: RelionJob, tmp_path: Path) -> None:
    # RELION reads its padded map linearly, an error that falls as 1/padding²; ours is what it tends to
    program = installed(SUBTRACT)
    ours(job, tmp_path / "sub.mrcs", "--newbox", "40")
    made, columns = read_mrc(tmp_path / "sub.mrcs"), read_star(tmp_path / "sub.star").columns
    median = {}
    for padding in (2, 8):
        output = tmp_path / str(padding)
        optimiser = replace(job, padding=padding).write()
        words = ["--i", optimiser, "--mask", job.folder / "keep.mrc", "--o", f"{output}/"]
        relion(program, *words, "--recenter_on_mask", "--new_box", "40")
        theirs = read_mrc(output / "Particles/subtracted_opticsgroup1.mrcs")
        assert made.shape == theirs.shape
        distance = np.linalg.norm(made - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))
        median[padding] = np.median(distance)
    assert median[8] < 5e-4
    assert distance.max() < 1e-3
    assert median[2] > 10 * median[8]
    their = read_star(output / "particles_subtracted.star").columns
    for label in ("rlnOriginXAngst", "rlnOriginYAngst"):
        assert np.abs(columns[label] - their[label]).max() < 1e-4
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
        assert np.abs((columns[label] - their[label] + 180) % 360 - 180).max() < 1e-4
    assert columns["rlnImageOriginalName"].tolist() == their["rlnImageOriginalName"].tolist()
    # RELION keeps the coordinates of the parent; ours are those of the new box
    assert np.array_equal(columns["rlnCoordinateX"], their["rlnCoordinateX"] - columns["sprShiftX"])


def test_signal_to_noise_is_that_of_relion_particle_subtract(job: RelionJob, tmp_path: Path) -> None:
    program = installed(SUBTRACT)
    optimiser = replace(job, padding=8).write()
    relion(program, "--i", optimiser, "--o", f"{tmp_path}/", "--ssnr")
    words = ["subparticles", "--optimiser", str(optimiser), "--ssnr", "--output", str(tmp_path / "st.mrcs")]
    assert main([*words, "-v", "0"]) == 0

    def rows(path: Path) -> np.ndarray:
        lines = [line.split() for line in path.read_text().splitlines()]
        return np.array([line for line in lines if len(line) == 6 and line[0].isdigit()], float)

    made, theirs = rows(tmp_path / "st_ssnr.star"), rows(tmp_path / "spectral_snr.star")
    few = slice(1, len(theirs) - 2)
    assert np.array_equal(made[few, 0], theirs[few, 0])
    strong = few if theirs[few, 3].min() > 0 else slice(1, 12)
    assert np.abs(made[strong, 3] / theirs[strong, 3] - 1).max() < 1e-3


def test_relion_particle_subtract_takes_our_tables_as_its_own(job: RelionJob, tmp_path: Path) -> None:
    # sub-particles as the particles of another subtraction: RELION reads and carries our columns
    program = installed(SUBTRACT)
    ours(job, tmp_path / "sub.mrcs")
    relion(
        program, "--i", job.write(), "--mask", job.folder / "keep.mrc", "--data", tmp_path / "sub.star",
        "--o", f"{tmp_path}/again/",
    )  # fmt: skip
    again = read_star(tmp_path / "again/particles_subtracted.star").columns
    assert len(again["rlnImageName"]) == job.scene.count
    assert np.array_equal(again["sprParentIndex"], np.arange(job.scene.count))


def test_relion_reconstructs_the_kept_density(tmp_path: Path) -> None:
    program = installed(RECONSTRUCT)
    scene = Scene(box=64, pixel=2.5, centre=(14.0, 0.0, 6.0), sym="d7", count=60)
    scene.write(tmp_path)
    words = ["--particles", "p.star", "--map", "truth.mrc", "--subunitmask", "keep.mrc", "--sym", "d7"]
    words = [str(tmp_path / word) if "." in word else word for word in words]
    output = tmp_path / "sub.mrcs"
    rest = ["--no-adjust-defocus", "--newbox", "40", "--threads", "1", "-v", "0", "--output", str(output)]
    assert main(["subparticles", *words, *rest]) == 0
    relion(program, "--i", tmp_path / "sub.star", "--o", tmp_path / "map.mrc", "--ctf", "--pad", "2")
    curve = fsc(read_mrc(tmp_path / "map.mrc"), read_mrc(tmp_path / "sub_reference.mrc"), 12)
    assert curve[1 : round(40 * 2.5 / 7) + 1].min() > 0.99
