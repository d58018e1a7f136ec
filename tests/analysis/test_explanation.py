"""The tables say what was measured, and the page what the tables support."""

import csv
import dataclasses
import io
import re
from itertools import combinations

import numpy as np
import pytest

from srn_jax.analysis.explanation import (
    BEST,
    FEWEST,
    STAGES,
    Explanation,
    fates,
    mean_rows,
    measures,
    page,
    sentences,
    slopes,
    summary_rows,
)
from srn_jax.analysis.explanation_figures import (
    comparison_figure,
    figures_of,
    write_comparison,
    write_explanation,
)
from srn_jax.analysis.look import CHINESE, Look
from srn_jax.analysis.summary import UNKNOWN, Interval, mean_interval, wilson_interval

LENGTHS, SEEDS = (5, 8), 24
NUMBER = r"-?\d+\.\d{3}"
CLAIM = re.compile(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\) at length (\d+)")


def an_explanation(lengths=LENGTHS):
    """What might have been found; gradients shrink before training and grow at the end."""
    random = np.random.default_rng(0)
    length = np.repeat(lengths, SEEDS)
    experiments, longest = length.size, max(lengths)
    time = np.arange(longest)

    def until_end(values):
        return np.where(time < length[:, None], values, np.nan)

    readout = np.moveaxis(random.uniform(0, 1, (3, 2, experiments, longest)), 1, 2)
    readout = np.where(time < length[None, :, None, None], readout, np.nan)
    slope = random.normal([[-0.1], [0.0], [0.1]], 0.02, (3, experiments))
    return Explanation(
        length=length,
        seed=np.tile(np.arange(SEEDS), len(lengths)),
        targets=np.array(["first digit", "sum"]),
        is_answer=np.array([False, True]),
        chance=np.full((experiments, 2), 0.1),
        accuracy=random.uniform(0.2, 0.8, (3, experiments)),
        readout=readout,
        shuffled=readout / 5,
        gradient=until_end(10 ** (-slope[..., None] * time)),
        jacobian=until_end(random.normal(size=(3, 4, experiments, longest)))[..., 1:].transpose(
            0, 2, 3, 1
        ),
        product=-np.sort(-random.normal([[[-2]], [[0]], [[2]]], 1, (3, experiments, 4))),
        tested=np.array(lengths),
        unseen=random.uniform(0, 1, (experiments, len(lengths))),
        left_out=3,
        threshold=0.5,
    )


@pytest.fixture(scope="module")
def found():
    return an_explanation()


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "explanation"
    return folder, write_explanation(found, folder, "the sum")


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_slope_is_that_of_a_straight_line():
    time = np.arange(6)
    assert slopes(10.0 ** (0.3 * time)[None]) == pytest.approx([-0.3])
    assert slopes(np.array([[9, 0.01, 0.1, 1, np.nan, np.nan]])) == pytest.approx([-1])
    assert slopes(np.array([[0, 0, 0, 1e-5, 1e-3]])) == pytest.approx([-2])
    assert np.isnan(slopes(np.array([[1, 0, 0, 1.0]]))).all()


def test_fates_have_thresholds_of_a_decade():
    values = np.array([[-1.1, -9], [-0.9, -9], [0.9, -9], [1.1, -9], [np.nan, np.nan]])
    assert fates(values).tolist() == [0, 1, 1, 2, -1]


def test_every_row_of_the_summary_follows_from_the_networks(written):
    folder, _ = written
    networks, summary = read(folder / "networks.csv"), read(folder / "summary.csv")
    assert len(networks) == 3 * 2 * SEEDS
    for row in summary:
        group = [n for n in networks if (n["stage"], n["length"]) == (row["stage"], row["length"])]
        solvers = [n for n in group if n["solver"] == "True"]
        others = [n for n in group if n["solver"] == "False"]
        assert all((float(n["accuracy"]) > 0.5) for n in solvers if n["stage"] == "best")
        sets = {"all": group, "solvers": solvers, "others": others}
        measure, ends = row["measure"], [float(row["interval_low"]), float(row["interval_high"])]
        if measure not in networks[0]:
            members = sets[row["group"]]
            times = sum(n["fate"] == measure for n in members)
            share = wilson_interval(times, len(members))
            assert float(row["mean"]) == times / len(members)
            assert ends == [share.low, share.high]
            continue
        values = {
            k: np.array([float(n[measure]) for n in v if n[measure]]) for k, v in sets.items()
        }
        if row["group"] == "solvers less others":
            mean = values["solvers"].mean() - values["others"].mean()
        else:
            mean = values[row["group"]].mean()
            assert int(row["networks"]) == values[row["group"]].size
        assert float(row["mean"]) == pytest.approx(mean)
        assert ends[0] <= mean <= ends[1]
        if row["group"] == "all":
            assert ends == pytest.approx([*vars(mean_interval(values["all"])).values()])


def test_every_number_of_the_page_is_in_the_summary_with_its_interval(written):
    folder, _ = written
    rows = read(folder / "summary.csv")
    known = {
        (*(f"{float(r[c]):z.3f}" for c in ("mean", "interval_low", "interval_high")), r["length"])
        for r in rows
    }
    text = (folder / "explanation.md").read_text()
    claims = CLAIM.findall(text)
    assert len(claims) > 30 and set(claims) <= known
    body = text.partition("## ")[2]
    assert not re.findall(r"\d+\.\d+", CLAIM.sub("", body).replace("above 0.5", ""))


def test_the_page_claims_only_what_the_whole_interval_supports(written):
    text = (written[0] / "explanation.md").read_text()
    assert "or no evaluation had a right answer: 3." in text
    sides = {
        "The gradient shrinks on its way back": -1,
        "The gradient grows on its way back": 1,
        "Worse": -1,
        "Better": 1,
        "The data does not decide": 0,
    }
    for words, side in sides.items():
        for sentence in re.findall(rf"{words}: ((?:{CLAIM.pattern}(?:, )?)+)", text):
            for _, low, high, _ in CLAIM.findall(sentence[0]):
                inside = float(low) <= 0.5 and float(high) >= 0
                assert {-1: float(high) <= 0, 1: float(low) >= 0, 0: inside}[side]
    for stage, words in (("Before training", "shrinks"), ("At the end", "grows")):
        assert re.search(rf"\*\*{stage}\.\*\* The gradient {words} on its way back: ", text)


def test_a_value_on_the_reference_decides_nothing():
    def row(low, high):
        return {"mean": (low + high) / 2, "interval": Interval(low, high), "length": 5}

    rows = [row(-1, 0), row(0, 1), row(-2, -1), row(1, 2), row(np.nan, np.nan)]
    text = sentences(rows, 0.0, "Below", "Above")
    assert text.count("Below: -1.500") == text.count("Above: 1.500") == 1
    undecided = text.partition("The data does not decide: ")[2]
    assert "-0.500 (-1.000 to 0.000)" in undecided and "- (-)" in undecided


@pytest.mark.no_jax
def test_the_interval_of_a_difference_covers_it_as_often_as_it_should():
    random, hits = np.random.default_rng(1), 0
    for _ in range(200):
        accuracy = np.tile(random.permutation(np.repeat([0.2, 0.8], [20, 30])), (3, 1))
        values = random.normal(accuracy[BEST] / 0.6, 1)  # solvers are 1 above others
        empty = np.zeros((3, 50, 1, 2))
        sweep = Explanation(
            **{"length": np.full(50, 2), "seed": np.arange(50), "targets": np.array(["x"])},
            **{"is_answer": np.array([True]), "chance": np.zeros((50, 1)), "accuracy": accuracy},
            **{"readout": empty, "shuffled": empty, "gradient": empty[:, :, 0]},
            **{"jacobian": empty, "product": empty[:, :, 0], "tested": np.array([2])},
            **{"unseen": np.zeros((50, 1)), "left_out": 0, "threshold": 0.5},
        )
        (row,) = [r for r in mean_rows(sweep, {("x",): values}, ("m",)) if "less" in r["group"]]
        hits += row["interval"].low < 1 < row["interval"].high
    assert 180 <= hits <= 198


def test_curves_end_where_the_sequences_do(written):
    rows = read(written[0] / "curves.csv")
    longest = {n: max(int(r["position"]) for r in rows if r["length"] == str(n)) for n in LENGTHS}
    assert longest == {5: 5, 8: 8}
    assert {r["stage"] for r in rows} == set(STAGES)
    unseen = read(written[0] / "unseen_lengths.csv")
    assert {(r["length"], r["tested"]) for r in unseen} == {(a, b) for a in "58" for b in "58"}


def test_all_figures_are_drawn_and_arrays_written(found, written):
    folder, paths = written
    assert set(paths) == set(folder.iterdir())
    assert {p.stem for p in paths if p.suffix == ".png"} == set(figures_of(found))
    assert len(figures_of(found)) == 6
    arrays = np.load(folder / "explanation.npz")
    assert np.array_equal(arrays["readout"], found.readout, equal_nan=True)


def test_figures_of_several_seeds_say_what_lines_and_bands_are(found, written):
    one = dataclasses.replace(found, seed=np.zeros_like(found.seed))
    for explanation, said in ((found, "median and 5-95 % of seeds"), (one, "")):
        drawn = {stem: draw() for stem, draw in figures_of(explanation).items()}
        notes = {
            stem: f.legends[0].get_title().get_text() for stem, f in drawn.items() if f.legends
        }
        assert notes == dict.fromkeys(drawn.keys() - {"unseen_lengths"}, said)
    text = (written[0] / "explanation.md").read_text()
    assert "medians and 5-95 % of seeds; in `why.png`" in text


def test_the_only_position_of_a_panel_is_a_whole_number():
    axes = figures_of(an_explanation((2,)))["jacobian"]().axes[0]
    assert [n for n in axes.get_xticks() if axes.get_xlim()[0] < n < axes.get_xlim()[1]] == [2]


@pytest.mark.parametrize(("number", "width", "shown"), [(2, 3.3, 4), (12, None, 144), (12, 3.3, 0)])
def test_numbers_of_unseen_lengths_fit_into_their_cells_or_are_left_out(number, width, shown):
    figure = figures_of(an_explanation(range(2, 2 + number)), Look(width=width))["unseen_lengths"]()
    figure.draw_without_rendering()
    axes, texts = figure.axes[0], [text for text in figure.axes[0].texts if text.get_text()]
    cell = axes.get_window_extent().width / number
    assert len(texts) == shown
    assert all(text.get_window_extent().width < 0.9 * cell for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("width", [3.3, 5, 7, None])
@pytest.mark.parametrize("lengths", [(20,), (5, 10, 15), (5, 10, 15, 20, 25, 30, 35)])
def test_at_every_width_panels_are_large_and_nothing_written_is_cut_or_covered(lengths, width):
    found, look = an_explanation(lengths), Look(width=width)
    drawn = {stem: draw() for stem, draw in figures_of(found, look).items()}
    drawn["why"] = comparison_figure({"one": found, "other": found}, {"one": [], "other": []}, look)
    for stem, figure in drawn.items():
        figure.draw_without_rendering()
        parts = [*figure.legends]
        for axes in figure.axes:
            labels = axes.title, axes.xaxis.label, axes.yaxis.label
            parts += [label for label in labels if label.get_text()]
            if axes.axison:
                assert axes.get_window_extent().height > 0.7 * figure.dpi, stem
        boxes = [part.get_window_extent() for part in parts]
        for box in boxes:
            assert (box.min >= -1).all() and (box.max <= figure.bbox.size + 1).all(), stem
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2)), stem


def test_every_label_of_the_figures_has_its_chinese(found, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: [CHINESE["fonts"][0]])
    look, said = Look(language="zh"), []
    monkeypatch.setattr(
        Look, "say", lambda _, words, **values: (said.append(words), words.format(**values))[1]
    )
    for draw in figures_of(found, look).values():
        draw()
    comparison_figure({"one": found, "other": found}, {"one": [], "other": []}, look)
    assert {"solvers", "length {length}", "chance"} <= set(said) <= set(CHINESE["words"])


def test_a_cell_outside_the_family_has_no_gradients_in_tables_or_figures(found):
    nothing = {
        n: np.full_like(getattr(found, n), np.nan) for n in ("gradient", "jacobian", "product")
    }
    other = dataclasses.replace(found, **nothing)
    assert not {"gradient slope", "perturbation", "shrinks"} & {
        r["measure"] for r in summary_rows(other)
    }
    assert set(figures_of(other)) == {"forgetting", "solvers_and_others", "unseen_lengths"}
    text = page(other, summary_rows(other), "the sum", ["Not of the family."])
    assert "Not of the family." in text and "way back" not in text


def test_measures_are_differences_within_a_network(found):
    values = measures(found)
    last = np.array([found.readout[BEST, e, 1, n - 1] for e, n in enumerate(found.length)])
    assert values["readout above answer"][BEST] == pytest.approx(last - found.accuracy[BEST])
    own = np.where(found.length == 5, 0, 1)
    rows = np.arange(own.size)
    change = found.unseen[rows, 1 - own] - found.unseen[rows, own]
    assert values["other lengths"][BEST] == pytest.approx(change)


def test_few_networks_have_no_interval(found):
    accuracy = np.full_like(found.accuracy, 0.9)
    accuracy[BEST, : FEWEST - 1] = 0.1  # of the first length
    rows = summary_rows(dataclasses.replace(found, accuracy=accuracy))
    known = {
        (row["length"], row["group"]): not np.isnan(row["interval"].low)
        for row in rows
        if row["measure"] == "gradient slope"
    }
    none = [row | {"interval": UNKNOWN} for row in rows]
    assert "intervals in `summary.csv` one in twenty misses" in page(found, rows, "the sum")
    assert "one in twenty" not in page(found, none, "the sum")
    assert known == {
        (5, "all"): True,
        (5, "solvers"): True,
        (5, "others"): False,
        (5, "solvers less others"): False,
        (8, "all"): True,
        (8, "solvers"): True,
    }


def test_runs_side_by_side_are_paired_by_seed(found, tmp_path):
    half = np.arange(found.length.size) % 2 == 0  # some seeds diverged in the other run
    fields = ("length", "seed", "chance", "unseen")
    other = {name: getattr(found, name)[half] for name in fields}
    staged = ("accuracy", "readout", "shuffled", "gradient", "jacobian", "product")
    other |= {name: getattr(found, name)[:, half] for name in staged}
    other["accuracy"] = other["accuracy"] + 0.1
    runs = {"cell=a": found, "cell=b": dataclasses.replace(found, **other)}
    paths = write_comparison(runs, tmp_path)
    assert [path.name for path in paths] == ["differences.csv", "why.pdf", "why.png"]
    rows = [row for row in read(paths[0]) if row["measure"] == "accuracy"]
    assert len(rows) == len(STAGES) * len(LENGTHS)
    for row in rows:
        assert (row["run"], row["less"], row["networks"]) == ("cell=b", "cell=a", str(SEEDS // 2))
        assert float(row["mean"]) == pytest.approx(0.1)
        assert float(row["interval_low"]) == pytest.approx(0.1)
