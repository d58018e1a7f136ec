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
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig, check
from srn_jax.runs import devices

STEPS = 19_000


@dataclass(frozen=True)
class Job:
    """What is measured, and how long; raises `UserError` for values out of range."""

    contender: str
    platform: str = "cpu"
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS
    cell: str = "srn"
    seeds: int = 1
    steps: int = 200  # measured, after a warm-up
    repeats: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))  # a list in JSON
        check("contender", self.contender, str, choices=tuple(CONTENDERS))
        check("platform", self.platform, str, choices=devices.PLATFORMS)
        for name in ("seeds", "steps", "repeats"):
            check(name, getattr(self, name), int, low=1, high=1_000_000)
        _ = self.config  # which checks the rest

    @property
    def config(self) -> SweepConfig:
        """The same as the settings of a sweep."""
        return SweepConfig(self.lengths, tuple(range(self.seeds)), ExperimentConfig(cell=self.cell))


def measure(job: Job) -> dict[str, Any]:
    """Measure in this process.

    Returns:
        The job; `step_seconds`, of one training step of every length, for each seed;
        `experiment_seconds`, of the whole experiment without compilation, for each seed; seconds
        of compilation; and the most bytes in use.
    """
    compile_seconds, step_seconds = CONTENDERS[job.contender](job)
    return asdict(job) | {
        "step_seconds": step_seconds,
        "experiment_seconds": step_seconds * STEPS,
        "compile_seconds": compile_seconds,
        "peak_bytes": peak_bytes(),
    }


def measure_srn_jax(job: Job) -> tuple[float, float]:
    """This project: a whole sweep, evaluations on the dev set included."""
    devices.configure(job.platform)
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # to time the compilation itself
    from srn_jax.ensemble.sweep import Sweep

    began = time.perf_counter()
    sweep = Sweep([job.config])
    sweep.compile()
    sweep.prepare()
    jax.block_until_ready(sweep.state)
    compile_seconds = time.perf_counter() - began
    interval = job.config.experiment.eval_interval
    blocks = max(1, job.steps // interval)

    def run(repeat: int) -> None:
        sweep.advance(1 + repeat * blocks, 1 + (repeat + 1) * blocks)
        jax.block_until_ready(sweep.state)

    sweep.advance(0, 1)
    jax.block_until_ready(sweep.state)
    seconds = median_seconds(run, min(job.repeats, (len(sweep.eval_steps) - 1) // blocks))
    return compile_seconds, seconds / (blocks * interval) / job.seeds


def measure_jax(job: Job) -> tuple[float, float]:
    """What a JAX user writes first: vmap over lengths padded to the longest, scan over steps."""
    import jax

    if job.platform != "auto":
        jax.config.update("jax_platforms", devices.BACKENDS.get(job.platform, job.platform))
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32, as everywhere here
    from benchmark.baselines import jax_experiment

    train, state, data = jax_experiment(job.config, job.contender, job.steps)
    began = time.perf_counter()
    program = jax.jit(train).lower(state, data).compile()
    compile_seconds = time.perf_counter() - began

    def run(_: int) -> None:
        jax.block_until_ready(program(state, data))

    run(0)
    return compile_seconds, median_seconds(run, job.repeats) / job.steps / job.seeds


def measure_pytorch(job: Job) -> tuple[float, float]:
    """The textbook's program, eager, length after length, each step waited for."""
    from benchmark.pytorch_steps import pytorch_step

    def run(_: int, step: Callable[[], object], steps: int) -> None:
        for _ in range(steps):
            step()

    total = 0.0
    for length in job.lengths:
        step = pytorch_step(job.cell, job.contender, length, job.platform)
        run(0, step, 20)
        seconds = median_seconds(partial(run, step=step, steps=job.steps), job.repeats)
        total += seconds / job.steps
    return 0.0, total * len(TEXTBOOK_LENGTHS) / len(job.lengths)


CONTENDERS: dict[str, Callable[[Job], tuple[float, float]]] = {
    "pytorch-loop": measure_pytorch,
    "pytorch-rnn": measure_pytorch,
    "flax-rnn": measure_jax,
    "plain-scan": measure_jax,
    "srn_jax": measure_srn_jax,
}


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
