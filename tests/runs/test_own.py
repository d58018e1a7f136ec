"""What a run needs from outside: its user's own code, objects and data files."""

from dataclasses import replace

import numpy as np
import optax
import pytest
from running import SWEEP, Recorder, assert_same_run, contents_of, stop_at, with_settings

from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import read_data, textbook_splits, write_splits
from srn_jax.runs.folder import read_configs
from srn_jax.runs.networks import open_run
from srn_jax.runs.train import Interrupted, train_run

CELL = """
from srn_jax import Cell
import jax.numpy as jnp

class Mine(Cell):
    def update(self, x, h, state):
        return jnp.tanh(x[0] + h[0])
"""


@pytest.mark.slow
def test_a_run_keeps_a_file_of_the_users_own_and_goes_on_with_what_it_began(tmp_path):
    own, folder = tmp_path / "mine.py", tmp_path / "run"
    own.write_text(CELL)
    config = SweepConfig((3,), (0,), with_settings(cell=f"{own}:Mine", epochs=2).experiment)
    with pytest.raises(Interrupted):
        train_run([config], folder, stop_at(2))
    own.write_text(CELL.replace("tanh", "sin"))
    before = contents_of(folder)
    with pytest.raises(UserError, match=r"mine\.py: [0-9a-f]{12}, now [0-9a-f]{12}"):
        train_run([config], folder, Recorder())
    with pytest.raises(UserError, match="read it first"):
        _ = open_run(folder).record  # of a run that is not finished
    assert contents_of(folder) == before
    train_run(read_configs(folder, trust_code=True), folder, Recorder())
    run = open_run(folder)
    assert len(run.record.results) == 1  # for which nothing is run
    with pytest.raises(UserError, match="read it first"):
        run.networks()
    assert len(open_run(folder, trust_code=True).networks()) == 1
    own.write_text(CELL)
    assert len(open_run(folder).networks()) == 1


@pytest.mark.slow
def test_a_run_of_objects_from_a_notebook_is_opened_with_them_and_without(tmp_path):
    optimizer = optax.adamw(1e-2, weight_decay=1e-2)

    def schedule(step):
        return 0.01 / (1 + step)

    made = [with_settings(optimizer=optimizer), with_settings(learning_rate=schedule)]
    configs = [replace(one, lengths=(3,), seeds=(0,)) for one in made]
    folder = tmp_path / "run"
    run = train_run(configs, folder, Recorder())
    assert open_run(folder).record.results.equals(run.record.results)
    with pytest.raises(UserError, match=r"`optimizer` is .* give that object again"):
        open_run(folder).networks(0)
    objects = {"optimizer": optimizer, "learning_rate": schedule}
    found = open_run(folder, objects=objects).networks(1).scores()
    assert found.accuracy.tolist() == run.record.variants[1].results.test_accuracy.tolist()
    grown = [replace(one, seeds=(0, 1)) for one in read_configs(folder, objects=objects)]
    assert len(train_run(grown, folder, Recorder()).record.results) == 4


@pytest.fixture
def data(tmp_path):
    for length, splits in textbook_splits((3, 5), (1, 1, 1)):
        write_splits(tmp_path / "data", length, splits)
    return tmp_path / "data"


def of_files(data, *lengths):
    return SweepConfig(lengths, (0,), SWEEP.experiment, read_data(str(data), lengths)[0])


def test_a_run_of_files_grows_by_lengths_and_needs_the_files_that_it_began_with(tmp_path, data):
    train_run([of_files(data, 3)], tmp_path / "run", Recorder())
    run = train_run([of_files(data, 5, 3)], tmp_path / "run", Recorder())
    train_run([of_files(data, 3, 5)], tmp_path / "whole", Recorder())
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert run.record.variants[0].facts.fixed_data and run.info["data"]["path"] == str(data)
    networks, others = run.networks(), tmp_path / "others"
    for length, splits in textbook_splits((3, 5), (1, 1, 1)):
        write_splits(others, length, splits)
    np.testing.assert_array_equal(networks.scores(others).loss, networks.scores().loss)
    (others / "3" / "test.txt").write_text("99 9 9\t18\n")
    with pytest.raises(UserError, match="more than the networks know"):
        networks.scores(others)
    config = of_files(data, 3)
    path = data / "3" / "train.txt"
    path.write_text(path.read_text().replace("9 9 ", "9 8 ").replace("\t18", "\t17"))
    with pytest.raises(UserError, match=r"data has changed since|cannot have been learned"):
        train_run([config], tmp_path / "new", Recorder())
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="put the run's own files back"):
        open_run(tmp_path / "run").networks()
    assert len(open_run(tmp_path / "run").record.results) == 2
