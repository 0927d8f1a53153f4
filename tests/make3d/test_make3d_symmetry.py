"""Symmetry from the command line: every name, against phantoms that have it."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.plugin.registry import shared_registry

NAMES = ("c1", "c2", "c5", "d2", "d7", "tet", "T", "oct", "O", "icos", "icos2", "I1", "I2", "I3", "I4", "i")


@pytest.mark.parametrize("name", NAMES)
def test_few_views_of_a_symmetric_object_give_its_map(name, simulate, make3d, deviation):
    order = shared_registry().symmetry(name).order
    count = max(300 // order, 8)
    data = simulate(sym=name, count=count, seed=11)
    run = make3d(data.table, "--sym", name)
    assert deviation(run.data, data.truth, 14) < 0.015
    if order > 5:  # which it would not without the symmetry
        plain = make3d(data.table)
        assert deviation(plain.data, data.truth, 14) > 2 * deviation(run.data, data.truth, 14)


@pytest.mark.parametrize(
    ("name", "other"),
    [("icos", "I4"), ("icos2", "I1"), ("ICOS", "icos"), ("oct", "O"), ("D3", "d3")],
)
def test_names_for_the_same_setting_give_the_same_map(name, other, simulate, make3d, deviation):
    table = simulate(snr=1.0, count=20).table
    first, second = make3d(table, "--sym", name), make3d(table, "--sym", other)
    assert deviation(first.data, second.data) < 1e-5


@pytest.mark.parametrize(("name", "other"), [("I1", "I2"), ("I3", "I4"), ("tet", "T")])
def test_names_for_different_settings_give_different_maps(name, other, simulate, make3d, deviation):
    unit = GaussianPhantom(np.array([[7.0, 12.0, 18.0]]), np.array([3.0]), np.ones(1))
    phantom = unit.symmetrised(shared_registry().symmetry(name))
    data = simulate(phantom=phantom, count=20, seed=11)
    right, wrong = make3d(data.table, "--sym", name), make3d(data.table, "--sym", other)
    assert deviation(wrong.data, data.truth, 14) > 2.5 * deviation(right.data, data.truth, 14)


@pytest.mark.parametrize("name", ["c1", "c2", "c3", "c4", "d2", "d4", "d7", "tet", "T", "oct", "icos", "I3"])
@pytest.mark.parametrize("box", [28, 29])
def test_averaging_the_grid_over_part_of_the_group_equals_inserting_every_operator(
    name, box, simulate, make3d, deviation, monkeypatch
):
    data = simulate(box_size=box, count=15, snr=1.0, defocus_range_angst=(8000.0, 9000.0))
    options = ("--sym", name, "--precision", "float64", "--mode", "kaiser_bessel:floor=0")
    averaged = make3d(data.table, *options)
    monkeypatch.setattr(
        "centralslice.jobs.copies.grid_subgroup", lambda rotations: (np.eye(3)[None], rotations)
    )
    inserted = make3d(data.table, *options)
    assert deviation(averaged.data, inserted.data) < 1e-6


def test_the_result_has_the_symmetry_exactly_where_the_grid_has_it(simulate, make3d, deviation):
    run = make3d(simulate(count=15, snr=1.0, box_size=29).table, "--sym", "d4")
    quarter = np.rot90(run.data, axes=(1, 2))
    turned = run.data[::-1, ::-1, :]  # the two-fold about x, odd box: voxel 12 is the centre
    assert deviation(quarter, run.data) < 1e-5
    assert deviation(turned, run.data) < 1e-5


def helix(count: int):
    unit = random_phantom(2, (3.0, 4.0), 3.0, 5)
    shifted = GaussianPhantom(unit.centres_angst + np.array([9.0, 0, 0]), unit.sigmas_angst, unit.heights)
    return shifted.symmetrised(shared_registry().symmetry(f"h{count}:1:50:5"))


def test_the_rise_of_a_helix_is_honoured(simulate, make3d, deviation):
    phantom = helix(9)
    data = simulate(phantom=phantom, count=40, box_size=40, seed=4)
    right = make3d(data.table, "--sym", "h3:1:50:5")
    no_rise = make3d(data.table, "--sym", "h3:1:50:0")
    other_hand = make3d(data.table, "--sym", "h3:1:-50:5")
    middle = np.s_[16:25]  # the ends of the finite helix are averaged with nothing

    def error(run):
        expected = data.truth[middle]
        return np.linalg.norm(run.data[middle] - expected) / np.linalg.norm(expected)

    assert error(right) < 0.05
    assert error(no_rise) > 0.3
    assert error(other_hand) > 0.3


def test_a_helix_shifts_each_copy_by_its_rise(simulate, make3d, deviation):
    # the map under h3 is the mean of three shifted and turned copies of the map under c1
    angle, rise = 90.0, 3 * 2.0  # a grid symmetry and three voxels, so that numpy can do it
    data = simulate(count=400, box_size=32, seed=9)
    plain = make3d(data.table, "--precision", "float64", "--pad", "48").data
    run = make3d(
        data.table, "--precision", "float64", "--pad", "48", "--sym", f"h3:1:{angle:g}:{rise:g}"
    ).data

    def moved(turns: int) -> np.ndarray:
        # S = Rz(90 h), t = 3 h voxels: V(S r + t) = V(r); odd part of the even box: drop plane 0
        inner = np.rot90(plain[:, 1:, 1:], turns, axes=(2, 1)) if turns else plain[:, 1:, 1:]
        return np.roll(inner, 3 * turns, axis=0)

    expected = (moved(0) + moved(1) + moved(-1)) / 3
    assert deviation(run[:, 1:, 1:], expected, 10) < 0.08


def test_a_symmetry_that_does_not_exist_is_refused(simulate, refused):
    table = simulate().table
    for name in ("c", "c0", "q3", "h3:1:20", "I5", ""):
        assert "symmetr" in refused(table, "--sym", name)
