"""A picture of a map: its three central sections and the histogram-independent grey scale of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def central_slices(data: FloatArray, voxel_size_angst: float) -> Figure:
    """Central xy, xz and yz sections of a map (z, y, x), one grey scale, with a scale bar.

    Grey runs from the 0.5th to the 99.9th percentile of the three sections.
    """
    z, y, x = (size // 2 for size in data.shape)
    sections = (("xy", data[z]), ("xz", data[:, y]), ("yz", data[:, :, x]))
    values = np.concatenate([section.ravel() for _, section in sections])
    low, high = np.percentile(values, [0.5, 99.9])
    figure, axes = new_figure(1, 3, (9.6, 3.4))
    for axis, (name, section) in zip(axes, sections, strict=True):
        axis.imshow(
            section,
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-12),
            origin="lower",
            interpolation="nearest",
        )
        axis.set_title(f"central {name} section", fontsize=9)
        axis.set_axis_off()
    _scale_bar(axes[0], data.shape[2], voxel_size_angst)
    return figure


def _scale_bar(axis: Any, size: int, voxel_size_angst: float) -> None:
    """A bar of a round length, about a fifth of the box."""
    wanted = size * voxel_size_angst / 5
    power = 10 ** np.floor(np.log10(wanted))
    length = float(max(step * power for step in (1, 2, 5) if step * power <= wanted))
    axis.plot(
        [0.05 * size, 0.05 * size + length / voxel_size_angst], [0.05 * size] * 2, color="white", linewidth=3
    )
    axis.text(0.05 * size, 0.08 * size, f"{length:g} Å", color="white", fontsize=8)
