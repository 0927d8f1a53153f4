"""Two real MPI libraries, each in a virtual environment of its own beside the one the tests run in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs.py")
ROOTS = [str(REPOSITORY / root) for root in ("framework", "plugins", "mpi_launch")]
LIBRARIES = ("mpich", "openmpi")
#: Building an environment, or waiting for another test process that builds it.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Done:
    """What became of a launched job."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Launcher:
    """An MPI library: its mpiexec and a Python that has its mpi4py."""

    name: str
    mpiexec: Path
    python: Path

    def environment(self) -> dict[str, str]:
        """Ours without settings that concern MPI; this machine may have few cores and be run by root."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PMI", "OMPI", "PRTE", "SLURM", "MPI", "HYDRA", "MV2", "PYTEST", "COV"))
        }
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(ROOTS),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
            "PRTE_MCA_hwloc_default_binding_policy": "none",
        }

    def command(self, ranks: int, *arguments: str | Path) -> list[str]:
        """The line that starts so many Pythons with these arguments."""
        return [str(self.mpiexec), "-n", str(ranks), str(self.python), *map(str, arguments)]

    def start(self, ranks: int, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a job in a process group of its own."""
        return subprocess.Popen(
            self.command(ranks, *arguments), cwd=cwd, env=self.environment(), text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def finish(self, job: subprocess.Popen[str], timeout: float = 60) -> Done:
        """Wait for a job; one that hangs is killed and fails the test."""
        begun = time.monotonic()
        try:
            out, err = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            out, err = job.communicate()
            pytest.fail(f"{self.name}: still running after {timeout} s: {out[-1000:]} {err[-3000:]}")
        return Done(job.returncode, out, err, time.monotonic() - begun)

    def run(self, ranks: int, *arguments: str | Path, timeout: float = 60, cwd: Path | None = None) -> Done:
        """Run a job to its end."""
        return self.finish(self.start(ranks, *arguments, cwd=cwd), timeout)

    def program(self, ranks: int, *arguments: str, timeout: float = 60) -> Done:
        """Run one of the programs of these tests."""
        return self.run(ranks, PROGRAMS, *arguments, timeout=timeout)

    def centralslice(
        self, ranks: int, *arguments: str | Path, timeout: float = 300, cwd: Path | None = None
    ) -> Done:
        """Run the command line on so many ranks."""
        return self.run(ranks, "-m", "centralslice.cli", *arguments, timeout=timeout, cwd=cwd)

    def process_of(self, job: subprocess.Popen[str], rank: int) -> int:
        """Process of a rank of a job that was started here."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        name = "PMI_RANK" if self.name == "mpich" else "OMPI_COMM_WORLD_RANK"
        for process in parents:
            above = process
            while above in parents and above != job.pid:
                above = parents[above]
            if above == job.pid and process != job.pid:
                environment = Path(f"/proc/{process}/environ").read_bytes()
                if f"{name}={rank}".encode() in environment.split(b"\0"):
                    return process
        raise AssertionError(f"no process of rank {rank} below {job.pid}")


def _build(folder: Path, library: str) -> str:
    """Make an environment with an MPI library from its wheel; why not, or nothing."""
    python = folder / "bin" / "python"
    quiet = {"capture_output": True, "text": True, "timeout": PATIENCE_S, "check": False}
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], **quiet)  # type: ignore[call-overload]
    if made.returncode:
        return f"no virtual environment: {made.stderr[-300:]}"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "mpi4py>=4",
        library,
    ]
    done = subprocess.run([*map(str, install), "--disable-pip-version-check"], **quiet)  # type: ignore[call-overload]
    if done.returncode:
        return f"the wheels mpi4py and {library} cannot be installed: {' '.join(done.stderr.split())[-300:]}"
    borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    site = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], **quiet)  # type: ignore[call-overload]
    Path(site.stdout.strip(), "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return ""


def _ours(library: str) -> Launcher | None:
    """The environment the tests run in, if it has the library's wheel and mpi4py."""
    try:
        version(library)
        version("mpi4py")
    except PackageNotFoundError:
        return None
    mpiexec = Path(sys.prefix, "bin", "mpiexec")
    return Launcher(library, mpiexec, Path(sys.executable)) if mpiexec.is_file() else None


def _environment(base: Path, library: str) -> tuple[Path, str]:
    """The environment of a library, built by whichever test process comes first."""
    folder, verdict = base / f"mpi_{library}", base / f"mpi_{library}.verdict"
    try:
        (base / f"mpi_{library}.lock").mkdir()
    except FileExistsError:
        deadline = time.monotonic() + PATIENCE_S
        while not verdict.exists():
            if time.monotonic() > deadline:
                return folder, "another test process did not finish building it"
            time.sleep(0.2)
        return folder, verdict.read_text()
    problem = _build(folder, library)
    partial = verdict.with_suffix(".partial")
    partial.write_text(problem)
    partial.rename(verdict)
    return folder, problem


@pytest.fixture(scope="session")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launcher | str]:
    """Per library its launcher, or why there is none."""
    own = tmp_path_factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    found: dict[str, Launcher | str] = {}
    for library in LIBRARIES:
        ours = _ours(library)
        if ours is not None:
            found[library] = ours
            continue
        folder, problem = _environment(base, library)
        found[library] = problem or Launcher(library, folder / "bin" / "mpiexec", folder / "bin" / "python")
    return found


def chosen(launchers: dict[str, Launcher | str], library: str) -> Launcher:
    """A library's launcher; the test is skipped, visibly, where it cannot be had."""
    found = launchers[library]
    if isinstance(found, str):
        pytest.skip(f"{library}: {found}")
    return found


@pytest.fixture(params=LIBRARIES)
def mpi(request: pytest.FixtureRequest, launchers: dict[str, Launcher | str]) -> Launcher:
    """Each MPI library in turn."""
    return chosen(launchers, request.param)


@pytest.fixture
def mpich(launchers: dict[str, Launcher | str]) -> Launcher:
    """MPICH, whose launcher starts quickly."""
    return chosen(launchers, "mpich")


@pytest.fixture
def openmpi(launchers: dict[str, Launcher | str]) -> Launcher:
    """Open MPI."""
    return chosen(launchers, "openmpi")
