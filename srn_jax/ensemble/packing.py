"""Packing experiments into shards: what runs side by side, on which device, and how wide.

Shards are `[shard, batch of experiments]`. A device takes its shards one after another; the
experiments of a shard run side by side.

On a CPU a shard is one experiment: a second one would push the first out of the cache. Padding
costs little there, since the loops over time begin where the sequences do; but what is computed for
all positions at once costs something, so there are a few widths, of which each is compiled. All
experiments of a shard have one length, so that their loops can begin together.

On an accelerator one experiment costs nearly as much as many, so a shard is as large as its fast
memory holds: about 224 experiments of the textbook's size in that of a TPU v5e core, above which
every time step goes through slow memory. On a GPU the number of launches decides, so all that its
memory holds runs at once. There the shards have one width, for which XLA compiles one program, mix
the lengths, and differ in size by less than the number of devices and turns; so the cost of an
experiment does not grow with their number.
"""

from typing import NamedTuple

import numpy as np

MAX_WIDTHS = 4  # on a CPU: one for each of seven lengths is 2 % faster, and 25 % more to compile
TPU_BATCH, GPU_BATCH = 224, 8192  # experiments in a shard, at most


class Packing(NamedTuple):
    """Where each experiment runs; NumPy arrays, the same on every process."""

    experiment: np.ndarray  # [shard, batch]: index into the experiments (fillers repeat one)
    length: np.ndarray  # [shard]: its longest, for the first width that holds it; 0: nothing to do
    widths: tuple[tuple[int, bool], ...]  # ascending, and whether some experiment is shorter
    mixed: bool  # whether the experiments of a shard may differ in length
    place: np.ndarray  # [experiment]: its index into experiment.ravel()


def pack(lengths: np.ndarray, devices: int, batch: int, mixed: bool = False) -> Packing:
    """Pack experiments, given the length of each, into shards of `batch` for each device.

    Mixed shards are cut from all experiments, sorted by length, and have one width. Others have one
    length each; with more than `MAX_WIDTHS` different ones, neighbours share a width. Shards are
    dealt out longest first, each to the device with the least to do.
    """
    distinct = np.unique(lengths)
    shared = np.array_split(distinct, 1 if mixed else min(MAX_WIDTHS, len(distinct)))
    order = np.argsort(-lengths, kind="stable")
    alike = [order] if mixed else [order[lengths[order] == length] for length in distinct[::-1]]
    batch = min(batch, max(map(len, alike)))  # as many as there are
    members = [own[start : start + batch] for own in alike for start in range(0, len(own), batch)]
    length_of = [int(lengths[own].max()) for own in members]

    dealt: list[list[int]] = [[] for _ in range(devices)]
    work = np.zeros(devices)
    for shard, length in enumerate(length_of):
        device = int(np.argmin(work))
        work[device] += length
        dealt[device].append(shard)
    most = max(map(len, dealt))

    idle = (0, np.zeros(batch, int))
    flat = [
        (length_of[shard], np.resize(members[shard], batch)) if shard is not None else idle
        for own in dealt
        for shard in [*own, *[None] * (most - len(own))]
    ]
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
    if batch is None:
        share = -(-len(lengths) // devices)
        turns = -(-share // (TPU_BATCH if platform == "tpu" else GPU_BATCH))
        batch = -(-len(lengths) // (devices * turns))
    return pack(lengths, devices, batch, mixed=True)
