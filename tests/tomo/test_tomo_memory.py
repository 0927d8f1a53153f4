"""--mem and the plan are bounds: largest memory of processes of their own, whatever is read and however."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
import tifffile

from centralslice.jobs.tomo.slices import WindowReader
from centralslice.jobs.tomo.tilt_images import TiltImages
from centralslice.plugin.registry import shared_registry

BOX = 96


@pytest.fixture(scope="module")
def project(simulate):
    """Windows enough for several pieces: 2 tilt series × 8 particles × 21 tilts."""
    return simulate(
        tomograms=2, particles=8, image_size=(448, 448), tomogram_size=(448, 448, 100), step_deg=6.0,
        random_directions=None, defocus_range_angst=(10000.0, 15000.0), snr=0.5, box_size=BOX,
    )  # fmt: skip


def run(source, folder, *options):
    """The manifest of a process of its own; of a second one if the first had to compile kernels, once for all."""
    words = ["tomo", "--i", source, "--b", BOX, "--o", folder, "--force", *options]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "centralslice.cli", *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts = json.loads((folder / "manifest.json").read_text())
        if facts["peak_memory_bytes"] <= facts["planned_memory_bytes"]:
            break
    return facts


@pytest.fixture
def mixed(project, altered, read):
    """The project with one stack of 16-bit integers and one of half floats."""
    copy = altered(project, images=lambda name, stack: stack)
    for path, dtype in zip(sorted((copy.folder / "tilt").iterdir()), (np.int16, np.float16), strict=True):
        stack = read(path)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data((500 * stack / stack.std()).astype(dtype))
            file.set_image_stack()
    return copy


@pytest.fixture
def tiffs(project, altered, read):
    """The project with compressed TIFF images."""
    copy = altered(project, images=lambda name, stack: stack)
    for path in sorted((copy.folder / "tilt").iterdir()):
        stack = read(path)
        values = np.clip(np.rint(stack / stack.std() * 25 + 128), 0, 255).astype(np.uint8)
        tifffile.imwrite(path.with_suffix(".tif"), values[:, ::-1], compression="zlib")
        path.unlink()
        table = copy.folder / "tilt_series" / f"{path.stem}.star"
        table.write_text(table.read_text().replace(".mrcs", ".tif"))
    return copy


@pytest.mark.parametrize("options", [["--threads", "4", "--whiten"], ["--compat", "relion"]], ids=" ".join)
def test_a_run_stays_below_its_plan(options, project, tmp_path):
    facts = run(project.set, tmp_path / "map", *options)
    assert facts["peak_memory_bytes"] <= facts["planned_memory_bytes"]
    assert facts["peak_memory_bytes"] > 0.6 * facts["planned_memory_bytes"]


def test_mem_is_kept_down_to_the_smallest_that_is_accepted(project, refused, tmp_path):
    error = refused(project, "--b", BOX, "--mem", "0.1")
    least = float(re.search(r"--mem 0.1: this run needs (\d\.\d\d) GB at least", error)[1])
    hashes = []
    for memory in (least, least + 0.03):
        facts = run(project.set, tmp_path / "map", "--mem", memory, "--threads", "2")
        assert facts["peak_memory_bytes"] <= facts["planned_memory_bytes"] <= memory * 1e9
        hashes.append(facts["map_sha256"])
    assert hashes[0] == hashes[1]
    # one set of sums in memory: what it and its finish need, and 0.25 GB
    assert least * 1e9 < 2.5e8 + 1.5 * facts["planned_sums_bytes"]


@pytest.mark.parametrize("kind", ["mixed", "tiffs"])
def test_images_of_any_kind_stay_below_the_plan(kind, request, tmp_path):
    facts = run(request.getfixturevalue(kind).set, tmp_path / "map", "--mem", "0.36")
    assert facts["peak_memory_bytes"] <= facts["planned_memory_bytes"] <= 0.36e9


def test_decoded_images_are_given_up_for_others(tiffs):
    series = tiffs.read().series[0]
    one = 4 * 448 * 448
    with TiltImages(shared_registry(), decoded_bytes=3 * one) as images:
        assert images.decoded(series)
        for tilt in range(len(series)):
            images.tilts(series, np.array([tilt]))
            assert sum(image.nbytes for image in images._decoded.values()) <= 3 * one


def test_windows_are_cut_in_parts_of_few_pixels_of_the_images(project, monkeypatch):
    particles = project.read()
    series = particles.series[0]
    tilt = np.tile(np.arange(len(series)), 12)
    with TiltImages(shared_registry()) as images:
        monkeypatch.setattr("centralslice.jobs.tomo.tilt_images.MAPPED_BYTES", 2**21)
        reader = WindowReader(None, images)
        parts = list(reader._parts(series, tilt, BOX))
        most = images.windows_at_once(series, BOX)
    assert 1 < most < len(tilt)
    assert max(map(len, parts)) == most
    assert sorted(np.concatenate(parts)) == list(range(len(tilt)))
    assert np.all(np.diff(tilt[np.concatenate(parts)]) >= 0)
