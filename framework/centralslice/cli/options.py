"""What all commands share: the parser, its error messages, and opening the registry."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from centralslice.plugin.registry import Registry

_CHOICE = re.compile(r"invalid choice: (?P<got>'[^']*'|\S+) \(choose from (?P<known>.*)\)")
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ParameterError in one line and takes no abbreviations.

    Options are declared with dashes; :func:`normalise` turns the user's underscores into them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False})
        # argparse of Python < 3.14 takes -1e-3 for an option
        self._negative_number_matcher = _NEGATIVE_NUMBER
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS,
            help="show the Python traceback of an error (also: CENTRALSLICE_DEBUG=1)",
        )  # fmt: skip

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class, but what is left over is an error here, where the options are known."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unknown {'option' if left[0].startswith('-') else 'argument'} '{left[0]}'")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Raise ParameterError with the parser's name and a hint."""
        raise ParameterError(f"{message}{self._hint(message)} (see {self.prog} --help)")

    def _hint(self, message: str) -> str:
        unknown = re.fullmatch(r"unknown option '(--[^'=]*)(=.*)?'", message, re.DOTALL)
        if unknown:
            return did_you_mean(unknown[1], self._option_string_actions)
        choice = _CHOICE.search(message)
        if choice:
            return did_you_mean(choice["got"].strip("'"), re.findall(r"[^\s,']+", choice["known"]))
        return ""


#: What :meth:`argparse.ArgumentParser.add_subparsers` returns.
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def normalise(argv: Sequence[str]) -> list[str]:
    """Turn underscores in the names of long options into dashes; values and what follows ``--`` stay."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    return [*map(_with_dashes, argv[:end]), *argv[end:]]


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the most similar known word, or nothing."""
    near = difflib.get_close_matches(got, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def warn(text: str) -> None:
    """One warning line for the user on stderr."""
    print(f"centralslice: warning: {' '.join(text.split())}", file=sys.stderr)


def open_registry() -> Registry:
    """The process's registry, read anew; plugins that could not be loaded are named on stderr."""
    # registry -> abc -> numpy: not needed to show help
    from centralslice.plugin.registry import shared_registry

    shared_registry.cache_clear()
    registry = shared_registry()
    for failed in registry.failures:
        warn(f"plugin {failed.owner} not loaded: {failed.error}; see centralslice plugins show {failed.name}")
    for notice in registry.notices:
        warn(notice)
    return registry
