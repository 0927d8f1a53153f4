"""What a run writes, refuses to write and says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from centralslice import __version__
from centralslice.cli import main
from centralslice.fourier.shells import fourier_shell_correlation, soft_sphere
from centralslice_plugins.formats.star import read_star

HALVES = {"half_sets": True, "snr": 0.3, "seed": 5}
ALL = [
    "map.mrc", "map_fsc.png", "map_fsc.star", "map_half1.mrc", "map_half2.mrc", "map_manifest.json",
]  # fmt: skip


def test_half_sets_give_half_maps_their_fsc_and_a_merged_map_of_all_images(simulate, make3d, read, deviation):
    data = simulate(**HALVES)
    run = make3d(data.table)
    assert run.left() == ALL
    halves = [read(run.beside(f"_half{number}.mrc")) for number in (1, 2)]
    whole = make3d(data.table, "--half-maps", "no")
    assert whole.left() == ["map.mrc", "map_manifest.json"]
    assert deviation(run.data, whole.data) < 1e-5
    assert deviation(halves[0], run.data) > 0.05  # noise differs
    columns = read_star(run.beside("_fsc.star")).table("fsc").columns
    sphere = soft_sphere(32, 0.4 * 32, 0.06 * 32)
    for label, mask in (("Unmasked", None), ("Masked", sphere)):
        expected = fourier_shell_correlation(*halves, 2.0, mask)
        found = columns[f"rlnFourierShellCorrelation{label}Maps"].astype(float)
        np.testing.assert_allclose(found, expected.values, atol=1e-5)
        np.testing.assert_allclose(columns["rlnResolution"].astype(float), expected.frequency, atol=1e-6)
    assert run.beside("_fsc.png").read_bytes().startswith(b"\x89PNG")
    shown = run.manifest["resolution_angst"]
    assert f"{shown['sphere']['0.143']:.2f} Å" in run.out
    assert shown["unmasked"]["0.5"] >= shown["unmasked"]["0.143"] > 4.0


@pytest.mark.parametrize(("sums", "limit"), [("fast", 0.0), ("exact", 1e-5)])
def test_subset_is_the_half_map(sums, limit, simulate, make3d, read, deviation):
    data = simulate(**HALVES)
    both = make3d(data.table, "--sums", sums)
    for number in (1, 2):
        run = make3d(data.table, "--subset", number, "--sums", sums)
        assert run.left() == ["map.mrc", "map_manifest.json"]
        # the quanta of exact sums are those of the run's own particles
        assert deviation(run.data, read(both.beside(f"_half{number}.mrc"))) <= limit
        assert run.manifest["particles"]["used"] == 150
        assert run.manifest["particles"]["dropped"] == {f"half set other than {number} (--subset)": 150}


@pytest.mark.parametrize(("sums", "limit"), [("fast", 1e-6), ("exact", 1e-5)])
def test_images_of_no_half_set_count_for_the_merged_map_only(
    sums, limit, simulate, make3d, write_set, read, deviation
):
    data = simulate(snr=0.5)
    thirds = np.arange(300) % 3

    def mixed(tables):
        tables["particles"]["rlnRandomSubset"] = thirds

    run = make3d(write_set(data.images, data.particles, mixed), "--sums", sums)
    only = {}
    for number in (0, 1, 2):
        chosen = np.flatnonzero(thirds == number) if number else np.arange(300)
        alone = write_set(data.images[chosen], shortened(data.particles, chosen))
        only[number] = make3d(alone, "--sums", sums).data
    assert deviation(run.data, only[0]) < 1e-5
    assert deviation(read(run.beside("_half1.mrc")), only[1]) < limit
    assert deviation(read(run.beside("_half2.mrc")), only[2]) < limit


def shortened(particles, chosen):
    return replace(particles.take(chosen), image_number=np.arange(len(chosen)))


@pytest.mark.parametrize(("sums", "limit"), [("fast", 0.0), ("exact", 1e-5)])
def test_split_makes_half_sets_that_depend_on_the_seed_only(
    sums, limit, simulate, make3d, refused, read, deviation
):
    data = simulate(snr=0.5)
    shas = {}
    for how in ("random:7", "random:7", "random:8", "parity"):
        run = make3d(data.table, "--split", how, "--sums", sums)
        assert run.left() == ALL
        first = read(run.beside("_half1.mrc"))
        if how in shas:
            assert np.array_equal(first, shas[how])
        shas[how] = first
    assert not np.array_equal(shas["random:7"], shas["random:8"])
    subset = make3d(data.table, "--split", "parity", "--subset", "1", "--sums", sums)
    assert deviation(subset.data, shas["parity"]) <= limit
    assert subset.manifest["particles"]["used"] == 150
    for how in ("random", "random:x", "parity:2", "odd"):
        assert "random:SEED or parity" in refused(data.table, "--split", how)
    assert "half sets already" in refused(simulate(**HALVES).table, "--split", "parity")
    assert "no half sets" in refused(data.table, "--subset", "1")


def test_postprocessors_work_on_the_merged_map_in_order(simulate, make3d, read):
    data = simulate(**HALVES)
    plain = make3d(data.table)
    options = ("--postprocess", "math.linear:scale=3:shift=0", "--postprocess", "math.linear:scale=1:shift=1")
    run = make3d(data.table, *options)
    np.testing.assert_allclose(run.data, 3 * plain.data + 1, rtol=1e-5, atol=1e-5)
    assert np.array_equal(read(run.beside("_half1.mrc")), read(plain.beside("_half1.mrc")))


def test_preprocessors_work_on_each_image_in_order(simulate, make3d):
    table = simulate().table
    shift_first = (
        "--preprocess",
        "math.linear:scale=2:shift=1",
        "--preprocess",
        "math.linear:scale=3:shift=0",
    )
    scale_first = (*shift_first[2:], *shift_first[:2])
    plain = make3d(table).data
    for order, offset in ((shift_first, 3.0), (scale_first, 1.0)):
        data = make3d(table, *order).data
        # a constant in every image is a peak at zero frequency: the map's sum grows as the images' sums
        assert np.isclose(data.sum() - 6 * plain.sum(), offset * 32**2, rtol=0.25)
        varying = data - data.mean()
        assert np.linalg.norm(varying - 6 * (plain - plain.mean())) < 0.25 * np.linalg.norm(varying)


def test_the_structure_factor_is_set_to_the_file(simulate, make3d, refused, tmp_path, monkeypatch):
    data = simulate()
    monkeypatch.chdir(tmp_path)
    assert "strucfac.txt" in refused(data.table, "--setsf", "auto")
    assert "does not exist" in refused(data.table, "--setsf", "none.txt")
    s = np.arange(0, 0.3, 0.01)
    curve = 5.0 * np.exp(-30 * s)
    np.savetxt("strucfac.txt", np.column_stack([s, curve]))
    plain, run = make3d(data.table, "--setsf", "none"), make3d(data.table, "--setsf", "auto")
    assert plain.manifest["map_sha256"] == make3d(data.table).manifest["map_sha256"]
    power = np.abs(np.fft.fftn(run.data)) ** 2
    axis = np.fft.fftfreq(32, 1 / 32)
    radius = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)).astype(int)
    shells = np.bincount(radius.ravel(), power.ravel())[3:14] / np.bincount(radius.ravel())[3:14]
    wanted = np.interp(np.arange(3, 14) / 64.0, s, curve)
    ratio = shells / wanted
    assert np.all(np.abs(ratio / np.median(ratio) - 1) < 0.15)
    assert np.isclose(np.median(ratio), 32**3, rtol=0.15)


def test_a_dry_run_says_the_plan_and_writes_nothing(simulate, make3d, attempt):
    data = simulate(**HALVES)
    run = make3d(data.table, "--dry-run", "--sym", "d2")
    assert run.left() == []
    for word in ("300 particles used", "dropped: none", "1: 150, 2: 150", "d2: 4 operators", "GB", *ALL):
        assert word in run.out
    assert "kaiser_bessel" in run.out.lower().replace("kaiserbessel", "kaiser_bessel")


def test_the_report_names_the_facts_as_the_plan_does(simulate, make3d):
    run = make3d(simulate(**HALVES).table, "--report")
    page = run.beside("_report.html").read_text()
    for name in (
        "input",
        "half sets",
        "images",
        "CTF",
        "symmetry",
        "method",
        "map",
        "memory",
        "sums",
        "threads",
    ):
        assert re.search(rf"<t[hd][^>]*>{name}</t[hd]>", page), name
    assert re.search(r"half sets</t[hd]><td[^>]*>none 0, 1: 150, 2: 150<", page)


def test_an_output_that_exists_is_refused_before_any_work_and_replaced_with_force(
    simulate, make3d, attempt, monkeypatch
):
    data = simulate(**HALVES)
    run = make3d(data.table)
    before = {path: path.read_bytes() for path in run.output.parent.iterdir()}

    def work(*arguments):
        raise AssertionError("work was done")

    with monkeypatch.context() as context:
        context.setattr("centralslice.jobs.make3d.job.run_make3d", work)
        for name in ALL:
            for path in before:
                path.unlink(missing_ok=True)
            old = run.output.with_name(name)
            old.write_text("old")
            again = attempt(data.table, "--output", run.output)
            assert again.code == 2
            assert f"{name}: exists already" in again.err
            assert old.read_text() == "old"
    assert make3d(data.table, "--output", run.output, "--force").code == 0
    assert run.left() == ALL
    assert run.output.read_bytes() == before[run.output]


def test_an_input_is_never_an_output(simulate, attempt):
    data = simulate()
    for source, output in ((data.table, data.stack), (data.table, data.table.with_name("truth.mrc"))):
        more = ("--seedmap", output) if output.name == "truth.mrc" else ()
        before = output.read_bytes()
        run = attempt(source, *more, "--output", output, "--force")
        assert run.code == 2
        assert "is an input of this run" in run.err
        assert output.read_bytes() == before
    run = attempt(data.table, "--savenorm", "x.mrc", "--output", "x.mrc")
    assert run.code == 2
    assert "two outputs" in run.err


def test_the_manifest_says_what_was_done_with_what(simulate, make3d):
    data = simulate(**HALVES)
    run = make3d(data.table, "--mode", "gauss_2", "--ppid", "77")
    facts = run.manifest
    assert shlex.split(facts["command"])[:3] == ["centralslice", "make3d", "--input"]
    assert "--ppid 77" in facts["command"]
    assert facts["settings"]["mode"] == "gauss_2"
    assert facts["particles"] == {"used": 300, "dropped": {}, "zero_variance_rows": []}
    assert [Path(entry["path"]).name for entry in facts["inputs"]] == ["particles.star", "particles.mrcs"]
    assert all(len(entry["sha256"]) == 64 for entry in facts["inputs"])
    assert facts["versions"]["centralslice"] == __version__
    assert {"insert", "finish", "compute", "write"} <= set(facts["timings_s"])
    assert facts["peak_memory_bytes"] > 1e7
    assert [Path(path).name for path in facts["outputs"]] == [
        "map.mrc", "map_half1.mrc", "map_half2.mrc", "map_fsc.star", "map_fsc.png", "map_manifest.json",
    ]  # fmt: skip
    assert facts["map_sha256"] in run.out
    assert "none" in facts["ctf"]
    assert any("--ctf auto" in note for note in facts["notes"])


def test_verbosity(simulate, make3d):
    table = simulate(count=40).table
    assert make3d(table, "--verbose", "0").out == ""
    assert "memory" not in make3d(table).out
    assert "memory" in make3d(table, "-v").out
    assert "memory" in make3d(table, "--verbose=2").out


def test_underscores_and_dashes_are_alike(simulate, make3d):
    table = simulate(count=40).table
    pairs = (
        ("--half_maps", "no"), ("--input_model", "-1"), ("--image_dir", "."), ("--shift_convention", "auto"),
        ("--no_wt",), ("--dry_run",),
    )  # fmt: skip
    for words in pairs:
        dashed = (words[0][:2] + words[0][2:].replace("_", "-"), *words[1:])
        under, dash = make3d(table, *words), make3d(table, *dashed)
        if words != ("--dry_run",):
            assert under.manifest["settings"]["selection"] == dash.manifest["settings"]["selection"]
            assert under.manifest["map_sha256"] == dash.manifest["map_sha256"]
        else:
            assert under.left() == dash.left() == []


@pytest.mark.parametrize(
    "options",
    [
        ("--keepsig", "--keepabs"), ("--no-wt", "--sqrt-wt"), ("--iterative", "--mode", "gauss_2"),
        ("--itermask", "m.mrc"), ("--seedweight", "2"), ("--seedweightmap", "w.mrc"), ("--useseedasref",),
        ("--seedmap", "s.mrc", "--useseedasref", "--seedweight", "2"),
        ("--seedmap", "s.mrc", "--useseedasref", "--seedweightmap", "w.mrc"),
        ("--noradcor",), ("--fillangle", "nan"), ("--fillangle", "-1"), ("--usessnr",), ("--keep", "1.5"),
        ("--keep", "nan"), ("--ctf", "full"), ("--ctf", "some"), ("--precision", "float16"), ("--nosuch",),
        ("--subset", "3"), ("--compat", "relion"), ("--threads", "x"),
    ],
)  # fmt: skip
def test_options_that_exclude_each_other_or_do_not_exist_are_refused(options, simulate, refused):
    line = refused(simulate(count=40).table, *options)
    assert options[0].lstrip("-") in line or options[-2] in line


def test_version_and_help_end_well(capsys):
    assert main(["make3d", "--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["make3d", "-h"]) == 0
    text = capsys.readouterr().out
    peers = (
        "--input --output --input-model --tlt --sym --fillangle --pad --padvol --outsize --compressbits --savenorm "
        "--keep --keepsig --keepabs --altedgemask --no-wt --sqrt-wt --iterative --itermask --usessnr --mode "
        "--noradcor --seedmap --seedweight --seedweightmap --verbose --threads --preprocess --setsf --postprocess "
        "--apix --useseedasref --parallel --ppid --version --ctf --snr --maxres --subset --split --precision "
        "--force --dry-run --compat --shift-convention --image-dir"
    )
    for option in peers.split():
        assert option in text


def test_from_the_shell_the_result_is_the_same(simulate, make3d, tmp_path):
    data = simulate(count=40)
    command = [
        sys.executable, "-m", "centralslice.cli", "make3d", f"--input={data.table}", "--threads=2",
        "--output", "map.mrc",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "map.mrc",
        "map_manifest.json",
    ]
    facts = json.loads((tmp_path / "map_manifest.json").read_text())
    assert facts["map_sha256"] == make3d(data.table).manifest["map_sha256"]
    assert facts["command"].startswith("centralslice make3d --input=")
