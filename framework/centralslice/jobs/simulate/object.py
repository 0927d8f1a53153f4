"""What is simulated: random Gaussians, or the atoms of a PDB or mmCIF file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from centralslice.abc.symmetry import Symmetry
from centralslice.conventions import FloatArray
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """The object.

    Attributes
    ----------
    gaussians
        Number of random Gaussians (in the asymmetric unit).
    radius_angst
        Their centres are in a ball of this radius.
    sigma_range_angst
        Their smallest and largest sigma.
    model
        A PDB or mmCIF file (also .gz) to take atoms from instead.
    resolution_angst
        Each atom is a Gaussian whose transform is 1/e at this resolution: sigma = resolution / (π √2).
    """

    gaussians: int
    radius_angst: float
    sigma_range_angst: tuple[float, float]
    model: Path | None = None
    resolution_angst: float = 6.0


def make_object(settings: ObjectSettings, seed: int, symmetry: Symmetry | None = None) -> GaussianPhantom:
    """The object, with all its symmetry copies.

    Raises
    ------
    ParameterError, FileMissingError, FormatError
        If settings are out of range or the model cannot be read.

    Notes
    -----
    A model without symmetry is moved so that its centre of mass is the centre of the box. With a symmetry
    it is the asymmetric unit: it keeps its own coordinates, the symmetry axes meeting at 0, 0, 0.
    """
    trivial = symmetry is None or symmetry.order == 1
    if settings.model is None:
        unit = random_phantom(
            settings.gaussians, settings.sigma_range_angst, settings.radius_angst, [seed, 3]
        )
    else:
        unit = atoms(settings.model, settings.resolution_angst, centre=trivial)
    return unit if symmetry is None or trivial else unit.symmetrised(symmetry)


def atoms(path: Path, resolution_angst: float, centre: bool = True) -> GaussianPhantom:
    """The atoms of the first model of a PDB or mmCIF file as Gaussians.

    Parameters
    ----------
    path
        File.
    resolution_angst
        See :class:`ObjectSettings`; > 0.
    centre
        Move the centre of mass to 0.

    Returns
    -------
        Each integrates to atomic number times occupancy (per Å³ of density).

    Raises
    ------
    ParameterError
        If the resolution is not positive.
    FileMissingError, FormatError
        If the file is absent, not a model, or without atoms.
    """
    if not resolution_angst > 0 or not math.isfinite(resolution_angst):
        raise ParameterError(f"resolution: expected more than 0 Å, got {resolution_angst}")
    positions, charges = _read_atoms(path)
    if centre:
        positions = positions - (charges[:, None] * positions).sum(axis=0) / charges.sum()
    sigma = resolution_angst / (math.pi * math.sqrt(2))
    heights = charges / (math.sqrt(2 * math.pi) * sigma) ** 3
    return GaussianPhantom(positions, np.full(len(charges), sigma), heights)


def _read_atoms(path: Path) -> tuple[FloatArray, FloatArray]:
    """(a, 3) positions in Å and (a,) atomic numbers times occupancies."""
    if not path.is_file():
        raise FileMissingError(f"{path}: model file does not exist")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: expected a PDB or mmCIF file: {reason}") from error
    found = [
        (*atom.pos.tolist(), atom.element.atomic_number * atom.occ)
        for model in list(structure)[:1]
        for chain in model
        for residue in chain
        for atom in residue
    ]
    table = np.array(found, np.float64).reshape(-1, 4)
    table = table[table[:, 3] > 0]
    if not len(table):
        raise FormatError(f"{path}: expected a PDB or mmCIF file with atoms, found none")
    if not np.all(np.isfinite(table)):
        raise FormatError(f"{path}: an atom's position or occupancy is not a finite number")
    return table[:, :3], table[:, 3]
