"""RELION's own maps of the same STAR file: pose, hand, density scale, subsets, symmetry and accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere

CASES = {
    "pad2": (),
    "half1": ("--subset", "1"),
    "noctf": ("--ctf", "none", "--half-maps", "no"),
    "symD2": ("--sym", "D2", "--half-maps", "no"),
}
SPHERE = soft_sphere(64, 26, 6)


@pytest.fixture(scope="module")
def folder(reference):
    return reference / "relion_spa"


@pytest.mark.parametrize("name", CASES)
def test_our_map_is_relions_map(name, folder, make3d, read):
    run = make3d(folder / "particles.star", *CASES[name], threads=2)
    ours, theirs = run.data * SPHERE, read(folder / f"relion_{name}.mrc") * SPHERE
    curve = fourier_shell_correlation(ours, theirs, 2.0).values
    assert curve[1:9].min() > 0.995
    axis = np.fft.fftfreq(64)
    frequency = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    band = (frequency > 0.03) & (frequency < 0.14)
    first, second = (np.fft.fftn(each)[band] for each in (ours, theirs))
    scale = np.sum((first * second.conj()).real) / np.sum(np.abs(second) ** 2)
    assert abs(scale - 1) < 0.03


def test_our_map_is_as_near_to_the_truth_as_relions(folder, make3d, read):
    truth = read(folder / "particles_true.mrc") * SPHERE
    ours = make3d(folder / "particles.star", threads=2).data * SPHERE
    theirs = read(folder / "relion_pad2.mrc") * SPHERE
    curves = [fourier_shell_correlation(each, truth, 2.0).values for each in (ours, theirs)]
    assert np.all(curves[0][1:] >= curves[1][1:] - 0.01)
