"""Claims about where a run says it comes from."""

import datetime
import re

from srn_jax.runs import provenance as module


def test_a_run_tells_processor_commit_and_date():
    told = module.provenance()
    assert re.fullmatch(r".+, \d+ cores", told["processor"])
    assert datetime.datetime.fromisoformat(told["date"]).tzinfo is not None
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", told.get("commit", "0000000"))


def test_what_cannot_be_found_is_left_out(monkeypatch):
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert "commit" not in module.provenance()
