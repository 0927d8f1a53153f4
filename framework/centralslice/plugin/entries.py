"""What loaded plugins bring, put together: one owner a name, no alias in front of a plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from centralslice.errors import PluginError
from centralslice.plugin.catalogue import DISABLE_VARIABLE, Catalogue
from centralslice.plugin.hookspecs import PluginDescription
from centralslice.plugin.loading import Candidate, Loaded


@dataclass(frozen=True, slots=True)
class Entry:
    """A plugin and who brings it."""

    description: PluginDescription
    owner: str


def collect(family: str, loaded: Iterable[Loaded], disable: tuple[str, ...]) -> Mapping[str, Entry]:
    """A family's plugins by name, in load order.

    Raises
    ------
    PluginError
        If two have one name; the message names both owners.
    """
    found: dict[str, Entry] = {}
    for one in loaded:
        for description in one.described[family]:
            name, owner = description.name, one.candidate.owner
            if not {f"{family}:{name}", f"{one.candidate.name}:{family}:{name}"}.isdisjoint(disable):
                continue
            if name in found:
                raise PluginError(
                    f"{family} '{name}' comes from both {found[name].owner} and {owner}; "
                    f"disable one, for example {DISABLE_VARIABLE}={one.candidate.name}:{family}:{name}"
                )
            found[name] = Entry(description, owner)
    return MappingProxyType(found)


def check_aliases(entries: Mapping[str, Mapping[str, Entry]], catalogue: Catalogue) -> None:
    """Refuse an alias that would hide a plugin of the same name.

    Raises
    ------
    PluginError
        The message names the catalogue files and the plugin's owner.
    """
    files = ", ".join(map(str, catalogue.files))
    for family, aliases in catalogue.aliases.items():
        for alias in aliases:
            if alias in entries[family]:
                owner = entries[family][alias].owner
                raise PluginError(f"{files}: alias '{alias}' hides the {family} '{alias}' of {owner}")


def notices_of(
    entries: Mapping[str, Mapping[str, Entry]], catalogue: Catalogue,
    found: Iterable[Candidate], loaded: Iterable[Loaded],
) -> tuple[str, ...]:  # fmt: skip
    """Catalogue entries that name nothing: likely typing errors, but never worth stopping for."""
    there = {one.name for one in found}
    for one in loaded:
        for family, described in one.described.items():
            for entry in described:
                there |= {f"{family}:{entry.name}", f"{one.candidate.name}:{family}:{entry.name}"}
    lines = [f"disable: nothing is named '{entry}'" for entry in catalogue.disable if entry not in there]
    for family, plugins in catalogue.parameters.items():
        lines += [
            f"parameters: no {family} is named '{name}'"
            for name in plugins
            if name not in entries[family] and f"{family}:{name}" not in catalogue.disable
        ]
    return tuple(lines)
