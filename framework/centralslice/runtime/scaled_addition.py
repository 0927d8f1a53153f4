"""Adding integers that count different powers of two, refused where 64 bits do not suffice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.errors import CheckpointError
from centralslice.runtime.checkpoint_shards import AnyArray


def is_power_of_two(quantum: float) -> bool:
    """Whether a quantum is a positive power of two."""
    return math.isfinite(quantum) and quantum > 0 and math.frexp(quantum)[0] == 0.5


def add_exactly(
    total: NDArray[np.int64], values: NDArray[np.int64], shifts: NDArray[np.int64], name: str
) -> NDArray[np.int64]:
    """``total + values * 2**shifts``, refused where it would wrap."""
    possible = np.minimum(shifts, 63)
    scaled = values << possible
    added: NDArray[np.int64] = total + scaled
    lost = ((scaled >> possible) != values) | ((shifts > 63) & (values != 0))
    wrapped = ((total ^ added) & (scaled ^ added)) < 0
    if np.any(lost | wrapped):
        raise CheckpointError(
            f"cannot be merged: the sum of {name} does not fit into 64 bits at the finest quantum"
        )
    return added


def narrowed(total: NDArray[np.int64], kinds: set[np.dtype[Any]]) -> AnyArray:
    """Back to the jobs' type, if they have one and the sums fit."""
    kind = next(iter(kinds))
    limits = np.iinfo(kind)
    fits = total.size == 0 or (total.min() >= limits.min and total.max() <= limits.max)
    return total.astype(kind, copy=False) if len(kinds) == 1 and fits else total
