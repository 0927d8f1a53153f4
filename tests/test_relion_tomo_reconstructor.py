"""The reconstructor of --compat relion: the peer's maps from its own inputs, and its formulas one by one."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mrcfile
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from centralslice.abc.reconstructor import MapGeometry, PassContext, Seed
from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch, Sums, Views
from centralslice.errors import ParameterError
from centralslice.fourier.weight_cube import weight_cube
from centralslice.geometry.rotations import rotation_z
from centralslice.jobs.tomo.taper import crop_centre, taper
from centralslice.runtime.exact_sums import calibrate, choose_kind
from centralslice_plugins.reconstructors import relion_tomo_finish
from centralslice_plugins.reconstructors.relion_tomo import RelionTomo
from centralslice_plugins.symmetries.helical import Helical
from centralslice_plugins.symmetries.point_groups import Dihedral, Icosahedral


@dataclass(frozen=True)
class ReferenceCase:
    """What the peer was run with."""

    suffix: str = "_static"
    motion: bool = False
    relion4: bool = False
    box: int = 48
    binning: int = 1
    snr: float | None = None
    crop: int = 0
    symmetry: Symmetry | None = None
    halves: tuple[int, ...] = (1, 2)
    preparation: dict[str, bool] = field(default_factory=dict)


CASES = {
    "c1": ReferenceCase(),
    "motion": ReferenceCase("", motion=True),
    "snr": ReferenceCase("", motion=True, box=64, snr=0.5, crop=48),
    "bin2": ReferenceCase("", motion=True, box=32, binning=2),
    "noctf": ReferenceCase(preparation={"ctf": False}),
    "whiten": ReferenceCase(preparation={"whiten": True}),
    "nocircle": ReferenceCase(preparation={"circle": False}),
    "symD3": ReferenceCase(symmetry=Dihedral(3)),
    "symI1": ReferenceCase(symmetry=Icosahedral("i1")),
    "helix": ReferenceCase(symmetry=Helical(5, 1, 31.7, 13.3)),
    "nohalves": ReferenceCase("_nohalves", halves=(0,)),
    "relion4": ReferenceCase("_r4", relion4=True),
}
#: Relative rms deviation from the peer's files, which are float32; measured: 2e-7, whiten 2e-6.
TOLERANCE = 5e-6


@cache
def preparation() -> ModuleType:
    """The module beside this one; tests are not importable by name."""
    path = Path(__file__).with_name("tomo_reference.py")
    spec = importlib.util.spec_from_file_location("tomo_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_map(path: Path) -> Any:
    with mrcfile.open(path, permissive=True) as file:
        return np.array(file.data, np.float64)


def files_of(case: ReferenceCase, folder: Path) -> dict[str, FloatArray]:
    """All files that the peer would write, without .mrc."""
    project = preparation().Project(folder, case.suffix, case.motion, case.relion4)
    reconstructor = RelionTomo()
    geometry = MapGeometry(case.box, case.box, 4.0 * case.binning)
    plan = reconstructor.plan(geometry)
    copies = case.symmetry and (case.symmetry.rotations(), case.symmetry.translations_angst())
    context = PassContext(geometry, plan, wiener_snr=case.snr, symmetry_copies=copies)
    sums = {"merged": plan.zeros()}
    for half in case.halves:
        part = plan.zeros()
        for batch in project.batches(half, case.box, case.binning, **case.preparation):
            reconstructor.insert(batch, part, context, (0, plan.planes))
        sums["merged"].add(part)
        sums[f"half{half}"] = part
    result: dict[str, FloatArray] = {}
    for label, part in sums.items():
        full = reconstructor.finish(part, context).data
        result[f"{label}_full"] = full
        result[label] = taper(crop_centre(full, case.crop) if case.crop else full, 10.0)
        result[f"data_{label}"] = reconstructor.data_map(part, context)
        result[f"weight_{label}"] = weight_cube(reconstructor.weight_map(part, context).data)
    return result


@pytest.mark.parametrize("name", CASES)
def test_every_map_of_the_peer_comes_out(reference: Path, name: str) -> None:
    folder, case = reference / "relion_tomo", CASES[name]
    files = files_of(case, folder)
    written = sorted((folder / "out" / name).glob("*.mrc"))
    assert len(written) >= 3
    for path in written:
        expected = read_map(path)
        if path.stem == "weight_merged" and len(case.halves) > 1:
            # the peer writes half 1 alone; both are meant
            expected = sum(read_map(path.with_name(f"weight_half{half}.mrc")) for half in case.halves)
        found = files[path.stem]
        assert found.shape == expected.shape, path
        assert np.linalg.norm(found - expected) < TOLERANCE * np.linalg.norm(expected), path


def random_batch(size: int, views: int = 4, seed: int = 1) -> SliceBatch:
    """Slices of noise that are no transforms of anything real, under random poses and scales."""
    source = np.random.default_rng(seed)
    samples = source.normal(size=(views, size, size // 2 + 1, 4)).astype(np.float32)
    samples[..., 2] = np.abs(samples[..., 2])
    scale = source.uniform(0.8, 1.3, (views, 1, 1))
    matrices = Rotation.random(views, random_state=seed).as_matrix() * scale
    radii = np.array([size // 2 + 1, size // 2, size // 2 - 1, 2.0])[:views]
    placed = Views(np.arange(views), matrices, np.zeros((views, 2)), source.uniform(0.5, 2.0, views))
    return SliceBatch(samples, size, float(radii.max()), placed, radii)


def context_of(size: int, precision: type = np.float32, **more: Any) -> PassContext:
    geometry = MapGeometry(size, size, 2.0, precision=np.dtype(precision))
    return PassContext(geometry, RelionTomo().plan(geometry), **more)


def sums_of(batch: SliceBatch, context: PassContext) -> Sums:
    sums = context.plan.zeros()
    RelionTomo().insert(batch, sums, context, (0, context.plan.planes))
    return sums


def gathered_at(batch: SliceBatch, view: int, k: FloatArray) -> Any:
    """What one voxel takes of one view, straight from the definition."""
    half, size = batch.size // 2, batch.size
    image = batch.samples[batch.views.slice_number[view]].astype(np.float64)
    u, v, w = np.linalg.inv(batch.views.matrices[view]).T @ k
    assert batch.radii is not None
    if k @ k > batch.radii[view] ** 2 or abs(w) >= 1 or max(abs(u), abs(v)) >= half + 1:
        return np.zeros(3)
    sign = np.array([1, -1, 1]) if u < 0 else np.ones(3)
    u, v = (-u, -v) if u < 0 else (u, v)
    v += size * (v < 0)
    x, y = int(u), int(v)
    columns = (x, u - x), (x + 1, 1 - (u - x))
    rows = (y, v - y), (y + 1, 1 - (v - y))
    total = np.zeros(3)
    for column, far_x in columns:
        mirrored = min(x, half) if column == x else (column if column <= half else half - 1)
        for row, far_y in rows:
            total += (1 - far_x) * (1 - far_y) * image[row % size, mirrored, :3]
    return total * sign * (1 - abs(w)) * batch.views.factors[view]


@pytest.mark.parametrize("size", [8, 10])
def test_each_voxel_takes_what_the_definition_says(size: int) -> None:
    batch = random_batch(size)
    found = sums_of(batch, context_of(size, np.float64))["voxels"]
    frequencies = np.fft.fftfreq(size, 1 / size)
    expected = np.zeros_like(found)
    for z, y, x in np.ndindex(found.shape[:3]):
        k = np.array([x, frequencies[y], frequencies[z]])
        expected[z, y, x] = sum(gathered_at(batch, view, k) for view in range(4))
    assert np.abs(expected).max() > 1
    assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [8, 12])
def test_a_slice_seen_from_the_front_is_the_plane_of_the_origin_nyquist_row_included(size: int) -> None:
    batch = random_batch(size, views=1)
    front = replace(batch.views, matrices=np.eye(3)[None], factors=np.ones(1))
    voxels = sums_of(replace(batch, views=front), context_of(size))["voxels"]
    y, x = np.fft.fftfreq(size, 1 / size)[:, None], np.arange(size // 2 + 1)
    inside = x**2 + y**2 <= (size // 2 + 1) ** 2
    assert_array_equal(voxels[0], np.where(inside[..., None], batch.samples[0, ..., :3], 0))
    assert not voxels[1:].any()


def test_a_rounding_error_below_zero_does_not_read_the_row_before() -> None:
    batch = random_batch(8, views=1)
    tilted = np.eye(3)
    tilted[0, 1] = 1e-15  # voxels of row 0 come to lie at v = −1e-15 x
    found = sums_of(replace(batch, views=replace(batch.views, matrices=tilted[None])), context_of(8))
    exact = sums_of(replace(batch, views=replace(batch.views, matrices=np.eye(3)[None])), context_of(8))
    assert_allclose(found["voxels"], exact["voxels"], rtol=0, atol=1e-6)


def test_without_radii_of_their_own_slices_reach_the_largest() -> None:
    batch = replace(random_batch(8), radii=np.full(4, 3.0), max_radius=3.0)
    expected = sums_of(batch, context_of(8))["voxels"]
    assert_array_equal(sums_of(replace(batch, radii=None), context_of(8))["voxels"], expected)


def transform_sums(data: FloatArray) -> FloatArray:
    """Sums whose values are the unitary transform of a map centred in the corner, weight 1."""
    spectrum = np.fft.rfftn(data, norm="ortho")
    return np.stack([spectrum.real, spectrum.imag, np.ones(spectrum.shape)], axis=-1)


def smooth_map(size: int) -> Any:
    """A map without frequencies near Nyquist."""
    spectrum = np.fft.rfftn(np.random.default_rng(4).normal(size=(size,) * 3))
    axis = np.abs(np.fft.fftfreq(size, 1 / size))
    reach = axis < size // 2 - 1
    spectrum *= reach[:, None, None] & reach[:, None] & reach[: size // 2 + 1]
    return scipy.fft.irfftn(spectrum, s=(size,) * 3)


def symmetrised_map(data: FloatArray, copies: tuple[FloatArray, FloatArray], voxel: float = 1.0) -> Any:
    voxels = relion_tomo_finish.symmetrised(
        transform_sums(data), copies, voxel, lambda f, items: [*map(f, items)]
    )
    assert_allclose(voxels[0, 0, 0, 2], 1)
    return scipy.fft.irfftn(voxels[..., 0] + 1j * voxels[..., 1], s=data.shape, norm="ortho")


def test_symmetry_is_the_mean_of_the_map_and_its_copies_turned() -> None:
    data = smooth_map(10)
    quarter = np.stack([np.eye(3), rotation_z(90.0)])
    # V(S r), S a quarter turn: (x, y) -> (−y, x)
    turned = np.transpose(data, (0, 2, 1))[:, -np.arange(10)]
    assert_allclose(turned[0, 2, 3], data[0, 3, -2])
    assert_allclose(symmetrised_map(data, (quarter, np.zeros((2, 3)))), (data + turned) / 2, atol=1e-12)


def test_symmetry_moves_copies_by_their_translations() -> None:
    data = smooth_map(10)
    shifts = np.array([[0, 0, 0], [0, 0, 6.0]])  # two voxels of 3 Å
    found = symmetrised_map(data, (np.stack([np.eye(3)] * 2), shifts), 3.0)
    assert_allclose(found, (data + np.roll(data, -2, axis=0)) / 2, atol=1e-12)


def test_a_helix_moves_its_copies_up_as_it_turns_them() -> None:
    data = smooth_map(12)
    helix = Helical(3, 1, 90.0, 2.0)
    found = symmetrised_map(data, (helix.rotations(), helix.translations_angst()))
    back = -np.arange(12)
    # turned by +90°, (x, y) -> (−y, x), and moved up; and the other way
    up = np.roll(np.transpose(data, (0, 2, 1))[:, :, back], 2, axis=0)
    down = np.roll(np.transpose(data, (0, 2, 1))[:, back], -2, axis=0)
    assert_allclose(found, (data + up + down) / 3, atol=1e-12)


def test_numerator_and_wiener_map_are_what_the_formulas_say() -> None:
    size, context = 12, context_of(12, np.float64, wiener_snr=0.25)
    batch = random_batch(size)
    sums = sums_of(batch, context)
    voxels = sums["voxels"]
    centred = np.fft.fftshift(
        scipy.fft.irfftn(voxels[..., 0] + 1j * voxels[..., 1], s=(size,) * 3, norm="ortho")
    )
    axis = (np.arange(size) - 6) / size
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    numerator = centred / np.sinc(radius) ** 2
    assert_allclose(RelionTomo().data_map(sums, context), numerator, atol=1e-12)
    divided = scipy.fft.irfftn(np.fft.rfftn(numerator) / (voxels[..., 2] + 4), s=(size,) * 3)
    assert_allclose(RelionTomo().finish(sums, context).data, divided, atol=1e-12)


def test_without_wiener_constant_weights_have_a_floor_and_corners_are_zero() -> None:
    size = 12
    numerator = smooth_map(size)
    weights = np.full((size, size, size // 2 + 1), 2.0)
    weights[1, 0, 0] = weights[-1, 0, 0] = 0.0
    found = relion_tomo_finish.divided(numerator, weights, None, lambda f, items: [*map(f, items)])
    axis = np.fft.fftfreq(size, 1 / size)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis[: size // 2 + 1] ** 2)
    low = radius.astype(int)
    share = np.where(low == 1, 1 - (radius - low), 0) + np.where(low == 0, radius - low, 0)
    mean = (share * weights).sum() / share.sum()
    expected = np.where(weights > 0, weights, 0.001 * mean)
    spectrum = np.where(radius.astype(int) + 1 > size // 2, 0, np.fft.rfftn(numerator) / expected)
    assert_allclose(found, scipy.fft.irfftn(spectrum, s=(size,) * 3), rtol=0, atol=1e-9)


def test_threads_at_finish_change_no_bit() -> None:
    copies = (Dihedral(3).rotations(), np.zeros((6, 3)))
    context = context_of(16, symmetry_copies=copies)
    sums = sums_of(random_batch(16), context)
    one = RelionTomo().finish(sums, context).data
    with ThreadPoolExecutor(3) as threads:
        several = replace(context, parallel=lambda f, items: list(threads.map(f, items)))
        assert_array_equal(RelionTomo().finish(sums, several).data, one)


def test_exact_sums_are_block_sums_and_lose_nothing_that_shows() -> None:
    context, reconstructor = context_of(16), RelionTomo()
    batch = random_batch(16)
    assert choose_kind(reconstructor, exact=True) == "block"
    scheme = calibrate("block", reconstructor, context, [batch], (0.5, 0.1))
    rank = scheme.start(context.plan, reconstructor)
    reconstructor.insert(batch, rank.before(batch, context), context, (0, context.plan.planes))
    rank.end_block()
    found = reconstructor.finish(scheme.finishable(rank.totals, context.plan), context).data
    expected = reconstructor.finish(sums_of(batch, context), context).data
    assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("geometry", "option"),
    [
        (MapGeometry(15, 15, 1.0), "even"),
        (MapGeometry(16, 24, 1.0), "--pad:"),
        (MapGeometry(16, 16, 1.0, padded_size=32), "--padvol:"),
    ],
)
def test_what_the_peer_cannot_do_is_refused(geometry: MapGeometry, option: str) -> None:
    with pytest.raises(ParameterError, match=option):
        RelionTomo().plan(geometry)


def test_a_seed_is_refused() -> None:
    context = context_of(8)
    seeded = replace(context, seed=Seed(np.zeros((8, 8, 8), np.float32), 1.0))
    with pytest.raises(ParameterError, match="--seedmap"):
        RelionTomo().finish(context.plan.zeros(), seeded)
