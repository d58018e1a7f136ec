"""What an accelerator would make of a training step, by its compiler, without the accelerator.

libtpu compiles for a TPU that is not there, and writes into the program how many cycles it expects
of each operation. XLA compiles for an H100 that is not there; from that program one can count the
launches, and its assembler says how many registers a kernel takes and how many bytes it spills.
Nothing here has run on either: the figures compare programs, and are estimates.
"""

import importlib.util
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import hlo
from benchmark.measure import STEPS
from benchmark.report import in_columns
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError

SEEDS = (8, 64, 1000)


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
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # so that no driver is asked for a device
    if target.platform == "cuda":
        if not (find("jax_cuda13_plugin") and find("nvidia")):
            raise UserError(
                "the CUDA compiler is missing, run pip install --no-deps "
                f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__} "
                "nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-runtime"
            )
        return topologies.get_topology_desc(
            platform="cuda",
            target_config=Path(__file__).with_name("h100.txtpb").read_text(),
            topology=f"1x1x{chips[0] * chips[1]}",
        ).devices
    if not find("libtpu"):
        raise UserError("the TPU compiler is missing, run pip install -e '.[tpu]'")
    # Otherwise libtpu asks the network what machine this is, and complains of the answer.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    return topologies.get_topology_desc(
        platform="tpu",
        topology_name="{}:{}x{}".format(target.topology, *chips),
        # All chips on one host: older libtpu takes 2x2 a host for granted, even of a single chip.
        chips_per_host_bounds=[*chips, 1],
    ).devices


def find(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def lower_sweep(
    target: Target, config: SweepConfig, chips: tuple[int, int] = (1, 1), kernel: bool = False
) -> tuple[Any, int]:
    """The training program of a sweep, lowered for devices that are not there.

    Returns it, and how many shards the first device takes.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding

    from srn_jax.ensemble.mapping import AXIS
    from srn_jax.ensemble.packing import pack_for
    from srn_jax.ensemble.sweep import advance_packed, prepare_packed
    from srn_jax.training.program import hyperparameters_of, program_of

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

    found = (str(p) for root in nvidia.__path__ for p in Path(root).glob("*/bin/ptxas"))
    ptxas, numbers = next(found), (0, 0)
    for path in folder.glob("*.ptx"):
        source = path.read_text()
        if "entry block_kernel(" in source:
            if re.search(r"\b(mma|wgmma)\b|tf32|bf16", source):
                raise ValueError("the kernel has products that are not in float32")
            command = [ptxas, "-arch=sm_90a", "-v", str(path), "-o", os.devnull]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            patterns = r"Used (\d+) registers", r"(\d+) bytes spill stores"
            registers, spilled = (sum(map(int, re.findall(p, said))) for p in patterns)
            numbers = registers, spilled
    return numbers


def run(name: str) -> None:
    """Print the estimates for a target, of a GPU with the kernels and without."""
    target, unit = TARGETS[name], "launches" if name.startswith("gpu") else "cycles"
    header = ["seeds", f"{unit} a step", "for one experiment", "MB", "registers", "bytes spilled"]
    rows = [[*header, "s, estimate"]]
    for kernel in (False, True) if unit == "launches" else (False,):
        for seeds in SEEDS:
            config = SweepConfig(seeds=tuple(range(seeds)))
            found = estimate(target, config, kernel=kernel)
            each = found.count / len(config.experiments)
            row = [f"{seeds:,}{', kernel' * kernel}", f"{found.count:,.7g}", f"{each:.3g}"]
            row += [f"{found.bytes / 1e6:,.0f}", f"{found.registers}", f"{found.spilled}"]
            row.append("" if unit == "launches" else f"{found.count * STEPS / target.clock:,.1f}")
            rows.append(row)
            print(f"compiled for {name}: {seeds} seeds", flush=True)
    print(f"\n{in_columns(rows)}\n(all seven lengths; the whole experiment at the nominal clock; ")
    print("nothing has run)")
