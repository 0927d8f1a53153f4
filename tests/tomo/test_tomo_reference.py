"""The command on projects that the peer has reconstructed: with --compat its files, without it better maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere

#: Relative rms difference of a file from the peer's.
TOLERANCE = 1e-5
STATIC, B48 = "optimisation_set_static.star", ("--b", "48")


@dataclass(frozen=True)
class Case:
    """What the peer was told."""

    source: str | tuple[str, ...] = STATIC
    options: tuple[str, ...] = B48
    tolerance: float = TOLERANCE


CASES = {
    "c1": Case(),
    "motion": Case("optimisation_set.star"),
    "snr": Case("optimisation_set.star", ("--b", "64", "--crop", "48", "--SNR", "0.5")),
    "bin2": Case("optimisation_set.star", ("--b", "32", "--bin", "2")),
    "noctf": Case(options=(*B48, "--no_ctf")),
    "whiten": Case(options=(*B48, "--whiten")),
    "symD3": Case(options=(*B48, "--sym", "D3")),
    "symI1": Case(options=(*B48, "--sym", "I1")),
    "helix": Case(
        options=(*B48, "--nr_helical_asu", "5", "--helical_rise", "13.3", "--helical_twist", "31.7")
    ),
    "nocircle": Case(options=(*B48, "--no_circle_crop")),
    "nohalves": Case("optimisation_set_nohalves.star"),
    "relion4": Case(("--t", "tomograms_r4.star", "--p", "particles_r4.star")),
}


def words(case: Case, folder: Path):
    """Where the input is, and the options."""
    if isinstance(case.source, str):
        return folder / case.source, case.options
    named = [word if word.startswith("--") else str(folder / word) for word in case.source]
    return None, (*named, *case.options)


@pytest.mark.parametrize("name", CASES)
def test_with_compat_every_file_of_the_peer_comes_out(reference, tomo, read, name):
    folder, case = reference / "relion_tomo", CASES[name]
    source, options = words(case, folder)
    # underscores are RELION's spelling
    made = tomo(source, *options, "--compat", "relion", "--j", "2", "--j_out", "2", "--j_in", "1")
    written = sorted((folder / "out" / name).glob("*.mrc"))
    assert len(written) >= 3
    for path in written:
        expected = read(path)
        if path.stem == "weight_merged" and name != "nohalves":
            # the peer writes half 1 alone
            expected = sum(read(path.with_name(f"weight_half{half}.mrc")) for half in (1, 2))
        found = made.map(path.stem)
        assert found.shape == expected.shape, path
        assert np.linalg.norm(found - expected) < case.tolerance * np.linalg.norm(expected), path


@pytest.mark.parametrize("name", ["motion", "snr", "c1"])
def test_the_default_map_is_nearer_to_the_truth_in_every_shell(reference, tomo, read, name):
    folder, case = reference / "relion_tomo", CASES[name]
    source, options = words(case, folder)
    ours, peers = tomo(source, *options).map(), read(folder / "out" / name / "merged.mrc")
    truth, sphere = read(folder / "truth/phantom.mrc"), soft_sphere(48, 14, 5)
    mine, theirs = (fourier_shell_correlation(data, truth, 4.0, sphere).values[1:] for data in (ours, peers))
    assert mine.mean() > theirs.mean()
    counted = theirs > 0.3
    assert np.count_nonzero(counted) > 10
    assert np.all(mine[counted] > theirs[counted] - 0.01)


def test_merged_weights_and_numerators_are_those_of_both_halves(reference, tomo):
    # the peer's weight_merged is that of half 1
    made = tomo(reference / "relion_tomo" / STATIC, *B48, "--compat", "relion")
    for kind in ("weight", "data"):
        halves = [made.map(f"{kind}_half{half}") for half in (1, 2)]
        merged = made.map(f"{kind}_merged")
        assert np.linalg.norm(merged - sum(halves)) < 1e-5 * np.linalg.norm(merged)
        assert np.linalg.norm(merged - halves[0]) > 0.3 * np.linalg.norm(merged)


def test_merged_weights_of_the_default_method_are_those_of_both_halves_and_divide_the_numerator(
    reference, tomo
):
    made = tomo(reference / "relion_tomo" / STATIC, *B48, "--taper", "0")
    first, second, merged = (made.map(f"weight_{label}") for label in ("half1", "half2", "merged"))
    assert np.linalg.norm(merged - first - second) < 1e-5 * np.linalg.norm(merged)
    assert np.linalg.norm(merged - first) > 0.3 * np.linalg.norm(merged)
    spectrum = np.fft.fftn(np.fft.ifftshift(made.map("data_merged")))
    weighted = np.fft.fftn(np.fft.ifftshift(made.map())) * np.fft.ifftshift(merged)
    assert np.linalg.norm(spectrum - weighted) < 1e-4 * np.linalg.norm(weighted)


def test_relion_4_and_5_forms_of_a_project_give_one_map(reference, tomo):
    folder = reference / "relion_tomo"
    source, options = words(CASES["relion4"], folder)
    form4, form5 = tomo(source, *options).map(), tomo(folder / "optimisation_set_static.star", *B48).map()
    assert np.linalg.norm(form4 - form5) < 1e-5 * np.linalg.norm(form5)
