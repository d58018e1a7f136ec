"""Ways to run the experiment, each measured in a process of its own, after a warm-up.

Baselines run without this project's XLA flags, as their users would run them.
"""

import resource
import runpy
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig
from srn_jax.interop.textbook_files import digit_sum
from srn_jax.runs import devices

STEPS = 19_000
# The textbook's program, to which the tests hold this project step by step.
PYTORCH = Path(__file__).parents[2] / "tests" / "pytorch_program.py"
BUILT_IN = {"srn": "BuiltInRNN", "lstm": "BuiltInLSTM", "gru": "BuiltInGRU"}  # modules of it


class Job(NamedTuple):
    """What is measured, and how long."""

    contender: str
    platform: str = "cpu"
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS
    cell: str = "srn"
    seeds: int = 1
    steps: int = 200  # measured, after a warm-up
    repeats: int = 3

    @property
    def config(self) -> SweepConfig:
        """The same as the settings of a sweep."""
        own = ExperimentConfig(cell=self.cell)
        return SweepConfig(tuple(self.lengths), tuple(range(self.seeds)), own)


def measure(job: Job) -> dict[str, Any]:
    """The job, seconds of a step of all lengths a seed and of compilation, and the most bytes."""
    compile_seconds, step_seconds = CONTENDERS[job.contender](job)
    unit = 1 if sys.platform == "darwin" else 1024
    peak, jax = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, sys.modules.get("jax")
    stats = jax.local_devices()[0].memory_stats() if jax else None
    return job._asdict() | {
        "step_seconds": step_seconds,
        "compile_seconds": compile_seconds,
        "peak_bytes": (stats or {}).get("peak_bytes_in_use", peak),
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
    interval = sweep.program.config.eval_interval
    blocks = max(1, job.steps // interval)

    def run(first: int, last: int) -> None:
        sweep.advance(first, last)
        jax.block_until_ready(sweep.state)

    run(0, 1)
    starts = range(1, len(sweep.eval_steps) - blocks + 1, blocks)[: job.repeats]
    seconds = median_seconds([partial(run, first, first + blocks) for first in starts])
    return compile_seconds, seconds / (blocks * interval) / job.seeds


def measure_jax(job: Job) -> tuple[float, float]:
    """What a JAX user writes first: vmap over lengths padded to the longest, scan over steps."""
    import jax

    jax.config.update("jax_platforms", devices.BACKENDS.get(job.platform, job.platform))
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32, as everywhere here
    from benchmark.baselines import jax_experiment

    train, state, data = jax_experiment(job.config, job.contender, job.steps)
    began = time.perf_counter()
    program = jax.jit(train).lower(state, data).compile()
    compile_seconds = time.perf_counter() - began

    def run() -> None:
        jax.block_until_ready(program(state, data))

    run()
    return compile_seconds, median_seconds([run] * job.repeats) / job.steps / job.seeds


def measure_pytorch(job: Job) -> tuple[float, float]:
    """The textbook's program, eager, length after length, each step waited for."""
    import torch

    program = runpy.run_path(str(PYTORCH))
    device = "cuda" if job.platform == "gpu" else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    name = job.cell.upper() if job.contender == "pytorch-loop" else BUILT_IN[job.cell]

    def run(model: Any, optimizer: Any, digits: Any, labels: Any, steps: int) -> None:
        for start in range(0, 8 * steps, 8):
            batch = slice(start % len(digits), start % len(digits) + 8)
            loss = torch.nn.functional.cross_entropy(model(digits[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    total = 0.0
    for length in job.lengths:
        model = program["Model_RNN4SeqClass"](32, program[name]).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        drawn = digit_sum(length, 3, np.random.RandomState(0))
        data = [torch.tensor(each).long().to(device) for each in (drawn.digits, drawn.labels)]
        one = partial(run, model, optimizer, *data)
        one(20)
        total += median_seconds([partial(one, job.steps)] * job.repeats) / job.steps
    return 0.0, total * len(TEXTBOOK_LENGTHS) / len(job.lengths)


CONTENDERS: dict[str, Callable[[Job], tuple[float, float]]] = {
    **{"pytorch-loop": measure_pytorch, "pytorch-rnn": measure_pytorch},
    **{"flax-rnn": measure_jax, "plain-scan": measure_jax, "srn_jax": measure_srn_jax},
}


def median_seconds(runs: list[Callable[[], None]]) -> float:
    """The median time of some runs."""
    return statistics.median(timeit.timeit(run, number=1) for run in runs)
