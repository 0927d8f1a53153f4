"""Sub-particle images: the unwanted part of the map subtracted from the parent, the rest moved and cut out.

    out(k) = I(k) − b_p g(R) · model(k),  R = ⌊√(kx² + ky²)⌋

A parent is transformed once, its CTF computed once, and the whole map projected once for the scale b_p; every
copy then takes one slice of the map without the kept part, one inverse transform and a crop. Parents are
independent of each other, so any number of threads gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.fft
from numba import njit

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.errors import ParameterError
from centralslice.fourier.slice_reading import SliceReader
from centralslice.jobs.subparticles.blocks import (
    Copies,
    GroupModel,
    ModelMaps,
    OutputSettings,
    ParentBlock,
    SubparticleBlock,
)
from centralslice.jobs.subparticles.gain import GroupGain, RingStatistics
from centralslice.jobs.subparticles.optics import GroupTables
from centralslice.jobs.subparticles.parent import Parent, correlation, fit_parent
from centralslice.jobs.subparticles.window import Mask2D, background_of, crop_moved, projected_mask

__all__ = [
    "Copies",
    "ModelMaps",
    "OutputSettings",
    "ParentBlock",
    "SubparticleBlock",
    "debug_strip",
    "defocus_hand_scores",
    "ring_statistics",
    "subtract_block",
]


def ring_statistics(
    parents: ParentBlock, tables: GroupTables, full: SliceReader, parallel: ParallelMap
) -> RingStatistics:
    """What :func:`centralslice.jobs.subparticles.gain.fit_gain` needs of the parents: one full slice each."""

    def of(number: int) -> FloatArray:
        parent = Parent.of(parents, number, tables)
        return parent.statistics(parent.model(full, parents.rotations[number], parents.shifts_px[number]))

    values = parallel(of, range(len(parents.rows)))
    return RingStatistics(parents.rows, np.array(values).reshape(len(parents.rows), 3, tables.rings))


def subtract_block(
    parents: ParentBlock,
    copies: Copies,
    tables: GroupTables,
    maps: ModelMaps,
    gain: GroupGain,
    output: OutputSettings,
    parallel: ParallelMap,
) -> SubparticleBlock:
    """The sub-particles of a block.

    Raises
    ------
    ParameterError
        If the scale mode needs the full map and there is none, CTF parameters are missing, or images have
        another size than the tables.
    """
    model = GroupModel(tables, maps, gain)
    if maps.full is None and output.subtract and gain.mode != "none":
        raise ParameterError(f"--scale-mode {gain.mode}: needs the projection of the whole map")
    if parents.images.shape[1:] != (tables.size, tables.size):
        raise ParameterError(
            f"subparticles: images are {parents.images.shape[2]}×{parents.images.shape[1]} pixels, expected "
            f"{tables.size}×{tables.size} as their optics group says"
        )
    count, total = len(parents.rows), len(copies.parent)
    images = np.empty((total, output.box, output.box), np.float32)
    scale, clipped = np.ones(count), np.zeros(count, np.bool_)
    residual_cc = np.full(total, np.nan)
    starts = np.searchsorted(copies.parent, np.arange(count + 1))

    def work(number: int) -> None:
        mine = range(int(starts[number]), int(starts[number + 1]))
        if not mine:
            return
        parent = Parent.of(parents, number, tables)
        fitted = fit_parent(parent, parents, number, model, output)
        scale[number], clipped[number] = fitted.scale, fitted.clipped
        background = background_of(parent.image)
        for copy in mine:
            spectrum, residual_cc[copy] = fitted.residual(copies, copy)
            image = _moved_image(spectrum, parent, copies, copy, output)
            outside = background if output.mask is None else replace(background, mean=0.0, deviation=0.0)
            seed = (output.seed, int(copies.seeds[copy]))
            images[copy] = crop_moved(image, copies.moves_px[copy], output.box, output.fill, outside, seed)

    parallel(work, range(count))
    return SubparticleBlock(images, scale, clipped, residual_cc)


def defocus_hand_scores(  # noqa: PLR0913 - those of subtract_block, and the depths
    parents: ParentBlock,
    copies: Copies,
    depths_angst: FloatArray,
    tables: GroupTables,
    maps: ModelMaps,
    gain: GroupGain,
    parallel: ParallelMap,
    resolution_angst: float = 6.0,
) -> FloatArray:
    """Correlation of sub-particles with the kept part for each sign of the defocus change.

    Parameters
    ----------
    parents, copies, tables, maps, gain, parallel
        As for :func:`subtract_block`; the full map is needed.
    depths_angst
        (k,) height of each copy's centre along the line of sight.
    resolution_angst
        Only what is finer than this counts: coarser rings do not feel the defocus.

    Returns
    -------
        (3,) float64 sums over the copies for hand +1, −1 and 0.

    Raises
    ------
    ParameterError
        Without the full map or CTF parameters.
    """
    if maps.full is None or parents.ctf is None:
        raise ParameterError("--defocus-hand auto: needs the whole map and CTF parameters")
    model = GroupModel(tables, maps, gain)
    first = tables.size * tables.pixel_size_angst / resolution_angst
    starts = np.searchsorted(copies.parent, np.arange(len(parents.rows) + 1))

    def work(number: int) -> FloatArray:
        parent = Parent.of(parents, number, tables)
        fitted = fit_parent(parent, parents, number, model, OutputSettings(tables.size))
        sums = np.zeros(3)
        for copy in range(int(starts[number]), int(starts[number + 1])):
            spectrum, _ = fitted.residual(copies, copy)
            for index, hand in enumerate((1.0, -1.0, 0.0)):
                moved = parent.refocused(-hand * float(depths_angst[copy]))
                kept = moved.kept_model(
                    maps, copies, copy, parents.rotations[number], parents.shifts_px[number]
                )
                sums[index] += correlation(spectrum, kept, fitted.curve, first)
        return sums

    parts = parallel(work, range(len(parents.rows)))
    return np.asarray(np.array(parts).reshape(-1, 3).sum(axis=0))


def debug_strip(
    parents: ParentBlock,
    copies: Copies,
    tables: GroupTables,
    maps: ModelMaps,
    gain: GroupGain,
    output: OutputSettings,
    copy: int,
) -> FloatArray:
    """(5, n, n) float32: particle, model of the whole map, subtracted term, residual, mask (or zeros) of one copy.

    Raises
    ------
    ParameterError
        Without the full map.
    """
    if maps.full is None:
        raise ParameterError("--debug: needs the projection of the whole map")
    number = int(copies.parent[copy])
    parent = Parent.of(parents, number, tables)
    fitted = fit_parent(parent, parents, number, GroupModel(tables, maps, gain), output)
    whole = parent.model(maps.full, parents.rotations[number], parents.shifts_px[number])
    spectrum, _ = fitted.residual(copies, copy)
    parts = (parent.spectrum, whole, parent.spectrum - spectrum, spectrum)
    strip = np.zeros((5, tables.size, tables.size), np.float32)
    strip[:4] = scipy.fft.irfft2(np.stack(parts), s=(tables.size, tables.size))
    strip[[0, 3]] += parent.mean
    if output.mask is not None:
        strip[4] = _mask_of(output.mask, parent, copies, copy)
    return strip


def _moved_image(
    spectrum: ComplexArray, parent: Parent, copies: Copies, copy: int, output: OutputSettings
) -> FloatArray:
    """The image of a residual's transform: moved by part of a pixel if asked, and masked."""
    size = parent.tables.size
    if output.subpixel or not output.subtract:  # the parent's own transform is needed again
        spectrum = spectrum.copy()
    if output.subpixel:
        _shift(spectrum, -np.asarray(copies.residual_px[copy], np.float64))
    image: FloatArray = scipy.fft.irfft2(spectrum, s=(size, size), overwrite_x=True)
    image += np.float32(parent.mean)
    if output.mask is not None:
        image *= _mask_of(output.mask, parent, copies, copy)
    return image


def _mask_of(mask: Mask2D, parent: Parent, copies: Copies, copy: int) -> FloatArray:
    reading = copies.reading if copies.mask_reading is None else copies.mask_reading
    matrix = parent.tables.embedding @ reading[copy]
    return projected_mask(mask, matrix, copies.shifts_px[copy], parent.tables.size)


@njit(nogil=True, cache=True)
def _shift(spectrum: Any, shift: Any) -> None:
    """Move an image by a fraction of a pixel, in place."""
    size, half = spectrum.shape
    ramp = np.empty(half, np.complex64)
    for kx in range(half):
        angle = -2.0 * math.pi * kx * shift[0] / size
        ramp[kx] = complex(math.cos(angle), math.sin(angle))
    for row in range(size):
        ky = row if row <= (size - 1) // 2 else row - size
        angle = -2.0 * math.pi * ky * shift[1] / size
        turn = np.complex64(complex(math.cos(angle), math.sin(angle)))
        for kx in range(half):
            spectrum[row, kx] = spectrum[row, kx] * (ramp[kx] * turn)
