"""What tasks draw, how sets are cut into batches, and what a loss is over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import DataFolder, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.tasks import Adding, DigitSum, Examples, FromFiles, Task, Tokens, Vectors, task_of
from srn_jax.tasks.batches import cut_to, reordered, set_weights, to_batches, weighted, whole_set
from srn_jax.tasks.task import (
    PADDING,
    check_length,
    draw_fresh,
    draw_set,
    facts_of,
    overlap,
    place_of,
)

TASKS = [DigitSum(), Adding()]
by_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


class Everywhere(Task):
    """Every position answers whether it is even; the sequences differ in length."""

    inputs, outputs, answers, examples = Tokens(4), 2, None, 10

    def draw(self, key, number, length, width):
        tokens = jax.random.randint(key, (width, number), 0, 4)[::-1].T
        lengths = 1 + jnp.arange(number) % length
        return Examples(tokens, tokens % 2, lengths)


def digits_of(length, multiplicity, seed=0):
    return DigitSum().draw_set(jax.random.key(seed), multiplicity, length, length)


@pytest.mark.parametrize(("length", "multiplicity"), [(3, 1), (4, 2), (35, 3)])
def test_examples_are_all_pairs_in_order_with_at_most_one_digit_after_them(length, multiplicity):
    digits, sums = map(np.asarray, digits_of(length, multiplicity)[:2])
    pairs = [(a, b) for a in range(10) for b in range(10) for _ in range(multiplicity)]
    assert digits[:, :2].tolist() == [list(pair) for pair in pairs]
    assert sums.tolist() == [a + b for a, b in pairs]
    assert ((digits[:, 2:] != 0).sum(axis=1) <= 1).all()
    assert digits.min() >= 0 and digits.max() <= 9


def test_the_digit_and_its_position_are_uniform():
    digits = np.asarray(digits_of(6, 200).inputs)  # 20,000 examples
    rows, positions = np.nonzero(digits[:, 2:])
    assert len(rows) / len(digits) == pytest.approx(0.9, abs=0.01)  # the digit 0 shows nowhere
    for values, kinds in ((positions, 4), (digits[rows, positions + 2] - 1, 9)):
        shares = np.bincount(values, minlength=kinds) / len(values)
        assert shares == pytest.approx(1 / kinds, abs=0.01)


def test_the_adding_problem_marks_one_value_in_each_half_and_chance_is_what_is_said():
    task = Adding()
    inputs, sums = map(np.asarray, task.draw(jax.random.key(0), 20_000, 7, 7)[:2])
    marks = inputs[..., 1]
    assert (marks[:, :3].sum(axis=1) == 1).all() and (marks[:, 3:].sum(axis=1) == 1).all()
    np.testing.assert_allclose((inputs[..., 0] * marks).sum(axis=1), sums, atol=1e-6)
    ones = jnp.ones((20_000, 1))
    assert float(task.correct(ones, sums).mean()) == pytest.approx(task.chance, abs=0.005)
    assert float(task.loss(ones, sums).mean()) == pytest.approx(task.chance_loss, abs=0.003)
    assert facts_of(task).better == "loss"


@by_task
def test_what_is_drawn_does_not_depend_on_the_width_and_padding_is_blank(task):
    key = jax.random.key(3)
    for draw in (
        lambda width: draw_set(task, key, 1, 1, 5, width),
        lambda width: draw_fresh(task, key, jnp.int32(7), 6, 5, width),
    ):
        short, long = draw(5), draw(9)
        np.testing.assert_array_equal(short.targets, long.targets)
        np.testing.assert_array_equal(short.inputs, long.inputs[:, 4:])
        blank = PADDING if isinstance(task.inputs, Tokens) else 0
        assert (np.asarray(long.inputs)[:, :4] == blank).all()


@by_task
def test_sets_and_fresh_examples_have_keys_of_their_own(task):
    key = jax.random.key(0)
    sets = [draw_set(task, key, which, 1, 6, 6).inputs for which in range(3)]
    fresh = [draw_fresh(task, key, jnp.int32(s), 100, 6, 6).inputs for s in range(3)]
    drawn = [np.asarray(one)[:100].tolist() for one in (*sets, *fresh)]
    assert all(one != other for n, one in enumerate(drawn) for other in drawn[:n])


def test_overlap_counts_the_test_sequences_that_are_in_the_training_set():
    train, test = digits_of(5, 3), digits_of(5, 1, seed=1)
    seen = {tuple(row) for row in np.asarray(train.inputs).tolist()}
    by_hand = sum(tuple(row) in seen for row in np.asarray(test.inputs).tolist())
    assert 0 < by_hand < 100
    assert int(overlap(train, test)) == by_hand


def test_batches_are_in_order_and_the_last_one_is_kept():
    examples = digits_of(5, 3)
    batches = to_batches(examples, 8)
    assert batches.inputs.shape == (38, 8, 5)
    flat = np.asarray(batches.inputs).reshape(-1, 5)
    assert (flat[:300] == np.asarray(examples.inputs)).all()
    assert np.asarray(batches.weights[:37]) == pytest.approx(1 / 8)
    assert np.asarray(batches.weights[37]) == pytest.approx([1 / 4] * 4 + [0] * 4)


@pytest.mark.parametrize(("number", "batch_size"), [(100, 8), (96, 8), (5, 8), (7, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_give_the_mean_over_batches_of_their_losses(number, batch_size, reduction):
    losses = np.random.default_rng(0).random(number)
    batches = [losses[i : i + batch_size] for i in range(0, number, batch_size)]
    expected = np.mean([getattr(np, reduction)(batch) for batch in batches])
    found = float(losses @ set_weights((number,), batch_size, reduction))
    assert found == pytest.approx(expected, rel=1e-6)


def test_what_is_asked_counts_alike_whatever_the_lengths():
    """One sum over one sum in a batch, and none of what fills it or is padded."""
    task = Everywhere()
    examples = draw_set(task, jax.random.key(0), 0, 1, 4, 6)
    lengths = np.asarray(examples.lengths)
    assert (np.asarray(examples.weights).sum(axis=1) == lengths).all()
    assert not np.asarray(examples.weights)[:, :2].any()
    batches = to_batches(examples, 4)
    for number in range(3):
        batch = weighted(jax.tree.map(lambda a, n=number: a[n], batches), "mean")
        asked = lengths[4 * number : 4 * number + 4].sum()
        weights = np.asarray(batch.weights)
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert weights[weights > 0] == pytest.approx(1 / asked)
    whole = np.asarray(whole_set(examples, 4).weights)
    assert whole[whole > 0] == pytest.approx(1 / lengths.sum())
    cut = cut_to(batches, task, 4)
    assert cut.inputs.shape == cut.targets.shape == cut.asked.shape == (3, 4, 4)


@pytest.mark.parametrize("task", [DigitSum(), Everywhere()], ids=["one", "everywhere"])
def test_a_batch_in_another_order_has_those_examples_and_a_weight_for_each(task):
    examples = draw_set(task, jax.random.key(0), 0, 1, 4, 4)
    number = len(examples.targets)
    batches = to_batches(examples, 8)
    last = len(batches.inputs) - 1
    real = number - 8 * last
    order = jnp.array([3, 1, 2, 0][:real] + [number] * (8 - real))
    batch = weighted(reordered(batches, jnp.int32(last), order, number), "mean")
    np.testing.assert_array_equal(batch.inputs[:real], np.asarray(examples.inputs)[order[:real]])
    weights = np.asarray(batch.weights).reshape(8, -1)
    assert weights.sum() == pytest.approx(1)
    assert not weights[real:].any()


def test_places_are_counted_from_where_a_sequence_begins():
    assert place_of(3, 5).tolist() == [-2, -1, 0, 1, 2]
    assert place_of(jnp.array([[1], [2]]), 2).tolist() == [[-1, 0], [0, 1]]


def test_a_task_is_a_name_a_class_or_an_instance_and_the_same_one_each_time():
    for value in ("adding", Adding):
        task = task_of(SweepConfig(experiment=ExperimentConfig(task=value)))
        assert isinstance(task, Adding)
        assert task is task_of(SweepConfig(experiment=ExperimentConfig(task=value)))
    mine = Everywhere()
    assert task_of(SweepConfig(experiment=ExperimentConfig(task=mine))) is mine
    files = task_of(SweepConfig(data=DataFolder("here", "0", vocabulary=7, classes=3)))
    assert isinstance(files, FromFiles) and files.inputs == Tokens(7) and files.outputs == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (int, "not a subclass of srn_jax.Task"),
        (type("Wants", (Task,), {"__init__": lambda self, size: None}), "without arguments"),
        (type("Bare", (Task,), {}), "no inputs"),
        (Vectors, "without arguments"),
    ],
)
def test_what_is_no_task_is_refused(value, words):
    with pytest.raises(UserError, match=words):
        task_of(SweepConfig(experiment=ExperimentConfig(task=value)))


def test_a_length_at_which_a_task_is_not_defined_is_refused():
    with pytest.raises(UserError, match="at least 3 positions here, got length 2"):
        check_length(DigitSum(), 2)
