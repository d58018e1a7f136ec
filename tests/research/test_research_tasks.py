"""The tasks of research are what their papers say, each example by itself and all by statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from srn_jax.errors import UserError
from srn_jax.tasks.edition_2026 import DigitSum2026, FirstTokens2026
from srn_jax.tasks.parity import Parity, ParityEverywhere, VariableParity
from srn_jax.tasks.recall import AssociativeRecall, Copying, SelectiveCopying, VariableCopying
from srn_jax.tasks.task import blanked, facts_of

BLANK, MARK = 8, 9
SIGNIFICANT = 1e-4  # of a fair generator one test in 10,000 fails, and keys are fixed


def drawn(task, number, length, width=None, seed=0):
    """Examples as a run has them, in NumPy."""
    width = length if width is None else width
    examples = blanked(task, task.draw(jax.random.key(seed), number, length, width), length)
    return [None if part is None else np.asarray(part) for part in examples]


def rows_of(task, number, length, width=None):
    """(inputs, targets, weights) of each sequence, without its padding."""
    inputs, targets, lengths, weights = drawn(task, number, length, width)
    lengths = np.full(number, length) if lengths is None else lengths
    assert np.all((inputs == -1).sum(1) == inputs.shape[1] - lengths)
    for n, own in enumerate(lengths):
        every = targets.shape == inputs.shape
        asked = np.ones(own) if weights is None else weights[n, -own:]
        yield inputs[n, -own:], targets[n, -own:] if every else targets[n], asked


def uniform(values, low, high):
    """Whether whole numbers low..high - 1 come equally often."""
    counts = np.bincount(np.ravel(values).astype(int) - low, minlength=high - low)
    return len(counts) == high - low and stats.chisquare(counts).pvalue > SIGNIFICANT


@pytest.mark.parametrize("task", [Copying(), VariableCopying()], ids=lambda t: type(t).__name__)
def test_copying_shows_ten_symbols_a_mark_behind_the_delay_and_asks_everywhere(task):
    symbols, delays = [], []
    for inputs, targets, weights in rows_of(task, 2000, 29, 31):
        delay, shown = len(inputs) - 20, inputs[:10]
        expected = [*shown, *[BLANK] * (delay - 1), MARK, *[BLANK] * 10]
        np.testing.assert_array_equal(inputs, expected)
        np.testing.assert_array_equal(targets, [*[BLANK] * (delay + 10), *shown])
        assert np.all(weights == 1)
        symbols.append(shown)
        delays.append(delay)
    assert uniform(symbols, 0, 8)
    assert uniform(delays, 1, 10) if type(task) is VariableCopying else set(delays) == {9}


def test_accuracy_of_copying_counts_the_symbols_alone_and_forgetting_them_costs_10_ln_8_by_length():
    _, targets, _, weights = drawn(Copying(), 500, 30, 33)
    counts = np.asarray(Copying().counts(targets, weights))
    assert np.all(counts[:, :-10] == 0) and np.all(counts[:, -10:])
    forgotten = np.full((500, 33, 9), -1e9)  # the logits of who answers blanks and then anything
    forgotten[:, :-10, BLANK], forgotten[:, -10:, :8] = 0, 0
    losses = np.asarray(Copying().loss(jnp.asarray(forgotten), targets.astype(int)))
    loss = np.sum(losses * weights) / np.sum(weights)
    assert loss == pytest.approx(10 * np.log(8) / 30, rel=1e-5)
    assert np.isnan(facts_of(Copying()).chance_loss)  # so figures draw no line


def test_selective_copying_asks_in_order_for_symbols_at_any_places():
    symbols, places = [], []
    for inputs, targets, _ in rows_of(SelectiveCopying(), 3000, 26, 30):
        assert np.all(inputs[-10:] == MARK)
        where = np.flatnonzero(inputs[:16] != BLANK)
        assert len(where) == 10
        np.testing.assert_array_equal(inputs[where], targets)
        symbols.append(targets)
        places.append(where)
    assert uniform(symbols, 0, 8)
    chosen = np.zeros((3000, 16))
    np.put_along_axis(chosen, np.array(places), 1, axis=1)
    # Without repetition a place is chosen with 10/16, and two of them together with 10/16 * 9/15.
    together = chosen.T @ chosen / 3000
    error = np.sqrt(0.25 / 3000)
    assert np.all(np.abs(np.diag(together) - 10 / 16) < 4 * error)
    assert np.all(np.abs(together[np.triu_indices(16, 1)] - 10 / 16 * 9 / 15) < 4.5 * error)


def test_associative_recall_asks_for_the_value_of_each_key_once():
    keys, values, slots = [], [], []
    length, pairs = 40, 4
    for inputs, targets, weights in rows_of(AssociativeRecall(), 4000, length, 44):
        shown = dict(inputs[: 2 * pairs].reshape(pairs, 2).tolist())
        assert len(shown) == len(set(shown.values())) == pairs
        where = np.flatnonzero(weights)
        assert set(np.unique(weights)) == {0, 1} and np.all(where % 2 == 0)
        assert np.all(where >= 2 * pairs) and sorted(inputs[where]) == sorted(shown)
        assert [shown[key] for key in inputs[where]] == targets[where].tolist()
        rest = np.setdiff1d(np.arange(2 * pairs, length), where)
        assert np.all(inputs[rest] == 0)
        keys.append(list(shown))
        values.append(list(shown.values()))
        place = {key: (at - 2 * pairs) // 2 for at, key in zip(where, inputs[where], strict=True)}
        slots.append([place[key] for key in shown])
    keys, values, slots = map(np.array, (keys, values, slots))
    assert all(uniform(keys[:, n], 1, 64) and uniform(values[:, n], 64, 128) for n in range(4))
    weights = np.arange(1, 17) ** (0.01 - 1)  # (length - 8) / 2 slots
    counts = np.bincount(slots[:, 0], minlength=16)
    assert stats.chisquare(counts, 4000 * weights / weights.sum()).pvalue > SIGNIFICANT
    rng = np.random.default_rng(0)  # the later keys, by NumPy's draw without repetition
    numpys = [rng.choice(16, 4, replace=False, p=weights / weights.sum()) for _ in range(4000)]
    for n in range(1, 4):
        table = [np.bincount(those[:, n], minlength=16) for those in (slots, np.array(numpys))]
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANT


def test_associative_recall_says_which_lengths_it_has():
    for length in (17, 128, 200):
        with pytest.raises(UserError, match=f"even.*got length {length}"):
            AssociativeRecall().check_length(length)
    AssociativeRecall().check_length(126)


def test_parity_is_the_number_of_ones_at_the_end_or_so_far():
    bits = []
    for inputs, target, _ in rows_of(Parity(), 500, 24, 26):
        assert target == inputs.sum() % 2 == Parity().right_answer(inputs)
        bits.append(inputs)
    assert uniform(bits, 0, 2)
    for inputs, targets, weights in rows_of(ParityEverywhere(), 50, 24, 26):
        np.testing.assert_array_equal(targets, [inputs[: t + 1].sum() % 2 for t in range(24)])
        assert np.all(weights == 1)


def test_parity_of_any_length_is_tested_on_the_longer_half_which_training_has_not_seen():
    task = VariableParity()
    inputs, targets, lengths, _ = drawn(task, 10_000, 40, 43)
    assert uniform(lengths, 1, 41)
    own = np.where(inputs < 0, 0, inputs)
    np.testing.assert_array_equal(targets, own.sum(1) % 2)
    test = blanked(task, task.draw_test(jax.random.key(1), 1, 40, 43), 40)
    assert len(test.inputs) == 1000 and uniform(test.lengths, 21, 41)
    seen = set(map(bytes, np.asarray(inputs)))
    assert not seen & set(map(bytes, np.asarray(test.inputs)))
    short = drawn(task, 1000, 40, 43, seed=2)[0]
    share = np.mean([bytes(row) in seen for row in short])
    assert share == pytest.approx(0.21, abs=0.04)  # what RESEARCH says of lengths 1..40


def test_the_digit_sum_of_2026_has_random_digits_everywhere_and_sums_the_first_two():
    digits, labels = [], []
    for inputs, target, _ in rows_of(DigitSum2026(), 3000, 10, 12):
        assert target == inputs[0] + inputs[1] == DigitSum2026().right_answer(inputs)
        digits.append(inputs)
        labels.append(target)
    assert all(uniform(np.array(digits)[:, n], 0, 10) for n in range(10))
    assert DigitSum2026().outputs == 19
    assert np.mean(np.array(labels) == 9) == pytest.approx(DigitSum2026().chance, abs=0.02)
    assert len(DigitSum2026().draw_set(jax.random.key(0), 6, 10, 10).inputs) == 3000


def test_first_tokens_of_2026_tell_the_label_and_the_others_nothing():
    lengths, labels, kinds, others = [], [], [], []
    for inputs, label, _ in rows_of(FirstTokens2026(), 3000, 45, 47):
        assert np.all((inputs[:3] >= 1) & (inputs[:3] <= 3) if label == 1 else
                      (inputs[:3] >= 4) & (inputs[:3] <= 6))  # fmt: skip
        lengths.append(len(inputs))
        labels.append(label)
        kinds.append(inputs[:3])
        others.append(inputs[3:])
    assert uniform(lengths, 35, 46) and uniform(labels, 0, 2) and uniform(kinds, 1, 7)
    assert uniform(np.concatenate(others), 7, 25)


TASKS = [
    (Copying(), 24), (VariableCopying(), 24), (SelectiveCopying(), 24), (AssociativeRecall(), 24),
    (Parity(), 9), (ParityEverywhere(), 9), (VariableParity(), 9), (DigitSum2026(), 9),
    (FirstTokens2026(), 24),
]  # fmt: skip


@pytest.mark.parametrize(("task", "length"), TASKS, ids=lambda t: type(t).__name__)
def test_examples_depend_neither_on_the_width_nor_on_whether_the_length_is_traced(task, length):
    narrow = drawn(task, 20, length)
    draw = jax.jit(lambda key, length: blanked(task, task.draw(key, 20, length, 30), length))
    wide = draw(jax.random.key(0), length)
    for one, other in zip(narrow, wide, strict=True):
        assert (one is None) == (other is None)
        if one is not None and one.shape[1:] == (length,):
            np.testing.assert_array_equal(one, other[:, -length:])
            assert np.all(other[:, :-length] == (-1 if one is narrow[0] else 0))
        elif one is not None:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("task", "length"), TASKS, ids=lambda t: type(t).__name__)
def test_other_keys_draw_other_examples_and_test_sets_are_unseen(task, length):
    length = max(length, 24)
    assert task.examples >= 500
    train, test = (
        drawn(task, number, length, seed=seed)[0] for seed, number in enumerate([5000, 500])
    )
    shared = set(map(bytes, train)) & set(map(bytes, test))
    assert len(shared) == 0 or type(task) is VariableParity
