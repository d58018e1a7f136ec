"""Packing experiments into slots: what runs side by side, and on which device.

Slots are `[slot, chunk]`. A device takes its slots one after another; the experiments of a slot run
side by side at one padded length.
"""

from typing import NamedTuple

import numpy as np

MAX_PROGRAMS = 8  # programs of one compilation, each for its padded length


class Packing(NamedTuple):
    """Where each experiment runs; NumPy arrays, the same on every process."""

    experiment: np.ndarray  # [slot, chunk]: index into the sweep's experiments (fillers repeat one)
    program: np.ndarray  # [slot]: index into widths; len(widths) for a slot with nothing to do
    widths: tuple[int, ...]  # padded lengths, ascending
    padded: tuple[bool, ...]  # whether some experiment of a program is shorter than its width
    place: np.ndarray  # [experiment]: its index into experiment.ravel()


def pack(lengths: np.ndarray, devices: int, chunk: int, programs: int = MAX_PROGRAMS) -> Packing:
    """Pack experiments, given the length of each, into slots of `chunk` for each device.

    Slots are dealt out longest first, each to the device with the least to do. With more than
    `programs` different lengths, neighbouring ones share a program.
    """
    groups = np.array_split(np.unique(lengths), min(programs, len(np.unique(lengths))))
    widths = tuple(int(group[-1]) for group in groups)
    program_of = np.searchsorted(widths, lengths)

    slots = [
        (program, members[start : start + chunk])
        for program in reversed(range(len(widths)))
        for members in [np.flatnonzero(program_of == program)]
        for start in range(0, len(members), chunk)
    ]
    dealt: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(devices)]
    work = np.zeros(devices)
    for program, members in slots:
        device = int(np.argmin(work))
        work[device] += widths[program]
        dealt[device].append((program, np.resize(members, chunk)))
    most = max(map(len, dealt))
    idle = (len(widths), np.zeros(chunk, int))
    flat = [slot for own in dealt for slot in own + [idle] * (most - len(own))]

    experiment = np.stack([members for _, members in flat])
    programs_of_slots = np.array([program for program, _ in flat], np.int32)
    busy = np.flatnonzero(np.repeat(programs_of_slots < len(widths), chunk))
    place = np.empty(len(lengths), int)
    place[experiment.ravel()[busy]] = busy
    padded = tuple(len(group) > 1 for group in groups)
    return Packing(experiment, programs_of_slots, widths, padded, place)


def pack_for(platform: str, lengths: np.ndarray, devices: int, chunk: int | None = None) -> Packing:
    """The packing that suits a platform, unless a chunk is asked for.

    On a CPU one experiment at a time, since more would leave the cache. Elsewhere all of a device's
    share side by side at the longest length: there, time steps cost and padding hardly does.
    """
    if chunk is None and platform != "cpu":
        return pack(lengths, devices, -(-len(lengths) // devices), programs=1)
    return pack(lengths, devices, chunk or 1)
