"""Being asked to stop: Ctrl-C and SIGTERM end a run after its interval instead of killing it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


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
            show_cursor()
            os._exit(128 + number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    with handled(receive, signal.SIGINT, signal.SIGTERM):
        yield received
        if received:
            raise Interrupted(max(received))


@contextmanager
def deferred() -> Iterator[None]:
    """Hold Ctrl-C back while libraries load: one that loads by halves cannot be loaded again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    with handled(lambda number, _: received.append(number), signal.SIGINT):
        yield
    if received:
        raise KeyboardInterrupt


def interruptible() -> AbstractContextManager[None]:
    """Let Ctrl-C end this process at once, though it waits outside of Python."""
    return handled(signal.SIG_DFL, signal.SIGINT)


@contextmanager
def handled(handler: Any, *numbers: int) -> Iterator[None]:
    """Another handler of some signals, undone at the end."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def show_cursor() -> None:
    """Show the terminal's cursor, which a progress bar hides, before a process leaves at once."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")
