"""Many experiments at once: with `mapping`, the only place with `vmap` and sharding over them.

A device takes its shards one after another (`lax.map`); the experiments of a shard run side by side
(`vmap`) and train at one padded length, whose steps `lax.switch` picks.
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
from srn_jax.ensemble.mapping import AXIS, Files, files_by_experiment, run_once, stacked
from srn_jax.ensemble.packing import pack_for
from srn_jax.tasks.task import check_length
from srn_jax.training import experiment
from srn_jax.training.data import ExperimentData
from srn_jax.training.histories import Histories, size_of
from srn_jax.training.program import Program, hyperparameters_of, program_of


class Sweep:
    """All experiments of one or several sweeps on all devices; the state lives on the devices.

    `state`, `histories` and `data` are pytrees of arrays `[shard, batch of experiments, ...]`.
    Several sweeps, which differ in nothing but settings that change no shape, train as one; the
    experiments of each come after those of the one before.
    """

    state: experiment.TrainState
    histories: Histories
    data: ExperimentData
    programs: Sequence[jax.stages.Compiled] = ()

    def __init__(
        self,
        configs: SweepConfig | Sequence[SweepConfig],
        files: Files = None,
        side_by_side: int | None = None,  # experiments on a device; None: as suits the platform
        kernel: bool | None = None,  # train by the kernels for GPUs; None: where they suit
    ):
        """Plan how the experiments are packed, and what is compiled."""
        self.configs = [configs] if isinstance(configs, SweepConfig) else list(configs)
        self.files, devices = files, np.array(jax.devices())
        self.mesh = Mesh(devices, ("experiment",))
        self.sharding = NamedSharding(self.mesh, AXIS)
        self.experiments = [one for config in self.configs for one in config.experiments]
        lengths = np.array([length for length, _ in self.experiments])
        self.width, platform = int(lengths.max()), devices[0].platform
        self.packing = pack_for(platform, lengths, len(devices), side_by_side)
        program = program_of(self.configs, files, kernel, platform)
        if kernel is None:
            kernel = kernels.suits(devices[0], program)
        kernel = bool(kernel) and kernels.agrees(program, experiment, hyperparameters_of)
        self.program = replace(program, kernel=kernel)
        for length in np.unique(lengths):
            check_length(program.task, int(length))
        self.shard_lengths = self.shard(self.packing.length)
        self.eval_steps, self.steps = program.eval_steps, program.steps

    def shard(self, array: np.ndarray) -> jax.Array:
        """A NumPy array `[shard, ...]`, the same on every process, as a sharded one."""
        return jax.make_array_from_callback(array.shape, self.sharding, lambda i: array[i])

    @cached_property
    def inputs(self) -> tuple[Any, ...]:
        """What tells experiments apart, `[shard, batch, ...]`: seed, length, settings and files."""
        lengths, seeds = (np.array(column) for column in zip(*self.experiments, strict=True))
        hyper = [hyperparameters_of(c.experiment) for c in self.configs for _ in c.experiments]
        files = self.files and files_by_experiment(self.files, lengths, self.width)
        numbers = seeds.astype("uint32"), lengths.astype("int32")
        return self.scatter((*numbers, stacked(hyper), files))

    def compile(self) -> None:
        """Compile the programs that prepare the experiments and that train them, side by side."""
        prepare = prepare_packed(self.mesh, self.program, self.width)
        advance = advance_packed(self.mesh, self.program, self.packing.widths, self.packing.mixed)

        def compile_advance() -> jax.stages.Compiled:
            arrays = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.sharding),
                jax.eval_shape(prepare, *self.inputs),
            )
            return advance.lower(*arrays, self.shard_lengths, np.int32(0), np.int32(0)).compile()

        with ThreadPoolExecutor(max_workers=1) as background:
            compiled = background.submit(compile_advance)
            self.programs = [prepare.lower(*self.inputs).compile(), compiled.result()]

    def prepare(self) -> None:
        """Draw the parameters and the data of each experiment, once it is compiled."""
        if not self.programs:
            self.compile()
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
        arrays, place = jax.tree.map(np.asarray, packed), self.packing.place
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[place], arrays)

    def scatter(self, arrays: Any) -> Any:
        """The inverse of `gather`: NumPy arrays `[experiment, ...]` onto the devices."""
        return jax.tree.map(lambda array: self.shard(array[self.packing.experiment]), arrays)

    def gather_histories(self) -> dict[str, np.ndarray]:
        """Histories by name, `[experiment, ...]`, NaN for what is not reached.

        "train_loss" has `Program.loss_steps`, "epoch_loss" means of the steps taken so far,
        "dev_loss" and "dev_accuracy" all evaluations, and "probe.NAME" all steps.
        """
        rows = self.gather(self.histories)
        return {name: rows[name][:, : size_of(self.program, name)[0]] for name in rows}

    def scatter_histories(self, histories: Mapping[str, np.ndarray]) -> Histories:
        """The inverse of `gather_histories`."""

        def padded(name: str) -> np.ndarray:
            room = [(0, 0), (0, size_of(self.program, name)[1])]
            return np.pad(histories[name], room, constant_values=np.nan)

        return self.scatter({name: padded(name) for name in histories})


def prepare_packed(mesh: Mesh, program: Program, width: int):
    """The program that prepares all experiments: `experiment.prepare` over the shards."""
    one = over_batch(partial(experiment.prepare, program, width))
    return run_once(lambda *inputs: jax.lax.map(lambda shard: one(*shard), inputs), mesh)


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

    specs = AXIS, AXIS, AXIS, AXIS, PartitionSpec(), PartitionSpec()
    sharded = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=AXIS, check_vma=False)
    return jax.jit(sharded, donate_argnums=(0, 1))


def over_batch(function):
    """`vmap` over the experiments of a shard; a single one is run as it is."""

    def run(*arguments):
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return run
