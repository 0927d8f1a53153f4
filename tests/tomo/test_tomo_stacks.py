"""Images as they lie about: stacks or single files, any mode, CRLF tables, and particles extracted as 2D stacks."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import scipy.ndimage
import tifffile

from centralslice.geometry.tilt_geometry import depth_defocus, image_positions
from centralslice.optics.ctf import ctf, slice_frequencies
from centralslice.optics.dose import dose_filter

FILES = ("half1", "half2", "merged")
#: Of the maps; the whole window counts.
OPTIONS = ("--b", 32, "--taper", 0)


def write_mrc(path, data):
    """A file of this dtype's mode by mrcfile."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        if data.ndim == 3:
            file.set_image_stack()


def write_packed(path, data):
    """Values 0 … 15 as 4-bit images (mode 101), the low half of a byte first; rows begin with a byte."""
    count, ny, nx = data.shape
    values = np.zeros((count, ny, nx + nx % 2), np.uint8)
    values[:, :, :nx] = data
    header = np.zeros(256, "<i4")
    header[:4] = nx, ny, count, 101
    header[7:10] = nx, ny, 1
    header[10:13] = np.array([nx, ny, 1], "<f4").view("<i4")
    header[16:19] = 1, 2, 3
    header[52] = struct.unpack("<i", b"MAP ")[0]
    header[53] = struct.unpack("<i", b"DD\0\0")[0]
    path.write_bytes(header.tobytes() + (values[..., ::2] | values[..., 1::2] << 4).tobytes())


@pytest.fixture
def stored(noisy, altered, read):
    """A copy of the small project whose tilt images another function stores: ``store(folder, name, stack)``.

    It may give new names of the images.
    """

    def make(store):
        project = altered(noisy)
        (project.folder / "tilt").unlink()
        (project.folder / "tilt").mkdir()
        for path in sorted((noisy.folder / "tilt").iterdir()):
            names = store(project.folder, path.stem, read(path).astype(np.float32))
            table = project.folder / "tilt_series" / f"{path.stem}.star"
            text = table.read_text()
            for tilt, name in enumerate(names or (), 1):
                text = text.replace(f"{tilt:06}@tilt/{path.name}", name)
            table.write_text(text)
        return project

    return make


def hashes(run):
    return run.manifest["map_sha256"]


def single_files(folder, name, stack):
    """A file a tilt."""
    names = [f"tilt/{name}_{tilt}.mrc" for tilt in range(len(stack))]
    for file, image in zip(names, stack, strict=True):
        write_mrc(folder / file, image)
    return names


def other_order(folder, name, stack):
    """A stack in which the tilts lie in another order than in the table."""
    order = np.roll(np.arange(len(stack))[::-1], 3)
    write_mrc(folder / f"tilt/{name}.mrcs", stack[order])
    return [f"{place + 1}@tilt/{name}.mrcs" for place in np.argsort(order)]


def big_endian(folder, name, stack):
    """As old workstations wrote it."""
    write_mrc(folder / f"tilt/{name}.mrcs", stack.astype(">f4"))


def float_tiff(folder, name, stack):
    """Floats; the first row of a TIFF is the last of an MRC."""
    tifffile.imwrite(folder / f"tilt/{name}.tif", stack[:, ::-1])
    return [f"{tilt + 1}@tilt/{name}.tif" for tilt in range(len(stack))]


@pytest.mark.parametrize("store", [single_files, other_order, big_endian, float_tiff])
def test_where_the_same_pixels_lie_does_not_matter(store, noisy, stored, tomo):
    assert hashes(tomo(stored(store), "--b", 32)) == hashes(tomo(noisy, "--b", 32))


def test_tables_with_carriage_returns_are_the_same_tables(noisy, altered, tomo):
    project = altered(noisy)
    for table in project.folder.rglob("*.star"):
        table.write_bytes(table.read_text().replace("\n", "\r\n").encode())
    assert hashes(tomo(project, "--b", 32)) == hashes(tomo(noisy, "--b", 32))


def as_integers(dtype, sigmas, highest):
    """Stores ± so many standard deviations of all images as integers to ± the highest."""

    def store(folder, name, stack):
        scaled = np.rint(stack / stack.std() / sigmas * highest)
        write_mrc(folder / f"tilt/{name}.mrcs", np.clip(scaled, -highest, highest).astype(dtype))

    return store


def as_four_bits(folder, name, stack):
    write_packed(folder / f"tilt/{name}.mrcs", np.clip(np.rint(stack / stack.std() * 2.2 + 7.5), 0, 15))


def as_byte_tiff(folder, name, stack):
    values = np.clip(np.rint(stack / stack.std() * 25 + 128), 0, 255).astype(np.uint8)
    tifffile.imwrite(folder / f"tilt/{name}.tif", values[:, ::-1], compression="zlib")
    return [f"{tilt + 1}@tilt/{name}.tif" for tilt in range(len(stack))]


def as_half_floats(folder, name, stack):
    write_mrc(folder / f"tilt/{name}.mrcs", (stack / stack.std()).astype(np.float16))


@pytest.mark.parametrize(
    ("store", "most"),
    [
        (as_half_floats, 1e-3),
        (as_integers(np.int16, 8, 30000), 1e-3),
        (as_integers(np.int8, 5, 127), 0.03),
        (as_byte_tiff, 0.03),
        (as_four_bits, 0.3),
    ],
    ids=["float16", "int16", "int8", "uint8 TIFF", "4 bits"],
)
def test_the_map_differs_by_the_precision_of_its_images_only(store, most, stored, tomo):
    def normalised(folder, name, stack):
        write_mrc(folder / f"tilt/{name}.mrcs", stack / stack.std())

    expected = tomo(stored(normalised), *OPTIONS)
    run = tomo(stored(store), *OPTIONS)
    for label in FILES:
        one, other = run.map(label), expected.map(label)
        one *= np.vdot(one, other) / np.vdot(one, one)  # integers count in other units
        assert np.linalg.norm(one - other) < most * np.linalg.norm(other)


def test_unsigned_integers_are_what_the_same_floats_are(stored, tomo):
    def as_type(dtype):
        def store(folder, name, stack):
            values = np.clip(np.rint(stack / stack.std() * 6000 + 30000), 0, 65535)
            write_mrc(folder / f"tilt/{name}.mrcs", values.astype(dtype))

        return hashes(tomo(stored(store), *OPTIONS))

    assert as_type(np.uint16) == as_type(np.float32)


# extracted particles


def extracted(project, folder, box, only_visible=False):
    """The particles of a project as RELION extracts them: windows, inverted, multiplied by CTF and dose weight.

    Written from the definitions, with the CTF and the geometry of the library, which have tests of their own.
    """
    particles = project.read()
    folder.mkdir()
    centres, weights = [], {}
    for number, series in enumerate(particles.series):
        rows = np.flatnonzero(particles.series_number == number)
        centres.append(image_positions(series, particles.positions[rows], motions(particles, rows, series)))
        depth = depth_defocus(series, particles.positions[rows])
        k_x, k_y = slice_frequencies(box, series.optics)
        dose = np.stack([dose_filter(np.hypot(k_x, k_y), value) for value in series.dose])
        for place, row in enumerate(rows):
            parameters = with_depth(series.ctf, depth[place])
            weights[row] = dose * ctf(k_x, k_y, series.optics, parameters, 0.0)
    places = np.concatenate(centres)
    for row, weight in weights.items():
        series = particles.series[particles.series_number[row]]
        stack = project.stack(series.name)
        images = [window(stack[f], places[row, f], box, weight[f]) for f in range(len(series))]
        write_mrc(folder / f"{row}.mrcs", np.array(images, np.float32))
    return folder


def motions(particles, rows, series):
    if particles.motion is None:
        return None
    return particles.motion[particles.tilt_start[rows][:, None] + np.arange(len(series))]


def with_depth(values, depth):
    return replace(
        values, defocus_u_angst=values.defocus_u_angst + depth, defocus_v_angst=values.defocus_v_angst + depth
    )


def window(image, centre, box, weight):
    """A window whose particle is exactly at its pixel box // 2, inverted and multiplied in Fourier space."""
    first = np.floor(centre + 0.5).astype(int) - box // 2
    rows, columns = (np.clip(first[axis] + np.arange(box), 0, image.shape[1 - axis] - 1) for axis in (1, 0))
    cut = image[np.ix_(rows, columns)]
    axis = np.arange(box) - box // 2
    radius = np.hypot(axis[:, None], axis)
    mask = 0.5 - 0.5 * np.cos(np.pi * np.clip((box // 2 - radius) / 5, 0, 1))
    cut = (cut - cut[radius > box // 2].mean()) * mask
    shift = box // 2 - (centre - first)
    phase = np.fft.fftfreq(box)[:, None] * shift[1] + np.fft.rfftfreq(box) * shift[0]
    return np.fft.irfft2(-np.fft.rfft2(cut) * np.exp(-2j * np.pi * phase) * weight, s=(box, box))


@pytest.fixture
def as_extracted(altered, tmp_path):
    """The project whose particles are stacks of a folder."""

    def make(project, folder, box, change=lambda tables: None):
        def to_stacks(tables):
            particles = tables["particles.star"]
            particles["general"]["rlnTomoSubTomosAre2DStacks"] = "1"
            count = len(particles["particles"]["rlnTomoName"])
            particles["particles"]["rlnImageName"] = [str(folder / f"{row}.mrcs") for row in range(count)]
            groups = len(particles["optics"]["rlnOpticsGroup"])
            for label, value in (
                ("rlnImagePixelSize", "4.0"), ("rlnImageSize", str(box)), ("rlnImageDimensionality", "2"),
                ("rlnTomoSubtomogramBinning", "1"), ("rlnCtfDataAreCtfPremultiplied", "1"),
            ):  # fmt: skip
                particles["optics"][label] = [value] * groups
            change(tables)

        return altered(project, to_stacks)

    return make


def test_extracted_particles_make_the_map_that_their_tilt_series_make(
    noisy, as_extracted, tomo, fsc_curve, tmp_path
):
    project = as_extracted(noisy, extracted(noisy, tmp_path / "stacks", 32), 32)
    shutil.rmtree(project.folder / "tilt", ignore_errors=True)
    (project.folder / "tilt").unlink(missing_ok=True)  # they are not needed any more
    # steep tilts have windows outside the image, which extracted particles do not tell
    inside = ("--tilt-range", -50, 50)
    expected, run = tomo(noisy, *OPTIONS, *inside), tomo(project, *OPTIONS[2:], *inside)
    assert run.manifest["windows"]["used"] == expected.manifest["windows"]["used"]
    assert "contrast as it is" in " ".join(run.manifest["notes"])
    for label in FILES:
        curve = fsc_curve(run.map(label), expected.map(label), 12, 4)
        assert curve[1:15].min() > 0.999, (label, curve)
        scale = np.vdot(run.map(label), expected.map(label)) / np.vdot(
            expected.map(label), expected.map(label)
        )
        assert scale == pytest.approx(1, abs=0.01)


def hide(tables, tilts):
    block = tables["particles.star"]["particles"]
    flags = ",".join("0" if tilt in tilts else "1" for tilt in range(11))
    block["rlnTomoVisibleFrames"] = [f"[{flags}]"] * len(block["rlnTomoName"])


def test_stacks_hold_all_tilts_or_the_visible_ones(noisy, as_extracted, tomo, refused, read, tmp_path):
    whole, hidden = extracted(noisy, tmp_path / "all", 32), (0, 4)

    def with_tilts(name, chosen):
        (tmp_path / name).mkdir()
        for path in whole.iterdir():
            write_mrc(tmp_path / name / path.name, read(path).astype(np.float32)[chosen])
        return as_extracted(noisy, tmp_path / name, 32, lambda tables: hide(tables, hidden))

    seen = [tilt for tilt in range(11) if tilt not in hidden]
    visible = with_tilts("visible", seen)
    expected = tomo(as_extracted(noisy, whole, 32, lambda tables: hide(tables, hidden)), "--verbose", 2)
    assert "48 not in the visible frames" in expected.out
    assert hashes(tomo(visible)) == hashes(expected)
    for project, options in ((with_tilts("few", seen[1:]), ()), (visible, ("--visible-frames", "ignore"))):
        error = refused(project, *options)
        assert "0.mrcs" in error or ".mrcs: holds" in error
        assert "expected 11" in error


def test_other_options_do_not_go_with_extracted_particles(noisy, as_extracted, refused, tmp_path):
    project = as_extracted(noisy, extracted(noisy, tmp_path / "stacks", 32), 32)
    for option in (["--bin", 2], ["--whiten"], ["--no-ctf"], ["--compat", "relion"], ["--b", 48]):
        assert str(option[0]) in refused(project, *option)


def test_a_smaller_box_is_cut_from_the_middle_of_extracted_particles(
    noisy, as_extracted, tomo, fsc_curve, tmp_path
):
    project = as_extracted(noisy, extracted(noisy, tmp_path / "stacks", 40), 40)
    run, expected = tomo(project, "--b", 32, "--taper", 0), tomo(noisy, *OPTIONS)
    assert run.map().shape == (32, 32, 32)
    # what is the same: the particles; what is not: the noise that a mask of the larger window let through
    curve = fsc_curve(run.map(), expected.map(), 12, 4)
    assert curve[1:5].min() > 0.99
    assert curve[1:15].mean() > 0.85


# a real ribosome


@pytest.fixture
def ribosome(reference):
    folder = reference / "third_party" / "warp_70s"
    return next(folder.glob("*optimisation_set.star"))


def test_real_extracted_ribosomes_make_a_ribosome(ribosome, tomo):
    run = tomo(ribosome, "--split", "parity", "--taper", 0)
    assert run.manifest["particles"] == {"used": 40, "dropped": {}}
    assert run.manifest["windows"]["used"] == 1430
    assert run.manifest["windows"]["dropped"]["not in the visible frames"] == 50
    resolution = run.manifest["resolution_angst"]["sphere"]["0.143"]
    assert resolution < 40
    data = run.map()
    axis = (np.arange(32) - 16) * 12.0
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    outside = data[(radius > 150) & (radius < 190)]
    assert (data[radius < 90].mean() - outside.mean()) > outside.std()
    # a ribosome's volume, 2.7 MDa at 0.81 Da/Å³, of what is brightest at about 30 Å is one piece of its size
    smooth = scipy.ndimage.gaussian_filter(data, 30 / 2.355 / 12)
    count = round(2.7e6 / 0.81 / 12**3)
    brightest = smooth >= np.sort(smooth.ravel())[-count]
    assert scipy.ndimage.label(brightest)[1] == 1
    assert radius[brightest].max() < 140


@pytest.mark.parametrize("split", ["random:1", "random:2"])
def test_half_maps_of_ribosomes_agree_however_they_are_split(split, ribosome, tomo):
    assert tomo(ribosome, "--split", split).manifest["resolution_angst"]["sphere"]["0.143"] < 40


def test_ribosomes_with_the_angles_of_others_make_none(ribosome, tomo, tmp_path):
    folder = tmp_path / "shuffled"
    folder.mkdir()
    for path in ribosome.parent.glob("*.star"):
        shutil.copy(path, folder)
    images = next(path for path in ribosome.parent.iterdir() if path.is_dir())
    (folder / images.name).symlink_to(images)
    table = folder / f"{images.name}.star"
    lines = table.read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if ".tomostar " in line]
    words = [lines[number].split() for number in rows]
    for number, own, other in zip(rows, words, words[7:] + words[:7], strict=True):
        lines[number] = "  ".join([*own[:5], *other[5:8], *own[8:]])
    table.write_text("\n".join(lines) + "\n")
    right = tomo(ribosome, "--split", "parity").manifest["resolution_angst"]["sphere"]["0.143"]
    wrong = tomo(folder / ribosome.name, "--split", "parity").manifest["resolution_angst"]["sphere"]["0.143"]
    assert wrong > 1.5 * right
