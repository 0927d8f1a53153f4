"""Half-map FSC as a STAR table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from centralslice.data.files import atomic_output
from centralslice.fourier.shells import ShellCorrelation
from centralslice.plugin.registry import Registry
from centralslice.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "sphere": "rlnFourierShellCorrelationMaskedMaps",
}


def write_fsc(table: Path, plot: Path, curves: Mapping[str, ShellCorrelation], registry: Registry) -> None:
    """Write the curves (names to curves of the same shells) as STAR and PNG, both atomically."""
    any_curve = next(iter(curves.values()))
    frequency = any_curve.frequency
    columns = {
        "rlnSpectralIndex": np.arange(len(frequency)),
        "rlnResolution": frequency,
        "rlnAngstromResolution": np.divide(
            1.0, frequency, out=np.full(len(frequency), 999.0), where=frequency > 0
        ),
        **{_LABELS.get(name, name): curve.values for name, curve in curves.items()},
    }
    registry.writer_for(table, "table").write_tables(table, {"fsc": columns})
    with atomic_output(plot) as temporary:
        fsc_figure(curves).savefig(temporary, dpi=150)


def fsc_figure(curves: Mapping[str, ShellCorrelation]) -> Figure:
    """FSC curves with the 0.143 and 0.5 thresholds."""
    figure, axes = new_figure()
    for name, curve in curves.items():
        label = f"{name}: {curve.resolution(0.143):.2f} Å at 0.143"
        axes.plot(curve.frequency, curve.values, label=label)
    for threshold in (0.143, 0.5):
        axes.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    axes.axhline(0.0, color="0.3", linewidth=0.8)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="half-map FSC", ylim=(-0.1, 1.05))
    axes.set_xlim(0, float(next(iter(curves.values())).frequency[-1]))
    axes.legend(loc="upper right", frameon=False)
    return figure
