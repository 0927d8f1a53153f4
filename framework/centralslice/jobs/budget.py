"""How a job is cut into blocks and pieces, and the memory that it may take."""

from __future__ import annotations

import math
import os

from centralslice.abc.reconstructor import MapGeometry
from centralslice.errors import ResourceError
from centralslice.runtime.exact_sums import SumsKind

#: Bytes of samples that are prepared at a time; a block is as many images, whatever the machine.
BATCH_BYTES = 256 * 2**20
#: A piece of images goes through all of the sums: it should be at least one image for this much of them.
SUMS_BYTES_PER_IMAGE = 2**18
#: Blocks that a run is cut into if they are large enough.
WANTED_BLOCKS = 256
#: Integer sums have head-room for a piece: the more of a run is in one piece, the coarser their quantum.
LEAST_PIECES = 8
#: CPU seconds at this box, as the benchmarks measure them: of preparing a slice, of inserting a copy of it, of
#: finishing a map; and of starting. They grow with the box, inserting and finishing faster for want of cache.
REFERENCE_BOX, PREPARE_S, INSERT_S, FINISH_S, START_S = 128, 9e-5, 3e-4, 0.8, 2.0
#: The interpreter and its libraries, as measured after import.
BASE_BYTES = 220 * 2**20


def images_at_a_time(geometry: MapGeometry) -> int:
    """Images that a rank prepares at a time."""
    return max(1, min(1024, BATCH_BYTES // _slice_bytes(geometry)))


def piece_bytes(geometry: MapGeometry, images: int) -> int:
    """Memory of so many images: their samples, the images as read, and those read ahead."""
    return images * (_slice_bytes(geometry) + 2 * 4 * geometry.image_size**2)


def _slice_bytes(geometry: MapGeometry) -> int:
    return 4 * geometry.precision.itemsize * geometry.slice_size * (geometry.slice_size // 2 + 1)


def images_of_block(count: int, piece: int, sums_bytes: int, kind: SumsKind) -> int:
    """Images in a block: enough blocks for many ranks, but each large enough to be worth going through the sums.

    A function of the inputs and options alone, never of ranks or threads.
    """
    if kind in ("block", "wide"):
        return max(piece, 1024)  # the totals are gone through once a block
    worthwhile = max(32, sums_bytes // SUMS_BYTES_PER_IMAGE)
    return int(min(piece, max(worthwhile, math.ceil(count / WANTED_BLOCKS))))


def estimated_time(slices: int, size: int, copies: int, maps: int, threads: int) -> str:
    """About how long a run of the default method takes, for display.

    Parameters
    ----------
    slices, size, copies
        How many of how many pixels, under how many operators each.
    maps
        How many are finished.
    threads
        Of all ranks together.
    """
    area, volume = (size / REFERENCE_BOX) ** 2, (size / REFERENCE_BOX) ** 3
    work = slices * (PREPARE_S * area + copies * INSERT_S * volume) + maps * FINISH_S * volume
    seconds = START_S + work / threads
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def check_memory(needed: int, smaller: str) -> None:
    """Refuse what the machine's memory cannot hold."""
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ResourceError(
            f"this run needs {needed / 1e9:,.1f} GB of memory, the machine has {present / 1e9:,.1f} GB; "
            f"take a smaller {smaller}"
        )
