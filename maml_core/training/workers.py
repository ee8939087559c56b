"""The worker processes of this server, and how it gets them.

On Linux they are copies of a `nursery`, ready at once; elsewhere, where a process that has loaded torch cannot be
copied safely, each is started anew and takes some seconds to import what it needs.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import psutil

from maml_core.processes import child_environment, is_alive, name_of

CAN_COPY = sys.platform == "linux"


class Worker(ABC):
    """A process that trains for this server, from when it is asked for until it has ended."""

    def __init__(self, store: str) -> None:
        """One for the store of that name."""
        self.store = store

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process id; None while it is still to come."""

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether there is no such process any more, and none to come."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to end; one that is still to come does not come."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    @abstractmethod
    def let_go(self) -> None:
        """Hold nothing of it any more; it notices the end of its server by itself."""

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        until = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


class _Started(Worker):
    """One that was started anew."""

    def __init__(self, store: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        super().__init__(store)
        command = [sys.executable, "-m", "maml_core.training.worker", *arguments, "--parent", str(os.getpid())]
        # A group of its own: Ctrl-C at the terminal goes to the server, whose end the worker then notices.
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def let_go(self) -> None:
        self._process.returncode = 0  # or it would be said that it still runs, which it soon does not


class _Copied(Worker):
    """One that is copied from the nursery. The line to it carries its order, then its process id, and ends with it."""

    def __init__(self, store: str, line: socket.socket) -> None:
        super().__init__(store)
        line.setblocking(False)
        self._line = line
        self._process: psutil.Process | None = None
        self._name = ""  # of the process, by which it is told from a later one of the same id
        self._has_ended = False

    @property
    def pid(self) -> int | None:
        self._listen()
        return self._process.pid if self._process else None

    def has_ended(self) -> bool:
        self._listen()
        return self._has_ended

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        self._listen()
        if self._process is None and not self._has_ended:
            self._line.shutdown(socket.SHUT_RD)  # so what it has not said by now it is refused to say, and ends
            self._listen()
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                self._process.send_signal(number)

    def let_go(self) -> None:
        self._line.close()

    def _listen(self) -> None:
        try:
            said = self._line.recv(32)
            if said:
                self._process = psutil.Process(int(said))
                self._name = name_of(self._process)
            else:
                self._end()
        except BlockingIOError:  # it has nothing to say; or some thread of a killed one still holds the line
            if self._name and is_alive(self._name) is False:
                self._end()
        except (OSError, psutil.NoSuchProcess):
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        self._line.close()


class _Nursery:
    """The process that workers are copied from, as its server sees it."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "maml_core.training.nursery", str(os.getpid())]
            try:
                self._process = subprocess.Popen(
                    command, env=child_environment(), stdin=theirs.fileno(), start_new_session=True
                )
            except OSError:
                self._line.close()
                raise

    def copy(self, store: str, arguments: Sequence[str], environment: dict[str, str]) -> Worker:
        """A worker, which comes as soon as the nursery is ready.

        Raises:
            ConnectionError: there is no such process any more.
        """
        order = {"arguments": list(arguments), "environment": environment, "folder": _folder()}
        text = json.dumps(order).encode() + b"\n"
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._line, [b"+"], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        with suppress(ConnectionError):  # there could be no copy, which whoever looks for the worker finds out
            ours.sendall(text)
        return _Copied(store, ours)

    def close(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()


def _folder() -> str:
    """Where relative paths begin; empty where somebody has removed it."""
    with suppress(OSError):
        return os.getcwd()
    return ""


_workers: list[Worker] = []
_nursery: _Nursery | None = None


def start_worker(store: str, url: str, *, in_fleet: bool) -> None:
    """Have another worker for the store of that name and URL; a password in the URL is shown to nobody."""
    arguments = ["--store", store, *(["--fleet"] if in_fleet else [])]
    environment = child_environment() | {"MAML_STORE": url}
    _workers.append(_copied(store, arguments, environment) if CAN_COPY else _Started(store, arguments, environment))


def workers_of(store: str | None = None) -> list[Worker]:
    """The workers of this process that have not ended: those of one store, or all."""
    for worker in list(_workers):
        if worker.has_ended():
            with suppress(ValueError):  # another thread has seen it, too
                _workers.remove(worker)
    return [worker for worker in list(_workers) if store in (None, worker.store)]


def _copied(store: str, arguments: Sequence[str], environment: dict[str, str]) -> Worker:
    global _nursery
    if _nursery is not None:
        try:
            return _nursery.copy(store, arguments, environment)
        except ConnectionError:  # it was killed
            gone, _nursery = _nursery, None
            gone.close()
    _nursery = _Nursery()
    return _nursery.copy(store, arguments, environment)


@atexit.register
def _end() -> None:
    """End the nursery with this process; workers notice that it has gone, commit and end."""
    for worker in _workers:
        worker.let_go()
    if _nursery is not None:
        _nursery.close()
