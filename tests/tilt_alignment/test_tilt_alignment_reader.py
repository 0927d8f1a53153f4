"""Defocus, doses and coordinates that go with an alignment; what is refused, and how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.reader import AlignedSeries, TiltReadRequest
from centralslice.data.particles import OpticsGroup
from centralslice.errors import InputError
from centralslice.geometry.eulers import relion_to_matrices
from centralslice.plugin.registry import load_registry
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.formats.ctffind import read_ctffind
from centralslice_plugins.formats.imod import read_defocus
from centralslice_plugins.formats.mdoc import read_mdoc_order
from centralslice_plugins.readers.tilt_alignment import TiltAlignmentReader


class TestTiltAlignmentReader(ReaderContract):
    count = 1

    def make(self) -> TiltAlignmentReader:
        return TiltAlignmentReader()

    @pytest.fixture(autouse=True)
    def _files(self, files):
        self.files = files

    def write_example(self, folder: Path) -> Path:
        self.files.stack(folder / "a.mrc", 2)
        self.files.rows(folder / "a.tlt", [-10, 10.0])
        self.files.rows(folder / "a.txt", [[12, 10, 5]])
        return self.files.xf(folder / "a.xf", self.files.rotations([3, 3.5]), np.zeros((2, 2)))

    def tilt_request(self, path: Path) -> TiltReadRequest:
        folder = path.parent
        microscope = OpticsGroup("a", 4.0)
        series = AlignedSeries(
            folder / "a.mrc", path, folder / "a.txt", (26, 22, 10), microscope, tilt_angles=folder / "a.tlt"
        )
        return TiltReadRequest(path, series=series)


def test_readers_are_found_by_content(example):
    registry = load_registry()
    assert registry.reader_for(example.alignment, "tilt_particles").plugin_name == "tilt_alignment"
    path = example.alignment.with_suffix(".txt")
    path.write_text(ALN)
    assert registry.reader_for(path, "tilt_particles").plugin_name == "tilt_alignment"


ALN = """# AreTomo Alignment / Priims bprmMn
# RawSize = 30 24 5
# NumPatches = 0
# DarkFrame =     4    4    40.00
# AlphaOffset =     2.50
# BetaOffset =     0.00
# Thickness = 10
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    0    84.0000    1.00000      1.000     -2.000     1.00     1.00     1.00     0.00    -42.50
    1    84.0000    1.00000      2.000     -1.000     1.00     1.00     1.00     0.00    -20.00
    2    84.0000    1.00000      0.000      0.000     1.00     1.00     1.00     0.00      0.50
    3    84.0000    1.00000      3.000      5.000     1.00     1.00     1.00     0.00     21.25
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_aln_file_needs_no_angles_and_says_which_images_are_dark(example, read, files, tmp_path):
    aln = write(tmp_path / "TS_1.aln", ALN)
    doses = files.rows(tmp_path / "doses.txt", [12, 6, 0, 3, 9])
    found = read(example, alignment=aln, tilt_angles=None, doses=doses)
    (series,) = found.series
    assert series.image_number.tolist() == [0, 1, 2, 3]
    assert_allclose(series.tilt_angles_deg, [-42.5, -20, 0.5, 21.25])
    assert_array_equal(series.dose, [12, 6, 0, 3])
    # the image is found where the aligned one was, moved by (TX, TY)
    centre = np.append((np.array(example.size) - 1) / 2, 1)
    shown = (series.projections @ centre)[:, :2] - (np.array([30, 24]) - 1) / 2
    # sizes here are even, so that the tomogram's centre is where its axis of tilt is
    assert_allclose(shown, [[1, -2], [2, -1], [0, 0], [3, 5]], atol=1e-9)
    assert any("dark" in note for note in found.notes)


def test_ctffinds_real_tables_are_read(reference):
    folder = reference / "third_party/tomo_metadata/cryoet_alignment"
    found = read_ctffind(folder / "test_CTF.txt")
    assert_allclose(found.u_angst[0], 25951.41)
    assert_allclose(found.v_angst[0], 24469.37)
    assert_allclose(found.angle_deg[0], 88.08)
    assert len(read_ctffind(folder / "test_8col_CTF.txt").u_angst) == 31


def test_imods_real_defocus_is_read_in_angstrom(reference):
    path = reference / "third_party/tomo_metadata/pytom_match_pick/test_imod.defocus"
    found = read_defocus(path, 35)
    assert_allclose(found.u_angst[:3], [30830, 30840, 31470])
    assert_array_equal(found.u_angst, found.v_angst)


def test_serialems_real_mdoc_gives_the_order_in_time(reference):
    angles, rank = read_mdoc_order(reference / "third_party/tomo_metadata/tiltstack/mdoc/TS_01.mrc.mdoc")
    assert_array_equal(np.sort(rank), np.arange(len(angles)))
    assert_allclose(angles[np.argsort(rank)][:3], [0, 3, -3], atol=0.01)


def test_defocus_of_version_3_has_astigmatism_and_phases_and_is_interpolated(tmp_path):
    path = write(
        tmp_path / "a.defocus",
        "5 0 0. 0. 0 3\n1 1 -40 -40 2100 1900 88 90\n3 3 0 0 2200 2000 -88 80\n5 5 40 40 2000 2100 10 70\n",
    )  # fmt: skip
    found = read_defocus(path, 5)
    assert_allclose(found.u_angst[[0, 2]], [21000, 22000])
    assert_allclose(found.v_angst[[0, 2]], [19000, 20000])
    # 88° and −88° are 4° apart, and 2100 along 10° with 2000 across is the larger one along 100°
    assert_allclose(np.mod(found.angle_deg[[0, 1, 2, 4]], 180), [88, 90, 92, 100])
    assert_allclose(found.u_angst[4] - found.v_angst[4], 1000)
    assert_allclose(found.phase_deg, [90, 85, 80, 75, 70])


def test_defocus_reaches_every_tilt_with_the_cosine_of_its_angle_as_scale(example, read, files, tmp_path):
    rows = [[i + 1, 20000 + i, 19000 + i, 10.0 * i, np.pi / 6, 0.1, 8.0] for i in range(5)]
    (series,) = read(example, defocus=files.rows(tmp_path / "ctf.txt", rows)).series
    assert_allclose(series.ctf.defocus_u_angst, 20000 + np.arange(5))
    assert_allclose(series.ctf.defocus_v_angst, 19000 + np.arange(5))
    assert_allclose(series.ctf.defocus_angle_deg, 10.0 * np.arange(5))
    assert_allclose(series.ctf.phase_shift_deg, 30, rtol=1e-8)
    assert_allclose(series.ctf.scale, np.cos(np.deg2rad(series.tilt_angles_deg)))


@pytest.mark.parametrize("first", [0, 1])
def test_doses_come_from_the_order_of_the_tilts(example, read, files, tmp_path, first):
    order = files.rows(tmp_path / "order.txt", np.array([4, 2, 0, 1, 3]) + first)
    found = read(example, dose_per_tilt=2.5, tilt_order=order)
    assert_allclose(found.series[0].dose, [10, 5, 0, 2.5, 7.5])


MDOC = "".join(
    f"[ZValue = {i}]\nTiltAngle = {angle}\nDateTime = 30-Nov-15  15:{20 + i}:38\n"
    for i, angle in enumerate([-1.0, 19.7, -21.6, 38.4, -44.1])
)


def test_doses_come_from_an_mdoc_whose_sections_are_matched_by_angle(example, read, tmp_path):
    mdoc = tmp_path / "TS_1.mdoc"
    mdoc.write_bytes(("PixelSpacing = 4\n[T = SerialEM, \u00b5]\n" + MDOC).encode("latin-1"))
    found = read(example, dose_per_tilt=3, tilt_order=mdoc)
    assert_allclose(found.series[0].dose, [12, 6, 0, 3, 9])


STAR = """
data_particles
loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnOriginXAngst #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnRandomSubset #9
TS_0 12 10 5 0 10 20 30 1
TS_1 12 10 5 4 10 20 30 1
TS_1 13 10 5 0 40 50 60 2
"""


def test_star_rows_of_this_tomogram_count_with_angles_origins_and_half_sets(example, read, tmp_path):
    found = read(example, coordinates=write(tmp_path / "all.star", STAR))
    assert_allclose(found.positions, [[11, 10, 5], [13, 10, 5]])
    assert_allclose(found.rotations, relion_to_matrices([10, 40], [20, 50], [30, 60]))
    assert found.half_set.tolist() == [1, 2]
    assert found.source_row.tolist() == [1, 2]


@pytest.mark.parametrize("extra", [[1], [1, 2]])
def test_columns_of_model2point_are_coordinates(example, read, files, tmp_path, extra):
    path = files.rows(tmp_path / "model.txt", [[*extra, 12.5, 10, 5], [*extra, 3, 4, 5]])
    assert_allclose(read(example, coordinates=path).positions, [[12.5, 10, 5], [3, 4, 5]])


def test_six_columns_are_coordinates_and_relions_angles(example, read, files, tmp_path):
    found = read(example, coordinates=files.rows(tmp_path / "c.txt", [[12, 10, 5, 10, 20, 30.0]]))
    assert_allclose(found.rotations[0], relion_to_matrices(10, 20, 30).reshape(3, 3))
    assert not any("orientations" in note for note in found.notes)


XF = "1 0 0 1 0 0\n"
BAD = {
    "rows of .xf": ({"alignment": ("b.xf", XF * 4)}, "b.xf: has 4 rows, but .* has 5 images"),
    "columns of .xf": ({"alignment": ("b.xf", XF * 4 + "1 0 0 1 0\n")}, "line 5: expected transforms .* 6 numbers"),
    "words in .xf": ({"alignment": ("b.xf", XF * 4 + "1 0 0 1 0 x\n")}, "b.xf: line 5: expected transforms"),
    "no number in .xf": ({"alignment": ("b.xf", XF * 4 + "1 0 0 1 0 nan\n")}, "b.xf: line 5: expected transforms"),
    "mirror": ({"alignment": ("b.xf", XF * 4 + "1 0 0 -1 0 0\n")}, "b.xf: row 5: expected a rotation"),
    "binary .xf": ({"alignment": ("b.xf", "\0\1")}, "b.xf: expected transforms .*, got binary data"),
    "empty .xf": ({"alignment": ("b.xf", "\n")}, "b.xf: expected transforms"),
    "angles": ({"tilt_angles": ("b.tlt", "1\n2\n3\n")}, "b.tlt: has 3 rows, but .* has 5 images"),
    "no angles": ({"tilt_angles": None}, "--tilt-angles: an .xf file needs"),
    "x tilts": ({"x_tilts": ("b.xtilt", "1\n2\n")}, "b.xtilt: has 2 rows"),
    "unknown alignment": ({"alignment": ("b.aln", "whatever\n")}, "b.aln"),
    "aln without rows": ({"alignment": ("b.aln", ALN[:60]), "tilt_angles": None}, "b.aln: expected '# RawSize"),
    "aln of other images": (
        {"alignment": ("b.aln", ALN.replace("30 24", "31 24")), "tilt_angles": None}, "b.aln: is of images of 31 x 24"
    ),
    "aln of fewer": (
        {"alignment": ("b.aln", "".join(ALN.splitlines(True)[:-2])), "tilt_angles": None}, "b.aln: has rows for 2 tilts"
    ),
    "aln magnified": ({"alignment": ("b.aln", ALN.replace("1.00000", "1.01000")), "tilt_angles": None}, "GMAG 1"),
    "aln with beta": (
        {"alignment": ("b.aln", ALN.replace("BetaOffset =     0", "BetaOffset =     1")), "tilt_angles": None},
        "BetaOffset",
    ),
    "aln and angles": ({"alignment": ("b.aln", ALN)}, "--tilt-angles .*: an .aln file has all angles"),
    "outside": ({"coordinates": ("b.txt", "3 4 5\n3 4 10\n")}, r"b.txt: row 2: \(3, 4, 10\) is outside .* --imod-flip"),
    "two columns": ({"coordinates": ("b.txt", "3 4\n")}, "b.txt: line 1: expected coordinates"),
    "no contour": ({"coordinates": ("b.txt", "1.5 3 4 5\n")}, "b.txt: row 1: expected coordinates"),
    "other star": ({"coordinates": ("b.star", "data_x\n_a 1\n")}, "b.star: expected a table with _rlnCoordinateX"),
    "other tomograms": ({"coordinates": ("b.star", STAR.replace("TS_1", "TS_9"))}, "b.star: has particles of"),
    "local alignment": ({"tilt_command": ("tilt.com", "$tilt\nLOCALFILE a.xf\n")}, "tilt.com: line 2: LOCALFILE"),
    "no tilt": ({"tilt_command": ("tilt.com", "$newst\n")}, "tilt.com: expected IMOD's tilt.com"),
    "thickness": ({"tilt_command": ("tilt.com", "$tilt\nTHICKNESS 12\n")}, "--tomogram-size: expected Z 12"),
    "all excluded": ({"tilt_command": ("tilt.com", "$tilt\nEXCLUDELIST 1-5\n")}, "all 5 views are excluded"),
    "bad list": ({"tilt_command": ("tilt.com", "$tilt\nEXCLUDELIST 1-x\n")}, "a list of views"),
    "rows of CTFFIND": ({"defocus": ("c.txt", "1 2 2 3 0 0 5\n")}, "c.txt: has 1 rows; expected 5"),
    "order of CTFFIND": ({"defocus": ("c.txt", "2 2 2 3 0 0 5\n")}, "c.txt: row 1: expected image 1"),
    "unknown defocus": ({"defocus": ("c.txt", "2\n3\n")}, "c.txt: line 1: expected CTFFIND"),
    "views of IMOD": ({"defocus": ("c.defocus", "1 6 0 0 3000 2\n")}, "c.defocus: line 1: expected views from 1 to 5"),
    "cut-on": ({"defocus": ("c.defocus", "36 0 0 0 0 3\n1 1 0 0 3000 90 0.1\n")}, "cut-on"),
    "doses": ({"doses": ("d.txt", "1\n2\n")}, "d.txt: has 2 rows; expected 5"),
    "negative dose": ({"doses": ("d.txt", "1\n2\n-3\n4\n5\n")}, "d.txt: row 3: expected e/Å² from 0"),
    "dose without order": ({"dose_per_tilt": 3.0}, "--dose-per-tilt and --tilt-order"),
    "order": ({"dose_per_tilt": 3.0, "tilt_order": ("o.txt", "1\n2\n2\n4\n5\n")}, "o.txt: expected the numbers"),
    "other mdoc": (
        {"dose_per_tilt": 3.0, "tilt_order": ("o.mdoc", MDOC.replace("38.4", "88.4"))}, "o.mdoc: its tilt angles"
    ),
    "short mdoc": ({"dose_per_tilt": 3.0, "tilt_order": ("o.mdoc", MDOC[:60])}, "o.mdoc: has 1 sections"),
    "mdoc without time": (
        {"dose_per_tilt": 3.0, "tilt_order": ("o.mdoc", MDOC.replace("DateTime", "Date"))}, "DateTime: expected"
    ),
    "size": ({"size": (26, 0, 10)}, "--tomogram-size"),
    "no stack": ({"images": Path("nothing.mrc")}, "nothing.mrc"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line_that_says_where(example, read, tmp_path, case):
    changes, message = BAD[case]
    given = {
        name: write(tmp_path / value[0], value[1]) if isinstance(value, tuple) and isinstance(value[0], str) else value
        for name, value in changes.items()
    }  # fmt: skip
    with pytest.raises(InputError, match=message) as caught:
        read(example, **given)
    assert "\n" not in str(caught.value)


def test_an_alignment_alone_says_what_else_is_needed(example):
    with pytest.raises(InputError, match="--alignment with --tilt-series"):
        TiltAlignmentReader().read_tilt_particles(TiltReadRequest(example.alignment))
