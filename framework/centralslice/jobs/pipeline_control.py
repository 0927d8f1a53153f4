"""The files by which RELION's pipeline learns how a job ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from centralslice.errors import ResourceError
from centralslice.runtime.launched import launched_world

#: One of them is written, empty, when a job has ended.
SUCCESS, FAILURE = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE"


def pipeline_control(folder: str | None, work: Callable[[], int]) -> int:
    """Do the work and mark in this folder how it ended; only do it if the folder is None.

    Of several ranks the first one marks.

    Returns
    -------
        The exit code of the work.

    Raises
    ------
    ResourceError
        If the folder does not exist.
    """
    world = launched_world()
    if folder is None or (world is not None and world.rank not in (None, 0)):
        return work()
    place = Path(folder)
    if not place.is_dir():
        raise ResourceError(f"--pipeline-control: folder {place} does not exist; create it first")
    for name in (SUCCESS, FAILURE):
        (place / name).unlink(missing_ok=True)
    mark = FAILURE
    try:
        code = work()
        mark = FAILURE if code else SUCCESS
    finally:
        (place / mark).touch()
    return code
