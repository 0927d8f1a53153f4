"""Maps of simulated projects against the true object: every fact of the tables counts, and at its true scale."""

from __future__ import annotations

import json

import numpy as np
import pytest

from centralslice.geometry.gaussians import random_phantom
from centralslice.geometry.tilt_geometry import image_positions

B = ("--b", "48", "--taper", "0")
NO_CTF = (*B, "--no-ctf")
#: A CTF of 1.
FLAT = {"defocus_range_angst": None, "amplitude_contrast": 1.0, "spherical_aberration_mm": 0.0}
PARTICLES, TOMOGRAMS, MOTION = "particles.star", "tomograms.star", "motion.star"


def tilt_tables(tables):
    """(name, rows) of every tilt series."""
    for path, blocks in tables.items():
        if path.startswith("tilt_series"):
            yield from blocks.items()


def numbers(rows, label):
    return np.array(rows[label], float)


def texts(values):
    return [repr(float(value)) for value in values]


def vectors(rows):
    return ["[" + ",".join(repr(float(value)) for value in row) + "]" for row in rows]


def zero(table, block, *labels):
    """A change that sets these columns to 0."""

    def change(tables):
        for label in labels:
            tables[table][block][label] = ["0"] * len(tables[table][block][label])

    return change


def in_tilts(label, value):
    """A change of a column of all tilt tables."""

    def change(tables):
        for _, rows in tilt_tables(tables):
            rows[label] = [str(value)] * len(rows["rlnDefocusU"])

    return change


# --- exactness ----------------------------------------------------------------------------------------------


def test_full_coverage_without_noise_is_right_to_one_percent_and_at_scale(plain, tomo, error, scale_of):
    made = tomo(plain, *NO_CTF).map()
    assert error(made, plain.truth) < 0.012
    assert scale_of(made, plain.truth) == pytest.approx(1, abs=0.005)


def test_the_peers_scheme_loses_three_times_as_much_at_least(plain, tomo, error):
    ours, peers = tomo(plain, *NO_CTF).map(), tomo(plain, *NO_CTF, "--compat", "relion").map()
    # the peer's amplitudes are b √s of the map's
    assert error(peers, plain.truth, scaled=True) > 3 * error(ours, plain.truth, scaled=True)


@pytest.mark.parametrize(
    "options",
    [
        "--b 49", "--b 64 --crop 48", "--b 63 --crop 48", "--b 64 --crop 47", "--b 48 --precision float64",
        "--b 48 --mode kaiser_bessel", "--b 48 --sums fast", "--b 48 --no-circle-crop",
    ],
)  # fmt: skip
def test_boxes_and_crops_of_any_size_are_equally_right(plain, tomo, error, scale_of, options):
    options = options.split()
    made = tomo(plain, *options, "--taper", "0", "--no-ctf").map()
    truth = plain.phantom.volume(len(made), 4.0)
    assert len(made) == int(options[options.index("--crop" if "--crop" in options else "--b") + 1])
    assert error(made, truth) < 0.012
    assert scale_of(made, truth) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(("box", "binning"), [(24, 2), (25, 2), (32, 1.5), (31, 1.5), (36, 1.33)])
def test_binned_maps_are_the_object_on_coarser_voxels(plain, tomo, fsc_curve, scale_of, box, binning):
    made = tomo(plain, "--b", box, "--bin", binning, "--taper", "0", "--no-ctf")
    voxel = 4.0 * np.floor(box * binning + 0.5) / box
    truth = plain.phantom.volume(box, voxel)
    curve = fsc_curve(made.map(), truth, box / 3, 4)
    assert curve[1 : box // 3].min() > 0.998
    assert curve[: box // 2 - 1].min() > 0.95
    # the truth is sampled at points, the map is without what is finer than its voxels
    assert scale_of(made.map(), truth) == pytest.approx(1, abs=0.015)


def test_ctf_of_many_defoci_is_taken_off(with_ctf, tomo, likeness, scale_of):
    made = tomo(with_ctf, *B)
    assert likeness(made.map(), with_ctf.truth) > 0.99
    assert likeness(tomo(with_ctf, *B, "--no-ctf").map(), with_ctf.truth) < 0.7
    # Q0 of the zero frequency is all that is known of the mean
    assert scale_of(made.map(), with_ctf.truth) == pytest.approx(1, abs=0.05)


def test_snr_is_the_constant_that_is_added_to_the_weights_as_in_the_peer(plain, tomo):
    with_snr, without = (tomo(plain, *NO_CTF, *snr).map() for snr in (("--SNR", "0.02"), ()))
    weights = tomo(plain, *NO_CTF, "--compat", "relion").map("weight_merged")
    expected = means_of_shells(weights / (weights + 50.0))
    a, b = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(data))) for data in (with_snr, without))
    found = means_of_shells((a * b.conj()).real) / means_of_shells(np.abs(b) ** 2)
    shells = slice(3, 16)
    assert expected[shells].min() < 0.65 < 0.8 < expected[shells].max()
    np.testing.assert_allclose(found[shells], expected[shells], rtol=0.03)


def means_of_shells(data):
    axes = np.ogrid[tuple(slice(-(n // 2), n - n // 2) for n in data.shape)]
    radius = np.rint(np.sqrt(sum(a * a for a in axes))).astype(int).ravel()
    return np.bincount(radius, data.ravel()) / np.bincount(radius)


# --- facts of the tables ------------------------------------------------------------------------------------


@pytest.fixture
def assert_honoured(tomo, misfit):
    """The project's map fits the truth, that of the altered one is clearly worse."""

    def check(project, other, limit=0.12, loss=0.05):
        good, bad = (misfit(tomo(given, *B).map(), project.truth) for given in (project, other))
        assert good < limit
        assert bad > good + loss

    return check


DEEP = {
    "tomograms": 50, "image_size": (360, 112), "tomogram_size": (60, 60, 600), "random_directions": None,
    "angle_range_deg": (-24.0, 24.0), "step_deg": 6.0, "axis_deg": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("hand", [1, -1])
def test_defocus_changes_with_depth_by_the_hand(simulate, altered, assert_honoured, hand):
    project = simulate(**DEEP, hand=hand)

    def turn(tables):
        tables[TOMOGRAMS]["global"]["rlnTomoHand"] = [str(-hand)] * 50

    assert_honoured(project, altered(project, turn))


def test_the_defocus_slope_multiplies_the_change_with_depth(simulate, altered, assert_honoured):
    project = simulate(**DEEP, defocus_slope=4.0)

    def one(tables):
        tables[TOMOGRAMS]["global"]["rlnTomoDefocusSlope"] = ["1"] * 50

    assert_honoured(project, altered(project, one))


def test_trajectories_move_windows(simulate, tomo, likeness):
    project = simulate(motion_angst=10.0)
    files = (None, "--p", project.folder / PARTICLES, "--t", project.folder / TOMOGRAMS)
    good = likeness(tomo(project, *B).map(), project.truth)
    assert good > 0.985
    assert likeness(tomo(*files, *B).map(), project.truth) < good - 0.05
    # and named apart from the set
    apart = likeness(tomo(*files, "--mot", project.folder / MOTION, *B).map(), project.truth)
    assert apart == pytest.approx(good, abs=1e-6)


@pytest.mark.parametrize("labels", [("SubtomogramRot", "SubtomogramPsi"), ("OriginXAngst", "OriginZAngst")])
def test_subtomogram_angles_turn_origins_and_particles(simulate, altered, assert_honoured, labels):
    project = simulate(subtomogram_angles=True, max_origin_angst=10.0)
    prefix = "rlnTomo" if labels[0].startswith("Sub") else "rln"
    other = altered(project, zero(PARTICLES, "particles", *(prefix + label for label in labels)))
    assert_honoured(project, other)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"phase_shift_deg": 60.0}, "rlnPhaseShift"),
        ({"astigmatism_angst": 6000.0, "defocus_range_angst": (16000.0, 20000.0)}, "rlnDefocusAngle"),
    ],
)
def test_ctf_columns_of_tilts_are_honoured(simulate, altered, assert_honoured, settings, label):
    project = simulate(**settings)
    other = altered(project, in_tilts(label, 0))
    assert_honoured(project, other)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"even_zernike": (0.0,) * 4 + (16000.0, 0.0, 0.0, 0.0, -16000.0)}, "rlnEvenZernike"),
        ({"odd_zernike": (0.0, 0.0, 2000.0, 0.0, 0.0, -1500.0)}, "rlnOddZernike"),
        ({"beam_tilt_mrad": (25.0, -20.0)}, "rlnOddZernike"),
    ],
    ids=["even", "odd", "beam tilt"],
)
def test_aberrations_are_honoured(simulate, altered, assert_honoured, settings, label):
    project = simulate(**settings)

    def none(tables):
        del tables[PARTICLES]["optics"][label]

    assert_honoured(project, altered(project, none))


def test_beam_tilt_in_mrad_is_the_same_as_its_odd_coefficients(simulate, altered, tomo):
    # the peer ignores these two columns
    project = simulate(beam_tilt_mrad=(25.0, -20.0))

    def as_tilt(tables):
        optics = tables[PARTICLES]["optics"]
        del optics["rlnOddZernike"]
        optics["rlnBeamTiltX"], optics["rlnBeamTiltY"] = ["25.0"], ["-20.0"]

    expected, found = tomo(project, *B).map(), tomo(altered(project, as_tilt), *B).map()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_bfactors_of_tilts_are_undone(simulate, altered, tomo, misfit):
    project = simulate(bfactor_angst2=400.0)
    other = altered(project, in_tilts("rlnCtfBfactor", 0))
    good, bad = (misfit(tomo(given, *B).map(), project.truth) for given in (project, other))
    assert good < 0.1
    assert bad > 2 * good


def test_scale_factors_of_tilts_are_undone(with_ctf, altered, tomo, misfit):
    # every other image at a third of its contrast
    def weaker(name, stack):
        return stack * np.where(np.arange(len(stack)) % 2, 1 / 3, 1)[:, None, None]

    def said(tables):
        for _, rows in tilt_tables(tables):
            count = len(rows["rlnDefocusU"])
            rows["rlnCtfScalefactor"] = [repr(1 / 3) if tilt % 2 else "1" for tilt in range(count)]

    with_scale, without = altered(with_ctf, said, weaker), altered(with_ctf, None, weaker)
    good, bad = (misfit(tomo(given, *B).map(), with_ctf.truth) for given in (with_scale, without))
    assert good < 0.1
    assert bad > 0.25


@pytest.mark.parametrize("bfactor", [0.0, 5.0])
def test_radiation_damage_is_undone(simulate, altered, tomo, misfit, bfactor):
    project = simulate(dose_per_tilt=4.0, bfactor_per_dose=bfactor)
    other = altered(project, in_tilts("rlnMicrographPreExposure", 0))
    good, bad = (misfit(tomo(given, *B).map(), project.truth) for given in (project, other))
    assert good < 0.1
    assert bad > 1.5 * good


# --- several optics groups -----------------------------------------------------------------------------------


def test_groups_of_other_pixel_size_and_voltage_give_one_map(
    simulate, altered, tomo, likeness, scale_of, assert_honoured
):
    project = simulate(groups=2, pixel_ratio=1.12, voltages_kv=(300.0, 120.0))
    made = tomo(project, *B)
    assert likeness(made.map(), project.truth) > 0.98
    assert scale_of(made.map(), project.truth) == pytest.approx(1, abs=0.05)
    assert any("different pixel sizes" in note for note in made.manifest["notes"])

    def swapped(tables):
        optics, tomograms = tables[PARTICLES]["optics"], tables[TOMOGRAMS]["global"]
        for table in (optics, tomograms):
            table["rlnVoltage"] = ["300" if float(value) < 200 else "120" for value in table["rlnVoltage"]]

    assert_honoured(project, altered(project, swapped))


def test_every_pixel_size_has_the_same_amplitude_in_the_map(simulate, altered, tomo, scale_of):
    # the peer's contributions are off by the ratio squared
    project = simulate(groups=2, pixel_ratio=1.25, half_sets=False, **FLAT)

    def only(group):
        def change(tables):
            particles = tables[PARTICLES]["particles"]
            keep = [row for row, value in enumerate(particles["rlnOpticsGroup"]) if value == group]
            for label, values in particles.items():
                particles[label] = [values[row] for row in keep]

        return change

    scales = [
        scale_of(tomo(altered(project, only(group)), *options).map(), truth)
        for group, options, truth in (
            ("1", B, project.truth),
            ("2", B, project.phantom.volume(48, 5.0)),
        )
    ]
    both = scale_of(tomo(project, *B).map(), project.truth)
    assert both == pytest.approx(1, abs=0.02)
    assert scales[0] == pytest.approx(1, abs=0.02)
    # simulated images of all groups are line integrals in units of 4 Å, a map alone is in its own voxels of 5 Å
    assert scales[1] == pytest.approx(1.25, abs=0.02)


# --- magnification -------------------------------------------------------------------------------------------


def magnified(project, matrix):
    """Images of a project stretched by a matrix about the particle in each."""
    from scipy.ndimage import affine_transform

    particles = project.read()
    places = {}
    for row, number in enumerate(particles.series_number):
        series = particles.series[number]
        places[series.name] = image_positions(series, particles.positions[row : row + 1], None)[0]
    inverse = np.linalg.inv(matrix)[::-1, ::-1]  # x, y to rows of y, x

    def change(name, stack):
        found = np.empty_like(stack)
        for tilt, image in enumerate(stack):
            at = places[name][tilt, ::-1]
            found[tilt] = affine_transform(image, inverse, at - inverse @ at, order=5)
        return found

    return change


def test_an_anisotropic_magnification_is_undone_ctf_and_all(with_ctf, altered, tomo, misfit):
    # RELION: frequency k of an image is frequency M k of the object, so images are stretched by the transpose;
    # the peer of this command ignores the matrix
    matrix = np.array([[1.06, 0.05], [-0.03, 0.95]])
    stretched = altered(with_ctf, None, magnified(with_ctf, matrix.T))

    def said(rows):
        def change(tables):
            for label, value in zip(("00", "01", "10", "11"), np.ravel(rows), strict=True):
                tables[PARTICLES]["optics"][f"rlnMagMat{label}"] = [repr(float(value))]

        return change

    def found(rows):
        return misfit(tomo(altered(stretched, said(rows)), *B).map(), with_ctf.truth)

    good = found(matrix)
    assert good < 0.1
    for wrong in (np.eye(2), matrix.T, np.linalg.inv(matrix)):
        assert found(wrong) > good + 0.05


# --- deformations --------------------------------------------------------------------------------------------


def deformed(kind, coefficients, grid=(2, 2)):
    """A change that declares a deformation; ``coefficients(tilt)`` gives those of a tilt."""

    def change(tables):
        rows = tables[TOMOGRAMS]["global"]
        count = len(rows["rlnTomoName"])
        rows["rlnTomoDeformationType"] = [kind] * count
        rows["rlnTomoDeformationGridSizeX"] = [str(grid[0])] * count
        rows["rlnTomoDeformationGridSizeY"] = [str(grid[1])] * count
        for _, tilts in tilt_tables(tables):
            tilts["rlnTomoDeformationCoefficients"] = vectors(
                coefficients(tilt) for tilt in range(len(tilts["rlnDefocusU"]))
            )

    return change


@pytest.mark.parametrize(("kind", "count"), [("linear", 3), ("spline", 32), ("Fourier", 8)])
def test_an_identity_deformation_changes_nothing(plain, altered, tomo, kind, count):
    project = altered(plain, deformed(kind, lambda tilt: [0.0] * count))
    expected, found = tomo(plain, *B).map(), tomo(project, *B).map()
    np.testing.assert_array_equal(found, expected)


def test_a_linear_deformation_that_the_geometry_lacks_is_honoured(simulate, altered, assert_honoured):
    # image shifts are changed so that only the deformation brings windows where the particles are
    project = simulate(max_shift_angst=40.0, **FLAT)
    random = np.random.default_rng(4)
    values = random.uniform(-0.15, 0.15, (30, 3))
    places = {
        series.name: image_positions(series, project.read().positions[row : row + 1], None)[0]
        for row, series in ((row, project.read().series[n]) for row, n in enumerate(project.read().series_number))
    }  # fmt: skip

    def moved(tables):
        for name, rows in tilt_tables(tables):
            for tilt, (a, b, c) in enumerate(values):
                r = places[name][tilt] - 56.0
                inverse = np.linalg.inv(np.eye(2) + np.array([[a, 0], [b, c]]))
                step = inverse @ r - r
                for axis in (0, 1):
                    row = json.loads(rows[f"rlnTomoProj{'XY'[axis]}"][tilt])
                    row[3] += step[axis]
                    (rows[f"rlnTomoProj{'XY'[axis]}"][tilt],) = vectors([row])

    def both(tables):
        moved(tables)
        deformed("linear", lambda tilt: values[tilt])(tables)

    assert_honoured(altered(project, both), altered(project, moved))


# --- symmetry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c3", "d2", "o", "i1"])
def test_few_views_of_a_symmetric_object_give_its_map(simulate, tomo, likeness, name):
    from centralslice.plugin.registry import shared_registry

    unit = random_phantom(3, (7.0, 9.0), 40.0, 5)
    phantom = unit.symmetrised(shared_registry().symmetry(name))
    project = simulate(phantom=phantom, tomograms=8, random_directions=20, seed=6, **FLAT)
    good = likeness(tomo(project, *NO_CTF, "--sym", name.upper()).map(), project.truth)
    assert good > 0.985
    assert good > likeness(tomo(project, *NO_CTF).map(), project.truth) + 0.01
