"""``centralslice tomo``: particles in tilt series in, 3D maps out."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from centralslice.cli.options import Subparsers
from centralslice.cli.running import Job, add_running, add_sums, checkpoint_seconds, run_job, thread_count
from centralslice.cli.tomo_alignment import add_alignment, aligned_series
from centralslice.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from centralslice.jobs.run_tools import Launch
    from centralslice.jobs.tomo.job import TomoResult
    from centralslice.jobs.tomo.plan import TomoPlan
    from centralslice.jobs.tomo.settings import TomoSettings
    from centralslice.plugin.registry import Registry
    from centralslice.runtime.hosts import Host

SUMMARY = "particles in tilt series in, 3D maps out"

EXAMPLES = """examples:
  centralslice tomo --i optimisation_set.star --b 128 --o map
  centralslice tomo --p particles.star --t tomograms.star --b 192 --crop 128 --bin 2 --sym C6 --o map --dry-run
  mpirun -n 4 centralslice tomo --i optimisation_set.star --b 256 --o map --threads 8
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "tomo", help=SUMMARY,
        description="Reconstruct 3D maps of particles straight from tilt series: windows are cut on the fly, with CTF, "
        "dose, motion and aberrations, and inserted in Fourier space. Options are those of "
        "relion_tomo_reconstruct_particle, and more.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_files(parser)
    add_alignment(parser)
    _add_selection(parser)
    _add_method(parser)
    _add_maps(parser)
    running = add_running(parser)
    add_sums(running)
    running.add_argument(
        "--mem", type=float, metavar="GB", help="largest memory of each process, reading included"
    )
    running.add_argument("--j", type=int, metavar="N", help="threads, the same as --threads")
    running.add_argument("--j-out", type=int, metavar="N",
        help="RELION's threads over particles: one pool here, j-out × j-in threads without --j")  # fmt: skip
    running.add_argument(
        "--j-in", type=int, metavar="N", help="RELION's threads inside a particle, see --j-out"
    )
    running.add_argument("--only-do-unfinished", action="store_true",
        help="go on where an interrupted run stopped; the same as --resume auto")  # fmt: skip
    running.add_argument(
        "--no-backup", action="store_true", help="no checkpoints; the same as --checkpoint-every 0"
    )
    running.add_argument("--no-recon", action="store_true",
        help="stop when everything is summed; the sums are kept for: centralslice checkpoint finish")  # fmt: skip
    running.add_argument(
        "--theme", metavar="NAME", help="accepted for RELION's interface; there are no colours"
    )
    running.add_argument("--pipeline-control", metavar="DIR",
        help="accepted for RELION's interface: its job control files are written there, and no note.txt")  # fmt: skip


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input and output").add_argument
    add("--i", type=Path, metavar="FILE", help="optimisation set (.star)")
    add("--p", type=Path, metavar="FILE", help="particles, instead of those of the optimisation set")
    add("--t", type=Path, metavar="FILE", help="tomograms, instead of those of the optimisation set")
    add("--mot", type=Path, metavar="FILE", help="trajectories, instead of those of the optimisation set")
    add("--o", type=Path, required=True, metavar="FOLDER", help="folder of the maps; is made")
    add("--force", action="store_true", help="replace existing outputs")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which particles and tilts").add_argument
    add("--subset", type=int, choices=(1, 2), help="only this half set")
    add("--split", metavar="HOW", help="make half sets where there are none: random:SEED or parity")
    add(
        "--tilt-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="only tilts between these angles, degrees",
    )
    add("--max-dose", type=float, metavar="E/Å²", help="only tilts with at most this dose before them")
    add("--first-tilts", type=int, metavar="N", help="only the N tilts of each series that were taken first")
    add("--visible-frames", choices=("use", "ignore"),
        help="whether rlnTomoVisibleFrames says which tilts count [use; ignore with --compat relion]")  # fmt: skip


def _add_method(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reconstruction").add_argument
    add("--b", type=int, metavar="N", help="box in binned pixels, even or odd")
    add("--bin", type=float, default=1.0, metavar="X", help="binning [1]")
    add("--mode", metavar="NAME[:PARAMS]", help="reconstructor, see: centralslice plugins list reconstructor")
    add("--sym", default="C1", help="point group: Cn, Dn, T, O, I, I1..I4, tet, oct, icos [C1]")
    add("--nr-helical-asu", type=int, default=1, metavar="N",
        help="helical copies inserted for each particle; multiplied with --sym [1]")  # fmt: skip
    add("--helical-rise", type=float, default=0.0, metavar="Å", help="rise from a copy to the next along z")
    add(
        "--helical-twist",
        type=float,
        default=0.0,
        metavar="DEG",
        help="twist from a copy to the next about z",
    )
    add("--SNR", "--snr", type=float, default=None, metavar="X", dest="snr",
        help="Wiener constant: divide by ΣCTF² + 1/X; 0 or less: a floor under the weights instead [-1]")  # fmt: skip
    add("--no-ctf", action="store_true", help="neither CTF nor dose weighting")
    add("--whiten", action="store_true", help="divide by the noise's amplitude spectrum of each tilt image")
    add(
        "--no-circle-crop",
        action="store_true",
        help="no circular mask on the windows; their mean is taken off",
    )
    add("--cutoff-fract", type=float, default=0.01, metavar="X",
        help="leave out frequencies of a tilt whose dose weight is not above this [0.01]")  # fmt: skip
    add("--maxres", type=float, metavar="Å", help="leave out frequencies beyond this resolution")
    add("--precision", choices=("float32", "float64"), default="float32", help="of slices and sums [float32]")
    add("--compat", choices=("relion",), help="RELION's method and numbers, for comparison and migration")


def _add_maps(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the maps").add_argument
    add(
        "--crop",
        type=int,
        default=-1,
        metavar="N",
        help="crop the maps to N voxels; the whole ones are *_full.mrc",
    )
    add("--taper", type=float, default=10.0, metavar="N",
        help="width in voxels of the maps' soft spherical edge; 0: no edge, and no mean taken off [10]")  # fmt: skip
    add("--fsc", type=Path, metavar="MASK", dest="fsc",
        help="half-map FSC under this mask, too, corrected by randomised phases; without it only unmasked and "
        "under a sphere")  # fmt: skip
    add("--report", action="store_true", help="also write a page with facts, central sections and FSC")
    add("--float16", action="store_true", help="half precision maps (MRC mode 12)")


def run(arguments: argparse.Namespace) -> int:
    """Plan, and unless it is a dry run, compute; on every rank of the world this process belongs to."""
    from centralslice.jobs.pipeline_control import pipeline_control

    job = Job(lambda registry, hosts: _plan(arguments, registry, hosts), _compute)
    return pipeline_control(arguments.pipeline_control, lambda: run_job(arguments, job))


def _compute(plan: TomoPlan, registry: Registry, launch: Launch) -> list[str] | None:
    from centralslice.jobs.tomo.job import run_tomo

    result = run_tomo(plan, registry, launch)
    return None if result is None else report_lines(plan, result)


def _plan(arguments: argparse.Namespace, registry: Registry, hosts: Sequence[Host]) -> TomoPlan:
    """The plan, made by the master alone."""
    from centralslice.jobs.layout import layout_notes
    from centralslice.jobs.tomo.plan import plan_tomo, read_tilt_particles, with_notes

    settings = settings_from(arguments)
    plan = plan_tomo(settings, registry, read_tilt_particles(settings, registry))
    return with_notes(plan, layout_notes(plan, hosts))


def report_lines(plan: TomoPlan, result: TomoResult) -> list[str]:
    """What is printed of maps that were written."""
    from centralslice.runtime.checkpoint import checkpoint_folder

    lines = [f"windows    {int(plan.selection.counts.sum()) - result.blank:,} inserted"]
    if result.blank:
        lines.append(f"skipped    {result.blank:,} windows whose pixels are all equal")
    if result.resumed_particles:
        lines.append(f"resumed    {result.resumed_particles:,} particles taken over from the checkpoint")
    for name, curve in result.fsc.items():
        first, second = curve.resolution(0.143), curve.resolution(0.5)
        lines.append(f"resolution {first:.2f} Å (half-map FSC 0.143, {name}), {second:.2f} Å (0.5)")
    lines.append(
        "time       " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.timings_s.items())
    )
    if not result.sha256:
        return [*lines, f"sums       {checkpoint_folder(plan.settings.output)}"]
    lines += [f"sha256     {value} {label}" for label, value in result.sha256.items()]
    return [*lines, f"map        {plan.outputs.merged}"]


def settings_from(given: argparse.Namespace) -> TomoSettings:
    """The settings of parsed options.

    Raises
    ------
    ParameterError
        For options that exclude each other or are out of range.
    """
    from centralslice.jobs.tomo.settings import HelicalSettings, TiltRules, TomoSettings

    _check(given)
    relion = given.compat is not None
    visible: Literal["use", "ignore"] = given.visible_frames or ("ignore" if relion else "use")
    limits = None if given.tilt_range is None else (given.tilt_range[0], given.tilt_range[1])
    return TomoSettings(
        output=given.o, optimisation_set=given.i, particles=given.p, tomograms=given.t, trajectories=given.mot,
        series=aligned_series(given),
        box=given.b, crop=given.crop if given.crop > 0 else None, binning=given.bin, taper=given.taper,
        mode=given.mode, snr=given.snr if given.snr is not None and given.snr > 0 else None, sym=given.sym,
        helix=HelicalSettings(given.nr_helical_asu, given.helical_twist, given.helical_rise),
        whiten=given.whiten, ctf=not given.no_ctf, circle_crop=not given.no_circle_crop,
        dose_cutoff=given.cutoff_fract, maxres=given.maxres,
        tilts=TiltRules(limits, given.max_dose, given.first_tilts, visible), subset=given.subset,
        split=given.split, fsc_mask=given.fsc, compat_relion=relion, precision=given.precision, sums=given.sums,
        quanta_of=given.quanta_of, memory_gb=given.mem, threads=_threads(given),
        master_works=given.master_works,
        checkpoint_every_s=0.0 if given.no_backup else checkpoint_seconds(given.checkpoint_every),
        resume="auto" if given.only_do_unfinished and given.resume == "no" else given.resume,
        keep_checkpoints=given.keep_checkpoints or given.no_recon, stop_after_sums=given.no_recon,
        report=given.report, note=given.pipeline_control is None, float16=given.float16,
        log_json=given.log_json, force=given.force,
        quiet=given.verbose < 1,
    )  # fmt: skip


def _check(given: argparse.Namespace) -> None:
    for name in ("bin", "maxres", "mem"):
        value = getattr(given, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"--{name}: expected a number above 0, got {value:g}")
    if not given.bin >= 1:
        raise ParameterError(f"--bin: expected 1 or more, got {given.bin:g}")
    if not 0 <= given.cutoff_fract < 1:
        raise ParameterError(
            f"--cutoff-fract: expected 0 or more and less than 1, got {given.cutoff_fract:g}"
        )
    if given.snr is not None and math.isnan(given.snr):
        raise ParameterError("--SNR: expected a number, got nan")
    if not (given.taper >= 0 and math.isfinite(given.taper)):
        raise ParameterError(f"--taper: expected 0 or more, got {given.taper:g}")
    if given.quanta_of is not None and given.sums == "fast":
        raise ParameterError("--quanta-of: only exact sums have quanta; leave out --sums fast")
    if given.b is not None and given.crop > given.b:
        raise ParameterError(f"--crop {given.crop}: larger than the box --b {given.b}")
    if given.no_backup and given.only_do_unfinished:
        raise ParameterError("--no-backup: an interrupted run could not be taken up; leave out one of it and "
                             "--only-do-unfinished")  # fmt: skip
    for name in ("j", "j_out", "j_in"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ParameterError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")


def _threads(given: argparse.Namespace) -> int:
    """One pool: --threads or --j, else RELION's j-out × j-in."""
    count = given.threads if given.threads is not None else given.j
    if given.threads is not None and given.j is not None and given.threads != given.j:
        raise ParameterError("--j and --threads give different numbers of threads; give one")
    if count is None and (given.j_out is not None or given.j_in is not None):
        count = (given.j_out or 1) * (given.j_in or 1)
    return thread_count(count, given.parallel)
