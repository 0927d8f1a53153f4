"""Processors against maps that the peer made."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from centralslice.cli import main
from centralslice.plugin.registry import shared_registry

APIX = 2.0


def volume(reference, name):
    with h5py.File(reference / "eman2" / "out" / f"{name}.hdf") as file:
        data = file["/MDF/images/0/image"][:]
    assert data.dtype == np.float32
    return data


def apply(text, data):
    return shared_registry().create("processor", text).apply(data, APIX)


def relative(found, wanted):
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


def test_the_gaussian_low_pass_is_the_peers(reference):
    found = apply("filter.lowpass.gauss:cutoff_freq=0.1", volume(reference, "mode_gauss_5"))
    wanted = volume(reference, "postproc_lp")
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_the_process_command_gives_the_peers_low_pass_filtered_map(reference, tmp_path):
    source = reference / "eman2" / "out" / "mode_gauss_5.hdf"
    output = tmp_path / "low.hdf"
    step = ["--process", "filter.lowpass.gauss:cutoff_freq=0.1", "--compressbits", "-1"]
    assert main(["process", str(source), str(output), *step]) == 0
    with h5py.File(output) as file:
        group = file["/MDF/images/0"]
        assert float(group.attrs["EMAN.apix_x"][0]) == APIX
        assert relative(group["image"][:], volume(reference, "postproc_lp")) < 1e-6


def test_the_structure_factor_filter_is_the_peers_in_compatible_mode(reference):
    curve = reference / "eman2" / "strucfac_phantom.txt"
    found = apply(f'filter.setstrucfac:strucfac="{curve}":compat=eman2', volume(reference, "mode_gauss_5"))
    wanted = volume(reference, "setsf")
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_without_the_peers_stretch_along_x_the_structure_factor_filter_differs_by_two_percent(reference):
    curve = reference / "eman2" / "strucfac_phantom.txt"
    data = volume(reference, "mode_gauss_5")
    found = apply(f'filter.setstrucfac:strucfac="{curve}"', data)
    assert relative(found, volume(reference, "setsf")) == pytest.approx(0.020, abs=0.005)
    turned = apply(f'filter.setstrucfac:strucfac="{curve}"', np.ascontiguousarray(data.transpose(2, 0, 1)))
    # no axis is special: turning the map and filtering it commute, which the peer's filter does not
    assert relative(turned, found.transpose(2, 0, 1)) < 1e-5
    theirs = apply(f'filter.setstrucfac:strucfac="{curve}":compat=eman2', data)
    theirs_turned = apply(
        f'filter.setstrucfac:strucfac="{curve}":compat=eman2', np.ascontiguousarray(data.transpose(2, 0, 1))
    )
    assert relative(theirs_turned, theirs.transpose(2, 0, 1)) > 1e-3


def test_mean_and_sigma_are_those_in_the_peers_headers(reference):
    from centralslice_plugins.processors.base import mean_and_sigma

    with h5py.File(reference / "eman2" / "out" / "mode_gauss_5.hdf") as file:
        stored = file["/MDF/images/0"].attrs
        wanted = [float(stored[f"EMAN.{name}"][0]) for name in ("mean", "sigma")]
    np.testing.assert_allclose(mean_and_sigma(volume(reference, "mode_gauss_5")), wanted, rtol=1e-5)
