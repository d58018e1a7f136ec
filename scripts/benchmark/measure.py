"""How fast is it? Ways to run the experiment, each measured in a process of its own.

A contender is timed in its steady state, over steps or blocks after a warm-up, and extrapolated to
the textbook's 19,000 steps at all lengths. Baselines run without this project's XLA flags, as
their users would run them.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from srn_jax.checks import one_of, whole
from srn_jax.cli.devices import BACKENDS, PLATFORMS
from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError

STEPS = 19_000
H200_FLOPS, H200_BANDWIDTH = 67e12, 4.8e12  # datasheet: float32 operations and bytes a second


@dataclass(frozen=True)
class Job:
    """What is measured: the lengths, the sizes and how long to measure."""

    platform: str = "cpu"
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS
    cell: str = "srn"
    hidden_size: int = 32
    seeds: int = 1
    steps: int = 200  # measured, after a warm-up
    repeats: int = 3

    def check(self) -> None:
        """Raise `UserError` for values out of range."""
        one_of(*PLATFORMS)("platform", self.platform)
        for name in ("seeds", "steps", "repeats"):
            whole(1, 1_000_000)(name, getattr(self, name))
        _ = self.sweep  # which checks the rest

    @property
    def sweep(self) -> SweepConfig:
        """The same as the settings of a sweep."""
        size = self.hidden_size
        experiment = ExperimentConfig(cell=self.cell, hidden_size=size, embedding_size=size)
        return SweepConfig(self.lengths, tuple(range(self.seeds)), experiment)


@dataclass
class Measurement:
    """Seconds and bytes of one contender."""

    contender: str
    cell: str
    seeds: int
    step_seconds: float  # one training step of every length, divided by the number of seeds
    compile_seconds: float = 0.0
    peak_bytes: int = 0
    details: dict[str, float] = field(default_factory=dict)  # seconds a step of single lengths

    @property
    def experiment_seconds(self) -> float:
        """The whole experiment, all lengths, for each seed; without compilation."""
        return self.step_seconds * STEPS


def operations(length: int, size: int = 32, batch: int = 8) -> int:
    """Floating-point operations of one training step of one experiment.

    A product of [a, b] and [b, c] is 2abc. The recurrence has three of 2 * batch * size^2 at each
    time step (forward, dh and dU); the input side is folded into a table for ten digits, W and E
    take three of 2 * 10 * size^2; the output layer three of 2 * batch * size * 19; Adam about 12
    for each parameter. The tanh and the look-up of digits are left out.
    """
    recurrence = 3 * 2 * batch * size**2 * length
    input_side = 3 * 2 * 10 * size**2
    output = 3 * 2 * batch * size * 19
    return recurrence + input_side + output + 12 * parameters(size)


def parameters(size: int = 32) -> int:
    """Parameters of the network: E, W, U, b and the output layer."""
    return 10 * size + 2 * size**2 + size + 19 * size + 19


def bytes_moved(length: int, size: int = 32, batch: int = 8) -> int:
    """Bytes that one training step of one experiment must at least move through device memory.

    Parameters and both moments of Adam are read and written, the digits (a byte each) are read;
    the hidden states are taken to stay on the chip.
    """
    return 2 * 3 * 4 * parameters(size) + batch * (length + 4)


def measure_srn_jax(job: Job) -> Measurement:
    """This project: a whole sweep, evaluations on the dev set included."""
    from srn_jax.cli import devices

    devices.configure(job.platform)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # to time the compilation itself
    from srn_jax.ensemble.sweep import Sweep

    began = time.perf_counter()
    sweep = Sweep(job.sweep)
    jax.block_until_ready(sweep.state)
    compile_seconds = time.perf_counter() - began
    interval = job.sweep.experiment.eval_interval
    blocks = max(1, job.steps // interval)

    def run(repeat: int) -> None:
        sweep.advance(1 + repeat * blocks, 1 + (repeat + 1) * blocks)
        jax.block_until_ready(sweep.state)

    sweep.advance(0, 1)
    jax.block_until_ready(sweep.state)
    seconds = median_seconds(run, min(job.repeats, (len(sweep.eval_steps) - 1) // blocks))
    step = seconds / (blocks * interval) / job.seeds
    return Measurement("srn_jax", job.cell, job.seeds, step, compile_seconds, peak_bytes())


def measure_jax(job: Job, contender: str) -> Measurement:
    """What a JAX user writes first: vmap over lengths padded to the longest, scan over steps."""
    import jax

    if job.platform != "auto":
        jax.config.update("jax_platforms", BACKENDS.get(job.platform, job.platform))
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32, as everywhere here
    from benchmark.baselines import jax_experiment

    train, state, data = jax_experiment(job.sweep, contender, job.steps)
    began = time.perf_counter()
    program = jax.jit(train).lower(state, data).compile()
    compile_seconds = time.perf_counter() - began

    def run(_: int) -> None:
        jax.block_until_ready(program(state, data))

    run(0)
    seconds = median_seconds(run, job.repeats)
    step = seconds / job.steps / job.seeds
    return Measurement(contender, job.cell, job.seeds, step, compile_seconds, peak_bytes())


def measure_pytorch(job: Job, contender: str) -> Measurement:
    """The textbook's program, eager, length after length."""
    from benchmark.pytorch_steps import pytorch_step, pytorch_synchronize

    details = {}
    for length in job.lengths:
        step = pytorch_step(job.sweep.experiment, contender, length, job.platform)
        for _ in range(20):
            step()

        def run(_: int, step: Callable[[], object] = step) -> None:
            for _ in range(job.steps):
                step()
            pytorch_synchronize(job.platform)

        details[str(length)] = median_seconds(run, job.repeats) / job.steps
    total = sum(details.values()) * len(TEXTBOOK_LENGTHS) / len(job.lengths)
    return Measurement(contender, job.cell, 1, total, peak_bytes=peak_bytes(), details=details)


CONTENDERS: dict[str, Callable[[Job], Measurement]] = {
    "pytorch-loop": lambda job: measure_pytorch(job, "pytorch-loop"),
    "pytorch-rnn": lambda job: measure_pytorch(job, "pytorch-rnn"),
    "flax-rnn": lambda job: measure_jax(job, "flax-rnn"),
    "plain-scan": lambda job: measure_jax(job, "plain-scan"),
    "srn_jax": measure_srn_jax,
}


def measure(contender: str, job: Job) -> Measurement:
    """Measure one contender in this process; raises `UserError` for an unknown one."""
    if contender not in CONTENDERS:
        raise UserError(f"no contender {contender!r}, expected one of {', '.join(CONTENDERS)}")
    return CONTENDERS[contender](job)


def measure_forward(job: Job) -> dict[str, float]:
    """The textbook's comparison: seconds of one forward pass, hand-written against built in.

    A batch of 8 sequences of 20 positions, hidden size 32. Keys name the four ways; PyTorch's are
    left out where it is not installed.
    """
    from benchmark.baselines import forward_passes

    times = {}
    for name, forward in forward_passes(job.cell, job.hidden_size).items():
        forward()

        def run(_: int, forward: Callable[[], object] = forward) -> None:
            for _ in range(job.steps):
                forward()

        times[name] = median_seconds(run, job.repeats) / job.steps
    return times


def median_seconds(run: Callable[[int], None], repeats: int) -> float:
    """The median time of `run(0)`, `run(1)`, ..."""
    times = []
    for repeat in range(repeats):
        began = time.perf_counter()
        run(repeat)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_bytes() -> int:
    """The most memory this process has used: on the device if JAX knows that, else resident."""
    if "jax" in sys.modules:
        import jax

        stats: dict[str, Any] | None = jax.local_devices()[0].memory_stats()
        if stats and "peak_bytes_in_use" in stats:
            return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
