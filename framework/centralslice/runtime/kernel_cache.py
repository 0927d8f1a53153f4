"""Where compiled kernels are kept: a folder of the user's for each version of the sources.

Numba takes a cached kernel for fresh if the module that defines it has its old time and size. It does not look at the
modules whose functions were inlined into it, and all files of a wheel have one time. An upgrade could so
run old machine code. Here the folder's name is a hash of every source file that has kernels: other sources,
other folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

#: Numba's own name for the folder.
VARIABLE = "NUMBA_CACHE_DIR"
PACKAGES = ("centralslice", "centralslice_plugins", "centralslice_mpi")
#: A source file with one of these has kernels, or is inlined into them.
MARKS = (b"njit", b"intrinsic")
#: A folder that was not used for this long is removed.
KEPT_S = 30 * 86400.0
_NAME = re.compile(r"kernels-[0-9a-f]{16}")


def choose_kernel_folder() -> None:
    """Set ``NUMBA_CACHE_DIR`` for this process and its children, unless it is set.

    Without effect once numba is imported, which reads the variable then; and where no folder of the user's can be
    written, so that numba looks for one itself.
    """
    if os.environ.get(VARIABLE) or "numba" in sys.modules:
        return
    try:
        name = f"kernels-{sources_hash()}"
    except OSError:  # sources that are no files, such as those in an archive
        return
    for parent in _cache_folders():
        folder = parent / "centralslice" / name
        if _usable(folder):
            os.environ[VARIABLE] = str(folder)
            return


def sources_hash() -> str:
    """16 hexadecimal digits: of the names and contents of all source files with kernels."""
    digest = hashlib.blake2b(digest_size=8)
    for package in PACKAGES:
        for root in _roots(package):
            for name in sorted(_python_files(root)):
                content = Path(root, name).read_bytes()
                if any(mark in content for mark in MARKS):
                    digest.update(f"{package}/{name} {len(content)}\n".encode())
                    digest.update(content)
    return digest.hexdigest()


def _roots(package: str) -> tuple[str, ...]:
    """Folders of a package, which is not imported; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    return () if spec is None else tuple(spec.submodule_search_locations or ())


def _python_files(root: str, below: str = "") -> Iterator[str]:
    """Paths relative to a folder."""
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if entry.name.endswith(".py"):
                yield path
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _python_files(root, path)


def _cache_folders() -> Iterator[Path]:
    """Where users' caches are, best first."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        yield Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry, in some containers
        return
    yield home / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _usable(folder: Path) -> bool:
    """Make the folder and mark it as used; False if that cannot be."""
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_old(folder.parent)
        os.utime(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _remove_old(parent: Path) -> None:
    """Remove folders of other versions that were not used for a long time; what cannot be removed stays.

    A folder is renamed first: a run of the old version that starts meanwhile finds none and makes a new one.
    """
    for folder in list(parent.iterdir()):
        try:
            old = folder.lstat().st_mtime < time.time() - KEPT_S
            if old and _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                doomed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
                folder.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        except OSError:  # another process was faster
            continue
