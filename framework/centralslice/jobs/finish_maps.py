"""From totals to maps: the end of a run, and of sums that were merged from several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from centralslice.abc.reconstructor import NextPass, PassContext, Reconstructor, Seed, WeightMap
from centralslice.conventions import FloatArray
from centralslice.data.slices import Sums
from centralslice.errors import CheckpointError, FormatError, ParameterError
from centralslice.fourier.transforms import crop_or_pad
from centralslice.jobs.finish_plan import FinishPlan
from centralslice.plugin.registry import Registry
from centralslice.runtime.checkpoint import Checkpoint
from centralslice.runtime.exact_sums import SumsScheme

#: Makes, from the label, data and sums of a map that was finished, what else is wanted of it, by name.
SideMaps: TypeAlias = Callable[[str, FloatArray, Sums, PassContext], dict[str, FloatArray]]
#: Is given a label and its side maps.
KeepSides: TypeAlias = Callable[[str, dict[str, FloatArray]], None]
#: Name of the side map that is the weights.
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class FinishWatch:
    """What a job wants to know and to have while maps are finished.

    Attributes
    ----------
    before
        Called with the label of each map.
    sides
        Makes side maps.
    keep
        Is given them.
    """

    before: Callable[[str], None] = lambda label: None
    sides: SideMaps = lambda label, data, sums, context: {}
    keep: KeepSides = lambda label, sides: None


class NormKeeper:
    """Keeps the weights of the merged map."""

    def __init__(self, reconstructor: Reconstructor) -> None:
        self._reconstructor = reconstructor
        #: Once the map is finished.
        self.norm: WeightMap | None = None

    def sides(self, label: str, data: FloatArray, sums: Sums, context: PassContext) -> dict[str, FloatArray]:
        """The weights, of the merged map only."""
        return {WEIGHTS: self._reconstructor.weight_map(sums, context).data} if label == "merged" else {}

    def keep(self, label: str, sides: dict[str, FloatArray]) -> None:
        """Keep them."""
        if WEIGHTS in sides:
            self.norm = WeightMap(sides[WEIGHTS])


class MapFinisher:
    """Finishes totals.

    Parameters
    ----------
    plan
        How.
    scheme
        How the totals are kept.
    watch
        What the job wants of it.
    """

    def __init__(self, plan: FinishPlan, scheme: SumsScheme, watch: FinishWatch) -> None:
        self._plan, self._scheme, self._watch = plan, scheme, watch
        #: Side maps of the latest map of several passes, for the checkpoint.
        self.sides: dict[str, FloatArray] = {}
        #: Spent here.
        self.seconds = 0.0

    def result(self, label: str, totals: Sums, context: PassContext) -> FloatArray | NextPass:
        """The map of totals, or the wish for another pass."""
        self._watch.before(label)
        begun = time.perf_counter()
        sums = self._scheme.finishable(totals, self._plan.sums)
        result = self._plan.reconstructor.finish(sums, context)
        if not isinstance(result, NextPass):
            sides = self._watch.sides(label, result.data, sums, context)
            self._watch.keep(label, sides)
            self.sides = sides if self._plan.sums.passes > 1 else {}
        self.seconds += time.perf_counter() - begun
        return result if isinstance(result, NextPass) else result.data

    def map(self, label: str, totals: Sums, context: PassContext) -> FloatArray:
        """The map of totals of the only pass."""
        result = self.result(label, totals, context)
        if isinstance(result, NextPass):
            raise ParameterError(
                f"{self._plan.reconstructor.plugin_name}: asks for a pass that its plan does not have"
            )
        return result

    def merged(self, sums: dict[str, Sums], context: PassContext) -> FloatArray:
        """The map of the totals of all stages together, which are used up; those that are in a file come last."""
        in_files = [label for label, part in sums.items() if any(map(_in_file, part.arrays.values()))]
        order = [*(label for label in sums if label not in in_files), *in_files]
        total = sums.pop(order[0])
        for label in order[1:]:
            total.add(sums.pop(label))
        return self.map("merged", total, context)


def _in_file(array: FloatArray) -> bool:
    return isinstance(array, np.memmap)


def kept_scheme(found: Checkpoint, plan: FinishPlan) -> SumsScheme:
    """How the sums of a kept checkpoint are kept, by the quanta that it names.

    Raises
    ------
    CheckpointError
        If they are not those of sums of this kind.
    """
    if plan.sums_kind == "fast":
        return SumsScheme(plan.sums_kind)
    every = [dict(found.state.quanta.get(label, {})) for label in found.state.stages] or [{}]
    kept = found.state.facts.get("finish", {}).get("sums")
    if (
        any(units != every[0] for units in every)
        or set(every[0]) != set(plan.sums.shapes)
        or kept != plan.sums_kind
    ):
        raise CheckpointError(
            f"{found.folder}: expected {plan.sums_kind} sums of {', '.join(plan.sums.shapes)} with the same quanta in "
            f"all stages, got {kept} sums with {every[0]}"
        )
    return SumsScheme.of_units(plan.sums_kind, every[0], plan.sums)


def read_seed(plan: FinishPlan, registry: Registry) -> Seed | None:
    """The seed map and its weights, of the box that the reconstructor wants.

    Raises
    ------
    ParameterError, FormatError, FileMissingError
        If a file is missing or is no map of this box.
    """
    settings = plan.seed
    if settings is None:
        return None
    size = _box(plan)
    data = crop_or_pad(_read_map(plan, "--seedmap", settings.path, registry), (size,) * 3)
    if settings.weight_map is None:
        return Seed(data, settings.weight)
    weights = _read_map(plan, "--seedweightmap", settings.weight_map, registry)
    if weights.shape != (size, size, size // 2 + 1):
        raise ParameterError(
            f"--seedweightmap: {settings.weight_map} has {'×'.join(map(str, reversed(weights.shape)))} "
            f"voxels; expected {size // 2 + 1}×{size}×{size} as --savenorm writes for this run"
        )
    if weights.min() < 0:
        raise ParameterError(f"--seedweightmap: {settings.weight_map} has weights below 0")
    return Seed(data, weights * settings.weight)


def read_iteration_mask(plan: FinishPlan, registry: Registry) -> FloatArray | None:
    """The mask of ``--itermask``, or None."""
    path = plan.iteration_mask
    if path is None:
        return None
    return crop_or_pad(_read_map(plan, "--itermask", path, registry), (_box(plan),) * 3)


def _read_map(plan: FinishPlan, option: str, path: Path, registry: Registry) -> FloatArray:
    """A map that an option names, of the run's precision."""
    data = registry.reader_for(path, "volume").read_volume(path).data
    if data.ndim != 3:
        raise ParameterError(f"{option}: {path} is not a map but has {data.ndim} axes")
    if not np.all(np.isfinite(data)):
        raise FormatError(f"{option}: {path} has voxels that are not finite numbers")
    return np.asarray(data, plan.geometry.precision)


def _box(plan: FinishPlan) -> int:
    """Box of seeds and masks: the images'; as EMAN2 has it, that of the Fourier volume."""
    geometry = plan.geometry
    if plan.reconstructor.eman2_slices:
        return geometry.padded_size or geometry.slice_size
    return geometry.image_size
