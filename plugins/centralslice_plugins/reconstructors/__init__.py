"""The built-in reconstructors: light descriptions, nothing heavy is imported here."""

from __future__ import annotations

from centralslice.plugin.hookspecs import PluginDescription, hookimpl

_HERE = "centralslice_plugins.reconstructors"

RECONSTRUCTORS = (
    PluginDescription(
        "kaiser_bessel", "Kaiser-Bessel gridding with exact correction of the kernel",
        f"{_HERE}.kaiser_bessel:KaiserBessel",
    ),
    PluginDescription(
        "nearest_neighbor", "each sample to its nearest voxel (EMAN2)", f"{_HERE}.eman2_modes:NearestNeighbor"
    ),
    PluginDescription(
        "trilinear", "weighted mean with trilinear weights (EMAN2)", f"{_HERE}.eman2_modes:Trilinear"
    ),
    PluginDescription("gauss_2", "mean under a Gaussian of 2 voxels (EMAN2)", f"{_HERE}.eman2_modes:Gauss2"),
    PluginDescription("gauss_3", "mean under a Gaussian of 3 voxels (EMAN2)", f"{_HERE}.eman2_modes:Gauss3"),
    PluginDescription("gauss_5", "mean under a Gaussian of 6 voxels (EMAN2)", f"{_HERE}.eman2_modes:Gauss5"),
    PluginDescription(
        "gauss_var", "weighted mean, Gaussian that widens with frequency (EMAN2's default mode)",
        f"{_HERE}.eman2_modes:GaussVar",
    ),
    PluginDescription(
        "iterative", "least squares by conjugate gradients; with compat, EMAN2's four passes",
        f"{_HERE}.fourier_iter:Iterative",
    ),
    PluginDescription(
        "relion_tomo", "gathers tilt slices as RELION's tomo program does; for compat of tilt series",
        f"{_HERE}.relion_tomo:RelionTomo",
    ),
)  # fmt: skip


@hookimpl
def centralslice_reconstructors() -> tuple[PluginDescription, ...]:
    """Descriptions of the built-in reconstructors."""
    return RECONSTRUCTORS
