"""What one machine wrote another can read: 1 or 8 devices, several processes, old and new JAX."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from srn_jax.analysis.results import read_results
from srn_jax.cli.progress import PlainReporter
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs import restore as evaluation
from srn_jax.runs.loop import run_sweep

ROOT = Path(__file__).parents[2]
OLD_RUN = Path(__file__).parents[1] / "data" / "run_of_jax_0.7.2"
SWEEP = shlex.split("--platform cpu --lengths 3 5 --seeds 3 --epochs 600 --eval-interval 20")


class Script:
    """`python scripts/sweep.py ...`, started and going on."""

    def __init__(self, *arguments):
        command = [sys.executable, ROOT / "scripts" / "sweep.py", *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait(self):
        output, _ = self.process.communicate(timeout=300)
        return self.process.returncode, output.decode()

    def stop_after_its_first_checkpoint(self, folder):
        """Have it stopped as by a cluster that needs the machine."""
        while not [path for path in folder.glob("checkpoints/*") if path.name.isdigit()]:
            assert self.process.poll() is None, self.wait()
            time.sleep(0.01)
        self.process.send_signal(signal.SIGTERM)


def two_processes(*arguments):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    place = ["--coordinator", address, "--processes", 2, "--process"]
    return [Script(*arguments, *place, number) for number in (0, 1)]


def assert_same_results(folder, other):
    for name in ("results.csv", "histories.npz"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    leaves = [jax.tree.leaves(checkpoint.restore(run).items) for run in (folder, other)]
    for one, two in zip(*leaves, strict=True):
        assert one.dtype == two.dtype and one.tobytes() == two.tobytes()


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    status, output = Script(*SWEEP, "--cpu-devices", 1, "--out", folder).wait()
    assert status == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, one_device, before, after):
    folder = tmp_path / "run"
    command = [*SWEEP, "--out", folder, "--checkpoint-every", 1e-6, "--cpu-devices"]
    first = Script(*command, before)
    first.stop_after_its_first_checkpoint(folder)
    status, output = first.wait()
    assert status == 143 and f"{before} x cpu" in output, output
    status, output = Script(*command, after).wait()
    assert status == 0 and f"{after} x cpu" in output and "resumed after" in output, output
    assert_same_results(folder, one_device)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(tmp_path, one_device):
    folder = tmp_path / "run"
    both = two_processes(*SWEEP, "--cpu-devices", 1, "--out", folder)
    for status, output in [script.wait() for script in both]:
        assert status == 0 and "2 x cpu" in output, output
    assert_same_results(folder, one_device)


@pytest.mark.slow
def test_two_processes_go_on_with_the_run_of_one(tmp_path, one_device):
    folder = tmp_path / "run"
    command = [*SWEEP, "--cpu-devices", 1, "--checkpoint-every", 1e-6, "--out", folder]
    first = Script(*command)
    first.stop_after_its_first_checkpoint(folder)
    status, output = first.wait()
    assert status == 143, output
    ends = [script.wait() for script in two_processes(*command)]
    for status, output in ends:
        assert status == 0 and "2 x cpu" in output, output
    assert any("resumed after" in output for _, output in ends)
    assert_same_results(folder, one_device)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_can_go_on_alone(tmp_path, one_device):
    folder = tmp_path / "run"
    command = [*SWEEP, "--cpu-devices", 1, "--checkpoint-every", 1e-6, "--out", folder]
    both = two_processes(*command)
    both[1].stop_after_its_first_checkpoint(folder)
    for status, output in [script.wait() for script in both]:
        assert status == 143, output
    status, output = Script(*command).wait()
    assert status == 0 and "resumed after" in output, output
    assert_same_results(folder, one_device)


@pytest.fixture
def old_run(tmp_path):
    """A finished run of the oldest versions that are supported: JAX 0.7.2 and Orbax 0.11.17."""
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


def test_a_checkpoint_of_the_oldest_jax_gives_the_accuracies_of_its_results(old_run):
    results = read_results(old_run)
    models = evaluation.restore(old_run)
    loss, accuracy = evaluation.accuracies(models)
    assert models.experiments == [*zip(results.length, results.seed, strict=True)]
    assert accuracy.tolist() == results.test_accuracy.tolist()
    assert loss == pytest.approx(results.test_loss, abs=1e-5)
    assert len({*results.test_accuracy}) == 4 and results.test_accuracy.max() > 0.2


def test_a_finished_run_of_the_oldest_jax_is_recognised(old_run, capsys):
    config = run_folder.config_of(run_folder.read_run(old_run)["settings"])
    new, _, info = run_sweep(config, old_run, PlainReporter(config))
    assert "resumed after 240 of 240 steps" in capsys.readouterr().out
    assert info["versions"]["jax"] == "0.7.2"
    old = read_results(OLD_RUN)
    assert np.array_equal(old.best_step, new.best_step)
    assert new.test_loss == pytest.approx(old.test_loss, abs=1e-5)


def test_the_old_checkpoint_in_the_repository_is_small():
    files = [path for path in OLD_RUN.rglob("*") if path.is_file()]
    assert sum(os.path.getsize(path) for path in files) < 100_000
