"""How a command begins: streams that are closed, terminals without a cursor, Ctrl-C at once."""

import io
import os
import signal
import subprocess
import sys
import threading

import pytest

from srn_jax.cli import options as cli
from srn_jax.cli.progress import BarReporter, reporter_for
from srn_jax.config import SweepConfig
from srn_jax.runs.signals import deferred


def test_closed_streams_are_nothing_to_write_to(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def main(_):
        assert sys.stdin.read() == "" and not sys.stdout.isatty()
        sys.stderr.flush()

    with pytest.raises(SystemExit) as end:
        cli.run_script(main)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    assert end.value.code == 0


@pytest.mark.parametrize(("kind", "bar"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(kind, bar, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", kind)
    assert isinstance(reporter_for(SweepConfig()), BarReporter) == bar


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("srn-jax explain", ["srn-jax", "sweep"]),
        ("python -m srn_jax explain", ["python", "-m", "srn_jax", "sweep"]),
        ("scripts/explain.py", ["python", "scripts/sweep.py"]),
    ],
)
def test_a_hint_names_the_program_as_it_was_called(name, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name])
    assert cli.called("sweep") == words


def test_ctrl_c_waits_for_what_is_loading():
    done, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("loaded")
    assert done == ["loaded"]
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_than_the_first_has_no_signals_to_wait_for():
    def load():
        with deferred():
            done.append("loaded")

    done = []
    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert done == ["loaded"]


@pytest.mark.slow
def test_what_xla_says_before_it_aborts_is_seen():
    code = "from srn_jax.cli import devices; devices.configure('cpu')"
    flags = os.environ | {"XLA_FLAGS": "--xla_nonsense=4"}
    done = subprocess.run([sys.executable, "-c", code], env=flags, capture_output=True, text=True)
    assert done.returncode != 0 and "--xla_nonsense=4" in done.stderr
