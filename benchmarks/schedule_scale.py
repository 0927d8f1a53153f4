"""How many blocks a second the master can hand out: a stage of blocks of no work on many in-process ranks.

Every rank is a thread and every message is pickled, as under MPI, but all of them share one interpreter: the rate
is that of the whole protocol, both ends, on about one core, and the master of an MPI world, which has a core of its
own, handles more. The ledger of the run is the real one (progress, blank images, hooks); there are no checkpoints.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import threading
from contextlib import ExitStack
from time import perf_counter, process_time
from typing import Any

from measure import machine, table

from centralslice.jobs.oversight import RunOverseer
from centralslice.runtime.communicator import MASTER, Communicator, run_in_process
from centralslice.runtime.progress import Progress
from centralslice.runtime.schedule import BlockReport, run_stage

#: Stack of a rank's thread: the default reserves 8 MiB of addresses for each.
STACK_BYTES = 256 * 2**10


class NoWork:
    """Blocks that take no time; keeps the ledger of a rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.done: list[int] = []

    def do_block(self, block: int) -> BlockReport:
        """Note it."""
        self.done.append(block)
        return BlockReport(block, self.rank, 1, 0.0, {"blank": []})

    def read_ahead(self, block: int) -> None:
        """There is nothing to read."""

    def save(self, epoch: int) -> Any:
        """Never asked for."""
        raise NotImplementedError


def measure(ranks: int, blocks: int) -> list[str]:
    """Run a stage; a row of the table."""
    works = [NoWork(rank) for rank in range(ranks)]
    spans: list[float] = []
    reported: list[int] = []
    with ExitStack() as cleanup:
        progress = Progress(blocks, stream=io.StringIO(), json_lines=True)
        overseer = RunOverseer(
            progress, 0.0, None, None, {}, lambda report: reported.append(report.block), cleanup, 0
        )

        def rank_work(communicator: Communicator) -> None:
            communicator.broadcast(None)  # all threads are there
            begun = perf_counter()
            run_stage(communicator, range(blocks), works[communicator.rank], overseer, master_works=False)
            if communicator.rank == MASTER:
                spans.append(perf_counter() - begun)

        cpu = process_time()
        run_in_process(ranks, rank_work)
        cpu = process_time() - cpu
    if sorted(reported) != list(range(blocks)) or sum(len(work.done) for work in works) != blocks:
        raise SystemExit("not every block was done and reported exactly once")
    shares = [len(work.done) for work in works[1:]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return [
        f"{ranks:,}", f"{blocks:,}", f"{spans[0]:.1f}", f"{blocks / spans[0]:,.0f}", f"{1e6 * cpu / blocks:.0f}",
        f"{min(shares):,} … {max(shares):,}", f"{peak / 1e6:,.0f}",
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 10, 100, 1001], help="the master counts")
    parser.add_argument("--blocks", type=int, default=1_000_000)
    options = parser.parse_args()
    threading.stack_size(STACK_BYTES)
    print(machine())
    rows = []
    for ranks in options.ranks:
        rows.append(measure(ranks, options.blocks))
        print("  " + "  ".join(rows[-1]), flush=True)
    header = ["ranks", "blocks", "seconds", "blocks a second", "CPU µs a block", "blocks a worker", "peak MB"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
