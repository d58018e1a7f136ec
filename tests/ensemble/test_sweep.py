"""Many experiments at once are the same experiments."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble import sweep as ensemble
from srn_jax.ensemble.packing import pack, pack_for
from srn_jax.ensemble.sweep import Sweep, evaluate_experiments
from srn_jax.interop.textbook_files import read_data, textbook_splits, write_splits
from srn_jax.training import experiment as training
from srn_jax.training.model import hyperparameters_of

SHORT = ExperimentConfig(epochs=4, eval_interval=50)  # 152 steps, 4 evaluations
ADDING = ExperimentConfig(task="adding", hidden_size=6, fresh_data=True, steps=12, eval_interval=5)


def trained(lengths=(3, 8), seeds=(0, 1, 2), settings=SHORT, **options):
    """A sweep of one or several settings, trained, its state and its histories by name."""
    settings = [settings] if isinstance(settings, ExperimentConfig) else settings
    sweep = Sweep([SweepConfig(lengths, seeds, one) for one in settings], **options)
    half = len(sweep.eval_steps) // 2
    sweep.advance(0, half)
    sweep.advance(half, len(sweep.eval_steps))
    histories = sweep.gather_histories()
    return sweep, sweep.gather(sweep.state), histories.steps | histories.evaluations


def alone(config, length, seed):
    """One experiment by the functions of `training`; its state and its losses by step."""
    program = training.program_of(SweepConfig(experiment=config))

    @jax.jit
    def whole(seed, hyper):
        state, histories, data = training.prepare(program, length, seed, jnp.int32(length), hyper)
        blocks = len(program.eval_steps)
        return training.advance(program, ((length, False),), 0, data, state, histories, 0, blocks)

    state, histories = whole(np.uint32(seed), hyperparameters_of(config))
    taken = program.step_of >= 0
    steps = {name: np.asarray(rows)[taken] for name, rows in histories.steps.items()}
    return state, steps | histories.evaluations


def assert_same_bits(ones, others):
    for one, other in zip(jax.tree.leaves(ones), jax.tree.leaves(others), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def rows_of(tree, rows):
    return jax.tree.map(lambda array: array[rows], tree)


@pytest.fixture(scope="module")
def six():
    return trained()


def test_an_experiment_in_a_sweep_equals_the_one_alone(six):
    sweep, _, histories = six
    assert sweep.experiments == list(SweepConfig((3, 8), (0, 1, 2)).experiments)
    _, own = alone(SHORT, 8, 2)
    assert histories["train_loss"][5] == pytest.approx(own["train_loss"], abs=1e-5)
    assert histories["dev_accuracy"][5] == pytest.approx(np.asarray(own["dev_accuracy"]), abs=0.011)


@pytest.mark.slow
def test_a_seeds_results_do_not_depend_on_the_sweep_to_the_bit(six):
    _, state, histories = six
    _, alone, own_histories = trained(lengths=(8,), seeds=(2,))
    assert_same_bits(rows_of(alone, 0), rows_of(state, 5))
    assert_same_bits(rows_of(own_histories, 0), rows_of(histories, 5))


@pytest.mark.slow
def test_packing_side_by_side_changes_nothing_beyond_rounding(six):
    *_, histories = six
    *_, packed = trained(side_by_side=2)
    for name in ("train_loss", "dev_loss"):
        assert packed[name] == pytest.approx(histories[name], abs=1e-4)


def test_seeds_and_lengths_have_data_and_weights_of_their_own(six):
    start = Sweep(six[0].configs)
    state, data = start.gather((start.state, start.data))
    weights = {leaf.tobytes() for leaf in state.parameters["cell"]["U"]}
    sets = {inputs.tobytes() for inputs in data.train.inputs}
    assert len(weights) == len(sets) == 6


@pytest.mark.slow
def test_learning_rates_train_side_by_side_as_they_do_alone(caplog):
    """One program for all of them; and each is what it is alone."""
    rates = [
        dataclasses.replace(SHORT, epochs=2, learning_rate=rate, clip_norm=norm)
        for rate, norm in ((1e-3, 0.5), (1e-2, 0.1))
    ]
    jax.config.update("jax_log_compiles", True)  # in all threads
    try:
        sweep, state, histories = trained((4,), (0, 1), rates)
    finally:
        jax.config.update("jax_log_compiles", False)
    messages = [record.getMessage() for record in caplog.records]
    compiled = [m for m in messages if m.startswith("Compiling") and "on_device" in m]
    assert len(compiled) == 2  # `prepare` and `advance`, once each for both rates
    assert sweep.experiments == [(4, 0), (4, 1)] * 2
    first_losses = histories["train_loss"][:, 0]
    assert (first_losses[:2] == first_losses[2:]).all()  # paired: the same weights and data
    assert not np.array_equal(histories["train_loss"][0], histories["train_loss"][2])
    _, own_state, own = trained((4,), (0, 1), rates[1])
    assert_same_bits(rows_of((state, histories), slice(2, 4)), (own_state, own))


# Fresh data


@pytest.fixture(scope="module")
def fresh():
    """Two lengths side by side in one shard, padded to the longer, as on an accelerator."""

    def mixed(platform, lengths, devices, batch):
        return pack(lengths, devices, 4, mixed=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "pack_for", mixed)
        return trained((6, 9), (0, 1), ADDING)


@pytest.mark.slow
def test_fresh_data_is_drawn_by_step_and_kept_nowhere(fresh):
    sweep, _, histories = fresh
    assert sweep.data.train is None
    data = jax.tree.map(jnp.asarray, sweep.gather(sweep.data))
    assert data.dev.inputs.shape == (4, 1000, 9, 2) and (data.overlap == 0).all()

    @jax.jit
    def batch(row, step):
        return training.batch_of(sweep.program, rows_of(data, row), step, 9).inputs

    assert batch(0, 3).shape == (8, 9, 2)
    assert (batch(0, 3) == batch(0, 3)).all()
    different = {np.asarray(batch(row, s)).tobytes() for row in range(4) for s in (0, 1, 125, 126)}
    assert len(different) == 16
    assert len(set(histories["train_loss"].ravel().tolist())) == 48


@pytest.mark.slow
def test_fresh_data_does_not_depend_on_what_trains_beside_it(fresh):
    sweep, _, histories = fresh
    _, own = alone(ADDING, 6, 1)
    row = sweep.experiments.index((6, 1))
    for name in ("train_loss", "dev_loss"):
        assert np.asarray(own[name]) == pytest.approx(histories[name][row], abs=1e-5)


def test_fresh_digit_sums_have_the_same_development_and_test_set_as_drawn_ones():
    def sets(config):
        program, hyper = (
            training.program_of(SweepConfig(experiment=config)),
            hyperparameters_of(config),
        )
        data = training.prepare(program, 5, jnp.uint32(1), jnp.int32(5), hyper)[2]
        return data.dev, data.test

    fresh = dataclasses.replace(SHORT, fresh_data=True)
    assert_same_bits(*(jax.jit(sets, static_argnums=0)(config) for config in (SHORT, fresh)))


@pytest.mark.slow
def test_a_task_with_several_answers_is_scored_by_answer():
    recall = ExperimentConfig(task="recall", steps=4, eval_interval=2, hidden_size=4)
    sweep, state, _ = trained((6,), (0, 1), recall)
    test = sweep.gather(sweep.data.test)
    _, accuracy = sweep.evaluate()
    network = partial(training.network_with, sweep.program.task, sweep.program.config)
    for row in range(2):
        answers = network(rows_of(state.best_parameters, row))(test.inputs[row])
        assert answers.shape == (500, 3, 8)
        right = np.asarray(answers).argmax(axis=-1) == test.targets[row]
        assert accuracy[row] == pytest.approx(right.mean(), abs=1e-9)


# Data from files


@pytest.mark.slow
def test_data_from_files_is_the_same_for_every_seed(tmp_path):
    splits = dict(textbook_splits((3, 5), (1, 1, 1)))
    for length, own in splits.items():
        write_splits(tmp_path, length, own)
    folder, files = read_data(str(tmp_path), (5, 3))
    sweep = Sweep(SweepConfig((5, 3), (0, 1), SHORT, data=folder), files)
    data = sweep.gather(sweep.data)
    assert data.train.inputs.shape == (4, 13, 8, 5)
    assert sweep.steps == 4 * 13
    flat = data.train.inputs.reshape(4, -1, 5)
    assert (flat[:2, :100] == splits[5].train.digits).all()
    assert (flat[2:, :100, 2:] == splits[3].train.digits).all()
    assert data.overlap.tolist() == [splits[5].overlap] * 2 + [splits[3].overlap] * 2


@pytest.mark.slow
def test_data_of_ones_own_has_its_own_vocabulary_classes_and_sizes(tmp_path):
    """Parity of tokens up to 12, with training, dev and test sets of different sizes."""
    random = np.random.default_rng(0)
    (tmp_path / "4").mkdir()
    for name, number in (("train", 60), ("dev", 9), ("test", 7)):
        rows = random.integers(0, 13, (number, 4))
        rows[0] = 12
        lines = [f"{' '.join(map(str, row))}\t{row.sum() % 2}\n" for row in rows]
        (tmp_path / "4" / f"{name}.txt").write_text("".join(lines))
    folder, files = read_data(str(tmp_path), (4,))
    sweep = Sweep(SweepConfig((4,), (0, 1), SHORT, data=folder), files)
    assert (sweep.program.task.inputs.vocabulary, sweep.program.task.outputs) == (13, 2)
    sweep.advance(0, len(sweep.eval_steps))
    state = sweep.gather(sweep.state)
    assert state.parameters["embedding"]["table"].shape == (2, 13, 32)
    assert state.parameters["output"]["bias"].shape == (2, 2)
    loss, accuracy = sweep.evaluate()
    assert np.isfinite(loss).all()
    assert set(np.round(accuracy * 7, 9)) <= set(range(8))
    accuracies = sweep.gather_histories().evaluations["dev_accuracy"]
    assert np.allclose(accuracies * 9, np.round(accuracies * 9), atol=1e-5)


# In and out


def test_gather_and_scatter_are_inverse(six):
    sweep, state, _ = six
    assert_same_bits(state, sweep.gather(sweep.scatter(state)))
    histories = sweep.gather_histories()
    kept, sweep.histories = sweep.histories, sweep.scatter_histories(histories)
    assert_same_bits(histories, sweep.gather_histories())
    sweep.histories = kept


def test_a_diverging_experiment_does_not_touch_the_others(six):
    sweep, state, histories = six
    broken_sweep = Sweep(sweep.configs)
    start = broken_sweep.gather(broken_sweep.state)
    start.parameters["cell"]["U"][4] = np.nan
    broken_sweep.state = broken_sweep.scatter(start)
    broken_sweep.advance(0, 4)
    broken = broken_sweep.gather(broken_sweep.state)
    assert broken.diverged.tolist() == [row == 4 for row in range(6)]
    others = np.arange(6) != 4
    assert_same_bits(rows_of(broken, others), rows_of(state, others))
    again = broken_sweep.gather_histories()
    assert_same_bits(rows_of(again.steps | again.evaluations, others), rows_of(histories, others))


def test_evaluating_restored_parameters_does_not_depend_on_how_many_there_are(six):
    sweep, state, _ = six
    test = sweep.gather(sweep.data.test)
    lengths = np.array([length for length, _ in sweep.experiments])
    _, together = evaluate_experiments(sweep.program, state.best_parameters, test, lengths)
    assert (together == sweep.evaluate()[1]).all()
    for row in (0, 4):
        one = rows_of((state.best_parameters, test, lengths), slice(row, row + 1))
        assert evaluate_experiments(sweep.program, *one)[1][0] == together[row]


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("mixed", [False, True])
def test_packing_gives_every_experiment_exactly_one_place_that_fits(devices, batch, mixed):
    lengths = np.repeat([35, 5, 12, 7, 20], 6)
    packing = pack(lengths, devices, batch, mixed)
    batch = min(batch, 30 if mixed else 6)  # there are no more
    shards = len(packing.length)
    assert shards % devices == 0
    assert packing.experiment.shape == (shards, batch)
    assert packing.experiment.ravel()[packing.place].tolist() == list(range(30))
    assert set(packing.place // batch) == set(np.flatnonzero(packing.length))
    own = lengths[packing.experiment][packing.length > 0]
    assert (own.max(axis=1) == packing.length[packing.length > 0]).all()
    assert mixed or (own.min(axis=1) == own.max(axis=1)).all()
    widths = (7, True), (12, False), (20, False), (35, False)
    assert packing.widths == (((35, True),) if mixed else widths)


def test_an_accelerator_runs_its_whole_share_side_by_side():
    packing = pack_for("tpu", np.repeat([5, 35], 8), devices=4)
    assert packing.experiment.shape == (4, 4)
    assert packing.widths == ((35, True),) and packing.length.tolist() == [35, 35, 5, 5]
    assert pack_for("gpu", np.repeat([5, 35], 8), devices=4, batch=2).experiment.shape == (8, 2)


def test_a_tpu_takes_turns_of_equal_size_where_its_fast_memory_would_not_hold_all():
    packing = pack_for("tpu", np.repeat([5, 35], 500), devices=4)
    assert packing.experiment.shape == (8, 125)  # 250 a device, of which 224 fit


def test_the_textbooks_seven_lengths_keep_two_devices_equally_busy():
    packing = pack(np.arange(5, 40, 5), 2, 1)
    assert packing.length.reshape(2, -1).sum(axis=1).tolist() == [70, 70]
