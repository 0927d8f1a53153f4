"""Sub-particles of every kind of refinement: EMAN2's folders, RELION's optimisers, old tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from subparticle_cases import BOX, PIXEL, Ring, fsc, make_ring, read_mrc, read_star, reconstruct

from centralslice.cli import main

#: What the peer made of the same folder, and with which options.
PEER = {
    "plain": [],
    "masked": ["--masked"],
    "outer": ["--masked", "--outermask", "outermask.hdf"],
    "newbox": ["--masked", "--newbox", "32"],
}


@pytest.fixture
def project(reference: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EMAN2's project folder, as the working directory."""
    folder = reference / "subparticles"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    monkeypatch.chdir(folder)
    return folder


def images_of(path: Path) -> np.ndarray:
    """An EMAN2 stack, by other software than ours."""
    with h5py.File(path) as file:
        entries = file["MDF/images"]
        numbers = sorted(int(name) for name in entries if name.isdigit())
        return np.array([entries[str(number)]["image"][...] for number in numbers], np.float64)


@pytest.mark.parametrize("case", PEER)
def test_the_peers_model_gives_the_peers_images(project: Path, tmp_path: Path, case: str) -> None:
    words = ["subparticles", "refine_01", "1", "--subunitmask", "subunitmask.hdf", "--sym", "c1", "-v", "0"]
    options = [*PEER[case], "--compat", "eman2", "--invar", "none", "--output", str(tmp_path / "sub.mrcs")]
    assert main([*words, *options]) == 0
    made, expected = read_mrc(tmp_path / "sub.mrcs"), images_of(project / f"out_{case}.hdf")
    assert made.shape == expected.shape
    # the peer's order is that of its classes
    distance = np.linalg.norm(expected[:, None] - made[None], axis=(2, 3))
    distance /= np.linalg.norm(expected, axis=(1, 2))[:, None]
    assert len(set(distance.argmin(axis=1).tolist())) == len(made)
    assert np.median(distance.min(axis=1)) < 3e-4
    assert distance.min(axis=1).max() < 2e-3


def test_a_refine_folder_gives_stack_lists_and_invariants(project: Path, tmp_path: Path) -> None:
    words = ["subparticles", "./refine_01/", "--subunitmask", "subunitmask.hdf", "-v", "0"]
    assert main([*words, "--output", str(tmp_path / "sub.hdf"), "--threads", "2"]) == 0
    assert main([*words, "--output", str(tmp_path / "one.hdf"), "--threads", "1"]) == 0
    images = images_of(tmp_path / "sub.hdf")
    assert images.shape == (24 * 14, 48, 48)
    assert np.array_equal(images, images_of(tmp_path / "one.hdf"))
    assert np.abs(images_of(tmp_path / "sub_invar.hdf")).max(axis=(1, 2)).min() > 0
    columns = read_star(tmp_path / "sub.star").columns
    assert set(columns["rlnRandomSubset"].tolist()) == {1, 2}
    with h5py.File(tmp_path / "sub.hdf") as file:
        facts = dict(file["MDF/images/15"].attrs)
    assert int(facts["EMAN.orig_idx"][0]) == 1
    assert int(facts["EMAN.sym_idx"][0]) == 1
    assert "EMAN.xform.align2d" not in facts
    even = [line for line in (tmp_path / "sub_even.lst").read_text().splitlines() if line[:1] != "#"]
    assert len(even) == np.count_nonzero(columns["rlnRandomSubset"] == 1)
    first = json.loads(even[0].split("\t")[2])
    assert {"class", "orig_src", "orig_idx", "sym_idx", "sub_shift", "xform.projection"} <= set(first)


def test_default_names_are_the_peers_and_go_into_sets(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    words = [
        "subparticles",
        str(project / "refine_01"),
        "1",
        "--subunitmask",
        str(project / "subunitmask.hdf"),
    ]
    assert main([*words, "--dry-run"]) == 0
    assert "sets/subptcl_01_1__ctf_flip.hdf" in capsys.readouterr().out
    (tmp_path / "info").mkdir()
    (tmp_path / "info/project.json").write_text('{"global.invariant_type":"harmonic"}')
    assert main([*words, "--dry-run"]) == 0
    assert "invariants: harmonic" in capsys.readouterr().out


def pairs(block: str, values: Mapping[str, Any]) -> str:
    return "\n".join([f"data_{block}", "", *(f"_{label} {value}" for label, value in values.items()), "", ""])


def optimiser(ring: Ring) -> Path:
    """A refinement of RELION's with this ring's map for both half sets."""
    name = f"{ring.folder}/run_it005"
    (ring.folder / "run_it005_optimiser.star").write_text(
        pairs("optimiser_general", {
            "rlnModelStarFile": f"{name}_half1_model.star", "rlnModelStarFile2": f"{name}_half2_model.star",
            "rlnExperimentalDataStarFile": ring.table, "rlnOrientSamplingStarFile": f"{name}_sampling.star",
            "rlnDoSplitRandomHalves": 1, "rlnDoCorrectNorm": 0, "rlnDoCorrectScale": 0, "rlnDoCorrectCtf": 1,
            "rlnDoIgnoreCtfUntilFirstPeak": 0, "rlnCtfDataArePhaseFlipped": 0,
        })
    )  # fmt: skip
    for half in (1, 2):
        (ring.folder / f"run_it005_half{half}_model.star").write_text(
            pairs("model_general", {
                "rlnReferenceDimensionality": 3, "rlnDataDimensionality": 2, "rlnOriginalImageSize": BOX,
                "rlnPixelSize": PIXEL, "rlnNrClasses": 1, "rlnNrBodies": 1, "rlnNormCorrectionAverage": 1,
            }) + f"data_model_classes\n\nloop_\n_rlnReferenceImage #1\n{ring.folder}/truth.mrc\n\n"
        )  # fmt: skip
    (ring.folder / "run_it005_sampling.star").write_text(
        pairs("sampling_general", {"rlnIs3DSampling": 1, "rlnSymmetryGroup": "D3"})
    )
    return ring.folder / "run_it005_optimiser.star"


def test_an_optimiser_says_particles_maps_and_symmetry(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, count=40)
    # half maps are centred on the mask unless something else is said, one map is not
    words = [
        "--subunitmask",
        str(tmp_path / "keep.mrc"),
        "--no-adjust-defocus",
        "-v",
        "0",
        "--center",
        "mask",
    ]
    output = tmp_path / "sub.mrcs"
    assert main(["subparticles", "--i", str(optimiser(ring)), *words, "--output", str(output)]) == 0
    assert main(ring.words(tmp_path / "plain.mrcs", "--center", "mask")) == 0
    assert output.read_bytes() == (tmp_path / "plain.mrcs").read_bytes()
    made = reconstruct(tmp_path / "sub.star", tmp_path / "map.mrc", "--half-maps", "no")
    assert fsc(made, read_mrc(tmp_path / "sub_reference.mrc"), 11)[1:18].min() > 0.97


def test_an_old_table_keeps_its_shifts_in_pixels(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, sym="c2", count=10)
    columns = read_star(ring.table).columns
    old = {
        label: columns[label]
        for label in columns
        if label not in ("rlnOpticsGroup",) and "Origin" not in label
    }
    old |= {f"rlnOrigin{axis}": columns[f"rlnOrigin{axis}Angst"] / PIXEL for axis in "XY"}
    count = len(old["rlnImageName"])
    fixed = {
        "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1,
        "rlnMagnification": 10000.0, "rlnDetectorPixelSize": PIXEL, "rlnCoordinateX": 500.0, "rlnCoordinateY": 600.0,
    }  # fmt: skip
    old |= {label: np.full(count, value) for label, value in fixed.items()}
    labels = [f"_{label} #{number}" for number, label in enumerate(old, 1)]
    rows = [
        " ".join(map(str, row)) for row in zip(*(column.tolist() for column in old.values()), strict=True)
    ]
    (tmp_path / "old.star").write_text("\n".join(["data_", "", "loop_", *labels, *rows, ""]))
    words = ring.words(tmp_path / "sub.mrcs")
    assert main(words) == 0
    new = read_star(tmp_path / "sub.star").columns
    words[words.index(str(ring.table))] = str(tmp_path / "old.star")
    assert main([*words, "--force"]) == 0
    made = read_star(tmp_path / "sub.star").columns
    assert np.allclose(made["rlnOriginX"] * PIXEL, new["rlnOriginXAngst"], atol=1e-6)
    assert np.array_equal(made["rlnCoordinateX"], 500 - made["sprShiftX"])
    assert np.array_equal(made["rlnCoordinateY"], 600 - made["sprShiftY"])
    assert np.array_equal(made["sprCoordinateXParent"], np.full(2 * count, 500))
