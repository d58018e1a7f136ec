"""Every mistake on a command line: one line that names it, exit status 2, nothing written."""

import ast
import json
import os
import re
import shlex
import sys
from argparse import ArgumentTypeError
from dataclasses import fields
from pathlib import Path

import pytest

from srn_jax.cli import commands
from srn_jax.cli import options as cli
from srn_jax.config import ExperimentConfig, option_name
from srn_jax.interop.textbook_files import textbook_splits, write_splits
from srn_jax.runs import devices

SWEEP = [  # arguments of scripts/sweep.py, and what the line must say
    # numbers out of range, not finite, none
    ("--lengths 5 0", "--lengths must be a whole number from 1 to 100000, got 0"),
    ("--lengths 100001", "got 100001"),
    ("--seeds 0", "--seeds must be a whole number from 1 to 1000000, got 0"),
    ("--seeds 1000001", "got 1000001"),
    ("--first-seed -1", "--first-seed must be a whole number from 0"),
    ("--first-seed 4294967295 --seeds 2", "got 4294967295"),
    ("--checkpoint-every 0", "--checkpoint-every must be"),
    ("--checkpoint-every nan", "got nan"),
    ("--chunk 0", "--chunk must be"),
    ("--cpu-devices -2", "--cpu-devices must be"),
    ("--learning-rate=-inf", "got -inf"),
    ("--learning-rate 1e999", "got inf"),
    ("--learning-rate 1e-40", "--learning-rate must be"),
    ("--clip-norm 1e-50", "--clip-norm must be"),
    ("--lengths ٥", "'٥' is not a whole number"),
    ("--lengths 5.5", "'5.5' is not a whole number"),
    ("--lengths ''", "'' is not a whole number"),
    ("--clip-norm nothing", "'nothing' is not a number"),
    ("--chunk 0x10", "'0x10' is not a whole number"),
    # lists with commas
    ("--lengths 5,10", "'5,10' is not a whole number: write several with spaces, 5 10"),
    ("--learning-rate 0.1,0.2", "write several with spaces, 0.1 0.2"),
    ("--cell srn,lstm", "'srn,lstm' is no name: write several with spaces, srn lstm"),
    # misspelt
    ("--lr 0.1", "unrecognized arguments: --lr 0.1 (did you mean --learning-rate?)"),
    ("--hiden-size 8", "did you mean --hidden-size?"),
    ("--output here", "did you mean --out?"),
    ("--model lstm", "did you mean --cell?"),
    ("--num-seeds 3", "did you mean --seeds?"),
    ("--batch=4", "did you mean --batch-size?"),
    ("--xyzzy", "unrecognized arguments: --xyzzy (see --help)"),
    ("runs/one", "unrecognized arguments: runs/one"),
    # nothing, twice, unknown
    ("--lengths", "--lengths/--length: expected at least one argument"),
    ("--seeds", "--seeds: expected one argument"),
    ("--lengths 5 10 5", "--lengths names 5 more than once"),
    ("--hidden-size 8 16 8", "--hidden-size has a value more than once"),
    ("--learning-rate 0.1 0.10", "--learning-rate has a value more than once"),
    ("--platform cuda", "--platform must be one of auto, cpu"),
    ("--cell mine.py", "FILE.py:NAME, got 'mine.py'"),
    ("--probe loss", "--probes must be one of gradient-norm, update-norm, parameter-norm"),
    ("--probe update-norm update-norm", "--probes names 'update-norm' more than once"),
    ("--steps 5 --epochs 3", "--steps and --epochs both say how long to train, give one of them"),
    ("--section 6.4", "invalid choice: '6.4'"),
    ("--weight-decay 0.1", "--weight-decay needs --optimizer adamw or sgd, got adam"),
    ("--fresh-data --shuffle", "leave out --shuffle"),
    ("--kernel --platform tpu", "--kernel is for GPUs, leave it out with --platform tpu"),
    ("--textbook --lengths 7", "--lengths: the textbook has files of 5, 10, 15, 20, 25, 30, 35"),
    # data
    ("--data nowhere", "nowhere: no such folder of data"),
    ("--data empty", "empty: no data in it"),
    ("--data data --lengths 5", "data/5/train.txt: cannot be read (No such file"),
    ("--data data", "4/train.txt has 200 examples but length 3 has 100"),
    ("--data data --lengths 3 --multiplicity 3", "--multiplicity is for drawn data"),
    ("--data data --lengths 3 --task adding", "--data holds digits and a label, leave out --task"),
    ("--data data --lengths 3 --fresh-data", "leave out --data"),
    # folders
    ("--out file/below/it", "file is not a folder, expected one (--out)"),
    (f"--out {'x' * 300}", "File name too long"),
    ("--out thesis", "thesis is no folder of a run (it has thesis.tex)"),
    ("--out thesis --overwrite", "thesis is no folder of a run"),
    ("--out ''", "--out: expected a path, got an empty one"),
    ("--resume nowhere", "nowhere/run.json: cannot be read (No such file"),
    ("--resume file", "file/run.json: cannot be read (Not a directory"),
    ("--resume thesis", "thesis/run.json: cannot be read"),
    ("--resume old", "old/run.json: runs of versions before format 1 are not read"),
    ("--resume damaged", "damaged/run.json: damaged"),
    ("--atlas new --resume old", "--atlas has runs of its own, leave out --resume"),
    ("--atlas new --task sum", "--task must be of digit-sum, adding"),
    ("--lengths any", "any is of files with sequences of all lengths, give --data"),
    ("--resume nowhere --quick", "--resume takes that from the run, leave out --quick"),
    ("--resume nowhere --overwrite", "leave out --overwrite"),
    ("--resume nowhere --out elsewhere", "leave out --out"),
    # several processes
    ("--processes 2 --process 0", "belong together, give all three"),
    ("--coordinator :9999 --processes 2 --process 0", "--coordinator must be HOST:PORT"),
    ("--coordinator a:b --processes 2 --process 0", "must be HOST:PORT"),
    ("--coordinator a:9999 --processes 0 --process 0", "--processes must be"),
    ("--coordinator a:9999 --processes 2 --process 2", "--process must be a whole number from 0"),
]
OTHERS = {
    "evaluate": [
        ("", "the following arguments are required: RUN"),
        ("''", "RUN: expected a path, got an empty one"),
        ("nowhere", "nowhere/run.json: cannot be read"),
        ("old --seeds 0 1", "unrecognized arguments: 1"),
        ("old --seeds -1", "--seeds must be a whole number from 1 to 1000000, got -1"),
        ("old --which worst", "invalid choice: 'worst'"),
        ("old --predict '1 2 0' --data data", "--predict needs no --data"),
        ("old --varient srn", "did you mean --variant?"),
    ],
    "plot": [
        ("nowhere", "nowhere/run.json: cannot be read"),
        ("old --baseline a", "--labels and --baseline are for several runs"),
        ("old damaged --variant srn", "--variant is for a single run"),
        ("old --lang zh", "did you mean --style?"),
        ("old --width 0", "--width must be"),
        ("old --format bmp", "must be one or more of pdf, png, svg, got bmp"),
        ("old --style nowhere", "nowhere"),
    ],
    "explain": [
        ("", "the following arguments are required: RUN"),
        ("old --threshold 2", "--threshold must be a number from 0 to 1, got 2"),
    ],
    "generate_data": [
        ("", "the following arguments are required: --out"),
        ("--out file/below", "file is not a folder, expected one (--out)"),
        ("--out own --lengths 3 5", "own/3/train.txt has other data in it"),
        ("--out new --lengths 2", "--lengths must be a whole number from 3 to 100000, got 2"),
        ("--out new --multiplicities 3 1", "--multiplicities: expected 3 arguments"),
        ("--out new --multiplicities 0 1 1", "--multiplicities must be a whole number from 1"),
        ("--out new --seed 4294967296", "got 4294967296"),
        ("--out new --platform cpu", "unrecognized arguments: --platform cpu"),
    ],
    "convert": [
        ("", "weights come from a RUN or --from a FILE"),
        ("old --from w.npz", "weights come from a RUN or --from a FILE"),
        ("old --to w.npz", "say which: --length and --seed"),
        ("old --length 3 --seed 0 --cell srn --to w.npz", "a RUN knows its cell"),
        ("old --length 3 --seed 0 --to file", "file is there already"),
        ("--from w.npz --seed 1 --to x.npz", "leave them out with --from"),
        ("--from w.npz", "nothing to do"),
        ("--from w.npz --to x.npz", "w.npz: cannot be read"),
        ("--from w.txt --to x.npz", "w.txt: not a file of weights"),
    ],
}


def settings_that_cannot_be():
    """For each setting of an experiment, a value that its knob does not have."""
    for field in fields(ExperimentConfig):
        told, name = field.metadata, option_name(field.name)
        if field.type is bool:
            yield f"{name} yes", "unrecognized arguments: yes"
        elif told["choices"]:
            yield f"{name} zero", f"{name} must be one of {told['choices'][0]}, "
            yield f"{name} ''", f"{name} must be one of"
        elif told["low"] is not None:
            low = told["low"] if told["above"] else told["low"] - 1
            yield f"{name} {low}", f"{name} must be a"
            yield f"{name} nan" if field.type is not int else f"{name} 1e3", "n"


MISTAKES = [
    pytest.param(script, arguments, says, id=f"{script} {arguments[:60]}")
    for script, table in ({"sweep": [*SWEEP, *settings_that_cannot_be()]} | OTHERS).items()
    for arguments, says in table
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the mistakes are about."""
    world = tmp_path_factory.mktemp("world")
    (world / "file").write_text("a file")
    for name in ("empty", "thesis", "old", "damaged"):
        (world / name).mkdir()
    (world / "thesis" / "thesis.tex").write_text("years of work")
    (world / "own" / "3").mkdir(parents=True)
    (world / "own" / "3" / "train.txt").write_text("1 2 0\t3\n")
    (world / "old" / "run.json").write_text(json.dumps({"finished": True}))
    (world / "damaged" / "run.json").write_text("{")
    for length, multiplicity in ((3, 1), (4, 2)):
        for _, splits in textbook_splits((length,), (multiplicity, 1, 1)):
            write_splits(world / "data", length, splits)
    return world


def content_of(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("script", "arguments", "says"), MISTAKES)
def test_a_mistake_costs_one_clear_line(script, arguments, says, world, monkeypatch, capsys):
    def start(*_):
        assert script != "sweep", "JAX was started although the mistake can be seen without it"

    monkeypatch.setattr(devices, "start", start)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *shlex.split(arguments)])
    monkeypatch.chdir(world)
    before = content_of(world)
    with pytest.raises(SystemExit) as end:
        cli.run_script(getattr(commands, script))
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, ""), shown.err
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert says in shown.err
    assert content_of(world) == before


def test_no_message_of_the_package_writes_an_option_where_an_argument_is_meant():
    """In Python it is `seeds`; the command line makes --seeds of that."""
    package = Path(commands.__file__).parents[1]
    known = [option_name(field.name) for field in fields(ExperimentConfig)] + ["--seeds", "--out"]
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.parent.name != "cli" else ():
            if isinstance(node, ast.Raise):
                said = " ".join(
                    str(one.value) for one in ast.walk(node) if isinstance(one, ast.Constant)
                )
                assert not any(re.search(rf"{name}\b(?!-)", said) for name in known), (path, said)


def test_names_of_arguments_are_spelled_as_options_only_where_there_is_one(capsys):
    parser = cli.Parser("x")
    cli.add_options(parser, "run")
    parser.parse_args([])
    assert cli.spelled("`folder`, `checkpoint_every`, `x`") == "--out, --checkpoint-every, `x`"


def test_a_comma_in_a_path_is_no_list():
    assert cli.name_in("srn", "lstm")("a,b.py:Mine") == "a,b.py:Mine"
    with pytest.raises(ArgumentTypeError, match="srn lstm"):
        cli.name_in("srn", "lstm")("srn,lstm")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (MemoryError("Unable to allocate 3.64 TiB"), 1, "not enough memory (Unable to"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nmore"), 1, "a smaller --chunk"),
        (OSError(28, "No space left on device", "here"), 1, "No space left on device: 'here'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_machine_cannot_do_costs_one_line(error, status, says, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    shown = capsys.readouterr().err
    assert end.value.code == status
    assert shown.startswith("error: ") and shown.count("\n") == 1 and says in shown


def test_our_own_mistakes_keep_their_traceback(capsys):
    def main(_):
        raise RuntimeError("a mistake of ours")

    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith("RuntimeError: a mistake of ours\n")


def test_a_mistake_costs_one_line_in_a_terminal_that_cannot_show_every_letter(world, run_script):
    done = run_script("sweep.py", "--cell", "lstm…", cwd=world, PYTHONIOENCODING="", LC_ALL="C")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --cell must be one of") and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU here")
def test_a_platform_that_is_not_there_costs_one_line(world, run_script):
    done = run_script("sweep.py", "--platform", "gpu", "--out", "new", cwd=world)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "GPU" in done.stderr and "--platform" in done.stderr
    assert not (world / "new").exists()
