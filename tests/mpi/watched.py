"""``python watched.py JOURNAL WORD …``: the command, with a line in the journal for every block that the master counts.

Each line has the time (seconds since the epoch) and the particles done; once written it is in the file, whoever is
killed afterwards.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from centralslice.cli import main
from centralslice.runtime.progress import Progress


def watch(journal: Path) -> None:
    """Have the progress written down."""
    original = Progress.advance
    lines = journal.open("a", buffering=1)

    def advance(self: Progress, particles: int, rank: int = 0, seconds: float = 0.0) -> None:
        original(self, particles, rank, seconds)
        lines.write(f"{time.time():.6f} {self._done}\n")

    Progress.advance = advance  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
