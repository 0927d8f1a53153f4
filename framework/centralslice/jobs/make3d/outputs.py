"""The files a make3d run writes: their names, and whether they may be written as asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.data.files import refuse_existing
from centralslice.data.volume import Volume
from centralslice.errors import CentralsliceError, ParameterError
from centralslice.plugin.registry import Registry

#: Weights are kept as they are.
NORM_OPTIONS = VolumeOptions(bits=-1)


class OutputChoices(Protocol):
    """What the user chose about outputs."""

    @property
    def output(self) -> Path:
        """The merged map."""

    @property
    def save_norm(self) -> Path | None:
        """Where the weights go."""

    @property
    def report(self) -> bool:
        """Whether a page is written."""

    @property
    def compress_bits(self) -> int | None:
        """HDF: bits per voxel."""

    @property
    def float16(self) -> bool:
        """MRC: half precision."""

    @property
    def force(self) -> bool:
        """Whether outputs may be replaced."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of a run; None where the run does not write one."""

    merged: Path
    manifest: Path
    half1: Path | None = None
    half2: Path | None = None
    fsc_table: Path | None = None
    fsc_plot: Path | None = None
    norm: Path | None = None
    report: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        curves = (self.fsc_table, self.fsc_plot, self.report)
        named = (self.merged, self.half1, self.half2, *curves, self.norm, self.manifest)
        return tuple(path for path in named if path is not None)


@dataclass(frozen=True, slots=True)
class Writing:
    """What writing maps needs.

    Attributes
    ----------
    outputs, writer, options
        The files, who writes the maps, and how they are stored.
    attributes
        Of the maps, for formats that keep some.
    facts, notes
        Name and text of what a report says of the run, and lines of notes.
    """

    outputs: Outputs
    writer: Writer
    options: VolumeOptions
    attributes: Mapping[str, object] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def plan_outputs(settings: OutputChoices, halves: bool) -> Outputs:
    """Names of all files: beside the map, with its stem.

    Raises
    ------
    ParameterError
        If an output has no name.
    """
    output = settings.output
    for path in (output, settings.save_norm):
        if path is not None and not path.name:
            raise ParameterError(f"{path}: is a folder; give the name of a file to write")
    norm = settings.save_norm

    def beside(ending: str) -> Path:
        return output.with_name(output.stem + ending)

    manifest = beside("_manifest.json")
    report = beside("_report.html") if settings.report else None
    if not halves:
        return Outputs(output, manifest, norm=norm, report=report)
    return Outputs(
        merged=output,
        manifest=manifest,
        half1=beside(f"_half1{output.suffix}"),
        half2=beside(f"_half2{output.suffix}"),
        fsc_table=beside("_fsc.star"),
        fsc_plot=beside("_fsc.png"),
        norm=norm,
        report=report,
    )


def check_outputs(
    outputs: Outputs, settings: OutputChoices, inputs: Iterable[Path], registry: Registry
) -> Writer:
    """Refuse, before any work, outputs that exist, collide, are inputs, or cannot be stored as asked.

    Returns
    -------
        The writer of the maps.
    """
    writer = registry.writer_for(settings.output, "volume")
    used = {path.resolve(): path for path in inputs}
    seen: set[Path] = set()
    for path in outputs.all():
        if path.resolve() in used:
            raise ParameterError(f"{path}: is an input of this run; give another --output")
        if path.resolve() in seen:
            raise ParameterError(f"{path}: two outputs would have this name; change --output or --savenorm")
        seen.add(path.resolve())
        refuse_existing(path, settings.force)
    if outputs.norm is not None:
        registry.writer_for(outputs.norm, "volume")  # refuses an unknown suffix
    if settings.float16 or (settings.compress_bits or 0) > 0:
        _check_storage(writer, outputs.merged, VolumeOptions(settings.compress_bits, settings.float16))
    return writer


def _check_storage(writer: Writer, path: Path, options: VolumeOptions) -> None:
    """Have the writer store a tiny map with these options, so that it need not refuse the real one."""
    with TemporaryDirectory(prefix="centralslice-") as folder:
        trial = Path(folder) / path.name
        try:
            writer.write_volume(trial, Volume(np.zeros((2, 2, 2), np.float32), 1.0), options)
        except CentralsliceError as error:
            raise type(error)(str(error).replace(str(trial), str(path))) from error
