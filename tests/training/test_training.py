"""One experiment is the textbook's, step for step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig
from srn_jax.interop.textbook_files import textbook_splits
from srn_jax.tasks.digit_sum import Batches, Examples, draw_dataset, pad_splits, to_batches
from srn_jax.training import experiment as training
from srn_jax.training.model import classifier_with, new_classifier, parameters_of

SHORT = ExperimentConfig(epochs=8)  # 304 steps


def dataset_of(length=6, seed=0, max_length=None):
    return draw_dataset(jax.random.key(seed), length, 3, max_length or length)


def parameters_for(config=SHORT, seed=1):
    return parameters_of(new_classifier(config, jax.random.key(seed)))


def test_the_experiment_has_19000_steps_and_is_evaluated_at_exactly_190_of_them():
    config = ExperimentConfig()
    assert training.number_of_steps(config, 300) == 19_000
    by_rule = [s for s in range(1, 19_000) if s % 100 == 0 or s == 18_999]
    assert training.evaluation_steps(config, 19_000).tolist() == by_rule
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
    config = ExperimentConfig(eval_interval=interval)
    assert training.evaluation_steps(config, steps).tolist() == expected


@pytest.mark.parametrize("interval", [100, 7])
def test_the_history_is_that_of_a_plain_loop(interval):
    """The blocks, the batches, the evaluations and the best parameters, written out in Python."""
    config = dataclasses.replace(SHORT, eval_interval=interval)
    dataset, parameters = dataset_of(), parameters_for()
    state = training.train(config, parameters, dataset)

    optimizer = training.new_optimizer(config)
    opt_state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, opt_state, digits, labels):
        def loss(parameters):
            logits = classifier_with(parameters)(digits)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -jnp.mean(picked)

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return jax.tree.map(jnp.add, parameters, updates), opt_state, value

    @jax.jit
    def score(parameters, digits, labels):
        logits = classifier_with(parameters)(digits)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(picked), jnp.sum(jnp.argmax(logits, axis=1) == labels)

    losses, dev_losses, dev_scores, best, best_parameters, best_step = [], [], [], 0, None, None
    for global_step in range(304):
        start = global_step % 38 * 8
        batch = (a[start : start + 8] for a in dataset.train)
        parameters, opt_state, loss = step(parameters, opt_state, *batch)
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
    assert np.asarray(state.train_loss) == pytest.approx(losses, abs=2e-4)
    assert np.asarray(state.dev_loss) == pytest.approx(dev_losses, abs=2e-4)
    assert np.asarray(state.dev_accuracy) == pytest.approx(dev_scores, abs=0.011)
    assert int(state.best_step) == best_step
    for ours, theirs in zip(
        jax.tree.leaves(state.best_parameters), jax.tree.leaves(best_parameters), strict=True
    ):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=1e-3)


def test_the_best_parameters_are_kept_at_strict_improvements_only():
    config = dataclasses.replace(SHORT, eval_interval=1, epochs=3)
    dataset, parameters = dataset_of(), parameters_for()
    state = training.train(config, parameters, dataset)
    scores = np.asarray(state.dev_accuracy)
    assert len(scores) > len(set(scores.tolist()))  # there are ties, so strictness matters
    assert float(state.best_accuracy) == scores.max()
    assert int(state.best_step) == training.evaluation_steps(config, 114)[scores.argmax()]
    _, accuracy = training.evaluate(config, state.best_parameters, dataset.dev)
    assert accuracy == state.best_accuracy


def test_blocks_can_be_run_in_any_portions_to_the_bit():
    config = dataclasses.replace(SHORT, eval_interval=20)
    dataset = dataset_of()
    batches = to_batches(dataset.train, 8)
    first = training.initial_state(config, parameters_for(), 300)
    run = jax.jit(lambda state, a, b: training.advance(config, state, batches, dataset.dev, a, b))
    at_once = run(first, 0, 16)
    in_parts = run(run(run(first, 0, 1), 1, 10), 10, 16)
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(in_parts), strict=True):
        assert np.array_equal(one, other)


def test_padding_changes_no_step_of_training():
    for length in (3, 7):
        plain = training.train(SHORT, parameters_for(), dataset_of(length))
        padded = training.train(SHORT, parameters_for(), dataset_of(length, max_length=15))
        assert np.asarray(padded.train_loss) == pytest.approx(
            np.asarray(plain.train_loss), abs=1e-4
        )


def test_the_first_adam_step_is_the_formula():
    """M = 0.1 g and v = 0.001 g^2, bias-corrected, so the update is -lr g / (|g| + eps)."""
    dataset, parameters = dataset_of(), parameters_for()
    batch = Batches(*(array[0] for array in to_batches(dataset.train, 8)))
    opt_state = training.new_optimizer(SHORT).init(parameters)
    updated, _, _ = training.train_step(SHORT, parameters, opt_state, batch)
    gradient = jax.grad(lambda p: training.weighted_loss(p, *batch)[0])(parameters)
    for before, after, g in zip(
        *map(jax.tree.leaves, (parameters, updated, gradient)), strict=True
    ):
        g = np.asarray(g, np.float64)
        expected = np.asarray(before) - 0.001 * g / (np.abs(g) + 1e-8)
        assert np.asarray(after) == pytest.approx(expected, abs=1e-6)


def test_an_experiment_that_diverges_is_frozen_at_its_last_good_evaluation():
    config = dataclasses.replace(SHORT, eval_interval=10)
    dataset = dataset_of()
    batches = to_batches(dataset.train, 8)
    run = jax.jit(lambda state, a, b: training.advance(config, state, batches, dataset.dev, a, b))
    good = run(training.initial_state(config, parameters_for(), 300), 0, 2)
    broken = jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), good.parameters)
    state = run(good._replace(parameters=broken), 2, 5)
    assert bool(state.diverged) and not bool(good.diverged)
    assert np.isfinite(np.asarray(state.train_loss[:21])).all()
    assert np.isnan(np.asarray(state.train_loss[21:])).all()
    assert np.isnan(np.asarray(state.dev_loss[2:])).all()
    for one, other in zip(
        jax.tree.leaves(state.best_parameters), jax.tree.leaves(good.best_parameters), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.needs_torch
@pytest.mark.parametrize("length", [5, 11, 35])
def test_started_from_pytorchs_weights_it_follows_the_pytorch_program(length):
    torch = pytest.importorskip("torch")
    from pytorch_program import Model_RNN4SeqClass, train

    torch.manual_seed(length)
    model = Model_RNN4SeqClass()

    def take(tensor):
        return jnp.asarray(tensor.detach().numpy().copy())

    parameters = {
        "embedding": {"table": take(model.embedding.W)},
        "srn": {name: take(getattr(model.rnn_model, name)) for name in ("W", "U", "b")},
        "output": {"kernel": take(model.linear.weight).T, "bias": take(model.linear.bias)},
    }
    splits = dict(textbook_splits((5, 11, 35)))[length]
    state = training.train(SHORT, parameters, pad_splits(splits, length))

    def to_torch(s):
        return torch.tensor(s.digits, dtype=torch.long), torch.tensor(s.labels).long()

    losses, evaluations = train(
        model, to_torch(splits.train), to_torch(splits.dev), epochs=8, max_steps=304
    )
    assert np.abs(np.asarray(state.train_loss) - losses)[:300].max() < 1e-4
    steps, dev_losses, dev_scores = zip(*evaluations, strict=True)
    assert list(steps) == training.evaluation_steps(SHORT, 304).tolist()
    assert np.asarray(state.dev_loss) == pytest.approx(dev_losses, abs=1e-4)
    assert np.asarray(state.dev_accuracy) == pytest.approx(dev_scores, abs=0.011)


def test_a_perfect_and_a_constant_answer_are_scored_as_such():
    dataset = dataset_of()
    parameters = jax.tree.map(jnp.zeros_like, parameters_for())
    parameters["output"]["bias"] = jnp.zeros(19).at[9].set(5.0)
    loss, accuracy = training.evaluate(SHORT, parameters, dataset.dev)
    assert float(accuracy) == pytest.approx(0.10)  # chance: 9 is the sum of 10 pairs of 100
    ours = Examples(dataset.dev.digits, jnp.full(100, 9))
    assert float(training.evaluate(SHORT, parameters, ours)[1]) == 1.0
    assert float(loss) > 0
