"""The same bits for any number of threads, whatever the options."""

from __future__ import annotations

import hashlib

import pytest

CASES = {
    "plain": ((), {}),
    "halves": (("--ctf", "full"), {"half_sets": True, "defocus_range_angst": (8000.0, 12000.0), "snr": 0.5}),
    "d2": (("--sym", "d2"), {}),
    "d7": (("--sym", "d7"), {}),
    "icos": (("--sym", "icos"), {}),
    "oct": (("--sym", "oct"), {}),
    "helical": (("--sym", "h5:1:40:4"), {}),
    "float64": (("--precision", "float64"), {}),
    "gauss_var": (("--mode", "gauss_var"), {}),
    "iterative": (("--mode", "iterative"), {}),
    "compat": (("--mode", "gauss_2", "--compat", "eman2"), {}),
    "compat_iterative": (("--iterative", "--compat", "eman2"), {"count": 40}),
    "seed": (("--seedmap", "truth.mrc", "--seedweight", "3"), {}),
    "reference": (("--seedmap", "truth.mrc", "--useseedasref"), {}),
    "fillangle": (("--fillangle", "10"), {"count": 60}),
}


@pytest.mark.parametrize("name", CASES)
def test_maps_are_identical_bit_for_bit_for_one_two_and_three_threads(name, simulate, make3d, read, tmp_path):
    options, settings = CASES[name]
    data = simulate(snr=settings.pop("snr", 1.0), **settings)
    options = [str(data.table.with_name(word)) if word == "truth.mrc" else word for word in options]
    norm = tmp_path / "norm.mrc"
    found = set()
    for threads in (1, 2, 3):
        run = make3d(data.table, *options, "--savenorm", norm, "--force", threads=threads)
        maps = [run.output, norm, *run.output.parent.glob("map_half?.mrc")]
        assert len(maps) == (4 if name == "halves" else 2)
        bits = tuple(hashlib.sha256(read(path).tobytes()).hexdigest() for path in maps)
        found.add((run.manifest["map_sha256"], *bits))
    assert len(found) == 1


def test_parallel_is_another_word_for_threads(simulate, make3d, refused):
    table = simulate().table
    one, two = make3d(table, "--threads", "2"), make3d(table, "--parallel", "thread:2")
    assert one.manifest["settings"]["threads"] == two.manifest["settings"]["threads"] == 2
    assert one.manifest["map_sha256"] == two.manifest["map_sha256"]
    assert make3d(table, "--parallel", "thread:2", "--threads", "2").code == 0
    assert "different numbers" in refused(table, "--parallel", "thread:2", "--threads", "3")
    assert "mpirun -n 4 centralslice" in refused(table, "--parallel", "mpi:4")
    assert "expected 1 or more" in refused(table, "--threads", "0")
