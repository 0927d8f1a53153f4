"""Particles in tomograms as RELION 5 and 4 list them: who sits where, how turned, which tilts to use."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import BoolArray, FloatArray, IntArray
from centralslice.errors import FormatError
from centralslice.geometry.eulers import relion_to_matrices
from centralslice_plugins.formats.relion_tomo_tilts import finite_numbers
from centralslice_plugins.formats.star import StarFile, StarTable

_CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
_PIXELS = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
PARTICLE_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_NAME = "rlnTomoParticleName"
_VISIBLE = "rlnTomoVisibleFrames"
_OPEN, _COMMA, _CLOSE, _ZERO, _ONE = b"[,]01"


@dataclass(frozen=True, slots=True)
class ChosenRows(StarTable):
    """Rows of a table that remember where they were."""

    numbers_before: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def where(self, row: int) -> str:
        """As of the whole table."""
        return f"{self.source}: block '{self.block}', row {self.numbers_before[row] + 1}"


def chosen_rows(table: StarTable, rows: IntArray) -> ChosenRows:
    """The rows with these numbers."""
    columns = {label: values[rows] for label, values in table.columns.items()}
    return ChosenRows(table.source, table.block, columns, len(rows), table.is_loop, rows)


def particle_table(file: StarFile) -> StarTable:
    """The block of particles; raises FormatError if there is none or it is empty."""
    candidates = file.with_label("rlnTomoName")
    found = [table for table in candidates if table.block == "particles"] or [
        table for table in candidates if any(label in table for label in (*_CENTRED, *_PIXELS))
    ]
    if not found:
        raise FormatError(
            f"{file.path}: expected an optimisation set or particles in tomograms (block data_particles with "
            f"_rlnTomoName), got blocks {file.block_names()}"
        )
    if not len(found[0]):
        raise FormatError(f"{file.path}: block '{found[0].block}' holds no particles")
    return found[0]


def is_extracted(file: StarFile, particles: StarTable) -> bool:
    """Whether particles have extracted 2D stacks (``rlnTomoSubTomosAre2DStacks``)."""
    label = "rlnTomoSubTomosAre2DStacks"
    tables = file.with_label(label)
    if not tables or not len(tables[0]):
        return False
    flag = tables[0].integers(label)[0]
    if flag not in (0, 1):
        raise FormatError(f"{tables[0].where(0)}: _{label}: expected 0 or 1, got {flag}")
    return bool(flag) and "rlnImageName" in particles


def is_centred(particles: StarTable) -> bool:
    """Whether coordinates are RELION 5's; raises FormatError if there are none at all."""
    if all(label in particles for label in _CENTRED):
        return True
    if all(label in particles for label in _PIXELS):
        return False
    raise FormatError(
        f"{particles.source}: block '{particles.block}' has no coordinates: neither _rlnCenteredCoordinateXAngst, "
        "YAngst, ZAngst nor _rlnCoordinateX, Y, Z"
    )


def turns(particles: StarTable, labels: tuple[str, str, str]) -> FloatArray | None:
    """(n, 3, 3) matrices of three angles, or None if there is no first one; raises FormatError."""
    if labels[0] not in particles:
        return None
    return relion_to_matrices(*(finite_numbers(particles, label) for label in labels))


def positions(
    particles: StarTable, centres: FloatArray, pixel_angst: FloatArray, subtomogram: FloatArray | None
) -> FloatArray:
    """(n, 3) positions in tomogram pixels: coordinates minus the origins in the subtomogram's frame.

    Parameters
    ----------
    particles
        The particles.
    centres
        (n, 3) centres of their tomograms, pixels.
    pixel_angst
        (n,) pixel size of coordinates and origins.
    subtomogram
        (n, 3, 3) orientation of their subtomograms, or None.
    """
    pixel = pixel_angst[:, None]
    if is_centred(particles):
        found = np.stack([finite_numbers(particles, label) for label in _CENTRED], axis=1) / pixel + centres
    else:
        found = np.stack([finite_numbers(particles, label) for label in _PIXELS], axis=1)
    origin = np.stack([finite_numbers(particles, label, 0.0) for label in _ORIGIN], axis=1)
    if subtomogram is not None:
        origin = np.einsum("nij,nj->ni", subtomogram, origin)
    result: FloatArray = found - origin / pixel
    return result


def half_sets(particles: StarTable) -> NDArray[np.int8]:
    """(n,) ``rlnRandomSubset``, zeros without; raises FormatError naming a row that is neither 1 nor 2."""
    if "rlnRandomSubset" not in particles:
        return np.zeros(len(particles), np.int8)
    subset = particles.integers("rlnRandomSubset")
    wrong = (subset != 1) & (subset != 2)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FormatError(f"{particles.where(row)}: _rlnRandomSubset: expected 1 or 2, got {subset[row]}")
    return subset.astype(np.int8)


def particle_names(particles: StarTable) -> NDArray[np.object_]:
    """(n,) names; by default the tomogram's and a running number from 1 within it."""
    if _NAME in particles:
        return particles.texts(_NAME)
    seen: Counter[str] = Counter()
    names = []
    for tomogram in particles.texts("rlnTomoName").tolist():
        seen[tomogram] += 1
        names.append(f"{tomogram}/{seen[tomogram]}")
    return np.array(names, object)


def visible_tilts(particles: StarTable, tilts: IntArray) -> BoolArray | None:
    """(Σ tilts,) flags of ``rlnTomoVisibleFrames``, particle after particle; None without.

    Parameters
    ----------
    particles
        The particles.
    tilts
        (n,) number of tilts of each one's series.

    Raises
    ------
    FormatError
        Naming a row whose flags are not as many, or not 0 and 1.
    """
    if _VISIBLE not in particles:
        return None
    texts = particles.texts(_VISIBLE).tolist()
    lengths = np.array([len(text) for text in texts], np.int64)
    characters = np.frombuffer("".join(texts).encode("latin-1", "replace"), np.uint8)
    flags = _plain_flags(characters, lengths)
    if flags is None:
        vectors = [np.array(vector) for vector in particles.vectors(_VISIBLE)]
        counts = np.array([len(vector) for vector in vectors], np.int64)
        values = np.concatenate(vectors)
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            row = int(np.searchsorted(np.cumsum(counts), int(np.argmax(wrong)), side="right"))
            raise FormatError(
                f"{particles.where(row)}: _{_VISIBLE}: expected 0 and 1, got {values[np.argmax(wrong)]:g}"
            )
        flags = values != 0
    else:
        counts = (lengths - 1) // 2
    if (counts != tilts).any():
        row = int(np.argmax(counts != tilts))
        raise FormatError(
            f"{particles.where(row)}: _{_VISIBLE}: expected {tilts[row]} values, as many as tomogram "
            f"'{particles.texts('rlnTomoName')[row]}' has tilts, got {counts[row]}"
        )
    return flags


def _plain_flags(characters: NDArray[np.uint8], lengths: IntArray) -> BoolArray | None:
    """The flags of texts ``[1,0,1]`` without blanks that are joined, or None if a text is another."""
    if ((lengths < 3) | (lengths % 2 == 0)).any():
        return None
    starts = np.cumsum(lengths) - lengths
    inside = np.arange(len(characters)) - np.repeat(starts, lengths)
    digit = inside % 2 == 1
    digits, marks = characters[digit], characters[~digit].copy()
    expected = np.full(len(marks), _COMMA, np.uint8)
    ends = np.cumsum((lengths + 1) // 2)
    expected[ends - 1] = _CLOSE
    expected[ends - (lengths + 1) // 2] = _OPEN
    if (marks != expected).any() or ((digits != _ZERO) & (digits != _ONE)).any():
        return None
    flags: BoolArray = digits == _ONE
    return flags
