"""Runs that train together: each is what it would be alone, whatever happens to the others."""

import shutil
from contextlib import nullcontext

import pytest
from running import (
    BLOCKS,
    SWEEP,
    Recorder,
    assert_same_run,
    checkpoints_of,
    contents_of,
    stop_at,
    with_settings,
)

from srn_jax.cli import study
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder
from srn_jax.runs.group import Member, groups_of, run_group, run_sweep
from srn_jax.runs.loop import RunOptions
from srn_jax.runs.origin import as_begun
from srn_jax.runs.signals import Interrupted

OTHER = with_settings(learning_rate=0.01)


def members(folder):
    return [Member(folder / "one", SWEEP), Member(folder / "other", OTHER)]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    run_sweep(OTHER, folder, Recorder())
    return folder


@pytest.fixture(scope="module")
def both_stopped_once(tmp_path_factory):
    """A group that was stopped after 9 of its 16 blocks and has two checkpoints."""
    folder = tmp_path_factory.mktemp("both")
    for block in (5, 9):
        with pytest.raises(Interrupted):
            run_group(members(folder), stop_at(block))
    return folder


@pytest.fixture
def both(both_stopped_once, tmp_path):
    return shutil.copytree(both_stopped_once, tmp_path / "both")


def test_what_differs_in_no_shape_trains_together():
    shapes = with_settings(hidden_size=4)
    group = [Member("a", SWEEP), Member("b", shapes), Member("c", OTHER)]
    assert groups_of(group) == [[group[0], group[2]], [group[1]]]


@pytest.mark.slow
def test_runs_that_train_together_are_those_that_train_alone(both, uninterrupted, other):
    reporter = Recorder()
    run_group(members(both), reporter)
    assert reporter.said[1:] == ["resumed after 181 of 304 steps"]
    assert_same_run(both / "one", uninterrupted)
    assert_same_run(both / "other", other)


@pytest.mark.slow
def test_where_one_lost_its_newest_checkpoint_all_go_on_from_the_one_before(
    both, uninterrupted, other
):
    (both / "other" / "checkpoints" / "9" / "models" / "manifest.ocdbt").write_bytes(b"")
    reporter = Recorder()
    run_group(members(both), reporter)
    assert reporter.said[1:] == ["resumed after 101 of 304 steps"]
    assert len(reporter.warned) == 1
    assert_same_run(both / "one", uninterrupted)
    assert_same_run(both / "other", other)


@pytest.mark.slow
def test_where_no_block_is_common_they_train_one_after_another(both, uninterrupted, other):
    shutil.rmtree(both / "one" / "checkpoints" / "9")
    shutil.rmtree(both / "other" / "checkpoints" / "5")
    reporter = Recorder()
    run_group(members(both), reporter)
    assert reporter.said[1:] == [
        "resumed after 101 of 304 steps",
        "resumed after 181 of 304 steps",
    ]
    assert_same_run(both / "one", uninterrupted)
    assert_same_run(both / "other", other)


@pytest.mark.slow
def test_a_finished_run_does_not_hold_up_the_others(both, uninterrupted, other):
    shutil.rmtree(both / "one")
    shutil.copytree(uninterrupted, both / "one")
    reporter = Recorder()
    first, second = run_group(members(both), reporter)
    assert reporter.said[1:] == [
        f"{both / 'one'} is finished, nothing is left to train",
        "resumed after 181 of 304 steps",
    ]
    assert len(first.results) == len(second.results) == 4
    assert_same_run(both / "other", other)


@pytest.mark.slow
def test_a_refusal_of_one_run_touches_none(both, tmp_path):
    before = contents_of(both)
    wrong = [Member(tmp_path / "new", with_settings(learning_rate=0.5)), *members(both)]
    wrong[2] = Member(both / "other", with_settings(learning_rate=0.7))
    with pytest.raises(UserError, match=r"learning_rate: 0\.01, now 0\.7"):
        run_group(wrong, Recorder())
    assert contents_of(both) == before and not (tmp_path / "new").exists()


def test_a_run_goes_on_in_the_form_it_began_in_unless_it_is_told(tmp_path):
    reporter, start = Recorder(), object()
    for begun, asked, expected in ((True, None, True), (None, None, None), (True, False, False)):
        run = run_folder.OpenRun(tmp_path, SWEEP, {"kernel": begun}, start=start)
        options = as_begun(RunOptions(kernel=asked), [run], reporter)
        assert options.kernel is expected
    same = run_folder.OpenRun(tmp_path, SWEEP, {"kernel": None}, start=start)
    as_begun(RunOptions(kernel=False), [same], reporter)  # on a CPU that is no change
    assert same.info["kernel"] is False
    (warning,) = reporter.warned
    assert "goes on with --no-kernel, which is not how it began" in warning
    assert as_begun(RunOptions(), [run_folder.OpenRun(tmp_path, SWEEP)], reporter).kernel is None


@pytest.mark.slow
def test_nothing_is_overwritten_while_one_is_in_use(both):
    before = contents_of(both)
    with (
        run_folder.locked(both / "other"),
        pytest.raises(UserError, match="other is in use by another process"),
    ):
        run_group(members(both), Recorder(), RunOptions(overwrite=True))
    assert contents_of(both) == before


def test_variants_in_use_are_found_before_any_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run_and_publish", lambda *_: pytest.fail("it trains"))
    variants = [SWEEP, with_settings(hidden_size=4)]
    run_folder.write_study(tmp_path, variants)
    run_folder.make_folder(tmp_path / "hidden_size=4")
    with (
        run_folder.locked(tmp_path / "hidden_size=4"),
        pytest.raises(UserError, match="hidden_size=4 is in use by another process"),
    ):
        study.run_study(variants, tmp_path, RunOptions())


def test_a_comparison_that_is_overwritten_loses_its_explanation(tmp_path, monkeypatch):
    told = {name: None for name in ("hidden_size=8", "hidden_size=4")}
    monkeypatch.setattr(study, "run_and_publish", lambda *_: told)
    for name in ("write_variants", "publish_comparison"):
        monkeypatch.setattr(study, name, lambda *_: None)
    variants = [SWEEP, with_settings(hidden_size=4)]
    (tmp_path / "explanation").mkdir()
    run_folder.write_study(tmp_path, variants)
    study.run_study(variants, tmp_path, RunOptions())
    assert (tmp_path / "explanation").exists()
    study.run_study(variants, tmp_path, RunOptions(overwrite=True))
    assert not (tmp_path / "explanation").exists()


@pytest.mark.slow
def test_variants_that_were_stopped_go_on_where_they_were(tmp_path, monkeypatch, uninterrupted):
    variants = [SWEEP, with_settings(hidden_size=4)]
    told = [stop_at(7), Recorder(), Recorder()]
    reporters = iter(told)
    monkeypatch.setattr(study, "reporter_for", lambda *_: nullcontext(next(reporters)))
    monkeypatch.setattr(study, "publish", lambda *_, **__: [])
    with pytest.raises(Interrupted):
        study.run_study(variants, tmp_path, RunOptions())
    assert not (tmp_path / "variants.csv").exists()
    again = run_folder.read_configs(tmp_path)
    assert again == variants
    study.run_study(again, tmp_path, RunOptions())
    assert told[1].said[1:] == ["resumed after 141 of 304 steps"]
    assert_same_run(tmp_path / "hidden_size=8", uninterrupted)
    assert checkpoints_of(tmp_path / "hidden_size=4") == [BLOCKS]
    rows = (tmp_path / "variants.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 and rows[0].startswith("variant,task,")
