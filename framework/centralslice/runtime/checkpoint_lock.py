"""One run a checkpoint folder: a lock file that outlives neither its process nor its host for long."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from centralslice.errors import CheckpointError, ResourceError

LOCK_NAME = "lock"
#: Seconds between two signs of life of the holder.
HEARTBEAT = 20.0
#: A lock of another host without a sign of life for so many seconds is taken over.
STALE_AFTER = 300.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    pid, host
        Process and host.
    system
        Which boot and which namespace of processes (container) the number of the process is of.
    started
        Start of the process, for numbers are used again.
    token
        Random.
    """

    pid: int
    host: str
    system: str
    started: str
    token: str

    def is_alive(self) -> bool | None:
        """Whether the process runs; None if that cannot be seen from here."""
        if (self.host, self.system) != (socket.gethostname(), _system()):
            return None
        return self.started == _started(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def folder_lock(folder: Path, heartbeat: float = HEARTBEAT) -> Iterator[Holder]:
    """Hold the folder's lock; a thread renews it, for other hosts to see that we live.

    Raises
    ------
    CheckpointError
        If another live run holds it.
    ResourceError
        If the lock cannot be written.
    """
    path = folder / LOCK_NAME
    me = os.getpid()
    mine = Holder(me, socket.gethostname(), _system(), _started(me), secrets.token_hex(8))
    try:
        _acquire(path, mine)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error
    stop = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(path, mine, stop, heartbeat), daemon=True, name="checkpoint-lock"
    )
    thread.start()
    try:
        yield mine
    finally:
        stop.set()
        thread.join()
        if read_holder(path) == mine:
            path.unlink(missing_ok=True)


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock; None if nobody, or if the file is not to be understood."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def check_held(folder: Path, mine: Holder) -> None:
    """Refuse to go on if another run has taken the lock over.

    Raises
    ------
    CheckpointError
        As said.
    """
    holder = read_holder(folder / LOCK_NAME)
    if holder != mine:
        raise CheckpointError(
            f"{folder}: another run ({holder or 'unknown'}) has taken this checkpoint folder over; end one of the two"
        )


def _renew(path: Path, mine: Holder, stop: threading.Event, heartbeat: float) -> None:
    while not stop.wait(heartbeat):
        if read_holder(path) == mine:
            # a sign of life that fails is one missed; check_held says so if it was the last
            with suppress(OSError):
                os.utime(path)


def _acquire(path: Path, mine: Holder) -> None:
    for _ in range(100):
        if _create(path, mine):
            return
        if not _remove_stale(path):
            time.sleep(0.01)  # the holder has just gone, or another is taking over as well
    raise CheckpointError(f"{path}: cannot be taken; remove it if no run uses {path.parent}")


def _create(path: Path, mine: Holder) -> bool:
    """Make the lock with its content at once; False if there is one."""
    temporary = path.with_name(f".{path.name}.{mine.token}.partial")
    try:
        text = json.dumps(asdict(mine))
        temporary.write_text(text, encoding="utf-8")
        _link(temporary, path, text)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _link(temporary: Path, path: Path, text: str) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        with path.open("x", encoding="utf-8") as file:  # a file system without links
            file.write(text)


def _remove_stale(path: Path) -> bool:
    """Remove the lock of a dead run; two that try at once do not remove each other's.

    Raises
    ------
    CheckpointError
        If its holder lives, or may live.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return True
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: that two took over at once shows in check_held
            pass
        if os.fstat(file.fileno()).st_ino != _inode(path):
            return False
        _refuse_live(path)
        path.unlink(missing_ok=True)
    return True


def _refuse_live(path: Path) -> None:
    holder = read_holder(path)
    alive = None if holder is None else holder.is_alive()
    if alive is False:
        return
    if alive:
        raise CheckpointError(
            f"{path.parent}: in use by another run ({holder}); wait for it, end it, or give another output"
        )
    silent = _age(path)
    if silent < STALE_AFTER:
        raise CheckpointError(
            f"{path.parent}: in use by another run ({holder or 'unknown'}), last sign of life {silent:.0f} s ago; "
            f"if it is dead, wait {STALE_AFTER - silent:.0f} s or remove {path}"
        )


def _age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _system() -> str:
    """Boot and namespace of processes; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start of a process in clock ticks, or ``runs`` where there is no /proc; empty if it does not run."""
    if not Path("/proc/self/stat").exists():
        return "runs" if _answers(pid) else ""
    try:
        # the command in brackets may hold anything; the start time is the 20th field after it
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
