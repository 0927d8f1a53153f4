"""Point-group algebra: closing generators, cosets of the grid's own symmetry, products of operator lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from centralslice.conventions import FloatArray, IntArray
from centralslice.errors import ParameterError

#: Two operators are the same if no entry differs by more.
_SAME = 1e-6
#: More operators than any point group of this package has; generators that make more do not close.
_LARGEST = 4000


def close_group(generators: ArrayLike) -> FloatArray:
    """The group that rotations generate.

    Parameters
    ----------
    generators
        (g, 3, 3) rotations, accurate to rounding.

    Returns
    -------
        (n, 3, 3) float64, identity first, in an order that depends on the generators only; products of
        any two agree with a third to 1e-14.

    Raises
    ------
    ParameterError
        If the generators do not generate a finite group of at most 4000 operators.
    """
    factors = np.asarray(generators, np.float64).reshape(-1, 3, 3)
    group: FloatArray = np.eye(3)[None]
    fresh = group
    while len(fresh):
        products = _polish((fresh[:, None] @ factors[None]).reshape(-1, 3, 3))
        fresh = _without_repeats(products, group)
        group = np.concatenate([group, fresh])
        if len(group) > _LARGEST:
            raise ParameterError(
                f"symmetry: the generators make more than {_LARGEST} operators, not a point group"
            )
    return group


def _polish(matrices: FloatArray) -> FloatArray:
    """The nearest exact rotations (one Newton step of the polar decomposition), rounding-size entries 0."""
    better: FloatArray = 1.5 * matrices - 0.5 * matrices @ np.swapaxes(matrices, -1, -2) @ matrices
    better[np.abs(better) < 1e-14] = 0.0
    return better


def _without_repeats(candidates: FloatArray, known: FloatArray) -> FloatArray:
    """Candidates that are neither known nor repeated, in order."""
    kept: list[FloatArray] = []
    for matrix in candidates:
        against = np.concatenate([known, np.array(kept)]) if kept else known
        if np.abs(against - matrix).max(axis=(1, 2)).min() > _SAME:
            kept.append(matrix)
    return np.array(kept).reshape(-1, 3, 3)


def grid_subgroup(operators: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Split a point group into the operators that map a cubic grid onto itself, and the rest.

    Parameters
    ----------
    operators
        (n, 3, 3) closed group G.

    Returns
    -------
    subgroup
        (h, 3, 3) H, the signed permutation matrices of G, exact, identity first.
    representatives
        (n / h, 3, 3) one operator c of each left coset cH, identity first; G is all ``c @ S``, S in H.

    Raises
    ------
    ParameterError
        If the operators are not a closed group.

    Notes
    -----
    A view ``B = R c`` puts the sample κ = (kx, ky, 0) at ``Bᵀ κ = cᵀ Rᵀ κ``; averaging the grid over H then
    takes it to ``Sᵀ cᵀ Rᵀ κ = (R c S)ᵀ κ``. So c must stand on the left of S: left cosets, not right ones.
    Slices inserted under the representatives and the grid *summed* over H are the slices inserted under
    all of G, if the interpolation kernel is the same along ±x, ±y and ±z; *averaging* gives 1/h of it,
    values and weights alike.
    """
    group = np.asarray(operators, np.float64).reshape(-1, 3, 3)
    on_grid = np.all(np.minimum(np.abs(group), np.abs(np.abs(group) - 1)) < _SAME, axis=(1, 2))
    subgroup = np.rint(group[on_grid]) + 0.0  # + 0.0: no negative zeros
    identity_first = np.argsort(np.abs(subgroup - np.eye(3)).max(axis=(1, 2)) > _SAME, kind="stable")
    subgroup = subgroup[identity_first]
    order = np.argsort(np.abs(group - np.eye(3)).max(axis=(1, 2)) > _SAME, kind="stable")
    taken = np.zeros(len(group), bool)
    representatives = []
    for number in order:
        if taken[number]:
            continue
        representatives.append(group[number])
        taken[find_operators(group, group[number] @ subgroup)] = True
    if len(representatives) * len(subgroup) != len(group):
        raise ParameterError("symmetry: expected a closed group of operators")
    return subgroup, np.array(representatives)


def find_operators(group: FloatArray, wanted: FloatArray) -> IntArray:
    """(m,) index in ``group`` (n, 3, 3) of each wanted (m, 3, 3) operator; ParameterError if absent."""
    distance = np.abs(group[None] - wanted[:, None]).max(axis=(2, 3))
    found: IntArray = distance.argmin(axis=1)
    if np.any(distance[np.arange(len(wanted)), found] > _SAME):
        raise ParameterError("symmetry: expected a closed group of operators")
    return found


def operator_product(
    outer: tuple[ArrayLike, ArrayLike], inner: tuple[ArrayLike, ArrayLike]
) -> tuple[FloatArray, FloatArray]:
    """All products of two operator lists, ``r -> outer(inner(r))``: a point group and a helix, say.

    Parameters
    ----------
    outer, inner
        ``(rotations (n, 3, 3), translations (n, 3))``; an operator takes r to ``S r + t``.

    Returns
    -------
    rotations
        (n_outer · n_inner, 3, 3), the inner list running fastest; identity first if both lists have it so.
    translations
        (n_outer · n_inner, 3) in the unit given.
    """
    first, first_shift = (np.asarray(part, np.float64) for part in outer)
    second, second_shift = (np.asarray(part, np.float64) for part in inner)
    rotations: FloatArray = first[:, None] @ second[None]
    translations = np.einsum("aij,bj->abi", first, second_shift) + first_shift[:, None]
    return rotations.reshape(-1, 3, 3), translations.reshape(-1, 3)
