"""One experiment is the textbook's, step for step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import pad_splits
from srn_jax.interop.pytorch import network_from_state_dict
from srn_jax.interop.textbook_files import textbook_splits
from srn_jax.tasks import DigitSum
from srn_jax.tasks.task import Examples, draw_dataset, to_batches
from srn_jax.training import experiment as training
from srn_jax.training.model import (
    hyperparameters_of,
    network_with,
    new_network,
    parameters_of,
)
from srn_jax.training.probes import norms

TASK = DigitSum()
SHORT = ExperimentConfig(epochs=8)  # 304 steps


def dataset_of(length=6, seed=0, width=None):
    return draw_dataset(TASK, jax.random.key(seed), 3, length, width or length)


def parameters_for(config=SHORT, seed=1):
    return parameters_of(new_network(TASK, config, jax.random.key(seed)))


def program_of(config, probes=()):
    return training.program_of(SweepConfig(experiment=config, probes=probes))


def by_step(program, histories):
    """The histories with steps in a row, as NumPy arrays by name."""
    taken = program.step_of >= 0
    steps = {name: np.asarray(rows)[taken] for name, rows in histories.steps.items()}
    return steps | {name: np.asarray(row) for name, row in histories.evaluations.items()}


def train(config, parameters=None, dataset=None, probes=()):
    """The state after training, and the histories by name."""
    program, start, run = in_portions(config, parameters, dataset, probes)
    state, histories = run(start, 0, len(program.eval_steps))
    return state, by_step(program, histories)


def in_portions(config, parameters=None, dataset=None, probes=()):
    """Program and beginning of an experiment, and a function that takes it through some blocks."""
    program, hyper = program_of(config, probes), hyperparameters_of(config)
    dataset = dataset_of() if dataset is None else dataset
    width = dataset.dev.inputs.shape[1]
    data = training.ExperimentData(
        width,
        hyper,
        jax.random.key_data(jax.random.key(0)),
        to_batches(dataset.train, config.batch_size, config.loss_reduction),
        dataset.dev,
        dataset.test,
        jnp.int32(0),
    )
    parameters = parameters_for(config) if parameters is None else parameters
    first = training.initial_state(program, hyper, parameters)
    start = first, training.empty_histories(program, parameters)

    @jax.jit
    def run(carry, first_block, last_block):
        return training.advance(
            program, ((width, False),), 0, data, *carry, first_block, last_block
        )

    return program, start, run


def assert_same_bits(ones, others):
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def test_the_experiment_has_19000_steps_and_is_evaluated_at_exactly_190_of_them():
    program = program_of(ExperimentConfig())
    assert program.steps == 19_000
    by_rule = [s for s in range(1, 19_000) if s % 100 == 0 or s == 18_999]
    assert program.eval_steps.tolist() == by_rule
    assert len(by_rule) == 190


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [
        (38, 100, [37]),
        (100, 100, [99]),
        (101, 100, [100]),
        (102, 100, [100, 101]),
        (7, 2, [2, 4, 6]),
        (5, 1, [1, 2, 3, 4]),
        (1, 100, [0]),
    ],
)
def test_evaluation_steps_at_the_edges(steps, interval, expected):
    program = program_of(ExperimentConfig(steps=steps, eval_interval=interval))
    assert program.eval_steps.tolist() == expected
    assert program.step_of[program.step_of >= 0].tolist() == list(range(steps))
    assert program.step_of.max(axis=1).tolist() == expected  # a block ends with its evaluation


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "interval"), [("srn", 100), ("gru", 7)])
def test_the_history_is_that_of_a_plain_loop(cell, interval):
    """The blocks, the batches, the evaluations and the best parameters, written out in Python."""
    config = dataclasses.replace(SHORT, cell=cell, eval_interval=interval)
    dataset, parameters = dataset_of(), parameters_for(config)
    state, history = train(config, parameters, dataset)
    first_moment = second_moment = jax.tree.map(jnp.zeros_like, parameters)

    def loss_of(parameters, digits, labels):
        logits = network_with(TASK, config, parameters)(digits)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(picked), logits

    @jax.jit
    def step(parameters, first, second, number, digits, labels):
        """Adam as in the paper."""
        (value, _), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters, digits, labels)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

        def update(p, m, v):
            m, v = m / (1 - 0.9**number), v / (1 - 0.999**number)
            return p - 0.001 * m / (jnp.sqrt(v) + 1e-8)

        return jax.tree.map(update, parameters, first, second), first, second, value

    @jax.jit
    def score(parameters, digits, labels):
        loss, logits = loss_of(parameters, digits, labels)
        return loss, jnp.sum(jnp.argmax(logits, axis=1) == labels)

    losses, dev_losses, dev_scores, best, best_parameters, best_step = [], [], [], 0, None, None
    for global_step in range(304):
        start = global_step % 38 * 8
        batch = (a[start : start + 8] for a in dataset.train)
        number = jnp.float32(global_step + 1)
        parameters, first_moment, second_moment, loss = step(
            parameters, first_moment, second_moment, number, *batch
        )
        losses.append(float(loss))
        if global_step > 0 and (global_step % interval == 0 or global_step == 303):
            scores = [
                score(parameters, *(a[i : i + 8] for a in dataset.dev)) for i in range(0, 100, 8)
            ]
            dev_losses.append(np.mean([float(loss) for loss, _ in scores]))
            dev_scores.append(sum(int(right) for _, right in scores) / 100)
            if dev_scores[-1] > best:
                best, best_parameters, best_step = dev_scores[-1], parameters, global_step

    assert len(dev_losses) == {100: 4, 7: 44}[interval]
    assert history["train_loss"] == pytest.approx(losses, abs=2e-4)
    assert history["dev_loss"] == pytest.approx(dev_losses, abs=2e-4)
    assert history["dev_accuracy"] == pytest.approx(dev_scores, abs=0.011)
    assert int(state.best_step) == best_step
    for ours, theirs in zip(
        jax.tree.leaves(state.best_parameters), jax.tree.leaves(best_parameters), strict=True
    ):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=1e-3)


@pytest.mark.slow
def test_the_best_parameters_are_kept_at_strict_improvements_only():
    config = dataclasses.replace(SHORT, eval_interval=1, epochs=3)
    dataset, program = dataset_of(), program_of(config)
    state, history = train(config, dataset=dataset)
    scores = history["dev_accuracy"]
    assert len(scores) > len(set(scores.tolist()))  # there are ties, so strictness matters
    assert float(state.best_accuracy) == scores.max()
    assert int(state.best_step) == program.eval_steps[scores.argmax()]
    _, accuracy = training.evaluate(program, state.best_parameters, dataset.dev)
    assert accuracy == state.best_accuracy


def test_blocks_can_be_run_in_any_portions_to_the_bit():
    _, start, run = in_portions(dataclasses.replace(SHORT, eval_interval=20))
    at_once = run(start, 0, 16)
    in_parts = run(run(run(start, 0, 1), 1, 10), 10, 16)
    assert_same_bits(at_once, in_parts)


@pytest.mark.slow
def test_padding_changes_no_step_of_training():
    """By the mask of a sweep: the same experiments, prepared at their own length and at 15."""
    config = dataclasses.replace(SHORT, epochs=4)
    program, hyper = program_of(config), hyperparameters_of(config)

    def losses(length, width):
        state, histories, data = training.prepare(program, width, jnp.uint32(1), length, hyper)
        blocks = len(program.eval_steps)
        padded = width == 15
        return training.advance(program, ((width, padded),), 0, data, state, histories, 0, blocks)[
            1
        ]

    run = jax.jit(losses, static_argnums=1)
    for length in (3, 7):
        plain, padded = (by_step(program, run(jnp.int32(length), w)) for w in (length, 15))
        for name in ("train_loss", "dev_loss"):
            assert padded[name] == pytest.approx(plain[name], abs=1e-4)


def one_step(config, parameters, probes=(), number=1):
    """Parameters after `number` steps on the first batch, the gradients, and what was recorded."""
    program, hyper = program_of(config, probes), hyperparameters_of(config)
    batches = to_batches(dataset_of().train, config.batch_size, config.loss_reduction)
    batch = jax.tree.map(lambda array: array[0], batches)
    optimizer = training.initial_state(program, hyper, parameters).optimizer

    @jax.jit
    def step(parameters, optimizer):
        gradient, _ = jax.grad(training.weighted_loss, argnums=1, has_aux=True)(
            program, parameters, batch
        )
        return gradient, training.train_step(program, hyper, parameters, optimizer, batch)

    gradients = []
    for _ in range(number):
        gradient, (parameters, optimizer, recorded) = step(parameters, optimizer)
        gradients.append(gradient)
    return parameters, gradients, recorded


def test_the_first_adam_step_is_the_formula():
    """M = 0.1 g and v = 0.001 g^2, bias-corrected, so the update is -lr g / (|g| + eps)."""
    parameters = parameters_for()
    updated, (gradient,), _ = one_step(SHORT, parameters)
    for before, after, g in zip(
        *map(jax.tree.leaves, (parameters, updated, gradient)), strict=True
    ):
        g = np.asarray(g, np.float64)
        expected = np.asarray(before) - 0.001 * g / (np.abs(g) + 1e-8)
        assert np.asarray(after) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("clip", ["per-tensor", "global"])
@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_clipping_by_hand(clip, norm):
    """The gradient times norm / |g| where |g| > norm, |g| of a tensor or of all of them."""
    config = ExperimentConfig(optimizer="sgd", learning_rate=0.5, clip=clip, clip_norm=norm)
    parameters = parameters_for()
    updated, (gradient,), _ = one_step(config, parameters)
    gradients = [np.asarray(g, np.float64) for g in jax.tree.leaves(gradient)]
    sizes = [np.sqrt((g**2).sum()) for g in gradients]
    if clip == "global":
        sizes = [np.sqrt(sum(size**2 for size in sizes))] * len(sizes)
    if norm < 1:
        assert max(sizes) > norm  # something is clipped, and by tensors not everything
        assert clip == "global" or min(sizes) < norm
    for before, after, g, size in zip(
        *map(jax.tree.leaves, (parameters, updated)), gradients, sizes, strict=True
    ):
        expected = np.asarray(before) - 0.5 * g * min(1, norm / size)
        assert np.asarray(after) == pytest.approx(expected, abs=1e-6)


@pytest.mark.needs_torch
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_optimizers_are_those_of_pytorch(optimizer):
    torch = pytest.importorskip("torch")
    config = ExperimentConfig(optimizer=optimizer, learning_rate=0.01)
    parameters = parameters_for()
    updated, gradients, _ = one_step(config, parameters, number=4)
    tensors = [torch.tensor(np.asarray(leaf)) for leaf in jax.tree.leaves(parameters)]
    theirs = {
        "adam": lambda: torch.optim.Adam(tensors, lr=0.01),
        "sgd": lambda: torch.optim.SGD(tensors, lr=0.01),
        "rmsprop": lambda: torch.optim.RMSprop(tensors, lr=0.01, alpha=0.9),
    }[optimizer]()
    for gradient in gradients:
        for tensor, g in zip(tensors, jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(np.asarray(g))
        theirs.step()
    first = map(np.asarray, jax.tree.leaves(gradients[0]))
    for ours, tensor, g in zip(jax.tree.leaves(updated), tensors, first, strict=True):
        seen = np.abs(g) > 1e-4  # below, the place of eps in the formula of RMSprop matters
        assert np.asarray(ours)[seen] == pytest.approx(tensor.numpy()[seen], abs=2e-5)


def test_rmsprop_by_hand():
    """V = 0.1 g^2 at first, so the update is -lr g / (sqrt(0.1) |g|), nearly."""
    parameters = parameters_for()
    config = ExperimentConfig(optimizer="rmsprop", learning_rate=0.01)
    updated, (gradient,), _ = one_step(config, parameters)
    for before, after, g in zip(
        *map(jax.tree.leaves, (parameters, updated, gradient)), strict=True
    ):
        g = np.asarray(g, np.float64)
        expected = np.asarray(before) - 0.01 * g / (np.sqrt(0.1) * np.abs(g) + 1e-8)
        seen = np.abs(g) > 1e-4  # below, the place of eps in the formula matters
        assert np.asarray(after)[seen] == pytest.approx(expected[seen], abs=2e-5)


@pytest.mark.slow
def test_the_sum_of_the_losses_in_a_batch():
    """Gradients and losses are 8 times those of the mean; the dev loss is the mean of sums."""
    mean, added = (
        ExperimentConfig(loss_reduction=how, optimizer="sgd", batch_size=64, epochs=1)
        for how in ("mean", "sum")
    )
    parameters, dev = parameters_for(), dataset_of().dev
    (ones, (gradient,), loss), (others, (larger,), sum_of_losses) = (
        one_step(config, parameters) for config in (mean, added)
    )
    assert float(sum_of_losses["train_loss"]) == pytest.approx(64 * float(loss["train_loss"]))
    for before, one, other, g, scaled in zip(
        *map(jax.tree.leaves, (parameters, ones, others, gradient, larger)), strict=True
    ):
        assert np.asarray(scaled) == pytest.approx(64 * np.asarray(g), rel=1e-4, abs=1e-4)
        step, step_of_sum = np.asarray(one - before), np.asarray(other - before)
        assert step_of_sum == pytest.approx(64 * step, rel=1e-2, abs=1e-5)

    logits = network_with(TASK, mean, parameters)(dev.inputs)
    picked = -jnp.take_along_axis(jax.nn.log_softmax(logits), dev.targets[:, None], axis=1)[:, 0]
    batches = [np.asarray(picked[:64]), np.asarray(picked[64:])]
    for config, reduce in ((mean, np.mean), (added, np.sum)):
        found, _ = training.evaluate(program_of(config), parameters, dev)
        assert float(found) == pytest.approx(np.mean([reduce(b) for b in batches]), rel=1e-5)


def test_norms_have_names_that_a_file_can_have_and_there_are_none_without_parameters():
    gradient = {"cell": {"a/b": {"kernel": jnp.ones((2, 2))}}}
    assert {name: float(norm) for name, norm in norms("n", gradient).items()} == {"n.a_b.kernel": 2}
    assert norms("n", {"output": {}}) == {}


def test_probes_record_norms_of_the_gradient_before_clipping():
    probes = ("gradient-norm", "update-norm", "parameter-norm")
    config = ExperimentConfig(optimizer="sgd", learning_rate=0.5, clip_norm=0.01)
    parameters = parameters_for()
    _, (gradient,), recorded = one_step(config, parameters, probes)
    kinds = ("gradient_norm", "update_norm", "parameter_norm")
    assert sorted(recorded) == sorted(["train_loss", *(f"{k}.{n}" for k in kinds for n in "WUb")])
    for name in "WUb":
        size = float(np.linalg.norm(gradient["cell"][name]))
        assert size > 0.01
        assert float(recorded[f"gradient_norm.{name}"]) == pytest.approx(size, rel=1e-5)
        assert float(recorded[f"update_norm.{name}"]) == pytest.approx(0.5 * 0.01, rel=1e-4)
        before = float(np.linalg.norm(parameters["cell"][name]))  # before the update
        assert float(recorded[f"parameter_norm.{name}"]) == pytest.approx(before, rel=1e-5)


@pytest.mark.slow
def test_probes_become_histories_and_change_no_training():
    config = dataclasses.replace(SHORT, cell="lstm", epochs=2)
    _, history = train(config)
    _, histories = train(config, probes=("gradient-norm",))
    assert set(histories) - set(history) == {f"gradient_norm.{name}" for name in "WUb"}
    for name in "WUb":
        norms = histories[f"gradient_norm.{name}"]
        assert norms.shape == (76,) and (norms > 0).all()
    assert histories["train_loss"] == pytest.approx(history["train_loss"], abs=1e-4)


def test_an_experiment_that_diverges_is_frozen_at_its_last_good_evaluation():
    program, start, run = in_portions(dataclasses.replace(SHORT, eval_interval=10))
    good, histories = run(start, 0, 2)
    broken = jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), good.parameters)
    state, histories = run((good._replace(parameters=broken), histories), 2, 5)
    history = by_step(program, histories)
    assert bool(state.diverged) and not bool(good.diverged)
    assert np.isfinite(history["train_loss"][:21]).all()
    assert np.isnan(history["train_loss"][21:]).all()
    assert np.isfinite(history["dev_loss"][:2]).all()
    assert np.isnan(history["dev_loss"][2:]).all()
    assert np.isnan(history["dev_accuracy"][2:]).all()
    assert_same_bits(state.best_parameters, good.best_parameters)
    assert_same_bits(state.parameters, broken)  # what it was given, and nothing it made of it


def test_a_loss_that_is_not_finite_stays_in_the_history():
    """An exploding experiment shows where it exploded, and keeps what it had before."""
    config = dataclasses.replace(
        SHORT, optimizer="sgd", learning_rate=1e30, steps=40, eval_interval=10
    )
    state, history = train(config)
    assert bool(state.diverged) and int(state.best_step) == -1
    assert np.isfinite(history["train_loss"][0])
    assert not np.isfinite(history["train_loss"][1:11]).all()
    assert np.isnan(history["train_loss"][11:]).all()
    assert_same_bits(state.parameters, parameters_for(config))


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("cell", "length"),
    [(cell, length) for cell in ("SRN", "LSTM", "GRU") for length in (5, 11)] + [("SRN", 35)],
)
def test_started_from_pytorchs_weights_it_follows_the_pytorch_program(cell, length):
    torch = pytest.importorskip("torch")
    import pytorch_program

    torch.manual_seed(length)
    torch.set_num_threads(1)  # which is faster for so small a network
    model = pytorch_program.Model_RNN4SeqClass(32, getattr(pytorch_program, cell))
    config, parameters = network_from_state_dict(model.state_dict())
    assert config.cell == cell.lower()
    config = dataclasses.replace(config, epochs=8)
    splits = dict(textbook_splits((5, 11, 35)))[length]
    _, history = train(config, parameters, pad_splits(splits, length))

    def to_torch(s):
        return torch.tensor(s.digits, dtype=torch.long), torch.tensor(s.labels).long()

    losses, evaluations = pytorch_program.train(
        model, to_torch(splits.train), to_torch(splits.dev), epochs=8, max_steps=304
    )
    assert np.abs(history["train_loss"] - losses)[:300].max() < 1e-4
    steps, dev_losses, dev_scores = zip(*evaluations, strict=True)
    assert list(steps) == program_of(config).eval_steps.tolist()
    assert history["dev_loss"] == pytest.approx(dev_losses, abs=1e-4)
    assert history["dev_accuracy"] == pytest.approx(dev_scores, abs=0.011)


def test_a_perfect_and_a_constant_answer_are_scored_as_such():
    dataset, program = dataset_of(), program_of(SHORT)
    parameters = jax.tree.map(jnp.zeros_like, parameters_for())
    parameters["output"]["bias"] = jnp.zeros(19).at[9].set(5.0)
    loss, accuracy = training.evaluate(program, parameters, dataset.dev)
    assert float(accuracy) == pytest.approx(0.10)  # chance: 9 is the sum of 10 pairs of 100
    ours = Examples(dataset.dev.inputs, jnp.full(100, 9))
    assert float(training.evaluate(program, parameters, ours)[1]) == 1.0
    assert float(loss) > 0
