"""Programs kept on disk are those that would be compiled, and are found for nothing else."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble import compiling
from srn_jax.ensemble.compiling import code_and_versions, has_users_code, name_of
from srn_jax.ensemble.sweep import Sweep
from srn_jax.training.experiment import program_of

CONFIG = SweepConfig((3,), (0, 1), ExperimentConfig(hidden_size=6, steps=12, eval_interval=5))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path):
    """JAX finds nothing that was compiled before, here or by another process."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.clear_caches()
    compilation_cache.set_cache_dir(str(tmp_path / "xla"))
    compilation_cache.reset_cache()
    yield
    compilation_cache.set_cache_dir(before)
    compilation_cache.reset_cache()


def result(config, programs):
    sweep = Sweep(config, programs=programs)
    sweep.advance(0, len(sweep.eval_steps))
    return jax.tree.leaves(sweep.gather((sweep.state, tuple(sweep.histories), sweep.data)))


@pytest.mark.slow
def test_a_kept_program_gives_the_same_bits_and_other_numbers_where_they_are_others(
    tmp_path, monkeypatch
):
    lstm = dataclasses.replace(CONFIG.experiment, cell="lstm")
    config = dataclasses.replace(CONFIG, experiment=lstm)
    folder = tmp_path / "programs"
    first = result(config, folder)
    (kept,) = folder.iterdir()
    expected = result(config, None)
    monkeypatch.setattr(Sweep, "_compile", lambda *_: pytest.fail("compiled, although kept"))
    found = result(config, folder)
    for one, other, another in zip(expected, first, found, strict=True):
        assert np.array_equal(one, other, equal_nan=True)
        assert np.array_equal(one, another, equal_nan=True)
    # Seeds and learning rates are no part of a program.
    faster = dataclasses.replace(config.experiment, learning_rate=0.01)
    other = dataclasses.replace(config, seeds=(2, 3), experiment=faster)
    assert not np.array_equal(result(other, folder)[0], expected[0])
    assert [*folder.iterdir()] == [kept]


@pytest.mark.slow
def test_what_is_torn_or_cannot_be_written_is_compiled(tmp_path):
    folder, file = tmp_path / "programs", tmp_path / "file"
    expected = result(CONFIG, folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    again = result(CONFIG, folder)
    jax.clear_caches()
    for cached in (tmp_path / "xla").iterdir():
        cached.unlink()
    file.write_text("")
    other = result(CONFIG, file)
    assert file.read_text() == ""
    for arrays in zip(expected, again, other, strict=True):
        assert all(np.array_equal(arrays[0], one, equal_nan=True) for one in arrays[1:])


def test_what_jax_has_loaded_is_not_kept(tmp_path):
    """XLA would write it without its kernels."""
    folder = tmp_path / "programs"
    result(CONFIG, None)  # from here on JAX has them in its own cache
    for _ in range(2):
        jax.clear_caches()
        result(CONFIG, folder)
        result(CONFIG, folder)  # which JAX need not load once more
    assert not folder.exists()


@pytest.mark.slow
def test_a_class_of_a_users_own_is_always_traced(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from srn_jax import SRN\n"
        "from srn_jax.tasks import DigitSum\n\n\n"
        "class Cell(SRN):\n    pass\n\n\n"
        "class Task(DigitSum):\n    pass\n\n\n"
        "class Probe:\n    pass\n"
    )

    def own(name):
        return f"{tmp_path / 'mine.py'}:{name}"

    assert not has_users_code(program_of(CONFIG))
    for kind in ("cell", "task"):
        experiment = dataclasses.replace(CONFIG.experiment, **{kind: own(kind.title())})
        assert has_users_code(program_of(dataclasses.replace(CONFIG, experiment=experiment)))
    assert has_users_code(program_of(dataclasses.replace(CONFIG, probes=(own("Probe"),))))
    result(dataclasses.replace(CONFIG, experiment=experiment), tmp_path / "programs")
    assert not (tmp_path / "programs").exists()


def test_other_code_settings_or_flags_are_another_program(monkeypatch, tmp_path):
    program = program_of(CONFIG)
    names = {name_of(program, "shapes")}
    assert names == {name_of(program_of(CONFIG), "shapes")}

    def is_new(other=program, shapes="shapes"):
        before = len(names)
        names.add(name_of(other, shapes))
        return len(names) == before + 1

    assert is_new(shapes="others")
    for field, value in {
        "cell": "gru",
        "task": "adding",
        "hidden_size": 7,
        "optimizer": "sgd",
        "clip_norm": 1.0,
        "steps": 13,
        "batch_size": 9,
    }.items():
        other = dataclasses.replace(CONFIG.experiment, **{field: value})
        assert is_new(program_of(dataclasses.replace(CONFIG, experiment=other))), field
    assert is_new(program_of(dataclasses.replace(CONFIG, probes=("gradient-norm",))))
    assert is_new(dataclasses.replace(program, train_examples=100))
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert is_new()
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "processor", lambda: ["another"])
        assert is_new()
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    try:
        assert is_new()
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "standard")
    assert not is_new()
    copy = tmp_path / "srn_jax"
    copy.mkdir()
    (copy / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(compiling, "PACKAGE", copy)
    digests = []
    for text in ("x = 1\n", "x = 2\n"):
        (copy / "one.py").write_text(text)
        code_and_versions.cache_clear()
        digests.append(code_and_versions())
        assert is_new()
    code_and_versions.cache_clear()
    assert digests[0] != digests[1]
