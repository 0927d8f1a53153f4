"""What a file is, wherever it lies: name, size and a digest, so that a project that was moved is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

#: Files up to this size are read whole for their digest, …
WHOLE_BYTES = 2 * 2**20
#: … of larger ones so many pieces, spread from the first byte to the last.
PIECES = 8


def file_identity(path: Path, whole: bool = False) -> dict[str, Any]:
    """Name, size and digest of a file; neither its folder nor its dates.

    Parameters
    ----------
    path
        The file.
    whole
        Read all of it. Otherwise the digest of a large file is of its size and of 2 MiB spread over it.
    """
    size = path.stat().st_size
    return {"name": path.name, "bytes": size, "sha256": _digest(path, size, whole or size <= WHOLE_BYTES)}


def _digest(path: Path, size: int, whole: bool) -> str:
    with path.open("rb") as file:
        if whole:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        length = WHOLE_BYTES // PIECES
        for number in range(PIECES):
            file.seek((size - length) * number // (PIECES - 1))
            found.update(file.read(length))
        return found.hexdigest()
