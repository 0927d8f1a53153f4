"""The built-in symmetries: laws, settings and names."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates, spline_filter

from centralslice.abc.symmetry import Symmetry
from centralslice.errors import ParameterError
from centralslice.geometry.groups import find_operators
from centralslice.geometry.rotations import axis_rotation, rotation_z
from centralslice.testing.symmetry import SymmetryContract
from centralslice_plugins.symmetries import centralslice_symmetries
from centralslice_plugins.symmetries.helical import Helical


def named(name: str) -> Symmetry:
    """The built-in symmetry of this name, found through the catalogue's patterns."""
    found = [entry for entry in centralslice_symmetries() if re.fullmatch(entry.pattern, name, re.IGNORECASE)]
    assert len(found) == 1, f"{name}: {found}"
    module, _, kind = found[0].target.partition(":")
    symmetry: Symmetry = getattr(import_module(module), kind).from_name(name)
    assert symmetry.plugin_name == found[0].name
    return symmetry


ORDERS = {
    "c1": 1, "C7": 7, "c12": 12, "d1": 2, "D7": 14, "d9": 18, "tet": 12, "T": 12, "oct": 24, "O": 24,
    "icos": 60, "icos2": 60, "icos5": 60, "i": 60, "I": 60, "I1": 60, "i2": 60, "I3": 60, "I4": 60,
}  # fmt: skip


class TestEveryPointGroup(SymmetryContract):
    @pytest.fixture(autouse=True, params=ORDERS)
    def _name(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def make(self) -> Symmetry:
        return named(self.name)

    def test_it_has_its_order(self) -> None:
        assert self.make().order == ORDERS[self.name]


class TestHelix(SymmetryContract):
    def make(self) -> Symmetry:
        return named("h21:1:22.03:1.408")


class TestHelixOfThreeStrands(SymmetryContract):
    def make(self) -> Symmetry:
        return named("h4,3,-31.7,13.3,5")


def has(name: str, axis: tuple[float, float, float], fold: int) -> bool:
    """Whether the rotation by 360°/fold about the axis is in the group."""
    group = named(name).rotations()
    return bool(np.abs(group - axis_rotation(axis, 360 / fold)).max(axis=(1, 2)).min() < 1e-12)


# axes of the two programs, to the digits in which they are published
AXES = [
    ("c5", (0, 0, 1), 5), ("d3", (0, 0, 1), 3), ("d3", (1, 0, 0), 2), ("d2", (0, 1, 0), 2),
    ("o", (1, 0, 0), 4), ("o", (0, 1, 0), 4), ("o", (1, 1, 1), 3), ("o", (1, 1, 0), 2),
]  # fmt: skip
ROUNDED_AXES = [
    ("tet", (0, 0, 1), 3), ("tet", (0, 0.816496, -0.577350), 2), ("tet", (0.707, 0.408, 0.577), 2),
    ("tet", (0, 0.943, 0.333), 3),
    ("T", (0, 0, 1), 3), ("T", (0, 0.816496, 0.577350), 2),
    ("icos", (0, 0, 1), 5), ("icos", (0.894, 0, 0.447), 5),
    ("icos", (0.526, 0, 0.851), 2), ("icos", (0, 1, 0), 2),
    ("icos2", (1, 0, 0), 2), ("icos2", (0, 1, 0), 2), ("icos2", (0, 0, 1), 2),
    ("icos2", (0, 0.526, 0.851), 5), ("icos2", (0.851, 0, 0.526), 5), ("icos2", (0.526, 0.851, 0), 5),
    ("I1", (1, 0, 0), 2), ("I1", (0.8506508, 0, -0.5257311), 5), ("I1", (0.9341724, 0.3568221, 0), 3),
    ("I2", (0, 0, 1), 2), ("I2", (0.5257311, 0, 0.8506508), 5), ("I2", (0, 0.3568221, 0.9341724), 3),
    ("I3", (-0.5257311, 0, 0.8506508), 2), ("I3", (0, 0, 1), 5),
    ("I3", (-0.4911235, 0.3568221, 0.7946545), 3),
    ("I4", (0.5257311, 0, 0.8506508), 2), ("I4", (0.8944272, 0, 0.4472136), 5),
    ("I4", (0.4911235, 0.3568221, 0.7946545), 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "axis", "fold"), AXES)
def test_axes_are_exactly_where_the_programs_have_them(name, axis, fold):
    assert has(name, axis, fold)


@pytest.mark.parametrize(("name", "axis", "fold"), ROUNDED_AXES)
def test_axes_are_where_the_programs_publish_them(name, axis, fold):
    wanted = axis_rotation(axis, 360 / fold)
    assert np.abs(named(name).rotations() - wanted).max(axis=(1, 2)).min() < 2e-3


def same(one: str, other: str, turn_deg: float = 0.0) -> bool:
    """Whether ``other`` is ``one`` turned about z."""
    turn = rotation_z(turn_deg)
    group = turn @ named(one).rotations() @ turn.T
    return bool(all(np.abs(named(other).rotations() - g).max(axis=(1, 2)).min() < 1e-12 for g in group))


def test_settings_of_the_two_programs_relate_as_they_should():
    assert same("icos", "I4")
    assert same("icos5", "icos")
    assert same("icos", "I3", 180)
    assert same("icos2", "I1")
    assert same("icos2", "I2", 90)
    assert same("I", "I2")
    assert same("i", "I2")
    assert same("tet", "T", 180)
    assert same("tet", "T", 60)
    assert same("oct", "O")
    assert not same("tet", "T")
    assert not same("icos2", "I2")
    assert not same("icos", "I3")


@pytest.mark.parametrize(
    "name", ["c", "c0", "d", "d0", "C1000", "c99999999999", "h", "h3", "h0:1:30:2", "h3:0:30:2", "h3:1:x:2",
             "h3:1:30", "h3:1:30:2:0:1", "h3:1:nan:2", "h3:1:30:inf"],
)  # fmt: skip
def test_a_name_of_a_family_that_is_out_of_range_says_what_exists(name):
    with pytest.raises(ParameterError, match=r"known: c1|expected hN|must be"):
        named(name)


@pytest.mark.parametrize("name", ["x", "cs", "c2v", "td", "ih", "i5", "icos3", "q7", "-c3", "c-3", "c3 "])
def test_no_built_in_takes_an_unknown_name(name):
    assert not [e for e in centralslice_symmetries() if re.fullmatch(e.pattern, name, re.IGNORECASE)]


def test_helical_operators_run_0_1_minus_1_2_with_twist_and_rise():
    helix = Helical.from_name("h5:1:30:2.5")
    assert not helix.is_group
    steps = [0, 1, -1, 2, -2]
    assert_allclose(helix.rotations(), rotation_z(30.0 * np.array(steps)), atol=1e-15)
    assert_allclose(helix.translations_angst(), [[0, 0, 2.5 * h] for h in steps])
    assert_array_equal(Helical.from_name("H5,1,30,2.5,4").rotations(), helix.rotations())


def test_a_helix_with_positive_twist_and_rise_is_right_handed():
    # copy h of a point is turned by +h·twist and raised by h·rise: counter-clockwise going up
    helix = Helical(3, 1, 20.0, 4.0)
    points = helix.rotations() @ [1.0, 0, 0] + helix.translations_angst()
    up = points[points[:, 2].argmax()]
    assert_allclose(up, [np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20)), 4.0])


def test_strands_multiply_the_helix():
    helix = Helical(3, 2, 30.0, 2.0)
    assert helix.order == 6
    assert_allclose(helix.translations_angst()[:, 2], [0, 0, 2, 2, -2, -2])
    point_group = helix.rotations()[:2]
    assert_allclose(point_group, rotation_z([0.0, 180.0]), atol=1e-15)


@pytest.mark.parametrize(("twist", "least", "most"), [(31.7, 0.8, 1.0), (-31.7, -1.0, 0.5)])
def test_a_helical_map_made_by_relion_has_our_sense_of_twist(reference, twist, least, most):
    helix = Helical(3, 1, twist, 13.3)
    with mrcfile.open(reference / "relion_tomo/out/helix/merged.mrc", permissive=True) as file:
        data = np.array(file.data, np.float64)
    axis = np.arange(48) - 24
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x**2 + y**2 < 16**2) & (np.abs(z) < 9)
    points = np.stack([x[inside], y[inside], z[inside]])
    coefficients = spline_filter(data)
    values = [
        map_coordinates(coefficients, (rotation @ points + shift[:, None] / 4.0)[::-1] + 24, prefilter=False)
        for rotation, shift in zip(helix.rotations(), helix.translations_angst(), strict=True)
    ]
    correlations = np.corrcoef(values)[0, 1:]
    assert least < correlations.min()
    assert correlations.max() < most


def correlation_after(path: Path, symmetry: Symmetry) -> float:
    """Smallest correlation of a map with itself after an operator, inside a sphere."""
    with mrcfile.open(path, permissive=True) as file:
        data = np.array(file.data, np.float64)
    size = len(data)
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = x**2 + y**2 + z**2 < (0.4 * size) ** 2
    points = np.stack([x[inside], y[inside], z[inside]])
    coefficients = spline_filter(data)
    values = [
        map_coordinates(coefficients, (operator @ points)[::-1] + size // 2, prefilter=False)
        for operator in symmetry.rotations()
    ]
    return float(np.corrcoef(values)[0].min())


@pytest.mark.parametrize(
    ("path", "name", "wrong"),
    [
        ("eman2/phantom_icos.mrc", "icos", "I3"),
        ("eman2/phantom_d7.mrc", "d7", "d5"),
        ("relion_tomo/out/symD3/merged.mrc", "D3", "c2"),
        ("relion_tomo/out/symI1/merged.mrc", "I1", "I2"),
        ("relion_spa/relion_symD2.mrc", "D2", "o"),
    ],
)
def test_maps_made_by_the_programs_have_our_symmetry_and_not_another_setting(reference, path, name, wrong):
    assert correlation_after(reference / path, named(name)) > 0.97
    assert correlation_after(reference / path, named(wrong)) < 0.9


def test_a_group_is_found_inside_itself():
    group = named("icos").rotations()
    assert_array_equal(find_operators(group, group), np.arange(60))
