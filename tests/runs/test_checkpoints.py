"""Checkpoints: damage is found and set aside, what may be good is never touched."""

import errno
import json
import os
import random
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from running import assert_same_bytes, contents_of

from srn_jax.errors import UserError
from srn_jax.files import digest, write_manifest
from srn_jax.runs.checkpoint import Damage, Writer, blocks_in, layout_of, load, restore, write

SETTINGS = "0123"


def items_of(block):
    draw = np.random.default_rng(block)

    def arrays(*shapes):
        return {f"a{n}": np.float32(draw.normal(size=shape)) for n, shape in enumerate(shapes)}

    return {
        "models": {"best": {"cell": arrays((4, 8, 8), (4, 1, 8))}, "last": arrays((4, 8, 8))},
        "training": {
            "best_step": np.arange(4, dtype=np.int32),
            "diverged": np.zeros(4, bool),
            "optimizer": {},
            "histories": {"probe.gradient_norm.W": np.full((4, 300), np.nan, np.float32)},
        },
    }


LAYOUT = layout_of(items_of(0))


@pytest.fixture(scope="module")
def two_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part")
    for block in (5, 9):
        write(folder, block, items_of(block), SETTINGS)
    return folder


@pytest.fixture
def two(two_once, tmp_path):
    """The folder of a part with the checkpoints 5 and 9."""
    return Path(shutil.copytree(two_once, tmp_path / "part"))


def newest(folder, **how):
    return restore(folder, LAYOUT, SETTINGS, **how)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Damage


def found_after(folder):
    """Whether the damage to checkpoint 9 was found; if not, it must have been harmless."""
    warnings = []
    restored = newest(folder, warn=warnings.append)
    block, items = restored
    assert_same_bytes(items, items_of(block))
    if block == 9:
        assert not warnings
        return False
    (warning,) = warnings
    assert f"{folder / 'checkpoints' / '9'} is damaged" in warning and "\n" not in warning
    return True


def test_what_is_restored_is_what_was_saved_and_two_are_kept(two):
    assert_same_bytes(newest(two)[1], items_of(9))
    write(two, 12, items_of(12), SETTINGS)
    assert blocks_in(two) == [12, 9]
    assert {path.name for path in (two / "checkpoints").iterdir()} == {"9", "12"}


def test_every_flipped_bit_is_found_and_the_checkpoint_before_is_used(two):
    draw, found = random.Random(1), []
    files = files_of(two / "checkpoints" / "9")
    for path in files + draw.choices(files, k=24):
        position, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        content = bytearray(path.read_bytes())
        content[position] ^= 1 << bit
        original, _ = path.read_bytes(), path.write_bytes(content)
        found.append(found_after(two))
        path.write_bytes(original)
    assert sum(found) >= len(found) - 3  # white space of checkpoint.json means nothing
    assert newest(two)[0] == 9


def test_damage_of_another_kind_is_found_too(two):
    for number, path in enumerate(files_of(two / "checkpoints" / "9")):
        content = path.read_bytes()
        path.unlink()
        if number % 2:
            path.write_bytes(content[: len(content) // 2])
        assert found_after(two), path
        path.write_bytes(content)
    (two / "checkpoints" / "9").rename(two / "checkpoints" / "12")
    warned = []
    assert newest(two, warn=warned.append)[0] == 5
    assert "12 is damaged (it was saved as number 9)" in warned[0]


def test_damage_is_removed_by_who_has_the_lock_once_a_good_one_is_found(two):
    place = two / "checkpoints"
    (place / "9" / "models" / "manifest.ocdbt").write_bytes(b"")
    (place / "11.partial" / "models").mkdir(parents=True)  # of a run that was killed
    before = contents_of(two)
    assert newest(two)[0] == 5 and contents_of(two) == before
    assert newest(two, clean=True)[0] == 5
    assert {path.name for path in place.iterdir()} == {"5"}
    (place / "5" / "checkpoint.json").write_bytes(b"{}")
    before = contents_of(two)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        newest(two, clean=True)
    assert contents_of(two) == before and newest(two.parent / "another") is None


# What is not damage


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_may_be_good_and_stays(two, monkeypatch, number):
    before, real = contents_of(two), Path.read_bytes

    def read(path):
        if path.name == "checkpoint.json" and path.parent.name == "9":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"checkpoint\.json") as caught,
    ):
        patch.setattr(Path, "read_bytes", read)
        newest(two, clean=True)
    assert not isinstance(caught.value, UserError) and contents_of(two) == before
    failing = Mock(side_effect=ValueError("NOT_FOUND: [os_error_code='5']\nmore"))
    monkeypatch.setattr(ocp.Checkpointer, "restore", failing)
    with pytest.raises(OSError, match=r"9: cannot be read: NOT_FOUND") as caught:
        newest(two, clean=True)
    assert "\n" not in str(caught.value) and contents_of(two) == before


# Strangers


def claim(folder, block, change):
    """A checkpoint that says something else of itself, with a right digest."""
    path = folder / "checkpoints" / str(block) / "checkpoint.json"
    told = json.loads(path.read_text())
    change(told)
    write_manifest(path, told)


def test_arrays_of_another_shape_or_dtype_are_refused_before_one_is_read(two, monkeypatch):
    def never(*_, **__):
        pytest.fail("an array was read")

    monkeypatch.setattr(ocp.Checkpointer, "restore", never)
    name = "models/last/a0"
    for shape, dtype in (([4, 8, 7], "float32"), ([4, 8, 8], "float16"), ([10**12], "int8")):
        claim(two, 9, lambda told, a=[shape, dtype]: told["arrays"].update({name: a}))
        with pytest.raises(UserError, match="has other arrays"):
            newest(two)


def test_metadata_that_claim_a_million_million_numbers_take_no_memory(two, monkeypatch):
    place = two / "checkpoints" / "9" / "models"
    shutil.rmtree(place)
    # Written as zarr files, whose metadata are text.
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=False)
    ocp.Checkpointer(handler).save(place, items_of(9)["models"])
    (metadata,) = place.glob("last.a0/.zarray")
    plain = json.loads(metadata.read_text())

    def claim_files(told):
        told["files"] = {
            str(path.relative_to(place.parent)): digest(path.read_bytes())
            for path in files_of(place.parent)
            if path.name != "checkpoint.json"
        }

    claim(two, 9, claim_files)
    assert newest(two)[0] == 9
    for change in ({"shape": [10**12]}, {"chunks": [10**4, 10**4, 10**4]}):
        metadata.write_text(json.dumps(plain | change))
        claim(two, 9, claim_files)
        with (
            monkeypatch.context() as patch,
            pytest.raises(UserError, match="models has other arrays"),
        ):
            patch.setattr(ocp.Checkpointer, "restore", lambda *_, **__: pytest.fail("read"))
            newest(two)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "models/../../9"])
def test_no_file_outside_of_a_checkpoint_is_read(two, name):
    claim(two, 9, lambda told: told["files"].update({name: "0" * 64}))
    with pytest.raises(Damage, match="is not in it"):
        load(two / "checkpoints" / "9", LAYOUT, SETTINGS)


# Saving


def test_a_save_that_fails_in_the_background_is_told_in_one_line(two, monkeypatch):
    full = Mock(side_effect=ValueError("OUT_OF_RANGE: File too large\nand more"))
    writer = Writer(two, SETTINGS, LAYOUT)
    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    writer.save(12, items_of(12), time.monotonic())
    with pytest.raises(OSError, match=r"no checkpoint .*: OUT_OF_RANGE.*; those before it") as end:
        writer.close()
    assert "\n" not in str(end.value)
    writer.close()  # it is told once
    assert newest(two, clean=True)[0] == 9
    assert {path.name for path in (two / "checkpoints").iterdir()} == {"5", "9"}


ORBAX = """
import orbax.checkpoint as ocp
from pathlib import Path

models = Path("part/checkpoints/9/models").absolute()
with ocp.StandardCheckpointer() as checkpointer:
    parameters = checkpointer.restore(models)["best"]
"""


def test_plain_orbax_restores_the_arrays(two, monkeypatch):
    monkeypatch.chdir(two.parent)
    found = {}
    exec(ORBAX, found)
    assert_same_bytes(found["parameters"], items_of(9)["models"]["best"])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found["parameters"]))
