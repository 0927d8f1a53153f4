"""From EMAN2 headers, wherever they were stored, to Particles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import ShiftConvention
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup, Particles, make_particles
from centralslice.errors import FormatError
from centralslice_plugins.formats.eman2_attributes import (
    Eman2Ctf,
    faulty_transforms,
    poses_from_transforms,
)

_MICROMETRE = 1e4  # Å
_LISTED = 5


@dataclass(slots=True)
class HeaderTable:
    """What headers said, one row a particle; NaN or None where an attribute is missing.

    ``transforms`` (n, 3, 4) are in pixels; ``file_number`` and ``image_number`` point into ``files``;
    ``boxes`` (n,) are image sizes in pixels, 0 if unknown; ``extra`` holds further single numbers by EMAN2's
    names, such as ``class`` and ``score`` of lists.
    """

    files: tuple[Path, ...]
    file_number: IntArray
    image_number: IntArray
    transforms: FloatArray
    weight: FloatArray
    quality: FloatArray
    model: FloatArray
    pixel: FloatArray
    boxes: IntArray
    ctf: list[Eman2Ctf | None]
    ssnr: list[NDArray[np.float32] | None]
    notes: list[str] = field(default_factory=list)
    extra: dict[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def empty(cls, files: Sequence[Path], file_number: IntArray, image_number: IntArray) -> HeaderTable:
        """A table in which nothing is known yet."""
        count = len(file_number)
        return cls(
            files=tuple(files),
            file_number=file_number,
            image_number=image_number,
            transforms=np.full((count, 3, 4), np.nan),
            weight=np.full(count, np.nan),
            quality=np.full(count, np.nan),
            model=np.full(count, np.nan),
            pixel=np.full(count, np.nan),
            boxes=np.zeros(count, np.int64),
            ctf=[None] * count,
            ssnr=[None] * count,
        )

    def __len__(self) -> int:
        return len(self.file_number)

    def put(self, name: str, row: int, value: float) -> None:
        """Keep a further number of one row."""
        if name not in self.extra:
            self.extra[name] = np.full(len(self), np.nan)
        self.extra[name][row] = value

    def numbers(self) -> dict[str, FloatArray]:
        """The columns of single numbers by EMAN2's names."""
        return {
            "ptcl_repr": self.weight,
            "class_qual": self.quality,
            "model_id": self.model,
            "apix_x": self.pixel,
        }


def joined_tables(tables: Sequence[HeaderTable]) -> HeaderTable:
    """One table of the rows of several, in their order; a file that several name is one file."""
    files = {file: place for place, file in enumerate(dict.fromkeys(f for t in tables for f in t.files))}
    places = [np.array([files[file] for file in table.files], np.int64) for table in tables]
    names = dict.fromkeys(name for table in tables for name in table.extra)

    def joined(name: str) -> Any:
        return np.concatenate([getattr(table, name) for table in tables])

    return HeaderTable(
        files=tuple(files),
        file_number=np.concatenate([p[t.file_number] for p, t in zip(places, tables, strict=True)]),
        **{name: joined(name) for name in ("image_number", "transforms", "weight", "quality", "model")},
        **{name: joined(name) for name in ("pixel", "boxes")},
        ctf=[ctf for table in tables for ctf in table.ctf],
        ssnr=[curve for table in tables for curve in table.ssnr],
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        extra={
            name: np.concatenate([t.extra.get(name, np.full(len(t), np.nan)) for t in tables])
            for name in names
        },
    )


def particles_from_headers(source: Path, table: HeaderTable, convention: ShiftConvention) -> Particles:
    """Particles of a table of headers.

    Missing attributes mean: weight 1, quality ``1 / (weight + 1e-5)``, model −1, pixel size 1 Å (noted).

    Raises
    ------
    FormatError
        If there is no image, or images without a usable ``xform.projection``; they are counted and named.
    """
    if not len(table):
        raise FormatError(f"{source}: holds no image")
    _refuse_bad_transforms(source, table)
    _refuse_infinite(source, table)
    rotations, shifts = poses_from_transforms(table.transforms, convention)
    weight = np.where(np.isnan(table.weight), 1.0, table.weight)
    quality = np.where(np.isnan(table.quality), 1.0 / (weight + 1e-5), table.quality)
    optics, group, ctf = _optics(table)
    pixel = np.array([entry.pixel_size_angst for entry in optics])[group]
    return make_particles(
        source,
        (table.files, table.file_number, table.image_number),
        rotations,
        shifts_angst=shifts * pixel[:, None],
        optics=optics,
        optics_group=group,
        weight=weight,
        quality=quality,
        model_number=np.where(np.isnan(table.model), -1, table.model).astype(np.int64),
        ctf=ctf,
        ssnr=_curves(source, table),
        columns=_columns(table),
        notes=tuple(table.notes),
    )


def _refuse_bad_transforms(source: Path, table: HeaderTable) -> None:
    missing = np.isnan(table.transforms).all(axis=(1, 2))
    for rows, fault in (
        (np.flatnonzero(missing), "no xform.projection"),
        (
            np.flatnonzero(faulty_transforms(table.transforms) & ~missing),
            "an xform.projection that is no rotation",
        ),
    ):
        if not rows.size:
            continue
        first = table.files[table.file_number[rows[0]]]
        numbers = [
            str(table.image_number[row] + 1) for row in rows if table.files[table.file_number[row]] == first
        ]
        listed = ", ".join(numbers[:_LISTED]) + (", …" if len(numbers) > _LISTED else "")
        raise FormatError(
            f"{source}: {rows.size} of {len(table)} images have {fault}: {first}, image {listed}; "
            "give images with orientations, or take these out of the list"
        )


def _refuse_infinite(source: Path, table: HeaderTable) -> None:
    for name, values in table.numbers().items():
        rows = np.flatnonzero(np.isinf(values))
        if rows.size:
            image = f"{table.files[table.file_number[rows[0]]]}, image {table.image_number[rows[0]] + 1}"
            raise FormatError(f"{source}: {name} is infinite in {rows.size} images, the first is {image}")


def _columns(table: HeaderTable) -> dict[str, NDArray[Any]]:
    """The attributes by EMAN2's names, as far as any image has them."""
    columns: dict[str, NDArray[Any]] = {"xform.projection": table.transforms.reshape(-1, 12)}
    columns |= {name: values for name, values in table.numbers().items() if not np.isnan(values).all()}
    return columns | table.extra


def _curves(source: Path, table: HeaderTable) -> NDArray[np.float32] | None:
    """(n, m) SSNR curves; images without one get zeros, which count for nothing."""
    lengths = {len(curve) for curve in table.ssnr if curve is not None}
    if not lengths:
        return None
    if len(lengths) > 1:
        raise FormatError(
            f"{source}: class_ssnr has {min(lengths)} values in some images and {max(lengths)} in others; "
            "expected one length"
        )
    empty = np.zeros(lengths.pop(), np.float32)
    absent = sum(curve is None for curve in table.ssnr)
    if absent:
        table.notes.append(f"{absent} of {len(table)} images have no class_ssnr and get a curve of zeros")
    return np.stack([empty if curve is None else curve for curve in table.ssnr])


def _optics(table: HeaderTable) -> tuple[tuple[OpticsGroup, ...], IntArray, ContrastTransfer | None]:
    """Optics groups, the group of each row, and the CTF parameters if every image has them."""
    pixel = _pixel_sizes(table)
    ctfs = [ctf for ctf in table.ctf if ctf is not None]
    complete = len(ctfs) == len(table)
    if ctfs and not complete:
        table.notes.append(f"only {len(ctfs)} of {len(table)} images have CTF parameters; they are not used")
    if complete:
        contrast, phase = _contrasts(ctfs)
        rows = [
            (size, int(box), ctf.voltage_kv, ctf.cs_mm, amount)
            for size, box, ctf, amount in zip(pixel, table.boxes, ctfs, contrast, strict=True)
        ]
    else:
        rows = [(size, int(box), 0.0, 0.0, 0.0) for size, box in zip(pixel, table.boxes, strict=True)]
    places = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    groups = tuple(
        OpticsGroup(f"optics{number + 1}", float(row[0]), row[1], row[2], row[3], row[4])
        for row, number in places.items()
    )
    group = np.array([places[row] for row in rows], np.int64)
    return groups, group, contrast_transfer(ctfs, phase) if complete else None


def _pixel_sizes(table: HeaderTable) -> list[float]:
    """Pixel size of each row: ``apix_x``, else that of the CTF, else 1 Å with a note."""
    sizes, unknown = [], 0
    for given, ctf in zip(table.pixel.tolist(), table.ctf, strict=True):
        size = given if given > 0 and math.isfinite(given) else (ctf.apix_angst if ctf is not None else 0.0)
        unknown += size <= 0
        sizes.append(size if size > 0 else 1.0)
    if unknown:
        table.notes.append(f"{unknown} of {len(table)} images have no pixel size (apix_x); 1 Å is assumed")
    return sizes


def _contrasts(ctfs: Sequence[Eman2Ctf]) -> tuple[list[float], FloatArray]:
    """Amplitude contrast of each row's optics group, and phase shifts in degrees that make up the rest.

    One amplitude contrast for all, as is usual, is kept as such. Several (phase plates) would make an
    optics group of nearly every micrograph; since ``cos(γ − acos a) = sin(γ + asin a)``, they are
    carried entirely by the phase shifts.
    """
    values = {ctf.ampcont_percent for ctf in ctfs}
    amount = next(iter(values)) / 100
    if len(values) == 1 and 0 <= amount < 1:
        return [amount] * len(ctfs), np.zeros(len(ctfs))
    return [0.0] * len(ctfs), np.rad2deg([ctf.phase_rad for ctf in ctfs])


def contrast_transfer(ctfs: Sequence[Eman2Ctf], phase_deg: FloatArray) -> ContrastTransfer:
    """CTF parameters in centralslice's units; ``phase_deg`` (n,) goes beside the amplitude contrast."""
    mean = _MICROMETRE * np.array([ctf.defocus_um for ctf in ctfs])
    half = _MICROMETRE / 2 * np.array([ctf.dfdiff_um for ctf in ctfs])
    return ContrastTransfer(
        defocus_u_angst=mean + half,
        defocus_v_angst=mean - half,
        defocus_angle_deg=np.array([ctf.dfang_deg for ctf in ctfs]),
        phase_shift_deg=np.asarray(phase_deg, np.float64),
        bfactor_angst2=np.array([ctf.bfactor_angst2 for ctf in ctfs]),
        scale=np.ones(len(ctfs)),
    )
