"""Image stacks with a plain file of tilt angles."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from centralslice.abc.reader import ReadRequest
from centralslice.errors import FileMissingError, FormatError, ParameterError
from centralslice.testing.reader import ReaderContract
from centralslice_plugins.formats.tilt_angles import read_tilt_angles
from centralslice_plugins.readers.tilt_series_stack import TiltSeriesStackReader


def angles(folder: Path, content: str | bytes) -> list[float]:
    path = folder / "test.tlt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_tilt_angles(path))


def test_one_angle_a_line_blank_and_comment_lines_do_not_count(tmp_path: Path) -> None:
    assert angles(tmp_path, "\n -60.00\r\n\n# tilted\n0\n  +1.5e1\n\n") == [-60.0, 0.0, 15.0]


def test_a_second_column_is_the_order_and_not_the_angle(tmp_path: Path) -> None:
    assert angles(tmp_path, "-51.0 0\n-48.0 1\n") == [-51.0, -48.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n2 3\n", r"line 2: expected a tilt angle, 1 column\(s\) as in the lines above, got '2 3'"),
        ("1 2 3 4 5 6\n", "line 1: expected a tilt angle, one or two columns"),
        ("1\nx\n", "line 2: expected a tilt angle, got 'x'"),
        ("nan\n", "line 1: expected a tilt angle within ±360°, got 'nan'"),
        ("361\n", "line 1: expected a tilt angle within ±360°"),
        ("\n\n", "found none"),
        (b"\xff\x00\x01", "binary"),
    ],
)
def test_what_is_no_list_of_angles_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        angles(tmp_path, content)


def test_a_missing_angle_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError, match="absent"):
        read_tilt_angles(tmp_path / "absent.tlt")


def test_angle_files_of_other_programs_are_read(reference: Path) -> None:
    folder = reference / "third_party/tomo_metadata"
    plain = read_tilt_angles(folder / "pytom_match_pick/test_angles.rawtlt")
    ordered = read_tilt_angles(folder / "pytom_match_pick/test_angles_multi_column.rawtlt")
    np.testing.assert_array_equal(plain, np.arange(-51, 52, 3))
    np.testing.assert_array_equal(ordered, plain)
    for path in sorted(reference.rglob("*tlt")):
        found = read_tilt_angles(path)
        assert len(found) >= 3
        assert (np.diff(found) > 0).all() or (np.diff(found) < 0).all(), path
    for other in ("etomofiles/TS_001/TS_001.xf", "alnfile/global_no_local.aln"):
        with pytest.raises(FormatError):
            read_tilt_angles(folder / other)


def stack(folder: Path, count: int, voxel: float = 2.5) -> Path:
    path = folder / "tilts.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.random.default_rng(0).normal(size=(count, 6, 6)).astype(np.float32))
        file.set_image_stack()
        file.voxel_size = voxel
    return path


def test_each_image_gets_the_pose_of_its_angle(tmp_path: Path) -> None:
    path = stack(tmp_path, 3)
    tilts = tmp_path / "tilts.tlt"
    tilts.write_text("-90\n0\n30\n")
    found = TiltSeriesStackReader().read_particles(ReadRequest(path, tilt_angles=tilts))
    assert found.image_files == (path,)
    assert found.image_number.tolist() == [0, 1, 2]
    assert found.optics[0].pixel_size_angst == 2.5
    assert found.optics[0].box_size == 6
    # the slice sample (kx, ky) sits at Rᵀ (kx, ky, 0) = (kx cos, ky, −kx sin)
    angle = np.deg2rad([-90.0, 0.0, 30.0])
    expected = np.stack([0.3 * np.cos(angle), np.full(3, 0.2), -0.3 * np.sin(angle)], axis=1)
    samples = np.swapaxes(found.rotations, 1, 2) @ np.array([0.3, 0.2, 0.0])
    np.testing.assert_allclose(samples, expected, atol=1e-15)


def test_counts_that_differ_are_both_named(tmp_path: Path) -> None:
    path = stack(tmp_path, 3)
    tilts = tmp_path / "tilts.tlt"
    tilts.write_text("1\n2\n")
    with pytest.raises(FormatError, match=r"tilts\.tlt: 2 tilt angles, but .*tilts\.mrc has 3 images"):
        TiltSeriesStackReader().read_particles(ReadRequest(path, tilt_angles=tilts))


def test_a_plain_stack_without_angles_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--tlt"):
        TiltSeriesStackReader().read_particles(ReadRequest(stack(tmp_path, 2)))


def test_an_unknown_pixel_size_is_1_and_noted(tmp_path: Path) -> None:
    path = stack(tmp_path, 1, voxel=0.0)
    tilts = tmp_path / "tilts.tlt"
    tilts.write_text("1\n")
    found = TiltSeriesStackReader().read_particles(ReadRequest(path, tilt_angles=tilts))
    assert found.optics[0].pixel_size_angst == 1.0
    assert "no pixel size" in found.notes[0]


def test_the_reference_tilt_series_is_read(reference: Path) -> None:
    folder = reference / "eman2"
    request = ReadRequest(folder / "tilt.mrc", tilt_angles=folder / "tilt.tlt")
    assert len(TiltSeriesStackReader().read_particles(request)) == 41
    odd = reference / "third_party/odd_files"
    found = TiltSeriesStackReader().read_particles(
        ReadRequest(odd / "HAADF.mrc", tilt_angles=odd / "HAADF.rawtlt")
    )
    assert len(found) == 77


class TestTiltSeriesStackReader(ReaderContract):
    count = 5

    def make(self) -> TiltSeriesStackReader:
        return TiltSeriesStackReader()

    def write_example(self, folder: Path) -> Path:
        (folder / "tilts.tlt").write_text("".join(f"{angle}\n" for angle in range(-40, 60, 20)))
        return stack(folder, self.count)

    def request(self, path: Path) -> ReadRequest:
        return ReadRequest(path, tilt_angles=path.parent / "tilts.tlt")
