"""Many experiments at once are the same experiments."""

import jax
import numpy as np
import pytest

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.packing import pack, pack_for
from srn_jax.ensemble.sweep import Sweep, evaluate_experiments, prepare_experiment
from srn_jax.interop.textbook_files import textbook_splits, write_splits
from srn_jax.training import experiment as training

SHORT = ExperimentConfig(epochs=4, eval_interval=50)  # 152 steps, 4 evaluations


def trained(lengths=(3, 5, 8), seeds=(0, 1, 2), **options):
    sweep = Sweep(SweepConfig(lengths, seeds, SHORT), **options)
    sweep.advance(0, 2)
    sweep.advance(2, len(sweep.eval_steps))
    return sweep, sweep.gather(sweep.state)


@pytest.fixture(scope="module")
def nine():
    return trained()


def test_an_experiment_in_a_sweep_equals_the_one_alone(nine):
    _, state = nine
    for row, (length, seed) in enumerate(SweepConfig((3, 5, 8), (0, 1, 2), SHORT).experiments):
        alone, data = jax.jit(prepare_experiment, static_argnums=(0, 1))(
            SHORT, length, np.uint32(seed), length
        )
        alone = jax.jit(training.advance, static_argnums=0)(
            SHORT, alone, data.train, data.dev, 0, 4
        )
        assert state.train_loss[row] == pytest.approx(np.asarray(alone.train_loss), abs=1e-5)
        assert state.dev_accuracy[row] == pytest.approx(np.asarray(alone.dev_accuracy), abs=0.011)


def test_a_seeds_results_do_not_depend_on_the_sweep_to_the_bit(nine):
    _, state = nine
    _, fewer = trained(lengths=(8, 5), seeds=(2,))
    for row, in_nine in ((0, 8), (1, 5)):
        for one, other in zip(jax.tree.leaves(fewer), jax.tree.leaves(state), strict=True):
            assert np.array_equal(one[row], other[in_nine], equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [2, 9])
def test_packing_side_by_side_changes_nothing_beyond_rounding(nine, chunk):
    _, state = nine
    _, packed = trained(chunk=chunk)
    assert packed.train_loss == pytest.approx(state.train_loss, abs=1e-4)
    assert packed.dev_loss == pytest.approx(state.dev_loss, abs=1e-4)


def test_seeds_and_lengths_have_data_and_weights_of_their_own(nine):
    sweep, _ = nine
    start = Sweep(sweep.config)
    state, data = start.gather((start.state, start.data))
    weights = {leaf.tobytes() for leaf in state.parameters["srn"]["U"]}
    sets = {digits.tobytes() for digits in data.train.digits}
    assert len(weights) == len(sets) == 9


def test_data_from_files_is_the_same_for_every_seed(tmp_path):
    splits = dict(textbook_splits((3, 5), (1, 1, 1)))
    for length, own in splits.items():
        write_splits(tmp_path, length, own)
    sweep = Sweep(SweepConfig((5, 3), (0, 1), SHORT, data=str(tmp_path)))
    data = sweep.gather(sweep.data)
    assert data.train.digits.shape == (4, 13, 8, 5)
    flat = data.train.digits.reshape(4, -1, 5)
    assert (flat[:2, :100] == splits[5].train.digits).all()
    assert (flat[2:, :100, 2:] == splits[3].train.digits).all()
    assert data.overlap.tolist() == [splits[5].overlap] * 2 + [splits[3].overlap] * 2


def test_gather_and_scatter_are_inverse(nine):
    sweep, state = nine
    again = sweep.gather(sweep.scatter(state))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def test_a_diverging_experiment_does_not_touch_the_others(nine):
    _, state = nine
    sweep = Sweep(SweepConfig((3, 5, 8), (0, 1, 2), SHORT))
    start = sweep.gather(sweep.state)
    start.parameters["srn"]["U"][4] = np.nan
    sweep.state = sweep.scatter(start)
    sweep.advance(0, 4)
    broken = sweep.gather(sweep.state)
    assert broken.diverged.tolist() == [row == 4 for row in range(9)]
    others = np.arange(9) != 4
    for one, other in zip(jax.tree.leaves(broken), jax.tree.leaves(state), strict=True):
        assert np.array_equal(one[others], other[others], equal_nan=True)


def test_evaluating_restored_parameters_does_not_depend_on_how_many_there_are(nine):
    sweep, state = nine
    test = sweep.gather(sweep.data.test)
    _, together = evaluate_experiments(SHORT, state.best_parameters, test)
    for row in (0, 4):
        one = jax.tree.map(lambda a, row=row: a[row : row + 1], (state.best_parameters, test))
        assert evaluate_experiments(SHORT, *one)[1][0] == together[row]


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("programs", [1, 3, 8])
def test_packing_gives_every_experiment_exactly_one_place_that_fits(devices, chunk, programs):
    lengths = np.repeat([35, 5, 12, 7, 20], 6)
    packing = pack(lengths, devices, chunk, programs)
    slots = len(packing.program)
    assert slots % devices == 0
    assert packing.experiment.shape == (slots, chunk)
    assert packing.experiment.ravel()[packing.place].tolist() == list(range(30))
    busy = packing.program < len(packing.widths)
    assert set(packing.place // chunk) == set(np.flatnonzero(busy))
    widths = np.array([*packing.widths, 0])[packing.program]
    assert (widths[packing.place // chunk] >= lengths).all()
    assert len(packing.widths) == min(programs, 5) and max(packing.widths) == 35


def test_an_accelerator_runs_its_whole_share_side_by_side():
    packing = pack_for("tpu", np.repeat([5, 35], 8), devices=4)
    assert packing.experiment.shape == (4, 4)
    assert packing.widths == (35,) and packing.program.tolist() == [0] * 4


def test_the_textbooks_seven_lengths_keep_two_devices_equally_busy():
    packing = pack(np.arange(5, 40, 5), 2, 1)
    work = np.array([*packing.widths, 0])[packing.program].reshape(2, -1).sum(axis=1)
    assert sorted(work) == [70, 70]
