"""Reading the refinement that sub-particles are taken from, whichever dialect it is in."""

from __future__ import annotations

from centralslice.data.refinement import SourceRequest, SubparticleSource
from centralslice.plugin.registry import Registry

__all__ = ["SourceRequest", "SubparticleSource", "read_source"]


def read_source(request: SourceRequest, registry: Registry) -> SubparticleSource:
    """The refinement a request names.

    Raises
    ------
    ParameterError
        If not exactly one of folder, optimiser and particles is given.
    FileMissingError, FormatError
        If a file is missing or is not what its format demands; the message names it.
    """
    raise NotImplementedError
