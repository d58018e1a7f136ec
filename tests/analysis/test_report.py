"""Claims about the text of tables and reports."""

import numpy as np
import pytest

from srn_jax.analysis.comparison import compare
from srn_jax.analysis.report import (
    duration,
    results_table,
    run_report,
    span_text,
)
from srn_jax.analysis.results import Histories, Results, Run
from srn_jax.analysis.summary import Interval, MemorySpan
from srn_jax.analysis.tables import latex_table, listed, number, plain_table
from srn_jax.errors import UserError

RUN_INFO = {
    "command": ["python", "scripts/run.py", "--out", "my runs"],
    "device": "1 x NVIDIA H200",
    "versions": {"jax": "0.10.2", "flax": "0.12.0"},
    "seconds": 3725.0,
    "settings": {"lengths": (5, 35), "seeds": tuple(range(32)), "experiment": {"epochs": 500}},
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
    assert span_text(inside, 0.1).endswith("above 0.5): 22.6, 95 % interval < 5 to > 35")
    beyond = MemorySpan(np.inf, Interval(np.nan, np.nan), 0.5, 5, 35)
    assert span_text(beyond, 0.1).endswith(": > 35")
    unknown = MemorySpan(np.nan, Interval(np.nan, np.nan), 0.5, 5, 35)
    assert span_text(unknown, np.nan).endswith(": -")


def test_a_report_tells_everything_about_its_run():
    text = run_report(Run(GOOD, info=RUN_INFO), ["figures/6.7.png", "figures/6.7.pdf"])
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


def test_a_report_of_a_run_on_files_leaves_out_what_only_a_task_uses():
    settings = {"experiment": {"task": "digit-sum", "epochs": 5}, "multiplicity": 3}
    files = {"data": {"path": "mine", "sha256": "0" * 64}}
    drawn = run_report(Run(GOOD, info={"settings": settings}))
    assert "- `task`: digit-sum" in drawn and "- `multiplicity`: 3" in drawn
    text = run_report(Run(GOOD, info={"settings": settings | files}))
    assert "- `epochs`: 5" in text and "- `path`: mine" in text
    assert "`task`" not in text and "`multiplicity`" not in text


@pytest.mark.parametrize("missing", RUN_INFO)
def test_a_report_does_without_any_one_fact_about_its_run(missing):
    info = {key: value for key, value in RUN_INFO.items() if key != missing}
    assert "| 5 | 3 | 0.800 |" in run_report(Run(GOOD, info=info))
    assert "None" not in run_report(Run(GOOD, info={**RUN_INFO, missing: None}))


def test_a_report_needs_no_facts_and_no_figures():
    text = run_report(Run(GOOD, info={}))
    for heading in ("## Figures", "## Settings", "## Run", "## To repeat it"):
        assert heading not in text


def test_a_report_names_the_diverged_seeds():
    text = run_report(Run(results_of({5: [0.7, 0.8, 0.9], 10: [np.nan, 0.4, np.nan]}), info={}))
    assert "Diverged at length 10: seeds 0, 2." in text
    assert "6 experiments (lengths: 2, seeds: 3), 2 diverged." in text


def test_a_report_warns_of_a_single_seed_and_of_fixed_data():
    assert "A single seed says nothing" in run_report(Run(results_of({5: [0.7]})))
    assert "A single seed says nothing" not in run_report(Run(GOOD))
    old = {"settings": {"data": "digitsum/", "data_sha256": "0"}}
    for info in (old, {"task": {"fixed_data": True}}):
        assert "same data" in run_report(Run(GOOD, info=info))
    assert "same data" not in run_report(Run(GOOD, info={"settings": {"data": None}}))


def test_what_a_report_says_of_the_task_comes_with_the_run():
    task = {"title": "Parity", "question": "whether it is odd", "chance": 0.5, "test_examples": 400}
    text = run_report(Run(GOOD, info={"task": task}))
    assert text.startswith("# Parity\n\nAsked for: whether it is odd.")
    assert "The best constant answer scores 0.50." in text
    assert "standard error of up to 2.5 points" in text and "0..2 of 400" in text
    assert "Memory span: none, since chance, 0.50, reaches 0.5." in text
    text = run_report(Run(GOOD, info={"task": task | {"fixed_data": True, "chance": 0.4}}))
    assert "commonest label of the training set scores 0.40 (mean over lengths)." in text
    assert "Memory span (mean test accuracy above 0.5): 20.0" in text
    old = run_report(Run(GOOD, info={"settings": {"data": "mine", "data_sha256": "0"}}))
    assert "constant answer" not in old and " of 100" not in old  # not known of its files


def test_a_report_names_its_machine_and_what_another_would_change():
    told = {"processor": "AMD EPYC", "commit": "abc123", "date": "2026-01-02", "command": "x"}
    text = run_report(Run(GOOD, info=told))
    assert "- `clip_norm`: none" in run_report(Run(GOOD, info={"settings": {"clip_norm": None}}))
    for line in ("- processor: AMD EPYC", "- commit: abc123", "- date: 2026-01-02"):
        assert line in text.splitlines()
    assert "0.51 on one processor and 0.31 on another" in text


def test_a_figures_path_may_hold_spaces():
    assert "![a b](my%20figures/a%20b.png)" in run_report(
        Run(GOOD, info={}), ["my figures/a b.png"]
    )


def test_a_report_of_seeds_that_all_diverged_is_written_all_the_same():
    text = run_report(Run(results_of({5: [np.nan] * 3, 10: [np.nan] * 3}), info=RUN_INFO))
    assert "| 5 | 0 of 3 | - | - | - | - | 3 |" in text
    assert "nan" not in text


def a_run(scores, first_seed=0, data=None, **experiment):
    """A run of `{length: test accuracies}` with some settings, on drawn data or a folder's."""
    settings = {"experiment": experiment, "data": data}
    if data is not None:
        settings["data"] = {"path": data, "sha256": data[::-1] * 8}
    return Run(results_of(scores, first_seed), info={"settings": settings})


BETTER = results_of({5: [0.8, 0.9, 1.0], 20: [0.5, 0.5, 0.5]})


def comparison_table(runs, baseline=None):
    """What the terminal shows of a comparison."""
    return compare(runs, baseline).table()


def rows_of(table):
    """The cells of the rows of a comparison in the terminal."""
    lines = table.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    return [line.split() for line in lines[start + 1 : lines.index("", start)]]


def test_a_comparison_has_a_row_for_each_length_and_run_and_paired_differences():
    table = comparison_table({"old": Run(GOOD), "new": Run(BETTER)})
    rows = rows_of(table)
    assert [row[:2] for row in rows] == [["5", "old"], ["5", "new"], ["20", "new"], ["35", "old"]]
    assert rows[1][-5:] == ["+0.100", "+0.100", "to", "+0.100", "0.250"]  # 2 of 8 ways to sign
    assert rows[2][-3:] == ["-", "-", "-"]  # a length that the first run has not
    assert "Difference: the run minus old, paired seed by seed." in table.splitlines()
    assert "\nnew: memory span (mean test accuracy above 0.5): " in table


def test_any_run_can_be_the_baseline_and_none_else():
    runs = {"old": Run(GOOD), "new": Run(BETTER)}
    assert rows_of(comparison_table(runs, "new"))[0][-5] == "-0.100"
    with pytest.raises(UserError, match="--baseline other is none of the runs: old, new"):
        comparison_table(runs, "other")


def test_a_comparison_fits_into_80_columns_and_has_one_heading_for_each_column():
    long = "hidden_size=16,recurrent_init=orthogonal,learning_rate=0.001"
    scores = {5: [0.7, np.nan, 0.9], 1000: [0.1, 0.2, 0.3]}
    runs = {"plain": a_run(scores), long: a_run(scores, hidden_size=16), "c": a_run(scores)}
    table = comparison_table(runs)
    assert max(map(len, table.splitlines())) <= 80
    assert f"B = {long}" in " ".join(table.split())  # a letter stands for it in the table
    header = next(line for line in table.splitlines() if line.startswith("length"))
    headings = [heading.strip() for heading in header.split("  ") if heading.strip()]
    assert len(headings) == len(set(headings)) == 8


def test_the_settings_and_the_data_in_which_runs_differ_stand_above_the_table():
    runs = {"a": a_run({5: [0.5, 0.6]}), "b": a_run({5: [0.5, 0.6]}, cell="lstm", data="mine")}
    head = comparison_table(runs).partition("length")[0]
    assert "a: cell srn, data drawn for every seed" in head
    assert "b: cell lstm, data mine (sha256 enimenimenim)" in head
    assert "hidden_size" not in head  # the default, on both sides
    assert "a: no setting differs" in comparison_table({"a": runs["a"]})


def test_runs_on_different_data_are_never_paired():
    scores = {5: [0.5, 0.6, 0.7]}
    for other in (
        a_run(scores, data="mine"),
        a_run(scores, multiplicity=2),
        a_run(scores, task="adding"),
    ):
        table = comparison_table({"a": a_run(scores), "b": other})
        assert rows_of(table)[1][-3:] == ["-", "-", "-"]
        assert "b was trained on other data than a: nothing is paired." in table
    same = {"a": a_run(scores, data="mine"), "b": a_run(scores, data="mine", cell="gru")}
    assert rows_of(comparison_table(same))[1][-1] == "1.000"


def test_files_are_compared_length_by_length_where_a_run_knows_them():
    scores = {5: [0.5, 0.6, 0.7], 9: [0.1, 0.2, 0.3]}

    def run(digests, scores=scores):
        data = {"path": "mine", "sha256": "".join(digests), "digests": digests}
        settings = {"experiment": {}, "data": data, "lengths": list(scores)}
        return Run(results_of(scores), info={"settings": settings})

    fewer = comparison_table({"a": run("xy"), "b": run("y", {9: scores[9]})})
    assert rows_of(fewer)[-1][-1] == "1.000" and "other data" not in fewer
    changed = comparison_table({"a": run("xy"), "b": run("xz")})
    assert [row[-1] for row in rows_of(changed)] == ["-", "1.000", "-", "-"]
    assert "b was trained on other data than a: at length 9: it is not paired" in changed


def test_a_changed_file_of_ones_own_is_told_and_its_task_is_other_data():
    scores = {5: [0.5, 0.6, 0.7]}

    def run(digest, **own):
        settings = {"experiment": own, "own_files": {"mine.py": digest * 64}}
        return Run(results_of(scores), info={"settings": settings})

    cell = comparison_table({"a": run("1", cell="mine.py:A"), "b": run("2", cell="mine.py:A")})
    assert "a: mine.py 111111111111" in cell and rows_of(cell)[1][-1] == "1.000"
    task = comparison_table({"a": run("1", task="mine.py:A"), "b": run("2", task="mine.py:A")})
    assert "b was trained on other data than a: nothing is paired." in task


def test_a_comparison_says_how_small_a_p_value_can_be():
    scores = {length: np.linspace(0, 1, 8) for length in (5, 10, 15, 20, 25, 30, 35)}
    text = comparison_table({"a": a_run(scores), "b": a_run(scores)})
    assert "With 8 pairs at most, no p can be below 0.055." in text
    assert "With" not in comparison_table({"a": a_run({5: [0.1] * 8}), "b": a_run({5: [0.2] * 8})})
    one_length = a_run({5: scores[5]})  # which is corrected for one
    assert "With" not in comparison_table({"a": a_run(scores), "b": one_length})
    pair, single = ({"a": a_run({5: [0.1] * n}), "b": a_run({5: [0.2] * n})} for n in (2, 1))
    assert "With 2 pairs at most, no p can be below 0.500." in comparison_table(pair)
    assert "pairs at most" not in comparison_table(single)


def test_a_comparison_of_runs_without_common_seeds_leaves_the_difference_open():
    rows = rows_of(comparison_table({"a": Run(GOOD), "b": a_run({5: [0.9, 0.9]}, 100)}))
    assert rows[1][-3:] == ["-", "-", "-"]


def test_a_comparisons_markdown_has_the_same_numbers_and_its_figures():
    text = compare({"plain": Run(GOOD), "a|b": Run(BETTER)}).report(["figures/comparison.png"])
    assert "| 5 | a\\|b | 3 | 0.900 | 0.800 to 1.000 | +0.100 |" in text
    assert "- plain: memory span (mean test accuracy above 0.5): 20.0" in text
    assert "![comparison](figures/comparison.png)" in text


def test_a_comparison_says_which_run_has_not_finished():
    runs = {"old": Run(GOOD), "new": Run(BETTER, info={"finished": False})}
    assert "new has not finished: it is shown as of its newest" in comparison_table(runs)
    assert "old has not finished" not in comparison_table(runs)


def test_a_run_alone_is_compared_with_nothing():
    table = comparison_table({"alone": Run(GOOD)})
    assert "Difference" not in table and rows_of(table)[0][-3:] == ["-", "-", "-"]


def test_no_number_is_a_negative_zero():
    assert [number(-0.0001), number(-0.0001, "+"), number(0.0001, "+")] == ["0.000"] * 3
    assert number(-0.0006, "+") == "-0.001"


def test_a_latex_table_has_the_mathematics_of_figures():
    text = latex_table([["run", "cost"], [r"none, $\eta=10^{-3}$", "$5 to $6_x"]])
    assert r"none, $\eta=10^{-3}$ & \$5 to \$6\_x \\" in text


def test_a_latex_table_escapes_what_latex_would_read():
    text = latex_table([["95 % interval", "a_b"], ["< 5", "x\\y & z"]])
    assert "95 \\% interval & a\\_b \\\\" in text
    assert "$<$ 5 & x\\textbackslash{}y \\& z \\\\" in text
    assert text.startswith("\\begin{tabular}{rr}\n\\toprule")


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


def test_what_was_never_right_and_did_not_diverge_is_told():
    results = results_of({5: [0.7, np.nan, np.nan]})
    results.diverged[1] = False
    told = "Without a right answer in any evaluation, so without best parameters and scores: 1 of 3"
    assert told in run_report(Run(results))
    assert "Without a right answer" not in run_report(Run(GOOD))


def test_exploding_gradients_are_in_the_report_and_the_comparison_of_runs_that_recorded_them():
    norms = np.array([[13, 2000, 0, 0], [13, 40, 5, 0], [13, 40, 5, 5]], np.float32)
    nothing = np.zeros((3, 0), np.float32)
    histories = Histories(
        length=np.full(3, 5),
        seed=np.arange(3),
        eval_steps=np.array([]),
        steps={"train_loss": norms, "gradient_norm.W": norms},
        evaluations={"dev_loss": nothing, "dev_accuracy": nothing},
        steps_an_epoch=2,
    )
    results = results_of({5: [0.7, 0.8, 0.9]})
    row = "5 | 3 | 0.333 | 0.061 to 0.792 | 0.333 | 0.061 to 0.792 |"
    text = run_report(Run(results, histories))
    assert f"\n| {row}" in text and "was above 1,000 or not finite" in text
    assert "Exploding" not in run_report(Run(results))
    runs = {"none": Run(results, histories), "clipped": Run(results, histories)}
    both = compare(runs).report()
    assert f"| none | {row}" in both and f"| clipped | {row}" in both
    assert "Exploding" not in compare({"a": Run(results), "b": Run(results)}).report()
