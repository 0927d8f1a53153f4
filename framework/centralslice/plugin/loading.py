"""Finding plugins: modules of the catalogue and entry points, each tried alone before it is let in."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import Any

import pluggy

from centralslice.errors import PluginError
from centralslice.plugin import hookspecs
from centralslice.plugin.catalogue import Catalogue
from centralslice.plugin.hookspecs import FAMILIES, PROJECT, PluginDescription

ENTRY_POINT_GROUP = "centralslice"

_HOOK_OF_FAMILY = {
    "processor": "centralslice_processors",
    "reconstructor": "centralslice_reconstructors",
    "symmetry": "centralslice_symmetries",
    "reader": "centralslice_readers",
    "writer": "centralslice_writers",
}
_NAME = re.compile(r"[^\s:=\"]+")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Described = Mapping[str, tuple[PluginDescription, ...]]


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that could not be used.

    Attributes
    ----------
    name
        Entry point or module.
    distribution
        Name and version of the distribution it came from; empty for a module of the catalogue.
    error
        What was wrong, one line.
    traceback
        The whole story, for ``--verbose``.
    """

    name: str
    distribution: str
    error: str
    traceback: str

    @property
    def owner(self) -> str:
        """Who it is, as messages name it."""
        return owner_label(self.name, self.distribution)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that may be loaded: who it is and how to get it."""

    name: str
    distribution: str
    load: Callable[[], Any] = field(repr=False)

    @property
    def owner(self) -> str:
        """Who it is, as messages name it."""
        return owner_label(self.name, self.distribution)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin that works: the object with its hooks and what it describes."""

    candidate: Candidate
    plugin: Any
    described: Described


def owner_label(name: str, distribution: str) -> str:
    """``acme (acme-recon 1.0)``, or the name alone."""
    return f"{name} ({distribution})" if distribution else name


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows our hooks and no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def candidates(catalogue: Catalogue) -> tuple[Candidate, ...]:
    """Modules of the catalogue in their order, then entry points by name; nothing is imported."""
    modules = [Candidate(name, "", partial(importlib.import_module, name)) for name in catalogue.modules]
    points = sorted(
        metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, _distribution_of(p))
    )
    return (*modules, *(Candidate(point.name, _distribution_of(point), point.load) for point in points))


def _distribution_of(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""


def load_all(found: Iterable[Candidate]) -> tuple[tuple[Loaded, ...], tuple[PluginFailure, ...]]:
    """Load each candidate; one that fails is recorded and harms no other."""
    loaded: list[Loaded] = []
    failures: list[PluginFailure] = []
    for candidate in found:
        try:
            plugin = candidate.load()
            if any(plugin is other.plugin for other in loaded):
                continue  # one module named twice, say by an entry point and by the user's file
            loaded.append(Loaded(candidate, plugin, describe(plugin)))
        # a stranger's module may do anything, even sys.exit; whatever it is, it is kept and reported
        except (Exception, SystemExit) as error:
            failures.append(failure(candidate.name, candidate.distribution, error))
    return tuple(loaded), tuple(failures)


def failure(name: str, distribution: str, error: BaseException) -> PluginFailure:
    """What is reported about a plugin that raised ``error``."""
    lines = " ".join(str(error).split())
    text = lines if isinstance(error, PluginError) else f"{type(error).__name__}: {lines}"
    return PluginFailure(name, distribution, text, "".join(traceback.format_exception(error)))


def describe(plugin: Any) -> Described:
    """What a plugin offers, asked for through its hooks in a manager of its own.

    Raises
    ------
    pluggy.PluginValidationError
        If a hook's name or arguments are not ours.
    PluginError
        If a description is malformed.
    """
    manager = new_manager()
    manager.register(plugin)
    manager.check_pending()
    described: dict[str, tuple[PluginDescription, ...]] = {}
    for family, hook in _HOOK_OF_FAMILY.items():
        results = getattr(manager.hook, hook)()
        described[family] = tuple(entry for result in results for entry in result)
        for entry in described[family]:
            _check(entry, family)
    return described


def _check(entry: Any, family: str) -> None:
    if not isinstance(entry, PluginDescription):
        raise PluginError(
            f"{_HOOK_OF_FAMILY[family]}: expected PluginDescription, got {type(entry).__name__}"
        )
    if not _NAME.fullmatch(entry.name):
        raise PluginError(f"{family} '{entry.name}': a name has no blank, colon, equals sign or quote")
    if not _TARGET.fullmatch(entry.target):
        raise PluginError(f"{family} '{entry.name}': target: expected 'module:Class', got '{entry.target}'")
    if bool(entry.pattern) != (family == "symmetry"):
        raise PluginError(f"{family} '{entry.name}': a pattern belongs to every symmetry and to nothing else")
    try:
        re.compile(entry.pattern)
    except re.error as error:
        raise PluginError(f"{family} '{entry.name}': pattern '{entry.pattern}': {error}") from error


def hook_of(family: str) -> str:
    """Name of the hook that describes a family's plugins.

    Raises
    ------
    PluginError
        If there is no such family.
    """
    if family not in _HOOK_OF_FAMILY:
        raise PluginError(f"no plugin family '{family}' (known: {', '.join(FAMILIES)})")
    return _HOOK_OF_FAMILY[family]
