"""The HTML page of a run that made maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from centralslice.data.volume import Volume
from centralslice.fourier.shells import ShellCorrelation
from centralslice.report.fsc import fsc_figure
from centralslice.report.html import write_report
from centralslice.report.slices import central_slices


def report_map(
    path: Path, title: str, merged: Volume, fsc: Mapping[str, ShellCorrelation],
    facts: Mapping[str, str], notes: Iterable[str],
) -> None:  # fmt: skip
    """Write the page: what was used, the merged map's central sections, the half-map FSC.

    Parameters
    ----------
    path
        The .html file.
    title
        Heading.
    merged
        The map of all particles as it is written.
    fsc
        Name to half-map FSC; may be empty.
    facts, notes
        Name and text of what is said of the run, and lines of notes.
    """
    figures = {"Central sections of the map": central_slices(merged.data, merged.voxel_size_angst)}
    if fsc:
        figures["Half-map FSC"] = fsc_figure(fsc)
    shown = dict(facts)
    for name, curve in fsc.items():
        shown[f"resolution, {name}"] = (
            f"{curve.resolution(0.143):.2f} Å (FSC 0.143), {curve.resolution(0.5):.2f} Å (0.5)"
        )
    write_report(path, title, figures, shown, notes)


def report_facts(lines: Iterable[str]) -> dict[str, str]:
    """The lines of a plan as names and texts, without notes and outputs."""
    return dict(_fact(line) for line in lines if not line.startswith(("note", "output")))


def _fact(line: str) -> tuple[str, str]:
    """Name and text of a line of the plan; names may have one space, and at least two follow them."""
    name, _, text = line.partition("  ")
    return name, text.strip()
