"""Says once, on the first run, that kernels are being compiled."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import centralslice
from centralslice.fourier import correction_kernels, insertion, prepare, tilt_kernels


def announce_compilation(quiet: bool) -> None:
    """Tell the user before the first run's one-time compilation, which takes a few seconds to half a minute.

    Numba writes its cache files under unique temporary names and renames them, so first runs at the same time
    are safe; each compiles for itself.
    """
    always = (insertion._insert, correction_kernels.gather_slab)
    preparing = (prepare._fill_samples, tilt_kernels.fill_tilt_samples)  # of single images and of tilt series
    cached = all(map(_cache_files, always)) and any(map(_cache_files, preparing))
    if not cached and not quiet:
        print("compiling kernels (once, a few seconds to half a minute) …", file=sys.stderr, flush=True)


def _cache_files(kernel: object) -> list[Path]:
    """Index files of a kernel in numba's cache folder."""
    stats = getattr(kernel, "stats", None)
    folder = getattr(stats, "cache_path", None)
    name = getattr(kernel, "__name__", "")
    if not folder or not os.path.isdir(folder):
        return []
    module = getattr(kernel, "__module__", centralslice.__name__).rpartition(".")[2]
    return list(Path(folder).glob(f"{module}.{name}-*.nbi"))
