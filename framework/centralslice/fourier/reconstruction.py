"""The reconstructor of every separable window: insert, divide, refine.

A third party's interpolation kernel is a subclass with a ``width`` and ``kernel(u)``: ten lines, nothing compiled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.abc.reconstructor import MapGeometry, PassContext, Reconstructor, SumsPlan, WeightMap
from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice.fourier import correction
from centralslice.fourier.correction_kernels import cut_sphere
from centralslice.fourier.grid import FourierGrid, make_grid
from centralslice.fourier.insertion import insert_batch, slice_peaks
from centralslice.fourier.kernels import Window, fit_window
from centralslice.fourier.transforms import crop_or_pad

#: Integer sums are looked at after this part of a run at the latest: a finer unit would need more looks.
SUMS_LOOKED_AT = 0.125


@dataclass(frozen=True, kw_only=True)
class KernelReconstructor(Reconstructor):
    """Gridding with a separable window φ(u), |u| <= width / 2, on an oversampled grid.

    Subclasses give ``width`` (a field or a class attribute) and :meth:`kernel`.
    """

    symmetrises_grid: ClassVar[bool] = True
    offers_integer_sums: ClassVar[bool] = True

    width: int = parameter(3, "voxels", "width of the interpolation window on the padded grid")
    oversampling: float = parameter(
        2.0, "", "size of the padded grid over the box, at least; 1.25 to 2 make sense"
    )
    floor: float = parameter(0.1, "", "smallest weight to divide by, relative to the mean of its shell")
    refinements: int = parameter(
        1, "", "steps towards the least-squares map after the division; 0 is plain gridding"
    )

    relaxation: float = parameter(
        0.6, "", "part of each refinement step; 1 is best for clean data, less spares noise"
    )

    def __post_init__(self) -> None:
        if not 0.0 < self.relaxation <= 1.0:
            raise ParameterError(f"relaxation: expected 0 < relaxation <= 1, got {self.relaxation}")
        if not 1.0 <= self.oversampling <= 4.0:
            raise ParameterError(f"oversampling: expected 1 to 4, got {self.oversampling}")
        if not 0.0 <= self.floor < 1.0:
            raise ParameterError(f"floor: expected 0 <= floor < 1, got {self.floor}")
        if not 0 <= self.refinements <= 20:
            raise ParameterError(f"refinements: expected 0 to 20, got {self.refinements}")
        fit_window(self.width, self.kernel)

    @abstractmethod
    def kernel(self, u: FloatArray) -> FloatArray:
        """φ at distances ``u`` in grid voxels, vectorised; only asked for |u| <= width / 2; any scale."""

    def window(self) -> Window:
        """The window as the insertion loop evaluates it; fitted once for the same parameters."""
        return _fitted(self)

    def grid(self, geometry: MapGeometry) -> FourierGrid:
        """The padded grid for a map."""
        return make_grid(
            geometry.image_size, self.oversampling, self.width, geometry.padded_size, geometry.max_radius
        )

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """One array ``voxels`` (planes, rows, columns, 4): Σ d·value re, im, Σ d·weight, Σ weight."""
        grid = self.grid(geometry)
        return SumsPlan(
            shapes={"voxels": grid.shape},
            dtype=_sums_dtype(geometry),
            planes=grid.shape[0],
            finish_bytes=correction.finish_bytes(grid, geometry.precision.itemsize, self.refinements),
        )

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to planes of the sums."""
        geometry = context.geometry
        quanta = context.quanta if geometry.integer_sums else (1.0, 1.0, 1.0)
        insert_batch(sums["voxels"], batch, self.grid(geometry), self.window(), z_range, quanta)

    def quanta(
        self, sample: Sequence[SliceBatch], share: float, block_share: float, geometry: MapGeometry
    ) -> tuple[float, float, float]:
        """Units so that one block certainly fits the integers and the whole run very probably.

        The bound adds the peaks of all slices, as if they met in one voxel with one phase; the sums of real
        data stay a factor of 20 and more below it. Whether they do is watched while inserting
        (:meth:`largest_change`).
        """
        bits = 62 if geometry.precision == np.float64 else 30
        bound = sum((self._peaks(batch, geometry) for batch in sample), np.zeros(3)) / share
        needed = bound * max(block_share, SUMS_LOOKED_AT) / 2.0**bits
        # a sample of nothing but zeros says nothing: units of 1
        value, weight, plain = 2.0 ** np.ceil(np.log2(np.where(needed > 0, needed, 1.0)))
        return float(value), float(weight), float(plain)

    def largest_change(self, batch: SliceBatch, context: PassContext) -> float:
        """Every slice's largest sample, times how many of its samples can meet in one voxel."""
        return float(np.max(self._peaks(batch, context.geometry) / np.array(context.quanta)))

    def _peaks(self, batch: SliceBatch, geometry: MapGeometry) -> FloatArray:
        """(3,) sum over views of the largest value, weight and plain weight that one slice adds to a voxel."""
        if len(batch) == 0:
            return np.zeros(3)
        views = batch.views
        spacing = np.linalg.norm(views.matrices[:, 0], axis=1) * self.grid(geometry).oversampling
        peaks = slice_peaks(batch.samples)[views.slice_number]
        peaks[:, :2] *= np.maximum(spacing, 0.5)[:, None]
        meeting = (1.0 + 1.0 / np.maximum(spacing, 1e-3)) ** 2
        total: FloatArray = (peaks * (views.factors * meeting)[:, None]).sum(axis=0)
        return total

    def finish(self, sums: Sums, context: PassContext) -> Volume:
        """The map of the unpadded box."""
        grid_sums, beyond = self._with_seed(sums, context)
        data = correction.finish_map(grid_sums, self._division(context), context.parallel)
        if beyond is not None:
            data += beyond
        return Volume(data, context.geometry.voxel_size_angst)

    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """Σ CTF² of the unpadded box."""
        grid_sums = self._grid_sums(sums, context)
        return WeightMap(correction.plain_weights(grid_sums, self._division(context), context.parallel))

    def _division(self, context: PassContext) -> correction.Division:
        return correction.Division(
            self.floor, self.refinements, self.relaxation, context.wiener_snr, context.grid_symmetry
        )

    def _grid_sums(self, sums: Sums, context: PassContext) -> correction.GridSums:
        geometry = context.geometry
        quanta = context.quanta if geometry.integer_sums else (1.0, 1.0, 1.0)
        return correction.GridSums(
            sums["voxels"], self.grid(geometry), self.window(), quanta, geometry.precision
        )

    def _with_seed(self, sums: Sums, context: PassContext) -> tuple[correction.GridSums, FloatArray | None]:
        """Sums and seed on the grid, and the part of the seed beyond the sphere of data, which stays as it is."""
        grid_sums, seed = self._grid_sums(sums, context), context.seed
        if seed is None:
            return grid_sums, None
        grid, kind = grid_sums.grid, grid_sums.kind
        data = crop_or_pad(np.asarray(seed.data, kind), (grid.box,) * 3)
        transform = correction.padded_transform(grid, kind, context.parallel)
        limit = correction.limit_of(grid)
        within = transform.filter_map(data, lambda slab, row: cut_sphere(slab, row, limit))
        weight = correction.seed_weights(seed.weight, grid, kind)
        return replace(grid_sums, seed=transform.to_grid(within), seed_weight=weight), data - within


@lru_cache(maxsize=32)
def _fitted(reconstructor: KernelReconstructor) -> Window:
    """Reconstructors are frozen: equal ones have the same window."""
    return fit_window(reconstructor.width, reconstructor.kernel)


def _sums_dtype(geometry: MapGeometry) -> np.dtype[Any]:
    """Integers as wide as the floats they replace."""
    if not geometry.integer_sums:
        return geometry.precision
    return np.dtype(np.int64 if geometry.precision == np.float64 else np.int32)
