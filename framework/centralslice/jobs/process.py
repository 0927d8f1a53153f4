"""Processors applied to image stacks, image by image, or to a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from centralslice.abc.processor import Processor
from centralslice.abc.reader import Reader
from centralslice.abc.writer import VolumeOptions
from centralslice.conventions import FloatArray
from centralslice.data.files import refuse_existing
from centralslice.data.images import ImageStack, StackPlan, StackSink
from centralslice.data.volume import Volume
from centralslice.errors import InputError, ParameterError
from centralslice.plugin.registry import Registry
from centralslice.runtime.progress import Progress

Dimension = Literal[2, 3]

#: Images are read and written in chunks of about this many bytes.
_CHUNK_BYTES = 32 << 20
#: Files of these names hold images, or a map, whatever their header says.
_STACK_SUFFIXES = frozenset({".mrcs", ".st", ".ali", ".lst"})
_MAP_SUFFIXES = frozenset({".map", ".ccp4", ".rec"})
#: Facts about the old map that do not hold for the new one; writers make them anew.
_STALE_ATTRIBUTES = frozenset({
    "nx", "ny", "nz", "apix_x", "apix_y", "apix_z", "minimum", "maximum", "mean", "sigma", "square_sum",
    "mean_nonzero", "sigma_nonzero", "changecount", "all_int",
})  # fmt: skip
#: Where an MRC header has its space group and its mark, bytes.
_SPACE_GROUP, _MRC_MARK = slice(88, 92), slice(208, 211)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What ``centralslice process`` is to do.

    Attributes
    ----------
    source, output
        Files.
    processors
        ``name:key=value:…`` in the order of application, at least one.
    apix
        Pixel size of the input in place of the header's, Å.
    dimension
        2: a stack of images; 3: a map; None: see :func:`dimension_of`.
    first, last
        First and last image (0-based, inclusive) of a stack; None: all.
    bits
        ``VolumeOptions.bits`` of a map.
    force
        Replace an existing output.
    """

    source: Path
    output: Path
    processors: tuple[str, ...]
    apix: float | None = None
    dimension: Dimension | None = None
    first: int | None = None
    last: int | None = None
    bits: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if not self.processors:
            raise ParameterError("--process: expected at least one processor, got none")
        if self.apix is not None and not 0 < self.apix < math.inf:
            raise ParameterError(f"--apix: expected a finite number > 0, got {self.apix}")
        if self.first is not None and self.first < 0:
            raise ParameterError(f"--first: expected a number >= 0, got {self.first}")
        if self.last is not None and self.last < (self.first or 0):
            raise ParameterError(f"--last: expected a number >= {self.first or 0}, got {self.last}")


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """What was written: array shape (count, ny, nx) or (nz, ny, nx), and what the user should know."""

    dimension: Dimension
    shape: tuple[int, int, int]
    voxel_size_angst: float
    notices: tuple[str, ...]


def run_process(settings: ProcessSettings, registry: Registry) -> ProcessResult:
    """Apply the processors and write the output.

    Everything that can be wrong with options is refused before any pixel is read.

    Raises
    ------
    InputError, PluginError, ResourceError
        If a processor, option or file cannot be used; no output is left behind.
    """
    processors = tuple(registry.create("processor", text) for text in settings.processors)
    refuse_existing(settings.output, settings.force)
    reader = registry.reader_for(settings.source, "images")
    dimension = settings.dimension or dimension_of(settings.source, reader)
    _check_dimensions(processors, dimension, settings)
    if dimension == 2:
        with reader.open_images(settings.source) as stack:
            return _process_stack(stack, processors, settings, registry)
    return _process_map(processors, settings, registry)


def dimension_of(path: Path, reader: Reader) -> Dimension:
    """Whether a file holds images (2) or a map (3).

    The first rule that applies: ``.mrcs .st .ali .lst`` are stacks, ``.map .ccp4 .rec`` maps; one section is
    an image; a file whose images have headers (EMAN2 HDF) says ``nz``; a cube is a map; an MRC file of
    space group 0 is a stack; anything else is a map.
    """
    suffix = path.suffix.lower()
    if suffix in _STACK_SUFFIXES | _MAP_SUFFIXES:
        return 2 if suffix in _STACK_SUFFIXES else 3
    with reader.open_images(path) as stack:
        header = stack.header
        if header.count == 1:
            return 2
        planes = stack.attributes(0).get("nz")
    if isinstance(planes, int | float):
        return 3 if planes > 1 else 2
    if (header.count, header.count) == header.shape:
        return 3
    with open(path, "rb") as file:
        head = file.read(1024)
    return 2 if head[_MRC_MARK] == b"MAP" and head[_SPACE_GROUP] == bytes(4) else 3


def _check_dimensions(
    processors: Sequence[Processor], dimension: Dimension, settings: ProcessSettings
) -> None:
    """Refuse processors and options that do not go with images or with a map."""
    what = "a stack of images" if dimension == 2 else "a map"
    for text, processor in zip(settings.processors, processors, strict=True):
        if dimension not in processor.dimensions:
            other = 5 - dimension
            raise ParameterError(
                f"--process {text}: takes {other}D data, but {settings.source} is {what}; "
                f"if it is not, give --dimension {other}"
            )
    if dimension == 3 and (settings.first is not None or settings.last is not None):
        raise ParameterError(f"--first and --last choose images of a stack, but {settings.source} is a map")
    if dimension == 2 and settings.bits is not None:
        raise ParameterError(f"--compressbits applies to maps, but {settings.source} is a stack of images")


def _size_used(settings: ProcessSettings, found: float) -> tuple[float, list[str]]:
    """Pixel size and a notice where nobody knows it."""
    if settings.apix is not None:
        return settings.apix, []
    if found > 0:
        return found, []
    return 1.0, [f"{settings.source}: pixel size unknown, 1 Å is assumed; give --apix"]


def applied(
    processors: Sequence[Processor], data: FloatArray, voxel_size_angst: float
) -> tuple[FloatArray, float]:
    """Data and voxel size after all processors, in order."""
    for processor in processors:
        data = processor.apply(data, voxel_size_angst)
        voxel_size_angst = processor.voxel_size(voxel_size_angst)
    return data, voxel_size_angst


def _check_finite(data: FloatArray, where: str) -> None:
    if not np.isfinite(data).all():
        raise InputError(
            f"{where}: the result has values that are not finite; check the input, or give math.finite first"
        )


def _process_map(
    processors: Sequence[Processor], settings: ProcessSettings, registry: Registry
) -> ProcessResult:
    writer = registry.writer_for(settings.output, "volume")
    source = registry.reader_for(settings.source, "volume").read_volume(settings.source)
    before, notices = _size_used(settings, source.voxel_size_angst)
    sizes = [source.attributes.get(f"apix_{axis}", before) for axis in "xyz"]
    if settings.apix is None and any(isinstance(s, float) and abs(s / before - 1) > 1e-3 for s in sizes):
        notices.append(f"{settings.source}: voxel sizes {sizes} Å differ; {before:g} Å is used for all axes")
    data, voxel = applied(processors, source.data, before)
    _check_finite(data, str(settings.source))
    kept = {name: value for name, value in source.attributes.items() if name not in _STALE_ATTRIBUTES}
    result: Volume = replace(source, data=data, voxel_size_angst=voxel, attributes=kept)
    if data.shape != source.data.shape:
        result = replace(result, origin_angst=_moved_origin(source, data.shape, (before, voxel)))
    writer.write_volume(settings.output, result, VolumeOptions(bits=settings.bits))
    nz, ny, nx = data.shape
    return ProcessResult(3, (nz, ny, nx), voxel, tuple(notices))


def _moved_origin(
    source: Volume, shape: tuple[int, ...], voxels: tuple[float, float]
) -> tuple[float, float, float]:
    """Position of the first voxel of a new box with the same centre."""
    before, after = voxels
    x, y, z = (
        origin + (old // 2) * before - (new // 2) * after
        for origin, old, new in zip(source.origin_angst, source.data.shape[::-1], shape[::-1], strict=True)
    )
    return x, y, z


def _process_stack(
    stack: ImageStack, processors: Sequence[Processor], settings: ProcessSettings, registry: Registry
) -> ProcessResult:
    writer = registry.writer_for(settings.output, "images")
    numbers = _chosen(stack, settings)
    before, notices = _size_used(settings, stack.header.pixel_size_angst)
    if "xform.projection" in stack.attributes(int(numbers[0])):
        notices.append(f"{settings.output}: orientations and other headers of the images are not kept")
    first, voxel = applied(processors, stack.read(numbers[:1])[0], before)
    plan = StackPlan(len(numbers), (first.shape[0], first.shape[1]), voxel)
    with writer.create_stack(settings.output, plan) as sink:
        _fill(sink, stack, numbers, processors, before)
    return ProcessResult(2, (plan.count, *plan.shape), voxel, tuple(notices))


def _chosen(stack: ImageStack, settings: ProcessSettings) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    count = stack.header.count
    first = 0 if settings.first is None else settings.first
    last = count - 1 if settings.last is None else settings.last
    if first >= count or last >= count:
        name, value = ("--first", first) if first >= count else ("--last", last)
        raise ParameterError(f"{name} {value}: {settings.source} has {count} images, 0 … {count - 1}")
    return np.arange(first, last + 1, dtype=np.int64)


def _fill(
    sink: StackSink,
    stack: ImageStack,
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
    processors: Sequence[Processor],
    voxel_size_angst: float,
) -> None:
    """Process and store the images, a chunk in memory at a time."""
    ny, nx = stack.header.shape
    step = max(1, _CHUNK_BYTES // (4 * ny * nx))
    progress = Progress(len(numbers))
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        results = []
        for number, image in zip(part.tolist(), stack.read(part), strict=True):
            data, _ = applied(processors, image, voxel_size_angst)
            _check_finite(data, f"{stack.path}: image {number}")
            results.append(data)
        sink.write(start, np.stack(results))
        progress.advance(len(part))
    progress.close()
