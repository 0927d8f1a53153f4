"""``centralslice plugins``: what plugins there are, and what one of them takes."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from centralslice.cli.options import Subparsers, did_you_mean, open_registry
from centralslice.errors import PluginError

if TYPE_CHECKING:
    from centralslice.plugin.loading import PluginFailure
    from centralslice.plugin.registry import Registry

SUMMARY = "list plugins and show their parameters"

_FAMILIES = ("processor", "reconstructor", "symmetry", "reader", "writer")
_BUILT_IN = "centralslice_plugins."


def add_parser(subparsers: Subparsers) -> None:
    """Add ``plugins list`` and ``plugins show``."""
    parser = subparsers.add_parser("plugins", help=SUMMARY, description=f"{SUMMARY.capitalize()}.")
    actions = parser.add_subparsers(dest="action", metavar="list|show", required=True)
    listing = actions.add_parser("list", help="all plugins, or those of one family")
    listing.add_argument("family", nargs="?", choices=_FAMILIES, metavar="FAMILY", help=", ".join(_FAMILIES))
    listing.add_argument(
        "-v", "--verbose", action="store_true", help="owners, classes, and tracebacks of plugins not loaded"
    )
    show = actions.add_parser("show", help="one plugin with its parameters, or why it was not loaded")
    show.add_argument("name", metavar="NAME", help="plugin, alias, or name of a plugin that was not loaded")
    show.add_argument(
        "--family", choices=_FAMILIES, metavar="FAMILY", help="where a name is in several families"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the list or the plugin."""
    registry = open_registry()
    if arguments.action == "list":
        families = (arguments.family,) if arguments.family else _FAMILIES
        lines = [line for family in families for line in _list_lines(registry, family, arguments.verbose)]
        lines += _failure_lines(registry.failures, arguments.verbose)
    else:
        lines = _show_lines(registry, arguments.name, arguments.family)
    print("\n".join(lines))
    return 0


def _list_lines(registry: Registry, family: str, verbose: bool) -> list[str]:
    rows: list[tuple[str, str]] = []
    for name in registry.names(family):
        description, owner = registry.entries[family][name].description, registry.owner(family, name)
        by = f"  [{owner}]" if verbose or not owner.startswith(_BUILT_IN) else ""
        rows.append((name, description.summary + by + (f"  {description.target}" if verbose else "")))
    rows += [(alias, f"-> {target}") for alias, target in sorted(registry.aliases(family).items())]
    return [family, *_columns(rows or [("(none)", "")], "  "), ""]


def _failure_lines(failures: tuple[PluginFailure, ...], verbose: bool) -> list[str]:
    if not failures:
        return []
    lines = ["not loaded", *_columns([(failed.owner, failed.error) for failed in failures], "  ")]
    if verbose:
        for failed in failures:
            lines += ["", failed.owner, failed.traceback.rstrip()]
    return lines


def _show_lines(registry: Registry, name: str, family: str | None) -> list[str]:
    lines: list[str] = []
    known: set[str] = set()
    for each in (family,) if family else _FAMILIES:
        known |= {*registry.names(each), *registry.aliases(each)}
        if name in registry.names(each):
            lines += [*_plugin_lines(registry, each, name), ""]
        elif name in registry.aliases(each):
            target = registry.aliases(each)[name]
            stands_for = target.partition(":")[0]
            lines += [f"{each} {name} -> {target}", ""]
            if stands_for in registry.names(each):
                lines += [*_plugin_lines(registry, each, stands_for), ""]
    for failed in registry.failures if family is None else ():
        if name in (failed.name, failed.owner):
            lines += [f"{failed.owner} was not loaded: {failed.error}", "", failed.traceback.rstrip(), ""]
        known.add(failed.name)
    if not lines:
        where = f"{family} " if family else ""
        raise PluginError(
            f"no {where}plugin named '{name}'{did_you_mean(name, known)} (see centralslice plugins list)"
        )
    return lines[:-1]


def _plugin_lines(registry: Registry, family: str, name: str) -> list[str]:
    """Everything about one plugin; imports it."""
    description = registry.entries[family][name].description
    plugin: Any = registry.resolve(family, name)
    facts = [("owner", registry.owner(family, name)), ("class", description.target)]
    if family == "processor":
        facts.append(("dimensions", " and ".join(f"{n}D" for n in sorted(plugin.dimensions))))
    if family == "symmetry":
        facts.append(("names", description.pattern))
    if family in ("reader", "writer"):
        facts.append(("capabilities", ", ".join(sorted(plugin.capabilities))))
    if family == "writer":
        facts.append(("suffixes", ", ".join(plugin.suffixes)))
    lines = [f"{family} {name}: {description.summary}", *_columns(facts, "  ")]
    lines += [f"  {line}".rstrip() for line in _documentation(plugin, description.summary)]
    if dataclasses.is_dataclass(plugin) and family != "symmetry":
        lines += _parameter_lines(registry, family, name, plugin)
    return lines


def _documentation(plugin: type, summary: str) -> list[str]:
    """The class's own docstring without what the summary said; a dataclass's signature is none."""
    own = vars(plugin).get("__doc__") or ""
    lines = [] if own.startswith(f"{plugin.__name__}(") else inspect.cleandoc(own).splitlines()
    if lines and lines[0].rstrip(".") == summary.rstrip("."):
        lines = lines[2:]
    return ["", *lines] if any(lines) else []


def _parameter_lines(registry: Registry, family: str, name: str, plugin: Any) -> list[str]:
    from centralslice.abc.parameters import parameters_of

    configured = {key.lower(): text for key, text in registry.default_parameters(family, name).items()}
    rows = []
    for info in parameters_of(plugin):
        default = "required" if info.required else f"default {info.default}"
        if info.name.lower() in configured:
            default = f"default {configured[info.name.lower()]} (catalogue)"
        unit = f", {info.unit}" if info.unit else ""
        rows.append((info.name, f"{info.kind}{unit}, {default}", info.doc))
    if not rows:
        return ["", "  no parameters"]
    return ["", "  parameters", *_columns(rows, "    ")]


def _columns(rows: list[tuple[str, str]] | list[tuple[str, str, str]], indent: str) -> list[str]:
    """Rows as text, all columns but the last padded to one width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        (
            indent + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in rows
    ]
