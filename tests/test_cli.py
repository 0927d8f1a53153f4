"""The command line from the outside: exit codes, one-line errors, and what it must not import."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from centralslice import __version__
from centralslice.cli import command, commands, main, parser_for
from centralslice.cli.options import Parser, did_you_mean, normalise
from centralslice.errors import ParameterError
from centralslice.plugin.hookspecs import FAMILIES

HEAVY = ("numba", "scipy", "h5py", "pandas", "mrcfile", "matplotlib", "tifffile", "gemmi", "mpi4py")


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CENTRALSLICE_REGISTRY", "CENTRALSLICE_DISABLE_PLUGINS", "CENTRALSLICE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in commands():
        assert f"    {name}" in shown
        assert command(name).SUMMARY.split()[0] in shown


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_and_declares_its_options_with_dashes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: centralslice {name}" in capsys.readouterr().out
    pending: list[argparse.ArgumentParser] = [parser_for((name,))]
    while pending:
        parser = pending.pop()
        assert isinstance(parser, Parser)
        assert not [option for option in parser._option_string_actions if "_" in option]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"centralslice {__version__}\n"


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "commands:" in shown.err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["plugin"], "no command 'plugin' (known: "),
        (["plugin"], "did you mean 'plugins'?"),
        (["plugins", "list", "--verbos"], "unknown option '--verbos'; did you mean '--verbose'?"),
        (["plugins", "list", "--verbos=1"], "did you mean '--verbose'?"),
        (["plugins", "lists"], "did you mean 'list'?"),
        (["plugins", "list", "readers"], "did you mean 'reader'?"),
        (
            ["plugins", "list", "reader", "more"],
            "unknown argument 'more' (see centralslice plugins list --help)",
        ),
        (["plugins", "show"], "required: NAME"),
        (["plugins", "show", "no_such"], "no plugin named 'no_such'"),
        (["plugins", "show", "sttar"], "did you mean 'star'?"),
        (["plugins", "show", "star", "--family", "processor"], "no processor plugin named 'star'"),
        (["--nothing"], "unknown option '--nothing'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("centralslice: error: ")
    assert complaint in shown.err
    assert shown.err.count("\n") == 1


def test_underscores_and_dashes_are_alike_in_names_but_not_in_values() -> None:
    given = ["--shift_convention=a_b", "-a_b", "x_y", "--image_dir", "my_dir", "--", "--keep_this"]
    assert normalise(given) == [
        "--shift-convention=a_b", "-a_b", "x_y", "--image-dir", "my_dir", "--", "--keep_this"
    ]  # fmt: skip


def test_options_are_not_abbreviated() -> None:
    parser = Parser(prog="p")
    parser.add_argument("--threads", type=int)
    with pytest.raises(
        ParameterError, match=r"unknown option '--thread'; did you mean '--threads'\? .see p --help"
    ):
        parser.parse_args(["--thread", "3"])


@pytest.mark.parametrize("text", ["-1e-3", "-3", "-.5", "-2.", "-1.5E+2"])
def test_a_negative_number_is_a_value_and_no_option(text: str) -> None:
    parser = Parser(prog="p")
    parser.add_argument("--shift", type=float, nargs=2)
    assert parser.parse_args(["--shift", text, "0"]).shift == [float(text), 0.0]


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["make3d"]) == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ParameterError("x: expected\n  1"), 2, "centralslice: error: x: expected 1\n"),
        (KeyboardInterrupt(), 130, "centralslice: interrupted\n"),
        (
            ZeroDivisionError("by\nzero"),
            1,
            "centralslice: unexpected error: ZeroDivisionError: by zero; --debug shows the traceback\n",
        ),
        (BrokenPipeError("other pipe"), 1, None),
    ],
)
def test_an_error_ends_in_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str | None,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("centralslice.cli.plugins.run", fail)
    assert main(["plugins", "list"]) == code
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert line is None or shown == line
    assert main(["plugins", "list", "--debug"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("CENTRALSLICE_DEBUG", "1")
    assert main(["plugins", "list"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins", "list"], *([name, "--help"] for name in commands())]
)
def test_help_and_listing_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from centralslice.cli import main; code = main(sys.argv[1:]); "
        f"print(code, [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = run_python("-c", program, *arguments)
    assert done.stderr == "0 []\n"


def test_the_module_form_is_the_same_program() -> None:
    done = run_python("-m", "centralslice.cli", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"centralslice {__version__}\n", "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = f"{sys.executable} -m centralslice.cli plugins list"
    done = subprocess.run(
        ["bash", "-c", f"{{ sleep 1; {program}; echo $? >&2; }} | true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == "141\n"


def test_letters_that_a_terminal_lacks_are_escaped() -> None:
    done = run_python("-m", "centralslice.cli", "simulate", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\xc5" in done.stdout


def test_closed_output_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m centralslice.cli plugins list >&-"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def broken_plugin(folder: Path) -> None:
    (folder / "shattered.py").write_text("raise RuntimeError('glass')\n")
    info = folder / "shattered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shattered\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[centralslice]\nglass = shattered\n")


def test_a_broken_plugin_is_one_warning_line_and_its_traceback_is_shown_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["plugins", "list"]) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        "centralslice: warning: plugin glass (shattered 1.0) not loaded: RuntimeError: glass; "
        "see centralslice plugins show glass\n"
    )
    assert "not loaded\n  glass (shattered 1.0)  RuntimeError: glass\n" in shown.out
    assert "Traceback" not in shown.out
    assert "star" in shown.out
    assert main(["plugins", "show", "glass"]) == 0
    assert "shattered.py" in capsys.readouterr().out
    assert main(["plugins", "list", "--verbose"]) == 0
    assert "Traceback" in capsys.readouterr().out
    monkeypatch.setenv("CENTRALSLICE_DISABLE_PLUGINS", "glass")
    assert main(["plugins", "list"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_listed_alone_and_each_of_its_plugins_is_shown(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "list", family]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == family
    names = [line.split()[0] for line in lines[1:] if line and " -> " not in line]
    assert names
    for name in names:
        assert main(["plugins", "show", name, "--family", family]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"{family} {name}: ")
        assert "  owner" in shown


def test_a_processor_is_shown_with_types_defaults_units_and_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shown_module.py").write_text(
        "from dataclasses import dataclass\n"
        "from centralslice.abc.parameters import parameter\n"
        "from centralslice.abc.processor import Processor\n"
        "from centralslice.plugin.hookspecs import PluginDescription, hookimpl\n"
        "@dataclass(frozen=True)\n"
        "class Blur(Processor):\n"
        '    """Blurs.\n\n    A lot.\n    """\n'
        "    plugin_name = 'mine.blur'\n"
        "    dimensions = frozenset({2})\n"
        "    radius: float = parameter(doc='how much', unit='Å')\n"
        "    rounds: int | None = parameter(2, '', 'how often')\n"
        "    edge: str = parameter('wrap')\n"
        "    def apply(self, data, voxel_size_angst): return data\n"
        "@hookimpl\n"
        "def centralslice_processors():\n"
        "    return [PluginDescription('mine.blur', 'a blur', 'shown_module:Blur')]\n"
    )
    (tmp_path / "centralslice.toml").write_text(
        '[plugins]\nmodules = ["shown_module"]\n[aliases.processor]\nhaze = "mine.blur:radius=3"\n'
        '[parameters.processor."mine.blur"]\nrounds = 5\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["plugins", "show", "haze"]) == 0
    assert capsys.readouterr().out == (
        "processor haze -> mine.blur:radius=3\n\n"
        "processor mine.blur: a blur\n"
        "  owner       shown_module\n"
        "  class       shown_module:Blur\n"
        "  dimensions  2D\n"
        "\n"
        "  Blurs.\n"
        "\n"
        "  A lot.\n"
        "\n"
        "  parameters\n"
        "    radius  float, Å, required          how much\n"
        "    rounds  int, default 5 (catalogue)  how often\n"
        "    edge    str, default wrap\n"
    )
