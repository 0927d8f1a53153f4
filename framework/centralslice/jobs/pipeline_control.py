"""The files by which RELION's pipeline learns how a job ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from centralslice.errors import ResourceError

#: Written empty when a job has ended well, or not.
SUCCESS, FAILURE = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE"


@contextmanager
def pipeline_control(folder: str | None) -> Iterator[None]:
    """Mark how what is done inside ended, in this folder; nothing if it is None.

    Raises
    ------
    ResourceError
        If the folder does not exist.
    """
    if folder is None:
        yield
        return
    place = Path(folder)
    if not place.is_dir():
        raise ResourceError(f"--pipeline-control: folder {place} does not exist; create it first")
    for name in (SUCCESS, FAILURE):
        (place / name).unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        (place / FAILURE).touch()
        raise
    (place / SUCCESS).touch()
