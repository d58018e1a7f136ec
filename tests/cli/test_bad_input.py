"""Every mistake on a command line: one line that names it, exit status 2, nothing written."""

import importlib.util
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from srn_jax.cli import devices as platform
from srn_jax.cli import options as cli
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.interop.textbook_files import textbook_splits, write_splits
from srn_jax.runs import folder as run_folder

SCRIPTS = Path(__file__).parents[2] / "scripts"
OLD_RUN = Path(__file__).parents[1] / "data" / "run_of_jax_0.7.2"

BAD_LINES = {  # what stands in line 2 of a training file of length 3
    "short": b"1 2\t3",
    "long": b"1 2 3 4\t3",
    "letter": b"1 x 0\t3",
    "large": b"1 10000 0\t3",
    "zero-first": b"1 02 0\t3",
    "negative": b"1 -2 0\t3",
    "large-label": b"9 9 0\t10000",
    "label-minus": b"1 2 0\t-3",
    "label-real": b"1 2 0\t3.0",
    "no-label": b"1 2 0\t",
    "no-tab": b"1 2 0 3",
    "two-tabs": b"1 2 0\t\t3",
    "blank": b"",
    "latin-1": b"1 2 0\t\xb3",
    "utf-16": "1 2 0\t3".encode("utf-16"),
}

BAD_RUN_FILES = {
    "not-json": "{",
    "empty": "",
    "list": "[]",
    "null": "null",
    "no-settings": "{}",
    "deep": "[" * 100_000,
}

BAD_SETTINGS = {  # changes of a good run file's settings
    "lengths-text": {"lengths": ["3", "5"]},
    "lengths-real": {"lengths": [3.5]},
    "lengths-empty": {"lengths": []},
    "lengths-number": {"lengths": 3},
    "seeds-twice": {"seeds": [0, 0]},
    "data-number": {"data": 3},
    "data-gone": {"data": "nowhere", "data_sha256": "0" * 64},
    "data-new": {"data": "data", "data_sha256": "0" * 64, "lengths": [3, 4]},
    "experiment-none": {"experiment": None},
    "experiment-unknown": {"experiment": {"colour": "red"}},
    "experiment-bad": {"experiment": {"learning_rate": -1}},
}

BAD_INFO = {  # changes of the rest of a good run file
    "seconds": {"seconds": "long"},
    "finished": {"finished": "yes"},
    "versions": {"versions": ["jax"]},
    "command": {"command": None},
}

BAD_STUDIES = {"study-list": [], "study-empty": {}, "study-names": {"a": {}, "b": {}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the mistakes below are about."""
    world = tmp_path_factory.mktemp("world")
    (world / "file").write_text("a file")
    (world / "empty").mkdir()
    (world / "thesis").mkdir()
    (world / "thesis" / "thesis.tex").write_text("years of work")
    (world / "own" / "3").mkdir(parents=True)
    (world / "own" / "3" / "train.txt").write_text("1 2 0\t3\n")

    for _, splits in textbook_splits((3,), (1, 1, 1)):
        write_splits(world / "data", 3, splits)
    for _, splits in textbook_splits((4,), (2, 1, 1)):
        write_splits(world / "data", 4, splits)
    for name, line in BAD_LINES.items():
        shutil.copytree(world / "data" / "3", world / "data-of" / name / "3")
        (world / "data-of" / name / "3" / "train.txt").write_bytes(b"1 2 0\t3\n" + line + b"\n")
    for name in ("nothing", "no-dev", "is-folder", "unseen"):
        shutil.copytree(world / "data" / "3", world / "data-of" / name / "3")
    (world / "data-of" / "nothing" / "3" / "test.txt").write_bytes(b"")
    (world / "data-of" / "unseen" / "3" / "train.txt").write_bytes(b"1 2 0\t3\n")
    (world / "data-of" / "no-dev" / "3" / "dev.txt").unlink()
    (world / "data-of" / "is-folder" / "3" / "train.txt").unlink()
    (world / "data-of" / "is-folder" / "3" / "train.txt").mkdir()
    shutil.copytree(world / "data" / "3", world / "data-of" / "length-2" / "2")

    good = json.loads((OLD_RUN / "run.json").read_text())
    shutil.copytree(OLD_RUN, world / "run")
    shutil.copytree(OLD_RUN, world / "mixed")
    (world / "mixed" / "notes.txt").write_text("what I saw")
    texts = dict(BAD_RUN_FILES) | {"endless": json.dumps(good | {"seconds": float("nan")})}
    for name, change in BAD_SETTINGS.items():
        texts[name] = json.dumps(good | {"settings": good["settings"] | change})
    for name, change in BAD_INFO.items():
        texts[name] = json.dumps(good | change)
    for name in ("data-gone", "data-new"):
        texts[name] = json.dumps(json.loads(texts[name]) | {"finished": False})
    for name, text in texts.items():
        (world / "runs-of" / name).mkdir(parents=True)
        (world / "runs-of" / name / "run.json").write_text(text)
    for name, study in BAD_STUDIES.items():
        (world / "runs-of" / name).mkdir()
        (world / "runs-of" / name / "study.json").write_text(json.dumps(study))
    variants = [SweepConfig((3,), (0,), ExperimentConfig(hidden_size=d)) for d in (2, 3)]
    run_folder.write_study(world / "study", variants)

    (world / "no-checkpoint").mkdir()
    (world / "no-checkpoint" / "run.json").write_text(json.dumps(good | {"finished": False}))
    for name in ("results.csv", "histories.npz"):
        for damage, content in (("no", None), ("bad", b"nonsense"), ("empty", b"")):
            folder = world / "runs-of" / f"{damage}-{name}"
            shutil.copytree(OLD_RUN, folder)
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content)
    header, row, *_ = (OLD_RUN / "results.csv").read_text().splitlines()
    huge = ",".join("9" * 20 if name == "seed" else cell for name, cell in cells_of(header, row))
    shutil.copytree(OLD_RUN, world / "runs-of" / "huge-results.csv")
    (world / "runs-of" / "huge-results.csv" / "results.csv").write_text(f"{header}\n{huge}\n")
    with np.load(OLD_RUN / "histories.npz") as arrays:
        short = dict(arrays) | {"train_loss": arrays["train_loss"][:1]}
    shutil.copytree(OLD_RUN, world / "runs-of" / "short-histories.npz")
    np.savez(world / "runs-of" / "short-histories.npz" / "histories.npz", **short)
    return world


def cells_of(header, row):
    return zip(header.split(","), row.split(","), strict=True)


SWEEP = [  # arguments of scripts/sweep.py, and what the line must say
    # numbers out of range
    ("--lengths 0", "--lengths must be a whole number from 1 to 100000, got 0"),
    ("--lengths 5 0", "got 0"),
    ("--lengths -5", "got -5"),
    ("--lengths 100001", "got 100001"),
    ("--seeds 0", "--seeds must be a whole number from 1 to 1000000, got 0"),
    ("--seeds -1", "got -1"),
    ("--seeds 1000001", "got 1000001"),
    ("--first-seed -1", "--first-seed must be a whole number from 0"),
    ("--first-seed 4294967295 --seeds 2", "got 4294967295"),
    ("--hidden-size 0", "--hidden-size must be a whole number from 1 to 4096, got 0"),
    ("--hidden-size 32 4097", "got 4097"),
    ("--embedding-size -3", "--embedding-size must be"),
    ("--epochs 0", "--epochs must be"),
    ("--batch-size 0", "--batch-size must be"),
    ("--multiplicity 0", "--multiplicity must be"),
    ("--eval-interval 0", "--eval-interval must be"),
    ("--learning-rate 0", "--learning-rate must be a number above 0"),
    ("--learning-rate -0.1", "got -0.1"),
    ("--learning-rate 1e31", "got 1e+31"),
    ("--checkpoint-every 0", "--checkpoint-every must be"),
    ("--checkpoint-every 1e10", "--checkpoint-every must be"),
    ("--chunk 0", "--chunk must be"),
    ("--cpu-devices 0", "--cpu-devices must be"),
    ("--cpu-devices -2", "--cpu-devices must be"),
    # not finite
    ("--learning-rate nan", "got nan"),
    ("--learning-rate inf", "got inf"),
    ("--learning-rate=-inf", "got -inf"),
    ("--checkpoint-every nan", "got nan"),
    ("--learning-rate 1e999", "got inf"),
    # not numbers
    ("--lengths five", "'five' is not a whole number"),
    ("--lengths ٥", "'٥' is not a whole number"),
    ("--lengths 5.5", "'5.5' is not a whole number"),
    ("--lengths ''", "'' is not a whole number"),
    ("--lengths 5,10", "'5,10' is not a whole number"),
    ("--seeds many", "'many' is not a whole number"),
    ("--epochs 1e3", "'1e3' is not a whole number"),
    ("--learning-rate fast", "'fast' is not a number"),
    ("--learning-rate 0,1", "'0,1' is not a number"),
    ("--chunk 0x10", "'0x10' is not a whole number"),
    ("--cpu-devices all", "'all' is not a whole number"),
    # nothing, twice, unknown
    ("--lengths", "--lengths/--length: expected at least one argument"),
    ("--hidden-size", "--hidden-size: expected at least one argument"),
    ("--seeds", "--seeds: expected one argument"),
    ("--lengths 5 10 5", "--lengths names 5 more than once"),
    ("--hidden-size 8 16 8", "--hidden-size has a value more than once"),
    ("--learning-rate 0.1 0.10", "--learning-rate has a value more than once"),
    ("--recurrent-init zero", "--recurrent-init must be one of xavier, orthogonal"),
    ("--recurrent-init ''", "--recurrent-init must be one of"),
    ("--platform cuda", "invalid choice: 'cuda'"),
    ("--platform", "--platform: expected one argument"),
    ("--length 0", "--lengths must be a whole number from 1 to 100000, got 0"),
    ("--colour red", "unrecognized arguments: --colour red"),
    ("--optimizer lbfgs", "--optimizer must be one of adam, sgd, rmsprop, got 'lbfgs'"),
    ("--cell srm", "--cell must be one of srn, residual-srn, lstm, gru, or a class of yours"),
    ("--cell mine.py", "as FILE.py:NAME, got 'mine.py'"),
    ("--task sum", "--task must be one of digit-sum, adding, recall, or a class of yours"),
    ("--probe loss", "--probe must be one of gradient-norm, update-norm, parameter-norm"),
    ("--probe update-norm update-norm", "--probe names update-norm more than once"),
    ("--clip-norm 0", "--clip-norm must be a number above 0"),
    ("--clip-norm nothing", "'nothing' is not a number"),
    ("--clip tensor", "--clip must be one of per-tensor, global"),
    ("--loss-reduction median", "--loss-reduction must be one of mean, sum"),
    ("--forget-bias inf", "--forget-bias must be a number from -1e+06 to 1e+06, got inf"),
    ("--steps 0", "--steps must be a whole number from 1"),
    ("--steps 5 --epochs 3", "--steps and --epochs both say how long to train, give one of them"),
    ("--section 6.4", "invalid choice: '6.4'"),
    ("--textbook --lengths 7", "--lengths: the textbook has files of 5, 10, 15, 20, 25, 30, 35"),
    ("--textbook --task adding", "--data holds digits and a label, leave out --task"),
    ("runs/one", "unrecognized arguments: runs/one"),
    # data
    ("--data nowhere", "nowhere: no such folder of data"),
    ("--data file", "file: no such folder of data"),
    ("--data empty", "empty: no data in it"),
    ("--data data --lengths 5", "data/5/train.txt: cannot be read (No such file"),
    ("--data data", "4/train.txt has 200 examples but length 3 has 100"),
    ("--data data --lengths 3 --multiplicity 3", "leave it out with --data"),
    ("--data data-of/length-2", "2/train.txt, line 1: 3 numbers, expected 2"),
    ("--data data --lengths 3 --task recall", "leave out --task"),
    ("--data data --lengths 3 --fresh-data", "leave out --data"),
    ("--data data-of/short", "short/3/train.txt, line 2: 2 numbers, expected 3"),
    ("--data data-of/long", "train.txt, line 2: 4 numbers, expected 3"),
    ("--data data-of/letter", "line 2: 'x' is not a whole number"),
    ("--data data-of/large", "line 2: '10000' is too large, expected"),
    ("--data data-of/zero-first", "line 2: '02' is not a whole number"),
    ("--data data-of/negative", "line 2: '-2' is not a whole number"),
    ("--data data-of/large-label", "line 2: label '10000' is too large, expected"),
    ("--data data-of/unseen", "dev.txt, line 1: the label 0 does not occur in a training set"),
    ("--data data-of/label-minus", "line 2: label '-3' is not a whole number"),
    ("--data data-of/label-real", "line 2: label '3.0' is not a whole number"),
    ("--data data-of/no-label", "line 2: label '' is not a whole number"),
    ("--data data-of/no-tab", "line 2: no tab"),
    ("--data data-of/two-tabs", "line 2: label"),
    ("--data data-of/blank", "line 2: empty line"),
    ("--data data-of/latin-1", "line 2: not UTF-8"),
    ("--data data-of/utf-16", "line 2: not UTF-8"),
    ("--data data-of/nothing", "3/test.txt, line 1: empty line"),
    ("--data data-of/no-dev", "3/dev.txt: cannot be read (No such file"),
    ("--data data-of/is-folder", "3/train.txt: cannot be read (Is a directory"),
    # folders
    ("--out file", "file is not a folder, expected one"),
    ("--out file/below/it", "file is not a folder, expected one"),
    (f"--out {'x' * 300}", "File name too long"),
    ("--out thesis", "thesis is not empty and not the folder of a run (it has thesis.tex)"),
    ("--out thesis --overwrite", "thesis is not empty and not the folder of a run"),
    ("--out mixed --overwrite", "mixed holds more than a run (it has notes.txt)"),
    ("--out run", "run holds a run with other settings (batch_size: 50, now 8;"),
    ("--out study", "study is not empty and not the folder of a run"),
    ("--out run --epochs 2 3", "run is not empty and holds no variants"),
    ("--out study --epochs 2 3", "study holds other variants (hidden_size=2, hidden_size=3)"),
    ("--resume nowhere", "nowhere/run.json: cannot be read (No such file"),
    ("--resume file", "file/run.json: cannot be read (Not a directory"),
    ("--out ''", "--out: expected a path, got an empty one"),
    ("--data ''", "--data: expected a path, got an empty one"),
    ("--resume ''", "--resume: expected a path, got an empty one"),
    ("--resume thesis", "thesis/run.json: cannot be read"),
    ("--resume run --epochs 8", "--resume takes its settings from the run, leave out --epochs"),
    ("--resume run --seeds 2", "--seeds 2: run has seeds 0, 1, give a number that adds to them"),
    ("--resume run --seeds 0", "--seeds must be a whole number from 1 to 1000000, got 0"),
    ("--resume run --seeds 3 --out thesis", "thesis is not empty and not the folder of a run"),
    ("--resume run --seeds 3 --distributed", "--resume with more --seeds is for one process"),
    ("--resume no-checkpoint --seeds 3", "no-checkpoint is not finished, --resume it without"),
    ("--resume run --quick", "leave out --quick"),
    ("--resume run --overwrite", "leave out --overwrite"),
    ("--resume run --out elsewhere", "leave out --out"),
    *((f"--resume runs-of/{name}", f"{name}/run.json: damaged") for name in BAD_RUN_FILES),
    *(
        (f"--resume runs-of/{n}", f"{n}/run.json: damaged")
        for n in BAD_SETTINGS
        if n not in ("data-gone", "data-new")
    ),
    *((f"--resume runs-of/{name}", f"{name}/run.json: damaged ({name} is") for name in BAD_INFO),
    *((f"--resume runs-of/{name}", f"{name}/study.json: damaged") for name in BAD_STUDIES),
    # several processes
    ("--coordinator localhost:9999", "belong together, give all three"),
    ("--processes 2 --process 0", "belong together, give all three"),
    ("--coordinator localhost --processes 2 --process 0", "must be HOST:PORT, got 'localhost'"),
    ("--coordinator :9999 --processes 2 --process 0", "must be HOST:PORT"),
    ("--coordinator a:b --processes 2 --process 0", "must be HOST:PORT"),
    ("--coordinator a:² --processes 2 --process 0", "must be HOST:PORT"),
    ("--coordinator a:70000 --processes 2 --process 0", "must be HOST:PORT"),
    ("--coordinator a:9999 --processes 0 --process 0", "--processes must be"),
    ("--coordinator a:9999 --processes 2 --process 2", "--process must be a whole number from 0"),
    ("--coordinator a:9999 --processes two --process 0", "'two' is not a whole number"),
]

EVALUATE = [
    ("", "the following arguments are required: RUN"),
    ("nowhere", "nowhere: no checkpoint in it"),
    ("''", "RUN: expected a path, got an empty one"),
    ("file", "file: no checkpoint in it"),
    ("empty", "empty: no checkpoint in it"),
    ("no-checkpoint", "no-checkpoint: no checkpoint in it"),
    ("run --lengths 7", "the run has no length 7, it has 3, 5"),
    ("run --lengths 5 7", "the run has no length 7"),
    ("run --seeds 3", "the run has no seed 2, it has 0, 1"),
    ("run --first-seed 5", "the run has no seed 5"),
    ("run --seeds -1", "--seeds must be a whole number from 1 to 1000000, got -1"),
    ("run --lengths five", "'five' is not a whole number"),
    ("run --seeds", "--seeds: expected one argument"),
    ("run --seeds 0 1", "unrecognized arguments: 1"),
    ("run --which worst", "invalid choice: 'worst'"),
    ("run --data nowhere", "nowhere/3/test.txt: cannot be read"),
    ("run --data data-of/nothing --lengths 3", "3/test.txt, line 1: empty line"),
    ("run --predict '1 2 0' --data data", "--predict needs no --data"),
    ("run --predict ''", "--predict wants numbers 0 to 9"),
    ("run --predict '1 2 x'", "got '1 2 x'"),
    ("run --predict '1 12 0'", "got '1 12 0'"),
    (f"run --predict '{'1' * 5000} 3'", "--predict wants numbers 0 to 9"),
    ("run --predict -1", "--predict"),
    ("run --predict 3.5", "got '3.5'"),
    ("run --platform abacus", "invalid choice: 'abacus'"),
    ("run other-run", "unrecognized arguments: other-run"),
]

PLOT = [
    ("", "the following arguments are required: RUN"),
    ("nowhere", "nowhere/run.json: cannot be read"),
    ("run nowhere", "nowhere/run.json: cannot be read"),
    ("thesis", "thesis/run.json: cannot be read"),
    ("no-checkpoint", "no-checkpoint: this run has no checkpoint yet"),
    ("run --out figures", "--out, --labels and --baseline are for several runs"),
    ("run run --out ''", "--out: expected a path, got an empty one"),
    ("run mixed --out file", "file is not a folder, expected one"),
    ("run mixed --out file/below", "file is not a folder, expected one"),
    ("run mixed --out run", "run is the folder of a run, choose another for a comparison"),
    ("run mixed --labels a ''", "--labels: a name must be one line and not empty, got ''"),
    ("run run", "run is given more than once, expected different runs"),
    ("run mixed ./run --labels a b c", "run is given more than once, expected different runs"),
    ("runs-of/not-json", "not-json/run.json: damaged"),
    ("runs-of/versions", "versions/run.json: damaged"),
    ("runs-of/endless", "endless/run.json: damaged (seconds is nan)"),
    ("runs-of/huge-results.csv", "results.csv: not a table of results"),
    ("runs-of/short-histories.npz", "histories.npz: not a file of histories"),
    ("runs-of/no-results.csv", "results.csv: cannot be read (No such file"),
    ("runs-of/bad-results.csv", "results.csv: its experiments are not those of the run"),
    ("runs-of/empty-results.csv", "results.csv: its experiments are not those of the run"),
    ("runs-of/no-histories.npz", "histories.npz: cannot be read (No such file"),
    ("runs-of/bad-histories.npz", "histories.npz: not a file of histories"),
    ("runs-of/empty-histories.npz", "histories.npz: not a file of histories"),
    ("run --platform abacus", "invalid choice: 'abacus'"),
    ("run --lang fr", "--lang must be en or zh, got fr"),
    ("run --width 0", "--width must be a number of inches from 1.5 to 100, got 0"),
    ("run --format bmp", "--format must be one or more of pdf, png, svg, got bmp"),
]

EXPLAIN = [
    ("", "the following arguments are required: RUN"),
    ("no-checkpoint", "no-checkpoint is not finished, python scripts/sweep.py --resume"),
    ("run --threshold 2", "--threshold must be a number from 0 to 1, got 2"),
    ("run --lang fr", "--lang must be en or zh, got fr"),
]

GENERATE_DATA = [
    ("", "the following arguments are required: --out"),
    ("--out", "--out: expected one argument"),
    ("--out ''", "--out: expected a path, got an empty one"),
    ("--out file", "file is not a folder, expected one (--out)"),
    ("--out file/below", "file is not a folder, expected one (--out)"),
    ("--out own --lengths 3 5", "own/3/train.txt has other data in it"),
    ("--out new --lengths 2", "--lengths must be a whole number from 3 to 100000, got 2"),
    ("--out new --lengths 5 5", "--lengths names 5 more than once"),
    ("--out new --lengths", "--lengths/--length: expected at least one argument"),
    ("--out new --lengths 1e1", "'1e1' is not a whole number"),
    ("--out new --multiplicities 3 1", "--multiplicities: expected 3 arguments"),
    ("--out new --multiplicities 0 1 1", "--multiplicities must be a whole number from 1"),
    ("--out new --multiplicities 3 1 -1", "--multiplicities must be"),
    ("--out new --multiplicities 3 1 nan", "'nan' is not a whole number"),
    ("--out new --seed -1", "--seed must be a whole number from 0 to 4294967295, got -1"),
    ("--out new --seed 4294967296", "got 4294967296"),
    ("--out new --seed zero", "'zero' is not a whole number"),
    ("--out new --platform cpu", "unrecognized arguments: --platform cpu"),
]

CONVERT = [
    ("", "weights come from a RUN or --from a FILE"),
    ("run --from w.npz", "weights come from a RUN or --from a FILE"),
    ("run --to w.npz", "say which: --length and --seed"),
    ("run --length 3 --seed 0 --cell srn --to w.npz", "a RUN knows its cell"),
    ("run --length 3 --seed 0 --to file", "file is there already"),
    ("--from w.npz --seed 1 --to x.npz", "leave them out with --from"),
    ("--from w.npz", "nothing to do"),
    ("--from w.npz --evaluate nowhere", "nowhere: no such folder of data"),
    ("--from w.npz --to x.npz", "w.npz: cannot be read"),
    ("--from w.txt --to x.npz", "w.txt: not a file of weights"),
]

BENCHMARK = [
    ("--out file", "file is not a folder, expected one"),
    ("--platform tpu", "invalid choice: 'tpu'"),
    ("--out ''", "--out: expected a path, got an empty one"),
    ("--contender abacus", "no contender 'abacus', expected one of"),
    ("--contender srn_jax --job {", "--job: not a job"),
    ("--contender srn_jax --job []", "--job: not a job"),
    ("""--contender srn_jax --job '{"lengths": 5}'""", "--job: not a job"),
    ("""--contender srn_jax --job '{"colour": 1}'""", "--job: not a job"),
]

MISTAKES = [
    pytest.param(script, arguments, says, id=f"{script} {arguments[:60]}")
    for script, table in (
        ("sweep", SWEEP),
        ("evaluate", EVALUATE),
        ("plot", PLOT),
        ("explain", EXPLAIN),
        ("generate_data", GENERATE_DATA),
        ("convert", CONVERT),
        ("benchmark", BENCHMARK),
    )
    for arguments, says in table
]


def content_of(folder):
    return {
        p: p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if p.name != "lock"
    }


def main_of(script):
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def assert_one_line_about(says, stdout, stderr):
    assert stderr.startswith("error: ") and stderr.endswith("\n") and stderr.count("\n") == 1
    assert says in stderr
    assert stdout == ""


@pytest.mark.no_jax  # apart from a few of evaluate.py's
@pytest.mark.parametrize(("script", "arguments", "says"), MISTAKES)
def test_a_mistake_costs_one_clear_line(script, arguments, says, world, monkeypatch, capsys):
    def configure(*_):
        assert script != "sweep", "JAX was started although the mistake can be seen without it"

    monkeypatch.setattr(platform, "configure", configure)  # JAX has been started for all tests
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *shlex.split(arguments)])
    monkeypatch.chdir(world)
    before = content_of(world)
    with pytest.raises(SystemExit) as end:
        cli.run_script(main_of(script))
    assert end.value.code == 2
    assert_one_line_about(says, *capsys.readouterr())
    assert content_of(world) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--lengths 2", "a sequence of this task has at least 3 positions, got length 2"),
        ("--task recall --lengths 5", "has at least 6 positions, got length 5"),
        ("--epochs 1000000 --multiplicity 10000 --batch-size 1", "training steps are too many"),
        ("--resume runs-of/data-new", "data cannot be read as the run read it, put the old files"),
        (
            "--resume runs-of/data-gone",
            "nowhere: no such folder, and the run's own data were there",
        ),
        ("--cell gone.py:Mine", "gone.py: cannot be read (No such file"),
        ("--probe gone.py:Mine", "gone.py: cannot be read (No such file"),
        ("--kernel --hidden-size 8 --out new", "--kernel takes a hidden size of 16, 32, 64, got 8"),
    ],
)
def test_a_mistake_that_only_jax_sees_costs_one_line_too(
    arguments, says, world, monkeypatch, capsys
):
    monkeypatch.setattr(platform, "configure", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["sweep.py", *shlex.split(arguments)])
    monkeypatch.chdir(world)
    before = content_of(world)
    with pytest.raises(SystemExit) as end:
        cli.run_script(main_of("sweep"))
    assert end.value.code == 2
    assert_one_line_about(says, "", capsys.readouterr().err)
    assert content_of(world) == before


def test_there_are_more_than_sixty_different_mistakes():
    assert len({(case.values[0], case.values[1]) for case in MISTAKES}) == len(MISTAKES) > 60


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("sweep", "--lengths 0 --out new", "got 0"),
        ("sweep", "--data data-of/latin-1 --out new", "line 2: not UTF-8"),
        ("evaluate", "run --lengths 7 --platform cpu", "the run has no length 7"),
        ("plot", "nowhere --platform cpu", "nowhere/run.json: cannot be read"),
        ("generate_data", "--out file", "file is not a folder"),
    ],
)
def test_a_mistake_costs_one_clear_line_in_a_terminal(script, arguments, says, world, run_script):
    before = content_of(world)
    done = run_script(f"{script}.py", *shlex.split(arguments), cwd=world)
    assert done.returncode == 2
    assert_one_line_about(says, done.stdout, done.stderr)
    assert content_of(world) == before


@pytest.mark.skipif(
    os.path.exists("/dev/nvidiactl") or importlib.util.find_spec("jax_cuda13_plugin") is not None,
    reason="there is a GPU here, or what JAX needs for one",
)
def test_a_platform_that_is_not_there_costs_one_line_with_the_command_to_install_it(
    world, run_script
):
    done = run_script("sweep.py", "--platform", "gpu", "--out", "new", cwd=world)
    assert done.returncode == 2
    assert_one_line_about("pip install 'jax[cuda13]'", done.stdout, done.stderr)
    assert not (world / "new").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.64 TiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes.\nmore"),
    ],
)
def test_too_little_memory_costs_one_line(error, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    assert end.value.code == 1
    assert_one_line_about("not enough memory", *capsys.readouterr())


def test_our_own_mistakes_keep_their_traceback(capsys):
    def main(_):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith("RuntimeError: a mistake of ours\n")


def test_flags_for_xla_go_in_for_versions_that_know_them_and_never_over_the_users():
    assert platform.with_our_flags("--xla_abc=1", (0, 13)) == "--xla_abc=1"
    assert "ynn" not in platform.with_our_flags("", (0, 7))
    ours = platform.with_our_flags("", (0, 10)).split()
    assert len(ours) == 5
    users = "--xla_cpu_multi_thread_eigen=true"
    assert platform.with_our_flags(users, (0, 10)).split() == [*ours[1:], users]
