"""Time of the three parts of a run on one thread: preparing slices, inserting them, finishing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from centralslice.abc.reconstructor import MapGeometry, PassContext
from centralslice.data.particles import ContrastTransfer, OpticsGroup
from centralslice.data.slices import SliceBatch, Views
from centralslice.fourier.prepare import GroupPreparation, prepare_group, prepare_slices
from centralslice.geometry.rotations import random_rotations
from centralslice.jobs.accumulation import insert_threaded
from centralslice_plugins.reconstructors.eman2_modes import GaussVar, Trilinear
from centralslice_plugins.reconstructors.kaiser_bessel import KaiserBessel

BOX, COUNT, PIXEL = 128, 200, 1.5
MODES = [KaiserBessel(), KaiserBessel(refinements=0), Trilinear(), GaussVar()]
NAMES = ["kaiser_bessel", "kaiser_bessel:refinements=0", "trilinear", "gauss_var"]


def images() -> Any:
    return np.random.default_rng(1).standard_normal((COUNT, BOX, BOX)).astype(np.float32)


def group(mode: Any) -> GroupPreparation:
    optics = OpticsGroup("optics1", PIXEL, BOX, 300.0, 2.7, 0.1)
    return prepare_group(optics, BOX, PIXEL, BOX / 2, mode, np.dtype(np.float32))


def transfer() -> ContrastTransfer:
    defocus = np.linspace(10_000.0, 25_000.0, COUNT)
    zero, one = np.zeros(COUNT), np.ones(COUNT)
    return ContrastTransfer(
        defocus_u_angst=defocus, defocus_v_angst=defocus, defocus_angle_deg=zero, phase_shift_deg=zero,
        bfactor_angst2=zero, scale=one,
    )  # fmt: skip


def prepared(mode: str, data: Any) -> Any:
    return prepare_slices(data, group(mode), np.full((COUNT, 2), 0.3), np.ones(COUNT), transfer())


def batch() -> SliceBatch:
    matrices = random_rotations(COUNT, np.random.default_rng(2))
    views = Views(np.arange(COUNT), matrices, np.zeros((COUNT, 2)), np.ones(COUNT))
    return SliceBatch(prepared("full", images()), BOX, BOX / 2, views)


@pytest.mark.parametrize("mode", ["full", "none"], ids=["ctf", "no ctf"])
def test_prepare_200_images(benchmark: BenchmarkFixture, mode: str) -> None:
    benchmark.pedantic(prepared, (mode, images()), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("reconstructor", [MODES[0], *MODES[2:]], ids=[NAMES[0], *NAMES[2:]])
def test_insert_200_slices(benchmark: BenchmarkFixture, reconstructor: Any) -> None:
    geometry = MapGeometry(BOX, BOX, PIXEL)
    plan = reconstructor.plan(geometry)
    context, sums = PassContext(geometry, plan, ctf_weighted=True), plan.zeros()
    benchmark.pedantic(insert_threaded, (reconstructor, batch(), sums, context), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("reconstructor", MODES, ids=NAMES)
def test_finish(benchmark: BenchmarkFixture, reconstructor: Any) -> None:
    geometry = MapGeometry(BOX, BOX, PIXEL)
    plan = reconstructor.plan(geometry)
    context, sums = PassContext(geometry, plan, ctf_weighted=True), plan.zeros()
    insert_threaded(reconstructor, batch(), sums, context)
    benchmark.pedantic(reconstructor.finish, (sums, context), rounds=2, warmup_rounds=1)
