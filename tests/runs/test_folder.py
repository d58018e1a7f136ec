"""The folder of a run: the right one or none, what it holds checked, its code not just run."""

import errno
import json
import multiprocessing
import os
import time
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import SWEEP, with_settings

from srn_jax.config import DataFolder
from srn_jax.errors import UserError
from srn_jax.files import write_manifest
from srn_jax.own_files import describe
from srn_jax.runs.folder import (
    clear,
    configs_in,
    holds_run,
    keep_own_files,
    locked,
    make_folder,
    read_configs,
    read_run,
)
from srn_jax.runs.settings import (
    FORMAT,
    configs_of,
    grown,
    in_order,
    part_configs,
    part_digest,
    part_experiments,
    sketch,
    table_of,
    with_parts,
)

FACTS = {
    **{"question": "?", "title": "!", "chance": 0.1, "chance_loss": 3.0, "test_examples": 100},
    **{"fixed_data": False, "better": "accuracy", "answers": 1},
}


def info_of(configs, **told):
    """A run file of variants that are not trained yet."""
    info = {"format": FORMAT, "command": "", "phases": {}, "seconds": 0.0, "files": {}}
    info |= {"finished": False, "facts": [FACTS] * len(configs), "parts": []}
    return with_parts({**info, **table_of(configs)}, configs) | told


def begun(folder, configs, **told):
    make_folder(folder)
    keep_own_files(folder, configs)
    write_manifest(folder / "run.json", info_of(configs, **told))
    return folder


# The table


def test_what_is_missing_becomes_as_few_parts_as_programs_allow():
    variants = in_order([SWEEP, with_settings(learning_rate=0.1), with_settings(hidden_size=4)])
    info = info_of(variants)
    assert [part["variants"] for part in info["parts"]] == [[0, 1], [2]]
    more = in_order([replace(one, seeds=(0, 1, 2)) for one in variants])
    table, wrong = grown(info, table_of(more))
    grew = with_parts(info | table, more)
    assert not wrong and grew["parts"][:2] == info["parts"]
    new = [(part["variants"], part["lengths"], part["seeds"]) for part in grew["parts"][2:]]
    assert new == [([0, 1], [3, 5], [2]), ([2], [3, 5], [2])]


SUBSETS = st.tuples(*(st.sets(st.integers(0, 3), min_size=1) for _ in range(3)))


@settings(max_examples=60, deadline=None)
@given(st.lists(SUBSETS, min_size=1, max_size=4))
def test_parts_never_overlap_and_are_the_table_however_it_grew(steps):
    asked = [set(), set(), set()]
    info = None
    for step in steps:
        asked = [old | new for old, new in zip(asked, step, strict=True)]
        variants = [with_settings(learning_rate=0.1 + v) for v in sorted(asked[0])]
        lengths, seeds = (tuple(sorted(one)) for one in asked[1:])
        configs = [replace(v, lengths=tuple(n + 3 for n in lengths), seeds=seeds) for v in variants]
        if info is None:
            info = info_of(configs)
            continue
        before = json.dumps(info["parts"])
        table, wrong = grown(info, table_of(configs))
        assert not wrong
        info = with_parts({**info, **table}, configs_of(table, sketch))
        assert json.dumps(info["parts"]).startswith(before[:-1])
    every = [one for part in info["parts"] for one in part_experiments(part)]
    table = product(range(len(info["variants"])), info["lengths"], info["seeds"])
    assert sorted(every) == sorted(table)


def test_a_run_grows_and_nothing_that_it_has_may_be_another():
    old = table_of([SWEEP])
    for config, says in (
        (with_settings(learning_rate=0.1), "learning_rate: 0.001, now 0.1"),
        (replace(SWEEP, seeds=(0,)), r"seeds: \[0, 1\], now without 1"),
        (replace(SWEEP, lengths=(5, 7)), r"lengths: \[3, 5\], now without 3"),
        (replace(SWEEP, probes=("update-norm",)), "probes"),
        (replace(SWEEP, every_loss=True), "every_loss: False, now True"),
        (replace(SWEEP, data=DataFolder("d", "12", digests=("a", "b"))), "data: drawn, now 12"),
    ):
        _, wrong = grown(old, table_of([config]))
        assert len(wrong) == 1 and wrong[0].startswith(says.replace("\\", "").split(" now")[0])
    with pytest.raises(UserError, match="two variants have the same settings"):
        in_order([SWEEP, SWEEP])
    table, wrong = grown(old, table_of([with_settings(cell="gru"), SWEEP]))
    assert not wrong and [one["cell"] for one in table["variants"]] == ["srn", "gru"]
    some, same, others = (
        table_of(
            [replace(SWEEP, lengths=(3, 5, 7)[: len(d)], data=DataFolder("d", "0", digests=d))]
        )
        for d in (("a", "b"), ("a", "b", "c"), ("a", "B", "c"))
    )
    assert not grown(some, same)[1] and grown(some, others)[1]


def test_a_part_is_known_by_its_settings_whatever_is_added_to_its_run(tmp_path):
    def of(configs, number=0):
        info = info_of(in_order(configs))
        return part_digest(part_configs(info["parts"][number], in_order(configs)), info["own"])

    (tmp_path / "mine.py").write_text("class Mine: pass")
    own = with_settings(cell=f"{tmp_path / 'mine.py'}:Mine")
    assert of([SWEEP]) == of([SWEEP, own]) != of([SWEEP, own], 1)
    assert of([SWEEP]) != of([replace(SWEEP, seeds=(0, 2))])


# The run file


def damaged(folder, **told):
    info = json.loads((folder / "run.json").read_text()) | told
    write_manifest(folder / "run.json", info)
    with pytest.raises(UserError) as caught:
        read_run(folder)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{folder / 'run.json'}: ")
    return line


def test_wrong_kinds_of_values_with_a_right_digest_are_one_line(tmp_path):
    folder = begun(tmp_path / "run", [SWEEP])
    right = read_run(folder)
    allowed = [("command", "text"), ("every_loss", True), ("seconds", 5), ("seconds", 7.5)]
    for name in right:
        if name != "sha256":
            for value in (None, 5, 7.5, True, "text", [[1]], {"a": [1]}, float("inf"), "\ud800"):
                may_be = value == right[name] or (name, value) in allowed
                if not may_be:
                    assert damaged(folder, **{name: value}), (name, value)
                write_manifest(folder / "run.json", right)
    part, variant = right["parts"][0], right["variants"][0]
    for parts in ([part, part], [part | {"seeds": [0]}], [part | {"variants": [1]}], []):
        assert "damaged" in damaged(folder, parts=parts)
    for changed in ({"hidden_size": "8"}, {"cell": "no cell"}, {"unheard": 1}, {"task": None}):
        assert "damaged" in damaged(folder, variants=[variant | changed])
    write_manifest(folder / "run.json", right)
    for name in ("../mine.py", "/tmp/mine.py", "mine.txt", "C:mine.py"):
        assert "not the name" in damaged(folder, own={name: {"sha256": "", "path": "mine.py"}})
    write_manifest(folder / "run.json", right)
    assert "seeds" in damaged(folder, seeds=[1, 0])


def test_older_runs_and_newer_ones_are_one_line(tmp_path):
    folder = begun(tmp_path / "run", [SWEEP])
    assert "runs of versions before format 1 are not read" in damaged(folder, format=None)
    assert "newer version (format 2)" in damaged(folder, format=2)
    (folder / "run.json").write_text('{"settings": {}, "finished": true}')  # without a digest
    with pytest.raises(UserError, match="before format 1 are not read"):
        read_run(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected the folder of a run"):
        read_run(tmp_path / "empty")


# Whose it is


@pytest.mark.parametrize("name", ["thesis.tex", "results.csv"])
def test_a_folder_with_anything_else_in_it_is_refused(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=f"is no folder of a run .it has {name}"):
        holds_run(tmp_path)
    begun(tmp_path, [SWEEP])
    (tmp_path / "thesis.tex").write_text("years of work")
    assert holds_run(tmp_path)
    with pytest.raises(UserError, match=r"holds more than a run .it has thesis\.tex"):
        holds_run(tmp_path, overwrite=True)


def test_a_run_killed_while_it_wrote_its_first_file_can_be_started_again(tmp_path):
    for name in ("lock", "run.json.partial"):
        (tmp_path / name).touch()
    assert not holds_run(tmp_path)
    begun(tmp_path, [SWEEP])
    (tmp_path / "figures").mkdir()
    clear(tmp_path)
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("name", ["lock", "run.json.partial", "run.json", "code", "parts"])
def test_a_planted_link_under_a_name_of_ours_is_refused_and_its_target_stays(tmp_path, name):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "file").write_text("mine")
    begun(folder, [SWEEP])
    if name == "run.json":
        (folder / name).unlink()
    (folder / name).symlink_to(outside / "file" if "." in name or name == "lock" else outside)
    with pytest.raises(UserError, match="is a link, but a run writes and reads plain files"):
        read_run(folder)
    with pytest.raises(UserError, match="is a link"):
        holds_run(folder, overwrite=True)
    assert (outside / "file").read_text() == "mine"


def hold(folder):
    with locked(folder):
        (folder / "log.txt").touch()
        time.sleep(300)


def test_a_folder_belongs_to_one_process_and_the_lock_dies_with_it(tmp_path):
    owner = multiprocessing.get_context("forkserver").Process(
        target=hold, args=[tmp_path], daemon=True
    )
    owner.start()
    while not (tmp_path / "log.txt").exists():
        assert owner.is_alive()
        time.sleep(0.01)
    with pytest.raises(UserError, match="in use by another process"), locked(tmp_path):
        pass
    owner.kill()
    owner.join()
    with locked(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) in (["lock", "log.txt"], ["log.txt"])


@pytest.mark.parametrize("call", ["fsync", "flock"])
def test_a_file_system_that_cannot_keep_a_run_is_found_before_training(tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl if call == "flock" else os, call, fail)
    with pytest.raises(OSError, match="No locks available") as caught, locked(tmp_path):
        pass
    assert not isinstance(caught.value, UserError) and str(tmp_path) in str(caught.value)


# Other people's code


CELL = "class Mine:\n    gates = 1\n"


@pytest.fixture
def with_code(tmp_path):
    """A run of a cell in a file."""
    own = tmp_path / "mine.py"
    own.write_text(CELL)
    return begun(tmp_path / "run", [with_settings(cell=f"{own}:Mine"), SWEEP])


def test_code_in_a_folder_is_used_where_its_user_has_it_or_trusts_it(with_code, tmp_path):
    copy = f"{with_code / 'code' / 'mine.py'}:Mine"
    assert read_configs(with_code)[0].experiment.cell == copy
    for change in ("class Other: pass", None):
        (tmp_path / "mine.py").unlink()
        if change:
            (tmp_path / "mine.py").write_text(change)
        with pytest.raises(UserError, match=r"mine\.py is Python .* read it first, .*`trust_code`"):
            read_configs(with_code)
        assert read_configs(with_code, trust_code=True)[0].experiment.cell == copy
    (with_code / "code" / "mine.py").write_text(CELL + "# and more")
    with pytest.raises(UserError, match=r"code/mine\.py: damaged .* put the old file back"):
        read_configs(with_code, trust_code=True)


def test_what_is_in_no_file_is_given_again_and_must_be_the_same(tmp_path):
    class Leaky:
        leak = 0.9

    class Other:
        leak = 0.8

    def schedule(step):
        return 0.1

    made = [with_settings(cell=Leaky, learning_rate=schedule), with_settings(cell=Other), SWEEP]
    folder = begun(tmp_path / "run", made)
    name = describe(Leaky)
    assert read_run(folder)["variants"][0]["cell"] == name
    with pytest.raises(UserError, match=rf"`cell` is {name}, which is in no file: give .* again"):
        read_configs(folder)
    with pytest.raises(UserError, match=f"got {describe(schedule)}"):
        read_configs(folder, objects={"cell": schedule})
    objects = {"cell": [Other, Leaky], "learning_rate": schedule}
    assert read_configs(folder, objects=objects) == made
    with pytest.raises(UserError, match="another file of this name"):
        other = tmp_path / "there" / "mine.py"
        other.parent.mkdir()
        other.write_text("class Mine: pass")
        (tmp_path / "mine.py").write_text(CELL)
        table_of([with_settings(cell=f"{path}:Mine") for path in (tmp_path / "mine.py", other)])
    info = read_run(folder)
    assert configs_in(folder, info, objects, False) == made
