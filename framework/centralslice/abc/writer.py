"""The writer contract: maps, stacks and tables, written atomically."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from centralslice.data.images import StackLayout, StackPlan, StackSink, StackStatistics
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """How a map is to be stored.

    Attributes
    ----------
    bits
        EMAN2's ``--compressbits``: None is the format's default, < 0 plain float, 0 lossless compressed
        float, 1 … 16 quantised. Formats without quantisation ignore it only when it is None and refuse
        it otherwise.
    float16
        Store half-precision floats (MRC mode 12).
    """

    bits: int | None = None
    float16: bool = False


class Writer(ABC):
    """Writes one file format; ``capabilities`` says what: ``volume``, ``images``, ``table``.

    Everything is atomic (:func:`centralslice.data.files.atomic_output`); reading back gives what was written.
    """

    plugin_name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    capabilities: ClassVar[frozenset[str]]

    def write_volume(self, path: Path, volume: Volume, options: VolumeOptions) -> None:
        """Write a map."""
        raise ParameterError(f"{path}: the {self.plugin_name} writer cannot write maps")

    def create_stack(self, path: Path, plan: StackPlan) -> StackSink:
        """Start an image stack."""
        raise ParameterError(f"{path}: the {self.plugin_name} writer cannot write image stacks")

    def stack_layout(self, path: Path, plan: StackPlan) -> StackLayout | None:
        """Where images lie in a stack that several processes fill; None: only :meth:`create_stack` makes one."""
        return None

    def stack_header(self, path: Path, plan: StackPlan, statistics: StackStatistics) -> bytes:
        """What stands before the images of such a stack, ``layout.offset`` bytes."""
        raise ParameterError(f"{path}: the {self.plugin_name} writer's stacks are written by one process")

    def write_tables(self, path: Path, tables: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Write named tables (name -> column name -> values) into one file."""
        raise ParameterError(f"{path}: the {self.plugin_name} writer cannot write tables")
