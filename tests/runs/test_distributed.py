"""One run in two processes: what they agree on, and that its bytes are those of one process."""

import os
import re
import signal
import socket
from functools import partial

import jax
import pytest
from running import (
    BLOCKS,
    SWEEP,
    Process,
    assert_same_run,
    slowly,
    train_here,
    wait_until,
    with_settings,
)

from srn_jax.runs.checkpoint import blocks_in
from srn_jax.runs.folder import locked


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def join(address, number, slow):
    os.environ["XLA_FLAGS"] = re.sub(r"\S*device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, 2, number)
    if slow:
        slowly()


def start_two(folder, run, *others, slow=False):
    """Two processes of a run; those after the first train `others`, if they are given."""
    address = free_address()
    every = [(SWEEP,), others or (SWEEP,)]
    return [
        Process(folder, train_here, run, configs, prepare=partial(join, address, number, slow))
        for number, configs in enumerate(every)
    ]


@pytest.mark.slow
def test_two_processes_that_are_stopped_and_go_on_end_as_one_does(tmp_path, uninterrupted):
    run = tmp_path / "run"
    both = start_two(tmp_path, run, slow=True)
    wait_until(lambda: blocks_in(run / "parts" / "0"), both[0])
    os.kill(both[1].pid, signal.SIGTERM)  # as a cluster announces that it needs one machine
    ends = [process.wait() for process in both]
    assert [status for status, _, _ in ends] == [143, 143], ends
    assert 0 < blocks_in(run / "parts" / "0")[0] < BLOCKS
    for status, output, errors in [process.wait() for process in start_two(tmp_path, run)]:
        assert status == 0 and "2 x cpu" in output and "resumed after" in output, errors
    assert_same_run(run, uninterrupted)


@pytest.mark.slow
def test_a_refusal_of_one_ends_both_before_anyone_trains(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run):
        for status, output, errors in [process.wait() for process in start_two(tmp_path, run)]:
            assert status == 2 and "resumed" not in output
            assert "in use by another process" in errors[-1], errors
    both = start_two(tmp_path, tmp_path / "other", with_settings(learning_rate=0.5))
    for status, _, errors in [process.wait() for process in both]:
        assert status == 2 and "process 1 has other settings" in errors[-1], errors
    assert not (tmp_path / "other").exists()
