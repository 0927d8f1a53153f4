"""Oriented particles as plain arrays: where each image is, how it is posed, how it was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class OpticsGroup:
    """What the particles of one optics group share.

    Attributes
    ----------
    name
        The group's name in its metadata file.
    pixel_size_angst
        Pixel size of the particle images, Å; 0 if the metadata do not say.
    box_size
        Image size in pixels; 0 if the metadata do not say.
    voltage_kv, spherical_aberration_mm, amplitude_contrast
        Microscope; voltage 0 means that no CTF can be computed.
    beam_tilt_mrad
        Beam tilt x, y in mrad.
    odd_zernike, even_zernike
        Aberration coefficients as RELION orders them; empty for none.
    magnification
        2×2 anisotropic magnification matrix, row by row ``(m00, m01, m10, m11)``.
    ctf_premultiplied
        The images are CTF-multiplied already.
    """

    name: str = "optics1"
    pixel_size_angst: float = 0.0
    box_size: int = 0
    voltage_kv: float = 0.0
    spherical_aberration_mm: float = 0.0
    amplitude_contrast: float = 0.0
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    ctf_premultiplied: bool = False


@dataclass(frozen=True, slots=True)
class ContrastTransfer:
    """Per-particle CTF parameters, each of shape (n,), float64.

    Attributes
    ----------
    defocus_u_angst, defocus_v_angst
        Defocus along the two principal directions, Å, positive is underfocus.
    defocus_angle_deg
        Angle of the U direction to the image's x axis, degrees.
    phase_shift_deg
        Phase-plate shift, degrees.
    bfactor_angst2, scale
        Envelope ``scale · exp(−B |k|² / 4)``.
    """

    defocus_u_angst: FloatArray
    defocus_v_angst: FloatArray
    defocus_angle_deg: FloatArray
    phase_shift_deg: FloatArray
    bfactor_angst2: FloatArray
    scale: FloatArray

    def take(self, chosen: IntArray | BoolArray) -> ContrastTransfer:
        """The parameters of the chosen particles, in that order."""
        return ContrastTransfer(*(getattr(self, entry.name)[chosen] for entry in fields(self)))


@dataclass(frozen=True, slots=True)
class Particles:
    """Struct of arrays, one row a particle.

    Attributes
    ----------
    source
        The metadata file the particles came from.
    image_files
        The distinct image files, resolved to existing paths.
    file_number
        (n,) int64, index into ``image_files``.
    image_number
        (n,) int64, 0-based image (or z section) inside that file.
    rotations
        (n, 3, 3) float64, see :mod:`centralslice.conventions`; a scale s multiplies the matrix,
        a mirror is folded into a proper rotation.
    shifts_angst
        (n, 2) float64, x and y of the pose's shift in Å. Readers without a pixel size use 1 Å a pixel
        and set the group's ``pixel_size_angst`` to 1.
    optics
        The optics groups.
    optics_group
        (n,) int64, index into ``optics``.
    half_set
        (n,) int8: 0 none, 1, 2.
    weight
        (n,) float64, relative weight of the image (EMAN2's ``ptcl_repr``).
    quality
        (n,) float64, smaller is better (EMAN2's ``class_qual``).
    model_number
        (n,) int64, model (EMAN2's ``model_id``) or class; −1 if there is none.
    source_row
        (n,) int64, 0-based row of the metadata file, for messages and for writing rows again.
    ctf
        Per-particle CTF parameters, or None if the metadata have none.
    ssnr
        (n, m) float32 spectral signal-to-noise curves (0 … Nyquist in m points), or None.
    columns
        The metadata's own columns by their own names, all of them, for writing particles again.
    optics_columns
        The same for the optics table.
    notes
        What the reader wants the user to know (defaults taken, files found beside the metadata, …).
    """

    source: Path
    image_files: tuple[Path, ...]
    file_number: IntArray
    image_number: IntArray
    rotations: FloatArray
    shifts_angst: FloatArray
    optics: tuple[OpticsGroup, ...]
    optics_group: IntArray
    half_set: IntArray
    weight: FloatArray
    quality: FloatArray
    model_number: IntArray
    source_row: IntArray
    ctf: ContrastTransfer | None = None
    ssnr: FloatArray | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    optics_columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rotations)

    def take(self, chosen: IntArray | BoolArray) -> Particles:
        """The chosen particles (index or boolean array), in that order."""
        per_row = (
            "file_number", "image_number", "rotations", "shifts_angst", "optics_group", "half_set",
            "weight", "quality", "model_number", "source_row",
        )  # fmt: skip
        changed: dict[str, Any] = {name: getattr(self, name)[chosen] for name in per_row}
        changed["ctf"] = None if self.ctf is None else self.ctf.take(chosen)
        changed["ssnr"] = None if self.ssnr is None else self.ssnr[chosen]
        changed["columns"] = {name: column[chosen] for name, column in self.columns.items()}
        return replace(self, **changed)

    def describe(self, row: int) -> str:
        """``file, image N`` (1-based) of one particle, for messages."""
        return f"{self.image_files[self.file_number[row]]}, image {self.image_number[row] + 1}"


def make_particles(
    source: Path,
    images: tuple[Sequence[Path], IntArray, IntArray],
    rotations: FloatArray,
    **given: Any,
) -> Particles:
    """Particles with the defaults filled in.

    Parameters
    ----------
    source
        Metadata file.
    images
        ``(image_files, file_number, image_number)``.
    rotations
        (n, 3, 3).
    **given
        Any other attribute of :class:`Particles`; what is absent becomes: no shift, one optics group,
        no half set, weight 1, quality 0, model −1, rows in order.
    """
    count = len(rotations)
    defaults: dict[str, Any] = {
        "shifts_angst": np.zeros((count, 2)),
        "optics": (OpticsGroup(),),
        "optics_group": np.zeros(count, np.int64),
        "half_set": np.zeros(count, np.int8),
        "weight": np.ones(count),
        "quality": np.zeros(count),
        "model_number": np.full(count, -1, np.int64),
        "source_row": np.arange(count, dtype=np.int64),
    }
    files, file_number, image_number = images
    return Particles(
        source=source,
        image_files=tuple(files),
        file_number=file_number,
        image_number=image_number,
        rotations=rotations,
        **(defaults | given),
    )
