"""Metadata of sub-particles: STAR tables that RELION and make3d read, and what EMAN2's lists say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.conventions import FloatArray, IntArray
from centralslice.geometry.eulers import matrices_to_relion
from centralslice.jobs.simulate.particles import relion_tables
from centralslice.jobs.subparticles.filters import MOST_MISSING
from centralslice.jobs.subparticles.plan import SubparticlePlan
from centralslice.jobs.subparticles.results import Results
from centralslice.jobs.subparticles.rows import Rows

Columns = dict[str, NDArray[Any]]

#: Of the optics table: the parents' columns in their order, for --revert.
PARENT_COLUMNS = "sprParentColumns"
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN_PRIORS = ("rlnOriginXPriorAngst", "rlnOriginYPriorAngst", "rlnOriginXPrior", "rlnOriginYPrior")
_ANGLE_PRIORS = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
_MICROGRAPH_PIXEL = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
#: What other programs' metadata may say that is of no sub-particle.
_STALE = ("xform", "ctf", "class", "ptcl_source", "origin", "data_", "location", "alignments", "blob")


def saved_name(label: str) -> str:
    """Where a parent's value of a column is kept: rlnAngleRot -> sprRotParent."""
    base = label.removeprefix("rln")
    return f"spr{base.removeprefix('Angle') if label in _ANGLES else base}Parent"


def saved_label(name: str) -> str:
    """The column a saved one came from."""
    base = name.removeprefix("spr").removesuffix("Parent")
    return f"rln{'Angle' if base in ('Rot', 'Tilt', 'Psi') else ''}{base}"


@dataclass(frozen=True, slots=True)
class Table:
    """Sub-particles as they are written.

    Attributes
    ----------
    rows
        Their geometry.
    defocus_delta_angst
        (m,) change of their defocus.
    residual_px
        (m, 2) what is left of the shift.
    tables
        STAR: ``optics`` where there is one, and ``particles``.
    """

    rows: Rows
    defocus_delta_angst: FloatArray
    residual_px: FloatArray
    tables: Mapping[str, Mapping[str, NDArray[Any]]]


def make_table(plan: SubparticlePlan, results: Results) -> Table:
    """All metadata of the sub-particles, in the order of the stack."""
    rows = plan.rows_of(np.arange(len(plan.particles)))
    settings = plan.settings
    hand = _hand(plan, results)
    delta = -hand * rows.depth_angst if plan.particles.ctf is not None else np.zeros(len(rows))
    residual = (
        np.zeros(rows.residual_px.shape) if settings.crop.subpixel else rows.position_px + results.moves_px
    )
    if settings.expand_only:
        delta, residual = np.zeros(len(rows)), rows.position_px
    parent_columns, optics = _parent_tables(plan)
    made = _Columns(plan, results, rows, parent_columns, delta, residual)
    tables: dict[str, Mapping[str, NDArray[Any]]] = {}
    if optics:
        tables["optics"] = _optics(plan, optics, parent_columns)
    tables["particles"] = made.make()
    return Table(rows, delta, residual, tables)


def _hand(plan: SubparticlePlan, results: Results) -> float:
    crop = plan.settings.crop
    if not crop.adjust_defocus or plan.settings.compat_eman2:
        return 0.0
    return (results.hand or 0.0) if crop.hand == "auto" else float(crop.hand)


def _parent_tables(plan: SubparticlePlan) -> tuple[Columns, Columns]:
    """The parents' columns and optics: as their STAR file has them, else made of what is known."""
    particles = plan.source.particles.take(plan.rows)  # whatever --localrefine made of their poses
    if any(label.startswith("rln") for label in particles.columns):
        return dict(particles.columns), dict(particles.optics_columns)
    made = relion_tables(particles)
    names = [
        f"{number + 1:06d}@{particles.image_files[file]}"
        for file, number in zip(particles.file_number.tolist(), particles.image_number.tolist(), strict=True)
    ]
    columns = {**made["particles"], "rlnImageName": np.array(names, object)}
    carried = {
        label: column
        for label, column in particles.columns.items()
        if not label.lower().startswith(_STALE) and np.ndim(column) == 1 and column.dtype.kind in "iuf"
        and not any(ord(letter) <= 32 for letter in label)
    }  # fmt: skip
    return {**columns, **carried}, made["optics"]


def _optics(plan: SubparticlePlan, optics: Columns, parent: Columns) -> Columns:
    """The optics table with the new box, and what is needed to go back."""
    made = dict(optics)
    count = len(next(iter(optics.values())))
    if not plan.settings.expand_only:
        if "rlnImageSize" in made:
            made["sprImageSizeParent"] = made["rlnImageSize"]
        made["rlnImageSize"] = np.full(count, plan.new_box)
    made[PARENT_COLUMNS] = np.array([",".join(parent)] * count, object)
    return made


class _Columns:
    """Builds the particle table: the parents' columns, changed where sub-particles differ."""

    def __init__(
        self, plan: SubparticlePlan, results: Results, rows: Rows, parent: Columns, delta: FloatArray,
        residual: FloatArray,
    ) -> None:  # fmt: skip
        self._plan, self._results, self._rows, self._parent = plan, results, rows, parent
        self._delta, self._residual = delta, residual
        pixels = np.array([group.pixel_size_angst for group in plan.particles.optics])
        self._pixel = pixels[plan.particles.optics_group[rows.parent]]

    def make(self) -> Columns:
        """The table."""
        changed = {**self._pose(), **self._images(), **self._defocus(), **self._coordinates()}
        dropped = [label for label in self._stale() if label in self._parent]
        table: Columns = {}
        saved: Columns = {}
        for label, column in self._parent.items():
            values = _compact(column)[self._rows.parent]
            if label in dropped:
                saved[saved_name(label)] = values
            elif label in changed:
                table[label] = changed[label]
                if label != "rlnImageName":
                    saved[saved_name(label)] = values
            else:
                table[label] = values
        table |= {label: column for label, column in changed.items() if label not in table}
        return {**table, **self._provenance(), **saved}

    def _stale(self) -> tuple[str, ...]:
        """Columns that are of no sub-particle."""
        helix = self._plan.settings.copies.helix is not None
        priors = () if helix else _ANGLE_PRIORS
        return priors if self._plan.settings.expand_only else (*_ORIGIN_PRIORS, *priors)

    def _pose(self) -> Columns:
        rot, tilt, psi = matrices_to_relion(self._rows.rotations)
        shift = -self._residual * self._pixel[:, None] + 0.0
        pose: Columns = dict(zip(_ANGLES, (rot, tilt, psi), strict=True))
        if "rlnOriginX" in self._parent and "rlnOriginXAngst" not in self._parent:
            shift = -self._residual + 0.0
            return {**pose, "rlnOriginX": shift[:, 0], "rlnOriginY": shift[:, 1]}
        return {**pose, "rlnOriginXAngst": shift[:, 0], "rlnOriginYAngst": shift[:, 1]}

    def _images(self) -> Columns:
        if self._plan.settings.expand_only:
            return {}
        stack = self._plan.files.stack
        done = {"rlnNormCorrection": np.ones(len(self._rows))} if self._plan.normalises_images else {}
        names = [f"{number + 1:06d}@{stack}" for number in range(len(self._rows))]
        return {
            **done,
            "rlnImageName": np.array(names, object),
            "rlnImageOriginalName": _compact(self._parent["rlnImageName"])[self._rows.parent],
            "rlnParticleName": self._particle_names(),
        }

    def _particle_names(self) -> NDArray[Any]:
        """Unique names: the parent and the copy."""
        stem = (self._plan.files.stack or self._plan.files.table).stem
        sources = self._plan.rows[self._rows.parent]
        names = [
            f"{stem}/{source + 1:06d}/{candidate:03d}"
            for source, candidate in zip(sources.tolist(), self._rows.candidate.tolist(), strict=True)
        ]
        return np.array(names, object)

    def _defocus(self) -> Columns:
        if self._plan.particles.ctf is None or not self._delta.any():
            return {}
        return {
            label: self._parent[label].astype(np.float64)[self._rows.parent] + self._delta
            for label in ("rlnDefocusU", "rlnDefocusV")
            if label in self._parent
        }

    def _coordinates(self) -> Columns:
        """Places in the micrograph of the new boxes' centres."""
        if self._plan.settings.expand_only:
            return {}
        optics = self._plan.particles.optics_columns
        known = next((label for label in _MICROGRAPH_PIXEL if label in optics), None)
        ratio: FloatArray = np.ones(len(self._rows))
        if known is not None:
            micrograph = optics[known].astype(np.float64)[
                self._plan.particles.optics_group[self._rows.parent]
            ]
            ratio = self._pixel / micrograph
        away: FloatArray = -self._results.moves_px.astype(np.float64)
        if self._plan.settings.crop.subpixel:
            away = self._rows.position_px
        return {
            label: self._parent[label].astype(np.float64)[self._rows.parent] + away[:, axis] * ratio
            for axis, label in enumerate(("rlnCoordinateX", "rlnCoordinateY"))
            if label in self._parent
        }

    def _provenance(self) -> Columns:
        rows, plan, candidates = self._rows, self._plan, self._plan.design.candidates
        table: Columns = {
            "sprParentIndex": plan.rows[rows.parent],
            "sprSymmetryIndex": candidates.operators[rows.candidate],
            "sprSubunit": candidates.subunits[rows.candidate],
        }
        if plan.source.used is not None:
            table["sprUsed"] = plan.source.used[plan.rows[rows.parent]].astype(np.int64)
        if plan.settings.expand_only:
            return table
        missing = rows.missing(plan.parent_box, plan.new_box)
        return {
            **table,
            "sprShiftX": self._results.moves_px[:, 0].astype(np.int64),
            "sprShiftY": self._results.moves_px[:, 1].astype(np.int64),
            "sprDefocusDelta": self._delta,
            "sprSubtractScale": self._results.scale[rows.parent],
            "sprScaleClipped": self._results.clipped[rows.parent].astype(np.int64),
            "sprResidualCC": self._results.correlation.astype(np.float64),
            "sprOutsideFraction": missing,
            "sprOutside": (missing > MOST_MISSING).astype(np.int64),
        }


def _compact(column: NDArray[Any]) -> NDArray[Any]:
    """Texts as objects, which copies share."""
    return column.astype(object) if column.dtype.kind in "US" else column


def list_columns(plan: SubparticlePlan, results: Results, table: Table) -> Columns:
    """The sub-particles as an EMAN2 list has them; poses in pixels."""
    particles, rows = plan.particles, table.rows
    poses = np.zeros((len(rows), 3, 4))
    poses[:, :, :3] = rows.rotations
    poses[:, :2, 3] = table.residual_px
    half = particles.half_set[rows.parent].astype(np.int64)
    files = np.array([str(path) for path in particles.image_files], object)
    columns: Columns = {
        "image_number": np.arange(len(rows)),
        "image_file": np.array([str(plan.files.stack)] * len(rows), object),
        "xform.projection": poses,
        "orig_src": files[particles.file_number[rows.parent]],
        "orig_idx": particles.image_number[rows.parent],
        "sym_idx": plan.design.candidates.operators[rows.candidate],
        "sub_shift": results.moves_px.astype(np.float64),
    }
    if np.all(half > 0):
        columns["class"] = half - 1
    if "score" in particles.columns and particles.columns["score"].dtype.kind in "if":
        columns["score"] = particles.columns["score"].astype(np.float64)[rows.parent]
    if particles.ctf is not None:
        columns["ctf"] = _eman2_ctf(plan, rows.parent, table.defocus_delta_angst)
        columns["defocus0"] = columns["ctf"][:, 0] - table.defocus_delta_angst / 1e4
    return columns


def _eman2_ctf(plan: SubparticlePlan, parents: IntArray, delta: FloatArray) -> FloatArray:
    """(m, 8) defocus µm, difference µm, angle °, B Å², amplitude contrast %, kV, Cs mm, Å per pixel."""
    particles = plan.particles
    ctf = particles.ctf
    if ctf is None:
        return np.empty((0, 8))
    group = particles.optics_group[parents]

    def of_group(name: str) -> FloatArray:
        return np.array([float(getattr(optics, name)) for optics in particles.optics])[group]

    u, v = ctf.defocus_u_angst[parents] + delta, ctf.defocus_v_angst[parents] + delta
    contrast = 100 * of_group("amplitude_contrast")
    phase = ctf.phase_shift_deg[parents]
    turned = np.degrees(np.arcsin(contrast / 100)) + phase
    shifted = 100 * np.sin(np.radians(turned))
    contrast = np.where(phase == 0, contrast, np.where(turned <= 90, shifted, 200 - shifted))
    return np.stack([
        (u + v) / 2e4, (u - v) / 1e4, ctf.defocus_angle_deg[parents], ctf.bfactor_angst2[parents], contrast,
        of_group("voltage_kv"), of_group("spherical_aberration_mm"), of_group("pixel_size_angst"),
    ], axis=1)  # fmt: skip
