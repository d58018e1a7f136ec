"""Cells, tasks, optimizers, schedules and probes of a user's own, tried before anyone trains."""

# ruff: noqa: E501 (a table of mistakes)

import types

import jax
import jax.numpy as jnp
import optax
import pytest

from srn_jax import SRN, UserError
from srn_jax.cells import BY_NAME
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import warn_once
from srn_jax.own_files import (
    describe,
    load_object,
    name_of,
    own_mistakes,
    path_of,
    resolve,
    source_digest,
)
from srn_jax.runs.trial import try_out

HEAD = """import jax, optax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from srn_jax import SRN, Cell, Derivative, Examples, Task, Tokens, Vectors, place_of
"""
LEAKY = (
    HEAD
    + """
class Own(Cell):
    gates = 1

    def update(self, x, h, state):
        return 0.9 * state + 0.1 * jnp.tanh(x[0] + h[0])
"""
)
PARITY = (
    HEAD
    + """
class Own(Task):
    inputs = Tokens(2)
    outputs = 2
    question = "whether the number of ones is odd"

    def draw(self, key, number, length, width):
        bits = jax.random.bernoulli(key, shape=(width, number))[::-1].T.astype(jnp.int8)
        bits = jnp.where(place_of(length, width) < 0, 0, bits)
        return Examples(bits, jnp.sum(bits, axis=1) % 2)
"""
)
MODULE = (
    HEAD
    + """
class Own(nnx.Module):
    def __init__(self, input_size, hidden_size, *, rngs):
        self.linear = nnx.Linear(input_size, hidden_size, rngs=rngs)
        self.extra = None

    def __call__(self, inputs, mask):
        return self.linear(inputs)
"""
)
OTHER = (
    HEAD
    + """
def Own(*, learning_rate=1e-3):
    return optax.adam(learning_rate)
"""
)
RANDOM = "(jnp.asarray(np.random.random((width, number))) < 0.5)"

MISTAKES = [  # what is the user's, a change of it, and what the line must say
    # cells
    ("cell", LEAKY, "gates = 1", "gates = = 1", "own.py, line 8: invalid syntax"),
    ("cell", LEAKY, "class Own", "class Owen", "nothing is called Own in it, it has Owen"),
    ("cell", LEAKY, "class Own(Cell)", "Own = 3\nclass Other(Cell)", "`cell` must be a class"),
    ("cell", LEAKY, "class Own(Cell)", "class Own", "no srn_jax.Cell and no other flax.nnx"),
    ("cell", LEAKY, "0.9 * state", "oops", "own.py, line 11: NameError: name 'oops'"),
    ("cell", LEAKY, "import jax, optax", "import jacks", "own.py, line 1: Mo"),
    ("cell", LEAKY, "gates = 1", "gates = 0", "gates must be a whole number from 1, got 0"),
    ("cell", LEAKY, "gates = 1", "states = 2", "own.py, line 11: TypeError"),
    ("cell", LEAKY, "gates = 1", "forget_gate = 1", "forget_gate must be a gate's number"),
    ("cell", LEAKY, "return", "return state[:, :1] #", "Own: update gives"),
    ("cell", LEAKY, "x[0] + h[0]", "x + h", "own.py, line 11: TypeError"),
    ("cell", LEAKY, "0.9 * state", "state.mean(0, keepdims=True)", "update mixes the sequences of a batch"),
    ("cell", LEAKY, "update(self, x", "project(self, x", "no method update(x, h, state)"),
    ("cell", LEAKY, "Own(Cell):", "Own(SRN):\n    def scan(self): pass", "scan is the same for all"),
    (
        *("cell", LEAKY, "0.1 * jnp.tanh(x[0] + h[0])", "0 * x[0]\n\n    derivative = Derivative("),
        "own.py, line 13",
    ),
    # modules
    ("cell", MODULE, "return self.linear", "return 2 + self.lnear", "own.py, line 13: Attribute"),
    ("cell", MODULE, "self.linear(inputs)", "self.linear(inputs)[:, 0]", "expected states"),
    (
        *("cell", MODULE, "None", "nnx.Dropout(0.5, rngs=rngs)\n        self.linear = nnx.Sequential("
        "self.linear, self.extra)"),
        "called twice it gives different states",
    ),
    (
        *("cell", MODULE, "self.linear(inputs)", "self.linear(inputs - inputs.mean(0, keepdims=True))"),
        "the other sequences of a batch change the states",
    ),
    (
        *("cell", MODULE, "self.linear(inputs)", "self.linear(inputs) + inputs.mean(1)[:, None]"),
        "padding behind a sequence changes its states",
    ),
    (
        *("cell", MODULE, "None", "nnx.Variable(jax.random.normal(rngs.params(), (3,)))"),
        "draws values that are no nnx.Param",
    ),
    # tasks
    ("task", PARITY, "Own(Task)", "Own", "not a subclass of srn_jax.Task"),
    ("task", PARITY, "inputs = Tokens(2)", "inputs = 2", "inputs must be Tokens(vocabulary) or Ve"),
    ("task", PARITY, "outputs = 2", "outputs = 'two'", "outputs must be a whole number from 1"),
    ("task", PARITY, "outputs = 2", "outputs, chance = 2, 2.0", "chance must be a number from 0"),
    ("task", PARITY, "outputs = 2", "outputs, better = 2, 'mine'", "better must be accuracy or lo"),
    ("task", PARITY, "outputs = 2", "outputs = 1", "draw gives targets with 1, expected whole"),
    ("task", PARITY, "Tokens(2)", "Tokens(1)", "draw gives inputs with 1, expected whole numbers"),
    ("task", PARITY, "question = ", "question = 5  # ", "question must be one line of text, got 5"),
    ("task", PARITY, "% 2)", "% two)", "own.py, line 15: NameError: name 'two'"),
    ("task", PARITY, "Examples(bits", "Examples(bits[:, 1:]", "draw gives inputs (100, 4), for nu"),
    ("task", PARITY, "axis=1) % 2", "axis=1, keepdims=True) % 2", "draw gives targets (100, 1)"),
    ("task", PARITY, "Examples(bits,", "(bits,", "draw gives tuple, expected Examples"),
    (
        *("task", PARITY, "jax.random.bernoulli(key, shape=(width, number))"),
        *(RANDOM, "draw gives other examples for the same key"),
    ),
    ("task", PARITY, "(key, shape", "(jax.random.key(0), shape", "the same examples for every key"),
    (
        *("task", PARITY, "    def draw(", "    def loss(self, o, t):\n        return jnp.mean(o)\n"
        "\n    def draw("),
        "loss gives float32 (), for 100 examples expected floats (100,)",
    ),
    (
        *("task", PARITY, "    def draw(", "    def correct(self, o, t):\n        return t\n\n"
        "    def draw("),
        "correct gives int32 (100,), for 100 examples expected booleans",
    ),
    (
        *("task", PARITY, "axis=1) % 2)", "axis=1) % 2, None, -jnp.ones(number))"),
        "draw gives weights that are not finite and at least 0",
    ),
    ("task", PARITY, "    def draw(", "    def draw_set(self, *a):\n        oops\n\n    def draw(", "oops"),
    # optimizers, schedules, probes
    ("optimizer", OTHER, "return optax", "return 3  #", "expected an optax.GradientTransformation"),
    ("optimizer", OTHER, "adam(", "adamm(", "own.py, line 8: AttributeError"),
    (
        *("optimizer", OTHER, "optax.adam(learning_rate)", "optax.GradientTransformation(lambda p: "
        "(), lambda u, s, p=None: (jax.tree.map(jnp.sum, u), s))"),
        "gives updates of other shapes",
    ),
    (
        *("optimizer", OTHER, "optax.adam(learning_rate)", "optax.GradientTransformation(lambda p: "
        "0, lambda u, s, p=None: (u, s + 0.5))"),
        "gives state of other shapes or types",
    ),
    ("learning_rate", OTHER, "Own(*, learning_rate=1e-3)", "Own(step)", "own.py, line 8: NameError"),
    (
        *("learning_rate", OTHER, "(*, learning_rate=1e-3):\n    return", "(step):\n    return "
        "jnp.nan  #"),
        "at step 0 it gives",
    ),
    ("probes", OTHER, "(*, learning_rate=1e-3)", "(step):\n    return 3\ndef x()", "a dictionary of"),
    (
        *("probes", OTHER, "(*, learning_rate=1e-3)", "(step):\n    return {'a/b': 3.0}\ndef x()"),
        "got 'a/b': 3.0",
    ),
    (
        *("probes", OTHER, "(*, learning_rate=1e-3)", "(step):\n    return {'a': jnp.ones(3)}\n"
        "def x()"),
        "got 'a': ",
    ),
]  # fmt: skip


def config_with(setting, value, lengths=(3, 4)):
    probes = {"probes": (value,)} if setting == "probes" else {}
    settings = {} if probes else {setting: value}
    return SweepConfig(lengths, (0,), ExperimentConfig(**settings), **probes)


@pytest.mark.parametrize(("setting", "text", "old", "new", "says"), MISTAKES)
def test_a_mistake_in_ones_own_file_is_one_line(setting, text, old, new, says, tmp_path):
    assert old in text
    (tmp_path / "own.py").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as refusal:
        try_out(config_with(setting, f"{tmp_path}/own.py:Own"))
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("cell", LEAKY),
        ("cell", MODULE),
        ("task", PARITY),
        ("optimizer", OTHER),
        ("learning_rate", HEAD + "Own = optax.cosine_decay_schedule(1e-3, 100)"),
        ("probes", HEAD + "def Own(step):\n    return {'twice': 2 * step.loss}"),
    ],
)
def test_what_is_right_passes_from_a_file_and_as_an_object(setting, text, tmp_path):
    (tmp_path / "own.py").write_text(text)
    name = f"{tmp_path}/own.py:Own"
    try_out(config_with(setting, name))
    own = types.ModuleType("__main__")
    exec(text, vars(own))
    try_out(config_with(setting, own.Own))


def test_a_derivative_that_is_not_that_of_update_is_refused_and_an_inherited_one_is_not_used():
    class Own(SRN):
        def update(self, x, h, state):
            return jnp.sin(x[0] + h[0])

    class Wrong(Own):
        from srn_jax.cells import Derivative

        derivative = Derivative(
            Own.update,
            lambda x, h, s: (
                jnp.sin(x[0] + h[0]),
                jax.tree_util.Partial(lambda g: ((g,), (g,), jnp.zeros_like(g))),
            ),
        )

    try_out(config_with("cell", Own))
    with pytest.raises(UserError, match="derivative is not that of update"):
        try_out(config_with("cell", Wrong))


def test_a_file_that_needs_another_by_a_changed_path_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("import sys\nsys.path.insert(0, '.')\n" + LEAKY)
    with pytest.raises(UserError, match=r"own\.py: changes sys\.path to import other files"):
        try_out(config_with("cell", f"{tmp_path}/own.py:Own"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"forget_bias": 1.0}, "`forget_bias` changes nothing with `cell` srn"),
        ({"clip": "global"}, "`clip` changes nothing without `clip_norm`"),
        ({"task": "adding", "embedding_size": 7}, "`embedding_size` changes nothing with `task` a"),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.5}, "`learning_rate` changes nothing wi"),
    ],
)
def test_a_setting_that_changes_nothing_is_told_once(settings, says, capsys):
    warn_once.cache_clear()
    for _ in range(2):
        try_out(SweepConfig((3,), (0,), ExperimentConfig(**settings)))
    assert capsys.readouterr().err.startswith(f"warning: {says}")


def test_more_steps_than_can_be_counted_are_refused():
    settings = {"epochs": 1_000_000, "multiplicity": 10_000, "batch_size": 1}
    with pytest.raises(UserError, match="training steps are too many"):
        try_out(SweepConfig((3,), (0,), ExperimentConfig(**settings)))


# Names and objects.


def test_a_name_is_resolved_to_ours_or_to_what_a_file_holds_now(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("Own = 1")
    assert resolve("srn", BY_NAME) is SRN and resolve(SRN, {}) is SRN
    assert load_object(f"{own}:Own") == 1
    own.write_text("Own = 2")
    assert load_object(f"{own}:Own") == 2
    with pytest.raises(UserError, match="no 'sru', expected one of srn"):
        resolve("sru", BY_NAME)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"x = 1\0", "holds a null byte"),
        (b"raise SystemExit(3)", "line 1: SystemExit: 3"),
        (b"def f():\n    x = 1\n  y = 2", "line 3: unindent"),
        (b"x = 1\n\n1 / 0", "line 3: ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_the_line(content, says, tmp_path):
    if content is not None:
        (tmp_path / "own.py").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_object(f"{tmp_path}/own.py:Own")
    assert "own.py" in str(refusal.value) and says in str(refusal.value)


def test_a_class_has_our_name_or_that_of_its_file_or_stays_an_object(tmp_path, monkeypatch):
    (tmp_path / "my_cells.py").write_text(LEAKY)
    (tmp_path / "my_parts.py").write_text("from my_cells import Own as Base\nclass Sub(Base): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_cells
    import my_parts

    assert name_of(SRN, BY_NAME) == "srn"
    assert name_of(my_cells.Own, BY_NAME) == f"{tmp_path}/my_cells.py:Own"
    assert name_of(my_parts.Sub, BY_NAME) == f"{tmp_path}/my_parts.py:Sub"  # which imports it
    my_cells.Own.gates = 2  # it is not that of the file any more
    assert name_of(my_cells.Own, BY_NAME) is my_cells.Own
    local = type("Local", (SRN,), {})
    assert name_of(local, BY_NAME) is local
    optimizer = optax.adam(1e-3)
    assert name_of(optimizer, {}) is optimizer


def defined(text, **names):
    module = {"__name__": "__main__", "jnp": jnp, **names}
    exec(text, module)
    return module["Own"]


CLASS = "class Own:\n    leak = 0.9\n    def update(self, x):\n        return {}"


def test_the_digest_of_an_object_is_of_what_it_computes():
    plain = CLASS.format("jnp.tanh(x)")
    assert describe(defined(plain)) == describe(defined("\n\n" + plain))
    for other in (plain.replace("tanh", "sin"), plain.replace("0.9", "0.8")):
        assert describe(defined(other)) != describe(defined(plain))
    helper = CLASS.format("squash(x)")
    functions = [defined(f"def Own(x):\n    return {n} * x") for n in (1, 1, 2)]
    one, same, other = (source_digest(defined(helper, squash=f)) for f in functions)
    assert one == same != other
    assert describe("mine.py:Own") == "mine.py:Own"


def test_optimizers_and_schedules_differ_by_their_numbers():
    made = [
        lambda: optax.adamw(1e-3, weight_decay=1e-2),
        lambda: optax.adamw(1e-3, weight_decay=1e-3),
        lambda: optax.chain(optax.clip(1.0), optax.sgd(0.1)),
        lambda: optax.cosine_decay_schedule(1e-3, 10),
        lambda: optax.cosine_decay_schedule(1e-3, 11),
        lambda: optax.adamw(optax.linear_schedule(0.1, 0.2, 3)),
    ]
    names = [describe(make()) for make in made]
    assert names == [describe(make()) for make in made] and len(set(names)) == len(names)


def test_an_instance_says_its_numbers():
    class Task:
        def __init__(self, gap):
            self.gap = gap

    assert describe(Task(5)).startswith("Task(gap=5)@")
    assert describe(Task(5)) == describe(Task(5)) != describe(Task(6))


def test_an_exception_out_of_an_objects_code_is_one_line_and_another_is_not():
    text = "class Own:\n    def update(self):\n        return 1 / 0"
    own = defined(text)
    with pytest.raises(UserError, match="line 3: ZeroDivisionError"), own_mistakes(own):
        own().update()
    with pytest.raises(RuntimeError), own_mistakes(own):
        raise RuntimeError("of ours")
    assert path_of(own) is None and path_of("lstm") is None and path_of("a/b.py:C").name == "b.py"
