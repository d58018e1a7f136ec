"""The benchmark measures what it says: the same experiment, run in other ways."""

import json
import runpy
from functools import cache

import jax
import numpy as np
import pytest
from benchmark import measure as benchmark
from benchmark import report
from benchmark.baselines import jax_experiment
from benchmark.measure import Job
from benchmark.report import contenders_table, floor, growth_plan, plan

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.training.experiment import program_of

CONFIG = SweepConfig((3, 7), (0, 1), ExperimentConfig(epochs=1))


def losses_of(contender, config, steps=38):
    train, state, data = jax_experiment(config, contender, steps=steps)
    with jax.numpy_rank_promotion("allow"):  # as a user would write it
        _, losses = jax.jit(train)(state, data)
    return np.asarray(losses)


@pytest.mark.slow
def test_the_plain_scan_trains_the_same_experiments():
    sweep = Sweep(CONFIG)
    sweep.advance(0, len(sweep.eval_steps))
    ours = sweep.gather_histories().steps["train_loss"]
    assert ours.shape == (4, 38)
    assert losses_of("plain-scan", CONFIG) == pytest.approx(ours, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["srn", "lstm", "gru"])
def test_flax_trains_the_same_experiments_from_weights_of_its_own(cell):
    config = SweepConfig((3, 7), (0, 1), ExperimentConfig(epochs=1, cell=cell))
    losses = losses_of("flax-rnn", config, steps=114)
    assert losses.shape == (4, 114)
    assert losses[:, 0] == pytest.approx(np.log(19), abs=0.6)  # nothing is known yet
    assert losses[:, -38:].mean() < losses[:, :38].mean()  # the third epoch, the first


def test_operations_are_those_counted_by_hand():
    """Length 1, size 2, batch 1: products [1,2][2,2], [10,2][2,2], [1,2][2,19], three of each."""
    products = 3 * 8 + 3 * 80 + 3 * 76
    assert benchmark.parameters(2) == 20 + 4 + 4 + 2 + 38 + 19
    assert benchmark.operations(1, size=2, batch=1) == products + 12 * 87
    assert benchmark.parameters() == len(jax.flatten_util.ravel_pytree(first_parameters())[0])


def first_parameters():
    from srn_jax.tasks.digit_sum import DigitSum
    from srn_jax.training.model import new_network, parameters_of

    return parameters_of(new_network(DigitSum(), ExperimentConfig(), jax.random.key(0)))


def test_a_gpu_is_measured_with_a_thousand_seeds_and_has_a_floor():
    seeds = [task.seeds for name, task in plan("gpu", quick=False) if name == "srn_jax"]
    assert seeds == [1, 64, 1000]
    facts = floor("gpu")
    assert facts["operations_a_step"] == sum(map(benchmark.operations, range(5, 40, 5)))
    assert 1 < facts["h200_floor_seconds_1000_seeds"] < 5
    assert program_of(SweepConfig()).steps == benchmark.STEPS


def test_the_table_gives_ratios_to_the_baselines():
    one = {"seeds": 1, "compile_seconds": 0.0, "peak_bytes": 0, "experiment_seconds": 10.0}
    table = contenders_table(
        [
            one | {"contender": "pytorch-loop", "step_seconds": 0.5},
            one | {"contender": "srn_jax", "step_seconds": 0.005},
        ]
    )
    assert "x pytorch-loop" in table
    assert "100.0" in table.splitlines()[3]


def test_growth_changes_one_thing_at_a_time():
    for points in growth_plan("cpu", quick=False).values():
        tasks = [task for _, task in points]
        varied = [len({getattr(t, n) for t in tasks}) for n in ("lengths", "hidden_size", "seeds")]
        assert sorted(varied) == [1, 1, len(points)]


@pytest.mark.parametrize(
    "words, problem",
    [
        ("--kernel", "--kernel is for GPUs, add --estimate gpu-h100"),
        ("--kernel --estimate tpu-v5e", "--kernel is for GPUs, add --estimate gpu-h100"),
        ("--cells gru gru", "--cells has a value more than once"),
        ("--estimate gpu-h100 --platform cpu", "measures nothing, leave out --platform"),
        ("--estimate gpu-h100 --cells srn", "measures nothing, leave out --cells"),
        ("--estimate gpu-h100 --quick", "measures nothing, leave out --quick"),
        ("--estimate gpu-h100 --whole-process", "measures nothing, leave out --whole-process"),
        ('--contender srn_jax --job {"seeds":"x"}', "seeds must be a whole number"),
        ('--contender srn_jax --job {"lengths":["x"]}', "--lengths must be a whole number"),
        ('--contender srn_jax --job {"platform":"x"}', "platform must be one of"),
    ],
)
def test_options_that_would_be_ignored_or_fail_later_are_one_line(words, problem):
    main = runpy.run_path(str(report.SCRIPT))["main"]
    with pytest.raises(UserError) as caught:
        main(words.split())
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_told_before_anything_is_measured(run_script, tmp_path):
    words = ("--platform", "gpu", "--out", tmp_path)
    done = run_script("benchmark.py", *words, CUDA_VISIBLE_DEVICES="-1")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "error: no GPU found by JAX" in done.stderr and "use --platform cpu" in done.stderr


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    """With every contender and a process for each, of the shortest length."""
    job = Job(lengths=(5,), steps=5, repeats=1)
    names = ["pytorch-loop", "flax-rnn", "plain-scan", "srn_jax"]
    monkeypatch.setattr(report, "plan", lambda *_: [(name, job) for name in names])
    monkeypatch.setattr(report, "growth_plan", lambda *_: {"seeds": [(1, job)]})
    monkeypatch.setattr(report, "child", cache(report.child))  # growth asks for srn_jax once more
    found = report.run_all("cpu", quick=True, whole_process=False)
    assert [one["contender"] for one in found["contenders"]][-3:] == names[1:]
    assert ("left out: pytorch-loop" in capsys.readouterr().out) == (len(found["contenders"]) == 3)
    assert all(one["step_seconds"] > 0 and one["peak_bytes"] > 1e7 for one in found["contenders"])
    assert {"srn_jax SRN", "flax.nnx.RNN"} <= set(found["forward"]["srn"])
    table, *figures = report.write(found, tmp_path)
    assert json.loads(table.read_text())["growth"]["seeds"][0][1] > 0
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG") and len(figures) == 2
