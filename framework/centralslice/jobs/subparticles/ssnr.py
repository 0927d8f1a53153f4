"""Statistics only: signal of the projected map and noise of the images, ring by ring (``--ssnr``).

RELION's definition: S² = |Y|² / 2 and N² = |I − Y|² / 2, Y the CTF projection of the whole map, averaged over the
Fourier samples with round(r) = ring and over the images, transforms divided by the number of pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import FloatArray
from centralslice.fourier.slice_reading import SliceReader
from centralslice.jobs.subparticles.optics import GroupTables, project, transfer
from centralslice.jobs.subparticles.subtract import ParentBlock


def ring_powers(
    parents: ParentBlock,
    tables: GroupTables,
    full: SliceReader,
    rings: int,
    ratio: float,
    parallel: ParallelMap,
) -> FloatArray:
    """Sums of a block.

    Parameters
    ----------
    parents, tables, full, parallel
        Particles of one optics group, and the map.
    rings
        Number of rings 0 … rings − 1 wanted.
    ratio
        Rings of the table per ring of these images: field of view of the first optics group over this one's.

    Returns
    -------
        (3, rings) float64: sums of S² and N², and samples.
    """
    size = tables.size
    rows = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(rows[:, None], np.arange(size // 2 + 1))
    ring = np.floor(radius * ratio + 0.5).astype(np.int64)
    inside = (ring < rings) & (radius <= tables.limit)

    def of(number: int) -> FloatArray:
        image = parents.images[number].astype(np.float32, copy=False)
        if parents.image_factor is not None:
            image = image * np.float32(parents.image_factor[number])
        ctf = None if parents.ctf is None else parents.ctf.take(np.array([number]))
        factor = 1.0 if parents.model_factor is None else float(parents.model_factor[number])
        model = project(
            full, parents.rotations[number], parents.shifts_px[number], tables, transfer(tables, ctf, 0, factor)
        ) / size**2  # fmt: skip
        rest = scipy.fft.rfft2(image) / size**2 - model
        powers = (np.abs(model) ** 2 / 2, np.abs(rest) ** 2 / 2, np.ones(radius.shape))
        return np.array([np.bincount(ring[inside], power[inside], rings) for power in powers])

    return np.asarray(np.sum(parallel(of, range(len(parents.rows))), axis=0))


def ssnr_table(sums: FloatArray, field_angst: float) -> dict[str, NDArray[Any]]:
    """The columns RELION writes.

    Parameters
    ----------
    sums
        (3, rings) of all blocks.
    field_angst
        Box times pixel size of the first optics group.
    """
    samples = np.maximum(sums[2], 1)
    signal, noise = sums[0] / samples, sums[1] / samples
    index = np.arange(sums.shape[1])
    resolution = np.divide(field_angst, index, out=np.full(len(index), 999.0), where=index > 0)
    ratio = np.divide(signal, noise, out=np.zeros(len(index)), where=noise > 0)
    return {
        "rlnSpectralIndex": index,
        "rlnResolution": index / field_angst,
        "rlnAngstromResolution": resolution,
        "rlnSignalToNoiseRatio": ratio,
        "rlnReferenceTau2": signal,
        "rlnSigma2Noise": noise,
    }
