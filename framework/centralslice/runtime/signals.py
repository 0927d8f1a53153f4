"""Signals that ask a run to write a checkpoint and stop: noted when they come, obeyed between blocks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

#: What batch systems send before the time limit, and what they send to end a job.
STOP_SIGNALS = ("SIGUSR1", "SIGTERM")
#: A launcher and a batch system may both deliver one signal; later than this, a second one means it.
REPEAT_S = 5.0
#: The same for Ctrl-C, which a terminal and a launcher deliver together, but people repeat soon.
REPEAT_CTRL_C_S = 0.5


class SignalFlags:
    """Notes the stop signals of this process instead of dying of them.

    As a context manager it installs its handlers and puts the earlier ones back. A signal that comes more than
    ``REPEAT_S`` after the first ends the process at once, as without handlers, so that a run which
    never looks at its flags can still be ended. Ctrl-C more than ``REPEAT_CTRL_C_S`` after the first signal
    raises ``KeyboardInterrupt``, whatever the process is doing.

    Parameters
    ----------
    names
        Signals to note, such as ``SIGUSR1``.
    """

    def __init__(self, names: Sequence[str] = STOP_SIGNALS) -> None:
        self._names = tuple(names)
        self._earlier: dict[signal.Signals, Any] = {}
        self._first: tuple[str, float] | None = None

    def install(self) -> None:
        """Take over the signals; without effect outside the main thread, which never receives signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in self._names:
            number = signal.Signals[name]
            if number not in self._earlier:
                self._earlier[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Put the earlier handlers back."""
        while self._earlier:
            number, handler = self._earlier.popitem()
            # None: a handler that was not set from Python cannot be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def requested(self) -> str | None:
        """Name of the first stop signal that came, or None."""
        return None if self._first is None else self._first[0]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (signal.Signals(number).name, now)
        elif number == signal.SIGINT:
            if now - self._first[1] > REPEAT_CTRL_C_S:
                raise KeyboardInterrupt
        elif now - self._first[1] > REPEAT_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
