"""Laws that every symmetry keeps: inherit, and make the symmetry.

.. code-block:: python

    class TestC7(SymmetryContract):
        def make(self) -> Symmetry:
            return Cyclic(7)
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray


def _distance_to(group: FloatArray, operators: FloatArray) -> FloatArray:
    """Largest entry by which each operator differs from the nearest of the group."""
    return np.array([np.abs(group - operator).max(axis=(1, 2)).min() for operator in operators])


class SymmetryContract(ABC):
    """Tests of one symmetry; helical lists are not asked for group laws."""

    #: How closely products agree with a member of the group.
    closure = 1e-14

    @abstractmethod
    def make(self) -> Symmetry:
        """A new instance of the symmetry under test."""

    def test_operators_come_as_float64_matrices_with_as_many_translations(self) -> None:
        symmetry = self.make()
        rotations = symmetry.rotations()
        assert rotations.dtype == np.float64
        assert_array_equal(rotations.shape, (symmetry.order, 3, 3))
        assert_array_equal(symmetry.translations_angst().shape, (symmetry.order, 3))

    def test_the_identity_comes_first(self) -> None:
        symmetry = self.make()
        assert_array_equal(symmetry.rotations()[0], np.eye(3))
        assert_array_equal(symmetry.translations_angst()[0], np.zeros(3))

    def test_operators_are_proper_rotations(self) -> None:
        rotations = self.make().rotations()
        unit = np.broadcast_to(np.eye(3), rotations.shape)
        assert_allclose(np.swapaxes(rotations, 1, 2) @ rotations, unit, atol=self.closure)
        assert_allclose(np.linalg.det(rotations), 1.0, atol=self.closure)

    def test_no_operator_is_there_twice(self) -> None:
        symmetry = self.make()
        operators = np.concatenate([symmetry.rotations().reshape(-1, 9), symmetry.translations_angst()], 1)
        for number, operator in enumerate(operators[:-1]):
            assert np.abs(operators[number + 1 :] - operator).max(axis=1).min() > 1e-6

    def test_products_and_inverses_of_a_group_are_in_it(self) -> None:
        symmetry = self.make()
        if not symmetry.is_group:
            return
        group = symmetry.rotations()
        assert_array_equal(symmetry.translations_angst(), 0.0)
        for left in group:
            assert _distance_to(group, left @ group).max() <= self.closure
        assert _distance_to(group, np.swapaxes(group, 1, 2)).max() <= self.closure

    def test_it_gives_the_same_operators_every_time_and_after_pickling(self) -> None:
        symmetry = self.make()
        again = pickle.loads(pickle.dumps(symmetry))  # noqa: S301 (our own bytes)
        for other in (symmetry, again):
            assert_array_equal(other.rotations(), symmetry.rotations())
            assert_array_equal(other.translations_angst(), symmetry.translations_angst())
        assert type(again) is type(symmetry)
