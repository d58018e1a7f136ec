"""Claims about tables and pages: the golden pages in tests/data, and what they must never do."""

import base64
import dataclasses
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import GOOD, NAN, histories_of, results_of, run_of, variant_of

from srn_jax.analysis import figures
from srn_jax.analysis.look import Look
from srn_jax.analysis.records import log_text
from srn_jax.analysis.report import closing_text, comparison, write_report
from srn_jax.analysis.stats import summarise
from srn_jax.config import Facts
from srn_jax.errors import UserError

DATA = Path(__file__).parent.parent / "data"
PNG = Look(width=2, formats=("png",))
INFO = {
    "command": ["python", "scripts/sweep.py", "--out", "my runs"],
    "device": "1 x NVIDIA H200",
    "versions": {"jax": "0.10.2"},
    "seconds": 3725.0,
    "phases": {"compiling": 2.5, "training": 3700.0},
    "went_on": [{"device": "2 x cpu", "date": "2026-12-01"}],
    "finished": False,
}


def norms_of(results):
    """Gradient norms of which some explode and some are dead."""
    norms = np.full((len(results), 400), 13, np.float32)
    norms[1, 5] = 5000
    norms[2:4, 300:] = 0
    return {f"gradient_norm.{tensor}": norms for tensor in "WUb"}


def explosive(results=GOOD, name="srn", **settings):
    """A variant with histories that begin to explode."""
    histories = histories_of(results, probes=norms_of(results))
    return variant_of(results, name, histories, **settings)


ODD = GOOD.assign(
    overlap=pd.array([20, 30, 25, 25, 0, 1, 2, 1], "Int64"),
    diverged=[False] * 5 + [True] + [False] * 2,
    test_accuracy=[0.7, 0.8, 0.9, 0.8, 0.1, NAN, NAN, 0.3],
    best_dev_accuracy=[0.8, 0.9, 1.0, 0.9, 0.2, NAN, NAN, 0.4],
    test_sequences=np.arange(8) / 10,
)
PAGES = {
    "report_of_one": run_of(explosive(optimizer="sgd"), **INFO),
    "report_of_oddities": run_of(
        variant_of(ODD, facts=Facts(better="loss", chance=0.5, answers=None, fixed_data=True))
    ),
    "report_of_two": run_of(explosive(), variant_of(results_of({5: [0.9] * 4}), "lstm")),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_report_is_the_golden_page(name, tmp_path, pytestconfig):
    gates = {"srn": figures.Gates(0, [1, 2], {"I": np.zeros((2, 2))})}
    write_report(PAGES[name], tmp_path, PNG, gates=gates if name == "report_of_one" else None)
    text = (tmp_path / "report.md").read_text()
    golden = DATA / f"{name}.md"
    if not golden.exists():  # delete it to write it again, and read what has changed
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_page_of_html_says_the_same_and_needs_no_other_file(tmp_path):
    write_report(PAGES["report_of_one"], tmp_path, PNG)
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))

    def words(source):
        source = re.sub(r"<style>.*</style>|<title>.*</title>|<[^>]*>", " ", source, flags=re.S)
        source = re.sub(r"\]\(.*\)|```sh", " ", source)
        return {*re.findall(r"[\w.,%+-]*\w", source.replace("&#39;", "'"))}

    assert words(page) == words(text)
    images = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    drawn = re.findall(r"!\[.*\]\((.*)\)", text)
    assert [base64.b64decode(image) for image in images] == [
        (tmp_path / path).read_bytes() for path in drawn
    ]
    assert not re.search(r'(src|href)="(?!data:|figures/)', page)


def test_what_a_user_writes_is_text_in_html(tmp_path):
    bad = "<script>alert(1)</script>"
    facts = dataclasses.replace(Facts(), question=bad, title=bad)
    run = run_of(variant_of(GOOD, facts=facts, cell=bad), command=bad, device=bad)
    write_report(run, tmp_path, PNG)
    assert "<script>" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.html").read_text().count("&lt;script&gt;") == 5


def test_a_report_has_tables_a_log_and_only_what_was_asked_for(tmp_path):
    timed = []

    @contextmanager
    def phases(name):
        timed.append(name)
        yield

    run = PAGES["report_of_two"]
    paths = write_report(run, tmp_path, Look(width=2, formats=("svg",)), phases)
    assert timed == ["intervals", "figures", "writing"]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == sorted(str(path.relative_to(tmp_path)) for path in paths)
    assert {path.suffix for path in paths if "figures" in path.parts} == {".svg"}
    assert {"tables/comparison.tex", "tables/srn/accuracy.csv", "log.txt"} <= {*found}
    assert "figures/lstm/accuracy.svg" in found
    assert log_text(run.variants[0].histories) in (tmp_path / "log.txt").read_text()
    frame = pd.read_csv(tmp_path / "tables" / "srn" / "accuracy.csv")
    pd.testing.assert_frame_equal(frame, summarise(GOOD), check_dtype=False, rtol=1e-12)
    latex = (tmp_path / "tables" / "srn" / "accuracy.tex").read_text()
    assert r"5 & 4 & 0.800 (0.670 to 0.930) & 0.082 & 0.900 \\" in latex and r"\toprule" in latex
    svg_only = (tmp_path / "report.md").read_text()
    assert "![6.7](figures/srn/6.7.svg)" in svg_only
    write_report(PAGES["report_of_one"], tmp_path / "pdf", Look(width=2, formats=("pdf",)))
    assert (
        "\n[6.7" not in svg_only
        and "\n[overview](figures/overview.pdf)" in (tmp_path / "pdf" / "report.md").read_text()
    )


def test_a_run_that_has_grown_keeps_no_report_of_before(tmp_path):
    write_report(run_of(PAGES["report_of_two"].variants[0]), tmp_path, PNG)
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    paths = write_report(PAGES["report_of_two"], tmp_path, PNG)
    found = {path for path in tmp_path.rglob("*.*")}
    assert found - {*paths} == {tmp_path / "figures" / "mine.png"}


def test_a_figure_that_cannot_be_drawn_costs_nothing_else_and_is_not_passed_over(
    tmp_path, monkeypatch
):
    def broken(*_):
        raise RuntimeError("out of\nink")

    monkeypatch.setattr(figures, "overview_figure", broken)
    with pytest.raises(UserError, match=r"overview: RuntimeError: out of ink\); the results"):
        write_report(PAGES["report_of_one"], tmp_path, PNG)
    text = (tmp_path / "report.md").read_text()
    assert "accuracy.png" in text and "overview.png" not in text and "## Run" in text
    assert (tmp_path / "report.html").exists() and (tmp_path / "log.txt").exists()


@pytest.mark.parametrize("link", ["figures", "tables", "figures/accuracy.png"])
def test_nothing_is_read_or_written_through_a_link(tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    path = tmp_path / "run" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(outside / "secret" if path.suffix else outside)
    with pytest.raises(UserError, match="is a link"):
        write_report(PAGES["report_of_one"], tmp_path / "run", PNG)
    assert [*outside.iterdir()] == [outside / "secret"]
    assert (outside / "secret").read_text() == "secret"


def test_a_run_ends_with_its_table_its_span_and_what_went_wrong():
    lines = closing_text(run_of(variant_of(GOOD))).splitlines()
    head = "length seeds test accuracy (95 % interval) seed sd dev accuracy"
    assert " ".join(lines[0].split()) == head
    assert lines[1].split()[:2] == ["5", "4"]
    assert "0.800 (0.670 to 0.930)" in lines[1] and len(lines) == 6
    assert lines[-1].startswith("memory span (mean test accuracy above 0.5): 20.7 (")
    assert max(map(len, lines)) <= 80
    text = closing_text(run_of(variant_of(ODD)))
    assert "2 of 4" in text and "25 %" in text and "0 to" in text
    assert "1 of 8 experiments diverged" in text and "1 of 8 experiments had no right" in text
    text = closing_text(PAGES["report_of_two"])
    assert "LSTM: memory span" in text and "cell lstm" in text and "srn," not in text


def test_with_fresh_data_nobody_knows_what_was_seen(tmp_path):
    fresh = GOOD.assign(overlap=pd.array([None] * 8, "Int64"))
    write_report(run_of(variant_of(fresh, fresh_data=True)), tmp_path, PNG)
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"\| 5 \| .* \| - \|\n", text) and "not counted with fresh data" in text
    assert "seen in training" not in text


def test_runs_are_compared_with_the_first_or_the_one_named(tmp_path):
    better = results_of({5: [0.8, 0.9, 1.0, 0.9], 35: [0.4, 0.2, 0.6, 0.4]})
    runs = {
        "small": run_of(explosive()),
        "large": run_of(explosive(better, "lstm"), finished=False),
    }
    found = comparison(runs)
    assert "\n     5   small" in found.table and "large has not finished" in found.table
    assert "+0.100 (+0.100 to +0.100)" in found.table
    assert "With 4 pairs at most, no p can be below 0.250." in found.table
    assert "large: cell lstm" in found.table and "small: memory span" in found.table
    assert comparison(runs, "large").frame["difference"].min() < 0
    with pytest.raises(UserError, match="`baseline` must be one of small, large, got huge"):
        comparison(runs, "huge")
    both = comparison({"a": PAGES["report_of_two"], "b": runs["small"]}, "a: LSTM")
    assert [*both.variants] == ["a: SRN", "a: LSTM", "b"]
    paths = found.write(tmp_path, PNG)
    names = {str(path.relative_to(tmp_path)) for path in paths}
    kinds = {f"comparison.{kind}" for kind in ("md", "html", "tex", "csv")}
    assert names == kinds | {"figures/comparison.png", "figures/6.12.png"}
    text = (tmp_path / "comparison.md").read_text()
    assert "## Exploding gradients" in text and "| large | 5 | 4 | 0.250 (" in text
    assert "A colour is a set of data" in text


def test_runs_on_other_data_are_told_and_not_paired():
    other = variant_of(results_of({35: [0.2] * 4}), multiplicity=5, hidden_size=16)
    found = comparison({"a": run_of(variant_of(GOOD)), "b": run_of(other)})
    assert "b was trained on other data than a: nothing is paired." in found.table
    assert "b: multiplicity 5, hidden_size 16" in found.table and "Differences" not in found.table
    same = comparison({"a": run_of(variant_of(GOOD)), "b": run_of(variant_of(GOOD))})
    assert same.settings == ["a: no setting differs", "b: no setting differs"]
