"""Laws that every reconstructor keeps: inherit, and make the reconstructor.

.. code-block:: python

    class TestMyGridding(ReconstructorContract):
        def make(self) -> Reconstructor:
            return MyGridding(width=4)
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from centralslice.abc.reconstructor import MapGeometry, NextPass, PassContext, Reconstructor, Seed
from centralslice.conventions import FloatArray, signed_frequencies
from centralslice.data.slices import SliceBatch, Sums, Views
from centralslice.errors import ParameterError
from centralslice.fourier.eman2_compat import prepare_eman2
from centralslice.testing.phantoms import GaussianPhantom

#: (image size, slice size) of the boxes everything is tested in.
BOXES = ((20, 20), (20, 26), (21, 21))


class ReconstructorContract(ABC):
    """Tests of one reconstructor; each runs in an even, a padded and, unless refused, an odd box."""

    #: Relative rms deviation of the map of a noise-free phantom from many views, within 0.4 boxes.
    map_tolerance: ClassVar[float] = 0.08
    #: Relative deviation of float32 sums that should be the same but for the order of additions.
    sum_tolerance: ClassVar[float] = 2e-5
    #: Relative rms deviation of the map from a seed without data; None: it does not come back.
    seed_tolerance: ClassVar[float | None] = 0.02
    #: Whether odd boxes are refused, with a ParameterError.
    refuses_odd_boxes: ClassVar[bool] = False
    #: Whether slices larger than the box are refused, with a ParameterError.
    refuses_padding: ClassVar[bool] = False

    @abstractmethod
    def make(self) -> Reconstructor:
        """A new instance of the reconstructor under test."""

    @pytest.fixture(params=BOXES, ids=lambda box: f"box{box[0]}in{box[1]}")
    def case(self, request: pytest.FixtureRequest) -> Case:
        """One box with some slices; odd and padded boxes are left to their own tests where they are refused."""
        image_size, slice_size = request.param
        if self.refuses_odd_boxes and image_size % 2:
            pytest.skip("refuses odd boxes, as tested elsewhere")
        if self.refuses_padding and slice_size != image_size:
            pytest.skip("refuses padded slices, as tested elsewhere")
        return Case(self.make(), image_size, slice_size)

    def test_odd_boxes_work_or_are_refused_with_a_reason(self) -> None:
        geometry = MapGeometry(21, 21, 1.5)
        if not self.refuses_odd_boxes:
            assert self.make().plan(geometry).planes > 0
            return
        with pytest.raises(ParameterError, match="even"):
            self.make().plan(geometry)

    def test_padded_slices_work_or_are_refused_with_a_reason(self) -> None:
        geometry = MapGeometry(20, 26, 1.5)
        if not self.refuses_padding:
            assert self.make().plan(geometry).planes > 0
            return
        with pytest.raises(ParameterError, match="--pad"):
            self.make().plan(geometry)

    def test_the_plan_names_arrays_with_as_many_planes_as_it_says(self, case: Case) -> None:
        assert case.plan.shapes
        assert all(shape[0] == case.plan.planes for shape in case.plan.shapes.values())
        assert case.plan.dtype == np.float32
        assert case.plan.finish_bytes > 0
        double = replace(case.context.geometry, precision=np.dtype(np.float64))
        assert self.make().plan(double).dtype == np.float64

    def test_it_pickles_to_an_equal_one(self) -> None:
        made = self.make()
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own bytes

    def test_an_empty_batch_changes_nothing(self, case: Case) -> None:
        sums = case.sums_of(case.batch.views)
        before = {name: array.copy() for name, array in sums.arrays.items()}
        nothing = SliceBatch(
            case.batch.samples[:0], case.batch.size, case.batch.max_radius, case.some_views([])
        )
        case.reconstructor.insert(nothing, sums, case.context, (0, case.plan.planes))
        for name, array in sums.arrays.items():
            assert_array_equal(array, before[name])

    def test_sums_add_over_any_split_of_the_views(self, case: Case) -> None:
        whole = case.sums_of(case.batch.views)
        parts = case.sums_of(case.some_views([0, 3]))
        parts.add(case.sums_of(case.some_views([1, 2, 4, 5])))
        self.assert_same(parts, whole)

    def test_the_order_of_the_views_does_not_matter(self, case: Case) -> None:
        self.assert_same(case.sums_of(case.some_views([4, 0, 5, 2, 1, 3])), case.sums_of(case.batch.views))

    def test_half_a_view_twice_is_the_view(self, case: Case) -> None:
        twice = case.some_views([0, 1, 2, 3, 4, 5, 2])
        factors = np.array([1, 1, 0.5, 1, 1, 1, 0.5])
        self.assert_same(case.sums_of(replace(twice, factors=factors)), case.sums_of(case.batch.views))

    def test_the_shift_of_a_view_is_a_phase_ramp(self, case: Case) -> None:
        shifts = np.random.default_rng(3).normal(0, 2, (6, 2))
        shifted = case.sums_of(replace(case.batch.views, shifts=shifts))
        ky, kx = signed_frequencies(case.batch.size)[:, None], np.arange(case.batch.size // 2 + 1)
        ramp = np.exp(
            -2j * np.pi / case.batch.size * (shifts[:, 0, None, None] * kx + shifts[:, 1, None, None] * ky)
        )
        samples = case.batch.samples.copy()
        values = (samples[..., 0] + 1j * samples[..., 1]) * ramp
        samples[..., 0], samples[..., 1] = values.real, values.imag
        self.assert_same(shifted, case.sums_of(case.batch.views, samples))

    def test_any_split_into_z_ranges_gives_the_same_bits(self, case: Case) -> None:
        planes = case.plan.planes
        whole, split = case.sums_of(case.batch.views), case.plan.zeros()
        edges = (0, 1, planes // 2 - 1, planes // 2, planes - 3, planes)
        for z_range in reversed(list(pairwise(edges))):
            case.reconstructor.insert(case.batch, split, case.context, z_range)
        for name, array in whole.arrays.items():
            assert_array_equal(split[name], array)

    def test_only_the_planes_of_the_range_are_written(self, case: Case) -> None:
        sums, middle = case.plan.zeros(), case.plan.planes // 2
        case.reconstructor.insert(case.batch, sums, case.context, (middle - 2, middle + 1))
        for array in sums.arrays.values():
            assert not array[: middle - 2].any()
            assert not array[middle + 1 :].any()

    def test_sums_are_affine_in_the_values(self, case: Case) -> None:
        other = case.batch.samples.copy()
        other[..., :2] *= np.random.default_rng(5).normal(size=other[..., :2].shape)
        mixed = (0.25 * case.batch.samples + 0.75 * other).astype(np.float32)
        one, two = case.sums_of(case.batch.views), case.sums_of(case.batch.views, other)
        expected = Sums({name: 0.25 * one[name] + 0.75 * two[name] for name in one.arrays})
        self.assert_same(case.sums_of(case.batch.views, mixed), expected)

    def test_finish_and_weight_map_leave_the_sums_alone(self, case: Case) -> None:
        sums = case.sums_of(case.batch.views)
        before = {name: array.copy() for name, array in sums.arrays.items()}
        first = case.finished(sums)
        case.reconstructor.weight_map(sums, case.context)
        for name, array in sums.arrays.items():
            assert_array_equal(array, before[name])
        assert_array_equal(case.finished(sums), first)

    def test_no_data_give_an_empty_map(self, case: Case) -> None:
        assert not case.finished(case.plan.zeros()).any()

    def test_the_weight_map_is_a_half_transform_of_weights(self, case: Case) -> None:
        weights = case.reconstructor.weight_map(case.sums_of(case.batch.views), case.context).data
        size = len(weights)
        assert weights.shape == (size, size, size // 2 + 1)
        assert np.isfinite(weights).all()
        assert weights.min() >= 0
        assert weights[size // 2, size // 2, 0] > 0

    def test_a_phantom_comes_back_with_its_density_and_its_hand(self, case: Case) -> None:
        made = case.map_of(phantom_case(case.context.geometry.image_size), views=400)
        expected = phantom_case(case.context.geometry.image_size).volume(len(made), 1.5)
        assert made.shape == expected.shape
        assert deviation(made, expected) < self.map_tolerance
        assert deviation(made[::-1], expected) > 0.5

    def test_a_wiener_constant_only_lowers_the_map(self, case: Case) -> None:
        sums = case.sums_of(case.batch.views)
        plain = case.finished(sums)
        filtered = case.finished(sums, wiener_snr=0.1)
        assert 0 < np.square(filtered).sum() < np.square(plain).sum()

    def test_a_seed_without_data_is_the_map(self, case: Case) -> None:
        if self.seed_tolerance is None:
            pytest.skip("this reconstructor does not take a seed as something measured")
        seed = phantom_case(case.context.geometry.image_size).volume(case.context.geometry.image_size, 1.5)
        made = case.finished(case.plan.zeros(), seed=Seed(seed.astype(np.float32), 2.0))
        assert deviation(made, seed) < self.seed_tolerance

    def assert_same(self, found: Sums, expected: Sums) -> None:
        """Sums agree but for rounding."""
        for name, array in expected.arrays.items():
            for channel in range(array.shape[-1]):
                scale = float(np.abs(array[..., channel]).max())
                assert_allclose(
                    found[name][..., channel], array[..., channel], rtol=0, atol=self.sum_tolerance * scale
                )


class Case:
    """A reconstructor with a geometry and six weighted slices of noise."""

    def __init__(self, reconstructor: Reconstructor, image_size: int, slice_size: int) -> None:
        self.reconstructor = reconstructor
        geometry = MapGeometry(image_size, slice_size, 1.5)
        self.plan = reconstructor.plan(geometry)
        self.context = PassContext(geometry, self.plan)
        images = np.random.default_rng(1).normal(size=(6, image_size, image_size))
        weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
        self.batch = self.batch_of(images, random_rotations(6), weights)

    def batch_of(self, images: FloatArray, rotations: FloatArray, weights: FloatArray) -> SliceBatch:
        """Slices of images as the reconstructor wants them prepared, each in one view."""
        size, box = self.context.geometry.slice_size, self.context.geometry.image_size
        count = len(images)
        views = Views(np.arange(count), rotations * (box / size), np.zeros((count, 2)), np.ones(count))
        if self.reconstructor.eman2_slices:
            samples = prepare_eman2(images.astype(np.float32), np.zeros((count, 2)), size, weights)
            return SliceBatch(samples, size, size / 2 + 3, views)
        if self.reconstructor.relion_tomo_slices:
            return SliceBatch(prepare_fully(images, weights), size, size / 2, views)
        return SliceBatch(prepare_plainly(images, size, weights), size, size / 2, views)

    def some_views(self, chosen: list[int]) -> Views:
        """A choice of the views of the batch."""
        views, rows = self.batch.views, np.array(chosen, dtype=np.int64)
        return Views(views.slice_number[rows], views.matrices[rows], views.shifts[rows], views.factors[rows])

    def sums_of(self, views: Views, samples: FloatArray | None = None) -> Sums:
        """Sums of the batch under some views, maybe with other samples."""
        sums = self.plan.zeros()
        batch = replace(self.batch, views=views, samples=self.batch.samples if samples is None else samples)
        self.reconstructor.insert(batch, sums, self.context, (0, self.plan.planes))
        return sums

    def finished(self, sums: Sums, **context: Any) -> FloatArray:
        """Map of a last pass with these sums."""
        last = replace(self.context, pass_number=self.plan.passes - 1, **context)
        result = self.reconstructor.finish(sums, last)
        assert not isinstance(result, NextPass)
        return result.data

    def map_of(self, phantom: GaussianPhantom, views: int) -> FloatArray:
        """The map from exact projections, in as many passes as wanted."""
        rotations = random_rotations(views)
        box = self.context.geometry.image_size
        images = phantom.project(rotations, np.zeros((views, 2)), box, 1.5)
        batch = self.batch_of(images, rotations, np.ones(views))
        context = self.context
        for number in range(self.plan.passes):
            sums = self.plan.zeros()
            context = replace(context, pass_number=number)
            self.reconstructor.insert(batch, sums, context, (0, self.plan.planes))
            result = self.reconstructor.finish(sums, context)
            if not isinstance(result, NextPass):
                return result.data
            context = replace(context, reference=result.reference)
        raise AssertionError("finish asked for more passes than planned")


def random_rotations(count: int) -> FloatArray:
    """The same rotations every time, evenly distributed."""
    matrices: FloatArray = Rotation.random(count, random_state=7).as_matrix()
    return matrices


def phantom_case(box: int) -> GaussianPhantom:
    """Three Gaussians for 1.5 Å a pixel that have a hand and lie within a third of the box."""
    centres = np.array([[0.2, 0.05, -0.1], [-0.15, 0.2, 0.05], [-0.05, -0.12, 0.22]]) * (box * 1.5)
    return GaussianPhantom(centres, np.array([1.8, 2.1, 2.4]), np.array([1.0, 0.8, 1.2]))


def prepare_plainly(images: FloatArray, size: int, weights: FloatArray) -> FloatArray:
    """Samples of SliceBatch, float32: images padded, origin on pixel n // 2, each frequency once, no CTF."""
    count, box, _ = images.shape
    padded = np.zeros((count, size, size))
    start = size // 2 - box // 2
    padded[:, start : start + box, start : start + box] = images
    spectra = scipy.fft.rfft2(scipy.fft.ifftshift(padded, axes=(1, 2)))
    ky, kx = signed_frequencies(size)[:, None], np.arange(size // 2 + 1)
    kept = (np.hypot(kx, ky) <= size / 2) & ((kx > 0) | (ky >= 0))
    plane = np.asarray(weights)[:, None, None] * kept
    samples = np.zeros((*spectra.shape, 4), np.float32)
    samples[..., 0], samples[..., 1], samples[..., 2] = spectra.real * plane, spectra.imag * plane, plane
    return samples


def prepare_fully(images: FloatArray, weights: FloatArray) -> FloatArray:
    """Samples of reconstructors with ``relion_tomo_slices``, float32: no padding, nothing left out, no CTF.

    Scaled so that the map, √n times the density for slices in unitary transforms, is the density.
    """
    spectra = scipy.fft.rfft2(scipy.fft.ifftshift(images, axes=(1, 2))) / images.shape[-1] ** 1.5
    plane = np.asarray(weights)[:, None, None]
    samples = np.zeros((*spectra.shape, 4), np.float32)
    samples[..., 0], samples[..., 1], samples[..., 2] = spectra.real * plane, spectra.imag * plane, plane
    return samples


def deviation(data: FloatArray, expected: FloatArray) -> float:
    """Relative rms deviation within 0.4 boxes of the centre."""
    axis = np.arange(len(expected)) - len(expected) // 2
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (0.4 * len(expected)) ** 2
    return float(np.linalg.norm((data - expected)[inside]) / np.linalg.norm(expected[inside]))
