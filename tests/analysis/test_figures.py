"""Claims about figures: what is in them, and that they say what it is."""

import dataclasses
import io
import re

import matplotlib
import numpy as np
import pytest
from made_up import NAN, histories_of, results_of, run_of, variant_of
from matplotlib.colors import to_rgba
from matplotlib.image import imread

from srn_jax.analysis import figures
from srn_jax.analysis.figures import (
    ACCURACIES,
    DEV_COLOR,
    ERRORS,
    TEST_COLOR,
    TRAIN_COLOR,
    Gates,
    comparison_figure,
    figures_of,
    figures_of_gates,
    loss_figure,
    norm_figure,
    overview_figure,
    pair_figure,
    probe_figure,
    score_figure,
    section_of,
)
from srn_jax.analysis.look import Look, files_of, save_figure
from srn_jax.config import Facts
from srn_jax.errors import UserError

NARROW = Look(width=3.3)
SEEDS = results_of({n: np.random.default_rng(n).uniform(0.1, 0.9, 16) for n in (5, 10, 15, 20)})
NORMS = {f"gradient_norm.{t}": np.ones((64, 400), np.float32) * k for k, t in enumerate("WUb", 1)}
SRN = variant_of(SEEDS, histories=histories_of(SEEDS, probes=NORMS))
ONE = variant_of(
    results_of({5: [0.7], 10: [0.5]}), histories=histories_of(results_of({5: [0.7], 10: [0.5]}))
)
LSTM = variant_of(SEEDS.assign(test_accuracy=SEEDS["test_accuracy"] / 2), "lstm")
BOTH = {"SRN": SRN, "LSTM": LSTM}
GATES = Gates(3, [6, 7, 0, 1], {"I": np.full((5, 4), 0.5), "C": np.zeros((5, 4))})
ALL = {
    "6.6": lambda look: loss_figure(SRN, 5, look),
    "6.7": lambda look: score_figure(SRN, ACCURACIES, look),
    "error": lambda look: score_figure(SRN, ERRORS, look),
    "6.8": lambda look: norm_figure(SRN, 5, 40, look),
    "probe": lambda look: probe_figure(SRN, "gradient_norm", 5, look),
    "overview": lambda look: overview_figure(SRN, look),
    "comparison": lambda look: comparison_figure(BOTH, look),
    "6.12": lambda look: pair_figure(BOTH, look),
    "6.13": lambda look: figures_of_gates(LSTM, GATES, look)["6.13_I"].draw(),
}


def texts_of(figure):
    """All that can be read in a figure."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def legends_of(figure):
    """All legends."""
    return figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]


@pytest.mark.parametrize("look", [Look(), NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_cut_off_or_too_small_to_read(name, look):
    figure = ALL[name](look)
    files_of(figure, look)  # solves the layout
    renderer, box = figure.canvas.get_renderer(), figure.bbox.padded(2)
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_text().strip() and text.get_visible():
            assert text.get_fontsize() >= 5.4
            extent = text.get_window_extent(renderer)
            assert text.axes is None or (box.x0 <= extent.x0 and extent.x1 <= box.x1)
    for legend in legends_of(figure):
        extent = legend.get_window_extent(renderer)
        assert box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0
    for axes in figure.axes:
        assert axes.get_window_extent(renderer).height > 0.2 * figure.bbox.height / len(figure.axes)
    assert figure.get_figwidth() == (look.width or figure.get_figwidth())


@pytest.mark.parametrize("name", ALL)
def test_words_are_a_readers_and_legends_short(name):
    words = texts_of(ALL[name](Look()))
    assert not any(re.search(r"[a-z]=|_|\$", word) for word in words)
    for legend in legends_of(ALL[name](Look())):
        assert all(len(text.get_text()) <= 24 for text in legend.get_texts())


def marks_of(figure):
    """Colour with opacity of what has a label, and of the same in the legend, by label."""

    def look(mark):
        kind = "color" if hasattr(mark, "get_color") else "facecolor"
        color = getattr(mark, f"get_{kind}")()
        color = color[0] if np.ndim(color) == 2 and len(color) else color
        return to_rgba(color, mark.get_alpha()) if len(color) else None

    drawn, shown = {}, {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handle = handle[0] if isinstance(handle, tuple) else handle
            drawn.setdefault(label, set()).add(look(handle))
    for legend in legends_of(figure):
        for box, text in zip(
            legend.findobj(matplotlib.offsetbox.DrawingArea), legend.get_texts(), strict=True
        ):
            shown[text.get_text()] = {look(mark) for mark in box.get_children()}
    return drawn, shown


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("6.13",)])
def test_a_legend_looks_like_the_marks_that_it_is_for(name):
    drawn, shown = marks_of(ALL[name](Look()))
    assert drawn.keys() == shown.keys()
    for label, marks in drawn.items():
        assert marks - {None} <= shown[label], label
    if name == "6.7":
        assert {round(mark[3], 2) for mark in drawn["single seeds"]} == {0.4}


def test_a_role_has_one_colour_in_all_figures():
    expected = {"train": TRAIN_COLOR, "dev": DEV_COLOR, "best dev": DEV_COLOR, "test": TEST_COLOR}
    for name in ("6.6", "6.7", "error", "overview", "6.12"):
        for label, marks in marks_of(ALL[name](Look()))[0].items():
            role = label.rpartition(", ")[2]
            colors = {mark[:3] for mark in marks if mark is not None and mark[3] > 0.5}
            assert role not in expected or colors == {to_rgba(expected[role])[:3]}, (name, label)


@pytest.mark.parametrize("name", ["6.6", "6.7", "comparison", "6.12", "6.8"])
def test_lines_can_be_told_apart_in_grey(name):
    figure = ALL[name](Look())
    looks = []
    for axes in figure.axes:
        for handle in axes.get_legend_handles_labels()[0]:
            line = handle[0] if isinstance(handle, tuple) else handle
            if isinstance(line, matplotlib.lines.Line2D):
                red, green, blue, _ = to_rgba(line.get_color())
                grey = round((0.3 * red + 0.59 * green + 0.11 * blue) * 5)
                looks.append((grey, line.get_linestyle(), line.get_marker()))
    assert len(set(looks)) == len(looks) > 1


def test_titles_say_what_is_drawn():
    def title(figure):
        return figure.axes[0].get_title()

    assert title(loss_figure(SRN, 5)) == "length 5: median, 5-95 % of 16 seeds"
    assert title(loss_figure(ONE, 5)) == "length 5: seed 0"
    assert title(score_figure(SRN, ACCURACIES)) == "mean of 16 seeds and its 95 % interval"
    assert title(score_figure(ONE, ACCURACIES)) == "seed 0"
    gone = dataclasses.replace(SRN, results=SEEDS.assign(diverged=SEEDS["seed"] < 3))
    assert title(loss_figure(gone, 5)).replace("\n", " ").endswith("16 seeds, 3 diverged")
    few = dataclasses.replace(LSTM, results=SEEDS[SEEDS["seed"] < 4])
    figure = comparison_figure({"SRN": SRN, "LSTM": few})
    assert title(figure) == "mean over seeds and its 95 % interval"
    assert {"SRN (16 seeds)", "LSTM (4 seeds)"} <= set(texts_of(figure))


def test_figure_6_13_says_whose_gates_and_what_was_read():
    drawings = figures_of_gates(LSTM, GATES)
    assert [*drawings] == ["6.13_I", "6.13_C"]
    axes = drawings["6.13_I"].draw().axes[0]
    assert axes.get_title() == "gate I of the LSTM, length 4, seed 3"
    assert axes.get_xlabel() == "symbol read at each position"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["6", "7", "0", "1"]
    assert axes.images[0].get_clim() == (0, 1)
    assert drawings["6.13_C"].draw().axes[0].images[0].get_clim() == (-5, 5)


def lines_in(axes):
    """The lines with labels, by label."""
    return {line.get_label(): line for line in axes.lines}


def test_loss_figures_draw_the_losses_of_their_length():
    histories = SRN.histories
    axes = loss_figure(SRN, 10).axes[0]
    rows, lines = histories.length == 10, lines_in(axes)
    np.testing.assert_allclose(
        lines["train"].get_ydata(), np.median(histories.train_loss[rows], axis=0)
    )
    np.testing.assert_allclose(
        lines["dev"].get_ydata(), np.median(histories.dev_loss[rows], axis=0)
    )
    assert lines["dev"].get_xdata().tolist() == histories.eval_steps.tolist()
    assert axes.get_xlim() == (0, 399)
    every = dataclasses.replace(
        histories, loss_steps=np.arange(400), train_loss=np.ones((64, 400), np.float32)
    )
    axes = loss_figure(dataclasses.replace(SRN, histories=every), 10).axes[0]
    assert lines_in(axes)["train"].get_xdata().tolist() == [*range(0, 400, 4)]


def test_score_figures_draw_means_and_intervals():
    axes = score_figure(SRN, ACCURACIES).axes[0]
    from srn_jax.analysis.stats import summarise

    table = summarise(SEEDS)
    best, test = axes.containers
    np.testing.assert_allclose(test.lines[0].get_ydata(), table["test_accuracy"])
    np.testing.assert_allclose(best.lines[0].get_ydata(), table["best_dev_accuracy"])
    (bars,) = test.lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:, 0], table["test_accuracy_low"])
    np.testing.assert_allclose(ends[:, 1], table["test_accuracy_high"])
    assert axes.get_ylim() == (0, 1.03)
    small = SEEDS.assign(test_loss=np.geomspace(1e-4, 0.2, 64))
    assert (
        score_figure(dataclasses.replace(SRN, results=small), ERRORS).axes[0].get_yscale() == "log"
    )


def test_the_overview_has_a_panel_for_every_length_on_one_scale():
    figure = overview_figure(SRN)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == ["length 5", "length 10", "length 15", "length 20", "mean of 16 seeds"]
    assert len({axes.get_ylim() for axes in figure.axes[:4]}) == 1
    long = histories_of(SEEDS, steps=38_000)
    assert figures.epochs_a_point(long) == 8
    line = lines_in(overview_figure(dataclasses.replace(SRN, histories=long)).axes[0])["train"]
    means = long.epoch_loss[long.length == 5].reshape(16, 125, 8).mean(axis=2)
    np.testing.assert_allclose(line.get_ydata(), np.median(means, axis=0), rtol=1e-6)


def test_one_point_is_a_dot_and_seeds_that_ended_leave_gaps():
    histories = dataclasses.replace(
        histories_of(ONE.results, steps=30), train_loss=np.full((2, 30), NAN, np.float32)
    )
    histories.train_loss[0, 7] = 2.0
    axes = loss_figure(dataclasses.replace(ONE, histories=histories), 5).axes[0]
    line = lines_in(axes)["train"]
    assert line.get_marker() == "o" and line.get_xdata().tolist() == [7]
    assert loss_figure(dataclasses.replace(ONE, histories=histories), 10).axes  # of nothing at all
    broken = dataclasses.replace(SRN.histories, dev_loss=SRN.histories.dev_loss.copy())
    broken.dev_loss[3, 1:] = np.inf
    line = lines_in(loss_figure(dataclasses.replace(SRN, histories=broken), 5).axes[0])["dev"]
    expected = np.nanmedian(
        np.where(np.isinf(broken.dev_loss[:16]), NAN, broken.dev_loss[:16]), axis=0
    )
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_a_probe_of_wide_range_is_logarithmic_and_says_what_it_leaves_out():
    norms = np.geomspace(1e-3, 1e3, 400, dtype=np.float32)[None].repeat(64, axis=0)
    norms[:, 7] = 0
    histories = dataclasses.replace(SRN.histories, probes={"update_norm": norms})
    figure = probe_figure(dataclasses.replace(SRN, histories=histories), "update_norm", 5)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "update norm\n(zeros left out)"
    long = dataclasses.replace(
        histories_of(SEEDS, 1000), probes={"p": np.ones((64, 1000), np.float32)}
    )
    axes = probe_figure(dataclasses.replace(SRN, histories=long), "p", 5).axes[0]
    assert axes.get_ylabel() == "p, mean of 3 steps" and axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    "settings, section, names",
    [
        ({}, "6.1", ["6.7", "overview", "6.6_5", "6.6_10", "6.6_15", "6.6_20"]),
        ({"cell": "lstm"}, "6.3", ["accuracy", "overview", "6.11_5"]),
        ({"cell": "gru"}, None, ["accuracy", "overview", "loss_5"]),
        ({"task": "adding"}, None, ["accuracy", "error", "overview", "loss_5"]),
        ({"optimizer": "sgd", "clip_norm": None}, "6.2", ["accuracy", "overview", "loss_5"]),
    ],
)
def test_figures_have_the_textbooks_names_in_the_order_in_which_they_are_read(
    settings, section, names
):
    facts = Facts(better="loss") if "task" in settings else Facts()
    variant = dataclasses.replace(SRN, facts=facts, settings={**SRN.settings, **settings})
    assert section_of(variant.settings) == section
    found = [*figures_of(variant)]
    assert found[: len(names)] == names and "gradient_norm_5" in found
    assert ("6.8_5" in found) == (section == "6.2")
    clipped = dataclasses.replace(variant, settings={**variant.settings, "clip_norm": 5.0})
    assert ("6.9_5" in figures_of(clipped)) == (section == "6.2")


def test_the_same_figure_is_the_same_bytes_and_settings_stay_the_users():
    before = dict(matplotlib.rcParams)
    look = Look(formats=("pdf", "png", "svg"))
    first, second = (files_of(ALL["6.7"](look), look) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert b"/Type3" not in first["pdf"] and b"/FontFile2" in first["pdf"]
    assert imread(io.BytesIO(first["png"])).shape[1] == 6.4 * 150


def test_a_figure_in_a_format_that_was_not_asked_for_does_not_stay_beside_it(tmp_path):
    figure = ALL["6.7"](Look())
    for kind in ("pdf", "png", "svg", "txt"):
        (tmp_path / f"6.7.{kind}").write_text("old")
    (tmp_path / "6.70.svg").write_text("another")
    assert save_figure(figure, tmp_path / "6.7", Look(formats=("png",))) == [tmp_path / "6.7.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6.7.png", "6.7.txt", "6.70.svg"]


def test_a_readers_style_and_title_are_taken(tmp_path):
    style = tmp_path / "mine.mplstyle"
    style.write_text("axes.facecolor: eeeeee\nfont.size: 20\n")
    figure = score_figure(ONE, ACCURACIES, Look(style=style, title="costs $5 to $6"))
    assert figure.axes[0].get_facecolor() == to_rgba("#eeeeee")
    assert figure.axes[0].xaxis.label.get_fontsize() == 20
    assert "costs $5 to $6" in texts_of(figure) and files_of(figure)


@pytest.mark.parametrize(
    "choice, words",
    [
        ({"width": 1}, "`width` must be a number of inches from 1.5 to 100, got 1"),
        ({"width": NAN}, "`width` must be"),
        ({"formats": ()}, "`formats` must be one or more of pdf, png, svg, got none"),
        ({"formats": ("gif",)}, "got gif"),
        ({"style": "there/is.none"}, "`style` there/is.none: not a style sheet"),
        ({"style": __file__}, "it has no setting"),
    ],
)
def test_a_look_that_cannot_be_had_is_one_line(choice, words):
    with pytest.raises(UserError) as error:
        Look(**choice)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_run_without_histories_still_has_its_scores():
    bare = dataclasses.replace(SRN, histories=None)
    assert [*figures_of(bare)] == ["6.7"] and run_of(bare).results is bare.results
    nothing = results_of({5: [NAN, NAN], 10: [NAN, NAN]})
    assert files_of(score_figure(variant_of(nothing), ACCURACIES))
