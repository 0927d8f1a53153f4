"""Simulated tomography projects as files: what plain parsing of their tables gives, and the command."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.reader import TiltReadRequest
from centralslice.cli import main
from centralslice.errors import OutputExistsError, ParameterError, ResourceError
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.jobs.simulate.tomo import TomoOutputs, write_tomo_project
from centralslice.jobs.simulate.tomo_settings import (
    TiltScheme,
    TomoContent,
    TomoImages,
    TomoOptics,
    TomoSettings,
)
from centralslice.runtime.threads import Threads
from centralslice_plugins.readers.relion_tomo import RelionTomoReader
from centralslice_plugins.writers.json_tables import JsonWriter
from centralslice_plugins.writers.mrc import MrcWriter
from centralslice_plugins.writers.star import StarWriter

PHANTOM = random_phantom(9, (8.0, 11.0), 30.0, 2)
WRITERS = {".star": StarWriter(), ".mrcs": MrcWriter(), ".mrc": MrcWriter(), ".json": JsonWriter()}
SETTINGS = TomoSettings(
    content=TomoContent(
        tomograms=2, particles=3, image_size=(96, 101), tomogram_size=(85, 90, 31), box_size=33,
        max_origin_angst=9.0, subtomogram_angles=True, motion_angst=6.0,
    ),
    scheme=TiltScheme(step_deg=30.0, x_tilt_deg=2.0, jitter_deg=1.0, max_shift_angst=20.0, hidden=1),
    optics=TomoOptics(
        defocus_range_angst=None, dose_per_tilt=0.0, groups=2, pixel_ratio=1.1, voltages_kv=(300.0, 200.0)
    ),
    images=TomoImages(background=3.0),
    seed=8,
)  # fmt: skip


def write(settings: TomoSettings, folder: Path, threads: int = 1, force: bool = False):
    with Threads(threads) as pool:
        return write_tomo_project(PHANTOM, settings, TomoOutputs(folder, WRITERS, force), pool)


def parse(path: Path) -> dict[str, Any]:
    """Blocks of a STAR file, by the format's plain rules: lists as dictionaries, loops as lists of rows."""
    found: dict[str, Any] = {}
    for part in path.read_text().split("\ndata_")[1:]:
        name, _, text = part.partition("\n")
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if lines and lines[0] == ["loop_"]:
            labels = [line[0][1:] for line in lines[1:] if line[0].startswith("_")]
            rows = [line for line in lines[1:] if not line[0].startswith("_")]
            found[name] = [dict(zip(labels, row, strict=True)) for row in rows]
        else:
            found[name] = {line[0][1:]: line[1] for line in lines}
    return found


def about(axis: str, angle_deg: float) -> np.ndarray:
    """4×4 right-handed rotation of column vectors."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix = np.eye(4)
    matrix[:3, :3] = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return matrix


def moved(x: float, y: float, z: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def euler(row: dict[str, str], label: str) -> np.ndarray:
    """RELION's matrix, map to image: Rz(−psi) Ry(−tilt) Rz(−rot)."""
    rot, tilt, psi = (float(row[f"{label}{name}"]) for name in ("Rot", "Tilt", "Psi"))
    return (about("z", -psi) @ about("y", -tilt) @ about("z", -rot))[:3, :3]


def numbers(row: dict[str, str], *labels: str) -> np.ndarray:
    return np.array([float(row[label]) for label in labels])


def projection_of(tilt: dict[str, str], tomogram: dict[str, str], image_size: tuple[int, int]) -> np.ndarray:
    """Tomogram pixels to image pixels, from angles and shifts or from the rows themselves."""
    if "rlnTomoProjX" in tilt:
        return np.array([json.loads(tilt[f"rlnTomoProj{row}"]) for row in "XYZW"])
    pixel = float(tomogram["rlnTomoTiltSeriesPixelSize"])
    half = [int(tomogram[f"rlnTomoSize{axis}"]) // 2 for axis in "XYZ"]
    shift = numbers(tilt, "rlnTomoXShiftAngst", "rlnTomoYShiftAngst") / pixel
    return (
        moved(*shift) @ moved(image_size[0] // 2, image_size[1] // 2)
        @ about("z", float(tilt["rlnTomoZRot"])) @ about("y", float(tilt["rlnTomoYTilt"]))
        @ about("x", float(tilt["rlnTomoXTilt"])) @ moved(*(-value for value in half))
    )  # fmt: skip


def expected_image(folder: Path, name: str, number: int, phantom: GaussianPhantom) -> np.ndarray:
    """−Σ of the projections of all particles in tilt ``number``, from the tables alone."""
    first = parse(folder / "optimisation_set.star")["optimisation_set"]
    tomograms = parse(folder / first["rlnTomoTomogramsFile"])
    particles = parse(folder / first["rlnTomoParticlesFile"])
    (tomogram,) = (row for row in tomograms["global"] if row["rlnTomoName"] == name)
    if "rlnTomoTiltSeriesStarFile" in tomogram:
        tilt = parse(folder / tomogram["rlnTomoTiltSeriesStarFile"])[name][number]
    else:
        tilt = tomograms[name][number]
    size = numbers(tomogram, "rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
    with mrcfile.open(folder / f"tilt/{name}.mrcs") as stack:
        ny, nx = stack.data.shape[1:]
    matrix = projection_of(tilt, tomogram, (nx, ny))
    image = np.zeros((ny, nx))
    x, y = np.arange(nx)[None, :], np.arange(ny)[:, None]
    for row in particles["particles"]:
        if row["rlnTomoName"] != name:
            continue
        pixel = float(particles["optics"][int(row["rlnOpticsGroup"]) - 1]["rlnTomoTiltSeriesPixelSize"])
        if "rlnCoordinateX" in row:
            place = numbers(row, *(f"rlnCoordinate{axis}" for axis in "XYZ"))
        else:
            place = numbers(row, *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")) / pixel + size / 2
        subtomogram = euler(row, "rlnTomoSubtomogram") if "rlnTomoSubtomogramRot" in row else np.eye(3)
        origin = numbers(row, *(f"rlnOrigin{axis}Angst" for axis in "XYZ"))
        place = place - subtomogram @ origin / pixel
        if "rlnTomoTrajectoriesFile" in first:
            track = parse(folder / first["rlnTomoTrajectoriesFile"])[row["rlnTomoParticleName"]][number]
            place = place + numbers(track, *(f"rlnOrigin{axis}Angst" for axis in "XYZ")) / pixel
        centre = (matrix @ [*place, 1.0])[:2]
        pose = matrix[:3, :3] @ subtomogram @ euler(row, "rlnAngle")
        at = centre + (phantom.centres_angst @ pose.T)[:, :2] / pixel
        for (u, v), sigma, height in zip(at, phantom.sigmas_angst, phantom.heights, strict=True):
            integral = height * np.sqrt(2 * np.pi) * sigma / 4.0
            image -= integral * np.exp(-((x - u) ** 2 + (y - v) ** 2) * pixel**2 / (2 * sigma**2))
    return image


PLAIN = replace(
    SETTINGS, content=replace(SETTINGS.content, motion_angst=0.0, subtomogram_angles=False),
    scheme=replace(SETTINGS.scheme, hidden=0), images=TomoImages(),
)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        PLAIN,
        replace(SETTINGS, relion4=True, scheme=replace(SETTINGS.scheme, hidden=0)),
        replace(SETTINGS, scheme=TiltScheme(random_directions=4, hidden=1)),
    ],
    ids=["relion5", "plain", "relion4", "random"],
)
def test_the_tables_alone_say_where_everything_is_in_the_images(settings, tmp_path):
    folder = tmp_path / "project"
    scene = write(settings, folder)
    for number, name in enumerate(("TS_01", "TS_02")):
        with mrcfile.open(folder / f"tilt/{name}.mrcs") as stack:
            images = stack.data.astype(np.float64) - settings.images.background
            assert_allclose(stack.voxel_size.x, 4.0 * 1.1**number, rtol=1e-6)
        assert len(images) == len(scene.particles.series[number])
        shown = np.flatnonzero(~scene.alignments[number].hidden)
        for tilt in shown[[0, 2]]:
            expected = expected_image(folder, name, int(tilt), PHANTOM)
            assert -expected.min() > 5
            assert_allclose(images[tilt], expected, atol=2e-5 * np.abs(expected).max())


def test_the_project_has_these_files_and_the_truth_in_them(tmp_path):
    folder = tmp_path / "project"
    scene = write(SETTINGS, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "motion.star", "optimisation_set.star", "particles.star", "tilt/TS_01.mrcs", "tilt/TS_02.mrcs",
        "tilt_series/TS_01.star", "tilt_series/TS_02.star", "tomograms.star", "truth.json", "truth.mrc",
    ]  # fmt: skip
    with mrcfile.open(folder / "truth.mrc") as truth:
        assert_array_equal(truth.data, PHANTOM.volume(33, 4.0).astype(np.float32))
    truth = json.loads((folder / "truth.json").read_text())
    assert_allclose(truth["gaussians"]["centreAngst"], PHANTOM.centres_angst)
    assert_allclose(truth["particles"]["positionPx"], scene.particles.positions)
    assert_allclose(np.reshape(truth["particles"]["rotation"], (-1, 3, 3)), scene.particles.rotations)
    assert_allclose(
        np.reshape(truth["tilts"]["projection"], (-1, 4, 4))[:5], scene.particles.series[0].projections
    )
    rows = parse(folder / "particles.star")["particles"]
    assert sorted(row["rlnRandomSubset"] for row in rows[:3]) in (["1", "1", "2"], ["1", "2", "2"])
    for row, number in zip(rows, scene.particles.series_number, strict=True):
        shown = json.loads(row["rlnTomoVisibleFrames"])
        assert_array_equal(np.array(shown) == 0, scene.alignments[number].hidden)


def test_the_tables_name_the_microscope_as_it_was(tmp_path):
    optics = TomoOptics(
        astigmatism_angst=500.0, phase_shift_deg=10.0, bfactor_angst2=20.0, defocus_slope=0.9,
        bfactor_per_dose=2.0, odd_zernike=(0.1, 0.2), even_zernike=(0.3,), spherical_aberration_mm=1.2,
    )  # fmt: skip
    scene = write(replace(SETTINGS, optics=optics), tmp_path / "project")
    tomogram = parse(tmp_path / "project/tomograms.star")["global"][0]
    labels = (
        "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnTomoHand", "rlnTomoDefocusSlope",
        "rlnCtfBfactorPerElectronDose", "rlnTomoImportFractionalDose",
    )  # fmt: skip
    assert_array_equal(numbers(tomogram, *labels), [300.0, 1.2, 0.1, -1.0, 0.9, 2.0, 3.0])
    group = parse(tmp_path / "project/particles.star")["optics"][0]
    assert (group["rlnOddZernike"], group["rlnEvenZernike"]) == ("[0.1,0.2]", "[0.3]")
    series = scene.particles.series[0]
    for number, tilt in enumerate(parse(tmp_path / "project/tilt_series/TS_01.star")["TS_01"]):
        found = numbers(
            tilt, "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor",
            "rlnCtfScalefactor", "rlnMicrographPreExposure",
        )  # fmt: skip
        ctf = series.ctf.take(np.array([number]))
        expected = [
            ctf.defocus_u_angst[0], ctf.defocus_v_angst[0], ctf.defocus_angle_deg[0], 10.0, 20.0,
            abs(series.projections[number, 2, 2]), series.dose[number],
        ]  # fmt: skip
        assert_array_equal(found, expected)
        assert tilt["rlnMicrographName"] == f"{number + 1:06d}@tilt/TS_01.mrcs"


def test_the_files_do_not_depend_on_threads(tmp_path):
    settings = replace(SETTINGS, images=TomoImages(snr=0.2))
    write(settings, tmp_path / "one")
    write(settings, tmp_path / "three", threads=3)
    names = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(names) == 10
    for name in names:
        if name.suffix != ".mrcs":
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
            continue
        with mrcfile.open(tmp_path / "one" / name) as one, mrcfile.open(tmp_path / "three" / name) as three:
            assert_array_equal(one.data, three.data)


def test_images_can_be_stored_in_half_the_space(tmp_path):
    stacks = {}
    for kind in ("float32", "float16", "int16"):
        images = replace(SETTINGS.images, snr=0.2, stored_as=kind)
        write(replace(SETTINGS, images=images), tmp_path / kind)
        with mrcfile.open(tmp_path / kind / "tilt/TS_01.mrcs") as stack:
            stacks[kind] = stack.data.copy()
    scale = json.loads((tmp_path / "int16/truth.json").read_text())["simulation"]["storedScale"]
    assert [stack.dtype for stack in stacks.values()] == [np.float32, np.float16, np.int16]
    assert scale > 1
    assert scale == 2.0 ** round(np.log2(scale))
    assert_allclose(stacks["int16"] / scale, stacks["float32"], atol=0.51 / scale)
    assert_allclose(stacks["float16"], stacks["float32"], rtol=1e-3, atol=1e-4)


def test_nothing_is_left_of_a_project_that_fails(tmp_path):
    small = replace(SETTINGS, content=replace(SETTINGS.content, box_size=12))
    with pytest.raises(ParameterError, match="needs a box of"):
        write(small, tmp_path / "project")
    with pytest.raises(ResourceError, match="cannot be made"):
        write(SETTINGS, tmp_path / "not there/project")
    assert not list(tmp_path.iterdir())
    seen: list[int] = []

    def stop(count: int) -> None:
        seen.append(count)
        if count == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Threads(1) as threads:
        write_tomo_project(PHANTOM, SETTINGS, TomoOutputs(tmp_path / "p", WRITERS), threads, stop)
    assert seen == list(range(1, 8))
    assert not list(tmp_path.iterdir())


def test_an_existing_project_is_not_replaced_without_force(tmp_path):
    write(SETTINGS, tmp_path / "p")
    before = (tmp_path / "p/particles.star").read_bytes()
    with pytest.raises(OutputExistsError, match=r"TS_01\.mrcs: exists already"):
        write(replace(SETTINGS, seed=1), tmp_path / "p")
    assert (tmp_path / "p/particles.star").read_bytes() == before
    write(replace(SETTINGS, seed=1), tmp_path / "p", force=True)
    assert (tmp_path / "p/particles.star").read_bytes() != before


def test_a_writer_for_each_kind_of_file_is_needed(tmp_path):
    with pytest.raises(ParameterError, match=r"needs writers for \.json"):
        TomoOutputs(tmp_path, {name: writer for name, writer in WRITERS.items() if name != ".json"})


SMALL = [
    "simulate", "--tomo", "--tomograms", "1", "--particles", "2", "--image-size", "100", "90", "--box", "40",
    "--tilt-step", "40", "--apix", "5",
]  # fmt: skip


def test_the_command_writes_a_project_and_will_not_overwrite(tmp_path, capsys):
    folder = tmp_path / "project"
    command = [
        *SMALL, "--output", str(folder), "--tomogram-size", "80", "81", "30", "--snr", "0.5", "--motion", "3",
        "--hidden-tilts", "1", "--subtomogram-angles", "--shift", "4", "--float16", "--hand", "1", "--voltage",
        "200", "--no-halves", "--odd-zernike", "-1", "2e-1", "--background", "9", "--threads", "1",
    ]  # fmt: skip
    assert main(command) == 0
    assert "2 particles in 1 tomograms, 4 tilt images" in capsys.readouterr().out
    rows = parse(folder / "particles.star")
    assert "rlnRandomSubset" not in rows["particles"][0]
    assert rows["optics"][0]["rlnVoltage"] == "200.0"
    assert rows["optics"][0]["rlnOddZernike"] == "[-1.0,0.2]"
    assert parse(folder / "tomograms.star")["global"][0]["rlnTomoSizeY"] == "81"
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "5"], "--particles"),
        (["--tilts", "random", "--x-tilt", "3"], "--tilt-step is of a tilt series"),
        (["--tilt-count", "9"], "--tilts random"),
        (["--no-ctf", "--defocus", "1", "2"], "exclude each other"),
        (["--no-ctf", "--defocus-slope", "2"], "exclude each other"),
        (["--relion4", "--hidden-tilts", "1"], "cannot hide"),
        (["--float16", "--int16"], "exclude each other"),
        (["--voltage", "300", "--group-voltages", "200"], "exclude each other"),
        (["--dose", "0", "--dose-bfactor", "3"], "needs a dose"),
        (["--no-ctf", "--dose-bfactor", "3"], "needs a dose"),
        (["--hand", "2"], "hand must be 1 or -1"),
        (["--particles", "500"], "do not fit"),
        (["--threads", "0"], "--threads"),
        (["--model", "x.pdb", "--gaussians", "5"], "leave"),
        (["--tilt-stepp", "3"], "did you mean '--tilt-step'"),
        (["--output", "a.star"], "folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--output", "project", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--tilts", "series"], ["--hand", "-1"], ["--relion4"], ["--dose", "0"]])
def test_options_of_tomography_need_tomo(option, tmp_path, capsys):
    assert main(["simulate", "--output", str(tmp_path / "a.star"), *option]) == 2
    assert f"{option[0]} is of tomography; add --tomo" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("relion4", [False, True])
def test_the_reader_of_tomography_projects_gives_the_scene_back(relion4, tmp_path):
    scheme = replace(SETTINGS.scheme, hidden=0 if relion4 else 2)
    optics = TomoOptics(
        astigmatism_angst=300.0, phase_shift_deg=15.0, bfactor_angst2=9.0, groups=2, pixel_ratio=1.1,
        beam_tilt_mrad=(0.2, -0.1), even_zernike=(0.0, 0.5),
    )  # fmt: skip
    settings = replace(SETTINGS, scheme=scheme, optics=optics, relion4=relion4)
    folder = tmp_path / "project"
    made = write(settings, folder).particles
    read = RelionTomoReader().read_tilt_particles(TiltReadRequest(folder / "optimisation_set.star"))
    assert read.names.tolist() == made.names.tolist()
    assert_allclose(read.positions, made.positions, atol=1e-9)
    assert_allclose(read.rotations, made.rotations, atol=1e-12)
    for name in ("series_number", "optics_group", "half_set", "tilt_start", "motion"):
        assert_array_equal(getattr(read, name), getattr(made, name))
    if not relion4:
        assert_array_equal(read.visible, made.visible)
    for group, expected in zip(read.optics, made.optics, strict=True):
        assert replace(group, box_size=0) == expected
    for series, expected in zip(read.series, made.series, strict=True):
        assert_allclose(series.projections, expected.projections, atol=1e-9)
        assert_allclose(series.dose, expected.dose)
        assert (series.name, series.size, series.image_size, series.hand) == (
            expected.name, expected.size, expected.image_size, expected.hand,
        )  # fmt: skip
        assert [path.resolve() for path in series.image_files] == list(expected.image_files)
        assert_array_equal(series.image_number, expected.image_number)
        for field in fields(expected.ctf):
            assert_allclose(getattr(series.ctf, field.name), getattr(expected.ctf, field.name))
