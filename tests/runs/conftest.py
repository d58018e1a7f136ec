"""Runs that the tests of runs begin with, and a process from which others are forked."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
from running import SWEEP, Recorder, stop_at

from srn_jax.runs import train
from srn_jax.runs.checkpoint import blocks_in
from srn_jax.runs.train import Interrupted


@pytest.fixture(scope="package", autouse=True)
def one_block_an_interval():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "INTERVAL_SECONDS", 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def forkserver():
    modules = ["orbax.checkpoint", "srn_jax.runs.train"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)


@pytest.fixture(scope="package")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train.train_run([SWEEP], folder, Recorder())
    return folder


@pytest.fixture(scope="package")
def stopped_once(tmp_path_factory):
    """A run that was stopped after 9 of its 16 blocks and has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    for block in (5, 9):
        with pytest.raises(Interrupted):
            train.train_run([SWEEP], folder, stop_at(block))
    assert blocks_in(folder / "parts" / "0") == [9, 5]
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


@pytest.fixture
def finished(uninterrupted, tmp_path):
    return Path(shutil.copytree(uninterrupted, tmp_path / "run"))
