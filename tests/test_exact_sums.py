"""Exact sums: the same integers in any order, whatever the size of the numbers; never a wrap-around."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.abc.reconstructor import MapGeometry, PassContext, SumsPlan
from centralslice.data.slices import SliceBatch, Views
from centralslice.errors import ResourceError
from centralslice.runtime.exact_sums import LIMBS, BlockSums, SumsScheme, WideSums, scheme_bytes

PLAN = SumsPlan({"voxels": (3, 4, 5, 4)}, np.dtype(np.float32), 3, 0)
CONTEXT = PassContext(MapGeometry(8, 8, 1.0), PLAN)
EMPTY = SliceBatch(
    np.zeros((0, 8, 5, 4), np.float32), 8, 4.0,
    Views(np.empty(0, np.int64), np.empty((0, 3, 3)), np.empty((0, 2)), np.empty(0)),
)  # fmt: skip


def numbers(count, smallest=1e-44):
    """Float32 blocks of all sizes from 1000 down to the smallest."""
    random = np.random.default_rng(5)
    size = 10.0 ** random.uniform(np.log10(smallest), 3, (count, *PLAN.shapes["voxels"]))
    return (size * random.choice([-1, 1], size.shape)).astype(np.float32)


def summed(sums, blocks):
    for block in blocks:
        sums.before(EMPTY, CONTEXT)["voxels"][...] = block
        sums.end_block()
    return sums.totals["voxels"]


def wide_quanta(peak):
    return {"voxels": tuple(peak * 2.0 ** (-50 - 40 * limb) for limb in range(LIMBS))}


def test_wide_sums_keep_every_float32_and_do_not_depend_on_the_order():
    blocks = numbers(40)
    quanta = wide_quanta(2.0**10)
    forward = summed(WideSums(PLAN.zeros(), quanta), blocks)
    backward = summed(WideSums(PLAN.zeros(), quanta), blocks[::-1])
    assert np.array_equal(forward, backward)
    scheme = SumsScheme("wide", block_quanta=tuple(quanta.items()))
    # one block alone comes back as it was, the smallest included
    for block in blocks[:5]:
        alone = WideSums(PLAN.zeros(), quanta)
        summed(alone, [block])
        assert np.array_equal(scheme.finishable(alone.totals, PLAN)["voxels"], block)
    both = WideSums(PLAN.zeros(), quanta)
    summed(both, blocks)
    exact = blocks.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(scheme.finishable(both.totals, PLAN)["voxels"], exact, rtol=1e-6)


def test_wide_sums_of_any_split_add_up_to_the_same():
    blocks, quanta = numbers(12), wide_quanta(2.0**10)
    whole = summed(WideSums(PLAN.zeros(), quanta), blocks)
    parts = [summed(WideSums(PLAN.zeros(), quanta), blocks[start::3]) for start in range(3)]
    assert np.array_equal(whole, sum(parts))


def test_block_sums_are_whole_multiples_of_each_channels_quantum():
    blocks = numbers(20, smallest=1.0)
    quanta = {"voxels": (2.0**-20, 2.0**-20, 2.0**-10, 1.0)}
    totals = summed(BlockSums(PLAN.zeros(), quanta), blocks)
    expected = np.rint(blocks.astype(np.float64) / np.array(quanta["voxels"])).astype(np.int64).sum(axis=0)
    assert np.array_equal(totals, expected)


def test_a_block_beyond_the_range_is_refused_and_never_wraps():
    sums = BlockSums(PLAN.zeros(), {"voxels": (2.0**-60,)})
    with pytest.raises(ResourceError, match="--sums fast"):
        summed(sums, numbers(1, smallest=100.0))


@pytest.mark.parametrize(("kind", "factor"), [("integer", 1), ("fast", 1), ("block", 3), ("wide", 9)])
def test_the_memory_of_each_kind_is_what_its_arrays_take(kind, factor):
    assert scheme_bytes(kind, PLAN) == factor * PLAN.nbytes
    made = {"block": BlockSums, "wide": WideSums}.get(kind)
    if made is not None:
        sums = made(PLAN.zeros(), wide_quanta(1.0) if kind == "wide" else {"voxels": (1.0,)})
        assert sums.totals.nbytes + sums.before(EMPTY, CONTEXT).nbytes == factor * PLAN.nbytes
    complex_plan = SumsPlan({"values": (2, 3, 4)}, np.dtype(np.complex64), 2, 0)
    assert scheme_bytes(kind, complex_plan) == factor * complex_plan.nbytes
