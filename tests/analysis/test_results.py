"""Claims about histories: what is written is read again, and so are files of old versions."""

from pathlib import Path

import numpy as np
import pytest

from srn_jax.analysis.results import Histories, read_histories, window_means, write_histories
from srn_jax.errors import UserError


def some_histories():
    """Histories of two experiments with a probe on each axis, in epochs of 4 of 10 steps."""
    rng = np.random.default_rng(0)
    steps = ("train_loss", "gradient_norm.W", "gradient_norm.U")
    evaluations = ("dev_loss", "dev_accuracy", "mine")
    return Histories(
        length=np.array([5, 10]),
        seed=np.array([0, 0]),
        eval_steps=np.array([5, 9]),
        steps={name: rng.random((2, 10), np.float32) for name in steps},
        evaluations={name: rng.random((2, 2), np.float32) for name in evaluations},
        steps_an_epoch=4,
    )


def test_every_history_is_read_again_under_its_own_name(tmp_path):
    histories = some_histories()
    write_histories(histories, tmp_path)
    found = read_histories(tmp_path)
    assert [*found.steps] == [*histories.steps] and [*found.evaluations] == [*histories.evaluations]
    for name in ("steps", "evaluations"):
        for key, array in getattr(found, name).items():
            np.testing.assert_array_equal(array, getattr(histories, name)[key])
    assert found.steps_an_epoch == 4
    assert found.probes == {"gradient_norm": ["gradient_norm.W", "gradient_norm.U"]}


def test_a_file_has_the_plain_names_and_says_which_axis_others_have(tmp_path):
    with np.load(write_histories(some_histories(), tmp_path)) as arrays:
        plain = {"length", "seed", "eval_steps", "steps_an_epoch", "epoch_loss"}
        plain |= {"train_loss", "dev_loss", "dev_accuracy"}
        others = {"step.gradient_norm.W", "step.gradient_norm.U", "evaluation.mine"}
        assert set(arrays.files) == plain | others
        assert arrays["epoch_loss"].shape == (2, 3)


def test_histories_of_an_old_version_are_read():
    folder = Path(__file__).parents[1] / "data/old_version/run_of_own_data"
    found = read_histories(folder)
    with np.load(folder / "histories.npz") as arrays:
        for name in ("train_loss", "epoch_loss", "dev_loss", "dev_accuracy"):
            np.testing.assert_allclose(getattr(found, name), arrays[name], rtol=1e-6)
    assert found.probes == {}


def test_the_last_window_of_steps_may_be_shorter():
    means = window_means(np.arange(10.0)[None], 4)
    np.testing.assert_allclose(means, [[1.5, 5.5, 8.5]])


@pytest.mark.parametrize("damage", ["dev_loss", "step.gradient_norm.W", "length"])
def test_a_history_of_another_shape_or_none_is_one_line(tmp_path, damage):
    path = write_histories(some_histories(), tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, damage: np.zeros(7)})
    with pytest.raises(UserError, match="not a file of histories"):
        read_histories(tmp_path)
    del arrays[damage]
    if not damage.startswith("step"):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match="not a file of histories"):
            read_histories(tmp_path)
