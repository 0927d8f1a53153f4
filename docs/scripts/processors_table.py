"""Write docs/reference/processors.md from the registry.

python docs/scripts/processors_table.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from centralslice.abc.parameters import ParameterInfo, parameters_of
from centralslice.plugin.registry import Registry, load_registry

PAGE = Path(__file__).resolve().parents[1] / "reference/processors.md"

HEAD = """# Processors

Names and parameters are EMAN2's. Use them with `centralslice process --process`, or in `make3d` with `--preprocess`
(each image) and `--postprocess` (the merged map), as `name:key=value:key=value`. `centralslice plugins show NAME`
prints the same as this page, for third-party processors too.

Frequencies: `cutoff_abs` is in cycles per pixel (Nyquist is 0.5), `cutoff_freq` in 1/Å, `cutoff_pixels` in Fourier
pixels. Radii are in pixels about voxel `n // 2`. Where EMAN2's result was wrong the formula here is the right one;
processors with a parameter `compat` give EMAN2's with `compat=eman2`.

This page is made from the registry by `docs/scripts/processors_table.py`.
"""


def page(registry: Registry) -> str:
    """The whole page."""
    built_in = [
        entry.name
        for entry in registry.descriptions("processor")
        if registry.owner("processor", entry.name) == "centralslice_plugins.processors"
    ]
    families: dict[str, list[str]] = {}
    for name in sorted(built_in):
        families.setdefault(name.partition(".")[0], []).append(name)
    parts = [HEAD]
    for family, members in families.items():
        parts.append(f"## {family}\n")
        parts += [section(name, registry) for name in members]
    return "\n".join(parts)


def section(name: str, registry: Registry) -> str:
    """One processor: name, works on, summary, details, parameters."""
    plugin = registry.resolve("processor", name)
    works_on = " and ".join({2: "images", 3: "maps"}[number] for number in sorted(plugin.dimensions))
    lines = [f"### {name}\n", f"*{works_on}.* {summary(name, plugin, registry)}\n"]
    parameters = parameters_of(plugin)
    if parameters:
        lines += ["| parameter | type | default | meaning |", "|---|---|---|---|"]
        lines += [row(entry) for entry in parameters]
        lines.append("")
    return "\n".join(lines)


def summary(name: str, plugin: type[Any], registry: Registry) -> str:
    """The catalogue's line, then what the class says beyond it."""
    (first,) = (escaped(entry.summary) for entry in registry.descriptions("processor") if entry.name == name)
    rest = inspect.cleandoc(plugin.__doc__ or "").partition("\n\n")[2]
    prose = rest.split("\nAttributes\n")[0].split("\nNotes\n")[0].strip()
    return first if not prose else f"{first}\n\n{escaped(prose)}"


def row(entry: ParameterInfo) -> str:
    """A row of the parameter table."""
    default = "required" if entry.required else "" if entry.default is None else f"`{entry.default}`"
    unit = f" ({entry.unit})" if entry.unit else ""
    return f"| `{entry.name}` | {escaped(entry.kind)} | {default} | {escaped(entry.doc)}{unit} |"


def escaped(text: str) -> str:
    """Text for Markdown: code in single backquotes; outside of code nothing that means something else."""
    parts = text.replace("``", "`").split("`")
    parts[::2] = [part.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(load_registry()), encoding="utf-8")


if __name__ == "__main__":
    main()
