"""Runs that the tests of runs begin with, and a process from which scripts are forked."""

import gc
import multiprocessing
import shutil
from pathlib import Path

import pytest
from running import SWEEP, Recorder, checkpoints_of, stop_at

from srn_jax.runs import group, loop
from srn_jax.runs.signals import Interrupted


@pytest.fixture(scope="package", autouse=True)
def one_block_an_interval():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "INTERVAL_SECONDS", 0)
        yield


@pytest.fixture(scope="package", autouse=True)
def what_is_there_already_is_no_garbage():
    """A failed read collects garbage, and should not look through what earlier tests have left."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="package")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    group.run_sweep(SWEEP, folder, Recorder())
    return folder


@pytest.fixture(scope="package")
def stopped_once(tmp_path_factory):
    """A run that was stopped after 9 of its 16 blocks and has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    for block in (5, 9):
        with pytest.raises(Interrupted):
            group.run_sweep(SWEEP, folder, stop_at(block))
    assert checkpoints_of(folder) == [5, 9]
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


@pytest.fixture(scope="session", autouse=True)
def forkserver():
    modules = ["orbax.checkpoint", "srn_jax.cli.study", "srn_jax.analysis.figures"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
