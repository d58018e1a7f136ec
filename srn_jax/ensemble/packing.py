"""Packing experiments into shards: what runs side by side, on which device, and how wide.

Shards are `[shard, batch of experiments]`. A device takes its shards one after another; the
experiments of a shard run side by side at one padded length.

On a CPU a shard is one experiment at its own length: a second one would push the first out of the
cache, and padding costs. On an accelerator one experiment costs nearly as much as many, so a shard
is as large as its fast memory holds: about 224 experiments of the textbook's size in that of a TPU
v5e core, above which every time step goes through slow memory. On a GPU the number of launches
decides, so all that its memory holds runs at once. The shards of an accelerator have one width, for
which XLA compiles one program, and differ in size by less than the number of devices and turns; so
the cost of an experiment does not grow with their number.
"""

from typing import NamedTuple

import numpy as np

MAX_PROGRAMS = 8  # programs of one compilation, each for its padded length
TPU_BATCH, GPU_BATCH = 224, 8192  # experiments in a shard, at most


class Packing(NamedTuple):
    """Where each experiment runs; NumPy arrays, the same on every process."""

    experiment: np.ndarray  # [shard, batch]: index into the experiments (fillers repeat one)
    program: np.ndarray  # [shard]: index into widths; len(widths) for one with nothing to do
    widths: tuple[int, ...]  # padded lengths, ascending
    padded: tuple[bool, ...]  # whether some experiment of a program is shorter than its width
    place: np.ndarray  # [experiment]: its index into experiment.ravel()


def pack(lengths: np.ndarray, devices: int, batch: int, programs: int = MAX_PROGRAMS) -> Packing:
    """Pack experiments, given the length of each, into shards of `batch` for each device.

    Experiments are sorted by length and cut into shards, each as wide as its longest. With more
    than `programs` different lengths, neighbouring ones share a program. Shards are dealt out
    widest first, each to the device with the least to do.
    """
    groups = np.array_split(np.unique(lengths), min(programs, len(np.unique(lengths))))
    order = np.argsort(-lengths, kind="stable")
    members = [order[start : start + batch] for start in range(0, len(order), batch)]
    longest = [int(group[-1]) for group in groups]
    width_of = [longest[np.searchsorted(longest, lengths[own].max())] for own in members]
    widths = tuple(sorted(set(width_of)))
    program_of = np.searchsorted(widths, width_of)

    dealt: list[list[int]] = [[] for _ in range(devices)]
    work = np.zeros(devices)
    for shard, width in enumerate(width_of):
        device = int(np.argmin(work))
        work[device] += width
        dealt[device].append(shard)
    most = max(map(len, dealt))

    idle = (len(widths), np.zeros(batch, int))
    flat = [
        (int(program_of[shard]), np.resize(members[shard], batch)) if shard is not None else idle
        for own in dealt
        for shard in [*own, *[None] * (most - len(own))]
    ]
    experiment = np.stack([own for _, own in flat])
    program = np.array([number for number, _ in flat], np.int32)
    busy = np.flatnonzero(np.repeat(program < len(widths), batch))
    place = np.empty(len(lengths), int)
    place[experiment.ravel()[busy]] = busy
    shortest = [min(lengths[own].min() for n, own in flat if n == m) for m in range(len(widths))]
    padded = tuple(bool(least < width) for least, width in zip(shortest, widths, strict=True))
    return Packing(experiment, program, widths, padded, place)


def pack_for(platform: str, lengths: np.ndarray, devices: int, batch: int | None = None) -> Packing:
    """The packing that suits a platform, unless a number side by side is asked for."""
    if batch is not None or platform == "cpu":
        return pack(lengths, devices, batch or 1)
    share = -(-len(lengths) // devices)
    turns = -(-share // (TPU_BATCH if platform == "tpu" else GPU_BATCH))
    return pack(lengths, devices, -(-len(lengths) // (devices * turns)), programs=1)
