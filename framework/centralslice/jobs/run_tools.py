"""What every job of particles opens before it works: threads, checkpoint folder, progress, stop signals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from centralslice.errors import CheckpointError
from centralslice.jobs.oversight import RunOverseer
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import Checkpoint, CheckpointStore, checkpoint_folder
from centralslice.runtime.communicator import MASTER, Communicator
from centralslice.runtime.progress import Progress
from centralslice.runtime.schedule import BlockReport
from centralslice.runtime.signals import STOP_SIGNALS, SignalFlags
from centralslice.runtime.threads import Threads


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run was started.

    Attributes
    ----------
    command
        The command line, for the manifest.
    communicator
        The ranks.
    """

    command: str
    communicator: Communicator


class StoppedRun(Exception):
    """A signal stopped the run after a checkpoint; ``args[0]`` is the signal's name."""


class RunChoices(Protocol):
    """What the user chose about running; the settings of every such job have these."""

    @property
    def output(self) -> Path:
        """What checkpoints lie beside."""

    @property
    def threads(self) -> int:
        """Of each rank."""

    @property
    def master_works(self) -> bool:
        """Whether rank 0 works on blocks too."""

    @property
    def checkpoint_every_s(self) -> float:
        """Seconds between checkpoints; 0 for none."""

    @property
    def keep_checkpoints(self) -> bool:
        """Whether they stay after the run."""

    @property
    def resume(self) -> str:
        """no, yes or auto."""

    @property
    def force(self) -> bool:
        """Whether outputs and checkpoints may be replaced."""

    @property
    def quiet(self) -> bool:
        """No progress."""

    @property
    def log_json(self) -> bool:
        """Progress as JSON lines."""


@dataclass(frozen=True, slots=True)
class RunKind:
    """What a job tells about itself.

    Attributes
    ----------
    identity
        Makes the fingerprint of inputs and options; called on the master if there are checkpoints.
    particles
        How many are gone through, all passes together.
    blocks
        How many blocks that is.
    """

    identity: Callable[[], dict[str, Any]]
    particles: int
    blocks: int


@dataclass(frozen=True, slots=True)
class RankTools:
    """What a rank works with, opened by the caller.

    Attributes
    ----------
    registry, threads
        Plugins, threads of this rank.
    communicator
        The ranks.
    store
        Where checkpoints go, or None.
    overseer
        Of the stages; only the master's is used.
    checkpoint
        What the master resumes from, or None.
    signals
        Stop signals to be noted while particles are worked on, or None.
    """

    registry: Registry
    threads: Threads
    communicator: Communicator
    store: CheckpointStore | None
    overseer: RunOverseer
    checkpoint: Checkpoint | None = None
    signals: SignalFlags | None = None

    @property
    def is_master(self) -> bool:
        """Whether this rank makes the result."""
        return self.communicator.rank == MASTER


@contextmanager
def open_tools(
    settings: RunChoices, kind: RunKind, registry: Registry, communicator: Communicator
) -> Iterator[RankTools]:
    """Open what a rank works with; on the master also the checkpoint folder, and signals are noted."""
    with ExitStack() as stack:
        threads = stack.enter_context(Threads(settings.threads))
        store, checkpoint, signals, identity = None, None, None, {}
        if settings.checkpoint_every_s > 0 or settings.keep_checkpoints:
            store = CheckpointStore(checkpoint_folder(settings.output))
            signals = SignalFlags((*STOP_SIGNALS, "SIGINT"))
            if communicator.rank == MASTER:
                identity = kind.identity()
                checkpoint = _take_up(settings, store, identity, stack)
        progress = Progress(
            kind.particles, settings.quiet or communicator.rank != MASTER, json_lines=settings.log_json
        )
        stack.callback(progress.close)
        overseer = RunOverseer(
            progress, settings.checkpoint_every_s, store, signals, identity,
            _observer(kind.blocks, registry), stack,
        )  # fmt: skip
        with _told_of_checkpoint(store if communicator.rank == MASTER else None):
            yield RankTools(registry, threads, communicator, store, overseer, checkpoint, signals)


@contextmanager
def _told_of_checkpoint(store: CheckpointStore | None) -> Iterator[None]:
    """Ctrl-C that ends the run at once: the user is told if there is something to go on from."""
    try:
        yield
    except KeyboardInterrupt as error:
        if store is None or not store.epochs():
            raise
        raise KeyboardInterrupt(
            f"the last checkpoint in {store.folder} is kept, --resume continues"
        ) from error


def _take_up(
    settings: RunChoices, store: CheckpointStore, identity: dict[str, Any], stack: ExitStack
) -> Checkpoint | None:
    """What to resume from, the folder kept to the end of the run if there is something in it."""
    if not store.epochs() and settings.resume == "no":
        return None
    stack.enter_context(store.lock())
    checkpoint = find_checkpoint(settings, store, identity)
    for note in checkpoint.notes if checkpoint is not None else ():
        print(f"centralslice: warning: {note}", file=sys.stderr)
    return checkpoint


def find_checkpoint(
    settings: RunChoices, store: CheckpointStore, identity: dict[str, Any]
) -> Checkpoint | None:
    """What to resume from, by ``--resume``; a checkpoint that is there is never overwritten unasked.

    Raises
    ------
    CheckpointError
        If there is none and one is wanted, or there is one and nothing was said.
    """
    wanted = settings.resume
    there = bool(store.epochs())
    if wanted == "no":
        if there and not settings.force:
            raise CheckpointError(
                f"{store.folder}: holds a checkpoint of an interrupted run; --resume continues it, --force starts anew"
            )
        return None
    if not there:
        if wanted == "auto":
            return None
        raise CheckpointError(f"--resume: {store.folder} holds no checkpoint; leave out --resume")
    return store.latest(identity, allow_previous=wanted == "auto")


def _observer(blocks: int, registry: Registry) -> Callable[[BlockReport], None]:
    """A function that tells hooks of every block."""
    count = {"blocks": 0}

    def observe(report: BlockReport) -> None:
        count["blocks"] += 1
        notify(
            registry, "centralslice_block_done", block=count["blocks"], blocks=blocks,
            particles=report.particles,
        )  # fmt: skip

    return observe


def notify(registry: Registry, hook: str, **facts: object) -> None:
    """Tell life-cycle hooks; one that raises is reported and does not stop the run."""
    for failure in registry.notify(hook, **facts):
        from warnings import warn

        warn(f"plugin {failure.owner}: hook {hook} failed: {failure.error}", RuntimeWarning, stacklevel=2)
