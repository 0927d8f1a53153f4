"""Which sub-particles of a parent are left out by their geometry (localrec's filters; Abrishami et al. 2021)."""

from __future__ import annotations

import numpy as np

from centralslice.conventions import BoolArray, FloatArray
from centralslice.jobs.subparticles.rows import Rows
from centralslice.jobs.subparticles.settings import FilterSettings

#: A sub-particle whose box misses more of its area than this is flagged or dropped (``--edge``).
MOST_MISSING = 0.25
_NEARLY = 1e-9


def passing(rows: Rows, each: int, pixels_angst: FloatArray, rules: FilterSettings) -> BoolArray:
    """Which rows pass all filters.

    Parameters
    ----------
    rows
        All sub-particles of some parents, ``each`` of every one.
    each
        Sub-particles a parent.
    pixels_angst
        (m,) pixel size of each row's parent, Å.
    rules
        The limits. Views are judged first, then angular duplicates among those left, then distances among
        all of the parent.

    Returns
    -------
        (m,) bool.
    """
    kept = np.ones(len(rows), bool)
    inclination = np.degrees(np.arccos(np.clip(rows.direction[:, 2], -1, 1)))
    if rules.side_deg is not None:
        kept &= np.abs(inclination - 90) <= rules.side_deg
    if rules.top_deg is not None:
        kept &= np.minimum(inclination, 180 - inclination) <= rules.top_deg
    if rules.unique_deg is not None:
        kept &= _first_of_each_direction(rows, each, kept, rules.unique_deg)
    if rules.min_distance_angst is not None:
        kept &= _far_from_others(rows, each, pixels_angst, rules.min_distance_angst)
    return kept


def _first_of_each_direction(rows: Rows, each: int, among: BoolArray, limit_deg: float) -> BoolArray:
    """Whether no kept earlier sub-particle of the parent lies in nearly the same direction."""
    direction = rows.direction.reshape(-1, each, 3)
    cosines = np.einsum("pik,pjk->pij", direction, direction)
    near = cosines >= np.cos(np.radians(limit_deg)) - _NEARLY
    kept = among.reshape(-1, each).copy()
    for later in range(1, each):
        kept[:, later] &= ~np.any(near[:, later, :later] & kept[:, :later], axis=1)
    return kept.ravel()


def _far_from_others(rows: Rows, each: int, pixels_angst: FloatArray, limit_angst: float) -> BoolArray:
    """Whether no other sub-particle of the parent is nearer in projection."""
    position = (rows.position_px * pixels_angst[:, None]).reshape(-1, each, 2)
    distance = np.linalg.norm(position[:, :, None] - position[:, None, :], axis=3)
    distance[:, np.arange(each), np.arange(each)] = np.inf
    result: BoolArray = (distance.min(axis=2) >= limit_angst).ravel()
    return result
