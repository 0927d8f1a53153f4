"""Arrays that are files mapped into memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def release_pages(array: NDArray[Any]) -> None:
    """Give back the memory of what was read of a mapped file; nothing for other arrays.

    The pages count as memory of the process once they were looked at. The system keeps them while it has room, and
    they are mapped again when they are looked at again. Not for copy-on-write maps, whose changes would be lost.
    """
    whole: object = array
    while isinstance(whole, np.ndarray):
        whole = whole.base
    if isinstance(whole, mmap.mmap):
        whole.madvise(mmap.MADV_DONTNEED)
