"""Where a tomogram's points are in its tilt images: projections, deformed images, depth, visibility.

Tomogram and image coordinates are 0-based unbinned pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import BoolArray, FloatArray
from centralslice.data.tilt_series import Deformation, TiltSeries
from centralslice.errors import ParameterError
from centralslice.geometry.rotations import rotation_x, rotation_y, rotation_z

#: How far from the last node of a spline grid a clamped coordinate stays, in grid steps.
_GRID_MARGIN = 1e-10


def projection_matrices(
    x_tilt_deg: ArrayLike,
    y_tilt_deg: ArrayLike,
    z_rot_deg: ArrayLike,
    shifts_px: ArrayLike,
    image_size: tuple[int, int],
    tomogram_size: tuple[int, int, int],
) -> FloatArray:
    """Projection of each tilt as a RELION 5 tilt table describes it.

    Parameters
    ----------
    x_tilt_deg, y_tilt_deg, z_rot_deg
        (f,) rlnTomoXTilt, rlnTomoYTilt, rlnTomoZRot, degrees.
    shifts_px
        (f, 2) shift of each image in pixels (rlnTomoX/YShiftAngst divided by the pixel size).
    image_size
        (nx, ny) of the tilt images.
    tomogram_size
        (x, y, z) of the tomogram.

    Returns
    -------
        (f, 4, 4) float64: homogeneous tomogram pixel to image pixel, row 2 the depth.

    Notes
    -----
    ``P = T(shift) T(image centre) Rz Ry Rx T(−tomogram centre)`` with centres of whole halves (rounded
    towards 0); for odd sizes they differ from :attr:`TiltSeries.centre` by half a pixel, as in RELION.
    """
    shifts = np.asarray(shifts_px, np.float64).reshape(-1, 2)
    turns = rotation_z(z_rot_deg) @ rotation_y(y_tilt_deg) @ rotation_x(x_tilt_deg)
    turns = turns.reshape(-1, 3, 3)
    if len(turns) != len(shifts):
        raise ParameterError(
            f"tilt angles and shifts: expected as many of each, got {len(turns)} and {len(shifts)}"
        )
    tomogram_centre = np.array([int(side / 2) for side in tomogram_size], np.float64)
    result = np.zeros((len(shifts), 4, 4))
    result[:, :3, :3] = turns
    result[:, :3, 3] = -(turns @ tomogram_centre)
    result[:, :2, 3] += shifts + np.array([int(side / 2) for side in image_size], np.float64)
    result[:, 3, 3] = 1.0
    return result


def angles_of_matrices(matrices: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``(x_tilt, y_tilt, z_rot)``, each (f,) degrees, of (f, 4, 4) or (f, 3, 3) projections.

    The inverse of :func:`projection_matrices` for the rotation; a common scale does not matter. At a Y tilt
    of ±90° only one combination of the others is defined: the X tilt is 0 there.
    """
    a = np.asarray(matrices, np.float64)
    flat = np.hypot(a[..., 0, 0], a[..., 1, 0])
    steep = flat < 1e-12 * np.abs(a[..., 2, 0])
    x_tilt = np.where(steep, 0.0, np.arctan2(a[..., 2, 1], a[..., 2, 2]))
    y_tilt = np.arctan2(-a[..., 2, 0], flat)
    z_rot = np.where(steep, np.arctan2(-a[..., 0, 1], a[..., 1, 1]), np.arctan2(a[..., 1, 0], a[..., 0, 0]))
    return np.rad2deg(x_tilt), np.rad2deg(y_tilt), np.rad2deg(z_rot)


def image_positions(
    series: TiltSeries, positions_px: ArrayLike, motion_angst: ArrayLike | None = None
) -> FloatArray:
    """Where particles are in the tilt images, deformation included.

    Parameters
    ----------
    series
        The tilt series, f tilts.
    positions_px
        (n, 3) positions in its tomogram.
    motion_angst
        (n, f, 3) displacements along the tomogram's axes, Å, or None.

    Returns
    -------
        (n, f, 2) float64, x and y in image pixels.
    """
    positions = np.asarray(positions_px, np.float64).reshape(-1, 3)
    rows = series.projections[:, :2, :3]
    centres: FloatArray = np.einsum("fij,nj->nfi", rows, positions) + series.projections[:, :2, 3]
    if motion_angst is not None:
        motion = np.asarray(motion_angst, np.float64) / series.pixel_size_angst
        centres += np.einsum("fij,nfj->nfi", rows, motion)
    if series.deformation is not None:
        centres += displacements(series.deformation, centres, series.image_size)
    return centres


def depth_defocus(series: TiltSeries, positions_px: ArrayLike) -> FloatArray:
    """(n, f) Å to add to the defocus of (n, 3) positions: the depth below the tomogram's centre, motion apart.

    ``hand · pixel · slope · [(P pos)_z − (P C)_z]``, C = half the size, not rounded.
    """
    offsets = np.asarray(positions_px, np.float64).reshape(-1, 3) - series.centre
    depth: FloatArray = offsets @ series.projections[:, 2, :3].T
    return series.hand * series.pixel_size_angst * series.defocus_slope * depth


def inside_images(centres: ArrayLike, image_size: tuple[int, int], margin_px: float) -> BoolArray:
    """(n, f): whether (n, f, 2) image positions are more than ``margin_px`` inside ``(0, nx)`` × ``(0, ny)``.

    RELION takes half the output box as margin. A position that is not finite is not inside.
    """
    at = np.asarray(centres, np.float64)
    within = (at > margin_px) & (at < np.array(image_size, np.float64) - margin_px)
    result: BoolArray = within[..., 0] & within[..., 1]
    return result


def displacements(deformation: Deformation, centres: ArrayLike, image_size: tuple[int, int]) -> FloatArray:
    """d of :class:`Deformation` at (n, f, 2) positions in the images, in pixels.

    Raises
    ------
    ParameterError
        If the number of coefficients is not that of the model and grid.
    """
    at = np.asarray(centres, np.float64)
    wanted = coefficient_count(deformation)
    got = deformation.coefficients.shape
    if got != (at.shape[-2], wanted):
        raise ParameterError(
            f"{deformation.kind} deformation: expected {wanted} coefficients for each of {at.shape[-2]} tilts, "
            f"got an array of shape {got}"
        )
    size = np.array(image_size, np.float64)
    if deformation.kind == "linear":
        return _linear(deformation, at - size / 2)
    if deformation.kind == "spline":
        return _spline(deformation, at, size)
    return _waves(deformation, at, size)


def coefficient_count(deformation: Deformation) -> int:
    """How many coefficients a tilt has in this model and grid; raises ParameterError for a grid too small."""
    if deformation.kind == "linear":
        return 3
    across, down = deformation.grid
    if min(across, down) < 2:
        raise ParameterError(
            f"{deformation.kind} deformation: expected a grid of at least 2 × 2, got {across} × {down}"
        )
    if deformation.kind == "spline":
        return 8 * across * down
    return 4 * len(_wave_numbers(deformation.grid))


def _linear(deformation: Deformation, offsets: FloatArray) -> FloatArray:
    """d = (a x, b x + c y) of offsets from the image centre."""
    a, b, c = deformation.coefficients.T
    x, y = offsets[..., 0], offsets[..., 1]
    return np.stack([a * x, b * x + c * y], -1)


def _hermite(t: FloatArray) -> FloatArray:
    """(…, 4) cubic Hermite basis: value at 0, value at 1, slope at 0, slope at 1."""
    t2, t3 = t * t, t * t * t
    return np.stack([1 - 3 * t2 + 2 * t3, 3 * t2 - 2 * t3, t - 2 * t2 + t3, t3 - t2], -1)


def _spline(deformation: Deformation, at: FloatArray, size: FloatArray) -> FloatArray:
    """Bicubic Hermite patches; each node has value, slope in x, slope in y and twist, per cell."""
    across, down = deformation.grid
    most = np.array([across - 1, down - 1], np.float64)
    place = np.clip(at * most / size, 0.0, most - _GRID_MARGIN)
    cell = place.astype(np.int64)
    weights = _hermite(place - cell)
    nodes = deformation.coefficients.reshape(-1, 2, down, across, 2, 2)
    tilt = np.arange(at.shape[-2])
    result = np.zeros_like(at)
    for step_x in (0, 1):
        for step_y in (0, 1):
            # (n, f, dimension, slope in y, slope in x)
            node = nodes[tilt, :, cell[..., 1] + step_y, cell[..., 0] + step_x]
            along, up = weights[..., 0, step_x::2], weights[..., 1, step_y::2]
            result += np.einsum("...dyx,...x,...y->...d", node, along, up)
    return result


def _wave_numbers(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """(x, y) wave numbers in the order of the coefficients; y from gy // 2 on is negative."""
    across, down = grid
    numbers: list[tuple[int, int]] = []
    for y in range(down):
        first, signed = (1 if y == 0 else 0, y) if y < down // 2 else (1, y - down)
        numbers += [(x, signed) for x in range(first, across // 2 + 1)]
    return numbers


def _waves(deformation: Deformation, at: FloatArray, size: FloatArray) -> FloatArray:
    """Σ of cosines and sines of ω·c, ω = π (x / nx, y / ny)."""
    omega = np.pi * np.array(_wave_numbers(deformation.grid), np.float64) / size
    phase = at @ omega.T
    table = deformation.coefficients.reshape(at.shape[-2], 2, -1, 2)
    cosines: FloatArray = np.einsum("nfk,fdk->nfd", np.cos(phase), table[..., 0])
    sines: FloatArray = np.einsum("nfk,fdk->nfd", np.sin(phase), table[..., 1])
    return cosines + sines
