"""The options of a make3d run, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from centralslice.jobs.selection import SelectionRules

#: What ``--shift-convention`` takes.
ConventionChoice: TypeAlias = Literal["projection", "recentre", "auto"]


@dataclass(frozen=True, slots=True)
class SeedSettings:
    """A map that is added as if it had been measured.

    ``weight`` is Σ CTF² per voxel; ``weight_map`` a file as --savenorm writes it; ``as_reference`` weighs each
    image's rings by their agreement with the seed instead.
    """

    path: Path
    weight: float = 1.0
    weight_map: Path | None = None
    as_reference: bool = False


@dataclass(frozen=True, slots=True)
class Make3dSettings:
    """Everything the user chose; None is "not given".

    Sizes are pixels, ``maxres`` Å, ``apix`` Å per pixel; see ``centralslice make3d --help`` for the meaning.
    """

    input: Path
    output: Path
    mode: str | None = None
    sym: str = "c1"
    image_dir: Path | None = None
    tlt: Path | None = None
    apix: float | None = None
    shift_convention: ConventionChoice = "auto"
    selection: SelectionRules = field(default_factory=SelectionRules)
    use_ssnr: bool = False
    fill_angle: float = 0.0
    tilted_edge_mask: bool = False
    pad: str | None = None
    padvol: str | None = None
    outsize: str | None = None
    ctf: Literal["auto", "full", "flipped", "premultiplied", "none"] = "auto"
    snr: float | None = None
    maxres: float | None = None
    half_maps: Literal["auto", "no"] = "auto"
    seed: SeedSettings | None = None
    iteration_mask: Path | None = None
    preprocess: tuple[str, ...] = ()
    setsf: str | None = None
    postprocess: tuple[str, ...] = ()
    radial_correction: bool = True
    save_norm: Path | None = None
    compress_bits: int | None = None
    report: bool = False
    float16: bool = False
    precision: Literal["float32", "float64"] = "float32"
    compat_eman2: bool = False
    sums: Literal["exact", "fast"] = "exact"
    quanta_of: Path | None = None
    threads: int = 1
    master_works: bool = True
    checkpoint_every_s: float = 0.0
    resume: Literal["no", "yes", "auto"] = "no"
    keep_checkpoints: bool = False
    log_json: bool = False
    force: bool = False
    quiet: bool = False
