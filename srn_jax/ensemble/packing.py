"""Packing experiments into shards: what runs side by side, on which device, and how wide.

On a CPU a shard is one experiment: a second would push the first out of the cache. Padding costs
little there, since the loops over time begin where the sequences do, so a few widths are compiled.
On an accelerator one experiment costs nearly as much as many, so a shard has as many as its fast
memory holds, of all lengths at one width, and the shards differ little in size.
"""

from typing import NamedTuple

import numpy as np

MAX_WIDTHS = 4  # on a CPU: one for each of seven lengths is 2 % faster, and 25 % more to compile
# Experiments in a shard, at most: what the fast memory of a TPU v5e core holds of the textbook's
# size, and on a GPU, where the number of launches decides, what its memory holds.
TPU_BATCH, GPU_BATCH = 224, 8192


class Packing(NamedTuple):
    """Where each experiment runs; NumPy arrays, the same on every process."""

    experiment: np.ndarray  # [shard, batch]: index into the experiments (fillers repeat one)
    length: np.ndarray  # [shard]: its longest, for the first width that holds it; 0: nothing to do
    widths: tuple[tuple[int, bool], ...]  # ascending, and whether some experiment is shorter
    mixed: bool  # whether the experiments of a shard may differ in length
    place: np.ndarray  # [experiment]: its index into experiment.ravel()


def pack(lengths: np.ndarray, devices: int, batch: int, mixed: bool = False) -> Packing:
    """Pack experiments, given the length of each, into shards of `batch` for each device.

    Mixed shards have one width. Others have one length each, so that their loops begin together,
    and neighbours share a width. The longest are dealt out first, to whom has the least to do.
    """
    distinct = np.unique(lengths)
    shared = np.array_split(distinct, 1 if mixed else min(MAX_WIDTHS, len(distinct)))
    order = np.argsort(-lengths, kind="stable")
    alike = [order] if mixed else [order[lengths[order] == length] for length in distinct[::-1]]
    batch = min(batch, max(map(len, alike)))  # as many as there are
    dealt: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(devices)]
    work = np.zeros(devices)
    for members in alike:
        for start in range(0, len(members), batch):
            own = members[start : start + batch]
            least, length = int(np.argmin(work)), int(lengths[own].max())
            work[least] += length
            dealt[least].append((length, np.resize(own, batch)))
    most = max(map(len, dealt))
    idle = (0, np.zeros(batch, int))
    flat = [shard for own in dealt for shard in [*own, *[idle] * (most - len(own))]]
    longest = np.array([length for length, _ in flat], np.int32)
    experiment = np.stack([own for _, own in flat])
    busy = np.flatnonzero(np.repeat(longest > 0, batch))
    place = np.empty(len(lengths), int)
    place[experiment.ravel()[busy]] = busy
    widths = tuple((int(part[-1]), len(part) > 1) for part in shared)
    return Packing(experiment, longest, widths, mixed, place)


def pack_for(platform: str, lengths: np.ndarray, devices: int, batch: int | None = None) -> Packing:
    """The packing that suits a platform, with `batch` side by side if that is asked for."""
    if platform == "cpu":
        return pack(lengths, devices, batch or 1)
    share = -(-len(lengths) // devices)
    turns = -(-share // (TPU_BATCH if platform == "tpu" else GPU_BATCH))
    return pack(lengths, devices, batch or -(-len(lengths) // (devices * turns)), mixed=True)
