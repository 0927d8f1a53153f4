"""Simulated particles: images against formulas, tables against what the reader makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.reader import ReadRequest
from centralslice.cli import main
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.geometry.gaussians import GaussianPhantom, random_phantom
from centralslice.jobs.simulate import particles as simulate
from centralslice.jobs.simulate.object import ObjectSettings, atoms, make_object
from centralslice.jobs.simulate.particles import (
    SimulationOutputs,
    SimulationSettings,
    clean_images,
    image_chunks,
    noise_sigma,
    relion_tables,
    simulated_particles,
    write_simulation,
)
from centralslice.optics.ctf import ctf, slice_frequencies
from centralslice_plugins.readers.star import StarReader
from centralslice_plugins.symmetries.point_groups import Dihedral
from centralslice_plugins.writers.mrc import MrcWriter
from centralslice_plugins.writers.star import StarWriter

PHANTOM = random_phantom(12, (3.0, 6.0), 14.0, 2)
SETTINGS = SimulationSettings(
    count=11, box_size=40, pixel_size_angst=2.0, seed=5, max_shift_angst=4.0, astigmatism_angst=400.0,
    snr=0.5, optics_groups=2,
)  # fmt: skip


def particles_of(settings: SimulationSettings):
    return simulated_particles(settings, Path("p.star"), Path("p.mrcs"))


def stack_of(settings: SimulationSettings) -> np.ndarray:
    return np.concatenate([images for _, images in image_chunks(PHANTOM, settings, particles_of(settings))])


@pytest.mark.parametrize("size", [40, 41])
def test_without_ctf_and_noise_images_are_the_exact_projections(size):
    settings = replace(SETTINGS, box_size=size, defocus_range_angst=None, astigmatism_angst=0.0, snr=None)
    particles = particles_of(settings)
    exact = PHANTOM.project(particles.rotations, particles.shifts_angst, size, 2.0)
    assert_array_equal(stack_of(settings), exact.astype(np.float32))


@pytest.mark.parametrize("size", [40, 41])
def test_images_are_projections_times_the_ctf_in_fourier_space(size):
    settings = replace(SETTINGS, box_size=size, snr=None, bfactor_angst2=80.0)
    particles = particles_of(settings)
    rows = np.array([3, 7])
    group, parameters = particles.optics[1], particles.ctf.take(rows)
    exact = PHANTOM.project(particles.rotations[rows], particles.shifts_angst[rows], size, 2.0)
    expected = np.fft.rfft2(exact) * ctf(*slice_frequencies(size, group), group, parameters)
    if size % 2 == 0:  # what is there of the Nyquist lines after a real image is only their Hermitian part
        expected = np.fft.rfft2(np.fft.irfft2(expected, s=(size, size)))
    assert_allclose(np.fft.rfft2(clean_images(PHANTOM, particles, rows)), expected, atol=1e-9)


def test_low_frequencies_keep_their_sign_so_that_density_is_bright():
    settings = replace(SETTINGS, snr=None, amplitude_contrast=0.1)
    assert np.all(clean_images(PHANTOM, particles_of(settings), np.arange(11)).mean(axis=(1, 2)) > 0)


def test_beam_tilt_turns_phases_the_way_its_correction_expects():
    settings = replace(SETTINGS, snr=None, beam_tilt_mrad=(0.4, -0.2), voltage_kv=100.0)
    straight, tilted = (
        np.fft.rfft2(clean_images(PHANTOM, particles_of(s), np.arange(4)))
        for s in (replace(settings, beam_tilt_mrad=(0.0, 0.0)), settings)
    )
    _, theta = simulate.group_phases(settings.optics()[0], 40)
    inner = np.s_[:, :20, :20]
    assert np.abs(tilted - straight).max() > 0.1
    assert_allclose((tilted * np.exp(-1j * theta))[inner], straight[inner], atol=1e-9)


def test_the_same_seed_gives_the_same_images_however_they_are_chunked(monkeypatch):
    whole = stack_of(SETTINGS)
    monkeypatch.setattr(simulate, "chunk_size", lambda box_size: 3)
    assert_array_equal(stack_of(SETTINGS), whole)
    assert np.abs(stack_of(replace(SETTINGS, seed=6)) - whole).max() > 0.1


def test_the_noise_has_the_stated_variance():
    settings = replace(SETTINGS, count=60)
    particles = particles_of(settings)
    clean = clean_images(PHANTOM, particles, np.arange(60))
    noise = stack_of(settings) - clean
    assert_allclose(clean.var(axis=(1, 2)).mean() / noise.var(), 0.5, rtol=0.02)
    assert_allclose(noise_sigma(PHANTOM, particles, 0.5), noise.std(), rtol=0.01)
    assert_allclose(noise.mean(), 0, atol=4 * noise.std() / np.sqrt(noise.size))


def test_half_sets_are_equal_and_optics_groups_are_dealt_in_turn():
    particles = particles_of(replace(SETTINGS, count=10))
    assert_array_equal(np.bincount(particles.half_set), [0, 5, 5])
    assert_array_equal(particles.optics_group, np.arange(10) % 2)
    assert not particles_of(replace(SETTINGS, half_sets=False)).half_set.any()


def test_defocus_and_shifts_stay_in_their_ranges():
    particles = particles_of(replace(SETTINGS, count=500))
    difference = particles.ctf.defocus_u_angst - particles.ctf.defocus_v_angst
    mean = (particles.ctf.defocus_u_angst + particles.ctf.defocus_v_angst) / 2
    assert 0 <= difference.min() < difference.max() <= 400
    assert 10000 <= mean.min() < 11000
    assert 24000 < mean.max() <= 25000
    assert 3.9 < np.abs(particles.shifts_angst).max() <= 4.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, "count"), ({"box_size": 2}, "box"), ({"pixel_size_angst": 0.0}, "pixel size"),
        ({"snr": 0.0}, "SNR"), ({"snr": float("nan")}, "SNR"), ({"seed": -1}, "seed"),
        ({"optics_groups": 12}, "optics groups"), ({"max_shift_angst": -1.0}, "shift"),
        ({"defocus_range_angst": (2e4, 1e4)}, "defocus"), ({"defocus_range_angst": None}, "need a CTF"),
        ({"defocus_range_angst": (1e4, float("inf"))}, "finite"),
        ({"astigmatism_angst": -1.0}, "astigmatism"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(changed, message):
    with pytest.raises(ParameterError, match=message):
        replace(SETTINGS, **changed)


def test_an_object_that_leaves_the_box_is_refused_with_the_size_it_needs():
    with pytest.raises(ParameterError, match="needs a box of"):
        image_chunks(PHANTOM, replace(SETTINGS, box_size=20), particles_of(SETTINGS))


def test_tables_have_ctf_columns_only_with_a_ctf():
    plain = replace(SETTINGS, defocus_range_angst=None, astigmatism_angst=0.0, half_sets=False)
    rows = relion_tables(particles_of(plain))["particles"]
    assert not {"rlnDefocusU", "rlnPhaseShift", "rlnCtfBfactor", "rlnRandomSubset"} & set(rows)
    rich = replace(SETTINGS, phase_shift_deg=90.0, bfactor_angst2=50.0, beam_tilt_mrad=(0.1, 0.2))
    tables = relion_tables(particles_of(rich))
    assert {"rlnDefocusU", "rlnPhaseShift", "rlnCtfBfactor", "rlnRandomSubset"} <= set(tables["particles"])
    assert_array_equal(tables["optics"]["rlnBeamTiltY"], [0.2, 0.2])


@pytest.fixture
def outputs(tmp_path: Path) -> SimulationOutputs:
    writers = {"table": StarWriter(), "stack": MrcWriter(), "truth": MrcWriter()}
    return SimulationOutputs(tmp_path / "p.star", tmp_path / "p.mrcs", tmp_path / "truth.mrc", writers)


def test_what_is_written_reads_back_as_the_same_particles(outputs):
    seen: list[int] = []
    made = write_simulation(PHANTOM, replace(SETTINGS, bfactor_angst2=20.0), outputs, seen.append)
    read = StarReader().read_particles(ReadRequest(outputs.table))
    assert seen[-1] == 11
    assert read.image_files == (outputs.stack,)
    for name in ("image_number", "half_set", "optics_group"):
        assert_array_equal(getattr(read, name), getattr(made, name))
    assert_allclose(read.rotations, made.rotations, atol=1e-12)
    assert_allclose(read.shifts_angst, made.shifts_angst, atol=1e-12)
    assert read.ctf is not None
    for name in ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "bfactor_angst2"):
        assert_allclose(getattr(read.ctf, name), getattr(made.ctf, name))
    assert read.optics == made.optics
    with mrcfile.open(outputs.stack) as stack, mrcfile.open(outputs.truth) as truth:
        assert_array_equal(stack.data, stack_of(replace(SETTINGS, bfactor_angst2=20.0)))
        assert_array_equal(truth.data, PHANTOM.volume(40, 2.0).astype(np.float32))


def test_nothing_is_left_of_a_simulation_that_fails(outputs):
    with pytest.raises(ParameterError):
        write_simulation(PHANTOM, replace(SETTINGS, box_size=20), outputs)
    assert not list(outputs.table.parent.iterdir())


OBJECT = ObjectSettings(gaussians=5, radius_angst=12.0, sigma_range_angst=(3.0, 4.0))

PDB = """\
ATOM      1  N   ALA A   1      11.000   6.000  -6.000  1.00 20.00           N
ATOM      2  C   ALA A   1      12.500   6.000  -6.000  0.50 20.00           C
ATOM      3  O   ALA A   1      12.500   8.000  -6.000  1.00 20.00           O
END
"""


def test_a_symmetric_object_has_all_copies_of_its_unit():
    unit, whole = make_object(OBJECT, 3), make_object(OBJECT, 3, Dihedral(3))
    assert len(whole) == 6 * len(unit)
    assert_array_equal(whole.centres_angst[:5], unit.centres_angst)
    assert isinstance(make_object(OBJECT, 3, Dihedral(1)), GaussianPhantom)


def test_atoms_become_gaussians_of_their_charge_about_the_centre_of_mass(tmp_path):
    path = tmp_path / "three.pdb"
    path.write_text(PDB)
    phantom = atoms(path, 6.0)
    charges = phantom.heights * (np.sqrt(2 * np.pi) * phantom.sigmas_angst) ** 3
    assert_allclose(charges, [7, 3, 8])
    assert_allclose((charges[:, None] * phantom.centres_angst).sum(axis=0), 0, atol=1e-12)
    assert_allclose(phantom.centres_angst[1] - phantom.centres_angst[0], [1.5, 0, 0], atol=1e-9)
    # the transform of an atom is 1/e of its charge at the resolution
    assert_allclose(abs(phantom.transform([0, 0, 1 / 6.0], 1.0)), 18 / np.e, rtol=1e-12)
    kept = make_object(replace(OBJECT, model=path), 0, Dihedral(2))
    assert_allclose(kept.centres_angst[0], [11, 6, -6])


def test_a_model_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileMissingError, match="does not exist"):
        atoms(tmp_path / "none.pdb", 6.0)
    empty = tmp_path / "empty.pdb"
    empty.write_text("REMARK nothing\nEND\n")
    broken = tmp_path / "broken.cif"
    broken.write_text("data_x\nloop_\n_a\n_b\n1 2 3\n")
    for path in (empty, broken):
        with pytest.raises(FormatError, match=path.name):
            atoms(path, 6.0)
    with pytest.raises(ParameterError, match="resolution"):
        atoms(empty, 0.0)


def test_the_command_writes_table_stack_and_truth_and_will_not_overwrite(tmp_path, capsys):
    target = tmp_path / "set.star"
    command = ["simulate", "--output", str(target), "--count", "6", "--box", "32", "--apix", "3",
               "--sym", "c3", "--snr", "1", "--seed", "4"]  # fmt: skip
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.mrcs", "set.star", "set_truth.mrc"]
    assert "6 images" in capsys.readouterr().out
    assert len(StarReader().read_particles(ReadRequest(target))) == 6
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_the_command_refuses_a_wrong_name_or_option(tmp_path, capsys):
    assert main(["simulate", "--output", str(tmp_path / "set.txt"), "--count", "6"]) == 2
    assert ".star" in capsys.readouterr().err
    assert main(["simulate", "--output", str(tmp_path / "set.star"), "--no-ctf", "--bfactor", "30"]) == 2
    assert "need a CTF" in capsys.readouterr().err
    for options in (
        ["--resolution", "5"],
        ["--model", "x.pdb", "--gaussians", "5"],
        ["--no-ctf", "--defocus", "1", "2"],
    ):
        assert main(["simulate", "--output", str(tmp_path / "set.star"), *options]) == 2
        assert "leave" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
