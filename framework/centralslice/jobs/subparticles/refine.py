"""Poses of particles improved against the whole map before anything is subtracted (``--localrefine``).

Refinements that compare particles with a set of projections leave angles that are multiples of their step; here
each particle's own correlation with the map's CTF projection is climbed, one parameter after the other:

    score = Re Σ I M* / √(Σ |M|²),  M = CTF · slice(pose)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.fourier.slice_reading import SliceReader
from centralslice.geometry.rotations import rotation_from_vectors
from centralslice.jobs.subparticles.optics import GroupTables, project, transfer
from centralslice.jobs.subparticles.subtract import ParentBlock

#: Farthest shift from the given one along x and y, pixels.
FARTHEST_PX = 1.0
#: Rounds; steps halve after each.
_ROUNDS = 4


def refine_poses(
    parents: ParentBlock, tables: GroupTables, full: SliceReader, limit_deg: float, parallel: ParallelMap
) -> tuple[FloatArray, FloatArray]:
    """Better poses of a block of particles.

    Parameters
    ----------
    parents
        Particles with the poses to start from.
    tables
        Of their optics group.
    full
        The whole map.
    limit_deg
        Farthest turn about each axis of the image.
    parallel
        Threads.

    Returns
    -------
    rotations, shifts_px
        (b, 3, 3) and (b, 2); those given where nothing better was found.
    """

    def refine(number: int) -> tuple[FloatArray, FloatArray]:
        image = parents.images[number]
        if np.ptp(image) == 0:
            return parents.rotations[number], parents.shifts_px[number]
        spectrum = scipy.fft.rfft2(image - image.mean(dtype=np.float64))
        ctf = None if parents.ctf is None else parents.ctf.take(np.array([number]))
        factors = transfer(tables, ctf, 0, 1.0)
        first, shift = parents.rotations[number], parents.shifts_px[number]

        def score(change: FloatArray) -> float:
            pose = rotation_from_vectors(np.radians(change[None, :3]))[0] @ first
            return _score(spectrum, project(full, pose, shift + change[3:], tables, factors))

        change = _climb(score, np.array([limit_deg] * 3 + [FARTHEST_PX] * 2))
        return rotation_from_vectors(np.radians(change[None, :3]))[0] @ first, shift + change[3:]

    found = parallel(refine, range(len(parents.rows)))
    return np.array([pose for pose, _ in found]).reshape(-1, 3, 3), np.array(
        [shift for _, shift in found]
    ).reshape(-1, 2)


def _score(spectrum: ComplexArray, model: ComplexArray) -> float:
    """Correlation up to the image's own norm; the columns kx > 0 count twice, as they do in the image."""
    products = (spectrum * model.conj()).real
    power = np.abs(model) ** 2
    cross, norm = 2 * products.sum() - products[:, 0].sum(), 2 * power.sum() - power[:, 0].sum()
    return float(cross / np.sqrt(norm)) if norm > 0 else 0.0


def _climb(score: Callable[[FloatArray], float], limits: FloatArray) -> FloatArray:
    """The best change of five parameters within ± limits: parabolas along each, steps halving."""
    best = np.zeros(len(limits))
    highest = score(best)
    step = limits / 2
    for _ in range(_ROUNDS):
        for axis in range(len(limits)):
            trials = []
            for sign in (-1.0, 1.0):
                trial = best.copy()
                trial[axis] = np.clip(trial[axis] + sign * step[axis], -limits[axis], limits[axis])
                trials.append((score(trial), trial))
            (below, low), (above, high) = trials
            curvature = below - 2 * highest + above
            if curvature < 0 and step[axis] > 0:
                peak = best.copy()
                peak[axis] = np.clip(
                    best[axis] + 0.5 * step[axis] * (below - above) / curvature, low[axis], high[axis]
                )
                trials.append((score(peak), peak))
            value, trial = max(trials, key=lambda pair: pair[0])
            if value > highest:
                highest, best = value, trial
        step = step / 2
    return best
