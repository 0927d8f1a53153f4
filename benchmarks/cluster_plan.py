"""Memory, disk and traffic of a run on a cluster, worked out from the code's own plan; nothing large is allocated.

A small run is planned as the command does it, then box, sums and blocks are put in place of its own.
The figures in docs/explanation/cluster-scale.md are this script's.
"""

from __future__ import annotations

import argparse
import math
import pickle
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measure import simulate, table

from centralslice.jobs.budget import images_at_a_time, images_of_block
from centralslice.jobs.layout import host_bytes
from centralslice.jobs.make3d.plan import Make3dPlan, plan_make3d, read_particles
from centralslice.jobs.make3d.settings import Make3dSettings
from centralslice.plugin.registry import shared_registry
from centralslice.runtime.checkpoint import checkpoint_bytes
from centralslice.runtime.communicator import PIECE_BYTES
from centralslice.runtime.exact_sums import scheme_bytes
from centralslice.runtime.schedule import BLOCKS_AHEAD, BlockReport
from centralslice_mpi.communicator import relatives

#: The default, and the same accuracy or somewhat less of it in less memory.
MODES = ("kaiser_bessel", "kaiser_bessel:width=4:oversampling=1.5", "kaiser_bessel:width=4:oversampling=1.25")
SMALL_BOX, SMALL_COUNT = 32, 400


@dataclass(frozen=True)
class Cluster:
    """What the run is on.

    Attributes
    ----------
    nodes, ranks_per_node
        Nodes, and ranks on each.
    link_gb_s
        What a node's network link carries, GB/s.
    particles
        Particles of the run.
    """

    nodes: int
    ranks_per_node: int
    link_gb_s: float
    particles: int

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.nodes * self.ranks_per_node


def small_plan(folder: Path, mode: str) -> Make3dPlan:
    """The plan of a few small particles with half sets."""
    registry, made = shared_registry(), folder / f"particles_{SMALL_BOX}.star"
    if not made.exists():
        simulate(folder, SMALL_BOX, SMALL_COUNT)
    settings = Make3dSettings(input=made, output=folder / "map.mrc", mode=mode, force=True)
    return plan_make3d(settings, registry, read_particles(settings, registry, "projection"))


def planned(small: Make3dPlan, box: int, particles: int) -> Make3dPlan:
    """The same with another box and number of particles, as ``plan_make3d`` would decide."""
    geometry = replace(small.geometry, image_size=box, slice_size=box)
    sums, piece = small.reconstructor.plan(geometry), images_at_a_time(geometry)
    block = images_of_block(particles, piece, sums.nbytes, small.sums_kind)
    return replace(
        small, geometry=geometry, sums=sums, slice_size=box, output_shape=(box, box, box), piece_images=piece,
        block_images=block,
    )  # fmt: skip


def metadata_bytes(small: Make3dPlan, particles: int) -> int:
    """Size of the broadcast plan: that of the particles, from the growth of the small one."""
    half = replace(small, particles=small.particles.take(np.arange(SMALL_COUNT // 2)))
    grown = len(pickle.dumps(small)) - len(pickle.dumps(half))
    return grown * particles // (SMALL_COUNT - SMALL_COUNT // 2)


def figures(plan: Make3dPlan, metadata: int, cluster: Cluster) -> dict[str, str]:
    """Name to figure, one column of the table."""
    sums, ranks = scheme_bytes(plan.sums_kind, plan.sums), cluster.ranks
    (shape,) = plan.sums.shapes.values()
    blocks = -(-cluster.particles // plan.block_images)
    report = len(pickle.dumps(("report", BlockReport(blocks, ranks, plan.block_images, 1.0, {"blank": []}))))
    order = len(pickle.dumps(("block", blocks)))
    children, depth = len(relatives(0, ranks)[1]), math.ceil(math.log2(ranks))
    sets = 2 if plan.has_halves else 1
    pieces = -(-plan.sums.nbytes // (PIECE_BYTES // 8 * plan.sums.dtype.itemsize))
    to_master = children * sums * sets
    images = 4 * plan.geometry.image_size**2 * cluster.particles
    return {
        "grid": "×".join(map(str, shape[:3])),
        "numbers in one set of sums": f"{math.prod(shape):,}",
        "one set of sums": gb(sums),
        "finish, on the master": gb(plan.sums.finish_bytes),
        "node with the master, all": gb(host_bytes(plan, cluster.ranks_per_node, True)),
        "any other node, all": gb(host_bytes(plan, cluster.ranks_per_node, False)),
        "metadata broadcast, each rank": gb(metadata),
        "blocks, images in each": f"{blocks:,} of {plan.block_images:,}",
        "orders and reports through the master": gb(blocks * (order + report)),
        "blocks held ahead by all workers": f"{BLOCKS_AHEAD * (ranks - 1):,}",
        "images read, each rank": gb(images // ranks),
        "sums sent, each rank": gb(sums * sets),
        "sums sent, all ranks": gb(sums * sets * (ranks - 1)),
        "sums into the master's link": f"{gb(to_master)} ({children} ranks, tree of depth {depth})",
        f"that at {cluster.link_gb_s:g} GB/s": f"{to_master / cluster.link_gb_s / 1e9:,.0f} s",
        "pieces a set of sums is sent in": f"{pieces:,}",
        "checkpoint, each rank": gb(sums),
        "checkpoints on the disk": gb(checkpoint_bytes(sums, ranks)),
    }


def gb(number: float) -> str:
    """Bytes in GB, or in MB if there are few."""
    if number < 1e8:
        return f"{number / 1e6:,.1f} MB"
    return f"{number / 1e9:,.2f} GB" if number < 1e10 else f"{number / 1e9:,.0f} GB"


def plan_table(box: int, cluster: Cluster, modes: tuple[str, ...]) -> str:
    """The Markdown table, a column a mode."""
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in modes:
            small = small_plan(Path(folder), mode)
            plan = planned(small, box, cluster.particles)
            columns.append(figures(plan, metadata_bytes(small, cluster.particles), cluster))
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    made: str = table(["", *(f"`{mode}`" for mode in modes)], rows)
    return made


def main() -> None:
    """Work out and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--box", type=int, default=1024)
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--ranks-per-node", type=int, default=1)
    parser.add_argument("--link", type=float, default=12.5, help="GB/s of a node's network link")
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--mode", nargs="+", default=MODES)
    options = parser.parse_args()
    cluster = Cluster(options.nodes, options.ranks_per_node, options.link, options.particles)
    print(plan_table(options.box, cluster, tuple(options.mode)))


if __name__ == "__main__":
    main()
