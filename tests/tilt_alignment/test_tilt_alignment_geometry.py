"""Where points of a tomogram are in the recorded images: IMOD's definition, AreTomo's and RELION's own files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.geometry.tilt_geometry import image_positions
from centralslice_plugins.formats.aretomo import images_of, read_aln
from centralslice_plugins.formats.imod import TiltCommand, read_tilt_command, read_transforms, read_x_tilts
from centralslice_plugins.formats.star import read_star
from centralslice_plugins.formats.tilt_alignment import Alignment, projections, upright
from centralslice_plugins.formats.tilt_angles import read_tilt_angles

numbers = st.floats(-40, 40)


@pytest.fixture
def metadata(reference):
    folder = reference / "third_party" / "tomo_metadata"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def at(matrices, points):
    """(f, n, 3) of (n, 3)."""
    return np.einsum("fij,nj->fni", matrices[:, :3, :3], points) + matrices[:, None, :3, 3]


def alignment_of(path, transforms, angles, x_tilts=0.0, command=TiltCommand()):  # noqa: B008 - frozen
    matrices, shifts = transforms
    count = len(matrices)
    return Alignment(
        path, matrices, shifts, angles + command.angle_offset_deg,
        np.full(count, x_tilts) - command.x_axis_tilt_deg, np.arange(count), command,
    )  # fmt: skip


def imod_projects(point, size, tilt, x_tilt, command):
    """Where ``tilt`` looks for a voxel of its output in the aligned image, from the image's centre.

    In the output file a column is x, a row goes down in the specimen and a slice is a line of the images. Numbers
    from 1; the middle of w columns or rows is w // 2 + ½. ``SHIFT`` moves what is in the output, ``OFFSET`` the
    axis. The specimen is turned by minus the angles as seen from −y.
    """
    column, row, line = np.asarray(point) + 1.0
    width, lines, rows = size
    beta = -np.deg2rad(tilt + command.angle_offset_deg)
    alpha = -np.deg2rad(x_tilt - command.x_axis_tilt_deg)
    x = column - (width // 2 + 0.5 + command.axis_offset_px + command.shift_px[0])
    z = row - (rows // 2 + 0.5 + command.shift_px[1])
    y = line - (lines / 2 + 0.5)
    across = (
        x * np.cos(beta) + y * np.sin(alpha) * np.sin(beta) + z * np.cos(alpha) * np.sin(beta)
        + command.axis_offset_px
    )  # fmt: skip
    return across, y * np.cos(alpha) - z * np.sin(alpha)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.floats(0, 20), st.floats(0, 9), st.floats(0, 20)), st.tuples(*[st.integers(8, 31)] * 3),
    st.tuples(st.integers(8, 31), st.integers(8, 31)), st.floats(-70, 70), st.floats(-9, 9), numbers,
    st.tuples(*[st.floats(-9, 9)] * 5), st.tuples(numbers, numbers), st.floats(0.95, 1.05),
)  # fmt: skip
def test_a_voxel_of_the_reconstruction_is_where_imod_took_it_from(
    voxel, size, image, tilt, x_tilt, turn, entries, shift, stretch
):
    command = TiltCommand(entries[0], entries[1], entries[2], (entries[3], entries[4]))
    angle = np.deg2rad(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (stretch, 1.0)
    aligned = np.array(imod_projects(voxel, size, tilt, x_tilt, command))
    # newstack: aligned = M (raw − (n − 1) / 2) + t, both from the centre
    raw = np.linalg.solve(matrix, aligned - shift) + (np.array(image) - 1) / 2
    found = projections(
        alignment_of(None, (matrix[None], np.array([shift])), np.array([tilt]), x_tilt, command), image, size
    )
    point, _ = upright(np.array([voxel]), np.eye(3)[None], "none", size[2])
    assert_allclose(at(found, point)[0, 0, :2], raw, atol=1e-9)


@given(st.tuples(*[st.floats(0, 20)] * 3), st.integers(2, 30))
def test_the_three_ways_a_tomogram_may_lie_are_one_place_and_one_orientation(point, thickness):
    column, row, line = point
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turned *= np.linalg.det(turned)
    rx = np.array([column, line, thickness - 1 - row])
    yz = np.array([column, line, row])
    for flip, where in (("none", point), ("yz", yz), ("rx", rx)):
        placed, rotations = upright(np.array([where]), turned[None], flip, thickness)
        assert_allclose(placed[0], rx, atol=1e-12)
        assert_allclose(rotations[0] @ rotations[0].T, np.eye(3), atol=1e-12)
        assert_allclose(np.linalg.det(rotations[0]), 1)
    # two voxels apart along an axis of the particle's map stay so
    step = turned @ (0, 0, 1.0)
    for flip in ("none", "rx"):
        ends, rotations = upright(np.array([point, point + step]), np.stack([turned] * 2), flip, thickness)
        assert_allclose(ends[1] - ends[0], rotations[0] @ (0, 0, 1.0), atol=1e-12)


@pytest.mark.parametrize("name", ["220728_TS_01", "220728_TS_03", "220728_TS_45"])
def test_relions_own_tables_of_series_that_imod_aligned_are_met(metadata, files, tmp_path, name):
    (table,) = (
        read_star(metadata / f"relion_tests/tilt_series_metadata/tilt_series/{name}.star").by_block().values()
    )
    pixel, size = 1.35, (4000, 4000, 3000)
    rows = {
        key: table.numbers(f"rlnTomo{key}")
        for key in ("XTilt", "YTilt", "ZRot", "XShiftAngst", "YShiftAngst")
    }
    theirs = np.stack([np.array(table.vectors(f"rlnTomoProj{row}")) for row in "XYZW"], axis=1)
    # RELION has its matrices of .xf files as ZRot = −angle of M, shift = −M⁻¹ t; centres are whole halves
    shifts = np.stack([rows["XShiftAngst"], rows["YShiftAngst"]], 1) / pixel
    centre = theirs[:, :2, 3] + np.einsum("fij,j->fi", theirs[:, :2, :3], np.array(size) / 2) - shifts
    assert_allclose(centre, np.broadcast_to((1855.0, 1919.0), centre.shape), atol=2e-3)
    matrices = files.rotations(-rows["ZRot"])
    files.xf(tmp_path / "a.xf", matrices, -np.einsum("fij,fj->fi", matrices, shifts))
    files.rows(tmp_path / "a.tlt", rows["YTilt"], "%8.3f")
    found = projections(
        alignment_of(None, read_transforms(tmp_path / "a.xf"), read_tilt_angles(tmp_path / "a.tlt"), rows["XTilt"]),
        (3710, 3838), size,
    )  # fmt: skip
    assert_allclose(found[:, :3, :3], theirs[:, :3, :3], atol=1e-4)
    # RELION counts from the corners of the first pixel and voxel where IMOD counts from their centres
    points = np.array([[2000, 2000, 1500], [100, 3900, 1500], [3000, 500, 1700.0]])
    assert_allclose(at(found, points - 0.5)[..., :2] + 0.5, at(theirs, points)[..., :2], atol=0.01)
    depth = at(theirs, points)[..., 2] - at(theirs, np.array([size]) / 2)[..., 2]
    assert_allclose(at(found, points - 0.5)[..., 2], depth, atol=0.05)


def test_aretomos_own_two_forms_of_an_alignment_agree(metadata):
    folder = metadata / "alnfile"
    found = read_aln(folder / "global_no_local.aln")
    matrices, shifts = read_transforms(folder / "global_no_local.xf")
    angles = read_tilt_angles(folder / "global_no_local.tlt")
    assert found.raw_size == (4096, 4096, 61)
    assert_array_equal(images_of(found, folder, 61), np.arange(61))
    assert not found.local
    size, image = (4096, 4096, 2050), (4096, 4096)
    ours = projections(
        alignment_of(None, (found.matrices, found.shifts_px), found.tilt_angles_deg), image, size
    )
    theirs = projections(alignment_of(None, (matrices, shifts), angles), image, size)
    assert_allclose(ours[:, :3, :3], theirs[:, :3, :3], atol=1e-4)
    centre = (np.array(size) - 1) / 2
    assert_allclose(at(ours, centre[None])[..., :2], at(theirs, centre[None])[..., :2], atol=0.01)


def test_dark_images_of_aretomo_are_left_out(metadata):
    path = metadata / "alnfile/global_and_local.aln"
    found = read_aln(path)
    assert found.local
    assert len(found.dark) + len(found.sections) == found.raw_size[2] == 51
    kept = images_of(found, path, 51)
    assert kept.tolist() == [image for image in range(51) if image not in set(found.dark.tolist())]
    assert_array_equal(images_of(found, path, len(kept)), np.arange(len(kept)))


def test_etomos_real_files_are_read(metadata):
    folder = metadata / "etomofiles/TS_001"
    matrices, shifts = read_transforms(folder / "TS_001.xf")
    assert matrices.shape == (40, 2, 2)
    assert_allclose(shifts[0], (2.395, -3.871))
    assert_allclose(read_x_tilts(folder / "TS_001.xtilt")[0], -0.01)
    command = read_tilt_command(metadata / "cryoet_alignment/convert/imod_1/tilt.com")
    assert command.thickness_px == 2000
    assert command.shift_px == (0, 0)
    assert command.tilt_angles == metadata / "cryoet_alignment/convert/imod_1/mka2018-10-01-1.tlt"
    assert command.x_tilts is not None


def test_the_rotation_centre_and_the_shift_of_a_transform_are_those_of_newstack(example, read, files):
    particles = read(example, coordinates=files.rows(example.coordinates, [[12.5, 10.5, 4.5]]))
    (series,) = particles.series
    matrices, shifts = read_transforms(example.alignment)
    expected = (np.array([30, 24]) - 1) / 2 - np.einsum("fij,fj->fi", np.linalg.inv(matrices), shifts)
    assert_allclose(image_positions(series, particles.positions)[0], expected, atol=1e-9)


def test_coordinates_of_binned_tomograms_and_other_origins_are_one_place(example, read, files):
    plain = read(example).positions
    for binning, first in (
        (4.0, (0, 0, 0)),
        (4.0, (0.5, 0.5, 0.0)),
        (1.0, (1, 1, 1)),
        (2.5, (0.5, 0.5, 0.5)),
    ):
        rows = (plain + 0.5) / binning - 0.5 + np.array(first)
        path = files.rows(example.coordinates.with_name("other.txt"), rows)
        found = read(example, coordinates=path, coordinate_binning=binning, first_pixel=first)
        assert_allclose(found.positions, plain, atol=1e-7)


def test_tilt_com_gives_angles_shifts_and_the_views_to_leave_out(example, read):
    com = example.alignment.with_name("tilt.com")
    com.write_text(
        "# a comment\n$tilt -StandardInput\nTILTFILE TS_1.tlt\nIMAGEBINNED 4\nOFFSET 1.5 2\nSHIFT 3.0 -1.0\n"
        "XAXISTILT 0.75\nTHICKNESS 10\nEXCLUDELIST2 1,4-5\n"
    )
    found = read(example, tilt_angles=None, tilt_command=com)
    (series,) = found.series
    assert series.image_number.tolist() == [1, 2]
    assert_allclose(series.tilt_angles_deg, [-18.5, 2.0])
    assert any("excluded" in note for note in found.notes)
    turned = projections(
        Alignment(
            com, *read_transforms(example.alignment), np.array([-41, -18.5, 2, 22.75, 41.5]), np.full(5, -0.75),
            np.arange(5), TiltCommand(0.75, 1.5, 2.0, (3.0, -1.0)),
        ), (30, 24), example.size,
    )  # fmt: skip
    assert_allclose(series.projections, turned[1:3], atol=1e-12)
    whole = replace(example, tilt_command=com)
    assert_allclose(read(whole).series[0].projections, series.projections, atol=1e-12)
