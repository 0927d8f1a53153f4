"""Whole runs from every kind of refinement and of optics, straight on into make3d: the kept density, in its halves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from parent_scenes import RelionJob, Scene, group, words, write_table
from subparticle_cases import fsc, manifest, read_mrc, read_star, reconstruct, write_mrc

from centralslice.abc.writer import VolumeOptions
from centralslice.cli import main
from centralslice.data.images import StackPlan
from centralslice.data.particles import OpticsGroup, Particles
from centralslice.data.volume import Volume
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter

#: Shells to about 8 Å of 48 pixels of 3 Å.
FINE = 18


def kept(table: Path, output: Path, *options: str) -> float:
    """The least correlation of the map of a table with the kept density."""
    made = reconstruct(table, output, "--force", *options)
    return float(fsc(made, read_mrc(table.with_name("sub_reference.mrc")), 11)[1:FINE].min())


def r3d_folder(folder: Path, scene: Scene) -> Particles:
    """The scene as e2spa_refine leaves it."""
    particles = scene.write(folder)
    images, truth = read_mrc(folder / "p.mrcs"), read_mrc(folder / "truth.mrc")
    root = folder / "r3d_02"
    root.mkdir()
    ctf = particles.ctf
    assert ctf is not None
    with Eman2HdfWriter().create_stack(
        folder / "p.hdf", StackPlan(scene.count, (scene.box,) * 2, scene.pixel)
    ) as sink:
        sink.write(0, images.astype(np.float32))
        for row in range(scene.count):
            u, v = ctf.defocus_u_angst[row], ctf.defocus_v_angst[row]
            angle = ctf.defocus_angle_deg[row]
            sink.write_attributes(
                row,
                {"ctf": Eman2Ctf((u + v) / 2e4, (u - v) / 1e4, angle, 0.0, 10.0, 300.0, 2.7, scene.pixel)},
            )
    volume = Volume(truth.astype(np.float32), scene.pixel)
    for name in ("threed_03", "threed_03_even", "threed_03_odd"):
        Eman2HdfWriter().write_volume(root / f"{name}.hdf", volume, VolumeOptions(bits=-1))
    everything = Volume(np.ones_like(truth, np.float32), scene.pixel)
    Eman2HdfWriter().write_volume(root / "mask.hdf", everything, VolumeOptions(bits=-1))
    records = []
    for row in range(scene.count):
        shift = [*(particles.shifts_angst[row] / scene.pixel), 0.0]
        matrix = np.column_stack([particles.rotations[row], shift]).ravel()
        text = "[" + ",".join(f"{value:.9g}" for value in matrix) + "]"
        values = {
            "xform.projection": {"__class__": "Transform", "matrix": text}, "score": -0.1,
            "class": int(particles.half_set[row]) - 1,
        }  # fmt: skip
        records.append(f"{row}\t{folder / 'p.hdf'}\t{json.dumps(values)}")
    length = max(map(len, records)) + 5
    lines = ["#LSX", "# list", f"# {length}", *(record.ljust(length - 1) for record in records)]
    (root / "ptcls_03.lst").write_text("\n".join(lines) + "\n")
    (root / "0_spa_params.json").write_text(
        json.dumps({"ptcl": "sets/all.lst", "sym": scene.sym, "niter": 3})
    )
    return particles


def test_an_r3d_folder_gives_the_kept_density_and_its_half_sets(tmp_path: Path) -> None:
    scene = Scene(count=50)
    particles = r3d_folder(tmp_path, scene)
    given = ["subparticles", str(tmp_path / "r3d_02"), "3", "--subunitmask", str(tmp_path / "keep.mrc")]
    rest = ["--output", str(tmp_path / "sub.hdf"), "--no-adjust-defocus", "--phase-flipped", "no", "-v", "0"]
    assert main([*given, *rest, "--invar", "none", "--threads", "1"]) == 0
    columns = read_star(tmp_path / "sub.star").columns
    assert np.array_equal(columns["rlnRandomSubset"], np.repeat(particles.half_set, 6))
    for name in ("sub.star", "sub.lst"):
        assert kept(tmp_path / name, tmp_path / "map.mrc") > 0.97
        halves = [read_mrc(tmp_path / f"map_half{half}.mrc") for half in (1, 2)]
        assert fsc(*halves, 11)[1:FINE].min() > 0.9
    # the half map of one half set is that of its lines alone
    first = reconstruct(tmp_path / "sub_even.lst", tmp_path / "even.mrc", "--half-maps", "no")
    reconstruct(tmp_path / "sub.lst", tmp_path / "map.mrc", "--force")
    assert fsc(first, read_mrc(tmp_path / "map_half1.mrc"))[1:20].min() > 0.9999


def optics(*changed: dict[str, object], pixel: float = 3.0, box: int = 48) -> tuple[OpticsGroup, ...]:
    """A group for each."""
    return tuple(
        group(**{"pixel": pixel, "box": box, "name": f"g{number}", **one})
        for number, one in enumerate(changed)
    )


SCENES = {
    "pixel sizes": (Scene(optics=optics({}, {"pixel": 2.85}), count=60), []),
    "beam tilt": (Scene(optics=optics({"beam_tilt_mrad": (1.5, -1.0)}), pixel=3.0), []),
    "premultiplied": (Scene(optics=optics({"ctf_premultiplied": True})), []),
    "magnification": (Scene(optics=optics({"magnification": (1.01, 0.004, 0.004, 0.99)})), []),
    "phases flipped": (Scene(flipped=True), ["--phase-flipped", "yes"]),
    "ctf flipped": (Scene(flipped=True), ["--ctf", "flipped"]),
    "ctf full": (Scene(), ["--ctf", "full"]),
}  # fmt: skip


@pytest.mark.parametrize(("scene", "options"), SCENES.values(), ids=SCENES)
def test_any_optics_give_the_kept_density(scene: Scene, options: list[str], tmp_path: Path) -> None:
    scene.write(tmp_path)
    assert main(words(tmp_path, tmp_path / "sub.mrcs", "--sym", "d3", *options)) == 0
    mode = ["--ctf", "flipped"] if scene.flipped else ["--ctf", "auto"]
    assert kept(tmp_path / "sub.star", tmp_path / "map.mrc", "--half-maps", "no", *mode) > 0.97


def test_wrong_phases_of_the_ctf_spoil_the_subtraction(tmp_path: Path) -> None:
    Scene(flipped=True, count=20).write(tmp_path)
    left = {}
    for name in ("yes", "no"):
        options = ["--sym", "d3", "--scale-mode", "none", "--phase-flipped", name, "--force"]
        assert main(words(tmp_path, tmp_path / "sub.mrcs", *options)) == 0
        left[name] = np.square(read_mrc(tmp_path / "sub.mrcs")).sum()
    assert left["no"] > 1.3 * left["yes"]


@pytest.fixture
def job(tmp_path: Path) -> RelionJob:
    """Two classes: of the second is another map."""
    scene = Scene(count=40)
    particles = scene.write(tmp_path)
    other = replace(scene, centre=(6.0, -8.0, 3.0))
    write_mrc(tmp_path / "other.mrc", other.whole.volume(48, 3.0), 3.0)
    write_table(particles, rlnClassNumber=np.arange(40) % 4 // 3 + 1)
    return RelionJob(tmp_path, scene, maps=("truth.mrc", "other.mrc"))


def from_optimiser(job: RelionJob, *options: str) -> int:
    given = ["subparticles", "--optimiser", str(job.write()), "--subunitmask", str(job.folder / "keep.mrc")]
    rest = ["--output", str(job.folder / "sub.mrcs"), "--sym", "d3", "--no-adjust-defocus", "--threads", "1"]
    return main([*given, *rest, "-v", "0", "--force", *options])


def test_classes_and_subsets_of_an_optimiser_are_taken_as_asked(job: RelionJob) -> None:
    assert from_optimiser(job, "--class-number", "1") == 0
    found = read_star(job.folder / "sub.star").columns
    assert len(found["rlnImageName"]) == 30 * 6
    assert kept(job.folder / "sub.star", job.folder / "map.mrc", "--half-maps", "no") > 0.97
    assert from_optimiser(job, "--class-number", "1", "--ignore-class") == 0
    assert len(read_star(job.folder / "sub.star").columns["rlnImageName"]) == 40 * 6
    table = read_star(job.folder / "p.star")
    few = table.take(np.arange(0, 40, 4))
    few = replace(few, source=job.folder / "few.star")
    write_table(few, rlnClassNumber=np.ones(10, int))
    # a subset keeps its own file's order and its own half sets
    assert from_optimiser(job, "--data", str(job.folder / "few.star"), "--class-number", "1") == 0
    found = read_star(job.folder / "sub.star").columns
    assert np.array_equal(found["rlnRandomSubset"], np.repeat(few.half_set, 6))
    assert found["rlnImageOriginalName"].tolist()[::6] == few.columns["rlnImageName"].tolist()


def test_one_map_for_all_is_taken_only_if_asked(tmp_path: Path) -> None:
    scene = Scene(count=12)
    scene.write(tmp_path)
    truth = read_mrc(tmp_path / "truth.mrc")
    write_mrc(tmp_path / "stronger.mrc", 1.5 * truth, 3.0)
    halves = [word for half in "12" for word in (f"--half{half}", str(tmp_path / "truth.mrc"))]
    made = {}
    for name, options in {"halves": halves, "combined": [*halves, "--ref", "combined"], "alone": []}.items():
        given = words(
            tmp_path,
            tmp_path / f"{name}.mrcs",
            "--sym",
            "d3",
            "--scale-mode",
            "none",
            "--center",
            "mask",
            *options,
        )
        if name != "alone":
            given[given.index(str(tmp_path / "truth.mrc"))] = str(tmp_path / "stronger.mrc")
        assert main(given) == 0
        made[name] = read_mrc(tmp_path / f"{name}.mrcs")
    distance = {name: np.abs(made[name] - made["alone"]).max() / np.abs(made["alone"]).max() for name in made}
    assert distance["halves"] < 1e-5
    assert distance["combined"] > 0.2


def test_a_box_larger_than_the_parents_keeps_padding_at_zero(tmp_path: Path) -> None:
    scene = Scene(count=6)
    scene.write(tmp_path)
    images = read_mrc(tmp_path / "p.mrcs")
    images[:, :, :8] = 0  # particles at the edge of a micrograph
    write_mrc(tmp_path / "p.mrcs", images, 3.0)
    options = ["--sym", "c1", "--center", "none", "--newbox", "60", "--fill", "zero", "--maskall", "none"]
    assert main(words(tmp_path, tmp_path / "sub.mrcs", *options)) == 0
    made = read_mrc(tmp_path / "sub.mrcs")
    assert made.shape == (6, 60, 60)
    assert not made[:, :, : 6 + 8].any()
    assert not made[:, :6].any()
    assert made[:, 6:54, 14:54].all()
    facts = manifest(tmp_path / "sub.mrcs")
    assert facts["sub_particles"] == 6


def peak_mb(given: list[str]) -> float:
    """Peak memory of a run of its own."""
    code = (
        "import sys,resource;from centralslice.cli import main;assert main(sys.argv[1:])==0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / (1 if sys.platform == "darwin" else 1e3)


def test_memory_depends_neither_on_parents_nor_on_symmetry(tmp_path: Path) -> None:
    peaks = {}
    for name, count, sym in (("few", 60, "d7"), ("many", 600, "d7"), ("one", 60, "c1")):
        folder = tmp_path / name
        Scene(box=64, count=count, sym="d7", gaussians=2, centre=(16.0, 0.0, 8.0)).write(folder)
        peaks[name] = peak_mb(words(folder, folder / "sub.mrcs", "--sym", sym))
    images_mb = 4e-6 * 64**2 * 14 * 540
    assert peaks["many"] - peaks["few"] < 0.4 * images_mb, peaks
    volumes_mb = 8e-6 * 128**3 / 2 * 13
    assert peaks["few"] - peaks["one"] < 0.6 * volumes_mb, peaks


def test_only_particles_that_made_the_map_are_taken_if_asked(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = reference / "subparticles"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    root = tmp_path / "refine_01"
    root.mkdir()
    for path in (source / "refine_01").iterdir():
        (root / path.name).symlink_to(path)
    for name in ("particles", "subunitmask.hdf"):
        (tmp_path / name).symlink_to(source / name)
    monkeypatch.chdir(tmp_path)
    with h5py.File(root / "classmx_01_even.hdf") as even, h5py.File(root / "classmx_01_odd.hdf") as odd:
        layers = {
            name: [file[f"MDF/images/{layer}/image"][...] for layer in range(6)]
            for name, file in (("even", even), ("odd", odd))
        }
    for name, images in layers.items():
        images[1] = np.ones_like(images[1])
        images[1][0] = 0  # the first of each half was not used
        shape = images[0].shape
        with Eman2HdfWriter().create_stack(
            root / f"cls_result_01_{name}.hdf", StackPlan(6, shape, 1.0)
        ) as sink:
            sink.write(0, np.array(images, np.float32))
    given = [
        "subparticles",
        "refine_01",
        "1",
        "--subunitmask",
        "subunitmask.hdf",
        "--sym",
        "c1",
        "--invar",
        "none",
    ]
    count = {}
    for name, options in (("all", []), ("used", ["--only-used"])):
        output = tmp_path / f"{name}.mrcs"
        assert main([*given, "--output", str(output), "-v", "0", "--threads", "1", *options]) == 0
        columns = read_star(output.with_suffix(".star")).columns
        count[name] = len(columns["rlnImageName"])
        assert columns["sprUsed"].sum() == 22
    assert count == {"all": 24, "used": 22}


def test_wrong_input_ends_with_no_output_and_no_word_of_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scene(count=4).write(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    write_mrc(tmp_path / "flat.mrc", np.ones((48, 48, 40)), 3.0)
    write_mrc(tmp_path / "small.mrc", np.ones((40, 40, 40)), 3.0)
    output = tmp_path / "out/sub.mrcs"
    usual = words(tmp_path, output, "--verbose", "1")
    wrong = {
        "missing.mrc": [*usual, "--subunitmask", str(tmp_path / "missing.mrc")],
        "flat.mrc": [*usual, "--subunitmask", str(tmp_path / "flat.mrc")],
        "small.mrc": [*usual, "--maskall", str(tmp_path / "small.mrc")],
        "empty": ["subparticles", str(tmp_path / "empty"), "1", "--subunitmask", str(tmp_path / "keep.mrc")],
    }
    for name, given in wrong.items():
        assert main([*given, *(["--output", str(output)] if name == "empty" else [])]) == 2
        told = capsys.readouterr()
        assert name in told.err
        assert told.err.count("\n") == 1
        assert "written" not in told.out
        assert not list((tmp_path / "out").iterdir())
