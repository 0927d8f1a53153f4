"""Progress on stderr: a line that is rewritten on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

#: Seconds between two lines in a log.
LOG_INTERVAL = 30.0
#: Seconds between two updates on a terminal.
TERMINAL_INTERVAL = 0.2


class Progress:
    """Counts particles and says how fast they go.

    Parameters
    ----------
    total
        Particles of the whole run, all passes together.
    quiet
        Say nothing.
    stream
        Where to; stderr by default.
    json_lines
        Write one JSON object a line instead, with the share of each rank.
    """

    def __init__(
        self, total: int, quiet: bool = False, stream: TextIO | None = None, json_lines: bool = False
    ) -> None:
        self._total, self._done, self._quiet, self._json = total, 0, quiet, json_lines
        self._shares: dict[int, int] = {}
        self._busy: dict[int, float] = {}
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() and not json_lines
        self._start = time.monotonic()
        self._said = self._start

    def advance(self, particles: int, rank: int = 0, seconds: float = 0.0) -> None:
        """So many more particles are done, by this rank, which worked on them so long."""
        self._done += particles
        self._shares[rank] = self._shares.get(rank, 0) + particles
        self._busy[rank] = self._busy.get(rank, 0.0) + seconds
        now = time.monotonic()
        interval = TERMINAL_INTERVAL if self._terminal else LOG_INTERVAL
        if not self._quiet and (
            now - self._said >= interval or ((self._terminal or self._json) and self._done >= self._total)
        ):
            self._said = now
            self._say(now)

    def close(self) -> None:
        """End the terminal's line."""
        if self._terminal and not self._quiet and self._said != self._start:
            self._stream.write("\n")
            self._stream.flush()

    def _say(self, now: float) -> None:
        rate = self._done / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        if self._json:
            facts = {
                "particles": self._done, "total": self._total, "particles_per_s": round(rate, 1),
                "left_s": round(left, 1), "ranks": {str(rank): done for rank, done in sorted(self._shares.items())},
                "busy_s": {str(rank): round(busy, 2) for rank, busy in sorted(self._busy.items())},
            }  # fmt: skip
            self._stream.write(json.dumps(facts) + "\n")
            self._stream.flush()
            return
        text = (
            f"{self._done:,}/{self._total:,} particles ({100 * self._done / max(self._total, 1):.0f} %), "
            f"{rate:,.0f}/s, {left:,.0f} s left"
        )
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._stream.flush()
