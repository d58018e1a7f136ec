"""Many experiments at once: the only place with `vmap` and sharding over experiments.

Experiments are packed into shards, `[shard, batch of experiments]`, and shards are dealt out to the
devices. A device takes its shards one after another (`lax.map`); the experiments of a shard run
side by side (`vmap`) and train at one padded length, whose steps `lax.switch` picks. So a shard
decides how much runs at once, which is everything on a GPU, and on a CPU, where a second experiment
would only push the first one out of the cache, a single experiment.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srn_jax.cells import cell_class
from srn_jax.cells.kernels import Kernels, suit
from srn_jax.cells.loops import form_for
from srn_jax.config import SweepConfig
from srn_jax.ensemble.compiling import compiler_options, kept_programs
from srn_jax.ensemble.packing import pack_for
from srn_jax.tasks.task import PADDING, Dataset, Examples, check_length, mask_of
from srn_jax.training import experiment
from srn_jax.training.experiment import Histories, Program, program_of
from srn_jax.training.model import hyperparameters_of

AXIS = PartitionSpec("experiment")
EVERYWHERE = PartitionSpec()
AT_ONCE = 256  # experiments between two reports of `map_experiments`


class Sweep:
    """All experiments of one or several sweeps on all devices; the state lives on the devices.

    `state`, `histories` and `data` are pytrees of arrays `[shard, batch of experiments, ...]`,
    sharded over the shards. Several sweeps, which differ in nothing but settings that change no
    shape, train as one; the experiments of each come after those of the one before.
    """

    def __init__(
        self,
        configs: SweepConfig | Sequence[SweepConfig],
        files: Mapping[int, Any] | None = None,
        side_by_side: int | None = None,
        kernel: bool | None = None,
        programs: Path | None = None,
    ):
        """Draw the parameters and the data of each experiment.

        Args:
            configs: the sweeps.
            files: the data of each length where they are not drawn, as `textbook_files.Splits`;
                the same for every seed.
            side_by_side: experiments at once on a device; None chooses by the platform.
            kernel: whether to train by the kernels for GPUs; None does where they suit.
            programs: a folder for compiled programs, see `compiling.kept_programs`.
        """
        self.configs = [configs] if isinstance(configs, SweepConfig) else list(configs)
        first = self.configs[0]
        devices = np.array(jax.devices())
        self.mesh = Mesh(devices, ("experiment",))
        self.experiments = [one for config in self.configs for one in config.experiments]
        lengths, seeds = (np.array(column) for column in zip(*self.experiments, strict=True))
        self.packing = pack_for(devices[0].platform, lengths, len(devices), side_by_side)
        if kernel is None:
            settings = first.experiment
            kernel = suit(devices[0], cell_class(settings.cell), settings.hidden_size)
        form = Kernels() if kernel else form_for(devices[0].platform)
        self.program = program_of(*self.configs, files=files, form=form)
        for length in first.lengths:
            check_length(self.program.task, length)
        self.width = max(first.lengths)
        self.eval_steps = self.program.eval_steps
        self.steps = self.program.steps
        self.shard_lengths = self.shard(self.packing.length)

        packed = self.packing.experiment
        hyper = [hyperparameters_of(c.experiment) for c in self.configs for _ in c.experiments]
        arrays = jax.tree.map(lambda *leaves: np.stack(leaves)[packed], *hyper)
        padded = None if files is None else files_by_experiment(files, lengths, self.width)
        inputs = self.shard(
            (
                seeds[packed].astype(np.uint32),
                lengths[packed],
                arrays,
                jax.tree.map(lambda array: array[packed], padded),
            )
        )
        shapes = (
            self.width,
            self.packing.widths,
            self.packing.mixed,
            jax.tree.map(jax.typeof, inputs),
        )
        build = partial(self._compile, inputs)
        prepare, self._advance = kept_programs(programs, self.program, shapes, build)
        self.state, self.histories, self.data = prepare(*inputs)

    @property
    def sharding(self) -> NamedSharding:
        """How every array is laid out: shards over the devices."""
        return NamedSharding(self.mesh, AXIS)

    def shard(self, arrays: Any) -> Any:
        """NumPy arrays `[shard, ...]`, the same on every process, as sharded arrays."""

        def put(array):
            return jax.make_array_from_callback(array.shape, self.sharding, lambda i: array[i])

        return jax.tree.map(put, arrays)

    def _compile(self, inputs: tuple[Any, ...]) -> list[jax.stages.Compiled]:
        """The programs that prepare the experiments and that train them."""
        prepare = prepare_packed(self.mesh, self.program, self.width)
        advance = advance_packed(self.mesh, self.program, self.packing.widths, self.packing.mixed)

        def on_mesh(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=self.sharding)

        arrays = jax.tree.map(on_mesh, jax.eval_shape(prepare, *inputs))
        blocks = np.int32(0), np.int32(0)

        def compile_advance() -> jax.stages.Compiled:
            return advance.lower(*arrays, self.shard_lengths, *blocks).compile()

        with ThreadPoolExecutor(max_workers=1) as background:  # the two compile side by side
            compiled = background.submit(compile_advance)
            return [prepare.lower(*inputs).compile(), compiled.result()]

    def advance(self, first_block: int, last_block: int) -> None:
        """Train every experiment through the blocks first_block <= block < last_block."""
        blocks = np.int32(first_block), np.int32(last_block)
        self.state, self.histories = self._advance(
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

    def gather_histories(self) -> Histories:
        """The histories as NumPy arrays, `[experiment, step]` and `[experiment, evaluation]`."""
        steps, evaluations = self.gather(tuple(self.histories))
        taken = self.program.step_of.ravel() >= 0

        def by_step(rows: np.ndarray) -> np.ndarray:
            return np.compress(taken, rows.reshape(len(rows), -1), axis=1)

        return Histories({name: by_step(rows) for name, rows in steps.items()}, evaluations)

    def scatter_histories(self, histories: Histories) -> Histories:
        """The inverse of `gather_histories`."""
        taken = self.program.step_of >= 0

        def by_block(rows: Any) -> np.ndarray:
            blocks = np.full((len(rows), *taken.shape), np.nan, np.float32)
            blocks[:, taken] = rows
            return blocks

        steps = {name: by_block(rows) for name, rows in histories.steps.items()}
        return self.scatter(Histories(steps, histories.evaluations))

    def evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """Test loss and accuracy of the best parameters of every experiment, `[experiment]`."""
        test = self.gather(self.data.test)
        lengths = np.array([length for length, _ in self.experiments])
        best = self.gather(self.state.best_parameters)
        return evaluate_experiments(self.program, best, test, lengths)


def files_by_experiment(files: Mapping[int, Any], lengths: np.ndarray, width: int) -> Dataset:
    """The data of each experiment, padded: NumPy arrays `[experiment, example, ...]`."""
    padded = {length: pad_splits(splits, width) for length, splits in files.items()}
    return jax.tree.map(lambda *sets: np.stack(sets), *(padded[length] for length in lengths))


def pad_splits(splits: Any, width: int) -> Dataset:
    """The three sets of one length, read from files, padded on the left."""
    return Dataset(*(pad_examples(s, width) for s in (splits.train, splits.dev, splits.test)))


def pad_examples(sequences: Any, width: int) -> Examples:
    """Sequences read from a file as NumPy arrays, padded on the left to `width`."""
    missing = width - sequences.digits.shape[1]
    digits = np.pad(sequences.digits, ((0, 0), (missing, 0)), constant_values=PADDING)
    return Examples(digits, sequences.labels)


@cache
def prepare_packed(mesh: Mesh, program: Program, width: int):
    """The compiled program that prepares all experiments: `experiment.prepare` over the shards."""

    def on_device(*inputs):
        one = partial(experiment.prepare, program, width)
        return jax.lax.map(lambda shard: over_batch(one)(*shard), inputs)

    return run_once(on_device, mesh)


@cache
def advance_packed(mesh: Mesh, program: Program, widths: tuple[tuple[int, bool], ...], mixed: bool):
    """The compiled program of a whole sweep: `experiment.advance` over shards and devices."""

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


def run_once(on_device: Callable[..., Any], mesh: Mesh):
    """The program of a function of shards on their devices, compiled quickly."""
    return jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=AXIS, out_specs=AXIS, check_vma=False),
        compiler_options=compiler_options(mesh),
    )


def over_batch(function):
    """`vmap` over the experiments of a shard; a single one is run as it is."""

    def run(*arguments):
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return jax.vmap(function)(*arguments)
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return run


def map_experiments(
    function: Callable[..., Any],
    *arguments: Any,
    given: tuple[Any, ...] = (),
    done: Callable[[int], None] | None = None,
) -> Any:
    """`function(*given, ...)` of one experiment over pytrees `[experiment, ...]`, on local devices.

    On a CPU one after another on each core, elsewhere in batches side by side. Returns NumPy
    arrays `[experiment, ...]`; each is the same however many there are. What is `given` can be
    hashed: the same function given the same is compiled once. `done`, if given, is told how many
    are, after about every `AT_ONCE` of them.
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


def evaluate_experiments(
    program: Program, parameters: Any, examples: Examples, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy, each `[experiment]`, of parameters and examples `[experiment, ...]`."""
    given = program, examples.inputs.shape[2]
    loss, accuracy = map_experiments(evaluate_one, parameters, examples, lengths, given=given)
    return loss.astype(float), as_fraction(accuracy, examples.targets[0].size)


def evaluate_one(program: Program, width: int, parameters: Any, examples: Examples, length: Any):
    """Loss and accuracy of one experiment on examples padded to a width."""
    return experiment.evaluate(program, parameters, examples, mask_of(length, width)[None])


def as_fraction(accuracy: np.ndarray, answers: int) -> np.ndarray:
    """A float32 accuracy over that many answers as the float64 that prints as 0.47."""
    return np.round(np.asarray(accuracy, float) * answers) / answers
