"""Jobs over parts of the particles, merged and finished, give the map of one job over all of them."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from centralslice.cli import main
from centralslice.runtime.checkpoint import CheckpointStore

ENDINGS = (".mrc", "_half1.mrc", "_half2.mrc")
KEEP = "--keep-checkpoints"


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(half_sets=True, snr=0.5, defocus_range_angst=(8000.0, 12000.0))


@pytest.fixture
def part(data, tmp_path):
    """Writes a metadata file of some of the particles; the images are a link to all of them."""

    def write(name, wanted, change=lambda at, line: line):
        kept, at = [], 0
        for line in data.table.read_text().splitlines():
            if "@" not in line:
                kept.append(line)
                continue
            if wanted(at):
                kept.append(change(at, line))
            at += 1
        folder = tmp_path / name
        folder.mkdir()
        (folder / data.stack.name).symlink_to(data.stack)
        (folder / "particles.star").write_text("\n".join(kept) + "\n")
        return folder / "particles.star"

    return write


@pytest.fixture
def thirds(part):
    """The particles in two files: every third, and the others."""
    return part("a", lambda at: at % 3 == 0), part("b", lambda at: at % 3 > 0)


@pytest.fixture
def checkpoint(capsys):
    """Runs ``centralslice checkpoint`` and gives what it says, on stderr if it fails."""

    def run(*words):
        capsys.readouterr()
        code = main(["checkpoint", *map(str, words)])
        said = capsys.readouterr()
        assert code in (0, 2), said.err
        assert code == 0 or len(said.err.splitlines()) == 1
        return said.err if code else said.out

    return run


@pytest.fixture
def merged(tmp_path, checkpoint):
    """Merges runs, finishes the sums, gives the map's path."""

    def make(*runs, name="merged"):
        sums, output = tmp_path / f"{name}_checkpoint", tmp_path / f"{name}.mrc"
        assert "sums of" in checkpoint("merge", *(run.output for run in runs), "--output", sums)
        assert "sha256" in checkpoint("finish", sums, "--output", output, "--threads", 1)
        return output

    return make


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


def test_jobs_of_equal_quanta_merge_to_the_bits_of_one_job(data, thirds, make3d, merged, read):
    whole = make3d(data.table, KEEP)
    output = merged(*(make3d(table, KEEP, "--quanta-of", whole.output) for table in thirds))
    for ending in ENDINGS:
        assert np.array_equal(read(beside(output, ending)), read(whole.beside(ending))), ending
    assert beside(output, "_fsc.star").read_bytes() == whole.beside("_fsc.star").read_bytes()


@pytest.mark.parametrize(
    "options",
    [(), ("--mode", "gauss_var"), ("--mode", "iterative"), ("--mode", "gauss_2", "--compat", "eman2"),
     ("--sym", "d2", "--precision", "float64"), ("--sums", "fast"), ("--snr", "2", "--maxres", "6")],
    ids=" ".join,
)  # fmt: skip
def test_jobs_of_their_own_quanta_merge_to_one_job_to_rounding(
    options, data, part, make3d, merged, read, deviation
):
    whole = make3d(data.table, *options)
    tables = part("few", lambda at: at < 40), part("many", lambda at: at >= 40)
    output = merged(*(make3d(table, *options, KEEP) for table in tables))
    for ending in ENDINGS:
        assert deviation(read(beside(output, ending)), read(whole.beside(ending))) < 1e-5, ending


def test_quanta_of_small_and_large_jobs_differ_so_that_the_law_is_not_empty(
    part, make3d, checkpoint, tmp_path
):
    runs = [make3d(part(name, wanted), KEEP) for name, wanted in
            (("few", lambda at: at < 20), ("many", lambda at: at >= 20))]  # fmt: skip
    quanta = [CheckpointStore(run.beside("_checkpoint")).latest(None).state.quanta for run in runs]
    assert quanta[0] != quanta[1]
    checkpoint("merge", *(run.output for run in runs), "--output", tmp_path / "sums")
    finest = CheckpointStore(tmp_path / "sums").latest(None).state.quanta["half1"]["voxels"]
    assert finest == tuple(map(min, *(each["half1"]["voxels"] for each in quanta)))


@pytest.mark.parametrize(
    "options",
    [("--savenorm", "NORM"), ("--half-maps", "no", "--sym", "oct"), ("--mode", "gauss_5"),
     ("--iterative", "--compat", "eman2", "--savenorm", "NORM"), ("--subset", "1", "--sums", "fast"),
     ("--half-maps", "no", "--seedmap", "TRUTH", "--seedweight", "3"),
     ("--outsize", "24,28,32", "--postprocess", "filter.lowpass.gauss:cutoff_freq=0.1")],
    ids=" ".join,
)  # fmt: skip
def test_finishing_again_gives_the_bits_of_the_run(options, data, make3d, checkpoint, tmp_path, read):
    named = {"NORM": tmp_path / "norm.mrc", "TRUTH": data.table.with_name("truth.mrc")}
    run = make3d(data.table, KEEP, *(named.get(word, word) for word in options))
    again = tmp_path / "again.mrc"
    norm = ("--savenorm", tmp_path / "again_norm.mrc") if "NORM" in options else ()
    checkpoint("finish", run.output, "--output", again, *norm)
    for ending in ENDINGS:
        assert run.beside(ending).exists() == beside(again, ending).exists()
        if run.beside(ending).exists():
            assert np.array_equal(read(beside(again, ending)), read(run.beside(ending)))
    manifest = json.loads(beside(again, "_manifest.json").read_text())
    assert manifest["map_sha256"] == run.manifest["map_sha256"]
    if norm:
        assert np.array_equal(read(norm[1]), read(named["NORM"]))


def test_an_hdf_map_finished_again_has_the_attributes_of_the_run(data, make3d, checkpoint, tmp_path):
    import h5py

    run = make3d(data.table, KEEP, "--subset", "2", output="map.hdf")
    checkpoint("finish", run.output, "--output", tmp_path / "again.hdf")
    with h5py.File(run.output) as one, h5py.File(tmp_path / "again.hdf") as other:
        first, second = (dict(file["MDF/images/0"].attrs) for file in (one, other))
    names = [name for name in first if "ptcl" in name]
    assert len(names) == 4
    for name in names:
        assert np.array_equal(first[name], second[name]), name


def test_the_manifest_lists_the_jobs_flat_and_merging_merges_is_merging_all(
    part, make3d, checkpoint, tmp_path
):
    tables = [part(str(at), lambda row, at=at: row % 3 == at) for at in range(3)]
    first = make3d(tables[0], KEEP)
    runs = [first, *(make3d(table, KEEP, "--quanta-of", first.output) for table in tables[1:])]
    jobs = [run.output for run in runs]
    checkpoint("merge", *jobs, "--output", tmp_path / "all")
    checkpoint("merge", *jobs[:2], "--output", tmp_path / "two")
    checkpoint("merge", tmp_path / "two", jobs[2], "--output", tmp_path / "nested")
    found = []
    for name in ("all", "nested"):
        output = tmp_path / f"{name}.mrc"
        checkpoint("finish", tmp_path / name, "--output", output, "--report")
        found.append(json.loads(beside(output, "_manifest.json").read_text()))
        assert beside(output, "_report.html").exists()
    assert found[0]["map_sha256"] == found[1]["map_sha256"]
    for manifest in found:
        assert [job["input"] for job in manifest["merged_jobs"]] == list(map(str, tables))
        assert manifest["particles"]["used"] == 300
    assert "count twice" in checkpoint("merge", tmp_path / "two", jobs[0], "--output", tmp_path / "no")


def test_a_job_may_have_images_of_no_half_set_and_another_none(data, part, make3d, merged, read, deviation):
    lines = data.table.read_text().splitlines()
    column = next(int(line.split("#")[1]) for line in lines if line.startswith("_rlnRandomSubset")) - 1

    def of_no_half(at, line):
        words = line.split()
        return " ".join([*words[:column], "0", *words[column + 1 :]]) if at < 60 else line

    first = make3d(part("first", lambda at: at < 90, of_no_half), KEEP, "--ctf", "none")
    second = make3d(part("second", lambda at: at >= 90, of_no_half), KEEP, "--ctf", "none")
    stages = [
        set(CheckpointStore(run.beside("_checkpoint")).latest(None).state.stages) for run in (first, second)
    ]
    assert stages == [{"half1", "half2", "none"}, {"half1", "half2"}]
    whole = make3d(part("whole", lambda at: True, of_no_half), "--ctf", "none")
    for number, order in enumerate(((first, second), (second, first))):
        output = merged(*order, name=f"merged{number}")
        for ending in ENDINGS:
            assert deviation(read(beside(output, ending)), read(whole.beside(ending))) < 1e-5


def test_finishing_holds_one_set_of_sums_whatever_the_number_of_stages(
    data, part, make3d, checkpoint, tmp_path
):
    """Three stages (half 1, half 2, of no half), and what the finish of one map takes besides."""
    lines = data.table.read_text().splitlines()
    column = next(int(line.split("#")[1]) for line in lines if line.startswith("_rlnRandomSubset")) - 1

    def of_no_half(at, line):
        words = line.split()
        return " ".join([*words[:column], "0", *words[column + 1 :]]) if at < 60 else line

    table = part("three", lambda at: True, of_no_half)
    peaks = {}
    for name, more in (("one", ("--half-maps", "no")), ("three", ())):
        run = make3d(table, KEEP, "--padvol", "96", *more)
        checkpoint("finish", run.output, "--output", tmp_path / f"warm_{name}.mrc", "--threads", 1)
        tracemalloc.start()
        checkpoint("finish", run.output, "--output", tmp_path / f"{name}.mrc", "--threads", 1)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    found = CheckpointStore(run.beside("_checkpoint")).latest(None)
    assert set(found.state.stages) == {"half1", "half2", "none"}
    one_set = found.nbytes // 3
    assert peaks["one"] > one_set > 8 * 2**20  # so the sums are what counts
    assert peaks["three"] < peaks["one"] + one_set / 4  # the half maps


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ((), ("--sym", "c2"), "method.symmetry"),
        ((), ("--mode", "gauss_2"), "method.reconstructor.name"),
        (("--snr", "2"), (), "method.wiener_snr: 2.0 in"),
        ((), ("--ctf", "none"), "method.ctf"),
        ((), ("--padvol", "96"), "method.geometry.padded_size"),
        ((), ("--outsize", "20"), "method.output_shape"),
        ((), ("--half-maps", "no"), "method.halves"),
        ((), ("--sums", "fast"), "method.sums"),
        ((), ("--precision", "float64"), "method.geometry.precision"),
        ((), ("--preprocess", "mask.sharp:outer_radius=14"), "options.preprocess"),
        ((), ("--no-wt",), "options.weighting"),
        (("--iterative", "--compat", "eman2"), ("--iterative", "--compat", "eman2"), "of a method of several passes"),
    ],
    ids=str,
)  # fmt: skip
def test_jobs_that_do_not_belong_together_are_refused(
    first, second, text, thirds, make3d, checkpoint, tmp_path
):
    one, two = make3d(thirds[0], KEEP, *first), make3d(thirds[1], KEEP, *second)
    assert text in checkpoint("merge", one.output, two.output, "--output", tmp_path / "sums")
    assert not (tmp_path / "sums").exists()


def test_images_in_both_jobs_are_refused_unless_they_are_said_to_differ(part, make3d, checkpoint, tmp_path):
    one = make3d(part("one", lambda at: at < 100), KEEP)
    two = make3d(part("two", lambda at: at >= 93), KEEP)
    said = checkpoint("merge", one.output, two.output, "--output", tmp_path / "sums")
    assert "7 images are in both" in said
    again = checkpoint(
        "merge", one.output, two.output, "--output", tmp_path / "sums", "--allow-shared-images"
    )
    assert "sums of 2 jobs" in again
    same = checkpoint("merge", one.output, one.output, "--output", tmp_path / "no", "--allow-shared-images")
    assert "count twice" in same


def test_a_moved_project_resumes_and_another_input_does_not(part, make3d, attempt, tmp_path):
    table = part("here", lambda at: True)
    run = make3d(table, KEEP, output="map.mrc")
    shutil.move(table.parent, tmp_path / "there")
    moved = tmp_path / "there" / "particles.star"
    again = attempt(moved, KEEP, "--resume", "--force", "--output", run.output)
    assert again.code == 0, again.err
    assert json.loads(run.beside("_manifest.json").read_text())["resumed_particles"] == 300
    other = part("other", lambda at: at != 5)
    refused = attempt(other, KEEP, "--resume", "--force", "--output", run.output)
    assert refused.code == 2
    assert "inputs.metadata" in refused.err
    assert refused.err.count("\n") == 1


def test_resuming_in_other_units_is_refused(part, make3d, attempt):
    few, many = part("few", lambda at: at < 20), part("many", lambda at: True)
    small, large = make3d(few, KEEP), make3d(many, KEEP)
    again = attempt(many, KEEP, "--resume", "--force", "--output", large.output, "--quanta-of", small.output)
    assert again.code == 2
    assert "--quanta-of as before" in again.err


def test_what_cannot_be_finished_is_refused(data, make3d, checkpoint, tmp_path):
    seed = tmp_path / "seed.mrc"
    shutil.copy(data.table.with_name("truth.mrc"), seed)
    run = make3d(data.table, KEEP, "--half-maps", "no", "--seedmap", seed)
    output = tmp_path / "map.mrc"
    assert "exists already" in checkpoint("finish", run.output, "--output", run.output)
    assert "expected a suffix" in checkpoint("finish", run.output, "--output", tmp_path / "map.xyz")
    content = bytearray(seed.read_bytes())
    content[-1] ^= 1
    seed.write_bytes(content)
    assert f"{seed}: has changed" in checkpoint("finish", run.output, "--output", output)
    seed.unlink()
    assert f"{seed}: does not exist any more" in checkpoint("finish", run.output, "--output", output)
    assert not output.exists()
    plain = make3d(data.table)
    assert "no such checkpoint folder" in checkpoint("finish", plain.output, "--output", output)
