"""Functions of one experiment over many: any `vmap` beside a sweep's; test sets and scores."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srn_jax.config import SweepConfig
from srn_jax.tasks.task import PADDING, Dataset, Examples, mask_of
from srn_jax.training.data import data_of
from srn_jax.training.experiment import Scores, evaluate
from srn_jax.training.program import Program, program_of

AXIS = PartitionSpec("experiment")
Files = Mapping[int, Any] | None  # the data of each length, where they are not drawn
Told = Callable[[int], None] | None
AT_ONCE = 256  # experiments between two reports of `map_experiments`


def map_experiments(
    function: Callable[..., Any], *arguments: Any, given: tuple[Any, ...] = (), done: Told = None
) -> Any:
    """`function(*given, ...)` of one experiment over pytrees `[experiment, ...]`, on local devices.

    On a CPU one after another on each core, elsewhere in batches side by side. Returns NumPy
    arrays `[experiment, ...]`. A function `given` the same, which can be hashed, is compiled once.
    `done` is told how many are, after about every `AT_ONCE` of them.
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
    """The program of a function of shards, which computes for less time than it compiles.

    On a CPU, XLA's older way of writing kernels, which newer versions do not have, compiles in 0.7
    of the time; its kernels take a sixth longer.
    """
    older = jax.__version_info__[:2] <= (0, 10) and mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=AXIS, out_specs=AXIS, check_vma=False),
        compiler_options={"xla_cpu_use_fusion_emitters": False} if older else {},
    )


def files_by_experiment(files: Mapping[int, Any], lengths: Any, width: int) -> Dataset:
    """The data of each experiment, padded: NumPy arrays `[experiment, example, ...]`."""

    def of(name: str) -> Examples:
        padded = {n: pad_examples(getattr(sets, name), width) for n, sets in files.items()}
        return stacked([padded[int(length)] for length in lengths])

    return Dataset(of("train"), of("dev"), of("test"))


def stacked(trees: Sequence[Any]) -> Any:
    """Pytrees as one of arrays `[tree, ...]`."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def pad_examples(sequences: Any, width: int) -> Examples:
    """Sequences read from a file, `digits`, `labels` and `lengths` or not, padded to `width`."""
    missing = width - sequences.digits.shape[1]
    digits = np.pad(sequences.digits, ((0, 0), (missing, 0)), constant_values=PADDING)
    return Examples(digits, sequences.labels, getattr(sequences, "lengths", None))


def draw_tests(
    config: SweepConfig, experiments: Sequence[tuple[int, int]], files: Files = None
) -> tuple[Examples, np.ndarray | None]:
    """The test sets of experiments (length, seed), and how much of them they are trained on.

    They are examples `[experiment, example, ...]`, padded to the longest, and numbers of sequences
    `[experiment]`, None where every step draws its own. A sweep has them in its `data`.
    """
    lengths, seeds = (np.array(column) for column in zip(*experiments, strict=True))
    width = int(lengths.max())
    sets = files and files_by_experiment(files, lengths, width)
    given, numbers = (program_of(config, files), width), (seeds.astype("uint32"), lengths)
    return map_experiments(draw_test, *numbers, sets, given=given)


def draw_test(program: Program, width: int, seed, length, sets: Dataset | None) -> Any:
    """The test set of one experiment, and its overlap with its training set."""
    data = data_of(program, width, seed, length, None, sets)
    return data.test, data.overlap


def evaluate_experiments(
    program: Program, parameters: Any, examples: Examples, lengths: Any, done: Told = None
) -> Scores:
    """Scores, each a NumPy array `[experiment]`, of parameters and examples `[experiment, ...]`."""
    given, lengths = (program, examples.inputs.shape[2]), np.asarray(lengths, np.int32)
    found = map_experiments(evaluate_one, parameters, examples, lengths, given=given, done=done)
    weights: Any = [None] * len(lengths) if examples.weights is None else examples.weights
    counts = [
        np.sum(program.task.counts(*one)) for one in zip(examples.targets, weights, strict=True)
    ]
    return Scores(
        found.loss.astype(float),
        as_fraction(found.accuracy, np.array(counts)),
        as_fraction(found.sequences, examples.targets.shape[1]),
    )


def evaluate_one(program: Program, width: int, parameters: Any, examples: Examples, length: Any):
    """Scores of one experiment on examples padded to a width."""
    return evaluate(program, parameters, examples, mask_of(length, width)[None])


def as_fraction(shares: np.ndarray, of: Any) -> np.ndarray:
    """A float32 share of that many as the float64 that prints as 0.47."""
    return np.round(np.asarray(shares, float) * of) / of
