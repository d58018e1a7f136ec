"""A cell and a task of one's own: the README's, as files, from the command line to restoring."""

import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from srn_jax.analysis.results import Run, read_results
from srn_jax.cli import study
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import warn_once
from srn_jax.runs import trial
from srn_jax.runs.restore import restore_network
from srn_jax.runs.settings import config_of, settings_of, variants_of
from srn_jax.training.experiment import program_of

OLD_RUN = Path(__file__).parents[1] / "data" / "run_of_jax_0.7.2"
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SMALL = ("--lengths", 3, 5, "--seeds", 1, "--steps", 4, "--platform", "cpu")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with the README's files, in which the scripts run."""
    for text, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_files_are_two_and_short(own):
    lines = {path.name: path.read_text().splitlines() for path in own.iterdir()}
    assert set(lines) == {"mine.py", "parity.py"}
    classes = [
        len(c.strip().splitlines()) for c in own.joinpath("mine.py").read_text().split("class ")
    ]
    assert max(classes) <= 20 and len(lines["parity.py"]) <= 20


@pytest.mark.slow
def test_an_own_cell_restores_without_its_file_and_is_known_when_it_has_changed(own, run_here):
    cell = ("--length", 10, "--cell", "mine.py:Leaky", "--learning-rate", 0.01, 0.02)
    done = run_here("sweep.py", *SMALL[3:], *cell, "--out", "run")
    assert done.returncode == 0, done.stderr
    name = "run/learning_rate=0.02"
    again = run_here("evaluate.py", name)
    text = own.joinpath("mine.py").read_text()
    own.joinpath("mine.py").unlink()
    assert len(read_results(own / name)) == 1
    network = restore_network(name, length=10, seed=0)
    assert network(jnp.array([[3, 4, 0, 0, 0]])).shape == (1, 19)
    assert run_here("evaluate.py", name).stdout == again.stdout

    own.joinpath("mine.py").write_text(text.replace("0.9", "0.8"))
    other = run_here("sweep.py", *SMALL[3:], *cell, "--out", "run")
    assert other.returncode == 2 and other.stderr.count("\n") == 1 and "mine.py: " in other.stderr
    copy = own / name / "code" / "mine.py"
    copy.write_text(text + "\n")
    changed = run_here("evaluate.py", name)
    assert changed.returncode == 2
    assert f"{copy.relative_to(own)} has changed since the run began" in changed.stderr


@pytest.mark.slow
def test_in_one_process_a_changed_file_is_another_cell(own):
    """As in a notebook: its name is the same, and nothing of the one before may be used."""
    trained = []
    for leak in ("0.9", "0.5"):
        text = own.joinpath("mine.py").read_text()
        own.joinpath("mine.py").write_text(text.replace("0.9", leak))
        sweep = Sweep(SweepConfig((3,), (0,), ExperimentConfig(cell="mine.py:Leaky", steps=4)))
        sweep.advance(0, 1)
        trained.append(sweep.gather_histories().steps["train_loss"][0])
    assert trained[0].tolist() != trained[1].tolist()


def test_in_one_process_a_changed_probe_is_another_program(own):
    config, programs = SweepConfig((3,), (0,), probes=("own.py:Probe",)), []
    for factor in (1, 2):
        (own / "own.py").write_text(PROBE.format(f"{{'a': {factor} * step.loss}}"))
        programs.append(program_of(config))
    assert programs[0] != programs[1] == program_of(config)


@pytest.mark.slow
def test_a_task_of_ones_own_trains_and_is_evaluated_without_its_file(own, run_here):
    settings = ("--length", 5, "--task", "parity.py:Parity", "--fresh-data")
    done = run_here("sweep.py", *SMALL[3:], *settings, "--out", "run")
    assert done.returncode == 0, done.stderr
    report = own.joinpath("run", "report.md").read_text()
    assert "Asked for: whether the number of ones is odd." in report
    assert "The best constant answer scores 0.50." in report
    own.joinpath("parity.py").unlink()
    done = run_here("evaluate.py", "run", "--predict", "1 0 1")
    assert done.returncode == 0 and "most frequent answer by length" in done.stdout


def test_the_table_of_variants_names_own_files_without_their_folders(own):
    (own / "run" / "code").mkdir(parents=True)
    shutil.copy(own / "mine.py", own / "run" / "code")
    results = read_results(OLD_RUN)
    configs = [
        SweepConfig((3,), (0,), ExperimentConfig(cell=f"{own}/mine.py:Leaky", hidden_size=size))
        for size in (2, 3)
    ]
    copies = [config_of(settings_of(config), own / "run") for config in configs]
    tables = []
    for given in (configs, copies):  # as it is after more seeds
        named = variants_of(given)
        study.write_variants(own / "variants.csv", named, dict.fromkeys(named, Run(results)))
        tables.append((own / "variants.csv").read_text())
    assert tables[0] == tables[1]
    assert ",mine.py:Leaky," in tables[0] and str(own) not in tables[0]


@pytest.mark.slow
def test_a_module_may_have_constants_and_normalise_its_weights(own, run_here):
    (own / "own.py").write_text(CELLS)
    done = run_here("sweep.py", "--length", 5, *SMALL[3:], "--cell", "own.py:Constants")
    assert done.returncode == 0, done.stderr


def test_a_file_that_needs_another_by_a_changed_path_is_refused_before_it_trains(own, run_here):
    own.joinpath("helper.py").write_text("RATE = 0.1")
    before = "import sys\nsys.path.insert(0, '.')\nfrom helper import RATE\n"
    own.joinpath("mine.py").write_text(before + own.joinpath("mine.py").read_text())
    done = run_here("sweep.py", *SMALL, "--cell", "mine.py:Leaky", "--out", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine.py: changes sys.path to import other files" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--forget-bias", 1), "--forget-bias changes nothing with --cell srn"),
        (("--clip", "global"), "--clip changes nothing without --clip-norm"),
        (
            ("--task", "adding", "--embedding-size", 7),
            "--embedding-size changes nothing with --task adding",
        ),
        (
            ("--cell", "mine.py:Flax", "--recurrent-init", "identity"),
            "--recurrent-init changes nothing with --cell mine.py:Flax",
        ),
    ],
)
def test_an_option_that_changes_nothing_is_told_once(options, says, own, capsys):
    warn_once.cache_clear()
    settings = {
        name[2:].replace("-", "_"): x for name, x in zip(options[::2], options[1::2], strict=True)
    }
    for _ in range(2):
        trial.try_out(SweepConfig((3,), (0,), ExperimentConfig(**settings)))
    assert capsys.readouterr().err == f"warning: {says}\n"


MISTAKES = {  # a change of the README's cell or task, and what the line must say
    "syntax": ("gates = 1", "gates = = 1", "mine.py, line 8: invalid syntax"),
    "no class": ("class Leaky", "class Leaking", "mine.py: no class Leaky in it"),
    "raises": ("return 0.9 *", "return 0.9 * oops *", "mine.py, line 11: NameError: name 'oops'"),
    "shape": ("0.9 * state + 0.1 *", "", "mine.py:Leaky: update gives a state (2, 1, 32)"),
    "import": ("import jax.numpy as jnp", "import jacks", "mine.py, line 2: ModuleNotFoundError"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_ones_own_cell_is_one_line_with_its_place(name, own, run_here):
    old, new, says = MISTAKES[name]
    text = own.joinpath("mine.py").read_text()
    if name == "shape":
        text = text.replace("[..., 0, :]", "")
    assert text.count(old) >= 1
    own.joinpath("mine.py").write_text(text.replace(old, new, 1))
    done = run_here("sweep.py", *SMALL, "--cell", "mine.py:Leaky", "--out", "run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not own.joinpath("run").exists()


CELLS = """
import jax
import numpy as np
from flax import nnx
from srn_jax import SRN, Cell
# sys.path.insert(0, ".") is not needed

class Called(SRN):
    def __call__(self, *arguments, **named):
        return -super().__call__(*arguments, **named)

class Faster(Cell):
    def update(self, x, h, state):
        return jax.nn.relu(x + h)[..., 0, :]

    @classmethod
    def step(cls, x, h, state):
        return x + h, None

class Restless(Cell):
    rests = True

    def update(self, x, h, state):
        return jax.nn.sigmoid(x + h)[..., 0, :]

class Reservoir(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)
        self.fixed = nnx.Variable(jax.random.normal(rngs.params(), (hidden_size,)))

    def __call__(self, inputs, mask):
        return self.linear(inputs) + self.fixed[...]

class Normed(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden_size, rngs=rngs)

    def __call__(self, inputs, mask):
        return self.norm(self.linear(inputs))

class Pooled(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)

    def __call__(self, inputs, mask):
        states = self.linear(inputs)
        return states + states.mean(axis=1, keepdims=True)

class Constants(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.WeightNorm(nnx.Linear(input_size, hidden_size, rngs=rngs), rngs=rngs)
        self.ours, self.numpys = jax.numpy.ones((1, 1, 1)), np.ones((1, 1, 1), np.float32)

    def __call__(self, inputs, mask):
        return self.linear(inputs) * self.ours + self.numpys

class Additive(Cell):
    additive = True

    def update(self, x, h, state):
        return jax.nn.relu(x + h)[..., 0, :]

class Plain:
    pass

class Random(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, inputs, mask):
        return self.dropout(self.linear(inputs))
"""
PROBE = """
class Probe:
    def __call__(self, step):
        return {}
"""


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("Plain", "own.py:Plain: no srn_jax.Cell and no other flax.nnx.Module"),
        ("Random", "own.py:Random: called twice it gives different states"),
        ("Called", "own.py:Called: __call__ is the same for all cells of the family"),
        ("Faster", "own.py:Faster: step and update do not say the same"),
        ("Restless", "own.py:Restless: rests, but without input a state of zero does not stay"),
        ("Additive", "own.py:Additive: additive is for a cell with a derivative of its own"),
        ("Pooled", "own.py:Pooled: padding behind a sequence changes its states"),
        ("Reservoir", "own.py:Reservoir: draws values that are no nnx.Param, and they would be"),
        ("Normed", "own.py:Normed: the other sequences of a batch change the states of one"),
    ],
)
def test_a_cell_that_cannot_be_trained_is_one_line(cell, says, own, run_here):
    (own / "own.py").write_text(CELLS)
    done = run_here("sweep.py", *SMALL, "--cell", f"own.py:{cell}", "--out", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and says in done.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("3", "Probe: a probe gives a dictionary of scalars by name"),
        ("{'train_loss': 3.0}", "'train_loss' is no name for a record"),
        ("{'a/../b': 3.0}", "'a/../b' is no name for a record"),
        ("{'dev_loss': 3.0}", "'dev_loss' is no name for a record"),
        ("{'loss': 3.0}", "'loss' is no name for a record"),
        ("{'a': step.gradient['output']['kernel']}", "Probe: a has shape (32, 19)"),
    ],
)
def test_a_probe_that_cannot_be_recorded_is_one_line(given, says, own, run_here):
    (own / "own.py").write_text(PROBE.format(given))
    done = run_here("sweep.py", *SMALL, "--probe", "own.py:Probe", "--out", "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and says in done.stderr
    assert not own.joinpath("run").exists()


@pytest.mark.parametrize(
    ("lengths", "status"),
    [
        ("", 2),
        pytest.param(", seq_lengths=mask.sum(axis=1)", 0, marks=pytest.mark.slow),
    ],
)
def test_a_module_must_mind_padding_that_changes_its_states(lengths, status, own, run_here):
    both = "nnx.Bidirectional(self.rnn, self.rnn, merge_fn=lambda a, b: a + b)"
    text = own.joinpath("mine.py").read_text()
    new = text.replace("self.rnn(inputs)", f"{both}(inputs{lengths})")
    own.joinpath("mine.py").write_text(new)
    done = run_here("sweep.py", *SMALL, "--cell", "mine.py:Flax", "--out", "run")
    assert done.returncode == status, done.stderr
    assert ("padding behind a sequence changes its states" in done.stderr) == (status == 2)
    if status == 0:
        own.joinpath("mine.py").unlink()
        network = restore_network("run", length=5, seed=0)
        assert network(jnp.array([[3, 4, 0, 0, 0]])).shape == (1, 19)


LOSS = "def loss(self, o, targets):\n        found = super().loss(o, targets)\n        return"
RIGHT = "def correct(self, o, targets):\n        return super().correct(o, targets)"
OOPS = "@property\n    def chance(self):\n        return oops"
RANDOM = "(lambda shape: jnp.asarray(__import__('numpy').random.random(shape)) < 0.5)("
SET = "def draw_set(self, key, units, n, w):\n        return self.draw(key, "


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return Examples(bits", "return Examples(bits[:, 1:]", "draw gives inputs (100, 5)"),
        ("axis=1) % 2", "axis=1, keepdims=True) % 2", "draw gives targets (100, 1)"),
        ("% 2)", "% two)", "parity.py, line 16: NameError: name 'two' is not defined"),
        ("outputs = 2", "outputs = 'two'", "outputs must be a whole number from 1, got 'two'"),
        ("outputs = 2", "outputs = 1", "draw gives targets with 1, expected whole numbers from 0"),
        ("Tokens(2)", "Tokens(1)", "draw gives inputs with 1, expected whole numbers from 0 to 0"),
        ("inputs = Tokens(2)", "inputs = 2", "inputs must be Tokens(vocabulary) or Vectors(size)"),
        ("outputs = 2", "outputs, chance = 2, 'half'", "chance must be a number from 0 to 1 or No"),
        ("outputs = 2", "outputs, chance = 2, 2.0", "chance must be a number from 0 to 1 or None"),
        ("question = ", "question = 5  # ", "question must be one line of text, got 5"),
        ("Examples(bits", "Examples(bits > 0", "draw gives inputs with bool, expected whole"),
        ("jax.random.bernoulli(key, shape=", RANDOM, "draw gives other examples for the same key"),
        ("def draw(", f"{LOSS} jnp.mean(found)\n\n    def draw(", "loss gives float32 (), for 100"),
        ("def draw(", f"{LOSS} found > 1\n\n    def draw(", "loss gives bool (100,), for 100"),
        ("def draw(", f"{RIGHT} * 1.0\n\n    def draw(", "correct gives float32 (100,), for 100"),
        ("def draw(", f"{OOPS}\n\n    def draw(", "line 14: NameError: name 'oops'"),
        ("import jax\n", "import jax  # \0\n", "parity.py: holds a null byte, expected Python"),
        ("return Examples(", "return (", "draw gives tuple, expected Examples"),
        ("def draw(", "def __init__(self, n):\n        ...\n\n    def draw(", "without arguments"),
        ("def draw(", "def correct(self, *_):\n        oops\n\n    def draw(", "line 13: NameErr"),
        ("import jax\n", "raise SystemExit(3)\n", "parity.py, line 2: SystemExit: 3"),
        ("def draw(", f"{SET}60, n, w)\n\n    def draw(", "draw_set gives inputs (60, 6), for un"),
        (
            "def draw(",
            f"{SET}100 if units == 1 else 7, n, w)\n\n    def draw(",
            "draw_set gives inputs (7, 6), for units 3 and width 6 expected (300, 6), units * exam",
        ),
        ("def draw(", "def drew(", "Parity: no method draw(key, number, length, width)"),
    ],
)
def test_a_mistake_in_ones_own_task_is_one_line(old, new, says, own, run_here):
    text = own.joinpath("parity.py").read_text()
    own.joinpath("parity.py").write_text(text.replace(old, new, 1))
    task = ("--task", "parity.py:Parity", "--out", "run")
    done = run_here("sweep.py", *SMALL, *task)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not own.joinpath("run").exists()
