"""Which particles are kept, with which weight, in which half set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.data.particles import Particles, make_particles
from centralslice.errors import ParameterError, SelectionError
from centralslice.jobs.selection import SelectionRules, quality_threshold, select


def particles(count: int = 10, **columns) -> Particles:
    numbers = np.arange(count, dtype=np.int64)
    rotations = np.broadcast_to(np.eye(3), (count, 3, 3))
    given_columns = {name: np.asarray(values) for name, values in columns.items()}
    return make_particles(
        Path("p.star"), ((Path("p.mrcs"),), 0 * numbers, numbers), rotations, **given_columns
    )


@given(
    quality=st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), min_size=1, max_size=40),
    keep=st.floats(0, 1),
)
def test_a_fraction_keeps_the_best_and_those_that_tie_with_the_last(quality, keep):
    values = np.array(quality)
    threshold = quality_threshold(values, SelectionRules(keep=keep))
    kept = values <= threshold
    wanted = round(len(values) * keep)
    if np.ptp(values) == 0:
        assert kept.all() == (wanted > 0)
        return
    assert kept.sum() >= wanted
    if kept.any() and not kept.all():
        assert values[kept].max() < values[~kept].min()
        assert np.sum(values < values[kept].max()) < wanted


def test_the_three_meanings_of_keep():
    quality = np.array([5.0, 1.0, 3.0, 2.0, 4.0])
    assert quality_threshold(quality, SelectionRules(keep=0.4)) == 2.0
    assert quality_threshold(quality, SelectionRules(keep=3.5, keep_absolute=True)) == 3.5
    expected = quality.mean() + 0.5 * quality.std()
    assert quality_threshold(quality, SelectionRules(keep=0.5, keep_sigma=True)) == expected
    assert quality_threshold(quality, SelectionRules()) == np.inf
    assert quality_threshold(quality, SelectionRules(keep=0.4, peer_rounding=True)) == 3.0
    assert quality_threshold(np.ones(4), SelectionRules(keep=1.0, keep_sigma=True)) == np.inf
    for keep in (-0.1, 1.1, float("nan")):
        with pytest.raises(ParameterError, match="fraction from 0 to 1"):
            quality_threshold(quality, SelectionRules(keep=keep))


def test_keep_zero_keeps_nothing_and_says_so():
    with pytest.raises(SelectionError, match=r"p\.star: no particle is left after: quality"):
        select(particles(quality=np.arange(10.0)), SelectionRules(keep=0.0))


def test_rows_and_reasons_of_what_was_dropped():
    found = select(
        particles(
            quality=np.arange(10.0),
            model_number=np.arange(10) % 2,
            weight=np.where(np.arange(10) == 1, 0.0, 2.0),
        ),
        SelectionRules(keep=0.6, model=1),
    )
    # of 1, 3, 5, 7, 9 the best three, of which 1 has no weight
    assert_array_equal(found.rows, [3, 5])
    assert_array_equal(found.particles.source_row, [3, 5])
    assert list(found.dropped.values()) == [5, 2, 1]
    assert next(iter(found.dropped)) == "model other than 1 (--input-model)"
    assert list(found.dropped)[2] == "weight zero"


def test_weights_are_taken_rooted_or_left():
    weighted = particles(3, weight=[4.0, 9.0, 0.0])
    assert_allclose(select(weighted, SelectionRules()).particles.weight, [4, 9])
    assert_allclose(select(weighted, SelectionRules(weighting="square_root")).particles.weight, [2, 3])
    assert_allclose(select(weighted, SelectionRules(weighting="none")).particles.weight, [1, 1, 1])


def test_subsets_are_half_sets():
    halves = particles(6, half_set=np.array([0, 1, 2, 1, 2, 0], np.int8))
    assert_array_equal(select(halves, SelectionRules(subset=2)).rows, [2, 4])
    with pytest.raises(SelectionError, match="no half sets; give --split"):
        select(particles(), SelectionRules(subset=1))
    with pytest.raises(SelectionError, match="half sets already"):
        select(halves, SelectionRules(split="parity"))


@given(st.integers(0, 2**31), st.integers(2, 60))
def test_random_halves_are_equal_and_repeatable(seed, count):
    first, again = (select(particles(count), SelectionRules(split=f"random:{seed}")) for _ in range(2))
    halves = first.particles.half_set
    assert_array_equal(halves, again.particles.half_set)
    sizes = np.bincount(halves, minlength=3)
    assert sizes[0] == 0
    assert abs(int(sizes[1]) - int(sizes[2])) <= 1


def test_halves_are_made_before_the_selection_so_that_it_does_not_move_particles_between_them():
    quality = np.arange(10.0)
    whole = select(particles(quality=quality), SelectionRules(split="random:3")).particles.half_set
    part = select(particles(quality=quality), SelectionRules(split="random:3", keep=0.5)).particles.half_set
    assert_array_equal(part, whole[:5])
    parity = select(particles(), SelectionRules(split="parity")).particles.half_set
    assert_array_equal(parity, [1, 2] * 5)


def test_particles_of_no_rank_are_all_kept_and_that_is_said():
    found = select(particles(), SelectionRules(keep=0.5))
    assert len(found.particles) == 10
    assert "all 10 particles have the same quality" in found.notes[0]
    assert select(particles(), SelectionRules()).notes == ()
