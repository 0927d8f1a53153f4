"""How a job is cut into blocks, and how long it is said to take."""

from __future__ import annotations

import pytest

from centralslice.jobs.budget import (
    FINISH_S,
    INSERT_S,
    PREPARE_S,
    REFERENCE_BOX,
    START_S,
    estimated_time,
    images_of_block,
)


def test_the_time_of_the_reference_box_is_the_measured_one() -> None:
    slices = 100_000
    seconds = START_S + slices * (PREPARE_S + INSERT_S) + FINISH_S
    assert estimated_time(slices, REFERENCE_BOX, 1, 1, 1) == f"{seconds:.0f} s"


@pytest.mark.parametrize(
    ("slices", "size", "copies", "threads", "text"),
    [
        (0, 128, 1, 1, "3 s"),
        (10**6, 128, 1, 1, "7 min"),
        (10**6, 128, 1, 2, "3 min"),
        (10**6, 128, 60, 1, "5 h"),
        (10**6, 256, 1, 1, "46 min"),
    ],
)
def test_the_time_grows_with_slices_box_and_copies_and_is_shared_by_threads(
    slices: int, size: int, copies: int, threads: int, text: str
) -> None:
    assert estimated_time(slices, size, copies, 1, threads) == text


def test_blocks_are_as_many_as_many_ranks_want_but_each_is_worth_the_way_through_the_sums() -> None:
    assert images_of_block(1_000_000, 1024, 2**20, "integer") == 1024
    assert images_of_block(100_000, 1024, 2**20, "integer") == 391
    assert images_of_block(1_000, 1024, 2**20, "integer") == 32
    assert images_of_block(1_000, 1024, 2**27, "integer") == 512
    assert images_of_block(1_000, 100, 2**27, "integer") == 100
    assert images_of_block(1_000, 100, 2**27, "block") == 1024
