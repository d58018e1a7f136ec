"""One run on 1 or 8 devices, in one process or two; they end together, whatever ends one."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from running import Script, assert_same_run, checkpoints_of, wait_until

from srn_jax.runs import folder as run_folder
from srn_jax.runs import loop

SWEEP = shlex.split(
    "--platform cpu --lengths 3 5 --seeds 3 --hidden-size 8 --embedding-size 8 --epochs 600 "
    "--eval-interval 20"
)
ALWAYS = ["--checkpoint-every", 1e-6]
SOON = 15  # seconds within which all have ended


def short_intervals():
    loop.INTERVAL_SECONDS = 0.05


def start(folder, *arguments, prepare=short_intervals):
    return Script(folder, "sweep.py", *SWEEP, *arguments, prepare=prepare)


def start_two(folder, *arguments, others=(), prepares=(short_intervals, short_intervals)):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    place = ["--cpu-devices", 1, "--coordinator", address, "--processes", 2, "--process"]
    own = ((), others)
    return [
        start(folder, *arguments, *own[number], *place, number, prepare=prepares[number])
        for number in (0, 1)
    ]


def wait_for_checkpoint(script, run):
    before = checkpoints_of(run)[-1:] if run.exists() else []
    wait_until(lambda: run.exists() and checkpoints_of(run)[-1:] > before, script)


def assert_all_end_soon(scripts, since):
    ends = [script.wait(SOON + 30) for script in scripts]
    assert time.monotonic() - since < SOON, ends
    return ends


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    status, _, errors = start(folder, "--cpu-devices", 1, "--out", folder / "run").wait()
    assert status == 0, errors
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, alone, before, after):
    run = tmp_path / "run"
    first = start(tmp_path, "--out", run, *ALWAYS, "--cpu-devices", before)
    wait_for_checkpoint(first, run)
    os.kill(first.pid, signal.SIGTERM)
    status, output, _ = first.wait()
    assert status == 143 and f"{before} x cpu" in output, output
    status, output, _ = start(tmp_path, "--out", run, "--cpu-devices", after).wait()
    assert status == 0 and f"{after} x cpu" in output and "resumed after" in output, output
    assert_same_run(run, alone)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(tmp_path, alone):
    for status, output, errors in [
        s.wait() for s in start_two(tmp_path, "--out", tmp_path / "run")
    ]:
        assert status == 0 and "2 x cpu" in output, errors
        assert not errors
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_whoever_is_killed_or_stopped_both_end_soon_and_the_run_goes_on(tmp_path, alone):
    run = tmp_path / "run"
    for victim, number in [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGTERM)]:
        both = start_two(tmp_path, "--out", run, *ALWAYS)
        wait_for_checkpoint(both[0], run)
        since = time.monotonic()
        os.kill(both[victim].pid, number)
        ends = assert_all_end_soon(both, since)
        if number == signal.SIGTERM:  # as a cluster announces that it needs the machine
            assert [(status, errors) for status, _, errors in ends] == [(143, []), (143, [])]
        else:
            status, _, errors = ends[1 - victim]
            line = f"error: process {victim} has failed: it has died without a word"
            assert (status, errors) == (1, [line])
    status, output, _ = start(tmp_path, "--out", run, "--cpu-devices", 1).wait()
    assert status == 0 and "resumed after" in output
    assert_same_run(run, alone)


def fill_the_disk():
    import resource

    short_intervals()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_failure_of_one_is_the_failure_of_both_with_one_line_each(tmp_path):
    run = tmp_path / "run"
    full = (fill_the_disk, short_intervals)
    both = start_two(tmp_path, "--out", run, *ALWAYS, prepares=full)
    (one, _, lines), (other, _, others) = assert_all_end_soon(both, time.monotonic() + 60)
    assert (one, other, len(lines), len(others)) == (1, 1, 1, 1), (lines, others)
    assert "no checkpoint could be written" in lines[0]
    assert others[0] == lines[0].replace("error: ", "error: process 0 has failed: ", 1)
    assert not run_folder.read_run(run)["finished"]


@pytest.mark.slow
def test_a_refusal_of_one_ends_both_before_anyone_trains(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with run_folder.locked(run):
        both = start_two(tmp_path, "--out", run)
        ends = assert_all_end_soon(both, time.monotonic() + 30)
    for status, output, errors in ends:
        assert status == 2 and len(errors) == 1 and "step" not in output, ends
        assert "in use by another process" in errors[0]
    both = start_two(tmp_path, "--out", run, others=["--learning-rate", 0.5])
    for status, output, errors in assert_all_end_soon(both, time.monotonic() + 30):
        assert status == 2 and len(errors) == 1 and "step" not in output, errors
        assert "process 1 has other settings" in errors[0]


def test_a_coordinator_that_does_not_exist_is_refused_at_once(run_script):
    place = ["--coordinator", "no-such-host.invalid:1234", "--processes", 2, "--process", 1]
    began = time.monotonic()
    done = run_script("sweep.py", *SWEEP, *place)
    assert time.monotonic() - began < SOON
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "no-such-host.invalid:1234: no such host" in line


def test_a_single_process_prints_nothing_of_others():
    code = "from srn_jax.cli import processes as p; p.fail('x', 3); p.wait_for_verdict()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
