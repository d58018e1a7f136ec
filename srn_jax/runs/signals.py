"""Being asked to stop: Ctrl-C and SIGTERM end a run after its interval instead of killing it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; `signal` is what asked."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal = signal_number


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second SIGINT leaves at once.

    Raises `Interrupted` at the end if one came and did not stop the training any more.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR)
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
        if received:
            raise Interrupted(max(received))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
