"""A function of one experiment over many: the only `vmap` and sharding beside a sweep's."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = PartitionSpec("experiment")
AT_ONCE = 256  # experiments between two reports of `map_experiments`


def map_experiments(
    function: Callable[..., Any],
    *arguments: Any,
    given: tuple[Any, ...] = (),
    done: Callable[[int], None] | None = None,
) -> Any:
    """`function(*given, ...)` of one experiment over pytrees `[experiment, ...]`, on local devices.

    On a CPU one after another on each core, elsewhere in batches side by side. Returns NumPy
    arrays `[experiment, ...]`; each is the same however many there are. What is `given` can be
    hashed: the same function given the same is compiled once. `done`, if given, is told how many
    are, after about every `AT_ONCE` of them.
    """
    devices = np.array(jax.local_devices())
    number = len(jax.tree.leaves(arguments)[0])
    share = -(-(number if done is None else min(number, AT_ONCE)) // len(devices))
    together = share * len(devices)
    mesh = Mesh(devices, ("experiment",))
    batch = None if devices[0].platform == "cpu" else min(share, 512)
    program = mapped(function, given, mesh, batch)
    sharding = NamedSharding(mesh, AXIS)
    parts = []
    for start in range(0, number, together):
        rows = np.minimum(np.arange(start, start + together), number - 1)
        part = jax.tree.map(lambda a, r=rows: jax.device_put(np.asarray(a)[r], sharding), arguments)
        parts.append(jax.tree.map(np.asarray, program(part)))
        if done is not None:
            done(min(start + together, number))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:number], *parts)


@lru_cache(maxsize=32)
def mapped(function: Callable[..., Any], given: tuple[Any, ...], mesh: Mesh, batch: int | None):
    """The compiled program of `map_experiments`."""

    def on_device(arguments):
        return jax.lax.map(lambda one: function(*given, *one), arguments, batch_size=batch)

    return run_once(on_device, mesh)


def run_once(on_device: Callable[..., Any], mesh: Mesh):
    """The program of a function of shards on their devices, compiled quickly."""
    return jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=AXIS, out_specs=AXIS, check_vma=False),
        compiler_options=compiler_options(mesh),
    )


def compiler_options(mesh: Mesh) -> dict[str, bool]:
    """Options for a program that computes for less time than it takes to compile.

    On a CPU, XLA's older way of writing kernels compiles in 0.7 of the time. Its kernels take a
    sixth longer, and what they give differs in its last digits if at all. Newer versions of XLA do
    not have it.
    """
    older = jax.__version_info__[:2] <= (0, 10)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_use_fusion_emitters": False} if on_cpu and older else {}
