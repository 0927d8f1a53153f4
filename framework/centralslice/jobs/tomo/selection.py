"""Which particles and which of their tilts a tomo run uses, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.tilt_series import TiltParticles, TiltSeries
from centralslice.errors import ParameterError, SelectionError
from centralslice.geometry.tilt_geometry import image_positions, inside_images
from centralslice.jobs.selection import split_half_sets
from centralslice.jobs.tomo.settings import TiltRules

#: Particles whose positions are worked out at a time.
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class TiltSelection:
    """What is used.

    Attributes
    ----------
    particles
        Those with at least one tilt, half 1, then half 2, then the others; a tilt series after the other in each.
    used
        (m,) bool, by ``tilt_start`` of the particles: whether that tilt of that particle is used.
    counts
        (n,) tilts used of each particle.
    dropped_particles, dropped_tilts
        Reason to number.
    """

    particles: TiltParticles
    used: BoolArray
    counts: IntArray
    dropped_particles: dict[str, int]
    dropped_tilts: dict[str, int]


def select_tilts(
    particles: TiltParticles, rules: TiltRules, subset: int | None, split: str | None,
    margins: FloatArray | None,
) -> TiltSelection:  # fmt: skip
    """Apply the rules.

    Parameters
    ----------
    particles
        As they were read.
    rules
        About tilts.
    subset, split
        Only this half set; how to make half sets, or None.
    margins
        For each tilt series, how far in unbinned pixels a particle must be inside an image; None: the images are
        extracted already, so none is looked at.

    Raises
    ------
    SelectionError
        If nothing is left.
    """
    dropped: dict[str, int] = {}
    halves = split_half_sets(particles.half_set, split, particles.source)
    particles = replace(particles, half_set=halves)
    if subset is not None:
        if not np.any(halves > 0):
            raise SelectionError(
                f"{particles.source}: --subset {subset}: there are no half sets; give --split"
            )
        dropped["half set other than the --subset"] = int(np.count_nonzero(halves != subset))
        particles = particles.take(halves == subset)
    used, dropped_tilts = _used_tilts(particles, rules, margins)
    counts = _counts(particles, used)
    dropped["no tilt left"] = int(np.count_nonzero(counts == 0))
    if not np.any(counts):
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped_tilts.items() if number)
        raise SelectionError(
            f"{particles.source}: no particle has a tilt that can be used: {reasons or 'none left'}"
        )
    kept = np.flatnonzero(counts)
    halves = particles.half_set[kept]
    order = np.lexsort((particles.series_number[kept], np.where(halves == 0, 3, halves)))
    kept = kept[order]
    return TiltSelection(
        particles.take(kept), used, counts[kept], {why: n for why, n in dropped.items() if n},
        {why: n for why, n in dropped_tilts.items() if n},
    )  # fmt: skip


def tilt_choice(series: TiltSeries, rules: TiltRules) -> Iterator[tuple[str, BoolArray]]:
    """Why tilts of a series are not used, and (f,) which are by that reason."""
    if rules.range_deg is not None:
        low, high = rules.range_deg
        angles = series.tilt_angles_deg
        yield "outside --tilt-range", (angles >= low) & (angles <= high)
    if rules.max_dose is not None:
        yield "above --max-dose", series.dose <= rules.max_dose
    if rules.first is not None:
        order = np.argsort(np.argsort(series.dose, kind="stable"), kind="stable")
        yield "not of the --first-tilts", order < rules.first


def motion_of(particles: TiltParticles, rows: IntArray, tilts: int) -> FloatArray | None:
    """(n, f, 3) displacements in Å of particles of one series, or None."""
    if particles.motion is None:
        return None
    found: FloatArray = particles.motion[particles.tilt_start[rows][:, None] + np.arange(tilts)]
    return found


def _used_tilts(
    particles: TiltParticles, rules: TiltRules, margins: FloatArray | None
) -> tuple[BoolArray, dict[str, int]]:
    """(m,) which tilts of which particles are used, and how many are not for which reason."""
    total = max(
        (int(start) + len(particles.series[number])
         for start, number in zip(particles.tilt_start, particles.series_number, strict=True)),
        default=0,
    )  # fmt: skip
    used = np.zeros(total, bool)
    dropped: dict[str, int] = {}
    for number, series in enumerate(particles.series):
        every = np.flatnonzero(particles.series_number == number)
        for start in range(0, len(every), _AT_ONCE):
            rows = every[start : start + _AT_ONCE]
            where = particles.tilt_start[rows][:, None] + np.arange(len(series))
            keep = np.ones(where.shape, bool)
            reasons = [(why, np.broadcast_to(good, keep.shape)) for why, good in tilt_choice(series, rules)]
            if rules.visible_frames == "use" and particles.visible is not None:
                reasons.append(("not in the visible frames", particles.visible[where]))
            if margins is not None:
                centres = image_positions(
                    series, particles.positions[rows], motion_of(particles, rows, len(series))
                )
                inside = inside_images(centres, series.image_size, float(margins[number]))
                reasons.append(("outside the image", inside))
            for why, good in reasons:
                dropped[why] = dropped.get(why, 0) + int(np.count_nonzero(keep & ~good))
                keep &= good
            used[where] = keep
    return used, dropped


def _counts(particles: TiltParticles, used: BoolArray) -> IntArray:
    before = np.concatenate([[0], np.cumsum(used)])
    lengths = np.array([len(series) for series in particles.series])[particles.series_number]
    counts: IntArray = before[particles.tilt_start + lengths] - before[particles.tilt_start]
    return counts


def check_rules(rules: TiltRules) -> None:
    """Refuse rules that can keep nothing; raises ParameterError."""
    if rules.range_deg is not None and not rules.range_deg[0] <= rules.range_deg[1]:
        low, high = rules.range_deg
        raise ParameterError(f"--tilt-range: expected the smaller angle first, got {low:g} {high:g}")
    if rules.max_dose is not None and not rules.max_dose >= 0:
        raise ParameterError(f"--max-dose: expected 0 e/Å² or more, got {rules.max_dose:g}")
    if rules.first is not None and rules.first < 1:
        raise ParameterError(f"--first-tilts: expected 1 or more, got {rules.first}")
