"""What an accelerator would make of a training step, by its compiler, without the accelerator.

libtpu compiles for a TPU that is not there, and writes how many cycles it expects of an operation;
XLA for an H100, whose program tells the launches, and its assembler registers and spills. Nothing
here has run on either: the figures compare programs.
"""

import os
import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmark import hlo
from benchmark.measure import STEPS
from benchmark.report import in_columns
from srn_jax.config import SweepConfig
from srn_jax.ensemble.packing import pack_for
from srn_jax.ensemble.sweep import AXIS, advance_packed, prepare_packed
from srn_jax.errors import UserError
from srn_jax.training.program import hyperparameters_of, program_of


class Target(NamedTuple):
    """A kind of device."""

    platform: str  # as JAX lowers for it
    topology: str
    clock: float  # Hz, by its data sheet


TARGETS = {
    "tpu-v5e": Target("tpu", "v5e", 1.5e9),
    "tpu-v6e": Target("tpu", "v6e", 1.75e9),
    "gpu-h100": Target("cuda", "h100", 1.98e9),
}


class Estimate(NamedTuple):
    """One training step of all experiments on one device."""

    count: float  # cycles, or launches
    registers: int  # of a thread of the kernel; 0 without one
    spilled: int  # bytes that it writes because it has no more
    text: str  # the program
    bytes: int  # of its arguments and what it needs besides


def devices_of(target: Target, chips: tuple[int, int] = (1, 1)) -> Any:
    """Devices that can be compiled for; raises `UserError` where the compiler is missing."""
    jax.config.update("jax_platforms", "cpu")  # so that no driver is asked for a device
    if target.platform == "cuda":
        if not (find_spec("jax_cuda13_plugin") and find_spec("nvidia")):
            same = f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
            needed = f"{same} nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-runtime"
            raise UserError(f"the CUDA compiler is missing, run pip install --no-deps {needed}")
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=Path(__file__).with_name("h100.txtpb").read_text(),
            topology=f"1x1x{chips[0] * chips[1]}",
        ).devices
    if not find_spec("libtpu"):
        raise UserError("the TPU compiler is missing, run pip install -e '.[tpu]'")
    # Otherwise libtpu asks the network what machine this is, and complains of the answer.
    known = {"SKIP_MDS_QUERY": "1", "WORKER_HOSTNAMES": "localhost"}
    for name, value in (known | {"ACCELERATOR_TYPE": "v5litepod-1"}).items():
        os.environ.setdefault(f"TPU_{name}", value)
    return topologies.get_topology_desc(
        platform="tpu",
        topology_name="{}:{}x{}".format(target.topology, *chips),
        # All chips on one host: older libtpu takes 2x2 a host for granted, even of a single chip.
        chips_per_host_bounds=[*chips, 1],
    ).devices


def lower_sweep(
    target: Target, config: SweepConfig, chips: tuple[int, int] = (1, 1), kernel: bool = False
) -> tuple[Any, int]:
    """The training program of a sweep, lowered for devices that are not there.

    Returns it, and how many shards the first device takes.
    """
    devices = devices_of(target, chips)
    mesh = Mesh(np.array(devices), ("experiment",))
    platform = "gpu" if target.platform == "cuda" else target.platform
    program = program_of(config, kernel=kernel, platform=platform)
    lengths, _ = zip(*config.experiments, strict=True)
    packing = pack_for(target.platform, np.array(lengths), len(devices))
    own = packing.length[: len(packing.length) // len(devices)]

    def on_mesh(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, AXIS))

    def of_each(value):
        return jax.ShapeDtypeStruct(packing.experiment.shape, np.asarray(value).dtype)

    hyper = jax.tree.map(of_each, hyperparameters_of(config.experiment))
    inputs = of_each(np.uint32(0)), of_each(np.int32(0)), hyper, None
    arrays = jax.eval_shape(prepare_packed(mesh, program, max(config.lengths)), *inputs)
    advance = advance_packed(mesh, program, packing.widths, packing.mixed)
    traced = advance.trace(*jax.tree.map(on_mesh, (*arrays, packing.length)), *np.int32([0, 1]))
    return traced.lower(lowering_platforms=(target.platform,)), int(np.sum(own > 0))


def estimate(
    target: Target, config: SweepConfig, chips: tuple[int, int] = (1, 1), kernel: bool = False
) -> Estimate:
    """Compile a sweep and read off the program what it costs a device."""
    lowered, shards = lower_sweep(target, config, chips, kernel)
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_backend_optimization_level": 3}
        compiled = lowered.compile(options if kernel else None)
        registers, spilled = assembled(Path(folder)) if kernel else (0, 0)
    text, memory, count = compiled.as_text(), compiled.memory_analysis(), 0.0
    steps = hlo.parse(text).training_steps(shards, config.experiment.eval_interval)
    for operation, times in steps:
        launched = operation.opcode not in hlo.FREE
        count += times * (launched if target.platform == "cuda" else operation.cycles)
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return Estimate(count, registers, spilled, text, size)


def assembled(folder: Path) -> tuple[int, int]:
    """The registers that the kernel takes, and bytes that it spills, of the program in a folder."""
    import nvidia

    sources = {path: path.read_text() for path in folder.glob("*.ptx")}
    (path,) = [path for path, source in sources.items() if "entry block_kernel(" in source]
    if re.search(r"\b(mma|wgmma)\b|tf32|bf16", sources[path]):
        raise ValueError("the kernel has products that are not in float32")
    ptxas = next(str(p) for root in nvidia.__path__ for p in Path(root).glob("*/bin/ptxas"))
    command = [ptxas, "-arch=sm_90a", "-v", str(path), "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    patterns = r"Used (\d+) registers", r"(\d+) bytes spill stores"
    registers, spilled = (sum(map(int, re.findall(p, said))) for p in patterns)
    return registers, spilled


def run(name: str) -> None:
    """Print the estimates for a target, of a GPU with the kernels and without."""
    target, unit = TARGETS[name], "launches" if name.startswith("gpu") else "cycles"
    rows = [["seeds", f"{unit} a step", "MB", "registers", "bytes spilled", "s, estimate"]]
    for kernel in (False, True) if unit == "launches" else (False,):
        for seeds in (8, 64, 1000):
            found = estimate(target, SweepConfig(seeds=tuple(range(seeds))), kernel=kernel)
            row = [f"{seeds:,}{', kernel' * kernel}", f"{found.count:,.7g}"]
            row += [f"{found.bytes / 1e6:,.0f}", f"{found.registers}", f"{found.spilled}"]
            row.append("" if unit == "launches" else f"{found.count * STEPS / target.clock:,.1f}")
            rows.append(row)
            print(f"compiled for {name}: {seeds} seeds", flush=True)
    print(
        f"\n{in_columns(rows)}\n(all lengths; the experiment at the nominal clock; nothing has run)"
    )
