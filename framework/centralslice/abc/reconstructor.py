"""The reconstructor contract: sums that add, and the map that they finish to.

Laws, tested by :class:`centralslice.testing.reconstructor.ReconstructorContract` for every registered one:
additive over batches and halves; independent of order; affine in the values for a fixed context;
the same result for any split into z ranges; odd and even boxes; an empty batch changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from centralslice.conventions import FloatArray
from centralslice.data.slices import SliceBatch, Sums
from centralslice.data.volume import Volume

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Runs a function on every item, maybe in several threads; results in the order of the items.
ParallelMap: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def serial_map(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The ParallelMap of a single thread."""
    return [function(item) for item in items]


@dataclass(frozen=True, slots=True)
class MapGeometry:
    """The map that is wanted.

    Attributes
    ----------
    image_size
        Size in pixels of the particle images before padding: the box the map is right in.
    slice_size
        Size of the padded images that are inserted (``--pad``); ``image_size`` if not padded.
    voxel_size_angst
        Voxel size of the map, Å.
    padded_size
        Fourier volume size the user asked for (``--padvol``), or None for the reconstructor's choice.
    precision
        float32 or float64: dtype of samples and sums.
    max_radius
        Largest frequency wanted, in cycles per ``image_size`` box (``--maxres``), or None for Nyquist.
    integer_sums
        Sums are whole multiples of PassContext.quanta; only asked of a reconstructor that offers it.
    """

    image_size: int
    slice_size: int
    voxel_size_angst: float
    padded_size: int | None = None
    precision: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    max_radius: float | None = None
    integer_sums: bool = False


@dataclass(frozen=True, slots=True)
class SumsPlan:
    """What a reconstructor will need, before anything is allocated.

    Attributes
    ----------
    shapes
        Name to shape of each array of the sums, axis 0 is z and has ``planes`` entries.
    dtype
        Of all sums.
    planes
        Number of z planes; the framework threads over disjoint ranges of them.
    finish_bytes
        Memory :meth:`Reconstructor.finish` needs on top of the sums, result included.
    passes
        How often the particles are gone through.
    needs
        Of ``{"ssnr"}``: what must be there.
    """

    shapes: dict[str, tuple[int, ...]]
    dtype: np.dtype[Any]
    planes: int
    finish_bytes: int
    passes: int = 1
    needs: frozenset[str] = frozenset()

    def zeros(self) -> Sums:
        """Sums of nothing."""
        return Sums({name: np.zeros(shape, self.dtype) for name, shape in self.shapes.items()})

    @property
    def nbytes(self) -> int:
        """Memory of one set of sums in bytes."""
        return (
            sum(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes.values()) * self.dtype.itemsize
        )


@dataclass(frozen=True, slots=True)
class Seed:
    """A map added to the sums at finish as if it had been measured.

    ``data`` is the map (z, y, x), centred; ``weight`` its weight in Σ CTF² units: one number, or a
    (z, y, x // 2 + 1) array of the box of the map, zero frequency at index (n // 2, n // 2, 0).
    """

    data: FloatArray
    weight: float | FloatArray


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may read, the same for every worker.

    Attributes
    ----------
    geometry
        The wanted map.
    plan
        The reconstructor's own plan.
    pass_number
        0-based.
    reference
        The map of the previous pass (or the seed at pass 0), or None.
    seed
        Seed to be added at finish, or None.
    wiener_snr
        Constant of ``W / (W + 1/SNR)``, W = Σ CTF²; None for no Wiener term.
    ctf_weighted
        Whether the weights are CTF² (their zeros need a floor) or plain.
    grid_symmetry
        (n, 3, 3) operators, identity first, that the reconstructor must average over at finish
        because the slices were not inserted under them; only given to a reconstructor whose
        ``symmetrises_grid`` is True.
    symmetry_copies
        (n, 3, 3) rotations and (n, 3) translations in Å of all operators, identity first, as
        :class:`centralslice.abc.symmetry.Symmetry` has them, that the reconstructor must average its sums over at
        finish because the slices were inserted once each; only given to a reconstructor whose
        ``symmetrises_sums`` is True.
    iteration_mask
        Real-space mask (z, y, x), centred, that an iterative reconstructor keeps the map within, or None.
    parallel
        Threads for finish.
    quanta
        With integer sums: what one unit of a value, a weight and a plain weight stands for; powers of two.
    """

    geometry: MapGeometry
    plan: SumsPlan
    pass_number: int = 0
    reference: FloatArray | None = None
    seed: Seed | None = None
    wiener_snr: float | None = None
    ctf_weighted: bool = False
    grid_symmetry: FloatArray | None = None
    symmetry_copies: tuple[FloatArray, FloatArray] | None = None
    iteration_mask: FloatArray | None = None
    parallel: ParallelMap = serial_map
    quanta: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class NextPass:
    """Asked for by ``finish``: go through the particles again with this reference map."""

    reference: FloatArray


@dataclass(frozen=True, slots=True)
class WeightMap:
    """Σ CTF² of the unpadded box: ``data`` (z, y, x // 2 + 1), zero frequency at (n // 2, n // 2, 0)."""

    data: FloatArray


class Reconstructor(ABC):
    """Accumulates slices in Fourier space and finishes them to a map; a frozen dataclass of parameters."""

    plugin_name: ClassVar[str]
    #: Whether ``finish`` averages over PassContext.grid_symmetry (operators that map the grid onto itself).
    symmetrises_grid: ClassVar[bool] = False
    #: Whether ``finish`` averages over PassContext.symmetry_copies (any operators, by interpolation of the sums).
    symmetrises_sums: ClassVar[bool] = False
    #: Whether it can add into integers (MapGeometry.integer_sums): exact, so the same in any order.
    offers_integer_sums: ClassVar[bool] = False
    #: Whether each slice is inserted as EMAN2 prepares it (see fourier.prepare); only for --compat eman2.
    eman2_slices: ClassVar[bool] = False
    #: Whether slices keep Friedel mates, Nyquist row and column, in RELION's tomo scaling; for --compat relion.
    relion_tomo_slices: ClassVar[bool] = False

    @abstractmethod
    def plan(self, geometry: MapGeometry) -> SumsPlan:
        """Arrays, memory and passes for this geometry; raises ParameterError if it cannot."""

    @abstractmethod
    def insert(self, batch: SliceBatch, sums: Sums, context: PassContext, z_range: tuple[int, int]) -> None:
        """Add a batch to the planes ``z_range[0] … z_range[1] − 1`` of the sums, and to no others.

        Called at the same time from several threads with disjoint ranges. The additions to any one
        voxel must come in an order that does not depend on the ranges.
        """

    def quanta(
        self, sample: Sequence[SliceBatch], share: float, block_share: float, geometry: MapGeometry
    ) -> tuple[float, float, float]:
        """Powers of two for the units of integer sums, from a sample of the batches.

        Parameters
        ----------
        sample
            Some batches, spread over the particles.
        share
            Slices of the sample over slices of the run, 0 … 1.
        block_share
            Slices of one block over slices of the run, 0 … 1.
        geometry
            With ``integer_sums``.
        """
        raise NotImplementedError(f"{self.plugin_name} has no integer sums")

    def largest_change(self, batch: SliceBatch, context: PassContext) -> float:
        """Upper bound, in units, of what a batch can change any number of integer sums by."""
        raise NotImplementedError(f"{self.plugin_name} has no integer sums")

    @abstractmethod
    def finish(self, sums: Sums, context: PassContext) -> Volume | NextPass:
        """The map, or a request for another pass. Does not change the sums."""

    @abstractmethod
    def weight_map(self, sums: Sums, context: PassContext) -> WeightMap:
        """Σ CTF² per voxel of the unpadded box, any density weight divided out (``--savenorm``)."""

    def data_map(self, sums: Sums, context: PassContext) -> FloatArray | None:
        """The map of the numerator alone, not divided by the weights, (n, n, n) of the unpadded box, centred.

        None, the default: the framework takes the map without a Wiener term times the weight map, in Fourier space.
        """
        return None
