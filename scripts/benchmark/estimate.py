"""What an accelerator would make of a training step, by its compiler, without the accelerator.

libtpu compiles for a TPU that is not there, and writes into the program how many cycles it expects
of each operation. XLA compiles for an H100 that is not there; from that program one can count the
launches, which is what a step costs while the arithmetic is this small. Nothing here has run on
either: the figures compare programs, and are estimates.
"""

import importlib.util
import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark import hlo
from benchmark.measure import STEPS, bytes_moved
from srn_jax.analysis.report import plain_table
from srn_jax.analysis.results import write_json
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError

SEEDS = (8, 64, 1000)
LAUNCH_SECONDS = 4e-6  # of a kernel from a loop: 2 to 8 us


@dataclass(frozen=True)
class Target:
    """A kind of device, by its data sheet."""

    platform: str  # as JAX lowers for it
    topology: str
    clock: float  # Hz
    bandwidth: float  # bytes a second

    @property
    def unit(self) -> str:
        """What its estimates count."""
        return "launches" if self.platform == "cuda" else "cycles"


TARGETS = {
    "tpu-v5e": Target("tpu", "v5e", 1.5e9, 0.82e12),
    "tpu-v6e": Target("tpu", "v6e", 1.75e9, 1.64e12),
    "gpu-h100": Target("cuda", "h100", 1.98e9, 3.35e12),
}


@dataclass(frozen=True)
class Estimate:
    """One training step of all experiments on one device."""

    seeds: int
    experiments: int
    count: float  # cycles, or launches
    bytes_moved: float  # through the memory of the device
    bytes_floor: int  # that a step must at least move
    temporary_bytes: int
    argument_bytes: int
    seconds: float  # the whole experiment
    dearest: tuple[tuple[str, float], ...]  # operations, and how much of the count is theirs


def devices_of(target: Target, chips: tuple[int, int] = (1, 1)) -> Any:
    """Devices that can be compiled for; raises `UserError` where the compiler is missing."""
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # so that no driver is asked for a device
    if target.platform == "cuda":
        missing = [name for name in ("jax_cuda13_plugin", "nvidia") if not find(name)]
        if missing:
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


def compile_sweep(
    target: Target, config: SweepConfig, chips: tuple[int, int] = (1, 1), kernel: bool = False
) -> tuple[Any, int]:
    """The training program of a sweep, compiled for devices that are not there.

    Returns it, and how many shards the first device takes.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding

    from srn_jax.cells.kernels import Kernels
    from srn_jax.cells.loops import form_for
    from srn_jax.ensemble.packing import pack_for
    from srn_jax.ensemble.sweep import AXIS, advance_packed, prepare_packed
    from srn_jax.training.experiment import program_of
    from srn_jax.training.model import hyperparameters_of

    devices = devices_of(target, chips)
    mesh = Mesh(np.array(devices), ("experiment",))
    program = program_of(config, form=Kernels() if kernel else form_for(target.platform))
    lengths, _ = zip(*config.experiments, strict=True)
    packing = pack_for(target.platform, np.array(lengths), len(devices))
    own = packing.length[: len(packing.length) // len(devices)]

    def on_mesh(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=NamedSharding(mesh, AXIS))

    def of_each(value):
        return jax.ShapeDtypeStruct(packing.experiment.shape, np.asarray(value).dtype)

    hyper = jax.tree.map(of_each, hyperparameters_of(config.experiment))
    inputs = of_each(np.uint32(0)), of_each(np.int32(0)), hyper, None
    prepare = prepare_packed(mesh, program, max(config.lengths))
    arrays = (*jax.eval_shape(prepare, *inputs), packing.length)
    advance = advance_packed(mesh, program, packing.widths, packing.mixed)
    traced = advance.trace(*jax.tree.map(on_mesh, arrays), np.int32(0), np.int32(1))
    compiled = traced.lower(lowering_platforms=(target.platform,)).compile()
    return compiled, int(np.sum(own > 0))


def estimate(
    target: Target, config: SweepConfig, chips: tuple[int, int] = (1, 1), kernel: bool = False
) -> Estimate:
    """Compile a sweep and read off the program what it costs a device."""
    compiled, shards = compile_sweep(target, config, chips, kernel)
    program, memory = hlo.parse(compiled.as_text()), compiled.memory_analysis()
    counts: dict[str, float] = defaultdict(float)
    moved, block = 0.0, config.experiment.eval_interval
    for operation, times in program.training_steps(shards, block):
        cost = operation.cycles if target.unit == "cycles" else operation.opcode not in hlo.FREE
        counts[f"{operation.opcode} {operation.source.rpartition(hlo.SCOPE)[2]}"] += times * cost
        if operation.source.endswith("block_kernel/pallas_call"):
            # What it does inside is not in the text: parameters, moments and what a step writes for
            # itself are taken to be written and read once a step, as if no cache kept anything.
            moved += times * block * 2 * hlo.size_of(operation.shape)
        else:
            moved += times * program.bytes_moved(operation)
    count = sum(counts.values())
    if target.unit == "cycles":
        seconds = count * STEPS / target.clock
    else:
        seconds = STEPS * max(count * LAUNCH_SECONDS, moved / target.bandwidth)
    return Estimate(
        seeds=len(config.seeds),
        experiments=len(config.experiments),
        count=count,
        bytes_moved=moved,
        bytes_floor=len(config.seeds) * sum(bytes_moved(length) for length in config.lengths),
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        seconds=seconds,
        dearest=tuple(sorted(counts.items(), key=lambda item: -item[1])[:12]),
    )


def run(name: str, folder: Path, kernel: bool = False) -> None:
    """Print the estimates for a target, and write them as JSON."""
    target = TARGETS[name]
    found = []
    for seeds in SEEDS:
        config = SweepConfig(seeds=tuple(range(seeds)))
        found.append(estimate(target, config, kernel=kernel))
        print(f"compiled for {name}: {seeds} seeds", flush=True)
    print("\n" + table(target, found, kernel))
    of_64 = found[SEEDS.index(64)]
    print(f"\nthe most expensive operations, {target.unit} a step with 64 seeds")
    rows = [[readable(cost), what] for what, cost in of_64.dearest]
    print(plain_table([[target.unit, "operation"], *rows]))
    compiler = "libtpu" if target.platform == "tpu" else "jax-cuda13-plugin"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"estimate-{name}.json"
    content = {
        "target": name,
        "versions": {package: version(package) for package in ("jax", "jaxlib", compiler)},
        "estimates": [asdict(one) for one in found],
    }
    write_json(path, content)
    print(f"\nwritten: {path}\n{target.unit} a step: {of_64.count:.7g}")


def readable(count: float) -> str:
    """A number of cycles or launches, which may be less than one a step."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.2g}"


def table(target: Target, found: list[Estimate], kernel: bool) -> str:
    """A row for each number of seeds."""
    header = ["seeds", "experiments", f"{target.unit} a step", "for one experiment"]
    header += ["MB moved", "MB at least", "MB temporary", "MB of arguments", "s, estimate"]
    rows = [
        [
            f"{one.seeds:,}",
            f"{one.experiments:,}",
            readable(one.count),
            readable(one.count / one.experiments),
            f"{one.bytes_moved / 1e6:,.1f}",
            f"{one.bytes_floor / 1e6:,.1f}",
            f"{one.temporary_bytes / 1e6:,.0f}",
            f"{one.argument_bytes / 1e6:,.0f}",
            f"{one.seconds:,.1f}",
        ]
        for one in found
    ]
    nominal = (
        f"at {target.clock / 1e9:g} GHz"
        if target.unit == "cycles"
        else f"at {LAUNCH_SECONDS * 1e6:g} us a launch and {target.bandwidth / 1e12:g} TB/s"
    )
    note = f"(all seven lengths; the last column is {STEPS:,} steps {nominal}; nothing has run"
    note += "; the arithmetic inside kernels is left out)" if kernel else ")"
    return plain_table([header, *rows]) + "\n" + note
