"""One tilt series' table of RELION 5 or 4 as arrays: projections, CTF, dose, deformation of the images."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.particles import ContrastTransfer
from centralslice.data.tilt_series import Deformation, DeformationKind
from centralslice.errors import FormatError, ParameterError
from centralslice.geometry.tilt_geometry import angles_of_matrices, coefficient_count, projection_matrices
from centralslice_plugins.formats.relion_optics import check_finite
from centralslice_plugins.formats.star import StarTable

_ROWS = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ", "rlnTomoProjW")
_ANGLES = ("rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
_X_TILT = "rlnTomoXTilt"
_STAGE = "rlnTomoNominalStageTiltAngle"
_GRID = ("rlnTomoDeformationGridSizeX", "rlnTomoDeformationGridSizeY")
_KIND = "rlnTomoDeformationType"
_COEFFICIENTS = "rlnTomoDeformationCoefficients"
#: Projections whose 3×3 part has a smaller determinant than this flatten the tomogram.
_LEAST_DETERMINANT = 1e-3


def finite_numbers(table: StarTable, label: str, default: float | None = None) -> FloatArray:
    """(rows,) finite numbers of a label, or its default; raises FormatError naming file, row and label."""
    if label not in table and default is not None:
        return np.full(len(table), default)
    values = table.numbers(label)
    check_finite(table, label, values)
    return values


def has_matrices(table: StarTable) -> bool:
    """Whether the table says its projections as matrices; raises FormatError if some of their rows lack."""
    missing = [f"_{label}" for label in _ROWS if label not in table]
    if missing and len(missing) < len(_ROWS):
        raise FormatError(
            f"{table.source}: block '{table.block}' has no {', '.join(missing)}, but other rows of the "
            "projection matrices; all four are needed"
        )
    return not missing


def has_angles(table: StarTable) -> bool:
    """Whether the table says its projections as angles and shifts."""
    return all(label in table for label in _ANGLES)


def matrices(table: StarTable) -> FloatArray:
    """(f, 4, 4) projections of ``rlnTomoProjX … W``; raises FormatError naming row and label."""
    result = np.empty((len(table), 4, 4))
    for place, label in enumerate(_ROWS):
        for tilt, vector in enumerate(table.vectors(label)):
            if len(vector) != 4:
                raise FormatError(
                    f"{table.where(tilt)}: _{label}: expected 4 numbers [a,b,c,d], got {len(vector)}"
                )
            result[tilt, place] = vector
    wrong = np.abs(result[:, 3] - (0, 0, 0, 1)).max(axis=1, initial=0.0) > 1e-6
    if wrong.any():
        tilt = int(np.argmax(wrong))
        shown = ",".join(f"{value:g}" for value in result[tilt, 3])
        raise FormatError(f"{table.where(tilt)}: _rlnTomoProjW: expected [0,0,0,1], got [{shown}]")
    flat = np.abs(np.linalg.det(result[:, :3, :3])) < _LEAST_DETERMINANT
    if flat.any():
        raise FormatError(
            f"{table.where(int(np.argmax(flat)))}: _rlnTomoProjX … W: the projection matrix is singular; "
            "expected a rotation and a shift"
        )
    return result


def matrices_of_angles(
    table: StarTable, pixel_angst: float, image_size: tuple[int, int], size: tuple[int, int, int]
) -> FloatArray:
    """(f, 4, 4) projections of tilt angles and shifts; raises FormatError naming a column that lacks."""
    missing = [f"_{label}" for label in _ANGLES if label not in table]
    if missing:
        raise FormatError(
            f"{table.source}: block '{table.block}' has no {', '.join(missing)}: a tilt series needs "
            f"{', '.join(f'_{label}' for label in _ANGLES)}, or _rlnTomoProjX … W; align it first"
        )
    y_tilt, z_rot, x_shift, y_shift = (finite_numbers(table, label) for label in _ANGLES)
    shifts = np.stack([x_shift, y_shift], axis=1) / pixel_angst
    return projection_matrices(finite_numbers(table, _X_TILT, 0.0), y_tilt, z_rot, shifts, image_size, size)


def stage_angles(table: StarTable, projections: FloatArray) -> FloatArray:
    """(f,) tilt angle, degrees: the stage's, or else that of the projections."""
    if _STAGE in table:
        return finite_numbers(table, _STAGE)
    return angles_of_matrices(projections)[1]


def tilt_contrast(table: StarTable) -> ContrastTransfer:
    """(f,) CTF parameters at the tomogram's centre; defocus is required."""
    return ContrastTransfer(
        defocus_u_angst=finite_numbers(table, "rlnDefocusU"),
        defocus_v_angst=finite_numbers(table, "rlnDefocusV"),
        defocus_angle_deg=finite_numbers(table, "rlnDefocusAngle"),
        phase_shift_deg=finite_numbers(table, "rlnPhaseShift", 0.0),
        bfactor_angst2=finite_numbers(table, "rlnCtfBfactor", 0.0),
        scale=finite_numbers(table, "rlnCtfScalefactor", 1.0),
    )


def tilt_doses(table: StarTable) -> FloatArray:
    """(f,) e/Å² before each tilt; raises FormatError for a negative one."""
    dose = finite_numbers(table, "rlnMicrographPreExposure")
    if (dose < 0).any():
        tilt = int(np.argmax(dose < 0))
        raise FormatError(
            f"{table.where(tilt)}: _rlnMicrographPreExposure: expected e/Å² from 0, got {dose[tilt]:g}"
        )
    return dose


def deformation(tomograms: StarTable, row: int, tilts: StarTable) -> Deformation | None:
    """The image deformation that a tomogram's row declares, with its tilts' coefficients.

    Raises
    ------
    FormatError
        If one of its columns lacks, its type is unknown or a tilt has another number of coefficients.
    """
    labels = (*_GRID, _KIND)
    missing = [f"_{label}" for label in labels if label not in tomograms]
    if len(missing) == len(labels):
        return None
    if missing:
        raise FormatError(
            f"{tomograms.source}: block '{tomograms.block}' has no {', '.join(missing)}: a deformation needs "
            f"{', '.join(f'_{label}' for label in labels)}"
        )
    grid = (int(tomograms.integers(_GRID[0])[row]), int(tomograms.integers(_GRID[1])[row]))
    if grid == (0, 0):
        return None
    kind = str(tomograms.texts(_KIND)[row])
    if kind not in get_args(DeformationKind):
        known = ", ".join(get_args(DeformationKind))
        raise FormatError(f"{tomograms.where(row)}: _{_KIND}: expected one of {known}, got '{kind}'")
    if _COEFFICIENTS not in tilts:
        raise FormatError(
            f"{tilts.source}: block '{tilts.block}' has no _{_COEFFICIENTS}, but {tomograms.source} declares a "
            f"{kind} deformation of its images"
        )
    declared = Deformation(cast(DeformationKind, kind), grid, np.empty((0, 0)))
    try:
        wanted = coefficient_count(declared)
    except ParameterError as error:
        raise FormatError(f"{tomograms.where(row)}: {error}") from error
    rows = tilts.vectors(_COEFFICIENTS)
    for tilt, vector in enumerate(rows):
        if len(vector) != wanted:
            raise FormatError(
                f"{tilts.where(tilt)}: _{_COEFFICIENTS}: expected {wanted} numbers ({kind}, grid {grid[0]} x "
                f"{grid[1]}), got {len(vector)}"
            )
    return Deformation(declared.kind, grid, np.array(rows, np.float64).reshape(len(rows), wanted))
