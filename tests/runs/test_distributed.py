"""One run on 2 devices or 1, in one process or two; they end together, whatever ends one."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
from running import (
    BLOCKS,
    COMMAND,
    SWEEP,
    Script,
    assert_same_run,
    checkpoints_of,
    slowly,
    wait_until,
)

from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder
from srn_jax.runs import group
from srn_jax.runs.loop import RunOptions

SOON = 15  # seconds within which all have ended


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_two(folder, *arguments, others=(), prepare=(slowly, slowly)):
    """Two processes of a run, the second with other arguments."""
    place = ["--coordinator", free_address(), "--processes", 2, "--process"]
    command = [*COMMAND, "--cpu-devices", 1, *arguments]
    return [
        Script(folder, "sweep.py", *command, *own, *place, number, prepare=prepare[number])
        for number, own in enumerate([(), others])
    ]


def wait_for_checkpoint(script, run):
    before = checkpoints_of(run)[-1:]
    wait_until(lambda: checkpoints_of(run)[-1:] > before, script)


def assert_all_end_soon(scripts, since):
    ends = [script.wait(SOON + 30) for script in scripts]
    assert time.monotonic() - since < SOON, ends
    return ends


def died(process):
    return f"error: process {process} has failed: it has died without a word"


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, stopped, uninterrupted):
    command = ["--resume", stopped, "--platform", "cpu", "--cpu-devices", 1]
    status, output, errors = Script(tmp_path, "sweep.py", *command).wait()
    assert (status, errors) == (0, []) and "1 x cpu" in output and "resumed after" in output
    assert_same_run(stopped, uninterrupted)  # on two devices


@pytest.mark.slow
def test_whoever_is_killed_or_stopped_both_end_soon_and_the_run_ends_as_in_one_process(
    tmp_path, uninterrupted
):
    run = tmp_path / "run"
    for victim, number in [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGTERM)]:
        both = start_two(tmp_path, "--out", run)
        wait_for_checkpoint(both[0], run)
        since = time.monotonic()
        os.kill(both[victim].pid, number)
        ends = assert_all_end_soon(both, since)
        if number == signal.SIGTERM:  # as a cluster announces that it needs the machine
            assert [(status, errors) for status, _, errors in ends] == [(143, []), (143, [])]
        else:
            status, _, errors = ends[1 - victim]
            assert (status, errors) == (1, [died(victim)])
    assert checkpoints_of(run)[-1] < BLOCKS
    for script in start_two(tmp_path, "--out", run, prepare=(None, None)):
        status, output, errors = script.wait()
        assert (status, errors) == (0, []) and "2 x cpu" in output and "resumed after" in output
    assert_same_run(run, uninterrupted)


def fill_the_disk():
    import resource

    slowly()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_failure_of_one_is_the_failure_of_both_with_one_line_each(tmp_path):
    run = tmp_path / "run"
    both = start_two(tmp_path, "--out", run, prepare=(fill_the_disk, slowly))
    (one, _, lines), (other, _, others) = assert_all_end_soon(both, time.monotonic() + 60)
    assert (one, other, len(lines), len(others)) == (1, 1, 1, 1), (lines, others)
    assert "no checkpoint could be written" in lines[0]
    assert others[0] == lines[0].replace("error: ", "error: process 0 has failed: ", 1)
    assert not run_folder.read_run(run)["finished"]


def delay(name, seconds):
    """As `prepare` of a script: what it does to end takes time, in which JAX may be faster."""
    from srn_jax.cli import processes

    function = getattr(processes, name)

    def later(*arguments):
        time.sleep(seconds)
        function(*arguments)

    setattr(processes, name, later)


@pytest.mark.slow
def test_a_refusal_of_one_ends_both_before_anyone_trains(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with run_folder.locked(run):
        both = start_two(tmp_path, "--out", run, prepare=(slowly, partial(delay, "leave", 2)))
        ends = assert_all_end_soon(both, time.monotonic() + 30)
    for status, output, errors in ends:
        assert status == 2 and len(errors) == 1 and "step" not in output, ends
        assert "in use by another process" in errors[0]
    for others, says in (
        (["--learning-rate", 0.5], "process 1 has other settings"),
        (["--cpu-devices", 2], "process 1 has another number of devices than process 0, 2 and 1"),
    ):
        both = start_two(tmp_path, "--out", run, others=others)
        for status, output, errors in assert_all_end_soon(both, time.monotonic() + 30):
            assert status == 2 and len(errors) == 1 and "step" not in output, errors
            assert says in errors[0]


def test_the_death_of_the_first_is_told_since_jax_does_not_see_it(tmp_path):
    run = tmp_path / "run"
    both = start_two(tmp_path, "--out", run, prepare=(slowly, partial(delay, "say", 1)))
    wait_until(run.exists, both[0])  # they have found each other
    since = time.monotonic()
    os.kill(both[0].pid, signal.SIGKILL)
    (first, _, _), (second, _, errors) = assert_all_end_soon(both, since)
    assert (first, second, errors) == (-signal.SIGKILL, 1, [died(0)])


RELAYED = """
import socket
from srn_jax.cli import processes

process_0 = socket.create_server(("localhost", 0))
host, port = processes.relay(f"localhost:{process_0.getsockname()[1]}").split(":")
jax = socket.create_connection((host, int(port)))
connection, _ = process_0.accept()
for one, other in ((jax, connection), (connection, jax)):
    one.sendall(b"x" * 100_000)
    assert other.recv(100_000, socket.MSG_WAITALL) == b"x" * 100_000
connection.close()
jax.recv(1)
print("JAX has seen it")
"""


@pytest.mark.slow
def test_the_death_of_the_first_is_told_also_while_jax_starts():
    done = subprocess.run([sys.executable, "-c", RELAYED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", died(0) + "\n")


def test_a_coordinator_that_does_not_exist_is_refused_at_once(tmp_path):
    place = ["--coordinator", "no-such-host.invalid:1234", "--processes", 2, "--process", 1]
    began = time.monotonic()
    status, _, errors = Script(tmp_path, "sweep.py", *COMMAND, *place).wait()
    assert time.monotonic() - began < SOON
    (line,) = errors
    assert status == 2 and "no-such-host.invalid:1234: no such host" in line


@pytest.mark.slow
def test_a_port_in_use_is_refused_before_jax_ends_without_a_word(tmp_path):
    with socket.create_server(("localhost", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        place = ["--coordinator", address, "--processes", 2, "--process", 0]
        status, _, errors = Script(tmp_path, "sweep.py", *COMMAND, *place).wait()
    (line,) = errors
    assert status == 2 and f"{address}: its port is in use" in line


@pytest.mark.slow
def test_who_waits_for_others_can_be_interrupted(tmp_path):
    place = ["--coordinator", free_address(), "--processes", 2, "--process", 0]
    script = Script(tmp_path, "sweep.py", *COMMAND, *place)
    wait_until(lambda: "waiting for the others" in script.out.read_text(), script)
    time.sleep(0.5)
    os.kill(script.pid, signal.SIGINT)
    assert script.wait(SOON)[0] == -signal.SIGINT


def test_other_code_or_another_chunk_is_no_agreement(monkeypatch):
    told = []
    monkeypatch.setattr(group, "agree", lambda first, own: (first, told.append(own) or own))
    for chunk in (None, 2):
        group.check_agreement([SWEEP], RunOptions(chunk=chunk))
    monkeypatch.setattr(group, "code_and_versions", lambda: ["another"])
    group.check_agreement([SWEEP], RunOptions())
    settings, code, with_chunk, same_code, again, other_code = told
    assert settings == again != with_chunk and code == same_code != other_code
    monkeypatch.setattr(group, "agree", lambda first, own: (first, own + 1))
    with pytest.raises(UserError, match="has other settings, data or files than process 0"):
        group.check_agreement([SWEEP], RunOptions())


def test_a_single_process_prints_nothing_of_others():
    code = "from srn_jax.cli import processes as p; p.fail('x', 3); p.wait_for_verdict()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
