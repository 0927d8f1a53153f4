"""The catalogue: ``registry.toml`` as shipped, and the user's file that overlays it.

Both have the same form::

    schema = 1
    [plugins]
    modules = ["package.module"]      # modules with hook implementations, in load order
    disable = ["acme", "processor:mask.soft", "acme:reader:star"]
    enable = []                       # takes entries out of an earlier file's disable
    [default]
    reconstructor = "name"
    [aliases.processor]
    short = "long.name:parameter=value"
    [parameters.processor."mask.soft"]
    width = 4
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from centralslice.errors import FileMissingError, FormatError, ParameterError, PluginError
from centralslice.plugin.hookspecs import FAMILIES

SCHEMA = 1
OVERLAY_VARIABLE = "CENTRALSLICE_REGISTRY"
DISABLE_VARIABLE = "CENTRALSLICE_DISABLE_PLUGINS"
OVERLAY_NAME = "centralslice.toml"

_SECTIONS = ("schema", "plugins", "default", "aliases", "parameters")
_PLUGIN_KEYS = ("modules", "disable", "enable")

ByFamily = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What one catalogue file, or several overlaid, say.

    Attributes
    ----------
    files
        The files it came from, earliest first.
    modules
        Modules with hook implementations, in load order.
    disable
        Owners (``acme``), plugins (``processor:mask.soft``) or plugins of an owner
        (``acme:processor:mask.soft``) that are left out.
    enable
        Entries that are taken out of an earlier file's ``disable``.
    default
        Family to the plugin used where the user names none.
    aliases
        Family to alias to ``name:key=value``.
    parameters
        Family to plugin to parameter to value as text: defaults in place of the class's own.
    """

    files: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    default: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    def overlaid(self, other: Catalogue) -> Catalogue:
        """This catalogue with ``other`` on top; where both say something, ``other`` is right."""
        kept = [entry for entry in self.disable if entry not in other.enable]
        return Catalogue(
            files=self.files + other.files,
            modules=tuple(dict.fromkeys(self.modules + other.modules)),
            disable=tuple(dict.fromkeys([*kept, *other.disable])),
            enable=self.enable + other.enable,
            default={**self.default, **other.default},
            aliases={
                family: {**self.aliases.get(family, {}), **other.aliases.get(family, {})}
                for family in FAMILIES
            },
            parameters={
                family: _overlaid(self.parameters.get(family, {}), other.parameters.get(family, {}))
                for family in FAMILIES
            },
        )


def _overlaid(
    below: Mapping[str, Mapping[str, str]], above: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    names = dict.fromkeys([*below, *above])
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in names}


def shipped_catalogue() -> Path:
    """Where ``registry.toml`` is: inside the installed package, or at the root of a checkout.

    Raises
    ------
    PluginError
        If it is in neither place.
    """
    inside = Path(str(resources.files("centralslice") / "registry.toml"))
    if inside.is_file():
        return inside
    root = Path(__file__).resolve().parents[3] / "registry.toml"
    if root.is_file():
        return root
    raise PluginError(f"registry.toml: expected at {inside} or {root}, found at neither; install again")


def overlay_path() -> Path | None:
    """The user's file: ``$CENTRALSLICE_REGISTRY``, else ``centralslice.toml`` here, else None.

    Raises
    ------
    FileMissingError
        If the variable names a file that does not exist.
    """
    named = os.environ.get(OVERLAY_VARIABLE, "")
    if named:
        if not Path(named).is_file():
            raise FileMissingError(
                f"{OVERLAY_VARIABLE}: {named} does not exist; correct or unset the variable"
            )
        return Path(named)
    here = Path(OVERLAY_NAME)
    return here if here.is_file() else None


def disabled_by_environment() -> tuple[str, ...]:
    """Entries of ``$CENTRALSLICE_DISABLE_PLUGINS``, separated by commas."""
    entries = os.environ.get(DISABLE_VARIABLE, "").split(",")
    return tuple(entry.strip() for entry in entries if entry.strip())


def read_catalogue(path: Path) -> Catalogue:
    """Read and check one catalogue file.

    Raises
    ------
    FileMissingError
        If the file does not exist.
    FormatError
        If it is not TOML, or of another schema.
    ParameterError
        For an unknown key or a value of the wrong type; the message names file and key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileMissingError(f"{path}: does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not TOML: {error}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_keys(path, "", content, _SECTIONS)
    schema = content.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise FormatError(f"{path}: schema: expected {SCHEMA}, got {schema!r}; this version reads no other")
    plugins = _table(path, "plugins", content.get("plugins", {}))
    _check_keys(path, "plugins.", plugins, _PLUGIN_KEYS)
    modules, disable, enable = (_names(path, f"plugins.{key}", plugins.get(key, [])) for key in _PLUGIN_KEYS)
    both = [entry for entry in disable if entry in enable]
    if both:
        raise ParameterError(f"{path}: '{both[0]}' is in plugins.enable and in plugins.disable; keep one")
    return Catalogue(
        files=(path,), modules=modules, disable=disable, enable=enable,
        default=_texts(path, "default", _families(path, "default", content)),
        aliases={
            family: _texts(path, f"aliases.{family}", _table(path, f"aliases.{family}", table))
            for family, table in _families(path, "aliases", content).items()
        },
        parameters=_parameters(path, content),
    )  # fmt: skip


def _parameters(path: Path, content: Mapping[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for family, plugins in _families(path, "parameters", content).items():
        for name, values in _table(path, f"parameters.{family}", plugins).items():
            where = f"parameters.{family}.{name}"
            texts = {
                key: _as_text(path, f"{where}.{key}", v) for key, v in _table(path, where, values).items()
            }
            found.setdefault(family, {})[name] = texts
    return found


def _families(path: Path, section: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section whose keys are families."""
    table = _table(path, section, content.get(section, {}))
    _check_keys(path, f"{section}.", table, FAMILIES)
    return table


def _check_keys(path: Path, where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ParameterError(f"{path}: unknown key '{where}{key}' (known: {', '.join(known)})")


def _table(path: Path, key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ParameterError(f"{path}: {key}: expected a table, got {value!r}")
    return value


def _texts(path: Path, key: str, table: Mapping[str, Any]) -> dict[str, str]:
    for name, value in table.items():
        if not isinstance(value, str) or not value:
            raise ParameterError(f"{path}: {key}.{name}: expected text, got {value!r}")
    return dict(table)


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise ParameterError(f"{path}: {key}: expected a list of names, got {value!r}")
    return tuple(value)


def _as_text(path: Path, key: str, value: Any) -> str:
    """A parameter's value as the user would type it, so that files and options are converted alike."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return value
    raise ParameterError(f"{path}: {key}: expected a number, text or true/false, got {value!r}")
