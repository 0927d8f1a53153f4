"""``--snr``, ``--savenorm``, seeds and how their numbers are counted: Σ CTF² per voxel of the unpadded box."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from centralslice.optics.ctf import ctf, slice_frequencies

OPTICS = {"defocus_range_angst": (6000.0, 12000.0), "seed": 6}
MODES = ("kaiser_bessel", "gauss_2", "gauss_var", "trilinear", "iterative")
BOX = 32


def shell_numbers():
    """Shell of each voxel of a weight map: (z, y) centred, x from 0."""
    axis = np.arange(BOX) - BOX // 2
    return np.rint(
        np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(BOX // 2 + 1) ** 2)
    ).astype(int)


def shell_means(values, shells):
    return np.bincount(shells.ravel(), values.ravel())[1:13] / np.bincount(shells.ravel())[1:13]


def counted_weights(particles):
    """(N, N, N/2 + 1) Σ CTF² of all slice samples and their mates nearest to each voxel, by brute force."""
    total = np.zeros((BOX, BOX, BOX))
    group = particles.optics[0]
    squares = np.ones((len(particles), BOX, BOX // 2 + 1))
    if particles.ctf is not None:
        squares = ctf(*slice_frequencies(BOX, group), group, particles.ctf) ** 2
    kx, ky = np.meshgrid(np.arange(BOX // 2 + 1), np.fft.fftfreq(BOX, 1 / BOX))
    for pose, square in zip(particles.rotations, squares, strict=True):
        used = (np.hypot(kx, ky) < BOX / 2) & ((kx > 0) | (ky >= 0))
        places = np.stack([kx[used], ky[used], 0 * kx[used]], -1) @ pose
        for sign in (1, -1):
            index = np.rint(sign * places).astype(int)[:, ::-1] + BOX // 2
            np.add.at(total, tuple(np.clip(index, 0, BOX - 1).T), square[used])
    return total[:, :, BOX // 2 :]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optics", [{}, OPTICS], ids=["plain", "ctf"])
def test_the_weight_map_is_the_sum_of_squared_ctfs_per_unpadded_voxel(
    mode, optics, simulate, make3d, read, tmp_path
):
    data = simulate(**optics)
    norm = tmp_path / "norm.mrc"
    make3d(data.table, "--mode", mode, "--savenorm", norm)
    found, expected = read(norm), counted_weights(data.particles)
    shells = shell_numbers()[:, :, : BOX // 2]
    assert found.shape == (BOX, BOX, BOX // 2 + 1)
    # near zero frequency the CTF changes within a voxel
    ratio = shell_means(found[..., : BOX // 2], shells)[3:] / shell_means(expected, shells)[3:]
    assert np.all(np.abs(ratio - 1) < 0.08), ratio
    assert abs(np.mean(ratio) - 1) < 0.03


def test_padding_and_symmetry_do_not_change_the_unit_of_the_weights(simulate, make3d, read, tmp_path):
    data = simulate()
    middle = (shell_numbers() > 2) & (shell_numbers() < 13)
    sums = []
    for options in ((), ("--padvol", "96"), ("--sym", "d7"), ("--sym", "oct"), ("--fillangle", "6"),
                    ("--mode", "kaiser_bessel:oversampling=1.5")):  # fmt: skip
        make3d(data.table, *options, "--savenorm", tmp_path / "norm.mrc", "--force")
        sums.append(read(tmp_path / "norm.mrc")[middle].sum())
    np.testing.assert_allclose(sums, sums[0], rtol=0.02)
    half = make3d(data.table, "--split", "parity", "--subset", "1", "--savenorm", tmp_path / "half.mrc")
    assert half.code == 0
    assert np.isclose(read(tmp_path / "half.mrc")[middle].sum(), sums[0] / 2, rtol=0.02)


@pytest.mark.parametrize("mode", ["kaiser_bessel:refinements=0", "kaiser_bessel", "gauss_2", "iterative"])
@pytest.mark.parametrize("optics", [{}, OPTICS], ids=["plain", "ctf"])
def test_snr_divides_by_the_weight_plus_its_reciprocal(mode, optics, simulate, make3d, read, tmp_path):
    data = simulate(snr=1.0, **optics)
    options = ("--mode", mode, "--precision", "float64")
    plain = make3d(data.table, *options, "--savenorm", tmp_path / "norm.mrc")
    weights = read(tmp_path / "norm.mrc")
    for snr in (0.05, 1.0):
        damped = make3d(data.table, *options, "--snr", snr)
        spectra = [np.fft.fftshift(np.fft.rfftn(run.data), axes=(0, 1)) for run in (plain, damped)]
        shells = shell_numbers()
        cross = shell_means((spectra[1] * spectra[0].conj()).real, shells)
        ratio = cross / shell_means(np.abs(spectra[0]) ** 2, shells)
        expected = shell_means(weights / (weights + 1 / snr), shells)
        # shells differ in power and weight from voxel to voxel, and the box smooths
        assert np.all(np.abs(ratio - expected) < 0.12), (ratio, expected)
        assert abs(np.mean(ratio - expected)) < 0.05


@pytest.mark.parametrize("mode", ["kaiser_bessel", "gauss_2", "iterative", "trilinear"])
def test_a_heavy_seed_is_what_comes_back(mode, simulate, make3d, deviation, tmp_path):
    data = simulate(snr=0.1)
    other = np.roll(data.truth, 3, axis=1).astype(np.float32)
    with mrcfile.new(tmp_path / "seed.mrc") as file:
        file.set_data(other)
    run = make3d(data.table, "--mode", mode, "--seedmap", tmp_path / "seed.mrc", "--seedweight", "1e7")
    assert deviation(run.data, other) < 2e-3


def test_a_seed_counts_as_so_many_measurements(simulate, make3d, read, deviation, tmp_path):
    data = simulate(snr=1.0)
    norm, plain = tmp_path / "norm.hdf", tmp_path / "zero.mrc"
    first = make3d(data.table, "--savenorm", norm)
    with mrcfile.new(plain) as file:
        file.set_data(np.zeros((32, 32, 32), np.float32))
    # a seed of zeros with the weights of the data halves the map
    halved = make3d(data.table, "--seedmap", plain, "--seedweightmap", norm)
    inner = 12
    assert deviation(2 * halved.data, first.data, inner) < 0.1
    scale = (halved.data * first.data).sum() / (first.data**2).sum()
    assert abs(scale - 0.5) < 0.02
    # thrice the weight: a quarter
    quarter = make3d(data.table, "--seedmap", plain, "--seedweightmap", norm, "--seedweight", "3")
    assert abs((quarter.data * first.data).sum() / (first.data**2).sum() - 0.25) < 0.02
    # the map itself as a seed with the weights of the data changes little
    same = make3d(data.table, "--seedmap", first.output, "--seedweightmap", norm)
    assert deviation(same.data, first.data, inner) < 0.05
    # one number for the weight is the Wiener constant if the seed is empty
    empty = make3d(data.table, "--seedmap", plain, "--seedweight", "4")
    damped = make3d(data.table, "--snr", "0.25")
    assert deviation(empty.data, damped.data) < 1e-4


def test_a_weight_map_of_the_wrong_shape_is_refused(simulate, refused, make3d, tmp_path):
    data = simulate(count=40)
    truth = data.table.with_name("truth.mrc")
    line = refused(data.table, "--seedmap", truth, "--seedweightmap", truth)
    assert "32×32×32 voxels; expected 17×32×32 as --savenorm writes" in line
    assert "does not exist" in refused(data.table, "--seedmap", "nowhere.mrc")
    assert "does not exist" in refused(data.table, "--seedmap", truth, "--seedweightmap", "nowhere.mrc")


def test_a_seed_is_padded_or_cut_about_its_centre(simulate, make3d, deviation, tmp_path):
    data = simulate(count=40)
    for size, map_ in (("large", data.phantom.volume(40, 2.0)), ("small", data.phantom.volume(29, 2.0))):
        with mrcfile.new(tmp_path / f"{size}.mrc") as file:
            file.set_data(map_.astype(np.float32))
        run = make3d(data.table, "--seedmap", tmp_path / f"{size}.mrc", "--seedweight", "1e7")
        assert deviation(run.data, data.truth, 12) < 1e-2


def test_a_seed_is_refused_where_half_maps_are_to_be_compared(simulate, refused, make3d):
    data = simulate(half_sets=True, snr=0.5)
    seed = ("--seedmap", data.table.with_name("truth.mrc"))
    assert "half maps" in refused(data.table, *seed)
    assert "half maps" in refused(data.table, *seed, "--useseedasref")
    assert make3d(data.table, *seed, "--half-maps", "no").left() == ["map.mrc", "map_manifest.json"]
    assert make3d(data.table, *seed, "--subset", "1").left() == ["map.mrc", "map_manifest.json"]


def test_the_seed_as_reference_spares_the_map_images_that_disagree_with_it(
    simulate, make3d, write_set, deviation
):
    data = simulate()
    images = data.images.copy()
    images[::2] = np.random.default_rng(1).normal(scale=images.std(), size=images[::2].shape)
    table = write_set(images, data.particles)
    seed = ("--seedmap", data.table.with_name("truth.mrc"), "--useseedasref")
    plain, weighed = make3d(table), make3d(table, *seed)
    scale = [float((run.data * data.truth).sum() / (data.truth**2).sum()) for run in (plain, weighed)]
    assert deviation(weighed.data, data.truth, 14) < 0.9 * deviation(plain.data, data.truth, 14)
    assert scale[1] > scale[0]
    # it weighs, it does not filter: images that agree give the map they give without it
    clean, again = make3d(data.table), make3d(data.table, *seed)
    assert deviation(again.data, clean.data, 14) < 0.01
