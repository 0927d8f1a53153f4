"""The HTML page of a subparticles run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from centralslice.conventions import FloatArray
from centralslice.jobs.map_report import report_facts
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.results import Results
from centralslice.report.figures import new_figure
from centralslice.report.html import write_report

_TITLES = ("particle", "projected map × CTF", "subtracted", "left")
_SHOWN = 4


def report_run(path: Path, plan: SubparticlePlan, results: Results, facts: Mapping[str, Any]) -> None:
    """Write the page: masks, gains, centring, and how the first sub-particles were made."""
    figures: dict[str, Figure] = {}
    if results.strips:
        figures["Before and after"] = _examples(plan, results)
    if any(gain.count for gain in results.gains.values()):
        figures["Gain of each group"] = _gains(plan, results)
    scales = results.scale[np.isfinite(results.scale)]
    if len(scales) and np.ptp(scales) > 0:
        figures["Scale of each parent"] = _histogram(scales, "scale b")
    moved = np.hypot(*results.moves_px.T) if len(results.moves_px) else np.empty(0)
    if len(moved):
        figures["Distance of sub-particles from their parents' centres"] = _histogram(moved, "pixels")
    shown = {
        **report_facts(plan.lines()),
        "parents without sub-particles": str(len(facts["parents_without_sub_particles"])),
        "correlation of what is left with the kept part": str(facts["residual_correlation_median"]),
    }
    title = f"subparticles: {(plan.files.stack or plan.files.table).name}"
    write_report(path, title, figures, shown, plan.notes)


def _examples(plan: SubparticlePlan, results: Results) -> Figure:
    chosen = [results.strips[place] for place in sorted(results.strips)[:_SHOWN]]
    figure, axes = new_figure(len(chosen), len(_TITLES), (9.6, 2.5 * len(chosen)))
    for row, strip in zip(np.atleast_2d(axes), chosen, strict=True):
        low, high = np.percentile(strip[0], [0.5, 99.5])
        model = float(np.abs(strip[1]).max()) or 1.0
        for number, (axis, title) in enumerate(zip(row, _TITLES, strict=True)):
            limits = (low, high) if number in (0, 3) else (-model, model)
            axis.imshow(strip[number], cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


def _gains(plan: SubparticlePlan, results: Results) -> Figure:
    figure, axis = new_figure()
    pixel = plan.particles.optics[0].pixel_size_angst
    for group, gain in sorted(results.gains.items())[:12]:
        frequency = np.arange(len(gain.curve)) / (plan.parent_box * pixel)
        axis.plot(frequency, gain.curve, label=f"group {group + 1}, {gain.count} particles")
    axis.set_xlabel("spatial frequency (1/Å)")
    axis.set_ylabel("gain g")
    axis.legend(fontsize=8)
    return figure


def _histogram(values: FloatArray, label: str) -> Figure:
    figure, axis = new_figure()
    axis.hist(values, bins=50, color="0.4")
    axis.set_xlabel(label)
    axis.set_ylabel("number")
    return figure
