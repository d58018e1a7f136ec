"""The scripts, run as a user runs them."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from srn_jax.analysis.results import read_histories, read_results
from srn_jax.cli import answers
from srn_jax.cli.answers import most_frequent, parse_tokens
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs.folder import RUN_FILE
from srn_jax.runs.restore import Networks

SMALL = ("--platform", "cpu", "--lengths", 3, 6, "--seeds", 3, "--epochs", 12)


def rows_of(text):
    """The rows of a table whose first two cells are a length and a seed."""
    cells = [line.split() for line in text.splitlines()]
    return [row for row in cells if len(row) in (4, 5) and row[0].isdigit() and row[1].isdigit()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run, and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    command = [sys.executable, "scripts/sweep.py", *map(str, SMALL), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_sweep_says_where_it_runs_and_ends_with_its_table_and_paths(run):
    folder, done = run
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines[0].endswith("cpu: 6 experiments (2 lengths x 3 seeds)")
    assert lines[1] == "compiling"
    assert any(line.startswith("step ") and "L=6: loss" in line for line in lines)
    table, paths = done.stdout.split("\n\n")[-2:]
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["------", "-----"],
        ["3", "3"],
        ["6", "3"],
    ]
    wanted = f"in {folder}: results.csv, histories.npz, checkpoints, figures, tables/"
    assert " ".join(paths.split()).startswith(wanted)
    assert all(len(line) <= 80 or str(folder) in line for line in lines)


def test_a_run_folder_holds_what_the_readme_says(run):
    folder, _ = run
    results, histories = read_results(folder), read_histories(folder)
    assert results.length.tolist() == [3] * 3 + [6] * 3
    assert results.seed.tolist() == [0, 1, 2] * 2
    assert histories.train_loss.shape == (6, 12 * 38)
    assert histories.epoch_loss.shape == (6, 12)
    assert histories.eval_steps.tolist() == [100, 200, 300, 400, 455]
    by_epoch = histories.train_loss.reshape(6, 12, 38).mean(axis=2)
    assert histories.epoch_loss == pytest.approx(by_epoch, rel=1e-5)
    best = histories.dev_accuracy.argmax(axis=1)
    assert results.best_step.tolist() == histories.eval_steps[best].tolist()
    assert results.best_dev_accuracy == pytest.approx(histories.dev_accuracy.max(axis=1))
    assert results.dev_loss == pytest.approx(histories.dev_loss[np.arange(6), best])
    for name in ("6.6_3", "6.6_6", "6.7", "overview"):
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    info = json.loads((folder / RUN_FILE).read_text())
    assert info["finished"] and info["settings"]["experiment"]["epochs"] == 12
    report = (folder / "report.md").read_text()
    assert "figures/6.7.png" in report and "scripts/sweep.py" in report


def test_the_log_has_the_textbooks_lines_of_the_first_seed(run):
    folder, _ = run
    histories = read_histories(folder)
    lines = (folder / "log.txt").read_text().splitlines()
    start = lines.index("== length 6, seed 0")
    log = lines[start + 1 :]
    losses = [line for line in log if line.startswith("[Train] epoch")]
    assert len(losses) == 5  # steps 0, 100, ..., 400
    loss = f"{histories.train_loss[3, 100]:.5f}"
    assert losses[1] == f"[Train] epoch: 2/12, step: 100/456, loss: {loss}"
    score, loss = histories.dev_accuracy[3, 0], histories.dev_loss[3, 0]
    at_100 = log.index(losses[1]) + 1
    assert log[at_100] == f"[Evaluate]  dev score: {score:.5f}, dev loss: {loss:.5f}"
    better = "[Evaluate] best accuracy performence has been updated"  # the book's own spelling
    assert log[at_100 + 1] == f"{better}: 0.00000 --> {score:.5f}"
    assert sum("dev score" in line for line in log) == 5
    scores = histories.dev_accuracy[3]
    improvements = sum(s > max([0, *scores[:i]]) for i, s in enumerate(scores))
    assert sum(line.startswith(better) for line in log) == improvements
    assert log[-1] == "[Train] Training done!"


@pytest.mark.slow
def test_textbook_prints_the_books_lines_while_it_trains_on_the_books_files(
    run_here, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    small = ("--textbook", "--lengths", 5, 20, "--epochs", 4, "--platform", "cpu")
    done = run_here("sweep.py", *small, "--out", "run")
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((tmp_path / "runs/textbook-data/20/train.txt").read_bytes())
    assert digest.hexdigest().startswith("60acd43edbd569d2")  # the book's file
    results, lines = read_results(tmp_path / "run"), done.stdout.splitlines()
    assert results.seed.tolist() == [0, 0]
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    own = [line for line in lines if line.startswith(("[Train]", "[Evaluate]"))]
    assert sorted(own) == sorted(line for line in log if not line.startswith("=="))
    assert lines.index("== length 5") < lines.index(own[0]) < lines.index("== length 20")
    scores = zip(results.length, results.best_dev_accuracy, results.test_accuracy, strict=True)
    assert lines[-2:] == [
        f"[SRN] length:{n}, dev_score: {dev}, test_score: {test: .5f}" for n, dev, test in scores
    ]


def test_evaluate_restores_the_networks_and_gives_the_accuracies_of_the_csv_again(run, run_here):
    folder, _ = run
    done = run_here("evaluate.py", folder, "--platform", "cpu")
    assert done.returncode == 0, done.stderr
    with open(folder / "results.csv") as file:
        expected = [
            [row["length"], row["seed"], row["test_accuracy"]] for row in csv.DictReader(file)
        ]
    assert [row[:3] for row in rows_of(done.stdout)] == expected


def test_evaluate_picks_lengths_and_seeds_and_other_data(run, run_here, tmp_path):
    folder, _ = run
    made = run_here("generate_data.py", "--out", tmp_path, "--lengths", 6)
    assert made.returncode == 0, made.stderr
    chosen = ("--lengths", 6, 6, "--seeds", 2, "--first-seed", 1)  # a length twice is still one
    options = (*chosen, "--data", tmp_path, "--platform", "cpu")
    done = run_here("evaluate.py", folder, *options)
    assert done.returncode == 0, done.stderr
    assert [row[:2] for row in rows_of(done.stdout)] == [["6", "1"], ["6", "2"]]


def test_evaluate_predicts_a_sequence(run, run_here):
    folder, _ = run
    options = ("--lengths", 3, "--predict", "4 5 0", "--platform", "cpu")
    done = run_here("evaluate.py", folder, *options)
    assert done.returncode == 0, done.stderr
    assert [row[:2] for row in rows_of(done.stdout)] == [["3", "0"], ["3", "1"], ["3", "2"]]
    assert all(0 <= int(row[2]) <= 18 and 0 < float(row[3]) <= 1 for row in rows_of(done.stdout))
    said = [row[2] for row in rows_of(done.stdout)]
    assert [len(row) == 5 for row in rows_of(done.stdout)] == [answer == "9" for answer in said]
    end = f"the right answer is 9, given by, for each length  3: {said.count('9')} of 3"
    assert done.stdout.splitlines()[-1] == end


@pytest.mark.slow
def test_evaluate_predicts_any_tokens_and_marks_nothing_where_no_answer_is_known(
    run_here, tmp_path
):
    (tmp_path / "data" / "2").mkdir(parents=True)
    lines = "".join(f"{a} {b}\t{a * b % 12}\n" for a in range(12) for b in range(12))
    few = "1 2\t2\n2 6\t0\n3 4\t0\n0 1\t0\n5 5\t1\n"
    for name, part in (("train", lines), ("dev", few), ("test", lines)):
        (tmp_path / "data" / "2" / f"{name}.txt").write_text(part)
    small = ("--data", tmp_path / "data", "--seeds", 2, "--steps", 40, "--platform", "cpu")
    done = run_here("sweep.py", *small, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    best = read_results(tmp_path / "run").best_dev_accuracy  # of five, not of 144 as in the test
    assert set(best) <= {0.2, 0.4, 0.6, 0.8}
    assert parse_tokens("11", 12).tolist() == [11] and parse_tokens("11", 10).tolist() == [1, 1]
    done = run_here("evaluate.py", tmp_path / "run", "--predict", "11 3", "--platform", "cpu")
    assert done.returncode == 0, done.stderr
    assert [len(row) for row in rows_of(done.stdout)] == [4, 4]
    assert done.stdout.splitlines()[-1].startswith("most frequent answer by length  2: ")
    wrong = run_here("evaluate.py", tmp_path / "run", "--predict", "12 3", "--platform", "cpu")
    assert wrong.returncode == 2 and "--predict wants numbers 0 to 11" in wrong.stderr


@pytest.mark.no_jax
def test_answers_that_are_equally_frequent_are_all_named_or_counted():
    assert most_frequent(["7", "3", "7"]) == "7 (2 of 3)"
    assert most_frequent(["7", "3", "1 2"]) == "7 or 3 or 1 2 (1 of 3 each)"
    assert most_frequent(list("1231")) == "1 (2 of 4)"
    assert most_frequent(list("1234")) == "4 answers tie (1 of 4 each)"


def test_a_mistake_in_ones_own_right_answer_is_one_line(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text(
        "from srn_jax.tasks import DigitSum\n\n"
        "class Own(DigitSum):\n    def right_answer(self, tokens):\n        return 1 / 0\n"
    )
    config = SweepConfig((3,), (0,), ExperimentConfig(task=f"{own}:Own"))
    networks = Networks(config, config.experiments, {}, np.ones(1, bool))
    shares = np.zeros((1, 19), np.float32)
    monkeypatch.setattr(answers, "map_experiments", lambda *_: shares)
    with pytest.raises(UserError, match="line 5: ZeroDivisionError"):
        answers.print_predictions(networks, "1 2 0")


@pytest.mark.no_jax
@pytest.mark.parametrize("vocabulary", [1, 2, 4, 10, 12])
def test_the_example_of_a_sequence_is_one_that_can_be_predicted(vocabulary):
    with pytest.raises(UserError) as refused:
        parse_tokens("x", vocabulary)
    assert len(parse_tokens(str(refused.value).split("'")[1], vocabulary)) == 3


def test_the_same_command_again_shows_the_same_results_and_trains_nothing(run, run_here):
    folder, first = run
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".csv", ".npz")}
    done = run_here("sweep.py", *SMALL, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "is finished, nothing is left to train" in done.stdout
    assert "compiling" not in done.stdout and "resumed" not in done.stdout
    assert done.stdout.split("\n\n")[-2:] == first.stdout.split("\n\n")[-2:]
    assert before == {name: (folder / name).read_bytes() for name in before}


@pytest.mark.slow
def test_plot_draws_one_run_again_and_compares_several(run, run_here, tmp_path):
    folder, _ = run
    png = folder / "figures" / "6.7.png"
    before = png.read_bytes()
    png.unlink()
    code = (
        f"import runpy, sys; sys.argv = ['plot.py', {str(folder)!r}]\n"
        "try: runpy.run_path('scripts/plot.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'jaxlib'} & set(sys.modules), 'a finished run needs no JAX'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert png.read_bytes() == before
    other = shutil.copytree(folder, tmp_path / "other")
    done = run_here("plot.py", folder, other, "--out", tmp_path / "both", "--platform", "cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "both" / "figures" / "comparison.pdf").exists()


@pytest.mark.slow
def test_several_values_of_an_option_are_trained_and_compared(run_here, tmp_path):
    options = ("--learning-rate", 0.01, 0.02, "--recurrent-init", "xavier", "identity")
    small = ("--platform", "cpu", "--lengths", 3, "--seeds", 2, "--steps", 9)
    done = run_here("sweep.py", *small, *options, "--out", tmp_path / "study")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "study" / "variants.csv") as file:
        rows = list(csv.DictReader(file))
    variants = {(row["learning_rate"], row["recurrent_init"]) for row in rows}
    assert len(rows) == 8 and len(variants) == 4
    name = "recurrent_init=identity,learning_rate=0.02"
    assert {row["variant"] for row in rows} >= {name}
    assert read_results(tmp_path / "study" / name).seed.tolist() == [0, 1]
    assert (tmp_path / "study" / "figures" / "comparison.png").exists()
    comparison = (tmp_path / "study" / "comparison.md").read_bytes()
    assert name in comparison.decode()
    (tmp_path / "study" / "comparison.md").unlink()
    assert run_here("plot.py", tmp_path / "study").returncode == 0
    assert (tmp_path / "study" / "comparison.md").read_bytes() == comparison


@pytest.mark.slow
def test_a_sweep_trains_on_files(run_here, tmp_path):
    data = tmp_path / "data"
    assert run_here("generate_data.py", "--out", data, "--lengths", 4, 3).returncode == 0
    small = ("--platform", "cpu", "--seeds", 2, "--steps", 9, "--data", data)
    done = run_here("sweep.py", *small, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "run")
    assert results.length.tolist() == [3, 3, 4, 4]  # the lengths that the folder has
    assert len(set(results.overlap[:2])) == 1
    (data / "4" / "test.txt").write_bytes((data / "4" / "dev.txt").read_bytes())
    other = run_here("evaluate.py", tmp_path / "run", "--platform", "cpu")
    assert other.returncode == 2 and "has changed since the run" in other.stderr
    (data / "3" / "test.txt").write_text("1 2 3\t3\n")
    changed = run_here("sweep.py", *small, "--out", tmp_path / "run")
    assert changed.returncode == 2 and "examples" in changed.stderr


@pytest.mark.no_jax
@pytest.mark.parametrize(
    "script", ["sweep", "evaluate", "plot", "generate_data", "convert", "benchmark"]
)
def test_help_does_not_start_jax(script):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('scripts/{script}.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'jaxlib', 'matplotlib', 'orbax'} & set(sys.modules), 'started too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
