"""Cutting a sub-particle out of its parent: whole-pixel moves, what stands outside, and soft projected masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import scipy.fft
import scipy.ndimage

from centralslice.abc.reconstructor import ParallelMap
from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.fourier.slice_reading import SliceReader, slice_reader

Fill: TypeAlias = Literal["mean", "zero", "noise", "wrap"]

#: Images with more than this fraction of exact zeros were padded: those pixels stay zero.
PADDED_FRACTION = 1e-3
#: A projected mask covers a pixel from this many voxels.
COVERED = 0.5
_MASK_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Background:
    """Of a parent's image: mean and standard deviation beyond its inscribed circle, zeros of padding left out.

    ``padding`` (n, n) marks exact zeros if these are padding, else None.
    """

    mean: float
    deviation: float
    padding: BoolArray | None


def background_of(image: FloatArray) -> Background:
    """Background of an image (n, n)."""
    size = len(image)
    axis = np.arange(size) - size // 2
    outside = axis[:, None] ** 2 + axis**2 > (size / 2) ** 2
    zeros = image == 0
    padding = zeros if np.count_nonzero(zeros) > PADDED_FRACTION * image.size else None
    values = image[outside if padding is None else outside & ~padding]
    if values.size == 0:
        values = image.ravel() if padding is None or padding.all() else image[~padding]
    return Background(float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), padding)


def crop_moved(
    image: FloatArray, move_px: IntArray, box: int, fill: Fill, background: Background, seed: tuple[int, int]
) -> FloatArray:
    """An image moved by whole pixels and cut to a box about its centre pixel: (box, box) float32.

    Parameters
    ----------
    image
        (n, n); pixels of padding are zero in the result too.
    move_px
        (2,) x, y: pixel p goes to p + move.
    box
        Its size; larger than n pads.
    fill
        What stands where the parent has no pixels: its background mean, 0, noise with its background's mean and
        deviation; or, ``wrap``, pixels from the opposite side (and 0 beyond the parent's box).
    background
        Of the parent.
    seed
        Of the noise: of the run, and of this sub-particle.
    """
    size = len(image)
    if background.padding is not None:
        image = np.where(background.padding, np.float32(0), image)
    if fill == "wrap":
        image = np.roll(image, (int(move_px[1]), int(move_px[0])), axis=(0, 1))
        move_px = np.zeros(2, np.int64)
    low = size // 2 - box // 2 - np.asarray(move_px, np.int64)  # parent's pixel at pixel 0 of the box
    first, stop = np.clip(low, 0, size), np.clip(low + box, 0, size)
    if np.all(low >= 0) and np.all(low + box <= size):
        return np.ascontiguousarray(image[first[1] : stop[1], first[0] : stop[0]], np.float32)
    if fill == "noise":
        drawn = np.random.default_rng(seed).standard_normal((box, box), np.float32)
        result = np.float32(background.mean) + np.float32(background.deviation) * drawn
    else:
        result = np.full((box, box), background.mean if fill == "mean" else 0.0, np.float32)
    if np.all(stop > first):
        to = first - low
        result[to[1] : to[1] + stop[1] - first[1], to[0] : to[0] + stop[0] - first[0]] = image[
            first[1] : stop[1], first[0] : stop[0]
        ]
    return result


@dataclass(frozen=True, slots=True)
class Mask2D:
    """The kept part's projection as a soft mask.

    Attributes
    ----------
    reader
        Of the kept mask, see :func:`mask_reader`.
    dilate_px
        Pixels by which its outline is widened.
    edge_px
        Width of the cosine edge beyond that; 0: a hard edge.
    """

    reader: SliceReader
    dilate_px: float
    edge_px: float = 5.0


def mask_reader(keep: FloatArray, parallel: ParallelMap) -> SliceReader:
    """Reader of a mask (n, n, n)."""
    return slice_reader(keep.astype(np.float32, copy=False), parallel, _MASK_WIDTH)


def projected_mask(mask: Mask2D, matrix: FloatArray, position_px: FloatArray, size: int) -> FloatArray:
    """The mask as seen in an image of ``size`` pixels: (n, n) float32, 0 … 1.

    Parameters
    ----------
    mask
        Of the kept part.
    matrix
        (3, 3) matrix to read it with.
    position_px
        (2,) x, y where the map's centre lies, from the centre pixel.
    size
        n.

    Notes
    -----
    The projection rings, so its outline is taken at half a voxel, well above the ringing; the soft edge comes
    from the distance to that outline.
    """
    values = mask.reader.read(matrix[None], size)[0]
    rows, columns = np.fft.fftfreq(size)[:, None], np.arange(size // 2 + 1) / size
    origin = np.asarray(position_px) + size // 2
    values = values * np.exp(-2j * np.pi * (columns * origin[0] + rows * origin[1]))
    # columns of voxels in a pixel: (pixel / voxel)², the matrix being scaled by N voxel / (n pixel)
    scale = (mask.reader.box / (size * np.linalg.norm(matrix[2]))) ** 2
    projection = scipy.fft.irfft2(values, s=(size, size)) / scale
    distance = scipy.ndimage.distance_transform_edt(projection < COVERED) - mask.dilate_px
    if mask.edge_px <= 0:
        return np.asarray(distance <= 0, np.float32)
    ramp = np.clip(distance / mask.edge_px, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * ramp), np.float32)
