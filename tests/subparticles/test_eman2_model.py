"""The peer's model of signal subtraction, against what the peer wrote and against its formulas."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import fft

from centralslice.data.refinement import SourceRequest
from centralslice.errors import ParameterError
from centralslice.fourier.eman2_projection import (
    alignment_matrix,
    project_standard,
    rotate_volume,
    warp_image,
)
from centralslice.geometry.eulers import eman2_to_matrices
from centralslice.jobs.subparticles.eman2 import (
    ClassAlignments,
    Eman2Model,
    centre_on_power,
    class_alignments_of,
    class_order,
    clip_to_box,
    extract_eman2,
    radial_scales,
    subtract_rings,
)
from centralslice.jobs.subparticles.source import read_source
from centralslice.plugin.registry import load_registry


def stack_of(path: Path) -> tuple[np.ndarray, list[dict]]:
    with h5py.File(path) as file:
        groups = [file["MDF/images"][str(number)] for number in range(len(file["MDF/images"]))]
        return np.stack([group["image"][()] for group in groups]), [dict(group.attrs) for group in groups]


def transform_of(attributes: dict, name: str) -> np.ndarray:
    return np.array(attributes[name][0].tolist()).reshape(3, 4)


@cache
def refinement(folder: Path) -> tuple[ClassAlignments, np.ndarray]:
    """Alignments and images of the even particles, then the odd ones."""
    layers = np.concatenate(
        [stack_of(folder / f"refine_01/classmx_01_{half}.hdf")[0][:, :, 0] for half in ("even", "odd")],
        axis=1,
    )
    eulers = [
        transform_of(attributes, "EMAN.xform.projection")[:, :3]
        for attributes in stack_of(folder / "refine_01/projections_01_even.hdf")[1]
    ]
    images = [stack_of(folder / f"particles/ptcl__ctf_flip_{half}.hdf")[0] for half in ("even", "odd")]
    classes = ClassAlignments(
        np.array(eulers), layers[0].astype(np.int64), layers[4].astype(np.float64),
        layers[2:4].T.astype(np.float64), layers[5] > 0.5,
    )  # fmt: skip
    return classes, np.concatenate(images)


def volume_of(path: Path) -> np.ndarray:
    return stack_of(path)[0][0]


@pytest.mark.parametrize(
    ("output", "mask", "box"),
    [
        ("out_plain", None, -1),
        ("out_masked", "subunitmask", -1),
        ("out_outer", "outermask", -1),
        ("out_newbox", "subunitmask", 32),
    ],
)
def test_images_and_moves_are_those_the_peer_wrote(
    reference: Path, output: str, mask: str | None, box: int
) -> None:
    folder = reference / "subparticles"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    classes, images = refinement(folder)
    kept = volume_of(folder / "subunitmask.hdf")
    excluded = (1 - kept) * volume_of(folder / "refine_01/mask.hdf")
    model = Eman2Model(
        volume_of(folder / "refine_01/threed_01.hdf"), excluded, np.eye(3)[None],
        None if mask is None else volume_of(folder / f"{mask}.hdf"), box,
    )  # fmt: skip
    block = extract_eman2(model, classes, np.arange(len(images)), images)
    theirs, headers = stack_of(folder / f"{output}.hdf")
    rows = [
        int(header["EMAN.source_n"][0]) + 12 * (b"odd" in bytes(header["EMAN.source_path"]))
        for header in headers
    ]
    assert sorted(rows) == list(range(24))
    ours = block.images[rows, 0]
    moves = [transform_of(header, "EMAN.xform.align2d")[:2, 3] for header in headers]
    np.testing.assert_array_equal(block.moves_px[rows, 0], moves)
    errors = np.linalg.norm(ours - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))
    assert np.median(errors) < 1e-4
    assert errors.max() < 1.5e-3


def test_projection_along_an_axis_is_the_sum_of_planes_but_for_its_first_column() -> None:
    rng = np.random.default_rng(1)
    for size in (8, 9):
        volume = rng.normal(size=(size, size, size)).astype(np.float32)
        image = project_standard(volume, np.eye(3))
        expected = volume.sum(axis=0)
        expected[:, 0] = volume[-1, :, 0]
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)


def test_projection_reads_the_map_at_the_inverse_rotation_of_image_points() -> None:
    size, centre = 32, 16
    volume = np.zeros((size, size, size), np.float32)
    volume[centre + 3, centre - 5, centre + 6] = 1.0  # z, y, x
    rotation = eman2_to_matrices(90, 90, 0)[0]
    image = project_standard(volume, rotation)
    x, y, _ = np.rint(rotation @ (6, -5, 3)).astype(int)
    assert image[centre + y, centre + x] == pytest.approx(1.0, abs=1e-5)
    assert image.sum() == pytest.approx(1.0, abs=1e-4)


def test_turned_masks_lie_where_the_operator_takes_them() -> None:
    size, centre = 17, 8
    volume = np.zeros((size, size, size), np.float32)
    volume[centre + 1, centre + 2, centre + 3] = 1.0
    turn = eman2_to_matrices(90, 0, 0)[0]
    x, y, z = np.rint(turn @ (3, 2, 1)).astype(int)
    turned = rotate_volume(volume, turn)
    assert turned[centre + z, centre + y, centre + x] == pytest.approx(1.0, abs=1e-6)
    assert turned.sum() == pytest.approx(1.0, abs=1e-6)


def test_masks_turned_by_an_operator_give_the_projection_at_the_turned_view() -> None:
    """Projection of V·(E turned by S) at A is that of V·E at A S, if S leaves V as it is."""
    grid = np.arange(25) - 12
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    volume = np.exp(-((np.hypot(x, y) - 5) ** 2 + z**2) / 8).astype(np.float32)
    mask = (np.exp(-((x - 5) ** 2 + y**2 + z**2) / 8)).astype(np.float32)
    operator = eman2_to_matrices(90, 0, 0)[0]
    view = eman2_to_matrices(20, 50, 30)[0]
    left = project_standard(volume * rotate_volume(mask, operator), view)
    right = project_standard(volume * mask, view @ operator)
    np.testing.assert_allclose(left[:, 1:], right[:, 1:], atol=1e-4 * right.max())


def test_warping_follows_the_alignment_with_its_mirror_last() -> None:
    size, centre = 21, 10
    image = np.zeros((size, size), np.float32)
    image[centre + 2, centre + 4] = 1.0  # class frame q = (4, 2)
    shift = np.array([1.0, -3.0])
    for mirrored in (False, True):
        matrix = alignment_matrix(90.0, mirrored)
        sign = np.array([-1.0 if mirrored else 1.0, 1.0])
        warped = warp_image(image, matrix, shift * sign)
        # q = X^m (Rz p + t)  <=>  p = Rz^T (X^m q - t)
        point = np.array([[0.0, 1.0], [-1.0, 0.0]]).T @ (sign * (4.0, 2.0) - shift)
        x, y = np.rint(point).astype(int)
        assert warped[centre + y, centre + x] == pytest.approx(1.0, abs=1e-6)


def test_double_lines_and_corners_are_as_in_the_peer_for_even_and_odd_boxes() -> None:
    rng = np.random.default_rng(2)
    for size in (16, 15):
        image, part = rng.normal(size=(2, size, size))
        left = subtract_rings(fft.rfft2(image), fft.rfft2(part), np.ones(2 * size))
        difference = (fft.rfft2(image) - left) / fft.rfft2(part)
        ky, kx = np.fft.fftfreq(size, 1 / size)[:, None], np.arange(size // 2 + 1)[None]
        lines = (kx == 0) | (2 * kx == size) | (2 * np.abs(ky) == size)
        kept = np.floor(np.hypot(kx, ky)) < int(size / np.sqrt(2))
        np.testing.assert_allclose(difference[lines & kept], 2.0)
        np.testing.assert_allclose(difference[~lines & kept], 1.0)
        assert not left[~kept].any()


def test_scales_recover_the_factor_of_each_ring_and_leave_the_mean_alone() -> None:
    reference = fft.rfft2(np.random.default_rng(3).normal(size=(24, 24)))
    ky, kx = np.fft.fftfreq(24, 1 / 24)[:, None], np.arange(13)[None]
    rings = np.floor(np.hypot(kx, ky)).astype(int)
    factors = np.linspace(2, -1, rings.max() + 1)
    scales = radial_scales(factors[rings] * reference, reference)
    np.testing.assert_allclose(scales[1:], factors[1:])
    assert scales[0] == 0


def test_images_are_centred_on_their_power_and_constant_ones_are_not_moved() -> None:
    image = np.zeros((12, 12))
    image[2, 9] = 3.0
    moved, move = centre_on_power(image)
    assert move.tolist() == [-3, 4]
    assert moved[6, 6] == 3.0
    assert np.count_nonzero(moved) == 1
    constant, still = centre_on_power(np.full((12, 12), 2.0))
    assert still.tolist() == [0, 0]
    assert (constant == 2.0).all()


@pytest.mark.parametrize(("size", "box"), [(12, 7), (12, 8), (11, 6), (8, 13), (9, 12)])
def test_new_boxes_keep_the_peers_window_and_pad_with_zeros(size: int, box: int) -> None:
    image = np.arange(1.0, size * size + 1).reshape(size, size)
    clipped = clip_to_box(image, box)
    first = (size - box) // 2
    padded = np.pad(image, box)[first + box : first + 2 * box, first + box : first + 2 * box]
    np.testing.assert_array_equal(clipped, padded)


def test_pixels_that_were_exactly_zero_stay_zero_and_copies_follow_the_operators() -> None:
    rng = np.random.default_rng(4)
    grid = np.arange(24) - 12
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    volume = np.exp(-(x**2 + y**2 + z**2) / 30).astype(np.float32)
    mask = (x > 0).astype(np.float32)
    operators = np.concatenate([np.eye(3)[None], eman2_to_matrices(180, 0, 0)])
    classes = ClassAlignments(
        np.eye(3)[None], np.zeros(3, np.int64), np.zeros(3), np.zeros((3, 2)), np.zeros(3, bool)
    )
    images = rng.normal(size=(3, 24, 24)) + project_standard(volume, np.eye(3))
    images[1, :, :4] = 0.0
    block = extract_eman2(Eman2Model(volume, mask, operators), classes, np.arange(3), images)
    assert block.images.shape == (3, 2, 24, 24)
    assert block.moves_px.shape == (3, 2, 2)
    alone = extract_eman2(Eman2Model(volume, mask, operators[1:]), classes, np.array([1]), images[1:2])
    np.testing.assert_array_equal(alone.images[0, 0], block.images[1, 1])
    dx = block.moves_px[1, 0, 0]
    assert not block.images[1, 0][:, max(0, dx) : max(0, 4 + dx)].any()


def test_images_of_another_box_are_refused_and_order_groups_classes() -> None:
    classes = ClassAlignments(
        np.stack([np.eye(3)] * 2), np.array([1, 0, 1, 0]), np.zeros(4), np.zeros((4, 2)), np.zeros(4, bool)
    )
    assert class_order(classes).tolist() == [1, 3, 0, 2]
    cube = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(ParameterError, match="map's box"):
        extract_eman2(Eman2Model(cube, cube, np.eye(3)[None]), classes, np.arange(1), np.zeros((1, 9, 9)))


def test_refine_folders_give_the_alignments_and_poses_that_agree_with_them(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = reference / "subparticles"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    monkeypatch.chdir(folder)
    request = SourceRequest(Path("refine_01"), 1, alignments="classmx", reference="combined")
    particles = read_source(request, load_registry()).particles
    classes = class_alignments_of(particles)
    expected, _ = refinement(folder)
    np.testing.assert_allclose(
        classes.rotations[classes.numbers], expected.rotations[expected.numbers], atol=1e-6
    )
    np.testing.assert_array_equal(classes.alpha_deg, expected.alpha_deg)
    np.testing.assert_array_equal(classes.shifts_px, expected.shifts_px)
    np.testing.assert_array_equal(classes.mirrored, expected.mirrored)
    # A = Z^m Rz(α)^T X^m E,  s = −Rz(α)^T t
    for row in range(len(particles)):
        turn = np.eye(3)
        turn[:2, :2] = alignment_matrix(classes.alpha_deg[row], False).T
        flip, over = np.eye(3), np.eye(3)
        if classes.mirrored[row]:
            flip, over = np.diag([-1.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0])
        pose = over @ turn @ flip @ classes.rotations[classes.numbers[row]]
        np.testing.assert_allclose(particles.rotations[row], pose, atol=1e-5)
        shift = -2.0 * turn[:2, :2] @ classes.shifts_px[row]
        np.testing.assert_allclose(particles.shifts_angst[row], shift, atol=1e-5)
    with pytest.raises(ParameterError, match="refine_XX folders only"):
        class_alignments_of(replace(particles, columns={}))
