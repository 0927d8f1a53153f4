"""The command line: ``centralslice COMMAND …``, one module a command.

A command module has ``SUMMARY`` (one line), ``add_parser(subparsers)`` and ``run(arguments) -> int``, and
imports what is heavy inside ``run``: asking for help must not wait for a compiler.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import os
import select
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Protocol, cast

from centralslice import __version__
from centralslice.cli.options import Parser, Subparsers, did_you_mean, normalise
from centralslice.errors import CentralsliceError, ParameterError, exit_code
from centralslice.runtime.kernel_cache import choose_kernel_folder
from centralslice.runtime.kernel_saving import go_on_without_cache

#: In the order of the help text.
COMMANDS = ("make3d", "tomo", "subparticles", "process", "simulate", "launch", "checkpoint", "plugins")
#: Those whose work is shared by all ranks that mpiexec started; the others run on the first rank alone.
PARALLEL_COMMANDS = ("make3d", "tomo", "subparticles")
DEBUG_VARIABLE = "CENTRALSLICE_DEBUG"
#: The first rank has this long to say what is wrong with the options.
AFTER_FIRST_RANK_S = 1.0
#: What a shell reports for a program whose reader went away (128 + SIGPIPE).
EXIT_BROKEN_PIPE = 141


class Command(Protocol):
    """A command module."""

    SUMMARY: str

    def add_parser(self, subparsers: Subparsers) -> None:
        """Add the command and its options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; the exit code."""


def commands() -> tuple[str, ...]:
    """The commands of this version."""
    return tuple(name for name in COMMANDS if importlib.util.find_spec(f"{__name__}.{name}") is not None)


def command(name: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))


def parser_for(names: Sequence[str]) -> Parser:
    """A parser that knows these commands."""
    parser = Parser(
        prog="centralslice",
        description="3D maps from cryo-EM particles and cryo-ET tilt series by Fourier slice insertion.",
        epilog="centralslice COMMAND --help explains a command. Dashes and underscores in options are alike.",
    )
    parser.add_argument("--version", action="version", version=f"centralslice {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in names:
        command(name).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program's name; None: those of the process.

    Returns
    -------
        Exit code: 0 done, 2 bad input or options, 1 anything unexpected, 130 interrupted,
        141 if whoever read the output went away.
    """
    given = normalise(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Å and σ must not end a run on an ASCII terminal
    debug = "--debug" in given or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    try:
        if _is_silent_rank():
            return _follow(given)
        code = _dispatch(given)
        if sys.stdout is not None:  # None: closed by the caller (>&-)
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse ends --help and --version this way
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError as error:
        return EXIT_BROKEN_PIPE if _stdout_is_gone() else _report(error, debug)
    # the one place where every error ends: a line for the user, the traceback on request
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, debug)


def _is_silent_rank() -> bool:
    """Whether a launcher started this process as one of several, but not as the first."""
    from centralslice.runtime.launched import launched_world

    world = launched_world()
    return world is not None and world.rank not in (None, 0)


def _follow(given: list[str]) -> int:
    """A rank that is not the first: works in parallel commands, and leaves messages to the first."""
    if _chosen(given) not in PARALLEL_COMMANDS:
        return 0
    try:
        return _dispatch(given)
    except (CentralsliceError, SystemExit) as stop:
        # what stops a rank before MPI starts stops the first, too; launchers kill all when one ends
        time.sleep(AFTER_FIRST_RANK_S)
        return exit_code(stop) if isinstance(stop, CentralsliceError) else int(bool(stop.code))


def _chosen(given: list[str]) -> str | None:
    return next((token for token in given if not token.startswith("-")), None)


def _dispatch(given: list[str]) -> int:
    chosen = _chosen(given)
    known = commands()
    if chosen is not None and chosen not in known:
        hint = did_you_mean(chosen, known)
        raise ParameterError(f"no command '{chosen}' (known: {', '.join(known)}){hint}")
    parser = parser_for(known if chosen is None else (chosen,))
    arguments = parser.parse_args(given)
    if chosen is None:
        parser.print_help(sys.stderr)
        return exit_code(ParameterError())
    arguments.command_line = given
    choose_kernel_folder()  # before the command imports numba
    go_on_without_cache(quiet=_is_silent_rank())
    return command(chosen).run(arguments)


def _report(error: BaseException, debug: bool) -> int:
    """Say on stderr what went wrong; the exit code."""
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    if isinstance(error, CentralsliceError):
        print(f"centralslice: error: {text}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print(f"centralslice: interrupted{'; ' if text else ''}{text}", file=sys.stderr)
    else:
        hint = "" if debug else "; --debug shows the traceback"
        print(f"centralslice: unexpected error: {type(error).__name__}: {text}{hint}", file=sys.stderr)
    return exit_code(error)


def _stdout_is_gone() -> bool:
    """Whether nobody reads our output any more; if so, point it at nothing, for Python flushes it at exit."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # replaced by something that is no file, so the broken pipe was another
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
    return gone
