"""Claims about the text of tables and reports."""

import numpy as np
import pytest

from srn_jax.analysis.report import (
    comparison_report,
    comparison_table,
    duration,
    listed,
    plain_table,
    results_table,
    run_report,
    span_text,
)
from srn_jax.analysis.results import Results
from srn_jax.analysis.summary import Interval, MemorySpan

RUN_INFO = {
    "command": ["python", "scripts/run.py", "--out", "my runs"],
    "device": "1 x NVIDIA H200",
    "versions": {"jax": "0.10.2", "flax": "0.12.0"},
    "seconds": 3725.0,
    "config": {"lengths": (5, 35), "seeds": tuple(range(32)), "experiment": {"epochs": 500}},
}


def results_of(scores, first_seed=0):
    """Results of `{length: test accuracies}`; NaN is a seed that diverged without a score."""
    length = np.concatenate([np.full(len(row), length) for length, row in scores.items()])
    test = np.concatenate([np.asarray(row, float) for row in scores.values()])
    rest = np.zeros(test.size)
    return Results(
        length=length,
        seed=np.concatenate([first_seed + np.arange(len(row)) for row in scores.values()]),
        best_dev_accuracy=test + 0.1,
        best_step=np.full(test.size, 100),
        dev_loss=rest,
        test_accuracy=test,
        test_loss=rest,
        final_train_loss=rest,
        overlap=np.arange(test.size),
        diverged=np.isnan(test),
    )


GOOD = results_of({5: [0.7, 0.8, 0.9], 35: [0.1, 0.2, 0.3]})


def test_the_terminal_table_has_a_row_a_length_in_aligned_columns():
    lines = results_table(GOOD).splitlines()
    assert len(lines) == 4
    assert lines[0].split("  ")[0] == "length"
    assert lines[2].split() == ["5", "3", "0.800", "0.100", "0.700", "to", "0.900", "0.900"]
    assert lines[3].split()[:3] == ["35", "3", "0.200"]
    assert len({len(line) for line in lines}) == 1
    assert results_table(GOOD).isascii()


def test_the_terminal_table_mentions_divergence_only_where_there_is_some():
    assert "diverged" not in results_table(GOOD)
    lines = results_table(results_of({5: [0.7, np.nan, 0.9], 10: [0.5, 0.5, 0.6]})).splitlines()
    assert lines[0].endswith("diverged")
    assert [line.split()[-1] for line in lines[2:]] == ["1", "0"]
    assert "2 of 3" in lines[2]


def test_one_seed_has_dashes_where_several_have_an_interval():
    assert results_table(results_of({5: [0.7]})).splitlines()[2].split() == [
        *["5", "1", "0.700", "-", "-", "0.800"]
    ]


def test_a_column_is_as_wide_as_its_widest_cell():
    assert plain_table([["a", "bb"], ["ccc", ""]]) == "  a  bb\n---  --\nccc"


def test_a_memory_span_outside_the_lengths_is_told_as_a_bound():
    inside = MemorySpan(22.64, Interval(-np.inf, np.inf), 0.5, 5, 35)
    assert span_text(inside).endswith("above 0.5): 22.6, 95 % interval < 5 to > 35")
    beyond = MemorySpan(np.inf, Interval(np.nan, np.nan), 0.5, 5, 35)
    assert span_text(beyond).endswith(": > 35")
    unknown = MemorySpan(np.nan, Interval(np.nan, np.nan), 0.5, 5, 35)
    assert span_text(unknown).endswith(": -")


def test_a_report_tells_everything_about_its_run():
    text = run_report(RUN_INFO, GOOD, ["figures/6.7.png", "figures/6.7.pdf"])
    assert "| 5 | 3 | 0.800 | 0.100 | 0.700 to 0.900 | 0.900 |" in text
    assert "Memory span (mean test accuracy above 0.5): 20.0" in text
    assert "| 5 to 35 | -0.600 |" in text
    assert "0..2 of 100" in text and "3..5 of 100" in text  # overlap of train and test
    assert "![6.7](figures/6.7.png)" in text
    assert "\n[6.7](figures/6.7.pdf) (pdf)" in text
    assert "- `seeds`: 0..31" in text and "- `epochs`: 500" in text
    assert "1 x NVIDIA H200" in text and "1 h 02 min" in text and "- jax: 0.10.2" in text
    assert "```sh\npython scripts/run.py --out 'my runs'\n```" in text
    assert "0 diverged" in text and "Diverged at" not in text
    assert text.endswith("\n") and "\n\n\n" not in text


@pytest.mark.parametrize("missing", RUN_INFO)
def test_a_report_does_without_any_one_fact_about_its_run(missing):
    info = {key: value for key, value in RUN_INFO.items() if key != missing}
    assert "| 5 | 3 | 0.800 |" in run_report(info, GOOD)
    assert "None" not in run_report({**RUN_INFO, missing: None}, GOOD)


def test_a_report_needs_no_facts_and_no_figures():
    text = run_report({}, GOOD)
    for heading in ("## Figures", "## Settings", "## Run", "## To repeat it"):
        assert heading not in text


def test_a_report_names_the_diverged_seeds():
    text = run_report({}, results_of({5: [0.7, 0.8, 0.9], 10: [np.nan, 0.4, np.nan]}))
    assert "Diverged at length 10: seeds 0, 2." in text
    assert "6 experiments (lengths: 2, seeds: 3), 2 diverged." in text


def test_a_report_warns_of_a_single_seed_and_of_fixed_data():
    assert "A single seed says nothing" in run_report({}, results_of({5: [0.7]}))
    assert "A single seed says nothing" not in run_report({}, GOOD)
    assert "same data" in run_report({"config": {"data": "digitsum/"}}, GOOD)
    assert "same data" not in run_report({"config": {"data": None}}, GOOD)


def test_a_figures_path_may_hold_spaces():
    assert "![a b](my%20figures/a%20b.png)" in run_report({}, GOOD, ["my figures/a b.png"])


def test_a_report_of_seeds_that_all_diverged_is_written_all_the_same():
    text = run_report(RUN_INFO, results_of({5: [np.nan] * 3, 10: [np.nan] * 3}))
    assert "| 5 | 0 of 3 | - | - | - | - | 3 |" in text
    assert "nan" not in text


def test_a_comparison_has_a_row_for_each_length_and_run_and_paired_differences():
    better = results_of({5: [0.8, 0.9, 1.0], 20: [0.5, 0.5, 0.5]})
    lines = comparison_table({"plain": GOOD, "better": better}).splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["5", "plain"],
        ["5", "better"],
        ["20", "better"],
        ["35", "plain"],
    ]
    assert lines[3].split()[-5:] == ["+0.100", "+0.100", "to", "+0.100", "3"]
    assert lines[4].split()[-3:] == ["-", "-", "0"]  # a length that the first run has not
    assert "difference: the run minus plain, seed by seed" in lines
    assert lines[-2].startswith("plain: memory span") and lines[-1].startswith("better: memory")


def test_a_comparison_of_runs_without_common_seeds_leaves_the_difference_open():
    other = results_of({5: [0.9, 0.9]}, first_seed=100)
    lines = comparison_table({"plain": GOOD, "other": other}).splitlines()
    assert lines[3].split()[-3:] == ["-", "-", "0"]


def test_a_comparisons_markdown_has_the_same_numbers_and_its_figures():
    better = results_of({5: [0.8, 0.9, 1.0]})
    text = comparison_report({"plain": GOOD, "a|b": better}, ["figures/comparison.png"])
    assert "| 5 | a\\|b | 3 | 0.900 | 0.100 | 0.800 to 1.000 | +0.100 |" in text
    assert "- plain: memory span (mean test accuracy above 0.5): 20.0" in text
    assert "![comparison](figures/comparison.png)" in text


def test_no_runs_compare_to_an_empty_table():
    assert comparison_table({}).startswith("length")
    assert "difference: the run" not in comparison_table({"alone": GOOD})


@pytest.mark.parametrize(
    "values, text",
    [
        ((0, 1, 2, 3), "0..3"),
        ((4, 7), "4, 7"),
        ((5, 10), "5, 10"),
        ((), ""),
        (("a", "b", "c"), "a, b, c"),
        ((1.0, 2.0, 3.0), "1.0, 2.0, 3.0"),
    ],
)
def test_lists_are_told_briefly(values, text):
    assert listed(values) == text


def test_a_very_long_list_is_cut_and_counted():
    assert listed(range(0, 200, 2)).endswith("38, ... (100 in all)")


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (59.4, "59.4 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min")],
)
def test_durations_are_told_for_people(seconds, text):
    assert duration(seconds) == text
