"""Accuracy of the modes, as printed in docs/explanation/accuracy.md.

Two noise-free phantoms (normalised rms error within 0.47 box), and, where the reference data are at hand,
FSC to truth: bgal at 75 % of Nyquist under a sphere of 0.4 box + 3 px; EMAN2's proj_c1 as mean of shells 1–23
under 16 + 3 px and 20 + 3 px; relion_spa (noise, CTF) as mean of shells 1–31 under 0.4 box + 3 px.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import scipy.fft
from measure import make3d, relion, run, table

from centralslice.fourier.grid import radius_of
from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere
from centralslice.fourier.transforms import crop_or_pad
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.jobs.simulate.particles import SimulationOutputs, SimulationSettings, write_simulation
from centralslice.plugin.registry import load_registry

MODES = (
    "kaiser_bessel",
    "kaiser_bessel:relaxation=1",
    "kaiser_bessel:refinements=4",
    "kaiser_bessel:refinements=0",
    "kaiser_bessel:width=2",
    "kaiser_bessel:width=4",
    "kaiser_bessel:oversampling=1.5",
    "kaiser_bessel:width=4:oversampling=1.25",
    "iterative",
    "nearest_neighbor",
    "trilinear",
    "gauss_2",
    "gauss_5",
    "gauss_var",
)
BOX, VIEWS, PIXEL = 128, 2000, 1.5


@dataclass(frozen=True)
class Set:
    """Particles, their truth, and the figures that compare a map with it."""

    particles: Path
    truth: Any
    options: tuple[str, ...] = ()
    rms: bool = False
    spheres: tuple[tuple[float, float], ...] = ()
    shells: slice | float = 0.75

    def figures(self, data: Any) -> list[str]:
        """rms error in per cent, or FSC under each sphere."""
        if self.rms:
            inside = radius_of(data.shape) < 0.47 * data.shape[0]
            error = data[inside] - self.truth[inside]
            return [f"{100 * np.sqrt(np.mean(error**2) / np.mean(self.truth[inside] ** 2)):.2f} %"]
        return [f"{self._correlation(data, *sphere):.4f}" for sphere in self.spheres]

    def _correlation(self, data: Any, radius: float, width: float) -> float:
        size = len(self.truth)
        values = fourier_shell_correlation(data, self.truth, 1.0, soft_sphere(size, radius, width)).values
        if isinstance(self.shells, slice):
            return float(values[self.shells].mean())
        return float(np.interp(self.shells * (len(values) - 1), np.arange(len(values)), values))


def phantom_set(folder: Path, sigmas_px: tuple[float, float], seed: int) -> Set:
    """200 Gaussians, centres in 0.42 box, 2000 random views with sub-pixel shifts; truth in the Nyquist sphere."""
    sigmas = (sigmas_px[0] * PIXEL, sigmas_px[1] * PIXEL)
    phantom = random_phantom(200, sigmas, 0.42 * BOX * PIXEL, seed)
    files = {"table": folder / "p.star", "stack": folder / "p.mrcs", "truth": folder / "p.mrc"}
    registry = load_registry()
    kinds = {"table": "table", "stack": "images", "truth": "volume"}
    writers = {name: registry.writer_for(path, kinds[name]) for name, path in files.items()}
    settings = SimulationSettings(VIEWS, BOX, PIXEL, seed, PIXEL, defocus_range_angst=None, half_sets=False)
    write_simulation(phantom, settings, SimulationOutputs(**files, writers=writers))
    return Set(files["table"], in_nyquist_sphere(phantom), rms=True)


def in_nyquist_sphere(phantom: GaussianPhantom) -> Any:
    """The phantom's map without frequencies beyond Nyquist, from one of half the voxel size."""
    fine = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(phantom.volume(2 * BOX, PIXEL / 2)))) / 8
    coarse = crop_or_pad(fine.real, (BOX,) * 3) + 1j * crop_or_pad(fine.imag, (BOX,) * 3)
    coarse[radius_of((BOX,) * 3) >= BOX / 2] = 0
    return scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(coarse)).real)


def reference_sets(reference: Path) -> Iterator[Set]:
    """Particles of others."""
    bgal, eman2, spa = reference / "third_party/bgal", reference / "eman2", reference / "relion_spa"
    truth = read(bgal / "betaGal.mrc")
    yield Set(bgal / "bgal_clean.star", truth, spheres=((0.4 * len(truth), 3),))
    recentre = ("--shift-convention", "recentre")
    spheres = ((16.0, 3.0), (20.0, 3.0))
    yield Set(
        eman2 / "proj_c1.hdf", read(eman2 / "phantom.mrc"), recentre, spheres=spheres, shells=slice(1, 24)
    )
    yield Set(
        spa / "particles.star", read(spa / "particles_true.mrc"), spheres=((25.6, 3),), shells=slice(1, 32)
    )


def read(path: Path) -> Any:
    """A map of MRC or uncompressed EMAN2 HDF; headers of some reference files are not clean."""
    if path.suffix == ".hdf":
        with h5py.File(path) as file:
            return file["MDF/images/0/image"][...].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(path, permissive=True) as file:
            return file.data.astype(np.float64)


def row_of(mode: str, sets: list[Set], folder: Path) -> list[str]:
    """All figures of a mode."""
    row = [mode]
    for each in sets:
        words = make3d(each.particles, "--mode", mode, "--half-maps", "no", *each.options)
        words[words.index("--output") + 1] = folder / "map.mrc"
        words += ["--image-dir", each.particles.parent]
        run(words, folder)
        row += each.figures(read(folder / "map.mrc"))
    print("  " + "  ".join(row), flush=True)
    return row


def relion_row(sets: list[Set], folder: Path, reference: Path | None) -> list[list[str]]:
    """The peer on the phantoms where it is installed, and its kept maps."""
    row = ["relion_reconstruct --pad 2, mean corrected"]
    for each in sets[:2]:
        command = relion(each.particles)
        if command is None:
            row.append("")
            continue
        run([*(word for word in command if word != "--ctf")], each.particles.parent)
        # it leaves out the mean of the density, which would be most of the error
        row += each.figures(without_offset(read(each.particles.parent / "relion.mrc"), each.truth))
    if reference is not None:
        row += ["", "", "", *sets[4].figures(read(reference / "relion_spa/relion_pad2.mrc"))]
    return [row]


def without_offset(data: Any, truth: Any) -> Any:
    """The map plus the constant that makes its mean within 0.47 box that of the truth."""
    inside = radius_of(data.shape) < 0.47 * data.shape[0]
    return data + (truth[inside].mean() - data[inside].mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="folder of the reference data")
    parser.add_argument("--mode", nargs="+", default=MODES)
    options = parser.parse_args()
    header = ["mode", "smooth phantom, rms", "sharp phantom, rms"]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / kind for kind in ("smooth", "sharp")]
        for folder in folders:
            folder.mkdir()
        sets = [phantom_set(folders[0], (1.5, 3.0), 1), phantom_set(folders[1], (0.7, 1.0), 3)]
        if options.reference is not None:
            sets += reference_sets(options.reference.resolve())
            header += ["bgal, FSC", "EMAN2, FSC 16 + 3", "EMAN2, FSC 20 + 3", "noisy CTF, FSC"]
        rows = [row_of(mode, sets, Path(name)) for mode in options.mode]
        print(table(header, [*rows, *relion_row(sets, Path(name), options.reference)]))


if __name__ == "__main__":
    main()
