"""The tables say what was measured, and the page what the tables support."""

import dataclasses
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from srn_jax.analysis.explanation import (
    ALL,
    BEST,
    DIFFERENCE,
    FATES,
    STAGES,
    UNDECIDED,
    Explanation,
    answer_lines,
    claim,
    difference_table,
    estimates,
    fates,
    measures,
    slopes,
    summary_table,
)
from srn_jax.analysis.explanation_figures import figures_of, write_explanation
from srn_jax.analysis.look import Look
from srn_jax.analysis.stats import mean_estimate, share_estimate

LENGTHS, SEEDS = (5, 8), 24
NUMBER = r"-?\d+\.\d{3}"
CLAIM = re.compile(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\) at length (\d+)")
ENDS = ["interval_low", "interval_high"]


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
    jacobian = until_end(random.normal(size=(3, 4, experiments, longest)))[..., 1:]
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
        jacobian=jacobian.transpose(0, 2, 3, 1),
        product=-np.sort(-random.normal([[[-2]], [[0]], [[2]]], 1, (3, experiments, 4))),
        tested=np.array(lengths),
        unseen=random.uniform(0, 1, (experiments, len(lengths))),
        left_out=3,
        threshold=0.5,
    )


def part_of(found, rows):
    """The same of some experiments."""
    fields = {n: getattr(found, n)[rows] for n in ("length", "seed", "chance", "unseen")}
    staged = ("accuracy", "readout", "shuffled", "gradient", "jacobian", "product")
    fields |= {n: getattr(found, n)[:, rows] for n in staged}
    return dataclasses.replace(found, **fields)


@pytest.fixture(scope="module")
def found():
    return an_explanation()


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "explanation"
    return folder, write_explanation({"srn": found}, folder, Look(formats=("png",)), "the sum")


def test_a_slope_is_that_of_a_straight_line():
    time = np.arange(6)
    assert slopes(10.0 ** (0.3 * time)[None]) == pytest.approx([-0.3])
    assert slopes(np.array([[9, 0.01, 0.1, 1, np.nan, np.nan]])) == pytest.approx([-1])
    assert slopes(np.array([[0, 0, 0, 1e-5, 1e-3]])) == pytest.approx([-2])
    assert np.isnan(slopes(np.array([[1, 0, 0, 1.0]]))).all()
    random = np.random.default_rng(0).uniform(0.1, 1, (4, 9))
    wanted = [-np.polyfit(np.arange(8), np.log10(row[1:]), 1)[0] for row in random]
    assert slopes(random) == pytest.approx(wanted)


def test_fates_have_thresholds_of_a_decade():
    values = np.array([[-1.1, -9], [-0.9, -9], [0.9, -9], [1.1, -9], [np.nan, np.nan]])
    told = np.stack([*fates(values).values()])
    assert told[:, :4].tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert np.isnan(told[:, 4]).all() and [*fates(values)] == [*FATES]


def test_few_values_that_agree_have_no_interval():
    for alike, few in ((4, False), (3, True)):
        mean, low, high = estimates(np.full((alike, 1), 0.5))
        assert mean[0] == 0.5 and np.isnan(low[0]) == np.isnan(high[0]) == few


def test_every_row_of_the_summary_follows_from_the_networks(written):
    folder, _ = written
    networks, summary = (pd.read_csv(folder / f"{n}.csv") for n in ("networks", "summary"))
    assert len(networks) == 3 * 2 * SEEDS
    best = networks[networks.stage == "best"]
    assert ((best.accuracy > 0.5) == best.solver).all()
    for row in summary.itertuples():
        its = networks[(networks.stage == row.stage) & (networks.length == row.length)]
        sets = {ALL: its, "solvers": its[its.solver], "others": its[~its.solver]}
        if row.measure in FATES:
            members = sets[row.group]
            share = share_estimate(int((members.fate == row.measure).sum()), len(members))
            wanted = share.value, share.low, share.high
        elif row.group == DIFFERENCE:
            sides = [sets[name][row.measure].dropna() for name in ("solvers", "others")]
            interval = scipy_stats.ttest_ind(*sides, equal_var=False).confidence_interval()
            wanted = sides[0].mean() - sides[1].mean(), interval.low, interval.high
        else:
            values = sets[row.group][row.measure].dropna()
            one = mean_estimate(values)
            wanted = one.value, one.low, one.high
            assert row.networks == len(values)
        assert (row.mean, row.interval_low, row.interval_high) == pytest.approx(wanted)


def test_the_page_has_what_the_summary_has_and_claims_what_whole_intervals_support(written):
    folder, _ = written
    rows = pd.read_csv(folder / "summary.csv").itertuples()
    known = {(*(f"{x:z.3f}" for x in (r.mean, *r[-2:])), str(r.length)) for r in rows}
    text, html = ((folder / f"explanation.{kind}").read_text() for kind in ("md", "html"))
    claimed, _, undecided = text.partition(f"## {UNDECIDED} (")
    claims = CLAIM.findall(text.partition("## ")[2])
    assert len(claims) > 30 and set(claims) <= known and CLAIM.findall(html) == CLAIM.findall(text)
    body = CLAIM.sub("", text.partition("## ")[2]).replace("above 0.5", "")
    assert not re.findall(r"\d+\.\d+", body)
    assert "Of 51 networks 3 are left out" in text
    sides = {"The gradient shrinks on its way back": -1, "Worse": -1, "Better": 1}
    sides["The gradient grows on its way back"] = 1
    for words, side in sides.items():
        for sentence in re.findall(rf"{words}: ((?:{CLAIM.pattern}(?:, )?)+)", text):
            for _, low, high, _ in CLAIM.findall(sentence[0]):
                assert float(high) < 0 if side < 0 else float(low) > 0
    assert UNDECIDED not in claimed and "## " not in undecided
    for _, low, high, _ in CLAIM.findall(undecided):
        assert float(low) <= 0.5 and float(high) >= 0
    for stage, words in (("before training", "shrinks"), ("at the end", "grows")):
        assert f"**The gradient {stage}.** The gradient {words} on its way back: " in claimed


def test_the_html_page_has_its_figures_in_it_and_folds_what_is_not_decided(found, written):
    text, html = ((written[0] / f"explanation.{kind}").read_text() for kind in ("md", "html"))
    images = re.findall(r'<img src="([^"]+)"', html)
    assert len(images) == len(figures_of(found, Look())) == 5
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert html.count("<details>") == 1
    assert html.index(f"<summary>{UNDECIDED}") > html.index("<h2>Solvers")
    assert all((written[0] / name).is_file() for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text))


def test_a_value_on_the_reference_decides_nothing():
    ends = [(-1, 0), (0, 1), (-2, -1), (1, 2), (np.nan, np.nan)]
    table = pd.DataFrame(ends, columns=ENDS).assign(measure="x", stage="best", group=ALL, length=5)
    table["mean"] = table[ENDS].mean(axis=1).fillna(7)
    told, undecided = claim(table, ["x", "best", ALL], "Below", "Above")
    assert told == (
        "Below: -1.500 (-2.000 to -1.000) at length 5. Above: 1.500 (1.000 to 2.000) at length 5."
    )
    assert "-0.500 (-1.000 to 0.000)" in undecided and "7.000 at length 5" in undecided
    assert claim(table, ["y", "best", ALL], "Below", "Above") == ("", "")


def test_five_lines_answer_why_it_forgets(found):
    lines = answer_lines({"srn": found})
    assert len(lines) == 5 and all("\n" not in line for line in lines)
    said = ("readout of sum", "Gradient", "training", "Solvers", "lengths")
    for words, line in zip(said, lines, strict=True):
        assert words in line and re.search(rf"{NUMBER} \([-+]?{NUMBER} to [-+]?{NUMBER}\)", line)
    several = answer_lines({"SRN": found, "LSTM": found})
    assert several == ["SRN:", *(f"  {s}" for s in lines), "LSTM:", *(f"  {s}" for s in lines)]
    one = part_of(found, np.array([0]))
    assert [line.endswith("unknown") for line in answer_lines({"srn": one})][1:] == [True] * 4
    for stage, words in ((0, "it shrinks"), (2, "it grows")):
        other = dataclasses.replace(found, gradient=found.gradient[[stage] * 3])
        assert answer_lines({"srn": other})[1].endswith(words)


@pytest.mark.slow
@pytest.mark.parametrize("width", [3.3, 7, None])
@pytest.mark.parametrize("lengths", [(20,), (5, 10, 15, 20, 25, 30, 35)])
def test_at_every_width_panels_are_large_and_nothing_written_is_cut_or_covered(lengths, width):
    found, look = an_explanation(lengths), Look(width=width)
    for stem, drawing in figures_of(found, look).items():
        figure = drawing.draw()
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


def test_what_is_unknown_is_in_no_table_and_no_figure(found, tmp_path):
    names = ("gradient", "jacobian", "product")
    nothing = {name: np.full_like(getattr(found, name), np.nan) for name in names}
    other = dataclasses.replace(found, **nothing)
    assert not {"gradient slope", "perturbation", "shrinks"} & {*summary_table(other).measure}
    assert {*figures_of(other, Look())} == {"forgetting", "solvers_and_others"}
    write_explanation({"x": other}, tmp_path, Look(formats=("svg",)), "the sum")
    text, html = ((tmp_path / f"explanation.{kind}").read_text() for kind in ("md", "html"))
    assert "Only the hidden states are known" in text and "way back" not in text
    assert "forgetting.svg)" in text and "data:image/svg+xml" in html
    one = an_explanation((1,))  # sequences of one position
    lost = {name: np.full_like(getattr(one, name), np.nan) for name in names[1:]}
    write_explanation({"x": dataclasses.replace(one, **lost)}, tmp_path, Look(), "the sum")
    text = (tmp_path / "explanation.md").read_text()
    assert "at length 1" in text and "way back" not in text


def test_measures_are_differences_within_a_network(found):
    values = measures(found)
    last = np.array([found.readout[BEST, e, 1, n - 1] for e, n in enumerate(found.length)])
    assert values["readout above answer"][BEST] == pytest.approx(last - found.accuracy[BEST])
    own = np.where(found.length == 5, 0, 1)
    rows = np.arange(own.size)
    change = found.unseen[rows, 1 - own] - found.unseen[rows, own]
    assert values["other lengths"][BEST] == pytest.approx(change)


def test_variants_side_by_side_are_paired_by_seed(found, tmp_path):
    some = np.arange(found.length.size) % 2 == 0  # other seeds diverged in the other run
    other = part_of(found, some)
    other = dataclasses.replace(other, accuracy=other.accuracy + 0.1)
    runs = {"cell=a": found, "own/b": other}
    paths = write_explanation(runs, tmp_path, Look(formats=("png",)), "the sum")
    assert {*paths} == {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in tmp_path.iterdir()} == {
        "differences.csv", "explanation.html", "explanation.md", "figures", "cell=a", "own_b"
    }  # fmt: skip
    assert (tmp_path / "figures/why.png").is_file() and (tmp_path / "own_b/summary.csv").is_file()
    rows = pd.read_csv(tmp_path / "differences.csv")
    rows = rows[rows.measure == "accuracy"]
    assert len(rows) == len(STAGES) * len(LENGTHS)
    assert {*rows.variant} == {"own/b"} and {*rows.less} == {"cell=a"}
    assert {*rows.networks} == {SEEDS // 2}
    assert rows[["mean", *ENDS]].to_numpy() == pytest.approx(0.1)
    text = (tmp_path / "explanation.md").read_text()
    assert text.count("Solvers (accuracy above 0.5)") == 2
    assert difference_table({"a": found}).empty
