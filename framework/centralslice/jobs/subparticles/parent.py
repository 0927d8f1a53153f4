"""One parent: its transform, models of it, its gain and scale, and what is left of it for each copy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
from numba import njit

from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.particles import ContrastTransfer
from centralslice.errors import ParameterError
from centralslice.fourier.slice_reading import SliceReader
from centralslice.jobs.subparticles.blocks import Copies, GroupModel, ModelMaps, OutputSettings, ParentBlock
from centralslice.jobs.subparticles.gain import RingStatistics, image_curve, particle_scales
from centralslice.jobs.subparticles.optics import GroupTables, project, transfer


@dataclass(frozen=True, slots=True)
class Parent:
    """A parent's transform (its mean taken off and kept apart) and what multiplies its models.

    ``spectrum`` (n, n // 2 + 1) complex64, ``image`` (n, n) as it was, ``factors`` of
    :func:`centralslice.jobs.subparticles.optics.transfer`, ``ctf`` of this one image, ``factor`` of the model.
    """

    spectrum: ComplexArray
    image: FloatArray
    mean: float
    factors: ComplexArray
    ctf: ContrastTransfer | None
    factor: float
    tables: GroupTables

    @staticmethod
    def of(parents: ParentBlock, number: int, tables: GroupTables) -> Parent:
        """One of a block."""
        image = parents.images[number]
        if parents.image_factor is not None:
            image = image * np.float32(parents.image_factor[number])
        factor = 1.0 if parents.model_factor is None else float(parents.model_factor[number])
        mean = float(image.mean(dtype=np.float64))
        spectrum = scipy.fft.rfft2((image - np.float32(mean)).astype(np.float32, copy=False))
        spectrum[0, 0] = 0
        ctf = None if parents.ctf is None else parents.ctf.take(np.array([number]))
        return Parent(spectrum, image, mean, transfer(tables, ctf, 0, factor), ctf, factor, tables)

    def model(self, reader: SliceReader, rotation: FloatArray, shift_px: FloatArray) -> ComplexArray:
        """Transform of a map's projection with this image's CTF."""
        return project(reader, rotation, shift_px, self.tables, self.factors)

    def kept_model(
        self, maps: ModelMaps, copies: Copies, copy: int, rotation: FloatArray, shift_px: FloatArray
    ) -> ComplexArray:
        """Model of the kept part: the whole map's less the subtracted part's."""
        if maps.full is None:
            raise ParameterError("subparticles: the kept part's projection needs the whole map")
        excluded = self.model(maps.excluded, copies.reading[copy], copies.shifts_px[copy])
        return self.model(maps.full, rotation, shift_px) - excluded

    def statistics(self, model: ComplexArray) -> FloatArray:
        """(3, rings) sums of :class:`RingStatistics`."""
        sums = np.zeros((3, self.tables.rings))
        _ring_sums(sums, self.spectrum, model)
        return sums

    def refocused(self, change_angst: float) -> Parent:
        """The same image, but its models have another defocus."""
        if self.ctf is None:
            return self
        ctf = replace(
            self.ctf,
            defocus_u_angst=self.ctf.defocus_u_angst + change_angst,
            defocus_v_angst=self.ctf.defocus_v_angst + change_angst,
        )
        return replace(self, ctf=ctf, factors=transfer(self.tables, ctf, 0, self.factor))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A parent, its gain times scale on each ring, and the maps."""

    parent: Parent
    maps: ModelMaps
    whole: ComplexArray | None
    curve: FloatArray
    subtract: bool
    scale: float
    clipped: bool

    def residual(self, copies: Copies, copy: int) -> tuple[ComplexArray, float]:
        """Transform of the parent without the unwanted part, and its correlation with the kept part."""
        spectrum = self.parent.spectrum
        if not self.subtract:
            return spectrum, math.nan
        model = self.parent.model(self.maps.excluded, copies.reading[copy], copies.shifts_px[copy])
        result = np.empty_like(spectrum)
        whole = spectrum[:0] if self.whole is None else self.whole
        sums = np.zeros(3)
        _subtract(result, spectrum, model, whole, self.curve, sums)
        power = math.sqrt(sums[1] * sums[2])
        return result, sums[0] / power if self.whole is not None and power > 0 else math.nan


def fit_parent(
    parent: Parent, parents: ParentBlock, number: int, model: GroupModel, output: OutputSettings
) -> Fitted:
    """Scale and gain of one parent of a block."""
    maps, gain = model.maps, model.gain
    if not output.subtract:
        return Fitted(parent, maps, None, gain.curve, False, 1.0, False)
    whole, curve, scale, clipped = None, gain.curve, 1.0, False
    if maps.full is not None:
        whole = parent.model(maps.full, parents.rotations[number], parents.shifts_px[number])
        if gain.mode != "none":
            statistics = RingStatistics(parents.rows[number : number + 1], parent.statistics(whole)[None])
            found = particle_scales(statistics, gain)
            scale, clipped = float(found.scale[0]), bool(found.clipped[0])
            curve = image_curve(statistics, 0) if gain.mode == "eman" else scale * gain.curve
    if output.keep_dc:
        curve = curve.copy()
        curve[0] = 0.0
    return Fitted(parent, maps, whole, curve, True, scale, clipped)


def correlation(spectrum: ComplexArray, model: ComplexArray, curve: FloatArray, first: float) -> float:
    """Σ Re(I (g M)*) / √Σ |g M|² over rings from ``first``."""
    sums = np.zeros((3, len(curve)))
    _ring_sums(sums, spectrum, model)
    used = np.arange(len(curve)) >= first
    power = float((sums[1] * curve**2)[used].sum())
    return float((sums[0] * curve)[used].sum()) / math.sqrt(power) if power > 0 else 0.0


@njit(nogil=True, cache=True)
def _ring_sums(sums: Any, spectrum: Any, model: Any) -> None:
    """Σ Re(I M*), Σ |M|², Σ |I|² over independent modes of each ring."""
    size, half = spectrum.shape
    rings = sums.shape[1]
    for row in range(size):
        ky = row if row <= (size - 1) // 2 else row - size
        for kx in range(half):
            ring = int(math.sqrt(float(kx * kx + ky * ky)))
            if ring >= rings:
                break
            image, found = spectrum[row, kx], model[row, kx]
            weight = 0.5 if kx == 0 else 1.0
            sums[0, ring] += weight * (image.real * found.real + image.imag * found.imag)
            sums[1, ring] += weight * (found.real * found.real + found.imag * found.imag)
            sums[2, ring] += weight * (image.real * image.real + image.imag * image.imag)


@njit(nogil=True, cache=True)
def _subtract(result: Any, spectrum: Any, model: Any, whole: Any, curve: Any, sums: Any) -> None:
    """``spectrum − curve[R] · model``; sums of its product with the kept part, and of both squares."""
    size, half = spectrum.shape
    rings = len(curve)
    correlate = len(whole) > 0
    for row in range(size):
        ky = row if row <= (size - 1) // 2 else row - size
        for kx in range(half):
            ring = int(math.sqrt(float(kx * kx + ky * ky)))
            gain = np.float32(curve[ring]) if ring < rings else np.float32(0)
            left = spectrum[row, kx] - gain * model[row, kx]
            result[row, kx] = left
            if correlate and gain != 0 and ring > 0:
                kept = gain * (whole[row, kx] - model[row, kx])
                weight = 0.5 if kx == 0 else 1.0
                sums[0] += weight * (left.real * kept.real + left.imag * kept.imag)
                sums[1] += weight * (left.real * left.real + left.imag * left.imag)
                sums[2] += weight * (kept.real * kept.real + kept.imag * kept.imag)
