"""Which iterations an EMAN2 refinement folder has, and the files of one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from centralslice.errors import FileMissingError, FormatError


def complete_iterations(folder: Path, needed: Sequence[str]) -> tuple[int, ...]:
    """Iterations of which all of the ``needed`` files are there, ascending.

    Parameters
    ----------
    folder
        The refinement.
    needed
        Names with ``{}`` where the iteration's number (two digits or more) stands.
    """
    numbers = set.intersection(*(_numbers(folder, name) for name in needed))
    return tuple(sorted(numbers))


def choose_iteration(folder: Path, wanted: int | None, needed: Sequence[str]) -> int:
    """The iteration that is wanted, or the latest complete one.

    Raises
    ------
    FormatError
        If the folder has no complete iteration, or not the one that is wanted; those it has are listed.
    FileMissingError
        If only some files of the iteration that is wanted are there.
    """
    complete = complete_iterations(folder, needed)
    if wanted is None:
        if not complete:
            names = ", ".join(name.format("NN") for name in needed)
            raise FormatError(f"{folder}: holds no complete iteration; expected {names}")
        return complete[-1]
    if wanted in complete:
        return wanted
    missing = [name.format(f"{wanted:02d}") for name in needed if wanted not in _numbers(folder, name)]
    has = f"complete iterations: {', '.join(map(str, complete)) or 'none'}"
    if 0 < len(missing) < len(needed):
        raise FileMissingError(f"{folder / missing[0]}: missing from iteration {wanted} ({has})")
    raise FormatError(f"{folder}: has no iteration {wanted} ({has})")


def iteration_file(folder: Path, name: str, number: int) -> Path:
    """The path of one file of an iteration, ``{}`` in its name being the number."""
    return folder / name.format(f"{number:02d}")


def iteration_maps(folder: Path, number: int) -> tuple[dict[int, Path], list[str]]:
    """The maps of an iteration by half set (even is 1, odd 2, both 0), and what is to be said about them."""
    maps = {0: iteration_file(folder, "threed_{}.hdf", number)}
    halves = [iteration_file(folder, f"threed_{{}}_{parity}.hdf", number) for parity in ("even", "odd")]
    if all(path.is_file() for path in halves):
        maps |= {1: halves[0], 2: halves[1]}
        return maps, []
    absent = next(path for path in halves if not path.is_file())
    return maps, [f"{absent} does not exist: both half sets are to be compared with the combined map"]


def project_file(folder: Path, name: str) -> str:
    """A name that is relative to the project as a path, if it is there: the project holds the folder."""
    beside = folder.absolute().parent / name
    return str(beside) if beside.is_file() else name


def find_mask(folder: Path, latest: bool) -> tuple[Path | None, list[str]]:
    """``mask.hdf``, which is always that of the last iteration."""
    mask = folder / "mask.hdf"
    if not mask.is_file():
        return None, [f"{folder} has no mask.hdf"]
    if latest:
        return mask, []
    return mask, [f"{mask} is of the last iteration, not of the one that is used"]


def set_name(folder: Path, number: int, particles: str) -> str:
    """``subptcl_XX_NN__suffix`` as the peer names outputs.

    Parameters
    ----------
    folder
        ``refine_XX`` or ``r3d_XX``.
    number
        Iteration.
    particles
        Name of the (even) particle list; its part after the last ``__`` is the suffix.
    """
    stem = Path(particles).stem
    suffix = stem.rpartition("__")[2].removesuffix("_even")
    run = folder.absolute().name.rpartition("_")[2]
    return f"subptcl_{run}_{number}__{suffix}"


def phase_flipped(source: Path, extra: Mapping[str, object], count: int, names: Sequence[str]) -> bool | None:
    """Whether images are phase flipped: by their headers, else by the tag ``__ctf_flip`` of their files.

    Raises
    ------
    FormatError
        If some are and some are not.
    """
    known = np.asarray(extra.get("ctf_phase_flipped", []), np.float64)
    flipped = int(np.count_nonzero(known == 1))
    if 0 < flipped < count and np.count_nonzero(known == 0):
        raise FormatError(
            f"{source}: {flipped} of {count} images are phase flipped (ctf_phase_flipped); "
            "give images of one kind"
        )
    if flipped or any("__ctf_flip" in name for name in names):
        return True
    return False if known.size and not np.isnan(known).any() else None


def _numbers(folder: Path, name: str) -> set[int]:
    """Iterations that have a file of this name."""
    before, after = name.split("{}")
    pattern = re.compile(re.escape(before) + r"(\d{2,9})" + re.escape(after))
    found = (pattern.fullmatch(path.name) for path in folder.iterdir())
    return {int(match[1]) for match in found if match}
