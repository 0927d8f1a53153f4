"""MRC headers: read, check against the file's size, and make.

Format: MRC2014 (Cheng et al. 2015, J. Struct. Biol. 192, 146) with its ancestors (CCP4 maps, IMOD stacks).
Byte order and validity are judged by the header's numbers; the machine stamp and ``MAP `` only break
ties, since many programs leave them out or write them wrongly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from centralslice import __version__
from centralslice.errors import FileMissingError, FormatError

HEADER_BYTES = 1024
SUFFIXES = (".mrc", ".mrcs", ".map", ".st", ".rec", ".ali", ".preali", ".ccp4")

MODE_DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        0: np.dtype(np.int8),
        1: np.dtype(np.int16),
        2: np.dtype(np.float32),
        6: np.dtype(np.uint16),
        12: np.dtype(np.float16),
        101: np.dtype(np.uint8),
    }
)
_REFUSED_MODES = {3: "complex int16", 4: "complex float32 (a transform)", 16: "RGB colour"}
_FOUR_BIT = 101
#: IMOD's own stamp and the flag bit which says that bytes are signed.
_IMOD_STAMP = 1146047817
_IMOD_SIGNED = 1
#: Word 39 and 40 of the header are IMOD's stamp and flags: byte 48 of the 100 "extra" bytes at 96.
_IMOD_OFFSET = 152
_LARGEST_AXIS = 1 << 24


@dataclass(frozen=True, slots=True)
class MrcHeader:
    """A checked header: everything it says fits into the file.

    Attributes
    ----------
    shape
        (nz, ny, nx) as stored: sections, rows, columns.
    dtype
        Stored dtype including the byte order; uint8 for the packed 4-bit mode.
    mode
        MRC mode number.
    offset
        Bytes before the data.
    axes
        Which of x, y, z (0, 1, 2) columns, rows and sections are.
    voxel_angst
        x, y, z voxel size, Å; 0 where the header does not say.
    origin_angst
        Position of the first voxel, x, y, z, Å.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    mode: int
    offset: int
    axes: tuple[int, int, int]
    voxel_angst: tuple[float, float, float]
    origin_angst: tuple[float, float, float]

    @property
    def packed(self) -> bool:
        """Whether two values share a byte (mode 101)."""
        return self.mode == _FOUR_BIT

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return (self.shape[2] + 1) // 2 if self.packed else self.shape[2] * self.dtype.itemsize

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return self.shape[1] * self.row_bytes

    @property
    def data_bytes(self) -> int:
        """Bytes of all sections."""
        return self.shape[0] * self.section_bytes


def read_header(path: Path) -> MrcHeader:
    """Read the header of a file and check it against the file's size.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FormatError
        If it is no MRC file, its mode is not supported or it is shorter than its header says.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise FileMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    if not size:
        raise FormatError(f"{path}: is empty (0 bytes); an MRC file has a header of {HEADER_BYTES} bytes")
    if len(raw) < HEADER_BYTES:
        raise FormatError(f"{path}: has {len(raw)} bytes; an MRC header alone takes {HEADER_BYTES}")
    header = _checked(path, raw)
    needed = header.offset + header.data_bytes
    if size < needed:
        nz, ny, nx = header.shape
        raise FormatError(
            f"{path}: is truncated or its header is wrong: the header says {nx} x {ny} x {nz} values of mode "
            f"{header.mode}, {needed} bytes with header, but the file has {size} bytes; copy it again"
        )
    return header


def looks_like_mrc(path: Path) -> bool:
    """Whether the first 1024 bytes of a file can be an MRC header; never raises on content."""
    try:
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
    except OSError:
        return False
    if len(raw) < HEADER_BYTES:
        return False
    return _fields(raw) is not None


def _fields(raw: bytes) -> NDArray[Any] | None:
    """The header in the byte order in which it makes sense, or None."""
    orders = "><" if raw[212:214] == b"\x11\x11" else "<>"
    found = [fields for fields in (_in_order(raw, order) for order in orders) if _plausible(fields)]
    if not found:
        return None
    # A header of zeros apart from sizes makes sense both ways: the smaller sizes are the right ones.
    return min(found, key=lambda fields: int(fields["nx"]) + int(fields["ny"]) + int(fields["nz"]))


def _in_order(raw: bytes, order: str) -> NDArray[Any]:
    return np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]  # type: ignore[no-any-return]


def _plausible(fields: NDArray[Any]) -> bool:
    sizes = all(0 < int(fields[name]) < _LARGEST_AXIS for name in ("nx", "ny", "nz"))
    mode = int(fields["mode"]) in MODE_DTYPES or int(fields["mode"]) in _REFUSED_MODES
    axes = all(0 <= int(fields[name]) <= 3 for name in ("mapc", "mapr", "maps"))
    return sizes and mode and axes


def _checked(path: Path, raw: bytes) -> MrcHeader:
    fields = _fields(raw)
    if fields is None:
        seen = np.frombuffer(raw, "<i4", 4)
        raise FormatError(
            f"{path}: is not an MRC file: nx, ny, nz, mode = {', '.join(map(str, seen))} make no sense "
            "in either byte order"
        )
    mode = int(fields["mode"])
    if mode in _REFUSED_MODES:
        known = ", ".join(map(str, MODE_DTYPES))
        raise FormatError(
            f"{path}: mode {mode}, {_REFUSED_MODES[mode]}, is not supported (supported: {known})"
        )
    extended = int(fields["nsymbt"])
    if extended < 0:
        raise FormatError(
            f"{path}: its header says that the extended header has {extended} bytes; repair the header"
        )
    order: Literal["<", ">"] = "<" if fields.dtype["nx"] == np.dtype("<i4") else ">"
    dtype = MODE_DTYPES[mode]
    if mode == 0 and _imod_unsigned(raw, order):
        dtype = np.dtype(np.uint8)
    axes = _axes(path, fields)
    voxel = _voxel_sizes(fields, axes)
    return MrcHeader(
        shape=(int(fields["nz"]), int(fields["ny"]), int(fields["nx"])),
        dtype=dtype.newbyteorder(order),
        mode=mode,
        offset=HEADER_BYTES + extended,
        axes=axes,
        voxel_angst=voxel,
        origin_angst=_origin(fields, axes, voxel),
    )


def _imod_unsigned(raw: bytes, order: str) -> bool:
    """Whether IMOD wrote the file and did not set its flag for signed bytes."""
    stamp, flags = np.frombuffer(raw, order + "i4", 2, _IMOD_OFFSET)
    return bool(stamp == _IMOD_STAMP and not flags & _IMOD_SIGNED)


def _axes(path: Path, fields: NDArray[Any]) -> tuple[int, int, int]:
    """0-based mapc, mapr, maps; all zero (old programs) means the usual order."""
    given = (int(fields["mapc"]), int(fields["mapr"]), int(fields["maps"]))
    if given == (0, 0, 0):
        return (0, 1, 2)
    if sorted(given) != [1, 2, 3]:
        raise FormatError(f"{path}: mapc, mapr, maps = {given} in the header are not an order of 1, 2, 3")
    return (given[0] - 1, given[1] - 1, given[2] - 1)


def _voxel_sizes(fields: NDArray[Any], axes: tuple[int, int, int]) -> tuple[float, float, float]:
    """x, y, z voxel sizes: cell / m, or 0 where that is not a positive number.

    Where m is 1 (stacks) or 0 on an axis of several voxels, RELION and EMAN2 mean n.
    """
    stored = {axis: int(fields[name]) for axis, name in zip(axes, ("nx", "ny", "nz"), strict=True)}
    sizes = []
    for axis, name in enumerate("xyz"):
        cell, intervals = float(fields["cella"][name]), int(fields[f"m{name}"])
        if name == "z" and intervals == 1 and stored[axis] > 1 and int(fields["mx"]) > 1:
            intervals = stored[axis]
        usable = np.isfinite(cell) and cell > 0 and intervals > 0
        sizes.append(cell / intervals if usable else 0.0)
    return (sizes[0], sizes[1], sizes[2])


def _origin(
    fields: NDArray[Any], axes: tuple[int, int, int], voxel: tuple[float, float, float]
) -> tuple[float, float, float]:
    """ORIGIN where it is set, otherwise the start numbers times the voxel size, x, y, z."""
    origin = [float(fields["origin"][name]) for name in "xyz"]
    if any(origin) and all(np.isfinite(origin)):
        return (origin[0], origin[1], origin[2])
    starts = [0.0, 0.0, 0.0]
    for axis, name in zip(axes, ("nxstart", "nystart", "nzstart"), strict=True):
        starts[axis] = int(fields[name]) * (voxel[axis] or voxel[0] or 1.0)
    return (starts[0], starts[1], starts[2])


@dataclass(frozen=True, slots=True)
class Statistics:
    """Smallest, largest and mean value and the deviation from the mean."""

    minimum: float
    maximum: float
    mean: float
    rms: float


@dataclass(frozen=True, slots=True)
class NewHeader:
    """What a header that is to be written says; ``shape`` is (nz, ny, nx)."""

    shape: tuple[int, int, int]
    mode: int
    voxel_size_angst: float
    is_stack: bool
    statistics: Statistics
    origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0)


def header_bytes(header: NewHeader) -> bytes:
    """The 1024 bytes of a little-endian MRC2014 header with one label.

    Maps have ISPG 1 and mz = nz; stacks ISPG 0 and mz = 1. Starts are 0.
    """
    fields = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    nz, ny, nx = header.shape
    intervals = (nx, ny, 1 if header.is_stack else nz)
    for name, size, interval in zip("xyz", (nx, ny, nz), intervals, strict=True):
        fields[f"n{name}"] = size
        fields[f"m{name}"] = interval
        fields["cella"][name] = interval * header.voxel_size_angst
        fields["origin"][name] = header.origin_angst["xyz".index(name)]
    for name in ("alpha", "beta", "gamma"):
        fields["cellb"][name] = 90.0
    fields["mapc"], fields["mapr"], fields["maps"] = 1, 2, 3
    fields["mode"] = header.mode
    fields["ispg"] = 0 if header.is_stack else 1
    fields["nversion"] = 20141
    fields["map"] = b"MAP "
    fields["machst"] = (0x44, 0x44, 0, 0)
    fields["dmin"], fields["dmax"] = header.statistics.minimum, header.statistics.maximum
    fields["dmean"], fields["rms"] = header.statistics.mean, header.statistics.rms
    fields["nlabl"] = 1
    # No date: the same run writes the same bytes.
    fields["label"][0] = f"centralslice {__version__} {'image stack' if header.is_stack else 'map'}".encode()
    return fields.tobytes()
