"""Claims about means, intervals and the memory span, checked by hand and against SciPy."""

import dataclasses
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats

from srn_jax.analysis.results import Histories, Results
from srn_jax.analysis.summary import (
    RESAMPLED_AT_ONCE,
    RESAMPLES,
    crossings,
    explosions,
    holm,
    interquartile_mean,
    mean_interval,
    memory_span,
    paired_difference,
    resampled_means,
    sign_flip_p_value,
    summarise,
    wilson_interval,
)

NAN = float("nan")


def results_of(scores, diverged=None, seeds=None):
    """Results of `{length: test accuracies}`; the best dev accuracy is 0.1 higher."""
    length = np.concatenate([np.full(len(row), length) for length, row in scores.items()])
    seed = np.concatenate(
        [np.arange(len(row)) if seeds is None else seeds for row in scores.values()]
    )
    test = np.concatenate([np.asarray(row, float) for row in scores.values()])
    rest = np.zeros(test.size)
    return Results(
        length=length,
        seed=seed,
        best_dev_accuracy=test + 0.1,
        best_step=np.where(np.isnan(test), -1, 100),
        dev_loss=rest,
        test_accuracy=test,
        test_loss=rest,
        final_train_loss=rest,
        overlap=np.zeros(test.size, int),
        diverged=np.isnan(test) if diverged is None else np.asarray(diverged),
    )


def no_results():
    """Results of nothing at all."""
    full = results_of({5: [0.5]})
    return Results(**{f.name: getattr(full, f.name)[:0] for f in dataclasses.fields(full)})


def ends(interval):
    """An interval as a pair, for comparisons."""
    return interval.low, interval.high


def test_a_summary_agrees_with_a_calculation_by_hand():
    (summary,) = summarise(results_of({5: [0.2, 0.4, 0.6, 0.8]}))
    assert (summary.length, summary.seeds, summary.scored, summary.diverged) == (5, 4, 4, 0)
    assert summary.mean == pytest.approx(0.5)
    assert summary.median == pytest.approx(0.5)
    assert summary.deviation == pytest.approx(np.sqrt(0.2 / 3))  # squares .09 + .01 + .01 + .09
    assert summary.interquartile_mean == pytest.approx(0.5)
    assert ends(summary.spread) == pytest.approx((0.23, 0.77))  # 0.15 of the way from end to next
    assert summary.share_above == 0.5
    assert summary.dev_mean == pytest.approx(0.6)


def test_lengths_come_shortest_first_whatever_their_order():
    scores = {35: [0.1, 0.2], 5: [0.8, 0.9], 20: [0.5, 0.6]}
    assert [summary.length for summary in summarise(results_of(scores))] == [5, 20, 35]


def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap():
    scores = np.random.default_rng(3).beta(3, 2, size=24)
    theirs = scipy.stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=50_000,
        method="percentile",
        random_state=np.random.default_rng(4),
    ).confidence_interval
    assert ends(mean_interval(scores)) == pytest.approx((theirs.low, theirs.high), abs=0.003)


@pytest.mark.no_jax
def test_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(5)
    draws = np.round(rng.normal(0.58, 0.16, size=(200, 32)), 2)
    intervals = [mean_interval(row) for row in draws]
    covered = np.mean([interval.low <= 0.58 <= interval.high for interval in intervals])
    assert 0.89 <= covered <= 0.99  # 3 standard errors around the 0.94 of 32 seeds


def test_intervals_are_the_same_on_every_call():
    scores = np.random.default_rng(6).uniform(size=16)
    assert mean_interval(scores) == mean_interval(scores.copy())


def test_resamples_drawn_in_portions_are_fair():
    values = np.random.default_rng(7).uniform(size=(1000, 1))
    assert values.size * RESAMPLES > RESAMPLED_AT_ONCE
    means = resampled_means(values)
    assert means.shape == (RESAMPLES, 1)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / 1000)
    assert means.std() == pytest.approx(values.std() / np.sqrt(1000), rel=0.05)


def test_columns_of_a_seed_are_resampled_together():
    first = np.random.default_rng(8).uniform(size=20)
    means = resampled_means(np.stack([first, 1 - first], axis=1))
    np.testing.assert_allclose(means.sum(axis=1), 1.0)


def test_a_resample_without_a_score_of_a_column_has_no_mean_there():
    means = resampled_means(np.array([[0.5, 0.5], [0.5, NAN]]))
    assert not np.isnan(means[:, 0]).any()
    assert np.isnan(means[:, 1]).mean() == pytest.approx(0.25, abs=0.02)


def test_one_seed_has_no_interval_rather_than_one_of_no_width():
    (summary,) = summarise(results_of({5: [0.8]}))
    assert summary.mean == 0.8
    assert np.isnan(summary.deviation)
    for interval in (summary.interval, summary.spread, summary.dev_interval):
        assert np.isnan(ends(interval)).all()


@pytest.mark.parametrize("score", [0.0, 0.37, 1.0])
def test_seeds_that_agree_give_an_interval_of_no_width(score):
    (summary,) = summarise(results_of({5: [score] * 8}))
    assert ends(summary.interval) == pytest.approx((score, score))
    assert summary.deviation == pytest.approx(0)
    assert summary.interquartile_mean == pytest.approx(score)


def test_a_diverged_seed_without_a_score_is_counted_but_not_averaged():
    (summary,) = summarise(results_of({5: [0.6, NAN, 0.8, NAN]}))
    assert (summary.seeds, summary.scored, summary.diverged) == (4, 2, 2)
    assert summary.mean == pytest.approx(0.7)
    assert (summary.share_diverged, summary.share_above) == (0.5, 0.5)


def test_a_diverged_seed_keeps_the_score_of_its_best_parameters():
    (summary,) = summarise(results_of({5: [0.6, 0.8]}, diverged=[True, False]))
    assert (summary.scored, summary.diverged) == (2, 1)


def test_a_length_at_which_every_seed_diverged_has_no_mean():
    (summary,) = summarise(results_of({5: [NAN, NAN, NAN]}))
    assert (summary.seeds, summary.scored, summary.share_diverged) == (3, 0, 1.0)
    assert np.isnan([summary.mean, summary.median, *ends(summary.interval)]).all()
    assert (summary.share_above, summary.share_above_interval.low) == (0.0, 0.0)


def test_no_results_have_no_summaries():
    assert summarise(no_results()) == ()
    assert np.isnan(memory_span(no_results()).length)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 101])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).uniform(size=count)
    assert interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_the_interquartile_mean_ignores_the_outer_quarters():
    assert interquartile_mean(np.array([0.0, 0.5, 0.6, 100.0])) == pytest.approx(0.55)


@pytest.mark.parametrize("successes, trials", [(0, 1), (1, 1), (0, 8), (3, 8), (8, 8), (517, 1000)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(successes, trials):
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    ours = wilson_interval(successes, trials)
    assert ends(ours) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low < ours.high <= 1


def test_pairing_takes_out_what_the_seeds_have_in_common():
    base = np.random.default_rng(9).uniform(0.2, 0.7, size=16)
    difference = paired_difference(results_of({5: base + 0.1}), results_of({5: base}))
    assert difference.mean == pytest.approx(0.1)
    assert ends(difference.interval) == pytest.approx((0.1, 0.1))
    assert difference.pairs == 16


def test_a_difference_is_over_the_shared_seeds_in_any_order():
    ours = results_of({5: [0.9, 0.5, 0.7]}, seeds=np.array([3, 1, 2]))
    theirs = results_of({5: [0.4, 0.2, 0.1]}, seeds=np.array([1, 7, 3]))
    difference = paired_difference(ours, theirs)
    assert difference.pairs == 2
    assert difference.mean == pytest.approx((0.8 + 0.1) / 2)


def test_a_pair_with_a_missing_score_is_left_out():
    difference = paired_difference(
        results_of({5: [0.9, NAN, 0.7]}), results_of({5: [0.5, 0.5, NAN]})
    )
    assert (difference.mean, difference.pairs) == (pytest.approx(0.4), 1)
    assert np.isnan(difference.interval.low)


@pytest.mark.parametrize("pairs", [2, 5, 13, 40])
def test_the_paired_p_value_is_scipys_permutation_test(pairs):
    differences = np.round(np.random.default_rng(pairs).normal(0.1, 0.2, pairs), 2)
    theirs = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9_999, rng=1
    )
    spread = 4 * np.sqrt(theirs.pvalue / 9_999) if pairs > 13 else 1e-12
    assert sign_flip_p_value(differences) == pytest.approx(theirs.pvalue, abs=spread)


def test_a_difference_of_nothing_and_one_pair_have_no_small_p_value():
    assert sign_flip_p_value(np.zeros(8)) == 1.0
    assert np.isnan(sign_flip_p_value(np.array([0.3])))
    assert sign_flip_p_value(np.full(8, 0.1)) == pytest.approx(2 / 2**8)


def test_holms_correction_agrees_with_a_calculation_by_hand():
    assert holm([0.01, 0.04, 0.03, NAN, 0.5]) == pytest.approx(
        [0.04, 0.09, 0.09, NAN, 0.5], nan_ok=True
    )
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_lengths_of_a_run_can_be_compared():
    results = results_of({5: [0.8, 0.9], 35: [0.3, 0.2]})
    difference = paired_difference(results.of_length(35), results.of_length(5))
    assert difference.mean == pytest.approx(-0.6)


def test_runs_without_a_common_seed_have_nothing_to_pair():
    difference = paired_difference(
        results_of({5: [0.5]}), results_of({5: [0.5]}, seeds=np.array([4]))
    )
    assert difference.pairs == 0 and np.isnan([difference.mean, difference.p_value]).all()


def test_the_memory_span_is_interpolated_where_the_mean_falls_to_the_threshold():
    scores = {30: [0.1, 0.1], 10: [0.8, 1.0], 20: [0.3, 0.3], 25: [0.8, 0.8]}  # 25 comes too late
    span = memory_span(results_of(scores))
    assert span.length == pytest.approx(10 + 10 * 0.4 / 0.6)
    assert (span.shortest, span.longest) == (10, 30)
    # the ends are the resamples of one seed only: from 0.8 or from 1.0 down to 0.3
    assert ends(span.interval) == pytest.approx((10 + 10 * 0.3 / 0.5, 10 + 10 * 0.5 / 0.7))


def test_a_threshold_that_is_met_exactly_ends_the_span():
    assert memory_span(results_of({5: [0.9, 0.9], 10: [0.5, 0.5]})).length == 10


def test_a_span_outside_the_lengths_measured_is_a_bound_and_not_a_number():
    low = memory_span(results_of({5: [0.4, 0.5], 10: [0.3, 0.2]}))
    assert low.length == -np.inf
    assert ends(low.interval) == (-np.inf, -np.inf)
    high = memory_span(results_of({5: [0.9, 0.8], 10: [0.7, 0.8]}))
    assert high.length == np.inf
    half = memory_span(results_of({5: [0.9, 0.9], 10: [0.2, 0.9]}))
    assert half.interval.high == np.inf
    assert 5 < half.interval.low < 10


def test_a_higher_threshold_never_lengthens_the_span():
    scores = np.random.default_rng(10).uniform(size=(7, 6)) - np.arange(7)[:, None] / 10
    results = results_of(dict(zip(range(5, 40, 5), scores, strict=True)))
    spans = [memory_span(results, threshold).length for threshold in np.linspace(0, 1, 21)]
    assert all(later <= earlier for earlier, later in pairwise(spans))


def test_a_length_without_scores_is_passed_over():
    span = memory_span(results_of({5: [0.9, 0.7], 10: [NAN, NAN], 15: [0.2, 0.2]}))
    assert span.length == pytest.approx(5 + 10 * 0.3 / 0.6)


def test_a_seed_without_scores_leaves_the_span_as_it_was():
    with_it = memory_span(results_of({5: [0.9, 0.7, NAN], 10: [0.2, 0.3, NAN]}))
    without = memory_span(results_of({5: [0.9, 0.7], 10: [0.2, 0.3]}))
    assert with_it == without


def test_one_seed_has_a_span_without_an_interval():
    span = memory_span(results_of({5: [0.9], 10: [0.1]}))
    assert span.length == pytest.approx(7.5)
    assert np.isnan(span.interval.low)


def test_crossings_pass_over_missing_scores():
    curves = np.array([[NAN, 0.9, 0.1], [0.9, NAN, 0.1], [NAN, NAN, 0.1], [NAN, NAN, NAN]])
    found = crossings(np.array([5, 10, 15]), curves, 0.5)
    np.testing.assert_allclose(found, [12.5, 10.0, -np.inf, NAN])


def test_importing_the_statistics_does_not_wake_jax_or_matplotlib():
    code = (
        "import sys, srn_jax.analysis.summary; "
        "print({'jax', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr


def histories_of_norms(norms):
    """Histories of one length whose gradient of W has these norms `[seed, step]`, of U half."""
    norms = np.array(norms, np.float32)
    seeds = np.arange(len(norms))
    steps = {"train_loss": norms, "gradient_norm.W": norms, "gradient_norm.U": norms / 2}
    none = np.zeros((len(norms), 0), np.float32)
    evaluations = {"dev_loss": none, "dev_accuracy": none}
    return Histories(np.full(seeds.size, 20), seeds, np.array([]), steps, evaluations, 2)


def test_gradients_explode_over_1000_and_may_leave_a_network_dead():
    norms = [
        [13, 9000, 0, 0],
        [13, 40, 1000, 0],  # the last of the epoch alone is none
        [13, np.nan, np.nan, np.nan],
        [13, 40, 0, 0],
        [13, 1001, 5, 5],
    ]
    (found,) = explosions(histories_of_norms(norms))
    assert (found.length, found.seeds) == (20, 5)
    assert (found.share_exploded, found.share_dead) == (0.6, 0.4)
    assert found.exploded_interval == wilson_interval(3, 5)
    assert found.dead_interval == wilson_interval(2, 5)


def test_without_the_probe_nothing_is_known_of_explosions():
    histories = histories_of_norms([[1, 2]])
    bare = dataclasses.replace(histories, steps={"train_loss": histories.train_loss})
    assert explosions(bare) == ()
