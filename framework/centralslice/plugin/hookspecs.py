"""The hooks of a centralslice plugin: one a family, returning light descriptions, and the life of a run.

A plugin is a module with ``@hookimpl`` functions, named in the entry-point group ``centralslice``,
in ``registry.toml`` or in the user's overlay file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy

PROJECT = "centralslice"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

FAMILIES = ("processor", "reconstructor", "symmetry", "reader", "writer")


@dataclass(frozen=True, slots=True)
class PluginDescription:
    """A plugin before it is imported: its name, one line about it, and where its class is.

    ``target`` is ``"module:Class"``. For a symmetry, ``pattern`` is a regular expression of the names it
    takes (``c7``, ``d2``, ``I1``); for the other families it is empty.
    """

    name: str
    summary: str
    target: str
    pattern: str = ""


@hookspec
def centralslice_processors() -> Iterable[PluginDescription]:  # type: ignore[empty-body]
    """Processors of this plugin."""


@hookspec
def centralslice_reconstructors() -> Iterable[PluginDescription]:  # type: ignore[empty-body]
    """Reconstructors of this plugin."""


@hookspec
def centralslice_symmetries() -> Iterable[PluginDescription]:  # type: ignore[empty-body]
    """Symmetries of this plugin."""


@hookspec
def centralslice_readers() -> Iterable[PluginDescription]:  # type: ignore[empty-body]
    """Readers of this plugin."""


@hookspec
def centralslice_writers() -> Iterable[PluginDescription]:  # type: ignore[empty-body]
    """Writers of this plugin."""


@hookspec
def centralslice_run_started(command: str, settings: Mapping[str, Any]) -> None:
    """A run begins; ``settings`` are its resolved options."""


@hookspec
def centralslice_block_done(block: int, blocks: int, particles: int) -> None:
    """Block ``block`` of ``blocks`` was added; ``particles`` are done so far."""


@hookspec
def centralslice_before_finish(label: str) -> None:
    """The sums called ``label`` (``half1``, ``half2``, ``merged``) are complete and will be finished."""


@hookspec
def centralslice_map_written(label: str, path: Path) -> None:
    """A map was written under its final name."""
