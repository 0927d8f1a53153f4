"""The registry: every plugin by family and name, found once, frozen afterwards, imported on first use."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pluggy

from centralslice.abc.parameters import build
from centralslice.abc.processor import Processor
from centralslice.abc.reader import Reader
from centralslice.abc.reconstructor import Reconstructor
from centralslice.abc.symmetry import Symmetry
from centralslice.abc.writer import Writer
from centralslice.errors import (
    CentralsliceError,
    FileMissingError,
    FormatError,
    ParameterError,
    PluginError,
)
from centralslice.plugin.catalogue import (
    DISABLE_VARIABLE,
    Catalogue,
    disabled_by_environment,
    overlay_path,
    read_catalogue,
    shipped_catalogue,
)
from centralslice.plugin.entries import Entry, check_aliases, collect, notices_of
from centralslice.plugin.hookspecs import FAMILIES, PluginDescription
from centralslice.plugin.loading import (
    PluginFailure,
    candidates,
    failure,
    hook_of,
    load_all,
    new_manager,
)
from centralslice.plugin.modspec import parse_modspec

_CONTRACTS: Mapping[str, type] = MappingProxyType({
    "processor": Processor, "reconstructor": Reconstructor, "symmetry": Symmetry,
    "reader": Reader, "writer": Writer,
})  # fmt: skip


@dataclass(frozen=True)
class Registry:
    """All plugins of a process; made by :func:`load_registry`.

    Attributes
    ----------
    entries
        Family to name to plugin, in load order.
    catalogue
        ``registry.toml`` with the user's file on top.
    failures
        Plugins that could not be loaded.
    notices
        One line each about catalogue entries that name nothing.
    manager
        The plugin manager behind :attr:`hooks`.
    """

    entries: Mapping[str, Mapping[str, Entry]]
    catalogue: Catalogue
    failures: tuple[PluginFailure, ...]
    notices: tuple[str, ...]
    manager: pluggy.PluginManager = dataclasses.field(repr=False)

    @property
    def hooks(self) -> pluggy.HookRelay:
        """The hooks of all plugins; an implementation that raises, raises here (see :meth:`notify`)."""
        return self.manager.hook

    def descriptions(self, family: str) -> tuple[PluginDescription, ...]:
        """The plugins of a family in load order; nothing is imported."""
        return tuple(entry.description for entry in self._family(family).values())

    def names(self, family: str) -> tuple[str, ...]:
        """Names of a family's plugins, sorted, without aliases."""
        return tuple(sorted(self._family(family)))

    def aliases(self, family: str) -> Mapping[str, str]:
        """Alias to the ``name:key=value`` it stands for."""
        hook_of(family)
        return self.catalogue.aliases.get(family, {})

    def default(self, family: str) -> str:
        """The plugin used where the user names none; raises PluginError if the catalogue says none."""
        hook_of(family)
        if family not in self.catalogue.default:
            raise PluginError(f"no default {family}: name one of {', '.join(self.names(family))}")
        return self.catalogue.default[family]

    def default_parameters(self, family: str, name: str) -> Mapping[str, str]:
        """Parameters that the catalogue gives a plugin, as text."""
        return self.catalogue.parameters.get(family, {}).get(name, {})

    def owner(self, family: str, name: str) -> str:
        """Who brings a plugin: a module of the catalogue, or entry point and distribution."""
        return self._entry(family, name).owner

    def resolve(self, family: str, name: str) -> type:
        """The class of a plugin, imported now.

        Raises
        ------
        PluginError
            If there is no such plugin, it cannot be imported, or it is not of the family's contract.
        """
        entry = self._entry(family, name)
        who = f"{family} '{name}' of {entry.owner}"
        module, _, attribute = entry.description.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(f"{who}: {entry.description.target} cannot be imported: {reason}") from error
        contract = _CONTRACTS[family]
        if not (isinstance(found, type) and issubclass(found, contract)):
            raise PluginError(f"{who}: {entry.description.target} is not a {contract.__name__}")
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(cast(Any, found).__abstractmethods__))
            raise PluginError(f"{who}: {entry.description.target} does not define {lacking}")
        return found

    def expand(self, family: str, spec_text: str) -> tuple[str, dict[str, str]]:
        """Plugin and parameters that a ``name:key=value`` stands for.

        Aliases are followed; parameters the user gave win over an alias's, which win over the catalogue's.
        """
        name, given = parse_modspec(spec_text)
        aliases, seen = self.aliases(family), [name]
        while name in aliases:
            name, below = parse_modspec(aliases[name])
            if name in seen:
                raise PluginError(
                    f"alias '{seen[0]}' of family {family} goes round: {' -> '.join([*seen, name])}"
                )
            seen.append(name)
            given = _merged(below, given)
        self._entry(family, name)
        return name, _merged(self.default_parameters(family, name), given)

    def create(self, family: str, spec_text: str) -> Any:
        """Make a plugin from ``name:key=value:key=value`` (for a symmetry: from its name).

        Raises
        ------
        PluginError
            If the plugin is unknown or cannot be used.
        ParameterError
            If the text is malformed or a parameter is unknown, missing or out of range.
        """
        if family == "symmetry":
            return self.symmetry(spec_text)
        name, parameters = self.expand(family, spec_text)
        return _instance(self.resolve(family, name), parameters, name)

    def symmetry(self, text: str) -> Symmetry:
        """The symmetry of a name such as ``c7``, ``D2`` or ``I1``; case does not matter.

        Raises
        ------
        PluginError
            If no symmetry takes the name, or two do.
        ParameterError
            If the name's numbers are out of range.
        """
        folded = {alias.lower(): target for alias, target in self.aliases("symmetry").items()}
        wanted = folded.get(text.strip().lower(), text.strip())
        takers = [
            (name, entry)
            for name, entry in self._family("symmetry").items()
            if re.fullmatch(entry.description.pattern, wanted, re.IGNORECASE)
        ]
        if len(takers) > 1:
            (first, one), (second, two) = takers[:2]
            raise PluginError(
                f"symmetry '{text}' is taken by both '{first}' of {one.owner} and '{second}' of {two.owner}; "
                f"disable one ({DISABLE_VARIABLE})"
            )
        if not takers:
            known = ", ".join(
                f"{name} ({e.description.summary})" for name, e in self._family("symmetry").items()
            )
            raise PluginError(f"no symmetry named '{text}' (known: {known or 'none'})")
        made = cast(type[Symmetry], self.resolve("symmetry", takers[0][0])).from_name(wanted)
        return made

    def reader_for(self, path: Path, capability: str) -> Reader:
        """The first reader in load order that has the capability and recognises the file.

        Parameters
        ----------
        path
            An existing file; for a refinement it may be a folder.
        capability
            ``particles``, ``tilt_particles``, ``images``, ``volume`` or ``refinement``.

        Raises
        ------
        FileMissingError
            If the file does not exist.
        FormatError
            If no reader recognises it, or it cannot be opened.
        """
        if not path.exists():
            raise FileMissingError(f"{path}: does not exist")
        if not path.is_file() and not (capability == "refinement" and path.is_dir()):
            raise FormatError(f"{path}: expected a file with {capability}, got a folder or device")
        broken: list[str] = []
        formats: list[str] = []
        for reader in self._usable("reader", capability, broken):
            try:
                if reader.recognises(path):
                    return cast(Reader, reader)
            except OSError as error:
                if isinstance(error, CentralsliceError):
                    raise
                raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
            formats.append(reader.plugin_name)
        known = ", ".join(sorted(formats)) or "none"
        also = "".join(f"; {problem}" for problem in broken)
        raise FormatError(f"{path}: not a known format with {capability} (known: {known}){also}")

    def writer_for(self, path: Path, capability: str) -> Writer:
        """The first writer in load order that has the capability and the file's suffix.

        Parameters
        ----------
        path
            The output.
        capability
            ``volume``, ``images`` or ``table``.

        Raises
        ------
        ParameterError
            If no writer has the suffix; the message lists the suffixes.
        """
        broken: list[str] = []
        suffixes: list[str] = []
        for writer in self._usable("writer", capability, broken):
            if path.name.lower().endswith(tuple(writer.suffixes)):
                return cast(Writer, writer)
            suffixes += writer.suffixes
        known = ", ".join(dict.fromkeys(suffixes)) or "none"
        also = "".join(f"; {problem}" for problem in broken)
        got = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise ParameterError(f"{path}: expected a suffix for {capability} ({known}), got {got}{also}")

    def notify(self, hook: str, **facts: Any) -> tuple[PluginFailure, ...]:
        """Call a life-cycle hook of every plugin; one that raises is returned and stops no other.

        Parameters
        ----------
        hook
            ``centralslice_run_started`` and so on.
        facts
            The hook's arguments.
        """
        failed = []
        plugins = dict(self.manager.list_name_plugin())
        for owner, plugin in plugins.items():
            others = [other for other in plugins.values() if other is not plugin]
            try:
                self.manager.subset_hook_caller(hook, others)(**facts)
            # an observer must not end a run of hours; the caller reports what came back
            except Exception as error:
                failed.append(failure(f"{owner}: {hook}", "", error))
        return tuple(failed)

    def fingerprint(self) -> str:
        """The same on two ranks exactly if they have the same plugins, owners, aliases and defaults."""
        content = {
            "plugins": {
                family: {name: [e.description.target, e.owner] for name, e in self._family(family).items()}
                for family in FAMILIES
            },
            "default": dict(self.catalogue.default),
            "aliases": {family: dict(self.aliases(family)) for family in FAMILIES},
            "parameters": {
                f: {n: dict(v) for n, v in p.items()} for f, p in self.catalogue.parameters.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _family(self, family: str) -> Mapping[str, Entry]:
        hook_of(family)
        return self.entries[family]

    def _entry(self, family: str, name: str) -> Entry:
        known = self._family(family)
        if name in known:
            return known[name]
        raise PluginError(_unknown(family, name, (*self.names(family), *self.aliases(family)), self.failures))

    def _usable(self, family: str, capability: str, broken: list[str]) -> Iterator[Any]:
        """Instances of the plugins with a capability; those that cannot be imported go to ``broken``."""
        for name in self._family(family):
            try:
                found = self.resolve(family, name)
            except PluginError as error:
                broken.append(str(error))
                continue
            if capability in cast(Any, found).capabilities:
                yield _instance(found, self.default_parameters(family, name), name)


def _instance(plugin: type, parameters: Mapping[str, str], called: str) -> Any:
    """A plugin of these parameters; a class that is no dataclass takes none."""
    if dataclasses.is_dataclass(plugin):
        return build(plugin, parameters, called)
    if parameters:
        raise ParameterError(f"{called}: unknown parameter '{next(iter(parameters))}' (known: none)")
    return plugin()


def _merged(below: Mapping[str, str], above: Mapping[str, str]) -> dict[str, str]:
    """Both, ``above`` winning; case does not matter in names of parameters."""
    won = {key.lower() for key in above}
    return {**{key: value for key, value in below.items() if key.lower() not in won}, **above}


def _unknown(family: str, name: str, known: Iterable[str], failures: tuple[PluginFailure, ...]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    broken = f"; not loaded: {', '.join(f.owner for f in failures)}" if failures else ""
    if near:
        return (
            f"no {family} named '{name}'; did you mean '{near[0]}'? "
            f"(centralslice plugins list {family} shows all{broken})"
        )
    return f"no {family} named '{name}' (known: {', '.join(names) or 'none'}{broken})"


def load_registry(overlay: Path | None = None) -> Registry:
    """Find all plugins and read the catalogue.

    Parameters
    ----------
    overlay
        The user's catalogue file; None: ``$CENTRALSLICE_REGISTRY``, else ``./centralslice.toml`` if there.

    Raises
    ------
    PluginError
        If two plugins of a family have one name, or an alias has the name of a plugin.
    ParameterError, FormatError, FileMissingError
        If a catalogue file is missing or wrong.
    """
    catalogue = read_catalogue(shipped_catalogue())
    chosen = overlay if overlay is not None else overlay_path()
    if chosen is not None:
        catalogue = catalogue.overlaid(read_catalogue(chosen))
    catalogue = catalogue.overlaid(Catalogue(disable=disabled_by_environment()))
    found = candidates(catalogue)
    loaded, failures = load_all(one for one in found if one.name not in catalogue.disable)
    manager = new_manager()
    for one in loaded:
        manager.register(one.plugin, name=one.candidate.owner)
    entries = {family: collect(family, loaded, catalogue.disable) for family in FAMILIES}
    check_aliases(entries, catalogue)
    notices = notices_of(entries, catalogue, found, loaded)
    return Registry(MappingProxyType(entries), catalogue, failures, notices, manager)


@functools.cache
def shared_registry() -> Registry:
    """The registry of this process, for plugins that need other plugins."""
    return load_registry()
