"""Two hosts, each a rank: network namespaces of this test with a cable between them, and nothing else on it.

A host has its own network, host name, processes and shared memory, so that MPI finds no way but the cable.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Done, Launcher

pytestmark = pytest.mark.mpi

PROGRAMS = Path(__file__).with_name("programs.py")
TOOLS = ("ip", "unshare", "mount", "hostname")
#: In place of ssh: options, host, command. Hosts are asked for by address.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
address=$1; shift
case "$address" in
HOSTS
*) echo "no such host: $address" >&2; exit 9;;
esac
exec ip netns exec "$name" unshare -u -i -p -m --fork --kill-child --mount-proc \\
  sh -c "hostname $name && mount -t tmpfs tmpfs /dev/shm && $*"
"""


@dataclass(frozen=True)
class Hosts:
    """Two namespaces, their addresses, and the script that starts commands there."""

    names: tuple[str, str]
    addresses: tuple[str, str]
    agent: Path

    def received(self) -> int:
        """Bytes that came to the first host over the cable."""
        return int(cable_of(self.names[0])["stats64"]["rx"]["bytes"])

    def run(self, mpi: Launcher, *arguments: str | Path, timeout: float = 120) -> Done:
        """Two ranks, one on each host, started from the first."""
        if mpi.name == "mpich":
            launcher = ["-launcher", "ssh", "-launcher-exec", self.agent, "-iface", "cable", "-ppn", "1"]
            launcher += ["-hosts", ",".join(self.addresses)]
        else:
            launcher = ["--prtemca", "plm_ssh_agent", self.agent]
            launcher += ["--host", ",".join(f"{address}:1" for address in self.addresses)]
            launcher += ["--map-by", "ppr:1:node:oversubscribe"]
            exported = [name for name in mpi.environment() if name.startswith("PYTHON")]
            launcher += [word for name in exported for word in ("-x", name)]
        words = [mpi.mpiexec, *launcher, "-n", "2", mpi.python, *arguments]
        job = subprocess.Popen(
            [self.agent, self.addresses[0], shlex.join(map(str, words))], env=mpi.environment(), text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        return mpi.finish(job, timeout)


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ip."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)


def cable_of(name: str) -> dict[str, Any]:
    """What is known of a host's end of the cable."""
    shown: list[dict[str, Any]] = json.loads(ip("-n", name, "-s", "-json", "link", "show", "cable").stdout)
    return shown[0]


def wait_for_cable(names: tuple[str, str]) -> None:
    """The kernel takes up to a second to say that both ends are up; until then MPI finds no network."""
    deadline = time.monotonic() + 10
    while not all(cable_of(name)["operstate"] == "UP" for name in names):
        assert time.monotonic() < deadline, "the cable between the hosts does not come up"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two hosts with a cable; skipped, with the reason, where they cannot be made."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"two hosts: needs root and {', '.join(missing or TOOLS)}")
    names = (f"cshost{os.getpid()}a", f"cshost{os.getpid()}b")
    addresses = ("10.77.0.1", "10.77.0.2")
    steps = [
        *(("netns", "add", name) for name in names),
        ("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1]),
        *(("-n", n, "addr", "add", f"{a}/24", "dev", "cable") for n, a in zip(names, addresses, strict=True)),
        *(("-n", name, "link", "set", device, "up") for name in names for device in ("lo", "cable")),
    ]  # fmt: skip
    agent = tmp_path_factory.mktemp("hosts") / "agent.sh"
    pairs = zip(names, addresses, strict=True)
    agent.write_text(
        AGENT.replace("HOSTS", "\n".join(f"{address}) name={name};;" for name, address in pairs))
    )
    agent.chmod(0o755)
    try:
        for step in steps:
            done = ip(*step)
            if done.returncode:
                pytest.skip(f"two hosts: ip {' '.join(step)}: {done.stderr.strip()}")
        wait_for_cable(names)
        yield Hosts(names, addresses, agent)
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory, launchers: dict[str, Launcher | str]) -> Path:
    """A STAR file of 400 images of 48 pixels."""
    table = tmp_path_factory.mktemp("two_hosts") / "particles.star"
    alone(launchers, "simulate", "--output", table, "--box", "48", "--count", "400", "--snr", "1")
    return table


def alone(launchers: dict[str, Launcher | str], *arguments: str | Path) -> None:
    """The command line in a process of its own, without MPI."""
    launcher = next(found for found in launchers.values() if not isinstance(found, str))
    words = [str(launcher.python), "-m", "centralslice.cli", *map(str, arguments)]
    done = subprocess.run(
        words, env=launcher.environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def sha256(output: Path) -> str:
    """The hash of a run's map as its manifest says."""
    return str(json.loads(output.with_name(f"{output.stem}_manifest.json").read_text())["map_sha256"])


def test_ranks_on_two_hosts_are_one_world(mpi: Launcher, hosts: Hosts) -> None:
    before = hosts.received()
    done = hosts.run(mpi, PROGRAMS, "laws")
    assert done.code == 0, done.err
    assert sorted(json.loads(line)["rank"] for line in done.out.splitlines() if line) == [0, 1]
    assert hosts.received() - before > 2**25  # sums of 32 MiB and more went over the cable


def test_a_map_made_on_two_hosts_has_the_bits_of_the_serial_one(
    mpi: Launcher, hosts: Hosts, particles: Path, launchers: dict[str, Launcher | str], tmp_path: Path
) -> None:
    command: list[str | Path] = ["make3d", "--input", particles, "--sym", "c1", "--threads", "1"]
    alone(launchers, *command, "--output", tmp_path / "serial.mrc")
    before = hosts.received()
    done = hosts.run(mpi, "-m", "centralslice.cli", *command, "--output", tmp_path / "hosts.mrc")
    assert done.code == 0, done.err
    assert sha256(tmp_path / "hosts.mrc") == sha256(tmp_path / "serial.mrc")
    assert hosts.received() - before > 4 * 96 * 96 * 48  # at least one channel of the sums


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_rank_that_fails_on_the_other_host_ends_both_and_its_host_is_named(
    mpi: Launcher, hosts: Hosts, how: str
) -> None:
    done = hosts.run(mpi, PROGRAMS, "die", how, "1", "receive", timeout=30)
    assert done.code != 0
    assert done.seconds < 15
    if how == "raise":
        assert f"rank 1 of 2 on {hosts.names[1]}" in done.err
