"""Several processes that train together end together: within seconds, each with one line.

JAX' own processes wait for one that has failed, for minutes, and then abort. So each has an open
line to process 0, on which a failure is told; a process that is killed closes its line without a
word. Process 0 passes on what it hears, and whoever hears of a failure says so and ends. A process
that hangs without dying keeps its line: that is left to JAX, which notices after 100 s.

Only where process 0 is killed is JAX faster: the thread that talks to it sees the end, and ends its
own process without asking Python. So JAX talks to process 0 through a relay, which hides that.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from srn_jax.errors import warn
from srn_jax.runs.signals import show_cursor

PATIENCE = 20.0  # seconds for all to find each other once JAX has started them
VERDICT = 5.0  # seconds in which all hear of a failure, which may explain an exception in others
DEATH = "it has died without a word"
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
        self.over = False  # nothing that happens to a line from now on is a failure
        self.failed = False  # this process is about to leave
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
        self.listeners.append(in_background(self.listen, line, other))

    def listen(self, line: socket.socket, other: int) -> None:
        """Wait for what a process says, and end with it if that is a failure."""
        said = ""
        with suppress(OSError):
            said = line.makefile().readline()
        if said == "done\n":
            self.over = self.over or other == 0
        elif not self.over:
            failure: list[Any] = json.loads(said) if said else [other, DEATH, 1]
            say(failure)
            self.tell(failure)
            leave(int(failure[2]))

    def tell(self, failure: list[Any] | None) -> None:
        """Say on every line that this process has failed, or that it is done.

        Process 0 then waits for the others to end: JAX aborts those that outlive it.
        """
        self.failed = failure is not None
        self.over = self.over or self.process == 0 or self.failed
        text = "done\n" if failure is None else json.dumps(failure) + "\n"
        for line in self.sockets:
            with suppress(OSError):  # that process has gone
                line.sendall(text.encode())
        if self.process == 0 and failure is not None:
            deadline = time.monotonic() + VERDICT
            for listener in self.listeners:
                if listener is not threading.current_thread():
                    listener.join(max(deadline - time.monotonic(), 0))


def relay(coordinator: str) -> str:
    """Stand between JAX and process 0, whose end JAX then does not see before we have told it.

    Args:
        coordinator: HOST:PORT of process 0.

    Returns:
        The address that JAX is given instead.
    """
    host, _, port = coordinator.rpartition(":")
    server = socket.create_server(("127.0.0.1", 0))
    if any("_proxy" in name for name in os.environ):  # which JAX would ask for our own address
        direct = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112
        os.environ["no_grpc_proxy"] = f"{direct or 'localhost'},127.0.0.1"  # noqa: SIM112
    in_background(accept, server, (host.strip("[]"), int(port)))
    return f"127.0.0.1:{server.getsockname()[1]}"


def accept(server: socket.socket, coordinator: tuple[str, int]) -> None:
    """Connect to process 0 whenever JAX connects to the relay."""
    while True:
        jax, _ = server.accept()
        try:
            process_0 = socket.create_connection(coordinator, PATIENCE)
        except OSError:  # it has not started yet: JAX tries again
            jax.close()
            continue
        process_0.settimeout(None)
        for end in (jax, process_0):  # a request is small and must not wait for the next
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        in_background(send, jax, process_0)
        in_background(receive, process_0, jax)


def send(jax: socket.socket, process_0: socket.socket) -> None:
    """Pass on what JAX says to process 0, also that it ends."""
    with suppress(OSError):
        while said := jax.recv(65536):
            process_0.sendall(said)
        jax.close()
        process_0.shutdown(socket.SHUT_RDWR)


def receive(process_0: socket.socket, jax: socket.socket) -> None:
    """Pass on what process 0 says to JAX, but not that it dies: end this process with it."""
    with suppress(OSError):
        while said := process_0.recv(65536):
            jax.sendall(said)
    if _lines is not None and _lines.failed:  # JAX would complain before this process has left
        return
    if jax.fileno() < 0 or (_lines is not None and _lines.over):  # both end well
        with suppress(OSError):
            jax.shutdown(socket.SHUT_RDWR)
        return
    time.sleep(VERDICT / 2)  # its line says more, if there is one yet
    say([0, DEATH])
    leave(1)


def connect(process: int, processes: int, coordinator: str, store: Any) -> None:
    """Connect this process, once JAX' own are connected, until it ends; see `Lines`."""
    global _lines
    try:
        _lines = Lines(process, processes, coordinator, store)
    except (OSError, RuntimeError, ValueError) as error:
        time.sleep(VERDICT)  # if process 0 has died, the relay says so
        warn(f"a failure of another process will show late ({error})")


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


def say(failure: list[Any]) -> None:
    """Print which process has failed, and why."""
    message = f"error: process {failure[0]} has failed: {failure[1]}\n"
    show_cursor()
    os.write(sys.stderr.fileno(), message.encode(errors="backslashreplace"))


def in_background(task: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Start a thread that does not keep the process from ending."""
    thread = threading.Thread(target=task, args=arguments, daemon=True)
    thread.start()
    return thread


def leave(status: int) -> None:
    """Leave at once: JAX would wait at its exit for processes that have failed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(status)
