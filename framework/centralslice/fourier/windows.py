"""Windows cut from tilt images: edge pixels repeated outside, background taken off, soft circular mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.errors import ParameterError

#: circle: mean of the corners off, soft circular mask; corners: their mean off; none: pixels as they are.
Background = Literal["circle", "corners", "none"]
_CODES = {"none": 0, "corners": 1, "circle": 2}

#: Width in pixels of the mask's soft edge.
EDGE_PX = 5.0

#: Flags of a window: all well; some pixel is not finite (the window is given as zeros); all pixels are equal.
GOOD, NOT_FINITE, BLANK = 0, 1, 2

_FAST_KINDS = frozenset(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "float32"))


def window_size(box: int, binning: float) -> int:
    """S = ⌊b·s + ½⌋: side in unbinned pixels of the window for a box of s binned ones."""
    return math.floor(binning * box + 0.5)


def window_corners(centres: FloatArray, size: int) -> tuple[IntArray, FloatArray]:
    """First pixel of each window, and where the particle is in it.

    Parameters
    ----------
    centres
        (b, 2) x, y of the particles in image pixels.
    size
        S.

    Returns
    -------
    corners
        (b, 2) int64: the nearest whole pixel (halves away from 0) less ``S // 2``.
    origins
        (b, 2) float64: the centre less the corner, within half a pixel of ``S // 2``.
    """
    at = np.asarray(centres, np.float64)
    corners = (np.sign(at) * np.floor(np.abs(at) + 0.5)).astype(np.int64) - size // 2
    return corners, at - corners


def cut_windows(
    images: NDArray[Any] | Sequence[NDArray[Any]],
    tilt: IntArray,
    corners: IntArray,
    size: int,
    background: Background = "circle",
    out: FloatArray | None = None,
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Square windows of tilt images.

    Parameters
    ----------
    images
        (f, ny, nx) of any real type, or f images of (ny, nx); may be memory maps, in either byte order. Only
        the pixels of the windows are touched.
    tilt
        (b,) image of each window.
    corners
        (b, 2) x, y of its first pixel; may be outside, where the nearest pixel of the image is repeated.
    size
        S.
    background
        What to do about it.
    out
        (b, S, S) float32 to write to, or None for a new array.

    Returns
    -------
    windows
        (b, S, S) float32.
    flags
        (b,) ``GOOD``, ``NOT_FINITE`` or ``BLANK``.

    Raises
    ------
    ParameterError
        If a tilt is not one of the images, or S is less than 2.
    """
    tilts = np.ascontiguousarray(tilt, np.int64)
    firsts = np.ascontiguousarray(corners, np.int64).reshape(-1, 2)
    count = len(tilts)
    if size < 2:
        raise ParameterError(f"window size: expected at least 2 pixels, got {size}")
    if len(firsts) != count or (count and not 0 <= tilts.min() <= tilts.max() < len(images)):
        raise ParameterError(f"windows: expected {count} corners and tilts of 0 … {len(images) - 1}")
    windows = np.empty((count, size, size), np.float32) if out is None else out
    flags = np.empty(count, np.uint8)
    mask, rim = circle(size)
    code = _CODES[background]
    if isinstance(images, np.ndarray) and _is_plain(images):
        _cut(_read_only(images), tilts, firsts, mask, rim, code, windows, flags)
        return windows, flags
    none = np.zeros(1, np.int64)
    for n in range(count):
        image: NDArray[Any] = images[tilts[n]]
        first: IntArray = firsts[n : n + 1]
        if not _is_plain(image):
            image, first = _converted(image, firsts[n], size)
        here = slice(n, n + 1)
        _cut(_read_only(image)[None], none, first, mask, rim, code, windows[here], flags[here])
    return windows, flags


@lru_cache(maxsize=8)
def circle(size: int) -> tuple[FloatArray, BoolArray]:
    """The soft circular mask of a window, and which pixels are its corners.

    With r the distance from pixel ``S // 2`` and R = S // 2: 1 for r < R − 5, a raised cosine to 0 at R, 0
    beyond; the corners are r > R. Read-only (S, S) float32 and bool.
    """
    offset = np.arange(size) - size // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    inward = np.clip((size // 2 - radius) / EDGE_PX, 0.0, 1.0)
    mask = (0.5 - 0.5 * np.cos(np.pi * inward)).astype(np.float32)
    rim: BoolArray = radius > size // 2
    mask.flags.writeable = rim.flags.writeable = False
    return mask, rim


def _is_plain(images: NDArray[Any]) -> bool:
    """Whether the kernel can read the pixels where they are."""
    flags = images.flags
    return images.dtype.isnative and images.dtype in _FAST_KINDS and flags.c_contiguous and flags.aligned


def _read_only(images: NDArray[Any]) -> NDArray[Any]:
    """The same pixels as a plain array that may not be written: one kernel a type, memory map or not."""
    view = np.asarray(images).view()
    view.flags.writeable = False
    return view


def _converted(image: NDArray[Any], corner: IntArray, size: int) -> tuple[NDArray[Any], IntArray]:
    """The part of an image that a window needs as float32, and the window's corner in it."""
    sides = np.array(image.shape[::-1])
    first, last = np.clip(corner, 0, sides - 1), np.clip(corner + size - 1, 0, sides - 1)
    part = np.asarray(image)[first[1] : last[1] + 1, first[0] : last[0] + 1]
    return part.astype(np.float32, order="C"), (corner - first)[None]


@njit(nogil=True, cache=True)
def _cut(  # noqa: PLR0913 - one numeric kernel, called from one place
    images: Any, tilt: Any, corners: Any, mask: Any, rim: Any, background: int, out: Any, flags: Any
) -> None:  # fmt: skip
    _, height, width = images.shape
    size = out.shape[1]
    sums = np.empty(size)  # a column each: the loops along a row are vector instructions then
    edges = np.empty(size)
    least = np.empty(size, np.float32)
    most = np.empty(size, np.float32)
    line = np.empty(size, np.float32)
    for n in range(len(tilt)):
        left, top = corners[n, 0], corners[n, 1]
        whole = left >= 0 and left + size <= width
        sums[:] = 0
        edges[:] = 0
        least[:] = np.inf
        most[:] = -np.inf
        for i in range(size):
            row = images[tilt[n], min(max(top + i, 0), height - 1)]
            if whole:
                _copy(row[left : left + size], line)
            else:
                for j in range(size):
                    line[j] = row[min(max(left + j, 0), width - 1)]
            _gather(line, rim[i], sums, edges, least, most)
            out[n, i] = line
        total = sums.sum()
        if not math.isfinite(total):
            flags[n] = NOT_FINITE
            out[n] = 0
            continue
        flags[n] = BLANK if least.min() == most.max() else GOOD
        if background > 0:
            mean = np.float32(edges.sum() / rim.sum())
            for i in range(size):
                for j in range(size):
                    factor = mask[i, j] if background == 2 else np.float32(1)
                    out[n, i, j] = factor * (out[n, i, j] - mean)


@njit(nogil=True, cache=True)
def _copy(row: Any, line: Any) -> None:
    for j in range(len(line)):
        line[j] = row[j]


@njit(nogil=True, cache=True)
def _gather(line: Any, rim: Any, sums: Any, edges: Any, least: Any, most: Any) -> None:
    """Add a row of pixels to the sums of all and of the corners, and to the extremes, column by column."""
    for j in range(len(line)):
        value = line[j]
        sums[j] += value
        edges[j] += value if rim[j] else np.float32(0)
        least[j] = value if value < least[j] else least[j]
        most[j] = value if value > most[j] else most[j]
