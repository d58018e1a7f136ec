"""The atlas shows what a lecturer asks: which cell does which task, how well, how surely."""

import numpy as np
import pandas as pd
import pytest

from srn_jax.analysis.atlas import CELLS, PLAN, atlas_figure, atlas_table, write_atlas
from srn_jax.analysis.records import Record, Variant, label_of, results_frame
from srn_jax.analysis.stats import mean_estimate
from srn_jax.config import Facts


def variant_of(cell, accuracies, chance=0.1):
    """A variant with `accuracies {length: [seed]}`."""
    rows = [(n, s, a) for n, all_of in accuracies.items() for s, a in enumerate(all_of)]
    length, seed, accuracy = map(list, zip(*rows, strict=True))
    same = {name: [0.0] * len(rows) for name in ("dev_loss", "test_loss", "final_train_loss")}
    results = results_frame(
        same
        | {"length": length, "seed": seed, "test_accuracy": accuracy, "overlap": [0] * len(rows)}
        | {"best_dev_accuracy": accuracy, "best_step": seed, "diverged": np.isnan(accuracy)}
    )
    facts = Facts(chance=chance)
    return Variant(cell, label_of({"cell": cell}), {"cell": cell}, facts, results)


@pytest.fixture
def records():
    falling = {5: [1.0, 0.96, 0.98], 10: [0.6, 0.7, 0.65], 15: [0.2, 0.3, 0.1]}
    spans = (
        variant_of("srn", falling),
        variant_of("mingru", {key: [0.9, 0.8, 0.85] for key in falling}),
    )
    copying = {24: [0.5, 0.6, 0.7], 40: [0.125, 0.125, np.nan]}
    return {
        "digit-sum": Record(spans),
        "copying": Record((variant_of("srn", copying, 0.125), variant_of("lru", copying, 0.125))),
    }


def test_a_task_with_many_lengths_shows_the_memory_span_and_others_each_length(records):
    table = atlas_table(records)
    shown = table.set_index(["task", "measure", "cell"])
    srn = shown.loc["digit-sum", "memory span", "SRN"]
    assert srn["score"] == pytest.approx(10 + 5 * (0.65 - 0.5) / (0.65 - 0.2), abs=1e-9)
    assert srn["score_low"] <= srn["score"] <= srn["score_high"] and srn["seeds"] == 3
    beyond = shown.loc["digit-sum", "memory span", "minGRU"]
    assert beyond["text"].startswith("> 15") and beyond["shade"] == 1
    copying = shown.loc["copying", "length 24", "LRU"]
    expected = mean_estimate([0.5, 0.6, 0.7])
    assert (copying["score"], copying["score_low"]) == (expected.value, expected.low)
    assert copying["shade"] == pytest.approx((0.6 - 0.125) / 0.875)
    assert (
        shown.loc["copying", "length 40", "SRN"]["shade"] == 0
    )  # a seed that diverged is left out


def test_the_figure_says_every_score_once_and_leaves_out_what_is_not_there(records):
    table = atlas_table(records)
    figure = atlas_figure(table)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SRN", "minGRU", "LRU"]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["digit-sum\nmemory span", "copying\nlength 24", "copying\nlength 40"]
    said = [text.get_text() for text in axes.texts if text.get_text()]
    values = [text.partition(" (")[0] for text in table["text"]]
    assert sorted(said[0::1]) == sorted(
        [*values, *(t.partition(" (")[2].rstrip(")") for t in table["text"] if "(" in t)]
    )
    shades = axes.images[0].get_array()
    assert shades.shape == (3, 3) and np.isnan(shades.filled(np.nan)[1, 1])  # minGRU on copying


def test_the_atlas_grows_by_a_cell_and_keeps_the_rows_it_had(records, tmp_path):
    before = atlas_table(records)
    more = variant_of("own.py:Leaky", {24: [0.3, 0.4, 0.5], 40: [0.2, 0.2, 0.3]}, 0.125)
    records["copying"] = Record((*records["copying"].variants, more))
    after = atlas_table(records)
    pd.testing.assert_frame_equal(after[after["cell"] != "Leaky"].reset_index(drop=True), before)
    paths = write_atlas(records, tmp_path)
    assert sorted(path.name for path in paths) == ["atlas.csv", "atlas.pdf", "atlas.png"]
    assert (pd.read_csv(tmp_path / "atlas.csv")["cell"] == "Leaky").sum() == 2
    first = (tmp_path / "atlas.png").read_bytes()
    write_atlas(records, tmp_path)
    assert (tmp_path / "atlas.png").read_bytes() == first


def test_the_plan_has_many_seeds_of_digit_sum_and_two_lengths_of_the_others():
    assert PLAN["digit-sum"]["seeds"] >= 32 and "lengths" not in PLAN["digit-sum"]
    others = [settings for task, settings in PLAN.items() if task != "digit-sum"]
    assert all(len(own["lengths"]) == 2 and own["seeds"] >= 8 for own in others)
    assert len(set(CELLS)) == len(CELLS) == 8
