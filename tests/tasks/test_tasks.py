"""The tasks: what they draw, what is right, and what guessing is worth."""

import dataclasses
import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import DataFolder, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.tasks import Adding, DigitSum, FromFiles, Recall, Task, task_of
from srn_jax.tasks.adding import TOLERANCE
from srn_jax.tasks.recall import BLANK, MARK, REMEMBERED, SYMBOLS
from srn_jax.tasks.task import (
    PADDING,
    Examples,
    Tokens,
    Vectors,
    check_length,
    draw_dataset,
    draw_fresh,
    facts_of,
    overlap,
    to_batches,
)

ALL = [DigitSum(), Adding(), Recall()]
by_task = pytest.mark.parametrize("task", ALL, ids=lambda task: type(task).__name__)


def draw(task, number=50, length=8, width=8, seed=0):
    return jax.tree.map(np.asarray, drawn(task, seed, number, length, width))


@partial(jax.jit, static_argnums=(0, 2, 4))
def drawn(task, seed, number, length, width):
    return task.draw(jax.random.key(seed), number, length, width)


@by_task
def test_padding_is_on_the_left_and_changes_no_draw(task):
    plain, padded = draw(task), draw(task, width=13)
    assert np.array_equal(padded.inputs[:, 5:], plain.inputs)
    filler = PADDING if isinstance(task.inputs, Tokens) else 0
    assert (padded.inputs[:, :5] == filler).all()
    assert np.array_equal(padded.targets, plain.targets)


class Careless(Task):
    """Leaves in padding what it has drawn."""

    inputs, outputs, examples = Tokens(2), 2, 12

    def __init__(self, dtype):
        self.dtype = dtype

    def draw(self, key, number, length, width):
        bits = jax.random.bernoulli(key, shape=(width, number))[::-1].T
        return Examples(bits.astype(self.dtype), jnp.zeros(number, jnp.int32))


class Infinite(Task):
    inputs, outputs = Vectors(1), 2

    def draw(self, key, number, length, width):
        return Examples(jnp.full((number, width, 1), -jnp.inf), jnp.zeros(number, jnp.int32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_what_a_task_leaves_in_padding_is_blanked_so_all_is_as_it_is_alone(dtype):
    task, key = Careless(dtype), jax.random.key(0)
    draw_padded = jax.jit(partial(draw_dataset, task, key, 3), static_argnums=1)
    alone, padded = draw_padded(3, 3), draw_padded(3, 9)
    for one, other in zip(alone, padded, strict=True):
        assert (other.inputs[:, :6] == PADDING).all()
        assert np.array_equal(other.inputs[:, 6:], one.inputs)
    assert overlap(alone) == overlap(padded) > 0


def test_vectors_in_padding_are_zero_whatever_a_task_has_there():
    drawn = draw_fresh(Infinite(), jax.random.key(0), jnp.int32(0), 4, 3, 9)
    assert (drawn.inputs[:, :6] == 0).all() and np.isinf(drawn.inputs[:, 6:]).all()


@pytest.mark.parametrize("task", [Adding(), Recall()], ids=lambda task: type(task).__name__)
def test_fresh_examples_are_those_of_no_set(task):
    key = jax.random.key(0)
    sets = jax.jit(lambda: draw_dataset(task, key, 1, 8, 8))()
    draw_step = jax.jit(lambda step: draw_fresh(task, key, step, 500, 8, 8))
    fresh = [draw_step(jnp.int32(step)) for step in range(6)]
    first = [np.asarray(part.inputs[:3]).tobytes() for part in (*sets, *fresh)]
    assert len({*first}) == len(first)


def test_numbers_of_numpys_that_a_task_says_can_be_kept():
    task = Infinite()
    task.chance, task.chance_loss, task.examples = np.float32(0.5), np.float32(1), np.int64(40)
    told = json.loads(json.dumps(dataclasses.asdict(facts_of(task))))
    assert (told["chance"], told["chance_loss"], told["test_examples"]) == (0.5, 1.0, 40)


def test_a_batch_is_filled_up_with_an_example_that_there_is():
    examples = Examples(jnp.arange(1, 11).reshape(5, 2), jnp.arange(1, 6))
    batches = to_batches(examples, 3)
    assert batches.inputs[1].tolist() == [[7, 8], [9, 10], [9, 10]]
    assert batches.targets[1].tolist() == [4, 5, 5] and batches.weights[1, 2] == 0


@pytest.mark.slow
@by_task
def test_one_vmap_draws_all_lengths_and_seeds_as_they_are_drawn_alone(task):
    lengths, seeds = jnp.array([6, 9]), jnp.array([0, 7])

    def dataset(seed, length):
        return draw_dataset(task, jax.random.key(seed), 2, length, 9)

    together = jax.jit(jax.vmap(dataset))(seeds, lengths)
    alone = jax.jit(dataset, static_argnums=1)(seeds[0], int(lengths[0]))
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        assert (np.asarray(one[0]) == np.asarray(other)).all()


@by_task
def test_training_development_and_test_set_differ_and_have_the_sizes_that_are_said(task):
    dataset = draw_dataset(task, jax.random.key(0), 2, 10, 10)
    train, dev, test = (np.asarray(examples.inputs) for examples in dataset)
    assert len(train) == 2 * task.examples and len(dev) == len(test) == task.examples
    assert (train[: task.examples] != dev).any() and (dev != test).any()


@by_task
def test_the_same_key_draws_the_same_and_another_key_something_else(task):
    one, again, other = draw(task), draw(task), draw(task, seed=1)
    assert np.array_equal(one.inputs, again.inputs)
    assert not np.array_equal(one.inputs, other.inputs)


@by_task
def test_a_length_at_which_a_task_is_not_defined_is_refused(task):
    with pytest.raises(UserError, match=f"at least {task.shortest} positions, got length"):
        check_length(task, task.shortest - 1)
    shortest = draw(task, length=task.shortest, width=task.shortest)
    assert np.isfinite(shortest.inputs).all()


# Adding


@pytest.mark.parametrize("length", [2, 3, 8, 21])
def test_adding_has_a_mark_in_each_half_and_asks_for_the_sum_of_the_marked_values(length):
    examples = draw(Adding(), 500, length, length)
    values, marks = np.moveaxis(examples.inputs, -1, 0)
    assert examples.inputs.dtype == np.float32
    assert values.min() >= 0 and values.max() < 1
    assert set(np.unique(marks)) <= {0, 1}
    assert (marks[:, : length // 2].sum(axis=1) == 1).all()
    assert (marks[:, length // 2 :].sum(axis=1) == 1).all()
    assert examples.targets == pytest.approx((values * marks).sum(axis=1), abs=1e-6)


def test_addings_values_and_places_are_uniform():
    examples = draw(Adding(), 20_000, 8, 8)
    values, marks = np.moveaxis(examples.inputs, -1, 0)
    assert marks.mean(axis=0) == pytest.approx(np.full(8, 1 / 4), abs=0.015)
    assert np.quantile(values, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.01)
    assert np.abs(np.corrcoef(values.T) - np.eye(8)).max() < 0.03
    first, second = marks[:, :4].argmax(axis=1), marks[:, 4:].argmax(axis=1)
    together = np.histogram2d(first, second, bins=4)[0] / len(values)
    assert together == pytest.approx(np.full((4, 4), 1 / 16), abs=0.01)  # independent


def test_addings_chance_is_that_of_the_best_constant_answer():
    targets = np.random.default_rng(0).random((2, 400_000)).sum(axis=0)
    answers = np.linspace(0.5, 1.5, 21)
    right = [(np.abs(targets - answer) < TOLERANCE).mean() for answer in answers]
    assert answers[np.argmax(right)] == pytest.approx(1, abs=0.06)
    assert Adding.chance == pytest.approx(right[10], abs=0.002)
    losses = [((targets - answer) ** 2).mean() for answer in answers]
    assert np.argmin(losses) == 10
    assert Adding.chance_loss == pytest.approx(losses[10], abs=0.001)


def test_addings_loss_is_the_squared_error_and_right_is_within_the_tolerance():
    outputs, targets = jnp.array([[1.0], [1.039], [1.041], [0.5]]), jnp.array([1.0, 1.0, 1.0, 1.0])
    task = Adding()
    assert np.asarray(task.loss(outputs, targets)) == pytest.approx(
        [0, 0.039**2, 0.041**2, 0.25], abs=1e-6
    )
    assert task.correct(outputs, targets).tolist() == [True, True, False, False]


# Recall


@pytest.mark.parametrize("length", [6, 7, 15])
def test_recall_shows_symbols_then_blanks_then_marks_and_asks_for_the_symbols(length):
    examples = draw(Recall(), 200, length, length)
    inputs = examples.inputs
    assert (inputs[:, :REMEMBERED] == examples.targets).all()
    assert (inputs[:, REMEMBERED : length - REMEMBERED] == BLANK).all()
    assert (inputs[:, length - REMEMBERED :] == MARK).all()
    assert Recall.inputs.vocabulary == MARK + 1


def test_recalls_symbols_are_uniform_and_chance_is_one_of_them():
    symbols = draw(Recall(), 20_000).targets
    for column in symbols.T:
        shares = np.bincount(column, minlength=SYMBOLS) / len(symbols)
        assert shares == pytest.approx(np.full(SYMBOLS, 1 / SYMBOLS), abs=0.01)
    assert np.abs(np.corrcoef(symbols.T) - np.eye(REMEMBERED)).max() < 0.03
    assert facts_of(Recall()).chance == 1 / SYMBOLS
    assert facts_of(Recall()).chance_loss == pytest.approx(np.log(SYMBOLS))
    assert facts_of(Recall()).test_examples == Recall.examples


# Chance, and words


def test_digit_sums_chance_is_that_of_the_best_constant_answer():
    sums = [a + b for a, b in itertools.product(range(10), repeat=2)]
    best = max(sums.count(answer) for answer in range(19)) / len(sums)
    assert facts_of(DigitSum()).chance == best == 0.10
    dataset = draw_dataset(DigitSum(), jax.random.key(0), 1, 5, 5)
    assert np.bincount(dataset.test.targets).max() == 10
    assert facts_of(DigitSum()).chance_loss == pytest.approx(np.log(19))


def test_a_task_says_what_can_be_looked_for_in_the_states():
    digits = DigitSum().probe_targets(draw(DigitSum()))
    assert (digits["first digit"] + digits["second digit"] == digits["sum"]).all()
    tenths = Adding().probe_targets(draw(Adding()))["sum in tenths"]
    assert tenths.min() >= 0 and tenths.max() < 20
    assert len(Recall().probe_targets(draw(Recall()))) == REMEMBERED


def test_the_right_answer_to_what_a_user_typed():
    assert DigitSum().right_answer(np.array([3, 4, 0])) == 7
    assert DigitSum().right_answer(np.array([3])) is None
    assert Recall().right_answer(np.array([3, 4, 0])) is None


# Which task a sweep has


def test_the_task_of_a_sweep_is_always_the_same_object():
    for name, kind in (("digit-sum", DigitSum), ("adding", Adding), ("recall", Recall)):
        config = SweepConfig((8,), (0,), ExperimentConfig(task=name))
        assert type(task_of(config)) is kind and task_of(config) is task_of(config)
    folder = DataFolder("somewhere", "ab", 12, 2, 0.5)
    files = task_of(SweepConfig((8,), (0,), data=folder))
    assert isinstance(files, FromFiles)
    assert (files.inputs, files.outputs, files.chance) == (Tokens(12), 2, 0.5)


def test_a_task_of_ones_own_comes_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax\n"
        "import jax.numpy as jnp\n"
        "from srn_jax import Examples, Task, Tokens, place_of\n\n\n"
        "class Parity(Task):\n"
        "    inputs = Tokens(2)\n"
        "    outputs = 2\n\n"
        "    def draw(self, key, number, length, width):\n"
        "        bits = jax.random.randint(key, (number, width), 0, 2)\n"
        "        place = place_of(length, width)[None]\n"
        "        bits = jnp.where(place >= 0, bits, -1)\n"
        "        return Examples(bits, jnp.sum(bits * (place >= 0), axis=1) % 2)\n\n\n"
        "class Nothing:\n"
        "    pass\n\n\n"
        "class Half(Task):\n"
        "    outputs = 2\n"
    )

    def task(name):
        own = ExperimentConfig(task=f"{tmp_path / 'mine.py'}:{name}")
        return task_of(SweepConfig((8,), (0,), own))

    parity = task("Parity")
    assert isinstance(parity, Task) and parity is task("Parity")
    assert facts_of(parity).chance == 0.5
    examples = draw(parity)
    assert (examples.inputs.sum(axis=1) % 2 == examples.targets).all()
    for name, says in (
        ("Nothing", "no inputs"),
        ("Half", "no inputs"),
        ("Other", "no class Other"),
    ):
        with pytest.raises(UserError, match=says):
            task(name)


def test_a_training_set_of_no_size_is_refused():
    with pytest.raises(ValueError, match="--multiplicity must be a whole number from 1"):
        ExperimentConfig(multiplicity=0)
