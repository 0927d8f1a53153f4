"""``--compat eman2`` from the command line gives the maps and weights that EMAN2 wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

MODES = ("nearest_neighbor", "trilinear", "gauss_2", "gauss_3", "gauss_5", "gauss_var")
COMMON = ("--compat", "eman2", "--pad", "64", "--outsize", "48")
GAUSS_5 = ("--mode", "gauss_5")

#: Name of the peer's map: input, options beyond COMMON; ``@`` stands for the reference folder.
CASES = {
    "d7_gauss_var": ("proj_d7.hdf", "--sym", "d7", "--mode", "gauss_var"),
    "icos_gauss_2": ("proj_icos.hdf", "--sym", "icos", "--mode", "gauss_2"),
    "no_wt": ("proj_c1.hdf", *GAUSS_5, "--no_wt"),
    "keep08": ("proj_c1.hdf", *GAUSS_5, "--keep", "0.8"),
    "usessnr": ("proj_c1_ssnr.hdf", *GAUSS_5, "--usessnr"),
    "input_model1": ("proj_c1.hdf", *GAUSS_5, "--input_model", "1"),
    "projconv_lst": ("proj_c1_projconv.lst", *GAUSS_5),
    "iterative_nonorm": ("proj_c1.hdf", "--iterative"),
    "seedmap_w100": ("proj_c1.hdf", *GAUSS_5, "--seedmap", "@/phantom.mrc", "--seedweight", "100"),
    "preproc_edgemean": ("proj_c1.hdf", *GAUSS_5, "--preprocess", "normalize.edgemean"),
    "postproc_lp": ("proj_c1.hdf", *GAUSS_5, "--postprocess", "filter.lowpass.gauss:cutoff_freq=0.1"),
    "setsf": ("proj_c1.hdf", *GAUSS_5, "--setsf", "@/strucfac_phantom.txt"),
    "tlt_mrc": ("tilt.mrc", *GAUSS_5, "--tlt", "@/tilt.tlt"),
    "tlt_mrc_gvar": ("tilt.mrc", "--mode", "gauss_var", "--tlt", "@/tilt.tlt"),
}


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "eman2"


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_gives_the_peers_map_and_weights(mode, folder, make3d, read, deviation, tmp_path):
    norm = tmp_path / "norm.hdf"
    options = ("--mode", mode, "--compressbits", "0", "--savenorm", norm)
    run = make3d(folder / "proj_c1.hdf", *COMMON, *options, output="map.hdf")
    assert deviation(run.data, read(folder / f"out/mode_{mode}.hdf")) < 1e-5
    assert deviation(read(norm), read(folder / f"out/mode_{mode}_norm.hdf")) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_each_option_gives_the_peers_map(name, folder, make3d, read, deviation):
    source, *options = (word.replace("@", str(folder)) for word in CASES[name])
    run = make3d(folder / source, *COMMON, "--compressbits", "0", *options, output="map.hdf", threads=2)
    assert deviation(run.data, read(folder / f"out/{name}.hdf")) < 1e-4


def test_ten_bits_are_the_peers_ten_bits_but_nothing_is_clipped(folder, make3d, read):
    expected, exact = read(folder / "out/compress10.hdf"), read(folder / "out/mode_gauss_5.hdf")
    run = make3d(folder / "proj_c1.hdf", *COMMON, *GAUSS_5, output="map.hdf", threads=2)  # 10 is the default
    step = np.ptp(exact) / 1022
    assert np.abs(run.data - exact).max() < 0.51 * step
    assert expected.max() < exact.max() - 10 * step  # the peer's map has lost its peaks
    low, high = expected.min(), expected.max()
    assert np.abs(np.clip(run.data, low, high) - expected).max() < step


def test_options_that_the_peer_has_not_are_refused_with_compat(folder, refused):
    source = folder / "proj_c1.hdf"
    seed = ("--seedmap", folder / "phantom.mrc", "--useseedasref")
    for options in (("--ctf", "full"), ("--maxres", "8"), seed):
        assert "--compat eman2" in refused(source, "--compat", "eman2", *options)
    assert "has no such variant" in refused(source, "--compat", "eman2", "--mode", "kaiser_bessel")


def test_a_seed_weighed_by_the_peers_own_weight_map_counts_as_much_as_the_data(
    folder, make3d, read, deviation
):
    options = (*COMMON, "--mode", "trilinear", "--compressbits", "0")
    norm = folder / "out/mode_trilinear_norm.hdf"
    first = make3d(folder / "proj_c1.hdf", *options, output="map.hdf")
    # a seed that is the map itself, weighed as the data were, changes nothing
    seed = ("--seedmap", first.output, "--seedweightmap", norm)
    again = make3d(folder / "proj_c1.hdf", *options, *seed, output="map.hdf")
    assert deviation(again.data, first.data, 20) < 0.05
