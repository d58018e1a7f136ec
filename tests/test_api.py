"""The Python API: what is given, what comes back, and what one line says of a mistake."""

import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import srn_jax
from srn_jax import arguments, places
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import textbook_splits, write_splits

ROOT = Path(__file__).parents[1]
SMALL = {"steps": 6, "hidden_size": 8, "embedding_size": 8}


class Leaky(srn_jax.Cell):
    def update(self, x, h, state):
        return 0.9 * state + 0.1 * jnp.tanh(x[0] + h[0])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run of two variants in a folder, one of them of a class that no file gives."""
    folder = tmp_path_factory.mktemp("api") / "run"
    own = type("Own", (Leaky,), {"update": lambda self, x, h, state: jnp.sin(x[0] + h[0])})
    optimizer = optax.adamw(1e-3, weight_decay=1e-2)
    run = srn_jax.train(
        [np.int64(3), 5], 2, cell=["srn", own], optimizer=optimizer, folder=str(folder), **SMALL
    )
    return run, own, optimizer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of a single variant, in memory."""
    return srn_jax.train(3, 2, **SMALL)


def test_results_are_a_table_with_a_row_for_each_experiment(stored, plain):
    run, _, _ = stored
    assert isinstance(run.results, pd.DataFrame) and len(run.results) == 8
    assert set(run.results.variant) == set(run.variants) and run.variants[0] == "srn"
    assert plain.results.columns[0] == "length" and plain.results.seed.tolist() == [0, 1]
    assert isinstance(plain.summary(), pd.DataFrame) and isinstance(run.summary(), pd.DataFrame)
    assert plain.histories.dev_loss.shape == (2, 1) and {*run.histories} == {*run.variants}
    assert "memory span" in repr(plain) and "in memory" in repr(plain)
    assert f"in {run.folder}" in repr(run)


def test_a_network_answers_as_its_states_say(stored):
    run, _, _ = stored
    tokens = jnp.array([[3, 4, 0, 0, 0], [1, 2, 0, 0, 0]])
    for variant in run.variants:
        network = run.network(5, 1, variant)
        states = run.states(tokens, 5, 1, variant)
        assert states.shape == (2, 5, 8)
        np.testing.assert_allclose(
            network(tokens), network.answer(states.swapaxes(0, 1)), rtol=1e-6, atol=1e-6
        )
    with pytest.raises(UserError, match=r"`variant`: the run has srn, .*, give one of them"):
        run.network(5, 1)
    with pytest.raises(UserError, match="the run has no seed 7"):
        run.network(5, 7, "srn")


def test_evaluating_gives_the_results_again_and_predicting_marks_what_is_right(stored):
    run, _, _ = stored
    found = run.evaluate()
    assert found.test_accuracy.tolist() == run.results.test_accuracy.tolist()
    assert found.columns.tolist() == ["variant", "length", "seed", "test_accuracy", "test_loss"]
    one = run.evaluate(variant="srn", lengths=[5], seeds=[1])
    assert one.length.tolist() == [5] and one.seed.tolist() == [1]
    said = run.predict("3 4 0 0 0", lengths=[5])
    assert said.right.tolist() == [answer == "7" for answer in said.answer]
    assert run.predict([3, 4, 0], variant="srn").shape[0] == 4
    with pytest.raises(UserError, match="`predict` wants numbers 0 to 9 like '3 4 0', got '3 12'"):
        run.predict([3, 12])


def test_an_object_that_no_file_holds_is_given_again_to_open_its_run(stored, monkeypatch):
    run, own, optimizer = stored
    loaded = srn_jax.load_run(run.folder)  # tables need none of it
    pd.testing.assert_frame_equal(loaded.results, run.results)
    with pytest.raises(UserError, match=r"its `(cell|optimizer)` is .*@.*give that object again"):
        loaded.network(3, 0, "srn")
    again = srn_jax.load_run(run.folder, cell=own, optimizer=optimizer)
    np.testing.assert_array_equal(
        again.network(3, 0, run.variants[1])([[1, 2, 0]]),
        run.network(3, 0, run.variants[1])([[1, 2, 0]]),
    )
    other = srn_jax.load_run(run.folder, cell=own, optimizer=optax.adamw(1e-3, weight_decay=1e-3))
    with pytest.raises(UserError, match="give that object again"):
        other.network(3, 0, "srn")


def test_the_same_call_trains_nothing_and_growth_keeps_what_is_there(stored, tmp_path, capsys):
    run, own, optimizer = stored
    objects = {"cell": own, "optimizer": optimizer}
    before = run.results.set_index(["variant", "length", "seed"])
    grown = srn_jax.resume(run.folder, seeds=3, lengths=4, objects=objects)
    assert "in no file, so load_run and resume need it again: " in capsys.readouterr().out
    assert len(grown.results) == 2 * 3 * 3
    rows = grown.results.set_index(["variant", "length", "seed"]).loc[before.index]
    pd.testing.assert_frame_equal(rows, before)
    again = srn_jax.resume(run.folder, objects=objects)
    assert "nothing is left to train" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.results, grown.results)
    with pytest.raises(UserError, match="`seeds` 1: the run has 3 of them already"):
        srn_jax.resume(run.folder, seeds=1, objects=objects)


def test_a_run_in_memory_is_saved_as_one_that_was_trained_there(plain, tmp_path):
    saved = plain.save(tmp_path / "saved")
    srn_jax.train(3, 2, folder=tmp_path / "trained", **SMALL)
    loaded = srn_jax.load_run(tmp_path / "saved")
    for name in ("results.csv", "log.txt"):
        assert (tmp_path / "saved" / name).read_bytes() == (
            tmp_path / "trained" / name
        ).read_bytes()
    pd.testing.assert_frame_equal(loaded.results, saved.results)
    np.testing.assert_array_equal(
        loaded.network(3, 0)([[1, 2, 0]]), plain.network(3, 0)([[1, 2, 0]])
    )
    assert (tmp_path / "saved" / "report.html").exists()
    with pytest.raises(UserError, match="give a `folder` for the report"):
        plain.report()


def test_a_network_of_a_run_that_was_overwritten_is_not_that_of_the_new_one(tmp_path):
    srn_jax.train(3, 1, folder=tmp_path, **SMALL)
    old = srn_jax.load_run(tmp_path)
    srn_jax.train(3, 1, folder=tmp_path, overwrite=True, learning_rate=0.5, **SMALL)
    with pytest.raises(UserError) as refusal:
        old.network(3, 0)
    assert "\n" not in str(refusal.value)


def test_a_report_elsewhere_changes_nothing_of_the_run(stored, tmp_path):
    run, _, _ = stored
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    loaded = srn_jax.load_run(run.folder)
    assert loaded.report(tmp_path / "drawn") and loaded.report(tmp_path / "one", variant="srn")
    assert before == {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    assert (tmp_path / "drawn" / "report.md").exists()
    with pytest.raises(UserError, match="is the folder of a run, choose another `folder`"):
        loaded.report(run.folder, variant="srn")


def test_runs_are_compared_as_a_table(plain, stored, tmp_path):
    run, _, _ = stored
    table = srn_jax.compare({"one": plain, "other": str(run.folder)}, folder=tmp_path / "both")
    assert isinstance(table, pd.DataFrame) and len(table)
    assert any((tmp_path / "both").iterdir())
    with pytest.raises(UserError, match="is given more than once, expected different runs"):
        srn_jax.compare([run.folder, run.folder])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: srn_jax.load_run(None), "`folder` must be a path, got None"),
        (lambda: srn_jax.load_run("a\0b"), "embedded null byte"),
        (lambda: srn_jax.compare("nowhere"), "`runs` must be several runs"),
        (lambda: srn_jax.compare({}), "there is no run to compare"),
        (lambda: srn_jax.compare({1: "nowhere"}), "must be one line of text, got 1"),
        (lambda: srn_jax.compare({"a\nb": "nowhere"}), "must be one line of text"),
        (lambda: srn_jax.compare({"a": "b"}, "c"), "`baseline` must be one of a, got 'c'"),
        (lambda: srn_jax.compare({"a": "nowhere"}), r"nowhere/run\.json: cannot be read"),
        (lambda: srn_jax.resume("nowhere"), r"nowhere/run\.json: cannot be read"),
        (lambda: srn_jax.train(lr=0.1), "no setting 'lr', did you mean `learning_rate`?"),
        (lambda: srn_jax.train(colour=1), "no setting 'colour', expected one of task, cell"),
        (lambda: srn_jax.train([5.9, 8]), "`lengths` must be a whole number .* got 5.9"),
        (lambda: srn_jax.train("5"), "`lengths` must be a whole number .* got '5'"),
        (lambda: srn_jax.train(5, 1.0), "`seeds` .* got 1.0"),
        (lambda: srn_jax.train(np.array([5, 6]), np.int64(0)), "`seeds` must be .* got 0"),
        (lambda: srn_jax.train(5, 10**9), "`seeds` must be .* to 1000000, got 1000000000"),
        (lambda: srn_jax.train(learning_rate=10**400), "`learning_rate` must be a number above"),
        (lambda: srn_jax.train(epochs=10**5000), "`epochs` must be"),
        (lambda: srn_jax.train(cell=[]), "`cell` is empty, expected at least one value"),
        (lambda: srn_jax.train(cell=["srn", srn_jax.SRN]), "`cell` has a value more than once"),
        (lambda: srn_jax.train(probes=["loss"]), "`probes` must be one of gradient-norm"),
        (lambda: srn_jax.train(folder=5), "`folder` must be a path, got 5"),
        (lambda: srn_jax.train(folder=""), "`folder` must be a path, got ''"),
        (lambda: srn_jax.train(data=5), "`data` must be a path, got 5"),
        (lambda: srn_jax.train(data="nowhere"), "nowhere: no such folder of data"),
        (lambda: srn_jax.train(overwrite="no"), "`overwrite` must be true or false, got 'no'"),
        (lambda: srn_jax.train(steps=5, epochs=3), "`steps` and `epochs` both say how long"),
        (lambda: srn_jax.train(section="7"), "`section` must be one of 6.1, .* got '7'"),
        (lambda: srn_jax.train(chunk=0), "`chunk` must be a whole number from 1"),
        (lambda: srn_jax.train(platform="abacus"), "`platform` must be one of auto, cpu, gpu"),
        (lambda: srn_jax.train(folder="a\ud800"), "no possible `folder`"),
    ],
)
def test_a_bad_argument_from_python_is_one_line(call, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says) as refusal:
        call()
    assert "\n" not in str(refusal.value) and "--" not in str(refusal.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble, np.array])
def test_a_float_of_numpys_is_the_decimal_that_was_written(kind):
    for value in (0.01, 1e-3, 2.5, 1e-6):
        found = arguments.plain(kind(value))
        assert type(found) is float
        assert found == pytest.approx(value, rel=0.1 if kind is np.float16 else 0)
    assert np.isnan(arguments.plain(np.float32("nan"))) and arguments.plain(jnp.int8(3)) == 3


def test_one_value_or_several_of_each_setting():
    optimizer = optax.adam(1e-3)
    for one in ("srn", srn_jax.SRN, optimizer, 3, None, jnp.float32(0.5)):
        assert len(arguments.several(one)) == 1
    for many in ([1, 2], (1, 2), range(2), np.arange(2), iter([1, 2]), [optimizer, "adam"]):
        assert len(arguments.several(many)) == 2
    configs = arguments.configs_of(
        [3], 2, cell=[srn_jax.SRN, "lstm"], learning_rate=np.array([0.1, 0.2], np.float32)
    )
    settings = [(one.experiment.cell, one.experiment.learning_rate) for one in configs]
    assert settings == [("srn", 0.1), ("srn", 0.2), ("lstm", 0.1), ("lstm", 0.2)]


def test_what_a_run_grows_by_is_added_to_each_variant_once():
    base = arguments.configs_of([3], 2, cell=["srn", "lstm"], learning_rate=[0.1, 0.2])
    grown = arguments.grown(base, [5, 3], 3, {"cell": ["gru", "srn"]})
    assert [c.experiment for c in grown[:4]] == [c.experiment for c in base]
    assert [(c.experiment.cell, c.experiment.learning_rate) for c in grown[4:]] == [
        ("gru", 0.1),
        ("gru", 0.2),
    ]
    assert grown[0].lengths == (3, 5) and grown[0].seeds == (0, 1, 2)


def test_presets_give_what_was_not_given():
    from srn_jax.arguments import with_presets

    chosen = with_presets({"epochs": 7, "seeds": 2}, "6.2", True, False)
    assert (chosen["epochs"], chosen["seeds"], chosen["lengths"]) == (7, 2, (5, 10))
    assert chosen["clip_norm"] == [None, 5.0]
    assert "epochs" not in with_presets({"steps": 3}, None, True, False)
    assert "lengths" not in with_presets({"data": "x"}, None, True, False)


def test_a_folder_of_data_says_which_lengths_there_are(tmp_path):
    for length, splits in textbook_splits((3, 4), (1, 1, 1)):
        write_splits(tmp_path / "data", length, splits)
    (config,) = arguments.configs_of(seeds=1, data=tmp_path / "data")
    assert config.lengths == (3, 4) and config.data.vocabulary == 10
    with pytest.raises(UserError, match="`multiplicity` is for drawn data"):
        arguments.configs_of(data=tmp_path / "data", multiplicity=3)


# One at a time.


def test_training_inside_of_training_and_beside_it_is_one_line(tmp_path):
    (tmp_path / "own.py").write_text(
        "import srn_jax\nfrom srn_jax import SRN\n\nclass Own(SRN):\n    pass\n\n"
        "srn_jax.train(3, 1, cell=Own)\n"
    )
    with pytest.raises(UserError, match="a run is being trained in this process already"):
        srn_jax.train(3, 1, cell=f"{tmp_path}/own.py:Own", **SMALL)
    found = []

    def other():
        with pytest.raises(UserError, match="trained in this process already") as refusal:
            srn_jax.train(3, 1, **SMALL)
        found.append(refusal)

    with srn_jax.api.alone():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found
    with srn_jax.api.alone():
        pass


# Folders.


def test_a_folder_is_named_by_what_the_run_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def named(*given, **settings):
        return places.name_of_run(arguments.configs_of(*given, **settings))

    assert named() == "srn-8seeds"
    assert named(cell=["srn", "lstm"]) == "srn+lstm-8seeds"
    assert named([5, 10], 1, task="adding") == "srn-adding-L5-10-1seed"
    assert named(learning_rate=[1e-3, 3e-3]) == "srn-learning_rate=0.001+0.003-8seeds"
    assert named(cell="dir/mine.py:Leaky") == "Leaky-8seeds"
    assert len(named(hidden_size=[*range(1, 90)])) <= 80


def test_the_same_call_finds_its_folder_again_and_another_one_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = srn_jax.train(3, 1, folder=True, **SMALL)
    assert one.folder == Path("runs/srn-L3-1seed")
    assert places.run_folder("runs/latest").resolve() == one.folder.resolve()
    other = arguments.configs_of(3, 1, learning_rate=0.5, **SMALL)
    folder, _ = places.default_folder(other)
    assert folder.name.startswith("srn-L3-1seed-")
    assert places.default_folder(arguments.configs_of(3, 1, **SMALL)) == (one.folder, False)
    srn_jax.resume(one.folder, seeds=2)
    again = srn_jax.train(3, 1, folder=True, **SMALL)  # has grown, and is shown as it is
    assert again.folder == one.folder and len(again.results) == 2


def test_the_newest_run_is_a_link_or_a_file_and_nothing_of_the_users_is_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        places.point_to_newest(Path("runs") / name)
        assert Path("runs/latest").readlink() == Path(name)
    Path("runs/latest").unlink()

    def no_links(*_, **__):
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", no_links)
    places.point_to_newest(Path("runs/three"))
    assert Path("runs/latest").read_text() == "three\n"
    assert places.run_folder("runs/latest") == Path("runs/three")
    Path("runs/latest").write_text("../../etc\n")
    assert places.run_folder("runs/latest") == Path("runs/latest")
    Path("runs/latest").unlink()
    Path("runs/latest").mkdir()
    places.point_to_newest(Path("runs/four"))
    assert Path("runs/latest").is_dir()
    places.point_to_newest(tmp_path / "elsewhere")
    assert not (tmp_path / "latest").exists()


@pytest.mark.slow
def test_what_starts_jax_from_python_starts_it_as_training_does(stored):
    """Or a network of yesterday's would leave today's training a single device."""
    code = (
        "import jax, srn_jax\nfrom srn_jax.runs import devices\n"
        f"srn_jax.load_run({str(stored[0].folder)!r})\n"
        "srn_jax.Run.network\nsrn_jax.runs.devices.start()\n"
        "print(len(jax.devices()), devices.available_cores())"
    )
    only = {name: value for name, value in os.environ.items() if "CPU_DEVICES" not in name}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=only, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(set(found.stdout.split())) == 1


def test_the_command_of_a_report_can_be_pasted(stored):
    command = stored[0].stored.info["command"]
    assert command.startswith("python -c 'import srn_jax; srn_jax.train(lengths=[3, 5], seeds=2")
    assert "@" in command  # an object stands by its name


def test_train_says_of_every_argument_what_it_is():
    for name in ("train", "resume", "load_run", "compare", "atlas"):
        function = getattr(srn_jax, name)
        for name, parameter in inspect.signature(function).parameters.items():
            stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
            assert f"{stars}{name}:" in function.__doc__


def test_jax_arrays_may_be_lengths():
    (config,) = arguments.configs_of(jnp.array([3, 5]), np.arange(2))
    assert config.lengths == (3, 5) and config.seeds == (0, 1)
    assert all(type(value) is int for value in (*config.lengths, *config.seeds))
    assert jax.default_backend()
