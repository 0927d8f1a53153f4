"""Weights of a half transform as a full cube, for files that show them like a map."""

from __future__ import annotations

import numpy as np

from centralslice.conventions import FloatArray


def weight_cube(weights: FloatArray) -> FloatArray:
    """All weights of a box, zero frequency in the centre.

    Parameters
    ----------
    weights
        (n, n, n // 2 + 1) as :class:`centralslice.abc.reconstructor.WeightMap` has them, even or odd n.

    Returns
    -------
        (n, n, n) of the same dtype: voxel (z, y, x) is frequency (z, y, x) − n // 2. Negative x are the mates.

    Notes
    -----
    Even boxes: plane x = 0 is the Nyquist plane, where both mates of a pair are measured. Of the two the one that
    comes later in FFT order (z, then y) is taken for both, as RELION does.
    """
    size = len(weights)
    half = size // 2
    cube = np.empty((size,) * 3, weights.dtype)
    cube[:, :, half:] = weights[:, :, : size - half]
    mate = -(np.arange(size) - half) % size  # FFT index of the mate of each frequency
    opposite = (mate + half) % size
    mates = weights[opposite][:, opposite]
    cube[:, :, :half] = mates[:, :, half:0:-1]
    if size % 2 == 0:
        index = (np.arange(size) - half) % size  # FFT index of each frequency
        own_order, mate_order = (i[:, None] * size + i for i in (index, mate))
        cube[:, :, 0] = np.where(own_order > mate_order, weights[:, :, half], mates[:, :, half])
    return cube
