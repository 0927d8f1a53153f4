"""Where each slice goes: symmetry copies, helical copies, neighbouring directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from centralslice.abc.reconstructor import MapGeometry, Reconstructor
from centralslice.conventions import FloatArray
from centralslice.data.slices import Views
from centralslice.geometry.eulers import eman2_to_matrices, matrices_to_eman2
from centralslice.geometry.groups import grid_subgroup


@dataclass(frozen=True, slots=True)
class CopyRules:
    """Under which operators each slice is inserted.

    Attributes
    ----------
    rotations, translations_angst
        (s, 3, 3) and (s, 3): V(S r + t) = V(r), identity first.
    factor
        Multiplies value and weight of every copy.
    fill_angle_deg
        Full width of the fan of neighbouring directions (``--fillangle``), 0 for none.
    """

    rotations: FloatArray
    translations_angst: FloatArray
    factor: float = 1.0
    fill_angle_deg: float = 0.0


def plan_copies(
    operators: tuple[FloatArray, FloatArray], is_group: bool, reconstructor: Reconstructor, fill_angle_deg: float,
    *, every_operator: bool = False,
) -> tuple[CopyRules, FloatArray | None]:  # fmt: skip
    """Operators for the slices and for the grid.

    Operators that map the cubic grid onto itself are applied to the sums at finish, exactly; slices are
    inserted only under one operator of each coset. The weights are those of one copy: averaged.

    Parameters
    ----------
    operators
        (n, 3, 3) rotations and (n, 3) translations in Å, identity first.
    is_group
        Whether they are a point group.
    reconstructor
        Who gets the slices.
    fill_angle_deg
        Of :class:`CopyRules`.
    every_operator
        EMAN2's way: every slice under all rotations, weights added, translations not used.
    """
    rotations, translations = operators
    if every_operator:
        return CopyRules(rotations, np.zeros_like(translations), 1.0, fill_angle_deg), None
    if not is_group or not reconstructor.symmetrises_grid:
        return CopyRules(rotations, translations, 1 / len(rotations), fill_angle_deg), None
    subgroup, representatives = grid_subgroup(rotations)
    inverse = np.ascontiguousarray(np.swapaxes(representatives, 1, 2))
    copies = CopyRules(inverse, np.zeros((len(inverse), 3)), 1 / len(inverse), fill_angle_deg)
    return copies, subgroup if len(subgroup) > 1 else None


def views_of_copies(
    poses: FloatArray, image_matrix: FloatArray, copies: CopyRules, geometry: MapGeometry, slice_size: int
) -> Views:
    """All copies of each slice; copy number is the slower index of a slice's views.

    V(S r + t) = V(r) means that the slice of pose R is also the slice of pose R Sᵀ, shifted by
    R Sᵀ t: the transform of V at S k is exp(−2πi S k·t) times that at k.

    Parameters
    ----------
    poses
        (b, 3, 3) of the slices.
    image_matrix
        (3, 3) from slice index units to cycles per unpadded box, magnification included.
    copies, geometry, slice_size
        Under which operators, into which map, from slices of which size.
    """
    fan, factors = fill_angle_fan(poses, copies.fill_angle_deg, geometry.image_size)
    operators = np.swapaxes(copies.rotations, 1, 2)
    matrices = np.einsum("hi,bfij,sjk->bfshk", image_matrix, fan, operators)
    # k·t of the copy, k = s Rᵀ M (kx, ky), in cycles: s is in units of one cycle per unpadded box
    box = geometry.image_size * geometry.voxel_size_angst
    turned = np.einsum("hi,bij,sjk->bshk", image_matrix, poses, operators)
    moved = np.einsum("bsij,sj->bsi", turned, copies.translations_angst)[..., :2]
    moved *= slice_size / box
    count, spread, orders = matrices.shape[:3]
    return Views(
        slice_number=np.repeat(np.arange(count), spread * orders),
        matrices=np.ascontiguousarray(matrices.reshape(-1, 3, 3)),
        shifts=np.ascontiguousarray(np.repeat(moved[:, None], spread, axis=1).reshape(-1, 2)),
        factors=np.ascontiguousarray(
            np.repeat(np.broadcast_to(factors, (count, spread)).reshape(-1), orders) * copies.factor
        ),
    )


def fill_angle_fan(matrices: FloatArray, width_deg: float, box: int) -> tuple[FloatArray, FloatArray]:
    """Each orientation and its neighbours within ``--fillangle``, and their relative factors.

    A square grid of n × n view directions around each one, ``n = min(9, ⌊width / a⌋)`` with ``a`` the angle of
    one Fourier voxel at Nyquist; Gaussian factors ``exp(−(Δ/(width/4))²)`` that sum to 1, so that the
    particle's weight stays what it was. The in-plane angle phi is kept, and steps in az are divided by
    sin(alt) so that the fan is as wide as it is high.

    Parameters
    ----------
    matrices
        (b, 3, 3), rotation times a scale.
    width_deg
        Full width; 0 for none.
    box
        Unpadded box in pixels.

    Returns
    -------
        (b, f, 3, 3) matrices and (f,) factors.
    """
    step = float(np.rad2deg(np.arctan2(1.0, box / 2)))
    count = min(9, int(width_deg / step))
    if count <= 1:
        return matrices[:, None], np.ones(1)
    scales = np.cbrt(np.linalg.det(matrices))
    az, alt, phi = matrices_to_eman2(matrices / scales[:, None, None])
    offsets = np.linspace(-width_deg / 2, width_deg / 2, count)
    up, around = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    sine = np.maximum(np.sin(np.deg2rad(alt)), np.sin(np.deg2rad(step)))
    # turning az by d and phi by −d·cos(alt) moves the direction without rolling the image
    turned = np.clip(around[None] / sine[:, None], -180.0, 180.0)
    roll = -turned * np.cos(np.deg2rad(alt))[:, None]
    fan = eman2_to_matrices(
        (az[:, None] + turned).ravel(), (alt[:, None] + up).ravel(), (phi[:, None] + roll).ravel()
    ).reshape(len(matrices), -1, 3, 3)
    factors = np.exp(-(up**2 + around**2) / (width_deg / 4) ** 2)
    return fan * scales[:, None, None, None], factors / factors.sum()
