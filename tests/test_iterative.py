"""The least-squares map is the solution of the normal equations, and nearer to the truth than the peer's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from centralslice.abc.reconstructor import MapGeometry, PassContext, Seed, WeightMap
from centralslice.data.slices import Views
from centralslice.errors import ParameterError
from centralslice.testing.phantoms import GaussianPhantom
from centralslice.testing.reconstructor import Case, deviation, phantom_case, random_rotations
from centralslice_plugins.reconstructors.fourier_iter import Iterative, between_passes
from centralslice_plugins.reconstructors.iterative_cg import LEAST_RIDGE, RIDGE, LeastSquares, NormalMatrix


def exact_problem(case: Case, samples: Any, views: Views) -> tuple[Any, Any]:
    """Normal matrix (n³, n³) and right-hand side, by direct sums over both Friedel halves."""
    box, size = case.context.geometry.image_size, case.batch.size
    axis = np.arange(box) - box // 2
    z, y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, axis, indexing="ij"))
    ky, kx = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1), indexing="ij")
    matrix, data = np.zeros((box**3, box**3)), np.zeros(box**3)
    for number, rotation in zip(views.slice_number, views.matrices, strict=True):
        used = samples[number, ..., 2] > 0
        frequency = np.stack([kx[used], ky[used]], axis=1) @ rotation[:2]
        density = np.maximum(np.linalg.norm(frequency, axis=1) * grid_ratio(case), 0.5)
        waves = np.exp(2j * np.pi / box * (np.stack([x, y, z], axis=1) @ frequency.T))
        value = samples[number][used][:, 0] + 1j * samples[number][used][:, 1]
        weight = samples[number][used][:, 2]
        data += 2 * (waves @ (density * value)).real
        matrix += 2 * ((waves * (density * weight)) @ waves.conj().T).real
    return matrix, data


def grid_ratio(case: Case) -> float:
    return float(case.reconstructor._ours().grid(case.context.geometry).oversampling)


@pytest.mark.parametrize(("box", "size"), [(8, 8), (9, 9), (8, 10)])
def test_the_normal_equations_are_those_of_the_exact_transform(box: int, size: int) -> None:
    case = Case(Iterative(), box, size)
    geometry = MapGeometry(box, size, 1.0, precision=np.dtype(np.float64))
    phantom = phantom_case(box)
    images = phantom.project(random_rotations(40), np.zeros((40, 2)), box, 1.5)
    batch = case.batch_of(images, random_rotations(40), np.linspace(0.5, 1.5, 40))
    batch = replace(batch, samples=batch.samples.astype(geometry.precision))
    plan = case.reconstructor.plan(geometry)
    sums = plan.zeros()
    case.reconstructor.insert(batch, sums, PassContext(geometry, plan), (0, plan.planes))
    solver = LeastSquares(iterations=1, tolerance=0.0)
    grid = solver.grid(geometry)
    matrix, data = exact_problem(case, batch.samples.astype(np.float64), batch.views)
    found = solver.adjoint(sums["voxels"], grid).ravel()
    assert np.linalg.norm(found - data) < 1e-3 * np.linalg.norm(data)
    bare = NormalMatrix.of(solver.lags(sums["voxels"], grid), grid, PassContext(geometry, plan))
    bare = replace(bare, diagonal=np.zeros_like(bare.diagonal))
    volume = phantom.volume(box, 1.5)
    expected = matrix @ volume.ravel()
    assert np.linalg.norm(bare.apply(volume).ravel() - expected) < 3e-3 * np.linalg.norm(expected)


def test_more_iterations_come_nearer_to_the_phantom() -> None:
    phantom = phantom_case(20)
    found = []
    for iterations in (1, 3, 12):
        case = Case(Iterative(iterations=iterations, tolerance=0.0), 20, 20)
        found.append(deviation(case.map_of(phantom, 300), phantom.volume(20, 1.5)))
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.01


def test_the_map_stays_within_the_mask_and_gains_by_it() -> None:
    wide = phantom_case(20)
    phantom = GaussianPhantom(0.6 * wide.centres_angst, wide.sigmas_angst, wide.heights)
    truth = phantom.volume(20, 1.5)
    axis = np.arange(20) - 10
    mask = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 9**2).astype(np.float32)
    case = Case(Iterative(), 20, 20)
    images = phantom.project(random_rotations(30), np.zeros((30, 2)), 20, 1.5)
    images += np.random.default_rng(2).normal(0, 0.02, images.shape)
    batch = case.batch_of(images, random_rotations(30), np.ones(30))
    sums = case.plan.zeros()
    case.reconstructor.insert(batch, sums, case.context, (0, case.plan.planes))
    free, masked = case.finished(sums), case.finished(sums, iteration_mask=mask)
    assert not masked[mask == 0].any()
    assert np.linalg.norm((masked - truth)[mask > 0]) < np.linalg.norm((free - truth)[mask > 0])


def test_a_missing_wedge_stays_near_zero_instead_of_growing() -> None:
    phantom = phantom_case(20)
    angles = np.radians(np.arange(-60, 61, 3))
    rotations = np.zeros((len(angles), 3, 3))
    rotations[:, 0, 0] = rotations[:, 2, 2] = np.cos(angles)
    rotations[:, 0, 2], rotations[:, 2, 0], rotations[:, 1, 1] = -np.sin(angles), np.sin(angles), 1.0
    images = phantom.project(rotations, np.zeros((len(angles), 2)), 20, 1.5)
    case = Case(Iterative(iterations=40, tolerance=0.0), 20, 20)
    sums = case.plan.zeros()
    batch = case.batch_of(images, rotations, np.ones(len(angles)))
    case.reconstructor.insert(batch, sums, case.context, (0, case.plan.planes))
    made, truth = case.finished(sums), phantom.volume(20, 1.5)
    assert np.linalg.norm(made) < 1.02 * np.linalg.norm(truth)
    assert deviation(made, truth) < 0.4


def test_weights_that_fall_a_thousandfold_with_frequency_do_not_spoil_convergence() -> None:
    phantom = phantom_case(20)
    case = Case(Iterative(), 20, 20)
    images = phantom.project(random_rotations(300), np.zeros((300, 2)), 20, 1.5)
    batch = case.batch_of(images, random_rotations(300), np.ones(300))
    ky, kx = np.fft.fftfreq(20)[:, None], np.arange(11) / 20
    batch.samples[...] *= np.exp(-28.0 * (kx**2 + ky**2))[..., None].astype(np.float32)
    sums = case.plan.zeros()
    case.reconstructor.insert(batch, sums, case.context, (0, case.plan.planes))
    assert deviation(case.finished(sums), phantom.volume(20, 1.5)) < 0.03


def test_a_heavy_seed_holds_the_map_and_a_light_one_does_not() -> None:
    case = Case(Iterative(), 20, 20)
    other = np.roll(phantom_case(20).volume(20, 1.5), 3, axis=0).astype(np.float32)
    sums = case.plan.zeros()
    images = phantom_case(20).project(random_rotations(200), np.zeros((200, 2)), 20, 1.5)
    batch = case.batch_of(images, random_rotations(200), np.ones(200))
    case.reconstructor.insert(batch, sums, case.context, (0, case.plan.planes))
    heavy = case.finished(sums, seed=Seed(other, 1e5))
    light = case.finished(sums, seed=Seed(other, 1e-4))
    assert deviation(heavy, other) < 0.02
    assert deviation(light, phantom_case(20).volume(20, 1.5)) < 0.05


@pytest.mark.parametrize(("box", "size"), [(20, 20), (20, 26), (21, 21)])
def test_the_weight_map_counts_slice_samples_per_voxel(box: int, size: int) -> None:
    case = Case(Iterative(), box, size)
    count = 200
    batch = case.batch_of(np.ones((count, box, box)), random_rotations(count), np.ones(count))
    sums = case.plan.zeros()
    case.reconstructor.insert(batch, sums, case.context, (0, case.plan.planes))
    result = case.reconstructor.weight_map(sums, case.context)
    assert isinstance(result, WeightMap)
    axis = np.arange(box) - box // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(box // 2 + 1) ** 2)
    shell = np.abs(radius - 7) < 1
    # a slice of (size / box)² samples per pixel fills 1 / 2r of the voxels of a shell of radius r
    assert result.data[shell].mean() == pytest.approx(count * (size / box) ** 2 / (2 * 7), rel=0.05)


def test_shrinking_between_passes_moves_outliers_one_sigma_and_flattens_the_rest() -> None:
    data = np.array([0.0] * 98 + [10.0, -10.0]).reshape(10, 10)
    sigma = data.std()
    shrunk = between_passes(data, None)
    assert np.allclose(shrunk.ravel()[:98], 0.0)
    assert np.allclose(shrunk.ravel()[98:], [10 - sigma, sigma - 10])


def test_a_mask_between_passes_multiplies_the_padded_map() -> None:
    masked = between_passes(np.ones((6, 6, 6)), np.full((4, 4, 4), 0.5))
    assert masked.sum() == pytest.approx(0.5 * 4**3)
    assert masked[3, 3, 3] == 0.5
    assert masked[0].max() == 0.0


@pytest.mark.parametrize("given", [{"iterations": 0}, {"passes": 0}, {"tolerance": 1.0}])
def test_senseless_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="iterative"):
        Iterative(**given)


def test_the_ridge_is_small_beside_what_is_measured() -> None:
    assert LEAST_RIDGE < RIDGE <= 1e-3
