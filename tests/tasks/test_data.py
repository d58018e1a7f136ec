"""DigitSum, drawn as arrays: the rules of the data, padding, and independence of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import Sequences, Splits, digit_sum, textbook_splits
from srn_jax.tasks.digit_sum import (
    PADDING,
    batch_mean_weights,
    draw_dataset,
    draw_examples,
    overlap,
    pad_splits,
    to_batches,
)


def draw(seed=0, length=7, multiplicity=3, max_length=7):
    examples = draw_examples(jax.random.key(seed), length, multiplicity, max_length)
    return np.asarray(examples.digits), np.asarray(examples.labels)


@pytest.mark.parametrize(("length", "multiplicity"), [(3, 1), (4, 2), (7, 3), (35, 3)])
def test_examples_are_all_pairs_in_order_with_at_most_one_digit_after_them(length, multiplicity):
    digits, labels = draw(length=length, multiplicity=multiplicity, max_length=length)
    pairs = [(a, b) for a in range(10) for b in range(10) for _ in range(multiplicity)]
    assert digits[:, :2].tolist() == [list(pair) for pair in pairs]
    assert labels.tolist() == [a + b for a, b in pairs]
    assert ((digits[:, 2:] != 0).sum(axis=1) <= 1).all()
    assert digits.min() >= 0 and digits.max() <= 9


def test_the_digit_and_its_position_are_uniform():
    digits, _ = draw(length=6, multiplicity=200, max_length=6)  # 20,000 examples
    rows, positions = np.nonzero(digits[:, 2:])
    assert len(rows) / len(digits) == pytest.approx(0.9, abs=0.01)  # the digit 0 shows nowhere
    for values, kinds in ((positions, 4), (digits[rows, positions + 2] - 1, 9)):
        shares = np.bincount(values, minlength=kinds) / len(values)
        assert shares == pytest.approx(1 / kinds, abs=0.01)


def test_padding_is_on_the_left_and_changes_no_draw():
    digits, labels = draw(length=5, max_length=5)
    padded, same_labels = draw(length=5, max_length=9)
    assert (padded[:, :4] == PADDING).all()
    assert (padded[:, 4:] == digits).all()
    assert (labels == same_labels).all()


def test_one_vmap_draws_all_lengths_and_seeds_as_they_are_drawn_alone():
    lengths, seeds = jnp.array([3, 5, 9]), jnp.array([0, 1, 7])
    together = jax.jit(
        jax.vmap(lambda seed, length: draw_dataset(jax.random.key(seed), length, 2, 9))
    )(seeds, lengths)
    for row, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        alone = draw_dataset(jax.random.key(seed), int(length), 2, 9)
        for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            assert (np.asarray(one[row]) == np.asarray(other)).all()


def test_training_development_and_test_set_differ():
    dataset = draw_dataset(jax.random.key(0), 10, 1, 10)
    train, dev, test = (np.asarray(examples.digits) for examples in dataset)
    assert len(train) == len(dev) == len(test) == 100
    assert (train != dev).any() and (train != test).any() and (dev != test).any()


def test_overlap_counts_the_test_sequences_that_are_in_the_training_set():
    for length, splits in textbook_splits((3, 5, 20)):
        seen = {tuple(row) for row in splits.train.digits.tolist()}
        by_hand = sum(tuple(row) in seen for row in splits.test.digits.tolist())
        assert by_hand > 0 or length == 20
        assert splits.overlap == by_hand
        assert int(overlap(pad_splits(splits, 20))) == by_hand


def test_batches_are_in_file_order_and_the_last_one_is_kept():
    examples = draw_examples(jax.random.key(0), 5, 3, 5)
    batches = to_batches(examples, 8)
    assert batches.digits.shape == (38, 8, 5)
    flat = np.asarray(batches.digits).reshape(-1, 5)
    assert (flat[:300] == np.asarray(examples.digits)).all()
    assert (np.asarray(batches.labels).ravel()[:300] == np.asarray(examples.labels)).all()
    assert np.asarray(batches.weights[:37]) == pytest.approx(1 / 8)
    assert np.asarray(batches.weights[37]) == pytest.approx([1 / 4] * 4 + [0] * 4)


@pytest.mark.parametrize(("number", "batch_size"), [(100, 8), (96, 8), (5, 8), (7, 1)])
def test_weights_give_the_mean_of_the_batch_means(number, batch_size):
    losses = np.random.default_rng(0).random(number)
    means = [losses[i : i + batch_size].mean() for i in range(0, number, batch_size)]
    weighted = float(losses @ batch_mean_weights(number, batch_size))
    assert weighted == pytest.approx(np.mean(means), rel=1e-6)


@pytest.mark.parametrize(("length", "multiplicity"), [(2, 1), (0, 1), (-5, 3), (3, 0), (3, -1)])
def test_digit_sum_is_not_defined_for_short_lengths_and_no_examples(length, multiplicity):
    with pytest.raises(UserError):
        digit_sum(length, multiplicity, np.random.RandomState(0))


def test_files_are_padded_as_drawn_examples_are():
    sequences = Sequences(np.array([[1, 2, 3]], np.int8), np.array([3], np.int32))
    padded = pad_splits(Splits(sequences, sequences, sequences), 5).dev
    assert padded.digits.tolist() == [[PADDING, PADDING, 1, 2, 3]]


@pytest.mark.parametrize(
    ("length", "multiplicity", "says"),
    [
        (2, 3, "at least 3 positions, got length 2"),
        (3, 0, "multiplicity must be at least 1, got 0"),
        (7, 1, "length 7 does not fit into max_length 5"),
    ],
)
def test_impossible_sizes_are_refused(length, multiplicity, says):
    with pytest.raises(ValueError, match=says):
        draw_dataset(jax.random.key(0), length, multiplicity, 5)
