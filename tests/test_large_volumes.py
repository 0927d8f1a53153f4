"""Index arithmetic beyond 2^31 and 2^32 voxels: a grid for box 1024 in memory that is reserved and hardly touched."""

from __future__ import annotations

import math
import mmap
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from centralslice.abc.reconstructor import MapGeometry, PassContext, Reconstructor
from centralslice.data.slices import SliceBatch, Sums, Views
from centralslice.fourier.correction import limit_of
from centralslice.fourier.correction_kernels import gather, gather_slab, plane_shell_sums
from centralslice.fourier.grid import FourierGrid
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.checkpoint import checkpoint_bytes
from centralslice.runtime.communicator import PIECE_BYTES
from centralslice.runtime.exact_sums import choose_kind, integer_geometry, scheme_bytes

BOX = 1024
#: Of Linux; not in every version of the module mmap.
MAP_NORESERVE = 0x4000
#: The far end of the grid: ky of the slice becomes z.
KX, KY = 3, 511
UNITS = (2.0**-10, 2.0**-9, 2.0**-20)


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    """The default one."""
    registry = shared_registry()
    made: Reconstructor = registry.create("reconstructor", registry.default("reconstructor"))
    return made


def geometry_of(reconstructor: Reconstructor) -> MapGeometry:
    """Box 1024 as a run of it would have it."""
    kind = choose_kind(reconstructor, exact=True)
    return integer_geometry(MapGeometry(image_size=BOX, slice_size=BOX, voxel_size_angst=1.0), kind)


@pytest.fixture
def large(reconstructor: Reconstructor) -> NDArray[Any]:
    """Zeros of the planned shape; pages come into being when they are written to."""
    plan = reconstructor.plan(geometry_of(reconstructor))
    if sys.platform != "linux":
        pytest.skip("reserving memory that the machine does not have is only known for Linux")
    try:
        memory = mmap.mmap(-1, plan.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        pytest.skip(f"{plan.nbytes / 1e9:.0f} GB of addresses are refused: {error}")
    return np.frombuffer(memory, plan.dtype).reshape(plan.shapes["voxels"])


def one_sample() -> SliceBatch:
    """A slice that is turned upright, with a single sample near its edge: 5 + 7i, weight 2."""
    samples = np.zeros((1, BOX, BOX // 2 + 1, 4), np.float32)
    samples[0, KY, KX, :3] = 5, 7, 2
    upright = np.array([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]])
    views = Views(np.zeros(1, np.int64), upright, np.zeros((1, 2)), np.ones(1))
    return SliceBatch(samples, BOX, BOX / 2, views)


def test_the_plan_of_a_large_box_is_worked_out_without_overflow(reconstructor: Reconstructor) -> None:
    geometry = geometry_of(reconstructor)
    plan = reconstructor.plan(geometry)
    (shape,) = plan.shapes.values()
    voxels = math.prod(shape)  # Python's integers have no end
    assert voxels > 2**32
    assert plan.nbytes == 4 * voxels
    assert plan.finish_bytes > 2**33
    kind = choose_kind(reconstructor, exact=True)
    assert scheme_bytes(kind, plan) == plan.nbytes
    assert checkpoint_bytes(plan.nbytes, 128) == 2 * 128 * plan.nbytes
    assert PIECE_BYTES < 2**31  # counts in MPI messages are 32-bit


def test_a_sample_beyond_four_thousand_million_numbers_lands_where_it_belongs(
    reconstructor: Reconstructor, large: NDArray[Any]
) -> None:
    geometry = geometry_of(reconstructor)
    grid: FourierGrid = reconstructor.grid(geometry)  # type: ignore[attr-defined]
    plan = reconstructor.plan(geometry)
    context = PassContext(geometry=geometry, plan=plan, quanta=UNITS)
    x, z = round(KX * grid.oversampling), round(KY * grid.oversampling)
    plane, row, column = z + grid.middle, grid.middle, x + grid.margin
    assert np.ravel_multi_index((plane, row, column, 0), large.shape) > 2**32
    for first in range(plane - 4, plane + 5):
        reconstructor.insert(one_sample(), Sums({"voxels": large}), context, (first, first + 1))
    here = large[plane, row, column] * np.array([UNITS[0], *UNITS])
    density, peak = math.hypot(x, z), here[3] / 2
    assert peak > 0.1
    np.testing.assert_allclose(here[:3], peak * density * np.array([5, 7, 2]), rtol=1e-5)
    around = large[plane - 4 : plane + 5, row - 4 : row + 5, column - 4 : column + 5, 3]
    assert np.array_equal(around, around[::-1])  # the window is even about this voxel
    assert around.max() == large[plane, row, column, 3]
    units, identity = np.array(UNITS), np.eye(3, dtype=np.int64)[None]
    read = gather(large, units, x, 0, z, grid.middle, grid.margin, identity)
    assert read == tuple(here)
    mate = gather(large, units, -x, 0, -z, grid.middle, grid.margin, identity)
    assert mate == (here[0], -here[1], here[2], here[3])
    sums = plane_shell_sums(large, units, plane, grid.middle, grid.margin, grid.radius + 2)
    assert sums[0, int(density)] >= 2 * here[2]
    slab = np.zeros((grid.size, 1, grid.size // 2 + 1), np.complex64)
    seed, weight, floors = np.zeros((1, 1, 1), np.complex64), np.zeros((1, 1, 1)), np.zeros(grid.radius + 2)
    gather_slab(
        slab, large, units, grid.middle, grid.margin, limit_of(grid), 0, floors, math.inf, 1.0, identity, seed,
        weight, 1,
    )  # fmt: skip
    assert slab[z, 0, x] == np.complex64(complex(here[0], here[1]))
