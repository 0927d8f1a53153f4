"""Every reconstructor of the catalogue keeps the laws, EMAN2's modes in both flavours."""

from __future__ import annotations

from typing import ClassVar

from centralslice.abc.reconstructor import Reconstructor
from centralslice.testing.reconstructor import ReconstructorContract
from centralslice_plugins.reconstructors import RECONSTRUCTORS
from centralslice_plugins.reconstructors.eman2_modes import (
    Gauss2,
    Gauss3,
    Gauss5,
    GaussVar,
    NearestNeighbor,
    Trilinear,
)
from centralslice_plugins.reconstructors.fourier_iter import Iterative
from centralslice_plugins.reconstructors.kaiser_bessel import KaiserBessel
from centralslice_plugins.reconstructors.relion_tomo import RelionTomo


class TestNearestNeighbor(ReconstructorContract):
    def make(self) -> Reconstructor:
        return NearestNeighbor()


class TestTrilinear(ReconstructorContract):
    def make(self) -> Reconstructor:
        return Trilinear()


class TestGauss2(ReconstructorContract):
    def make(self) -> Reconstructor:
        return Gauss2()


class TestGauss3(ReconstructorContract):
    def make(self) -> Reconstructor:
        return Gauss3()


class TestGauss5(ReconstructorContract):
    def make(self) -> Reconstructor:
        return Gauss5()


class TestGaussVar(ReconstructorContract):
    def make(self) -> Reconstructor:
        return GaussVar()


class TestIterative(ReconstructorContract):
    def make(self) -> Reconstructor:
        return Iterative()


class TestKaiserBessel(ReconstructorContract):
    # its refinement filters a seed that the window's profile has shaped already
    seed_tolerance: ClassVar[float | None] = 0.15

    def make(self) -> Reconstructor:
        return KaiserBessel()


class TestRelionTomo(ReconstructorContract):
    """RELION garbles odd boxes, pads nothing and knows no seed."""

    refuses_odd_boxes: ClassVar[bool] = True
    refuses_padding: ClassVar[bool] = True
    map_tolerance: ClassVar[float] = 0.2
    seed_tolerance: ClassVar[float | None] = None

    def make(self) -> Reconstructor:
        return RelionTomo()


class CompatContract(ReconstructorContract):
    """EMAN2 distorts odd boxes, doubles a seed's mean and corrects it for a kernel it has not seen."""

    refuses_odd_boxes: ClassVar[bool] = True
    seed_tolerance: ClassVar[float | None] = None


class TestCompatNearestNeighbor(CompatContract):
    map_tolerance: ClassVar[float] = 0.2

    def make(self) -> Reconstructor:
        return NearestNeighbor(compat=True)


class TestCompatTrilinear(CompatContract):
    map_tolerance: ClassVar[float] = 0.4

    def make(self) -> Reconstructor:
        return Trilinear(compat=True)


class TestCompatGauss2(CompatContract):
    map_tolerance: ClassVar[float] = 0.2

    def make(self) -> Reconstructor:
        return Gauss2(compat=True)


class TestCompatGauss3(CompatContract):
    map_tolerance: ClassVar[float] = 0.6

    def make(self) -> Reconstructor:
        return Gauss3(compat=True)


class TestCompatGauss5(CompatContract):
    map_tolerance: ClassVar[float] = 0.4

    def make(self) -> Reconstructor:
        return Gauss5(compat=True)


class TestCompatGaussVar(CompatContract):
    map_tolerance: ClassVar[float] = 0.3

    def make(self) -> Reconstructor:
        return GaussVar(compat=True)


class TestCompatIterative(CompatContract):
    map_tolerance: ClassVar[float] = 0.4

    def make(self) -> Reconstructor:
        return Iterative(compat=True)


def test_no_reconstructor_of_the_catalogue_is_left_out() -> None:
    tested = {
        kind().make().plugin_name
        for kind in globals().values()
        if isinstance(kind, type) and kind.__name__.startswith("Test")
    }
    assert tested == {description.name for description in RECONSTRUCTORS}
