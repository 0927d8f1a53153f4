"""The kernels of EMAN2's modes on the framework's own grid: exact, corrected, any box parity.

A fixed kernel needs no more than its φ(u). A Gaussian that widens with frequency has its own insertion loop,
and its envelope is taken out band by band: the transform is split into overlapping bands (a partition of
unity, linear in the kernel's squared width); each is transformed back and divided by its own envelope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from centralslice.abc.reconstructor import MapGeometry, PassContext, SumsPlan
from centralslice.conventions import ComplexArray, FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.data.volume import Volume
from centralslice.fourier import correction
from centralslice.fourier.grid import FourierGrid
from centralslice.fourier.kernels import Window, fit_window
from centralslice.fourier.reconstruction import KernelReconstructor
from centralslice.fourier.transforms import crop_or_pad
from centralslice_plugins.reconstructors.eman2_kernels import (
    GAUSS_2,
    GAUSS_3,
    GAUSS_VAR,
    I2,
    I5,
    NEAREST,
    TRILINEAR,
)
from centralslice_plugins.reconstructors.eman2_spread import axis_kernel, decay, insert_gaussian

#: Smallest oversampling of the grid: the slices' own where they are padded more.
LEAST_OVERSAMPLING = 1.25
#: The weight divided by is at least this fraction of its mean in the shell.
WEIGHT_FLOOR = 1e-3
#: Bands of frequency that are corrected by themselves.
BANDS = 8
#: The envelope is taken to be at least this: where it is smaller, the map cannot be recovered.
SMALLEST_ENVELOPE = 0.05


@dataclass(frozen=True, kw_only=True)
class FixedWindow(KernelReconstructor):
    """A kernel that is the same at every frequency; ``mode`` is its code."""

    plugin_name: ClassVar[str] = "eman2_fixed_window"
    mode: int
    radial_correction: bool

    def kernel(self, u: FloatArray) -> FloatArray:
        """φ(u)."""
        if self.mode == NEAREST:
            return np.ones_like(u)
        if self.mode == TRILINEAR:
            return 1.0 - np.abs(u)
        profile: FloatArray = np.exp(-u * u / (I2 if self.mode == GAUSS_2 else I5))
        return profile

    def finish(self, sums: Sums, context: PassContext) -> Volume:
        """The map; without radial correction it keeps the kernel's envelope."""
        volume = super().finish(sums, context)
        if self.radial_correction:
            return volume
        grid = self.grid(context.geometry)
        profile = self.window().transform(_centred(grid.box), grid.size).astype(volume.data.dtype)
        return replace(volume, data=volume.data * _cube(profile))


@dataclass(frozen=True, kw_only=True)
class VaryingGaussian(FixedWindow):
    """A Gaussian that widens with frequency."""

    plugin_name: ClassVar[str] = "eman2_varying_window"
    offers_integer_sums: ClassVar[bool] = False

    def kernel(self, u: FloatArray) -> FloatArray:
        """φ(u) at zero frequency."""
        profile: FloatArray = np.exp(-decay(self.mode, 0.0) * u * u)
        return profile

    def window(self) -> Window:
        """A window without envelope: what it would take out is taken out here, band by band."""
        fitted = fit_window(self.width, self.kernel)
        return replace(fitted, nodes=np.zeros(1), values=np.ones(1))

    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """As for a fixed window; finish holds a few more maps."""
        plan = super().plan(geometry)
        maps = 6 * geometry.image_size**3 * geometry.precision.itemsize
        return replace(plan, finish_bytes=plan.finish_bytes + maps)

    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to planes of the sums."""
        insert_gaussian(sums["voxels"], batch, self.grid(context.geometry), self.mode, self.width, z_range)

    def finish(self, sums: Sums, context: PassContext) -> Volume:
        """The map of the unpadded box."""
        if not self.radial_correction:
            return super().finish(sums, context)
        grid = self.grid(context.geometry)
        if context.seed is not None:
            data = crop_or_pad(np.asarray(context.seed.data, sums["voxels"].dtype), (grid.box,) * 3)
            shaped = np.zeros_like(data)
            for band, envelope in enumerate(self._envelopes(grid)):
                shaped += self._band_of(data * envelope, band, grid, context)
            context = replace(context, seed=replace(context.seed, data=shaped))
        volume = KernelReconstructor.finish(self, sums, context)
        corrected = np.zeros_like(volume.data)
        for band, envelope in enumerate(self._envelopes(grid)):
            corrected += self._band_of(volume.data, band, grid, context) / envelope
        return replace(volume, data=corrected)

    def _band_centres(self, grid: FourierGrid) -> FloatArray:
        """Radii in voxels between which the squared width 1/h changes by equal steps, from 0 on."""
        radii = np.linspace(0.0, grid.radius, 512)
        widths = np.array([1.0 / decay(self.mode, radius) for radius in radii])
        # a width that is saturated changes no more: the last band serves all beyond
        grows = np.concatenate(([True], np.diff(widths) > 0))
        centres: FloatArray = np.interp(
            np.linspace(widths[0], widths[-1], BANDS), widths[grows], radii[grows]
        )
        return centres

    def _envelopes(self, grid: FourierGrid) -> Iterator[FloatArray]:
        """What the kernel does to a map at each band's centre: (N, N, N) float32."""
        places = 2.0 * np.pi / grid.size * _centred(grid.box)
        for radius in self._band_centres(grid):
            nodes, values = axis_kernel(self.mode, self.width, float(radius))
            profile = np.cos(np.multiply.outer(places, nodes)) @ values
            yield np.maximum(_cube(profile.astype(np.float32)), np.float32(SMALLEST_ENVELOPE))

    def _band_of(self, data: FloatArray, band: int, grid: FourierGrid, context: PassContext) -> FloatArray:
        """The part of a map whose frequencies belong to a band."""
        centres = self._band_centres(grid)
        share = np.eye(len(centres))[band]
        z = np.fft.fftfreq(grid.size, 1.0 / grid.size)[:, None, None]
        x = np.arange(grid.size // 2 + 1)

        def keep(slab: ComplexArray, first: int) -> None:
            y = np.arange(first, first + slab.shape[1])[:, None]
            slab *= np.interp(np.sqrt(z * z + y * y + x * x), centres, share).astype(data.dtype)

        transform = correction.padded_transform(grid, data.dtype, context.parallel)
        return transform.filter_map(data, keep)


def windowed(mode: int, width: int, radial_correction: bool, geometry: MapGeometry) -> FixedWindow:
    """The reconstructor of a mode without ``compat``; its grid is padded as the slices are, or 1.25 times."""
    kind = VaryingGaussian if mode in (GAUSS_3, GAUSS_VAR) else FixedWindow
    oversampling = min(max(geometry.slice_size / geometry.image_size, LEAST_OVERSAMPLING), 4.0)
    return kind(
        mode=mode, width=width, radial_correction=radial_correction, oversampling=oversampling,
        floor=WEIGHT_FLOOR, refinements=0,
    )  # fmt: skip


def _centred(size: int) -> FloatArray:
    return np.arange(size, dtype=np.float64) - size // 2


def _cube(profile: FloatArray) -> FloatArray:
    """Product of one profile along three axes."""
    cube: FloatArray = profile[:, None, None] * profile[:, None] * profile
    return cube
