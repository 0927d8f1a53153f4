"""Masks of sub-particles: what is kept, what is subtracted, and where the kept part is.

E = M_all (1 − M_keep), or the mask of the subtracted part itself; all between 0 and 1
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.ndimage

from centralslice.conventions import FloatArray, centre_of
from centralslice.data.particles import OpticsGroup
from centralslice.data.volume import Volume
from centralslice.errors import FormatError, ParameterError
from centralslice.fourier.grid import fast_even_size
from centralslice.optics.ctf import electron_wavelength

#: Where the kept part's centre is: of density, of the mask, x y z in pixels from the box centre, or no recentring.
CentreChoice: TypeAlias = Literal["density", "mask", "none"] | tuple[float, float, float]

#: Sharper edges of the subtracted part leak past the resolution limit.
SHARPEST_EDGE_PX = 3.0
#: Voxel sizes that differ by less than this fraction are the same.
_SAME_VOXEL = 1e-3
#: The kept part's diameter holds this fraction of its mask.
_MASS_INSIDE = 0.98
_BOX_PER_DIAMETER = 1.5


@dataclass(frozen=True, slots=True)
class MaskReport:
    """Sizes of the masks.

    Attributes
    ----------
    kept_voxels, subtracted_voxels
        Sums of the masks; kept is 0 if only the subtracted part is known.
    kept_energy, subtracted_energy
        Fractions of Σ V² within each.
    edge_width_px
        Mean distance between the 10 % and 90 % levels of the subtracted part's mask.
    warnings
        For the user.
    """

    kept_voxels: float
    subtracted_voxels: float
    kept_energy: float
    subtracted_energy: float
    edge_width_px: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fit_mask(
    mask: Volume, box: int, voxel_size_angst: float, name: str
) -> tuple[FloatArray, tuple[str, ...]]:
    """A mask on the map's grid, clipped to 0 … 1.

    Parameters
    ----------
    mask
        As read.
    box, voxel_size_angst
        Of the map.
    name
        Its file, for messages.

    Returns
    -------
    data
        (box, box, box) float32; where another box or voxel size was resampled (trilinear, about the centre), 0
        beyond the mask's own box.
    notes
        What was done to it.

    Raises
    ------
    FormatError
        If the mask is not a cube or holds numbers that are not finite.
    """
    data = np.asarray(mask.data, np.float32)
    if data.ndim != 3 or len(set(data.shape)) != 1:
        raise FormatError(f"{name}: expected a cubic mask, got {data.shape}; clip or pad it to a cube")
    if not np.isfinite(data).all():
        raise FormatError(f"{name}: mask has voxels that are not finite numbers; make it again")
    notes: list[str] = []
    if data.min() < -0.01 or data.max() > 1.01:
        notes.append(f"{name}: values {data.min():.3g} … {data.max():.3g} clipped to 0 … 1")
    ratio = voxel_size_angst / mask.voxel_size_angst if mask.voxel_size_angst > 0 else 1.0
    if abs(ratio - 1) < _SAME_VOXEL:
        ratio = 1.0
    size = data.shape[0]
    if size != box or ratio != 1:
        notes.append(
            f"{name}: box {size} at {mask.voxel_size_angst:.4g} Å resampled to the map's {box} at "
            f"{voxel_size_angst:.4g} Å"
        )
        data = scipy.ndimage.affine_transform(
            data, np.full(3, ratio), centre_of(size) - ratio * centre_of(box), (box,) * 3, order=1
        )
    return np.clip(data, 0, 1), tuple(notes)


def exclusion_mask(
    keep: FloatArray | None, subtract: FloatArray | None, outer: FloatArray | None
) -> FloatArray:
    """E (n, n, n) float32.

    Parameters
    ----------
    keep, subtract
        Exactly one of them: mask of what is kept, or E itself.
    outer
        M_all, or None for everything; not used with ``subtract``.

    Raises
    ------
    ParameterError
        If not exactly one is given, or E is 0 or 1 everywhere.
    """
    if (keep is None) == (subtract is None):
        raise ParameterError("subparticles: expected either --subunitmask or --subtractmask")
    if subtract is not None:
        excluded = np.clip(subtract, 0, 1).astype(np.float32)
    else:
        kept = np.clip(np.asarray(keep, np.float32), 0, 1)
        excluded = 1 - kept if outer is None else np.clip(outer, 0, 1).astype(np.float32) * (1 - kept)
    if not np.any(excluded > 0):
        raise ParameterError(
            "subparticles: nothing is left to subtract, the mask of the subtracted part is 0 everywhere; "
            "check --subunitmask (1 where density is kept) against --maskall"
        )
    if np.all(excluded == 1):
        raise ParameterError(
            "subparticles: nothing is kept, the mask of the subtracted part is 1 everywhere; check --subunitmask"
        )
    return excluded


def whole_mask(keep: FloatArray | None, excluded: FloatArray, outer: FloatArray | None) -> FloatArray | None:
    """Mask of the whole map as the images show it: kept and subtracted part; None for everything."""
    if keep is not None:
        return np.clip(keep + excluded, 0, 1)
    return outer


def mask_report(density: FloatArray, keep: FloatArray | None, excluded: FloatArray) -> MaskReport:
    """Numbers of the masks on a map, all (n, n, n)."""
    energy = float(np.vdot(density, density).real) or 1.0
    width = edge_width(excluded)
    warnings: list[str] = []
    if width < SHARPEST_EDGE_PX:
        warnings.append(
            f"the subtracted part's mask has an edge of {width:.1f} voxels between 10 and 90 %: sharp cuts leak past "
            f"the resolution limit; soften it to {SHARPEST_EDGE_PX:.0f} or more"
        )

    def share(mask: FloatArray) -> float:
        part = density * mask
        return float(np.vdot(part, part).real) / energy

    return MaskReport(
        0.0 if keep is None else float(keep.sum(dtype=np.float64)), float(excluded.sum(dtype=np.float64)),
        0.0 if keep is None else share(keep), share(excluded), width, tuple(warnings),
    )  # fmt: skip


def edge_width(mask: FloatArray) -> float:
    """Mean width of the edge between levels 0.1 and 0.9, voxels; 0 for a binary mask.

    Notes
    -----
    Volume between the levels over the mean area of the level surfaces, ``∫ |∇m| dV`` (coarea formula).
    """
    gradients = np.gradient(mask.astype(np.float32, copy=False))
    area = float(np.sqrt(sum(part * part for part in gradients)).sum(dtype=np.float64))
    between = np.count_nonzero((mask > 0.1) & (mask < 0.9)) / 0.8
    return 0.8 * between / area if area > 0 else 0.0


def kept_centre(density: FloatArray, keep: FloatArray | None, choice: CentreChoice) -> FloatArray:
    """Centre of the kept part: (3,) float64 x, y, z in pixels from the box centre.

    Parameters
    ----------
    density, keep
        (n, n, n) map and mask; negative density does not count.
    choice
        ``none`` is the box centre.

    Raises
    ------
    ParameterError
        If there is no mask, or nothing in it, to find the centre of.
    """
    if choice == "none":
        return np.zeros(3)
    if isinstance(choice, tuple):
        return np.asarray(choice, np.float64)
    if keep is None:
        raise ParameterError("--center: without --subunitmask the centre must be given as x,y,z, or none")
    weights = keep if choice == "mask" else np.maximum(density, 0) * keep
    total = float(weights.sum(dtype=np.float64))
    if not total > 0:
        raise ParameterError(f"--center {choice}: there is no density in the kept mask; give x,y,z")
    axis = np.arange(len(weights)) - centre_of(len(weights))
    sums = [float(weights.sum(axis=other, dtype=np.float64) @ axis) for other in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / total


def kept_diameter_px(keep: FloatArray) -> float:
    """Diameter about the mask's centre that holds 98 % of it, voxels."""
    centre = kept_centre(keep, keep, "mask")[::-1] + centre_of(len(keep))
    axes = [(np.arange(len(keep)) - middle) ** 2 for middle in centre]
    radius = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2]).astype(np.int64)
    mass = np.cumsum(np.bincount(radius.ravel(), keep.ravel()))
    return 2.0 * float(np.searchsorted(mass, _MASS_INSIDE * mass[-1]) + 1)


def default_box(keep: FloatArray, delocalised_px: float = 0.0, parent_box: int | None = None) -> int:
    """Next fast even size for the kept part: 1.5 diameters and the delocalisation on both sides.

    Parameters
    ----------
    keep
        (n, n, n) mask.
    delocalised_px
        Room for what the CTF spreads, on each side.
    parent_box
        It is not made larger than this, or None.
    """
    size = fast_even_size(math.ceil(_BOX_PER_DIAMETER * kept_diameter_px(keep) + 2 * delocalised_px))
    return size if parent_box is None else min(size, parent_box)


def delocalisation_px(optics: OpticsGroup, defocus_angst: float, resolution_angst: float) -> float:
    """How far the CTF spreads signal of a resolution, pixels: ``λ · defocus · s``."""
    wavelength = electron_wavelength(optics.voltage_kv)
    return wavelength * abs(defocus_angst) / resolution_angst / optics.pixel_size_angst


def halves_agreement(first: FloatArray, second: FloatArray) -> float:
    """Correlation coefficient of two maps; near 0 or less if they are not in one frame."""
    a, b = first - first.mean(dtype=np.float64), second - second.mean(dtype=np.float64)
    power = math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))
    return float(np.vdot(a, b)) / power if power > 0 else 0.0
