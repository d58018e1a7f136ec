"""An experiment in a sweep is the same one alone, however it is packed, gathered and tested."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srn_jax.config import DataFolder, ExperimentConfig, SweepConfig
from srn_jax.ensemble.packing import pack, pack_for
from srn_jax.ensemble.sweep import (
    Sweep,
    draw_tests,
    evaluate_experiments,
    files_by_experiment,
    map_experiments,
)
from srn_jax.tasks import DigitSum
from srn_jax.tasks.task import PADDING

SMALL = ExperimentConfig(steps=30, eval_interval=10, hidden_size=8, embedding_size=8)


def trained(configs, **more):
    sweep = Sweep(configs, **more)
    sweep.prepare()
    sweep.advance(0, 2)
    sweep.advance(2, len(sweep.eval_steps))
    return sweep


@pytest.fixture(scope="module")
def whole():
    return trained(SweepConfig(lengths=(4, 7), seeds=(0, 3), experiment=SMALL))


def test_an_experiment_of_a_sweep_is_the_same_one_alone(whole):
    alone = trained(SweepConfig(lengths=(7,), seeds=(3,), experiment=SMALL))
    assert whole.experiments == [(4, 0), (4, 3), (7, 0), (7, 3)]
    for ours, theirs in zip(
        *(jax.tree.leaves(s.gather(s.state.parameters)) for s in (whole, alone)), strict=True
    ):
        np.testing.assert_allclose(ours[3], theirs[0], atol=1e-5)


def test_side_by_side_is_one_after_another(whole):
    packed = trained(whole.configs, side_by_side=2)
    ones, others = whole.gather_histories(), packed.gather_histories()
    for name in ones:
        np.testing.assert_allclose(ones[name], others[name], atol=1e-4, err_msg=name)


def test_histories_and_state_come_back_as_they_were_gathered(whole):
    rows = whole.gather_histories()
    assert rows["train_loss"].shape == (4, 30) and rows["dev_loss"].shape == (4, 3)
    again = whole.gather(whole.scatter_histories(rows))
    for name, array in whole.gather(whole.histories).items():
        np.testing.assert_array_equal(array, again[name])
    state = whole.gather(whole.state)
    for one, other in zip(
        *map(jax.tree.leaves, (state, whole.gather(whole.scatter(state)))), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_settings_that_change_no_shape_train_together_as_they_do_apart(whole):
    other = SweepConfig((7,), (3,), ExperimentConfig(**{**vars(SMALL), "learning_rate": 0.01}))
    same = SweepConfig((7,), (3,), SMALL)
    both = trained([same, other]).gather_histories()["train_loss"]
    np.testing.assert_allclose(both[0], whole.gather_histories()["train_loss"][3], atol=1e-5)
    np.testing.assert_allclose(
        both[1], trained(other).gather_histories()["train_loss"][0], atol=1e-5
    )
    assert abs(both[0] - both[1]).max() > 1e-3


def test_tests_are_drawn_again_and_scores_are_shares_of_what_is_asked(whole):
    tests, overlap = draw_tests(whole.configs[0], whole.experiments)
    assert (
        tests.inputs.shape == (4, 100, 7) and (np.asarray(tests.inputs)[:2, :, :3] == PADDING).all()
    )
    assert overlap.shape == (4,) and (overlap >= 0).all()
    best, lengths = whole.gather(whole.state.best_parameters), [n for n, _ in whole.experiments]
    told = []
    scores = evaluate_experiments(whole.program, best, tests, lengths, done=told.append)
    assert told[-1] == 4
    assert (scores.accuracy.round(2) == scores.accuracy).all()
    np.testing.assert_array_equal(scores.accuracy, scores.sequences)
    fresh = SweepConfig((4,), (0,), ExperimentConfig(fresh_data=True))
    assert draw_tests(fresh, fresh.experiments)[1] is None


def sequences(rows, labels):
    return SimpleNamespace(digits=np.array(rows, np.int8), labels=np.array(labels, np.int32))


class Sets(SimpleNamespace):
    pass


def test_data_from_files_are_padded_on_the_left_and_train():
    drawn = DigitSum().draw_set(jax.random.key(0), 1, 4, 4)

    class Counted(SimpleNamespace):
        def __len__(self):
            return len(self.labels)

    own = Counted(digits=np.asarray(drawn.inputs), labels=np.asarray(drawn.targets))
    files = {4: Sets(train=own, dev=own, test=own)}
    padded = files_by_experiment(files, [4, 4], 6)
    assert padded.train.inputs.shape == (2, 100, 6)
    assert (padded.train.inputs[:, :, :2] == PADDING).all()
    config = SweepConfig((4,), (0,), SMALL, data=DataFolder("here", "0"))
    sweep = trained(config, files=files)
    assert sweep.program.steps_an_epoch == 13
    assert np.isfinite(sweep.gather_histories()["train_loss"]).all()
    assert draw_tests(config, config.experiments, files)[1].tolist() == [100]


def test_a_function_over_experiments_gives_each_the_same_however_many_there_are():
    numbers = np.arange(5, dtype=np.float32)
    squares = map_experiments(jnp.square, numbers)
    np.testing.assert_array_equal(squares, numbers**2)
    np.testing.assert_array_equal(map_experiments(jnp.square, numbers[2:3]), squares[2:3])


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("devices", [1, 3])
def test_every_experiment_has_a_place_and_a_width_that_holds_it(platform, devices):
    lengths = np.repeat([5, 10, 15, 20, 25, 30, 35], 3)
    packing = pack_for(platform, lengths, devices)
    assert (packing.experiment.ravel()[packing.place] == np.arange(21)).all()
    assert len(packing.experiment) % devices == 0
    widths = np.array([width for width, _ in packing.widths])
    for own, longest in zip(packing.experiment, packing.length, strict=True):
        if longest:
            assert lengths[own].max() <= longest <= widths[np.sum(longest > widths)]


def test_work_is_shared_evenly():
    packing = pack(np.array([35] * 4 + [5] * 4), 2, 1)
    work = packing.length.reshape(2, -1).sum(axis=1)
    assert work[0] == work[1]
