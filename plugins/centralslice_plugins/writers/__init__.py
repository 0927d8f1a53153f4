"""The built-in writers: a catalogue, without importing any of them."""

from __future__ import annotations

from centralslice.plugin.hookspecs import PluginDescription, hookimpl

_WRITERS = (
    PluginDescription(
        "mrc", "MRC maps and image stacks, float32 or float16", "centralslice_plugins.writers.mrc:MrcWriter"
    ),
    PluginDescription(
        "eman2_hdf",
        "EMAN2 HDF5 maps and image stacks with their attributes",
        "centralslice_plugins.writers.eman2_hdf:Eman2HdfWriter",
    ),
    PluginDescription("star", "STAR tables", "centralslice_plugins.writers.star:StarWriter"),
    PluginDescription("lst", "EMAN2 lists of particles (LSX)", "centralslice_plugins.writers.lst:LstWriter"),
    PluginDescription("json", "JSON tables", "centralslice_plugins.writers.json_tables:JsonWriter"),
)


@hookimpl
def centralslice_writers() -> tuple[PluginDescription, ...]:
    """The built-in writers."""
    return _WRITERS
