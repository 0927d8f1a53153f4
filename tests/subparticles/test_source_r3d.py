"""EMAN2 r3d_XX folders, plain particles with maps, and EMAN2's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.writer import VolumeOptions
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import FileMissingError, FormatError, InputError, ParameterError, exit_code
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.jobs.subparticles.source import SourceRequest, SubparticleSource, read_source
from centralslice.plugin.registry import shared_registry
from centralslice_plugins.formats.eman2_attributes import Eman2Ctf, Transform
from centralslice_plugins.formats.eman2_json import ImageReference, Opaque, flag_of, number_of, read_json
from centralslice_plugins.writers.eman2_hdf import Eman2HdfWriter

BOX = 8
ROTATIONS = eman2_to_matrices([10.0, 120.0, 250.0, 333.0, 5.0], [20.0, 70.0, 100.0, 160.0, 90.0], 33.0)
SHIFTS = np.array([[1.5, -2.0], [0.0, 0.25], [3.0, 1.0], [-1.0, -1.0], [0.5, 0.0]])
CTF = Eman2Ctf(1.5, 0.2, 30.0, 50.0, 10.0, 300.0, 2.7, 2.0)
CTF_JSON = {
    "__class__": "EMAN2Ctf", "defocus": 2.0, "dfdiff": 0.0, "dfang": 0.0, "bfactor": 0.0, "ampcont": 10.0,
    "voltage": 300.0, "cs": 2.7, "apix": 2.0, "dsbg": 0.0, "background": [], "snr": [],
}  # fmt: skip


def write_map(path: Path, box: int = BOX) -> Path:
    data = np.random.default_rng(2).normal(size=(box, box, box)).astype(np.float32)
    Eman2HdfWriter().write_volume(path, Volume(data, 2.0), VolumeOptions(bits=-1))
    return path


def write_images(path: Path, header: dict[str, Any], box: int = BOX) -> Path:
    count = len(ROTATIONS)
    with Eman2HdfWriter().create_stack(path, StackPlan(count, (box, box), 2.0)) as sink:
        sink.write(0, np.random.default_rng(1).normal(size=(count, box, box)).astype(np.float32))
        for number in range(count):
            sink.write_attributes(number, header)
    return path


def row_json(number: int, **extra: Any) -> dict[str, Any]:
    matrix = np.column_stack([ROTATIONS[number], [*SHIFTS[number], 0.0]]).ravel()
    text = "[" + ",".join(f"{value:.9g}" for value in matrix) + "]"
    return {
        "xform.projection": {"__class__": "Transform", "matrix": text},
        "score": -0.1 * number, "class": number % 2, **extra,
    }  # fmt: skip


def write_list(path: Path, rows: list[dict[str, Any]], stack: str = "particles/mic.hdf") -> Path:
    records = [f"{number}\t{stack}\t{json.dumps(row)}" for number, row in enumerate(rows)]
    length = max(map(len, records)) + 5
    lines = ["#LSX", "# This file is in fast LST format", f"# {length}"]
    path.write_text("\n".join([*lines, *(record.ljust(length - 1) for record in records)]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "r3d_07"
    root.mkdir()
    (tmp_path / "particles").mkdir()
    write_images(tmp_path / "particles/mic.hdf", {"ctf": CTF})
    rows = [row_json(number) for number in range(len(ROTATIONS))]
    for iteration in ("00", "01", "02"):
        write_list(root / f"ptcls_{iteration}.lst", rows)
    for name in ("threed_01", "threed_02", "threed_01_even", "threed_01_odd", "mask"):
        write_map(root / f"{name}.hdf")
    for name in ("threed_02_even", "threed_02_odd"):
        write_map(root / f"{name}.hdf")
    settings = {"ptcl": "sets/all__ctf_flip_lp5.lst", "sym": "icos", "niter": 2, "cmd": "e2spa_refine.py"}
    (root / "0_spa_params.json").write_text(json.dumps(settings))
    return root


def read(folder: Path, **options: Any) -> SubparticleSource:
    return read_source(SourceRequest(folder=folder, **options), shared_registry())


def refused(action: Callable[[], Any], kind: type[InputError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert exit_code(caught.value) == 2
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_poses_and_shifts_are_those_of_the_list(folder: Path) -> None:
    found = read(folder)
    assert_allclose(found.particles.rotations, ROTATIONS, atol=1e-8)
    assert_allclose(found.particles.shifts_angst, 2.0 * SHIFTS, atol=1e-8)
    assert_array_equal(found.particles.half_set, [1, 2, 1, 2, 1])
    assert_allclose(found.particles.quality, -0.1 * np.arange(5))
    assert (found.symmetry, found.dialect, found.stem) == ("icos", "r3d", "subptcl_07_2__ctf_flip_lp5")
    assert found.phase_flipped is True
    assert {half: path.name for half, path in found.maps.items()} == {
        0: "threed_02.hdf", 1: "threed_02_even.hdf", 2: "threed_02_odd.hdf",
    }  # fmt: skip
    assert found.mask_all == folder / "mask.hdf"


def test_the_ctf_is_the_headers_unless_the_list_has_one(folder: Path) -> None:
    rows = [row_json(number) for number in range(5)]
    rows[2]["ctf"] = CTF_JSON
    write_list(folder / "ptcls_02.lst", rows)
    ctf = read(folder).particles.ctf
    assert ctf is not None
    assert_allclose(ctf.defocus_u_angst, [16000, 16000, 20000, 16000, 16000])


def test_a_change_of_defocus_is_added_in_micrometres(folder: Path) -> None:
    rows = [row_json(number) for number in range(5)]
    rows[1]["defocus"] = -0.05
    write_list(folder / "ptcls_02.lst", rows)
    found = read(folder)
    assert found.particles.ctf is not None
    assert_allclose(found.particles.ctf.defocus_u_angst, [16000, 15500, 16000, 16000, 16000])
    assert_allclose(found.particles.ctf.defocus_v_angst, [14000, 13500, 14000, 14000, 14000])
    assert any("changes of defocus of 1 of 5" in note for note in found.notes)


def test_an_earlier_iteration_can_be_named(folder: Path) -> None:
    found = read(folder, iteration=1)
    assert found.maps[0].name == "threed_01.hdf"
    assert found.particles.source.name == "ptcls_01.lst"
    assert any("mask.hdf is of the last iteration" in note for note in found.notes)


def test_an_iteration_without_its_map_is_refused(folder: Path) -> None:
    refused(lambda: read(folder, iteration=0), FileMissingError, "threed_00.hdf", "1, 2")
    refused(lambda: read(folder, iteration=5), FormatError, "no iteration 5", "1, 2")


def test_a_class_that_is_no_half_is_refused(folder: Path) -> None:
    rows = [row_json(number) for number in range(5)]
    rows[3]["class"] = 2
    write_list(folder / "ptcls_02.lst", rows)
    refused(lambda: read(folder), FormatError, "ptcls_02.lst", "row 4", "'class'")
    for row in rows:
        row.pop("class")
    write_list(folder / "ptcls_02.lst", rows)
    assert not read(folder).particles.half_set.any()


def test_a_list_that_points_beyond_its_stack_is_refused(folder: Path) -> None:
    rows = [row_json(number % 5) for number in range(6)]
    write_list(folder / "ptcls_02.lst", rows)
    refused(lambda: read(folder), FormatError, "image 6", "5 images")


def test_a_missing_stack_is_named(folder: Path) -> None:
    (folder.parent / "particles/mic.hdf").unlink()
    refused(lambda: read(folder), FileMissingError, "mic.hdf")


def test_a_folder_without_parameters_is_read_without_symmetry(folder: Path) -> None:
    (folder / "0_spa_params.json").unlink()
    found = read(folder)
    assert (found.symmetry, found.phase_flipped, found.stem) == (None, None, "subptcl_07_2__ptcls_02")
    assert any("0_spa_params.json does not exist" in note for note in found.notes)


# plain particles


def plain(path: Path, **options: Any) -> SubparticleSource:
    return read_source(SourceRequest(particles=path, **options), shared_registry())


def test_plain_particles_of_a_list_keep_its_half_sets_and_defocus(folder: Path, tmp_path: Path) -> None:
    rows = [row_json(number, defocus=0.1) for number in range(5)]
    path = write_list(tmp_path / "mine.lst", rows)
    maps = [write_map(tmp_path / f"{name}.hdf") for name in ("one", "two")]
    found = plain(path, half1=maps[0], half2=maps[1])
    assert found.maps == {1: maps[0], 2: maps[1]}
    assert (found.dialect, found.stem, found.symmetry, found.mask_all) == (
        "plain",
        "mine_subptcl",
        None,
        None,
    )
    assert_array_equal(found.particles.half_set, [1, 2, 1, 2, 1])
    assert_allclose(found.particles.rotations, ROTATIONS, atol=1e-8)
    assert found.particles.ctf is not None
    assert_allclose(found.particles.ctf.defocus_u_angst, 17000.0)
    assert found.phase_flipped is None


def test_plain_particles_of_a_stack_are_read_from_its_headers(tmp_path: Path) -> None:
    header = {"xform.projection": Transform(np.column_stack([ROTATIONS[1], [1.0, 2.0, 0.0]]))}
    path = write_images(tmp_path / "set__ctf_flip.hdf", header)
    found = plain(path, map=write_map(tmp_path / "map.hdf"), mask_all=write_map(tmp_path / "mask.hdf"))
    assert_allclose(found.particles.shifts_angst, [[2.0, 4.0]] * 5, atol=1e-6)
    assert found.phase_flipped is True
    assert found.mask_all == tmp_path / "mask.hdf"


def test_half_maps_alone_do_not_serve_particles_without_half_sets(tmp_path: Path) -> None:
    header = {"xform.projection": Transform(np.column_stack([ROTATIONS[1], [1.0, 2.0, 0.0]]))}
    path = write_images(tmp_path / "set.hdf", header)
    one, two = write_map(tmp_path / "one.hdf"), write_map(tmp_path / "two.hdf")
    refused(lambda: plain(path, half1=one, half2=two), FormatError, "5 of 5", "--map")
    assert set(plain(path, half1=one, half2=two, map=one).maps) == {0, 1, 2}


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path / "set.hdf", {})
    registry = shared_registry()
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "one of a refinement folder, --i and --particles, got none"),
        ({"folder": tmp_path, "particles": path}, "a refinement folder and --particles"),
        ({"particles": path, "half1": path, "map": path}, "go together"),
        ({"particles": path, "map": path, "iteration": 3}, "ITERATION"),
        ({"folder": tmp_path, "class_number": 2}, "--class"),
        ({"folder": tmp_path, "data": path}, "--data"),
        ({"folder": tmp_path, "ignore_class": True}, "--ignore-class"),
    ]
    for options, words in cases:
        refused(
            lambda options=options: read_source(SourceRequest(**options), registry), ParameterError, words
        )


def test_plain_particles_need_a_map_that_fits(tmp_path: Path) -> None:
    header = {"xform.projection": Transform(np.column_stack([ROTATIONS[1], [1.0, 2.0, 0.0]]))}
    path = write_images(tmp_path / "set.hdf", header)
    refused(lambda: plain(path), ParameterError, "--map")
    refused(lambda: plain(path, map=tmp_path / "absent.hdf"), FileMissingError, "absent.hdf")
    refused(lambda: plain(path, map=path), FormatError, "cube")
    wrong = write_map(tmp_path / "wrong.hdf", BOX + 2)
    refused(lambda: plain(path, map=wrong), FormatError, "wrong.hdf", "10 voxels", "8 px")
    half = write_map(tmp_path / "half.hdf")
    refused(
        lambda: plain(path, half1=half, half2=half, reference="combined"), ParameterError, "--ref combined"
    )


# EMAN2's JSON


def test_objects_in_eman2_json_become_ours_and_pickles_stay_closed(tmp_path: Path) -> None:
    numbers = [1, 0, 0, 4, 0, 1, 0, 5, 0, 0, 1, 6]
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps(
            {
                "text": {"__class__": "Transform", "matrix": json.dumps(numbers)},
                "list": [{"__class__": "Transform", "matrix": numbers}],
                "ctf": CTF_JSON,
                "image": {"__image__": ["a.hdf", 3]},
                "odd": {"__pickle__": "Y29zCnN5c3RlbQ=="},
                "none": None,
                "other": {"__class__": "Region"},
            }
        )
    )
    found = read_json(path)
    assert_array_equal(found["text"].matrix, np.array(numbers, float).reshape(3, 4))
    assert_array_equal(found["list"][0].matrix, found["text"].matrix)
    assert found["ctf"].defocus_um == 2.0
    assert found["image"] == ImageReference("a.hdf", 3)
    assert found["odd"] == Opaque("pickle")
    assert found["other"] == Opaque("Region")
    assert found["none"] is None


@pytest.mark.parametrize(
    "text",
    [
        "", "[1]", "{", '{"a": {"__class__": "Transform", "matrix": "[1,2]"}}',
        '{"a": {"__class__": "Transform"}}', '{"a": {"__class__": "EMAN2Ctf"}}', '{"a": {"__image__": 3}}',
        "[" * 100_000, '{"a": {"__class__": "Transform", "matrix": [null]}}',
    ],
)  # fmt: skip
def test_broken_eman2_json_gives_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    refused(lambda: read_json(path), FormatError, "x.json")


def test_bytes_that_are_no_text_give_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe{}")
    refused(lambda: read_json(path), FormatError, "x.json", "byte 0")
    refused(lambda: read_json(tmp_path / "absent.json"), FileMissingError, "absent.json")


def test_options_are_understood_however_they_were_stored(tmp_path: Path) -> None:
    for value in (True, 1, "True", "yes"):
        assert flag_of({"x": value}, "x")
    for value in (False, 0, "False", None, ""):
        assert not flag_of({"x": value}, "x")
    assert number_of(tmp_path, {"x": "1.5"}, "x") == 1.5
    assert number_of(tmp_path, {"x": None}, "x") is None
    refused(lambda: number_of(tmp_path, {"x": [1]}, "x"), FormatError, "'x'", "number")
