"""Claims about means, intervals and the memory span, by hand, by SciPy and by simulation."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from made_up import GOOD, NAN, histories_of, results_of, variant_of

from srn_jax.analysis import stats
from srn_jax.analysis.stats import (
    SHARE,
    Estimate,
    Span,
    compare,
    crossing,
    explosions,
    holm,
    mean_estimate,
    memory_span,
    paired_difference,
    share_estimate,
    sign_flip,
    summarise,
    unscored,
)
from srn_jax.config import Facts

RECORDED = Path(__file__).parent.parent / "data" / "srn_256_seeds.csv"


def ends(estimate):
    """The interval as a pair, for comparisons."""
    return estimate.low, estimate.high


@pytest.fixture(scope="module")
def population():
    """Right answers of 100, `[seed, length]`, of 256 SRNs, and the lengths."""
    lengths, *rows = csv.reader(RECORDED.read_text().splitlines())
    table = np.array(rows, float) / 100
    assert table.shape == (256, 7)
    assert abs(scipy.stats.skew(table[:, -1])) > 0.5  # of length 35
    return np.array(lengths, float), table


# Seeds, the repetitions, and the least and the largest share of intervals that hold the truth.
COVERAGE = [
    (2, 4000, 0.90, 1.0),
    (4, 4000, 0.90, 0.97),
    (8, 4000, 0.92, 0.97),
    (64, 4000, 0.94, 0.96),
]
SLACK = 0.005  # of a share out of so many repetitions, and of ties


@pytest.mark.parametrize("seeds, times, least, most", COVERAGE)
def test_intervals_of_means_and_differences_hold_the_truth_as_often_as_they_say(
    population, seeds, times, least, most
):
    _, table = population
    differences = table[:, 1:] - table[:, :-1]
    for columns, limits in ((table, SHARE), (differences, stats.NO_LIMITS)):
        for truth, column in zip(columns.mean(axis=0), columns.T, strict=True):
            rng = np.random.default_rng(seeds)
            drawn = rng.choice(column, size=(seeds, times))
            _, low, high = stats.mean_estimates(drawn, limits)
            said = ~np.isnan(low)  # two seeds that agree say nothing
            held = np.mean((low <= truth) & (truth <= high), where=said)
            assert least - SLACK <= held <= most + SLACK
            assert said.mean() > 0.85


@pytest.mark.parametrize(
    "seeds, least, most", [(3, 0.90, 0.985), (4, 0.90, 0.985), (8, 0.92, 0.98)]
)
@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.7])
def test_intervals_of_the_span_hold_the_truth_as_often_as_they_say(
    population, seeds, least, most, threshold
):
    lengths, table = population
    truth = crossing(lengths, table.mean(axis=0), threshold)
    rng = np.random.default_rng(seeds)
    drawn = [table[rng.integers(len(table), size=seeds)] for _ in range(1000)]
    ends = [stats.span_ends(lengths, scores, threshold)[1:] for scores in drawn]
    held = np.mean([low <= truth <= high for low, high in ends])
    assert least - 0.01 <= held <= most + 0.005


def test_the_interval_of_a_mean_is_scipys_students_t():
    scores = np.random.default_rng(3).beta(3, 2, size=24)
    theirs = scipy.stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    ours = mean_estimate(np.append(scores, NAN))
    assert (ours.value, *ends(ours)) == pytest.approx((scores.mean(), theirs.low, theirs.high))


@pytest.mark.parametrize("scores", [[0.8], [0.8, 0.8], [0.3] * 3, [NAN, 0.8], [], [NAN]])
def test_what_cannot_be_said_with_so_few_seeds_is_not_said(scores):
    assert np.isnan(ends(mean_estimate(scores, SHARE))).all()
    assert "to" not in f"{mean_estimate(scores):.3f}"


@pytest.mark.parametrize(
    "estimate, spec, text",
    [
        (Estimate(0.7449, 0.73, 0.76), ".3f", "0.745 (0.730 to 0.760)"),
        (Estimate(0.5), ".2f", "0.50"),
        (Estimate(NAN, 0.1, 0.2), ".3f", "-"),
        (Estimate(0.1, -0.0001, 0.2), "+.3f", "+0.100 (0.000 to +0.200)"),
        (Estimate(-0.00001, -0.1, 0.0), "+.2f", "0.00 (-0.10 to 0.00)"),
        (Span(22.64, -np.inf, np.inf, 0.5, 5, 35), ".1f", "22.6 (< 5 to > 35)"),
        (Span(np.inf, NAN, NAN, 0.5, 5, 35), ".1f", "> 35"),
        (Span(NAN), ".1f", "-"),
    ],
)
def test_an_estimate_reads(estimate, spec, text):
    assert format(estimate, spec) == text


def test_variants_of_a_table_are_summarised_apart():
    each = {"srn": results_of({5: [0.2, 0.4], 7: [0.1, 0.3]}), "lstm": results_of({5: [0.6, 0.8]})}
    table = pd.concat([own.assign(variant=name) for name, own in each.items()])
    found = summarise(table)
    assert found["variant"].tolist() == ["srn", "srn", "lstm"] and found.columns[0] == "variant"
    assert found["test_accuracy"].tolist() == pytest.approx([0.3, 0.2, 0.7])
    assert found["seeds"].tolist() == [2, 2, 2]


def test_a_summary_agrees_with_a_calculation_by_hand():
    (row,) = summarise(results_of({5: [0.2, 0.4, 0.6, 0.8]})).to_dict("records")
    assert (row["length"], row["seeds"], row["scored"], row["diverged"]) == (5, 4, 4, 0)
    assert row["test_accuracy"] == pytest.approx(0.5)
    assert row["test_accuracy_high"] == pytest.approx(0.5 + 3.182446 * np.sqrt(0.2 / 3 / 4))
    assert row["median"] == pytest.approx(0.5)
    assert row["deviation"] == pytest.approx(np.sqrt(0.2 / 3))  # squares .09 + .01 + .01 + .09
    assert (row["spread_low"], row["spread_high"]) == pytest.approx((0.23, 0.77))
    assert row["share_above"] == 0.5
    assert row["best_dev_accuracy"] == pytest.approx(0.6)
    assert row["test_loss"] == pytest.approx(0.5)
    assert (row["overlap"], row["overlap_low"], row["overlap_high"]) == (1.5, 0, 3)


def test_a_seed_without_a_score_is_counted_but_not_averaged():
    table = results_of({35: [NAN] * 3, 5: [0.6, NAN, 0.8, NAN]}, [True] * 3 + [False, True] * 2)
    assert unscored(table) == 0
    assert unscored(table.assign(diverged=False)) == 5
    first, second = summarise(table).to_dict("records")
    assert (first["length"], first["seeds"], first["scored"], first["diverged"]) == (5, 4, 2, 2)
    assert first["test_accuracy"] == pytest.approx(0.7) and first["share_above"] == 0.5
    assert (second["scored"], second["share_above"]) == (0, 0)
    assert np.isnan([second["test_accuracy"], second["median"], second["spread_low"]]).all()


@pytest.mark.parametrize("successes, trials", [(0, 1), (1, 1), (0, 8), (3, 8), (8, 8), (517, 1000)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(successes, trials):
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    ours = share_estimate(successes, trials)
    assert ends(ours) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low < ours.high <= 1


def test_differences_are_paired_over_shared_seeds_in_any_order():
    base = np.array([0.3, 0.5, 0.7, 0.6, 0.2])
    noise = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
    ours = results_of({5: [*(base + 0.1 + noise), 0.9]}, seeds=[3, 1, 2, 5, 4, 9])
    theirs = results_of({5: [*base[::-1], NAN]}, seeds=[4, 5, 2, 1, 3, 9])
    found = paired_difference(ours, theirs)
    assert (found.pairs, found.value) == (5, pytest.approx(0.1))
    wide = 2.776445 * noise.std(ddof=1) / np.sqrt(5)
    assert ends(found) == pytest.approx((0.1 - wide, 0.1 + wide))
    assert found.p_value == 2 / 2**5
    nothing = paired_difference(ours, results_of({5: [0.4]}, seeds=[17]))
    assert nothing.pairs == 0 and np.isnan([nothing.value, nothing.p_value]).all()


@pytest.mark.parametrize("pairs", [2, 5, 13, 40])
def test_the_paired_p_value_is_scipys_permutation_test(pairs):
    differences = np.round(np.random.default_rng(pairs).normal(0.1, 0.2, pairs), 2)
    theirs = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9_999, rng=1
    )
    spread = 4 * np.sqrt(theirs.pvalue / 9_999) if pairs > 13 else 1e-12
    assert sign_flip(differences) == pytest.approx(theirs.pvalue, abs=spread)


def test_a_difference_of_nothing_and_one_pair_have_no_small_p_value():
    assert sign_flip(np.zeros(8)) == 1.0
    assert np.isnan(sign_flip(np.array([0.3])))


def test_holms_correction_agrees_with_a_calculation_by_hand():
    corrected = holm([0.01, 0.04, 0.03, NAN, 0.5])
    assert corrected == pytest.approx([0.04, 0.09, 0.09, NAN, 0.5], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_variants_are_compared_length_by_length_with_one_of_them():
    better = results_of({5: [0.8, 0.9, 0.9, 0.9], 20: [0.5] * 4})
    frame = compare({"a": variant_of(GOOD), "b": variant_of(better)}, "a")
    assert frame[["length", "variant"]].values.tolist() == [
        [5, "a"],
        [5, "b"],
        [20, "b"],
        [35, "a"],
    ]
    assert frame["pairs"].tolist() == [0, 4, 0, 0]
    assert frame["difference"][1] == pytest.approx(0.075)
    assert frame["p_value"][1] == frame["corrected_p_value"][1] == 0.25
    other = {"a": variant_of(GOOD), "b": variant_of(better, multiplicity=5)}
    assert compare(other, "a")["pairs"].sum() == 0
    errors = [variant_of(table, facts=Facts(better="loss")) for table in (GOOD, better)]
    frame = compare(dict(zip("ab", errors, strict=True)), "a")
    assert frame["difference"][1] == pytest.approx(-0.075)  # of the loss


def test_the_memory_span_is_interpolated_where_the_mean_falls_to_the_threshold():
    scores = {30: [0.1, 0.1], 10: [0.8, 1.0], 20: [0.3, 0.3], 25: [0.8, 0.8]}  # 25 comes too late
    span = memory_span(results_of(scores))
    assert span.value == pytest.approx(10 + 10 * 0.4 / 0.6)
    assert (span.shortest, span.longest) == (10, 30)
    assert memory_span(results_of({5: [0.9, 0.9], 10: [0.5, 0.5]})).value == 10  # met exactly
    scores = {5: [0.9, 0.7, NAN], 10: [NAN] * 3, 15: [0.2, 0.2, NAN]}  # passed over
    assert memory_span(results_of(scores)).value == pytest.approx(5 + 10 * 0.3 / 0.6)


def test_the_interval_of_the_span_is_where_the_mean_may_be_the_threshold():
    table = np.random.default_rng(1).normal([0.9, 0.6, 0.2], 0.1, (12, 3))
    span = memory_span(results_of(dict(zip((5, 15, 20), table.T, strict=True))))
    assert 5 < span.low < span.value < span.high < 20
    for length, inside in (
        (span.low, 1),
        (span.low - 0.3, 0),
        (span.high, 1),
        (span.high + 0.3, 0),
    ):
        mean = mean_estimate([np.interp(length, (5, 15, 20), row) for row in table])
        assert (mean.low - 0.005 <= 0.5 <= mean.high + 0.005) == inside


def test_a_span_outside_the_lengths_measured_is_a_bound_and_not_a_number():
    low = memory_span(results_of({5: [0.4, 0.41, 0.42], 10: [0.3, 0.2, 0.25]}))
    assert low.value == -np.inf and ends(low) == (-np.inf, -np.inf)
    high = memory_span(results_of({5: [0.9, 0.8, 0.85], 10: [0.7, 0.8, 0.75]}))
    assert (high.value, high.high) == (np.inf, np.inf)
    for scores in ({5: [0.9], 10: [0.1]}, {5: [0.8, 1.0], 10: [0.2, 0.0]}):  # too few to say more
        few = memory_span(results_of(scores))
        assert few.value == pytest.approx(7.5) and np.isnan(ends(few)).all()
    assert np.isnan(memory_span(results_of({5: [NAN]})).value)


def test_gradients_explode_over_1000_and_may_leave_a_network_dead():
    results = results_of({20: [0.5] * 6}, diverged=[False, False, True, False, False, False])
    norms = [
        [13, 9000, 0, 0],
        [13, 40, 1000, 0],  # the last of the epoch alone is none
        [13, NAN, NAN, NAN],
        [13, 40, 0, 0],
        [13, 1001, 5, 5],
        [13, 40, NAN, NAN],  # of steps to come
    ]
    norms = np.array(norms, np.float32)
    probes = {"gradient_norm.W": norms, "gradient_norm.U": norms / 2}
    histories = histories_of(results, 4, 2, probes)
    (row,) = explosions(histories, results).to_dict("records")
    assert (row["length"], row["seeds"], row["exploded"], row["dead"]) == (20, 6, 0.5, 2 / 6)
    assert (row["dead_low"], row["dead_high"]) == ends(share_estimate(2, 6))
    assert explosions(histories_of(results), results).empty and explosions(None, results).empty
