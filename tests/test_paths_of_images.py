"""Finding the image files that metadata name."""

from __future__ import annotations

from pathlib import Path

import pytest

from centralslice.errors import FileMissingError, FormatError
from centralslice_plugins.formats.paths import locate_images


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A RELION project whose particles are in a job folder; the working directory is elsewhere."""
    touch(tmp_path / "elsewhere" / "note.txt")
    monkeypatch.chdir(tmp_path / "elsewhere")
    touch(tmp_path / "project/Refine3D/job020/run_data.star")
    return tmp_path / "project"


def metadata(project: Path) -> Path:
    return project / "Refine3D/job020/run_data.star"


def test_names_relative_to_the_project_folder_are_found_from_the_job_folder(project: Path) -> None:
    wanted = touch(project / "Extract/job012/a.mrcs")
    found = locate_images(["Extract/job012/a.mrcs"], metadata(project))
    assert found.files[0].samefile(wanted)
    assert found.notes == ()


def test_a_relative_metadata_path_is_climbed_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = touch(project / "Extract/job012/a.mrcs")
    monkeypatch.chdir(metadata(project).parent)
    assert locate_images(["Extract/job012/a.mrcs"], Path("run_data.star")).files[0].samefile(wanted)


def test_the_working_directory_comes_before_the_metadata_file_s_folder(project: Path) -> None:
    touch(metadata(project).parent / "a.mrcs")
    here = touch(Path("a.mrcs"))
    assert locate_images(["a.mrcs"], metadata(project)).files == (here,)


def test_absolute_names_are_taken_as_they_are(project: Path) -> None:
    there = touch(project / "a.mrcs")
    assert locate_images([str(there)], metadata(project)).files == (there,)


def test_a_file_found_by_base_name_beside_the_metadata_is_reported(project: Path) -> None:
    beside = touch(metadata(project).parent / "a.mrcs")
    for name in ("Lost/job001/a.mrcs", "/lost/disk/a.mrcs"):
        found = locate_images([name], metadata(project))
        assert found.files == (beside,)
        assert found.notes == (f"1 of 1 image files found by base name beside {metadata(project)}",)


def test_image_dir_wins_with_the_whole_path_then_with_ever_less_of_it(project: Path) -> None:
    touch(project / "Extract/job012/a.mrcs")
    folder = project / "copy"
    for wanted in ("a.mrcs", "job012/a.mrcs", "Extract/job012/a.mrcs"):
        expected = touch(folder / wanted)
        assert locate_images(["Extract/job012/a.mrcs"], metadata(project), folder).files == (expected,)


def test_a_file_that_is_nowhere_is_an_error_that_lists_the_folders(project: Path) -> None:
    with pytest.raises(FileMissingError) as caught:
        locate_images(["Extract/a.mrcs"], metadata(project), project)
    message = str(caught.value)
    assert "'Extract/a.mrcs' not found" in message
    assert str(project / "Extract") in message
    assert "--image-dir" in message
    assert "\n" not in message


def test_two_names_never_become_one_file_by_guessing(project: Path) -> None:
    touch(metadata(project).parent / "a.mrcs")
    with pytest.raises(FormatError, match=r"'J1/a\.mrcs' and 'J2/a\.mrcs' are both found only as"):
        locate_images(["J1/a.mrcs", "J2/a.mrcs"], metadata(project))
    touch(project / "copy/a.mrcs")
    with pytest.raises(FormatError, match="are both found only as"):
        locate_images(["J1/a.mrcs", "J2/a.mrcs"], metadata(project), project / "copy")


def test_a_folder_is_no_image_and_image_dir_must_be_one(project: Path) -> None:
    (project / "a.mrcs").mkdir()
    with pytest.raises(FileMissingError, match="not found"):
        locate_images(["a.mrcs"], metadata(project))
    with pytest.raises(FileMissingError, match=r"--image-dir .*absent: is not a folder"):
        locate_images(["a.mrcs"], metadata(project), project / "absent")
    with pytest.raises(FormatError, match="is empty"):
        locate_images([""], metadata(project))
    with pytest.raises(FormatError, match=r"control characters: 'a\\nb\.mrcs'"):
        locate_images(["a\nb.mrcs"], metadata(project))


def test_other_names_are_tried_after_the_name_itself(project: Path) -> None:
    plain = touch(project / "J1/imported/b.mrcs")

    def other(name: str) -> tuple[str, ...]:
        return (name.replace("123_", ""),)

    assert locate_images(["J1/imported/123_b.mrcs"], metadata(project), None, other).files[0].samefile(plain)
    exact = touch(project / "J1/imported/123_b.mrcs")
    assert locate_images(["J1/imported/123_b.mrcs"], metadata(project), None, other).files[0].samefile(exact)


def test_names_that_no_system_can_have_are_only_not_found(project: Path) -> None:
    with pytest.raises(FileMissingError, match="not found"):
        locate_images(["x" * 5000 + ".mrcs"], metadata(project))
