"""CTF modes and optics groups from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.fft

from centralslice.data.particles import ContrastTransfer
from centralslice.jobs.make3d.ctf import choose_ctf_modes
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.optics.ctf import ctf, slice_frequencies

OPTICS = {
    "defocus_range_angst": (6000.0, 12000.0), "astigmatism_angst": 800.0, "bfactor_angst2": 30.0,
    "phase_shift_deg": 20.0, "max_shift_angst": 3.0,
}  # fmt: skip


def transfer(particles):
    group = particles.optics[0]
    return ctf(*slice_frequencies(group.box_size, group), group, particles.ctf)


def filtered(images, factors):
    return scipy.fft.irfft2(scipy.fft.rfft2(images) * factors, s=images.shape[1:])


def test_full_flipped_and_premultiplied_data_give_one_map(simulate, make3d, write_set, deviation):
    data = simulate(**OPTICS)
    factors = transfer(data.particles)
    full = make3d(data.table, "--ctf", "full")
    assert deviation(full.data, data.truth, 14) < 0.03
    flipped = make3d(write_set(filtered(data.images, np.sign(factors)), data.particles), "--ctf", "flipped")
    # border means, which are subtracted from each image, differ a little, so the maps differ by a constant
    assert deviation(flipped.data - flipped.data.mean(), full.data - full.data.mean()) < 3e-3
    multiplied = filtered(data.images, factors)
    by_option = make3d(write_set(multiplied, data.particles), "--ctf", "premultiplied")
    assert deviation(by_option.data - by_option.data.mean(), full.data - full.data.mean()) < 6e-3

    def mark(tables):
        tables["optics"]["rlnCtfDataAreCtfPremultiplied"] = np.array([1])

    by_header = make3d(write_set(multiplied, data.particles, mark))
    assert by_header.manifest["ctf"] == ["premultiplied"]
    assert "premultiplied, because" in by_header.out
    assert by_header.manifest["map_sha256"] == by_option.manifest["map_sha256"]


def test_ctf_none_takes_images_as_they_are(simulate, make3d, write_set, deviation):
    data = simulate(**OPTICS)
    plain = replace(data.particles, ctf=None)
    clean = data.phantom.project(plain.rotations, plain.shifts_angst, 32, 2.0)
    none = make3d(write_set(clean, data.particles), "--ctf", "none")
    auto = make3d(write_set(clean, plain))
    assert deviation(none.data, data.truth, 14) < 0.01
    assert auto.manifest["ctf"] == ["none"]
    assert auto.manifest["map_sha256"] == none.manifest["map_sha256"]
    assert deviation(make3d(data.table, "--ctf", "none").data, data.truth, 14) > 0.3


def test_auto_says_what_it_takes_and_why(simulate, make3d, refused, write_set):
    data = simulate(**OPTICS)
    run = make3d(data.table, "--dry-run")
    assert "CTF of 'opticsGroup1': full, because the metadata have defocus and microscope" in run.out
    bare = write_set(data.images, replace(data.particles, ctf=None))
    assert "none, because the metadata have no defocus" in make3d(bare, "--dry-run").out
    for mode in ("full", "flipped", "premultiplied"):
        assert "no defocus or no voltage" in refused(bare, "--ctf", mode)

    def mark(tables):
        tables["optics"]["rlnCtfDataAreCtfPremultiplied"] = np.array([1])

    assert "multiplied already" in refused(write_set(data.images, data.particles, mark), "--ctf", "full")


def test_auto_goes_by_the_name_that_eman2_gives_phase_flipped_images(simulate, make3d, refused, write_set):
    data = simulate(**OPTICS)

    def called(*names):
        def change(tables):
            folder = Path(str(tables["particles"]["rlnImageName"][0]).partition("@")[2]).parent
            for name in names:
                (folder / name).write_bytes((folder / "images.mrcs").read_bytes())
            tables["particles"]["rlnImageName"] = np.array(
                [f"{row + 1}@{folder / names[row % len(names)]}" for row in range(300)]
            )

        return write_set(data.images, data.particles, change)

    flipped = called("particles__ctf_flip_fullres.mrcs")
    run = make3d(flipped)
    assert run.manifest["ctf"] == ["flipped"]
    assert "flipped, because the image files are called ctf_flip" in run.out
    assert make3d(flipped, "--ctf", "flipped").manifest["map_sha256"] == run.manifest["map_sha256"]
    assert make3d(flipped, "--ctf", "full", "--dry-run").code == 0
    both = called("a__ctf_flip.mrcs", "b.mrcs")
    assert "some are called ctf_flip (a__ctf_flip.mrcs), others not (b.mrcs)" in refused(both)


@pytest.mark.parametrize(
    ("table", "images", "told"),
    [("p.hdf", "p.hdf", True), ("p.lst", "p.mrcs", True), ("p.star", "p.mrcs", False)],
)
def test_auto_says_with_eman2s_files_what_their_headers_do_not(table, images, told, simulate):
    particles = replace(simulate(**OPTICS).particles, image_files=(Path(images),))
    modes, notes = choose_ctf_modes(particles, Make3dSettings(input=Path(table), output=Path("map.mrc")))
    assert modes == ("full",)
    assert ("phases were flipped need --ctf flipped" in notes[0]) == told


def test_beam_tilt_is_corrected(simulate, make3d, write_set, deviation):
    data = simulate(beam_tilt_mrad=(8.0, -6.0), voltage_kv=100.0, **{**OPTICS, "bfactor_angst2": 0.0})
    run = make3d(data.table)
    assert deviation(run.data, data.truth, 14) < 0.03

    def forget(tables):
        tables["optics"]["rlnBeamTiltX"] = np.zeros(1)
        tables["optics"]["rlnBeamTiltY"] = np.zeros(1)

    without = make3d(write_set(data.images, data.particles, forget))
    assert deviation(without.data, data.truth, 14) > 2 * deviation(run.data, data.truth, 14)


def test_even_and_odd_zernike_coefficients_are_corrected(simulate, make3d, write_set, deviation):
    data = simulate(**OPTICS)
    group = replace(data.particles.optics[0], odd_zernike=(0.0, 0.0, 60.0), even_zernike=(0.0, 0.0, 25.0))
    from centralslice.optics.aberrations import group_phases

    clean = data.phantom.project(data.particles.rotations, data.particles.shifts_angst, 32, 2.0)
    gamma, theta = group_phases(group, 32)
    factors = ctf(*slice_frequencies(32, group), group, data.particles.ctf, gamma) * np.exp(1j * theta)
    assert np.abs(gamma).max() > 0.3
    assert np.abs(theta).max() > 0.3

    def write(tables):
        tables["optics"]["rlnOddZernike"] = np.array(["[0,0,60]"])
        tables["optics"]["rlnEvenZernike"] = np.array(["[0,0,25]"])

    images = filtered(clean, factors)
    right = make3d(write_set(images, data.particles, write))
    wrong = make3d(write_set(images, data.particles))
    assert deviation(right.data, data.truth, 14) < 0.03
    assert deviation(wrong.data, data.truth, 14) > 2 * deviation(right.data, data.truth, 14)


@pytest.mark.parametrize("mode", ["kaiser_bessel", "trilinear", "iterative"])
def test_groups_of_two_pixel_sizes_give_one_map_at_the_true_density(
    mode, simulate, make3d, write_set, deviation
):
    data = simulate()
    particles, rotations = data.particles, data.particles.rotations
    second = np.arange(300) % 2 == 1
    sizes = np.where(second, 2.3, 2.0)
    images = np.stack(
        [data.phantom.project(rotations[i], np.zeros(2), 32, sizes[i])[0] for i in range(len(rotations))]
    )
    groups = (particles.optics[0], replace(particles.optics[0], name="second", pixel_size_angst=2.3))
    both = replace(particles, optics=groups, optics_group=second.astype(np.int64))
    run = make3d(write_set(images, both), "--mode", mode)
    limit = 0.03 if mode == "trilinear" else 0.012
    assert deviation(run.data, data.truth, 14) < limit
    # with the second group alone its own pixel size is the map's
    alone = replace(
        both.take(second), image_number=np.arange(150), optics=groups[1:], optics_group=np.zeros(150, int)
    )
    finer = make3d(write_set(images[second], alone), "--mode", mode)
    assert deviation(finer.data, data.phantom.volume(32, 2.3), 14) < limit


def test_an_anisotropic_magnification_matrix_is_undone(simulate, make3d, write_set, deviation):
    data = simulate(**OPTICS)
    matrix = (1.1, 0.03, -0.05, 0.92)
    group = replace(data.particles.optics[0], magnification=matrix)
    x, y = slice_frequencies(32, group)  # M k
    spectra = np.empty((300, 32, 17), complex)
    plain = slice_frequencies(32, data.particles.optics[0])
    for number, (pose, shift) in enumerate(
        zip(data.particles.rotations, data.particles.shifts_angst, strict=True)
    ):
        spectra[number] = data.phantom.transform(np.stack([x, y, 0 * x], -1) @ pose, 2.0)
        spectra[number] *= np.exp(-2j * np.pi * (plain[0] * shift[0] + plain[1] * shift[1]))
    spectra *= ctf(x, y, group, data.particles.ctf)
    images = np.fft.fftshift(scipy.fft.irfft2(spectra, s=(32, 32)), axes=(1, 2))

    def write(tables):
        for name, value in zip(("00", "01", "10", "11"), matrix, strict=True):
            tables["optics"][f"rlnMagMat{name}"] = np.array([value])

    right = make3d(write_set(images, data.particles, write))
    wrong = make3d(write_set(images, data.particles))
    assert deviation(right.data, data.truth, 14) < 0.03
    assert deviation(wrong.data, data.truth, 14) > 3 * deviation(right.data, data.truth, 14)


def test_frequencies_beyond_maxres_are_left_out(simulate, make3d, deviation):
    data, noisy = simulate(), simulate(snr=0.1)
    whole, cut = make3d(data.table), make3d(data.table, "--maxres", "8")  # shell 8 of 32 × 2 Å
    axis = np.fft.fftfreq(32, 1 / 32)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    spectra = [np.fft.fftn(run.data) for run in (whole, cut)]
    noise = [np.fft.fftn(make3d(noisy.table, *options).data) for options in ((), ("--maxres", "8"))]
    power = [np.sum(np.abs(each[radius > 9.5]) ** 2) for each in noise]
    assert power[1] < 0.02 * power[0]
    inside = radius < 7
    difference = np.linalg.norm((spectra[1] - spectra[0])[inside])
    assert difference < 0.02 * np.linalg.norm(spectra[0][inside])
    nyquist = make3d(data.table, "--maxres", "2")
    assert deviation(nyquist.data, whole.data) < 1e-6


def test_an_amplitude_of_ctf_zero_images_is_refused_as_an_all_zero_map(simulate, refused, write_set):
    data = simulate(count=10, defocus_range_angst=(8000.0, 9000.0))
    parameters = data.particles.ctf
    dead = ContrastTransfer(
        *(getattr(parameters, name) for name in (
            "defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg", "bfactor_angst2",
        )),
        scale=np.zeros(10),
    )  # fmt: skip
    table = write_set(data.images, replace(data.particles, ctf=dead), lambda t: t["particles"].update(
        rlnCtfScalefactor=np.zeros(10)))  # fmt: skip
    assert "zero everywhere" in refused(table)


def test_random_orientations_need_no_order(simulate, make3d, write_set, deviation):
    data = simulate(**OPTICS)
    order = np.random.default_rng(0).permutation(300)
    shuffled = replace(data.particles.take(order), image_number=np.arange(300))
    again = make3d(write_set(data.images[order], shuffled))
    assert deviation(again.data, make3d(data.table).data) < 1e-5
