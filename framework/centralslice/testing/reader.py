"""Laws that every reader keeps: inherit, make the reader and write an example file.

.. code-block:: python

    class TestMyReader(ReaderContract):
        count = 3

        def make(self) -> Reader:
            return MyReader()

        def write_example(self, folder: Path) -> Path: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from centralslice.abc.reader import Reader, ReadRequest, TiltReadRequest
from centralslice.data.particles import Particles
from centralslice.data.refinement import SourceRequest
from centralslice.errors import FileMissingError, FormatError, InputError

CAPABILITIES = frozenset({"particles", "tilt_particles", "images", "volume", "refinement"})

#: What is in no format: name and content.
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(4096),
    "noise": np.random.default_rng(0).bytes(5000),
    "text": b"There was an old man with a beard,\nwho said, 'It is just as I feared!\n" * 40,
    "numbers": b"1 2 3\n4 5\n" * 300,
}


class ReaderContract(ABC):
    """Tests of one reader."""

    #: Particles and images in the example.
    count: ClassVar[int]

    @abstractmethod
    def make(self) -> Reader:
        """A new instance of the reader under test."""

    @abstractmethod
    def write_example(self, folder: Path) -> Path:
        """Write a correct file (and what it refers to) into an empty folder; its path."""

    def write_map(self, folder: Path) -> Path:
        """Write a map; for formats whose example is a stack that cannot be read as one."""
        return self.write_example(folder)

    def request(self, path: Path) -> ReadRequest:
        """How the particles of ``path`` are asked for."""
        return ReadRequest(path)

    def tilt_request(self, path: Path) -> TiltReadRequest:
        """How the particles in tilt series of ``path`` are asked for."""
        return TiltReadRequest(path)

    def operations(self) -> dict[str, Callable[[Path], Any]]:
        """What can be asked of the reader, by capability."""
        reader = self.make()
        return {
            "particles": lambda path: reader.read_particles(self.request(path)),
            "tilt_particles": lambda path: reader.read_tilt_particles(self.tilt_request(path)),
            "images": lambda path: reader.open_images(path).close(),
            "volume": reader.read_volume,
            "refinement": lambda path: reader.read_refinement(path, SourceRequest(optimiser=path)),
        }

    def able(self, capability: str) -> None:
        """Skip a test of what the reader does not claim to do."""
        if capability not in self.make().capabilities:
            pytest.skip(f"the {self.make().plugin_name} reader has no {capability}")

    def particles(self, folder: Path) -> Particles:
        """The example's particles; skips the test of a reader that has none."""
        self.able("particles")
        return self.make().read_particles(self.request(self.write_example(folder)))

    def test_it_says_its_name_and_what_it_can_do(self) -> None:
        reader = self.make()
        assert reader.plugin_name
        assert reader.capabilities
        assert reader.capabilities <= CAPABILITIES

    def test_it_recognises_its_own_example(self, tmp_path: Path) -> None:
        assert self.make().recognises(self.write_example(tmp_path)) is True

    def test_what_it_cannot_do_is_an_error_that_names_the_file(self, tmp_path: Path) -> None:
        path = self.write_example(tmp_path)
        for capability, operation in self.operations().items():
            if capability not in self.make().capabilities:
                with pytest.raises(InputError, match=path.name):
                    operation(path)

    def test_a_missing_file_is_reported_as_missing(self, tmp_path: Path) -> None:
        path = self.write_example(tmp_path)
        absent = path.with_name(f"absent{path.suffix}")
        for capability in sorted(self.make().capabilities):
            with pytest.raises(FileMissingError, match=absent.name):
                self.operations()[capability](absent)

    @pytest.mark.parametrize("kind", list(GARBAGE))
    def test_garbage_under_its_suffix_gives_one_line_that_names_the_file(
        self, tmp_path: Path, kind: str
    ) -> None:
        path = self.write_example(tmp_path)
        path.write_bytes(GARBAGE[kind])
        assert self.make().recognises(path) in (True, False)
        for capability in sorted(self.make().capabilities):
            with pytest.raises(FormatError) as caught:
                self.operations()[capability](path)
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
    def test_a_cut_off_file_reads_or_gives_one_clear_error(self, tmp_path: Path, part: float) -> None:
        path = self.write_example(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        for capability in sorted(self.make().capabilities):
            message = ""
            try:
                self.operations()[capability](path)
            except InputError as error:
                message = str(error)
            assert "\n" not in message

    def test_damaged_bytes_are_read_or_give_one_clear_error(self, tmp_path: Path) -> None:
        path = self.write_example(tmp_path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        random = np.random.default_rng(1)
        for round_number in range(60):
            # every other round in the header, where most formats keep what they rely on
            reach = min(len(content), 1024 if round_number % 2 else len(content))
            damaged = content.copy()
            damaged[random.integers(reach, size=3)] = random.integers(256, size=3)
            path.write_bytes(damaged.tobytes())
            for capability in sorted(self.make().capabilities):
                message = ""
                try:
                    self.operations()[capability](path)
                except InputError as error:
                    message = str(error)
                assert "\n" not in message

    def test_counts_of_all_attributes_agree(self, tmp_path: Path) -> None:
        found = self.particles(tmp_path)
        assert len(found) == self.count
        assert found.rotations.shape == (self.count, 3, 3)
        assert found.shifts_angst.shape == (self.count, 2)
        for name in (
            "file_number", "image_number", "optics_group", "half_set", "weight", "quality",
            "model_number", "source_row",
        ):  # fmt: skip
            assert getattr(found, name).shape == (self.count,), name
        for name, column in found.columns.items():
            assert len(column) == self.count, name

    def test_poses_are_proper_rotations_times_a_scale(self, tmp_path: Path) -> None:
        rotations = self.particles(tmp_path).rotations
        assert rotations.dtype == np.float64
        scale = np.cbrt(np.linalg.det(rotations))
        assert (scale > 0).all()
        unit = np.broadcast_to(np.eye(3), rotations.shape) * scale[:, None, None] ** 2
        assert_allclose(rotations @ np.swapaxes(rotations, 1, 2), unit, atol=1e-6)

    def test_references_point_to_something(self, tmp_path: Path) -> None:
        found = self.particles(tmp_path)
        assert all(path.is_file() for path in found.image_files)
        assert ((found.file_number >= 0) & (found.file_number < len(found.image_files))).all()
        assert (found.image_number >= 0).all()
        assert ((found.optics_group >= 0) & (found.optics_group < len(found.optics))).all()
        assert np.isin(found.half_set, (0, 1, 2)).all()
        assert all(group.pixel_size_angst > 0 for group in found.optics)

    def test_values_are_finite(self, tmp_path: Path) -> None:
        found = self.particles(tmp_path)
        assert np.isfinite(found.shifts_angst).all()
        assert np.isfinite(found.weight).all()
        assert np.isfinite(found.quality).all()
        if found.ctf is not None:
            for name in ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg"):
                assert np.isfinite(getattr(found.ctf, name)).all(), name

    def test_chosen_particles_keep_their_rows(self, tmp_path: Path) -> None:
        found = self.particles(tmp_path)
        chosen = np.arange(self.count)[::-2]
        part = found.take(chosen)
        assert_array_equal(part.source_row, found.source_row[chosen])
        assert_array_equal(part.rotations, found.rotations[chosen])
        assert_array_equal(part.image_number, found.image_number[chosen])

    def test_images_come_in_the_order_asked_for_from_any_thread(self, tmp_path: Path) -> None:
        self.able("images")
        with self.make().open_images(self.write_example(tmp_path)) as stack:
            assert stack.header.count == self.count
            everything = stack.read(np.arange(self.count))
            assert everything.shape == (self.count, *stack.header.shape)
            assert everything.dtype == np.float32
            backwards = np.arange(self.count)[::-1]
            with ThreadPoolExecutor(4) as pool:
                for again in pool.map(stack.read, [backwards] * 8):
                    assert_array_equal(again, everything[::-1])

    def test_an_image_beyond_the_stack_is_an_error(self, tmp_path: Path) -> None:
        self.able("images")
        with self.make().open_images(self.write_example(tmp_path)) as stack:
            for number in (self.count, -1):
                with pytest.raises(FormatError):
                    stack.read(np.array([number]))

    def test_a_map_has_three_axes_and_a_voxel_size(self, tmp_path: Path) -> None:
        self.able("volume")
        volume = self.make().read_volume(self.write_map(tmp_path))
        assert volume.data.ndim == 3
        assert volume.data.dtype in (np.float32, np.float64)
        assert volume.voxel_size_angst > 0
