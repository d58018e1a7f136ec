"""Being asked to stop: a run saves its state after its interval instead of being killed."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C, a cluster's notice, a closed terminal, and what Slurm's --signal sends.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; `signal` is what asked."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal = signal_number


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect signals that ask to stop; a second Ctrl-C leaves at once.

    A signal that is ignored, as SIGHUP is by nohup, stays ignored. Raises `Interrupted` at the end
    if one came and did not stop the training any more.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            if sys.stdout.isatty():  # a progress bar hides the cursor
                os.write(sys.stdout.fileno(), b"\x1b[?25h")
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    numbers = [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
    if received:
        raise Interrupted(received[0])
