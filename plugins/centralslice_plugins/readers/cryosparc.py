"""cryoSPARC particle metadata (``.cs``).

Poses are ``R = exp([pose]×)ᵀ``; ``shift`` is RELION's origin offset in pixels of ``psize_A`` of the
alignment, so that ``t = −shift · psize_A`` (both as the public converters to STAR have it).
Defocus, phase shift, B factor and scale are RELION's. Higher aberrations (beam tilt, trefoil, tetrafoil,
anisotropic magnification) are not applied, because their sign convention is not published: where they
are not zero a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import Reader, ReadRequest
from centralslice.conventions import FloatArray, IntArray
from centralslice.data.particles import ContrastTransfer, OpticsGroup, Particles, make_particles
from centralslice.errors import FormatError
from centralslice.geometry.eulers import cryosparc_to_matrices
from centralslice_plugins.formats.cryosparc import CsTable, is_cs, read_cs, with_passthrough
from centralslice_plugins.formats.groups import distinct_rows
from centralslice_plugins.formats.paths import locate_images

_IMAGES = ("blob/path", "blob/idx")
_BY_CLASS = re.compile(r"alignments_class_(\d+)/pose")
_LARGEST = 2**53

#: Fields that change the images and are not applied, and the value that means "nothing".
_NOT_APPLIED = {
    "ctf/tilt_A": ("beam tilt", 0.0),
    "ctf/shift_A": ("beam shift", 0.0),
    "ctf/trefoil_A": ("trefoil", 0.0),
    "ctf/tetra_A": ("tetrafoil", 0.0),
    "ctf/anisomag": ("anisotropic magnification", 0.0),
    "alignments3D/alpha": ("per-particle scale", 1.0),
}

#: Field, default and largest value of what an optics group has one number of.
_GROUP_FIELDS = {
    "ctf/accel_kv": (0.0, 1e4),
    "ctf/cs_mm": (0.0, 1e3),
    "ctf/amp_contrast": (0.0, 1.0),
    "ctf/exp_group_id": (0.0, float(_LARGEST)),
}


class CryosparcReader(Reader):
    """Particles of a ``.cs`` file, with those of its passthrough file where fields are lacking."""

    plugin_name: ClassVar[str] = "cryosparc"
    capabilities: ClassVar[frozenset[str]] = frozenset({"particles"})

    def recognises(self, path: Path) -> bool:
        """Whether it is a NumPy array named ``.cs``."""
        return is_cs(path)

    def read_particles(self, request: ReadRequest) -> Particles:
        """Read the particles of a ``.cs`` file.

        Raises
        ------
        FormatError
            If the file cannot be read, lacks fields that no passthrough file has, or a value cannot be.
        FileMissingError
            If the file, or an image file that it names, does not exist.
        """
        table = read_cs(request.path)
        wanted = list(_IMAGES)
        if not _has_pose(table):
            wanted += ["alignments3D/pose", "alignments3D/shift"]
        table, notes = with_passthrough(table, wanted)
        names, file_number = _image_files(table)
        located = locate_images(names, request.path, request.image_dir, _names_without_uid)
        pose, shift_px, alignment, classes = _alignment(table)
        image_px, image_notes = _image_pixels(table)
        groups, group = _optics(table, image_px)
        return make_particles(
            request.path,
            (located.files, file_number, table.integers("blob/idx", 0, _LARGEST)),
            cryosparc_to_matrices(pose),
            shifts_angst=-shift_px * _alignment_pixels(table, alignment, image_px)[:, None] + 0.0,
            optics=groups,
            optics_group=group,
            half_set=_half_sets(table, alignment),
            model_number=classes,
            ctf=_contrast_transfer(table),
            columns=table.fields,
            notes=(*notes, *located.notes, *image_notes, *_not_applied(table)),
        )


def _image_files(table: CsTable) -> tuple[list[str], IntArray]:
    """Distinct file names without the leading ``>`` of cryoSPARC's own paths, and each particle's."""
    files: dict[str, int] = {}
    names = (text.removeprefix(">") for text in table.texts("blob/path"))
    file_number = np.fromiter((files.setdefault(name, len(files)) for name in names), np.int64, len(table))
    return list(files), file_number


def _names_without_uid(name: str) -> tuple[str, ...]:
    """Imported files carry a long number and an underscore before their own name."""
    folder, slash, base = name.rpartition("/")
    stripped = re.sub(r"^\d{12,}_", "", base)
    return () if stripped in (base, "") else (f"{folder}{slash}{stripped}",)


def _has_pose(table: CsTable) -> bool:
    return not table.missing(["alignments3D/pose", "alignments3D/shift"]) or bool(_several_classes(table))


def _several_classes(table: CsTable) -> list[str]:
    """Groups of fields with one alignment for each class, ordered by class."""
    if "alignments3D_multi/pose" in table and "alignments3D_multi/shift" in table:
        return ["alignments3D_multi"]
    numbers = sorted(int(found[1]) for name in table.fields if (found := _BY_CLASS.fullmatch(name)))
    return [f"alignments_class_{number}" for number in numbers]


def _alignment(table: CsTable) -> tuple[FloatArray, FloatArray, str, IntArray]:
    """Pose (n, 3), shift (n, 2) in pixels, the fields' common prefix and class (n,) of each particle.

    Where there is one alignment a class (ab initio and heterogeneous refinement), that of the class with
    the largest posterior is taken.
    """
    if not table.missing(["alignments3D/pose", "alignments3D/shift"]):
        prefix = "alignments3D"
        classes: IntArray = np.full(len(table), -1, np.int64)
        if f"{prefix}/class" in table:
            classes = table.integers(f"{prefix}/class", 0, _LARGEST)
        return table.numbers(f"{prefix}/pose", 3), table.numbers(f"{prefix}/shift", 2), prefix, classes
    prefixes = _several_classes(table)
    parts = ("pose", "shift", "class_posterior")
    lacking = table.missing([f"{prefix}/{part}" for prefix in prefixes for part in parts])
    if lacking:
        raise FormatError(f"{table.source}: lacks {', '.join(lacking)}")
    if prefixes == ["alignments3D_multi"]:
        count = table.fields["alignments3D_multi/pose"].shape[1:2] or (1,)
        pose = table.numbers("alignments3D_multi/pose", *count, 3)
        shift = table.numbers("alignments3D_multi/shift", *count, 2)
        posterior = table.numbers("alignments3D_multi/class_posterior", *count)
    else:
        pose = np.stack([table.numbers(f"{prefix}/pose", 3) for prefix in prefixes], axis=1)
        shift = np.stack([table.numbers(f"{prefix}/shift", 2) for prefix in prefixes], axis=1)
        posterior = np.stack([table.numbers(f"{prefix}/class_posterior") for prefix in prefixes], axis=1)
    best = np.argmax(posterior, axis=1)
    rows = np.arange(len(table))
    return pose[rows, best], shift[rows, best], prefixes[0], best.astype(np.int64)


def _image_pixels(table: CsTable) -> tuple[FloatArray, tuple[str, ...]]:
    """(n,) pixel size of the images, Å; notes if there is none."""
    if "blob/psize_A" not in table:
        return np.ones(len(table)), (f"{table.source} has no blob/psize_A: 1 Å a pixel is taken",)
    return _positive(table, "blob/psize_A"), ()


def _alignment_pixels(table: CsTable, prefix: str, image_px: FloatArray) -> FloatArray:
    """(n,) pixel size that shifts are in; that of the images where the alignment says none."""
    name = f"{prefix}/psize_A"
    return _positive(table, name) if name in table else image_px


def _positive(table: CsTable, name: str) -> FloatArray:
    values = table.numbers(name)
    if (values <= 0).any():
        row = int(np.argmax(values <= 0))
        raise FormatError(f"{table.where(row)}: {name}: expected a size above 0, got {values[row]:g}")
    # as float32 the file has 1.3450001 for 1.345: the shortest decimal is what was meant
    distinct, inverse = np.unique(table.fields[name], return_inverse=True)
    decimals: FloatArray = np.array([float(str(value)) for value in distinct])[inverse.reshape(-1)]
    return decimals


def _half_sets(table: CsTable, prefix: str) -> NDArray[np.int8]:
    """Split 0 and 1 are half sets 1 and 2."""
    name = f"{prefix}/split"
    if name not in table:
        return np.zeros(len(table), np.int8)
    return (table.integers(name, 0, 1) + 1).astype(np.int8)


def _optics(table: CsTable, image_px: FloatArray) -> tuple[tuple[OpticsGroup, ...], IntArray]:
    """One group for each distinct exposure group, microscope and pixel size."""
    values: dict[str, FloatArray] = {}
    for name, (default, largest) in _GROUP_FIELDS.items():
        found = table.numbers(name) if name in table else np.full(len(table), default)
        wrong = (found < 0) | (found > largest)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FormatError(f"{table.where(row)}: {name}: expected 0 to {largest:g}, got {found[row]:g}")
        values[name] = found
    box = _box_sizes(table)
    first, group = distinct_rows([*values.values(), image_px, box], len(table))

    def plain(name: str, row: int) -> float:
        return float(str(table.fields[name][row])) if name in table else _GROUP_FIELDS[name][0]

    groups = tuple(
        OpticsGroup(
            name=f"exposure group {round(plain('ctf/exp_group_id', row))}",
            pixel_size_angst=float(image_px[row]),
            box_size=int(box[row]),
            voltage_kv=plain("ctf/accel_kv", row),
            spherical_aberration_mm=plain("ctf/cs_mm", row),
            amplitude_contrast=plain("ctf/amp_contrast", row),
        )
        for row in first.tolist()
    )
    return groups, group


def _box_sizes(table: CsTable) -> IntArray:
    """(n,) image size in pixels, 0 if unknown; raises FormatError for images that are not square."""
    if "blob/shape" not in table:
        return np.zeros(len(table), np.int64)
    shape = table.numbers("blob/shape", 2)
    wrong = shape[:, 0] != shape[:, 1]
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{table.where(row)}: blob/shape: expected a square image, got {shape[row]}")
    return shape[:, 0].astype(np.int64)


def _contrast_transfer(table: CsTable) -> ContrastTransfer | None:
    """CTF parameters, angles in degrees; None if there is no defocus."""
    if "ctf/df1_A" not in table:
        return None

    def field(name: str, default: float | FloatArray) -> FloatArray:
        if name in table:
            return table.numbers(name)
        return np.broadcast_to(np.asarray(default, np.float64), (len(table),)).copy()

    defocus = field("ctf/df1_A", 0.0)
    return ContrastTransfer(
        defocus_u_angst=defocus,
        defocus_v_angst=field("ctf/df2_A", defocus),
        defocus_angle_deg=np.rad2deg(field("ctf/df_angle_rad", 0.0)),
        phase_shift_deg=np.rad2deg(field("ctf/phase_shift_rad", 0.0)),
        bfactor_angst2=field("ctf/bfactor", 0.0),
        scale=field("ctf/scale", 1.0),
    )


def _not_applied(table: CsTable) -> Iterator[str]:
    """Notes on what the file says and is not used."""
    for name, (what, nothing) in _NOT_APPLIED.items():
        if name in table:
            count = int((table.fields[name].reshape(len(table), -1) != nothing).any(axis=1).sum())
            if count:
                yield f"{what} ({name}) of {count} particles in {table.source} is not applied"
    if "blob/sign" in table:
        negative = table.numbers("blob/sign") < 0
        if negative.all():
            yield (
                f"images of {table.source} have negative contrast (blob/sign −1): "
                "the map will have it too unless they are inverted"
            )
        elif negative.any():
            row = int(np.argmax(negative != negative[0]))
            raise FormatError(
                f"{table.where(row)}: blob/sign: images of both contrasts in one file would cancel out; "
                "reconstruct them separately"
            )
