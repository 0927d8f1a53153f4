"""The readers that come with centralslice: light descriptions only, nothing heavy is imported here."""

from __future__ import annotations

from centralslice.plugin.hookspecs import PluginDescription, hookimpl

_HOME = "centralslice_plugins.readers"

READERS = (
    PluginDescription("star", "RELION particle metadata (STAR, RELION 3.0 to 5)", f"{_HOME}.star:StarReader"),
    PluginDescription("cryosparc", "cryoSPARC particle metadata (.cs)", f"{_HOME}.cryosparc:CryosparcReader"),
    PluginDescription(
        "tlt",
        "image stack and plain file of tilt angles (IMOD .tlt)",
        f"{_HOME}.tilt_series_stack:TiltSeriesStackReader",
    ),
    PluginDescription(
        "relion_tomo",
        "particles in tilt series: RELION 5 and 4 tomography projects, WarpTools exports",
        f"{_HOME}.relion_tomo:RelionTomoReader",
    ),
    PluginDescription(
        "tilt_alignment",
        "particles in a tilt series that IMOD (.xf, .tlt) or AreTomo (.aln) aligned",
        f"{_HOME}.tilt_alignment:TiltAlignmentReader",
    ),
    PluginDescription("tiff", "TIFF images and image stacks", f"{_HOME}.tiff:TiffReader"),
    PluginDescription("mrc", "MRC images, stacks and maps", f"{_HOME}.mrc:MrcReader"),
    PluginDescription(
        "eman2_hdf",
        "EMAN2 HDF5 stacks and maps with their headers",
        f"{_HOME}.eman2_hdf:Eman2HdfReader",
    ),
    PluginDescription("lst", "EMAN2 list files (.lst)", f"{_HOME}.lst:LstReader"),
    PluginDescription(
        "eman2_refine", "EMAN2 refine_XX folders (e2refine_easy)", f"{_HOME}.eman2_refine:Eman2RefineReader"
    ),
    PluginDescription(
        "eman2_spa", "EMAN2 r3d_XX folders (e2spa_refine)", f"{_HOME}.eman2_spa:Eman2SpaReader"
    ),
    PluginDescription(
        "relion_optimiser",
        "RELION refinements (*_optimiser.star)",
        f"{_HOME}.relion_optimiser:RelionOptimiserReader",
    ),
)


@hookimpl
def centralslice_readers() -> tuple[PluginDescription, ...]:
    """The readers of this package."""
    return READERS
