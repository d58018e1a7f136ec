"""DigitSum, drawn as arrays: the rules of the data, and batches of it."""

import jax
import numpy as np
import pytest

from srn_jax.ensemble.sweep import pad_splits
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import Sequences, Splits, digit_sum, textbook_splits
from srn_jax.tasks import DigitSum
from srn_jax.tasks.task import PADDING, batch_weights, overlap, to_batches


def draw_set(length=7, multiplicity=3, seed=0):
    return DigitSum().draw_set(jax.random.key(seed), multiplicity, length, length)


@pytest.mark.parametrize(("length", "multiplicity"), [(3, 1), (4, 2), (7, 3), (35, 3)])
def test_examples_are_all_pairs_in_order_with_at_most_one_digit_after_them(length, multiplicity):
    digits, sums = map(np.asarray, draw_set(length, multiplicity))
    pairs = [(a, b) for a in range(10) for b in range(10) for _ in range(multiplicity)]
    assert digits[:, :2].tolist() == [list(pair) for pair in pairs]
    assert sums.tolist() == [a + b for a, b in pairs]
    assert ((digits[:, 2:] != 0).sum(axis=1) <= 1).all()
    assert digits.min() >= 0 and digits.max() <= 9


def test_the_digit_and_its_position_are_uniform():
    digits = np.asarray(draw_set(6, 200).inputs)  # 20,000 examples
    rows, positions = np.nonzero(digits[:, 2:])
    assert len(rows) / len(digits) == pytest.approx(0.9, abs=0.01)  # the digit 0 shows nowhere
    for values, kinds in ((positions, 4), (digits[rows, positions + 2] - 1, 9)):
        shares = np.bincount(values, minlength=kinds) / len(values)
        assert shares == pytest.approx(1 / kinds, abs=0.01)


def test_fresh_examples_are_of_all_pairs_alike():
    digits, sums = map(np.asarray, DigitSum().draw(jax.random.key(0), 20_000, 6, 6))
    assert (digits[:, 0] + digits[:, 1] == sums).all()
    shares = np.bincount(digits[:, 0] * 10 + digits[:, 1], minlength=100) / len(digits)
    assert shares == pytest.approx(0.01, abs=0.003)


def test_overlap_counts_the_test_sequences_that_are_in_the_training_set():
    for length, splits in textbook_splits((3, 5, 20)):
        seen = {tuple(row) for row in splits.train.digits.tolist()}
        by_hand = sum(tuple(row) in seen for row in splits.test.digits.tolist())
        assert by_hand > 0 or length == 20
        assert splits.overlap == by_hand
        assert int(overlap(pad_splits(splits, 20))) == by_hand


def test_batches_are_in_file_order_and_the_last_one_is_kept():
    examples = draw_set(5)
    batches = to_batches(examples, 8)
    assert batches.inputs.shape == (38, 8, 5)
    flat = np.asarray(batches.inputs).reshape(-1, 5)
    assert (flat[:300] == np.asarray(examples.inputs)).all()
    assert (np.asarray(batches.targets).ravel()[:300] == np.asarray(examples.targets)).all()
    assert np.asarray(batches.weights[:37]) == pytest.approx(1 / 8)
    assert np.asarray(batches.weights[37]) == pytest.approx([1 / 4] * 4 + [0] * 4)


@pytest.mark.parametrize(("number", "batch_size"), [(100, 8), (96, 8), (5, 8), (7, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights_give_the_mean_over_batches_of_their_losses(number, batch_size, reduction):
    losses = np.random.default_rng(0).random(number)
    batches = [losses[i : i + batch_size] for i in range(0, number, batch_size)]
    expected = np.mean([getattr(np, reduction)(batch) for batch in batches])
    weighted = float(losses @ batch_weights(number, batch_size, reduction))
    assert weighted == pytest.approx(expected, rel=1e-6)
    examples = draw_set(5)
    weights = to_batches(examples, batch_size, reduction).weights
    assert float(weights.sum()) == pytest.approx(300 if reduction == "sum" else len(weights), 1e-5)


@pytest.mark.parametrize(("length", "multiplicity"), [(2, 1), (0, 1), (-5, 3), (3, 0), (3, -1)])
def test_digit_sum_is_not_defined_for_short_lengths_and_no_examples(length, multiplicity):
    with pytest.raises(UserError):
        digit_sum(length, multiplicity, np.random.RandomState(0))


def test_files_are_padded_as_drawn_examples_are():
    sequences = Sequences(np.array([[1, 2, 3]], np.int8), np.array([3], np.int32))
    padded = pad_splits(Splits(sequences, sequences, sequences), 5).dev
    assert padded.inputs.tolist() == [[PADDING, PADDING, 1, 2, 3]]
