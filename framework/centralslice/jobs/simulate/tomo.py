"""Write a simulated tomography project: tilt stacks, RELION tables, the true map, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centralslice.abc.writer import VolumeOptions, Writer
from centralslice.data.files import refuse_existing
from centralslice.data.images import StackPlan
from centralslice.data.volume import Volume
from centralslice.errors import ParameterError, ResourceError
from centralslice.geometry.gaussians import GaussianPhantom
from centralslice.jobs.simulate.tomo_images import Levels, imaging_of, levels_of, tilt_image
from centralslice.jobs.simulate.tomo_scene import TomoScene, tomo_scene
from centralslice.jobs.simulate.tomo_settings import TomoSettings
from centralslice.jobs.simulate.tomo_tables import (
    TRUTH,
    TRUTH_MAP,
    relion_files,
    stack_name,
    truth_tables,
)
from centralslice.runtime.staging import staged_outputs
from centralslice.runtime.threads import Threads

#: Where a file of the project is to be written, from its name in it.
Place = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class TomoOutputs:
    """Where a project goes.

    Attributes
    ----------
    folder
        The project; made if its parent exists.
    writers
        By the suffix of what they write: ``.star``, ``.mrcs``, ``.mrc``, ``.json``.
    force
        Replace existing files.
    """

    folder: Path
    writers: Mapping[str, Writer]
    force: bool = False

    def __post_init__(self) -> None:
        missing = {".star", ".mrcs", ".mrc", ".json"} - set(self.writers)
        if missing:
            raise ParameterError(f"simulation: needs writers for {', '.join(sorted(missing))}")

    def writer(self, name: str) -> Writer:
        """The writer of a file of the project."""
        return self.writers[Path(name).suffix]


def check_tomo_fits(phantom: GaussianPhantom, settings: TomoSettings) -> None:
    """Refuse an object whose three-sigma sphere leaves the box of the true map."""
    content = settings.content
    needed = 2 * int(np.ceil(phantom.radius_angst / content.pixel_size_angst)) + 1
    if needed > content.box_size + 1:
        raise ParameterError(
            f"simulation: an object of radius {phantom.radius_angst:.0f} Å needs a box of {needed} pixels, "
            f"got {content.box_size}"
        )


def write_tomo_project(
    phantom: GaussianPhantom,
    settings: TomoSettings,
    outputs: TomoOutputs,
    threads: Threads,
    done: Callable[[int], None] = lambda count: None,
) -> TomoScene:
    """Make and write a project.

    Parameters
    ----------
    phantom
        The object; its map at the box and pixel size of the settings is the truth.
    settings
        The project.
    outputs
        Folder and writers.
    threads
        Compute particles; the files do not depend on their number.
    done
        Called with the number of tilt images written so far.

    Returns
    -------
        What the tables say.

    Raises
    ------
    ParameterError, OutputExistsError, ResourceError
        If the object or its particles do not fit, a file exists, or the disk is full. Nothing is left then.
    """
    check_tomo_fits(phantom, settings)
    scene = tomo_scene(settings, phantom.radius_angst, outputs.folder)
    tables = relion_files(scene)
    stacks = [stack_name(series) for series in scene.particles.series]
    with _folders(outputs.folder, {Path(name).parent for name in (*stacks, *tables)}):
        for name in (*stacks, TRUTH_MAP, TRUTH, *tables):
            refuse_existing(outputs.folder / name, outputs.force)
        levels = levels_of(scene, phantom, threads)
        with staged_outputs() as stage:

            def place(name: str) -> Path:
                return stage(outputs.folder / name)

            _write_stacks(scene, phantom, levels, _Sink(outputs, place, threads, done))
            content = settings.content
            truth = phantom.volume(content.box_size, content.pixel_size_angst).astype(np.float32)
            volume = Volume(truth, content.pixel_size_angst)
            outputs.writer(TRUTH_MAP).write_volume(place(TRUTH_MAP), volume, VolumeOptions())
            outputs.writer(TRUTH).write_tables(place(TRUTH), truth_tables(scene, phantom, levels))
            for name, written in tables.items():
                outputs.writer(name).write_tables(place(name), written)
    return scene


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where images go, and what computes them."""

    outputs: TomoOutputs
    place: Place
    threads: Threads
    done: Callable[[int], None]


def _write_stacks(scene: TomoScene, phantom: GaussianPhantom, levels: Levels, sink: _Sink) -> None:
    """All tilt images, one in memory at a time."""
    nx, ny = scene.settings.content.image_size
    stored_as, written = scene.settings.images.stored_as, 0
    for number, series in enumerate(scene.particles.series):
        imaging = imaging_of(scene, phantom, number)
        plan = StackPlan(len(series), (ny, nx), series.pixel_size_angst, np.dtype(stored_as))
        name = stack_name(series)
        with sink.outputs.writer(name).create_stack(sink.place(name), plan) as stack:
            for tilt in range(len(series)):
                image = tilt_image(scene, phantom, imaging, (number, tilt), levels, sink.threads)
                stack.write(tilt, image[None])
                written += 1
                sink.done(written)


@contextmanager
def _folders(project: Path, inner: set[Path]) -> Iterator[None]:
    """The project's folders; those that were made are removed again if it fails."""
    made: list[Path] = []
    try:
        for folder in (project, *(project / name for name in sorted(inner - {Path()}))):
            if not folder.is_dir():
                try:
                    folder.mkdir()
                except OSError as error:
                    raise ResourceError(f"{folder}: cannot be made: {error.strerror or error}") from error
                made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
