"""A run is a table that only grows: whatever was added, it is the run asked for at once."""

from dataclasses import replace

import pytest
from running import (
    SWEEP,
    Recorder,
    assert_same_bytes,
    assert_same_run,
    contents_of,
    stop_at,
    with_settings,
)

from srn_jax.errors import UserError
from srn_jax.runs.folder import read_run
from srn_jax.runs.networks import open_run
from srn_jax.runs.train import Interrupted, RunOptions, train_run

OTHER, WIDER = with_settings(learning_rate=0.01), with_settings(hidden_size=4)


def never(progress):
    pytest.fail("it trained")


def parts_of(folder):
    return {n: c for n, c in contents_of(folder).items() if n.startswith("parts/")}


def grow(folder, *configs):
    """Let a run grow; what it had must stay byte for byte."""
    before = parts_of(folder)
    run = train_run(configs, folder, Recorder())
    after = parts_of(folder)
    assert {name: after[name] for name in before} == before
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All that runs grow to here, asked for at once."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    every = [replace(one, lengths=(3, 5, 8), seeds=(0, 1, 2)) for one in (SWEEP, OTHER, WIDER)]
    train_run(every, folder, Recorder())
    assert len(read_run(folder)["parts"]) == 2
    return folder


def test_a_run_that_grew_by_seeds_variants_and_lengths_is_the_one_asked_for_at_once(
    finished, whole
):
    steps = [
        [replace(SWEEP, seeds=(0, 1, 2))],
        [replace(one, seeds=(2, 0, 1)) for one in (SWEEP, OTHER, WIDER)],
        [replace(one, lengths=(8, 3, 5), seeds=(0, 1, 2)) for one in (WIDER, SWEEP, OTHER)],
    ]
    for number, configs in enumerate(steps):
        run = grow(finished, *configs)
        assert run.info["finished"] and len(run.record.results) == (6, 18, 27)[number]
    assert_same_run(finished, whole)
    names = ["srn", "learning_rate=0.01", "hidden_size=4"]
    assert len(run.record.variants) == 3 and not set(names[1:]) & {"srn"}
    table = open_run(finished).record.results
    assert [*table.columns[:3]] == ["variant", "hidden_size", "learning_rate"]
    order = table.length.astype(str) + table.seed.astype(str)
    assert order.tolist() == [f"{n}{s}" for _ in range(3) for n in (3, 5, 8) for s in (0, 1, 2)]


def test_growing_that_was_stopped_or_half_done_goes_on(stopped, whole):
    more = [replace(one, seeds=(0, 1, 2), lengths=(3, 5, 8)) for one in (SWEEP, OTHER)]
    reporter = Recorder()
    with pytest.raises(Interrupted):  # the first part, which was half done, goes on first
        train_run(more, stopped, stop_at(12))
    assert [part["finished"] for part in read_run(stopped)["parts"]] == [False] * 4
    with pytest.raises(Interrupted):

        def late(progress):
            if progress.block == 7 and len(progress.length) == 3:
                stop_at(7).at(progress)

        train_run(more, stopped, Recorder(late))
    every = [*more, replace(WIDER, seeds=(0, 1, 2), lengths=(3, 5, 8))]
    train_run(every, stopped, reporter)
    assert any(line.startswith("resumed after") for line in reporter.said)
    assert_same_run(stopped, whole)


def test_a_finished_run_is_not_trained_again_and_nothing_of_it_is_written(finished):
    before = contents_of(finished)
    reporter = Recorder(never)
    run = train_run([SWEEP], finished, reporter)
    assert reporter.said == [f"{finished} is finished, nothing is left to train"]
    assert contents_of(finished) == before and len(run.record.results) == 4


def test_what_a_run_has_must_be_asked_for_again_and_is_named(finished):
    before = contents_of(finished)
    other = with_settings(learning_rate=0.1, hidden_size=4)
    with pytest.raises(UserError) as caught:
        train_run([other], finished, Recorder())
    assert "hidden_size: 8, now 4; learning_rate: 0.001, now 0.1" in str(caught.value)
    with pytest.raises(UserError, match=r"seeds: \[0, 1\], now without 1"):
        train_run([replace(SWEEP, seeds=(0, 2))], finished, Recorder())
    assert contents_of(finished) == before
    train_run([OTHER], finished, Recorder(), RunOptions(overwrite=True))
    assert read_run(finished)["variants"][0]["learning_rate"] == 0.01


def test_a_run_in_memory_is_saved_as_if_it_had_been_trained_there(tmp_path, whole):
    every = [replace(one, lengths=(3, 5, 8), seeds=(0, 1, 2)) for one in (SWEEP, OTHER, WIDER)]
    run = train_run(every, None, Recorder())
    before = run.networks(0).scores()
    run.save(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)
    one, other = parts_of(tmp_path / "run"), parts_of(whole)
    assert {n for n in one if "checkpoints" not in n} == {n for n in other if "checkpo" not in n}
    assert_same_bytes(before, open_run(tmp_path / "run").networks(0).scores())
    assert_same_bytes(before, run.networks(0).scores())
    with pytest.raises(UserError, match="holds a run"):
        run.save(tmp_path / "run")


def test_networks_are_found_by_variant_length_and_seed_in_whatever_part_they_are(finished, whole):
    grow(finished, *[replace(one, seeds=(0, 1, 2)) for one in (SWEEP, OTHER)])
    for which in ("best", "last"):
        chosen = {"lengths": [5, 3], "seeds": [2, 0], "which": which}
        one = open_run(finished).networks("learning_rate=0.01", **chosen)
        other = open_run(whole).networks(1, **chosen)
        assert one.experiments == ((5, 2), (5, 0), (3, 2), (3, 0))
        assert_same_bytes(one.parameters, other.parameters)
    table = open_run(finished).record.results
    rows = table[(table.variant == "learning_rate=0.01") & (table.length == 5)]
    found = open_run(finished).networks("learning_rate=0.01", [5]).scores()
    assert found.accuracy.tolist() == rows.test_accuracy.tolist()
    assert found.loss.tolist() == rows.test_loss.tolist()
    for how, says in (
        ({"variant": 0, "lengths": [4]}, "no length 4, it has 3, 5"),
        ({"variant": 0, "seeds": [7]}, "no seed 7, it has 0, 1, 2"),
        ({"variant": 0, "which": "worst"}, "`which` must be best or last"),
    ):
        with pytest.raises(UserError, match=says):
            open_run(finished).networks(**how)
