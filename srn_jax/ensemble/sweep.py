"""Many experiments at once: the only place with `vmap` and sharding over experiments.

Experiments are packed into slots, `[slot, chunk]`, and slots are dealt out to the devices. A device
takes its slots one after another (`lax.map`); the experiments of a slot run side by side (`vmap`)
at one padded length, for which `lax.switch` picks the program. So a slot decides how much runs at
once, which is everything on a GPU, and on a CPU, where a second experiment would only push the
first one out of the cache, a slot is a single experiment that pays for no padding at all.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.packing import pack_for
from srn_jax.interop.textbook_files import read_folder
from srn_jax.tasks.digit_sum import (
    Batches,
    Dataset,
    Examples,
    draw_dataset,
    overlap,
    pad_splits,
    to_batches,
)
from srn_jax.training import experiment as training
from srn_jax.training.experiment import TrainState
from srn_jax.training.model import Parameters, new_classifier, parameters_of

AXIS = PartitionSpec("experiment")


class ExperimentData(NamedTuple):
    """What one experiment trains on and is measured by."""

    train: Batches
    dev: Examples
    test: Examples
    overlap: jax.Array  # scalar: test sequences that also occur in the training set


class Sweep:
    """All experiments of a sweep on all devices; the state lives on the devices.

    `state` and `data` are pytrees of arrays `[slot, chunk, ...]`, sharded over the slots.
    """

    def __init__(self, config: SweepConfig, chunk: int | None = None):
        """Draw the parameters and the data of each experiment, or read the data.

        Args:
            config: the sweep; data that it names are read, the same for every seed.
            chunk: experiments that run side by side on a device; None chooses by the platform.
        """
        devices = np.array(jax.devices())
        self.config = config
        self.mesh = Mesh(devices, ("experiment",))
        lengths, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
        self.packing = pack_for(devices[0].platform, lengths, len(devices), chunk)
        self.program = self.shard(self.packing.program)

        packed = self.packing.experiment
        max_length = max(config.lengths)
        files = None
        if config.data is not None:
            splits = read_folder(Path(config.data), config.lengths)
            padded = [pad_splits(splits[length], max_length) for length in config.lengths]
            by_length = jax.tree.map(lambda *sets: np.stack(sets), *padded)
            which = np.array([config.lengths.index(n) for n in lengths])[packed]
            files = self.shard(jax.tree.map(lambda sets: sets[which], by_length))
        inputs = (self.shard(seeds[packed].astype(np.uint32)), self.shard(lengths[packed]), files)
        prepare = prepare_packed(self.mesh, config.experiment, max_length)
        with ThreadPoolExecutor(max_workers=1) as background:  # the two compile side by side
            compiling = background.submit(self._compile, *jax.eval_shape(prepare, *inputs))
            self.state, self.data = prepare(*inputs)
            self._advance = compiling.result()
        self.steps = self.state.train_loss.shape[-1]
        self.eval_steps = training.evaluation_steps(config.experiment, self.steps)

    @property
    def sharding(self) -> NamedSharding:
        """How every array is laid out: slots over the devices."""
        return NamedSharding(self.mesh, AXIS)

    def shard(self, arrays):
        """NumPy arrays `[slot, ...]`, the same on every process, as sharded arrays."""

        def put(array):
            return jax.make_array_from_callback(array.shape, self.sharding, lambda i: array[i])

        return jax.tree.map(put, arrays)

    def _compile(self, state, data) -> jax.stages.Compiled:
        """The program of `advance`, for arrays of these shapes."""

        def on_mesh(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=self.sharding)

        state, data = jax.tree.map(on_mesh, (state, data))
        program = advance_packed(self.mesh, self.config.experiment, self.packing.widths)
        return program.lower(state, data, self.program, np.int32(0), np.int32(0)).compile()

    def advance(self, first_block: int, last_block: int) -> None:
        """Train every experiment through the blocks first_block <= block < last_block."""
        blocks = np.int32(first_block), np.int32(last_block)
        self.state = self._advance(self.state, self.data, self.program, *blocks)

    def gather(self, packed):
        """Bring a pytree `[slot, chunk, ...]` to every host as NumPy arrays `[experiment, ...]`."""
        if jax.process_count() > 1:
            packed = multihost_utils.process_allgather(packed, tiled=True)

        def unpack(array):
            array = np.asarray(array)
            return array.reshape(-1, *array.shape[2:])[self.packing.place]

        return jax.tree.map(unpack, packed)

    def scatter(self, arrays):
        """The inverse of `gather`: NumPy arrays `[experiment, ...]` onto the devices."""
        return self.shard(jax.tree.map(lambda array: array[self.packing.experiment], arrays))


def prepare_experiment(
    config: ExperimentConfig,
    max_length: int,
    seed: jax.Array,
    length: jax.Array,
    files: Dataset | None = None,
) -> tuple[TrainState, ExperimentData]:
    """Parameters and data of one experiment, which depend on its own seed and length alone."""
    data_key, parameter_key = jax.random.split(experiment_key(seed, length))
    dataset = files
    if dataset is None:
        dataset = draw_dataset(data_key, length, config.multiplicity, max_length)
    parameters = parameters_of(new_classifier(config, parameter_key))
    batches = to_batches(dataset.train, config.batch_size)
    state = training.initial_state(config, parameters, len(dataset.train.labels))
    return state, ExperimentData(batches, dataset.dev, dataset.test, overlap(dataset))


def experiment_key(seed: jax.Array, length: jax.Array) -> jax.Array:
    """The key from which all randomness of one experiment comes."""
    return jax.random.fold_in(jax.random.key(seed), length)


@cache
def prepare_packed(mesh: Mesh, config: ExperimentConfig, max_length: int):
    """The compiled program that prepares all experiments: `prepare_experiment` over the slots."""

    def on_device(seeds, lengths, files):
        one = partial(prepare_experiment, config, max_length)
        return jax.lax.map(lambda slot: over_chunk(one)(*slot), (seeds, lengths, files))

    return jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=AXIS, out_specs=AXIS, check_vma=False)
    )


@cache
def advance_packed(mesh: Mesh, config: ExperimentConfig, widths: tuple[int, ...]):
    """The compiled program of a whole sweep: `training.advance` over slots, chunks and devices."""

    def at_width(width: int, state, data, first_block, last_block):
        def one(state: TrainState, data: ExperimentData) -> TrainState:
            train = data.train._replace(digits=data.train.digits[..., -width:])
            dev = data.dev._replace(digits=data.dev.digits[..., -width:])
            return training.advance(config, state, train, dev, first_block, last_block)

        return over_chunk(one)(state, data)

    def on_device(states, data, programs, first_block, last_block):
        def idle(state, *_):
            return state

        branches: list[Callable[..., TrainState]] = [
            *(partial(at_width, width) for width in widths),
            idle,
        ]

        def slot(arguments):
            state, data, program = arguments
            return jax.lax.switch(program, branches, state, data, first_block, last_block)

        return jax.lax.map(slot, (states, data, programs))

    replicated = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(AXIS, AXIS, AXIS, replicated, replicated),
            out_specs=AXIS,
            check_vma=False,
        ),
        donate_argnums=0,
    )


def over_chunk(function):
    """`vmap` over a chunk; a chunk of one is run as it is, since `vmap` turns `cond` into both."""

    def run(*arguments):
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return run


def evaluate_experiments(
    config: ExperimentConfig, parameters: Parameters, examples: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy, each `[experiment]`, of parameters and examples `[experiment, ...]`."""
    loss, accuracy = _evaluate_experiments(config, parameters, examples)
    return np.asarray(loss, float), as_fraction(accuracy, examples.labels.shape[1])


@partial(jax.jit, static_argnums=0)
def _evaluate_experiments(config, parameters, examples):
    return jax.lax.map(lambda one: training.evaluate(config, *one), (parameters, examples))


def as_fraction(accuracy: jax.Array | np.ndarray, examples: int) -> np.ndarray:
    """A float32 accuracy over that many examples as the float64 that prints as 0.47."""
    return np.round(np.asarray(accuracy, float) * examples) / examples


def draw_test_sets(
    config: ExperimentConfig, max_length: int, experiments: list[tuple[int, int]]
) -> Examples:
    """The test sets of some experiments (length, seed), `[experiment, ...]`, as they were drawn."""

    def draw(length: jax.Array, seed: jax.Array) -> Examples:
        data_key, _ = jax.random.split(experiment_key(seed, length))
        return draw_dataset(data_key, length, config.multiplicity, max_length).test

    lengths, seeds = np.array(experiments, np.uint32).T
    return jax.jit(lambda *one: jax.lax.map(lambda x: draw(*x), one))(lengths, seeds)
