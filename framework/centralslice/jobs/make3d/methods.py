"""The plugins that a make3d run works with, made as the options say."""

from __future__ import annotations

from pathlib import Path

from centralslice.abc.parameters import parameters_of
from centralslice.abc.processor import Processor
from centralslice.abc.reconstructor import Reconstructor
from centralslice.errors import ParameterError
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.plugin.registry import Registry


def mode_of(settings: Make3dSettings, registry: Registry) -> str:
    """The mode asked for, or the default."""
    return settings.mode or ("gauss_var" if settings.compat_eman2 else registry.default("reconstructor"))


def make_reconstructor(settings: Make3dSettings, registry: Registry) -> Reconstructor:
    """The reconstructor of --mode with what other options say about it."""
    spec = mode_of(settings, registry)
    name = registry.expand("reconstructor", spec)[0]
    known = {entry.name for entry in parameters_of(registry.resolve("reconstructor", name))}
    for wanted, parameter, text, option in (
        (settings.compat_eman2, "compat", "true", "--compat eman2"),
        (not settings.radial_correction, "radial_correction", "false", "--noradcor"),
    ):
        if wanted and parameter not in known:
            raise ParameterError(
                f"{option}: mode '{name}' has no such variant; use one of EMAN2's modes, e.g. --mode gauss_2"
            )
        if wanted:
            spec = f"{spec}:{parameter}={text}"
    if settings.iteration_mask is not None and name != "iterative":
        raise ParameterError(f"--itermask: only for --iterative, not for mode '{name}'")
    made: Reconstructor = registry.create("reconstructor", spec)
    if made.relion_tomo_slices:
        raise ParameterError(
            f"--mode {name}: is for windows of tilt series; use centralslice tomo --compat relion"
        )
    return made


def make_processor(text: str, dimension: int, registry: Registry) -> Processor:
    made: Processor = registry.create("processor", text)
    if dimension not in made.dimensions:
        kind = "images" if dimension == 2 else "maps"
        raise ParameterError(f"processor '{text}': does not work on {kind}")
    return made


def postprocess_specs(settings: Make3dSettings) -> tuple[str, ...]:
    """Postprocessors as typed: structure factor first, then the user's."""
    if settings.setsf is None or settings.setsf.lower() == "none":
        return settings.postprocess
    path = Path("strucfac.txt") if settings.setsf.lower() == "auto" else Path(settings.setsf)
    if not path.is_file():
        raise ParameterError(f"--setsf: {path} does not exist; give a file of s and intensity, or none")
    compat = ":compat=eman2" if settings.compat_eman2 else ""
    return (f'filter.setstrucfac:filename="{path}"{compat}', *settings.postprocess)
