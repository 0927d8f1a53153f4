"""Trajectories of particles during a tilt series (RELION's ``motion.star``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import IntArray
from centralslice.errors import FormatError
from centralslice_plugins.formats.star import StarTable, read_star

_AXES = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")


def read_motion(path: Path, names: NDArray[Any], rows: IntArray, tilts: IntArray) -> NDArray[np.float32]:
    """Displacements of particles in each tilt, particle after particle.

    Parameters
    ----------
    path
        The file: one block a particle, named as it; or ``data_0`` first: blocks in the order of the particles.
    names
        (n,) names of the particles.
    rows
        (n,) rows of their table, for blocks without names.
    tilts
        (n,) number of tilts of each one's series.

    Returns
    -------
        (Σ tilts, 3) float32, Å along the tomogram's axes.

    Raises
    ------
    FormatError
        Naming a particle that has no block, another number of rows than its series has tilts, or a
        displacement that is not finite.
    """
    tables = [table for table in read_star(path).tables if table.block != "general"]
    starts = np.cumsum(tilts) - tilts
    motion = np.empty((int(np.sum(tilts)), 3), np.float32)
    by_position = bool(tables) and tables[0].block == "0"
    by_name: dict[Any, StarTable] = {
        number if by_position else table.block: table for number, table in enumerate(tables)
    }
    for name, row, start, count in zip(
        names.tolist(), rows.tolist(), starts.tolist(), tilts.tolist(), strict=True
    ):
        found = by_name.get(row if by_position else name)
        if found is None:
            which = f"block {row + 1} for" if by_position else f"block data_{name} with the trajectory of"
            raise FormatError(
                f"{path}: no {which} particle '{name}' ({len(tables)} blocks); it is of other particles"
            )
        if len(found) != count:
            raise FormatError(
                f"{path}: block '{found.block}': particle '{name}' needs {count} rows, one a tilt, got {len(found)}"
            )
        _fill(found, motion[start : start + count])
    wrong = ~np.isfinite(motion).all(axis=1)
    if wrong.any():
        particle = int(np.searchsorted(starts, int(np.argmax(wrong)), side="right")) - 1
        raise FormatError(f"{path}: particle '{names[particle]}': expected finite displacements, in Å")
    return motion


def _fill(table: StarTable, out: NDArray[np.float32]) -> None:
    for axis, label in enumerate(_AXES):
        out[:, axis] = table.numbers(label)
