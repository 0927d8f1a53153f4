"""Masks, centres, cosets and false symmetry, against what their geometry says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from centralslice.abc.reconstructor import serial_map
from centralslice.data.volume import Volume
from centralslice.errors import FormatError, ParameterError
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.geometry.groups import close_group
from centralslice.geometry.rotations import axis_rotation, random_rotations, rotation_x, rotation_z
from centralslice.jobs.subparticles.masks import (
    default_box,
    edge_width,
    exclusion_mask,
    fit_mask,
    halves_agreement,
    kept_centre,
    kept_diameter_px,
    mask_report,
    whole_mask,
)
from centralslice.jobs.subparticles.symmetry import (
    find_cosets,
    is_closed_group,
    pseudo_symmetry,
    rotate_map,
    rotated_exclusion,
)

D7 = close_group(np.stack([rotation_z(360 / 7), rotation_x(180.0)]))


def test_the_subtracted_part_is_what_is_in_the_map_and_not_kept(scenes):
    keep = scenes.soft_ball(32, (5, 0, 0), 5)
    outer = scenes.soft_ball(32, (0, 0, 0), 9)
    assert np.allclose(exclusion_mask(keep, None, outer), outer * (1 - keep))
    assert np.allclose(exclusion_mask(keep, None, None), 1 - keep)
    assert np.array_equal(exclusion_mask(None, keep, None), keep)
    assert np.allclose(exclusion_mask(3 * keep - 1, None, None), 1 - np.clip(3 * keep - 1, 0, 1))
    excluded = exclusion_mask(keep, None, outer)
    assert np.allclose(whole_mask(keep, excluded, outer), keep + excluded)
    assert whole_mask(None, excluded, None) is None


def test_masks_that_subtract_nothing_or_everything_are_refused():
    ones, zeros = np.ones((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
    with pytest.raises(ParameterError, match="nothing is left to subtract"):
        exclusion_mask(ones, None, None)
    with pytest.raises(ParameterError, match="nothing is kept"):
        exclusion_mask(zeros, None, None)
    with pytest.raises(ParameterError, match="nothing is kept"):
        exclusion_mask(None, ones, None)
    for both in ((None, None), (ones, zeros)):
        with pytest.raises(ParameterError, match="either --subunitmask or --subtractmask"):
            exclusion_mask(*both, None)


@pytest.mark.parametrize(("box", "voxel"), [(40, 2.0), (41, 2.0), (64, 1.0), (25, 3.0)])
def test_a_mask_of_another_grid_covers_the_same_place(scenes, box, voxel):
    made = Volume(scenes.soft_ball(box, np.array([12.0, -6.0, 4.0]) / voxel, 12.0 / voxel, 8 / voxel), voxel)
    found, notes = fit_mask(made, 48, 1.5, "mask.mrc")
    expected = scenes.soft_ball(48, np.array([12.0, -6.0, 4.0]) / 1.5, 8.0, 8 / 1.5)
    assert np.abs(found - expected).max() < 0.1
    assert np.allclose(kept_centre(found, found, "mask") * 1.5, [12, -6, 4], atol=0.05)
    assert "resampled" in notes[0]
    same, none = fit_mask(Volume(expected, 1.5001), 48, 1.5, "mask.mrc")
    assert np.array_equal(same, expected)
    assert none == ()


def test_masks_are_clipped_with_a_note_and_broken_ones_refused():
    data = np.full((4, 4, 4), 1.5, np.float32)
    found, notes = fit_mask(Volume(data, 1.0), 4, 1.0, "mask.mrc")
    assert np.array_equal(found, np.ones((4, 4, 4)))
    assert "clipped" in notes[0]
    with pytest.raises(FormatError, match="cubic"):
        fit_mask(Volume(data[:2], 1.0), 4, 1.0, "mask.mrc")
    data[1, 1, 1] = np.nan
    with pytest.raises(FormatError, match="finite"):
        fit_mask(Volume(data, 1.0), 4, 1.0, "mask.mrc")


@pytest.mark.parametrize("edge", [4.0, 8.0])
def test_the_width_of_a_cosine_edge_is_measured(scenes, edge):
    # cos² falls from 0.9 to 0.1 over (1 − 4 asin(√0.1) / π) of its width
    expected = edge * (1 - 4 * np.arcsin(np.sqrt(0.1)) / np.pi)
    assert abs(edge_width(scenes.soft_ball(64, (0, 0, 0), 14, edge)) - expected) < 0.12 * expected
    assert edge_width((scenes.soft_ball(64, (0, 0, 0), 14) > 0.5).astype(np.float32)) == 0


def test_the_report_has_energies_that_add_up_and_warns_of_sharp_edges(scenes):
    density = scenes.blob((0, 0, 0), 20, 40, (3, 5), 0).volume(48, 2.0)
    keep = (scenes.soft_ball(48, (6, 0, 0), 6) > 0.5).astype(np.float32)
    report = mask_report(density, keep, 1 - keep)
    assert report.kept_energy + report.subtracted_energy == pytest.approx(1)
    assert report.kept_voxels == keep.sum()
    assert "sharp" in report.warnings[0]
    assert json.loads(json.dumps(report.as_dict()))["edge_width_px"] == 0
    soft = scenes.soft_ball(48, (6, 0, 0), 6, 8)
    assert mask_report(density, soft, 1 - soft).warnings == ()


@pytest.mark.parametrize("box", [48, 49])
def test_the_centre_is_that_of_the_kept_density(scenes, box):
    # one round Gaussian: the mask's own centre does not matter
    place = np.array([7.3, -4.2, 2.6])
    one = GaussianPhantom(place[None] * 2.0, np.array([4.0]), np.array([1.0]))
    keep = scenes.soft_ball(box, (6.0, -3.0, 2.0), 14, 3)
    density = one.volume(box, 2.0)
    assert np.abs(kept_centre(density, keep, "density") - place).max() < 0.01
    assert np.abs(kept_centre(density, keep, "mask") - [6, -3, 2]).max() < 0.05
    assert kept_centre(density, None, (1.0, 2.0, 3.5)).tolist() == [1, 2, 3.5]
    assert not kept_centre(density, None, "none").any()
    with pytest.raises(ParameterError, match="--center"):
        kept_centre(density, None, "density")
    with pytest.raises(ParameterError, match="no density"):
        kept_centre(-density, keep, "density")


def test_the_new_box_holds_one_and_a_half_diameters(scenes):
    keep = scenes.soft_ball(64, (5, 3, -8), 10, 2)
    assert abs(kept_diameter_px(keep) - 22) <= 2
    assert 30 <= default_box(keep) <= 36
    assert default_box(keep) % 2 == 0
    assert default_box(keep, 8.0) >= default_box(keep) + 14
    assert default_box(keep, 40.0, 64) == 64


def ring(count, box, radius=14.0, height=6.0, half_only=False):
    """Mask of balls on a ring, above or also below the plane."""
    axis = np.arange(box) - box // 2
    total = np.zeros((box, box, box), np.float32)
    for copy in D7 if not half_only else D7[[abs(m[2, 2] - 1) < 1e-6 for m in D7]]:
        x, y, z = copy @ [radius, 0, height]
        distance = np.sqrt((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2)
        total = np.maximum(total, (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 3) / 3, 0, 1))))
        if count == 1:
            break
    return total.astype(np.float32)


def test_a_half_ring_gives_two_sub_particles_under_d7_and_a_subunit_fourteen():
    half = find_cosets(ring(7, 48, half_only=True), D7, serial_map)
    assert len(half.representatives) == 2
    assert half.representatives[0] == 0
    assert len(half.stabiliser) == 7
    assert np.allclose(D7[half.stabiliser][:, 2, 2], 1)
    assert np.sort(half.overlaps)[7] > 0.97
    assert np.sort(half.overlaps)[6] < 0.1
    one = find_cosets(ring(1, 48), D7, serial_map)
    assert one.representatives.tolist() == list(range(14))
    assert one.stabiliser.tolist() == [0]
    whole = find_cosets(ring(7, 48), D7, serial_map)
    assert whole.representatives.tolist() == [0]
    assert len(whole.stabiliser) == 14


def test_operators_of_one_coset_move_the_kept_part_to_the_same_place():
    cosets = find_cosets(ring(7, 48, half_only=True), D7, serial_map)
    first, second = (D7[number] for number in cosets.representatives)
    assert (first @ [0, 0, 1])[2] * (second @ [0, 0, 1])[2] < 0


def test_a_nearly_symmetric_mask_does_not_make_a_group_of_its_own(scenes):
    # two of seven operators above the threshold by chance are no subgroup
    rotations = np.stack([np.eye(3), rotation_z(3.0), rotation_z(120.0), rotation_z(240.0)])
    keep = scenes.soft_ball(32, (6, 0, 0), 6)
    found = find_cosets(keep, rotations, serial_map)
    assert (found.overlaps[:2] > 0.9).all()
    assert found.stabiliser.tolist() == [0]
    assert len(found.representatives) == 4
    with pytest.raises(ParameterError, match="empty"):
        find_cosets(0 * keep, rotations, serial_map)


def test_a_map_correlates_with_its_copies_only_if_it_has_the_symmetry(scenes):
    unit = scenes.blob((26, 0, 10), 10, 8, (2.6, 4), 3)

    def copies(operators):
        centres = np.concatenate([unit.centres_angst @ operator.T for operator in operators])
        return GaussianPhantom(
            centres, np.tile(unit.sigmas_angst, len(operators)), np.tile(unit.heights, len(operators))
        )

    density = copies(D7).volume(48, 2.0).astype(np.float32)
    real = pseudo_symmetry(density, D7, None, serial_map)
    assert real[0] == 1
    assert real.min() > 0.995
    c7 = D7[[abs(m[2, 2] - 1) < 1e-6 for m in D7]]
    density = copies(c7).volume(48, 2.0).astype(np.float32)
    seeming = pseudo_symmetry(density, D7, scenes.soft_ball(48, (0, 0, 0), 20), serial_map)
    flips = np.array([abs(m[2, 2] + 1) < 1e-6 for m in D7])
    assert seeming[~flips].min() > 0.995
    assert seeming[flips].max() < 0.5


@pytest.mark.parametrize("box", [32, 33])
def test_a_turned_mask_covers_the_turned_place(scenes, box):
    turn = rotation_z(90.0) @ rotation_x(30.0)
    place = np.array([6.0, 2.0, -3.0])
    turned = rotate_map(scenes.soft_ball(box, place, 5, 4), turn)
    assert np.abs(turned - scenes.soft_ball(box, turn @ place, 5, 4)).max() < 0.06
    outer = scenes.soft_ball(box, (0, 0, 0), 10)
    excluded = rotated_exclusion(scenes.soft_ball(box, place, 5, 4), outer, turn)
    assert np.abs(excluded - outer * (1 - turned)).max() < 1e-5


def test_groups_are_told_from_sets():
    assert is_closed_group(D7)
    assert not is_closed_group(D7[:5])


@pytest.mark.parametrize(
    "generators",
    [
        [rotation_z(360 / 7)],
        [rotation_z(360 / 7), rotation_x(180.0)],
        [rotation_z(180.0), axis_rotation((1, 1, 1), 120.0)],
        [rotation_z(90.0), axis_rotation((1, 1, 1), 120.0)],
        [rotation_z(180.0), axis_rotation((1, 1, 1), 120.0), axis_rotation((0, 1, (1 + 5**0.5) / 2), 72.0)],
    ],
    ids=["c7", "d7", "tet", "oct", "icos"],
)
def test_the_map_without_any_copy_projects_as_that_without_the_first_at_a_turned_pose(generators, scenes):
    # projection of V without S_n's copy at A = projection of V without the first copy at A S_n
    operators = close_group(np.stack(generators))
    unit = scenes.blob((14, 9, 23), 6, 3, (3, 5), 1)
    centres = [unit.centres_angst @ operator.T for operator in operators]

    def without(number):
        left = np.concatenate([one for index, one in enumerate(centres) if index != number])
        copies = len(operators) - 1
        return GaussianPhantom(left, np.tile(unit.sigmas_angst, copies), np.tile(unit.heights, copies))

    view = random_rotations(1, 4)
    first = without(0)
    for number, operator in enumerate(operators):
        seen = without(number).project(view, [[3.0, -1.0]], 32, 4.0)
        assert np.abs(first.project(view @ operator, [[3.0, -1.0]], 32, 4.0) - seen).max() < 1e-10
        if number and len(operators) < 20:
            assert np.abs(first.project(operator @ view, [[3.0, -1.0]], 32, 4.0) - seen).max() > 0.1


def test_halves_in_one_frame_agree(scenes):
    density = scenes.blob((10, 0, 0), 15, 20, (3, 5), 1).volume(32, 3.0)
    assert halves_agreement(density, 2 * density + 5) == pytest.approx(1)
    assert halves_agreement(density, density[:, :, ::-1]) < 0.5
    assert halves_agreement(density, 0 * density) == 0
