"""What the manual says is so: commands run or at least parse, options and processors are all described."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from centralslice.cli import commands, parser_for
from centralslice.cli.options import Parser, normalise
from centralslice.plugin.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
TUTORIAL = DOCS / "tutorial/first-map.md"
#: Resolutions in the tutorial may differ by this fraction on another CPU.
TOLERANCE = 0.02


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shell_commands(page: Path) -> Iterator[list[str]]:
    """Every ``centralslice …`` in the shell blocks of a page, as arguments."""
    for language, text in blocks(page):
        if language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "centralslice":
                    yield words[1:]


COMMANDS = [(page, words) for page in PAGES for words in shell_commands(page)]


def name_of(value: Any) -> str | None:
    if isinstance(value, Path):
        return str(value.relative_to(ROOT))
    return " ".join(value) if isinstance(value, list) else None


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=name_of)
def test_a_command_in_the_manual_is_one_that_the_program_takes(page: Path, words: list[str]) -> None:
    if words in (["--help"], ["--version"]):
        return
    found = parser_for(commands()).parse_args(normalise(words))
    registry = load_registry()
    for option in ("process", "preprocess", "postprocess"):
        for text in getattr(found, option, None) or ():
            registry.create("processor", text)
    if getattr(found, "sym", None):
        registry.symmetry(found.sym)
    if getattr(found, "mode", None):
        registry.create("reconstructor", found.mode)


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option of a parser and of its subparsers, and its positional arguments."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield name
                yield from options_of(child)
        elif action.option_strings:
            yield from action.option_strings
        else:
            yield str(action.metavar or action.dest)


def section(page: Path, title: str) -> str:
    """The text under a second-level heading."""
    found = re.search(
        rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    return found[1]


def subparser(command: str) -> Parser:
    parser = parser_for([command])
    (action,) = (entry for entry in parser._actions if isinstance(entry, argparse._SubParsersAction))
    child: Parser = action.choices[command]
    return child


@pytest.mark.parametrize("command", commands())
def test_every_option_is_described_and_every_described_option_exists(command: str) -> None:
    shared = {"-h", "--help", "--debug"}
    text = section(DOCS / "reference/command-line.md", command)
    described = set(
        re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    )
    existing = set(options_of(subparser(command))) - shared
    assert {name for name in existing if not name.startswith("-")} <= set(re.findall(r"[\w./|]+", text))
    assert described - shared <= existing | {"--process"}
    assert {name for name in existing if name.startswith("-")} <= described


@pytest.mark.parametrize("command", ["make3d", "tomo", "process", "simulate"])
def test_defaults_in_the_manual_are_those_of_the_program(command: str) -> None:
    text = section(DOCS / "reference/command-line.md", command)
    for action in subparser(command)._actions:
        row = next(
            (line for line in text.splitlines() if line.startswith("|") and f"`{_longest(action)}" in line),
            "",
        )
        told = row.split("|")[2].strip().strip("`") if row else ""
        if action.default not in (None, argparse.SUPPRESS, [], False, -1) and told:
            assert _same(told, action.default), action


def _longest(action: argparse.Action) -> str:
    return max(action.option_strings, key=len, default=str(action.metavar))


def _same(told: str, default: Any) -> bool:
    """Whether a text in the manual means this default: a word, a number or several numbers."""
    try:
        numbers = [float(word) for word in told.split()]
    except ValueError:
        return told == str(default)
    return numbers == [float(value) for value in (default if isinstance(default, tuple) else (default,))]


def test_the_page_of_processors_is_up_to_date() -> None:
    path = DOCS / "scripts/processors_table.py"
    spec = importlib.util.spec_from_file_location("processors_table", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = script.page(load_registry())
    assert script.PAGE.read_text(encoding="utf-8") == made, f"run: python {path.relative_to(ROOT)}"


def test_every_symmetry_in_the_manual_exists_and_has_that_many_operators() -> None:
    registry = load_registry()
    rows = [
        line.split("|")
        for line in (DOCS / "reference/symmetries.md").read_text().splitlines()
        if line[:3] == "| `"
    ]
    counted = [
        (name, int(row[2]))
        for row in rows
        if row[2].strip().isdigit()
        for name in re.findall(r"`(\w+)`", row[1])
    ]
    assert len(counted) >= 13
    for name, count in counted:
        assert registry.symmetry(name).order == count, name


def messages_of(folder: Path) -> Iterator[str]:
    """Every text in the source, placeholders as a bar."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "|".join(part.value for part in node.values if isinstance(part, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_in_troubleshooting_is_one_that_the_program_prints() -> None:
    known = "\n".join(text for folder in ("framework", "plugins") for text in messages_of(ROOT / folder))
    rows = re.findall(
        r"^\| `(.+?)`", (DOCS / "how-to/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 25
    for told in rows:
        for piece in re.split(r"…|'[^']*'|\d+(?!D)", told):
            words = piece.strip(" ,:×")
            assert len(words.split()) < 2 or words in known, f"{told!r}: {words!r}"


def slug(heading: str) -> str:
    """The anchor of a heading."""
    text = re.sub(r"[^\w\s-]", "", heading.strip().lower().replace("`", ""))
    return re.sub(r"[-\s]+", "-", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_the_picture_is_small_enough_for_a_readme() -> None:
    assert (DOCS / "images/demo.png").stat().st_size <= 300_000


def test_the_tutorial_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script, expected = ["set -eu"], []
    for language, text in blocks(TUTORIAL):
        if language == "sh":
            script.append(text)
        elif language == "text":
            expected += text.splitlines()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    for line in expected:
        assert any(agree(line, other) for other in printed), f"{line}\nis not in\n{done.stdout}"
    named = re.findall(r"^\| (`.*?) \|", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
    for name in re.findall(r"`(.+?)`", " ".join(named)):
        assert (tmp_path / "first-map" / name).is_file(), name


def agree(told: str, printed: str) -> bool:
    """The same words, and numbers within a tolerance."""
    number = r"-?\d+\.\d+"
    if re.sub(number, "#", told) != re.sub(number, "#", printed):
        return False
    pairs = zip(re.findall(number, told), re.findall(number, printed), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE * max(abs(float(a)), 0.5) for a, b in pairs)
