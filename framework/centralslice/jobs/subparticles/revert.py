"""From sub-particles back to their parents: images, poses, defocus and places as they were (``--revert``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import ReadRequest
from centralslice.conventions import IntArray
from centralslice.data.files import refuse_existing
from centralslice.errors import FormatError
from centralslice.jobs.subparticles.table import PARENT_COLUMNS, saved_label
from centralslice.plugin.registry import Registry

Columns = dict[str, NDArray[Any]]

#: Columns that only sub-particles have.
_OURS = ("rlnImageOriginalName", "rlnParticleName")


def revert(
    path: Path, output: Path, registry: Registry, image_dir: Path | None = None, force: bool = False
) -> int:
    """Write the parents' STAR file again, one row a parent; the number of parents.

    Parameters
    ----------
    path
        Sub-particles, as written or after further refinement.
    output
        STAR file to write.
    registry, image_dir
        Readers and writers, and where image files are looked for.
    force
        Replace an existing output.

    Raises
    ------
    FormatError
        If the file has no sub-particles of this program.
    """
    refuse_existing(output, force)
    writer = registry.writer_for(output, "table")
    particles = registry.reader_for(path, "particles").read_particles(ReadRequest(path, image_dir))
    if "sprParentIndex" not in particles.columns:
        raise FormatError(
            f"{path}: has no _sprParentIndex; --revert takes sub-particles written by subparticles"
        )
    optics, order = _optics(dict(particles.optics_columns))
    _, first = np.unique(particles.columns["sprParentIndex"].astype(np.int64), return_index=True)
    table = _restored(dict(particles.columns), first, order)
    tables = {"optics": optics, "particles": table} if optics else {"particles": table}
    writer.write_tables(output, tables)
    return len(first)


def _optics(columns: Columns) -> tuple[Columns, tuple[str, ...]]:
    """The optics table as it was, and the parents' columns in their order (none if that is not known)."""
    known = columns.pop(PARENT_COLUMNS, None)
    order = () if known is None else tuple(str(known[0]).split(","))
    size = columns.pop("sprImageSizeParent", None)
    if size is not None:
        columns["rlnImageSize"] = size
    return columns, order


def _restored(columns: Columns, rows: IntArray, order: tuple[str, ...]) -> Columns:
    """Those rows with the parents' values."""
    taken = {label: column[rows] for label, column in columns.items()}
    original = taken.get("rlnImageOriginalName") if "sprSubtractScale" in taken else None
    saved = {
        saved_label(label): column
        for label, column in taken.items()
        if label.startswith("spr") and label.endswith("Parent")
    }
    plain = {
        label: column
        for label, column in taken.items()
        if not label.startswith("spr") and (label not in _OURS or label in order)
    }
    table = {**plain, **saved}
    if original is not None:
        table["rlnImageName"] = original
    if not order:
        return table
    return {label: table[label] for label in order if label in table}
