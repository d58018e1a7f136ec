"""Claims about results, histories, names and logs as values and bytes."""

import dataclasses
import io
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from made_up import GOOD, NAN, histories_of, results_of, run_of, variant_of

from srn_jax.analysis.records import (
    histories_from_npz,
    histories_npz,
    label_of,
    log_lines,
    log_text,
    names_of,
    parts_of,
    results_csv,
    results_from_csv,
)
from srn_jax.errors import UserError

OLD_BYTES = b"""\
length,seed,best_dev_accuracy,best_step,dev_loss,test_accuracy,test_loss,final_train_loss,overlap,diverged
5,0,0.83,13100,0.7688114643096924,0.71,0.8368398547172546,1e-07,8,False
5,4294967295,nan,-1,nan,nan,nan,nan,0,True
"""  # as the version before this one wrote them


def test_a_table_of_one_variant_has_the_bytes_that_it_always_had():
    table = results_from_csv(OLD_BYTES)
    assert results_csv(run_of(variant_of(table))) == OLD_BYTES
    assert table["seed"].tolist() == [0, 2**32 - 1]
    assert table["diverged"].tolist() == [False, True]


def test_reading_a_table_back_loses_nothing():
    scores = {5: np.random.default_rng(0).uniform(size=50), 35: [NAN, 0.1]}
    table = results_of(scores, test_sequences=np.random.default_rng(1).uniform(size=52))
    table["overlap"] = pd.array([None, *range(51)], "Int64")
    back = results_from_csv(results_csv(run_of(variant_of(table))))
    pd.testing.assert_frame_equal(back, table, check_exact=True)


def test_of_several_variants_the_table_begins_with_their_names_and_what_differs():
    run = run_of(
        variant_of(GOOD, "srn", clip_norm=None), variant_of(GOOD, "lstm", clip_norm=5.0), format=1
    )
    table = run.results
    assert [*table][:4] == ["variant", "cell", "clip_norm", "length"]
    assert table["clip_norm"].unique().tolist() == ["none", "5.0"]
    pd.testing.assert_frame_equal(results_from_csv(results_csv(run)), table)


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"seed,", b"sead,", "seed"),
        (b"5,0,0.83", b"5,0,many", "many"),
        (b"13100", b"13100.5", "13100.5"),
        (b"False", b"Perhaps", "Perhaps"),
        (b",8,", b",99999999999999999999,", "large"),
        (OLD_BYTES, b"", "No columns"),
        (b"5,0", b"\xff\xfe", "utf-8"),
    ],
)
def test_what_is_no_table_of_results_is_one_line(old, new, words):
    with pytest.raises(UserError, match=words) as error:
        results_from_csv(OLD_BYTES.replace(old, new), "runs/a/results.csv")
    assert str(error.value).startswith("runs/a/results.csv: not a table of results")
    assert "\n" not in str(error.value)


def test_histories_come_back_as_they_were_and_are_the_same_bytes_each_time():
    probes = {"gradient_norm.W": np.ones((8, 400), np.float32)}
    histories = histories_of(GOOD, probes=probes)
    content = histories_npz(histories)
    assert content == histories_npz(histories)
    back = histories_from_npz(content)
    for name, array in vars(histories).items():
        if name != "probes":
            np.testing.assert_array_equal(getattr(back, name), array)
    assert back.steps == 400 and back.series == {"gradient_norm": ["gradient_norm.W"]}
    assert back.probes["gradient_norm.W"].dtype == np.float32


def archive_with(**parts):
    """Histories whose parts of these names are replaced by bytes, or left out (None)."""
    buffer = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(histories_npz(histories_of(GOOD))))
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in whole.namelist():
            content = parts.get(name.removesuffix(".npy"), whole.read(name))
            if content is not None:
                archive.writestr(name, content)
    return buffer.getvalue()


def array_bytes(array):
    """An array as a part of an archive."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Harm:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (sys.exit, ("harm",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        histories_npz(histories_of(GOOD))[:-200],
        histories_npz(histories_of(GOOD)).replace(b"dev_loss", b"dev_lost"),
        archive_with(seed=None),
        archive_with(seed=array_bytes(np.arange(3))),
        archive_with(epoch_loss=array_bytes(np.zeros((8, 3), np.float32))),
        archive_with(steps_an_epoch=array_bytes(np.array(0))),
        archive_with(dev_loss=array_bytes(np.array([Harm()], object))),
        archive_with(dev_loss=pickle.dumps(Harm())),
    ],
    ids=[
        "empty",
        "cut",
        "renamed",
        "missing",
        "short",
        "epochs",
        "no-epoch",
        "object",
        "pickle",
    ],
)
def test_what_is_no_file_of_histories_is_one_line_and_runs_nothing(content):
    with pytest.raises(UserError, match=r"h\.npz: not a file of histories") as error:
        histories_from_npz(content, "h.npz")
    assert "\n" not in str(error.value)


def test_names_and_labels_say_in_what_variants_differ():
    srn, lstm = {"cell": "srn", "lr": 0.003}, {"cell": "lstm", "lr": 0.003}
    assert names_of([srn]) == ["srn"]
    assert names_of([srn, lstm]) == ["srn", "lstm"]
    assert names_of([srn, {**srn, "lr": 0.01}]) == ["lr=0.003", "lr=0.01"]
    assert names_of([srn, {**lstm, "lr": None}]) == ["srn,lr=0.003", "lstm,lr=none"]
    assert names_of([srn, {**srn, "cell": "/home/me/a,b.py:Leaky"}]) == ["srn", "a_b.Leaky"]
    strange = names_of([{**srn, "cell": "../../x y"}, {**srn, "cell": ".."}])
    assert strange == ["_.._x_y", "_"]  # a folder's name, never a way out of one
    labels = [label_of(parts) for parts in parts_of([srn, {**lstm, "lr": 0.01}])]
    assert labels == ["SRN, lr 0.003", "LSTM, lr 0.01"]
    assert label_of({"cell": "mine.py:Leaky"}) == label_of({"cell": "Leaky@1a2b3c4d"}) == "Leaky"
    assert label_of({"fresh_data": True}) == "fresh data"
    assert label_of({"fresh_data": False}) == "not fresh data"
    with pytest.raises(UserError, match=r"two variants are called a\.Leaky"):
        names_of([{"cell": "x/a.py:Leaky"}, {"cell": "y/a.py:Leaky"}, srn])


def test_the_log_is_what_the_textbook_prints():
    results = results_of({5: [0.5], 10: [0.5]})
    histories = dataclasses.replace(
        histories_of(results, steps=300),
        loss_steps=np.array([0, 50, 100, 200]),
        train_loss=np.array([[3, 9, 2.5, NAN]] * 2, np.float32),
        dev_accuracy=np.array([[0.25, 0.25, 0.5]] * 2, np.float32),
        dev_loss=np.array([[2, 1.5, NAN], [2, 1.5, 1]], np.float32),
    )
    assert log_lines(histories, 0) == [
        "[Train] epoch: 0/8, step: 0/300, loss: 3.00000",
        "[Train] epoch: 2/8, step: 100/300, loss: 2.50000",
        "[Evaluate]  dev score: 0.25000, dev loss: 2.00000",
        "[Evaluate] best accuracy performence has been updated: 0.00000 --> 0.25000",
        "[Evaluate]  dev score: 0.25000, dev loss: 1.50000",
    ]
    lines = log_text(histories).splitlines()
    assert lines[0] == "== length 5, seed 0" and "== length 10, seed 0" in lines
    assert lines[-2].endswith("0.25000 --> 0.50000") and lines[-1] == "[Train] Training done!"


@pytest.mark.parametrize(
    "ours, theirs, same",
    [
        ({}, {"cell": "lstm"}, True),
        ({}, {"multiplicity": 5}, False),
        ({"task": "mine.py:Echo"}, {"task": "mine.py:Echo"}, True),
        ({}, {"data": "files"}, False),
        ({"data": "files"}, {"data": "copied"}, True),
    ],
)
def test_seeds_are_paired_only_where_they_saw_the_same_data(ours, theirs, same):
    first, second = variant_of(GOOD, **ours), variant_of(GOOD, **theirs)
    digests = {5: "a", 35: "b"} if "data" in ours else {}
    first, second = (dataclasses.replace(v, digests=digests) for v in (first, second))
    assert first.same_data(second, 5) is same
    if ours.get("data"):
        other = dataclasses.replace(second, digests={5: "a", 35: "c"})
        assert first.same_data(other, 5) and not first.same_data(other, 35)
    if "task" in ours:
        changed = dataclasses.replace(second, own={"mine.py": "another"})
        assert not first.same_data(changed, 5)


def test_records_and_statistics_wake_neither_jax_nor_matplotlib():
    code = (
        "import sys, srn_jax.analysis.records, srn_jax.analysis.stats; "
        "print({'jax', 'matplotlib', 'scipy.stats'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "set()", process.stderr
