"""Atomic output files: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from centralslice.errors import OutputExistsError, ResourceError


def temporary_name(path: Path) -> Path:
    """The name an output has while it is being written: hidden, in the same folder, with the suffix kept."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def publish(temporary: Path, path: Path) -> None:
    """Flush ``temporary`` to disk and give it its final name."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary name; on success it becomes ``path``, on any error it is removed.

    Raises
    ------
    ResourceError
        If the folder does not exist or the disk is full; the message names the output.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        publish(temporary, path)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse an output that exists, unless ``force``; also refuse a folder that does not exist.

    Raises
    ------
    OutputExistsError
        If ``path`` exists and ``force`` is False.
    ResourceError
        If the folder of ``path`` does not exist or cannot be written.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists already; give another --output, or --force to replace it")
    folder = path.parent if str(path.parent) else Path()
    if not folder.is_dir():
        raise ResourceError(f"{path}: folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise ResourceError(f"{path}: folder {folder} is not writable")
