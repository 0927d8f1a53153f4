"""How strongly a map is in the images: a radial gain for each group, and a scale for each particle.

The image is modelled as ``I = b_p g(R) M + noise``, M the projection of the map with CTF, R = ⌊√(kx² + ky²)⌋.

    g(R)  = Σ_p β_p Σ_ring Re(I M*) / Σ_p β_p² Σ_ring |M|²,   mean of three rings, β_p = b_p / median
    σ²(R) = noise power per mode / (2 Σ_p β_p² Σ_ring |M|²)
    Rc    = first R >= 2 where g < 3 σ;  g = 0 from there, g(0) = g(1)
    b_p   = Σ Re(I (g M)*) / Σ |g M|²  over 1 <= R < Rc, shrunk towards the group's median

Sums run over independent Fourier modes: one of each Friedel pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import BoolArray, FloatArray, IntArray

ScaleMode: TypeAlias = Literal["group", "particle", "none", "eman"]

#: The three sums of a ring.
CROSS, MODEL, POWER = 0, 1, 2
#: A gain below this many of its standard deviations is not significant.
SIGNIFICANCE = 3.0
#: Scales outside these multiples of the median are clipped.
SMALLEST_SCALE, LARGEST_SCALE = 0.2, 5.0
#: A median absolute deviation of a normal distribution is 1 / 1.4826 of its standard deviation.
_MAD_TO_SIGMA = 1.4826
#: Curve and scales are fitted in turn this often after the first curve.
_PASSES = 3
#: Particles whose scale is this many standard deviations (and half a median) off do not count for the group.
_FAR = 6.0


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """Sums over the rings of some images.

    Attributes
    ----------
    rows
        (m,) int64 rows of the run.
    values
        (m, 3, rings) float64: ``Σ Re(I M*)``, ``Σ |M|²``, ``Σ |I|²``.
    """

    rows: IntArray
    values: FloatArray

    @staticmethod
    def join(parts: Sequence[RingStatistics]) -> RingStatistics:
        """All rows of some parts with the same rings, in order of rows: the same for parts in any order."""
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows, kind="stable")
        return RingStatistics(rows[order], np.concatenate([part.values for part in parts])[order])

    def take(self, chosen: IntArray | BoolArray) -> RingStatistics:
        """Some of the images."""
        return RingStatistics(self.rows[chosen], self.values[chosen])


@dataclass(frozen=True, slots=True)
class GroupGain:
    """The gain of one group of particles.

    Attributes
    ----------
    mode
        ``group``: g and b_p; ``particle``: g is 1 and only b_p counts; ``none``: both are 1; ``eman``: each image
        has its own ``a(R) = Σ_ring Re(I M*) / Σ_ring |M|²``, 0 at R = 0.
    curve
        (rings,) g(R).
    sigma
        (rings,) its standard deviation.
    noise
        (rings,) noise power per Fourier mode of an image.
    cutoff
        Rc: g is 0 from this ring.
    median, spread
        Of b_p over the group, the variance of the estimates taken off the spread.
    count
        Images it was found from; 0 if nothing was fitted.
    """

    mode: ScaleMode
    curve: FloatArray
    sigma: FloatArray
    noise: FloatArray
    cutoff: int
    median: float = 1.0
    spread: float = 0.0
    count: int = 0

    def resolution_angst(self, size: int, pixel_size_angst: float) -> float:
        """Resolution of ring Rc of images of ``size`` pixels, Å."""
        return size * pixel_size_angst / max(self.cutoff, 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        return {
            "mode": self.mode, "gain": self.curve.tolist(), "sigma": self.sigma.tolist(),
            "cutoff_ring": self.cutoff, "median_scale": self.median, "spread_of_scales": self.spread,
            "particles": self.count,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParticleScales:
    """``scale`` (m,) float64 b_p, and ``clipped`` (m,) whether it was out of range."""

    scale: FloatArray
    clipped: BoolArray


def unit_gain(size: int, mode: ScaleMode = "none") -> GroupGain:
    """A gain of 1 everywhere, for modes that fit nothing to a group (``none``, ``eman``)."""
    rings = size // 2 + 1
    return GroupGain(mode, np.ones(rings), np.zeros(rings), np.zeros(rings), rings)


def fit_gain(statistics: RingStatistics, mode: ScaleMode, size: int) -> GroupGain:
    """The gain of one group.

    Parameters
    ----------
    statistics
        Of images of this group, full projections as models.
    mode
        See :class:`GroupGain`.
    size
        Pixels of the images.

    Returns
    -------
        A gain with cutoff 2 and zeros if the map is nowhere significant in the images.
    """
    if mode in ("none", "eman") or len(statistics.rows) == 0:
        return unit_gain(size, mode)
    everything = statistics
    gain = _fit_curve(statistics, np.ones(len(statistics.rows)), mode, size)
    for _ in range(_PASSES):
        raw, _variance = _raw_scales(everything, gain)
        if len(raw) == 0 or not gain.median > 0:
            break
        distance = np.abs(raw - gain.median)
        usual = distance <= _FAR * _MAD_TO_SIGMA * np.median(distance) + 0.5 * gain.median
        statistics = everything.take(usual)
        relative = particle_scales(statistics, gain).scale / gain.median
        gain = _fit_curve(statistics, relative, mode, size)
    return gain


def _fit_curve(statistics: RingStatistics, relative: FloatArray, mode: ScaleMode, size: int) -> GroupGain:
    """Gain, noise and spread of scales, given each particle's scale relative to the group's median.

    Without the scales their spread would look like noise: particles of other contrast fit the mean badly.
    """
    sums = np.einsum("p,psr->sr", relative, statistics.values)
    cross, power = sums[CROSS], statistics.values[:, POWER].sum(axis=0)
    model = np.einsum("p,pr->r", relative**2, statistics.values[:, MODEL])
    modes = modes_of_rings(size) * len(statistics.rows)
    gain = np.divide(cross, model, out=np.zeros_like(cross), where=model > 0)
    noise = np.maximum(power - gain * cross, 0.0) / np.maximum(modes, 1.0)
    variance = np.divide(noise, 2 * model, out=np.zeros_like(noise), where=model > 0)
    curve, sigma = _smooth(gain), np.sqrt(_smooth(variance) / 3)
    used = _smooth((model > 0).astype(np.float64)) > 1 - 1e-6
    weak = ~used | (curve <= SIGNIFICANCE * sigma)
    weak[:2] = False
    cutoff = int(np.argmax(weak)) if weak.any() else len(curve)
    curve = np.ones_like(curve) if mode == "particle" else curve
    curve[0] = curve[1]
    curve[cutoff:] = 0.0
    found = GroupGain(mode, curve, sigma, noise, cutoff, count=len(statistics.rows))
    raw, spread = _raw_scales(statistics, found)
    if len(raw) == 0:
        return found
    median = float(np.median(raw))
    deviation = _MAD_TO_SIGMA * float(np.median(np.abs(raw - median)))
    true = math.sqrt(max(deviation**2 - float(np.median(spread)), 0.0))
    return replace(found, median=median, spread=true)


def particle_scales(statistics: RingStatistics, gain: GroupGain) -> ParticleScales:
    """b_p of images, shrunk and clipped; 1 in the modes without it.

    Notes
    -----
    ``b = m + w (b_raw − m)``, ``w = τ² / (τ² + var)``: m and τ of the group, var of the estimate.
    """
    count = len(statistics.rows)
    if gain.mode in ("none", "eman") or gain.count == 0:
        return ParticleScales(np.ones(count), np.zeros(count, np.bool_))
    raw, variance = _raw_scales(statistics, gain)
    if len(raw) == 0:
        return ParticleScales(np.ones(count), np.zeros(count, np.bool_))
    total = gain.spread**2 + variance
    weight = np.divide(gain.spread**2, total, out=np.zeros_like(total), where=total > 0)
    shrunk = gain.median + weight * (raw - gain.median)
    low, high = sorted((SMALLEST_SCALE * gain.median, LARGEST_SCALE * gain.median))
    return ParticleScales(np.clip(shrunk, low, high), (shrunk < low) | (shrunk > high))


def image_curve(statistics: RingStatistics, number: int) -> FloatArray:
    """(rings,) ``a(R)`` of one image, mode ``eman``."""
    cross, model, _ = statistics.values[number]
    curve: FloatArray = np.divide(cross, model, out=np.zeros_like(cross), where=model > 0)
    curve[0] = 0.0
    return curve


def modes_of_rings(size: int) -> FloatArray:
    """(size // 2 + 1,) independent Fourier modes in each ring ⌊r⌋, one of each Friedel pair."""
    rows = np.fft.fftfreq(size, 1 / size)
    columns = np.arange(size // 2 + 1)
    rings = np.hypot(rows[:, None], columns).astype(np.int64)
    weights = np.broadcast_to(np.where(columns == 0, 0.5, 1.0), rings.shape)
    inside = rings < size // 2 + 1
    return np.asarray(np.bincount(rings[inside], weights[inside], minlength=size // 2 + 1), np.float64)


def sample_rows(groups: IntArray, most: int = 2000, seed: int = 0) -> IntArray:
    """Rows for the first pass: at most ``most`` of each group at random, sorted; the same for the same seed."""
    chosen = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        if len(rows) > most:
            rows = np.random.default_rng([seed, int(group)]).choice(rows, most, replace=False)
        chosen.append(rows)
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def grouping(
    optics_group: IntArray, half_set: IntArray, micrograph: NDArray[Any] | None = None, least: int = 50
) -> IntArray:
    """Group of each particle: optics group × half set, and × micrograph where that leaves >= ``least``.

    Parameters
    ----------
    optics_group, half_set
        (n,) int.
    micrograph
        (n,) names or numbers, or None.
    least
        Particles of a micrograph (of one optics group and half) that make a group of their own.

    Returns
    -------
        (n,) int64 numbers 0, 1, … without gaps.
    """
    base = np.unique(np.stack([optics_group, half_set], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    if micrograph is None:
        return np.asarray(base, np.int64)
    names = np.unique(micrograph, return_inverse=True)[1].reshape(-1)
    pairs, counts = np.unique(
        np.stack([base, names], axis=1), axis=0, return_inverse=True, return_counts=True
    )[1:]
    pairs = pairs.reshape(-1)
    own = np.where(counts[pairs] >= least, pairs, -1)
    found = np.unique(np.stack([base, own], axis=1), axis=0, return_inverse=True)[1]
    return np.asarray(found.reshape(-1), np.int64)


def _raw_scales(statistics: RingStatistics, gain: GroupGain) -> tuple[FloatArray, FloatArray]:
    """Unshrunk b_p and the variance of each; empty if no ring counts."""
    rings = slice(1, gain.cutoff)
    curve = gain.curve[rings]
    cross = statistics.values[:, CROSS, rings] @ curve
    terms = statistics.values[:, MODEL, rings] * curve**2
    total = terms.sum(axis=1)
    if gain.cutoff < 2 or not np.any(total > 0):
        return np.zeros(0), np.zeros(0)
    safe = np.where(total > 0, total, 1.0)
    variance = (terms @ gain.noise[rings]) / 2 / safe**2
    raw = np.where(total > 0, cross / safe, 0.0)
    return raw, np.where(total > 0, variance, np.inf)


def _smooth(values: FloatArray) -> FloatArray:
    """Mean of each ring and its neighbours; ring 0, the mean of the images, is left out of it."""
    padded = np.concatenate([values[1:2], values[1:], values[-1:]])
    smooth: FloatArray = np.convolve(padded, np.full(3, 1 / 3), "valid")
    return np.concatenate([smooth[:1], smooth])
