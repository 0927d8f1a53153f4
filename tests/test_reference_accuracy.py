"""How close maps of other people's particles come to their truth, and to what the peers made of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import mrcfile
import numpy as np
import pytest

from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere
from centralslice.jobs.make3d.job import run_make3d
from centralslice.jobs.make3d.plan import plan_make3d, read_particles
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.jobs.run_tools import Launch
from centralslice.plugin.registry import load_registry
from centralslice.runtime.communicator import Serial

Reconstruct: TypeAlias = Callable[..., Any]


def read_mrc(path: Path) -> Any:
    """A map; headers of some reference files are not clean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(path, permissive=True) as file:
            return file.data.astype(np.float64)


def read_hdf(path: Path) -> Any:
    """A map of EMAN2 that was written without compression."""
    with h5py.File(path) as file:
        return file["MDF/images/0/image"][...].astype(np.float64)


def curve(data: Any, truth: Any, radius: float, width: float) -> Any:
    """FSC under a soft sphere on both maps; radius and width in voxels."""
    return fourier_shell_correlation(data, truth, 1.0, soft_sphere(len(truth), radius, width)).values


def at_fractions_of_nyquist(values: Any, *fractions: float) -> list[float]:
    """FSC between shells, linearly; the last shell is Nyquist."""
    shells = np.arange(len(values)) / (len(values) - 1)
    return [float(np.interp(fraction, shells, values)) for fraction in fractions]


@pytest.fixture
def reconstruct(tmp_path: Path) -> Reconstruct:
    """The default mode's map of a metadata file."""

    def made(table: Path, **options: Any) -> Any:
        convention = options.pop("shift_convention", "auto")
        settings = Make3dSettings(
            input=table, output=tmp_path / "map.mrc", image_dir=table.parent, half_maps="no", quiet=True, **options
        )  # fmt: skip
        registry = load_registry()
        plan = plan_make3d(settings, registry, read_particles(settings, registry, convention))
        result = run_make3d(plan, registry, Launch("test", Serial()))
        assert result is not None
        return result.merged.data.astype(np.float64)

    return made


@pytest.mark.parametrize("width_of_box", [0.03, 0.06])
def test_beta_galactosidase_correlates_to_997_at_three_quarters_of_nyquist(
    reference: Path, reconstruct: Reconstruct, width_of_box: float
) -> None:
    folder = reference / "third_party/bgal"
    data, truth = reconstruct(folder / "bgal_clean.star"), read_mrc(folder / "betaGal.mrc")
    values = curve(data, truth, 0.4 * len(truth), width_of_box * len(truth))
    assert at_fractions_of_nyquist(values, 0.75)[0] >= 0.997
    weighted = truth * soft_sphere(len(truth), 0.4 * len(truth), 3)
    assert np.vdot(weighted, data) / np.vdot(weighted, truth) == pytest.approx(1, abs=0.01)


def test_the_off_centre_toy_model_correlates_to_99(reference: Path, reconstruct: Reconstruct) -> None:
    folder = reference / "third_party/cryodrgn"
    data = reconstruct(folder / "toy_projections_poses.star")
    truth = read_mrc(folder / "toymodel_small_nocenter.mrc")
    values = curve(data, truth, 0.4 * len(truth), 3)
    assert min(at_fractions_of_nyquist(values, 0.25, 0.5, 0.75)) >= 0.99


def test_clean_tilted_particles_correlate_as_far_as_their_images_allow(
    reference: Path, reconstruct: Reconstruct
) -> None:
    folder = reference / "third_party/tomodrgn"
    data = reconstruct(folder / "10076_classD_32_clean.star")
    truth = read_mrc(folder / "10076_classD_32.mrc")
    for width in (3.0, 0.06 * len(truth)):
        low, middle, high = at_fractions_of_nyquist(
            curve(data, truth, 0.4 * len(truth), width), 0.25, 0.5, 0.75
        )
        assert low >= 0.98
        assert middle >= 0.93
        assert high >= 0.89


def test_eman2_images_give_a_better_map_than_every_mode_of_eman2(
    reference: Path, reconstruct: Reconstruct
) -> None:
    folder = reference / "eman2"
    data = reconstruct(folder / "proj_c1.hdf", shift_convention="recentre")
    truth = read_mrc(folder / "phantom.mrc")
    for radius, least in ((20, 0.91), (16, 0.965)):
        ours = curve(data, truth, radius, 3)
        assert ours[1:24].mean() >= least
        for mode in ("nearest_neighbor", "trilinear", "gauss_2", "gauss_3", "gauss_5", "gauss_var"):
            theirs = curve(read_hdf(folder / f"out/mode_{mode}.hdf"), truth, radius, 3)
            assert ours[1:24].mean() >= theirs[1:24].mean() + 0.007, mode


@pytest.mark.parametrize("width", [3.0, 4.0])
def test_noisy_particles_with_ctf_give_a_map_at_or_above_relion_in_every_shell(
    reference: Path, reconstruct: Reconstruct, width: float
) -> None:
    folder = reference / "relion_spa"
    truth = read_mrc(folder / "particles_true.mrc")
    ours = curve(reconstruct(folder / "particles.star"), truth, 0.4 * len(truth), width)
    theirs = curve(read_mrc(folder / "relion_pad2.mrc"), truth, 0.4 * len(truth), width)
    shells = slice(1, math.floor(len(truth) / 2))
    assert np.all(ours[shells] >= theirs[shells] - 0.01)
    assert ours[shells].mean() >= theirs[shells].mean() + 0.005
