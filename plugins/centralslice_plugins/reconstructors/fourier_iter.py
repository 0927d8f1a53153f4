"""``iterative``: the least-squares map by conjugate gradients; with ``compat``, EMAN2's ``fourier_iter``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from centralslice.abc.parameters import parameter
from centralslice.abc.reconstructor import (
    MapGeometry,
    NextPass,
    PassContext,
    Reconstructor,
    SumsPlan,
    WeightMap,
)
from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice_plugins.reconstructors import eman2_finish
from centralslice_plugins.reconstructors.eman2_iter_kernels import insert_iteratively
from centralslice_plugins.reconstructors.eman2_kernels import view_rows
from centralslice_plugins.reconstructors.iterative_cg import LeastSquares


@dataclass(frozen=True)
class Iterative(Reconstructor):
    """Iterative reconstruction.

    Without ``compat`` the particles are gone through once; the iterations run on the sums (see
    :class:`centralslice_plugins.reconstructors.iterative_cg.LeastSquares`). With ``compat`` each pass goes
    through all particles, as EMAN2 does.

    Attributes
    ----------
    iterations
        Conjugate-gradient steps at most.
    tolerance
        Stop when the residual has fallen to this fraction.
    passes
        Passes through the particles with ``compat``.
    compat
        Whether to compute what EMAN2 computes; the slices must then come from ``fourier.eman2_compat``.
    """

    plugin_name: ClassVar[str] = "iterative"

    iterations: int = parameter(8, "", "conjugate-gradient steps at most")
    tolerance: float = parameter(1e-3, "", "stop when the residual has fallen to this fraction")
    passes: int = parameter(4, "", "passes through the particles with compat; without, one suffices")
    compat: bool = parameter(False, "", "compute exactly what e2make3dpar.py --iterative computes")

    def __post_init__(self) -> None:
        for name, value in (("iterations", self.iterations), ("passes", self.passes)):
            if value < 1:
                raise ParameterError(f"iterative: {name}: expected at least 1, got {value}")
        if not 0.0 <= self.tolerance < 1.0:
            raise ParameterError(f"iterative: tolerance: expected 0 <= tolerance < 1, got {self.tolerance}")

    @property
    def eman2_slices(self) -> bool:  # type: ignore[override]
        """Whether slices must be prepared as EMAN2 does."""
        return self.compat

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """One interleaved array; several passes only with ``compat``."""
        if self.compat:
            return eman2_finish.compat_plan(geometry, self.passes)
        return self._ours().plan(geometry)

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to some planes."""
        if not self.compat:
            self._ours().insert(batch, sums, context, z_range)
            return
        voxels = sums["voxels"]
        rows = view_rows(batch.views, batch.size, batch.size / context.geometry.image_size)
        spectrum = np.zeros((0, 0, 0), np.complex64)
        if context.reference is not None:
            spectrum = eman2_finish.centred_transform(context.reference, len(voxels))
        samples = batch.samples.astype(voxels.dtype, copy=False)
        insert_iteratively(samples, rows, voxels, spectrum, batch.max_radius, z_range)

    def finish(self, sums: Sums, context: PassContext) -> Volume | NextPass:
        """The map, or with ``compat`` the reference of the next pass: the whole Fourier volume's map."""
        geometry = context.geometry
        if not self.compat:
            return Volume(self._ours().solve(sums, context), geometry.voxel_size_angst)
        data = eman2_finish.finish_as_eman2(sums["voxels"], context, with_seed=False)
        if context.pass_number < self.passes - 1:
            return NextPass(between_passes(data, context.iteration_mask))
        return Volume(eman2_finish.crop_as_eman2(data, geometry.image_size), geometry.voxel_size_angst)

    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """Weights of the unpadded box; with ``compat`` of the last pass, in the Fourier volume's size."""
        if not self.compat:
            return self._ours().weight_map(sums, context)
        return WeightMap(eman2_finish.savenorm_layout(eman2_finish.paired_weights(sums["voxels"][..., 2])))

    def _ours(self) -> LeastSquares:
        return LeastSquares(iterations=self.iterations, tolerance=self.tolerance)


def between_passes(data: FloatArray, mask: FloatArray | None) -> FloatArray:
    """What the peer does to the map between passes: mask it, or shrink it towards its mean by one sigma.

    The peer asks only to limit the values, but that flag has no effect: values within one sigma of the
    mean become the mean, all others move one sigma towards it.
    """
    if mask is not None:
        return data * eman2_finish.fit_box(mask, len(data)).astype(data.dtype)
    mean, sigma = float(data.mean(dtype=np.float64)), float(data.std(dtype=np.float64))
    excess = data - np.clip(data, mean - sigma, mean + sigma)
    shrunk: FloatArray = (excess + mean).astype(data.dtype)
    return shrunk
