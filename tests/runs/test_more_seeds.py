"""More seeds to a finished run: the same bytes as all at once, and the old run stays as it was."""

from dataclasses import replace

import pytest
from running import SWEEP, Recorder, assert_same_run, contents_of

from srn_jax.config import DataFolder
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder
from srn_jax.runs import more_seeds
from srn_jax.runs.group import run_sweep
from srn_jax.runs.loop import AS_USUAL
from srn_jax.runs.restore import restore


@pytest.mark.slow
def test_more_seeds_give_the_run_of_all_seeds_also_after_a_kill(tmp_path, monkeypatch):
    old, new, whole = (tmp_path / name for name in ("old", "new", "whole"))
    run_sweep(replace(SWEEP, seeds=(0,)), old, Recorder())
    run_sweep(SWEEP, whole, Recorder())
    before = contents_of(old)
    (config,) = run_folder.with_seeds(old, 2)
    assert config == SWEEP

    def add(reporter):
        more_seeds.add_seeds(old, config, new, reporter, AS_USUAL)
        run_sweep(config, new, reporter)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(more_seeds, "joined", killed)
        add(first := Recorder())
    assert f"{old} stays as it is; it and 1 more seed are the run in {new}" in first.said
    assert any("2 experiments (2 lengths x 1 seed)" in line for line in first.said)
    with pytest.raises(UserError, match="no checkpoint in it"):
        restore(new)  # what is not whole is not there

    trained = []
    add(Recorder(at=trained.append))
    assert not trained  # nothing twice
    assert_same_run(new, whole)
    assert contents_of(old) == before
    assert not (new / "new-seeds").exists()


def test_where_its_data_are_gone_a_run_gets_no_more_seeds_and_no_folder_is_left(tmp_path):
    config = replace(SWEEP, data=DataFolder(str(tmp_path / "gone"), sha256="0"))
    with pytest.raises(UserError, match="gone: no such folder"):
        more_seeds.add_seeds(tmp_path / "old", config, tmp_path / "new", Recorder(), AS_USUAL)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_variants_get_more_seeds_in_a_folder_named_by_their_settings(run_here, tmp_path):
    study = ("--lengths", 3, "--learning-rate", 0.01, 0.02, "--steps", 4, "--seeds", 1)
    assert run_here("sweep.py", *study, "--out", tmp_path / "old").returncode == 0
    done = run_here("sweep.py", "--resume", tmp_path / "old", "--seeds", 2)
    assert done.returncode == 0, done.stderr
    (new,) = (path for path in tmp_path.iterdir() if path.name != "old")
    assert new.name.startswith("srn-learning0.01+0.02-steps4-length3-2seeds-")
    assert (new / "comparison.md").exists()
    assert len((new / "variants.csv").read_text().splitlines()) == 5


def test_more_seeds_are_trained_in_the_form_that_the_others_were(uninterrupted, monkeypatch):
    info, given = run_folder.read_run(uninterrupted), []
    monkeypatch.setattr(run_folder, "read_run", lambda _: info | {"kernel": False})

    def train(members, reporter, options):
        given.append(options.kernel)
        raise KeyboardInterrupt

    monkeypatch.setattr(more_seeds, "run_group", train)
    new = uninterrupted.parent / "more"
    with pytest.raises(KeyboardInterrupt):
        more_seeds.add_seeds(
            uninterrupted, replace(SWEEP, seeds=(0, 1, 2)), new, Recorder(), AS_USUAL
        )
    assert given == [False]
