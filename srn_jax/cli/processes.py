"""Several processes that train together end together: within seconds, each with one line.

JAX' own processes wait for one that has failed, for minutes, and then abort. So each has an open
line to process 0, on which a failure is told; a process that is killed closes its line without a
word. Process 0 passes on what it hears, and whoever hears of a failure says so and ends. A process
that hangs without dying keeps its line: that is left to JAX, which notices after 100 s.
"""

import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from typing import IO, Any

from srn_jax.errors import warn
from srn_jax.runs.signals import show_cursor

PATIENCE = 20.0  # seconds for all to find each other once JAX has started them
VERDICT = 5.0  # seconds in which all hear of a failure, which may explain an exception in others
_lines: "Lines | None" = None


class Lines:
    """The lines of this process: of process 0 to all others, of any other to process 0."""

    def __init__(self, process: int, processes: int, coordinator: str, store: Any):
        """Connect.

        Args:
            process: which this is.
            processes: how many there are.
            coordinator: HOST:PORT of process 0, of which the host is used.
            store: JAX' key-value store, which all processes share.

        Raises:
            OSError: if the processes do not find each other.
        """
        self.process = process
        self.sockets: list[socket.socket] = []
        self.listeners: list[threading.Thread] = []
        self.kept: IO[bytes] | None = None  # what is not Python's on standard error
        self.over = False  # nothing that happens to a line from now on is a failure
        if process > 0:
            told = store.blocking_key_value_get("srn_jax/line", int(PATIENCE * 1000))
            port, word = told.split()
            host = coordinator.rpartition(":")[0].strip("[]")
            line = socket.create_connection((host, int(port)), PATIENCE)
            line.sendall(f"{word} {process}\n".encode())
            self.watch(line, 0)
            return
        deadline, word = time.monotonic() + PATIENCE, secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
            store.key_value_set("srn_jax/line", f"{server.getsockname()[1]} {word}")
            while len(self.sockets) < processes - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                line, _ = server.accept()
                line.settimeout(PATIENCE)
                said = line.makefile().readline().split()
                if len(said) == 2 and said[0] == word:
                    self.watch(line, int(said[1]))
                else:  # a stranger
                    line.close()

    def watch(self, line: socket.socket, other: int) -> None:
        """Listen to a line in the background."""
        line.settimeout(None)
        self.sockets.append(line)
        listener = threading.Thread(target=self.listen, args=(line, other), daemon=True)
        self.listeners.append(listener)
        listener.start()

    def listen(self, line: socket.socket, other: int) -> None:
        """Wait for what a process says, and end with it if that is a failure."""
        try:
            said = line.makefile().readline()
        except OSError:
            said = ""
        if self.over or said == "done\n":
            return
        failure: list[Any] = json.loads(said) if said else [other, "it has died without a word", 1]
        message = f"error: process {failure[0]} has failed: {failure[1]}\n"
        show_cursor()
        os.write(sys.stderr.fileno(), message.encode(errors="backslashreplace"))
        self.tell(failure)
        leave(int(failure[2]))

    def tell(self, failure: list[Any] | None) -> None:
        """Say on every line that this process has failed, or that it is done.

        Process 0 then waits for the others to end: JAX aborts those that outlive it.
        """
        self.over = self.process == 0 or failure is not None
        text = "done\n" if failure is None else json.dumps(failure) + "\n"
        for line in self.sockets:
            try:
                line.sendall(text.encode())
            except OSError:  # that process has gone
                continue
        if self.process == 0 and failure is not None:
            deadline = time.monotonic() + VERDICT
            for listener in self.listeners:
                if listener is not threading.current_thread():
                    listener.join(max(deadline - time.monotonic(), 0))
        if failure is None and self.kept is not None:
            self.kept.seek(0)
            os.write(sys.stderr.fileno(), self.kept.read())

    def keep_back_messages(self) -> None:
        """Keep what is not Python's from standard error until this process ends well.

        Where process 0 is killed, JAX writes 16 lines and aborts, more slowly than we end.
        """
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        self.kept = tempfile.TemporaryFile()  # noqa: SIM115 (open until the end)
        os.dup2(self.kept.fileno(), 2)


def connect(process: int, processes: int, coordinator: str, store: Any) -> None:
    """Connect this process, once JAX' own are connected, until it ends; see `Lines`."""
    global _lines
    try:
        _lines = Lines(process, processes, coordinator, store)
    except (OSError, RuntimeError, ValueError) as error:
        warn(f"a failure of another process will show late ({error})")
        return
    if process > 0:
        _lines.keep_back_messages()


def done() -> None:
    """Say that this process ends well, if it is one of several."""
    if _lines is not None:
        _lines.tell(None)


def fail(reason: str, status: int) -> None:
    """End with the others, which are told the reason; does nothing in a single process."""
    if _lines is not None:
        _lines.tell([_lines.process, reason, status])
        leave(status)


def wait_for_verdict() -> None:
    """Give another process' failure the time to end this one; it may be what went wrong here."""
    if _lines is not None:
        time.sleep(VERDICT)


def leave(status: int) -> None:
    """Leave at once: JAX would wait at its exit for processes that have failed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # it is closed
            continue
    os._exit(status)
