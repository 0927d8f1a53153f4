"""RELION 5's subtomogram averaging from tilt images, for ``--compat relion``.

Every voxel gathers what the slices within one index of it hold there; neither slices nor volume are padded.
The map is divided by a sinc² that stands for this kernel, then in Fourier space by the weights. The sums are
averaged over the symmetry by interpolation, once, at finish.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from centralslice.abc.reconstructor import MapGeometry, PassContext, Reconstructor, SumsPlan, WeightMap
from centralslice.conventions import FloatArray, signed_frequencies
from centralslice.data.slices import SliceBatch, Sums, Views
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError
from centralslice_plugins.reconstructors import relion_tomo_finish
from centralslice_plugins.reconstructors.relion_tomo_kernels import gather_rows, gather_slices


@dataclass(frozen=True)
class RelionTomo(Reconstructor):
    """Gathers slices of tilt images and divides by their weights as ``relion_tomo_reconstruct_particle`` does.

    The map's scale is the peer's: √n times the density for box n, for slices in unitary transforms.
    """

    plugin_name: ClassVar[str] = "relion_tomo"
    relion_tomo_slices: ClassVar[bool] = True
    symmetrises_sums: ClassVar[bool] = True

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """One interleaved array [real, imaginary, weight] of the box.

        Raises
        ------
        ParameterError
            If the box is odd, or slices or volume are to be padded.
        """
        size = geometry.image_size
        if size % 2:
            raise ParameterError(
                f"--b: expected an even box with --compat relion, got {size}; RELION garbles odd ones"
            )
        for name, value in (("--pad", geometry.slice_size), ("--padvol", geometry.padded_size or size)):
            if value != size:
                raise ParameterError(
                    f"{name}: expected the box {size} with --compat relion, got {value}; RELION pads none"
                )
        half_volume = size * size * (size // 2 + 1)
        # averaged sums, spectrum and real map in double precision, result
        finish_bytes = half_volume * (3 * geometry.precision.itemsize + 16) + size**3 * (8 + 8)
        return SumsPlan({"voxels": (size, size, size // 2 + 1, 3)}, geometry.precision, size, finish_bytes)

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to some planes."""
        if not len(batch.views):
            return
        if np.any(batch.views.shifts):
            batch = _with_shifts_applied(batch)
        gather_slices(batch.samples, gather_rows(batch), sums["voxels"], z_range)

    def finish(self, sums: Sums, context: PassContext) -> Volume:
        """The map of the box."""
        voxels = self._averaged(sums, context)
        numerator = relion_tomo_finish.numerator_map(voxels, context.parallel)
        data = relion_tomo_finish.divided(numerator, voxels[..., 2], context.wiener_snr, context.parallel)
        geometry = context.geometry
        return Volume(data.astype(geometry.precision, copy=False), geometry.voxel_size_angst)

    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """The weights of the box; both mates of columns 0 and n / 2 hold what was gathered for each."""
        half = context.geometry.image_size // 2
        return WeightMap(np.roll(self._averaged(sums, context)[..., 2], (half, half), axis=(0, 1)))

    def data_map(self, sums: Sums, context: PassContext) -> FloatArray:
        """What ``data_*.mrc`` holds: the map before its division by the weights."""
        numerator = relion_tomo_finish.numerator_map(self._averaged(sums, context), context.parallel)
        return numerator.astype(context.geometry.precision, copy=False)

    def _averaged(self, sums: Sums, context: PassContext) -> FloatArray:
        """The sums, averaged over the symmetry if there is one."""
        if context.seed is not None:
            raise ParameterError("--seedmap: RELION knows none; leave it away with --compat relion")
        if context.symmetry_copies is None or len(context.symmetry_copies[0]) == 1:
            return sums["voxels"]
        return relion_tomo_finish.symmetrised(
            sums["voxels"], context.symmetry_copies, context.geometry.voxel_size_angst, context.parallel
        )


def _with_shifts_applied(batch: SliceBatch) -> SliceBatch:
    """The batch with one slice a view, multiplied by the phase ramp of the view's shift."""
    views, size = batch.views, batch.size
    ky, kx = signed_frequencies(size)[:, None], np.arange(size // 2 + 1)
    shift_x, shift_y = views.shifts[:, 0, None, None], views.shifts[:, 1, None, None]
    ramps = np.exp(-2j * np.pi / size * (shift_x * kx + shift_y * ky))
    samples = batch.samples[views.slice_number]
    values = (samples[..., 0] + 1j * samples[..., 1]) * ramps
    samples[..., 0], samples[..., 1] = values.real, values.imag
    single = Views(np.arange(len(views)), views.matrices, np.zeros((len(views), 2)), views.factors)
    radii = None if batch.radii is None else batch.radii[views.slice_number]
    return replace(batch, samples=samples, views=single, radii=radii)
