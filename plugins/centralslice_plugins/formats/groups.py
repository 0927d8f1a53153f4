"""Forming groups of rows that share their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from centralslice.conventions import FloatArray, IntArray


def distinct_rows(columns: Sequence[FloatArray | IntArray], count: int) -> tuple[IntArray, IntArray]:
    """Group rows by equality in all columns; NaN equals NaN.

    Parameters
    ----------
    columns
        Arrays of shape (count,); none at all makes one group.
    count
        Number of rows, > 0.

    Returns
    -------
        Row of the first member of each group, groups in the order of their first members; and the
        group of each row.
    """
    code = np.zeros(count, np.int64)
    for column in columns:
        if np.all(column == column[0]):
            continue
        values, inverse = np.unique(column, return_inverse=True)
        # the codes are made dense after each column so that their product cannot overflow
        code = np.unique(code * len(values) + inverse.reshape(-1), return_inverse=True)[1].reshape(-1)
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[group.reshape(-1)].astype(np.int64)
