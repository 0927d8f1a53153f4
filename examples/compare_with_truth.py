"""Compare a map with the truth it was simulated from: FSC in every shell, and one picture.

    python examples/compare_with_truth.py demo/particles_truth.mrc demo/map.mrc demo/comparison.png

Both maps are multiplied by a soft sphere (radius 0.4 box, edge 0.06 box) before the FSC is computed. If the half
maps are beside the map (map_half1.mrc and map_half2.mrc, or half1.mrc and half2.mrc), their FSC is drawn too, under
the same sphere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from centralslice.data.volume import Volume
from centralslice.errors import FormatError
from centralslice.fourier.shells import ShellCorrelation, fourier_shell_correlation, soft_sphere
from centralslice.plugin.registry import load_registry

SPHERE_RADIUS, SPHERE_EDGE = 0.4, 0.06
FRACTIONS_OF_NYQUIST = (0.25, 0.5, 0.75)


def read_map(path: Path) -> Volume:
    """A map in any format that a reader plugin knows."""
    volume: Volume = load_registry().reader_for(path, "volume").read_volume(path)
    return volume


def masked_fsc(first: Volume, second: Volume) -> ShellCorrelation:
    """FSC of two maps under the sphere."""
    if first.data.shape != second.data.shape:
        raise FormatError(f"the maps differ in size: {first.data.shape} and {second.data.shape}")
    size = len(first.data)
    sphere = soft_sphere(size, SPHERE_RADIUS * size, SPHERE_EDGE * size)
    return fourier_shell_correlation(first.data, second.data, first.voxel_size_angst, sphere)


def half_maps(path: Path) -> tuple[Path, Path] | None:
    """The half maps beside a map, if there are any."""
    for stem in (f"{path.stem}_half", "half"):
        one, two = (path.with_name(f"{stem}{number}{path.suffix}") for number in (1, 2))
        if one.is_file() and two.is_file():
            return one, two
    return None


def draw(truth: Volume, found: Volume, curves: dict[str, ShellCorrelation], picture: Path) -> None:
    """Central sections of both maps on one grey scale, and the curves."""
    figure = Figure(figsize=(10.2, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.7))
    middle = len(truth.data) // 2
    low, high = np.percentile(truth.data, [0.5, 99.9])
    for row, (name, volume) in enumerate({"truth": truth, "reconstruction": found}.items()):
        data = volume.data
        sections = {"xy": data[middle], "xz": data[:, middle], "yz": data[:, :, middle]}
        for column, (plane, section) in enumerate(sections.items()):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower")
            axes.set(xticks=[], yticks=[], title=plane if row == 0 else "")
            if column == 0:
                axes.set_ylabel(name)
    plot_curves(figure.add_subplot(grid[:, 3]), curves)
    figure.savefig(picture, dpi=110)


def plot_curves(axes: Any, curves: dict[str, ShellCorrelation]) -> None:
    """FSC curves over spatial frequency, with the two usual thresholds."""
    for name, curve in curves.items():
        axes.plot(curve.frequency, curve.values, label=name)
    for threshold in (0.143, 0.5):
        axes.axhline(threshold, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(-0.1, 1.05))
    axes.set_xlim(0, float(next(iter(curves.values())).frequency[-1]))
    axes.legend(loc="lower left", frameon=False)


def main() -> None:
    """Print the figures and write the picture."""
    parser = argparse.ArgumentParser(description="Compare a map with the truth.")
    for name in ("truth", "map", "picture"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    truth, found = read_map(given.truth), read_map(given.map)
    curves = {"map and truth": masked_fsc(truth, found)}
    pair = half_maps(given.map)
    if pair is not None:
        curves["half maps"] = masked_fsc(*map(read_map, pair))
    draw(truth, found, curves, given.picture)
    curve = curves["map and truth"]
    shells = np.linspace(0, 1, len(curve.values))
    shown = ", ".join(
        f"{np.interp(part, shells, curve.values):.3f} at {part:g} Nyquist" for part in FRACTIONS_OF_NYQUIST
    )
    print(f"FSC to the truth   {shown}; below 0.5 at {curve.resolution(0.5):.2f} Å")


if __name__ == "__main__":
    main()
