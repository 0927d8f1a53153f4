"""Catalogue of the built-in symmetries."""

from __future__ import annotations

from collections.abc import Sequence

from centralslice.plugin.hookspecs import PluginDescription, hookimpl

_HERE = "centralslice_plugins.symmetries"

_SYMMETRIES = (
    PluginDescription("cyclic", "cN: N-fold about z", f"{_HERE}.point_groups:Cyclic", pattern=r"c\d*"),
    PluginDescription(
        "dihedral",
        "dN: N-fold about z, 2-fold about x",
        f"{_HERE}.point_groups:Dihedral",
        pattern=r"d\d*",
    ),
    PluginDescription(
        "tetrahedral",
        "tet (EMAN2's setting), T (RELION's setting)",
        f"{_HERE}.point_groups:Tetrahedral",
        pattern=r"tet|t",
    ),
    PluginDescription(
        "octahedral",
        "oct, O: 4-folds about x, y, z",
        f"{_HERE}.point_groups:Octahedral",
        pattern=r"oct|o",
    ),
    PluginDescription(
        "icosahedral",
        "icos, icos5, icos2 (EMAN2's settings), I1, I2, I3, I4, I = i = I2 (RELION's settings)",
        f"{_HERE}.point_groups:Icosahedral",
        pattern=r"icos[25]?|i[1-4]?",
    ),
    PluginDescription(
        "helical",
        "hN:NSTART:TWIST:RISE[:MAXTILT], degrees and Å: N subunits of a helix along z",
        f"{_HERE}.helical:Helical",
        pattern=r"h\d*([:,].*)?",
    ),
)


@hookimpl
def centralslice_symmetries() -> Sequence[PluginDescription]:
    """The built-in symmetries."""
    return _SYMMETRIES
