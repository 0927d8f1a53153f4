"""The run manifest: what was done with what, as JSON beside the map."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from centralslice import __version__
from centralslice.conventions import FloatArray
from centralslice.data.files import atomic_output

#: Files up to this size are fingerprinted by content, larger ones by size and modification time.
HASHED_BYTES = 64 * 2**20


def fingerprint(path: Path) -> dict[str, Any]:
    """Size, modification time and, for files up to 64 MiB, SHA-256 of an input file."""
    status = path.stat()
    facts: dict[str, Any] = {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    if status.st_size <= HASHED_BYTES:
        facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


def array_sha256(data: FloatArray) -> str:
    """SHA-256 of an array's little-endian values in C order; the same for the same bits."""
    little = np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions that can change the bits of a result, and the CPU type."""
    found = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "numba", "llvmlite")}
    return {
        "centralslice": __version__,
        "python": platform.python_version(),
        **found,
        "machine": platform.machine(),
    }


def write_manifest(path: Path, facts: Mapping[str, Any], inputs: Iterable[Path]) -> None:
    """Write the manifest atomically: ``facts`` plus versions and input fingerprints."""
    content = {**facts, "versions": versions(), "inputs": [fingerprint(item) for item in inputs]}
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
