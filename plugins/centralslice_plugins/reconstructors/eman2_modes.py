"""EMAN2's reconstruction modes, in two flavours.

``compat`` repeats what ``e2make3dpar.py`` computes. Without it the same kernels are evaluated exactly, each
measured frequency counts once, and every mode is corrected for the transform of its own kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from centralslice.abc.parameters import parameter
from centralslice.abc.reconstructor import MapGeometry, PassContext, Reconstructor, SumsPlan, WeightMap
from centralslice.data.slices import SliceBatch, Sums
from centralslice.data.volume import Volume
from centralslice_plugins.reconstructors import eman2_finish
from centralslice_plugins.reconstructors.eman2_kernels import (
    GAUSS_2,
    GAUSS_3,
    GAUSS_5,
    GAUSS_VAR,
    NEAREST,
    TRILINEAR,
    insert_as_eman2,
    view_rows,
)
from centralslice_plugins.reconstructors.eman2_windows import FixedWindow, windowed


@dataclass(frozen=True)
class Eman2Mode(Reconstructor):
    """What the modes share; a mode adds its name, its code and its window.

    Attributes
    ----------
    radial_correction
        Whether the map is divided by the transform of the kernel (EMAN2: not with ``--noradcor``).
    compat
        Whether to compute what EMAN2 computes; the slices must then come from ``fourier.eman2_compat``.
    """

    radial_correction: bool = parameter(True, "", "divide the map by the transform of the kernel")
    compat: bool = parameter(False, "", "compute exactly what e2make3dpar.py computes")

    mode: ClassVar[int]
    width: ClassVar[int]
    #: Exponent G of the peer's radial correction ``exp(r² G / N²)``; 0 where it has none.
    peer_correction: ClassVar[float] = 0.0

    @property
    def eman2_slices(self) -> bool:  # type: ignore[override]
        """Whether slices must be prepared as EMAN2 does."""
        return self.compat

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """One interleaved array; the Fourier volume is ``--padvol``, else as large as the slices."""
        if not self.compat:
            return self._ours(geometry).plan(geometry)
        return eman2_finish.compat_plan(geometry)

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to some planes."""
        if not self.compat:
            self._ours(context.geometry).insert(batch, sums, context, z_range)
            return
        voxels = sums["voxels"]
        rows = view_rows(batch.views, batch.size, batch.size / context.geometry.image_size)
        samples = batch.samples.astype(voxels.dtype, copy=False)
        insert_as_eman2(samples, rows, voxels, self.mode, batch.max_radius, z_range)

    def finish(self, sums: Sums, context: PassContext) -> Volume:
        """The map in the unpadded box."""
        if not self.compat:
            return self._ours(context.geometry).finish(sums, context)
        data = eman2_finish.finish_as_eman2(sums["voxels"], context)
        if self.radial_correction and self.peer_correction:
            eman2_finish.correct_gaussian(data, self.peer_correction)
        data = eman2_finish.crop_as_eman2(data, context.geometry.image_size)
        return Volume(data, context.geometry.voxel_size_angst)

    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """Weights of the unpadded box; with ``compat`` as ``--savenorm`` writes them."""
        if not self.compat:
            return self._ours(context.geometry).weight_map(sums, context)
        return WeightMap(eman2_finish.savenorm_layout(eman2_finish.paired_weights(sums["voxels"][..., 2])))

    def _ours(self, geometry: MapGeometry) -> FixedWindow:
        return windowed(self.mode, self.width, self.radial_correction, geometry)


class NearestNeighbor(Eman2Mode):
    """Each sample goes to its nearest voxel."""

    plugin_name: ClassVar[str] = "nearest_neighbor"
    mode, width = NEAREST, 1


class Trilinear(Eman2Mode):
    """Weights of trilinear interpolation."""

    plugin_name: ClassVar[str] = "trilinear"
    mode, width = TRILINEAR, 2


class Gauss2(Eman2Mode):
    """Gaussian of squared half width 4/π² over 2 voxels."""

    plugin_name: ClassVar[str] = "gauss_2"
    mode, width, peer_correction = GAUSS_2, 2, 4.0


class Gauss3(Eman2Mode):
    """Gaussian over 3 voxels whose squared width grows linearly with frequency."""

    plugin_name: ClassVar[str] = "gauss_3"
    mode, width, peer_correction = GAUSS_3, 3, 6.4


class Gauss5(Eman2Mode):
    """Gaussian of squared half width 10.4/π² over 6 voxels."""

    plugin_name: ClassVar[str] = "gauss_5"
    mode, width, peer_correction = GAUSS_5, 6, 10.4


class GaussVar(Eman2Mode):
    """Gaussian over 6 voxels whose squared width grows with the square of the frequency."""

    plugin_name: ClassVar[str] = "gauss_var"
    mode, width = GAUSS_VAR, 6
