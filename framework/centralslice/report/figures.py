"""Figures without a display and without pyplot's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(
    rows: int = 1, columns: int = 1, size_inches: tuple[float, float] = (6.4, 4.2)
) -> tuple[Figure, Any]:
    """A figure drawn off screen, and its axes (one, or an array of them)."""
    # a few tens of MB that jobs do not carry with them before they draw
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)
