"""Claims about what the figures show: every check reads the drawn artists or the written bytes."""

import dataclasses
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from srn_jax.analysis import drawing
from srn_jax.analysis.drawing import save_figures, start_helpers
from srn_jax.analysis.figures import (
    DEV_COLOR,
    TEST_COLOR,
    TRAIN_COLOR,
    accuracy_figure,
    comparison_figure,
    figures_of,
    gate_figure,
    loss_figure,
    norm_figure,
    overview_figure,
    pair_figure,
    probe_figure,
)
from srn_jax.analysis.look import CHINESE, Look, save_figure
from srn_jax.analysis.results import Histories, Results, Run, write_histories, write_results
from srn_jax.analysis.summary import mean_interval
from srn_jax.analysis.words import words_of
from srn_jax.config import Facts
from srn_jax.errors import UserError

FACTS = Facts()
LENGTHS = (5, 10, 15, 20, 25, 30, 35)


def a_run(lengths=LENGTHS, seeds=6, steps=1000, progress=1.0):
    """Synthetic results and histories whose accuracy falls and dev loss rises with the length."""
    rng = np.random.default_rng(0)
    length = np.repeat(lengths, seeds)
    seed = np.tile(np.arange(seeds), len(lengths))
    test = np.round(np.clip(0.9 - length / 60 + rng.normal(0, 0.08, length.size), 0, 1), 2)
    eval_steps = np.append(np.arange(100, steps - 1, 100), steps - 1)
    shape = length.size, steps
    train_loss = 2.9 * np.exp(-np.arange(steps) / 200) * rng.uniform(0.5, 1.5, shape)
    dev_loss = 1 + length[:, None] / 20 * rng.uniform(0.8, 1.2, (length.size, eval_steps.size))
    train_loss[:, int(progress * steps) :] = np.nan
    dev_loss[:, eval_steps >= progress * steps] = np.nan
    rest = np.zeros(length.size)
    results = Results(
        length=length,
        seed=seed,
        best_dev_accuracy=np.minimum(test + 0.05, 1),
        best_step=np.full(length.size, 100),
        dev_loss=rest,
        test_accuracy=test,
        test_loss=rest,
        final_train_loss=rest,
        overlap=np.zeros(length.size, int),
        diverged=np.zeros(length.size, bool),
    )
    histories = Histories(
        length=length,
        seed=seed,
        eval_steps=eval_steps,
        steps={"train_loss": train_loss.astype(np.float32)},
        evaluations={
            "dev_loss": dev_loss.astype(np.float32),
            "dev_accuracy": np.zeros(dev_loss.shape, np.float32),
        },
        steps_an_epoch=38,
    )
    return results, histories


def line(axes, label):
    """The one line of the axes whose label starts so."""
    (found,) = [item for item in axes.lines if str(item.get_label()).startswith(label)]
    return found


def error_bar(axes, label):
    """The mean line and the lower and upper ends of the error bars of a series."""
    (bars,) = [item for item in axes.containers if item.get_label().startswith(label)]
    mean_line, _, (segments,) = bars.lines
    vertical = np.array([segment[:, 1] for segment in segments.get_segments()])
    return mean_line, vertical[:, 0], vertical[:, 1]


def legend_texts(figure):
    """The entries of the figure's legend."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def drawn(figure):
    """The figure after drawing it, so that what only fails then fails here."""
    figure.canvas.draw()
    return figure


def test_the_loss_figure_has_the_textbooks_colours_lines_and_labels():
    results, histories = a_run(seeds=1)
    (axes,) = drawn(loss_figure(histories, results, 20, FACTS)).axes
    train, dev = line(axes, "train"), line(axes, "dev")
    assert (
        (to_hex(train.get_color()), train.get_linestyle()) == (TRAIN_COLOR, "-") == ("#e4007f", "-")
    )
    assert (to_hex(dev.get_color()), dev.get_linestyle()) == (DEV_COLOR, "--") == ("#f19ec2", "--")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert axes.get_title() == "length 20"
    assert axes.get_yscale() == "linear"
    assert legend_texts(axes.figure) == ["train", "dev"]


def test_one_seed_is_drawn_as_it_is_at_every_100th_step():
    results, histories = a_run(seeds=1, lengths=(5, 20), steps=19_000)
    (axes,) = loss_figure(histories, results, 20, FACTS).axes
    train, dev = line(axes, "train"), line(axes, "dev")
    np.testing.assert_array_equal(train.get_xdata(), np.arange(0, 19_000, 100))
    np.testing.assert_array_equal(train.get_ydata(), histories.train_loss[1, ::100])
    np.testing.assert_array_equal(dev.get_xdata(), histories.eval_steps)
    np.testing.assert_array_equal(dev.get_ydata(), histories.dev_loss[1])
    assert not axes.collections  # no band: one seed has no spread


def test_several_seeds_are_a_median_and_a_band_from_the_5_to_the_95_percent_quantile():
    results, histories = a_run(seeds=9)
    (axes,) = loss_figure(histories, results, 20, FACTS).axes
    values = histories.dev_loss[histories.length == 20].astype(float)
    np.testing.assert_allclose(line(axes, "dev").get_ydata(), np.median(values, axis=0))
    _, band = axes.collections
    corners = band.get_paths()[0].vertices
    for step, column in zip(histories.eval_steps, values.T, strict=True):
        heights = corners[corners[:, 0] == step, 1]
        assert heights.min() == pytest.approx(np.quantile(column, 0.05))
        assert heights.max() == pytest.approx(np.quantile(column, 0.95))
    assert "dev, median and 5-95 % of 9 seeds" in legend_texts(axes.figure)


def test_a_thousand_seeds_are_not_a_thousand_lines():
    results, histories = a_run(lengths=(5,), seeds=1000, steps=101)
    (axes,) = loss_figure(histories, results, 5, FACTS).axes
    assert (len(axes.lines), len(axes.collections)) == (2, 2)
    (axes,) = drawn(accuracy_figure(results, FACTS)).axes
    assert len(axes.lines) < 10


def test_a_short_run_is_drawn_at_every_step():
    results, histories = a_run(seeds=1, steps=38)
    (axes,) = drawn(loss_figure(histories, results, 5, FACTS)).axes
    assert len(line(axes, "train").get_xdata()) == 38
    only = line(axes, "dev")
    assert only.get_marker() == "o"  # its only evaluation stays visible, and whole at the edge
    assert only.get_xdata() == axes.get_xlim()[1]
    assert only.get_clip_box().x1 > axes.get_window_extent().x1 + 10
    assert only.get_clip_box().y1 == axes.get_window_extent().y1


def test_a_run_still_going_on_is_drawn_up_to_now_on_an_axis_for_all_of_it():
    results, histories = a_run(progress=0.4)
    (axes,) = drawn(loss_figure(histories, results, 5, FACTS)).axes
    assert max(line(axes, "train").get_xdata()) == 390
    assert max(line(axes, "dev").get_xdata()) == 300
    assert axes.get_xlim() == (0, 999)
    assert "diverged" not in axes.get_title()


def test_a_diverged_seed_counts_until_it_stops_and_is_mentioned():
    results, histories = a_run(seeds=3, lengths=(5, 10))
    histories.train_loss[0, 450:] = np.nan
    histories.dev_loss[0, 4:] = np.nan
    results.diverged[0] = True
    (axes,) = drawn(loss_figure(histories, results, 5, FACTS)).axes
    last = np.median(histories.dev_loss[1:3, -1].astype(float))
    assert line(axes, "dev").get_ydata()[-1] == pytest.approx(last)
    assert axes.get_title() == "length 5, 1 of 3 seeds diverged"
    assert loss_figure(histories, results, 10, FACTS).axes[0].get_title() == "length 10"
    results.diverged[:3] = True
    axes = loss_figure(histories, results, 5, FACTS).axes[0]
    assert axes.get_title() == "length 5, 3 of 3 seeds diverged"


@pytest.mark.parametrize("worst", [1e6, 3e38, np.inf])
def test_an_exploding_loss_does_not_flatten_the_others(worst):
    results, histories = a_run(seeds=1)
    histories.train_loss[0, 600:610] = worst
    (axes,) = drawn(loss_figure(histories, results, 5, FACTS)).axes
    assert axes.get_ylim()[1] < 20


def test_a_loss_axis_shows_at_least_the_loss_of_guessing():
    results, histories = a_run(seeds=1)
    histories.dev_loss[:] = 0.01
    (axes,) = loss_figure(histories, results, 5, FACTS).axes
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] >= FACTS.chance_loss


def test_the_accuracy_figure_shows_means_with_their_bootstrap_intervals():
    results, _ = a_run(seeds=12)
    (axes,) = drawn(accuracy_figure(results, FACTS)).axes
    mean_line, low, high = error_bar(axes, "test, mean and 95 % interval")
    groups = [results.of_length(length).test_accuracy for length in LENGTHS]
    np.testing.assert_allclose(mean_line.get_ydata(), [group.mean() for group in groups])
    np.testing.assert_allclose(low, [mean_interval(group).low for group in groups])
    np.testing.assert_allclose(high, [mean_interval(group).high for group in groups])
    assert (to_hex(mean_line.get_color()), mean_line.get_linestyle()) == (TEST_COLOR, "-")
    dev_line, _, _ = error_bar(axes, "best dev")
    assert (to_hex(dev_line.get_color()), dev_line.get_linestyle()) == (DEV_COLOR, "--")
    assert mean_line.get_marker() != dev_line.get_marker()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sequence length", "accuracy")
    assert list(axes.get_xticks()) == list(LENGTHS)


def test_every_seed_is_a_point_at_its_own_accuracy_near_its_length():
    results, _ = a_run(seeds=12)
    (axes,) = accuracy_figure(results, FACTS).axes
    dev, test = [item for item in axes.collections if isinstance(item, PathCollection)]
    np.testing.assert_allclose(test.get_offsets()[:, 1], results.test_accuracy)
    np.testing.assert_allclose(dev.get_offsets()[:, 1], results.best_dev_accuracy)
    assert abs(test.get_offsets()[:, 0] - results.length).max() < 1
    assert test.get_alpha() < 0.5


def test_chance_is_a_labelled_line_at_a_tenth():
    results, _ = a_run()
    (axes,) = accuracy_figure(results, FACTS).axes
    assert set(line(axes, "chance").get_ydata()) == {0.10}
    assert "chance, 0.10" in legend_texts(axes.figure)


def test_one_seed_has_neither_an_interval_nor_a_cloud():
    results, _ = a_run(seeds=1)
    (axes,) = drawn(accuracy_figure(results, FACTS)).axes
    assert not axes.collections
    assert sorted(legend_texts(axes.figure)) == ["best dev", "chance, 0.10", "test"]
    (test,) = [item for item in axes.containers if item.get_label() == "test"]
    np.testing.assert_array_equal(test.lines[0].get_xdata(), LENGTHS)
    np.testing.assert_array_equal(test.lines[0].get_ydata(), results.test_accuracy)


def test_lengths_in_any_order_are_drawn_from_short_to_long():
    results, histories = a_run(lengths=(35, 5, 20))
    mean_line, _, _ = error_bar(accuracy_figure(results, FACTS).axes[0], "test, mean")
    assert list(mean_line.get_xdata()) == [5, 20, 35]  # on the ticks
    titles = [axes.get_title() for axes in overview_figure(histories, results, FACTS).axes]
    assert titles[:3] == ["length 5", "length 20", "length 35"]


def test_the_overview_has_a_panel_for_each_length_on_one_scale_and_the_accuracies():
    results, histories = a_run()
    figure = drawn(overview_figure(histories, results, FACTS))
    *losses, accuracies = figure.axes
    assert [axes.get_title() for axes in losses] == [f"length {length}" for length in LENGTHS]
    assert len({axes.get_ylim() for axes in losses}) == 1
    assert accuracies.get_ylabel() == "accuracy"
    assert len(legend_texts(figure)) == len(set(legend_texts(figure))) == 7


def test_the_comparison_tells_runs_apart_without_colour():
    results, _ = a_run()
    runs = {f"run {place}": Run(results) for place in range(7)}
    figure = drawn(comparison_figure(runs))
    (axes,) = figure.axes
    lines = [error_bar(axes, name)[0] for name in runs]
    assert len({to_hex(item.get_color()) for item in lines}) == 7
    assert len({(item.get_marker(), item.get_linestyle()) for item in lines}) == 7
    assert "run 6 (seeds: 6)" in legend_texts(figure)


def with_probe(histories, tensors=("E", "W", "U", "b")):
    """Histories in which gradient norms were recorded as well."""
    rng = np.random.default_rng(1)
    shape = histories.train_loss.shape
    norms = {f"gradient_norm.{tensor}": rng.lognormal(size=shape) for tensor in tensors}
    return dataclasses.replace(histories, steps={**histories.steps, **norms})


def test_the_norm_figure_has_the_textbooks_lines_over_the_first_steps():
    _, histories = a_run(seeds=1)
    histories = with_probe(histories)
    (axes,) = drawn(norm_figure(histories, 20, steps=40)).axes
    looks = {"W": ("#e4007f", "-"), "U": ("#f19ec2", "-."), "b": ("#000000", "--")}
    for tensor, look in looks.items():
        found = line(axes, tensor)
        assert (to_hex(found.get_color()), found.get_linestyle()) == look
        row = histories.steps[f"gradient_norm.{tensor}"][histories.length == 20][0]
        np.testing.assert_array_equal(found.get_ydata(), row[:40])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "L2 Norm")
    assert axes.get_legend()._loc_real == 1  # upper right
    _, histories = a_run(seeds=5)
    (axes,) = drawn(norm_figure(with_probe(histories), 20, steps=40)).axes
    assert axes.get_title() == "length 20, median and 5-95 % of 5 seeds"
    assert len(axes.collections) == 3


def test_any_probe_is_a_figure_with_a_line_for_each_of_its_series():
    _, histories = a_run(seeds=3)
    rows = histories.length == 20
    mine = {"mine": np.ones(histories.train_loss.shape)}
    histories = with_probe(dataclasses.replace(histories, steps={**histories.steps, **mine}))
    (axes,) = drawn(probe_figure(histories, "gradient_norm", 20)).axes
    assert [item.get_label() for item in axes.lines] == ["E", "W", "U", "b"]
    assert len(axes.collections) == 4  # their bands
    assert axes.get_ylabel() == "gradient norm, mean of 3 steps"  # 1,000 steps, 400 points at most
    values = histories.steps["gradient_norm.U"][rows, :999].reshape(3, 333, 3).mean(axis=-1)
    np.testing.assert_allclose(line(axes, "U").get_ydata()[:333], np.median(values, axis=0))
    (axes,) = drawn(probe_figure(histories, "mine", 20)).axes
    assert [item.get_label() for item in axes.lines] == ["mine"]


def test_zeros_are_gaps_on_a_logarithmic_axis_which_a_few_tiny_values_do_not_stretch():
    norms = np.full((2, 300), 1e-3)
    norms[:, 0], norms[:, 10:290:2], norms[0, 20:], norms[1, 5] = 1e3, 0, 0, 1e-30
    for seeds in (1, 2):
        _, histories = a_run(lengths=(20,), seeds=seeds, steps=300)
        steps = {**histories.steps, "norm.W": norms[-seeds:]}
        figure = drawn(probe_figure(dataclasses.replace(histories, steps=steps), "norm", 20))
        (axes,) = figure.axes
        assert axes.get_yscale() == "log" and 1e-6 < axes.get_ylim()[0] < 1e-3
        drawn_line = line(axes, "W")
        known = ~np.isnan(drawn_line.get_ydata())
        assert known.tolist() == (norms[-1] > 0).tolist()  # where any seed is above zero
        assert drawn_line.get_markevery() == list(range(11, 289, 2))
        assert figure.legends[0].get_title().get_text() == "zeros left out"
        bands = [path for band in axes.collections for path in band.get_paths()]
        assert all(path.vertices[:, 1].min() > 0 for path in bands)
        assert len(axes.collections) == seeds - 1
        for values in (norms[-seeds:] > 0, -norms[-seeds:]):  # which a linear axis shows
            steps["norm.W"] = np.asarray(values, float)
            figure = probe_figure(dataclasses.replace(histories, steps=steps), "norm", 20)
            assert not np.isnan(line(figure.axes[0], "W").get_ydata()).any()
            assert figure.legends[0].get_title().get_text() == ""


@pytest.mark.parametrize("width", [3.3, 2, None])
def test_labels_of_lengths_do_not_run_together(width):
    results, histories = a_run((3, 4, 5, 6, 8, 9, 10, 12, 15, 20, 25, 30), seeds=1, steps=100)
    look = Look(width=width)
    for figure in (
        accuracy_figure(results, FACTS, look),
        overview_figure(histories, results, FACTS, look),
    ):
        (axes,) = [axes for axes in drawn(figure).axes if axes.get_xlabel() == "sequence length"]
        assert {3} < {*axes.get_xticks()} < {*results.length}
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_the_comparison_counts_the_seeds_that_have_a_score():
    results, _ = a_run(seeds=3)
    none = dataclasses.replace(results, test_accuracy=np.full(len(results), np.nan))
    some = np.where((results.seed == 1) & (results.length > 5), np.nan, results.test_accuracy)
    runs = {"none": Run(none), "some": Run(dataclasses.replace(results, test_accuracy=some))}
    said = legend_texts(comparison_figure(runs))
    assert {"none (seeds: 0 of 3)", "some (seeds: 3)"} < {*said}


def test_figures_are_named_by_the_textbooks_section_or_by_what_they_show():
    _, histories = a_run(lengths=(5, 10), seeds=2)

    def names(histories, lengths=(5, 10), **experiment):
        results, _ = a_run(lengths, seeds=2)
        return [*figures_of(Run(results, histories, {"settings": {"experiment": experiment}}))]

    assert names(histories) == ["6.7", "overview", "6.6_5", "6.6_10"]
    assert names(histories, cell="lstm") == ["accuracy", "overview", "6.11_5", "6.11_10"]
    assert names(histories, cell="gru") == ["accuracy", "overview", "loss_5", "loss_10"]
    assert names(histories, task="adding") == ["accuracy", "overview", "loss_5", "loss_10"]
    assert names(None) == ["6.7"]
    norms = ["gradient_norm_5", "6.8_5", "gradient_norm_10", "6.8_10"]
    exploding = ["accuracy", "overview", "loss_5", "loss_10", *norms]
    assert names(with_probe(histories), optimizer="sgd") == exploding
    assert "6.9_5" in names(with_probe(histories), optimizer="sgd", clip_norm=5.0)
    _, one = a_run(lengths=(20,), seeds=2)
    assert "6.8" in names(with_probe(one), (20,), optimizer="sgd")
    assert names(with_probe(one), (20,)) == ["6.7", "overview", "6.6_20", "gradient_norm_20"]


def test_the_pair_figure_has_the_textbooks_colours_and_a_legend_that_hides_nothing():
    runs = {"SRN": Run(a_run(seeds=3)[0]), "LSTM": Run(a_run(seeds=4)[0])}
    (axes,) = drawn(pair_figure(runs)).axes
    colors = {
        "SRN, dev": "#e4007f",
        "SRN, test": "#f19ec2",
        "LSTM, dev": "#e8609b",
        "LSTM, test": "#000000",
    }
    lines = {name: error_bar(axes, name)[0] for name in colors}
    assert {name: to_hex(item.get_color()) for name, item in lines.items()} == colors
    assert len({(item.get_marker(), item.get_linestyle()) for item in lines.values()}) == 4
    assert axes.get_legend() is None  # it is below, where no accuracy can be
    assert {*colors} < {*legend_texts(axes.figure)}


@pytest.mark.parametrize("name, limits", [("I", (0, 1)), ("F", (0, 1)), ("C", (-5, 5))])
def test_a_gate_is_a_heat_map_with_a_row_a_unit_and_a_column_a_digit(name, limits):
    values = np.random.default_rng(0).uniform(size=(32, 10))
    figure = drawn(gate_figure(name, values, "6700100000"))
    assert tuple(figure.get_size_inches()) == (16, 6)
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), values)
    assert image.get_clim() == limits
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == list("6700100000")


def test_the_overview_draws_the_mean_of_each_epoch():
    results, histories = a_run(lengths=(5,), seeds=1)
    axes = overview_figure(histories, results, FACTS).axes[0]
    train = line(axes, "train, mean of each epoch")
    np.testing.assert_array_equal(train.get_ydata(), histories.epoch_loss[0])
    assert histories.epoch_loss.shape == (1, 27)  # 26 of 38 steps, and 12


def test_bands_differ_without_colour():
    results, histories = a_run(seeds=5)
    train, dev = loss_figure(histories, results, 20, FACTS).axes[0].collections
    assert train.get_hatch() is None and dev.get_hatch() is not None


def test_a_chance_that_is_not_known_is_not_drawn():
    results, histories = a_run()
    unknown = Facts(chance=np.nan, chance_loss=np.nan)
    assert not any("chance" in text for text in legend_texts(accuracy_figure(results, unknown)))
    drawn(overview_figure(histories, results, unknown))
    (axes,) = accuracy_figure(results, Facts(chance=0.5)).axes
    assert set(line(axes, "chance, 0.50").get_ydata()) == {0.5}


def text_stays_inside(figure: Figure) -> bool:
    """Whether every title, axis label and legend lies within the figure."""
    drawn(figure)
    parts = [*figure.legends]
    for axes in figure.axes:
        parts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    parts = [part for part in parts if not isinstance(part, Text) or part.get_text()]
    boxes = [part.get_window_extent() for part in parts]
    width, height = figure.bbox.size
    return all(
        box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        for box in boxes
    )


@pytest.mark.slow
@pytest.mark.parametrize(("lengths", "seeds"), [((20,), 1), ((5, 10), 8), (LENGTHS, 8)])
def test_nothing_written_in_a_figure_is_cut_off(lengths, seeds):
    results, histories = a_run(lengths=lengths, seeds=seeds)
    assert text_stays_inside(loss_figure(histories, results, lengths[0], FACTS))
    assert text_stays_inside(accuracy_figure(results, FACTS))
    assert text_stays_inside(overview_figure(histories, results, FACTS))
    names = ["short", "a name of a run that is so long that it has to go on in the next line " * 2]
    assert text_stays_inside(comparison_figure(dict.fromkeys(names, Run(results))))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 4])
def test_results_and_histories_without_a_single_value_can_be_drawn(seeds):
    results, histories = a_run(seeds=seeds, progress=0.0)
    nothing = np.full(len(results), np.nan)
    results = dataclasses.replace(results, test_accuracy=nothing, best_dev_accuracy=nothing)
    drawn(loss_figure(histories, results, 5, FACTS))
    drawn(accuracy_figure(results, FACTS))
    drawn(overview_figure(histories, results, FACTS))
    drawn(comparison_figure({"none": Run(results), "nothing": Run(results)}))


@pytest.mark.slow
def test_saved_figures_have_the_textbooks_names_and_the_same_bytes_every_time(tmp_path):
    results, histories = a_run(lengths=(5,), seeds=3)
    paths = save_figures(tmp_path / "once", Run(results, histories))
    names = ["6.7", "overview", "6.6_5"]
    expected = [f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    assert [path.relative_to(tmp_path / "once/figures").as_posix() for path in paths] == expected
    assert sorted(path.name for path in (tmp_path / "once/figures").iterdir()) == sorted(expected)
    again = save_figures(tmp_path / "again", Run(results, histories))
    for path, twin in zip(paths, again, strict=True):
        assert path.read_bytes() == twin.read_bytes()
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")
        assert b"CreationDate" not in path.read_bytes()


def test_a_name_with_a_point_keeps_all_of_it(tmp_path):
    paths = save_figure(comparison_figure({"run": Run(a_run()[0])}), tmp_path / "learning_rate_0.1")
    assert [path.name for path in paths] == ["learning_rate_0.1.pdf", "learning_rate_0.1.png"]
    assert all(path.exists() for path in paths)


@pytest.mark.slow
def test_helpers_draw_the_same_files_and_one_that_dies_costs_none(tmp_path, monkeypatch):
    run = Run(*a_run(lengths=(5, 10), seeds=3), {"finished": True})
    look, here = Look(formats=("png",)), []
    plainly = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *a: (here.append(a[-2:]), plainly(*a))[1])
    for name in ("together", "without"):  # helpers read the run's files
        (tmp_path / name).mkdir()
        write_results(run.results, tmp_path / name)
        write_histories(run.histories, tmp_path / name)
    meanwhile = []
    alone = save_figures(tmp_path / "alone", run, look, (), lambda: meanwhile.append(len(here)))
    assert here == [(0, 1)] and meanwhile == [0]  # before this process draws
    with start_helpers(2) as helpers:
        together = save_figures(tmp_path / "together", run, look, helpers)
        assert here[1:] == [(0, 3)]  # where Matplotlib is loaded, this process helps as well
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "matplotlib")
            assert together == save_figures(tmp_path / "together", run, look, helpers)
        assert here[2:] == []
        helpers[1].kill()
        helpers[1].wait()
        without = save_figures(tmp_path / "without", run, look, helpers)
        assert here[2:] == [(0, 3), (2, 3)]
    for path, twin, third in zip(alone, together, without, strict=True):
        assert path.name == twin.name == third.name
        assert path.read_bytes() == twin.read_bytes() == third.read_bytes()


@pytest.mark.slow
def test_what_helpers_have_to_say_is_said_once(tmp_path, monkeypatch, capsys):
    run = Run(*a_run(lengths=(5, 10), seeds=3), {"finished": True})
    write_results(run.results, tmp_path)
    write_histories(run.histories, tmp_path)
    monkeypatch.delitem(sys.modules, "matplotlib")
    with start_helpers(2) as helpers:
        save_figures(tmp_path, run, Look(formats=("png",), title="\U000104a0"), helpers)
    assert capsys.readouterr().err.count("in no font found") == 1


def test_helpers_that_are_not_needed_end():
    with start_helpers(2) as helpers:
        assert len(helpers) == 2
    assert all(helper.returncode is not None for helper in helpers)
    with start_helpers(0) as helpers:
        assert helpers == []


@pytest.mark.slow
def test_a_helper_ends_when_its_owner_is_killed():
    code = (
        "from srn_jax.analysis.drawing import start_helpers; import time\n"
        "with start_helpers(1) as [helper]: print(helper.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    helper = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 60
    while runs(helper):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(process):
    """Whether a process is still there, and not as a zombie."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_pdf_has_truetype_fonts_and_nothing_global_changes(tmp_path):
    before = dict(matplotlib.rcParams)
    results, histories = a_run(lengths=(5, 10), seeds=2)
    for figure in (accuracy_figure(results, FACTS), loss_figure(histories, results, 5, FACTS)):
        (path,) = save_figure(figure, tmp_path / "figure", Look(formats=("pdf",)))
        content = path.read_bytes()
        assert b"/FontFile2" in content and b"/Type3" not in content
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
@pytest.mark.parametrize("width", [3.3, 13])
def test_a_width_scales_the_figure_and_its_type(width):
    results, histories = a_run()
    look = Look(width=width, title="a title")
    figures = [
        loss_figure(histories, results, 5, FACTS, look=look),
        accuracy_figure(results, FACTS, look),
        overview_figure(histories, results, FACTS, look),
        comparison_figure({"a": Run(results), "b": Run(results)}, look),
    ]
    for figure in figures:
        assert figure.get_figwidth() == width
        assert figure.get_suptitle() == "a title"
        assert text_stays_inside(figure)
    size = figures[0].axes[0].xaxis.label.get_fontsize()
    assert size == pytest.approx(10 * np.sqrt(width / 6.4))


@pytest.mark.parametrize(
    "wrong", [{"width": 0.0}, {"width": np.nan}, {"formats": ("gif",)}, {"language": "fr"}]
)
def test_a_look_that_cannot_be_had_is_one_line(wrong):
    with pytest.raises(UserError, match=r"^--(width|format|lang) must be "):
        Look(**wrong)


def test_labels_are_chinese_where_a_font_is_there_and_one_line_says_so_where_none_is(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: ["DejaVu Sans"])
    with pytest.raises(UserError, match="needs a font with Chinese characters"):
        Look(language="zh")
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: [CHINESE["fonts"][3]])
    results, histories = a_run(seeds=2)
    look = Look(language="zh")
    axes = loss_figure(histories, results, 5, FACTS, look=look).axes[0]
    assert (axes.get_xlabel(), axes.get_title()) == ("步", "长度 5")
    figures = [
        accuracy_figure(results, FACTS, look),
        overview_figure(histories, results, FACTS, look),
    ]
    nothing = dataclasses.replace(results, test_accuracy=np.full(len(results), np.nan))
    figures += [comparison_figure({"x": Run(results), "y": Run(nothing)}, look)]
    figures += [probe_figure(with_probe(histories), "gradient_norm", 5, look)]
    norms = np.tile([1e3, 1, 0], (len(results), 400))[:, : histories.train_loss.shape[1]]
    with_zeros = dataclasses.replace(histories, steps={**histories.steps, "x.W": norms})
    figures += [probe_figure(with_zeros, "x", 5, look)]
    for figure in figures:
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert not [
            text for text in texts if text in CHINESE["words"] or "seeds" in text or "mean" in text
        ]


def test_names_of_what_a_task_looks_for_are_chinese_and_keep_their_numbers(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: CHINESE["fonts"])
    look = Look(language="zh")
    names = ["sum in tenths", "symbol", "symbol 2", "target 12", "mine 2", "my {own}"]
    said = ["和（以十分之一为单位）", "符号", "符号 2", "目标 12", "mine 2", "my {own}"]
    assert [look.say(name) for name in names] == said
    assert look.say("length {length}", length=5) == "长度 5"


def test_drawing_needs_neither_pyplot_nor_jax():
    code = (
        "import io, sys; from srn_jax.analysis.look import Look; "
        "import srn_jax.analysis.figures; \n"
        "with Look().applied(2, 1) as figure: figure.savefig(io.BytesIO(), format='pdf')\n"
        "print({'matplotlib.pyplot', 'jax'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("plain", "plain"),
        (r"$\eta$ = 0.1", r"$\eta$ = 0.1"),
        ("cost $5 to $6", r"cost \$5 to \$6"),
        ("$5", r"\$5"),
        (r"\$5 for $x$", r"\$5 for $x$"),
        ("US$ and A$", r"US\$ and A\$"),
        (r"a $\foo$ b", r"a \$\foo\$ b"),
        ("$$", r"\$\$"),
        ("$a\nb$", "\\$a\nb\\$"),
        ("_old", " _old"),  # a legend leaves out what begins with it
    ],
)
def test_a_dollar_is_mathematics_where_it_can_be_meant_and_read(words, told):
    assert words_of(words) == told == words_of(told)


def test_names_and_titles_with_dollars_are_drawn():
    runs = {r"$\foo$": Run(a_run(seeds=3)[0]), "$5": Run(a_run(seeds=2)[0])}
    figure = drawn(comparison_figure(runs, Look(title="cost $5 to $6")))
    assert figure.get_suptitle() == r"cost \$5 to \$6"
    assert r"\$\foo\$ (seeds: 3)" in legend_texts(figure)
    drawn(pair_figure(runs))
    cut = f"${'a ' * 34}b$ 50% of ${'c ' * 34}d$"  # by the end of a line
    drawn(comparison_figure({cut: runs["$5"]}))
