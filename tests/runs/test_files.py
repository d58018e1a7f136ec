"""Files are whole or not there, and nothing is written or read through a link."""

import errno
import json
import os

import pytest

from srn_jax.errors import UserError
from srn_jax.files import check_plain, read_manifest, write_atomically, write_manifest
from srn_jax.phases import Phases


def test_a_file_is_never_written_through_a_planted_link(tmp_path):
    outside = tmp_path / "bashrc"
    outside.write_text("alias")
    for name in ("report.md", "report.md.partial"):
        (tmp_path / name).symlink_to(outside)
    write_atomically(tmp_path / "report.md", b"text")
    assert outside.read_text() == "alias"
    assert (tmp_path / "report.md").read_bytes() == b"text"
    assert not (tmp_path / "report.md").is_symlink()
    assert not os.path.lexists(tmp_path / "report.md.partial")


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_write_that_fails_names_the_file_and_leaves_what_was_there(
    tmp_path, monkeypatch, call, number
):
    path = tmp_path / "results.csv"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"results\.csv") as caught:
        patch.setattr(os, call, fail)
        write_atomically(path, b"new")
    assert caught.value.errno == number and "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert os.listdir(tmp_path) == ["results.csv"] and path.read_bytes() == b"new"


def test_links_and_pipes_below_names_of_ours_are_refused_and_others_are_not_looked_at(tmp_path):
    (tmp_path / "parts" / "0").mkdir(parents=True)
    (tmp_path / "notes").symlink_to("/etc")
    check_plain(tmp_path, ["parts", "run.json"])
    (tmp_path / "parts" / "0" / "results.csv").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"results\.csv is a link"):
        check_plain(tmp_path, ["parts"])
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run\.json is a special file"):
        check_plain(tmp_path, ["run.json"])


def test_a_manifest_tells_when_one_of_its_values_is_another(tmp_path):
    path = tmp_path / "run.json"
    write_manifest(path, {"learning_rate": 0.001, "finished": True})
    assert read_manifest(path)["learning_rate"] == 0.001
    changed = path.read_text().replace("0.001", "0.003")
    for content in (changed.encode(), b"", b"[]", b"{", b'"\xff"', b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"run\.json: damaged") as caught:
            read_manifest(path)
        assert len(str(caught.value).splitlines()) == 1


def test_seconds_are_added_up_over_phases_and_processes():
    phases = Phases()
    for _ in range(2):
        with phases("training"):
            pass
    phases["imports"] = 1.0
    with pytest.raises(KeyError), phases("writing"):
        raise KeyError
    both = phases.and_before({"training": 2.0, "devices": 0.25})
    assert {*both} - {"writing"} == {"imports", "devices", "training"}
    assert both["devices"] == 0.25 and both["training"] >= 2.0
    assert json.loads(json.dumps(both)) == both
