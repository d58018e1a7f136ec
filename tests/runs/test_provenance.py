"""Claims about where a run says it comes from, and goes on."""

import datetime
import re

import pytest
from running import Recorder, stop_at

from srn_jax.analysis.report import run_report
from srn_jax.runs import folder as run_folder
from srn_jax.runs import origin
from srn_jax.runs import provenance as module
from srn_jax.runs.group import run_sweep
from srn_jax.runs.signals import Interrupted


def test_a_run_tells_processor_commit_and_date():
    told = module.provenance()
    assert re.fullmatch(r".+, \d+ cores", told["processor"])
    assert datetime.datetime.fromisoformat(told["date"]).tzinfo is not None
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", told.get("commit", "0000000"))


def test_what_cannot_be_found_is_left_out(monkeypatch):
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert "commit" not in module.provenance()


def test_places_are_told_once_each_and_only_what_rounds_otherwise_is_a_change():
    first = {"device": "2 x cpu", "versions": {"jax": "0.7.2", "optax": "0.2"}, "seconds": 3.0}
    here = {"device": "1 x cpu", "versions": {"jax": "0.7.2", "optax": "0.2"}}
    there = {"device": "1 x cpu", "versions": {"jax": "0.10.2", "optax": "0.2"}}
    assert module.went_on(first, [here, here, there]) == [here, there]
    assert module.went_on({**first, "went_on": [here]}, [here]) == [here]
    assert module.changes(first, here) == []
    assert module.changes(here, {**here, "device": "1 x NVIDIA H200"}) == [
        "device cpu, now NVIDIA H200"
    ]
    assert module.changes(here, there) == ["jax 0.7.2, now 0.10.2"]


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_says_so_and_keeps_both_places(stopped, monkeypatch):
    there = {"processor": "another", "versions": {"jax": "9.9"}}
    monkeypatch.setattr(origin, "provenance", lambda: there)
    began, reporter = run_folder.read_run(stopped), stop_at(12)
    config = run_folder.config_in(stopped, began["settings"])
    with pytest.raises(Interrupted):
        run_sweep(config, stopped, reporter)
    (warning,) = reporter.warned
    assert "jax" in warning and "now 9.9" in warning and "now another" in warning
    run = run_sweep(config, stopped, reporter := Recorder())
    assert not reporter.warned and run.info["went_on"] == [there]
    assert run.info["versions"] == began["versions"]
    assert "- went on: processor another, jax 9.9" in run_report(run)
