"""Every hook, every key of the catalogue and every command has its heading in the manual."""

from __future__ import annotations

from pathlib import Path

import pytest

from centralslice.cli import commands
from centralslice.plugin import catalogue, hookspecs

DOCS = Path(__file__).resolve().parents[1] / "docs"


def headings(page: str) -> set[str]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return {line.lstrip("#").strip() for line in lines if line.startswith("#")}


@pytest.mark.parametrize("hook", sorted(name for name in vars(hookspecs) if name.startswith("centralslice_")))
def test_every_hook_has_a_heading(hook: str) -> None:
    assert hook in headings("reference/plugins.md")


@pytest.mark.parametrize(
    "key",
    [
        *(key for key in catalogue._SECTIONS if key != "plugins"),
        *(f"plugins.{key}" for key in catalogue._PLUGIN_KEYS),
    ],
)
def test_every_key_of_the_catalogue_has_a_heading(key: str) -> None:
    assert key in headings("reference/configuration.md")


@pytest.mark.parametrize(
    "variable", [catalogue.OVERLAY_VARIABLE, catalogue.DISABLE_VARIABLE, "CENTRALSLICE_DEBUG"]
)
def test_every_variable_is_explained(variable: str) -> None:
    assert f"| `{variable}` |" in (DOCS / "reference/configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", commands())
def test_every_command_has_a_heading(name: str) -> None:
    assert name in headings("reference/command-line.md")


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_a_decision_says_context_decision_and_consequences(path: Path) -> None:
    assert {"Context", "Decision", "Consequences"} <= headings(f"decisions/{path.name}")


def test_the_processor_in_the_how_to_is_the_one_in_the_example() -> None:
    code = (DOCS.parent / "examples/third_party_plugin/acme_recon/processors.py").read_text(encoding="utf-8")
    body = code[code.index("@dataclass") :]
    assert body in (DOCS / "how-to/write-a-plugin.md").read_text(encoding="utf-8")
