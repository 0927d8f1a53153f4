"""What this plugin offers, as light descriptions: the classes are imported when they are used."""

from collections.abc import Sequence

from centralslice.plugin.hookspecs import PluginDescription, hookimpl


@hookimpl
def centralslice_processors() -> Sequence[PluginDescription]:
    """One processor."""
    return [
        PluginDescription("acme.clip", "limits outliers to mean ± sigmas σ", "acme_recon.processors:Clip"),
    ]


@hookimpl
def centralslice_reconstructors() -> Sequence[PluginDescription]:
    """One reconstructor."""
    return [
        PluginDescription("acme_hann", "gridding with a Hann window", "acme_recon.reconstructors:Hann"),
    ]
