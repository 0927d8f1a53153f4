"""All outputs of a run appear together, or none does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from centralslice.data.files import publish
from centralslice.errors import CentralsliceError, ResourceError


def remove_left_staged(outputs: Iterable[Path]) -> None:
    """Remove what a killed run staged for these outputs; nothing else may be writing them.

    Raises
    ------
    ResourceError
        If something cannot be removed.
    """
    for path in outputs:
        stem, suffix = re.escape(path.stem), re.escape(path.suffix)
        # a writer's own temporary name is made of the staged one
        name = re.compile(rf"\.{stem}\.\d+\.staged{suffix}|\.\.{stem}\.\d+\.staged\.\d+\.partial{suffix}")
        try:
            for left in path.parent.iterdir():
                if name.fullmatch(left.name):
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(f"{path.parent}: cannot be cleaned: {error.strerror or error}") from error


#: From a final name to the name to write.
Stage: TypeAlias = Callable[[Path], Path]


@contextmanager
def staged_outputs() -> Iterator[Stage]:
    """Yield a function from a final name to the hidden name in the same folder that is to be written.

    At the end, in the order they were asked for, the files get their final names. On any error before, every
    one is removed, and messages speak of the final names.

    Raises
    ------
    ResourceError
        If a file cannot be renamed.
    """
    hidden: dict[Path, Path] = {}

    def stage(path: Path) -> Path:
        hidden[path] = path.with_name(f".{path.stem}.{os.getpid()}.staged{path.suffix}")
        return hidden[path]

    try:
        yield stage
        for path, temporary in hidden.items():
            try:
                publish(temporary, path)
            except OSError as error:
                raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error
    except CentralsliceError as error:
        text = str(error)
        for path, temporary in hidden.items():
            text = text.replace(str(temporary), str(path))
        if text == str(error):
            raise
        raise type(error)(text) from error
    finally:
        for temporary in hidden.values():
            temporary.unlink(missing_ok=True)
