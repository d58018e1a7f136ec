"""One experiment is the textbook's, step for step, and what a setting says is what is done."""

import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srn_jax.cells import GRU, LSTM, SRN, ResidualSRN
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.tasks import Examples, Task, Tokens
from srn_jax.training import experiment as training
from srn_jax.training.data import keys_of, orders_of
from srn_jax.training.histories import size_of
from srn_jax.training.network import network_with, new_network, parameters_of
from srn_jax.training.optimizer import clip, new_optimizer, rate_of
from srn_jax.training.program import hyperparameters_of
from srn_jax.training.program import program_of as build_program

SHORT = ExperimentConfig(epochs=3, hidden_size=8, embedding_size=8)  # 114 steps


def program_of(config=SHORT, **more):
    return build_program(SweepConfig(lengths=(5,), experiment=config, **more))


def train(config=SHORT, width=5, length=5, change=None, **more):
    """The state after training, and the histories as rows."""
    program, hyper = program_of(config, **more), hyperparameters_of(config)

    @jax.jit
    def run():
        state, histories, data = training.prepare(program, width, 0, length, hyper)
        if change is not None:
            state = change(state)
        blocks = 0, len(program.eval_steps)
        return training.advance(
            program, ((width, width > length),), 0, data, state, histories, *blocks
        )

    state, histories = run()
    return state, {n: np.asarray(a)[: size_of(program, n)[0]] for n, a in histories.items()}


def same_bits(one, other):
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def test_the_experiment_has_19000_steps_and_is_evaluated_at_exactly_190_of_them():
    program = program_of(ExperimentConfig())
    by_rule = [s for s in range(1, 19_000) if s % 100 == 0 or s == 18_999]
    assert program.steps == 19_000 and program.eval_steps.tolist() == by_rule
    assert program.loss_steps.tolist() == list(range(0, 19_000, 100))


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [(38, 100, [37]), (101, 100, [100]), (102, 100, [100, 101]), (7, 2, [2, 4, 6]), (1, 9, [0])],
)
def test_evaluation_steps_at_the_edges(steps, interval, expected):
    program = program_of(ExperimentConfig(steps=steps, eval_interval=interval))
    assert program.eval_steps.tolist() == expected
    assert program.starts.tolist() == [0, *(step + 1 for step in expected[:-1])]
    assert program.loss_steps.tolist() == list(range(steps))  # of a short run all


def test_keys_are_jaxs_own_of_the_seed_and_the_length():
    ours = jnp.stack(keys_of(np.uint32(2**32 - 1), 7))
    theirs = jax.random.fold_in(jax.random.key(2**32 - 1, impl="threefry2x32"), 7)
    assert (ours == jax.random.split(theirs)).all()


@pytest.mark.needs_torch
@pytest.mark.parametrize("cell", ["srn", "lstm", "gru", "residual-srn"])
def test_training_is_pytorchs_step_for_step(cell):
    torch = pytest.importorskip("torch")
    kind = {"srn": SRN, "lstm": LSTM, "gru": GRU, "residual-srn": ResidualSRN}[cell]
    config = replace(SHORT, cell=cell, epochs=2)
    program, hyper = program_of(config), hyperparameters_of(config)
    state, _, data = jax.jit(partial(training.prepare, program, 5, 0, 5, hyper))()
    given = jax.tree.map(
        lambda a: torch.tensor(np.asarray(a), requires_grad=True), state.parameters
    )
    own = given["cell"]

    def logits(digits):
        hidden = memory = torch.zeros(len(digits), 8)
        for t in range(digits.shape[1]):
            x = given["embedding"]["table"][digits[:, t]] @ own["W"] + own["b"]
            h = hidden @ own["U"] + (own["c"] if kind is GRU else 0)
            x, h = x.chunk(kind.gates, 1), h.chunk(kind.gates, 1)
            if kind in (SRN, ResidualSRN):
                hidden = torch.tanh(x[0] + h[0]) + (hidden if kind is ResidualSRN else 0)
            elif kind is LSTM:
                i, f, o = (torch.sigmoid(x[n] + h[n]) for n in range(3))
                memory = f * memory + i * torch.tanh(x[3] + h[3])
                hidden = o * torch.tanh(memory)
            else:
                r, z = (torch.sigmoid(x[n] + h[n]) for n in range(2))
                hidden = (1 - z) * torch.tanh(x[2] + r * h[2]) + z * hidden
        return hidden @ given["output"]["kernel"] + given["output"]["bias"]

    optimizer = torch.optim.Adam(jax.tree.leaves(given), lr=0.001)
    batches = jax.tree.map(lambda a: torch.tensor(np.asarray(a).astype(np.int64)), data.train[:2])
    losses = []
    for step in range(76):
        sizes = 4 if step % 38 == 37 else 8
        digits, labels = (one[step % 38][:sizes] for one in batches)
        loss = torch.nn.functional.cross_entropy(logits(digits), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    _, history = train(config)
    np.testing.assert_allclose(history["train_loss"], losses, atol=1e-5)
    np.testing.assert_allclose(
        history["epoch_loss"], np.mean(np.reshape(losses, (2, 38)), 1), atol=1e-5
    )


def test_epoch_means_and_kept_losses_are_those_of_all_losses():
    _, every = train(replace(SHORT, steps=250, eval_interval=30), every_loss=True)
    _, kept = train(replace(SHORT, steps=250, eval_interval=30))
    assert kept["train_loss"].tolist() == every["train_loss"][::2].tolist()
    losses = every["train_loss"]
    means = [losses[start : start + 38].mean() for start in range(0, 250, 38)]
    np.testing.assert_allclose(kept["epoch_loss"], means, rtol=1e-5)


def test_blocks_can_be_run_in_any_portions():
    config = replace(SHORT, eval_interval=20)
    program = program_of(config, probes=("gradient-norm",))
    hyper = hyperparameters_of(config)
    state, histories, data = training.prepare(program, 5, 0, 5, hyper)
    run = jax.jit(partial(training.advance, program, ((5, False),), 0, data))
    in_parts = run(*run(*run(state, histories, 0, 1), 1, 4), 4, 6)
    assert same_bits(run(state, histories, 0, 6), in_parts)


def test_padding_changes_no_step_of_training():
    (_, history), (_, other) = train(), train(width=9)
    np.testing.assert_allclose(history["train_loss"], other["train_loss"], atol=1e-5)
    np.testing.assert_allclose(history["dev_loss"], other["dev_loss"], atol=1e-5)


def test_the_best_parameters_are_kept_at_strict_improvements_only():
    config = replace(SHORT, eval_interval=1, steps=60)
    state, history = train(config)
    scores = history["dev_accuracy"]
    assert len(scores) > len(set(scores.tolist()))  # there are ties, so strictness matters
    assert float(state.best_score) == scores.max()
    assert int(state.best_step) == program_of(config).eval_steps[scores.argmax()]


def test_where_a_task_says_so_the_smallest_loss_is_best():
    state, history = train(replace(SHORT, task="adding", eval_interval=10, steps=60))
    assert float(state.best_score) == -history["dev_loss"].min()


def with_nan(module, name, index):
    def change(state):
        parameters = {k: dict(v) for k, v in state.parameters.items()}
        parameters[module][name] = parameters[module][name].at[index].set(jnp.nan)
        return state._replace(parameters=parameters)

    return change


class Low(Task):
    """Many tokens, of which no example has the last."""

    inputs, outputs = Tokens(300), 2

    def draw(self, key, number, length, width):
        tokens = jax.random.randint(key, (number, width), 0, 5)
        return Examples(tokens, tokens[:, -1] % 2)


def test_a_nan_that_no_batch_reads_is_noticed():
    state, history = train(replace(SHORT, task=Low()), change=with_nan("embedding", "table", 299))
    assert bool(state.diverged) and int(state.best_step) == -1
    assert np.isnan(history["dev_loss"]).all()
    assert np.isfinite(history["train_loss"]).any()  # of its block: they show where it went wrong


def test_a_diverged_experiment_is_frozen():
    state, history = train(replace(SHORT, learning_rate=1e30, eval_interval=20))
    assert bool(state.diverged)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.parameters))
    assert np.isnan(history["dev_loss"]).any()


@pytest.mark.parametrize("how", ["per-tensor", "global"])
def test_gradients_are_clipped_to_a_norm_even_where_its_square_overflows(how):
    config = replace(SHORT, clip_norm=2.0, clip=how)
    huge = {"a": jnp.array([3e19, -3e19]), "b": jnp.array([[3e38]])}
    clipped = clip(config, hyperparameters_of(config), huge)
    if how == "per-tensor":
        np.testing.assert_allclose(clipped["a"], [2**0.5, -(2**0.5)], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[2.0]], rtol=1e-6)
    small = {"a": jnp.array([0.6, 0.8]), "b": jnp.zeros((2, 2))}
    assert same_bits(clip(config, hyperparameters_of(config), small), small)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"optimizer": "sgd"}, optax.sgd(1e-3)),
        ({"optimizer": "rmsprop"}, optax.rmsprop(1e-3, decay=0.9, eps=1e-16)),
        (
            {"optimizer": "adamw", "weight_decay": 0.1},
            optax.adamw(1e-3, weight_decay=0.1),
        ),
        ({"optimizer": lambda learning_rate: optax.lion(learning_rate)}, optax.lion(1e-3)),
        ({"optimizer": optax.lamb(1e-2)}, optax.lamb(1e-2)),  # which looks at each tensor
    ],
    ids=["sgd", "rmsprop", "adamw", "function", "object"],
)
def test_optimizers_are_optax_own_of_every_tensor(ours, theirs):
    config = replace(SHORT, **ours)
    optimizer = new_optimizer(program_of(config), hyperparameters_of(config))
    parameters = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[0.5]])}
    states = [one.init(parameters) for one in (optimizer, theirs)]
    for step in range(3):
        gradient = jax.tree.map(lambda p, step=step: p + step, parameters)
        found, states[0] = optimizer.update(gradient, states[0], parameters)
        wanted, states[1] = theirs.update(gradient, states[1], parameters)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)


def test_schedules_begin_and_end_where_they_say():
    rates = {}
    for name in ("constant", "cosine", "warmup-cosine"):
        config = replace(SHORT, schedule=name, steps=100, learning_rate=0.5)
        rate = rate_of(program_of(config), hyperparameters_of(config))
        rates[name] = [float(rate(n) if callable(rate) else rate) for n in range(101)]
    assert set(rates["constant"]) == {0.5}
    assert rates["cosine"][0] == 0.5 and rates["cosine"][50] == pytest.approx(0.25)
    assert rates["warmup-cosine"][:10] == pytest.approx(np.arange(1, 11) / 20)
    assert rates["warmup-cosine"][55] == pytest.approx(0.25)
    assert rates["cosine"][100] == rates["warmup-cosine"][100] == pytest.approx(0, abs=1e-7)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(UserError, match=r"expected an optax\.GradientTransformation"):
        train(replace(SHORT, optimizer=lambda: 3))


def test_a_schedule_of_ones_own_is_followed():
    _, still = train(replace(SHORT, learning_rate=lambda step: 0.0 * step), every_loss=True)
    losses = still["train_loss"].reshape(3, 38)
    np.testing.assert_allclose(losses[0], losses[2], atol=1e-6)


def test_shuffled_epochs_have_every_example_once_in_orders_of_their_own():
    config = replace(SHORT, shuffle=True)
    program = program_of(config)
    _, _, data = training.prepare(program, 5, 0, 5, hyperparameters_of(config))
    orders = np.asarray(orders_of(program, data, jnp.int32(0))).reshape(-1, 304)
    assert all(sorted(row.tolist()) == list(range(304)) for row in orders)
    assert (orders[:, 300:] == np.arange(300, 304)).all()  # what fills the last batch
    assert not (orders[0] == orders[1]).all()
    again = np.asarray(orders_of(program, data, jnp.int32(1))).reshape(-1, 304)
    assert (orders[1] == again[0]).all()  # whatever the block in which it begins
    _, history = train(config)
    assert np.isfinite(history["train_loss"]).all()


@pytest.mark.parametrize("probe", ["gradient-norm", lambda step: {"twice": 2 * step.loss}])
def test_probes_record_every_step(probe):
    _, history = train(probes=(probe,), every_loss=True)
    if probe == "gradient-norm":
        assert (history["probe.gradient_norm.U"] > 0).all()
    else:
        np.testing.assert_array_equal(history["probe.twice"], 2 * history["train_loss"])


@pytest.mark.parametrize("bad", [lambda s: 3, lambda s: {"a b": 1.0}, lambda s: {"x": jnp.ones(2)}])
def test_what_is_no_record_is_refused(bad):
    with pytest.raises(UserError):
        train(probes=(bad,))


def test_the_streams_of_a_network_have_keys_of_their_own():
    drawn = []

    class Curious(SRN):
        def __init__(self, *arguments, rngs, **more):
            drawn.extend(jax.random.key_data(rngs.dropout()).tolist() for _ in range(4))
            super().__init__(*arguments, rngs=rngs, **more)
            drawn.extend(jax.random.key_data(rngs.params()).tolist() for _ in range(4))

    program = program_of(replace(SHORT, cell=Curious))
    new_network(program, keys_of(0, 5)[1])
    first = jax.random.fold_in(keys_of(0, 5)[1], 1)  # the second of the parameters' stream
    drawn.append(jax.random.key_data(first).tolist())
    assert len(set(map(tuple, drawn))) == len(drawn)


def test_parameters_go_into_a_network_and_come_out():
    program = program_of()
    parameters = parameters_of(new_network(program, jax.random.key(0)))
    assert set(parameters) == {"cell", "embedding", "output"}
    assert same_bits(parameters, parameters_of(network_with(program, parameters)))


def test_at_most_eight_calls_lead_from_a_step_to_the_update():
    package, depth = str(Path(training.__file__).parents[1]), []

    class Seen(SRN):
        def update(self, x, h, state):
            frames = [f for f in traceback.extract_stack() if f.filename.startswith(package)]
            names = [f.name for f in frames if f.name != "<listcomp>"]
            if "train_step" in names and "rests" not in names:
                depth.append(len(names) - names.index("train_step"))  # `update` itself is the last
            return jnp.tanh(x[0] + h[0])

    train(replace(SHORT, cell=Seen))
    assert depth and max(depth) <= 8
