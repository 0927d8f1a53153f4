"""Job scripts: valid bash that holds what was asked for, runs what was typed, and tells ranks in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centralslice.cli import main
from centralslice.cli.job_script import (
    SYSTEMS,
    JobRequest,
    Layout,
    Limits,
    clock,
    gigabytes_of,
    job_script,
    seconds_of,
)
from centralslice.errors import ParameterError

BATCH = [system for system in SYSTEMS if system != "local"]


def request(system: str, **changes: object) -> JobRequest:
    given: dict[str, object] = {
        "system": system,
        "name": "job",
        "command": ("centralslice", "make3d"),
        "directory": Path("/data/set"),
        "script": Path("/data/set/job.sh"),
        "layout": Layout(4, 2, 16, 64),
        "limits": Limits(43200, 600),
        **changes,
    }
    return JobRequest(**given)  # type: ignore[arg-type]


def valid(text: str) -> str:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "{{" not in text
    return text


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        (
            "slurm",
            ["--nodes=4", "--ntasks-per-node=2", "--cpus-per-task=16", "--mem=64G", "--time=12:00:00",
             "--signal=B:USR1@600", "--partition=fast", "--account=lab", "--requeue", "--exclusive"],
        ),
        (
            "pbs",
            ["-l select=4:ncpus=32:mpiprocs=2:ompthreads=16:mem=64gb", "-l walltime=12:00:00", "-q fast", "-A lab",
             "-r y", "--exclusive"],
        ),
        (
            "lsf",
            ["-n 128", '-R "span[ptile=32]"', "-W 12:00", "-wa USR1", "-wt 10", '-R "rusage[mem=64GB/host]"',
             "-q fast", "-P lab", '-Q "75"', "--exclusive"],
        ),
        ("sge", ["-pe mpi 128", "-l h_rt=12:00:00", "-l h_vmem=2048M", "-q fast", "-P lab", "-r y", "--exclusive"]),
    ],
)  # fmt: skip
def test_a_script_asks_for_what_was_asked(system: str, lines: list[str]) -> None:
    text = valid(job_script(request(system, queue="fast", account="lab", directives=("--exclusive",))))
    mark = SYSTEMS[system][1]
    for line in lines:
        assert f"\n{mark} {line}\n" in text
    assert text.startswith("#!/bin/bash\n")
    # directives end at the first command
    body = text[text.index("\ntimer=") :]
    assert mark + " " not in body or system == "local"


@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=25, deadline=None)
@given(word=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
def test_any_word_reaches_the_program_as_typed(system: str, word: str) -> None:
    command = (sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.argv[1].encode())", word)
    one = Layout(1, 1, 1)
    text = valid(
        job_script(request(system, command=command, layout=one, launcher=("env",), directory=Path("/")))
    )
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, word.encode()), done.stderr


@pytest.mark.parametrize("system", SYSTEMS)
def test_odd_folders_and_setup_lines_are_kept(system: str, tmp_path: Path) -> None:
    folder = tmp_path / 'my $HOME\'s "data" (1)'
    folder.mkdir()
    text = valid(
        job_script(
            request(
                system, command=("bash", "-c", 'echo "$MARK"; pwd'), layout=Layout(1, 1, 1), launcher=("env",),
                directory=folder, setup=("export MARK=here",),
            )
        )
    )  # fmt: skip
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == ["here", str(folder)]


@pytest.mark.parametrize("bad", ["a b", "a\n#SBATCH --uid=0", "", "a;b", "$(x)", "ü"])
def test_what_directives_cannot_hold_is_refused(bad: str) -> None:
    for option in ("name", "queue", "account"):
        with pytest.raises(ParameterError, match=f"--{option}: expected letters"):
            job_script(request("slurm", **{option: bad}))
    with pytest.raises(ParameterError, match="--directive: expected one line"):
        job_script(request("slurm", directives=("a\nb",)))


STUBBORN = """
import signal, sys, time
def told(number, frame):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the launcher may pass it on as well
    print("told", flush=True)
    time.sleep(0.5)
    sys.exit(75)
signal.signal(signal.SIGUSR1, told)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(("system", "code"), [("local", 75), ("pbs", 75), ("sge", 99)])
def test_the_program_is_told_before_the_time_limit_and_its_code_comes_back(system: str, code: int) -> None:
    text = job_script(
        request(
            system, command=(sys.executable, "-c", STUBBORN), layout=Layout(1, 1, 1), directory=Path("/"),
            limits=Limits(1003, 1000, requeue=system == "sge"),
        )
    )  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout.split()[:2] == ["ready", "told"]
    assert 2.9 < time.monotonic() - begun < 30


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("system", ["slurm", "lsf", "pbs", "local"])
def test_a_signal_to_the_script_reaches_the_program_as_usr1(system: str, sent: signal.Signals) -> None:
    text = job_script(
        request(
            system, command=(sys.executable, "-c", STUBBORN), layout=Layout(1, 1, 1), directory=Path("/"),
            limits=Limits(1000, 10, requeue=False), launcher=("env",),
        )
    )  # fmt: skip
    job = subprocess.Popen(
        ["bash", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    job.send_signal(sent)
    out, err = job.communicate(timeout=20)
    assert job.returncode == 75, err
    assert "told" in out


@pytest.mark.parametrize(("system", "program"), [("slurm", "scontrol"), ("pbs", "qsub")])
def test_a_stopped_job_puts_itself_back_into_the_queue(system: str, program: str, tmp_path: Path) -> None:
    environment = fake(tmp_path, program)
    text = job_script(
        request(
            system, command=("bash", "-c", "exit 75"), layout=Layout(1, 1, 1), directory=tmp_path,
            launcher=("env",), script=tmp_path / "my job.sh",
        )
    )  # fmt: skip
    environment["SLURM_JOB_ID"] = "17"
    subprocess.run(["bash", "-c", text], env=environment, check=False, timeout=60)
    said = (tmp_path / "said").read_text().splitlines()
    expected = (
        ["requeue", "17"]
        if system == "slurm"
        else ["-v", "CENTRALSLICE_RESTARTS=1", str(tmp_path / "my job.sh")]
    )
    assert said == expected
    (tmp_path / "said").unlink()
    environment |= {"SLURM_RESTART_COUNT": "100", "CENTRALSLICE_RESTARTS": "100"}
    subprocess.run(["bash", "-c", text], env=environment, check=False, timeout=60)
    assert not (tmp_path / "said").exists()


def fake(folder: Path, program: str) -> dict[str, str]:
    """An environment where a program only notes its arguments and input."""
    script = folder / "bin" / program
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        f"#!/bin/bash\nprintf '%s\\n' \"$@\" > '{folder}/said'\ncat > '{folder}/input'\necho job 17\n"
    )
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}


OPTIONS = ["--nodes", "2", "--threads", "8", "--time", "2h", "--memory", "10G"]
COMMAND = ["--", "make3d", "--input", "my particles.star", "--output", "map.mrc"]


@pytest.mark.parametrize(
    ("system", "program"), [("slurm", "sbatch"), ("pbs", "qsub"), ("sge", "qsub"), ("lsf", "bsub")]
)
def test_submit_hands_the_script_to_the_batch_system(
    system: str,
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", fake(tmp_path, program)["PATH"])
    monkeypatch.chdir(tmp_path)
    assert main(["launch", system, *OPTIONS, "--name", "mine", "--submit", *COMMAND]) == 0
    script = tmp_path / "mine.sh"
    assert capfd.readouterr().out == "job 17\n"
    valid(script.read_text())
    if system == "lsf":
        assert (tmp_path / "input").read_text() == script.read_text()
    else:
        assert (tmp_path / "said").read_text().splitlines() == [str(script)]


@pytest.mark.parametrize("system", BATCH)
def test_the_job_resumes_and_has_its_threads(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["launch", system, *OPTIONS, *COMMAND]) == 0
    text = (tmp_path / "centralslice.sh").read_text()
    assert "make3d --input 'my particles.star' --output map.mrc --threads 8 --resume=auto)" in text
    given = ["--threads", "3", "--resume"]
    assert main(["launch", system, *OPTIONS, "--force", *COMMAND, *given]) == 0
    assert "--output map.mrc --threads 3 --resume)" in (tmp_path / "centralslice.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slurm", *COMMAND], "--threads: expected the cores of each rank"),
        (["slurm", "--threads", "4", *COMMAND], "--time: expected the job's time limit"),
        (
            ["slurm", *OPTIONS, "--signal-before", "2h", *COMMAND],
            "--signal-before: expected less than --time",
        ),
        (["slurm", *OPTIONS, "--time", "soon", *COMMAND], "--time: expected a time such as"),
        (["slurm", *OPTIONS, "--memory", "64", *COMMAND], "--memory: expected memory of a node"),
        (["slurm", *OPTIONS, "--nodes", "0", *COMMAND], "--nodes: expected 1 or more"),
        (
            ["slurm", *OPTIONS, "--", "make3d", "--bogus", "x"],
            "the following arguments are required: --input",
        ),
        (["slurm", *OPTIONS, *COMMAND, "--bogus"], "unknown option '--bogus'"),
        (["slurm", *OPTIONS, "--", "nonsense"], "no command 'nonsense' to run"),
        (["slurm", *OPTIONS, "--", "launch", "local"], "no command 'launch' to run"),
        (["slurm", *OPTIONS, "--", "plugins", "list"], "plugins works on one rank, got 2"),
        (["slurm", *OPTIONS, "--pe", "smp", *COMMAND], "--pe: parallel environments are SGE's"),
        (["local", "--queue", "x", *COMMAND], "--queue: this machine has no batch system"),
        (["local", "--nodes", "2", *COMMAND], "--nodes: local is one node"),
        (["local", "--mpiexec", "mpirun 'x", *COMMAND], "--mpiexec: No closing quotation"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_a_script_is_written(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["launch", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_script_that_is_there_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "centralslice.sh").write_text("mine")
    assert main(["launch", "slurm", *OPTIONS, *COMMAND]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert (tmp_path / "centralslice.sh").read_text() == "mine"


def test_a_batch_system_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["launch", "slurm", *OPTIONS, "--submit", *COMMAND]) == 2
    assert "sbatch is not on the PATH" in capsys.readouterr().err


def test_memory_comes_from_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "--output", "p.star", "--count", "8", "--box", "32"]) == 0
    asked = ["--ranks-per-node", "4", "--threads", "2", "--time", "1h"]
    assert main(["launch", "slurm", *asked, "--", "make3d", "--input", "p.star", "--output", "m.mrc"]) == 0
    text = (tmp_path / "centralslice.sh").read_text()
    (gigabytes,) = [int(line[14:-1]) for line in text.splitlines() if line.startswith("#SBATCH --mem=")]
    assert 1 <= gigabytes <= 8


def test_local_runs_the_command_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "centralslice.cli", "launch", "local", "--submit", "--", "plugins", "list"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kaiser_bessel" in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1.5h", 5400),
        ("2d", 172800),
        ("12:00", 43200),
        ("1:02:03", 3723),
        ("1-00:00:01", 86401),
    ],
)
def test_times_are_read_and_written(text: str, seconds: int) -> None:
    assert seconds_of("--time", text) == seconds
    assert seconds_of("--time", clock(seconds)) == seconds


def test_memory_is_rounded_up_to_whole_gigabytes() -> None:
    assert [gigabytes_of("--memory", text) for text in ("64G", "1.5T", "0.5g", "10GB")] == [64, 1536, 1, 10]
