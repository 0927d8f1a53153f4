"""What turns sums into maps, without the particles: decided by a run, kept as JSON in its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from centralslice.abc.parameters import build
from centralslice.abc.processor import Processor
from centralslice.abc.reconstructor import (
    MapGeometry,
    ParallelMap,
    PassContext,
    Reconstructor,
    Seed,
    SumsPlan,
)
from centralslice.conventions import FloatArray
from centralslice.errors import CheckpointError
from centralslice.jobs.make3d.settings import SeedSettings
from centralslice.plugin.registry import Registry
from centralslice.runtime.exact_sums import SumsKind, SumsScheme


@dataclass(frozen=True, slots=True)
class FinishPlan:
    """How sums become maps.

    Attributes
    ----------
    mode, reconstructor
        The reconstructor's name in the registry, and itself.
    geometry, sums, sums_kind
        The wanted map, what the reconstructor keeps for it, and how that is summed.
    symmetry, grid_symmetry
        Name, and the operators that the sums are averaged over.
    ctf_modes
        That occur, sorted.
    wiener_snr
        Constant of the Wiener term, or None.
    output_shape
        (z, y, x) of the written map.
    postprocess, postprocessors
        What is done to the merged map: as typed, and made.
    halves
        Whether there are half sets.
    seed, iteration_mask
        Maps that options name.
    symmetry_copies
        Rotations and translations in Å that a reconstructor averages its sums over by interpolation, or None.
    """

    mode: str
    reconstructor: Reconstructor
    geometry: MapGeometry
    sums: SumsPlan
    sums_kind: SumsKind
    symmetry: str
    grid_symmetry: FloatArray | None
    ctf_modes: tuple[str, ...]
    wiener_snr: float | None
    output_shape: tuple[int, int, int]
    postprocess: tuple[str, ...]
    postprocessors: tuple[Processor, ...]
    halves: bool
    seed: SeedSettings | None
    iteration_mask: Path | None
    symmetry_copies: tuple[FloatArray, FloatArray] | None = None

    def context(
        self, seed: Seed | None, mask: FloatArray | None, parallel: ParallelMap, scheme: SumsScheme | None
    ) -> PassContext:
        """The context of the first pass.

        Parameters
        ----------
        seed, mask
            As :mod:`centralslice.jobs.finish_maps` reads them.
        parallel
            Threads.
        scheme
            How sums are kept; None before that is known.
        """
        as_reference = self.seed is not None and self.seed.as_reference
        return PassContext(
            geometry=self.geometry,
            plan=self.sums,
            reference=seed.data if seed is not None and self.sums.passes > 1 else None,
            seed=None if as_reference else seed,
            wiener_snr=self.wiener_snr,
            ctf_weighted=any(mode != "none" for mode in self.ctf_modes),
            grid_symmetry=self.grid_symmetry,
            symmetry_copies=self.symmetry_copies,
            parallel=parallel,
            quanta=(1.0, 1.0, 1.0) if scheme is None else scheme.quanta,
            iteration_mask=mask,
        )


def finish_record(plan: FinishPlan) -> dict[str, Any]:
    """The plan as JSON-able data."""
    seed, operators, copies = plan.seed, plan.grid_symmetry, plan.symmetry_copies
    return {
        "reconstructor": {
            "name": plan.mode,
            "parameters": _parameters(plan.reconstructor),
            "shown": repr(plan.reconstructor),
        },
        "geometry": {**asdict(plan.geometry), "precision": plan.geometry.precision.name},
        "sums": plan.sums_kind,
        "passes": plan.sums.passes,
        "symmetry": plan.symmetry,
        "grid_symmetry": None if operators is None else operators.tolist(),
        "symmetry_copies": None if copies is None else [part.tolist() for part in copies],
        "ctf": list(plan.ctf_modes),
        "wiener_snr": plan.wiener_snr,
        "output_shape": list(plan.output_shape),
        "postprocess": list(plan.postprocess),
        "halves": plan.halves,
        "seed": None if seed is None else {
            **asdict(seed),
            "path": str(seed.path.absolute()),
            "weight_map": None if seed.weight_map is None else str(seed.weight_map.absolute()),
        },
        "iteration_mask": None if plan.iteration_mask is None else str(plan.iteration_mask.absolute()),
    }  # fmt: skip


def _parameters(reconstructor: Any) -> dict[str, Any]:
    """What a reconstructor was made with; one that is no dataclass has no parameters."""
    if not dataclasses.is_dataclass(reconstructor):
        return {}
    return {
        entry.name: getattr(reconstructor, entry.name)
        for entry in dataclasses.fields(reconstructor)
        if entry.init
    }


def rebuild_finish_plan(record: Mapping[str, Any], registry: Registry) -> FinishPlan:
    """The plan again, its plugins made by the registry.

    Raises
    ------
    CheckpointError
        If the record is not what :func:`finish_record` makes, or a plugin now means something else.
    PluginError, ParameterError
        If a plugin is not there or refuses its parameters.
    """
    try:
        reconstructor = _reconstructor(record["reconstructor"], registry)
        given = dict(record["geometry"])
        geometry = MapGeometry(**{**given, "precision": np.dtype(given["precision"])})
        operators = record["grid_symmetry"]
        if record["sums"] not in get_args(SumsKind):
            raise CheckpointError(f"sums of the unknown kind '{record['sums']}'")
        z, y, x = map(int, record["output_shape"])
        mask, copies = record["iteration_mask"], record["symmetry_copies"]
        return FinishPlan(
            mode=record["reconstructor"]["name"], reconstructor=reconstructor, geometry=geometry,
            sums=reconstructor.plan(geometry), sums_kind=record["sums"], symmetry=str(record["symmetry"]),
            grid_symmetry=None if operators is None else np.array(operators, np.float64).reshape(-1, 3, 3),
            ctf_modes=tuple(map(str, record["ctf"])), wiener_snr=record["wiener_snr"], output_shape=(z, y, x),
            postprocess=tuple(record["postprocess"]),
            postprocessors=tuple(registry.create("processor", text) for text in record["postprocess"]),
            halves=bool(record["halves"]), seed=_seed(record["seed"]),
            iteration_mask=None if mask is None else Path(mask),
            symmetry_copies=None if copies is None else (np.array(copies[0]), np.array(copies[1])),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"what finishing needs is not in the checkpoint: {error!r}") from error


def _reconstructor(record: Mapping[str, Any], registry: Registry) -> Reconstructor:
    name = str(record["name"])
    plugin = registry.resolve("reconstructor", name)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in record["parameters"].items()}
    made: Reconstructor = build(plugin, values, name) if dataclasses.is_dataclass(plugin) else plugin()
    if repr(made) != record["shown"]:
        raise CheckpointError(
            f"reconstructor '{name}' is now {made!r}; the sums were made by {record['shown']}"
        )
    return made


def _seed(record: Mapping[str, Any] | None) -> SeedSettings | None:
    if record is None:
        return None
    weights = record["weight_map"]
    return SeedSettings(
        Path(record["path"]), float(record["weight"]), None if weights is None else Path(weights),
        bool(record["as_reference"]),
    )  # fmt: skip
