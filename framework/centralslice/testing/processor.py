"""Laws that every processor keeps: inherit, and make the processor.

.. code-block:: python

    class TestSharpen(ProcessorContract):
        def make(self) -> Processor:
            return Sharpen(bfactor=-50.0)
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from centralslice.abc.processor import Processor
from centralslice.conventions import FloatArray


class ProcessorContract(ABC):
    """Tests of one processor with given parameters, on odd and even images and maps it takes."""

    #: Box sides the processor is tried on; one even, one odd.
    sides: tuple[int, ...] = (12, 13)
    voxel_size_angst = 2.5

    @abstractmethod
    def make(self) -> Processor:
        """A new instance of the processor under test."""

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes to try it on; by default images and/or maps of :attr:`sides`."""
        return tuple((side,) * number for number in sorted(self.make().dimensions) for side in self.sides)

    def data(self, shape: tuple[int, ...], dtype: Any) -> FloatArray:
        """Data of a shape: a blob off the centre, with noise; the same every time."""
        axes = np.ogrid[tuple(slice(0, size) for size in shape)]
        distance = sum((axis - size // 2 + 1.0) ** 2 for axis, size in zip(axes, shape, strict=True))
        noise = np.random.default_rng(shape[0]).standard_normal(shape)
        found: FloatArray = (3.0 * np.exp(-distance / 8.0) + 0.1 * noise).astype(dtype)
        return found

    def _cases(self) -> list[tuple[Processor, FloatArray, FloatArray]]:
        """Processor, data, result for all dimensions, sides and dtypes."""
        processor = self.make()
        cases = []
        for shape in self.shapes():
            for dtype in (np.float32, np.float64):
                data = self.data(shape, dtype)
                cases.append((processor, data, processor.apply(data, self.voxel_size_angst)))
        return cases

    def test_it_takes_images_or_maps_or_both(self) -> None:
        dimensions = self.make().dimensions
        assert dimensions
        assert dimensions <= {2, 3}

    def test_results_keep_dtype_and_dimension_and_the_shape_unless_it_resamples(self) -> None:
        for processor, data, result in self._cases():
            assert result.dtype == data.dtype
            assert result.ndim == data.ndim
            if processor.voxel_size(self.voxel_size_angst) == self.voxel_size_angst:
                assert result.shape == data.shape

    def test_results_are_finite(self) -> None:
        for _, _, result in self._cases():
            assert np.isfinite(result).all()

    def test_the_voxel_size_stays_positive(self) -> None:
        assert 0 < self.make().voxel_size(self.voxel_size_angst) < np.inf

    def test_the_input_is_neither_changed_nor_shared(self) -> None:
        processor = self.make()
        for shape in self.shapes():
            data = self.data(shape, np.float32)
            before = data.copy()
            data.setflags(write=False)
            result = processor.apply(data, self.voxel_size_angst)
            assert_array_equal(data, before)
            assert not np.shares_memory(data, result)
            result.flat[0] = 0.0  # the caller's own, and writable

    def test_memory_order_of_the_input_does_not_matter(self) -> None:
        processor = self.make()
        for shape in self.shapes():
            data = self.data(shape, np.float64)
            wanted = processor.apply(data, self.voxel_size_angst)
            result = processor.apply(np.asfortranarray(data), self.voxel_size_angst)
            np.testing.assert_allclose(result, wanted, rtol=1e-10, atol=1e-10)

    def test_it_pickles_and_gives_the_same_every_time(self) -> None:
        again = pickle.loads(pickle.dumps(self.make()))  # noqa: S301 (our own bytes)
        for processor, data, result in self._cases():
            assert_array_equal(processor.apply(data, self.voxel_size_angst), result)
            assert_array_equal(again.apply(data, self.voxel_size_angst), result)
        assert type(again) is type(self.make())
