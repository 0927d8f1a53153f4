"""``--pad``, ``--padvol``, ``--outsize``, ``--apix`` and how maps are stored."""

from __future__ import annotations

import h5py
import mrcfile
import numpy as np
import pytest


def test_zero_means_that_an_option_was_not_given(simulate, make3d):
    table = simulate(count=40).table
    expected = make3d(table).manifest["map_sha256"]
    for option in ("--pad", "--padvol", "--outsize"):
        assert make3d(table, option, "0").manifest["map_sha256"] == expected


def test_padding_brings_the_map_nearer_to_the_truth(simulate, make3d, deviation):
    data = simulate()
    errors = [deviation(make3d(data.table, *pad).data, data.truth) for pad in ((), ("--pad", "48"))]
    assert errors[1] < 0.5 * errors[0]
    # a negative number is the next good size from 1.25 times the box
    by_hand = make3d(data.table, "--pad", "40,40").manifest["map_sha256"]
    assert make3d(data.table, "--pad", "-1").manifest["map_sha256"] == by_hand


def test_a_larger_fourier_volume_gives_the_same_map_at_the_same_scale(simulate, make3d, deviation):
    data = simulate()
    for size in ("80", "96,96,96", "40"):
        run = make3d(data.table, "--padvol", size)
        assert deviation(run.data, data.truth, 14) < 0.008


@pytest.mark.parametrize("box", [32, 33])
def test_the_output_is_cut_about_the_centre_voxel(box, simulate, make3d):
    table = simulate(count=40, box_size=box).table
    whole = make3d(table).data
    for size in (24, 25):
        first = box // 2 - size // 2
        part = slice(first, first + size)
        assert np.array_equal(make3d(table, "--outsize", size).data, whole[part, part, part])
    brick = make3d(table, "--outsize", "20,24,28").data
    centre = box // 2
    assert brick.shape == (28, 24, 20)  # x, y, z as given; z, y, x as stored
    assert np.array_equal(
        brick, whole[centre - 14 : centre + 14, centre - 12 : centre + 12, centre - 10 : centre + 10]
    )
    larger = make3d(table, "--outsize", box + 3).data
    first = (box + 3) // 2 - centre
    assert np.array_equal(larger[first : first + box, first : first + box, first : first + box], whole)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--pad", "40,44", "square"), ("--pad", "big", "expected N"), ("--pad", "1,2,3", "expected N"),
        ("--padvol", "64,64,60", "cube"), ("--padvol", "-4", "size in voxels"), ("--padvol", "4.5", "expected N"),
        ("--outsize", "-3", "1 voxel or more"), ("--outsize", "4,0,4", "1 voxel or more"),
        ("--outsize", "4,4", "expected N"), ("--outsize", "999999", "GB of memory"),
        ("--maxres", "70", "coarser than the box"), ("--padvol", "20000", "GB of memory"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(option, value, said, simulate, refused):
    line = refused(simulate(count=40).table, option, value)
    assert said in line


def test_another_pixel_size_changes_the_scale_bar_and_nothing_else(simulate, make3d, deviation):
    data = simulate(max_shift_angst=3.0)
    plain, other = make3d(data.table), make3d(data.table, "--apix", "3.1")
    assert deviation(plain.data, data.truth, 14) < 0.01
    assert deviation(other.data, plain.data) < 1e-6
    for run, size in ((plain, 2.0), (other, 3.1)):
        with mrcfile.open(run.output) as file:
            assert np.allclose(file.voxel_size.tolist(), size)
            assert file.header.nxstart == file.header.nystart == file.header.nzstart == 0
            assert file.header.ispg == 1


@pytest.mark.parametrize("value", ["0", "-2", "nan", "inf"])
@pytest.mark.parametrize("option", ["--apix", "--snr", "--maxres"])
def test_numbers_that_must_be_positive_are_refused_otherwise(option, value, simulate, refused):
    assert "above 0" in refused(simulate(count=40).table, option, value)


def test_bits_of_an_hdf_map(simulate, make3d, refused):
    table = simulate(count=40).table
    exact = make3d(table).data  # MRC, float32
    for bits, stored in (
        (0, np.float32),
        (-1, np.float32),
        (6, np.uint8),
        (12, np.uint16),
        (None, np.uint16),
    ):
        option = () if bits is None else ("--compressbits", bits)
        run = make3d(table, *option, output="map.hdf")
        with h5py.File(run.output) as file:
            dataset = file["MDF/images/0/image"]
            assert dataset.dtype == stored
            assert (dataset.compression is None) == (bits == -1)
        if stored is np.float32:
            assert np.array_equal(run.data, exact)
        else:
            step = np.ptp(exact) / (2.0 ** (10 if bits is None else bits) - 2)
            assert np.abs(run.data - exact).max() < 0.51 * step  # the extremes too
    assert "at most 16" in refused(table, "--compressbits", "17", output="map.hdf")


def test_mrc_is_float_at_the_true_scale_or_refused_before_any_work(simulate, make3d, refused, monkeypatch):
    data = simulate()
    half = make3d(data.table, "--float16")
    with mrcfile.open(half.output) as file:
        assert file.header.mode == 12
    assert np.abs(half.data - make3d(data.table, "--compressbits", "0").data).max() < 1e-3 * half.data.max()

    def work(*arguments):
        raise AssertionError("work was done")

    monkeypatch.setattr("centralslice.jobs.make3d.job.run_make3d", work)
    assert "density scale" in refused(data.table, "--compressbits", "8")
    assert "half-precision" in refused(data.table, "--float16", output="map.hdf")
    assert "expected a suffix" in refused(data.table, output="map.txt")
    assert "expected a suffix" in refused(data.table, "--savenorm", "norm.txt")
