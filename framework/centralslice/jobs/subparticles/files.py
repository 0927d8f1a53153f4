"""The files a subparticles run writes: their names, and whether they may be written as asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from centralslice.data.files import refuse_existing
from centralslice.errors import ParameterError
from centralslice.jobs.subparticles.settings import NO_OUTPUT, SubparticleSettings
from centralslice.plugin.registry import Registry

#: Where EMAN2's projects have their sets.
SETS = Path("sets")
_MRC_SUFFIXES = (".mrcs", ".mrc", ".st")


@dataclass(frozen=True, slots=True)
class SubparticleFiles:
    """All outputs of a run; None where it does not write one.

    ``stack``, ``lists`` (.lst: all, even, odd), ``table`` (STAR), ``frame`` (JSON), ``reference`` and ``mask`` of
    the kept part, ``invariants``, ``strips``, ``ssnr``, ``report`` and ``manifest``.
    """

    table: Path
    manifest: Path
    stack: Path | None = None
    lists: tuple[Path, ...] = ()
    frame: Path | None = None
    reference: Path | None = None
    mask: Path | None = None
    invariants: Path | None = None
    strips: Path | None = None
    ssnr: Path | None = None
    report: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """Every file that will be written."""
        named = (self.stack, self.frame, self.reference, self.mask, self.invariants, self.strips, self.ssnr)
        table = () if self.ssnr is not None else (self.table,)
        found = (*named, *self.lists, self.report, *table, self.manifest)
        return tuple(path for path in found if path is not None)

    @property
    def partial(self) -> Path:
        """The stack while it is being written by all ranks."""
        return partial_of(self.stack or self.table)

    @property
    def partial_invariants(self) -> Path:
        """The same of the invariants."""
        return partial_of(self.invariants or self.table)


def partial_of(path: Path) -> Path:
    """The name of a stack that several processes are still writing."""
    return path.with_name(f"{path.name}.partial")


def output_stack(settings: SubparticleSettings, stem: str, eman2: bool) -> Path:
    """The stack's name: as asked, or the refinement's stem with its program's suffix, in ``sets`` if that is there.

    Raises
    ------
    ParameterError
        If --output and --stack-format contradict each other, or the suffix is of no image stack.
    """
    wanted = settings.stack_format or ("hdf" if eman2 and settings.output == NO_OUTPUT else None)
    if settings.output == NO_OUTPUT:
        folder = SETS if eman2 and SETS.is_dir() else Path()
        return folder / f"{stem}.{wanted or 'mrcs'}"
    output = settings.output
    if not output.name or output.is_dir():
        raise ParameterError(f"--output {output}: is a folder; give the name of a file to write")
    suffix = output.suffix.lower()
    if suffix == ".star":
        return output.with_suffix(f".{wanted or 'mrcs'}")
    known = "hdf" if suffix == ".hdf" else "mrcs" if suffix in _MRC_SUFFIXES else None
    if known is None:
        raise ParameterError(f"--output {output}: expected a name that ends in .mrcs, .hdf or .star")
    if wanted is not None and wanted != known:
        raise ParameterError(f"--output {output}: is not of --stack-format {wanted}; give one of them")
    return output


def plan_files(settings: SubparticleSettings, stack: Path, lists: int, invariants: bool) -> SubparticleFiles:
    """Names of all files, beside the stack, with its stem; ``lists`` of all, even and odd are 0, 1 or 3."""
    has_mask = settings.masks.keep is not None or settings.masks.subtract is not None

    def beside(ending: str) -> Path:
        return stack.with_name(stack.stem + ending)

    table, manifest = beside(".star"), beside("_manifest.json")
    if settings.ssnr:
        return SubparticleFiles(table, manifest, ssnr=beside("_ssnr.star"))
    if settings.expand_only:
        return SubparticleFiles(table, manifest)
    return SubparticleFiles(
        table, manifest, stack,
        lists=(beside(".lst"), beside("_even.lst"), beside("_odd.lst"))[:lists],
        frame=beside("_frame.json"), reference=beside("_reference.mrc"),
        mask=beside("_mask.mrc") if has_mask else None,
        invariants=beside(f"_invar{stack.suffix}") if invariants else None,
        strips=beside("_strips.mrcs") if settings.debug_strips else None,
        report=beside("_report.html"),
    )  # fmt: skip


def check_files(files: SubparticleFiles, inputs: Iterable[Path], force: bool, registry: Registry) -> None:
    """Refuse, before any work, outputs that exist, are inputs, or have no writer.

    Raises
    ------
    ParameterError, OutputExistsError, ResourceError
        Naming the file.
    """
    used = {path.resolve() for path in inputs}
    for path in files.all():
        if path.resolve() in used:
            raise ParameterError(f"{path}: is an input of this run; give another --output")
        refuse_existing(path, force)
    if files.stack is not None:
        registry.writer_for(files.stack, "images")
