"""The scripts, run as a user runs them, and what they print."""

import csv
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import srn_jax
from srn_jax.answers import frequent, parse_tokens

ROOT = Path(__file__).parents[2]
SMALL = ("--platform", "cpu", "--lengths", 3, 6, "--seeds", 2, "--epochs", 4, "--hidden-size", 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run of two variants in runs/, and what the command printed."""
    place = tmp_path_factory.mktemp("place")
    words = [*map(str, SMALL), "--cell", "srn", "lstm"]
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return place / "runs" / "srn+lstm-L3-6-2seeds", done.stdout


def rows_of(folder):
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))


def test_a_sweep_says_where_it_runs_and_ends_with_its_table_and_the_report(run):
    folder, said = run
    lines = said.splitlines()
    assert "cpu: 4 experiments (variants: 1, lengths: 2, seeds: 2)" in lines[0]
    assert any(line.startswith("step ") and "L=6: loss" in line for line in lines)
    assert "memory span" in said and lines[-1] == f"report: runs/{folder.name}/report.html"
    for name in ("report.html", "report.md", "results.csv", "run.json", "log.txt", "figures"):
        assert (folder / name).exists(), name
    assert len(rows_of(folder)) == 8
    assert (folder.parent / "latest" / "run.json").read_bytes() == (
        folder / "run.json"
    ).read_bytes()


def test_evaluate_gives_the_accuracies_of_the_csv_again_and_means(run, run_here, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parents[1])
    done = run_here("evaluate.py", "runs/latest", "--platform", "cpu")
    assert done.returncode == 0, done.stderr
    table, means = done.stdout.split("\n\n")
    found = [line.split() for line in table.splitlines()]
    assert found[0] == ["variant", "length", "seed", "test_accuracy", "test_loss"]
    expected = [
        [row["variant"], row["length"], row["seed"], float(row["test_accuracy"])]
        for row in rows_of(folder)
    ]
    assert [[*row[:3], float(row[3])] for row in found[1:]] == expected
    assert means.startswith("mean test accuracy\n") and len(means.splitlines()) == 5
    one = run_here("evaluate.py", folder, "--variant", "lstm", "--lengths", 6, "--first-seed", 1)
    assert [line.split()[:3] for line in one.stdout.splitlines()[1:2]] == [["lstm", "6", "1"]]


def test_evaluate_predicts_a_sequence_and_counts_who_is_right(run, run_here):
    folder, _ = run
    done = run_here("evaluate.py", folder, "--lengths", 3, "--predict", "4 5 0")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:5]]
    assert [row[:3] for row in rows] == [
        [v, "3", str(s)] for v in ("srn", "lstm") for s in range(2)
    ]
    assert all((row[-1] == "yes") == (row[3] == "9") for row in rows)
    assert re.fullmatch(
        r"right, by length  srn 3: \d of 2  lstm 3: \d of 2", done.stdout.splitlines()[-1]
    )
    wrong = run_here("evaluate.py", folder, "--predict", "12 x")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: --predict wants numbers 0 to 9 like '3 4 0', got '12 x'")


def test_answers_that_are_equally_frequent_are_all_named_or_counted():
    assert frequent(["7", "3", "7"]) == "7 (2 of 3)"
    assert frequent(["7", "3", "1 2"]) == "7 or 3 or 1 2 (1 of 3 each)"
    assert frequent(list("1234")) == "4 answers tie (1 of 4 each)"


@pytest.mark.parametrize("vocabulary", [1, 2, 4, 10, 12])
def test_the_example_of_a_sequence_is_one_that_can_be_predicted(vocabulary):
    with pytest.raises(srn_jax.UserError) as refused:
        parse_tokens("x", vocabulary, "predict")
    assert len(parse_tokens(str(refused.value).split("'")[1], vocabulary, "predict")) == 3
    assert parse_tokens("11", 12, "x").tolist() == [11]
    assert parse_tokens("11", 10, "x").tolist() == [1, 1]


def test_the_same_command_trains_nothing_and_a_run_grows_by_what_is_asked_for(
    run, run_here, monkeypatch
):
    folder, first = run
    monkeypatch.chdir(folder.parents[1])
    before = rows_of(folder)
    done = run_here("sweep.py", *SMALL, "--cell", "srn", "lstm")
    assert done.returncode == 0, done.stderr
    assert "is finished, nothing is left to train" in done.stdout and "compiling" not in done.stdout
    assert done.stdout.split("\n\n")[-3:] == first.split("\n\n")[-3:]
    done = run_here("sweep.py", "--resume", "runs/latest", "--seeds", 3, "--platform", "cpu")
    assert done.returncode == 0, done.stderr
    after = rows_of(folder)
    assert len(after) == 12 and [row for row in after if row["seed"] != "2"] == before
    done = run_here("sweep.py", "--resume", folder, "--seeds", 1)
    assert done.returncode == 2 and "--seeds 1: the run has 3 of them already" in done.stderr


def test_plot_draws_a_run_elsewhere_and_compares_runs(run, run_here, tmp_path):
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run_here("plot.py", folder, "--out", tmp_path / "drawn", "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("written:\n") and list((tmp_path / "drawn").rglob("*.svg"))
    done = run_here("plot.py", folder, "--variant", "lstm", "--out", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    labels = ("--labels", "a", "b", "--out", tmp_path / "both")
    other = srn_jax.train([3, 6], 2, steps=4, hidden_size=8, folder=tmp_path / "other").folder
    done = run_here("plot.py", folder, other, *labels)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "both") in done.stdout
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    wrong = run_here("plot.py", folder, other, "--labels", "a", "a")
    assert wrong.returncode == 2 and "--labels must be 2 different names" in wrong.stderr


def test_weights_go_to_a_file_and_score_the_same_there(run, run_here, tmp_path):
    folder, _ = run
    one = (folder, "--variant", "lstm", "--length", 6, "--seed", 1)
    done = run_here("convert.py", *one, "--to", tmp_path / "w.npz")
    assert done.stdout == f"written: {tmp_path / 'w.npz'}\n", done.stderr
    assert run_here("generate_data.py", "--out", tmp_path / "data", "--lengths", 6).returncode == 0
    from_file = run_here(
        "convert.py", "--from", tmp_path / "w.npz", "--evaluate", tmp_path / "data"
    )
    from_run = run_here("convert.py", *one, "--evaluate", tmp_path / "data")
    assert from_file.returncode == 0 and from_file.stdout == from_run.stdout
    table = run_here("evaluate.py", *one[:3], "--lengths", 6, "--data", tmp_path / "data").stdout
    assert from_run.stdout.splitlines()[1].split()[1] in table


def test_the_textbooks_lines_are_printed_while_it_trains_on_the_books_files(
    run_here, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = ("--textbook", "--lengths", 5, 20, "--epochs", 4, "--platform", "cpu", "--out", "run")
    done = run_here("sweep.py", *small)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((tmp_path / "runs/textbook-data/20/train.txt").read_bytes())
    assert digest.hexdigest().startswith("60acd43edbd569d2")  # the book's file
    lines = done.stdout.splitlines()
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    own = [line for line in lines if line.startswith(("[Train]", "[Evaluate]"))]
    assert sorted(own) == sorted(line for line in log if not line.startswith("=="))
    rows = pd.read_csv(tmp_path / "run" / "results.csv").itertuples()
    for row in rows:
        assert (
            f"[SRN] length:{row.length}, dev_score: {row.best_dev_accuracy}, "
            f"test_score: {row.test_accuracy: .5f}"
        ) in lines


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first_and_the_line_that_goes_on_does(number, tmp_path, run_script):
    words = ("--platform", "cpu", "--lengths", 3, "--seeds", 1, "--steps", 200_000)
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *map(str, words)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(0.5)
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 128 + number
    told = "python scripts/sweep.py --resume runs/srn-L3-1seed --platform cpu"
    assert rest.splitlines()[-1] == f"stopped; to go on: {told}"
    assert os.listdir(tmp_path / "runs" / "latest" / "parts" / "0" / "checkpoints")


@pytest.mark.parametrize("script", ["sweep", "evaluate", "plot", "generate_data", "convert"])
def test_help_starts_nothing(script, run_script):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('scripts/{script}.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'pandas', 'matplotlib', 'orbax'} & set(sys.modules), 'too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage:")
