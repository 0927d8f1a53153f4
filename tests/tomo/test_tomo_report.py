"""The page of a tomo run."""

from __future__ import annotations

import re

B = ("--b", "48")


def test_the_page_tells_what_was_used_and_shows_map_and_fsc(simulate, tomo):
    project = simulate(tomograms=4, particles=2)
    run = tomo(project, *B, "--report")
    page = (run.folder / "report.html").read_text()
    assert re.search(r"<td>tilts</td><td>240 windows used", page)
    assert "<td>resolution, sphere</td>" in page
    assert page.count("src='data:image/png;base64,") == 2
    assert str(run.folder / "report.html") in run.manifest["outputs"]


def test_without_half_sets_the_page_says_so_and_has_no_curve(simulate, tomo):
    run = tomo(simulate(tomograms=4, half_sets=False), *B, "--report")
    page = (run.folder / "report.html").read_text()
    assert "only the merged map is made" in page
    assert page.count("src='data:image/png;base64,") == 1


def test_there_is_no_page_unless_asked_for(simulate, tomo):
    assert "report.html" not in tomo(simulate(tomograms=4), *B).left()
