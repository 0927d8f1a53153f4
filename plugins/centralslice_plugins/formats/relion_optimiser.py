"""RELION's optimiser, model and sampling STAR files, as far as subtracting from particles needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.paths import locate_images
from centralslice_plugins.formats.star import StarFile, StarTable, read_star

_GENERAL = "optimiser_general"


@dataclass(frozen=True, slots=True)
class Optimiser:
    """What ``optimiser_general`` says; files are as written, flags False where they are absent."""

    path: Path
    models: tuple[str, ...]
    data: str
    sampling: str | None
    split_halves: bool
    correct_norm: bool
    correct_scale: bool
    correct_ctf: bool
    phase_flipped: bool
    first_peak: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A ``model.star``: one per half set, or one.

    ``maps`` are the reference of each class as written; ``group_number`` and ``group_scale`` (m,) go
    together; ``group_names`` (m,) may be empty; ``norm_average`` is 1 if the file does not say.
    """

    path: Path
    maps: tuple[str, ...]
    norm_average: float
    group_number: IntArray
    group_scale: FloatArray
    group_names: tuple[str, ...]


def is_optimiser(path: Path) -> bool:
    """Whether a STAR file has a block ``data_optimiser_general``."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return any(line.split()[:1] == [b"data_" + _GENERAL.encode()] for line in head.splitlines())


def read_optimiser(path: Path) -> Optimiser:
    """Read an optimiser file.

    Raises
    ------
    FileMissingError, FormatError
        If it is missing or broken, or belongs to a multi-body or a tomography refinement.
    """
    table = read_star(path).table(_GENERAL)
    _refuse_unsupported(table)
    split = _flag(table, "rlnDoSplitRandomHalves")
    labels = ("rlnModelStarFile", "rlnModelStarFile2")[: 2 if split else 1]
    models = [_name(table, label) for label in labels]
    data = _name(table, "rlnExperimentalDataStarFile")
    for label, name in zip((*labels, "rlnExperimentalDataStarFile"), (*models, data), strict=True):
        if name is None:
            raise FormatError(f"{path}: block '{_GENERAL}' has no _{label}; it is no finished refinement")
    return Optimiser(
        path=path,
        models=tuple(name for name in models if name is not None),
        data=data or "",
        sampling=_name(table, "rlnOrientSamplingStarFile"),
        split_halves=split,
        correct_norm=_flag(table, "rlnDoCorrectNorm"),
        correct_scale=_flag(table, "rlnDoCorrectScale"),
        correct_ctf=_flag(table, "rlnDoCorrectCtf"),
        phase_flipped=_flag(table, "rlnCtfDataArePhaseFlipped"),
        first_peak=_flag(table, "rlnDoIgnoreCtfUntilFirstPeak"),
    )


def _refuse_unsupported(table: StarTable) -> None:
    bodies = _name(table, "rlnBodyStarFile")
    if bodies is not None:
        raise FormatError(
            f"{table.source}: is a multi-body refinement (_rlnBodyStarFile {bodies}): its bodies move against "
            "each other, so one map cannot be subtracted; give the consensus refinement before it"
        )
    if _name(table, "rlnTomogramStarFile") or _name(table, "rlnTomoTomogramsFile"):
        raise FormatError(
            f"{table.source}: is a refinement of tomograms; only 2D particles can be subtracted"
        )


def read_model(path: Path) -> Model:
    """Read a model file.

    Raises
    ------
    FileMissingError, FormatError
        If it is missing or broken, of 2D references, of several bodies, or without references.
    """
    file = read_star(path)
    general, classes = file.table("model_general"), file.table("model_classes")
    _check_general(general)
    maps = tuple(str(name) for name in classes.texts("rlnReferenceImage").tolist())
    if not maps:
        raise FormatError(f"{path}: block 'model_classes' is empty; expected the reference of each class")
    number, scale, names = _groups(file)
    norm = _number(general, "rlnNormCorrectionAverage", 1.0)
    if not norm > 0:
        raise FormatError(f"{path}: _rlnNormCorrectionAverage: expected a number > 0, got {norm:g}")
    return Model(
        path=path,
        maps=maps,
        norm_average=norm,
        group_number=number,
        group_scale=scale,
        group_names=names,
    )


def _check_general(general: StarTable) -> None:
    for label, wanted, what in (
        ("rlnReferenceDimensionality", 3, "references are 2D class averages, a map is needed"),
        ("rlnDataDimensionality", 2, "its particles are no 2D images"),
        ("rlnNrBodies", 1, "is of a multi-body refinement, give the consensus refinement before it"),
    ):
        if label in general and len(general) and int(general.integers(label)[0]) != wanted:
            raise FormatError(
                f"{general.source}: _{label}: expected {wanted}, got {general.integers(label)[0]}: {what}"
            )


def _groups(file: StarFile) -> tuple[IntArray, FloatArray, tuple[str, ...]]:
    """Number, scale correction and name of each group; none if the file has no such table."""
    table = file.find("model_groups")
    if table is None or "rlnGroupScaleCorrection" not in table or not len(table):
        return np.zeros(0, np.int64), np.zeros(0), ()
    scale = table.numbers("rlnGroupScaleCorrection")
    if not (np.isfinite(scale) & (scale > 0)).all():
        row = int(np.argmin(np.isfinite(scale) & (scale > 0)))
        raise FormatError(
            f"{table.where(row)}: _rlnGroupScaleCorrection: expected a number > 0, got {scale[row]:g}"
        )
    number = table.integers("rlnGroupNumber") if "rlnGroupNumber" in table else np.arange(1, len(table) + 1)
    names = table.texts("rlnGroupName").tolist() if "rlnGroupName" in table else []
    return number.astype(np.int64), scale, tuple(map(str, names))


def read_symmetry(path: Path) -> str | None:
    """The symmetry of a sampling file, None if it does not say; raises FormatError, FileMissingError."""
    for table in read_star(path).with_label("rlnSymmetryGroup"):
        if len(table):
            return str(table.texts("rlnSymmetryGroup")[0]).strip() or None
    return None


def find_beside(name: str, optimiser: Path) -> Path:
    """A file that an optimiser names: beside it, where its job wrote it, else as the name says.

    Raises
    ------
    FileMissingError
        If it is in neither place.
    """
    beside = optimiser.parent / Path(name).name
    if beside.is_file():
        return beside
    try:
        return locate_images([name], optimiser).files[0]
    except FileMissingError as error:
        raise FileMissingError(
            f"{optimiser}: names '{name}', which is neither beside it nor there"
        ) from error


def unfiltered_halves(optimiser: Path) -> tuple[Path, Path] | None:
    """``run_half1_class001_unfil.mrc`` and its mate that RELION writes beside a converged optimiser."""
    prefix = optimiser.name.removesuffix(".star").removesuffix("optimiser")
    first, second = (optimiser.with_name(f"{prefix}half{half}_class001_unfil.mrc") for half in (1, 2))
    return (first, second) if first.is_file() and second.is_file() else None


def group_scales(model: Model, numbers: IntArray | None, names: Sequence[str] | None) -> FloatArray:
    """(n,) scale correction of each particle's group, by its number, else by its name.

    Raises
    ------
    FormatError
        If a particle's group is not in the model, or neither is known.
    """
    by_name = numbers is None
    if numbers is not None:
        known: dict[int | str, float] = dict(
            zip(model.group_number.tolist(), model.group_scale.tolist(), strict=True)
        )
        wanted: list[int | str] = list(numbers.tolist())
    elif names is not None and model.group_names:
        known = dict(zip(model.group_names, model.group_scale.tolist(), strict=True))
        wanted = list(names)
    else:
        raise FormatError(f"{model.path}: has scale corrections of groups, but the particles name no group")
    missing = next((group for group in wanted if group not in known), None)
    if missing is not None:
        raise FormatError(
            f"{model.path}: has no group {'named ' if by_name else ''}{missing}, which particles are of; "
            "give the particles of this refinement"
        )
    return np.array([known[group] for group in wanted], np.float64)


def _name(table: StarTable, label: str) -> str | None:
    """A file name, None if it is absent or ``None``."""
    if label not in table or not len(table):
        return None
    text = str(table.texts(label)[0]).strip()
    return None if text in ("", "None") else text


def _flag(table: StarTable, label: str) -> bool:
    return label in table and len(table) > 0 and bool(table.integers(label)[0])


def _number(table: StarTable, label: str, default: float) -> float:
    return float(table.numbers(label)[0]) if label in table and len(table) else default
