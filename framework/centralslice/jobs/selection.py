"""Which particles of a file a reconstruction uses, with which weight, in which half set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.data.particles import Particles
from centralslice.errors import ParameterError, SelectionError


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """The user's choice.

    Attributes
    ----------
    keep
        Fraction kept (or threshold, or number of standard deviations); 1 keeps all, 0 none.
    keep_sigma
        ``keep`` counts standard deviations above the mean quality.
    keep_absolute
        ``keep`` is the largest quality value kept.
    model
        Only particles of this model or class, or None.
    subset
        Only this half set (1 or 2), or None.
    split
        ``random:SEED`` or ``parity`` where there are no half sets, or None.
    weighting
        ``weight`` as in the metadata, ``square_root`` of it, or ``none``.
    peer_rounding
        A fraction keeps ⌊n · keep⌋ + 1 particles, as EMAN2 does.
    """

    keep: float = 1.0
    keep_sigma: bool = False
    keep_absolute: bool = False
    model: int | None = None
    subset: int | None = None
    split: str | None = None
    weighting: str = "weight"
    peer_rounding: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The particles used, their rows in the file, how many were dropped for what reason, and what to say."""

    particles: Particles
    rows: IntArray
    dropped: dict[str, int]
    notes: tuple[str, ...] = ()


def select(particles: Particles, rules: SelectionRules) -> Selection:
    """Apply the rules, in the order model, quality, weight zero, subset; then make half sets if asked.

    Raises
    ------
    SelectionError
        If nothing is left, the subset or model does not exist, or --split meets existing half sets.
    """
    used = np.ones(len(particles), bool)
    dropped: dict[str, int] = {}

    def drop(reason: str, keep: BoolArray) -> None:
        lost = int(np.count_nonzero(used & ~keep))
        if lost:
            dropped[reason] = lost
        np.logical_and(used, keep, out=used)
        if not used.any():
            raise SelectionError(f"{particles.source}: no particle is left after: {reason}")

    if rules.model is not None:
        drop(f"model other than {rules.model} (--input-model)", particles.model_number == rules.model)
    quality = particles.quality[used]
    threshold = quality_threshold(quality, rules)
    notes: tuple[str, ...] = ()
    if 0 < rules.keep < 1 and not rules.keep_absolute and np.ptp(quality) == 0:
        notes = (f"all {len(quality)} particles have the same quality, so --keep {rules.keep:g} drops none",)
    which = f"above {threshold:g}" if np.isfinite(threshold) else "of any value"
    drop(f"quality {which} (--keep {rules.keep:g})", particles.quality <= threshold)
    weighted = replace(particles, weight=_weights(particles.weight, rules.weighting))
    drop("weight zero", weighted.weight > 0)
    halves = half_sets(weighted, rules)
    if rules.subset is not None:
        if not np.any(halves > 0):
            raise SelectionError(
                f"{particles.source}: --subset {rules.subset}: there are no half sets; give --split"
            )
        drop(f"half set other than {rules.subset} (--subset)", halves == rules.subset)
    rows = np.flatnonzero(used)
    return Selection(replace(weighted, half_set=halves).take(rows), rows, dropped, notes)


def quality_threshold(quality: FloatArray, rules: SelectionRules) -> float:
    """Largest quality kept (smaller is better).

    Notes
    -----
    A fraction keeps ``round(n · keep)`` particles and those that tie with the last of them.
    """
    if len(quality) == 0:
        return float("inf")
    if rules.keep_absolute:
        return rules.keep
    if rules.keep_sigma:
        return float("inf") if np.ptp(quality) == 0 else float(quality.mean() + rules.keep * quality.std())
    if not 0.0 <= rules.keep <= 1.0:
        raise ParameterError(f"--keep: expected a fraction from 0 to 1, got {rules.keep:g}")
    wanted = int(len(quality) * rules.keep) + 1 if rules.peer_rounding else round(len(quality) * rules.keep)
    if wanted == 0:
        return -float("inf")
    if wanted >= len(quality) or np.ptp(quality) == 0:
        return float("inf")
    return float(np.partition(quality, wanted - 1)[wanted - 1])


def _weights(weight: FloatArray, weighting: str) -> FloatArray:
    if weighting == "none":
        return np.ones(len(weight))
    return np.sqrt(np.maximum(weight, 0)) if weighting == "square_root" else weight


def half_sets(particles: Particles, rules: SelectionRules) -> IntArray:
    """Half set of each particle, existing or made by ``--split``."""
    return split_half_sets(particles.half_set, rules.split, particles.source)


def split_half_sets(present: IntArray, split: str | None, source: Path) -> IntArray:
    """Half sets by ``--split``.

    Parameters
    ----------
    present
        (n,) half set of each particle so far; returned as it is without ``split``.
    split
        ``random:SEED``, ``parity`` or None.
    source
        The metadata file, for messages.
    """
    if split is None:
        return present
    if np.any(present > 0):
        raise SelectionError(f"{source}: has half sets already; leave out --split")
    count = len(present)
    kind, _, seed = split.partition(":")
    if kind == "parity" and not seed:
        return (1 + np.arange(count) % 2).astype(np.int8)
    if kind == "random" and seed.isdigit():
        order = np.random.default_rng(int(seed)).permutation(count)
        return (1 + order % 2).astype(np.int8)
    raise ParameterError(f"--split: expected random:SEED or parity, got '{split}'")
