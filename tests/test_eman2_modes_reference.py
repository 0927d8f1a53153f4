"""With compat, the modes give what the peer gave on the reference data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice.abc.reconstructor import MapGeometry, NextPass, PassContext, Reconstructor, Seed
from centralslice.data.slices import SliceBatch, Views
from centralslice.fourier.eman2_compat import prepare_eman2, subtract_edge_mean
from centralslice.testing.reconstructor import prepare_plainly
from centralslice_plugins.reconstructors.eman2_modes import (
    Eman2Mode,
    Gauss2,
    Gauss3,
    Gauss5,
    GaussVar,
    NearestNeighbor,
    Trilinear,
)
from centralslice_plugins.reconstructors.fourier_iter import Iterative
from centralslice_plugins.symmetries.point_groups import Dihedral, Icosahedral

BOX, PAD, VOXEL = 48, 64, 2.0
MODES = (NearestNeighbor, Trilinear, Gauss2, Gauss3, Gauss5, GaussVar)


@dataclass
class Stack:
    """Images and what their headers say."""

    images: Any
    matrices: Any
    shifts: Any
    weights: Any
    quality: Any
    model: Any
    ssnr: Any = None


def read_hdf(path: Path) -> Any:
    with h5py.File(path) as file:
        group = file["MDF/images"]
        return np.stack([group[f"{n}/image"][...] for n in range(int(group.attrs["imageid_max"][0]) + 1)])


def read_map(path: Path) -> Any:
    """A map; images whose bits were reduced are scaled back."""
    with h5py.File(path) as file:
        entry = file["MDF/images/0"]
        data, facts = entry["image"][...], entry.attrs
        bits = int(facts["EMAN.stored_renderbits"][0]) if "EMAN.stored_renderbits" in facts else 0
        if bits > 0:
            low, high = facts["EMAN.stored_rendermin"][0], facts["EMAN.stored_rendermax"][0]
            data = data / (2.0**bits - 1) * (high - low) + low
        return data.astype(np.float64)


def read_stack(folder: Path, name: str, metadata: str = "") -> Stack:
    records = json.loads((folder / f"{metadata or name}.json").read_text())
    header = np.array([record["header_matrix"] for record in records], dtype=np.float64).reshape(-1, 3, 4)
    ssnr = None
    with h5py.File(folder / f"{name}.hdf") as file:
        group = file["MDF/images"]
        if "EMAN.class_ssnr" in group["0"].attrs:
            ssnr = np.stack([group[str(n)].attrs["EMAN.class_ssnr"] for n in range(len(records))])

    def column(key: str) -> Any:
        return np.array([record[key] for record in records], dtype=np.float64)

    return Stack(
        read_hdf(folder / f"{name}.hdf"), header[:, :, :3], header[:, :2, 3],
        column("ptcl_repr"), column("class_qual"), column("model_id"), ssnr,
    )  # fmt: skip


def views_of(matrices: Any, operators: Any = None) -> Views:
    """Views of all slices under all operators."""
    operators = np.eye(3)[None] if operators is None else operators
    turned = (matrices[:, None] @ operators[None]).reshape(-1, 3, 3) * (BOX / PAD)
    number = np.repeat(np.arange(len(matrices)), len(operators))
    return Views(number, turned, np.zeros((len(turned), 2)), np.ones(len(turned)))


def run(reconstructor: Reconstructor, stack: Stack, operators: Any = None, **context: Any) -> tuple[Any, Any]:
    """(map, sums) of a stack, in as many passes as wanted."""
    geometry = MapGeometry(BOX, PAD, VOXEL)
    plan = reconstructor.plan(geometry)
    samples = prepare_eman2(subtract_edge_mean(stack.images), stack.shifts, PAD, stack.weights, stack.ssnr)
    batch = SliceBatch(samples, PAD, PAD / 2 + 3, views_of(stack.matrices, operators))
    reference = context.pop("reference", None)
    for number in range(plan.passes):
        now = PassContext(geometry, plan, pass_number=number, reference=reference, **context)
        sums = plan.zeros()
        reconstructor.insert(batch, sums, now, (0, plan.planes))
        result = reconstructor.finish(sums, now)
        if isinstance(result, NextPass):
            reference = result.reference
    assert not isinstance(result, NextPass)
    return result.data, (sums, now)


def deviation(data: Any, expected: Any) -> float:
    """Relative root mean square deviation."""
    return float(np.sqrt(np.square(data - expected).sum() / np.square(expected).sum()))


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "eman2"


@pytest.fixture(scope="module")
def stack(folder: Path) -> Stack:
    return read_stack(folder, "proj_c1")


def weighted(stack: Stack, keep: Any = None, weights: Any = None, ssnr: Any = None) -> Stack:
    """Some particles of a stack, maybe with other weights."""
    kept = np.ones(len(stack.images), dtype=bool) if keep is None else keep
    weights = stack.weights if weights is None else weights
    return Stack(
        stack.images[kept], stack.matrices[kept], stack.shifts[kept], weights[kept],
        stack.quality[kept], stack.model[kept], ssnr,
    )  # fmt: skip


@pytest.mark.parametrize("kind", MODES, ids=lambda kind: kind.plugin_name)
def test_every_mode_gives_the_peers_map_and_norm(kind: type[Eman2Mode], stack: Stack, folder: Path) -> None:
    reconstructor = kind(compat=True)
    data, (sums, context) = run(reconstructor, stack)
    norm = reconstructor.weight_map(sums, context).data
    assert deviation(data, read_map(folder / f"out/mode_{kind.plugin_name}.hdf")) < 1e-4
    assert deviation(norm, read_map(folder / f"out/mode_{kind.plugin_name}_norm.hdf")) < 1e-4


def kept_fraction(stack: Stack, fraction: float) -> Any:
    ordered = np.sort(stack.quality)
    return stack.quality <= ordered[int(len(ordered) * fraction)]


@pytest.mark.parametrize("name", ["no_wt", "keep08", "usessnr", "input_model1", "seedmap_w100"])
def test_options_of_the_peer_give_the_peers_map(name: str, stack: Stack, folder: Path) -> None:
    options: dict[str, Any] = {}
    if name == "no_wt":
        stack = weighted(stack, weights=np.ones(len(stack.images)))
    elif name == "keep08":
        stack = weighted(stack, keep=kept_fraction(stack, 0.8))
    elif name == "input_model1":
        stack = weighted(stack, keep=stack.model == 1)
    elif name == "usessnr":
        stack = read_stack(folder, "proj_c1_ssnr", "proj_c1")
    elif name == "seedmap_w100":
        options["seed"] = Seed(read_phantom(folder).astype(np.float32), 100.0)
    data, _ = run(Gauss5(compat=True), stack, **options)
    assert deviation(data, read_map(folder / f"out/{name}.hdf")) < 1e-3


def test_ten_bits_of_our_map_are_the_peers_ten_bits(stack: Stack, folder: Path) -> None:
    expected = read_map(folder / "out/compress10.hdf")
    data, _ = run(Gauss5(compat=True), stack)
    low, high = expected.min(), expected.max()
    assert np.abs(np.clip(data, low, high) - expected).max() < 0.505 * (high - low) / 1023


def test_projection_convention_is_the_same_images_moved_the_other_way(stack: Stack, folder: Path) -> None:
    with h5py.File(folder / "proj_c1_projconv.hdf") as file:
        rows = [file[f"MDF/images/{n}"].attrs["EMAN.xform.projection"][0] for n in range(300)]
    matrices = np.array([list(row) for row in rows]).reshape(-1, 3, 4)
    stack = weighted(stack)
    stack.matrices, stack.shifts = (
        matrices[:, :, :3].astype(np.float64),
        -matrices[:, :2, 3].astype(np.float64),
    )
    stack.images = read_hdf(folder / "proj_c1_projconv.hdf")
    data, _ = run(Gauss5(compat=True), stack)
    assert deviation(data, read_map(folder / "out/projconv_lst.hdf")) < 1e-3


def test_normalised_images_give_the_peers_map(stack: Stack, folder: Path) -> None:
    stack = weighted(stack)
    images = subtract_edge_mean(stack.images)
    stack.images = subtract_edge_mean(images) / images.std((1, 2), ddof=1, keepdims=True)
    data, _ = run(Gauss5(compat=True), stack)
    assert deviation(data, read_map(folder / "out/preproc_edgemean.hdf")) < 1e-3


@pytest.mark.parametrize(
    ("name", "kind", "group"), [("d7_gauss_var", GaussVar, "D7"), ("icos_gauss_2", Gauss2, "icos")]
)
def test_symmetry_copies_give_the_peers_map(
    name: str, kind: type[Eman2Mode], group: str, folder: Path
) -> None:
    symmetry = Dihedral.from_name(group) if group == "D7" else Icosahedral.from_name(group)
    stack = read_stack(folder, f"proj_{'d7' if group == 'D7' else 'icos'}")
    data, _ = run(kind(compat=True), stack, symmetry.rotations())
    assert deviation(data, read_map(folder / f"out/{name}.hdf")) < 1e-3


@pytest.mark.parametrize(("name", "kind"), [("tlt_mrc", Gauss5), ("tlt_mrc_gvar", GaussVar)])
def test_a_tilt_series_gives_the_peers_map(name: str, kind: type[Eman2Mode], folder: Path) -> None:
    with mrcfile.open(folder / "tilt.mrc") as file:
        images = file.data.astype(np.float32)
    angles = np.radians(np.loadtxt(folder / "tilt.tlt"))
    matrices = np.zeros((len(angles), 3, 3))
    matrices[:, 0, 0] = matrices[:, 2, 2] = np.cos(angles)
    matrices[:, 0, 2], matrices[:, 2, 0], matrices[:, 1, 1] = -np.sin(angles), np.sin(angles), 1.0
    ones = np.ones(len(angles))
    data, _ = run(kind(compat=True), Stack(images, matrices, np.zeros((len(angles), 2)), ones, ones, ones))
    assert deviation(data, read_map(folder / f"out/{name}.hdf")) < 1e-3


def test_four_passes_give_the_peers_iterative_map(stack: Stack, folder: Path) -> None:
    data, _ = run(Iterative(compat=True), stack)
    assert deviation(data, read_map(folder / "out/iterative_nonorm.hdf")) < 1e-3


def shell_correlation(data: Any, truth: Any) -> Any:
    """FSC of shells 1 … 23."""
    one, two = np.fft.fftn(data), np.fft.fftn(truth)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    cross, first, second = (
        np.bincount(shell, part.ravel()) for part in ((one * two.conj()).real, abs(one) ** 2, abs(two) ** 2)
    )
    return (cross / np.sqrt(first * second))[1:24]


def soft_sphere() -> Any:
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - 20) / 3, 0, 1))


def run_ours(reconstructor: Reconstructor, stack: Stack) -> Any:
    geometry = MapGeometry(BOX, PAD, VOXEL)
    plan = reconstructor.plan(geometry)
    samples = prepare_plainly(subtract_edge_mean(stack.images), PAD, stack.weights)
    views = replace(views_of(stack.matrices), shifts=stack.shifts)
    sums, context = plan.zeros(), PassContext(geometry, plan)
    reconstructor.insert(SliceBatch(samples, PAD, PAD / 2, views), sums, context, (0, plan.planes))
    result = reconstructor.finish(sums, context)
    assert not isinstance(result, NextPass)
    return result.data


@pytest.mark.parametrize("kind", MODES, ids=lambda kind: kind.plugin_name)
def test_without_compat_every_mode_is_nearer_to_the_truth(
    kind: type[Eman2Mode], stack: Stack, folder: Path
) -> None:
    truth = read_phantom(folder)
    ours, peers = run_ours(kind(), stack), read_map(folder / f"out/mode_{kind.plugin_name}.hdf")
    sphere = soft_sphere()
    assert deviation(ours, truth) < 0.7 * deviation(peers, truth)
    assert shell_correlation(ours, truth).mean() > shell_correlation(peers, truth).mean()
    assert shell_correlation(ours * sphere, truth).mean() > shell_correlation(peers * sphere, truth).mean()


def test_least_squares_are_far_nearer_to_the_truth_than_four_passes(stack: Stack, folder: Path) -> None:
    truth = read_phantom(folder)
    ours, peers = run_ours(Iterative(), stack), read_map(folder / "out/iterative_nonorm.hdf")
    assert shell_correlation(ours, truth).mean() > 0.89
    assert shell_correlation(peers, truth).mean() < 0.75
    assert deviation(ours, truth) < 0.04


def read_phantom(folder: Path) -> Any:
    with mrcfile.open(folder / "phantom.mrc") as file:
        return file.data.astype(np.float64)
