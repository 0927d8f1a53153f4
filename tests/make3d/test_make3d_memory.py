"""Memory is what the plan says: of all sets of sums that the master holds, and of sums that outgrow 32 bits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from centralslice.cli import parser_for
from centralslice.cli.make3d import settings_from
from centralslice.fourier import reconstruction
from centralslice.jobs.budget import BASE_BYTES
from centralslice.jobs.make3d.plan import plan_make3d, read_particles
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.exact_sums import IntegerSums

#: So large a grid that the sums are most of what is allocated.
GRID = ("--padvol", "128")
#: Small things that the plan counts to the interpreter and its libraries.
SMALL = BASE_BYTES - 4 * 2**20


@pytest.fixture
def data(simulate):
    return simulate(half_sets=True, snr=0.5)


@pytest.fixture
def planned(data, tmp_path):
    """The plan of a command, of particles of which every third may be in no half set."""

    def plan(*options, rest=False):
        words = ["make3d", "--input", str(data.table), "--output", str(tmp_path / "no.mrc"), *options]
        settings, registry = settings_from(parser_for(("make3d",)).parse_args(words)), shared_registry()
        particles = read_particles(settings, registry, "subtract")
        if rest:
            particles.half_set[::3] = 0
        return plan_make3d(settings, registry, particles)

    return plan


def allocated(work):
    """Most that was allocated at a time."""
    tracemalloc.start()
    try:
        result = work()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_master_holds_a_third_set_of_sums_for_particles_of_no_half_set(planned):
    plans = planned(), planned(rest=True)
    assert plans[1].memory_bytes - plans[0].memory_bytes == plans[0].sums_bytes
    assert plans[1].worker_bytes == plans[0].worker_bytes
    assert planned("--half-maps", "no").memory_bytes == planned("--half-maps", "no", rest=True).memory_bytes


@pytest.mark.parametrize("rest", [False, True])
def test_a_run_allocates_no_more_than_planned(rest, data, planned, make3d, write_set):
    particles = data.particles
    if rest:
        particles.half_set[::3] = 0
    table = write_set(data.images, particles)
    make3d(table, *GRID)  # what is imported and compiled is no part of it
    _, peak = allocated(lambda: make3d(table, *GRID))
    plan = planned(*GRID, rest=rest)
    assert (2 + rest) * plan.sums_bytes < peak < plan.memory_bytes - SMALL


def test_sums_that_outgrow_32_bits_need_what_the_plan_says(
    data, planned, make3d, read, deviation, monkeypatch
):
    expected = read(make3d(data.table, *GRID).output)
    monkeypatch.setattr(reconstruction, "SUMS_LOOKED_AT", 0.0)
    monkeypatch.setattr(reconstruction.KernelReconstructor, "largest_change", lambda *_: 2.0**31)
    widened, original = [], IntegerSums._widen
    monkeypatch.setattr(IntegerSums, "_widen", lambda sums: (widened.append(1), original(sums))[0])
    run, peak = allocated(lambda: make3d(data.table, *GRID))
    assert len(widened) == 2  # both half sets
    plan = planned(*GRID)
    assert plan.memory_bytes - BASE_BYTES < peak < plan.widened_bytes - SMALL
    assert deviation(read(run.output), expected) < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), True),
        (("--precision", "float64"), False),
        (("--sums", "fast"), False),
        (("--mode", "gauss_2"), False),
    ],
)
def test_the_plan_says_what_sums_beyond_32_bits_need(options, said, planned):
    plan = planned(*options)
    (line,) = [line for line in plan.lines() if line.startswith("memory")]
    words = f"; up to {plan.widened_bytes / 1e9:.2f} GB if sums outgrow 32 bits)"
    assert line.endswith(words) == said
    assert (plan.widened_bytes > plan.memory_bytes) == said


def test_memory_that_cannot_be_had_for_wider_sums_is_one_line(data, refused, monkeypatch):
    class Full(np.ndarray):
        def astype(self, *arguments, **more):
            raise MemoryError("Unable to allocate")

    def widen(sums):
        sums._sums.arrays = {name: array.view(Full) for name, array in sums._sums.arrays.items()}
        original(sums)

    original = IntegerSums._widen
    monkeypatch.setattr(IntegerSums, "_widen", widen)
    monkeypatch.setattr(reconstruction.KernelReconstructor, "largest_change", lambda *_: 2.0**31)
    assert "sums: outgrew 32 bits, and 0.01 GB more memory cannot be had for 64" in refused(data.table)
