"""What `import srn_jax` offers, the API, and the program where there is no clone."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srn_jax
from srn_jax import api
from srn_jax.cli import devices
from srn_jax.interop.textbook_files import textbook_splits, write_splits

ROOT = Path(__file__).parents[1]
SMALL = {"epochs": 2, "hidden_size": 8, "embedding_size": 8}


def test_a_public_name_is_the_same_thing_before_and_after_its_module_is_imported():
    for module, names in srn_jax._MODULES.items():
        for name in names:
            thing = getattr(srn_jax, name)
            importlib.import_module(f"srn_jax.{module}")
            assert getattr(srn_jax, name) is thing and not isinstance(thing, ModuleType), name


def test_the_names_that_tools_see_are_those_that_there_are():
    tree = ast.parse(Path(srn_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        node.module.removeprefix("srn_jax."): {alias.name for alias in node.names}
        for node in block.body
    }
    assert seen == {module: set(names) for module, names in srn_jax._MODULES.items()}
    assert sorted(n for names in seen.values() for n in names) == sorted(srn_jax.__all__)


@pytest.fixture(scope="module", autouse=True)
def no_helpers():
    """To start one takes longer than to draw what is drawn here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srn_jax.analysis.drawing.start_helpers", lambda _: nullcontext(()))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, no_helpers):
    folder = tmp_path_factory.mktemp("api") / "run"
    return srn_jax.train([np.int64(3), 5], 2, folder=str(folder), **SMALL)


def test_training_from_python_gives_results_table_figures_and_networks(trained, capsys):
    assert trained.results.length.tolist() == [3, 3, 5, 5]
    assert trained.histories.train_loss.shape == (4, 76)
    assert [line.split()[0] for line in trained.table.splitlines()[2:]] == ["3", "5"]
    assert repr(trained).startswith(trained.table)
    assert {"6.7", "6.6_3", "6.6_5", "overview"} <= trained.figures.keys()
    network = trained.network(length=5, seed=1)
    assert network(jnp.array([[3, 4, 0, 0, 0]])).shape == (1, 19)
    with pytest.raises(srn_jax.UserError, match="the run has no seed 7"):
        trained.network(5, 7)


def test_a_run_is_loaded_by_its_path_as_text_and_the_same_call_trains_nothing(trained, capsys):
    folder = str(trained.folder)
    loaded = srn_jax.load_run(folder)
    assert loaded.table == trained.table
    assert srn_jax.read_results(folder).seed.tolist() == [0, 1, 0, 1]
    assert srn_jax.read_histories(folder).eval_steps.tolist() == [75]
    again = srn_jax.train([3, 5], range(2), folder=folder, **SMALL)
    assert "nothing is left to train" in capsys.readouterr().out
    assert again.table == trained.table
    report = (trained.folder / "report.md").read_text()
    assert "srn_jax.train(lengths=[3, 5], seeds=[0, 1], epochs=2" in report


def test_runs_are_compared(trained, capsys, tmp_path):
    runs = {"one": trained, "same": str(trained.folder)}
    figure = srn_jax.compare(runs, str(tmp_path / "both"))
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "Difference: the run minus one, paired seed by seed." in capsys.readouterr().out
    with pytest.raises(srn_jax.UserError, match="is the folder of a run, choose another"):
        srn_jax.compare(runs, trained.folder)


def test_a_run_stays_where_it_is_when_the_working_directory_changes(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained.folder.parent)
    loaded = srn_jax.load_run(trained.folder.name)
    monkeypatch.chdir(tmp_path)
    assert loaded.figures == trained.figures and loaded.network(3, 0)


@pytest.mark.slow
def test_what_starts_jax_from_python_starts_it_as_training_does(trained, tmp_path):
    """Or a network of yesterday's would leave today's training a single device."""
    code = f"""import jax, srn_jax
run = srn_jax.load_run({str(trained.folder)!r})
run.network(3, 0)
print(len(jax.devices()))"""
    only = {name: value for name, value in os.environ.items() if "CPU_DEVICES" not in name}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=only, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(devices.available_cores())]


def test_jax_started_before_with_fewer_devices_is_told_once(trained, monkeypatch, capsys):
    monkeypatch.setattr(devices, "available_cores", lambda: 64)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    devices.tell_of_few_devices.cache_clear()
    for _ in range(2):
        trained.network(3, 0)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("warning: JAX had been started before, with 2 of 64 cores")


@pytest.mark.slow
def test_trainings_of_two_threads_take_turns(tmp_path):
    calls = [
        partial(srn_jax.train, 3, 1, folder=tmp_path / str(rate), learning_rate=rate, **SMALL)
        for rate in (0.01, 0.02)
    ]
    with ThreadPoolExecutor() as pool:
        runs = [future.result() for future in [pool.submit(call) for call in calls]]
    assert [run.run.settings["learning_rate"] for run in runs] == [0.01, 0.02]


@pytest.mark.parametrize("name", ["jax_enable_x64", "jax_disable_jit", "jax_debug_nans"])
def test_a_jax_that_computes_in_another_way_is_refused(name, monkeypatch):
    jax.config.update(name, True)
    try:
        with pytest.raises(srn_jax.UserError, match=f"{name} is set"):
            srn_jax.train(3, 1, **SMALL)
    finally:
        jax.config.update(name, False)


def test_a_wrong_setting_from_python_is_one_line():
    with pytest.raises(srn_jax.UserError, match="no setting 'colour', expected one of task, cell"):
        srn_jax.train([5], 1, colour="red")
    with pytest.raises(srn_jax.UserError, match="--lengths must be a whole number"):
        srn_jax.train([0], 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([5.9, 8], 2), "--lengths must be a whole number .* got 5.9"),
        (("5", 1), "--lengths must be a whole number .* got '5'"),
        ((5, 1.0), "--seeds .* got 1.0"),
        ((np.int64(5), "x"), "--seeds .* got 'x'"),
        ((np.array([5, 6]), np.int64(0)), "seeds must be .* got 0"),
        ((5, 10**9), "seeds must be a whole number from 1 to 1000000, got 1000000000"),
    ],
)
def test_what_is_no_whole_number_is_not_rounded(arguments, says):
    with pytest.raises(srn_jax.UserError, match=says):
        srn_jax.train(*arguments)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble, np.array])
def test_a_float_of_numpys_is_the_decimal_that_was_written(kind):
    for value in (0.01, 1e-3, 2.5, 1e-6):
        found = api.plain(kind(value))
        assert type(found) is float
        assert found == pytest.approx(value, rel=0.1 if kind is np.float16 else 0)
    assert api.plain(np.array(0.01, np.float32)) == api.plain(np.float16(0.01)) == 0.01
    assert np.isnan(api.plain(np.float32("nan"))) and api.plain(np.int8(3)) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"learning_rate": 10**400}, "--learning-rate must be a number above 0 .* got 1000"),
        ({"epochs": 10**5000}, "--epochs must be .* got one of thousands of digits"),
        ({"optimizer": np.array(["adam", "sgd"])}, "--optimizer must be one of .* got array"),
        ({"cell": np.array(["srn", "lstm"])}, "--cell must be one of .* got array"),
        ({"probes": [["loss"]]}, "--probe must be one of"),
        ({"folder": 5}, "folder must be a path, got 5"),
        ({"folder": ""}, "folder must be a path, got ''"),
        ({"data": 5}, "data must be a path, got 5"),
        ({"data": "a\0b", "lengths": 3}, "train.txt: cannot be read"),
        ({"data": "nowhere"}, "nowhere: no such folder of data"),
        ({"data": "nowhere", "multiplicity": 7}, "multiplicity is for drawn data, leave it out"),
        ({"overwrite": "no"}, "overwrite must be true or false, got 'no'"),
        ({"steps": 5, "epochs": 3}, "steps and epochs both say how long to train, give one"),
        ({"folder": "a\ud800"}, "no possible folder"),
    ],
)
def test_a_bad_argument_from_python_is_one_line(arguments, says):
    lengths = {} if "data" in arguments else {"lengths": 5}
    with pytest.raises(srn_jax.UserError, match=says) as refusal:
        srn_jax.train(**lengths | arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: srn_jax.load_run(None), "folder must be a path, got None"),
        (lambda: srn_jax.load_run("a\0b"), "cannot be read"),
        (lambda: srn_jax.read_results("a\0b"), "cannot be read"),
        (lambda: srn_jax.compare([1]), "runs must be a dictionary of runs by their names"),
        (lambda: srn_jax.compare({"a": 5}), "run a must be a path, got 5"),
        (
            lambda: srn_jax.compare({1: "nowhere"}),
            "names of runs must be text, got 1",
        ),
        (lambda: srn_jax.compare({"a": "nowhere", " ": "b"}), "must be one line and not empty"),
        (lambda: srn_jax.compare({"a\nb": "nowhere"}), "must be one line and not empty"),
        (lambda: srn_jax.compare({"a\0b": "nowhere"}), "has characters that cannot be shown"),
        (lambda: srn_jax.compare({"a\ud800": "nowhere"}), "has characters that cannot be shown"),
        (lambda: srn_jax.compare({r"$\foo$": "nowhere"}), r"\$\\foo\$ cannot be read as math"),
        (lambda: srn_jax.compare({"a": "b"}, baseline=[1]), "baseline must be the name of a run"),
        (lambda: srn_jax.compare({"a": "nowhere"}), "nowhere/run.json: cannot be read"),
        (lambda: srn_jax.compare({"a": "nowhere"}, 5), "folder must be a path, got 5"),
    ],
)
def test_what_is_no_run_is_one_line(call, says):
    with pytest.raises(srn_jax.UserError, match=says):
        call()


@pytest.mark.slow
def test_a_folder_of_data_says_which_lengths_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for length, splits in textbook_splits((3, 4), (1, 1, 1)):
        write_splits(tmp_path / "data", length, splits)
    run = srn_jax.train(seeds=1, data="data", **SMALL)
    assert run.results.length.tolist() == [3, 4]


@pytest.mark.slow
def test_one_value_may_stand_for_a_list_and_numbers_may_be_numpys(trained, tmp_path):
    settings = SMALL | {"learning_rate": np.float64(1e-3)}
    run = srn_jax.train(3, np.int64(1), folder=tmp_path, probes="update-norm", **settings)
    assert run.results.length.tolist() == [3] and "update_norm.W" in run.histories.steps
    with pytest.raises(srn_jax.UserError, match="there is no run to compare"):
        srn_jax.compare({})
    for inputs in (np.zeros((1, 0), int), [3, 4, 0], [[[3, 4, 0]]]):
        with pytest.raises(
            srn_jax.UserError, match=r"inputs must be \[batch, time\] and not empty"
        ):
            run.network(3, 0)(inputs)
    assert run.network(3, 0)([[3, 4, 0]]).shape == (1, 19)


def test_every_file_of_the_package_is_in_a_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"] == {"find": {"include": ["srn_jax*"]}}
    packages = {path.parent for path in (ROOT / "srn_jax").rglob("__init__.py")}
    files = {path for path in (ROOT / "srn_jax").rglob("*") if path.is_file()}
    files = {path for path in files if path.suffix != ".pyc"}
    assert {path.parent for path in files} == packages
    data = {
        ROOT.joinpath(*package.split("."), name)
        for package, names in settings["package-data"].items()
        for name in names
    }
    assert {path for path in files if path.suffix != ".py"} == data


def test_the_module_is_the_program(tmp_path):
    def run(*words):
        command = [sys.executable, "-m", "srn_jax", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    assert "sweep" in run().stdout and "Train all lengths and many seeds" in run("--help").stdout
    assert run("sweep", "--help").stdout.startswith("usage: python -m srn_jax sweep")
    assert run("generate-data", "--out", "data", "--lengths", "3").returncode == 0
    assert (tmp_path / "data" / "3" / "train.txt").exists()
    wrong = run("sweeep")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: no command 'sweeep'")
