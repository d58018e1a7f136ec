"""Many experiments at once: with `mapping`, the only place with `vmap` and sharding over them.

Experiments are packed into shards, `[shard, batch of experiments]`, and shards are dealt out to the
devices. A device takes its shards one after another (`lax.map`); the experiments of a shard run
side by side (`vmap`) and train at one padded length, whose steps `lax.switch` picks. So a shard
decides how much runs at once, which is everything on a GPU, and on a CPU, where a second experiment
would only push the first one out of the cache, a single experiment.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srn_jax import kernels
from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import AXIS, map_experiments, run_once
from srn_jax.ensemble.packing import pack_for
from srn_jax.ensemble.testing import (
    draw_tests,
    evaluate_experiments,
    files_by_experiment,
    pad_examples,
)
from srn_jax.tasks.task import check_length
from srn_jax.training import experiment
from srn_jax.training.data import ExperimentData
from srn_jax.training.histories import as_blocks, as_rows
from srn_jax.training.network import hyperparameters_of
from srn_jax.training.program import Program, program_of

__all__ = [
    "Sweep",
    "draw_tests",
    "evaluate_experiments",
    "files_by_experiment",
    "map_experiments",
    "pad_examples",
]

EVERYWHERE = PartitionSpec()


class Sweep:
    """All experiments of one or several sweeps on all devices; the state lives on the devices.

    Making one plans only; `compile` builds the programs, `prepare` draws parameters and data, and
    `advance` trains. `state`, `histories` and `data` are pytrees of arrays `[shard, batch of
    experiments, ...]`, sharded over the shards. Several sweeps, which differ in nothing but
    settings that change no shape, train as one; the experiments of each come after those of the one
    before.
    """

    state: experiment.TrainState
    histories: dict[str, jax.Array]
    data: ExperimentData

    def __init__(
        self,
        configs: SweepConfig | Sequence[SweepConfig],
        files: Mapping[int, Any] | None = None,
        side_by_side: int | None = None,
        kernel: bool | None = None,
    ):
        """Plan how the experiments are packed, and what is compiled.

        Args:
            configs: the sweeps.
            files: the data of each length where they are not drawn, as `textbook_files.Splits`;
                the same for every seed.
            side_by_side: experiments at once on a device; None chooses by the platform.
            kernel: whether to train by the kernels for GPUs; None does where they suit.
        """
        self.configs = [configs] if isinstance(configs, SweepConfig) else list(configs)
        self.files = files
        first = self.configs[0]
        devices = np.array(jax.devices())
        self.mesh = Mesh(devices, ("experiment",))
        self.experiments = [one for config in self.configs for one in config.experiments]
        lengths = np.array([length for length, _ in self.experiments])
        self.packing = pack_for(devices[0].platform, lengths, len(devices), side_by_side)
        program = program_of(self.configs, files, kernel, devices[0].platform)
        if kernel is None:
            kernel = kernels.suits(devices[0], program)
        kernel = bool(kernel) and kernels.agrees(program, experiment, hyperparameters_of)
        self.program = replace(program, kernel=kernel)
        for length in first.lengths:
            check_length(self.program.task, length)
        self.width = max(first.lengths)
        self.shard_lengths = self.shard(self.packing.length)
        self.eval_steps, self.steps = self.program.eval_steps, self.program.steps

    @property
    def sharding(self) -> NamedSharding:
        """How every array is laid out: shards over the devices."""
        return NamedSharding(self.mesh, AXIS)

    def shard(self, arrays: Any) -> Any:
        """NumPy arrays `[shard, ...]`, the same on every process, as sharded arrays."""

        def put(array):
            return jax.make_array_from_callback(array.shape, self.sharding, lambda i: array[i])

        return jax.tree.map(put, arrays)

    @cached_property
    def inputs(self) -> tuple[Any, ...]:
        """What tells experiments apart, `[shard, batch, ...]`: seed, length, settings and files."""
        lengths, seeds = (np.array(column) for column in zip(*self.experiments, strict=True))
        hyper = [hyperparameters_of(c.experiment) for c in self.configs for _ in c.experiments]
        files = None
        if self.files is not None:
            files = files_by_experiment(self.files, lengths, self.width)._replace(test=None)
        arrays = seeds.astype(np.uint32), lengths.astype(np.int32), _stacked(hyper), files
        return self.scatter(arrays)

    @cached_property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled programs that prepare the experiments and that train them."""
        prepare = prepare_packed(self.mesh, self.program, self.width)
        advance = advance_packed(self.mesh, self.program, self.packing.widths, self.packing.mixed)

        def on_mesh(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=self.sharding)

        arrays = jax.tree.map(on_mesh, jax.eval_shape(prepare, *self.inputs))
        blocks = np.int32(0), np.int32(0)

        def compile_advance() -> jax.stages.Compiled:
            return advance.lower(*arrays, self.shard_lengths, *blocks).compile()

        with ThreadPoolExecutor(max_workers=1) as background:  # the two compile side by side
            compiled = background.submit(compile_advance)
            return [prepare.lower(*self.inputs).compile(), compiled.result()]

    def compile(self) -> None:
        """Compile what is not compiled yet."""
        _ = self.programs

    def prepare(self) -> None:
        """Draw the parameters and the data of each experiment."""
        self.state, self.histories, self.data = self.programs[0](*self.inputs)

    def advance(self, first_block: int, last_block: int) -> None:
        """Train every experiment through the blocks first_block <= block < last_block."""
        blocks = np.int32(first_block), np.int32(last_block)
        self.state, self.histories = self.programs[1](
            self.state, self.histories, self.data, self.shard_lengths, *blocks
        )

    def gather(self, packed: Any) -> Any:
        """Bring a pytree `[shard, batch, ...]` to every host as NumPy `[experiment, ...]`."""
        if jax.process_count() > 1:
            packed = multihost_utils.process_allgather(packed, tiled=True)

        def unpack(array):
            array = np.asarray(array)
            return array.reshape(-1, *array.shape[2:])[self.packing.place]

        return jax.tree.map(unpack, packed)

    def scatter(self, arrays: Any) -> Any:
        """The inverse of `gather`: NumPy arrays `[experiment, ...]` onto the devices."""
        return self.shard(jax.tree.map(lambda array: array[self.packing.experiment], arrays))

    def gather_histories(self) -> dict[str, np.ndarray]:
        """The histories by name as NumPy arrays.

        "train_loss" `[experiment, kept]` of `Program.loss_steps`, "epoch_loss" `[experiment,
        epoch]`, a mean of the steps taken so far, "dev_loss" and "dev_accuracy" `[experiment,
        evaluation]`, and "probe.NAME" `[experiment, step]`. NaN is not reached.
        """
        return as_rows(self.program, self.gather(self.histories))

    def scatter_histories(self, histories: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The inverse of `gather_histories`."""
        return self.scatter(as_blocks(self.program, dict(histories)))


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def prepare_packed(mesh: Mesh, program: Program, width: int):
    """The program that prepares all experiments: `experiment.prepare` over the shards."""

    def on_device(*inputs):
        one = partial(experiment.prepare, program, width)
        return jax.lax.map(lambda shard: over_batch(one)(*shard), inputs)

    return run_once(on_device, mesh)


def advance_packed(mesh: Mesh, program: Program, widths: tuple[tuple[int, bool], ...], mixed: bool):
    """The program of a whole sweep: `experiment.advance` over shards and devices."""

    def on_device(states, histories, data, lengths, first, last):
        def shard(arguments):
            state, histories, data, length = arguments
            end = jnp.where(length > 0, last, first)  # a shard without work takes none
            choice = jnp.sum(length > jnp.asarray([width for width, _ in widths]))
            advance = partial(experiment.advance, program, widths, choice)

            def one(data, state, histories):
                if not mixed:  # that of all of them, for `vmap` too, so their loops begin together
                    data = data._replace(length=length)
                return advance(data, state, histories, first, end)

            return over_batch(one)(data, state, histories)

        return jax.lax.map(shard, (states, histories, data, lengths))

    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(AXIS, AXIS, AXIS, AXIS, EVERYWHERE, EVERYWHERE),
            out_specs=AXIS,
            check_vma=False,
        ),
        donate_argnums=(0, 1),
    )


def over_batch(function):
    """`vmap` over the experiments of a shard; a single one is run as it is."""

    def run(*arguments):
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return run
