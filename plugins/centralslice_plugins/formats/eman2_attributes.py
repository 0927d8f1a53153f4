"""EMAN2's attribute objects: Transforms and CTFs, and what they mean in centralslice's conventions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from centralslice.abc.reader import ShiftConvention
from centralslice.conventions import BoolArray, FloatArray
from centralslice.geometry.rotations import fold_mirror

#: Scales this near to 1 are rounding of float32 or of six printed digits.
_SCALE_ROUNDING = 1e-5
#: A matrix further than this from a scaled rotation is no orientation.
_ROTATION_TOLERANCE = 1e-3

_CTF_NUMBERS = 8

#: Members of the HDF5 compound and their order: row by row of the 3×4 matrix.
TRANSFORM_DTYPE = np.dtype([(f"{row}{column}", "<f4") for row in range(3) for column in range(4)])


@dataclass(frozen=True, slots=True)
class Transform:
    """An EMAN2 Transform: (3, 4) float64 ``[A | t]`` as stored, ``x' = A x + t``, t in pixels.

    ``A = Mx s R`` and the stored ``t = Mx t'``, with ``Mx = diag(−1, 1, 1)`` if it mirrors.
    """

    matrix: FloatArray

    @classmethod
    def from_numbers(cls, numbers: Sequence[float] | NDArray[Any]) -> Transform:
        """From 12 numbers, row by row.

        Raises
        ------
        ValueError
            If there are not 12 numbers.
        """
        values = np.array([float(number) for number in np.ravel(np.asarray(numbers))])
        if values.shape != (12,):
            raise ValueError(f"a Transform has 12 numbers, got {values.size}")
        return cls(values.reshape(3, 4))

    def as_compound(self) -> NDArray[Any]:
        """(1,) record array as HDF5 files hold it."""
        return np.ascontiguousarray(self.matrix.ravel(), np.float32).view(TRANSFORM_DTYPE)


def faulty_transforms(matrices: FloatArray) -> BoolArray:
    """Which of (n, 3, 4) Transforms are not finite or not a scaled, maybe mirrored, rotation."""
    finite: BoolArray = np.all(np.isfinite(matrices), axis=(1, 2))
    linear = np.where(finite[:, None, None], matrices[..., :3], 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        determinant = np.linalg.det(linear)
    usable = np.isfinite(determinant) & (np.abs(determinant) > 0)
    scale = np.cbrt(np.abs(np.where(usable, determinant, 1.0)))
    unit = np.where(usable[:, None, None], linear, np.eye(3)) / scale[:, None, None]
    deviation = np.abs(np.swapaxes(unit, 1, 2) @ unit - np.eye(3)).max(axis=(1, 2))
    result: BoolArray = ~usable | (deviation > _ROTATION_TOLERANCE)
    return result


def poses_from_transforms(matrices: FloatArray, convention: ShiftConvention) -> tuple[FloatArray, FloatArray]:
    """Poses of Transforms that are not faulty.

    Parameters
    ----------
    matrices
        (n, 3, 4) as stored.
    convention
        ``projection``: the Transform takes the map to the image. ``recentre``: its shift, scale and mirror
        are what is done to the image to bring it onto the projection of the map rotated by R.

    Returns
    -------
    rotations
        (n, 3, 3) float64: the nearest rotations times their scale, mirrors folded away.
    shifts
        (n, 2) float64, pixels.

    Notes
    -----
    projection: image point ``p = A r + t``, read off directly. recentre: ``Mx (s p + t') = R r``, so
    ``p = (Mx R r − t') / s``. Without scale and mirror that is the projection pose with −t.
    """
    proper, shifts = fold_mirror(matrices[..., :3], matrices[..., 3])
    scale = np.cbrt(np.linalg.det(proper))
    scale[np.abs(scale - 1) < _SCALE_ROUNDING] = 1.0
    left, _, right = np.linalg.svd(proper)
    rotations: FloatArray = left @ right
    if convention == "projection":
        return rotations * scale[:, None, None], shifts
    mirrored = np.linalg.det(matrices[..., :3]) < 0
    reported = shifts * np.where(mirrored[:, None], (-1.0, 1.0), (1.0, 1.0))
    return rotations / scale[:, None, None], -reported / scale[:, None]


@dataclass(frozen=True, slots=True)
class Eman2Ctf:
    """EMAN2's CTF parameters, in EMAN2's units.

    ``CTF = cos(γ − acos(ac)) exp(−B s² / 4)``, ``γ = π λ Δf(a) s² − (π/2) Cs λ³ s⁴``,
    ``Δf(a) = defocus + dfdiff/2 cos(2a − 2 dfang)``; equal to ``sin(γ + phase)`` with :attr:`phase_rad`.

    Attributes
    ----------
    defocus_um, dfdiff_um, dfang_deg
        Defocus (positive is underfocus) and astigmatism.
    bfactor_angst2, ampcont_percent, voltage_kv, cs_mm, apix_angst
        As named; an amplitude contrast beyond ±100 % stands for a larger phase shift.
    background_step, background, snr
        Curves that EMAN2 keeps with the CTF.
    """

    defocus_um: float
    dfdiff_um: float
    dfang_deg: float
    bfactor_angst2: float
    ampcont_percent: float
    voltage_kv: float
    cs_mm: float
    apix_angst: float
    background_step: float = 0.0
    background: tuple[float, ...] = ()
    snr: tuple[float, ...] = ()

    @property
    def phase_rad(self) -> float:
        """Phase shift of amplitude contrast and phase plate together, −π … π."""
        contrast = self.ampcont_percent / 100
        if contrast > 1:
            return math.pi - math.asin(max(-1.0, 2 - contrast))
        if contrast < -1:
            return -math.pi - math.asin(min(1.0, -2 - contrast))
        return math.asin(contrast)

    def as_text(self) -> str:
        """The string that EMAN2 stores."""
        numbers = (
            self.defocus_um, self.dfdiff_um, self.dfang_deg, self.bfactor_angst2, self.ampcont_percent,
            self.voltage_kv, self.cs_mm, self.apix_angst, self.background_step,
        )  # fmt: skip
        curves = (
            ",".join([str(len(curve)), *(f"{value:.3g}" for value in curve)])
            for curve in (self.background, self.snr)
        )
        return "E" + " ".join([*(f"{number:.10g}" for number in numbers), *curves])


def eman2_object(name: str, value: Any) -> Any:
    """A Transform or CTF of the plain numbers that stand for one; other values as they are.

    Parameters
    ----------
    name
        ``xform.*`` with 12 numbers, row by row, is a Transform; ``ctf`` with 8 (defocus µm, dfdiff µm, dfang °,
        bfactor Å², ampcont %, voltage kV, cs mm, apix Å) a CTF.

    Raises
    ------
    ValueError
        If such an array is of another size or the CTF not finite.
    """
    if not isinstance(value, (np.ndarray, list, tuple)):
        return value
    if name.startswith("xform."):
        return Transform.from_numbers(np.asarray(value))
    if name == "ctf":
        numbers = np.ravel(np.asarray(value)).tolist()
        if len(numbers) != _CTF_NUMBERS:
            raise ValueError(f"a CTF has {_CTF_NUMBERS} numbers, got {len(numbers)}")
        return _ctf_of([float(number) for number in numbers])
    return value


def is_ctf_text(text: str) -> bool:
    """Whether a string begins as those of EMAN2 (``E``) and EMAN1 (``O``) CTFs do."""
    return len(text) > 1 and text[0] in "EO" and (text[1].isdigit() or text[1] in "-+.")


def ctf_from_text(text: str) -> Eman2Ctf:
    """A CTF from EMAN2's or EMAN1's string; EMAN1's amplitude and noise figures do not belong to the CTF.

    Raises
    ------
    ValueError
        If the string is none.
    """
    words = text[1:].split()
    if text[:1] == "E" and len(words) >= 8:
        curves = [_curve(word) for word in words[9:11]] + [(), ()]
        step = float(words[8]) if len(words) > 8 else 0.0
        plain = _ctf_of([float(word) for word in words[:8]])
        return replace(plain, background_step=step, background=curves[0], snr=curves[1])
    if text[:1] == "O" and len(words) >= 11:
        old = [float(word) for word in words[:11]]
        return _ctf_of([-old[0], 0.0, 0.0, 4 * old[1], 100 * old[3], *old[8:]])
    raise ValueError(f"'{text[:40]}' is no CTF string of EMAN2 or EMAN1")


def ctf_from_mapping(given: Mapping[str, Any]) -> Eman2Ctf:
    """A CTF from the JSON object of a list file.

    Raises
    ------
    ValueError
        If a parameter is missing or not a number.
    """
    names = ("defocus", "dfdiff", "dfang", "bfactor", "ampcont", "voltage", "cs", "apix")
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"CTF without {missing[0]}")
    try:
        return _ctf_of([float(given[name]) for name in names])
    except TypeError as error:
        raise ValueError(f"CTF with a parameter that is not a number: {error}") from error


def _ctf_of(numbers: Sequence[float]) -> Eman2Ctf:
    """A CTF without curves of its eight numbers, in the order of the class."""
    defocus, difference, angle, bfactor, contrast, voltage, cs, apix = numbers
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("CTF with a parameter that is not finite")
    return Eman2Ctf(defocus, difference, angle, bfactor, contrast, voltage, cs, apix)


def _curve(word: str) -> tuple[float, ...]:
    """``n,v1,v2,…`` as n numbers."""
    count, *values = word.rstrip(",").split(",")
    if int(count) != len(values):
        raise ValueError(f"CTF curve of {count} values with {len(values)} of them")
    return tuple(float(value) for value in values)
