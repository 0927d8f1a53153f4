"""The one error tree.

CentralsliceError
├── InputError            exit code 2: what the user gave cannot be used
│   ├── ParameterError    an option or a plugin parameter (also a ValueError)
│   ├── FileMissingError  a named file is not there (also a FileNotFoundError)
│   ├── FormatError       a file's content is not what its format demands (also a ValueError)
│   ├── SelectionError    nothing is left to work on (also a ValueError)
│   ├── OutputExistsError an output is there already (also a FileExistsError)
│   └── CheckpointError   a checkpoint is damaged, of another run, or in use (also a ValueError)
├── PluginError           exit code 2: a plugin cannot be found, loaded or used (also a LookupError)
└── ResourceError         exit code 2: memory or disk would not suffice (also an OSError)

Every message is one line: what file or option, what was expected, what came, what to do.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
#: Stopped by a signal after a checkpoint: run again with --resume (sysexits' EX_TEMPFAIL).
EXIT_REQUEUE = 75


class CentralsliceError(Exception):
    """Base of every error that centralslice raises on purpose."""


class InputError(CentralsliceError):
    """What the user gave cannot be used."""


class ParameterError(InputError, ValueError):
    """An option or a plugin parameter is missing, unknown or out of range."""


class FileMissingError(InputError, FileNotFoundError):
    """A named file does not exist; the message lists what was tried."""


class FormatError(InputError, ValueError):
    """A file's content is not what its format demands."""


class SelectionError(InputError, ValueError):
    """No particle is left after selection."""


class OutputExistsError(InputError, FileExistsError):
    """An output is there already and may not be replaced without --force."""


class CheckpointError(InputError, ValueError):
    """A checkpoint is damaged, of another run, or in use by another process."""


class PluginError(CentralsliceError, LookupError):
    """A plugin cannot be found, loaded or used; the message names its owner."""


class ResourceError(CentralsliceError, OSError):
    """Memory or disk would not suffice; the message says what would fit."""


def exit_code(error: BaseException) -> int:
    """The process's exit code for an error that reached the command line."""
    if isinstance(error, CentralsliceError):
        return EXIT_BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_UNEXPECTED
