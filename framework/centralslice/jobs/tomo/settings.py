"""Everything a user chooses about a tomo run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from centralslice.abc.reader import AlignedSeries


@dataclass(frozen=True, slots=True)
class HelicalSettings:
    """Helical copies along z: how many asymmetric units, degrees and Å from one to the next."""

    units: int = 1
    twist_deg: float = 0.0
    rise_angst: float = 0.0


@dataclass(frozen=True, slots=True)
class TiltRules:
    """Which tilts are used.

    Attributes
    ----------
    range_deg
        Least and largest tilt angle, or None.
    max_dose
        Largest dose in e/Å² before a tilt, or None.
    first
        Only so many tilts with the smallest dose, or None.
    visible_frames
        Use the metadata's list of visible frames, or ignore it.
    """

    range_deg: tuple[float, float] | None = None
    max_dose: float | None = None
    first: int | None = None
    visible_frames: Literal["use", "ignore"] = "use"


@dataclass(frozen=True, slots=True)
class TomoSettings:
    """The options of ``centralslice tomo``; None is "not given". Sizes are binned pixels.

    Attributes
    ----------
    output
        Folder of the maps.
    optimisation_set, particles, tomograms, trajectories
        ``--i --p --t --mot``.
    series
        A tilt series that IMOD or AreTomo aligned, instead of these, or None.
    box, crop, binning, taper
        ``--b --crop --bin --taper``.
    memory_gb
        ``--mem``: largest memory of a process.
    stop_after_sums
        ``--no_recon``.
    fsc_mask
        Map of the mask for ``--fsc``, or None.
    """

    output: Path
    optimisation_set: Path | None = None
    particles: Path | None = None
    tomograms: Path | None = None
    trajectories: Path | None = None
    series: AlignedSeries | None = None
    box: int | None = None
    crop: int | None = None
    binning: float = 1.0
    taper: float = 10.0
    mode: str | None = None
    snr: float | None = None
    sym: str = "c1"
    helix: HelicalSettings = HelicalSettings()
    whiten: bool = False
    ctf: bool = True
    circle_crop: bool = True
    dose_cutoff: float = 0.01
    maxres: float | None = None
    tilts: TiltRules = TiltRules()
    subset: int | None = None
    split: str | None = None
    fsc_mask: Path | None = None
    compat_relion: bool = False
    precision: Literal["float32", "float64"] = "float32"
    sums: Literal["exact", "fast"] = "exact"
    quanta_of: Path | None = None
    memory_gb: float | None = None
    threads: int = 1
    master_works: bool = True
    checkpoint_every_s: float = 0.0
    resume: Literal["no", "yes", "auto"] = "no"
    keep_checkpoints: bool = False
    stop_after_sums: bool = False
    report: bool = False
    note: bool = True
    float16: bool = False
    log_json: bool = False
    force: bool = False
    quiet: bool = False

    @property
    def source(self) -> Path:
        """The file to be named in messages."""
        if self.series is not None:
            return self.series.alignment
        found = self.optimisation_set or self.particles
        return found if found is not None else Path()
