"""Subtraction against exact images of Gaussians: what is left is the kept part, in place, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from centralslice.abc.reconstructor import serial_map
from centralslice.data.particles import OpticsGroup
from centralslice.errors import ParameterError
from centralslice.fourier.slice_reading import slice_reader
from centralslice.geometry.groups import close_group
from centralslice.geometry.rotations import rotation_x, rotation_z
from centralslice.jobs.subparticles.blocks import Copies, ModelMaps, OutputSettings, ParentBlock
from centralslice.jobs.subparticles.gain import fit_gain, unit_gain
from centralslice.jobs.subparticles.optics import ModelSettings, group_tables, project, transfer
from centralslice.jobs.subparticles.subtract import (
    debug_strip,
    defocus_hand_scores,
    ring_statistics,
    subtract_block,
)
from centralslice.jobs.subparticles.window import Mask2D, mask_reader
from centralslice.runtime.threads import Threads


def parents_of(scene, images, rows=None):
    count = len(images)
    return ParentBlock(
        np.arange(count) if rows is None else rows, images.astype(np.float32), scene.rotations, scene.shifts,
        scene.ctf,
    )  # fmt: skip


def copies_in_place(scene, **changed):
    count = len(scene.rotations)
    plain = {
        "parent": np.arange(count), "reading": scene.rotations, "shifts_px": scene.shifts,
        "moves_px": np.zeros((count, 2), np.int64), "residual_px": np.zeros((count, 2)), "seeds": np.arange(count),
    }  # fmt: skip
    return Copies(**(plain | changed))


def tables_of(scene, mode="full", optics=None, **options):
    settings = ModelSettings(scene.box, scene.pixel, mode, **options)
    return group_tables(scene.optics if optics is None else optics, scene.box, settings)


def reader(data, width=4):
    return slice_reader(np.ascontiguousarray(data, np.float32), serial_map, width)


def maps_of(scene):
    return ModelMaps(reader(scene.density * (1 - scene.keep)), reader(scene.density))


def projections(scene, data, tables):
    """Images of a map's projections with the CTF, by a wider window."""
    exact = reader(data, 7)
    return np.array([
        np.fft.irfft2(
            project(exact, pose, shift, tables, transfer(tables, scene.ctf, row, 1.0)), s=(scene.box, scene.box)
        )
        for row, (pose, shift) in enumerate(zip(scene.rotations, scene.shifts, strict=True))
    ])  # fmt: skip


def subtracted(scene, images, mode="none", ctf_mode="full", output=None, tables=None, maps=None, **changed):
    tables = tables_of(scene, ctf_mode) if tables is None else tables
    maps = maps_of(scene) if maps is None else maps
    parents = parents_of(scene, images)
    gain = unit_gain(scene.box, mode)
    if mode in ("group", "particle"):
        gain = fit_gain(ring_statistics(parents, tables, maps.full, serial_map), mode, scene.box)
    output = OutputSettings(scene.box) if output is None else output
    return subtract_block(parents, copies_in_place(scene, **changed), tables, maps, gain, output, serial_map)


def energy(images):
    return (np.asarray(images, np.float64) ** 2).sum(axis=(-2, -1))


@pytest.mark.parametrize("box", [64, 63])
@pytest.mark.parametrize("mode", ["none", "group", "particle"])
def test_what_is_left_is_the_projection_of_the_kept_density(scenes, box, mode):
    scene = scenes.Scene(box=box, apart=False)
    tables = tables_of(scene)
    left = subtracted(scene, scene.images(), mode).images
    expected = projections(scene, scene.density * scene.keep, tables)
    taken = projections(scene, scene.density * (1 - scene.keep), tables)
    error = energy(left - expected) / energy(taken)
    assert error.max() < 1e-5, error


def test_without_noise_and_with_the_true_map_the_gain_is_one(scenes):
    scene = scenes.Scene(views=20)
    tables, maps = tables_of(scene), maps_of(scene)
    gain = fit_gain(
        ring_statistics(parents_of(scene, scene.images()), tables, maps.full, serial_map), "group", 64
    )
    assert gain.cutoff > 25
    assert np.abs(gain.curve[: gain.cutoff] - 1).max() < 0.02
    assert abs(gain.median - 1) < 0.002


def test_the_kept_part_correlates_with_its_own_images_and_the_rest_is_gone(scenes):
    scene = scenes.Scene(views=12)
    left = subtracted(scene, scene.images(), "group").images
    kept, other = scene.images(scene.kept), scene.images(scene.other)
    for image, own, foreign in zip(left, kept, other, strict=True):
        footprint = np.abs(own) > 0.05 * np.abs(own).max()
        assert np.corrcoef(image[footprint], own[footprint])[0, 1] > 0.99
        alone = (np.abs(foreign) > 0.05 * np.abs(foreign).max()) & ~footprint
        assert energy(image * alone - own * alone) / energy(foreign * alone) < 0.05


def test_phase_flipped_images_are_subtracted_with_the_absolute_ctf(scenes):
    scene = scenes.Scene()
    images = scene.images(flipped=True)
    left = subtracted(scene, images, ctf_mode="flipped").images
    expected = projections(scene, scene.density * scene.keep, tables_of(scene, "flipped"))
    assert (energy(left - expected) / energy(images)).max() < 1e-3


def test_premultiplied_images_and_odd_aberrations_and_magnification_are_modelled(scenes):
    scene = scenes.Scene()
    scene.optics = replace(
        scene.optics,
        beam_tilt_mrad=(1.0, -2.0),
        magnification=(1.02, 0.005, 0.005, 0.98),
        odd_zernike=(0.0,) * 6 + (2.0,),
    )
    tables = tables_of(scene)
    images = scene.images()
    left = subtracted(scene, images, tables=tables).images
    error = energy(left - projections(scene, scene.density * scene.keep, tables)) / energy(images)
    assert error.max() < 1e-5, error
    # the CTF once more
    again = tables_of(scene, optics=replace(scene.optics, ctf_premultiplied=True))
    assert again.ctf_mode == "premultiplied"
    once = transfer(tables, scene.ctf, 1, 1.0)[0]
    ratio = transfer(again, scene.ctf, 1, 1.0)[0]
    plain = transfer(
        tables_of(scene, optics=replace(scene.optics, beam_tilt_mrad=(0, 0), odd_zernike=())),
        scene.ctf,
        1,
        1.0,
    )[0]
    assert np.abs(ratio - once * plain.real).max() < 1e-5


def test_images_of_another_pixel_size_and_box_are_modelled(scenes):
    scene = scenes.Scene()
    optics = replace(scene.optics, pixel_size_angst=2.5, box_size=60)
    images = scenes.images_of(scene.whole, scene.rotations, scene.shifts, 60, optics, scene.ctf)
    tables = group_tables(optics, 60, ModelSettings(64, 2.0, "full"))
    parents = parents_of(scene, images)
    nothing = ModelMaps(reader(scene.density))
    done = subtract_block(
        parents, copies_in_place(scene), tables, nothing, unit_gain(60), OutputSettings(60), serial_map
    )
    assert (energy(done.images) / energy(images)).max() < 1e-3


def test_grey_scales_of_particles_and_map_do_not_matter(scenes):
    scene = scenes.Scene(views=30)
    factors = np.exp(np.random.default_rng(3).uniform(np.log(0.3), np.log(3.0), 30))
    images = scene.images()
    maps = maps_of(scene)
    scaled = ModelMaps(reader(10 * scene.density * (1 - scene.keep)), reader(10 * scene.density))
    plain = subtracted(scene, images, "group", maps=maps)
    other = subtracted(scene, images * factors[:, None, None], "group", maps=scaled)
    ratio = other.images / factors[:, None, None].astype(np.float32)
    assert (energy(ratio - plain.images) / energy(plain.images)).max() < 1e-3
    assert np.allclose(other.residual_cc, plain.residual_cc, atol=1e-3)
    assert not other.clipped.any()
    assert np.allclose(other.scale / other.scale.mean(), factors / factors.mean(), rtol=0.01)


def test_norm_and_scale_corrections_multiply_image_and_model(scenes):
    scene = scenes.Scene()
    images = scene.images()
    parents = replace(
        parents_of(scene, 2 * images), image_factor=np.full(6, 1.5), model_factor=np.full(6, 3.0)
    )
    done = subtract_block(
        parents, copies_in_place(scene), tables_of(scene), maps_of(scene), unit_gain(64), OutputSettings(64),
        serial_map,
    )  # fmt: skip
    plain = subtracted(scene, images)
    assert np.allclose(done.images, 3 * plain.images, atol=1e-4 * np.abs(done.images).max())


@pytest.mark.parametrize("snr", [0.1, 0.03])
def test_nothing_of_the_other_part_is_left_on_average_at_low_snr(scenes, snr):
    # β: projections of the residuals on the images of B alone, over B-only pixels
    scene = scenes.Scene(box=48, views=200)
    images = scene.images()
    rng = np.random.default_rng(5)
    noisy = images + rng.normal(size=images.shape) * np.sqrt(images.var() / snr)
    left = subtracted(scene, noisy, "group").images
    own, foreign = scene.images(scene.kept), scene.images(scene.other)
    alone = np.abs(own) < 0.01 * np.abs(own).max(axis=(1, 2), keepdims=True)
    beta = (left * foreign * alone).sum() / (foreign**2 * alone).sum()
    assert abs(beta) < 0.05, beta


def test_a_radial_filter_of_the_map_is_found(scenes):
    scene = scenes.Scene(views=150)
    images = scene.images()
    rng = np.random.default_rng(6)
    noisy = images + rng.normal(size=images.shape) * np.sqrt(images.var() / 0.1)
    k = np.fft.fftfreq(64)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    filtered = 0.3 * np.exp(40 * radius**2) / (1 + (radius / 0.3) ** 8)
    density = np.fft.ifftn(np.fft.fftn(scene.density) * filtered).real
    maps = ModelMaps(reader(density * (1 - scene.keep)), reader(density))
    tables = tables_of(scene)
    parents = parents_of(scene, noisy)
    gain = fit_gain(ring_statistics(parents, tables, maps.full, serial_map), "group", 64)
    clean = parents_of(scene, images)
    done = subtract_block(clean, copies_in_place(scene), tables, maps, gain, OutputSettings(64), serial_map)
    taken = images - done.images
    true = projections(scene, scene.density * (1 - scene.keep), tables)
    assert energy(taken - true).sum() / energy(true).sum() < 0.05


def test_every_depth_has_its_own_defocus_with_curved_slices(scenes):
    scene = scenes.Scene(pixel=1.2, views=8)
    scene.other.centres_angst[:] *= 4  # deep: more than the box is wide, inside it once turned
    thick = scenes.blob([0, 0, 0], 28.0, 30, (1.5, 2.4), 9)
    scene.ctf = scenes.random_ctf(8, 3, low=3000.0, high=6000.0)
    density = thick.volume(64, 1.2)
    nothing_kept = ModelMaps(reader(density))
    true = scenes.images_of(thick, scene.rotations, scene.shifts, 64, scene.optics, scene.ctf, depth_hand=1.0)
    left = {}
    for name, options in {
        "flat": {}, "curved": {"curved": True}, "reversed": {"curved": True, "hand": -1.0}
    }.items():  # fmt: skip
        tables = tables_of(scene, **options)
        left[name] = energy(subtracted(scene, true, tables=tables, maps=nothing_kept).images).sum()
    assert left["curved"] < 0.02 * left["flat"]
    assert left["reversed"] > 2 * left["flat"]


def test_the_hand_of_the_defocus_change_is_found(scenes):
    scene = scenes.Scene(pixel=1.0, views=20)
    depth = 400.0  # Å: a map far from the middle of its parent, as in a large particle
    z = (scene.rotations @ scene.centre_angst)[:, 2] * 20
    shifted = replace(
        scene.ctf,
        defocus_u_angst=scene.ctf.defocus_u_angst - z,
        defocus_v_angst=scene.ctf.defocus_v_angst - z,
    )
    whole = scenes.images_of(scene.other, scene.rotations, scene.shifts, 64, scene.optics, scene.ctf)
    whole += scenes.images_of(scene.kept, scene.rotations, scene.shifts, 64, scene.optics, shifted)
    assert np.abs(z).max() < depth
    scores = defocus_hand_scores(
        parents_of(scene, whole), copies_in_place(scene), z, tables_of(scene), maps_of(scene), unit_gain(64),
        serial_map, 8.0,
    )  # fmt: skip
    assert scores[0] > scores[2] > scores[1]


def test_the_image_of_a_copy_is_centred_and_cut_without_wrapping(scenes):
    scene = scenes.Scene()
    images = scene.images(scene.kept)
    moves = np.array([[3, -2], [40, 0], [0, 0], [-5, 12], [0, -100], [1, 1]])
    parents = parents_of(scene, images + 7.0)
    plain = OutputSettings(40, "mean", subtract=False)
    done = subtract_block(
        parents, copies_in_place(scene, moves_px=moves), tables_of(scene), ModelMaps(maps_of(scene).excluded),
        unit_gain(64), plain, serial_map,
    ).images  # fmt: skip
    wide = np.full((6, 400, 400), 7.0)
    wide[:, 168:232, 168:232] = images + 7.0
    corner = np.hypot(*(np.mgrid[:64, :64] - 32)) > 32
    for image, found, full, move in zip(parents.images, done, wide, moves, strict=True):
        low = 200 - 20 - move
        expected = full[low[1] : low[1] + 40, low[0] : low[0] + 40].copy()
        empty = np.ones((400, 400), bool)
        empty[168:232, 168:232] = False
        expected[empty[low[1] : low[1] + 40, low[0] : low[0] + 40]] = image[corner].mean(dtype=np.float64)
        assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(done[4]) == 0


def test_a_larger_box_pads_and_padding_of_the_parent_stays_zero(scenes):
    scene = scenes.Scene()
    images = scene.images()
    images[:, :, :9] = 0  # an image at the edge of its micrograph
    output = OutputSettings(80, "zero")
    moves = np.tile([4, 0], (6, 1))
    left = subtracted(scene, images, output=output, moves_px=moves).images
    assert left.shape == (6, 80, 80)
    assert not left[:, :, : 8 + 4 + 9].any()
    assert not left[:, :8].any()
    assert left[:, 8:72, 8 + 4 + 9 : 72].all(axis=(1, 2)).all()
    # a few zeros by chance are no padding
    images = scene.images()
    images[:, 3, 3] = 0
    assert subtracted(scene, images).images[:, 3, 3].all()


def test_noise_that_fills_in_is_the_same_each_time_and_differs_between_copies(scenes):
    scene = scenes.Scene(views=2)
    scene.rotations[1], scene.shifts[1] = scene.rotations[0], scene.shifts[0]
    images = np.repeat(np.random.default_rng(0).normal(3.0, 2.0, (1, 64, 64)), 2, axis=0)
    output = OutputSettings(64, "noise", subtract=False, seed=5)
    runs = [subtracted(scene, images, output=output, moves_px=np.full((2, 2), 30)).images for _ in range(2)]
    assert np.array_equal(*runs)
    assert not np.array_equal(runs[0][0], runs[0][1])
    strange = runs[0][0][:30]
    assert abs(strange.mean() - 3) < 0.3
    assert abs(strange.std() - 2) < 0.3


def test_wrapping_takes_pixels_from_the_opposite_side(scenes):
    scene = scenes.Scene(views=1)
    images = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    output = OutputSettings(64, "wrap", subtract=False)
    found = subtracted(scene, images, output=output, moves_px=np.array([[5, -7]])).images[0]
    assert np.allclose(found, np.roll(images[0], (-7, 5), (0, 1)), atol=1e-5)


def test_a_shift_by_part_of_a_pixel_puts_the_centre_on_the_centre_pixel(scenes):
    scene = scenes.Scene()
    images = scene.images(scene.kept)
    exact = scenes.images_of(
        scene.kept, scene.rotations, scene.shifts - [[0.3, -0.45]] * 6, 64, scene.optics, scene.ctf
    )
    output = OutputSettings(64, subtract=False, subpixel=True)
    found = subtracted(scene, images, output=output, residual_px=np.tile([0.3, -0.45], (6, 1))).images
    assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("mode", ["none", "group"])
def test_the_mean_is_kept_if_asked(scenes, mode):
    scene = scenes.Scene()
    images = scene.images() + 4.0
    scene.ctf = replace(scene.ctf, scale=np.full(6, 1.3))
    kept = subtracted(scene, images, mode, output=OutputSettings(64, keep_dc=True)).images
    plain = subtracted(scene, images, mode).images
    assert np.allclose(kept.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-5)
    assert np.all(np.abs(plain.mean(axis=(1, 2)) - images.mean(axis=(1, 2))) > 1e-3)


def test_rings_of_each_image_are_fitted_in_mode_eman(scenes):
    scene = scenes.Scene(astigmatism=0.0)
    images = scene.images()
    # without a CTF in the model the rings take it up, there being no astigmatism and little in a ring
    done = subtracted(scene, images, "eman", ctf_mode="none", output=OutputSettings(64))
    taken = projections(scene, scene.density * (1 - scene.keep), tables_of(scene))
    expected = projections(scene, scene.density * scene.keep, tables_of(scene))
    assert (energy(done.images - expected) / energy(taken)).max() < 0.25
    assert np.allclose(done.images.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits(scenes):
    scene = scenes.Scene(views=9)
    images = scene.images()
    images += np.random.default_rng(1).normal(size=images.shape) * images.std()
    parents, tables, maps = parents_of(scene, images), tables_of(scene), maps_of(scene)
    copies = copies_in_place(scene, moves_px=np.full((9, 2), 20))
    output = OutputSettings(32, "noise", subpixel=True)
    found = []
    for count in (1, 2, 8):
        with Threads(count) as threads:
            statistics = ring_statistics(parents, tables, maps.full, threads.map)
            gain = fit_gain(statistics, "group", 64)
            done = subtract_block(parents, copies, tables, maps, gain, output, threads.map)
        found.append((done.images.tobytes(), done.residual_cc.tobytes(), gain.curve.tobytes()))
    assert found[0] == found[1] == found[2]


def test_one_masked_map_does_for_all_copies_of_a_symmetric_map(scenes):
    # projection of V E(S⁻¹ x) at A is that of V E at A S
    scene = scenes.Scene(views=1)
    turn = np.array([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
    twice = scenes.together(
        scene.kept,
        type(scene.kept)(scene.kept.centres_angst @ turn.T, scene.kept.sigmas_angst, scene.kept.heights),
    )
    density = twice.volume(64, 2.0)
    turned = scenes.soft_ball(64, turn @ scene.centre_angst / 2.0, 0.08 * 64 + 6.0)
    first, second = reader(density * (1 - scene.keep)), reader(density * (1 - turned))
    pose = scene.rotations
    own = first.read(pose @ turn, 64)
    assert np.abs(own - second.read(pose, 64)).max() < 2e-3 * np.abs(own).max()
    assert np.abs(own - first.read(pose, 64)).max() > 0.1 * np.abs(own).max()


def test_optics_that_cannot_be_modelled_are_refused(scenes):
    scene = scenes.Scene(views=1)
    with pytest.raises(ParameterError, match="pixel size"):
        group_tables(OpticsGroup(), 64, ModelSettings(64, 2.0, "none"))
    with pytest.raises(ParameterError, match="depth-slabs"):
        tables_of(scene, "none", curved=True)
    with pytest.raises(ParameterError, match="no CTF parameters"):
        transfer(tables_of(scene), None, 0, 1.0)
    with pytest.raises(ParameterError, match="64×64"):
        subtracted(scene, np.zeros((1, 32, 32)))
    with pytest.raises(ParameterError, match="whole map"):
        subtract_block(
            parents_of(scene, np.zeros((1, 64, 64))), copies_in_place(scene), tables_of(scene),
            ModelMaps(maps_of(scene).excluded), unit_gain(64, "group"), OutputSettings(64), serial_map,
        )  # fmt: skip


def test_sub_particles_of_a_ring_are_centred_on_their_subunit(scenes):
    # 60 views of a D7 ring, subunit 14.7 px off the axis: the kept part's own image tells where it is
    operators = close_group(np.stack([rotation_z(360 / 7), rotation_x(180.0)]))
    scene = scenes.Scene(views=5)
    centre = np.array([14.0, 0.0, 4.5])
    unit = scenes.blob(2 * centre, 5.0, 8, (2.6, 4.0), 3)
    masses = unit.heights * unit.sigmas_angst**3
    centre = masses @ unit.centres_angst / masses.sum() / 2
    parent = np.repeat(np.arange(5), 14)
    views = (scene.rotations[:, None] @ operators).reshape(-1, 3, 3)
    position = (views @ centre)[:, :2] + scene.shifts[parent]
    moves = -np.rint(position).astype(np.int64)
    for parent_number, number in zip(parent, range(70), strict=True):
        image = scenes.images_of(unit, views[[number]], scene.shifts[[parent_number]], 64, scene.optics)
        parents = ParentBlock(
            np.zeros(1, np.int64), image.astype(np.float32), np.eye(3)[None], np.zeros((1, 2))
        )
        copies = Copies(
            np.zeros(1, np.int64), np.eye(3)[None], np.zeros((1, 2)), moves[[number]], np.zeros((1, 2)),
            np.zeros(1, np.int64),
        )  # fmt: skip
        tables = tables_of(scene, "none")
        maps = ModelMaps(slice_reader(np.zeros((4, 4, 4), np.float32), serial_map, 4))
        output = OutputSettings(48, "zero", subtract=False)
        found = subtract_block(parents, copies, tables, maps, unit_gain(64), output, serial_map).images[0]
        axis = np.arange(48) - 24
        seen = np.array([found.sum(axis=0) @ axis, found.sum(axis=1) @ axis]) / found.sum()
        assert np.hypot(*seen) <= 0.72
        assert np.abs(seen - (position + moves)[number]).max() < 0.01


def test_a_projected_mask_keeps_the_kept_part_and_nothing_far_from_it(scenes):
    scene = scenes.Scene()
    images = np.full((6, 64, 64), 5.0)
    for edge, values in ((5.0, 3), (0.0, 2)):
        mask = Mask2D(mask_reader(scene.keep, serial_map), 4.0, edge)
        cut = subtracted(
            scene, images, output=OutputSettings(64, subtract=False, mask=mask)
        ).images / images  # fmt: skip
        assert cut.min() > -1e-3
        assert cut.max() < 1.001
        assert (len(np.unique(np.round(cut, 3))) > 2) == (values > 2)
        centre = (scene.rotations @ scene.centre_angst)[:, :2] / 2 + scene.shifts + 32
        for one, (x, y) in zip(cut, centre, strict=True):
            distance = np.hypot(np.arange(64) - x, (np.arange(64) - y)[:, None])
            assert np.allclose(one[distance < 0.08 * 64 + 8], 1, atol=1e-3)
            assert np.allclose(one[distance > 0.08 * 64 + 6 + 5 + 4 + edge + 1], 0, atol=1e-3)
        # a map that was not turned, the mask that is
        elsewhere = subtracted(
            scene, images, output=OutputSettings(64, subtract=False, mask=mask),
            reading=np.tile(np.eye(3), (6, 1, 1)), mask_reading=scene.rotations,
        ).images / images  # fmt: skip
        assert np.array_equal(elsewhere, cut)


def test_a_strip_shows_particle_model_subtracted_term_and_residual(scenes):
    scene = scenes.Scene()
    images = scene.images() + 2.0
    mask = Mask2D(mask_reader(scene.keep, serial_map), 2.0)
    strip = debug_strip(
        parents_of(scene, images), copies_in_place(scene), tables_of(scene), maps_of(scene), unit_gain(64),
        OutputSettings(64, mask=mask), 3,
    )  # fmt: skip
    limit = 1e-3 * np.abs(images).max()
    assert np.abs(strip[0] - images[3]).max() < limit
    assert np.abs(strip[1] + 2.0 - images[3]).max() < 20 * limit
    assert np.abs(strip[0] - strip[2] - strip[3]).max() < limit
    assert 0 <= strip[4].min() < strip[4].max() <= 1
